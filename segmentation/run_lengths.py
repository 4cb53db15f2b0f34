"""From logits at the decoder's resolution to run-length encoded masks at the image's size, without the pixels between.

`F.interpolate(logits, image_hw, mode="bilinear") > threshold` fills an array of the image's size for each mask, and measuring
and encoding the mask reads that array several times: 48 MB each time on a photo of 12 megapixels. But between two rows of the
small array an interpolated column is a straight line. Where the line crosses the threshold says how many pixels lie on either
side. That is the run-length encoding, and the lengths add up to the area. So only the columns are interpolated, and only where
something is above the lowest threshold.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from .masks import RLE


class UpscaledMask:
    """Logits stretched to the size of an image, ready to be cut at thresholds.

    Args:
        logits: (h, w) float32.
        image_hw: height and width in pixels that they are stretched to, bilinearly with align_corners=False.
        lowest_threshold: no lower one will be asked for.
    """

    def __init__(
        self, logits: npt.NDArray[np.float32], image_hw: tuple[int, int], lowest_threshold: float = -np.inf
    ) -> None:
        self._height = image_hw[0]
        self._source_height = logits.shape[0]
        above = logits > lowest_threshold
        rows, columns = np.flatnonzero(above.any(axis=1)), np.flatnonzero(above.any(axis=0))
        if not len(rows):
            self._columns, self._first_row, self._first_column = np.zeros((0, 1), np.float32), 0, 0
            return
        # One row more on each side, and the pixels between one column more: interpolation mixes neighbours.
        self._first_row = max(int(rows[0]) - 1, 0)
        left, weights = _neighbours(logits.shape[1], image_hw[1])
        first, stop = np.searchsorted(left, (columns[0] - 1, columns[-1] + 1))
        self._first_column = int(first)
        left, weights = left[first:stop], weights[first:stop, None]
        right = np.minimum(left + 1, logits.shape[1] - 1)
        part = np.ascontiguousarray(logits[self._first_row : rows[-1] + 2].T)
        self._columns = part[left] * (1 - weights) + part[right] * weights  # (pixels across, rows of the logits)

    def flips(
        self, threshold: float, corner_xy: tuple[int, int] = (0, 0), canvas_height: int | None = None
    ) -> npt.NDArray[np.int64]:
        """Where the mask `logits > threshold` begins, ends, begins again and so on.

        Pixels are counted down the columns, as COCO counts them.

        Args:
            threshold: not below `lowest_threshold`.
            corner_xy: where in a larger canvas the upper left pixel lies.
            canvas_height: height in pixels of that canvas; None: the image's.
        """
        inside = self._columns > threshold
        column, row = np.divmod(np.flatnonzero(inside[:, 1:] != inside[:, :-1]), max(inside.shape[1] - 1, 1))
        upper, lower = (self._columns[column, r].astype(np.float64) for r in (row, row + 1))
        row += self._first_row
        # Pixel y is sampled at row (y + 0.5) * h / height - 0.5.
        crossing = (row + (upper - threshold) / (upper - lower) + 0.5) * self._height / self._source_height - 0.5
        # Downwards, a mask ends with the first pixel at the crossing or past it, and begins with the first past it.
        pixel = np.where(upper > lower, np.ceil(crossing), np.floor(crossing) + 1).astype(np.int64)
        first_pixels = _first_pixels(self._source_height, self._height)
        pixel = np.clip(pixel, first_pixels[row], first_pixels[row + 1])

        # Columns that are inside at the upper and the lower edge of the image.
        reaches_bottom = self._first_row + inside.shape[1] == self._source_height
        begins = np.flatnonzero(inside[:, 0]) if self._first_row == 0 else row[:0]
        ends = np.flatnonzero(inside[:, -1]) if reaches_bottom else row[:0]
        column = np.concatenate([column, begins, ends]) + self._first_column + corner_xy[0]
        pixel = np.concatenate([pixel, np.zeros_like(begins), np.full_like(ends, self._height)]) + corner_xy[1]
        positions, times = np.unique(column * (canvas_height or self._height) + pixel, return_counts=True)
        return positions[times % 2 == 1]  # an end where the next begins, as at the foot of a column, is none


def area(flips: npt.NDArray[np.int64]) -> int:
    """Pixels in a mask of which `UpscaledMask.flips` said where it begins and ends."""
    return int((flips[1::2] - flips[::2]).sum())


def to_rle(flips: npt.NDArray[np.int64], canvas_hw: tuple[int, int]) -> RLE:
    """The COCO encoding of a mask of which `UpscaledMask.flips` said where it begins and ends."""
    height, width = canvas_hw
    counts = np.diff(flips, prepend=0, append=height * width)
    if len(counts) > 1 and counts[-1] == 0:
        counts = counts[:-1]
    return coco.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)


@lru_cache(maxsize=16)
def _neighbours(size: int, new_size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each of `new_size` pixels, the sample of `size` on its left and the weight of the sample on its right.

    Computed in float32 and in torch's order, so that it rounds as torch does (area_pixel_compute_source_index in UpSample.h).
    """
    scale, half = np.float32(size) / np.float32(new_size), np.float32(0.5)
    source = np.maximum(scale * (np.arange(new_size, dtype=np.float32) + half) - half, np.float32(0))
    left = np.minimum(source.astype(np.int64), size - 1)
    return left, (source - left).astype(np.float32)


@lru_cache(maxsize=16)
def _first_pixels(size: int, new_size: int) -> npt.NDArray[np.int64]:
    """(size + 1,): the first of `new_size` pixels that lies at or past sample i."""
    return np.searchsorted(_neighbours(size, new_size)[0], np.arange(size + 1))
