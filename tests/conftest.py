"""A private Ikomia home for the whole session, with this checkout in it as an installed plugin."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = "infer_segment_anything_2"

# Before anything imports ikomia: it reads HOME then, and starts writing there.
_folder = tempfile.TemporaryDirectory(prefix="ikomia-home-")
HOME = Path(_folder.name)
os.environ["HOME"] = str(HOME)
os.environ["TORCH_HOME"] = str(HOME / "torch")
os.environ.setdefault(
    "HYPOTHESIS_STORAGE_DIRECTORY", str(HOME / "hypothesis")
)  # not in the checkout, whoever runs pytest
os.environ["IKOMIA_AUTO_COMPLETION"] = "False"
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
PLUGINS = HOME / "Ikomia" / "Plugins" / "Python"
PLUGINS.mkdir(parents=True)
(PLUGINS / NAME).symlink_to(ROOT)
# Where ikomia itself puts it when it loads the plugin; tests of segmentation/ import it without ikomia.
sys.path.insert(0, str(PLUGINS))

# Property tests say allow_subnormal=False: ikomia (0.15.1 and 0.16.1), once imported, makes the processor round subnormal
# floats to zero, and hypothesis refuses to draw any then.
with contextlib.suppress(ImportError):
    import PyQt5.QtWidgets  # noqa: F401 - where it is installed, ikomia 0.15 must find it imported

import numpy as np  # noqa: E402
import pytest  # noqa: E402

#: Files that take longest, first: where several processes share the files, none of them is left with a long one at the end.
LONGEST = (
    "test_ray",
    "test_concurrency",
    "test_automatic_of_sam2",
    "test_neighbours",
    "test_downloads",
    "test_numerics",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture
def tools(monkeypatch) -> None:
    """The programs of tests/tools can be imported, as they import one another."""
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "tools"))


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture
def astronaut() -> np.ndarray:
    """A photograph, (512, 512, 3) uint8 RGB."""
    from skimage import data

    return data.astronaut()


@pytest.fixture(scope="session")
def nano():
    """The bundled model."""
    from infer_segment_anything_2.segmentation.segmenter import open_segmenter

    return open_segmenter("sam2_hiera_nano")


@pytest.fixture
def measured_as_on_a_gpu(monkeypatch) -> None:
    """Automatic mode measures masks by their pixels and encodes them at the end, as it does on a GPU."""
    from infer_segment_anything_2.segmentation.crops import Crop

    made = Crop.__init__

    def on_a_gpu(self, *args) -> None:
        made(self, *args)
        self._measures_pixels = True

    monkeypatch.setattr(Crop, "__init__", on_a_gpu)


@pytest.fixture
def workflow():
    """An empty Ikomia workflow."""
    from ikomia.dataprocess.workflow import Workflow

    return Workflow("test")


@pytest.fixture
def algo(workflow):
    """The plugin in that workflow, with the bundled model."""
    task = workflow.add_task(name=NAME, auto_connect=True)
    task.set_parameters({"model_name": "sam2_hiera_nano"})
    return task
