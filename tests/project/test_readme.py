"""What the README and the pages in docs/ promise: their code runs, their parameters are the declared ones, their errors are
the real ones."""

from __future__ import annotations

import functools
import http.server
import logging
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from conftest import NAME, PLUGINS, ROOT
from pycocotools.coco import COCO
from tools.detector import install
from tools.parameter_list import parameter_list

from infer_segment_anything_2.segmentation.catalogue import CATALOGUE

README = (ROOT / "README.md").read_text()
#: The README and its pages, by their paths.
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))
}
TEXT = "\n".join(DOCUMENTS.values())
BLOCKS = {
    f"{path} {k}": block
    for path, text in DOCUMENTS.items()
    for k, block in enumerate(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL), start=1)
}
#: Blocks that go on where the one before ended: they set parameters of a workflow that is there.
PROGRAMS = {name: block for name, block in BLOCKS.items() if "import" in block}
FRAGMENTS = [block for block in BLOCKS.values() if "import" not in block]
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


def test_the_table_of_models_says_what_the_catalogue_does():
    rows = re.findall(r"^\| (`sam2.*) \| (\d+(?:\.\d)?) M, (bundled|\d+ MB) \|$", README, flags=re.MULTILINE)
    said = {name: (float(count), load) for names, count, load in rows for name in re.findall("`(.*?)`", names)}
    assert said.keys() == CATALOGUE.keys()
    for name, (count, load) in said.items():
        entry = CATALOGUE[name]
        assert count == round(entry.parameters_millions, 1 if count < 10 else None), name
        assert (load == "bundled") == (entry.url is None), name
        assert entry.bytes is None or load == f"{entry.bytes / 1e6:.0f} MB", name


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
    offline = offline.replace(HOST, images_url).replace("sam2.1_hiera_small", "sam2_hiera_nano")
    assert "https://" not in offline
    (Path.home() / "Ikomia" / "Data").mkdir(exist_ok=True)
    variables: dict = {}
    exec(compile(offline, "block", "exec"), variables)
    return variables


@pytest.mark.parametrize("number", range(len(SEED_BLOCKS)))
def test_the_blocks_of_the_description_run_as_written(number, images_url, shown, default_is_nano):
    variables = run(SEED_BLOCKS[number], images_url)
    assert len(shown) == SEED_BLOCKS[number].count("\ndisplay(")
    assert all(picture.size == (640, 640) for picture in shown)
    assert variables["algo"].get_output_count() == (4 if "multimask" in SEED_BLOCKS[number] else 2)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_programs_run(program, images_url, shown, default_is_nano, tmp_path, monkeypatch, capsys):
    block = PROGRAMS[program]
    monkeypatch.chdir(tmp_path)  # some write files, and some read these
    (tmp_path / "photos").mkdir()
    shutil.copy(ROOT / "images" / "sample_scene.png", tmp_path / "photos")
    write_video(tmp_path / "video.mp4")
    install(PLUGINS)  # the detector that one of them has in front
    variables = run(block, images_url)
    assert bool(shown) == ("display(" in block)
    if "algo" in variables:
        assert variables["algo"].get_output(1).get_mask().any()
    for printed in re.findall(r"print\(.*\)  # (\[.*)", block):
        assert printed in capsys.readouterr().out
    for file in re.findall(r'save_\w+\("(.*?)"', block):
        for written in (tmp_path / file).glob("*") if file == "labels" else [tmp_path / file]:
            assert written.stat().st_size > 10
    if 'save_yolo("labels"' in block:
        assert {path.name for path in (tmp_path / "labels").iterdir()} >= {"sample_scene.txt", "data.yaml"}
    if "with_suffix" in block:
        assert len(COCO(str(tmp_path / "photos" / "sample_scene.json")).anns) == 1
    if "video.mp4" in block:
        assert len(list(tmp_path.glob("frame_*.png"))) == 2
    if "video.json" in block:
        assert [note["track_id"] for note in COCO(str(tmp_path / "video.json")).dataset["annotations"]] == [0, 0]


def write_video(path: Path) -> None:
    """Two frames."""
    import ikomia  # noqa: F401 - brings cv2
    import cv2  # isort: skip

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 5, (320, 240))
    image = cv2.resize(cv2.imread(str(ROOT / "images" / "sample_scene.png")), (320, 240))
    for _ in range(2):
        writer.write(image)
    writer.release()


@pytest.mark.parametrize("number", range(len(FRAGMENTS)))
def test_the_fragments_of_the_readme_run_in_a_workflow(number, workflow, algo):
    exec(compile(FRAGMENTS[number], "block", "exec"), {"algo": algo})
    workflow.run_on(path=str(ROOT / "images" / "sample_scene.png"))
    assert algo.get_output(1).get_mask().any()


def test_the_prompts_of_the_text_are_those_of_its_pictures(algo, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "tools"))
    import pictures

    from infer_segment_anything_2.segmentation.prompt_text import parse_boxes, parse_labels, parse_points

    assert parse_points(re.search(r'"input_point": "(.*?)"', README)[1]).tolist() == [list(pictures.CLICK.points[0])]
    (point,) = re.findall(r'^    "input_point": "(.*)",\n    "multimask_output"', README, re.MULTILINE)
    texts = [{"input_point": point}]
    assert len(FRAGMENTS) == 3
    for fragment in FRAGMENTS:
        set_to = SimpleNamespace(set_parameters=texts.append)
        exec(fragment, {"algo": set_to})
    drawn = [pictures.POINT, pictures.TWO_POINTS, pictures.BOXES, pictures.BOX_AND_POINTS]
    for text, prompt in zip(texts, drawn, strict=True):
        for name, parse in (
            ("input_point", parse_points),
            ("input_point_label", parse_labels),
            ("input_box", parse_boxes),
        ):
            assert parse(text.get(name, "")).tolist() == parse(prompt.parameters()[name]).tolist()


def test_the_parameters_are_those_of_the_declaration():
    written = re.search(r"<!-- parameters.*?-->\n(.*?)\n<!-- end", README, flags=re.DOTALL).group(1)
    assert written == parameter_list()


def test_the_readme_sets_only_parameters_that_there_are():
    """Ikomia drops unknown names without a word."""
    from infer_segment_anything_2.segmentation.parameters import DECLARATION

    names = set(re.findall(r'^    "(\w+)": "', "".join(BLOCKS.values()), re.MULTILINE)) | set(
        re.findall(r'\(\{"(\w+)": ', TEXT)
    )
    assert len(names) > 8
    assert names - {"name", "model", "a", "prompt"} <= set(DECLARATION)


def anchors_of(path: Path) -> set[str]:
    """What the headings of a document can be reached by, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_and_heading_that_a_document_links_to_is_there(document):
    links = re.findall(r'\]\((?!http)([^)]+)\)|(?:src|href)="(?!http)([^"]+)"', DOCUMENTS[document])
    assert links
    for link in (a or b for a, b in links):
        name, _, anchor = link.partition("#")
        path = (ROOT / document).parent / name if name else ROOT / document
        assert path.is_file(), link
        assert not anchor or anchor in anchors_of(path), link


def test_every_file_that_is_named_by_its_address_is_there():
    hosts = r"(?:raw\.githubusercontent\.com|colab\.research\.google\.com/github|github\.com)"
    names = re.findall(rf'https://{hosts}/Ikomia-hub/infer_segment_anything_2(?:/blob)?/main/([^)"\s]+)', TEXT)
    assert len(names) > 4
    for name in names:
        assert (ROOT / name).is_file(), name


def test_every_page_can_be_reached_from_the_readme():
    assert all(f"]({path})" in README or f"]({path}#" in README for path in DOCUMENTS if path != "README.md")


def test_every_model_is_in_the_readme():
    from infer_segment_anything_2.segmentation.checkpoints import MODEL_NAMES

    assert len(MODEL_NAMES) == 9
    assert all(f"`{name}`" in README for name in MODEL_NAMES)


@pytest.mark.parametrize("document", [*DOCUMENTS, "CONTRIBUTING.md"])
def test_every_command_that_a_document_names_exists(document):
    text, makefile = (ROOT / document).read_text(), (ROOT / "Makefile").read_text()
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE).group(1).split())
    code = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    for block in code:
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
    commands = [line for block in code for line in block.splitlines()] + re.findall(r"`(make [^`]+)`", text)
    made = [command.split("#")[0].split()[1:] for command in commands if command.startswith("make ")]
    assert made or document not in ("README.md", "CONTRIBUTING.md")
    for word in (word for words in made for word in words):
        if re.match(r"[A-Z]+=", word):
            assert re.search(
                rf"^{word.partition('=')[0]} *\?=|\$\({word.partition('=')[0]}\)", makefile, re.MULTILINE
            ), word
        elif re.fullmatch(r"[a-z-]+", word):
            assert word in targets, word


# --- Troubleshooting: every text in quotes is compared with what is really raised or logged ----------------------------

FREQUENT = re.search(r"^## Troubleshooting\n(.*?)^## ", README, re.MULTILINE | re.DOTALL).group(1)
TROUBLES = FREQUENT + DOCUMENTS["docs/troubleshooting.md"]
QUOTED = re.findall(r'^- \*\*"(.+?)"\*\*', TROUBLES, re.MULTILINE)
REAL: dict[str, Callable[[SimpleNamespace], str]] = {}


def real(quoted: str):
    """The decorated function provokes the text that the README quotes so, "…" standing for anything, and returns it."""

    def note(provoke):
        REAL[quoted] = provoke
        return provoke

    return note


def raised(function: Callable, *args, **kwargs) -> str:
    with pytest.raises(Exception) as caught:
        function(*args, **kwargs)
    return str(caught.value)


def in_a_new_process(code: str, folder: Path) -> str:
    """What `act()`, which `code` defines, raises there."""
    code += """
try:
    act()
except Exception as error:
    print(error)
"""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=folder).stdout


@pytest.fixture
def given(workflow, algo, tmp_path, monkeypatch, caplog, capfd) -> SimpleNamespace:
    """A workflow with the bundled model and a checkpoint folder of its own, without a way to Meta's host."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("SAM2_CHECKPOINT_MIRROR", "http://127.0.0.1:9")
    return SimpleNamespace(
        workflow=workflow,
        algo=algo,
        folder=tmp_path,
        monkeypatch=monkeypatch,
        caplog=caplog,
        capfd=capfd,
        image=np.random.default_rng(0).integers(0, 255, (640, 640, 3), np.uint8),
    )


@real("No module named '…'")
def without_the_requirements(given) -> str:
    return in_a_new_process(
        f"""
import sys
from importlib.machinery import PathFinder
class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] == "sam2" else super().find_spec(name, path, target)
sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
import numpy as np
from ikomia.dataprocess.workflow import Workflow
def act():
    workflow = Workflow()
    workflow.add_task(name="{NAME}", auto_connect=True)
    workflow.run_on(array=np.zeros((64, 64, 3), np.uint8))
""",
        given.folder,
    )


@real("The checkpoint of sam2_hiera_small could not be downloaded: …")
def no_network(given) -> str:
    given.algo.set_parameters({"model_name": "sam2_hiera_small"})
    return raised(given.workflow.run_on, array=given.image)


@real("what arrived is another file: its SHA-256 is …")
def another_file(given) -> str:
    mirror = given.folder / "mirror"
    (mirror / "072824").mkdir(parents=True)
    (mirror / "072824" / "sam2_hiera_small.pt").write_bytes(b"no checkpoint")
    given.monkeypatch.setenv("SAM2_CHECKPOINT_MIRROR", mirror.as_uri())
    text = no_network(given)
    assert "could not be downloaded: what arrived is another file" in text  # "as that reason"
    return text


@real("… bytes instead of …, as a partial download does: it is passed over.")
def a_partial_download(given) -> str:
    from infer_segment_anything_2.segmentation.checkpoints import find_checkpoint

    folder = given.folder / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "sam2_hiera_small.pt").write_bytes(b"cut off")
    assert find_checkpoint("sam2_hiera_small") is None
    return given.caplog.text


@real("… does not fit the config …: tensors … Its image encoder is that of …")
def weights_of_another_size(given) -> str:
    weights = str(ROOT / "models" / "sam2_hiera_nano.pt")
    given.algo.set_parameters({"model_name": "sam2.1_hiera_tiny", "model_weight_file": weights})
    return raised(given.workflow.run_on, array=given.image)


@real("cuda: no CUDA device was found, the CPU computes instead.")
def no_gpu(given) -> str:
    from infer_segment_anything_2 import infer_segment_anything_2_process as process

    given.monkeypatch.setattr(process, "cuda_is_available", lambda: False)
    given.algo.set_parameters({"cuda": "True"})
    given.algo.init_long_process()
    return given.caplog.text


@real("No registered converter was able to produce a C++ rvalue of type … from this Python object of type int")
def a_number_for_a_parameter(given) -> str:
    given.workflow.set_parameters({"points_per_side": 16}, given.algo)  # what the README says to do
    assert given.algo.get_parameters()["points_per_side"] == "16"
    return raised(given.algo.set_parameters, {"points_per_side": 16})


@real("input_point: entry 1, [700, 100], is outside the image; accepted is x from 0 to below 640 and y …")
def a_point_outside(given) -> str:
    given.algo.set_parameters({"input_point": "[700, 100]"})
    return raised(given.workflow.run_on, array=given.image)


@real("input_point_label: 2 label(s) for 1 point(s); …")
def labels_of_an_earlier_prompt(given) -> str:
    given.algo.set_parameters({"input_point": "[[70, 100], [20, 20]]", "input_point_label": "[1, 0]"})
    given.workflow.run_on(array=given.image)
    given.algo.set_parameters({"input_point": "[70, 100]"})
    return raised(given.workflow.run_on, array=given.image)


@real("points_per_sid: there is no such parameter (did you mean points_per_side?); …")
def a_misspelt_name(given) -> str:
    return raised(given.algo.set_parameters, {"points_per_sid": "16"})


@real("input_point: '[[60 25]]' is not valid JSON; accepted is …; of an array or a tensor pass .tolist().")
def the_text_of_an_array(given) -> str:
    points = np.array([[60, 25]])
    given.workflow.set_parameters({"input_point": points.tolist()}, given.algo)
    return raised(given.workflow.set_parameters, {"input_point": points}, given.algo)


@real("input_point: the coordinates '[0.5, 0.25]' look like fractions of width and height. They count as pixels …")
def fractions(given) -> str:
    given.algo.set_parameters({"input_point": "[0.5, 0.25]"})
    given.workflow.run_on(array=given.image)
    return given.caplog.text


@real(
    "input_box: entry 1, [200, 180, 100, 90], was read as two corners in the wrong order. Is it x, y, width, height? …"
)
def a_box_with_its_size(given) -> str:
    given.algo.set_parameters({"input_box": "[200, 180, 100, 90]"})
    given.workflow.run_on(array=given.image)
    return given.caplog.text


@real(
    "The input image … is damaged or of a kind that Ikomia does not read, such as one of five bands, of float16, or a "
    "TIFF that …"
)
def five_bands(given) -> str:
    path = str(given.folder / "satellite.tif")
    tifffile.imwrite(path, np.zeros((40, 50, 5), np.uint16), planarconfig="contig", photometric="minisblack")
    given.algo.set_parameters({"input_box": "[5, 5, 30, 30]"})
    bands = tifffile.imread(path)
    given.workflow.run_on(array=bands[..., :3].astype("float32"))
    return raised(given.workflow.run_on, path=path)


@real("Warning, your workflow contains non connected task(s)")
def not_connected(given) -> str:
    from ikomia.dataprocess.workflow import Workflow

    workflow = Workflow()
    algo = workflow.add_task(name=NAME)
    workflow.run_on(array=given.image)
    assert algo.get_masks() == []
    said = given.capfd.readouterr()
    return given.caplog.text + said.out + said.err


@real("The input image is empty or missing.")
def an_array_without_pixels(given) -> str:
    raised(given.workflow.run_on, array=np.zeros((0, 0, 3), np.uint8))
    return raised(given.workflow.run)


@real("Invalid input for task … (Code 6)")
def no_image(given) -> str:
    return raised(given.workflow.run)


@real("No mask was found: lower iou_thresh …")
def nothing_found(given) -> str:
    given.algo.set_parameters({"iou_thresh": "1", "points_per_side": "1"})
    given.workflow.run_on(array=given.image)
    return given.caplog.text


@real("A label image holds 255 masks: … of the … are not painted.")
def more_masks_than_labels(given) -> str:
    everything = {"iou_thresh": "0", "stability_score_thresh": "0", "box_nms_thresh": "1", "use_m2m": "False"}
    given.algo.set_parameters(everything | {"points_per_side": "17"})
    given.workflow.run_on(array=given.image[:100, :100])
    return given.caplog.text


@real("The memory of the GPU ran out: … point(s) at once from here on.")
def a_full_gpu(given) -> str:
    """Torch's error, at its place, without a GPU."""
    import torch

    from infer_segment_anything_2.segmentation.crops import Crop

    decode = Crop._logits

    def decode_few(self, points, *args, **kwargs):
        if len(points) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")
        return decode(self, points, *args, **kwargs)

    given.monkeypatch.setattr(Crop, "_logits", decode_few)
    given.algo.set_parameters({"points_per_side": "3"})
    given.workflow.run_on(array=given.image)  # goes on
    return given.caplog.text


@real("GlobalHydra is not initialized, use @hydra.main() …")
def sam2_built_by_oneself(given) -> str:
    cure = 'hydra.initialize_config_module("sam2", version_base="1.2")'
    assert cure in TROUBLES
    said = in_a_new_process(
        f"""
import sys
sys.path.insert(0, {str(PLUGINS)!r})
import hydra
import {NAME}.segmentation.segmenter
from sam2.build_sam import build_sam2
def act():
    try:
        build_sam2("configs/sam2/sam2_hiera_t.yaml", device="cpu")
    finally:
        {cure}
        build_sam2("configs/sam2/sam2_hiera_t.yaml", device="cpu")
        print("The cure helps.")
""",
        given.folder,
    )
    assert said.startswith("The cure helps.")
    return said


def test_every_quoted_error_is_provoked():
    assert len(QUOTED) > 10
    assert set(QUOTED) == set(REAL)


@pytest.mark.parametrize("quoted", REAL)
def test_a_quoted_error_is_the_real_one(quoted, given):
    given.caplog.set_level(logging.INFO)
    pattern = ".*?".join(map(re.escape, quoted.split("…")))
    assert re.search(pattern, REAL[quoted](given), re.DOTALL)


def test_the_plugins_sentence_stands_where_the_readme_says(given):
    assert "the first `<class '…'>:`" in FREQUENT
    assert re.match(r"<class '\w+'>: input_point: entry 1", a_point_outside(given))
