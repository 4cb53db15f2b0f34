"""Masks, compressed until they are looked at, and what people look at: label images, names, colours, overlays."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

#: Ikomia's semantic output takes 8-bit labels only (a 16-bit mask raises in its OpenCV, ikomia 0.16.1).
MAX_LABELS = 255


class RLE(TypedDict):
    """A mask in COCO's compressed run-length encoding, as pycocotools writes it."""

    size: list[int]
    counts: bytes


def encode(mask: npt.NDArray[np.bool_]) -> RLE:
    """The COCO run-length encoding of a mask (H, W) bool."""
    return coco.encode(np.asfortranarray(mask.view(np.uint8)))


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
    """

    image_hw: tuple[int, int]
    rles: list[RLE]
    scores: npt.NDArray[np.float32]
    stability_scores: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))

    def __len__(self) -> int:
        return len(self.rles)

    def __getitem__(self, index: int) -> npt.NDArray[np.bool_]:
        """Mask `index`, decoded: (H, W) bool."""
        return decode(self.rles[index])

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

    def take(self, order: Sequence[int] | npt.NDArray[np.int64]) -> Masks:
        """The masks at the places `order`, in that order."""
        order = np.asarray(order, np.int64)
        return Masks(
            self.image_hw,
            [self.rles[i] for i in order],
            self.scores[order],
            self.stability_scores[order] if len(self.stability_scores) else self.stability_scores,
        )


def ranked(masks: Masks, max_labels: int = MAX_LABELS) -> Masks:
    """Masks of automatic mode in the order of their labels: by area, the largest first.

    Beyond `max_labels` the ones with the highest predicted IoU come first, by area, and then the others, by score.
    """
    by_score = np.argsort(-masks.scores, kind="stable")
    painted = np.sort(by_score[:max_labels])
    by_area = painted[np.argsort(-masks.areas[painted], kind="stable")]
    return masks.take(np.concatenate([by_area, by_score[max_labels:]]))


def label_image(masks: Masks, max_labels: int = MAX_LABELS) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """(H, W): 0 background, k + 1 where mask k is on top; larger masks lie below smaller ones.

    Only the first `max_labels` masks are painted. uint8, or uint16 where more than 255 are.
    """
    areas = masks.areas[:max_labels]
    dtype = np.uint8 if len(areas) <= np.iinfo(np.uint8).max else np.uint16
    labels = np.zeros(masks.image_hw, dtype, order="F")  # columns first, as masks are decoded: four times faster
    for k in np.argsort(-areas, kind="stable"):
        np.copyto(labels, dtype(k + 1), where=masks[k])
    return np.ascontiguousarray(labels)


def class_names(scores: npt.NDArray[np.float32], max_labels: int = MAX_LABELS) -> list[str]:
    """Names of the labels: "background", then "mask 1 (0.97)" and so on with the predicted IoU."""
    return ["background"] + [f"mask {k} ({score:.2f})" for k, score in enumerate(scores[:max_labels], start=1)]


def class_colours(count: int) -> list[list[int]]:
    """RGB colours, 0 to 255, of the background (black) and `count` labels; the same for the same label in every run.

    Neighbours in the list are easy to tell apart, and so are all of the first twenty. After 255 labels they repeat.
    """
    return [[0, 0, 0], *(list(_palette()[k % MAX_LABELS]) for k in range(count))]


@functools.cache
def _palette() -> list[list[int]]:
    """MAX_LABELS different colours, each the one of a grid of vivid colours that lies farthest from those before it.

    Distances are as the eye sees them. Those to earlier colours count 2% more with each step: with all colours to keep
    apart from equally, late ones would come in pairs that look the same.
    """
    levels = np.linspace(0, 255, 8).round()
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    vivid = grid[(grid.max(axis=1) >= 96) & (np.ptp(grid, axis=1) >= 64)]
    seen = _oklab(vivid)
    distance = np.linalg.norm(seen, axis=1)  # from black, which is the origin
    chosen = []
    for _ in range(MAX_LABELS):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(1.02 * distance, np.linalg.norm(seen - seen[chosen[-1]], axis=1))
    # The only mask is often the first, and yellow, farthest from black, is lost on bright things: it comes last.
    return vivid[chosen[1:] + chosen[:1]].astype(int).tolist()


def _oklab(rgb: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """sRGB colours (N, 3), 0 to 255, in Oklab, where distances are as the eye sees them (bottosson.github.io/posts/oklab)."""
    srgb = rgb / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_cones = [
        [0.41222147, 0.53633254, 0.05144599],
        [0.21190350, 0.68069955, 0.10739696],
        [0.08830246, 0.28171884, 0.62997870],
    ]
    to_lab = [
        [0.21045426, 0.79361779, -0.00407205],
        [1.97799850, -2.42859221, 0.45059371],
        [0.02590404, 0.78277177, -0.80867577],
    ]
    return np.cbrt(linear @ np.transpose(to_cones)) @ np.transpose(to_lab)


def overlay(
    image: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.uint8],
    colours: Sequence[Sequence[int]],
    opacity: float = 0.5,
) -> npt.NDArray[np.uint8]:
    """`image` (H, W, 3) with its labels (H, W) in colour, outlined; pixels of label 0 stay exactly as they are.

    Args:
        image: RGB.
        labels: 0 background.
        colours: RGB, 0 to 255, of labels 0, 1, 2 and so on; a label without one is black.
        opacity: how much of a label's colour covers the image inside the outline, 0 to 1.
    """
    table = np.zeros((256, 3), np.float32)
    known = np.array(colours, np.float32).reshape(-1, 3)[:256]
    table[: len(known)] = known
    on = labels > 0
    edge = np.zeros_like(on)
    horizontal, vertical = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edge[:, 1:] |= horizontal
    edge[:, :-1] |= horizontal
    edge[1:] |= vertical
    edge[:-1] |= vertical
    result = image.copy()
    fill, outline = on & ~edge, on & edge
    result[fill] = np.rint((1 - opacity) * image[fill] + opacity * table[labels[fill]])
    result[outline] = table[labels[outline]]
    return result
