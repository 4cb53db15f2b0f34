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
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .images import LOW_CONTRAST, Range, has_low_contrast, shown_range, to_rgb8
from .masks import MAX_LABELS, Masks
from .objects import Object
from .progress import Progress
from .request import Request
from .search import FILTERS

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


@dataclass(frozen=True)
class _Frame:
    """What tells a frame from others.

    Attributes:
        key: what it has in common with all frames of its sequence.
        place: where it comes from.
        pixels: its values, None outside of videos.
        settings: what its masks depend on besides.
    """

    key: tuple[Hashable, ...] = ()
    place: Place = Place()
    pixels: bytes | None = None
    settings: tuple[Hashable, ...] = ()

    def is_again(self, last: _Frame) -> bool:
        """Whether it is the same frame as the last one."""
        return self.pixels is not None and (self.place, self.pixels) == (last.place, last.pixels)


@dataclass
class _Remembered:
    """What is remembered of a sequence; there is no tracker before something is followed.

    Attributes:
        found_range: the values that are black and white in its first frame, where none are given.
        last: the last frame; `is_first` where that was the first one, and its `masks`.
        boxes: (N, 4) xyxy, where each object was seen last; of one that never was, where it was pointed at.
        detected: (N, 4) xyxy, the detection that belonged to each object last, moved on as its mask did since then; zeros
            where there was none.
    """

    tracker: Tracker | None = None
    found_range: Range | None = None
    last: _Frame = _Frame()
    is_first: bool = True
    masks: Masks | None = None
    boxes: npt.NDArray[np.float32] = field(default_factory=lambda: _boxes_of([]))
    detected: npt.NDArray[np.float32] = field(default_factory=lambda: _boxes_of([]))

    def has(self, frame: _Frame, segmenter: Segmenter) -> bool:
        """Whether a frame goes on with the sequence, or is its last one again."""
        if self.tracker is None or self.tracker.predictor is not segmenter.predictor or frame.key != self.last.key:
            return False
        is_tried_again = self.is_first and frame.is_again(self.last) and frame.settings != self.last.settings
        return not is_tried_again and not _is_back(frame.place.position, self.last.place.position)


class Sequence:
    """The frames of one video after another, in which objects are followed.

    Args:
        warn: tells the user, once for a text.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self.shown: Range | None = None  #: the values that the model saw as black and as white in the last frame
        self.start()

    def start(self) -> None:
        """Let the next frame be the first of a sequence; what is remembered of earlier ones is freed.

        A frame that is under way in another thread comes to its end, and counts for nothing after it.
        """
        self._remembered = _Remembered()

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
            place: of the frame. The same position with the same picture is the same frame again and gives the same masks;
                where it is the first one, a change of what they depend on begins anew.
            may_join: somebody found the objects in this very frame, and those that are not followed yet join. Other objects are
                prompts for the first frame.
            intensity_range: the values shown as black and as white; None: those of the first frame of the sequence, since an
                object would look otherwise in each frame.
            progress: told of batches of a search, and of objects followed.

        Returns:
            Masks with an id for each object; none where there was nothing to follow yet.
        """
        this = _Frame(
            (image.shape, place.video, "found" if may_join else _prompts(request)),
            place,
            image.tobytes() if place.position is not None else None,
            (*_settings(request), intensity_range),
        )
        if not self._remembered.has(this, segmenter):
            self.start()
        known = self._remembered  # held, since somebody may start another sequence meanwhile
        if known.masks is not None and this.is_again(known.last):
            if this.settings != known.last.settings:
                self._warn("This frame was segmented already: what was changed counts from the next one on.")
            return known.masks
        rgb8 = self._as_shown(known, image, intensity_range)
        is_first = known.tracker is None
        if known.tracker is None or known.masks is None:
            masks = self._first(known, segmenter, rgb8, request, place, progress)
        else:
            masks = self._next(known, segmenter, rgb8, request, may_join, progress)
        if known.tracker is not None:
            known.last, known.is_first, known.masks = this, is_first, masks
            seen = masks.areas > 0
            known.boxes[seen] = masks.boxes_xyxy[seen]
        return masks

    def _as_shown(self, known: _Remembered, image: npt.NDArray, intensity_range: Range | None) -> npt.NDArray[np.uint8]:
        """A frame as the model sees it: without a range by the one of the first frame."""
        if intensity_range is None and known.found_range is None:
            known.found_range = shown_range(image)
        self.shown = intensity_range or known.found_range
        rgb8 = to_rgb8(image, self.shown)
        if known.tracker is None and intensity_range is None and has_low_contrast(image, rgb8):
            self._warn(LOW_CONTRAST)
        return rgb8

    def _first(
        self,
        known: _Remembered,
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
        things = [Object()] * len(places) if request.search is not None else [request.objects[k] for k in places]
        if len(tracker):
            known.tracker = tracker
            known.boxes, known.detected = _boxes_of(things), _boxes_of(things)
        return _with(masks, added, things)

    def _next(
        self,
        known: _Remembered,
        segmenter: Segmenter,
        image: npt.NDArray[np.uint8],
        request: Request,
        may_join: bool,
        progress: Progress | None,
    ) -> Masks:
        """The masks of a later frame."""
        percent, threshold = request.input_size_percent, request.mask_threshold
        tracker, before = known.tracker, known.masks
        assert tracker is not None
        assert before is not None
        with tracker.all_or_nothing():
            followed = segmenter.follow(
                tracker, image, mask_threshold=threshold, input_size_percent=percent, progress=progress
            )
            masks = replace(
                followed, names=before.names, ids=before.ids, confidences=before.confidences, is_followed=True
            )
            if not may_join:
                return masks
            boxes = masks.boxes_xyxy
            hidden = masks.areas == 0
            boxes[hidden] = known.boxes[hidden]
            new, detected = _told_apart(request.objects, boxes, known.boxes, known.detected)
            room = MAX_LABELS - len(tracker)
            self._say_how_many(len(tracker) + len(new))
            things: list[Object] = []
            if new and room:
                places, added = segmenter.begin(
                    tracker, image, new, at_most=room, mask_threshold=threshold, input_size_percent=percent
                )
                things = [new[k] for k in places]
                masks = _with(masks, added, things)
        known.boxes = np.concatenate([known.boxes, _boxes_of(things)])
        known.detected = np.concatenate([detected, _boxes_of(things)])
        return masks

    def _say_how_many(self, count: int) -> None:
        if count > MAX_LABELS:
            self._warn(
                f"At most {MAX_LABELS} objects are followed: of more those with the highest predicted IoU, and the others are "
                "not."
            )


def _with(masks: Masks, added: Masks, things: list[Object]) -> Masks:
    """Followed masks with those of objects that are followed from this frame on."""
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


def _settings(request: Request) -> tuple[Hashable, ...]:
    """What tells apart requests that give other masks of a first frame."""
    search = request.search
    asked = (_prompts(request), request.mask_threshold, request.input_size_percent)
    return asked if search is None else (*asked, search.without_filters(), *(getattr(search, name) for name in FILTERS))


def _is_back(position: int | None, last: int | None) -> bool:
    return position is not None and last is not None and position < last


def _boxes_of(things: list[Object]) -> npt.NDArray[np.float32]:
    """(N, 4) xyxy: where objects are pointed at; zeros, which overlap nothing, where that is by points."""
    return np.array([np.zeros(4) if thing.box is None else thing.box for thing in things], np.float32).reshape(-1, 4)


def _told_apart(
    things: list[Object],
    boxes: npt.NDArray[np.float32],
    before: npt.NDArray[np.float32],
    detected: npt.NDArray[np.float32],
) -> tuple[list[Object], npt.NDArray[np.float32]]:
    """Which of the things that a detector found are new, and the detection (N, 4) that belongs to each followed object.

    A followed object is known by its box, or by the detection that belonged to it last, there or moved on as its mask has been
    since: a detector may mean the person where the mask is the shirt. The box counts more.

    Args:
        things: without a box none is new.
        boxes, before: (N, 4) xyxy, of the followed objects in this frame and the last one.
        detected: (N, 4) xyxy, their detections until the last one.
    """
    way = (boxes[:, :2] + boxes[:, 2:] - before[:, :2] - before[:, 2:]) / 2
    moved = detected + np.tile(way, 2)
    belongs, is_found, new = moved.copy(), np.zeros(len(boxes), bool), []
    for thing in things:
        if thing.box is None:
            continue
        by_box = _most_overlapped(thing.box, boxes)
        place = by_box if by_box is not None else _most_overlapped(thing.box, moved, detected)
        if place is None:
            new.append(thing)
        elif by_box is not None or not is_found[place]:
            belongs[place], is_found[place] = thing.box, True
    return new, belongs


def _most_overlapped(box: npt.NDArray[np.float32], *boxes: npt.NDArray[np.float32]) -> int | None:
    """Which of boxes (N, 4) xyxy a box (4,) overlaps enough to be the same, the one with the highest IoU.

    Of several arrays of boxes each has one for every object.
    """
    ious = np.max([_box_ious(box, of_objects) for of_objects in boxes], axis=0)
    return int(ious.argmax()) if len(ious) and ious.max() >= SAME_OBJECT_IOU else None


def _box_ious(box: npt.NDArray[np.float32], boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(N,): the IoU of a box (4,) xyxy with each of boxes (N, 4)."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    return shared / np.maximum(areas - shared, np.finfo(np.float32).tiny)
