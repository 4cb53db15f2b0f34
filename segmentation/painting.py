"""What people look at: label images, names, colours, and masks over their image."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .masks import MAX_LABELS, Masks


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


def class_names(masks: Masks, max_labels: int = MAX_LABELS) -> list[str]:
    """Names of the labels: "background", then of each object its own or "mask 1 (0.97)" with the predicted IoU, or without it
    where objects are followed, so that a name stays from frame to frame."""
    scores = ["" if masks.is_followed else f" ({score:.2f})" for score in masks.scores[:max_labels]]
    return ["background"] + [masks.name_of(k) or f"mask {k + 1}{score}" for k, score in enumerate(scores)]


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
