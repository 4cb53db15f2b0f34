"""The same masks and scores whatever else the machine does."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from skimage import data

from infer_segment_anything_2.segmentation.checkpoints import CATALOGUE, fetch_checkpoint
from infer_segment_anything_2.segmentation.model_loader import load_model
from infer_segment_anything_2.segmentation.objects import Object
from infer_segment_anything_2.segmentation.segmenter import Segmenter

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or len(os.sched_getaffinity(0)) < 2, reason="GNU's OpenMP, on several cores"
)


def thirty_boxes() -> np.ndarray:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 380, (30, 2))
    return np.hstack([corners, corners + rng.uniform(30, 130, (30, 2))]).astype(np.float32)


def segment() -> tuple[list, list[float]]:
    """Masks and scores of thirty boxes, by a model that remembers no image."""
    name = "sam2_hiera_nano"
    segmenter = Segmenter(load_model(fetch_checkpoint(name), CATALOGUE[name].config, "cpu", True))
    (masks,) = segmenter.predict(data.astronaut(), [Object(box=box) for box in thirty_boxes()])
    return masks.rles, masks.scores.tolist()


@pytest.fixture
def openmp() -> Iterator[ctypes.CDLL]:
    """The OpenMP that torch computes with, left as it was found."""
    openmp = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD)
    dynamic, threads, cores = openmp.omp_get_dynamic(), torch.get_num_threads(), os.sched_getaffinity(0)
    yield openmp
    openmp.omp_set_dynamic(dynamic)
    torch.set_num_threads(threads)
    os.sched_setaffinity(0, cores)


@pytest.fixture
def on_a_quiet_machine(openmp) -> tuple[list, list[float]]:
    """What `segment` finds on as many threads as torch is set to."""
    openmp.omp_set_dynamic(0)
    threads = torch.get_num_threads()
    found = segment()
    torch.set_num_threads(1)
    if segment() == found:
        pytest.skip("This processor rounds sums on one thread as on several: no adjustment would be seen.")
    torch.set_num_threads(threads)
    return found


@pytest.fixture
def programs_on_all_cores(on_a_quiet_machine) -> Iterator[None]:
    """Other programs that compute on all cores, started once the machine is not needed quiet any more."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    yield
    for program in programs:
        program.kill()
        program.wait()


@pytest.mark.usefixtures("programs_on_all_cores")
def test_masks_and_scores_are_the_same_while_other_programs_compute(openmp, on_a_quiet_machine, monkeypatch):
    """OpenMP's dynamic adjustment takes the load of the last 15 minutes off the number of threads, and no test waits for that.
    The same adjustment takes off the cores that a thread may not use, which is seen at once: so this one may use a single one.
    """
    monkeypatch.delenv("OMP_DYNAMIC", raising=False)
    openmp.omp_set_dynamic(1)  # as `import cv2` does
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    assert segment() == on_a_quiet_machine
