"""The notebook in examples/: it runs offline as it stands, and what it shows on GitHub came out of such a run."""

from __future__ import annotations

import base64
import io
import re

import nbformat
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from tools import notebook as tool

STORED = nbformat.read(tool.NOTEBOOK, as_version=4)
#: No network: neither for Python's downloads nor for the plugin's, nor for pip.
OFFLINE = {
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"),
    "SAM2_CHECKPOINT_MIRROR": "http://127.0.0.1:9",
    "PIP_NO_INDEX": "1",
}


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def pictures(notebook: nbformat.NotebookNode) -> list[np.ndarray]:
    found = [output.data["image/jpeg"] for output in outputs(notebook) if "image/jpeg" in output.get("data", {})]
    return [np.array(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def texts(notebook: nbformat.NotebookNode) -> list[str]:
    """What was printed, without its digits: the last ones may differ from machine to machine."""
    return [re.sub(r"\d", "", output.text) for output in outputs(notebook) if output.output_type == "stream"]


@pytest.fixture(scope="module")
def executed() -> nbformat.NotebookNode:
    return tool.executed(OFFLINE)


def test_it_runs_offline_and_shows_what_is_stored(executed):
    assert {output.output_type for output in outputs(executed)} <= {"display_data", "execute_result", "stream"}
    assert [output.name for output in outputs(executed) if output.output_type == "stream"] == ["stdout"] * len(
        texts(STORED)
    )
    assert texts(executed) == texts(STORED)
    assert len(pictures(executed)) == len(pictures(STORED)) == 8
    for now, then in zip(pictures(executed), pictures(STORED), strict=True):
        assert np.ptp(now) > 200  # something is on it
        # By what fonts there are a title is a little wider.
        height, width = np.minimum(now.shape[:2], then.shape[:2])
        assert np.abs(np.subtract(now.shape, then.shape)).max() < 10
        assert np.abs(now[:height, :width].astype(float) - then[:height, :width]).mean() < 25


def test_what_is_stored_is_a_whole_run_and_small():
    nbformat.validate(STORED)
    assert tool.NOTEBOOK.stat().st_size < 1.5e6
    code = [cell for cell in STORED.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for output in outputs(STORED) if output.output_type == "error"]


def test_nothing_of_the_machine_is_stored(tmp_path):
    text = tool.NOTEBOOK.read_text()
    assert not re.search(r"/(root|home|tmp|Users)/|[A-Z]:\\\\|run successfully in", text)
    assert set(STORED.metadata) == {"kernelspec", "language_info"}
    assert all(not cell.metadata for cell in STORED.cells)


def test_it_sets_only_parameters_that_there_are():
    """Ikomia drops unknown names without a word."""
    from infer_segment_anything_2.segmentation.parameters import DECLARATION

    code = "\n".join(cell.source for cell in STORED.cells if cell.cell_type == "code")
    names = set(re.findall(r'"(\w+)": ', code))
    assert {"model_name", "input_point", "input_point_label", "input_box", "multimask_output", "iou_thresh"} <= names
    assert names <= set(DECLARATION)


def test_elsewhere_it_takes_the_picture_from_github():
    code = "\n".join(cell.source for cell in STORED.cells)
    (path,) = re.findall(r'"https://raw\.githubusercontent\.com/Ikomia-hub/infer_segment_anything_2/main/(.*?)"', code)
    assert f'"../{path}"' in code
    assert (ROOT / path).is_file()


def test_running_it_leaves_nothing_in_the_checkout(executed):
    assert not [
        name for name in ("masks.json", "labels.png", ".ipynb_checkpoints") if (ROOT / "examples" / name).exists()
    ]
