"""Corners, borders, single pixels, extreme shapes and counts: the masks of sam2, the same in every form that they leave in."""

from __future__ import annotations

import json

import ikomia  # noqa: F401 - brings the cv2 that sam2's remove_small_regions imports
import numpy as np
import oracle
import pytest
from PIL import Image
from pycocotools.coco import COCO
from skimage import data

from infer_segment_anything_2.segmentation.export import save_labels
from infer_segment_anything_2.segmentation.images import resize_percent
from infer_segment_anything_2.segmentation.masks import Masks, encode, ranked
from infer_segment_anything_2.segmentation.objects import typed_objects
from infer_segment_anything_2.segmentation.painting import class_names, label_image
from infer_segment_anything_2.segmentation.search import AutomaticSettings
from infer_segment_anything_2.segmentation.segmenter import Segmenter

LOOSE = {"points_per_side": 4, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.5, "multimask_output": True}
#: Pictures of a few pixels show no thing: what the model is asked for there it rates low.
ON_EXTREME_SHAPES = LOOSE | {"pred_iou_thresh": 0.02, "points_per_side": 3}
SHAPES = [(60, 80), (20, 8000), (4000, 3), (3, 3), (1, 400), (700, 2)]  # height, width


@pytest.fixture(scope="module")
def oracle_model():
    return oracle.nano_model()


def photo(height: int, width: int) -> np.ndarray:
    return np.array(Image.fromarray(data.coffee()).resize((width, height)))


def points_at(*places: tuple[float, float]) -> np.ndarray:
    return np.array(places, np.float32)


def assert_those_of_sam2(nano, predictor, image, point=None, box=None, percent=100) -> list[np.ndarray]:
    """One object: equal, pixel for pixel, for one mask and for three."""
    points = points_at(point) if point else np.zeros((0, 2), np.float32)
    boxes = np.array([box], np.float32) if box else np.zeros((0, 4), np.float32)
    prompts = typed_objects(points, np.zeros(0, np.int64), boxes, image.shape[:2])
    masks = []
    for multimask_output in (False, True):
        theirs, scores, _ = predictor.predict(
            point_coords=points if point else None,
            point_labels=np.ones(1) if point else None,
            box=boxes[0] if box else None,
            multimask_output=multimask_output,
        )
        ours = nano.predict(image, prompts, multimask_output=multimask_output, input_size_percent=percent)
        assert len(ours) == len(theirs)
        for of_candidate, mask, score in zip(ours, theirs, scores, strict=True):
            np.testing.assert_array_equal(of_candidate[0], mask.astype(bool))
            assert of_candidate.scores[0] == pytest.approx(score, abs=1e-5)
            masks.append(of_candidate[0])
    return masks


# ---------------------------------------------------------------- prompts


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_prompts_on_corners_and_borders_of_any_shape_give_the_masks_of_sam2(nano, oracle_model, height, width):
    image = photo(height, width)
    predictor = oracle.predictor(oracle_model)
    predictor.set_image(image)
    last = (width - 0.01, height - 0.01)
    for point in [(0, 0), (0, height - 1), last, (width / 2, 0)]:
        assert_those_of_sam2(nano, predictor, image, point=point)
    for box in [
        (0, 0, width, height),
        (0, 0, 1, 1),
        (width - 1, height - 1, width, height),
        (0, 0, width, 0.25),
        (width / 2, height / 2, width / 2 + 0.5, height / 2 + 0.5),
    ]:
        assert_those_of_sam2(nano, predictor, image, box=box)


@pytest.mark.parametrize("place", [(0, 0), (149, 0), (0, 99), (149, 99), (75, 50)])
def test_an_object_of_one_pixel_gives_the_masks_of_sam2(nano, oracle_model, place):
    x, y = place
    image = np.zeros((100, 150, 3), np.uint8)
    image[y, x] = 255
    predictor = oracle.predictor(oracle_model)
    predictor.set_image(image)
    masks = assert_those_of_sam2(nano, predictor, image, point=place)
    masks += assert_those_of_sam2(nano, predictor, image, box=(x, y, x + 1, y + 1))
    assert any(mask[y, x] for mask in masks)


@pytest.mark.parametrize(
    ("shape", "percent", "encoded"),
    [
        ((50, 50), 1, (1, 1)),  # 0.5, and no pixel would be left
        ((50, 149), 1, (1, 1)),
        ((250, 350), 1, (2, 4)),  # 2.5 and 3.5: halves to the even number
        ((51, 51), 99, (50, 50)),
        ((3, 1000), 33, (1, 330)),
        ((1, 1), 1, (1, 1)),
        ((101, 99), 50, (50, 50)),
    ],
)
def test_percentages_that_leave_part_of_a_pixel_are_sam2_on_the_rounded_image(
    nano, oracle_model, shape, percent, encoded
):
    image = photo(*shape)
    small = np.array(Image.fromarray(image).resize(encoded[::-1], Image.Resampling.BOX))
    np.testing.assert_array_equal(resize_percent(image, percent), small)
    predictor = oracle.predictor(oracle_model)
    predictor.set_image(small)
    predictor._orig_hw = [shape]
    height, width = shape
    assert_those_of_sam2(nano, predictor, image, point=(width / 2, height / 2), percent=percent)
    assert_those_of_sam2(nano, predictor, image, box=(0, 0, width * 0.7, height), percent=percent)


@pytest.mark.parametrize("threshold", [-1000.0, 1000.0])
def test_masks_that_are_full_or_empty_leave_as_such(workflow, algo, astronaut, oracle_model, threshold, tmp_path):
    image = np.ascontiguousarray(astronaut[:90, :130])
    predictor = oracle.predictor(oracle_model, mask_threshold=threshold)
    predictor.set_image(image)
    theirs, _, _ = predictor.predict(point_coords=points_at((60, 50)), point_labels=np.ones(1), multimask_output=True)
    full = threshold < 0
    assert theirs.astype(bool).all() == full
    assert theirs.any() == full
    algo.set_parameters(
        {
            "input_point": "[60, 50]",
            "multimask_output": "True",
            "mask_threshold": str(threshold),
            "instance_output": "True",
        }
    )
    workflow.run_on(array=image)
    for candidate in range(3):
        assert (algo.get_output(candidate + 1).get_mask() == full).all()
        assert len(algo.get_output(candidate + 1).get_class_names()) == 2
        algo.save_coco(str(tmp_path / "masks.json"), candidate=candidate)
        (annotation,) = json.loads((tmp_path / "masks.json").read_text())["annotations"]
        assert annotation["bbox"] == ([0, 0, 130, 90] if full else [0, 0, 0, 0])
        assert annotation["area"] == full * 130 * 90
        algo.save_labels(str(tmp_path / "labels.png"), candidate=candidate)
        assert (np.array(Image.open(tmp_path / "labels.png")) == full).all()
    objects = algo.get_output(4).get_objects()
    assert [list(thing.box) for thing in objects] == [[0, 0, 130 * full, 90 * full]] * 3
    assert [int(thing.mask.astype(bool).sum()) for thing in objects] == [full * 130 * 90] * 3
    shown = algo.get_image_with_mask()
    assert (shown == image).all() != full
    for output in algo.get_outputs():
        assert str(output)
        output.to_json()


# ---------------------------------------------------------------- automatic mode


def assert_same_set(ours: Masks, theirs: list[dict]) -> None:
    assert len(ours) == len(theirs)
    for mask, score in zip(ours, ours.scores, strict=True):
        best = max(theirs, key=lambda t: oracle.iou(mask, t["segmentation"]))
        assert oracle.iou(mask, best["segmentation"]) >= 0.999
        assert any(score == pytest.approx(t["predicted_iou"], abs=1e-4) for t in theirs)


#: What is set beside ON_EXTREME_SHAPES, and where: sam2 itself fails at crops without a pixel.
ON_SHAPES = {
    "plain": ({}, SHAPES),
    "crops": ({"crop_n_layers": 1}, [hw for hw in SHAPES if min(hw) > 2]),
    "full masks": ({"mask_threshold": -1000.0, "box_nms_thresh": 1.0}, [(60, 80), (20, 8000), (3, 3), (700, 2)]),
    "empty masks": ({"mask_threshold": 1000.0}, [(60, 80), (1, 400)]),
}


@pytest.mark.parametrize(
    ("name", "height", "width"), [(name, *hw) for name, (_, shapes) in ON_SHAPES.items() for hw in shapes]
)
def test_automatic_mode_on_extreme_shapes_gives_the_masks_of_sam2(nano, oracle_model, name, height, width):
    more, _ = ON_SHAPES[name]
    image = photo(height, width)
    settings = ON_EXTREME_SHAPES | more
    theirs = oracle.mask_generator(oracle_model, **settings).generate(image)
    ours = nano.generate(image, AutomaticSettings(**settings))
    assert_same_set(ours, theirs)
    assert (len(ours) > 0) == (more.get("mask_threshold", 0) <= 0)
    if more.get("mask_threshold", 0) < 0:
        assert all(mask.all() for mask in ours)


def test_automatic_mode_on_a_part_of_the_size_is_sam2_there_stretched(nano, oracle_model):
    """Pixels take the nearest one's value; regions to remove are measured in the image's own pixels."""
    image = photo(151, 203)
    small = resize_percent(image, 37)
    settings = LOOSE | {"points_per_side": 8}
    theirs = oracle.mask_generator(oracle_model, **settings).generate(small)
    ours = nano.generate(image, AutomaticSettings(**settings), input_size_percent=37)
    assert len(ours) > 3
    stretched = [
        np.array(Image.fromarray(mask["segmentation"]).resize((203, 151), Image.Resampling.NEAREST)) for mask in theirs
    ]
    assert_same_set(ours, [m | {"segmentation": s} for m, s in zip(theirs, stretched, strict=True)])

    least = 600
    removed = nano.generate(image, AutomaticSettings(**settings, min_mask_region_area=least), input_size_percent=37)
    there = nano.generate(
        small, AutomaticSettings(**settings, min_mask_region_area=round(least * small.size / image.size))
    )
    assert [encode(m) for m in removed] != [encode(m) for m in ours]
    np.testing.assert_allclose(removed.scores, there.scores)


@pytest.fixture(scope="module")
def without_scores():
    """A model as after a training that diverged; weights that are not finite are refused, but finite ones can overflow."""
    model = oracle.nano_model()
    model.sam_mask_decoder.iou_prediction_head.layers[-1].bias.data[:] = np.nan
    return model


@pytest.mark.parametrize("use_m2m", [False, True])
@pytest.mark.parametrize("multimask_output", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_scores_that_are_no_numbers_are_above_no_threshold_as_in_sam2(
    without_scores, use_m2m, multimask_output, threshold
):
    settings = LOOSE | {"use_m2m": use_m2m, "multimask_output": multimask_output, "pred_iou_thresh": threshold}
    settings["points_per_side"] = 2
    image = photo(60, 80)
    theirs = oracle.mask_generator(without_scores, **settings).generate(image)
    ours = Segmenter(without_scores).generate(image, AutomaticSettings(**settings))
    assert len(ours) == len(theirs)
    assert (len(ours) > 0) == (threshold == 0)
    for mask in ours:
        assert max(oracle.iou(mask, t["segmentation"]) for t in theirs) >= 0.999


# ---------------------------------------------------------------- many masks


def many(count: int, hw: tuple[int, int]) -> Masks:
    """Masks of which each has a pixel of its own, in a random order of sizes and scores."""
    height, width = hw
    masks = np.zeros((count, height * width), bool)
    rng = np.random.default_rng(count)
    for k, length in enumerate(rng.integers(1, 9, count)):
        start = k * (height * width // count)
        masks[k, start : start + min(length, height * width // count)] = True
    scores = rng.permutation(np.linspace(0.1, 0.99, count)).astype(np.float32)
    return Masks(hw, [encode(m) for m in masks.reshape(count, height, width)], scores, scores / 2)


@pytest.mark.parametrize("count", [255, 256, 2000])
def test_however_many_masks_every_form_of_them_agrees(workflow, algo, monkeypatch, tmp_path, caplog, count):
    hw = (100, 180)
    made = many(count, hw)
    monkeypatch.setattr(Segmenter, "generate", lambda *args, **kwargs: made)
    algo.set_parameters({"instance_output": "True"})
    workflow.run_on(array=photo(*hw))
    labels, names = algo.get_output(1).get_mask(), algo.get_output(1).get_class_names()
    (kept,) = algo.get_masks()
    objects = algo.get_output(2).get_objects()
    algo.save_coco(str(tmp_path / "masks.json"))
    algo.save_labels(str(tmp_path / "labels.png"))
    of_all = np.array(Image.open(tmp_path / "labels.png"))
    coco = COCO(str(tmp_path / "masks.json"))
    annotations = [coco.anns[k + 1] for k in range(count)]

    painted = min(count, 255)
    assert len(names) == painted + 1
    assert np.unique(labels).tolist() == list(range(painted + 1))
    assert of_all.dtype == (np.uint8 if count <= 255 else np.uint16)
    assert np.unique(of_all).tolist() == list(range(count + 1))
    np.testing.assert_array_equal(labels, np.where(of_all <= painted, of_all, 0))
    assert len(kept) == len(objects) == count
    for k in [0, 1, painted - 1, *range(painted, count, 97), count - 1]:
        mask = kept[k]
        np.testing.assert_array_equal(of_all == k + 1, mask)  # they do not overlap
        np.testing.assert_array_equal(objects[k].mask.astype(bool), mask)
        np.testing.assert_array_equal(coco.annToMask(annotations[k]).astype(bool), mask)
        assert annotations[k]["score"] == pytest.approx(kept.scores[k])
        assert objects[k].confidence == pytest.approx(kept.scores[k])
        assert objects[k].label == f"mask {k + 1}"
        if k < painted:
            assert names[k + 1] == f"mask {k + 1} ({kept.scores[k]:.2f})"
    assert kept.scores[:painted].min() >= kept.scores[painted:].max(initial=0)
    assert (f"{count - 255} of the {count} are not painted" in caplog.text) == (count > 255)


def test_as_many_masks_as_16_bits_can_number_are_numbered(tmp_path):
    most = 2**16 - 1
    everywhere = encode(np.ones((1, 1), bool))
    save_labels(tmp_path / "labels.png", Masks((1, 1), [everywhere] * most, np.zeros(most, np.float32)))
    assert np.array(Image.open(tmp_path / "labels.png")).tolist() == [[most]]


def test_single_pixels_in_the_corners_of_a_long_image_stay_where_they_are(tmp_path):
    hw = (20, 8000)
    corners = [(0, 0), (0, 7999), (19, 0), (19, 7999)]
    masks = np.zeros((4, *hw), bool)
    for k, (y, x) in enumerate(corners):
        masks[k, y, x] = True
    compressed = Masks(hw, [encode(m) for m in masks], np.ones(4, np.float32))
    assert compressed.areas.tolist() == [1] * 4
    assert compressed.boxes_xyxy.tolist() == [[x, y, x + 1, y + 1] for y, x in corners]
    labels = label_image(compressed)
    assert [int(labels[place]) for place in corners] == [1, 2, 3, 4]
    assert int(labels.astype(int).sum()) == 10
    assert ranked(compressed).boxes_xyxy.tolist() == compressed.boxes_xyxy.tolist()


@pytest.mark.parametrize(
    ("score", "shown"), [(0.0, "0.00"), (0.00501, "0.01"), (0.994999, "0.99"), (0.995001, "1.00"), (-0.01, "-0.01")]
)
def test_scores_are_rounded_in_names(score, shown):
    masks = Masks((1, 1), [encode(np.ones((1, 1), bool))], np.array([score], np.float32))
    assert class_names(masks) == ["background", f"mask 1 ({shown})"]
