"""Masks of one image, compressed until they are looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypedDict, TypeVar, overload

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

#: Labels of an image of 8 bits a pixel, without the background.
MAX_LABELS = 255

T = TypeVar("T")


class RLE(TypedDict):
    """A mask in COCO's compressed run-length encoding, as pycocotools writes it."""

    size: list[int]
    counts: bytes


def encode(mask: npt.NDArray[np.bool_]) -> RLE:
    """The COCO run-length encoding of a mask (H, W) bool."""
    return coco.encode(np.asfortranarray(mask.view(np.uint8)))


def empty(image_hw: tuple[int, int]) -> RLE:
    """The COCO run-length encoding of a mask without a pixel, which costs no memory for the image."""
    height, width = image_hw
    return coco.frPyObjects({"size": [height, width], "counts": [height * width]}, height, width)


def decode(rle: RLE) -> npt.NDArray[np.bool_]:
    """The mask (H, W) bool of a COCO run-length encoding.

    As pycocotools' own decode, which warns of itself where numpy is 2 (pycocotools 2.0.11), and takes three times as long for
    a photograph.
    """
    lengths = _run_lengths(rle["counts"])
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(rle["size"], order="F")


def _run_lengths(counts: bytes) -> npt.NDArray[np.int64]:
    """How many pixels are off, on, off and so on, down the columns, of COCO's compressed counts (rleFrString of its maskApi.c):
    five bits a character, the last of a number without the sixth; from the fourth number on less the one two before."""
    characters = np.frombuffer(counts, np.uint8).astype(np.int64) - ord("0")
    last = np.flatnonzero(characters < 32)
    first = np.concatenate([[0], last[:-1] + 1])
    sizes = last - first + 1
    shifts = 5 * (np.arange(len(characters)) - np.repeat(first, sizes))
    lengths = np.add.reduceat((characters & 31) << shifts, first)
    lengths -= np.where(characters[last] & 16, 1 << 5 * sizes, 0)  # its highest bit is the sign
    lengths[1::2] = lengths[1::2].cumsum()
    lengths[2::2] = lengths[2::2].cumsum()
    return lengths


@dataclass(frozen=True)
class Masks:
    """N masks of one image with what the model says of them. A mask costs about a kilobyte until it is decoded.

    Attributes:
        image_hw: height and width in pixels of the image, and of every decoded mask.
        rles: N masks, COCO run-length encoded.
        scores: (N,) float32, the IoU with the true mask that the model predicts.
        stability_scores: (N,) float32 of automatic mode; empty for prompts.
        names: N names, "" where nobody named the object; empty where none has one.
        ids: N numbers by which others know the objects, or None each; empty where none has one.
        confidences: N of those who found the objects, 0 to 1, or None each; empty where none has one.
        is_followed: through a video: mask k is the same object in each frame, and all have an id.
    """

    image_hw: tuple[int, int]
    rles: list[RLE]
    scores: npt.NDArray[np.float32]
    stability_scores: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    names: Sequence[str] = ()
    ids: Sequence[int | None] = ()
    confidences: Sequence[float | None] = ()
    is_followed: bool = False

    def __len__(self) -> int:
        return len(self.rles)

    @overload
    def __getitem__(self, index: int) -> npt.NDArray[np.bool_]: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int] | npt.NDArray) -> Masks: ...

    def __getitem__(self, index: int | slice | Sequence[int] | npt.NDArray) -> npt.NDArray[np.bool_] | Masks:
        """Mask `index`, decoded: (H, W) bool; of a slice, places or a condition those masks, as they are."""
        if isinstance(index, int | np.integer):
            return decode(self.rles[index])
        return self.take(range(len(self))[index] if isinstance(index, slice) else index)

    def __iter__(self) -> Iterator[npt.NDArray[np.bool_]]:
        """The masks, decoded one at a time."""
        return (self[i] for i in range(len(self)))

    @property
    def areas(self) -> npt.NDArray[np.int64]:
        """(N,) int64, pixels of each mask."""
        return np.array([coco.area(rle) for rle in self.rles], np.int64)

    @property
    def boxes_xyxy(self) -> npt.NDArray[np.float32]:
        """(N, 4) float32: the smallest box around each mask, in pixels, its far corner one past the last pixel."""
        boxes = np.array([coco.toBbox(rle) for rle in self.rles], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return boxes

    def name_of(self, index: int) -> str:
        """What mask `index` is called; empty where nobody named it."""
        return self.names[index] if self.names else ""

    def take(self, order: Sequence[int] | npt.NDArray) -> Masks:
        """The masks at the places `order`, in that order; or of a condition (N,) bool those for which it holds."""
        order = np.arange(len(self))[np.asarray(order, None if len(order) else np.int64)]

        def taken(values: Sequence[T]) -> list[T]:
            return [values[i] for i in order] if values else []

        return Masks(
            self.image_hw,
            taken(self.rles),
            self.scores[order],
            self.stability_scores[order] if len(self.stability_scores) else self.stability_scores,
            taken(self.names),
            taken(self.ids),
            taken(self.confidences),
            self.is_followed,
        )


def ranked(masks: Masks, max_labels: int = MAX_LABELS) -> Masks:
    """Masks of automatic mode in the order of their labels: by area, the largest first.

    Beyond `max_labels` the ones with the highest predicted IoU come first, by area, and then the others, by score.
    """
    by_score = np.argsort(-masks.scores, kind="stable")
    painted = np.sort(by_score[:max_labels])
    by_area = painted[np.argsort(-masks.areas[painted], kind="stable")]
    return masks.take(np.concatenate([by_area, by_score[max_labels:]]))


def chosen(candidates: Sequence[Masks], mask_id: str) -> list[Masks]:
    """Of three candidates those that `mask_id` asks for: "all", of each object the "best", or one by its place, "1" to "3"."""
    if mask_id == "all":
        return list(candidates)
    return [best_of(candidates) if mask_id == "best" else candidates[int(mask_id) - 1]]


def best_of(candidates: Sequence[Masks]) -> Masks:
    """Of each object the one of its candidates that the model rates best."""
    scores = np.array([masks.scores for masks in candidates])  # (candidates, objects)
    best = scores.argmax(axis=0)
    first = candidates[0]
    return Masks(
        first.image_hw,
        [candidates[c].rles[k] for k, c in enumerate(best)],
        scores.max(axis=0),
        names=first.names,
        ids=first.ids,
        confidences=first.confidences,
    )
