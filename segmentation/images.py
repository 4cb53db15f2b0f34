"""Images of any kind, made into what SAM 2 takes: RGB with 8 bits a channel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: Values converted at once.
_VALUES_AT_ONCE = 1 << 18


def to_rgb8(image: npt.NDArray) -> npt.NDArray[np.uint8]:
    """`image` as (H, W, 3) uint8 RGB, contiguous.

    8-bit values stay as they are and booleans become 0 and 255. Floats within [0, 1] are scaled by 255, floats within
    [0, 255] are rounded. Anything else (16-bit, 32-bit, wider floats) is stretched linearly from its own minimum and
    maximum to 0 and 255, as viewers do, because a camera's 12 bits in a 16-bit file would be black otherwise. NaN counts
    as the smallest finite value, infinities as the largest and smallest finite ones. Where there is nothing to stretch, in
    an image of one value or without a finite one, the result is black.

    Args:
        image: (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, of any integer, float or boolean dtype. Alpha is
            dropped.

    Raises:
        ValueError: an empty image, or a shape other than these.
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
    rgb8 = _to_uint8(image[..., :3] if image.ndim == 3 else image[..., None])
    rgb8 = rgb8 if rgb8.shape[2] == 3 else rgb8.repeat(3, axis=2)
    # One row that was turned over is contiguous to numpy, and not to torch.
    return rgb8.copy() if min(rgb8.strides) < 0 else np.ascontiguousarray(rgb8)


def _to_uint8(values: npt.NDArray) -> npt.NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    # Some rows at a time: in double precision the whole of a large image takes gigabytes, and as many seconds.
    step = max(_VALUES_AT_ONCE // values[0].size, 1)
    parts = [slice(start, start + step) for start in range(0, len(values), step)]
    finite = (part[np.isfinite(part)] for part in (_widened(values[rows]) for rows in parts))
    extremes = [(part.min(), part.max()) for part in finite if part.size]
    result = np.zeros(values.shape, np.uint8)
    if extremes:
        low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
        for rows in parts:
            result[rows] = _scaled(_widened(values[rows]), low, high, values.dtype.kind == "f")
    return result


def _widened(values: npt.NDArray) -> npt.NDArray[np.floating]:
    return values.astype(np.result_type(values, np.float64), copy=False)  # long doubles stay: they may not fit


def _scaled(values: npt.NDArray[np.floating], low: float, high: float, is_float: bool) -> npt.NDArray[np.floating]:
    """`values` from 0 to 255, whole numbers; `low` and `high` are the least and the greatest finite one of the image."""
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    if is_float and low >= 0 and high <= 255:
        return np.rint(values * 255 if high <= 1 else values)
    if low == high:
        return np.zeros_like(values)
    # To [-1, 1] first: the difference of two numbers near the largest one overflows.
    peak = max(abs(low), abs(high))
    values, low, high = values / peak, low / peak, high / peak
    return np.rint((values - low) / (high - low) * 255)


def resize_percent(image: npt.NDArray[np.uint8], percent: int) -> npt.NDArray[np.uint8]:
    """`image` (H, W, 3) at `percent` of its size, each side at least 1 pixel, with antialiasing; itself at 100."""
    if percent == 100:
        return image
    from PIL import Image

    height, width = (max(1, round(side * percent / 100)) for side in image.shape[:2])
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))  # torch wants it writable
