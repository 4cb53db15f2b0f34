"""What the user points at: boxes, points and labels, parsed, checked against the image and sorted into objects.

Text comes in as JSON, in pixels of the original image; what leaves this module is a :class:`Prompts`, the one typed form of
a prompt. Every refusal is a :class:`ValueError` that names the parameter, the entry and what is accepted.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

POINT_FORM = "[x, y] or a list of them, in pixels of the original image"
BOX_FORM = "[x0, y0, x1, y1] or a list of them, in pixels of the original image"
LABEL_FORM = "1 (foreground), 0 (background) or a list of them"
GRID_FORM = "one list of [x, y] per crop layer, each coordinate from 0 to 1"

#: Longer text is refused before it is read: 50 MB of JSON take a minute and gigabytes.
MOST_CHARACTERS = 1_000_000
#: Points of one object see one another in the mask decoder, which takes memory and time with their square.
MOST_ENTRIES = 10_000


_repr = reprlib.Repr()
_repr.maxstring = 80


def short(value: Any) -> str:
    """`value` as it stands in an error message: its repr, cut where it is long or deeply nested."""
    try:
        return _repr.repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"


def _load_json(name: str, text: str, form: str) -> Any:
    """The JSON value of `text`, None when that is empty; tuples may stand in it, as str() writes them: (1, 2) or (1,)."""
    text = text.strip()
    if text in ("", "None"):
        return None
    if len(text) > MOST_CHARACTERS:
        raise ValueError(
            f"{name}: {short(text)} has {len(text)} characters; accepted is {form}, in {MOST_CHARACTERS} characters at most."
        )
    try:
        value = json.loads(text.replace(",)", "]").replace("(", "[").replace(")", "]"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: {short(text)} is not valid JSON; accepted is {form}.") from error
    return None if value == [] else value


def _listed(numbers: Iterable[float]) -> str:
    """`numbers` as the user would write them, without the digits that float32 adds."""
    return "[" + ", ".join(f"{v:g}" for v in numbers) + "]"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _rows(name: str, value: Any, width: int, form: str, at_most: float = math.inf) -> npt.NDArray[np.float64]:
    """`value` as (N, width) float64: one row of numbers, or a list of rows; (0, width) for None."""
    rows = [] if value is None else value
    if not isinstance(rows, list):
        raise ValueError(f"{name}: {short(value)} is not a list; accepted is {form}.")
    if rows and all(_is_number(v) for v in rows):
        rows = [rows]
    if len(rows) > at_most:
        raise ValueError(f"{name}: {len(rows)} entries are too many; accepted is {form}, {at_most} of them at most.")
    for i, row in enumerate(rows, start=1):
        if not isinstance(row, list) or len(row) != width or not all(_is_number(v) for v in row):
            raise ValueError(f"{name}: entry {i}, {short(row)}, does not hold {width} numbers; accepted is {form}.")
        if not all(abs(v) < 1e9 for v in row):  # also False for NaN and infinity, which JSON readers let through
            raise ValueError(f"{name}: entry {i}, {short(row)}, is not finite or too large; accepted is {form}.")
    return np.array(rows, np.float64).reshape(-1, width)


def parse_points(text: str) -> npt.NDArray[np.float32]:
    """Points of the parameter input_point: (N, 2) float32, x and y in pixels of the original image; (0, 2) for none."""
    value = _load_json("input_point", text, POINT_FORM)
    return _rows("input_point", value, 2, POINT_FORM, MOST_ENTRIES).astype(np.float32)


def parse_boxes(text: str) -> npt.NDArray[np.float32]:
    """Boxes of the parameter input_box: (N, 4) float32 xyxy in pixels of the original image, corners put in order.

    Raises:
        ValueError: also for a box without area, whatever the image.
    """
    value = _load_json("input_box", text, BOX_FORM)
    corners = _rows("input_box", value, 4, BOX_FORM, MOST_ENTRIES).astype(np.float32).reshape(-1, 2, 2)
    for i, box in enumerate(corners, start=1):
        if (box[0] == box[1]).any():
            raise ValueError(f"input_box: entry {i}, {_listed(box.ravel())}, has no area; accepted is {BOX_FORM}.")
    return np.concatenate([corners.min(1), corners.max(1)], axis=1)


def parse_labels(text: str) -> npt.NDArray[np.int32]:
    """Labels of the parameter input_point_label: (N,) int32 of 0 and 1; (0,) for none given."""
    value = _load_json("input_point_label", text, LABEL_FORM)
    if value is None:
        return np.zeros(0, np.int32)
    value = value if isinstance(value, list) else [value]
    if len(value) == 1 and isinstance(value[0], list):  # [[1, 0]], as an array of one row is written
        value = value[0]
    for i, label in enumerate(value, start=1):
        if not _is_number(label) or label not in (0, 1):
            raise ValueError(
                f"input_point_label: entry {i}, {short(label)}, is neither 0 nor 1; accepted is {LABEL_FORM}."
            )
    return np.array(value, dtype=np.int32)


def parse_point_grids(text: str) -> list[npt.NDArray[np.float64]] | None:
    """Grids of the parameter point_grids: per crop layer (N, 2) float64 in [0, 1]; None when none is given."""
    value = _load_json("point_grids", text, GRID_FORM)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(layer, list) and layer for layer in value):
        raise ValueError(f"point_grids: {short(value)} is not a list of lists of points; accepted is {GRID_FORM}.")
    if _is_number(value[0][0]):  # the points of one layer
        value = [value]
    layers = []
    for i, layer in enumerate(value, start=1):
        name = f"point_grids: layer {i}"
        layers.append(_rows(name, layer, 2, GRID_FORM))
        for j, point in enumerate(layers[-1].tolist(), start=1):
            if not all(0 <= v <= 1 for v in point):
                raise ValueError(f"{name}: entry {j}, {point}, is outside 0 to 1; accepted is {GRID_FORM}.")
    return layers


@dataclass(frozen=True)
class ObjectBatch:
    """Objects of one kind (box or none, same number of points), which the mask decoder takes in one call.

    Attributes:
        indices: (B,) int, the objects' places among all objects of the prompt.
        point_coords: (B, P, 2) float32, pixels of the original image, or None.
        point_labels: (B, P) int32, or None.
        boxes: (B, 4) float32 xyxy, or None.
    """

    indices: npt.NDArray[np.int64]
    point_coords: npt.NDArray[np.float32] | None
    point_labels: npt.NDArray[np.int32] | None
    boxes: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class Prompts:
    """Everything that was pointed at in one image, in pixels of that image.

    Attributes:
        points: (P, 2) float32, x and y.
        labels: (P,) int32, 1 foreground, 0 background.
        boxes: (B, 4) float32 xyxy.
    """

    points: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    labels: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    boxes: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))

    def __bool__(self) -> bool:
        return len(self.points) + len(self.boxes) > 0

    def owner_of_points(self) -> npt.NDArray[np.int64]:
        """(P,) int: the object that each point belongs to.

        Without boxes, and with one, all points describe one object. With several boxes a point belongs to the smallest
        box that contains it, and to the nearest box if none does.
        """
        if len(self.boxes) <= 1:
            return np.zeros(len(self.points), np.int64)
        low, high = self.boxes[:, :2].astype(np.float64), self.boxes[:, 2:].astype(np.float64)
        points = self.points[:, None]
        outside = np.maximum(np.maximum(low - points, points - high), 0)
        distance = np.hypot(outside[..., 0], outside[..., 1])  # (P, B), 0 inside
        area = np.prod(high - low, axis=1)
        by_area = np.argsort(area, kind="stable")
        # argmin takes the first of equals: among boxes at the same distance the smallest.
        return by_area[np.argmin(distance[:, by_area], axis=1)]

    def batches(self, at_most: int = 2**31) -> list[ObjectBatch]:
        """The objects, those of one kind together, so that each kind costs one call of the mask decoder.

        Args:
            at_most: objects in a batch; a kind that has more takes several, which bounds the decoder's memory.

        Objects with different numbers of points are not padded to one length: sam2 would see the padding as one more
        token, and its masks would differ from those of the object alone.
        """
        owner = self.owner_of_points()
        points_of = [np.flatnonzero(owner == k) for k in range(max(len(self.boxes), 1))]
        batches = []
        for count in sorted({len(p) for p in points_of}):
            of_this_kind = np.array([k for k, p in enumerate(points_of) if len(p) == count], np.int64)
            for start in range(0, len(of_this_kind), at_most):
                indices = of_this_kind[start : start + at_most]
                chosen = np.array([points_of[k] for k in indices], np.int64)
                batches.append(
                    ObjectBatch(
                        indices,
                        point_coords=self.points[chosen] if count else None,
                        point_labels=self.labels[chosen] if count else None,
                        boxes=self.boxes[indices] if len(self.boxes) else None,
                    )
                )
        return batches


def points_along(vertices: npt.NDArray[np.float32], count: int = 8) -> npt.NDArray[np.float32]:
    """`count` points (count, 2) at equal distances along a polyline of `vertices` (V, 2), from its one end to the other.

    A polyline without length is one point.
    """
    steps = np.hypot(*np.diff(vertices.astype(np.float64), axis=0).T)
    reached = np.concatenate([[0.0], np.cumsum(steps)])
    if reached[-1] == 0:
        return vertices[:1].astype(np.float32)
    wanted = np.linspace(0, reached[-1], count)
    return np.stack([np.interp(wanted, reached, vertices[:, k]) for k in (0, 1)], axis=1).astype(np.float32)


def match_labels(labels: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.int32]:
    """A label for each of `count` points, (count,) int32: `labels` itself, its only one for all, or all 1 for none given.

    Raises:
        ValueError: labels without points, or of another count.
    """
    if (len(labels) > 1 and len(labels) != count) or (len(labels) and not count):
        raise ValueError(
            f"input_point_label: {len(labels)} label(s) for {count} point(s); accepted is one label for each "
            "point, one label for all, or none (all foreground)."
        )
    if len(labels) <= 1:
        return np.full(count, labels[0] if len(labels) else 1, np.int32)
    return labels


def make_prompts(
    points: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int32],
    boxes: npt.NDArray[np.float32],
    image_hw: Sequence[int],
    source: tuple[str, str] = ("input_point", "input_box"),
) -> Prompts:
    """Prompts that fit the image: labels matched to points, boxes clipped.

    Args:
        points: (P, 2), pixels of the original image.
        labels: (P,), or (1,) to serve all points, or (0,) for all foreground.
        boxes: (B, 4) xyxy with ordered corners, pixels of the original image.
        image_hw: height and width of the original image in pixels.
        source: what errors call the points and the boxes.

    Raises:
        ValueError: labels without points or of another count, a point outside the image, a box wholly outside it.
    """
    height, width = image_hw
    labels = match_labels(labels, len(points))
    for i, (x, y) in enumerate(points, start=1):
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"{source[0]}: entry {i}, {_listed((x, y))}, is outside the image; accepted is x from 0 to below {width} "
                f"and y from 0 to below {height}."
            )
    clipped = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    for i, (box, inside) in enumerate(zip(boxes, clipped, strict=True), start=1):
        if not (inside[2:] > inside[:2]).all():  # so that a NaN, too, is refused
            raise ValueError(
                f"{source[1]}: entry {i}, {_listed(box)}, is outside the image, which is {width} pixels wide and {height} "
                f"high; accepted is a box that overlaps it."
            )
    return Prompts(points, labels, clipped)
