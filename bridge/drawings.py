"""What a user draws, in Ikomia's graphics items, and the objects that it stands for."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from ikomia import core, dataprocess

from infer_segment_anything_2.segmentation.objects import (
    Object,
    check_points,
    clipped_boxes,
    match_labels,
    owners_of,
    points_along,
)
from infer_segment_anything_2.segmentation.prompt_text import Labels

logger = logging.getLogger(__name__)

#: What Studio's own tools call the other side (its GrabCut), in lower case, and the label as a category.
BACKGROUND = ("background", "0")
#: Categories that name nothing: the one of a fresh item, and of what a user draws also the side that needs no saying.
FRESH = ("", "default")
NAMELESS = (*FRESH, "foreground", "1")

#: Ikomia's graphics items that count as the box around them.
BOXES = (core.GraphicsItem.RECTANGLE, core.GraphicsItem.ELLIPSE, core.GraphicsItem.POLYGON)


#: What to tell where a stroke finds nothing. Studio gives a task the layer of a drawing when the task is connected or another
#: image is chosen, and not when a first item is drawn on the image (read in its source).
NOTHING_DRAWN = (
    "Nothing is drawn for this algorithm: the result is empty. If you see a drawing, click the drawing input of the algorithm "
    "in Studio's workflow and choose the layer of the drawing. Apply without a drawing segments everything in the image."
)


def drawn_category(name: str) -> str:
    """The category that says the name of what a user draws: `name` itself, or where this would say a side or nothing, such as
    "0", "object 0"; "Foreground" of an empty one."""
    name = name.strip()
    if not name:
        return "Foreground"
    return f"object {name}" if name.lower() in (*NAMELESS, *BACKGROUND) else name


def has_drawing(graphics: dataprocess.CGraphicsInput) -> bool:
    """Whether anything is drawn but texts."""
    items = graphics.get_items() if graphics.is_data_available() else []
    return any(item.get_type() != core.GraphicsItem.TEXT for item in items)


@dataclass(frozen=True)
class Drawn:
    """One prompt that a user drew: a stroke of points, or a box.

    Attributes:
        place: in the drawing.
        category: as Ikomia has it, without blanks around it.
        points: (P, 2) float32 of a point or a line, in pixels of the image; None of a box.
        box: (4,) float32 xyxy of a box.
    """

    place: int
    category: str
    points: npt.NDArray[np.float32] | None = None
    box: npt.NDArray[np.float32] | None = None

    @property
    def is_background(self) -> bool:
        """Whether it says what is not the object."""
        return self.category.lower() in BACKGROUND

    @property
    def name(self) -> str:
        """Of its object; empty where it names none."""
        return "" if self.category.lower() in NAMELESS else self.category


def drawn_objects(
    items: Sequence[Any], labels: Labels, image_hw: tuple[int, int], warn: Callable[[str], None] = logger.warning
) -> list[Object]:
    """The objects that Ikomia's drawn graphics are, in the order in which they were begun.

    A point is a point, a polyline a scribble: points along it. A rectangle, ellipse or polygon is a box, the one around it.
    Texts are ignored, anything else is named in a warning.

    The category of an item is its object's name, unless it names none (:data:`NAMELESS`): points and lines of one name are one
    object; each box is an object of its own, and points go to the boxes of their name as typed ones do. What has no name goes
    together likewise. Points and lines of the category "Background" or "0" are off the object that was drawn last before them,
    or that is drawn next.

    Args:
        items: Ikomia's graphics items, in drawing order.
        labels: of the drawn points and scribbles, in drawing order: one for each, one for all, or none: by category.
        image_hw: height and width of the image in pixels.
        warn: tells the user.

    Raises:
        ValueError: labels of another count, or an item outside the image, by its place in the drawing.
    """
    drawn = _prompts_among(items, image_hw, warn)
    if not drawn:  # a run then searches, for which make_request refuses labels; a stroke gives an empty result
        return []
    strokes = [one for one in drawn if one.points is not None]
    # Matched to the strokes, not the points: a scribble has one label, whatever the number of its points.
    by_category = np.array([not one.is_background for one in strokes], np.int32)
    of_strokes = match_labels(labels, len(strokes)) if len(labels) else by_category
    label_of = {one.place: label for one, label in zip(strokes, of_strokes, strict=True)}

    found: list[tuple[int, Object]] = []
    for name, parts in _by_object(drawn):
        points = [one.points for one in parts if one.points is not None]
        of_points = [np.full(len(one.points), label_of[one.place]) for one in parts if one.points is not None]
        box = next((one for one in parts if one.box is not None), None)
        thing = Object(
            np.concatenate([np.zeros((0, 2), np.float32), *points]),
            np.concatenate([np.zeros(0, np.int32), *of_points]).astype(np.int32),
            None if box is None else box.box,
            name,
        )
        found.append(((box or parts[0]).place, thing))
    return [thing for _, thing in sorted(found, key=lambda one: one[0])]


def _prompts_among(items: Sequence[Any], image_hw: tuple[int, int], warn: Callable[[str], None]) -> list[Drawn]:
    """What of Ikomia's graphics items is a prompt; a warning says what is none."""
    kinds = core.GraphicsItem
    drawn: list[Drawn] = []
    others: set[str] = set()
    for place, item in enumerate(items, start=1):
        kind, category = item.get_type(), str(item.get_category()).strip()
        if kind in (kinds.POINT, kinds.POLYLINE):
            vertices = vertices_of(item)
            name = f"drawn item {place}, a {'point' if kind == kinds.POINT else 'line'}"
            check_points(vertices, image_hw, [name] * len(vertices))
            drawn.append(Drawn(place, category, points=points_of(item, vertices)))
        elif kind in BOXES and category.lower() in BACKGROUND:
            others.add("a box on the background, which takes points and lines only")
        elif kind in BOXES and min(item.get_bounding_rect()[2:]) <= 0:  # a click with the tool for boxes
            others.add("a box without width or height")
        elif kind in BOXES:
            corners = np.array([corners_of(item.get_bounding_rect())], np.float32)
            (box,) = clipped_boxes(corners, image_hw, [f"drawn item {place}, a box"])
            drawn.append(Drawn(place, category, box=box))
        elif kind != kinds.TEXT:
            others.add(str(kind))
    if others:
        warn(f"Drawn, and not used: {', '.join(sorted(others))}. Draw points, boxes or lines.")
    return drawn


def _by_object(drawn: Sequence[Drawn]) -> list[tuple[str, list[Drawn]]]:
    """Drawn prompts by the object that they belong to, with its name, "" for one without; in drawing order.

    A line whose points belong to several boxes is in several parts.
    """
    boxes: dict[str, list[Drawn]] = {}
    for one in drawn:
        if one.box is not None:
            boxes.setdefault(one.name, []).append(one)
    objects: dict[tuple[str, int], list[Drawn]] = {}  # by name, and of its boxes by the box's number
    waiting: list[Drawn] = []  # off the object, and none was drawn yet
    last: list[Drawn] | None = None  # the object drawn last
    for one in drawn:
        if one.is_background:
            (waiting if last is None else last).append(one)
            continue
        of_name = boxes.get(one.name, [])
        for k, part in _parts(one, of_name):
            last = objects.setdefault((one.name, k), waiting)
            last.append(part)
            waiting = []
    named = [(name, parts) for (name, _), parts in objects.items()]
    return named or [("", waiting)]


def _parts(one: Drawn, boxes: list[Drawn]) -> list[tuple[int, Drawn]]:
    """The numbers of the boxes that something drawn belongs to, and what of it does; without boxes everything, to number 0."""
    if one.points is None:
        return [(boxes.index(one), one)]
    owners = owners_of(one.points, np.array([box.box for box in boxes], np.float32).reshape(-1, 4))
    numbers = dict.fromkeys(owners.tolist())  # in the line's order
    return [(k, replace(one, points=one.points[owners == k])) for k in numbers]


def corners_of(box: list[float]) -> list[float]:
    """The upright box xyxy around one of Ikomia's boxes."""
    if len(box) < 5:
        x, y, width, height = box
        return [x, y, x + width, y + height]
    x, y, width, height, degrees = box
    cos, sin = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    across, down = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    return [x - across, y - down, x + across, y + down]


def vertices_of(item: Any) -> npt.NDArray[np.float32]:
    """(V, 2) xy of a point or a line."""
    # A point's own place, not its bounding rectangle's corner, which lies 1.5 pixels off (ikomia 0.16.1).
    found = [item.point] if item.get_type() == core.GraphicsItem.POINT else item.points
    return np.array([[p.x, p.y] for p in found], np.float32)


def points_of(item: Any, vertices: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(P, 2) xy: what a point or a line with these vertices points at."""
    return vertices if item.get_type() == core.GraphicsItem.POINT else points_along(vertices)
