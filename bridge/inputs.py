"""What comes in from a workflow or from Studio: an image, and drawings that become objects."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from ikomia import core, dataprocess

from infer_segment_anything_2.segmentation.images import to_rgb8
from infer_segment_anything_2.segmentation.objects import (
    Object,
    assigned,
    check_points,
    clipped_boxes,
    match_labels,
    points_along,
)
from infer_segment_anything_2.segmentation.prompt_text import Labels

logger = logging.getLogger(__name__)

#: What Studio's own tools call the other side (its GrabCut), in lower case, and the label as a category.
BACKGROUND = ("background", "0")


def image_of(source: dataprocess.CImageIO) -> npt.NDArray[np.uint8]:
    """The image of an input, (H, W, 3) uint8 RGB; ValueError where there is none."""
    if not source.is_data_available():
        raise ValueError("The input image is empty or missing. Accepted is an image of one pixel or more.")
    return to_rgb8(source.get_image())


def drawn_objects(items: Sequence[Any], labels: Labels, image_hw: tuple[int, int]) -> list[Object]:
    """The objects that Ikomia's drawn graphics are.

    A point is a point, a polyline a scribble: points along it. Their category says on which side they are ("Background" or
    "0": off the object, anything else: on it) unless labels are given. A rectangle, ellipse or polygon is a box, the one
    around it. Anything else is named in a warning.

    Args:
        items: Ikomia's graphics items, in drawing order.
        labels: of the drawn points and scribbles, in drawing order: one for each, one for all, or none.
        image_hw: height and width of the image in pixels.

    Raises:
        ValueError: labels of another count, or an item outside the image, by its place in the drawing.
    """
    kinds = core.GraphicsItem
    strokes: list[npt.NDArray[np.float32]] = []
    categories: list[int] = []
    boxes: list[npt.NDArray[np.float32]] = []
    for number, item in enumerate(items, start=1):
        kind = item.get_type()
        if kind in (kinds.POINT, kinds.POLYLINE):
            # A point's own place, not its bounding rectangle's corner, which lies 1.5 pixels off (ikomia 0.16.1).
            found = [item.point] if kind == kinds.POINT else item.points
            vertices = np.array([[p.x, p.y] for p in found], np.float32)
            name = f"drawn item {number}, a {'point' if kind == kinds.POINT else 'line'}"
            check_points(vertices, image_hw, [name] * len(vertices))
            strokes.append(vertices if kind == kinds.POINT else points_along(vertices))
            categories.append(0 if item.get_category().strip().lower() in BACKGROUND else 1)
        elif kind in (kinds.RECTANGLE, kinds.ELLIPSE, kinds.POLYGON):
            x, y, width, height = item.get_bounding_rect()
            box = np.array([[x, y, x + width, y + height]], np.float32)
            boxes.extend(clipped_boxes(box, image_hw, [f"drawn item {number}, a box"]))
        else:
            logger.warning("A drawn item of the kind %s is no prompt: draw points, boxes or lines.", kind)
    # Matched to the strokes, not the points: a scribble has one label, whatever the number of its points.
    of_stroke = match_labels(labels, len(strokes)) if len(labels) else np.array(categories, np.int32)
    return assigned(
        np.concatenate(strokes) if strokes else np.zeros((0, 2), np.float32),
        np.repeat(of_stroke, [len(s) for s in strokes]).astype(np.int32),
        np.array(boxes, np.float32).reshape(-1, 4),
    )
