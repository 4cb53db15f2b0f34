"""Compressed masks, and what is made of them: label images, names, colours and overlays."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from infer_segment_anything_2.segmentation.masks import Masks, best_of, chosen, encode, ranked
from infer_segment_anything_2.segmentation.painting import class_colours, class_names, label_image, overlay


def masks_of(arrays, scores=None, stability=(), image_hw=(4, 6)) -> Masks:
    """Masks from boolean arrays (H, W)."""
    if len(arrays):
        image_hw = arrays[0].shape
    scores = np.linspace(0.9, 0.5, len(arrays)) if scores is None else scores
    return Masks(tuple(image_hw), [encode(a) for a in arrays], np.float32(scores), np.float32(stability))


def square(side: int, image_hw=(20, 20)) -> np.ndarray:
    """A mask of side x side pixels in the upper left corner."""
    mask = np.zeros(image_hw, bool)
    mask[:side, :side] = True
    return mask


def strip(area: int, length: int = 600) -> np.ndarray:
    """A mask of the first `area` pixels of a row."""
    return (np.arange(length) < area)[None]


mask_arrays = nps.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))
mask_stacks = nps.arrays(bool, st.tuples(st.integers(0, 5), st.integers(1, 9), st.integers(1, 9)))


# --- compressed masks


@pytest.mark.parametrize("part", [slice(2), slice(1, None), slice(None, None, -1), slice(-1, None), slice(9, 12)])
def test_a_slice_of_masks_is_those_masks_with_all_that_is_known_of_them(part):
    arrays = [square(side) for side in (3, 5, 8)]
    masks = dataclasses.replace(
        masks_of(arrays, stability=[0.1, 0.2, 0.3]),
        names=["a", "b", "c"],
        ids=[7, None, 9],
        confidences=[0.5, 0.6, None],
    )
    found = masks[part]
    np.testing.assert_array_equal(list(found), np.array(arrays)[part] if len(found) else [])
    assert (found.image_hw, len(found)) == ((20, 20), len(arrays[part]))
    assert (found.names, found.ids) == (["a", "b", "c"][part], [7, None, 9][part])
    np.testing.assert_array_equal(found.scores, masks.scores[part])
    np.testing.assert_array_equal(found.stability_scores, masks.stability_scores[part])


@settings(max_examples=200, deadline=None)
@given(mask_arrays, st.sampled_from(["C", "F", "transposed", "every second", "reversed"]))
def test_a_mask_comes_back_as_it_was_whatever_its_memory_layout(mask, layout):
    given_mask = {
        "C": lambda: np.ascontiguousarray(mask),
        "F": lambda: np.asfortranarray(mask),
        "transposed": lambda: mask.T,
        "every second": lambda: np.repeat(np.repeat(mask, 2, 0), 2, 1)[::2, 1::2],
        "reversed": lambda: mask[::-1, ::-1],
    }[layout]()
    masks = Masks(given_mask.shape, [encode(given_mask)], np.ones(1, np.float32))
    assert masks[0].dtype == bool
    np.testing.assert_array_equal(masks[0], given_mask)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (300, 200)])
@pytest.mark.parametrize("value", [True, False])
def test_full_and_empty_masks_of_any_shape_come_back(shape, value):
    masks = masks_of([np.full(shape, value)])
    np.testing.assert_array_equal(masks[0], np.full(shape, value))
    assert masks.areas.tolist() == [shape[0] * shape[1] * value]
    assert masks.boxes_xyxy.tolist() == [[0, 0, shape[1] * value, shape[0] * value]]


def naive_box(mask: np.ndarray) -> list[int]:
    ys, xs = np.nonzero(mask)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else [0, 0, 0, 0]


@settings(max_examples=200, deadline=None)
@given(mask_stacks)
def test_areas_and_boxes_are_those_of_the_pixels(stack):
    masks = masks_of(stack, image_hw=stack.shape[1:])
    assert len(masks) == len(stack)
    assert masks.areas.dtype == np.int64
    np.testing.assert_array_equal(masks.areas, stack.sum(axis=(1, 2)))
    assert masks.boxes_xyxy.dtype == np.float32
    np.testing.assert_array_equal(masks.boxes_xyxy, np.reshape([naive_box(m) for m in stack], (-1, 4)))
    assert [m.tolist() for m in masks] == stack.tolist()


def test_take_gives_the_chosen_masks_in_the_chosen_order_with_their_scores():
    masks = masks_of([square(1), square(2), square(3)], [0.1, 0.2, 0.3], [0.7, 0.8, 0.9])
    taken = masks.take([2, 0])
    assert taken.areas.tolist() == [9, 1]
    np.testing.assert_allclose(taken.scores, [0.3, 0.1])
    np.testing.assert_allclose(taken.stability_scores, [0.9, 0.7])
    assert taken.image_hw == (20, 20)
    assert masks.areas.tolist() == [1, 4, 9]


def test_take_works_without_stability_scores_and_of_nothing():
    masks = masks_of([square(1), square(2)])
    assert masks.take([1]).stability_scores.shape == (0,)
    assert len(masks.take([])) == 0


def test_masks_are_chosen_by_a_condition_or_by_their_places():
    masks = masks_of([square(1), square(2), square(3)], [0.1, 0.2, 0.3])
    condition = masks.areas > 1
    for some in (
        masks.take(condition),
        masks[condition],
        masks[condition.tolist()],
        masks[[1, 2]],
        masks[np.array([1, 2])],
    ):
        assert some.areas.tolist() == [4, 9]
        np.testing.assert_allclose(some.scores, [0.2, 0.3])
    assert masks[np.int64(2)].sum() == 9
    for wrong in (condition[:2], [0.5], [3]):
        with pytest.raises(IndexError):
            masks.take(wrong)


def test_no_masks_are_masks_too():
    none = masks_of([], image_hw=(4, 6))
    assert len(none) == 0
    assert list(none) == []
    assert none.areas.shape == (0,)
    assert none.boxes_xyxy.shape == (0, 4)
    assert len(ranked(none)) == 0
    np.testing.assert_array_equal(label_image(none), np.zeros((4, 6), np.uint8))
    assert class_names(none) == ["background"]
    assert class_colours(0) == [[0, 0, 0]]


# --- order and labels


def test_masks_are_ranked_by_area_and_equal_ones_keep_their_order():
    sides = [2, 5, 3, 5, 2]
    masks = masks_of([square(s) for s in sides], [0.1, 0.2, 0.3, 0.4, 0.5])
    assert np.round(ranked(masks).scores, 1).tolist() == pytest.approx([0.2, 0.4, 0.3, 0.1, 0.5])


@pytest.mark.parametrize("count", [254, 255, 256, 300])
def test_beyond_255_masks_those_with_the_best_predicted_iou_get_the_labels(count):
    rng = np.random.default_rng(count)
    areas, scores = rng.permutation(np.arange(1, count + 1)), rng.permutation(np.arange(count)) / 1000
    order = ranked(masks_of([strip(a) for a in areas], scores))
    assert len(order) == count
    assert sorted(order.areas) == sorted(areas)
    painted, rest = order.take(range(min(count, 255))), order.take(range(min(count, 255), count))
    assert (np.diff(painted.areas) <= 0).all()
    assert (np.diff(rest.scores) <= 0).all()
    if count > 255:
        assert painted.scores.min() > rest.scores.max()
    labels = label_image(order)
    assert labels.dtype == np.uint8
    assert np.unique(labels).tolist() == list(range(min(count, 255) + 1))


def test_of_equal_scores_at_the_limit_the_earlier_masks_get_the_labels():
    order = ranked(masks_of([strip(a) for a in (1, 2, 3, 4)], [0.5, 0.5, 0.5, 0.5]), max_labels=2)
    assert order.areas.tolist() == [2, 1, 3, 4]


def test_the_255th_label_is_painted_and_the_256th_is_not():
    arrays = [np.eye(1, 260, k, dtype=bool) for k in range(257)]
    labels = label_image(masks_of(arrays))[0]
    assert labels[:255].tolist() == list(range(1, 256))
    assert labels[255:].tolist() == [0] * 5


@settings(max_examples=200, deadline=None)
@given(mask_stacks)
def test_on_every_pixel_lies_the_smallest_mask_that_holds_it(stack):
    labels = label_image(masks_of(stack, image_hw=stack.shape[1:]))
    assert labels.dtype == np.uint8
    areas = stack.sum(axis=(1, 2))
    for y, x in np.ndindex(*stack.shape[1:]):
        here = [k for k in range(len(stack)) if stack[k, y, x]]
        if not here:
            assert labels[y, x] == 0
        else:
            top = labels[y, x] - 1
            assert top in here  # an id of a mask that is here, not a sum of ids
            assert areas[top] == min(areas[k] for k in here)


def test_identical_masks_show_the_later_one():
    assert label_image(masks_of([square(3), square(3)]))[0, 0] == 2


def test_names_carry_the_predicted_iou():
    assert class_names(masks_of([square(1)] * 3, [0.9749, 1, 0.004])) == [
        "background",
        "mask 1 (0.97)",
        "mask 2 (1.00)",
        "mask 3 (0.00)",
    ]
    assert len(class_names(masks_of([square(1)] * 400))) == 256


def test_a_named_mask_is_called_by_its_name_alone_and_keeps_it_in_another_order():
    masks = dataclasses.replace(
        masks_of([square(1), square(2), square(3)], [0.1, 0.2, 0.3]),
        names=["pot", "", "cup"],
        ids=[7, None, 9],
        confidences=[0.5, None, 0.25],
    )
    assert class_names(masks) == ["background", "pot", "mask 2 (0.20)", "cup"]
    taken = masks.take([2, 0])
    assert (taken.names, taken.ids, taken.confidences) == (["cup", "pot"], [9, 7], [0.25, 0.5])


def test_the_best_of_three_candidates_is_chosen_for_each_object_by_its_score():
    candidates = [
        dataclasses.replace(masks_of([square(k), square(k + 1)], scores), names=["pot", "cup"])
        for k, scores in ((1, [0.1, 0.9]), (2, [0.8, 0.2]), (3, [0.3, 0.3]))
    ]
    best = best_of(candidates)
    assert best.areas.tolist() == [4, 4]
    np.testing.assert_array_equal(best.scores, np.float32([0.8, 0.9]))
    assert best.names == ["pot", "cup"]


def test_of_three_candidates_all_the_best_or_one_is_chosen():
    candidates = [masks_of([square(k)], [score]) for k, score in ((1, 0.1), (2, 0.8), (3, 0.3))]
    areas = {
        mask_id: [int(masks.areas[0]) for masks in chosen(candidates, mask_id)]
        for mask_id in ("all", "best", "1", "2", "3")
    }
    assert areas == {"all": [1, 4, 9], "best": [4], "1": [1], "2": [4], "3": [9]}
    none = [masks.take([]) for masks in candidates]
    assert [len(masks) for masks in chosen(none, "best")] == [0]


# --- colours


@pytest.fixture(scope="module")
def differences() -> np.ndarray:
    """(256, 256): CIEDE2000 differences of the colours of 255 labels and black; about 2 is just noticeable."""
    from skimage.color import deltaE_ciede2000, rgb2lab

    lab = rgb2lab(np.array(class_colours(255))[None] / 255)[0]
    return deltaE_ciede2000(lab[:, None], lab[None])


def test_colours_are_rgb_integers_black_first():
    colours = class_colours(255)
    assert len(colours) == 256
    assert colours[0] == [0, 0, 0]
    assert all(type(c) is int and 0 <= c <= 255 for colour in colours for c in colour)


def test_255_labels_have_255_colours():
    assert len({tuple(c) for c in class_colours(255)}) == 256


@pytest.mark.parametrize("count", [0, 1, 20, 254, 255, 256, 700])
def test_a_label_has_the_same_colour_however_many_there_are(count):
    colours = class_colours(count)
    assert len(colours) == count + 1
    assert colours == class_colours(1000)[: count + 1]


def test_changing_the_colours_one_got_changes_nobody_elses():
    class_colours(3)[1][0] = -1
    assert class_colours(3)[1][0] >= 0


def test_colours_are_the_same_from_run_to_run():
    assert class_colours(4) == [[0, 0, 0], [146, 0, 255], [0, 109, 0], [255, 0, 36], [0, 219, 255]]


def test_neighbours_are_easy_to_tell_apart(differences):
    assert np.diag(differences[1:, 1:], 1).min() > 14


def test_the_first_twenty_are_easy_to_tell_apart(differences):
    few = differences[1:21, 1:21] + 100 * np.eye(20)
    assert few.min() > 10
    assert few[:10, :10].min() > 20


def test_every_colour_stands_out_from_the_background(differences):
    assert differences[0, 1:].min() > 20


# --- overlays


@settings(max_examples=100, deadline=None)
@given(st.data(), st.tuples(st.integers(1, 8), st.integers(1, 8)), st.floats(0, 1, allow_subnormal=False))
def test_an_overlay_leaves_the_background_alone_and_colours_the_rest(data, shape, opacity):
    image = data.draw(nps.arrays(np.uint8, (*shape, 3)))
    labels = data.draw(nps.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 255])))
    before, colours = image.copy(), class_colours(255)
    result = overlay(image, labels, colours, opacity)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(image, before)
    padded = np.pad(labels.astype(int), 1, mode="edge")
    for y, x in np.ndindex(*shape):
        colour, label = np.array(colours[labels[y, x]]), labels[y, x]
        around = [padded[y, x + 1], padded[y + 2, x + 1], padded[y + 1, x], padded[y + 1, x + 2]]
        if label == 0:
            expected = image[y, x]
        elif any(a != label for a in around):
            expected = colour
        else:
            expected = (1 - opacity) * image[y, x] + opacity * colour
        np.testing.assert_allclose(result[y, x], expected, atol=0.51)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
@pytest.mark.parametrize("label", [0, 1])
def test_thin_images_can_be_overlaid(shape, label):
    image = np.full((*shape, 3), 100, np.uint8)
    result = overlay(image, np.full(shape, label, np.uint8), [[0, 0, 0], [200, 0, 0]])
    np.testing.assert_array_equal(result, np.broadcast_to([150, 50, 50] if label else [100] * 3, (*shape, 3)))


@pytest.mark.parametrize("colours", [[], [[0, 0, 0]], [[0, 0, 0]] * 300], ids=["none", "one", "too many"])
def test_a_label_without_a_colour_is_black(colours):
    labels = np.array([[0, 1, 255]], np.uint8)
    result = overlay(np.full((1, 3, 3), 100, np.uint8), labels, colours)
    assert result[..., 0].tolist() == [[100, 0, 0]]
