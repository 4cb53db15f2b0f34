"""The tracker by itself: what it keeps, and what it leaves as it was. Its masks: tests/parity/test_videos_of_sam2.py."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from tools.video import moving_window, that_sees

from infer_segment_anything_2.segmentation.memory_attention import LeanMemoryAttention
from infer_segment_anything_2.segmentation.objects import Object
from infer_segment_anything_2.segmentation.segmenter import Segmenter

BOX = Object(box=np.float32([70, 20, 190, 130]))
OTHER = Object(box=np.float32([160, 90, 310, 230]))


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    """The bundled weights with a small input."""
    weights = oracle.nano_model().state_dict()
    return Segmenter(that_sees(oracle.video_model(oracle.MODELS / "sam2_hiera_nano.yaml", weights, image_size=128)))


def test_what_is_remembered_is_bounded(segmenter):
    tracker, sizes = segmenter.tracker(), []
    for number, frame in enumerate(moving_window(24)):
        segmenter.follow(tracker, frame)
        if number == 0:
            segmenter.begin(tracker, frame, [BOX, OTHER])
        sizes.append(tracker.nbytes)
    assert sizes[0] < sizes[6] < sizes[15]
    assert sizes[15:] == sizes[15:16] * 9
    assert sizes[15] <= 2 * (7 * 64 * 64 * 2 + 16 * 128 * 4)  # bfloat16 tokens and float32 pointers of two objects


def test_each_frame_is_encoded_once_whatever_the_number_of_objects(segmenter):
    tracker, frames = segmenter.tracker(), moving_window(3, (100, 100))
    before = segmenter.predictor.encoded
    for number, frame in enumerate(frames):
        segmenter.follow(tracker, frame)
        segmenter.begin(tracker, frame, [Object(box=np.float32([10, 10, 50 + number, 60]))] * 3)
    assert segmenter.predictor.encoded == before + 3
    assert len(tracker) == 9


def test_a_frame_that_is_stopped_changes_nothing(segmenter):
    frames, found = moving_window(4), []
    for is_stopped in (False, True):
        tracker = segmenter.tracker()
        segmenter.follow(tracker, frames[0])
        segmenter.begin(tracker, frames[0], [BOX])
        segmenter.follow(tracker, frames[1])
        segmenter.begin(tracker, frames[1], [OTHER])
        if is_stopped:
            reports = []

            def stop(done: int, total: int | None, reports: list = reports) -> None:
                reports.append((done, total))
                if done == total:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                segmenter.follow(tracker, frames[2], progress=stop)
            assert reports == [(1, 2), (2, 2)]
        found.append([segmenter.follow(tracker, frame).rles for frame in frames[2:]])
    assert found[0] == found[1]


def test_of_more_objects_those_with_the_highest_predicted_iou_are_followed_in_their_order(segmenter):
    (frame,) = moving_window(1)
    boxes = [Object(box=np.float32([x, 40, x + 60, 120])) for x in range(0, 240, 30)]
    tracker = segmenter.tracker()
    segmenter.follow(tracker, frame)
    places, masks = segmenter.begin(tracker, frame, [Object(), *boxes], at_most=3)
    everything = segmenter.predict(frame, boxes)[0].scores
    assert places == sorted(places)
    assert len(tracker) == len(masks) == 3
    assert {place - 1 for place in places} == set(np.argsort(-everything, kind="stable")[:3].tolist())


def test_frames_of_another_percentage_are_at_the_size_of_the_image(segmenter):
    tracker, frames = segmenter.tracker(), moving_window(2)
    segmenter.follow(tracker, frames[0], input_size_percent=50)
    _, masks = segmenter.begin(tracker, frames[0], [BOX], input_size_percent=50)
    later = segmenter.follow(tracker, frames[1], input_size_percent=50)
    assert masks[0].shape == later[0].shape == frames[0].shape[:2]
    x0, y0, x1, y1 = masks.boxes_xyxy[0]
    assert (x0 + x1) / 2 == pytest.approx(130, abs=60)  # where the box is
    assert (y0 + y1) / 2 == pytest.approx(75, abs=60)


def test_sam2s_own_memory_attention_gives_the_same_masks(segmenter, monkeypatch):
    """On a GPU it computes."""
    frames, found = moving_window(3), []
    for _ in range(2):
        tracker = segmenter.tracker()
        segmenter.follow(tracker, frames[0])
        segmenter.begin(tracker, frames[0], [BOX, OTHER])
        found.append([mask for frame in frames[1:] for mask in segmenter.follow(tracker, frame)])
        monkeypatch.setattr(LeanMemoryAttention, "fits", lambda model: False)
    assert all(mask.any() for mask in found[0])
    assert min(oracle.iou(a, b) for a, b in zip(*found, strict=True)) >= 0.995
