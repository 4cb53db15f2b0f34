"""Parameters become what a run asks of a model, in one place."""

from __future__ import annotations

import re

import numpy as np
import pytest

from infer_segment_anything_2.segmentation.objects import Object
from infer_segment_anything_2.segmentation.parameters import Parameters, update
from infer_segment_anything_2.segmentation.request import doubts_about, make_request, objects_of, ways_to_more

HW = (40, 50)
BOX = Object(box=np.array([1, 2, 30, 20], np.float32))


def parameters(**values) -> Parameters:
    return update(Parameters(cuda=False), values)


def test_objects_that_are_pointed_at_need_no_search():
    chosen = parameters(multimask_output="True", mask_threshold="0.5", input_size_percent="50")
    request = make_request(chosen, [BOX], HW)
    assert request.search is None
    assert request.objects == [BOX]
    assert (request.multimask_output, request.mask_threshold, request.input_size_percent) == (True, 0.5, 50)


def test_without_objects_every_parameter_of_a_search_reaches_it():
    values = {
        "points_per_side": 7,
        "points_per_batch": 5,
        "stability_score_thresh": 0.11,
        "stability_score_offset": 0.12,
        "mask_threshold": 0.13,
        "box_nms_thresh": 0.14,
        "crop_n_layers": 2,
        "crop_nms_thresh": 0.15,
        "crop_overlap_ratio": 0.16,
        "crop_n_points_downscale_factor": 3,
        "min_mask_region_area": 17,
        "min_mask_area": 18,
        "max_mask_area": 19,
        "use_m2m": False,
        "multimask_output": True,
    }
    search = make_request(parameters(iou_thresh=0.18, **values), None, HW).search
    assert search is not None
    assert {name: getattr(search, name) for name in values} == values
    assert search.pred_iou_thresh == 0.18
    assert search.point_grids is None
    grids = make_request(parameters(points_per_side="None", point_grids="[[0.5, 0.25]]"), None, HW).search
    assert grids is not None
    assert [grid.tolist() for grid in grids.point_grids or []] == [[[0.5, 0.25]]]


@pytest.mark.parametrize(
    ("values", "doubts"),
    [
        ({"input_point": "[0.5, 0.25]"}, [r"input_point: the coordinates '\[0.5, 0.25\]' look like fractions"]),
        ({"input_point": "[[[0, 0.5]], [[1, 1]]]"}, ["input_point: .* look like fractions"]),
        ({"input_box": "[0, 0, 0.5, 1]"}, ["input_box: .* look like fractions"]),
        ({"input_box": "[0, 0, 0.5, 1]", "input_point": "[0.5, 0]"}, ["input_point: .*", "input_box: .*"]),
        ({"input_box": "[30, 20, 10, 8]"}, [r"input_box: entry 1, \[30, 20, 10, 8\], .* x, y, width, height"]),
        ({"input_box": "[[1, 2, 3, 4], [30, 20, 10, 8]]"}, [r"input_box: entry 2, \[30, 20, 10, 8\], "]),
        ({"input_point": "[[0.5, 0.25], [7, 7]]"}, []),
        ({"input_point": "[0, 1]", "input_box": "[0, 0, 1, 1]"}, []),
        ({"input_point": "[1.5, 0.5]"}, []),
        ({"input_box": "[30, 2, 10, 20]"}, []),
        ({}, []),
        ({"input_point": "[]"}, []),
    ],
)
def test_what_is_probably_a_mistake_in_typed_prompts_is_told(values, doubts):
    found = doubts_about(parameters(**values), HW)
    assert len(found) == len(doubts)
    for sentence, pattern in zip(found, doubts, strict=True):
        assert re.match(pattern, sentence), sentence


@pytest.mark.parametrize(("image_hw", "told"), [((1, 1), 0), ((1, 2), 0), ((2, 1), 0), ((1, 3), 1), ((2, 2), 1)])
def test_within_two_pixels_fractions_are_no_mistake(image_hw, told):
    assert len(doubts_about(parameters(input_point="[0.5, 0.5]"), image_hw)) == told


def test_thresholds_that_float32_does_not_hold_and_areas_beyond_the_image_are_cut():
    chosen = parameters(mask_threshold="1e300", stability_score_offset="1e300", min_mask_region_area="9" * 30)
    search = make_request(chosen, None, HW).search
    assert search is not None
    assert np.isfinite(np.float32(search.mask_threshold + search.stability_score_offset))
    assert search.min_mask_region_area == 40 * 50 + 1
    assert np.isfinite(np.float32(make_request(chosen, [BOX], HW).mask_threshold))


def test_a_search_that_would_not_end_is_refused_and_prompts_are_not():
    chosen = parameters(points_per_side="32", crop_n_layers="9")
    with pytest.raises(ValueError, match=r"^points_per_side: 32 with crop_n_layers: 9 makes more than 1000000 points"):
        make_request(chosen, None, HW)
    assert make_request(chosen, [BOX], HW).objects == [BOX]


def test_labels_without_any_point_are_refused_also_where_nothing_is_drawn():
    with pytest.raises(ValueError, match=r"^input_point_label: 1 label\(s\) for 0 point\(s\)"):
        make_request(parameters(input_point_label="1"), None, HW)


def test_what_is_typed_becomes_the_objects_of_an_image():
    chosen = parameters(input_box="[[1, 2, 30, 20], [20, 20, 90, 90]]", input_point="[25, 30]", input_point_label="0")
    first, second = objects_of(chosen, HW)
    assert (len(first.points), second.points.tolist(), second.labels.tolist()) == (0, [[25, 30]], [0])
    assert second.box is not None
    assert second.box.tolist() == [20, 20, 50, 40]  # clipped
    assert objects_of(parameters(), HW) is None
    assert objects_of(parameters(input_point_label="1"), HW) is None  # of drawn points, perhaps


def test_an_empty_list_is_no_object_and_no_search_unless_another_prompt_holds_one():
    for values in ({"input_box": "[]"}, {"input_point": " [ ] "}, {"input_box": "()", "input_point": "None"}):
        assert objects_of(parameters(**values), HW) == []
        assert make_request(parameters(**values), [], HW).search is None
    for unset in ("", "None", "null"):
        assert objects_of(parameters(input_box=unset, input_point=unset), HW) is None
    (thing,) = objects_of(parameters(input_box="[]", input_point="[1, 2]"), HW) or []
    assert thing.points.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "lower iou_thresh (0.8) or stability_score_thresh (0.95), or raise points_per_side"),
        (
            {"min_mask_area": 7},
            "lower iou_thresh (0.8), stability_score_thresh (0.95) or min_mask_area (7), or raise points_per_side",
        ),
        (
            {"iou_thresh": 0, "stability_score_thresh": 0, "min_mask_area": 7, "max_mask_area": 90},
            "lower min_mask_area (7), or raise max_mask_area (90) or points_per_side",
        ),
        (
            {"stability_score_offset": 5, "mask_threshold": 2.5, "iou_thresh": 0},
            "lower stability_score_thresh (0.95), stability_score_offset (5.0) or mask_threshold (2.5), "
            "or raise points_per_side",
        ),
        ({"iou_thresh": 0, "stability_score_thresh": 0, "stability_score_offset": 5}, "raise points_per_side"),
        (
            {"points_per_side": "None", "point_grids": "[[0.5, 0.5]]", "stability_score_thresh": 0},
            "lower iou_thresh (0.8), or raise the number of points in point_grids",
        ),
    ],
)
def test_a_search_that_finds_nothing_is_told_every_threshold_that_can_be_the_cause_and_no_other(values, expected):
    assert ways_to_more(parameters(**values)) == expected
