"""What searches have found, kept: other thresholds choose among it again, and only masks that were never made are decoded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .mask_decoder import passes

#: Searches kept per model, and the bytes that they may take together (one at the default settings takes some 2 MB).
MAX_SEARCHES = 8
MAX_SEARCH_BYTES = 64 << 20

#: Bytes that Python takes for one mask besides its run lengths, and ours for each mask that was not made, too.
_BYTES_PER_MASK = 150
_BYTES_PER_CANDIDATE = 32

#: Where iou_thresh goes down, masks are made so much further down, and by twice the step at least: for the next steps.
LEAST_MARGIN = 0.05


class Measured(NamedTuple):
    """What is known of K masks once they are made.

    Attributes:
        stability: (K,) float32.
        boxes: (K, 4) int64, xyxy in pixels of the image, the last pixel included.
        whole: (K,) bool, false where an edge of the crop cuts a mask off.
        counts: K run-length encodings at the size of the image, or none where they are made later.
    """

    stability: Tensor
    boxes: Tensor
    whole: Tensor
    counts: list[bytes]


class Candidates:
    """All masks that the points of one crop can give, point by point, and what is known of them so far.

    Args:
        count: how many these are.

    Attributes:
        ious: (count,) predicted IoUs, in the decoder's precision; of masks that are not made, the most that they can be.
        made: (count,) bool. What follows is known of these only.
        whole, stability, boxes: as in :class:`Measured`.
        counts: run-length encodings, by number of the mask.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self.forget()

    def forget(self) -> None:
        """Know nothing again."""
        count = self._count
        self.ious = torch.full((count,), torch.inf, dtype=torch.float32)
        self.made = torch.zeros(count, dtype=torch.bool)
        self.whole = torch.zeros(count, dtype=torch.bool)
        self.stability = torch.zeros(count, dtype=torch.float32)
        self.boxes = torch.zeros(count, 4, dtype=torch.int32)
        self.counts: dict[int, bytes] = {}
        self.nbytes = count * _BYTES_PER_CANDIDATE  #: what it takes, all in all

    def missing(self, iou_above: float) -> Tensor:
        """(count,) bool: which masks are not made, and can have an IoU that passes."""
        return ~self.made & passes(self.ious, iou_above)

    def passing(self, iou_above: float, least_stability: float) -> Tensor:
        """(count,) bool: which masks pass these thresholds."""
        passing = self.made & self.whole & passes(self.ious, iou_above)
        # Of an empty mask the stability is not a number, which no threshold lets pass.
        return passing & (self.stability >= least_stability) if least_stability > 0 else passing

    def note(self, ious: Tensor, first: int, made: Tensor, measured: Measured) -> None:
        """Take note of what was decoded.

        Args:
            ious: of some masks in a row, as in `self.ious`.
            first: number of the first of these.
            made: (K,) int64, numbers of those that were made now.
            measured: the same K.
        """
        part = slice(first, first + len(ious))
        self.ious = self.ious.to(ious.dtype)
        self.ious[part] = torch.where(self.made[part], self.ious[part], ious)
        self.whole[made], self.stability[made] = measured.whole, measured.stability
        self.boxes[made] = measured.boxes.int()
        if measured.counts:
            self.encoded(made.tolist(), measured.counts)
        self.made[made] = True

    def encoded(self, numbers: list[int], counts: list[bytes]) -> None:
        """Take note of run-length encodings."""
        self.counts.update(zip(numbers, counts, strict=True))
        self.nbytes += sum(len(of_mask) + _BYTES_PER_MASK for of_mask in counts)


@dataclass
class Search:
    """One search: the candidates of each crop, and the lowest predicted IoU down to which masks were made in all of them."""

    crops: list[Candidates]
    made_down_to: float = float("inf")

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return sum(found.nbytes for found in self.crops)

    def depth(self, threshold: float) -> float:
        """The predicted IoU down to which masks are made where those above a threshold are wanted: a little further down if the
        threshold was lowered and something is missing."""
        step = self.made_down_to - threshold
        if step <= 0 or step == float("inf") or not any(found.missing(threshold).any() for found in self.crops):
            return threshold
        return threshold - max(2 * step, LEAST_MARGIN)


class KeptSearches:
    """The last searches of one model. Not for several threads at a time."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, Search] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes that all of them take."""
        return sum(search.nbytes for search in self._kept.values())

    def get(self, key: Hashable, begin: Callable[[], Search]) -> Search:
        """The search of that key, remembered or begun."""
        search = self._kept.pop(key, None) or begin()
        if search.nbytes <= MAX_SEARCH_BYTES:
            self._kept[key] = search  # as the latest
        if len(self._kept) > MAX_SEARCHES:
            self._kept.popitem(last=False)
        return search

    def make_room(self, search: Search, crop: Candidates) -> None:
        """Keep within `MAX_SEARCH_BYTES`: forget the oldest of the others, and `crop` of `search` where that is not enough."""
        for key in [key for key, kept in self._kept.items() if kept is not search]:
            if self.nbytes > MAX_SEARCH_BYTES:
                del self._kept[key]
        if search.nbytes > MAX_SEARCH_BYTES:
            crop.forget()

    def forget(self) -> None:
        """Keep none."""
        self._kept.clear()
