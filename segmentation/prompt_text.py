"""Parameters that are lists, as text: prompts, in JSON and pixels of the original image, grids, and a range of values.

Every refusal is a ValueError that names the parameter, the entry and what is accepted.
"""

from __future__ import annotations

import json
import sys
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .messages import array_hint, listed, short

POINT_FORM = "[x, y], a list of them, or a list of such lists, in pixels of the original image"
BOX_FORM = "[x0, y0, x1, y1] or a list of them, in pixels of the original image"
LABEL_FORM = "1 (foreground), 0 (background), a list of them, or a list of such lists"
GRID_FORM = "one list of [x, y] per crop layer, each coordinate from 0 to 1"
RANGE_FORM = "[low, high] with low below high, in the values of the image, or empty"

#: Longer text is refused before it is read: 50 MB of JSON take a minute and gigabytes.
MAX_CHARACTERS = 1_000_000
#: Points of one object see one another in the mask decoder, which takes memory and time with their square.
MAX_ENTRIES = 10_000

Points = npt.NDArray[np.float32] | list[npt.NDArray[np.float32]]
"""(P, 2) xy of one object, or a list of such arrays, one for each object."""
Labels = npt.NDArray[np.int32] | list[npt.NDArray[np.int32]]
"""(P,) of 0 and 1, or a list of such arrays, one for each object."""


def parse_points(text: str) -> Points:
    """Points of the parameter input_point: float32 xy in pixels of the original image; (0, 2) for none."""
    value = _load_json("input_point", text, POINT_FORM)
    if isinstance(value, list):
        _check_count("input_point", len(value), POINT_FORM)
    if not isinstance(value, list) or not any(_holds_lists(item) for item in value):
        return _rows("input_point", value, 2, POINT_FORM).astype(np.float32)
    _check_count("input_point", sum(len(item) for item in value if isinstance(item, list)), POINT_FORM)
    objects = []
    for k, points in enumerate(value, start=1):
        name = f"input_point: object {k}"
        if points != [] and not _holds_lists(points):
            raise ValueError(f"{name}, {short(points)}, is not a list of points; accepted is {POINT_FORM}.")
        objects.append(_rows(name, points, 2, POINT_FORM).astype(np.float32))
    return objects


def parse_boxes(text: str) -> npt.NDArray[np.float32]:
    """Boxes of the parameter input_box: (N, 4) float32 xyxy in pixels of the original image, corners put in order.

    Raises:
        ValueError: also for a box without area, whatever the image.
    """
    value = _load_json("input_box", text, BOX_FORM)
    if isinstance(value, list):
        _check_count("input_box", len(value), BOX_FORM)
    corners = _rows("input_box", value, 4, BOX_FORM).astype(np.float32).reshape(-1, 2, 2)
    for i, box in enumerate(corners, start=1):
        if (box[0] == box[1]).any():
            raise ValueError(f"input_box: entry {i}, {listed(box.ravel())}, has no area; accepted is {BOX_FORM}.")
    return np.concatenate([corners.min(1), corners.max(1)], axis=1)


@lru_cache(maxsize=1)  # it is asked for each frame of a video
def swapped_boxes(text: str) -> dict[int, list[float]]:
    """The boxes of the parameter input_box, which was accepted, whose corners come in the wrong order both in x and in y, as
    they were typed, by their number from 1: a sign of x, y, width, height."""
    rows = _rows("input_box", _load_json("input_box", text, BOX_FORM), 4, BOX_FORM)
    return {i: row for i, row in enumerate(rows.tolist(), start=1) if row[0] > row[2] and row[1] > row[3]}


def parse_labels(text: str) -> Labels:
    """Labels of the parameter input_point_label: int32 of 0 and 1; (0,) for none given."""
    name = "input_point_label"
    value = _load_json(name, text, LABEL_FORM)
    if value is None:
        return np.zeros(0, np.int32)
    if not isinstance(value, list) or not all(isinstance(item, list) for item in value):
        return _zeros_and_ones(name, value if isinstance(value, list) else [value])
    if not any(value):
        raise ValueError(f"{name}: {short(value)} holds no label; accepted is {LABEL_FORM}.")
    return [_zeros_and_ones(f"{name}: object {k}", labels) for k, labels in enumerate(value, start=1)]


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


def parse_intensity_range(text: str) -> tuple[float, float] | None:
    """The values of the parameter intensity_range, which are shown as black and as white; None when none are given."""
    name = "intensity_range"
    value = _load_json(name, text, RANGE_FORM)
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 2 or not all(_is_number(v) for v in value):
        raise ValueError(f"{name}: {short(value)} does not hold 2 numbers; accepted is {RANGE_FORM}.")
    if not all(abs(v) <= sys.float_info.max for v in value) or not value[0] < value[1]:
        raise ValueError(f"{name}: {short(value)} is not accepted; accepted is {RANGE_FORM}.")
    return float(value[0]), float(value[1])


def _load_json(name: str, text: str, form: str) -> Any:
    """The JSON value of `text`, None when that is empty; tuples may stand in it, as str() writes them: (1, 2) or (1,)."""
    text = text.strip()
    if text in ("", "None"):
        return None
    if len(text) > MAX_CHARACTERS:
        raise ValueError(
            f"{name}: {short(text)} has {len(text)} characters; accepted is {form}, in {MAX_CHARACTERS} characters at most."
        )
    try:
        value = json.loads(text.replace(",)", "]").replace("(", "[").replace(")", "]"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: {short(text)} is not valid JSON; accepted is {form}{array_hint(text)}.") from error
    return None if value == [] else value


def _holds_lists(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, list) for item in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_count(name: str, count: int, form: str) -> None:
    if count > MAX_ENTRIES:
        raise ValueError(f"{name}: {count} entries are too many; accepted is {form}, {MAX_ENTRIES} of them at most.")


def _rows(name: str, value: Any, width: int, form: str) -> npt.NDArray[np.float64]:
    """`value` as (N, width) float64: one row of numbers, or a list of rows; (0, width) for None."""
    rows = [] if value is None else value
    if not isinstance(rows, list):
        raise ValueError(f"{name}: {short(value)} is not a list; accepted is {form}.")
    if rows and all(_is_number(v) for v in rows):
        rows = [rows]
    for i, row in enumerate(rows, start=1):
        if not isinstance(row, list) or len(row) != width or not all(_is_number(v) for v in row):
            raise ValueError(f"{name}: entry {i}, {short(row)}, does not hold {width} numbers; accepted is {form}.")
        if not all(abs(v) < 1e9 for v in row):  # also False for NaN and infinity, which JSON readers let through
            raise ValueError(f"{name}: entry {i}, {short(row)}, is not finite or too large; accepted is {form}.")
    return np.array(rows, np.float64).reshape(-1, width)


def _zeros_and_ones(name: str, values: list[Any]) -> npt.NDArray[np.int32]:
    for i, label in enumerate(values, start=1):
        if not _is_number(label) or label not in (0, 1):
            raise ValueError(f"{name}: entry {i}, {short(label)}, is neither 0 nor 1; accepted is {LABEL_FORM}.")
    return np.array(values, dtype=np.int32)
