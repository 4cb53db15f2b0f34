"""Images of every kind become 8-bit RGB in the documented way, or a clear error; nothing in between."""

from __future__ import annotations

import logging
import re
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from skimage import data

from infer_segment_anything_2.segmentation.images import resize_percent, shown_range, to_rgb8


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
        ([1e300, 1.25e300, 2e300], "f8", [0, 64, 255]),
        ([-1.7976931348623157e308, 0, 1.7976931348623157e308], "f8", [0, 128, 255]),
        ([-65504, 0, 65504], "f2", [0, 128, 255]),
        # integers: stretched
        ([0, 2048, 4096], "u2", [0, 128, 255]),
        ([1000, 1051, 1255], "u2", [0, 51, 255]),
        ([-32767, 32767], "i2", [0, 255]),
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
        ([np.nan, 100, 200], "f4", [0, 100, 200]),
        ([-np.inf, 0.2, 0.4, np.inf], "f8", [0, 51, 102, 255]),
        ([-np.inf, -10, 10, np.inf, np.nan], "f4", [0, 0, 255, 255, 0]),
        ([np.nan, np.inf, -np.inf], "f2", [0, 255, 0]),
        # no data, where it is the extreme
        ([-9999, 100, 300, 500], "i2", [0, 0, 128, 255]),
        ([-32768, -9999, 100, 300, 500], "i4", [0, 0, 0, 128, 255]),
        ([-9999, -10050, 0, 10050], "f4", [1, 0, 128, 255]),
        ([-9999, -32768, 0.2, 0.4], "f2", [0, 0, 51, 102]),
        ([-3.4e38, 3.4e38, 0.2, 0.4], "f4", [0, 0, 51, 102]),
        ([-3.4028234663852886e38, 3.4028234663852886e38, -9999, 20, 40], "f8", [0, 0, 0, 20, 40]),
        ([-9999, -9999], "f4", [0, 0]),
        ([-32768, 7, 7], "i2", [0, 0, 0]),
    ],
)
def test_values_are_converted_as_documented(values, dtype, expected):
    assert converted(values, dtype) == expected


@pytest.mark.parametrize(
    ("values", "dtype", "shown", "expected"),
    [
        ([0, 100, 150, 200, 255], "u1", (100, 200), [0, 0, 128, 255, 255]),
        ([0, 2048, 4096, 65535], "u2", (0, 4096), [0, 128, 255, 255]),
        ([-9999, -20, 20, 60, 3.4e38], "f4", (-20, 60), [0, 0, 128, 255, 0]),
        ([np.nan, -np.inf, 0.5, np.inf], "f4", (0, 1), [0, 0, 128, 255]),
        ([7, 7], "i4", (0, 14), [128, 128]),
        ([0, 1e300, 1.7e308], "f8", (0, 1.7e308), [0, 0, 255]),
        ([False, True], bool, (0, 5), [0, 255]),
    ],
)
def test_a_given_range_is_black_and_white_whatever_the_values_are(values, dtype, shown, expected):
    assert to_rgb8(grey(values, dtype), shown)[0, :, 0].tolist() == expected


@pytest.mark.parametrize("dtype", ["u2", "i4", "f2", "f4", "f8"])
def test_the_range_of_one_frame_serves_the_others_of_a_video(dtype):
    first, brighter = (np.linspace(0, top, 600).reshape(20, 30).astype(dtype) for top in (800, 1600))
    shown = shown_range(first)
    np.testing.assert_array_equal(to_rgb8(first, shown), to_rgb8(first))
    assert (to_rgb8(brighter, shown) == 255).sum() > brighter.size
    np.testing.assert_allclose(shown, np.percentile(first, [1, 99]), atol=2)


@pytest.mark.parametrize("image", [np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), bool), np.full((2, 2), 7, np.int16)])
def test_images_that_are_not_stretched_have_no_range(image):
    assert shown_range(image) is None


def test_the_log_says_at_level_debug_what_was_done(caplog):
    with caplog.at_level(logging.DEBUG, "infer_segment_anything_2"):
        converted([-9999, *range(101)], "i2")
        converted([0, 4095], "u2")
        to_rgb8(grey([0, 7], "u2"), (0, 4095))
        converted([7, 7], "u2")
        converted([1, 2], "u1")
    assert [record.message for record in caplog.records] == [
        "The image holds int16 from 0 to 100, and 1 values without data: shown from 1 (black) to 99 (white).",
        "The image holds uint16 from 0 to 4095, and 0 values without data: shown from 0 (black) to 4095 (white).",
        "The image holds uint16: shown from 0 (black) to 4095 (white), as given.",
        "The image holds uint16 from 7 to 7, and 0 values without data: black.",
    ]


# --- a few extreme values

#: A photograph as cameras and files have it, by name: (H, W, 3).
FORMS = {
    "12 bits": lambda photo: photo.astype(np.uint16) * 16,
    "16 bits": lambda photo: photo.astype(np.uint16) * 257,
    "signed": lambda photo: (photo.astype(np.int32) * 100 - 9000).astype(np.int16),
    "32 bits": lambda photo: photo.astype(np.int32) * 10_000,
    "float32 to 1": lambda photo: (photo / 255).astype(np.float32),
    "float64 to 1": lambda photo: photo / 255,
    "float16 to 1": lambda photo: (photo / 255).astype(np.float16),
    "float32 to 255": lambda photo: photo.astype(np.float32),
    "reflectance": lambda photo: (photo * 40.0 - 500).astype(np.float32),
}
#: Values that a few pixels have, by name; as far as the dtype has them.
EXTREMES = {
    "hot": lambda dtype: float(np.finfo(dtype).max) / 100 if dtype.kind == "f" else np.iinfo(dtype).max,
    "dead": lambda dtype: -float(np.finfo(dtype).max) / 100 if dtype.kind == "f" else np.iinfo(dtype).min,
    "just above": lambda dtype: 1.000001,
    "just below": lambda dtype: -1e-6,
    "far above": lambda dtype: 3000,
    "far below": lambda dtype: -3000,
    "nan": lambda dtype: np.nan,
    "infinity": lambda dtype: np.inf,
    "minus infinity": lambda dtype: -np.inf,
}


def photograph() -> np.ndarray:
    """(128, 128, 3) uint8 with both black and white in it."""
    return np.ascontiguousarray(data.astronaut()[::4, ::4])


def nearly_equal(ours: np.ndarray, clean: np.ndarray) -> bool:
    """Whether 8-bit values differ by no more than one cut at the percentiles moves them."""
    return np.abs(ours.astype(int) - clean).max(initial=0) <= 5


def holds(dtype: np.dtype, value: float) -> bool:
    """Whether an image of `dtype` can have that value, or one near it."""
    if dtype.kind == "f":
        return not np.isfinite(value) or abs(value) <= float(np.finfo(dtype).max)
    return np.isfinite(value) and value == round(value) and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


DTYPES = {form: make(np.zeros((1, 1, 3), np.uint8)).dtype for form, make in FORMS.items()}
FEW = [(form, extreme) for form, dtype in DTYPES.items() for extreme, of in EXTREMES.items() if holds(dtype, of(dtype))]


@pytest.mark.parametrize("part", [1 / 16384, 0.005])
@pytest.mark.parametrize(("form", "extreme"), FEW)
def test_a_few_extreme_pixels_leave_the_others_as_they_are_shown_without_them(form, extreme, part):
    clean = FORMS[form](photograph())
    changed = clean.copy()
    places = np.random.default_rng(0).permutation(128 * 128)[: round(part * 128 * 128)]
    changed.reshape(-1, 3)[places] = EXTREMES[extreme](clean.dtype)
    others = np.setdiff1d(np.arange(128 * 128), places)
    shown, before = (to_rgb8(image).reshape(-1, 3) for image in (changed, clean))
    assert nearly_equal(shown[others], before[others])
    if extreme in ("hot", "infinity", "dead", "nan", "minus infinity"):
        assert (shown[places] == (255 if extreme in ("hot", "infinity") else 0)).all()


NO_DATA = [-9999, -32768, -3.4e38, -3.4028234663852886e38, 3.4e38, 3.4028234663852886e38, np.nan, -np.inf]
WITHOUT = [(form, v) for form, dtype in DTYPES.items() for v in NO_DATA if dtype.kind != "u" and holds(dtype, v)]


@pytest.mark.parametrize("percent", [1, 3, 40])
@pytest.mark.parametrize(("form", "no_data"), WITHOUT)
def test_no_data_is_black_and_does_not_decide_how_the_rest_is_shown(form, no_data, percent):
    clean = FORMS[form](photograph())
    changed, rows = clean.copy(), round(1.28 * percent)
    changed[:rows] = no_data
    shown = to_rgb8(changed)
    assert (shown[:rows] == 0).all()
    np.testing.assert_array_equal(shown[rows:], to_rgb8(clean[rows:]))


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
    assume(not ((source.astype("f8") > 3.39e38) & (source.astype("f8") < 3.41e38)).any())  # no data
    shown = result.ravel()[~np.isnan(source)].astype(int)
    order = np.argsort(source[~np.isnan(source)], kind="stable")
    assert (np.diff(shown[order]) >= 0).all()


@settings(max_examples=100, deadline=None)
@given(nps.arrays("f8", (2, 3), elements=st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)))
def test_a_stretched_image_uses_the_whole_range(image):
    assume(
        not np.isin(np.abs(image), [9999, 32768]).any()
        and not ((np.abs(image) > 3.39e38) & (np.abs(image) < 3.41e38)).any()
    )
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


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((6, 5), np.uint8), ((6, 5, 4), np.uint8), ((6, 5, 3), np.uint16), ((6, 5, 3), np.float64), ((0, 5, 3), np.uint8)],
)
@pytest.mark.parametrize("percent", [50, 100])
def test_images_that_are_not_rgb_of_8_bits_are_refused_with_what_makes_it_of_them(shape, dtype, percent):
    with pytest.raises(ValueError, match=rf"^The image is {re.escape(str(shape))} of {np.dtype(dtype)}; .*to_rgb8"):
        resize_percent(np.zeros(shape, dtype), percent)


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
