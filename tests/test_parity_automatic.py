"""Automatic mode finds the masks that SAM2AutomaticMaskGenerator finds with the same weights and settings."""

from __future__ import annotations

import ikomia  # noqa: F401 - brings the cv2 that sam2's remove_small_regions imports
import numpy as np
import oracle
import pytest
from skimage import data

from infer_segment_anything_2.segmentation import mask_generator
from infer_segment_anything_2.segmentation.mask_generator import AutomaticSettings

LOOSE = {"pred_iou_thresh": 0.3, "stability_score_thresh": 0.5, "points_per_side": 6}
SETTINGS = {
    "one mask a point": LOOSE | {"use_m2m": False, "multimask_output": False},
    "three masks a point": LOOSE | {"use_m2m": False, "multimask_output": True},
    "refined": LOOSE | {"use_m2m": True, "multimask_output": False},
    "refined, three masks a point": LOOSE | {"use_m2m": True, "multimask_output": True},
    "strict": LOOSE | {"pred_iou_thresh": 0.6, "stability_score_thresh": 0.8, "points_per_side": 9},
    "no thresholds": LOOSE | {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "points_per_side": 5},
    "stability offset": LOOSE | {"stability_score_offset": 0.3, "stability_score_thresh": 0.8},
    "mask threshold": LOOSE | {"mask_threshold": 0.8},
    "few duplicates allowed": LOOSE | {"box_nms_thresh": 0.2, "multimask_output": False},
    "points in batches of three": LOOSE | {"points_per_batch": 3, "points_per_side": 4},
    "crops": LOOSE | {"crop_n_layers": 1, "points_per_side": 4, "multimask_output": False},
    "two layers of crops, fewer points in them": LOOSE
    | {"crop_n_layers": 2, "crop_n_points_downscale_factor": 2, "crop_nms_thresh": 0.5, "points_per_side": 5},
    "crops refined": LOOSE
    | {"crop_n_layers": 1, "crop_overlap_ratio": 0.1, "use_m2m": True, "points_per_side": 4, "multimask_output": False},
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
def test_the_masks_are_those_of_sam2(nano, oracle_model, image, name):
    settings = SETTINGS[name]
    theirs = oracle.mask_generator(oracle_model, **settings).generate(image)
    ours = nano.generate(image, AutomaticSettings(**settings))
    assert len(theirs) >= 2
    assert_same_masks(ours, theirs)


@pytest.mark.parametrize("name", SETTINGS)
def test_so_are_those_that_a_gpu_measures_at_the_size_of_the_image(nano, oracle_model, image, name, monkeypatch):
    settings = SETTINGS[name]
    theirs = oracle.mask_generator(oracle_model, **settings).generate(image)
    monkeypatch.setattr(mask_generator, "GPU_PIXELS_AT_ONCE", 5 * image.shape[0] * image.shape[1])  # some of a batch
    generator = mask_generator.MaskGenerator(nano.predictor, AutomaticSettings(**settings))
    generator._measures_pixels = True
    assert_same_masks(generator.masks_of(image), theirs)


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
