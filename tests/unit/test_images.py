"""Images of every kind become 8-bit RGB in the documented way, or a clear error; nothing in between."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from infer_segment_anything_2.segmentation.images import resize_percent, to_rgb8


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def grey(values, dtype) -> np.ndarray:
    """One row of grey pixels."""
    return np.array([values], dtype)


def converted(values, dtype) -> list[int]:
    """The first channel of a row of grey pixels; the others are the same."""
    result = to_rgb8(grey(values, dtype))
    assert result.dtype == np.uint8
    assert (result == result[..., :1]).all()
    return result[0, :, 0].tolist()


# --- shapes


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4), (1, 1), (1, 1, 3), (1, 7, 4), (7, 1)])
@pytest.mark.parametrize(
    "dtype", [np.uint8, bool, np.uint16, np.int16, np.int32, np.int64, "f2", "f4", "f8", "g", ">u2", ">f4"]
)
def test_every_accepted_shape_and_dtype_becomes_contiguous_8_bit_rgb(shape, dtype):
    image = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    result = to_rgb8(image)
    assert result.shape == (*shape[:2], 3)
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous


@pytest.mark.parametrize("shape", [(5,), (), (2, 3, 2), (2, 3, 5), (2, 3, 0), (1, 2, 3, 3), (3, 40, 50)])
def test_other_shapes_are_refused_with_the_shape_and_what_is_accepted(shape):
    with pytest.raises(ValueError) as error:
        to_rgb8(np.zeros(shape, np.uint8))
    assert str(shape) in str(error.value)
    assert "1, 3 or 4 channels" in str(error.value)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0, 3), (0, 0, 1)])
def test_an_empty_image_is_a_clear_error(shape):
    with pytest.raises(ValueError, match="image is empty: its shape is"):
        to_rgb8(np.zeros(shape, np.float32))


@pytest.mark.parametrize("dtype", [complex, object, "U3", "S3", "M8[s]", "m8[s]", "V4", [("r", "u1"), ("g", "u1")]])
def test_what_is_not_a_number_is_refused_by_its_dtype(dtype):
    with pytest.raises(ValueError, match=r"^The input image holds .*; accepted are integers, floats and booleans"):
        to_rgb8(np.zeros((2, 3), dtype))


# --- values


def test_8_bit_rgb_stays_as_it_is():
    image = np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8)
    np.testing.assert_array_equal(to_rgb8(image), image)


def test_8_bit_grey_is_repeated_without_stretching():
    image = np.array([[10, 20], [30, 40]], np.uint8)
    for given_image in (image, image[..., None]):
        np.testing.assert_array_equal(to_rgb8(given_image), np.stack([image] * 3, axis=-1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_alpha_is_dropped_and_has_no_say_in_the_stretching(dtype):
    rgb = np.array([[[10, 20, 30], [40, 50, 300]]]).astype(dtype)
    alpha = np.full((1, 2, 1), 60000).astype(dtype)
    np.testing.assert_array_equal(to_rgb8(np.concatenate([rgb, alpha], axis=2)), to_rgb8(rgb))


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([False, True], bool, [0, 255]),
        # floats within [0, 1]: times 255
        ([0, 0.5, 1], "f4", [0, 128, 255]),
        ([0.2, 0.4], "f8", [51, 102]),
        ([0, 0.25, 1], "f2", [0, 64, 255]),
        ([0.5], "f4", [128]),
        ([-0.0, 1], "f4", [0, 255]),
        ([5e-324, 1e-310], "f8", [0, 0]),
        # floats within [0, 255]: rounded
        ([0, 1.2, 254.6], "f4", [0, 1, 255]),
        ([200, 100], "f8", [200, 100]),
        ([200.0], "f2", [200]),
        # wider floats: stretched
        ([0, 64, 256], "f4", [0, 64, 255]),
        ([-1, 0, 1], "f4", [0, 128, 255]),
        ([0, 500, 1000], "f8", [0, 128, 255]),
        ([0, 32768, 65536], "f4", [0, 128, 255]),
        ([-1e-300, 0, 1e-300], "f8", [0, 128, 255]),
        ([1e300, 1.5e300, 2e300], "f8", [0, 128, 255]),
        ([-1.7976931348623157e308, 0, 1.7976931348623157e308], "f8", [0, 128, 255]),
        ([-65504, 0, 65504], "f2", [0, 128, 255]),
        # integers: stretched
        ([0, 2048, 4096], "u2", [0, 128, 255]),
        ([1000, 1051, 1255], "u2", [0, 51, 255]),
        ([-32768, 32767], "i2", [0, 255]),
        ([-128, 0, 127], "i1", [0, 128, 255]),
        ([-(2**31), 2**31 - 1], "i4", [0, 255]),
        ([-(2**63), 0, 2**63 - 1], "i8", [0, 128, 255]),
        ([0, 2**63, 2**64 - 1], "u8", [0, 128, 255]),
        # nothing to stretch
        ([7, 7], "u2", [0, 0]),
        ([-3.5, -3.5], "f4", [0, 0]),
        ([0, 0], "i4", [0, 0]),
        # not finite
        ([np.nan, 0, 1], "f4", [0, 0, 255]),
        ([np.nan, 100, 200], "f4", [100, 100, 200]),
        ([-np.inf, 0.2, 0.4, np.inf], "f8", [51, 51, 102, 102]),
        ([-np.inf, -10, 10, np.inf, np.nan], "f4", [0, 0, 255, 255, 0]),
        ([np.nan, np.inf, -np.inf], "f2", [0, 0, 0]),
    ],
)
def test_values_are_converted_as_documented(values, dtype, expected):
    assert converted(values, dtype) == expected


def test_long_doubles_beyond_a_double_are_stretched_too():
    largest = np.finfo(np.longdouble).max
    assert converted([-largest, 0, largest], np.longdouble) == [0, 128, 255]


def test_views_give_what_their_copies_give():
    image = np.random.default_rng(0).integers(0, 60000, (8, 9, 4)).astype(np.uint16)
    for view in (image[::-1], image[:, ::2], image.transpose(1, 0, 2), image[..., 1], image[..., ::-1]):
        np.testing.assert_array_equal(to_rgb8(view), to_rgb8(view.copy()))
    bgr = image.astype(np.uint8)[..., 2::-1]
    assert to_rgb8(bgr).flags.c_contiguous
    np.testing.assert_array_equal(to_rgb8(bgr), bgr)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5, 3), (5, 1, 4), (1, 1), (1, 1, 1)])
def test_one_row_or_column_that_was_turned_over_has_no_negative_strides(shape):
    image = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    for view in (image[::-1], image[:, ::-1], image[::-1, ::-1]):
        assert min(to_rgb8(view).strides) > 0
        np.testing.assert_array_equal(to_rgb8(view), to_rgb8(view.copy()))


def test_the_given_image_is_left_alone():
    image = np.array([[np.nan, -5, np.inf, 7]])
    before = image.copy()
    to_rgb8(image)
    np.testing.assert_array_equal(image, before)


any_dtype = st.one_of(
    nps.boolean_dtypes(), nps.integer_dtypes(), nps.unsigned_integer_dtypes(), nps.floating_dtypes(sizes=(16, 32, 64))
)
any_shape = st.tuples(st.integers(1, 4), st.integers(1, 4)) | st.tuples(
    st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 3, 4])
)


@settings(max_examples=200, deadline=None)
@given(nps.arrays(any_dtype, any_shape, elements={"allow_subnormal": False}))
def test_any_image_keeps_its_order_of_brightness_without_a_warning(image):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = to_rgb8(image)
    assert result.shape == (*image.shape[:2], 3)
    source = np.broadcast_to(image[..., :3] if image.ndim == 3 else image[..., None], result.shape).ravel()
    shown = result.ravel()[~np.isnan(source)].astype(int)
    order = np.argsort(source[~np.isnan(source)], kind="stable")
    assert (np.diff(shown[order]) >= 0).all()


@settings(max_examples=100, deadline=None)
@given(nps.arrays("f8", (2, 3), elements=st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)))
def test_a_stretched_image_uses_the_whole_range(image):
    if image.min() < image.max() and not (image.min() >= 0 and image.max() <= 255):
        assert (to_rgb8(image).min(), to_rgb8(image).max()) == (0, 255)


# --- size


@pytest.mark.parametrize(
    ("shape", "percent", "expected"),
    [
        ((50, 50), 1, (1, 1)),
        ((1, 1), 1, (1, 1)),
        ((1, 1000), 10, (1, 100)),
        ((200, 100), 50, (100, 50)),
        ((333, 101), 99, (330, 100)),
        ((150, 49), 1, (2, 1)),
    ],
)
def test_each_side_shrinks_by_the_percentage_to_one_pixel_at_least(shape, percent, expected):
    result = resize_percent(np.full((*shape, 3), 77, np.uint8), percent)
    assert result.shape == (*expected, 3)
    assert result.dtype == np.uint8
    assert (result == 77).all()


def test_at_100_percent_the_image_is_itself():
    image = np.zeros((3, 4, 3), np.uint8)
    assert resize_percent(image, 100) is image


def test_a_smaller_image_is_the_mean_of_the_pixels_it_covers():
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2, :2] = [[[0] * 3, [100] * 3], [[100] * 3, [200] * 3]]
    np.testing.assert_array_equal(resize_percent(image, 50)[..., 0], [[100, 0], [0, 0]])


def test_views_can_be_resized():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    view = image[::-1, ::2]
    np.testing.assert_array_equal(resize_percent(view, 50), resize_percent(view.copy(), 50))


@pytest.mark.parametrize("percent", range(1, 101))
def test_no_percentage_of_a_small_image_leaves_nothing(percent):
    height, width, _ = resize_percent(np.zeros((7, 3, 3), np.uint8), percent).shape
    assert 1 <= height <= 7
    assert 1 <= width <= 3
