"""What is pointed at: a list of objects, checked against the image and grouped for the mask decoder.

Typed prompts become objects here; drawings and the detections of others become the same objects where they come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from .messages import listed
from .prompt_text import Labels, Points


@dataclass(frozen=True)
class Object:
    """One thing that is pointed at, in pixels of the original image; with neither points nor a box its mask is empty.

    Attributes:
        points: (P, 2) float32, x and y.
        labels: (P,) int32, 1 on the object, 0 off it; one for all or none, which is 1 for all, become (P,).
        box: (4,) float32 xyxy around it, or None.
        name: what it is called; empty where nobody named it.
        id: the number by which others know it, or None.
        confidence: how sure the one who found it is, 0 to 1, or None.
    """

    points: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    labels: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    box: npt.NDArray[np.float32] | None = None
    name: str = ""
    id: int | None = None
    confidence: float | None = None

    def __post_init__(self) -> None:
        """Lists become arrays, and corners of a box that come in another order are put right.

        Raises:
            ValueError: labels of another count than the points or other than 0 and 1, points that are not x and y, or a number
                that is not finite.
        """
        points, labels = np.asarray(self.points, np.float32), np.asarray(self.labels)
        if points.ndim > 1 and points.shape[-1] != 2:
            raise ValueError(f"points: their shape is {points.shape}; accepted is (P, 2), x and y of each.")
        if not np.isin(labels, (0, 1)).all():
            raise ValueError(f"labels: {listed(labels.ravel())}: accepted are 1, on the object, and 0, off it.")
        points = points.reshape(-1, 2)
        labels = match_labels(labels.astype(np.int32).ravel(), len(points), "labels")
        box = None if self.box is None else np.asarray(self.box, np.float32).reshape(4)
        if box is not None:
            box = np.concatenate([np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])])
        for name, value in (("points", points), ("labels", labels), ("box", box)):
            if value is not None and not np.isfinite(value).all():
                raise ValueError(f"{name}: {listed(value.ravel())}: accepted are finite numbers.")
            object.__setattr__(self, name, value)  # as a frozen dataclass sets its own

    @property
    def is_prompt(self) -> bool:
        """Whether there is anything to ask a model by."""
        return len(self.points) > 0 or self.box is not None


@dataclass(frozen=True)
class ObjectBatch:
    """Objects of one kind, as the mask decoder takes them in one call.

    Attributes:
        point_coords: (B, P, 2) float32, pixels of the original image, or None.
        point_labels: (B, P) int32, or None.
        boxes: (B, 4) float32 xyxy, or None.
    """

    point_coords: npt.NDArray[np.float32] | None
    point_labels: npt.NDArray[np.int32] | None
    boxes: npt.NDArray[np.float32] | None


def typed_objects(
    points: Points, labels: Labels, boxes: npt.NDArray[np.float32], image_hw: tuple[int, int]
) -> list[Object]:
    """The objects that parsed text describes; empty where there are neither points nor boxes.

    Args:
        points: one array of points, or one for each object.
        labels: likewise; one label serves all points, none means all 1.
        boxes: (B, 4) xyxy with ordered corners.
        image_hw: height and width of the image in pixels.

    Raises:
        ValueError: labels or boxes of another count than the points, a point or a whole box outside the image.
    """
    box_names = [f"input_box: entry {i}" for i in range(1, len(boxes) + 1)]
    if not isinstance(points, list):
        labels = match_labels(labels, len(points))
        check_points(points, image_hw, [f"input_point: entry {i}" for i in range(1, len(points) + 1)])
        return assigned(points, labels, clipped_boxes(boxes, image_hw, box_names))
    of_objects = match_nested_labels(points, labels, len(boxes))
    for k, of_object in enumerate(points, start=1):
        names = [f"input_point: object {k}, entry {i}" for i in range(1, len(of_object) + 1)]
        check_points(of_object, image_hw, names)
    boxes = clipped_boxes(boxes, image_hw, box_names)
    return [Object(of_object, of_objects[k], boxes[k] if len(boxes) else None) for k, of_object in enumerate(points)]


def match_labels(labels: Labels, count: int, name: str = "input_point_label") -> npt.NDArray[np.int32]:
    """A label for each of `count` points, (count,) int32: `labels` itself, its only one for all, or all 1 for none given.

    Raises:
        ValueError: labels without points, or of another count.
    """
    if isinstance(labels, list):
        if len(labels) > 1:
            raise ValueError(
                f"{name}: labels of {len(labels)} objects for points that are one object; accepted is one label for each "
                "point, one label for all, or none (all foreground)."
            )
        labels = labels[0]
    if (len(labels) > 1 and len(labels) != count) or (len(labels) and not count):
        raise ValueError(
            f"{name}: {len(labels)} label(s) for {count} point(s); accepted is one label for each "
            "point, one label for all, or none (all foreground)."
        )
    if len(labels) <= 1:
        return np.full(count, labels[0] if len(labels) else 1, np.int32)
    return labels


def match_nested_labels(
    points: Sequence[npt.NDArray[np.float32]], labels: Labels, boxes: int
) -> list[npt.NDArray[np.int32]]:
    """The labels of each object of several, as :func:`match_labels` gives them.

    Args:
        points: (P, 2) of each object.
        labels: of each object, or for all.
        boxes: how many there are, of which each belongs to one object; 0: none.

    Raises:
        ValueError: boxes or labels of another count than the objects or their points, or an object without points and box.
    """
    if boxes not in (0, len(points)):
        raise ValueError(
            f"input_point: points of {len(points)} object(s) for {boxes} box(es) of input_box; accepted is one list of "
            "points for each box, or one list for all."
        )
    counts = [len(of_object) for of_object in points]
    if not boxes and 0 in counts:
        raise ValueError(
            f"input_point: object {counts.index(0) + 1} has no points; accepted is one point or more, or a box beside it."
        )
    if not isinstance(labels, list):
        if len(labels) > 1:
            raise ValueError(
                f"input_point_label: {len(labels)} labels for points of {len(counts)} object(s); accepted is one list of "
                "labels for each object, one label for all points, or none (all foreground)."
            )
        return [np.full(count, labels[0] if len(labels) else 1, np.int32) for count in counts]
    if len(labels) != len(counts):
        raise ValueError(
            f"input_point_label: labels of {len(labels)} object(s) for points of {len(counts)}; accepted is one list of labels "
            "for each object, one label for all points, or none (all foreground)."
        )
    return [
        match_labels(of_object, count, f"input_point_label: object {k}")
        for k, (of_object, count) in enumerate(zip(labels, counts, strict=True), start=1)
    ]


def check_points(points: npt.NDArray[np.float32], image_hw: tuple[int, int], names: Sequence[str]) -> None:
    """Refuse a point of (P, 2) that lies outside the image, by its name in `names`; ValueError."""
    height, width = image_hw
    outside = ~((points >= 0) & (points < (width, height))).all(axis=1)  # so that a NaN, too, is refused
    for i in np.flatnonzero(outside)[:1]:
        raise ValueError(
            f"{names[i]}, {listed(points[i])}, is outside the image; accepted is x from 0 to below {width} "
            f"and y from 0 to below {height}."
        )


def are_fractions(coordinates: npt.NDArray[np.float32]) -> bool:
    """Whether coordinates are probably no pixels: all lie within 0 to 1, and not all are whole."""
    within = (coordinates >= 0) & (coordinates <= 1)
    return bool(within.all() and (coordinates % 1 != 0).any())


def clipped_boxes(
    boxes: npt.NDArray[np.float32], image_hw: tuple[int, int], names: Sequence[str]
) -> npt.NDArray[np.float32]:
    """Boxes (B, 4) xyxy cut at the edges of the image.

    Raises:
        ValueError: a box without area or wholly outside the image, by its name in `names`.
    """
    height, width = image_hw
    clipped, usable = _clipped(boxes, image_hw)
    for i in np.flatnonzero(~usable)[:1]:
        if (boxes[i, 2:] <= boxes[i, :2]).any():
            raise ValueError(f"{names[i]}, {listed(boxes[i])}, has no area; accepted is one with width and height.")
        raise ValueError(
            f"{names[i]}, {listed(boxes[i])}, is outside the image, which is {width} pixels wide and {height} "
            "high; accepted is a box that overlaps it."
        )
    return clipped


def inside(objects: Sequence[Object], image_hw: tuple[int, int]) -> list[Object]:
    """The objects with boxes cut at the edges of the image.

    Raises:
        ValueError: a point or a whole box outside the image, or a box without area.
    """
    found = []
    for k, thing in enumerate(objects, start=1):
        check_points(thing.points, image_hw, [f"object {k}: point {i}" for i in range(1, len(thing.points) + 1)])
        if thing.box is not None:
            thing = replace(thing, box=clipped_boxes(thing.box[None], image_hw, [f"object {k}: its box"])[0])
        found.append(thing)
    return found


def box_inside(box: Sequence[float], image_hw: tuple[int, int]) -> npt.NDArray[np.float32] | None:
    """A box xyxy cut at the edges of the image, (4,) float32; None where nothing of it, or no number, is left."""
    (clipped,), (usable,) = _clipped(np.array([box], np.float32), image_hw)
    return clipped if usable else None


def _clipped(
    boxes: npt.NDArray[np.float32], image_hw: tuple[int, int]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Boxes (B, 4) xyxy cut at the edges of the image, and (B,) which of them have an area there."""
    height, width = image_hw
    clipped = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    usable: npt.NDArray[np.bool_] = np.all(clipped[:, 2:] > clipped[:, :2], axis=1)  # a NaN is not greater
    return clipped, usable


def assigned(
    points: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], boxes: npt.NDArray[np.float32]
) -> list[Object]:
    """The objects that points (P, 2), their labels (P,) and boxes (B, 4) describe together.

    Without boxes all points describe one object; else each box is an object, with the points that :func:`owners_of` gives it.
    """
    if not len(boxes):
        return [Object(points, labels)] if len(points) else []
    owners = owners_of(points, boxes)
    return [Object(points[owners == k], labels[owners == k], box) for k, box in enumerate(boxes)]


def owners_of(points: npt.NDArray[np.float32], boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """(P,) the number of the box that each of some points belongs to; 0 where there are no boxes.

    It is the smallest box (B, 4) that contains the point (P, 2), and the nearest if none does.
    """
    if len(boxes) < 2:
        return np.zeros(len(points), np.int64)
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    xy = points[:, None]
    outside = np.maximum(np.maximum(low - xy, xy - high), 0)
    distance = np.hypot(outside[..., 0], outside[..., 1])  # (P, B), 0 inside
    by_area = np.argsort(np.prod(high - low, axis=1), kind="stable")
    # argmin takes the first of equals: among boxes at the same distance the smallest.
    return by_area[np.argmin(distance[:, by_area], axis=1)]


def kinds(objects: Sequence[Object]) -> list[list[int]]:
    """The places of objects of one kind, together: with a box or without, with the same number of points. Those that are no
    prompt are left out.

    Each kind costs one call of the mask decoder. Objects with different numbers of points are not padded to one length: sam2
    would see the padding as one more token, and its masks would differ from those of the object alone.
    """
    found: dict[tuple[int, bool], list[int]] = {}
    for k, thing in enumerate(objects):
        if thing.is_prompt:
            found.setdefault((len(thing.points), thing.box is not None), []).append(k)
    return [places for _, places in sorted(found.items())]


def stacked(objects: Sequence[Object]) -> ObjectBatch:
    """Objects of one kind as one batch."""
    has_points, has_box = len(objects[0].points) > 0, objects[0].box is not None
    return ObjectBatch(
        np.stack([thing.points for thing in objects]) if has_points else None,
        np.stack([thing.labels for thing in objects]) if has_points else None,
        np.stack([thing.box for thing in objects if thing.box is not None]) if has_box else None,
    )


def points_along(vertices: npt.NDArray[np.float32], count: int = 8) -> npt.NDArray[np.float32]:
    """`count` points (count, 2) at equal distances along a line of `vertices` (V, 2), from its one end to the other.

    A line without length is one point.
    """
    steps = np.hypot(*np.diff(vertices.astype(np.float64), axis=0).T)
    reached = np.concatenate([[0.0], np.cumsum(steps)])
    if reached[-1] == 0:
        return vertices[:1].astype(np.float32)
    wanted = np.linspace(0, reached[-1], count)
    return np.stack([np.interp(wanted, reached, vertices[:, k]) for k in (0, 1)], axis=1).astype(np.float32)
