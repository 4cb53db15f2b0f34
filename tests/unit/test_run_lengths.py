"""Masks measured and encoded without their pixels are those that torch's interpolation gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from infer_segment_anything_2.segmentation.masks import decode, encode
from infer_segment_anything_2.segmentation.run_lengths import UpscaledMask, area, to_rle

SIZES = [(768, 1024), (300, 380), (256, 256), (97, 61), (2, 700), (1, 1), (1080, 1920)]


def upscaled(logits: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    return F.interpolate(torch.from_numpy(logits)[None, None], hw, mode="bilinear", align_corners=False)[0, 0].numpy()


def landscape(seed: int, smoothness: float, level: float, side: int = 256) -> np.ndarray:
    hills = gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), smoothness)
    return (4 * hills / hills.std() + level).astype(np.float32)


def assert_same(logits: np.ndarray, hw: tuple[int, int], threshold: float, lowest: float) -> None:
    pixels = upscaled(logits, hw)
    flips = UpscaledMask(logits, hw, lowest).flips(threshold)
    assert (np.diff(flips) > 0).all()
    mask = decode(to_rle(flips, hw))
    different = mask != (pixels > threshold)
    # Only what rounding decides may differ.
    assert np.abs(pixels[different] - threshold).max(initial=0) < 1e-4
    assert area(flips) == mask.sum()
    assert to_rle(flips, hw) == encode(mask)  # the form in which pycocotools itself writes that mask


@pytest.mark.parametrize("hw", SIZES)
@pytest.mark.parametrize(("smoothness", "level"), [(0.7, 0), (3, -6), (12, 0), (12, 8), (30, -5)])
def test_masks_of_any_size_and_shape(hw, smoothness, level):
    logits = landscape(int(10 * smoothness), smoothness, level)
    for threshold in (-1.0, 0.0, 1.0):
        assert_same(logits, hw, threshold, lowest=-1.0)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    image_hw=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    level=st.floats(-3, 3, allow_subnormal=False),
)
def test_small_arrays_of_noise(seed, height, width, image_hw, level):
    logits = np.random.default_rng(seed).normal(level, 1, (height, width)).astype(np.float32)
    assert_same(logits, image_hw, threshold=0.3, lowest=0.1)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_what_lies_exactly_at_the_threshold_is_outside(scale):
    """Small whole numbers, of which the interpolation by a power of two is exact: no pixel may differ."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        height, width = (int(size) for size in rng.integers(1, 12, 2))
        logits = rng.integers(-2, 3, (height, width)).astype(np.float32)
        hw = (height * scale, width * scale)
        for threshold in (-1.0, 0.0, 1.0):
            mask = decode(to_rle(UpscaledMask(logits, hw, -1.0).flips(threshold), hw))
            np.testing.assert_array_equal(mask, upscaled(logits, hw) > threshold)


@pytest.mark.parametrize("level", [-50, 50])
def test_an_empty_and_a_full_mask(level):
    assert_same(landscape(0, 5, level), (60, 80), 0.0, -1.0)
    assert area(UpscaledMask(landscape(0, 5, level), (60, 80), -1.0).flips(0)) == (0 if level < 0 else 4800)


def test_one_bright_sample_in_a_corner():
    for place in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        logits = np.full((16, 16), -4, np.float32)
        logits[place] = 4
        assert_same(logits, (70, 50), 0.0, -1.0)
        assert area(UpscaledMask(logits, (70, 50), -1.0).flips(0)) > 0


@pytest.mark.parametrize("corner_xy", [(0, 0), (7, 0), (0, 5), (7, 5), (20, 30)])
def test_a_crop_lies_in_its_place_in_the_image(corner_xy):
    hw, canvas = (50, 40), (80, 60)
    mask = UpscaledMask(landscape(3, 12, 3), hw, -1.0)
    whole = np.zeros(canvas, bool)
    x, y = corner_xy
    whole[y : y + hw[0], x : x + hw[1]] = decode(to_rle(mask.flips(0), hw))
    assert to_rle(mask.flips(0, corner_xy, canvas[0]), canvas) == encode(whole)
