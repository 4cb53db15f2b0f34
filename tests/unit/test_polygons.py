"""Masks as polygons, drawn again: by pycocotools, which fills squares, and by OpenCV, which fills points and outlines."""

from __future__ import annotations

import sys

import ikomia  # noqa: F401 - brings cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from infer_segment_anything_2.segmentation.masks import Masks
from infer_segment_anything_2.segmentation.polygons import one_polygon, part_polygons
from infer_segment_anything_2.segmentation.search import AutomaticSettings

import cv2  # isort: skip

RING = np.ones((5, 5), bool)
RING[1:4, 1:4] = False
NESTED = np.pad(RING, 2, constant_values=True)
NESTED[4, 4] = True
HOLES = np.ones((5, 9), bool)
HOLES[1:4, [1, 3, 5, 7]] = False
DIAGONAL = np.eye(4, dtype=bool)
CROSSED = np.indices((4, 5)).sum(axis=0) % 2 == 0


def as_text(mask: np.ndarray) -> str:
    return "\n".join("".join(".#"[on] for on in row) for row in mask.tolist())


def drawn_by_pycocotools(polygons, hw) -> np.ndarray:
    height, width = hw
    if not polygons:
        return np.zeros(hw, bool)
    parts = coco.frPyObjects([polygon.ravel().tolist() for polygon in polygons], height, width)
    return coco.decode(coco.merge(parts)).astype(bool)


def drawn_by_opencv(polygon, hw) -> np.ndarray:
    canvas = np.zeros(hw, np.uint8)
    if len(polygon):
        cv2.fillPoly(canvas, [np.floor(polygon).astype(np.int32)], 1)
    return canvas.astype(bool)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


masks = st.one_of(
    arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9)),
    # With fewer pixels on than off, and the other way round: parts, holes, and parts in holes.
    arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 5)).map(
        lambda a: a > 0
    ),
    arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 5)).map(
        lambda a: a < 1
    ),
)


@settings(max_examples=150, deadline=None)
@given(masks)
@example(NESTED)
@example(HOLES)
@example(CROSSED)
def test_polygons_along_the_edges_are_the_mask_again(mask):
    polygons = part_polygons(mask, 0)
    assert as_text(drawn_by_pycocotools(polygons, mask.shape)) == as_text(mask)
    parts, _ = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    assert len(polygons) == parts - 1
    assert all(np.array_equal(polygon, polygon.round()) for polygon in polygons)


@settings(max_examples=150, deadline=None)
@given(masks)
@example(NESTED)
@example(HOLES)
@example(CROSSED)
def test_a_polygon_through_the_centres_is_the_mask_again_and_lines_between_its_parts(mask):
    polygon = one_polygon(mask, 0)
    canvas = drawn_by_opencv(polygon, mask.shape)
    assert (canvas & mask).sum() == mask.sum()
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    if count <= 2:  # pixels that touch at a corner need no line
        assert as_text(canvas) == as_text(mask)
    for part in range(1, count):  # each alone has none either
        alone = labels == part
        assert as_text(drawn_by_opencv(one_polygon(alone, 0), mask.shape)) == as_text(alone)


@settings(max_examples=80, deadline=None)
@given(masks, st.floats(0.1, 5))
def test_a_simplified_polygon_has_three_corners_at_least_and_stays_near_the_mask(mask, tolerance):
    height, width = mask.shape
    for polygon in [*part_polygons(mask, tolerance), one_polygon(mask, tolerance)]:
        assert polygon.shape == (len(polygon), 2)
        assert len(polygon) >= 3 or not mask.any()
        assert (polygon >= 0).all()
        assert (polygon <= (width, height)).all()


@pytest.mark.parametrize(
    ("mask", "edges", "centres"),
    [
        (np.zeros((3, 4), bool), [], []),
        (np.ones((1, 1), bool), [[(0, 0), (1, 0), (1, 1), (0, 1)]], [(0.5, 0.5)] * 4),
        (np.ones((2, 3), bool), [[(0, 0), (3, 0), (3, 2), (0, 2)]], [(0.5, 0.5), (2.5, 0.5), (2.5, 1.5), (0.5, 1.5)]),
    ],
    ids=["empty", "one pixel", "a box"],
)
def test_where_polygons_run(mask, edges, centres):
    assert [list(map(tuple, polygon)) for polygon in part_polygons(mask, 0)] == edges
    assert list(map(tuple, one_polygon(mask, 0))) == centres


def test_a_hole_is_joined_by_a_bridge_that_is_walked_there_and_back():
    (polygon,) = part_polygons(RING, 0)
    assert list(map(tuple, polygon)) == [
        *((0, 0), (5, 0), (5, 5), (0, 5), (0, 1)),
        *((1, 1), (1, 4), (4, 4), (4, 1), (1, 1)),
        (0, 1),
    ]


def test_pixels_that_touch_at_a_corner_are_parts_of_their_own():
    assert len(part_polygons(DIAGONAL, 0)) == 4
    assert as_text(drawn_by_opencv(one_polygon(DIAGONAL, 0), (4, 4))) == as_text(DIAGONAL)


def test_masks_of_a_photograph_are_exact_at_0_and_nearly_so_with_a_third_of_the_corners(nano):
    from skimage import data

    everything = AutomaticSettings(points_per_side=10, pred_iou_thresh=0.3, stability_score_thresh=0.5)
    found: Masks = nano.generate(data.coffee(), everything)
    assert len(found) > 10
    edges, centres, corners, lines = [], [], [], []
    for mask in found:
        exact, simplified = part_polygons(mask, 0), part_polygons(mask)
        np.testing.assert_array_equal(drawn_by_pycocotools(exact, mask.shape), mask)
        edges.append(iou(drawn_by_pycocotools(simplified, mask.shape), mask))
        drawn = drawn_by_opencv(one_polygon(mask, 0), mask.shape)
        assert (drawn & mask).sum() == mask.sum()
        lines.append((drawn & ~mask).sum())  # between parts
        centres.append(iou(drawn_by_opencv(one_polygon(mask), mask.shape), mask))
        corners.append(sum(map(len, simplified)) / sum(map(len, exact)))
    assert np.median(edges) >= 0.97
    assert np.median(centres) >= 0.97
    assert np.median(corners) < 0.4
    assert sum(lines) <= 0.01 * found.areas.sum()


@pytest.mark.parametrize("tolerance", [-0.1, float("nan"), float("inf")])
def test_a_tolerance_that_is_no_distance_is_refused(tolerance):
    with pytest.raises(
        ValueError, match=rf"^tolerance: {tolerance} is not accepted; accepted is a number of pixels, 0"
    ):
        part_polygons(RING, tolerance)


def test_without_opencv_exact_polygons_are_made_and_simplified_ones_refused_with_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert len(part_polygons(RING, 0)) == 1
    with pytest.raises(
        ImportError, match=r"^tolerance: 1 is not accepted without OpenCV \(pip install opencv-python-head"
    ):
        part_polygons(RING)
