"""Prompts drawn on the image, as Studio hands them to the task: through input 1, as Ikomia's own graphics items."""

from __future__ import annotations

import json
import logging

import numpy as np
import oracle
import pytest
from ikomia import core, dataprocess

from infer_segment_anything_2.bridge.drawings import drawn_objects
from infer_segment_anything_2.bridge.inputs import graphics_objects

pytestmark = pytest.mark.qt

HW = (512, 512)
NONE = np.zeros(0, np.int32)


def point(x: float, y: float, category: str = ""):
    item = core.CGraphicsPoint(core.CPointF(x, y))
    if category:
        item.set_category(category)
    return item


def vertices(*xy: tuple[float, float]) -> list:
    return [core.CPointF(x, y) for x, y in xy]


def masks_of(algo) -> list[np.ndarray]:
    return [algo.get_output(k).get_mask().copy() for k in range(1, algo.get_output_count())]


def drawn(workflow, algo, image, items, **params) -> list[np.ndarray]:
    graphics = dataprocess.CGraphicsInput()
    graphics.set_items(items)
    algo.set_input(graphics, 1)
    algo.set_parameters({"input_point": "", "input_box": "", "input_point_label": ""} | params)
    workflow.run_on(array=image)
    return masks_of(algo)


def typed(workflow, algo, image, **params) -> list[np.ndarray]:
    algo.set_input(dataprocess.CGraphicsInput(), 1)
    algo.set_parameters(
        {name: value if isinstance(value, str) else json.dumps(value) for name, value in params.items()}
    )
    workflow.run_on(array=image)
    return masks_of(algo)


SAME = {
    "a point": ([(250, 100)], [], {"input_point": [250, 100]}),
    "points on and off": (
        [(250, 100), (150, 400, "Background")],
        [],
        {"input_point": [[250, 100], [150, 400]], "input_point_label": [1, 0]},
    ),
    "other words for off": (
        [(250, 100), (150, 400, "background"), (60, 400, "0")],
        [],
        {"input_point": [[250, 100], [150, 400], [60, 400]], "input_point_label": [1, 0, 0]},
    ),
    "a box": ([], [(150, 20, 150, 180)], {"input_box": [150, 20, 300, 200]}),
    "a box and a point off it": (
        [(220, 50, "Background")],
        [(150, 20, 150, 180)],
        {"input_box": [150, 20, 300, 200], "input_point": [220, 50], "input_point_label": 0},
    ),
    "two boxes and a point in one": (
        [(400, 430)],
        [(150, 20, 150, 180), (290, 340, 220, 170)],
        {"input_box": [[150, 20, 300, 200], [290, 340, 510, 510]], "input_point": [400, 430]},
    ),
    "a box that sticks out": ([], [(-40, 350, 240, 350)], {"input_box": [-40, 350, 200, 700]}),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_prompt_drawn_and_typed_gives_the_same_masks(workflow, algo, astronaut, name):
    points, rectangles, params = SAME[name]
    items = [point(*p) for p in points] + [core.CGraphicsRectangle(*r) for r in rectangles]
    algo.set_parameters({"multimask_output": "True"})
    ours = drawn(workflow, algo, astronaut, items)
    theirs = typed(workflow, algo, astronaut, **params)
    assert len(ours) == len(theirs) == 3
    assert any(m.any() for m in ours)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_drawn_boxes_and_points_give_the_masks_of_sam2(workflow, algo, astronaut):
    algo.set_parameters({"multimask_output": "True"})
    items = [core.CGraphicsRectangle(150, 20, 150, 180), point(220, 110), point(220, 50, "Background")]
    ours = drawn(workflow, algo, astronaut, items)
    predictor = oracle.predictor(oracle.nano_model())
    predictor.set_image(astronaut)
    theirs, _, _ = predictor.predict(
        box=np.array([150, 20, 300, 200]),
        point_coords=np.array([[220, 110], [220, 50]]),
        point_labels=np.array([1, 0]),
        multimask_output=True,
    )
    for label_image, mask in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(label_image, mask.astype(np.uint8))


def test_ellipses_and_polygons_are_the_boxes_around_them():
    items = [
        core.CGraphicsEllipse(10, 20, 30, 40),
        core.CGraphicsPolygon(vertices((100, 100), (150, 100), (150, 180))),
    ]
    boxes = [thing.box for thing in drawn_objects(items, NONE, HW)]
    # A polygon's bounding rectangle is one pixel more than its vertices span (ikomia 0.16.1).
    np.testing.assert_array_equal(boxes, [[10, 20, 40, 60], [100, 100, 151, 181]])


def test_a_scribble_is_points_along_it_with_one_label():
    line = core.CGraphicsPolyline(vertices((10, 10), (30, 10), (30, 60)))
    line.set_category("Background")
    (thing,) = drawn_objects([line, point(5, 6)], NONE, HW)
    assert len(thing.points) == 9
    np.testing.assert_array_equal(thing.labels, [0] * 8 + [1])
    np.testing.assert_allclose(thing.points[:3], [[10, 10], [20, 10], [30, 10]])
    np.testing.assert_allclose(thing.points[7:], [[30, 60], [5, 6]])


def test_a_scribble_without_length_is_a_point():
    (thing,) = drawn_objects([core.CGraphicsPolyline(vertices((10, 10), (10, 10)))], NONE, HW)
    np.testing.assert_array_equal(thing.points, [[10, 10]])


def test_given_labels_serve_drawn_points_in_drawing_order():
    items = [point(1, 1), core.CGraphicsPolyline(vertices((10, 10), (30, 10))), point(3, 3, "Background")]
    (thing,) = drawn_objects(items, np.array([0, 1, 1], np.int32), HW)
    np.testing.assert_array_equal(thing.labels, [0, *[1] * 8, 1])
    (thing,) = drawn_objects(items, np.array([0], np.int32), HW)
    np.testing.assert_array_equal(thing.labels, [0] * 10)
    with pytest.raises(ValueError, match=r"input_point_label: 2 label\(s\) for 3 point\(s\)"):
        drawn_objects(items, np.array([0, 1], np.int32), HW)


# --- objects by category


def rectangle(x: float, y: float, width: float, height: float, category: str = ""):
    item = core.CGraphicsRectangle(x, y, width, height)
    if category:
        item.set_category(category)
    return item


def told(objects) -> list[tuple]:
    """Objects as name, points with their labels, and box."""
    return [
        (
            thing.name,
            [(*xy, label) for xy, label in zip(thing.points.tolist(), thing.labels.tolist(), strict=True)],
            None if thing.box is None else thing.box.tolist(),
        )
        for thing in objects
    ]


def test_points_and_lines_of_one_category_are_one_object_called_so():
    line = core.CGraphicsPolyline(vertices((10, 10), (10, 10)))
    line.set_category("cat")
    items = [point(1, 1, "dog"), point(2, 2, "cat"), line, point(4, 4, " dog ")]
    assert told(drawn_objects(items, NONE, HW)) == [
        ("dog", [(1, 1, 1), (4, 4, 1)], None),
        ("cat", [(2, 2, 1), (10, 10, 1)], None),
    ]


def test_each_box_is_an_object_and_points_go_to_the_boxes_of_their_name():
    items = [
        rectangle(0, 0, 50, 50, "cat"),
        rectangle(10, 10, 20, 20, "dog"),
        point(15, 15, "cat"),  # inside both, and of the first one's name
        rectangle(100, 100, 50, 50, "cat"),
        point(120, 120, "cat"),
        point(15, 16, "dog"),
    ]
    assert told(drawn_objects(items, NONE, HW)) == [
        ("cat", [(15, 15, 1)], [0, 0, 50, 50]),
        ("dog", [(15, 16, 1)], [10, 10, 30, 30]),
        ("cat", [(120, 120, 1)], [100, 100, 150, 150]),
    ]


@pytest.mark.parametrize("category", ["", "Default", "foreground", " FOREGROUND ", "1"])
def test_some_categories_name_nothing(category):
    items = [point(1, 1), point(2, 2, category), point(3, 3, "Cat"), point(4, 4, "cat")]
    assert told(drawn_objects(items, NONE, HW)) == [
        ("", [(1, 1, 1), (2, 2, 1)], None),
        ("Cat", [(3, 3, 1)], None),
        ("cat", [(4, 4, 1)], None),
    ]


def test_what_is_off_an_object_counts_to_the_one_drawn_before_it_or_else_to_the_next():
    items = [
        point(9, 9, "Background"),
        point(1, 1, "cat"),
        point(2, 2, " background "),
        point(3, 3, "0"),
        rectangle(50, 50, 20, 20, "dog"),
        point(4, 4, "Background"),
        point(5, 5),
        point(6, 6, "Background"),
        point(7, 7, "cat"),
    ]
    assert told(drawn_objects(items, NONE, HW)) == [
        ("cat", [(9, 9, 0), (1, 1, 1), (2, 2, 0), (3, 3, 0), (7, 7, 1)], None),
        ("dog", [(4, 4, 0)], [50, 50, 70, 70]),
        ("", [(5, 5, 1), (6, 6, 0)], None),
    ]


def test_what_a_connected_task_draws_may_be_called_as_a_side_is():
    # The last one as this plugin's own instances are.
    names = ["0", "1", "Foreground", "Background", "cat", "Default", "", "mask 1"]
    objects = graphics_objects([rectangle(10 * k, 0, 9, 9, name) for k, name in enumerate(names)], HW)
    assert [thing.name for thing in objects] == [*names[:5], "", "", ""]


@pytest.mark.parametrize("name", ["", "part"])
@pytest.mark.parametrize(
    ("place", "owner"),
    [(50, 1), (150, 1), (390, 1)],
    ids=["inside the smaller box too", "inside the larger one alone", "nearer to neither"],
)
def test_a_background_point_after_several_boxes_is_off_the_one_drawn_last(name, place, owner):
    boxes = [rectangle(40, 40, 20, 20, name), rectangle(0, 0, 200, 100, name)]
    objects = drawn_objects([*boxes, point(place, 50, "Background")], NONE, HW)
    assert [len(thing.points) for thing in objects] == [k == owner for k in (0, 1)]
    assert [thing.name for thing in objects] == [name, name]
    # After a point it is off the object of that point, which lies in the smaller box.
    objects = drawn_objects([*boxes, point(45, 45, name), point(place, 50, "Background")], NONE, HW)
    assert [thing.labels.tolist() for thing in objects] == [[1, 0], []]


def test_a_background_line_before_several_boxes_is_off_the_first_and_a_line_goes_to_the_boxes_that_it_crosses():
    off, on = core.CGraphicsPolyline(vertices((10, 90), (90, 90))), core.CGraphicsPolyline(vertices((0, 50), (70, 50)))
    off.set_category("0")
    items = [off, rectangle(0, 0, 30, 100), rectangle(40, 0, 40, 100), on, point(60, 10, "0")]
    first, second = drawn_objects(items, NONE, HW)
    assert first.labels.tolist() == [0] * 8 + [1] * 4
    assert second.labels.tolist() == [1] * 4 + [0]  # the line ends in it
    assert second.points[-1].tolist() == [60, 10]


@pytest.mark.parametrize("kind", [core.CGraphicsRectangle, core.CGraphicsEllipse])
@pytest.mark.parametrize("box", [(0, 0, 0, 0), (50, 50, 0, 0), (50, 50, 40, 0), (700, 50, 0, 40)])
def test_a_click_with_the_tool_for_boxes_is_no_prompt(kind, box, caplog):
    with caplog.at_level(logging.WARNING):
        assert told(drawn_objects([kind(*box), point(5, 5, "cat")], NONE, HW)) == [("cat", [(5, 5, 1)], None)]
    assert [r.getMessage() for r in caplog.records] == [
        "Drawn, and not used: a box without width or height. Draw points, boxes or lines."
    ]


def test_given_labels_count_more_than_categories_and_leave_the_names():
    items = [point(1, 1, "cat"), point(2, 2, "Background"), point(3, 3, "dog")]
    assert told(drawn_objects(items, np.array([0, 1, 0], np.int32), HW)) == [
        ("cat", [(1, 1, 0), (2, 2, 1)], None),
        ("dog", [(3, 3, 0)], None),
    ]


def test_a_box_of_the_background_is_ignored_with_one_warning(caplog):
    items = [rectangle(1, 1, 9, 9, "Background"), rectangle(700, 1, 9, 9, "background"), point(5, 5, "cat")]
    with caplog.at_level(logging.WARNING):
        assert told(drawn_objects(items, NONE, HW)) == [("cat", [(5, 5, 1)], None)]
    assert [r.getMessage() for r in caplog.records] == [
        "Drawn, and not used: a box on the background, which takes points and lines only. Draw points, boxes or lines."
    ]


def test_what_is_typed_beats_what_is_drawn(workflow, algo, astronaut):
    (alone,) = typed(workflow, algo, astronaut, input_point=[250, 100])
    (both,) = drawn(workflow, algo, astronaut, [point(100, 400)], input_point="[250, 100]")
    np.testing.assert_array_equal(both, alone)


def test_what_is_no_prompt_is_named_in_one_warning_and_texts_are_ignored(workflow, algo, astronaut, caplog):
    others = [core.CGraphicsComplexPolygon(vertices((1, 1), (9, 1), (9, 9)), []) for _ in range(2)]
    with caplog.at_level(logging.WARNING):
        (mask,) = drawn(workflow, algo, astronaut, [core.CGraphicsText("here", 3, 4), *others, point(250, 100)])
    assert caplog.text.count("Drawn, and not used: COMPLEX_POLYGON.") == 1
    assert "TEXT" not in caplog.text
    np.testing.assert_array_equal(mask, typed(workflow, algo, astronaut, input_point=[250, 100])[0])


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (point(600, 10), r"drawn item 2, a point, \[600, 10\], is outside"),
        (core.CGraphicsRectangle(600, 0, 9, 9), r"drawn item 2, a box, \[600, 0, 609, 9\], is outside"),
        (core.CGraphicsPolyline(vertices((10, 10), (400, 700))), r"drawn item 2, a line, \[400, 700\], is outside"),
    ],
    ids=["a point", "a box", "a line"],
)
def test_what_is_drawn_outside_the_image_is_refused_by_its_place_in_the_drawing(workflow, algo, astronaut, item, said):
    with pytest.raises(RuntimeError, match=said):
        drawn(workflow, algo, astronaut, [core.CGraphicsPolyline(vertices((10, 10), (30, 10))), item])
