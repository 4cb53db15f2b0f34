"""Automatic mode finds the masks that SAM2AutomaticMaskGenerator finds with the same weights and settings."""

from __future__ import annotations

import dataclasses
import functools
import inspect

import ikomia  # noqa: F401 - brings the cv2 that sam2's remove_small_regions imports
import numpy as np
import oracle
import pytest
from skimage import data

from infer_segment_anything_2.segmentation import crops, mask_generator
from infer_segment_anything_2.segmentation.kept_searches import Candidates
from infer_segment_anything_2.segmentation.memory import BatchSize
from infer_segment_anything_2.segmentation.search import AutomaticSettings

LOOSE = {"pred_iou_thresh": 0.3, "stability_score_thresh": 0.5, "points_per_side": 4}
SETTINGS = {
    "one mask a point": LOOSE | {"use_m2m": False, "multimask_output": False},
    "three masks a point": LOOSE | {"use_m2m": False, "multimask_output": True},
    "refined": LOOSE | {"use_m2m": True, "multimask_output": False},
    "refined, three masks a point": LOOSE | {"use_m2m": True, "multimask_output": True},
    "strict": LOOSE | {"pred_iou_thresh": 0.6, "stability_score_thresh": 0.8, "points_per_side": 7},
    "no thresholds": LOOSE | {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0},
    "stability offset": LOOSE | {"stability_score_offset": 0.3, "stability_score_thresh": 0.8},
    "a threshold that only the steadiest masks reach": LOOSE
    | {"stability_score_offset": 0.0, "stability_score_thresh": 1.0},
    "mask threshold": LOOSE | {"mask_threshold": 0.8},
    "few duplicates allowed": LOOSE | {"box_nms_thresh": 0.2, "multimask_output": False},
    "points in batches of three": LOOSE | {"points_per_batch": 3},
    "crops": LOOSE | {"crop_n_layers": 1, "points_per_side": 3, "multimask_output": False},
    "two layers of crops, fewer points in them": LOOSE
    | {"crop_n_layers": 2, "crop_n_points_downscale_factor": 2, "crop_nms_thresh": 0.5},
    "crops refined": LOOSE
    | {"crop_n_layers": 1, "crop_overlap_ratio": 0.1, "use_m2m": True, "points_per_side": 3, "multimask_output": False},
    "own points": LOOSE
    | {
        "points_per_side": None,
        "point_grids": [np.array([[0.5, 0.25], [0.4, 0.8], [0.8, 0.2]])],
        "pred_iou_thresh": 0.0,
    },
}


@pytest.fixture(scope="module")
def oracle_model():
    return oracle.nano_model()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Not square, so that a mistake between width and height shows."""
    return np.ascontiguousarray(data.astronaut()[:300, 100:480])


@pytest.fixture(scope="module")
def of_sam2(oracle_model, image):
    """sam2's masks with settings of that name: made once, since they take it seconds."""
    return functools.cache(lambda name: oracle.mask_generator(oracle_model, **SETTINGS[name]).generate(image))


def assert_same_masks(ours, theirs: list[dict]) -> None:
    assert len(ours) == len(theirs)
    used = set()
    for mask, score, stability in zip(ours, ours.scores, ours.stability_scores, strict=True):
        overlaps = [oracle.iou(mask, t["segmentation"]) if i not in used else -1 for i, t in enumerate(theirs)]
        best = int(np.argmax(overlaps))
        used.add(best)
        assert overlaps[best] >= 0.999
        assert score == pytest.approx(theirs[best]["predicted_iou"], abs=1e-4)
        assert stability == pytest.approx(theirs[best]["stability_score"], abs=1e-3)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_masks_are_those_of_sam2(nano, of_sam2, image, name):
    theirs = of_sam2(name)
    ours = nano.generate(image, AutomaticSettings(**SETTINGS[name]))
    assert len(theirs) >= 2
    assert_same_masks(ours, theirs)


@pytest.mark.usefixtures("measured_as_on_a_gpu")
@pytest.mark.parametrize("name", SETTINGS)
def test_so_are_those_that_a_gpu_measures_at_the_size_of_the_image(nano, of_sam2, image, name, monkeypatch):
    monkeypatch.setattr(crops, "GPU_PIXELS_AT_ONCE", 5 * image.shape[0] * image.shape[1])  # some of a batch
    generator = mask_generator.MaskGenerator(nano.predictor, AutomaticSettings(**SETTINGS[name]))
    at_once = []
    upscale = nano.predictor.upscale
    monkeypatch.setattr(
        nano.predictor, "upscale", lambda m, hw: at_once.append(m.shape[0] * np.prod(hw)) or upscale(m, hw)
    )
    assert_same_masks(generator.generate(image), of_sam2(name))
    assert 0 < max(at_once) <= crops.GPU_PIXELS_AT_ONCE


@pytest.mark.usefixtures("measured_as_on_a_gpu")
def test_a_gpu_keeps_masks_without_a_pixel_too_where_no_threshold_drops_them(nano, oracle_model, image):
    """Their stability is 0 / 0, which no threshold lets pass."""
    settings = LOOSE | {"pred_iou_thresh": 0.0, "mask_threshold": 1000.0, "points_per_side": 2, "box_nms_thresh": 1.0}
    found = []
    for stability in (0.0, 0.01):
        more = settings | {"stability_score_thresh": stability}
        generator = mask_generator.MaskGenerator(nano.predictor, AutomaticSettings(**more))
        ours, theirs = (
            generator.generate(image),
            oracle.mask_generator(oracle_model, **more).generate(image),
        )
        assert len(ours) == len(theirs)
        assert not any(mask.any() for mask in ours)
        found.append(len(ours))
    assert found[0] > 0
    assert found[1] == 0


@pytest.mark.parametrize("measures_pixels", [True, False], ids=["on a GPU", "on the CPU"])
def test_boxes_are_those_of_sam2_to_the_pixel(nano, measures_pixels):
    """They decide which of two masks is a duplicate, and which one a crop cuts off."""
    import torch
    from sam2.utils.amg import batched_mask_to_box

    logits = np.full((6, 16, 16), -4, np.float32)
    places = [(3, 5, 9, 12), (0, 0, 1, 1), (15, 15, 16, 16), (2, 7, 14, 8), (0, 0, 16, 16)]
    for of_mask, (x0, y0, x1, y1) in zip(logits, places, strict=False):  # the last one stays empty
        of_mask[y0:y1, x0:x1] = 4
    settings = AutomaticSettings(pred_iou_thresh=0.0, stability_score_thresh=0.0)
    crop_hw, crop_box = (250, 200), [300, 200, 500, 450]  # at two edges of the image
    image = np.zeros((450, 500, 3), np.uint8)
    with torch.inference_mode():
        crop = crops.Crop(nano.predictor, settings, BatchSize(16), image, crop_box, np.zeros((0, 2)), Candidates(0))
        measured = crop._measure_pixels(torch.as_tensor(logits)) if measures_pixels else crop._measure(logits)
    upscaled = torch.nn.functional.interpolate(torch.as_tensor(logits)[:, None], crop_hw, mode="bilinear")[:, 0]
    boxes = batched_mask_to_box(upscaled > 0)
    # The others lie at an edge of the crop that is none of the image.
    whole = torch.nonzero(measured.whole)[:, 0].tolist()
    assert whole == [0, 2, 3]
    np.testing.assert_array_equal(measured.boxes[whole], boxes[whole] + torch.tensor([300, 200, 300, 200]))


def test_neither_and_both_kinds_of_grid_are_refused():
    for settings in (
        AutomaticSettings(points_per_side=None),
        AutomaticSettings(points_per_side=2, point_grids=[np.ones((1, 2))]),
    ):
        with pytest.raises(ValueError, match="points_per_side = None together with point_grids"):
            settings.check()


def test_the_defaults_are_those_of_sam2():
    theirs = inspect.signature(oracle.SAM2AutomaticMaskGenerator).parameters
    ours = dataclasses.asdict(AutomaticSettings())
    assert set(ours) - set(theirs) == {"min_mask_area", "max_mask_area"}  # sam2 has no such filter
    for name in set(ours) & set(theirs):
        assert ours[name] == theirs[name].default, name


@pytest.mark.parametrize("area", [60, 400])
def test_small_regions_are_removed_as_sam2s_own_unused_function_does(nano, oracle_model, image, area):
    settings = LOOSE | {"use_m2m": False}
    generator = oracle.mask_generator(oracle_model, **settings)
    raw = generator._generate_masks(image)
    before = len(raw["rles"])
    import torch

    raw["boxes"] = torch.as_tensor(raw["boxes"])
    theirs = generator.postprocess_small_regions(raw, area, max(generator.box_nms_thresh, generator.crop_nms_thresh))
    from sam2.utils.amg import rle_to_mask

    ours = nano.generate(image, AutomaticSettings(**settings, min_mask_region_area=area))
    plain = nano.generate(image, AutomaticSettings(**settings))
    assert len(plain) == before
    expected = [rle_to_mask(rle) for rle in theirs["rles"]]
    assert len(ours) == len(expected)
    assert all(max(oracle.iou(m, e) for e in expected) >= 0.999 for m in ours)
    # The setting does something: some mask differs from every plain one.
    assert any(max(oracle.iou(m, p) for p in plain) < 1 for m in ours) or len(ours) < before
