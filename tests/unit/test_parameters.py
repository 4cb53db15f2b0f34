"""The parameters are those of the contract: names, types, defaults, what is accepted and what is refused, and why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from infer_segment_anything_2.bridge.wire import ALIASES, to_text
from infer_segment_anything_2.bridge.wire import from_text as update
from infer_segment_anything_2.segmentation import parameters as declared
from infer_segment_anything_2.segmentation import prompt_text
from infer_segment_anything_2.segmentation.checkpoints import MODEL_NAMES
from infer_segment_anything_2.segmentation.parameters import DECLARATION, JsonText, Limits, Parameters
from infer_segment_anything_2.segmentation.request import objects_of

# The table of the contract: name, type, default, accepted values (both ends of a range), refused values.
FRACTION = (["0", "1", "0.5", "1e-9"], ["-0.0001", "1.0001", "nan", "inf", "-inf", "1e400", "half", ""])
BOOL = (["True", "False"], ["2", "", "None", "maybe", "1.5"])
NO = ["nan", "inf", "1e400", "1.5", "True", "many", ""]
GRID = {"points_per_side": "None"}
TABLE = [
    ("model_name", "str", "sam2_hiera_small", MODEL_NAMES, ["sam2", "", "sam2_hiera_small.pt", "None"]),
    ("model_weight_file", "str", "", ["", "/a/fine tuned.pt"], []),
    ("config_file", "str", "", ["", "C:\\models\\my.yaml"], []),
    ("cuda", "bool", None, *BOOL),
    ("apply_postprocessing", "bool", True, *BOOL),
    ("input_size_percent", "int", 100, ["1", "100"], ["0", "101", "-5", *NO]),
    (
        "intensity_range",
        "JSON",
        "",
        ["", "[0, 4095]", "(-1.5, 1e30)"],
        ["[1]", "x", "1", "[5, 5]", "[2, 1]", "[0, 1, 2]"],
    ),
    (
        "input_box",
        "JSON",
        "",
        ["", "[1, 2, 3, 4]", "[[1, 2, 3, 4], [5, 6, 7, 8]]"],
        ["[1, 2, 3]", "x", "1", "[1, 2, 1, 4]"],
    ),
    ("input_point", "JSON", "", ["", "[1, 2]", "[[1, 2], [3, 4]]"], ["[1]", "x", "1", "[NaN, 1]"]),
    ("input_point_label", "JSON", "", ["", "1", "0", "[1, 0]"], ["2", "-1", "[1, 2]", "x", "0.5"]),
    ("multimask_output", "bool", False, *BOOL),
    ("track", "bool", False, *BOOL),
    ("mask_id", "str", "all", ["all", "best", "1", "2", "3"], ["0", "4", "first", "1.0", ""]),
    ("live", "bool", True, *BOOL),
    ("points_per_side", "int or None", 32, ["1", "1000"], ["0", "-1", *NO[:-1]]),
    (
        "point_grids",
        "JSON",
        "",
        ["[[0, 0], [1, 1]]", "[[[0, 0]], [[1, 1]]]"],
        ["[[0, 1.01]]", "[[-0.01, 0]]", "x", "[0, 0]"],
    ),
    ("points_per_batch", "int", 64, ["1", "100000"], ["0", "-1", *NO]),
    ("iou_thresh", "float", 0.8, *FRACTION),
    ("iou_thres", "float", 0.8, *FRACTION),
    ("stability_score_thresh", "float", 0.95, *FRACTION),
    ("stability_score_offset", "float", 1.0, ["0", "1e6"], ["-0.0001", "nan", "inf", "1e400", "x"]),
    ("mask_threshold", "float", 0.0, ["-1e300", "0", "1e300"], ["nan", "inf", "-inf", "1e400", "-1e400", "x"]),
    ("box_nms_thresh", "float", 0.7, *FRACTION),
    ("crop_nms_thresh", "float", 0.7, *FRACTION),
    ("crop_n_layers", "int", 0, ["0", "5"], ["-1", *NO]),
    ("crop_overlap_ratio", "float", 512 / 1500, ["0", "0.999999"], ["-0.0001", "1", "1.5", "nan", "inf", "x"]),
    ("crop_n_points_downscale_factor", "int", 1, ["1", "8"], ["0", "-1", *NO]),
    ("min_mask_region_area", "int", 0, ["0", "1000000"], ["-1", *NO]),
    ("min_mask_area", "int", 0, ["0", "1000000"], ["-1", *NO]),
    ("max_mask_area", "int", 0, ["0", "1000000"], ["-1", *NO]),
    ("use_m2m", "bool", True, *BOOL),
    ("instance_output", "bool", False, *BOOL),
]
ACCEPTED = [(name, value) for name, _, _, values, _ in TABLE for value in values]
REFUSED = [(name, value) for name, _, _, _, values in TABLE for value in values]
PYTHON_TYPES = {"str": str, "JSON": JsonText, "bool": bool, "int": int, "float": float, "int or None": int}


def parameter_of(name: str) -> str:
    return ALIASES.get(name, name)


@pytest.fixture
def defaults() -> Parameters:
    return Parameters(cuda=False)


# --- the table


def test_the_parameters_are_those_of_the_contract_and_no_others(defaults):
    names = {name for name, *_ in TABLE}
    assert set(to_text(defaults)) == names
    assert set(DECLARATION) == names - {"iou_thres"}


@pytest.mark.parametrize(("name", "kind", "default"), [row[:3] for row in TABLE], ids=[row[0] for row in TABLE])
def test_type_and_default_are_those_of_the_contract(name, kind, default):
    if name == "cuda":
        import torch

        default = torch.cuda.is_available()
    value = getattr(Parameters(), parameter_of(name))
    assert value == default
    assert type(value) is PYTHON_TYPES[kind]
    assert declared.type_name(parameter_of(name)) == kind
    assert to_text(Parameters())[name] == str(default)


@pytest.mark.parametrize(("name", "text"), ACCEPTED)
def test_accepted_values_are_taken_both_ends_of_a_range_included(defaults, name, text):
    also = GRID if name == "point_grids" else {}
    value = getattr(update(defaults, {name: text} | also), parameter_of(name))
    kind = PYTHON_TYPES[declared.type_name(parameter_of(name))]
    assert value == (text == "True" if kind is bool else kind(text))
    assert type(value) is kind


@pytest.mark.parametrize(("name", "text"), REFUSED)
def test_a_refused_value_is_named_with_its_parameter_and_what_is_accepted(defaults, name, text):
    before = defaults.model_dump()
    also = GRID if name == "point_grids" else {}
    with pytest.raises(ValueError) as error:
        update(defaults, {"use_m2m": "False", name: text} | also)
    message = str(error.value)
    assert message.startswith(f"{name}: ")
    assert text in message or message.startswith(f"{name}: entry") or "layer" in message
    assert declared.accepted(parameter_of(name)) in message
    assert defaults.model_dump() == before


def test_every_fault_of_one_call_is_told_at_once(defaults):
    with pytest.raises(ValueError) as error:
        update(defaults, {"iou_thresh": "2", "use_m2m": "perhaps", "input_point": "[1"})
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == ["input_point", "iou_thresh", "use_m2m"]


def test_a_long_value_does_not_flood_the_message(defaults):
    with pytest.raises(ValueError) as error:
        update(defaults, {"points_per_side": "x" * 100_000, "input_box": "[" * 100_000})
    assert len(str(error.value)) < 1000


def test_an_unknown_name_is_refused_and_the_known_ones_are_listed(defaults):
    with pytest.raises(ValueError, match=r"iou_treshold: there is no such parameter.*model_name.*iou_thresh"):
        update(defaults, {"iou_treshold": "0.5"})


def test_parameters_cannot_be_changed_in_place(defaults):
    with pytest.raises(ValidationError):
        defaults.use_m2m = False


# --- spellings


@pytest.mark.parametrize("text", ["True", "true", "TRUE", "1", "yes", "Yes", "on", "y", " True ", "True\n", True, 1])
def test_yes_in_any_usual_spelling(defaults, text):
    assert update(defaults, {"instance_output": text}).instance_output is True


@pytest.mark.parametrize(
    "text", ["False", "false", "FALSE", "0", "no", "No", "off", "n", " False ", "False\n", False, 0]
)
def test_no_in_any_usual_spelling(defaults, text):
    assert update(defaults, {"use_m2m": text}).use_m2m is False


@pytest.mark.parametrize(("text", "value"), [("32", 32), (" 32 ", 32), ("32.0", 32), (7, 7)])
def test_whole_numbers_may_be_padded_or_written_as_floats(defaults, text, value):
    assert update(defaults, {"points_per_side": text}).points_per_side == value


@pytest.mark.parametrize(("value", "kept"), [(2, "2"), ("Best", "best"), (" ALL ", "all")])
def test_mask_id_may_be_a_number_and_is_read_in_any_case(defaults, value, kept):
    assert update(defaults, {"mask_id": value}).mask_id == kept


@pytest.mark.parametrize("none", ["None", "none", " None ", "", None])
def test_points_per_side_is_none_together_with_point_grids(defaults, none):
    changed = update(defaults, {"points_per_side": none, "point_grids": "[[0.5, 0.5]]"})
    assert changed.points_per_side is None
    assert to_text(changed)["points_per_side"] == "None"


@pytest.mark.parametrize(
    "values",
    [
        {"points_per_side": "None"},
        {"points_per_side": "None", "point_grids": "[ ]"},
        {"point_grids": "[[0.5, 0.5]]"},
        {"points_per_side": "8", "point_grids": "[[0.5, 0.5]]"},
    ],
)
def test_points_per_side_and_point_grids_exclude_each_other(defaults, values):
    with pytest.raises(
        ValueError, match=r"^points_per_side: .*point_grids: .*accepted is .*None together with point_grids"
    ):
        update(defaults, values)


def test_a_smallest_area_above_the_largest_is_refused_with_both_and_nothing_is_changed(defaults):
    before = update(defaults, {"min_mask_area": "100", "max_mask_area": "200"})
    expected = (
        "min_mask_area: 201 is not accepted with max_mask_area: 200; accepted is a smallest area up to the largest, or 0 for "
        "no limit: set both in one call."
    )
    with pytest.raises(ValueError) as refused:
        update(before, {"min_mask_area": "201"})
    assert str(refused.value) == expected
    assert declared.faults({"min_mask_area": "201", "max_mask_area": "200"}) == {"min_mask_area": expected}
    assert update(before, {"min_mask_area": "200"}).min_mask_area == 200
    assert update(before, {"min_mask_area": "201", "max_mask_area": "0"}).min_mask_area == 201


def test_point_grids_are_left_again_for_points_per_side(defaults):
    with_grids = update(defaults, {"points_per_side": "None", "point_grids": "[[0.5, 0.5]]"})
    assert update(with_grids, {"points_per_side": "32", "point_grids": ""}) == defaults


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("input_point", [[1, 2.5]], "[[1, 2.5]]"),
        ("input_box", (1, 2, 3, 4), "(1, 2, 3, 4)"),
        ("input_point_label", 1, "1"),
    ],
)
def test_a_prompt_that_is_not_text_counts_as_its_text(defaults, name, value, text):
    assert getattr(update(defaults, {name: value}), name) == text


def test_an_array_is_refused_as_its_text_is(defaults):
    with pytest.raises(ValueError, match=r"^input_point: .*pass \.tolist\(\)"):
        update(defaults, {"input_point": np.array([[1, 2], [3, 4]])})


# --- parsed once


def test_text_is_parsed_when_it_is_set_and_not_again(defaults, monkeypatch):
    new = update(defaults, to_text(defaults) | {"input_point": "[[1, 2]]", "input_box": "[0, 0, 5, 5]"})
    monkeypatch.setattr(prompt_text, "_load_json", None)  # whoever parses fails
    assert update(new, to_text(new) | {"iou_thresh": "0.3"}).input_point.value.tolist() == [[1, 2]]
    (thing,) = objects_of(new, (10, 10))
    assert thing.box.tolist() == [0, 0, 5, 5]


# --- text and back

numbers = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)
coordinates = st.floats(-1e6, 1e6, allow_subnormal=False) | st.integers(-5000, 5000)
VALUES = {
    "model_name": st.sampled_from(MODEL_NAMES),
    "model_weight_file": st.text(st.characters(exclude_categories=["Cs"])),
    "config_file": st.sampled_from(["", "configs/sam2/sam2_hiera_t.yaml", "/a b/ü.yaml"]),
    "input_size_percent": st.integers(1, 100),
    "intensity_range": st.tuples(coordinates, st.floats(1e7, 1e300)).map(str),
    "input_point": st.lists(st.tuples(coordinates, coordinates)).map(str),
    "input_box": st.lists(st.tuples(coordinates, coordinates).map(lambda p: [p[0], p[1], p[0] + 7, p[1] + 7])).map(str),
    "input_point_label": st.lists(st.integers(0, 1)).map(str),
    "points_per_batch": st.integers(1),
    "stability_score_offset": numbers.map(abs),
    "mask_threshold": numbers,
    "crop_n_layers": st.integers(0),
    "crop_overlap_ratio": st.floats(0, 1, exclude_max=True, allow_subnormal=False),
    "crop_n_points_downscale_factor": st.integers(1),
    "min_mask_region_area": st.integers(0),
    "mask_id": st.sampled_from(["all", "best", "1", "2", "3"]),
    **dict.fromkeys(
        ["cuda", "apply_postprocessing", "multimask_output", "track", "live", "use_m2m", "instance_output"],
        st.booleans(),
    ),
    **dict.fromkeys(
        ["iou_thresh", "stability_score_thresh", "box_nms_thresh", "crop_nms_thresh"],
        st.floats(0, 1, allow_subnormal=False),
    ),
}
unit = st.floats(0, 1, allow_subnormal=False)
grids = st.lists(st.lists(st.tuples(unit, unit), min_size=1, max_size=3), min_size=1, max_size=3).map(str)
grid_choice = st.integers(1).map(lambda n: {"points_per_side": n}) | grids.map(
    lambda text: {"points_per_side": None, "point_grids": text}
)
area_choice = st.tuples(st.integers(0), st.integers(0)).map(
    lambda areas: {"min_mask_area": min(areas), "max_mask_area": max(areas)}
) | st.integers(0).map(lambda area: {"min_mask_area": area})
valid_parameters = st.builds(
    lambda values, grid, areas: Parameters(**values, **grid, **areas),
    st.fixed_dictionaries(VALUES),
    grid_choice,
    area_choice,
)


@settings(max_examples=100, deadline=None)
@given(valid_parameters)
def test_any_parameters_come_back_from_their_text(parameters):
    text = to_text(parameters)
    assert all(type(value) is str for value in text.values())
    assert update(Parameters(cuda=False), text) == parameters
    assert to_text(update(Parameters(cuda=False), text)) == text


@settings(max_examples=100, deadline=None)
@given(valid_parameters, valid_parameters)
def test_a_full_map_of_new_values_replaces_any_current_ones(current, new):
    assert update(current, {name: value for name, value in to_text(new).items() if name != "iou_thres"}) == new
    assert update(current, to_text(new)) == new
    assert update(current, to_text(current)) == current


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([name for name, *_ in TABLE]),
    st.text() | st.integers().map(str) | st.floats(allow_subnormal=False).map(str),
)
def test_any_text_for_any_parameter_is_taken_or_refused_by_name(name, text):
    before = Parameters(cuda=False)
    try:
        after = update(before, {name: text})
    except ValueError as error:
        message = str(error)
    else:
        message = f"{name} accepted is"
        assert update(before, to_text(after)) == after
    assert name in message
    assert "accepted is" in message
    assert before == Parameters(cuda=False)


# --- what the Studio panel and the README ask


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("input_size_percent", Limits(1, 100, False)),
        ("points_per_side", Limits(1, None, False)),
        ("points_per_batch", Limits(1, None, False)),
        ("iou_thresh", Limits(0, 1, False)),
        ("stability_score_thresh", Limits(0, 1, False)),
        ("stability_score_offset", Limits(0, None, False)),
        ("mask_threshold", Limits(None, None, False)),
        ("box_nms_thresh", Limits(0, 1, False)),
        ("crop_nms_thresh", Limits(0, 1, False)),
        ("crop_n_layers", Limits(0, None, False)),
        ("crop_overlap_ratio", Limits(0, 1, True)),
        ("crop_n_points_downscale_factor", Limits(1, None, False)),
        ("min_mask_region_area", Limits(0, None, False)),
        ("min_mask_area", Limits(0, None, False)),
        ("max_mask_area", Limits(0, None, False)),
        ("model_name", Limits(None, None, False)),
        ("cuda", Limits(None, None, False)),
    ],
)
def test_limits_are_those_of_the_contract(name, expected):
    assert declared.limits(name) == expected


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("input_size_percent", "a whole number from 1 to 100"),
        ("points_per_side", "a whole number, 1 or more, or None together with point_grids"),
        ("iou_thresh", "a number from 0 to 1"),
        ("stability_score_offset", "a number, 0 or more"),
        ("mask_threshold", "any finite number"),
        ("crop_overlap_ratio", "a number from 0 to below 1"),
        ("use_m2m", "True or False"),
        ("input_box", "[x0, y0, x1, y1] or a list of them, in pixels of the original image"),
    ],
)
def test_what_is_accepted_is_said_in_words(name, words):
    assert declared.accepted(name) == words


def test_the_models_that_are_accepted_are_named():
    assert all(name in declared.accepted("model_name") for name in MODEL_NAMES)
    assert len(MODEL_NAMES) == 9


@pytest.mark.parametrize("name", DECLARATION)
def test_every_parameter_has_a_label_a_help_text_a_group_and_words_for_what_it_accepts(name):
    field = DECLARATION[name]
    assert field.title
    assert field.description.endswith(".")
    groups = (declared.MODEL, declared.PROMPT, declared.AUTOMATIC, declared.ADVANCED, declared.OUTPUT)
    assert field.json_schema_extra["group"] in groups
    assert declared.accepted(name)


@pytest.mark.parametrize("module", ["parameters", "request", "checkpoints"])
def test_the_studio_panel_can_import_it_without_torch_ikomia_or_qt(module):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(declared.__file__).parents[2])!r})\n"
        f"import infer_segment_anything_2.segmentation.{module}\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'sam2', 'ikomia', 'PyQt5', 'PyQt6', 'hydra'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
