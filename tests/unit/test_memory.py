"""Memory that runs out is told in a sentence, costs nothing but the run, and is not taken for something else.

What a GPU does is in test_segmenter.py, simulated, and in ../parity/test_cuda.py, on a real one.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import weakref
import zipfile

import ikomia  # noqa: F401 - brings the cv2 below
import numpy as np
import pytest
import torch
from skimage import data

import cv2  # isort: skip

from infer_segment_anything_2.segmentation.checkpoints import CATALOGUE, CheckpointError, fetch_checkpoint
from infer_segment_anything_2.segmentation.crops import Crop
from infer_segment_anything_2.segmentation.mask_generator import MaskGenerator
from infer_segment_anything_2.segmentation.memory import (
    BatchSize,
    GPUMemoryError,
    MainMemoryError,
    in_batches,
    memory_errors,
)
from infer_segment_anything_2.segmentation.model_loader import load_model
from infer_segment_anything_2.segmentation.objects import typed_objects
from infer_segment_anything_2.segmentation.search import AutomaticSettings
from infer_segment_anything_2.segmentation.segmenter import Segmenter

CPU = r"memory of this computer ran out.*choose a smaller model \(model_name\).*input_size_percent"
GPU = r"memory of the GPU ran out.*choose a smaller model \(model_name\), or set cuda to False"
OF_TORCH = (
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "603979776 bytes. Error code 12 (Cannot allocate memory)"
)
OF_TORCH_ON_WINDOWS = (
    "[enforce fail at alloc_cpu.cpp:72] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."
)
OF_OPENCV = (
    "OpenCV(4.12.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9012004 bytes in function 'f'"
)


def raising(error: BaseException):
    def wrapped(*args, **kwargs):
        raise error

    return wrapped


@pytest.fixture
def segmenter() -> Segmenter:
    name = "sam2_hiera_nano"
    return Segmenter(load_model(fetch_checkpoint(name), CATALOGUE[name].config, "cpu", True))


def predict(segmenter: Segmenter, image: np.ndarray):
    boxes = np.array([[20, 20, 100, 90]], np.float32)
    return segmenter.predict(image, typed_objects(boxes[:0, :2], np.zeros(0, np.int64), boxes, image.shape[:2]))


@pytest.mark.parametrize(
    ("error", "clear", "said"),
    [
        (RuntimeError(OF_TORCH), MainMemoryError, CPU),
        (RuntimeError(OF_TORCH_ON_WINDOWS), MainMemoryError, CPU),
        (RuntimeError("std::bad_alloc"), MainMemoryError, CPU),
        (MemoryError(), MainMemoryError, CPU),
        (np._core._exceptions._ArrayMemoryError((9, 9), np.dtype(float)), MainMemoryError, CPU),
        (OSError(12, "Cannot allocate memory"), MainMemoryError, CPU),
        (cv2.error(OF_OPENCV), MainMemoryError, CPU),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB."), GPUMemoryError, GPU),
        (RuntimeError("CUDA error: out of memory"), GPUMemoryError, GPU),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            GPUMemoryError,
            GPU,
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), GPUMemoryError, GPU),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, BaseException) else "",
)
def test_whoever_has_no_memory_it_is_said_in_one_sentence(error, clear, said):
    with pytest.raises(clear, match=said) as caught, memory_errors():
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), ValueError("CUDA out of memory"), OSError(2, "No such file")]
)
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as caught, memory_errors():
        raise error
    assert caught.value is error


def test_what_is_clear_already_stays(segmenter):
    with pytest.raises(GPUMemoryError) as caught, memory_errors(), memory_errors():
        raise GPUMemoryError
    assert caught.value.__cause__ is None


def test_a_run_without_memory_says_so_and_the_next_one_works(segmenter, monkeypatch):
    image = data.astronaut()[:200, :300]
    (expected,) = predict(segmenter, image)
    segmenter.predictor.forget_images()
    with monkeypatch.context() as patch:
        patch.setattr(segmenter.predictor, "_feature_maps", raising(RuntimeError(OF_TORCH)))
        with pytest.raises(MainMemoryError, match=CPU):
            predict(segmenter, image)
        with pytest.raises(MainMemoryError, match=CPU):
            segmenter.generate(image, AutomaticSettings(points_per_side=2))
    (found,) = predict(segmenter, image)
    assert found.rles == expected.rles


@pytest.mark.usefixtures("measured_as_on_a_gpu")
@pytest.mark.parametrize(("owner", "place"), [(MaskGenerator, "_nms"), (Crop, "encode"), (Crop, "_measure_pixels")])
def test_a_gpu_without_memory_is_told_wherever_it_happens(segmenter, monkeypatch, owner, place):
    settings = AutomaticSettings(points_per_side=2, pred_iou_thresh=0.1, stability_score_thresh=0.1)
    image = data.astronaut()[:200, :300]
    assert len(segmenter.generate(image, settings))
    segmenter.forget_images()
    monkeypatch.setattr(owner, place, raising(torch.OutOfMemoryError("CUDA out of memory.")))
    with pytest.raises(GPUMemoryError, match=GPU):
        segmenter.generate(image, settings)


@pytest.mark.parametrize(
    ("error", "said"),
    [(RuntimeError(OF_TORCH), CPU), (MemoryError(), CPU), (OSError(12, "Cannot allocate memory"), CPU)],
)
def test_weights_that_do_not_fit_into_memory_are_not_called_damaged(monkeypatch, error, said):
    """Or one would delete 900 MB that are good."""
    name = "sam2_hiera_nano"
    monkeypatch.setattr(torch, "load", raising(error))
    with pytest.raises(MemoryError, match=said):
        load_model(fetch_checkpoint(name), CATALOGUE[name].config, "cpu", True)


def test_a_model_that_does_not_fit_into_memory_is_not_called_no_model(monkeypatch):
    name = "sam2_hiera_nano"
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Linear, "__init__", raising(RuntimeError(OF_TORCH)))
        with pytest.raises(MainMemoryError, match=CPU):
            load_model(fetch_checkpoint(name), CATALOGUE[name].config, "cpu", True)
        patch.setattr(torch.nn.Linear, "__init__", raising(RuntimeError("something else")))
        with pytest.raises(ValueError, match="something else"):
            load_model(fetch_checkpoint(name), CATALOGUE[name].config, "cpu", True)


def test_a_gpu_too_small_for_the_model_is_told(monkeypatch):
    name = "sam2_hiera_nano"
    monkeypatch.setattr(torch.nn.Module, "to", raising(torch.OutOfMemoryError("CUDA out of memory.")))
    with pytest.raises(GPUMemoryError, match=GPU):
        load_model(fetch_checkpoint(name), CATALOGUE[name].config, "cpu", True)


def test_damaged_weights_are_still_called_damaged(monkeypatch):
    name = "sam2_hiera_nano"
    monkeypatch.setattr(zipfile, "is_zipfile", lambda path: True)
    monkeypatch.setattr(torch, "load", raising(RuntimeError("PytorchStreamReader failed reading zip archive")))
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(fetch_checkpoint(name), CATALOGUE[name].config, "cpu", True)


class Gpu:
    """Sums up batches, of at most `fits` items; `log` has the batches tried and the rooms made, in order."""

    def __init__(self, fits: int) -> None:
        self.fits = fits
        self.log: list[object] = []

    def compute(self, batch) -> int:
        self.log.append([int(item) for item in batch])
        if len(batch) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return int(sum(batch))

    def make_room(self) -> None:
        self.log.append("room")


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_items_are_computed_in_batches_as_the_results_are_asked_for(kind):
    gpu, size = Gpu(fits=4), BatchSize(4)
    results = in_batches(kind([1, 2, 3, 4, 5, 6]), size, gpu.compute, gpu.make_room, "point")
    assert gpu.log == []
    assert next(results) == 10
    assert gpu.log == [[1, 2, 3, 4]]
    assert list(results) == [11]
    assert size == BatchSize(4)
    assert list(in_batches(kind([]), size, gpu.compute, gpu.make_room, "point")) == []


def test_a_gpu_without_memory_gets_half_of_the_items_here_and_in_later_batches(caplog):
    gpu, size = Gpu(fits=3), BatchSize(8)
    with caplog.at_level(logging.WARNING):
        assert list(in_batches(range(10), size, gpu.compute, gpu.make_room, "point")) == [1, 5, 9, 13, 17]
    tried = [list(range(8)), "room", [0, 1, 2, 3], "room", [0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert gpu.log == tried
    said = "The memory of the GPU ran out: {} point(s) at once from here on."
    assert caplog.messages == [said.format(4), said.format(2)]
    gpu.log.clear()
    assert list(in_batches([1, 2, 3], size, gpu.compute, gpu.make_room, "point")) == [3, 3]
    assert gpu.log == [[1, 2], [3]]


def test_half_of_a_short_batch_is_less_than_half_of_the_batch_size():
    gpu, size = Gpu(fits=2), BatchSize(64)
    assert list(in_batches([1, 2, 3], size, gpu.compute, gpu.make_room, "point")) == [1, 2, 3]
    assert gpu.log == [[1, 2, 3], "room", [1], [2], [3]]


def test_a_single_item_is_tried_again_when_room_was_made_for_it():
    gpu = Gpu(fits=0)

    def make_room():
        gpu.fits = 1

    def compute(batch):
        result = gpu.compute(batch)
        gpu.fits = 0  # what was computed takes the room, so the next item needs room of its own
        return result

    assert list(in_batches([1, 2], BatchSize(1), compute, make_room, "image")) == [1, 2]
    assert gpu.log == [[1], [1], [2], [2]]


@pytest.mark.parametrize(("at_once", "tried"), [(1, [[7], "room", [7]]), (2, [[7, 8], "room", [7]])])
def test_a_single_item_that_does_not_fit_although_room_was_made_is_an_error(at_once, tried):
    gpu = Gpu(fits=0)
    with pytest.raises(GPUMemoryError, match="GPU ran out, even for one image at a time") as caught:
        list(in_batches([7, 8], BatchSize(at_once), gpu.compute, gpu.make_room, "image"))
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    assert gpu.log == tried


def test_what_a_failed_attempt_had_made_is_gone_when_room_is_made():
    made = []

    def compute(batch):
        half_done = np.zeros(len(batch))
        made.append(weakref.ref(half_done))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return 0

    rooms = []
    list(in_batches([1, 2], BatchSize(2), compute, lambda: rooms.append([ref() for ref in made]), "point"))
    assert rooms == [[None]]


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), KeyboardInterrupt()], ids=repr)
def test_another_error_ends_the_batches(error):
    gpu = Gpu(fits=1)
    with pytest.raises(type(error)) as caught:
        list(in_batches([1, 2], BatchSize(1), raising(error), gpu.make_room, "point"))
    assert caught.value is error
    assert gpu.log == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS")
def test_a_process_with_little_memory_says_so_and_goes_on_with_a_smaller_image():
    code = """
import json, os, resource
import hydra.utils, numpy as np, torch, torchvision
from ikomia.dataprocess.workflow import Workflow
# A process for each mode, forked when everything has been imported and nothing has run.
mode = "automatic" if os.fork() else "prompt"
workflow = Workflow()
algo = workflow.add_task(name="infer_segment_anything_2", auto_connect=True)
algo.set_parameters({"model_name": "sam2_hiera_nano", "points_per_side": "3", "iou_thresh": "0", "stability_score_thresh": "0",
                     "use_m2m": "False", "multimask_output": "True", "instance_output": "True", "box_nms_thresh": "1"})
if mode == "prompt":
    algo.set_parameters({"input_box": "[[1, 1, 200, 200], [1, 1, 100, 100]]"})
rng = np.random.default_rng(0)
small, large = (rng.integers(0, 255, (side, side, 3), np.uint8) for side in (300, 2500))

def run(image):
    try:
        workflow.run_on(array=image)
    except RuntimeError as error:
        return str(error)
    return [mask.tolist() if mask.size < 1e5 else mask.shape for mask in [algo.get_output(1).get_mask()]]

expected = run(small)
found = {}
for megabytes in (10, 60, 120, 250, 4000):
    taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + (megabytes << 20), resource.RLIM_INFINITY))
    found[megabytes] = run(large)
    if megabytes < 100:  # not enough for anything
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    algo._segmenter.forget_images()
    assert run(small) == expected
if mode == "automatic":
    assert os.wait()[1] == 0
print("RESULT" + json.dumps([mode, found]), flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=400, cwd=os.environ["HOME"]
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = dict(
        json.loads(line.removeprefix("RESULT")) for line in done.stdout.splitlines() if line.startswith("RESULT")
    )
    assert set(results) == {"automatic", "prompt"}
    for found in results.values():
        assert found.pop("4000") == [[2500, 2500]]
        assert isinstance(found["10"], str)
        assert isinstance(found["60"], str)
        for text in found.values():
            assert text == [[2500, 2500]] or ("MainMemoryError" in text and "memory of this computer ran out" in text)
