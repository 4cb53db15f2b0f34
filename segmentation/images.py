"""Images of any kind, made into what SAM 2 takes: RGB with 8 bits a channel."""

from __future__ import annotations

import logging
import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

logger = logging.getLogger(__name__)

#: Values converted at once.
_VALUES_AT_ONCE = 1 << 18

#: What files say where there is no value, beside the greatest and the least float32, of which some write only the first digits.
_NO_DATA = (-9999.0, -32768.0)
_NO_DATA_FROM, _NO_DATA_TO = 3.3999e38, 3.403e38

#: In per cent, what is cut off at either end of the values; and the part of them that has to lie within a range.
_CUT = 1
_MOST = 0.99

#: Of 256; an image has hardly any contrast where its values, but for the lowest and highest hundredth, span fewer grey values.
_FEW_GREY_VALUES = 32
#: Values that are enough to see that.
_SAMPLES = 1 << 20

LOW_CONTRAST = (
    "The image has hardly any contrast to the model: its values, which are floats, are taken as grey values of 0 to 1 or 0 to "
    "255, and nearly all lie close together. intensity_range sets the values that are black and white, such as [0, 8]."
)

Range = tuple[float, float]
"""The values that are shown as black and as white."""


def to_rgb8(image: npt.NDArray, intensity_range: Range | None = None) -> npt.NDArray[np.uint8]:
    """`image` as (H, W, 3) uint8 RGB, contiguous.

    Without a range 8-bit values stay as they are, and others are stretched by :func:`shown_range`. Booleans become 0 and 255.

    Args:
        image: (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, of any integer, float or boolean dtype. Alpha is
            dropped.
        intensity_range: the values that become 0 and 255; what lies between is stretched linearly, what lies beyond is
            clipped. NaN and what stands for no data become 0.

    Raises:
        ValueError: an empty image, or a shape other than these.
    """
    values = channels_of(image)
    if values.dtype == bool:
        rgb8 = values.astype(np.uint8) * 255
    else:
        if intensity_range is None:
            intensity_range = _found_range(values)
        else:
            logger.debug(
                "The image holds %s: shown from %g (black) to %g (white), as given.", values.dtype, *intensity_range
            )
        rgb8 = _stretched(values, intensity_range)
    rgb8 = rgb8 if rgb8.shape[2] == 3 else rgb8.repeat(3, axis=2)
    # One row that was turned over is contiguous to numpy, and not to torch.
    return rgb8.copy() if min(rgb8.strides) < 0 else np.ascontiguousarray(rgb8)


def shown_range(image: npt.NDArray) -> Range | None:
    """The values of an image that :func:`to_rgb8` shows as black and as white, for the other frames of a video, say.

    A few extreme values do not decide: hot pixels, overshoot, no data. Left out are values that are not finite and, where they
    are the extreme, those that stand for no data: -9999, -32768 and the greatest and least float32. Of the others:

    - floats of which 99% lie within [0, 1], or else within [0, 255], have that range;
    - all else has that from the 1st to the 99th percentile of all channels together, or from the smallest to the largest
      value where these two are equal.

    Returns:
        Black and white; None for 8 bits and booleans, which need no range, and where all values are equal.

    Raises:
        ValueError: as :func:`to_rgb8`.
    """
    values = channels_of(image)
    return None if values.dtype == bool else _found_range(values)


def has_low_contrast(image: npt.NDArray, rgb8: npt.NDArray[np.uint8]) -> bool:
    """Whether :func:`to_rgb8` has shown an image of floats in a few grey values, as it does where they only seem to be those of
    8 bits: reflectances that reach a little above 1, metres, degrees Celsius. A cut-out on one colour is none of these."""
    if image.dtype.kind != "f":
        return False
    step = math.isqrt(rgb8.size // _SAMPLES) + 1
    low, high = np.percentile(rgb8[::step, ::step], [_CUT, 100 - _CUT])
    if high - low >= _FEW_GREY_VALUES:
        return False
    spread = int(rgb8.max()) - int(rgb8.min())
    is_cut_out = low == high and spread == 255
    return spread > 0 and not is_cut_out


def channels_of(image: npt.NDArray) -> npt.NDArray:
    """`image` as (H, W, 1) or (H, W, 3) in the machine's byte order, without alpha.

    Raises:
        ValueError: as :func:`to_rgb8`.
    """
    image = np.asarray(image)  # a np.matrix, for one, has no third axis
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        raise ValueError(
            f"The input image has the shape {image.shape}; accepted are (height, width) and (height, width, channels) "
            "with 1, 3 or 4 channels."
        )
    if image.size == 0:
        raise ValueError(f"The input image is empty: its shape is {image.shape}; accepted is one pixel or more.")
    if image.dtype.kind not in "biuf":
        raise ValueError(f"The input image holds {image.dtype}; accepted are integers, floats and booleans.")
    values = image[..., :3] if image.ndim == 3 else image[..., None]
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _found_range(values: npt.NDArray) -> Range | None:
    if values.dtype == np.uint8:
        return None
    found = _Ordered.of(values)
    low, high = 0, len(found)
    is_float = values.dtype.kind == "f"
    no_data = np.array(_NO_DATA).astype(values.dtype) if is_float else _NO_DATA  # float16 has no -9999
    while low < high and (found[low] in no_data or _NO_DATA_FROM <= -found[low] <= _NO_DATA_TO):
        low = found.count_to(found[low])
    while low < high and _NO_DATA_FROM <= found[high - 1] <= _NO_DATA_TO:
        high = found.count_below(found[high - 1])
    shown = _range_of(found, low, high, is_float) if low < high else None
    if logger.isEnabledFor(logging.DEBUG):
        what = f"{found[low]:g} to {found[high - 1]:g}" if low < high else "nothing"
        how = "black" if shown is None else f"shown from {shown[0]:g} (black) to {shown[1]:g} (white)"
        logger.debug(
            "The image holds %s from %s, and %d values without data: %s.",
            values.dtype,
            what,
            values.size - (high - low),
            how,
        )
    return shown


def _range_of(found: _Ordered, low: int, high: int, is_float: bool) -> Range | None:
    """The range of the values from place `low` to below `high`."""
    most = _MOST * (high - low)
    if is_float:
        for top in (1, 255):
            if min(high, found.count_to(top)) - max(low, found.count_below(0)) >= most:
                return 0, top
    last = high - 1 - low
    cut = round(last * _CUT / 100)
    for first, end in ((low + cut, low + last - cut), (low, low + last)):
        if found[first] < found[end]:
            return found[first], found[end]
    return None


@dataclass(frozen=True)
class _Ordered:
    """The finite values of an image in order, NaN and infinities left out.

    Attributes:
        values: all of them, or each that there is once.
        ends: for each of `values` how many of the image's are not greater.
    """

    values: npt.NDArray
    ends: Sequence[int] | npt.NDArray[np.int64]

    @classmethod
    def of(cls, values: npt.NDArray) -> _Ordered:
        """The values of an image (H, W, C)."""
        if values.dtype.itemsize > 2:
            ordered = np.sort(values, axis=None)
            if values.dtype.kind == "f":  # numpy's order: -infinity, numbers, infinity, NaN
                first, last = (np.array(v, values.dtype) for v in (-np.inf, np.inf))
                ordered = ordered[ordered.searchsorted(first, "right") : ordered.searchsorted(last)]
            return cls(ordered, range(1, len(ordered) + 1))
        # Of one or two bytes there are few different values: to count them is quicker than to sort, and needs no memory.
        codes, table = _coded(values)
        counts = np.zeros(len(table), np.int64)
        for rows in _parts(values):
            counts += np.bincount(codes[rows].ravel(), minlength=len(table))
        order = np.argsort(table, kind="stable")
        order = order[(np.isfinite(table) & (counts > 0))[order]]
        return cls(table[order], np.cumsum(counts[order]))

    def __len__(self) -> int:
        """How many values there are."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, place: int) -> float:
        """The value at a place in the order, from 0."""
        value = self.values[bisect_right(self.ends, place)]
        return value.astype(np.result_type(value, np.float64))  # differences of integers overflow

    def count_below(self, value: float) -> int:
        """How many values are less."""
        return self._end(bisect_left(self.values, value))

    def count_to(self, value: float) -> int:
        """How many values are less or equal."""
        return self._end(bisect_right(self.values, value))

    def _end(self, k: int) -> int:
        return int(self.ends[k - 1]) if k else 0


def _coded(values: npt.NDArray) -> tuple[npt.NDArray, npt.NDArray[np.float64]]:
    """Values of one or two bytes as places in a table, and the table: what each stands for."""
    unsigned = np.dtype(f"u{values.dtype.itemsize}")
    everything = np.arange(1 << 8 * unsigned.itemsize).astype(unsigned)
    return values.view(unsigned), everything.view(values.dtype).astype(np.float64)


def _parts(values: npt.NDArray) -> list[slice]:
    """Some rows at a time: in double precision the whole of a large image takes gigabytes, and as many seconds."""
    step = max(_VALUES_AT_ONCE // values[0].size, 1)
    return [slice(start, start + step) for start in range(0, len(values), step)]


def _stretched(values: npt.NDArray, shown: Range | None) -> npt.NDArray[np.uint8]:
    """`values` (H, W, C) as 8 bits; without a range 8 bits as they are, and others black."""
    if shown is None and values.dtype == np.uint8:
        return values
    result = np.empty(values.shape, np.uint8)
    if values.dtype.itemsize <= 2:
        codes, table = _coded(values)
        shades = _scaled(table, shown).astype(np.uint8)
        for rows in _parts(values):
            result[rows] = shades[codes[rows]]
    else:
        wide = np.result_type(values, np.float64)  # long doubles stay: they may not fit
        for rows in _parts(values):
            result[rows] = _scaled(values[rows].astype(wide, copy=False), shown)
    return result


def _scaled(values: npt.NDArray[np.floating], shown: Range | None) -> npt.NDArray[np.floating]:
    """`values` as whole numbers from 0 to 255."""
    if shown is None:
        return np.where(values == np.inf, 255.0, 0.0)
    low, high = shown
    is_black = np.isnan(values) | ((values > high) & (values >= _NO_DATA_FROM) & (values <= _NO_DATA_TO))
    values = np.where(is_black, low, values)
    if max(-low, high) > np.finfo(values.dtype).max / 1024:
        values, low, high = values / 1024, low / 1024, high / 1024  # or the product below overflows
    return np.rint((np.clip(values, low, high) - low) * 255 / (high - low))


def resize_percent(image: npt.NDArray[np.uint8], percent: int) -> npt.NDArray[np.uint8]:
    """`image` (H, W, 3) at `percent` of its size, each side at least 1 pixel, with antialiasing; itself at 100.

    Raises:
        ValueError: anything but (H, W, 3) uint8.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"The image is {image.shape} of {image.dtype}; accepted is (height, width, 3) of uint8, RGB: "
            "segmentation.images.to_rgb8(image) makes it of others."
        )
    if percent == 100:
        return image
    from PIL import Image

    height, width = (max(1, round(side * percent / 100)) for side in image.shape[:2])
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))  # torch wants it writable
