"""What comes in from a workflow or from Studio: an image, detections of other tasks and drawings, which become objects."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from ikomia import core, dataprocess

from infer_segment_anything_2.bridge.errors import WarnOnce
from infer_segment_anything_2.segmentation.images import channels_of
from infer_segment_anything_2.segmentation.messages import shown
from infer_segment_anything_2.segmentation.objects import (
    Object,
    box_inside,
    check_points,
    clipped_boxes,
    match_labels,
    owners_of,
    points_along,
)
from infer_segment_anything_2.segmentation.parameters import Parameters
from infer_segment_anything_2.segmentation.prompt_text import Labels
from infer_segment_anything_2.segmentation.request import doubts_about, is_typed, objects_of
from infer_segment_anything_2.segmentation.sequence import Place

logger = logging.getLogger(__name__)

#: What Studio's own tools call the other side (its GrabCut), in lower case, and the label as a category.
BACKGROUND = ("background", "0")
#: Categories that name nothing: the one of a fresh item, and of what a user draws also the side that needs no saying.
FRESH = ("", "default")
NAMELESS = (*FRESH, "foreground", "1")

#: What ikomia (0.16.1) calls input 1 once a task is connected to it, also one that found nothing; "GraphicsInput" before.
CONNECTED_GRAPHICS = "GraphicsOutput"

#: Ikomia's graphics items that count as the box around them.
BOXES = (core.GraphicsItem.RECTANGLE, core.GraphicsItem.ELLIPSE, core.GraphicsItem.POLYGON)


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


def disconnect(task: dataprocess.CSemanticSegmentationTask, put_in: Any) -> None:
    """Take from `task` the detections and graphics of other tasks; those still connected give them again before a run.

    In place of a deleted edge ikomia (0.16.1) leaves an empty output, as of a detector that finds nothing; of a deleted task
    it leaves what that gave last.

    Args:
        task: this plugin's.
        put_in: what somebody put into input 2 last by hand, which stays; None: nothing.
    """
    given = task.get_input(2)
    if isinstance(given, NoDetections) or given is not put_in:
        task.set_input(NoDetections(), 2)
    if _has_graphics(task.get_input(1)):
        task.set_input(dataprocess.CGraphicsInput(), 1)


def image_of(source: dataprocess.CImageIO) -> npt.NDArray:
    """The image of an input, (H, W, 1) or (H, W, 3) of any dtype, for :func:`.to_rgb8`; ValueError where there is none."""
    if not source.is_data_available():
        if source.source_file_path and not isinstance(source, dataprocess.CVideoIO):
            raise ValueError(
                f"The input image {shown(source.source_file_path)} is damaged or of a kind that Ikomia does not read, such as "
                "one of five bands or of float16. Accepted are 1, 3 or 4 channels of 8 or 16 bits, of signed integers of 32 "
                "bits, or of floats of 32 or 64 bits."
            )
        raise ValueError("The input image is empty or missing. Accepted is an image of one pixel or more.")
    return channels_of(source.get_image())


def refuse_float16(source: core.CWorkflowTaskIO | None) -> None:
    """Raise ValueError where an input, None before there is one and a path while a folder is given, is an image of float16."""
    if (
        isinstance(source, dataprocess.CImageIO)
        and source.is_data_available()
        and source.get_image().dtype == np.float16
    ):
        raise ValueError(
            'The input image holds float16, which Ikomia does not take; accepted is image.astype("float32").'
        )


def place_of(source: dataprocess.CImageIO) -> Place:
    """Where the image of an input comes from, if it is a frame of a video.

    Positions count from 1 where the video is the input of the workflow, and from 0 behind another task (ikomia 0.16.1).
    """
    if not isinstance(source, dataprocess.CVideoIO):
        return Place()
    return Place(source.source_file_path, source.get_current_pos(), source.get_video_frame_count() or None)


def are_found(
    graphics: dataprocess.CGraphicsInput, detections: dataprocess.CObjectDetectionIO, parameters: Parameters
) -> bool:
    """Whether the objects of a run are those that a connected task finds, in each image other ones."""
    return not is_typed(parameters) and (_has_detections(detections) or _has_graphics(graphics))


def _has_graphics(graphics: dataprocess.CGraphicsInput) -> bool:
    return graphics.name == CONNECTED_GRAPHICS


def _has_detections(detections: dataprocess.CObjectDetectionIO) -> bool:
    return not isinstance(detections, NoDetections) or detections.is_filled


def pointed_at(
    graphics: dataprocess.CGraphicsInput,
    detections: dataprocess.CObjectDetectionIO,
    parameters: Parameters,
    image_hw: tuple[int, int],
    warn: WarnOnce,
) -> list[Object] | None:
    """The objects of one run; None where nobody points at anything, which is automatic mode.

    What is typed comes before detections of a connected task, these before what a connected task draws, and that before what
    a user draws.

    Args:
        graphics: input 1.
        detections: input 2.
        parameters: what is typed.
        image_hw: height and width of the image in pixels.
        warn: tells the user.

    Raises:
        ValueError: something typed or drawn that lies outside the image, or labels of another count than the points.
    """
    typed = objects_of(parameters, image_hw)
    has_detections, has_graphics = _has_detections(detections), _has_graphics(graphics)
    if typed is not None:
        if has_detections or has_graphics:
            warn("The prompt that is typed counts; what the connected task found is not used.")
        elif graphics.is_data_available():
            warn("The prompt that is typed counts; what is drawn is not used.")
        if not typed:
            warn("The prompt that is typed, [], says that there is no object: the result is empty.")
        for doubt in doubts_about(parameters, image_hw):
            warn(doubt)
        return typed
    if has_detections or has_graphics:
        if has_detections:
            found = detected_objects(detections.get_objects(), image_hw, warn.each)
            if not has_graphics and graphics.is_data_available():
                warn("What is drawn is not used: the detections of the connected task count.")
        else:
            found = graphics_objects(graphics.get_items(), image_hw)
        if not found and not parameters.track:  # or the objects of earlier frames are still followed
            warn("The connected task found nothing to segment: the result is empty.")
        return found
    items = graphics.get_items() if graphics.is_data_available() else []
    return drawn_objects(items, parameters.input_point_label.value, image_hw, warn.each) or None


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


def detected_objects(detections: Sequence[Any], image_hw: tuple[int, int], warn: Callable[[str], None]) -> list[Object]:
    """One object for each of Ikomia's detections, with its label, id and confidence.

    A rotated box counts as the rectangle around it. A box outside the image or without area is no prompt: its mask will be
    empty, and one warning names how many there are.

    Args:
        detections: items with a box [x, y, width, height], or [center x, center y, width, height, degrees].
        image_hw: height and width of the image in pixels.
        warn: tells the user.
    """
    objects = []
    for found in detections:
        box = box_inside(_corners(list(found.box)), image_hw)
        objects.append(Object(box=box, name=found.label, id=found.id, confidence=found.confidence))
    lost = sum(thing.box is None for thing in objects)
    if lost:
        warn(f"{lost} of {len(objects)} detections lie outside the image or have no area: their masks are empty.")
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

    - A rectangle, ellipse or polygon is a box. The outlines of an instance, one for each of its parts, follow
      its rectangle and are no others.
    - Points that follow a rectangle are keypoints on it; those at (0, 0) were not found, and lines between them are no prompt.
    - Where there is no box, points and lines of one name are one object.

    Args:
        items: Ikomia's graphics items, in the order in which the task drew them.
        image_hw: height and width of the image in pixels.
    """
    kinds = core.GraphicsItem
    has_boxes = any(item.get_type() in BOXES for item in items)
    boxes: list[tuple[str, npt.NDArray[np.float32] | None]] = []
    points: dict[int | str, list[npt.NDArray[np.float32]]] = {}  # by the number of the box, or the name
    of_rectangle = (kinds.POLYGON, kinds.COMPLEX_POLYGON, kinds.TEXT)
    has_outlines = False  # a rectangle came, and since then nothing but its outlines and texts
    for item in items:
        kind, name = item.get_type(), str(item.get_category())
        name = "" if name.strip().lower() in FRESH else name
        if kind in BOXES:
            if not (has_outlines and kind == kinds.POLYGON):
                boxes.append((name, box_inside(_corners(item.get_bounding_rect()), image_hw)))
        elif kind == kinds.POINT or (kind == kinds.POLYLINE and not has_boxes):
            place = _points(item, _vertices(item))
            inside = place[((place >= 0) & (place < image_hw[::-1])).all(axis=1) & place.any(axis=1)]
            points.setdefault(len(boxes) if has_boxes else name, []).append(inside)
        has_outlines = kind == kinds.RECTANGLE or (has_outlines and kind in of_rectangle)

    def with_points(found: list[npt.NDArray[np.float32]], **more: Any) -> Object:
        xy = np.concatenate([np.zeros((0, 2), np.float32), *found])
        return Object(xy, np.ones(len(xy), np.int32), **more)

    if has_boxes:
        return [with_points(points.get(k, []), box=box, name=name) for k, (name, box) in enumerate(boxes, start=1)]
    return [with_points(found, name=str(name)) for name, found in points.items()]


def _vertices(item: Any) -> npt.NDArray[np.float32]:
    """(V, 2) xy of a point or a line."""
    # A point's own place, not its bounding rectangle's corner, which lies 1.5 pixels off (ikomia 0.16.1).
    found = [item.point] if item.get_type() == core.GraphicsItem.POINT else item.points
    return np.array([[p.x, p.y] for p in found], np.float32)


def _points(item: Any, vertices: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(P, 2) xy: what a point or a line with these vertices points at."""
    return vertices if item.get_type() == core.GraphicsItem.POINT else points_along(vertices)


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
            vertices = _vertices(item)
            name = f"drawn item {place}, a {'point' if kind == kinds.POINT else 'line'}"
            check_points(vertices, image_hw, [name] * len(vertices))
            drawn.append(Drawn(place, category, points=_points(item, vertices)))
        elif kind in BOXES and category.lower() in BACKGROUND:
            others.add("a box of the category Background")
        elif kind in BOXES and min(item.get_bounding_rect()[2:]) <= 0:  # a click with the tool for boxes
            others.add("a box without width or height")
        elif kind in BOXES:
            corners = np.array([_corners(item.get_bounding_rect())], np.float32)
            (box,) = clipped_boxes(corners, image_hw, [f"drawn item {place}, a box"])
            drawn.append(Drawn(place, category, box=box))
        elif kind != kinds.TEXT:
            others.add(str(kind))
    if others:
        warn(f"Drawn, and no prompt: {', '.join(sorted(others))}. Draw points, boxes or lines.")
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
