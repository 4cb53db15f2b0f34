"""What comes in from a workflow or from Studio: an image, and what detections and graphics of other tasks point at."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from ikomia import core, dataprocess

from infer_segment_anything_2.bridge.connections import are_detections_connected, are_graphics_connected
from infer_segment_anything_2.bridge.drawings import (
    BOXES,
    FRESH,
    corners_of,
    drawn_objects,
    has_drawing,
    points_of,
    vertices_of,
)
from infer_segment_anything_2.bridge.errors import WarnOnce
from infer_segment_anything_2.segmentation.images import channels_of
from infer_segment_anything_2.segmentation.messages import shown
from infer_segment_anything_2.segmentation.objects import Object, box_inside
from infer_segment_anything_2.segmentation.parameters import Parameters
from infer_segment_anything_2.segmentation.request import doubts_about, is_typed, objects_of
from infer_segment_anything_2.segmentation.sequence import Place
from infer_segment_anything_2.segmentation.tiffs import refuse_bands_apart

#: What an instance of this plugin's is labelled whose object has no name.
OWN_LABEL = re.compile(r"mask \d+")

NOTHING_FOUND = "The connected task found nothing to segment: the result is empty."

WAY_BACK = "Empty input_box and input_point to use it."


def image_of(source: dataprocess.CImageIO) -> npt.NDArray:
    """The image of an input, (H, W, 1) or (H, W, 3) of any dtype, for :func:`.to_rgb8`; ValueError where there is none."""
    if not source.is_data_available():
        if source.source_file_path and not isinstance(source, dataprocess.CVideoIO):
            raise ValueError(
                f"The input image {shown(source.source_file_path)} is damaged or of a kind that Ikomia does not read, such as "
                "one of five bands, of float16, or a TIFF that its EXIF data turn. Accepted are 1, 3 or 4 channels of 8 or 16 "
                "bits, of signed integers of 32 bits, or of floats of 32 or 64 bits."
            )
        raise ValueError("The input image is empty or missing. Accepted is an image of one pixel or more.")
    if source.source_file_path.lower().endswith((".tif", ".tiff")):
        refuse_bands_apart(source.source_file_path)
    return channels_of(source.get_image())


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
    return not is_typed(parameters) and (are_detections_connected(detections) or are_graphics_connected(graphics))


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
    has_detections, has_graphics = are_detections_connected(detections), are_graphics_connected(graphics)
    if typed is not None:
        if has_detections or has_graphics:
            warn(f"The prompt that is typed counts; what the connected task found is not used. {WAY_BACK}")
        elif has_drawing(graphics):
            warn(f"The prompt that is typed counts; what is drawn is not used. {WAY_BACK}")
        if not typed:
            warn("The prompt that is typed, [], says that there is no object: the result is empty.")
        for doubt in doubts_about(parameters, image_hw):
            warn(doubt)
        return typed
    if has_detections or has_graphics:
        if has_detections:
            found = detected_objects(detections.get_objects(), image_hw)
            if not has_graphics and has_drawing(graphics):
                warn("What is drawn is not used: the detections of the connected task count.")
        else:
            found = graphics_objects(graphics.get_items(), image_hw)
        _warn_of_lost(found, warn.each)
        if not found and not parameters.track:  # or the objects of earlier frames are still followed
            warn(NOTHING_FOUND)
        return found
    items = graphics.get_items() if graphics.is_data_available() else []
    return drawn_objects(items, parameters.input_point_label.value, image_hw, warn.each) or None


def _warn_of_lost(found: Sequence[Object], warn: Callable[[str], None]) -> None:
    """Say how many of the objects of a connected task are no prompt."""
    lost = sum(not thing.is_prompt for thing in found)
    if lost:
        warn(f"{lost} of {len(found)} detections lie outside the image or have no area: their masks are empty.")


def detected_objects(detections: Sequence[Any], image_hw: tuple[int, int]) -> list[Object]:
    """One object for each of Ikomia's detections, with its label, id and confidence.

    A rotated box counts as the rectangle around it. What this plugin itself labelled "mask 1" has no name. A box outside the
    image or without area is no prompt: its mask will be empty.

    Args:
        detections: items with a box [x, y, width, height], or [center x, center y, width, height, degrees].
        image_hw: height and width of the image in pixels.
    """
    objects = []
    for found in detections:
        box = box_inside(corners_of(list(found.box)), image_hw)
        name = "" if OWN_LABEL.fullmatch(found.label) else found.label
        objects.append(Object(box=box, name=name, id=found.id, confidence=found.confidence))
    return objects


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
        name = "" if name.strip().lower() in FRESH or OWN_LABEL.fullmatch(name) else name
        if kind in BOXES:
            if not (has_outlines and kind == kinds.POLYGON):
                boxes.append((name, box_inside(corners_of(item.get_bounding_rect()), image_hw)))
        elif kind == kinds.POINT or (kind == kinds.POLYLINE and not has_boxes):
            place = points_of(item, vertices_of(item))
            inside = place[((place >= 0) & (place < image_hw[::-1])).all(axis=1) & place.any(axis=1)]
            points.setdefault(len(boxes) if has_boxes else name, []).append(inside)
        has_outlines = kind == kinds.RECTANGLE or (has_outlines and kind in of_rectangle)

    def with_points(found: list[npt.NDArray[np.float32]], **more: Any) -> Object:
        xy = np.concatenate([np.zeros((0, 2), np.float32), *found])
        return Object(xy, np.ones(len(xy), np.int32), **more)

    if has_boxes:
        return [with_points(points.get(k, []), box=box, name=name) for k, (name, box) in enumerate(boxes, start=1)]
    return [with_points(found, name=str(name)) for name, found in points.items()]
