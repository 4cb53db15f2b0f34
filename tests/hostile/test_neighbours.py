"""What else lives in the process or on its paths: the masks are the same beside it, and nothing of it is left changed."""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import locale
import logging
import os
import random
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import ikomia  # noqa: F401 - brings the cv2 that sam2's remove_small_regions imports
import numpy as np
import pytest
import torch
from skimage import data
from tools.video import moving_window, that_remembers, that_sees

from infer_segment_anything_2.segmentation.checkpoints import CATALOGUE, fetch_checkpoint
from infer_segment_anything_2.segmentation.model_loader import load_model
from infer_segment_anything_2.segmentation.objects import typed_objects
from infer_segment_anything_2.segmentation.parameters import Parameters
from infer_segment_anything_2.segmentation.request import make_request
from infer_segment_anything_2.segmentation.search import AutomaticSettings
from infer_segment_anything_2.segmentation.segmenter import Segmenter
from infer_segment_anything_2.segmentation.sequence import Sequence

EVERYTHING = AutomaticSettings(
    points_per_side=3,
    pred_iou_thresh=0.3,
    stability_score_thresh=0.5,
    crop_n_layers=1,
    crop_n_points_downscale_factor=2,
    min_mask_region_area=50,
    use_m2m=True,
    multimask_output=False,
)
BOXES = np.array([[150, 20, 300, 200], [20, 150, 200, 290]], np.float32)
POINTS = np.array([[220, 110], [50, 200]], np.float32)


def photo() -> np.ndarray:
    return np.ascontiguousarray(data.astronaut()[:300, :380])


# ---------------------------------------------------------------- settings of torch, numpy and Python


def or_error(read) -> object:
    """What can be read, or why not: torch 2.9 and newer refuse its old names for settings after the new ones were used."""
    try:
        return read()
    except RuntimeError as error:
        return str(error)


def state() -> dict:
    """What a library may set for the whole process or thread."""
    import cv2
    from hydra.core.global_hydra import GlobalHydra

    return {
        "autocast": [torch.is_autocast_enabled(device) for device in ("cpu", "cuda")],
        "autocast cache": torch.is_autocast_cache_enabled(),
        "products": (
            torch.get_float32_matmul_precision(),
            [or_error(lambda b=b: b.allow_tf32) for b in (torch.backends.cuda.matmul, torch.backends.cudnn)],
            [getattr(getattr(torch.backends.mkldnn, n, None), "fp32_precision", None) for n in ("matmul", "conv")],
        ),
        "backends": (torch.backends.mkldnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "dtype and device": (torch.get_default_dtype(), torch.get_default_device()),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads(), cv2.getNumThreads()),
        "random": (torch.random.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()),
        "numpy": (np.geterr(), np.geterrcall(), np.get_printoptions()),
        "warnings": list(warnings.filters),
        "logging": (logging.getLogger().level, list(logging.getLogger().handlers), logging.root.manager.disable),
        "hydra": GlobalHydra.instance().hydra,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "locale": locale.setlocale(locale.LC_ALL),
        "python": (
            sys.getrecursionlimit(),
            sys.getswitchinterval(),
            gc.isenabled(),
            gc.get_threshold(),
            sys.excepthook,
        ),
        "import": (list(sys.path), sys.meta_path[:]),
    }


def nano() -> Segmenter:
    """Loaded anew, under whatever is set."""
    name = "sam2_hiera_nano"
    return Segmenter(load_model(fetch_checkpoint(name), CATALOGUE[name].config, "cpu", True))


def segment(segmenter: Segmenter) -> list:
    image = photo()
    boxes = typed_objects(POINTS, np.array([1, 0]), BOXES, image.shape[:2])
    point = typed_objects(POINTS[:1], np.array([1]), BOXES[:0], image.shape[:2])
    return [
        *segmenter.predict(image, boxes),
        *segmenter.predict(image, point, multimask_output=True, input_size_percent=60),
        segmenter.generate(image, EVERYTHING),
        *followed(segmenter),
    ]


def followed(segmenter: Segmenter) -> list:
    """The masks of two boxes through some frames, of a model whose memory matters."""
    segmenter = Segmenter(that_remembers(that_sees(copy.deepcopy(segmenter.predictor.model))))
    request = make_request(Parameters(), typed_objects(POINTS[:0], POINTS[:0, 0], BOXES, (240, 320)), (240, 320))
    sequence = Sequence(pytest.fail)
    return [sequence.frame(segmenter, frame, request) for frame in moving_window(4)]


@contextlib.contextmanager
def set_and_set_back(set_value, value, get_value):
    before = get_value()
    set_value(value)
    try:
        yield
    finally:
        set_value(before)


@contextlib.contextmanager
def default_device(device: str):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def bfloat16_products_by_the_new_names():
    before = torch.backends.fp32_precision
    torch.backends.fp32_precision = "bf16"
    try:
        yield
    finally:
        torch.backends.fp32_precision = before


@contextlib.contextmanager
def tf32():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def precision(value: str):
    return set_and_set_back(torch.set_float32_matmul_precision, value, torch.get_float32_matmul_precision)


def dtype(value: torch.dtype):
    return set_and_set_back(torch.set_default_dtype, value, torch.get_default_dtype)


NEIGHBOURS = {
    "default dtype float64": lambda: dtype(torch.float64),
    "default dtype bfloat16": lambda: dtype(torch.bfloat16),
    "default device meta": lambda: default_device("meta"),
    "products in bfloat16": lambda: precision("medium"),
    "products in TF32": lambda: precision("high"),
    "products in bfloat16, by the new names": bfloat16_products_by_the_new_names,
    "TF32 on a GPU": tf32,
    "autocast on the CPU": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast on a GPU": lambda: torch.autocast("cuda", torch.float16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "gradients in inference mode": lambda: torch.inference_mode(mode=False),
    "anomalies looked for": torch.autograd.detect_anomaly,
    "deterministic algorithms": lambda: set_and_set_back(
        torch.use_deterministic_algorithms, True, torch.are_deterministic_algorithms_enabled
    ),
    "subnormal numbers as zero": lambda: set_and_set_back(torch.set_flush_denormal, True, lambda: False),
    "one thread": lambda: set_and_set_back(torch.set_num_threads, 1, torch.get_num_threads),
    "numpy raises": lambda: np.errstate(all="raise"),
    "no oneDNN": lambda: torch.backends.mkldnn.flags(enabled=False),
}


@pytest.fixture(scope="module")
def expected() -> list:
    found = segment(nano())
    assert [len(masks) for masks in found[:4]] == [2, 1, 1, 1]
    assert len(found[4]) > 5
    assert [len(masks) for masks in found[5:]] == [2] * 4
    return found


def assert_same(found: list, expected: list) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.image_hw == theirs.image_hw
        assert ours.rles == theirs.rles
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
        np.testing.assert_allclose(ours.stability_scores, theirs.stability_scores, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Anomaly Detection:UserWarning")
@pytest.mark.parametrize("name", NEIGHBOURS)
def test_masks_are_the_same_and_no_setting_is_changed_beside(name, expected):
    if name == "autocast on a GPU" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    with NEIGHBOURS[name]():
        beside = state()
        segmenter = nano()
        found = segment(segmenter)
        assert state() == beside
    if name == "no oneDNN":  # sums in another order differ in their last bits, and a memory carries these on
        found, expected = found[:5], expected[:5]
    assert_same(found, expected)
    assert {p.dtype for p in segmenter.predictor.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["default dtype float64", "default device meta", "autocast on the CPU"])
def test_masks_are_the_same_when_it_is_set_after_the_model_was_loaded(name, expected):
    segmenter = nano()
    with NEIGHBOURS[name]():
        assert_same(segment(segmenter), expected)


def test_a_setting_that_is_changed_meanwhile_stays_as_it_was_set(expected):
    """By another thread, say, while a run has set the precision of products for itself."""
    segmenter = nano()
    with precision("medium"):
        in_the_middle = []

        def progress(done: int, total: int) -> None:
            in_the_middle.append(torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("high")

        found = segmenter.generate(photo(), EVERYTHING, progress=progress)
        assert torch.get_float32_matmul_precision() == "high"
    assert_same([found], expected[4:5])
    assert in_the_middle


# ---------------------------------------------------------------- what lies on the paths, and how Python was started

RUN = """
import json, os, sys
import numpy as np
from ikomia.dataprocess.workflow import Workflow
from skimage import data

def runs(folder):
    image = np.ascontiguousarray(data.astronaut()[:300, :380])
    workflow = Workflow()
    algo = workflow.add_task(name="infer_segment_anything_2", auto_connect=True)
    algo.set_parameters({"model_name": "sam2_hiera_nano", "input_box": "[150, 20.5, 300, 200]", "multimask_output": "True"})
    found = []
    for params in ({}, {"input_box": "", "points_per_side": "3", "iou_thresh": "0.3", "stability_score_thresh": "0.5",
                        "min_mask_region_area": "50", "use_m2m": "False", "instance_output": "True"}):
        algo.set_parameters(params)
        workflow.run_on(array=image)
        algo.save_coco(os.path.join(folder, "masks.json"))
        algo.save_labels(os.path.join(folder, "labels.png"))
        with open(os.path.join(folder, "masks.json")) as file:
            annotations = json.load(file)["annotations"]
        found.append([[a["segmentation"]["counts"], a["bbox"], round(a["score"], 4)] for a in annotations])
        found.append(algo.get_output(1).get_class_names())
        found.append(int(algo.get_output(1).get_mask().astype(np.int64).sum()))
        found.append(int(algo.get_image_with_mask().astype(np.int64).sum()))
    return found
"""


def run_python(code: str, *arguments: str, seconds: float = 200, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments, "-c", code],
        capture_output=True,
        text=True,
        timeout=seconds,
        env={k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"} | environment,
        cwd=os.environ["HOME"],
    )


def result_of(code: str, *arguments: str, **environment: str) -> list:
    done = run_python(code, *arguments, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.rpartition("RESULT")[2])


def script(folder: Path, before: str = "", after: str = "") -> str:
    plugins = str(Path(os.environ["HOME"]) / "Ikomia/Plugins/Python")
    return (
        f"import sys\nsys.path.append({plugins!r})\n{before}\n{RUN}\n"
        f"found = runs({str(folder)!r})\n{after}\nprint('RESULT' + json.dumps(found))"
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> list:
    found = result_of(script(tmp_path_factory.mktemp("alone")))
    assert [len(found[0]), len(found[1]), len(found[4]) > 5] == [1, 2, True]
    return found


@pytest.mark.slow
def test_without_assertions_and_docstrings_masks_are_the_same(alone, tmp_path):
    assert result_of(script(tmp_path), "-OO") == alone


def test_warnings_as_errors_and_a_decimal_comma_change_nothing(alone, tmp_path):
    # ikomia itself opens files that it does not close, and warns of its own imports: errors from the plugin's import on.
    before = "import warnings, ikomia.dataprocess.workflow, torch, torchvision\nwarnings.simplefilter('error')"
    after, environment, missing = "", {}, ""
    name = next((n for n in ("de_DE.UTF-8", "fr_FR.UTF-8") if n.lower().replace("-", "") in installed_locales()), None)
    if name is None and shutil.which("localedef"):  # make one, where the machine can
        name, environment = "de_DE.UTF-8", {"LOCPATH": str(tmp_path)}
        made = subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", tmp_path / name], capture_output=True)
        if not (tmp_path / name).is_dir():
            name, missing = None, f": {made.stderr}"
    if name:
        before = f"import locale\nlocale.setlocale(locale.LC_ALL, {name!r})\nassert locale.str(1.5) == '1,5'\n{before}"
        after = f"assert locale.setlocale(locale.LC_ALL) == {name!r}, locale.setlocale(locale.LC_ALL)"
    assert result_of(script(tmp_path, before, after), **environment) == alone
    if not name:
        pytest.skip(f"warnings alone were tried: no locale with a decimal comma on this machine{missing}")


def installed_locales() -> set[str]:
    listed = subprocess.run(["locale", "-a"], capture_output=True, text=True).stdout if shutil.which("locale") else ""
    return {line.strip().lower().replace("-", "") for line in listed.splitlines()}


# ---------------------------------------------------------------- other versions of what the plugin uses


def test_a_sam2_that_is_too_old_is_told_so(tmp_path):
    """As sam2 0.4.1 and older on PyPI: no configs inside, and a `build_sam` that takes Hydra for itself when imported."""
    (tmp_path / "sam2").mkdir()
    (tmp_path / "sam2/__init__.py").write_text("")
    (tmp_path / "sam2/build_sam.py").write_text("from hydra import initialize_config_module\n")
    done = run_python(script(tmp_path), PYTHONPATH=str(tmp_path))
    assert done.returncode != 0
    assert (
        f"The sam2 in {tmp_path / 'sam2'} is too old: accepted is 1.1.0 or newer, below 1.2. Install it with: pip"
        in done.stderr
    )


def pip_install(package: str, folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        folder,
    ]
    done = subprocess.run(
        [*command, package], capture_output=True, text=True, env=os.environ | {"SAM2_BUILD_CUDA": "0"}
    )
    if done.returncode:
        pytest.skip(f"{package} cannot be installed here: {done.stderr[-200:]}")


@pytest.mark.slow
@pytest.mark.parametrize("version", ["0.4.1", "0.3.0"])
def test_a_real_sam2_that_is_too_old_is_told_so(tmp_path, version):
    pip_install(f"sam2=={version}", tmp_path)
    done = run_python(script(tmp_path), PYTHONPATH=str(tmp_path))
    assert done.returncode != 0
    assert "is too old: accepted is 1.1.0 or newer" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", "import cv2; assert 'ikomia' not in cv2.__file__"], ids=["later", "first"])
def test_the_opencv_of_pip_gives_the_same_masks(alone, tmp_path, before):
    pip_install("opencv-python-headless", tmp_path)
    assert result_of(script(tmp_path, before), PYTHONPATH=str(tmp_path)) == alone


@pytest.mark.slow
def test_the_opencv_of_pip_serves_without_ikomia(tmp_path):
    pip_install("opencv-python-headless", tmp_path)
    code = f"""
import json, sys
sys.path[:0] = [{str(Path(os.environ["HOME"]) / "Ikomia/Plugins/Python")!r}]
sys.modules["ikomia"] = None
from skimage import data
from infer_segment_anything_2.segmentation.search import AutomaticSettings
from infer_segment_anything_2.segmentation.segmenter import open_segmenter
settings = AutomaticSettings(points_per_side=3, pred_iou_thresh=0.3, stability_score_thresh=0.5, min_mask_region_area=400)
found = open_segmenter("sam2_hiera_nano").generate(data.astronaut(), settings)
import cv2
print("RESULT" + json.dumps([len(found), cv2.__file__]))
"""
    count, used = result_of(code, PYTHONPATH=str(tmp_path))
    assert count > 2
    assert used.startswith(str(tmp_path))
