"""Prompts as text: the forms that are read, those that are refused and why."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infer_segment_anything_2.segmentation.prompt_text import (
    parse_boxes,
    parse_intensity_range,
    parse_labels,
    parse_point_grids,
    parse_points,
    swapped_boxes,
)

PARSERS = {
    "input_point": parse_points,
    "input_box": parse_boxes,
    "input_point_label": parse_labels,
    "point_grids": parse_point_grids,
    "intensity_range": parse_intensity_range,
}
EMPTY = ["", "  ", "[]", "[ ]", "()", "None", "null", " null\n"]


def points(*rows) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 2)


def boxes(*rows) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def labels(*values) -> np.ndarray:
    return np.array(values, np.int32)


# --- the forms that are read


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[10, 20]", [[10, 20]]),
        ("[[10, 20]]", [[10, 20]]),
        ("[[10, 20], [30.5, 4e1]]", [[10, 20], [30.5, 40]]),
        (" [ 10 ,\n 20 ] ", [[10, 20]]),
        ("[-3, 0.25]", [[-3, 0.25]]),
        (str((10, 20)), [[10, 20]]),
        (str([(10, 20), (30, 40)]), [[10, 20], [30, 40]]),
        (str(((10, 20),)), [[10, 20]]),
        (str(((10, 20), (30, 40))), [[10, 20], [30, 40]]),
        (str(np.array([[10, 20], [30, 40.5]]).tolist()), [[10, 20], [30, 40.5]]),
    ],
)
def test_points_flat_nested_or_as_tuples(text, expected):
    found = parse_points(text)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.float32(expected))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[10, 20, 30, 40]", [[10, 20, 30, 40]]),
        ("[[10, 20, 30, 40], [1, 2, 3, 4.5]]", [[10, 20, 30, 40], [1, 2, 3, 4.5]]),
        ("[30, 40, 10, 20]", [[10, 20, 30, 40]]),
        ("[30, 20, 10, 40]", [[10, 20, 30, 40]]),
        ("[10, 40, 30, 20]", [[10, 20, 30, 40]]),
        ("[[5, 6, 1, 2], [-10, 0, 10, 5000]]", [[1, 2, 5, 6], [-10, 0, 10, 5000]]),
        (str(((10, 20, 30, 40),)), [[10, 20, 30, 40]]),
    ],
)
def test_boxes_flat_nested_or_as_tuples_with_their_corners_put_right(text, expected):
    found = parse_boxes(text)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.float32(expected))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", [1]),
        ("0", [0]),
        ("[1]", [1]),
        ("[1, 0, 1]", [1, 0, 1]),
        ("(1, 0)", [1, 0]),
        (str((1,)), [1]),
        ("[1.0, 0.0]", [1, 0]),
    ],
)
def test_labels_alone_or_in_a_list(text, expected):
    found = parse_labels(text)
    assert found.dtype == np.int32
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[0.5, 0.25]]", [[[0.5, 0.25]]]),
        ("[[0, 0], [1, 1]]", [[[0, 0], [1, 1]]]),
        ("[[[0, 0], [1, 1]]]", [[[0, 0], [1, 1]]]),
        ("[[[0.1, 0.2]], [[0.3, 0.4], [0.5, 0.6]]]", [[[0.1, 0.2]], [[0.3, 0.4], [0.5, 0.6]]]),
        (str([((0.1, 0.2),), ((0.3, 0.4),)]), [[[0.1, 0.2]], [[0.3, 0.4]]]),
    ],
)
def test_point_grids_of_one_layer_or_several_in_double_precision(text, expected):
    found = parse_point_grids(text)
    assert [layer.tolist() for layer in found] == expected
    assert all(layer.dtype == np.float64 for layer in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[0, 4095]", (0, 4095)),
        ("(-40.5, 120)", (-40.5, 120)),
        ("[-1e308, 1e308]", (-1e308, 1e308)),
    ],
)
def test_a_range_of_any_two_values_in_order(text, expected):
    assert parse_intensity_range(text) == expected
    assert all(type(value) is float for value in parse_intensity_range(text))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", []),
        ("[10, 20, 30, 40]", []),
        ("[30, 20, 10, 40]", []),
        ("[200, 180, 100, 90]", [1]),
        ("[[10, 20, 30, 40], [200.5, 180, 100, 90], [30, 40, 10, 20]]", [2, 3]),
    ],
)
def test_boxes_of_which_both_corners_are_swapped_are_known_as_they_were_typed(text, numbers):
    found = swapped_boxes(text)
    assert list(found) == numbers
    assert all(str(int(box[2])) in text and box[0] > box[2] for box in found.values())


@pytest.mark.parametrize("text", EMPTY)
def test_nothing_in_any_spelling_is_no_prompt(text):
    assert parse_points(text).shape == (0, 2)
    assert parse_boxes(text).shape == (0, 4)
    assert parse_labels(text).shape == (0,)
    assert parse_point_grids(text) is None
    assert parse_intensity_range(text) is None
    assert (parse_points(text).dtype, parse_boxes(text).dtype, parse_labels(text).dtype) == ("f4", "f4", "i4")


# --- the forms that are refused

REFUSED = [
    # malformed
    ("input_point", "[10, 20", r"'\[10, 20' is not valid JSON"),
    ("input_point", "10, 20", "is not valid JSON"),
    ("input_point", "[10, 20,]", "is not valid JSON"),
    ("input_point", "[010, 20]", "is not valid JSON"),
    ("input_point", "array([10, 20])", "is not valid JSON"),
    ("input_point", "[[10 20]]", "is not valid JSON"),
    ("input_box", "left upper corner", "'left upper corner' is not valid JSON"),
    ("input_point_label", "[True]", "is not valid JSON"),
    ("input_point", "[" + "9" * 5000 + ", 1]", "is not valid JSON"),
    ("point_grids", "[[0.5, 0.5]", "is not valid JSON"),
    # not a list
    ("input_point", "7", "7 is not a list"),
    ("input_point", '"[1, 2]"', "is not a list"),
    ("input_point", '{"x": 1, "y": 2}', "is not a list"),
    ("input_box", "true", "True is not a list"),
    ("input_point", "NaN", "nan is not a list"),
    # wrong nesting and counts
    ("input_point", "[1]", r"entry 1, \[1\], does not hold 2 numbers"),
    ("input_point", "[1, 2, 3]", r"entry 1, \[1, 2, 3\], does not hold 2 numbers"),
    ("input_point", "[[1, 2], [3]]", r"entry 2, \[3\], does not hold 2 numbers"),
    ("input_point", "[[1, 2], 3]", r"entry 2, 3, does not hold 2 numbers"),
    ("input_point", "[1, [2, 3]]", r"entry 1, 1, does not hold 2 numbers"),
    ("input_point", "[[[1, 2]], [3, 4]]", r"object 2, \[3, 4\], is not a list of points"),
    ("input_point", "[[[1, 2]], 3]", r"object 2, 3, is not a list of points"),
    ("input_point", "[[[1, 2]], [[3]]]", r"object 2: entry 1, \[3\], does not hold 2 numbers"),
    ("input_point", "[[[[1, 2]]]]", r"object 1: entry 1, .* does not hold 2 numbers"),
    ("input_point_label", "[[]]", r"\[\[\]\] holds no label"),
    ("input_point_label", "[[1, 2]]", r"object 1: entry 2, 2, is neither 0 nor 1"),
    ("input_point", "[[]]", r"entry 1, \[\], does not hold 2 numbers"),
    ("input_box", "[1, 2, 3]", r"entry 1, \[1, 2, 3\], does not hold 4 numbers"),
    ("input_box", "[[1, 2, 3, 4], [1, 2, 3, 4, 5]]", r"entry 2, .* does not hold 4 numbers"),
    ("input_box", "[[1, 2], [3, 4]]", r"entry 1, \[1, 2\], does not hold 4 numbers"),
    # not numbers
    ("input_point", "[true, 1]", r"entry 1, True, does not hold 2 numbers"),
    ("input_point", "[[1, 2], [1, false]]", r"entry 2, \[1, False\], does not hold 2 numbers"),
    ("input_point", '["1", "2"]', r"entry 1, '1', does not hold 2 numbers"),
    ("input_box", "[[1, 2, 3, null]]", r"entry 1, \[1, 2, 3, None\], does not hold 4 numbers"),
    # not finite
    ("input_point", "[NaN, 1]", r"entry 1, \[nan, 1\], is not finite"),
    ("input_point", "[[1, 2], [1, Infinity]]", r"entry 2, \[1, inf\], is not finite"),
    ("input_point", "[1, -1e400]", r"entry 1, \[1, -inf\], is not finite"),
    ("input_box", "[0, 0, 10, -Infinity]", r"entry 1, .* is not finite"),
    ("input_box", "[0, 0, 10, 1" + "0" * 400 + "]", r"entry 1, .* is not finite or too large"),
    ("input_point", "[0, 1e39]", r"entry 1, \[0, 1e\+39\], is not finite or too large"),
    # boxes without area
    ("input_box", "[10, 20, 10, 40]", r"entry 1, \[10, 20, 10, 40\], has no area"),
    ("input_box", "[[1, 2, 3, 4], [1, 2.1, 3, 2.1]]", r"entry 2, \[1, 2\.1, 3, 2\.1\], has no area"),
    # labels
    ("input_point_label", "2", "entry 1, 2, is neither 0 nor 1"),
    ("input_point_label", "[1, -1]", "entry 2, -1, is neither 0 nor 1"),
    ("input_point_label", "[0.5]", "entry 1, 0.5, is neither 0 nor 1"),
    ("input_point_label", "[1, NaN]", "entry 2, nan, is neither 0 nor 1"),
    ("input_point_label", '["1"]', "entry 1, '1', is neither 0 nor 1"),
    ("input_point_label", "[true]", "entry 1, True, is neither 0 nor 1"),
    ("input_point_label", "[null]", "entry 1, None, is neither 0 nor 1"),
    ("input_point_label", "[[1], 0]", r"entry 1, \[1\], is neither 0 nor 1"),
    ("input_point_label", "{}", r"entry 1, \{\}, is neither 0 nor 1"),
    # grids
    ("point_grids", "0.5", "0.5 is not a list of lists of points"),
    ("point_grids", "[0.5, 0.5]", r"\[0.5, 0.5\] is not a list of lists of points"),
    ("point_grids", "[[]]", r"\[\[\]\] is not a list of lists of points"),
    ("point_grids", "[[[0.5, 0.5]], []]", "is not a list of lists of points"),
    ("point_grids", "[[0.5, 1.5]]", r"layer 1: entry 1, \[0.5, 1.5\], is outside 0 to 1"),
    ("point_grids", "[[[0, 0]], [[1, 1], [-0.1, 0]]]", r"layer 2: entry 2, \[-0.1, 0.0\], is outside 0 to 1"),
    ("point_grids", "[[[0, 0]], [[1, 1, 1]]]", r"layer 2: entry 1, \[1, 1, 1\], does not hold 2 numbers"),
    ("point_grids", "[[[0, NaN]]]", r"layer 1: entry 1, \[0, nan\], is not finite"),
    ("point_grids", "[[0.5, true]]", r"layer 1: entry 1, \[0.5, True\], does not hold 2 numbers"),
    # a range
    ("intensity_range", "4095", "4095 does not hold 2 numbers"),
    ("intensity_range", "[[0, 4095]]", r"\[\[0, 4095\]\] does not hold 2 numbers"),
    ("intensity_range", "[0, true]", r"\[0, True\] does not hold 2 numbers"),
    ("intensity_range", "[4095, 0]", r"\[4095, 0\] is not accepted"),
    ("intensity_range", "[7, 7]", r"\[7, 7\] is not accepted"),
    ("intensity_range", "[0, NaN]", r"\[0, nan\] is not accepted"),
    ("intensity_range", "[-Infinity, 0]", r"\[-inf, 0\] is not accepted"),
    ("intensity_range", "[0, 1" + "0" * 400 + "]", r"\[0, 1.*0\] is not accepted"),
]


@pytest.mark.parametrize(("name", "text", "reason"), REFUSED, ids=[f"{n}-{t[:30]}" for n, t, _ in REFUSED])
def test_what_is_wrong_is_refused_with_the_entry_the_reason_and_the_accepted_form(name, text, reason):
    with pytest.raises(ValueError, match=f"^{name}: .*{reason}") as error:
        PARSERS[name](text)
    assert "accepted is" in str(error.value)
    assert len(str(error.value)) < 400


ARRAYS = [
    np.array([60, 25]),
    np.array([[60.0, 25.5], [-1e-7, 3e9]]),
    np.arange(4000).reshape(-1, 2),
    [np.array([60, 25]), np.array([1, 2])],
    [np.float32(60), np.float32(25)],
    torch.tensor([60, 25]),
    torch.tensor([[0.5, 25.0]]),
]


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("value", ARRAYS, ids=[str(value)[:20] for value in ARRAYS])
def test_the_text_of_an_array_or_a_tensor_is_refused_with_what_to_pass_in_its_place(name, value):
    with pytest.raises(
        ValueError, match=rf"^{name}: .* is not valid JSON; .*; of an array or a tensor pass \.tolist\(\)\."
    ):
        PARSERS[name](str(value))


@pytest.mark.parametrize("text", ["[10, 20", "60 25", "left upper corner", "[10, 20] [30"])
def test_other_text_is_refused_without_that_hint(text):
    with pytest.raises(ValueError, match=r"is not valid JSON; accepted is .* in pixels of the original image\.$"):
        parse_points(text)


def test_numbers_and_lists_are_taken_up_to_their_limits():
    assert parse_points("[999999999, -999999999]").shape == (1, 2)
    for number in ("1000000000", "-1e9"):
        with pytest.raises(ValueError, match="is not finite or too large"):
            parse_points(f"[{number}, 1]")
    assert parse_points(f"[{'[1, 2], ' * 9_999}[1, 2]]").shape == (10_000, 2)
    assert sum(map(len, parse_points(f"[[[1, 2]], [{'[1, 2], ' * 9_998}[1, 2]]]"))) == 10_000
    for too_many in (f"[{'[1, 2], ' * 10_000}[1, 2]]", f"[[[1, 2]], [{'[1, 2], ' * 9_999}[1, 2]]]"):
        with pytest.raises(ValueError, match="10001 entries are too many"):
            parse_points(too_many)
    text = "[1, 2]"
    assert parse_points(text + " " * 2_000_000).shape == (1, 2)  # blanks around are no characters
    assert parse_points(text[:-1] + " " * (1_000_000 - len(text)) + "]").shape == (1, 2)
    with pytest.raises(ValueError, match="has 1000001 characters"):
        parse_points(text[:-1] + " " * (1_000_001 - len(text)) + "]")


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("template", ["[{}]", "[1, {}]", '{{"a": {}}}', "({})"])
def test_nesting_of_any_depth_is_refused_not_a_crash(name, template):
    opening, closing = template.format("|").split("|")
    for depth in [*range(4, 12), *range(900, 1010), 100_000]:
        with pytest.raises(ValueError, match=f"^{name}: "):
            PARSERS[name](opening * depth + "1" + closing * depth)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_subnormal=False)
    | st.sampled_from([0, 1, 0.5, 1e400, 10**30])
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)
number_lists = st.recursive(
    st.integers(-2, 600) | st.floats(allow_subnormal=False),
    lambda inner: st.lists(inner, min_size=1, max_size=5),
    max_leaves=20,
)
brackets = st.text("[](),.0123456789-+eENaInfity \n", max_size=40)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(list(PARSERS)),
    st.text() | brackets | (json_values | number_lists).map(json.dumps) | number_lists.map(str),
)
def test_any_text_gives_a_finite_value_or_an_error_that_names_the_parameter(name, text):
    try:
        found = PARSERS[name](text)
    except ValueError as error:
        message = str(error)
        found = []
    else:
        message = f"{name}: accepted is"
    assert message.startswith(f"{name}: ")
    assert "accepted is" in message
    assert len(message) < 1000
    assert all(np.isfinite(part).all() for part in (found if found is not None else []))


coordinate = st.floats(-1e6, 1e6, width=32, allow_subnormal=False) | st.integers(-5000, 5000)


@given(st.lists(st.tuples(coordinate, coordinate), max_size=5), st.sampled_from([json.dumps, str]))
@settings(max_examples=100, deadline=None)
def test_points_are_read_as_json_or_str_writes_them(rows, write):
    np.testing.assert_array_equal(parse_points(write(rows)), points(*rows))
    np.testing.assert_array_equal(parse_points(write(tuple(rows))), points(*rows))
