"""What the README promises: its code runs, its table is the declaration, its errors are the real ones."""

from __future__ import annotations

import functools
import http.server
import re
import threading
from pathlib import Path

import pytest
from conftest import ROOT
from tools.parameter_table import table

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
HOST = "https://raw.githubusercontent.com/Ikomia-hub/infer_segment_anything_2/main/images"

# The three blocks of the description that this project implements, as users of the published plugin have them.
SEED_BLOCKS = [
    """
from ikomia.dataprocess.workflow import Workflow
from ikomia.utils.displayIO import display

# Init your workflow
wf = Workflow()

# Add algorithm
algo  = wf.add_task(name="infer_segment_anything_2", auto_connect=True)

# Run directly on your image
wf.run_on(url="https://github.com/facebookresearch/segment-anything-2/blob/main/notebooks/images/cars.jpg?raw=true")

# Inspect your result
display(algo.get_image_with_mask())
""",
    """
from ikomia.dataprocess.workflow import Workflow
from ikomia.utils.displayIO import display

# Init your workflow
wf = Workflow()

# Add algorithm
algo  = wf.add_task(name="infer_segment_anything_2", auto_connect=True)

# Example: Setting parameters for 'prompt prediction':
algo.set_parameters({
    # "points_per_side": "32", # For 'automatic predictor'
    "input_size_percent": "100",
    "input_point":"[[500,500]]",
    "multimask_output":"True" # Generate 3 output masks
})

# Run directly on your image
wf.run_on(url="https://github.com/Ikomia-dev/notebooks/blob/main/examples/img/img_cat.jpg?raw=true")

# Inspect your result
img_output = algo.get_output(0)
mask_output = algo.get_output(1)
mask_output_2 = algo.get_output(2)
mask_output_3 = algo.get_output(3)
# display(img_output.get_image_with_mask(mask_output), title="Mask 1")
display(img_output.get_image_with_mask(mask_output_2), title="Mask 2")
# display(img_output.get_image_with_mask(mask_output_3), title="Mask 3")
""",
    """
from ikomia.dataprocess.workflow import Workflow

# Init your workflow
wf = Workflow()

# Add algorithm
algo  = wf.add_task(name="infer_segment_anything_2", auto_connect=True)

# Run directly on your image
wf.run_on(url="https://github.com/facebookresearch/segment-anything-2/blob/main/notebooks/images/cars.jpg?raw=true")

# Iterate over outputs
for output in algo.get_outputs():
    # Print information
    print(output)
    # Export it to JSON
    output.to_json()
""",
]


@pytest.fixture(scope="module")
def images_url():
    """The images folder of this checkout on a local HTTP server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=str(ROOT / "images"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def shown(monkeypatch):
    """What display() would have opened a viewer for; there is no screen here."""
    from PIL import Image

    pictures = []
    monkeypatch.setattr(Image.Image, "show", lambda self, *args, **kwargs: pictures.append(self))
    return pictures


@pytest.fixture
def default_is_nano(monkeypatch):
    """The bundled model where a block names none: the default would be downloaded. With thresholds that suit it, and a
    coarse grid, to save time."""
    from infer_segment_anything_2 import infer_segment_anything_2_process as process

    class Param(process.InferSegmentAnything2Param):
        def __init__(self):
            super().__init__()
            changed = {
                "model_name": "sam2_hiera_nano",
                "points_per_side": 8,
                "iou_thresh": 0.5,
                "stability_score_thresh": 0.6,
            }
            self.values = self.values.model_copy(update=changed)

    monkeypatch.setattr(process, "InferSegmentAnything2Param", Param)


def run(block: str, images_url: str) -> dict:
    """Execute a block with its image taken from the local server, and return its variables."""
    offline = re.sub(r'url="https://github.com/[^"]*"', f'url="{images_url}/sample_scene.png"', block)
    offline = offline.replace(HOST, images_url)
    assert "https://" not in offline
    (Path.home() / "Ikomia" / "Data").mkdir(exist_ok=True)
    variables: dict = {}
    exec(compile(offline, "README.md", "exec"), variables)
    return variables


@pytest.mark.parametrize("number", range(len(SEED_BLOCKS)))
def test_the_blocks_of_the_description_run_as_written(number, images_url, shown, default_is_nano):
    variables = run(SEED_BLOCKS[number], images_url)
    assert len(shown) == SEED_BLOCKS[number].count("\ndisplay(")
    assert all(picture.size == (640, 640) for picture in shown)
    assert variables["algo"].get_output_count() == (4 if "multimask" in SEED_BLOCKS[number] else 2)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_blocks_of_the_readme_run(number, images_url, shown, default_is_nano, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write files
    variables = run(BLOCKS[number], images_url)
    assert bool(shown) == ("display(" in BLOCKS[number])
    if "algo" in variables:
        assert variables["algo"].get_output(1).get_mask().any()


def test_the_table_of_parameters_is_the_declaration():
    written = re.search(r"<!-- parameters.*?-->\n(.*?)\n<!-- end", README, flags=re.DOTALL).group(1)
    assert written == table()


def test_every_file_that_the_readme_names_is_there():
    names = re.findall(r'\]\((?!http|#)([^)]+)\)|src="(?!http)([^"]+)"', README)
    assert names
    for name in (a or b for a, b in names):
        assert (ROOT / name).is_file(), name


def test_every_model_is_in_the_readme():
    from infer_segment_anything_2.segmentation.checkpoints import MODEL_NAMES

    assert len(MODEL_NAMES) == 9
    assert all(f"`{name}`" in README for name in MODEL_NAMES)


def test_every_anchor_is_a_heading():
    headings = {
        re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", README + table())) <= headings
