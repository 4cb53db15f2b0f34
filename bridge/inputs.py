"""What comes in from a workflow or from Studio: an image, detections of other tasks and drawings, which become objects."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from ikomia import core, dataprocess

from infer_segment_anything_2.segmentation.images import Range, to_rgb8
from infer_segment_anything_2.segmentation.messages import shown
from infer_segment_anything_2.segmentation.objects import (
    Object,
    assigned,
    box_inside,
    check_points,
    clipped_boxes,
    match_labels,
    points_along,
)
from infer_segment_anything_2.segmentation.parameters import Parameters
from infer_segment_anything_2.segmentation.prompt_text import Labels
from infer_segment_anything_2.segmentation.request import doubts_about, objects_of

logger = logging.getLogger(__name__)

#: What Studio's own tools call the other side (its GrabCut), in lower case, and the label as a category.
BACKGROUND = ("background", "0")
#: Categories that name nothing: the one of a fresh item, and the side that needs no saying.
NAMELESS = ("", "default", "foreground", "1")

#: What ikomia (0.16.1) calls input 1 once a task is connected to it, also one that found nothing; "GraphicsInput" before.
CONNECTED_GRAPHICS = "GraphicsOutput"

Warn = Callable[[str], None]
"""Tells a warning once, however often it is called with it."""


class NoDetections(dataprocess.CObjectDetectionIO):
    """What input 2 is while no task is connected to it.

    A connected detector's output takes its place before a run; instances of a connected task are copied into it.
    """

    def __init__(self) -> None:
        dataprocess.CObjectDetectionIO.__init__(self)
        self.is_filled = False  #: instances were copied into it, if only none

    def clear_data(self) -> None:
        """Forget the detections: what ikomia (0.16.1) does before it copies instances."""
        dataprocess.CObjectDetectionIO.clear_data(self)
        self.is_filled = True


def disconnect(task: dataprocess.CSemanticSegmentationTask) -> None:
    """Take from `task` the detections and graphics of other tasks; those still connected give them again before a run.

    In place of a deleted edge ikomia (0.16.1) leaves an empty output, as of a detector that finds nothing; of a deleted task
    it leaves what that gave last. Detections that somebody made in Python and put in by hand stay.
    """
    given = task.get_input(2)
    is_by_hand = given is task.get_input(2)  # what ikomia made comes in a new wrapper each time
    if isinstance(given, NoDetections) or not is_by_hand:
        task.set_input(NoDetections(), 2)
    if task.get_input(1).name == CONNECTED_GRAPHICS:
        task.set_input(dataprocess.CGraphicsInput(), 1)


def image_of(source: dataprocess.CImageIO, intensity_range: Range | None = None) -> npt.NDArray[np.uint8]:
    """The image of an input, (H, W, 3) uint8 RGB, by the range of values if there is one; ValueError where there is none."""
    if not source.is_data_available():
        if source.source_file_path and not isinstance(source, dataprocess.CVideoIO):
            raise ValueError(
                f"The input image {shown(source.source_file_path)} is damaged or of a kind that Ikomia does not read, such as "
                "one of five bands or of float16. Accepted are 1, 3 or 4 channels of 8 or 16 bits, of signed integers of 32 "
                "bits, or of floats of 32 or 64 bits."
            )
        raise ValueError("The input image is empty or missing. Accepted is an image of one pixel or more.")
    return to_rgb8(source.get_image(), intensity_range)


def refuse_float16(source: dataprocess.CImageIO) -> None:
    """Raise ValueError where an input holds an image of float16."""
    if source.is_data_available() and source.get_image().dtype == np.float16:
        raise ValueError(
            'The input image holds float16, which Ikomia does not take; accepted is image.astype("float32").'
        )


def pointed_at(
    graphics: dataprocess.CGraphicsInput,
    detections: dataprocess.CObjectDetectionIO,
    parameters: Parameters,
    image_hw: tuple[int, int],
    warn: Warn,
) -> list[Object] | None:
    """The objects of one run; None where nobody points at anything, which is automatic mode.

    What is typed comes before detections of a connected task, these before what a connected task draws, and that before what
    a user draws.

    Args:
        graphics: input 1.
        detections: input 2.
        parameters: what is typed.
        image_hw: height and width of the image in pixels.
        warn: tells the user, once for a task.

    Raises:
        ValueError: something typed or drawn that lies outside the image, or labels of another count than the points.
    """
    typed = objects_of(parameters, image_hw)
    has_detections = not isinstance(detections, NoDetections) or detections.is_filled
    has_graphics = graphics.name == CONNECTED_GRAPHICS
    if typed is not None:
        if has_detections or has_graphics:
            warn("The prompt that is typed counts; what the connected task found is not used.")
        if not typed:
            warn("The prompt that is typed, [], says that there is no object: the result is empty.")
        for doubt in doubts_about(parameters, image_hw):
            warn(doubt)
        return typed
    if has_detections or has_graphics:
        if has_detections:
            found = detected_objects(detections.get_objects(), image_hw)
            if not has_graphics and graphics.is_data_available():
                warn("What is drawn is not used: the detections of the connected task count.")
        else:
            found = graphics_objects(graphics.get_items(), image_hw)
        if not found:
            warn("The connected task found nothing to segment: the result is empty.")
        return found
    items = graphics.get_items() if graphics.is_data_available() else []
    return drawn_objects(items, parameters.input_point_label.value, image_hw) or None


def detected_objects(detections: Sequence[Any], image_hw: tuple[int, int]) -> list[Object]:
    """One object for each of Ikomia's detections, with its label, id and confidence.

    A rotated box counts as the rectangle around it. A box outside the image or without area is no prompt: its mask will be
    empty, and one warning names how many there are.

    Args:
        detections: items with a box [x, y, width, height], or [center x, center y, width, height, degrees].
        image_hw: height and width of the image in pixels.
    """
    objects = []
    for found in detections:
        box = box_inside(_corners(list(found.box)), image_hw)
        objects.append(Object(box=box, name=found.label, id=found.id, confidence=found.confidence))
    lost = sum(thing.box is None for thing in objects)
    if lost:
        logger.warning(
            "%d of %d detections lie outside the image or have no area: their masks are empty.", lost, len(objects)
        )
    return objects


def _corners(box: list[float]) -> list[float]:
    """The upright box xyxy around one of Ikomia's boxes."""
    if len(box) < 5:
        x, y, width, height = box
        return [x, y, x + width, y + height]
    x, y, width, height, degrees = box
    cos, sin = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    across, down = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    return [x - across, y - down, x + across, y + down]


def graphics_objects(items: Sequence[Any], image_hw: tuple[int, int]) -> list[Object]:
    """The objects that a connected task draws; their category is a name, never a side.

    - A rectangle, ellipse or polygon is a box. The outline of an instance, which follows its rectangle, is no second one.
    - Points that follow a rectangle are keypoints on it; those at (0, 0) were not found, and lines between them are no prompt.
    - Where there is no box, points and lines of one name are one object.

    Args:
        items: Ikomia's graphics items, in the order in which the task drew them.
        image_hw: height and width of the image in pixels.
    """
    kinds = core.GraphicsItem
    has_boxes = any(item.get_type() in (kinds.RECTANGLE, kinds.ELLIPSE, kinds.POLYGON) for item in items)
    boxes: list[tuple[str, npt.NDArray[np.float32] | None]] = []
    points: dict[int | str, list[npt.NDArray[np.float32]]] = {}  # by the number of the box, or the name
    before = None  # the item before, texts aside
    for item in items:
        kind, name = item.get_type(), _name(item)
        if kind in (kinds.RECTANGLE, kinds.ELLIPSE, kinds.POLYGON):
            is_outline = kind == kinds.POLYGON and before is not None and before.get_type() == kinds.RECTANGLE
            if not is_outline:
                boxes.append((name, box_inside(_corners(item.get_bounding_rect()), image_hw)))
        elif kind == kinds.POINT or (kind == kinds.POLYLINE and not has_boxes):
            place = np.array([[p.x, p.y] for p in ([item.point] if kind == kinds.POINT else item.points)], np.float32)
            place = place if kind == kinds.POINT else points_along(place)
            inside = place[((place >= 0) & (place < image_hw[::-1])).all(axis=1) & place.any(axis=1)]
            points.setdefault(len(boxes) if has_boxes else name, []).append(inside)
        if kind != kinds.TEXT:
            before = item

    def with_points(found: list[npt.NDArray[np.float32]], **more: Any) -> Object:
        xy = np.concatenate([np.zeros((0, 2), np.float32), *found])
        return Object(xy, np.ones(len(xy), np.int32), **more)

    if has_boxes:
        return [with_points(points.get(k, []), box=box, name=name) for k, (name, box) in enumerate(boxes, start=1)]
    return [with_points(found, name=str(name)) for name, found in points.items()]


def _name(item: Any) -> str:
    """The name in the category of an item; empty where it names nothing."""
    category = str(item.get_category())
    return "" if category.strip().lower() in NAMELESS else category


def drawn_objects(items: Sequence[Any], labels: Labels, image_hw: tuple[int, int]) -> list[Object]:
    """The objects that Ikomia's drawn graphics are.

    A point is a point, a polyline a scribble: points along it. Their category says on which side they are ("Background" or
    "0": off the object, anything else: on it) unless labels are given. A rectangle, ellipse or polygon is a box, the one
    around it. Texts are ignored, anything else is named in a warning.

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
    others: set[str] = set()
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
            box = np.array([_corners(item.get_bounding_rect())], np.float32)
            boxes.extend(clipped_boxes(box, image_hw, [f"drawn item {number}, a box"]))
        elif kind != kinds.TEXT:
            others.add(str(kind))
    if others:
        logger.warning("Drawn, and no prompt: %s. Draw points, boxes or lines.", ", ".join(sorted(others)))
    # Matched to the strokes, not the points: a scribble has one label, whatever the number of its points.
    of_stroke = match_labels(labels, len(strokes)) if len(labels) else np.array(categories, np.int32)
    return assigned(
        np.concatenate(strokes) if strokes else np.zeros((0, 2), np.float32),
        np.repeat(of_stroke, [len(s) for s in strokes]).astype(np.int32),
        np.array(boxes, np.float32).reshape(-1, 4),
    )
