"""Other thresholds on an image that was searched before: the masks of a fresh search, without another one."""

from __future__ import annotations

from dataclasses import replace

import ikomia  # noqa: F401 - brings the cv2 that sam2's remove_small_regions imports
import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from skimage import data

from infer_segment_anything_2.segmentation import kept_searches
from infer_segment_anything_2.segmentation.crops import Crop
from infer_segment_anything_2.segmentation.masks import Masks
from infer_segment_anything_2.segmentation.search import FILTERS, AutomaticSettings
from infer_segment_anything_2.segmentation.segmenter import Segmenter

IMAGE = np.ascontiguousarray(data.astronaut()[:300, 100:480])
FIRST = AutomaticSettings(points_per_side=5, points_per_batch=8, pred_iou_thresh=0.4, stability_score_thresh=0.5)
LAXER = replace(FIRST, pred_iou_thresh=0.2, stability_score_thresh=0.3)
SEARCHES = {
    "three masks a point": replace(FIRST, points_per_side=3),
    "one mask a point": replace(FIRST, points_per_side=3, multimask_output=False),
    "refined": replace(FIRST, points_per_side=2, points_per_batch=3, use_m2m=True),
    "crops": replace(FIRST, points_per_side=2, crop_n_layers=1, multimask_output=False),
}
#: What a user tunes, with the values of a hurried one.
THRESHOLDS = {
    "pred_iou_thresh": [0.0, 0.1, 0.2, 0.3, 0.5, 0.7],
    "stability_score_thresh": [0.0, 0.3, 0.6, 0.8],
    "box_nms_thresh": [1.0, 0.7, 0.3, 0.0],
    "crop_nms_thresh": [1.0, 0.7, 0.3, 0.0],
    "min_mask_region_area": [0, 50, 500],
    "min_mask_area": [0, 1000],
    "max_mask_area": [0, 10000],
}


@pytest.fixture
def segmenter(nano) -> Segmenter:
    """With nothing kept from other tests."""
    return Segmenter(nano.predictor.model)


@pytest.fixture
def decoded(monkeypatch) -> list[range]:
    """The points of each batch that is decoded."""
    batches = []
    decode = Crop.decode

    def noted(self, places, iou_above):
        batches.append(places)
        decode(self, places, iou_above)

    monkeypatch.setattr(Crop, "decode", noted)
    return batches


def assert_equal(found: Masks, expected: Masks) -> None:
    assert found.rles == expected.rles
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.stability_scores, expected.stability_scores)


def search_anew(nano, search: AutomaticSettings) -> Masks:
    """Of an image whose crops are embedded, but of which no search is known."""
    nano._searches.forget()
    return nano.generate(IMAGE, search)


def assert_any_change_gives_the_masks_of_a_fresh_search(nano, search: AutomaticSettings, examples: int) -> None:
    some = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in THRESHOLDS.items()})
    expected: dict[tuple, Masks] = {}

    @settings(max_examples=examples, deadline=None, database=None, phases=[Phase.explicit, Phase.generate])
    @given(st.lists(some, min_size=3, max_size=4))
    @example(
        [{"pred_iou_thresh": 0.7}, {"box_nms_thresh": 0.0}, {"max_mask_area": 10000}]
    )  # drawn ones can find the same
    def check(changes):
        steps = [search]
        for change in changes:
            steps.append(replace(steps[-1], **change))
        found = [search_anew(nano, search), *(nano.generate(IMAGE, step) for step in steps[1:])]
        for step, masks in zip(steps, found, strict=True):
            thresholds = tuple(getattr(step, name) for name in sorted(THRESHOLDS))
            if thresholds not in expected:
                expected[thresholds] = search_anew(nano, step)
            assert_equal(masks, expected[thresholds])

    check()
    assert len({len(masks) for masks in expected.values()}) > 1, "all thresholds found the same: nothing was compared"


@pytest.mark.parametrize("name", SEARCHES)
def test_any_change_of_thresholds_gives_the_masks_of_a_fresh_search(nano, name):
    assert_any_change_gives_the_masks_of_a_fresh_search(nano, SEARCHES[name], examples=2)


@pytest.mark.usefixtures("measured_as_on_a_gpu")
def test_so_it_does_where_masks_are_measured_by_their_pixels(nano):
    assert_any_change_gives_the_masks_of_a_fresh_search(nano, SEARCHES["three masks a point"], examples=2)


def test_every_threshold_that_chooses_among_masks_is_tested_here():
    assert set(THRESHOLDS) == FILTERS
    assert set(THRESHOLDS) <= set(vars(FIRST))


def test_stricter_thresholds_decode_nothing(segmenter, decoded):
    segmenter.generate(IMAGE, LAXER)
    assert [len(batch) for batch in decoded] == [8, 8, 8, 1]
    decoded.clear()
    told = []
    for name, value in {
        "pred_iou_thresh": 0.5,
        "stability_score_thresh": 0.9,
        "box_nms_thresh": 0.3,
        "crop_nms_thresh": 0.3,
        "min_mask_region_area": 100,
        "min_mask_area": 1000,
        "max_mask_area": 10000,
    }.items():
        segmenter.generate(IMAGE, replace(LAXER, **{name: value}), progress=lambda *progress: told.append(progress))
    segmenter.generate(IMAGE, replace(LAXER, stability_score_thresh=0.0, box_nms_thresh=1.0))
    assert decoded == []
    assert set(told) == {(0, 0)}  # while small regions are removed: of no batch none is done
    assert segmenter.predictor.encoded == 1


def test_laxer_thresholds_decode_what_was_never_made_and_a_little_more(segmenter, decoded):
    expected = segmenter.generate(
        IMAGE, replace(LAXER, pred_iou_thresh=0.0, stability_score_thresh=0.0, box_nms_thresh=1.0)
    )
    segmenter.forget_images()
    start, *thresholds = np.linspace(*np.quantile(expected.scores, [0.9, 0.1]), 5)
    segmenter.generate(IMAGE, replace(LAXER, pred_iou_thresh=float(start)))
    steps = []
    for threshold in thresholds:
        decoded.clear()
        segmenter.generate(IMAGE, replace(LAXER, pred_iou_thresh=float(threshold)))
        steps.append(len(decoded))
    assert steps[0] > 0
    assert steps[1:3] == [0, 0]
    assert steps[3] > 0


def test_what_decoding_depends_on_begins_another_search(segmenter, decoded):
    search = replace(FIRST, points_per_side=2)
    segmenter.generate(IMAGE, search)
    grid = [np.array([[0.5, 0.5], [0.2, 0.3]])]
    for change in (
        {"points_per_side": 1},
        {"points_per_side": None, "point_grids": grid},
        {"points_per_side": None, "point_grids": [grid[0][::-1]]},
        {"points_per_batch": 9},
        {"stability_score_offset": 0.5},
        {"mask_threshold": 0.5},
        {"multimask_output": False},
        {"use_m2m": True},
        {"crop_n_layers": 1, "points_per_side": 1},
        {"crop_n_layers": 1, "points_per_side": 1, "crop_overlap_ratio": 0.1},
    ):
        decoded.clear()
        segmenter.generate(IMAGE, replace(search, **change))
        assert decoded, change


def test_an_image_that_changed_in_one_pixel_is_searched_anew(segmenter, decoded):
    image = IMAGE.copy()
    segmenter.generate(image, FIRST)
    first = len(decoded)
    image[7, 9, 1] ^= 1
    segmenter.generate(image, FIRST)
    assert len(decoded) == 2 * first
    image[7, 9, 1] ^= 1
    segmenter.generate(image, FIRST)
    assert len(decoded) == 2 * first


def test_a_caller_who_changes_what_was_found_changes_nothing_for_others(segmenter):
    found = segmenter.generate(IMAGE, LAXER)
    before = [dict(rle, size=list(rle["size"])) for rle in found.rles]
    found.scores[:] = 0
    found.stability_scores[:] = 0
    for rle in found.rles:
        rle["size"].clear()
        rle["counts"] = b""
    again = segmenter.generate(IMAGE, LAXER)
    assert again.rles == before
    assert again.scores.min() > LAXER.pred_iou_thresh
    assert again.stability_scores.min() >= LAXER.stability_score_thresh


class StoppedHere(Exception):  # noqa: N818 - not an error, a wish
    """What a user raises to stop."""


def test_a_stopped_search_goes_on_where_it_stopped_with_the_same_masks(segmenter, decoded):
    def stop(done: int, total: int | None) -> None:
        totals.append(total)
        if done == 1:
            raise StoppedHere

    totals = []

    expected = Segmenter(segmenter.predictor.model)
    for search in (FIRST, LAXER):  # the first search, and one that decodes what is missing
        whole = expected.generate(IMAGE, search)
        decoded.clear()
        with pytest.raises(StoppedHere):
            segmenter.generate(IMAGE, search, progress=stop)
        assert len(decoded) == 1 < totals[-1]
        assert_equal(segmenter.generate(IMAGE, search), whole)
        assert len(decoded) == totals[-1]
    assert_equal(segmenter.generate(IMAGE, FIRST), expected.generate(IMAGE, FIRST))


def test_an_error_in_a_batch_leaves_what_was_found_before(segmenter, monkeypatch):
    expected = Segmenter(segmenter.predictor.model).generate(IMAGE, LAXER)
    segmenter.generate(IMAGE, FIRST)
    with monkeypatch.context() as patch:
        measured = []
        measure = Crop._measure

        def fail(self, logits):
            measured.append(logits)
            if len(measured) == 2:
                raise MemoryError
            return measure(self, logits)

        patch.setattr(Crop, "_measure", fail)
        with pytest.raises(MemoryError):
            segmenter.generate(IMAGE, LAXER)
    assert_equal(segmenter.generate(IMAGE, LAXER), expected)


def test_the_last_searches_are_kept_and_no_more(segmenter, decoded, monkeypatch):
    monkeypatch.setattr(kept_searches, "MAX_SEARCHES", 2)
    one_point = replace(FIRST, points_per_side=1)
    images = [np.roll(IMAGE, k, axis=0) for k in range(3)]
    for image in (*images, images[1]):
        segmenter.generate(image, one_point)
    assert len(decoded) == 3
    segmenter.generate(images[0], one_point)  # the oldest was given up
    assert len(decoded) == 4


def test_searches_take_no_more_bytes_than_they_may(segmenter, decoded, monkeypatch):
    searches = [replace(LAXER, points_per_side=side, crop_n_layers=1) for side in (1, 2)]
    expected, sizes = [], []
    for search in searches:
        expected.append(segmenter.generate(IMAGE, search))
        sizes.append(segmenter._searches.nbytes)
    assert 0 < sizes[0] < sizes[1]
    (kept,) = [s for s in segmenter._searches._kept.values() if len(s.crops[0].made) == 12]
    counts = [of_mask for crop in kept.crops for of_mask in crop.counts.values()]
    assert kept.nbytes >= sum(map(len, counts))
    assert len(counts) > len(expected[1])
    for limit in (sizes[1] - 1, sizes[1] - sizes[0] - 1, 3000, 0):  # one search, a part of one, hardly any, nothing
        monkeypatch.setattr(kept_searches, "MAX_SEARCH_BYTES", limit)
        for search, masks in zip(searches, expected, strict=True):
            assert_equal(segmenter.generate(IMAGE, search), masks)
            assert segmenter._searches.nbytes <= limit
    decoded.clear()
    segmenter.generate(IMAGE, searches[1])
    assert len(decoded) >= 5  # no crop is known any more


def test_forgotten_images_are_searched_anew(segmenter, decoded):
    segmenter.generate(IMAGE, FIRST)
    first = len(decoded)
    segmenter.forget_images()
    assert segmenter._searches.nbytes == 0
    segmenter.generate(IMAGE, FIRST)
    assert len(decoded) == 2 * first
    assert segmenter.predictor.encoded == 2
