"""Sequences of frames in which objects are followed: where one begins, who joins it, and what stays the same through it.

>>> sequence = Sequence(print)
>>> for image in frames:
...     masks = sequence.frame(segmenter, image, request)

A sequence begins with the first frame in which there is something to follow, and again when :meth:`Sequence.start` is called,
or the size of the frame, the video, the model or the prompts change, or the video goes back. Mask k is the same object through
all of its frames, with the same name and id; its mask is empty where it is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .images import Range, shown_range, to_rgb8
from .masks import MAX_LABELS, Masks
from .objects import Object
from .progress import Progress
from .request import Request

if TYPE_CHECKING:  # they import torch
    from .segmenter import Segmenter
    from .tracker import Tracker

#: An object that overlaps a followed one by this much (IoU of their boxes) is the same.
SAME_OBJECT_IOU = 0.5


@dataclass(frozen=True)
class Place:
    """Where a frame comes from; of an image that is in no video nothing is known.

    Attributes:
        video: which one.
        position: of the frame in it, None where there is none.
        frame_count: how many frames it has, where that is known.
    """

    video: str = ""
    position: int | None = None
    frame_count: int | None = None


class Sequence:
    """The frames of one video after another, in which objects are followed.

    Args:
        warn: tells the user, once for a text.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self.start()

    def start(self) -> None:
        """Let the next frame be the first of a sequence; what is remembered of earlier ones is freed."""
        self._tracker: Tracker | None = None
        self.shown: Range | None = (
            None  #: the values of this sequence that are shown to the model as black and as white
        )
        self._key: tuple[Hashable, ...] = ()
        self._place = Place()
        self._image: npt.NDArray[np.uint8] | None = None  # of the last frame
        self._masks: Masks | None = None  # of the last frame
        self._boxes = np.zeros((0, 4), np.float32)  # xyxy, where each object was seen last

    def frame(
        self,
        segmenter: Segmenter,
        image: npt.NDArray,
        request: Request,
        place: Place = Place(),
        *,
        may_join: bool = False,
        intensity_range: Range | None = None,
        progress: Progress | None = None,
    ) -> Masks:
        """The followed objects in the next frame.

        Args:
            segmenter: of the model.
            image: as :func:`.to_rgb8` takes it.
            request: what is pointed at, or searched for, in a first frame.
            place: of the frame. The same position with the same picture is the same frame again.
            may_join: somebody found the objects in this very frame, and those that are not followed yet join. Other objects are
                prompts for the first frame.
            intensity_range: the values shown as black and as white; None: those of the first frame of the sequence, since an
                object would look otherwise in each frame.
            progress: told of batches of a search, and of objects followed.

        Returns:
            Masks with an id for each object; none where there was nothing to follow yet.
        """
        key = (image.shape, place.video, "found" if may_join else _prompts(request))
        is_other_model = self._tracker is not None and self._tracker.predictor is not segmenter.predictor
        if is_other_model or key != self._key or _is_back(place.position, self._place.position):
            self.start()
        self.shown = intensity_range or self.shown or shown_range(image)
        rgb8 = to_rgb8(image, self.shown)
        if self._masks is not None and self._is_same(rgb8, place):
            return self._masks
        if self._tracker is None:
            masks = self._first(segmenter, rgb8, request, place, progress)
        else:
            masks = self._next(self._tracker, segmenter, rgb8, request, may_join, progress)
        if self._tracker is not None:
            self._key, self._place, self._masks = key, place, masks
            self._image = rgb8.copy() if place.position is not None else None
            seen = masks.areas > 0
            self._boxes = np.concatenate([self._boxes, np.zeros((len(masks) - len(self._boxes), 4), np.float32)])
            self._boxes[seen] = masks.boxes_xyxy[seen]
        return masks

    def _is_same(self, image: npt.NDArray[np.uint8], place: Place) -> bool:
        """Whether the frame is the last one again."""
        return self._image is not None and place == self._place and np.array_equal(image, self._image)

    def _first(
        self,
        segmenter: Segmenter,
        image: npt.NDArray[np.uint8],
        request: Request,
        place: Place,
        progress: Progress | None,
    ) -> Masks:
        """The masks of a frame with which a sequence begins, unless there is nothing to follow."""
        tracker = segmenter.tracker(place.frame_count)
        percent, threshold = request.input_size_percent, request.mask_threshold
        if request.search is None and not any(thing.is_prompt for thing in request.objects):
            return Masks(image.shape[:2], [], np.zeros(0, np.float32), is_followed=True)
        masks = segmenter.follow(tracker, image, input_size_percent=percent)
        objects: list[Object] | Masks = request.objects
        if request.search is not None:
            found = segmenter.segment(image, request, progress)[0]
            objects = found.take(range(min(len(found), MAX_LABELS)))  # the best come first
            self._say_how_many(len(found))
        places, added = segmenter.begin(tracker, image, objects, mask_threshold=threshold, input_size_percent=percent)
        if request.search is None:
            self._say_how_many(sum(thing.is_prompt for thing in request.objects))
        if len(tracker):
            self._tracker = tracker
        return _with(masks, added, [request.objects[k] for k in places] if request.search is None else None)

    def _next(
        self,
        tracker: Tracker,
        segmenter: Segmenter,
        image: npt.NDArray[np.uint8],
        request: Request,
        may_join: bool,
        progress: Progress | None,
    ) -> Masks:
        """The masks of a later frame."""
        percent, threshold = request.input_size_percent, request.mask_threshold
        followed = segmenter.follow(
            tracker, image, mask_threshold=threshold, input_size_percent=percent, progress=progress
        )
        assert self._masks is not None
        before = self._masks
        masks = replace(followed, names=before.names, ids=before.ids, confidences=before.confidences, is_followed=True)
        if not may_join:
            return masks
        boxes = masks.boxes_xyxy
        hidden = masks.areas == 0
        boxes[hidden] = self._boxes[hidden]
        new = [thing for thing in request.objects if _is_new(thing, boxes)]
        room = MAX_LABELS - len(tracker)
        self._say_how_many(len(tracker) + len(new))
        if not new or not room:
            return masks
        places, added = segmenter.begin(
            tracker, image, new, at_most=room, mask_threshold=threshold, input_size_percent=percent
        )
        return _with(masks, added, [new[k] for k in places])

    def _say_how_many(self, count: int) -> None:
        if count > MAX_LABELS:
            self._warn(
                f"At most {MAX_LABELS} objects are followed: of more those with the highest predicted IoU, and the others are "
                "not."
            )


def _with(masks: Masks, added: Masks, objects: list[Object] | None) -> Masks:
    """Followed masks with those of objects that are followed from this frame on; None: of nameless ones that a search found."""
    things = [Object()] * len(added) if objects is None else objects
    taken = {number for number in masks.ids if number is not None}
    ids = list(masks.ids)
    for thing in things:
        number = thing.id
        if number is None or number in taken:  # detectors count from 0 in each frame
            number = next(k for k in range(len(taken) + 1) if k not in taken)
        taken.add(number)
        ids.append(number)
    return Masks(
        added.image_hw,
        masks.rles + added.rles,
        np.concatenate([masks.scores, added.scores]),
        names=[*masks.names, *(thing.name for thing in things)],
        ids=ids,
        confidences=[*masks.confidences, *(thing.confidence for thing in things)],
        is_followed=True,
    )


def _prompts(request: Request) -> Hashable:
    """What tells the prompts of a request from others."""
    if request.search is not None:
        return "search"
    return tuple(
        (thing.points.tobytes(), thing.labels.tobytes(), None if thing.box is None else thing.box.tobytes(), thing.name)
        for thing in request.objects
    )


def _is_back(position: int | None, last: int | None) -> bool:
    return position is not None and last is not None and position < last


def _is_new(thing: Object, boxes: npt.NDArray[np.float32]) -> bool:
    """Whether an object overlaps none of the followed ones, whose boxes are (N, 4) xyxy."""
    return thing.box is not None and bool((_box_ious(thing.box, boxes) < SAME_OBJECT_IOU).all())


def _box_ious(box: npt.NDArray[np.float32], boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(N,): the IoU of a box (4,) xyxy with each of boxes (N, 4)."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    return shared / np.maximum(areas - shared, np.finfo(np.float32).tiny)
