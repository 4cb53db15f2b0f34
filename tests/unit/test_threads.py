"""The same masks and scores whatever else the machine does."""

from __future__ import annotations

import ctypes
import os
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


def boxes() -> np.ndarray:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 380, (10, 2))
    return np.hstack([corners, corners + rng.uniform(30, 130, (10, 2))]).astype(np.float32)


def segment() -> tuple[list, list[float]]:
    """Masks and scores of ten boxes, by a model that remembers no image."""
    name = "sam2_hiera_nano"
    segmenter = Segmenter(load_model(fetch_checkpoint(name), CATALOGUE[name].config, "cpu", True))
    (masks,) = segmenter.predict(data.astronaut(), [Object(box=box) for box in boxes()])
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


def test_masks_and_scores_are_the_same_where_openmp_would_compute_on_fewer_threads(openmp, monkeypatch):
    """As when other programs are busy: OpenMP's dynamic adjustment takes the load of the last 15 minutes off the number of
    threads, and no test waits for that. It also takes off the cores that a thread may not use, which is seen at once.
    """
    monkeypatch.delenv("OMP_DYNAMIC", raising=False)
    openmp.omp_set_dynamic(0)
    torch.set_num_threads(2)
    expected = segment()
    openmp.omp_set_dynamic(1)  # as `import cv2` does
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    assert segment() == expected
    with monkeypatch.context() as patch:  # this processor rounds sums on one thread otherwise, or nothing was shown
        patch.setenv("OMP_DYNAMIC", "true")
        if segment() == expected:
            pytest.skip("This processor rounds sums on one thread as on two: no adjustment would be seen.")
