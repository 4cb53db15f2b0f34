"""Objects that are followed through a video have the masks of sam2's SAM2VideoPredictor, frame by frame."""

from __future__ import annotations

from pathlib import Path

import ikomia  # noqa: F401 - before cv2, which comes with it
import numpy as np
import oracle
import pytest
import sam2
import torch
from skimage import data

from infer_segment_anything_2.segmentation.masks import Masks
from infer_segment_anything_2.segmentation.objects import Object
from infer_segment_anything_2.segmentation.segmenter import Segmenter

import cv2  # isort: skip

CONFIGS = Path(sam2.__file__).parent / "configs"
POINT = Object(np.float32([[120, 60]]), np.int32([1]))
TWO_POINTS = Object(np.float32([[120, 60], [30, 200]]), np.int32([1, 0]))
BOX = Object(box=np.float32([70, 20, 190, 130]))
BOX_AND_POINT = Object(np.float32([[130, 70]]), np.int32([1]), np.float32([60, 10, 200, 150]))
FOUR = [POINT, BOX, BOX_AND_POINT, TWO_POINTS]


def moving_window(count: int) -> list[np.ndarray]:
    """Frames (240, 320, 3) uint8 RGB of a window that wanders over a photograph."""
    photo = cv2.resize(data.astronaut(), (420, 340))
    way = (50 + 48 * np.sin(np.arange(count)[:, None] / np.array([9, 14]))).astype(int)
    return [np.ascontiguousarray(photo[y : y + 240, x : x + 320]) for x, y in way]


def biased(model: torch.nn.Module, by: float) -> torch.nn.Module:
    """The model with all scores of objects raised: those of untrained heads are about 0, and masks would be empty."""
    with torch.no_grad():
        model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.add_(by)
    return model


@pytest.fixture(scope="module")
def nano_that_sees():
    return biased(oracle.nano_model(), 10)


def of_sam2(model: torch.nn.Module, config: Path) -> torch.nn.Module:
    return oracle.video_model(config, model.state_dict())


def prompt(theirs: torch.nn.Module, state: dict, objects: dict[int, Object], frame: int = 0) -> None:
    """Point at the objects in a frame, by their numbers, with sam2's own call."""
    for number, thing in objects.items():
        given = {"points": thing.points, "labels": thing.labels} if len(thing.points) else {}
        theirs.add_new_points_or_box(state, frame, number, box=thing.box, **given)


def follow(segmenter: Segmenter, frames: list[np.ndarray], new: dict[int, list[Object]], **known: int) -> list[Masks]:
    """The masks of each frame, of objects that begin in the frames of `new`."""
    tracker = segmenter.tracker(**known)
    found = []
    for k, frame in enumerate(frames):
        masks = segmenter.follow(tracker, frame)
        rles, scores = list(masks.rles), list(masks.scores)
        if k in new:
            _, added = segmenter.begin(tracker, frame, new[k])
            rles, scores = rles + added.rles, scores + list(added.scores)
        found.append(Masks(frame.shape[:2], rles, np.float32(scores)))
    return found


def ious(ours: list[Masks], theirs: list[np.ndarray]) -> np.ndarray:
    """(frames, objects): the IoU of each mask with sam2's."""
    assert [len(masks) for masks in ours] == [len(masks) for masks in theirs]
    return np.array([[oracle.iou(a, b) for a, b in zip(*pair, strict=True)] for pair in zip(ours, theirs, strict=True)])


def test_sixty_frames_with_a_point_a_box_both_and_four_objects_at_once(nano_that_sees):
    frames = moving_window(60)
    theirs = of_sam2(nano_that_sees, oracle.MODELS / "sam2_hiera_nano.yaml")
    state = oracle.video_state(theirs, frames)
    prompt(theirs, state, dict(enumerate(FOUR)))
    expected = oracle.followed(theirs, state)
    areas = np.array([masks.sum(axis=(1, 2)) for masks in expected])
    assert (areas > 0).mean() > 0.9  # they are seen, and more than once
    ours = follow(Segmenter(nano_that_sees), frames, {0: FOUR})
    assert ious(ours, expected).min() >= 0.995
