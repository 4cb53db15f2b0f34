"""What a segmenter keeps, and what it does when a GPU has no memory left.

There is no GPU here: torch's error is raised in its place, where a GPU would raise it.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
import warnings

import ikomia  # noqa: F401 - brings the cv2 that sam2's remove_small_regions imports
import numpy as np
import oracle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from infer_segment_anything_2.segmentation.checkpoints import CATALOGUE, fetch_checkpoint
from infer_segment_anything_2.segmentation.crops import Crop
from infer_segment_anything_2.segmentation.image_predictor import MAX_EMBEDDINGS
from infer_segment_anything_2.segmentation.mask_generator import _neighbourhood
from infer_segment_anything_2.segmentation.model_loader import load_model
from infer_segment_anything_2.segmentation.objects import typed_objects
from infer_segment_anything_2.segmentation.sam2_package import remove_small_regions
from infer_segment_anything_2.segmentation.search import AutomaticSettings
from infer_segment_anything_2.segmentation.segmenter import Segmenter

LOOSE = AutomaticSettings(points_per_side=5, pred_iou_thresh=0.3, stability_score_thresh=0.5)
BOXES = np.array([[20, 20, 200, 200], [150, 20, 300, 200], [290, 340, 510, 510]], np.float32)


@pytest.fixture
def segmenter() -> Segmenter:
    """A model of its own, with nothing kept from other tests."""
    name = "sam2_hiera_nano"
    return Segmenter(load_model(fetch_checkpoint(name), CATALOGUE[name].config, "cpu", True))


def prompts(astronaut):
    return typed_objects(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), BOXES, astronaut.shape[:2])


def out_of_memory(function, when):
    """`function`, which raises what torch raises as long as `when(*its arguments)` is true."""

    def wrapped(*args, **kwargs):
        if when(*args, **kwargs):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB.")
        return function(*args, **kwargs)

    return wrapped


@pytest.mark.parametrize("use_m2m", [False, True])
def test_automatic_mode_takes_fewer_points_at_once_until_they_fit(segmenter, astronaut, monkeypatch, caplog, use_m2m):
    settings = AutomaticSettings(**(vars(LOOSE) | {"use_m2m": use_m2m}))
    expected = segmenter.generate(astronaut, settings)
    segmenter.forget_images()
    tried = []
    monkeypatch.setattr(
        Crop,
        "_logits",
        out_of_memory(Crop._logits, lambda self, points, *_: tried.append(len(points)) or len(points) > 3),
    )
    with caplog.at_level(logging.WARNING):
        found = segmenter.generate(astronaut, settings)
    assert max(tried) > 3  # it did run out
    assert len([count for count in tried if count > 3]) < len(tried) / 3  # and learned from it
    assert "memory of the GPU ran out: 2 point(s) at once" in caplog.text
    assert len(found) == len(expected) > 2
    assert min(oracle.iou(a, b) for a, b in zip(found, expected, strict=True)) > 0.999


def test_a_gpu_too_small_for_one_point_is_told_with_what_to_do(segmenter, astronaut, monkeypatch):
    monkeypatch.setattr(Crop, "_logits", out_of_memory(Crop._logits, lambda *_: True))
    with pytest.raises(MemoryError, match=r"memory of the GPU ran out.*choose a smaller model.*cuda to False"):
        segmenter.generate(astronaut, LOOSE)
    monkeypatch.undo()
    assert len(segmenter.generate(astronaut, LOOSE)) > 2


def test_prompts_take_fewer_objects_at_once_until_they_fit(segmenter, astronaut, monkeypatch):
    (expected,) = segmenter.predict(astronaut, prompts(astronaut))
    decode = segmenter.predictor.decode
    failing = out_of_memory(decode, lambda embedding, coords, labels, **_: len(coords) > 1)
    monkeypatch.setattr(segmenter.predictor, "decode", failing)
    (found,) = segmenter.predict(astronaut, prompts(astronaut))
    assert [oracle.iou(a, b) for a, b in zip(found, expected, strict=True)] == [1, 1, 1]
    monkeypatch.setattr(segmenter.predictor, "decode", out_of_memory(decode, lambda *_, **__: True))
    with pytest.raises(MemoryError, match="memory of the GPU ran out"):
        segmenter.predict(astronaut, prompts(astronaut))


def test_an_image_is_encoded_again_after_others_were_forgotten(segmenter, astronaut, monkeypatch):
    (expected,) = segmenter.predict(astronaut, prompts(astronaut))
    segmenter.predict(astronaut[:, ::-1], prompts(astronaut))
    assert len(segmenter.predictor._kept) == 2
    encode = segmenter.predictor._feature_maps
    full = lambda *_: len(segmenter.predictor._kept) > 0  # noqa: E731 - no memory beside kept images
    monkeypatch.setattr(segmenter.predictor, "_feature_maps", out_of_memory(encode, full))
    upside_down = np.ascontiguousarray(astronaut[::-1])
    segmenter.predict(upside_down, prompts(astronaut))
    assert len(segmenter.predictor._kept) == 1
    (again,) = segmenter.predict(astronaut, prompts(astronaut))
    assert [oracle.iou(a, b) for a, b in zip(again, expected, strict=True)] == [1, 1, 1]

    monkeypatch.setattr(segmenter.predictor, "_feature_maps", out_of_memory(encode, lambda *_: True))
    with pytest.raises(MemoryError, match="memory of the GPU ran out"):
        segmenter.predict(astronaut[:300], typed_objects(BOXES[:0, :2], np.zeros(0, np.int64), BOXES[:1], (300, 512)))


def test_an_image_is_known_by_its_pixels_not_by_its_array(segmenter, astronaut):
    image = astronaut.copy()
    segmenter.predict(image, prompts(image))
    segmenter.predict(image.copy(), prompts(image))
    assert segmenter.predictor.encoded == 1
    image[100:200, 100:200] = 255  # the caller writes into its own array
    (changed,) = segmenter.predict(image, prompts(image))
    assert segmenter.predictor.encoded == 2
    (expected,) = Segmenter(segmenter.predictor.model).predict(image, prompts(image))
    assert [oracle.iou(a, b) for a, b in zip(changed, expected, strict=True)] == [1, 1, 1]
    segmenter.predict(astronaut, prompts(image))
    assert segmenter.predictor.encoded == 2


def test_the_pixels_in_another_shape_are_another_image(segmenter, astronaut):
    wide = astronaut.reshape(256, 1024, 3)
    one_box = typed_objects(BOXES[:0, :2], np.zeros(0, np.int64), BOXES[:1], (256, 1024))
    segmenter.predict(astronaut, one_box)
    (masks,) = segmenter.predict(wide, one_box)
    assert segmenter.predictor.encoded == 2
    assert masks[0].shape == (256, 1024)


def test_the_embeddings_of_some_images_are_kept_and_no_more(segmenter, astronaut):
    images = [np.roll(astronaut, 10 * k, axis=0) for k in range(MAX_EMBEDDINGS + 1)]
    for image in images:
        segmenter.predict(image, prompts(astronaut))
    assert len(segmenter.predictor._kept) == MAX_EMBEDDINGS
    segmenter.predict(images[1], prompts(astronaut))
    assert segmenter.predictor.encoded == len(images)
    segmenter.predict(images[0], prompts(astronaut))  # the oldest was given up
    assert segmenter.predictor.encoded == len(images) + 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="GNU's OpenMP")
@pytest.mark.parametrize("wanted_by_user", [False, True])
def test_torch_keeps_its_threads_on_a_busy_machine_when_opencv_is_imported(
    segmenter, astronaut, monkeypatch, wanted_by_user
):
    openmp = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD)
    before = openmp.omp_get_dynamic()
    if wanted_by_user:
        monkeypatch.setenv("OMP_DYNAMIC", "true")
    seen = []
    encode = segmenter.predictor._feature_maps
    monkeypatch.setattr(
        segmenter.predictor, "_feature_maps", lambda x: seen.append(openmp.omp_get_dynamic()) or encode(x)
    )
    try:
        openmp.omp_set_dynamic(1)  # as `import cv2` does
        segmenter.predict(astronaut, prompts(astronaut))
        assert seen == [1 if wanted_by_user else 0]
        assert openmp.omp_get_dynamic() == 1  # left as it was found
    finally:
        openmp.omp_set_dynamic(before)


def test_no_warning_about_sam2s_use_of_torch_reaches_the_user(astronaut):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        name = "sam2_hiera_nano"
        segmenter = Segmenter(load_model(fetch_checkpoint(name), CATALOGUE[name].config, "cpu", True))
        segmenter.generate(astronaut, LOOSE)
        segmenter.predict(astronaut, prompts(astronaut))
        read_only = astronaut[::-1].copy()
        read_only.flags.writeable = False  # as np.asarray makes of a picture of Pillow
        segmenter.predict(read_only, prompts(read_only))
    assert [str(warning.message) for warning in caught] == []


@pytest.mark.parametrize("percent", [100, 40])
def test_masks_are_dropped_by_their_area_in_the_original_image_both_limits_included(nano, astronaut, percent):
    every = nano.generate(astronaut, LOOSE, input_size_percent=percent)
    areas = sorted(every.areas)
    low, high = int(areas[1]), int(areas[-2])
    assert areas[0] < low < high < areas[-1]
    for least, most in ((low, 0), (0, high), (low, high)):
        limited = AutomaticSettings(**(vars(LOOSE) | {"min_mask_area": least, "max_mask_area": most}))
        kept = nano.generate(astronaut, limited, input_size_percent=percent)
        expected = [k for k, area in enumerate(every.areas) if least <= area <= (most or area)]
        assert kept.rles == [every.rles[k] for k in expected]
        np.testing.assert_array_equal(kept.scores, every.scores[expected])


def test_without_opencv_small_regions_are_refused_before_the_search_with_the_way_out(nano, astronaut, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(
        ImportError, match=r"^min_mask_region_area: 9 is not accepted without OpenCV \(pip install opencv-python-head"
    ):
        nano.generate(astronaut, AutomaticSettings(points_per_side=1, min_mask_region_area=9), progress=pytest.fail)


@settings(deadline=None)
@given(
    mask=arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))),
    box=st.tuples(*[st.integers(0, 39)] * 4),
    least=st.integers(1, 60),
)
def test_small_regions_are_the_same_in_the_neighbourhood_of_a_mask(mask, box, least):
    x0, x1, y0, y1 = (*sorted(box[:2]), *sorted(box[2:]))
    mask[:y0], mask[y1 + 1 :], mask[:, :x0], mask[:, x1 + 1 :] = False, False, False, False
    rows, columns = np.nonzero(mask)
    tight = [columns.min(), rows.min(), columns.max(), rows.max()] if len(rows) else [0, 0, 0, 0]
    around = _neighbourhood(tight, mask.shape, least)
    for mode in ("holes", "islands"):
        expected, changed = remove_small_regions(mask, least, mode=mode)
        part, part_changed = remove_small_regions(mask[around], least, mode=mode)
        whole = mask.copy()
        whole[around] = part
        assert part_changed == changed
        np.testing.assert_array_equal(whole, expected)
        mask = whole


def test_a_search_can_be_stopped_while_small_regions_are_removed(nano, astronaut):
    told = []

    def stop(done, total):
        told.append((done, total))
        if told.count((total, total)) == 3:
            raise KeyboardInterrupt

    settings = AutomaticSettings(**(vars(LOOSE) | {"min_mask_region_area": 50}))
    assert len(nano.generate(astronaut, settings)) > 3
    with pytest.raises(KeyboardInterrupt):
        nano.generate(astronaut, settings, progress=stop)
    assert told.count(told[-1]) == 3


@pytest.mark.parametrize(("computes_in_it", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_gpu_that_only_emulates_bfloat16_computes_in_float32(segmenter, monkeypatch, computes_in_it, expected):
    """torch says of every GPU that it supports bfloat16, unless it is asked to leave out those that emulate it."""
    seen = []
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or computes_in_it
    )
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext(seen.append(device)))

    def autocast(kind, dtype=None, enabled=True):
        return contextlib.nullcontext(dtype and seen.append(dtype if enabled else torch.float32))

    monkeypatch.setattr(torch, "autocast", autocast)
    monkeypatch.setattr(segmenter.predictor, "device", torch.device("cuda:1"))
    with segmenter._running():
        pass
    assert seen == [torch.device("cuda:1"), expected]


def test_a_smallest_area_above_the_largest_is_refused(nano, astronaut):
    with pytest.raises(ValueError, match=r"^min_mask_area: 9 is not accepted with max_mask_area: 8"):
        nano.generate(astronaut, AutomaticSettings(min_mask_area=9, max_mask_area=8))
