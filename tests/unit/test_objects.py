"""Objects: prompts that fit the image, which object a point belongs to, and what the decoder takes at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infer_segment_anything_2.segmentation.objects import Object, inside, kinds, points_along, stacked, typed_objects
from infer_segment_anything_2.segmentation.prompt_text import parse_labels, parse_points


def points(*rows) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 2)


def boxes(*rows) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def labels(*values) -> np.ndarray:
    return np.array(values, np.int32)


# --- prompts that fit the image


def test_a_scribble_that_waits_at_its_beginning_goes_on():
    """As of a mouse that is pressed, and moved only then."""
    still = np.array([[3, 4], [3, 4], [3, 11]], np.float32)
    np.testing.assert_array_equal(points_along(still), [[3, 4 + k] for k in range(8)])
    np.testing.assert_array_equal(points_along(still[::-1], 2), [[3, 11], [3, 4]])
    np.testing.assert_array_equal(points_along(still[:2]), [[3, 4]])


def test_without_labels_every_point_is_foreground():
    (thing,) = typed_objects(points([1, 2], [3, 4]), labels(), boxes(), (10, 10))
    assert thing.labels.tolist() == [1, 1]
    assert thing.labels.dtype == np.int32


def test_an_object_that_is_made_by_hand_takes_lists_and_labels_as_prompts_do():
    thing = Object([[1, 2], [3, 4]], box=[0, 0, 5, 5])
    assert thing.labels.tolist() == [1, 1]
    assert [thing.points.dtype, thing.labels.dtype, thing.box.dtype] == [np.float32, np.int32, np.float32]
    assert Object(points(*[[1, 2]] * 3), labels(0)).labels.tolist() == [0] * 3
    for given_labels in ([1, 0], [1, 1, 1, 1]):
        with pytest.raises(ValueError, match=rf"^labels: {len(given_labels)} label\(s\) for 3 point\(s\); accepted is"):
            Object(points(*[[1, 2]] * 3), given_labels)


@pytest.mark.parametrize("label", [0, 1])
def test_one_label_serves_all_points(label):
    (thing,) = typed_objects(points([1, 2], [3, 4], [5, 6]), labels(label), boxes(), (10, 10))
    assert thing.labels.tolist() == [label] * 3
    things = typed_objects([points([1, 2]), points([3, 4], [5, 6])], labels(label), boxes(), (10, 10))
    assert [t.labels.tolist() for t in things] == [[label], [label] * 2]


def test_labels_stay_with_their_points():
    for given_labels in (labels(0, 1), [labels(0, 1)]):
        (thing,) = typed_objects(points([1, 2], [3, 4]), given_labels, boxes(), (10, 10))
        assert thing.labels.tolist() == [0, 1]


def test_lists_of_lists_of_points_are_one_object_each_with_labels_alike():
    text = "[[[1, 2], [3, 4]], [[5, 6]]]"
    things = typed_objects(parse_points(text), parse_labels("[[1, 0], [1]]"), boxes(), (10, 10))
    assert [t.points.tolist() for t in things] == [[[1, 2], [3, 4]], [[5, 6]]]
    assert [t.labels.tolist() for t in things] == [[1, 0], [1]]
    assert [t.box for t in things] == [None, None]


def test_a_list_of_one_label_serves_its_object():
    things = typed_objects(parse_points("[[[1, 2], [3, 4]], [[5, 6]]]"), parse_labels("[[0], [1]]"), boxes(), (10, 10))
    assert [t.labels.tolist() for t in things] == [[0, 0], [1]]


def test_lists_of_lists_belong_to_boxes_by_their_order_also_where_a_point_lies_in_another_box():
    given_boxes = boxes([0, 0, 5, 5], [4, 4, 9, 9])
    things = typed_objects(parse_points("[[[8, 8]], []]"), labels(), given_boxes, (10, 10))
    assert [t.points.tolist() for t in things] == [[[8, 8]], []]
    np.testing.assert_array_equal([t.box for t in things], given_boxes)


@pytest.mark.parametrize(
    ("point_text", "label_text", "given_boxes", "said"),
    [
        ("[[[1, 2]], [[3, 4]]]", "[1, 0]", [], r"input_point_label: 2 labels for points of 2 object\(s\)"),
        ("[[[1, 2]], [[3, 4]]]", "[[1]]", [], r"input_point_label: labels of 1 object\(s\) for points of 2"),
        ("[[[1, 2]], [[3, 4]]]", "[[1], [1, 0]]", [], r"object 2: 2 label\(s\) for 1 point"),
        ("[[1, 2], [3, 4]]", "[[1], [0]]", [], "labels of 2 objects for points that are one object"),
        ("[[[1, 2]], []]", "", [], "input_point: object 2 has no points"),
        ("[[[1, 2]], [[3, 4]]]", "", [[0, 0, 5, 5]], r"points of 2 object\(s\) for 1 box"),
        ("[[[1, 2]], [[3, 40]]]", "", [], r"input_point: object 2, entry 1, \[3, 40\], is outside the image"),
    ],
)
def test_lists_of_lists_that_do_not_match_are_refused_with_both_counts(point_text, label_text, given_boxes, said):
    with pytest.raises(ValueError, match=said) as error:
        typed_objects(parse_points(point_text), parse_labels(label_text), boxes(*given_boxes), (10, 10))
    assert "accepted is" in str(error.value)


@pytest.mark.parametrize(("count", "given_labels"), [(3, (1, 0)), (1, (1, 0)), (2, (1, 1, 1)), (0, (1, 1)), (0, (1,))])
def test_label_counts_that_do_not_match_are_refused(count, given_labels):
    said = rf"^input_point_label: {len(given_labels)} label\(s\) for {count} point\(s\); accepted is"
    with pytest.raises(ValueError, match=said):
        typed_objects(points(*[[1, 1]] * count), labels(*given_labels), boxes([0, 0, 5, 5]), (10, 10))


@pytest.mark.parametrize("point", [[0, 0], [19, 9], [19.5, 9.9], [0, 9], [-0.0, 0]])
def test_points_up_to_the_edge_are_inside(point):
    (thing,) = typed_objects(points(point), labels(), boxes(), (10, 20))
    np.testing.assert_array_equal(thing.points, points(point))


@pytest.mark.parametrize("point", [[20, 5], [5, 10], [-1, 5], [5, -0.1], [15, 15], [math.nan, 5], [1e6, 1e6]])
def test_a_point_outside_the_image_is_named(point):
    said = r"^input_point: entry 2, \[.*\], is outside the image; accepted is x from 0 to below 20 and y from 0 to below 10"
    with pytest.raises(ValueError, match=said):
        typed_objects(points([1, 1], point), labels(), boxes(), (10, 20))


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        ([2, 3, 15, 9], [2, 3, 15, 9]),
        ([-5, -5, 50, 50], [0, 0, 20, 10]),
        ([15, 5, 25, 8], [15, 5, 20, 8]),
        ([0, 0, 20, 10], [0, 0, 20, 10]),
        ([19.5, 9.5, 30, 30], [19.5, 9.5, 20, 10]),
    ],
)
def test_a_box_that_sticks_out_is_clipped(box, clipped):
    (thing,) = typed_objects(points(), labels(), boxes(box), (10, 20))
    assert thing.box.dtype == np.float32
    np.testing.assert_array_equal(thing.box, clipped)


@pytest.mark.parametrize(
    "box", [[20, 0, 30, 5], [0, 10, 5, 20], [-9, 0, 0, 5], [0, -9, 5, -1], [50, 50, 60, 60], [math.nan, 0, 5, 5]]
)
def test_a_box_wholly_outside_the_image_is_named(box):
    said = r"^input_box: entry 2, \[.*\], is outside the image, which is 20 pixels wide and 10 high; accepted is"
    with pytest.raises(ValueError, match=said):
        typed_objects(points(), labels(), boxes([1, 1, 2, 2], box), (10, 20))


def test_the_given_arrays_are_left_alone():
    box = boxes([-5, -5, 50, 50])
    typed_objects(points(), labels(), box, (10, 20))
    assert box.tolist() == [[-5, -5, 50, 50]]


def test_where_nothing_is_pointed_at_there_are_no_objects():
    assert typed_objects(points(), labels(), boxes(), (10, 10)) == []


# --- which object a point belongs to


def naive_owner(point, all_boxes) -> int:
    """Smallest box that contains the point, else the nearest; among equals the smaller, then the earlier."""
    x, y = point

    def distance(box) -> float:
        return math.hypot(max(box[0] - x, 0, x - box[2]), max(box[1] - y, 0, y - box[3]))

    def area(box) -> float:
        return (box[2] - box[0]) * (box[3] - box[1])

    inside = [k for k, box in enumerate(all_boxes) if box[0] <= x <= box[2] and box[1] <= y <= box[3]]
    if inside:
        return min(inside, key=lambda k: (area(all_boxes[k]), k))
    return min(range(len(all_boxes)), key=lambda k: (distance(all_boxes[k]), area(all_boxes[k]), k))


pixel = st.integers(0, 30)
box_rows = st.tuples(pixel, pixel, st.integers(1, 20), st.integers(1, 20)).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)
labelled_points = st.lists(st.tuples(pixel, pixel, st.integers(0, 1)), max_size=8)


@st.composite
def any_prompts(draw, min_boxes=0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = draw(labelled_points)
    return (
        points(*[row[:2] for row in rows]),
        labels(*[row[2] for row in rows]),
        boxes(*draw(st.lists(box_rows, min_size=min_boxes, max_size=6))),
    )


@settings(max_examples=200, deadline=None)
@given(any_prompts(min_boxes=2))
def test_a_point_belongs_to_the_smallest_box_around_it_else_to_the_nearest(prompt):
    all_points, all_labels, all_boxes = prompt
    owner = np.array([naive_owner(point, all_boxes.tolist()) for point in all_points.tolist()], np.int64)
    things = typed_objects(all_points, all_labels, all_boxes, (60, 60))
    for k, (thing, box) in enumerate(zip(things, all_boxes, strict=True)):
        np.testing.assert_array_equal(thing.box, box)
        np.testing.assert_array_equal(thing.points, all_points[owner == k])
        np.testing.assert_array_equal(thing.labels, all_labels[owner == k] if len(all_points) else [])


def test_a_little_smaller_box_is_smaller_also_among_large_ones():
    large = boxes([0, 0, 40000.0, 40000.0], [0, 0, 40000.0, 39999.99])
    things = typed_objects(points([5, 5]), labels(1), large, (40000, 40000))
    assert [len(thing.points) for thing in things] == [0, 1]


@pytest.mark.parametrize("box", [[], [[0, 0, 5, 5]]], ids=["no box", "one box"])
def test_without_several_boxes_all_points_describe_one_object(box):
    (thing,) = typed_objects(points([1, 1], [20, 20]), labels(1, 0), boxes(*box), (60, 60))
    np.testing.assert_array_equal(thing.points, [[1, 1], [20, 20]])
    np.testing.assert_array_equal(thing.labels, [1, 0])
    assert (thing.box is None) == (not box)


# --- grouped for the decoder


@settings(max_examples=200, deadline=None)
@given(any_prompts())
def test_batches_hold_every_object_once_with_its_points_in_order_and_one_kind_in_each(prompt):
    things = typed_objects(*prompt, (60, 60))
    places = kinds(things)
    assert sorted(k for of_kind in places for k in of_kind) == list(range(len(things)))
    found = [stacked([things[k] for k in of_kind]) for of_kind in places]
    sizes = [0 if batch.point_coords is None else batch.point_coords.shape[1] for batch in found]
    assert len(set(sizes)) == len(sizes)
    for of_kind, batch in zip(places, found, strict=True):
        for place, k in enumerate(of_kind):
            assert (batch.boxes is None) == (things[k].box is None)
            assert (batch.point_coords is None) == (batch.point_labels is None) == (len(things[k].points) == 0)
            if batch.boxes is not None:
                np.testing.assert_array_equal(batch.boxes[place], things[k].box)
            if batch.point_coords is not None:
                np.testing.assert_array_equal(batch.point_coords[place], things[k].points)
                np.testing.assert_array_equal(batch.point_labels[place], things[k].labels)


def test_objects_with_and_without_a_box_are_never_in_one_batch():
    things = [Object(points([1, 1]), labels(1)), Object(points([2, 2]), labels(1), boxes([0, 0, 5, 5])[0])]
    assert kinds(things) == [[0], [1]]


def test_the_corners_of_an_objects_box_are_put_right():
    np.testing.assert_array_equal(Object(box=[300, 200, 150, 20]).box, [150, 20, 300, 200])


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"points": [[np.nan, 5]]}, r"points: \[nan, 5\]: accepted are finite"),
        ({"box": [0, 0, np.inf, 5]}, r"box: \[0, 0, inf, 5\]: accepted are finite"),
        ({"points": [[1, 2]], "labels": [7]}, r"labels: \[7\]: accepted are 1, on the object, and 0"),
        ({"points": [[1, 2]], "labels": [0.7]}, r"labels: \[0.7\]: accepted are 1, on the object, and 0"),
        ({"points": [[1, 2, 1], [3, 4, 0]]}, r"points: their shape is \(2, 3\); accepted is \(P, 2\)"),
    ],
)
def test_an_object_of_what_is_no_prompt_is_refused(what, said):
    with pytest.raises(ValueError, match=said):
        Object(**what)


def test_what_lies_outside_the_image_is_refused_by_the_objects_place_and_a_box_is_cut():
    with pytest.raises(ValueError, match=r"object 2: point 1, \[50, 9\], is outside the image"):
        inside([Object(), Object(points=[[50, 9]])], (20, 40))
    with pytest.raises(ValueError, match=r"object 1: its box, \[50, 0, 60, 9\], is outside the image"):
        inside([Object(box=[50, 0, 60, 9])], (20, 40))
    with pytest.raises(ValueError, match=r"object 1: its box, \[9, 0, 9, 5\], has no area"):
        inside([Object(box=[9, 0, 9, 5])], (20, 40))
    (thing,) = inside([Object(box=[-5, 3, 60, 9])], (20, 40))
    np.testing.assert_array_equal(thing.box, [0, 3, 40, 9])
