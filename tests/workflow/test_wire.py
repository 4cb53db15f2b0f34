"""Parameters as text: a parameter with two names, names that are misspelt, and what older plugins have saved."""

from __future__ import annotations

import pytest

from infer_segment_anything_2.bridge.wire import check_names, to_text
from infer_segment_anything_2.bridge.wire import from_text as update
from infer_segment_anything_2.segmentation.parameters import Parameters

# What the published plugin (hub version 1.1.0) writes into a workflow file.
PUBLISHED = {
    "model_name": "sam2_hiera_large",
    "apply_postprocessing": "False",
    "points_per_side": "32",
    "points_per_batch": "64",
    "stability_score_thresh": "0.95",
    "stability_score_offset": "1.0",
    "iou_thres": "0.8",
    "box_nms_thresh": "0.7",
    "mask_threshold": "0.0",
    "crop_n_layers": "0",
    "crop_nms_thresh": "0.7",
    "crop_overlap_ratio": "0.3413333333333333",
    "crop_n_points_downscale_factor": "1",
    "input_size_percent": "100",
    "input_point": "",
    "input_point_label": "",
    "input_box": "",
    "use_m2m": "False",
    "multimask_output": "True",
    "cuda": "False",
}


@pytest.fixture
def defaults() -> Parameters:
    return Parameters(cuda=False)


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ({"iou_thres": "0.5"}, 0.5),
        ({"iou_thresh": "0.5"}, 0.5),
        ({"iou_thres": "0.5", "iou_thresh": "0.5"}, 0.5),
        ({"iou_thres": "0.5", "iou_thresh": "0.50"}, 0.5),
        ({"use_m2m": "False"}, 0.8),
    ],
)
@pytest.mark.parametrize("full_map", [True, False], ids=["as Ikomia sends it", "alone"])
def test_whichever_name_differs_from_the_current_value_was_set(defaults, change, value, full_map):
    new = update(defaults, (to_text(defaults) if full_map else {}) | change)
    assert new.iou_thresh == value
    assert to_text(new)["iou_thres"] == to_text(new)["iou_thresh"] == str(value)


def test_a_value_set_by_one_name_can_be_set_back_by_the_other(defaults):
    by_alias = update(defaults, to_text(defaults) | {"iou_thres": "0.1"})
    by_name = update(by_alias, to_text(by_alias) | {"iou_thresh": "0.8"})
    assert by_name == defaults
    assert update(by_name, to_text(by_name) | {"iou_thres": "0.1"}) == by_alias


def test_of_two_names_with_different_values_the_parameters_own_counts(defaults):
    assert update(defaults, to_text(defaults) | {"iou_thres": "0.5", "iou_thresh": "0.6"}).iou_thresh == 0.6


@pytest.mark.parametrize(("name", "value"), [("iou_thres", "2"), ("iou_thresh", "-1")])
def test_a_refused_value_is_told_under_the_name_that_it_came_by(defaults, name, value):
    with pytest.raises(ValueError, match=rf"^{name}: '{value}' is not accepted; accepted is a number from 0 to 1\.$"):
        update(defaults, to_text(defaults) | {name: value})


def test_a_misspelt_name_is_refused_with_the_one_that_was_meant():
    check_names({"iou_thres": "0.5", "points_per_side": "8"})
    with pytest.raises(
        ValueError, match=r"^points_per_sid: there is no such parameter \(did you mean points_per_side\?\)"
    ):
        check_names({"points_per_sid": "8"})


def test_the_map_that_the_published_plugin_saved_loads(defaults):
    saved = PUBLISHED | {"iou_thres": "0.65", "input_point": "[[10, 20], [30, 40]]", "input_point_label": "[1, 0]"}
    for values in (saved, to_text(defaults) | saved):
        loaded = update(defaults, values)
        assert loaded.iou_thresh == 0.65
        assert (loaded.use_m2m, loaded.multimask_output, loaded.apply_postprocessing) == (False, True, False)
        assert {name: to_text(loaded)[name] for name in saved} == saved
