"""Pixels with extreme values, and pixels without data, leave the masks of the others as they are without them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from infer_segment_anything_2.segmentation.images import Range, shown_range, to_rgb8
from infer_segment_anything_2.segmentation.objects import Object

#: Photographs of scikit-image, and a box around something in each. Those on which the small model gives another mask for any
#: other contrast (a night sky, a cat) are not among them.
BOXES = {
    "astronaut.png": [150, 20, 300, 200],
    "coffee.png": [160, 90, 430, 330],
    "motorcycle_left.png": [150, 100, 600, 450],
    "clock_motion.png": [100, 50, 300, 250],
    "retina.jpg": [100, 100, 1300, 1300],
}
#: The box of the best mask that automatic mode finds in each, at its defaults with 16 points a side. These are all photographs
#: of the package in which it finds anything, but for two where the small model is not as steady: cells (0.78), a clock (0.90).
KNOWN = {
    "astronaut.png": [133, 349, 206, 422],  # the badge
    "camera.png": [0, 177, 259, 512],
    "coffee.png": [0, 0, 152, 106],  # the dark corner
    "ihc.png": [0, 275, 50, 448],  # the pale gap at the left border
    "retina.jpg": [0, 313, 1321, 1411],
    "rocket.jpg": [311, 130, 335, 204],
}
FORMS = {
    "12 bits": lambda photo: photo.astype(np.uint16) * 16,
    "thermal": lambda photo: (photo.astype(np.int32) * 100 - 9000).astype(np.int16),
    "float32 to 1": lambda photo: (photo / 255).astype(np.float32),
    "reflectance": lambda photo: (photo * 40.0 - 500).astype(np.float32),
}


def photograph(name: str) -> np.ndarray:
    """(H, W, 3) uint8."""
    return np.array(Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB"))


def mask_of(nano, image: np.ndarray, box: list[int], shown: Range | None = None) -> np.ndarray:
    return nano.predict(to_rgb8(image, shown), [Object(box=np.array(box, np.float32))])[0][0]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.sum(a & b) / np.sum(a | b)


def any_values(dtype: np.dtype, count: int, random: np.random.Generator) -> np.ndarray:
    """(count, 3) values of any kind that an image of `dtype` may have."""
    if dtype.kind != "f":
        return random.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (count, 3), dtype, endpoint=True)
    return random.choice([-9999, -1e30, -1.5, 0, 1.000001, 2, 300, 1e30, np.inf, -np.inf, np.nan], (count, 1))


def with_any_values(clean: np.ndarray) -> np.ndarray:
    """`clean` with half a per cent of its pixels changed to any value."""
    changed = clean.copy()
    random = np.random.default_rng(0)
    places = random.permutation(clean[..., 0].size)[: clean[..., 0].size // 200]
    changed.reshape(-1, 3)[places] = any_values(clean.dtype, len(places), random)
    return changed


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", KNOWN)
def test_half_a_per_cent_of_the_pixels_with_any_value_leaves_the_mask_of_a_box(nano, name, form):
    clean = FORMS[form](photograph(name))
    before = mask_of(nano, clean, KNOWN[name])
    assert before.any()
    assert iou(mask_of(nano, with_any_values(clean), KNOWN[name]), before) >= 0.93


@pytest.mark.parametrize("form", ["12 bits", "reflectance"])
@pytest.mark.parametrize("name", BOXES)
def test_half_a_per_cent_of_the_pixels_with_any_value_does_not_change_how_the_others_are_seen(nano, name, form):
    """Around what the small model does not know it minds such pixels also in a picture of 8 bits, so it is shown them beside
    the others as they are seen without them: what remains of a difference comes from the range."""
    clean = FORMS[form](photograph(name))
    changed = with_any_values(clean)
    as_before = mask_of(nano, changed, BOXES[name], shown_range(clean))
    assert as_before.any()
    assert iou(mask_of(nano, changed, BOXES[name]), as_before) >= 0.93


@pytest.mark.parametrize("value", [0, 65535])
@pytest.mark.parametrize("name", ["astronaut.png", "coffee.png", "motorcycle_left.png"])
def test_a_corner_of_extreme_pixels_leaves_the_mask_of_a_box(nano, name, value):
    clean = FORMS["12 bits"](photograph(name))
    side = int((clean[..., 0].size / 200) ** 0.5)
    changed = clean.copy()
    changed[-side:, :side] = value
    assert iou(mask_of(nano, changed, BOXES[name]), mask_of(nano, clean, BOXES[name])) >= 0.93


@pytest.mark.parametrize("percent", [1, 3, 40])
@pytest.mark.parametrize(("form", "no_data"), [("thermal", -32768), ("float32 to 1", -3.4e38), ("reflectance", np.nan)])
def test_no_data_leaves_the_mask_of_what_has_data(nano, form, no_data, percent):
    photo = photograph("coffee.png")[::-1].copy()  # the cup is in the lower part
    box = [160, 70, 430, 310]
    clean = FORMS[form](photo)
    rows = photo.shape[0] * percent // 100
    changed, black = clean.copy(), photo.copy()
    changed[:rows], black[:rows] = no_data, 0
    found = mask_of(nano, changed, box)[rows:]
    assert found.any()
    assert iou(found, mask_of(nano, black, box)[rows:]) >= 0.93
