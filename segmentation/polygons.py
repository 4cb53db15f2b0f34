"""Masks as polygons: one for each part, its holes joined to it by a bridge without width.

Where a polygon runs depends on who fills it. For COCO a pixel is a square, and a polygon along the edges of the squares covers
just them. For OpenCV's fillPoly, which draws YOLO's polygons, a pixel is a point, and points on the outline are filled too: a
polygon through the centres of the outermost pixels covers just the mask.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .messages import needs_opencv, not_accepted

#: How far in pixels a simplified outline may run from the exact one.
DEFAULT_TOLERANCE = 1.0

#: (P, 2) float64: x and y of the corners in pixels, the image's upper left corner at 0, 0. The last is joined to the first.
Polygon = npt.NDArray[np.float64]

# Corners whose distances to all others are in memory together.
_AT_ONCE = 100
_RIGHT_BELOW, _LEFT_ABOVE_AND_RIGHT_BELOW = 8, 9
#: How many corners of outlines lie where four pixels meet, by which of them are on: 1, 2 in the upper row, 4, 8 in the lower.
_CORNERS = np.array([0, 1, 1, 0, 1, 0, 2, 1, 1, 2, 0, 1, 0, 1, 1, 0], np.uint8)


def check_tolerance(tolerance: float) -> None:
    """Refuse what is no distance in pixels.

    Raises:
        ValueError: negative or not finite.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(not_accepted("tolerance", tolerance, "a number of pixels, 0 or more; 0 keeps every corner"))


def part_polygons(mask: npt.NDArray[np.bool_], tolerance: float = DEFAULT_TOLERANCE) -> list[Polygon]:
    """A polygon for each part of a mask (H, W), along the edges of its pixels; pixels that touch at a corner are two parts.

    A hole is joined to the outline around it by a bridge that is walked there and back.

    Args:
        mask: (H, W) bool.
        tolerance: how far in pixels the polygons may run from the exact outline; 0: they are exact.

    Raises:
        ValueError: as :func:`check_tolerance`.
        ImportError: a tolerance above 0 where OpenCV is not installed.
    """
    return _polygons(mask, tolerance, through_centres=False)


def one_polygon(mask: npt.NDArray[np.bool_], tolerance: float = DEFAULT_TOLERANCE) -> Polygon:
    """A mask (H, W) as one polygon through the centres of its outermost pixels, holes and parts joined by bridges.

    The centre of the upper left pixel is at 0.5, 0.5. A bridge to a hole runs over pixels of the mask; one to another part is
    a line that what draws outlines will draw, and what fills areas will not. A mask without a pixel has no corner.

    Args:
        mask: (H, W) bool.
        tolerance: as :func:`part_polygons`.

    Raises:
        ValueError, ImportError: as :func:`part_polygons`.
    """
    parts = _polygons(mask, tolerance, through_centres=True)
    return _all_joined(parts) if parts else np.zeros((0, 2))


def _polygons(mask: npt.NDArray[np.bool_], tolerance: float, through_centres: bool) -> list[Polygon]:
    check_tolerance(tolerance)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    corner = np.array([columns[0], rows[0]], np.float64)
    polygons = []
    for outline, *holes in _parts(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]):
        rings = [_inset(ring) if through_centres else ring for ring in (outline, *holes)]
        polygon, *inner = (_simplified(ring, tolerance) for ring in rings)
        for hole in sorted(inner, key=lambda ring: ring[:, 0].min()):  # a bridge goes left, to what is joined already
            polygon = _with_hole(polygon, hole)
        polygons.append(polygon + corner)
    return polygons


def _parts(mask: npt.NDArray[np.bool_]) -> list[list[Polygon]]:
    """Of each part its outline, and then those of its holes."""
    rings = _rings(mask)
    vertical = np.concatenate([np.stack([ring, np.roll(ring, -1, axis=0)], axis=1) for ring, _ in rings])
    ring_of = np.repeat(np.arange(len(rings)), [len(ring) for ring, _ in rings])
    is_vertical = vertical[:, 0, 0] == vertical[:, 1, 0]
    vertical, ring_of = vertical[is_vertical], ring_of[is_vertical]
    x, top, bottom = vertical[:, 0, 0], vertical[..., 1].min(axis=1), vertical[..., 1].max(axis=1)

    parts: list[list[Polygon]] = []
    part_of = np.zeros(len(rings), np.int64)
    for k in sorted(range(len(rings)), key=lambda k: rings[k][0][:, 0].min()):
        ring, is_hole = rings[k]
        if is_hole:  # of the part whose outline, or whose other hole, is the next one on the left
            left = ring[np.lexsort((ring[:, 1], ring[:, 0]))[0]]
            passed = np.flatnonzero((x < left[0]) & (top <= left[1]) & (left[1] < bottom))
            part_of[k] = part_of[ring_of[passed[x[passed].argmax()]]]
            parts[part_of[k]].append(ring)
        else:
            part_of[k] = len(parts)
            parts.append([ring])
    return parts


def _rings(mask: npt.NDArray[np.bool_]) -> list[tuple[Polygon, bool]]:
    """Every closed line between pixels that are on and pixels that are off, and whether it goes around a hole.

    Only corners are listed. With y downwards the mask lies on the right of who walks along.
    """
    on = np.pad(mask, 1).view(np.uint8)
    around = on[:-1, :-1] + 2 * on[:-1, 1:] + 4 * on[1:, :-1] + 8 * on[1:, 1:]
    y, x = np.nonzero(_CORNERS[around])
    around = around[y, x]
    y, x, around = (np.repeat(values, _CORNERS[around]) for values in (y, x, around))
    # Of two corners at one place the first ends the edge from the left, the second begins the one to the right.
    second = np.zeros(len(y), bool)
    second[1:] = (y[1:] == y[:-1]) & (x[1:] == x[:-1])
    # Pixels that touch at a corner are apart: the edge from the left goes on upwards where the pixel there is on.
    goes_up = np.where(around == _LEFT_ABOVE_AND_RIGHT_BELOW, ~second, second)
    # Along a row and down a column, every other corner begins an edge that the next one ends.
    down = np.lexsort((~goes_up, y, x))
    vertical = np.empty(len(y), np.int64)
    vertical[down[::2]], vertical[down[1::2]] = down[1::2], down[::2]
    next_of, begun = vertical.tolist(), bytearray(len(y))
    rings = []
    for start in range(0, len(y), 2):
        corners: list[int] = []
        k = start
        while not begun[k]:
            begun[k] = begun[k ^ 1] = 1
            corners += (k, k ^ 1)
            k = next_of[k ^ 1]
        if corners:
            ring = np.stack([x[corners], y[corners]], axis=1).astype(np.float64)
            is_hole = not around[start] & _RIGHT_BELOW
            rings.append((ring[::-1] if is_hole else ring, is_hole))
    return rings


def _inset(ring: Polygon) -> Polygon:
    """A ring of edges moved by half a pixel into the mask: through the centres of the pixels along it."""
    ahead = np.sign(np.roll(ring, -1, axis=0) - ring)
    sideways = ahead + np.roll(ahead, 1, axis=0)
    return ring + 0.5 * np.stack([-sideways[:, 1], sideways[:, 0]], axis=1)


def _simplified(ring: Polygon, tolerance: float) -> Polygon:
    """A ring with as few of its corners as `tolerance` allows, but no fewer than three."""
    if tolerance == 0:
        return ring
    try:
        import cv2
    except ImportError as error:
        raise ImportError(needs_opencv("tolerance", tolerance)) from error
    fewer = cv2.approxPolyDP(ring.astype(np.float32), tolerance, True).reshape(-1, 2).astype(np.float64)
    return fewer if len(fewer) >= 3 else ring


def _with_hole(ring: Polygon, hole: Polygon) -> Polygon:
    """A ring and that of a hole in it as one: from the hole's leftmost corner straight to the left."""
    hole = np.roll(hole, -np.lexsort((hole[:, 1], hole[:, 0]))[0], axis=0)
    x, y = hole[0]
    ends = np.roll(ring, -1, axis=0)
    low, high = np.minimum(ring[:, 1], ends[:, 1]), np.maximum(ring[:, 1], ends[:, 1])
    crossed = np.flatnonzero((low <= y) & (y <= high) & (low < high))
    begin, end = ring[crossed], ends[crossed]
    at = begin[:, 0] + (end[:, 0] - begin[:, 0]) * (y - begin[:, 1]) / (end[:, 1] - begin[:, 1])
    at[at > x] = -np.inf
    if not len(at) or at.max() == -np.inf:  # simplified, the ring passes the hole on its other side
        return _all_joined([ring, hole])
    k = at.argmax()
    door = [[at[k], y]]
    return np.concatenate([ring[: crossed[k] + 1], door, hole, hole[:1], door, ring[crossed[k] + 1 :]])


def _all_joined(rings: list[Polygon]) -> Polygon:
    """Rings as one: to the longest the nearest is joined, then the next, each between the two corners that are closest."""
    newest, *others = sorted(rings, key=len, reverse=True)
    joined = newest
    corners = np.concatenate([*others, np.zeros((0, 2))])
    ring_of = np.repeat(np.arange(len(others)), [len(ring) for ring in others])
    distance, closest = np.full(len(corners), np.inf), np.zeros_like(corners)  # to what is joined
    for _ in others:
        for some in np.array_split(newest, len(newest) // _AT_ONCE + 1):
            squared = np.square(corners).sum(axis=1)[:, None] - 2 * corners @ some.T + np.square(some).sum(axis=1)
            nearest = squared.argmin(axis=1)
            squared = squared[np.arange(len(corners)), nearest]
            closer = squared < distance
            distance[closer], closest[closer] = squared[closer], some[nearest[closer]]
        there = distance.argmin()
        newest = others[ring_of[there]]
        joined = _joined(joined, closest[there], newest, corners[there])
        later = ring_of != ring_of[there]
        corners, ring_of, distance, closest = corners[later], ring_of[later], distance[later], closest[later]
    return joined


def _joined(ring: Polygon, corner: Polygon, other: Polygon, corner_of_other: Polygon) -> Polygon:
    """Two rings as one, joined between these corners."""
    here, there = (int((each == at).all(axis=1).argmax()) for each, at in ((ring, corner), (other, corner_of_other)))
    other = np.roll(other, -there, axis=0)
    return np.concatenate([ring[: here + 1], other, other[:1], ring[here:]])
