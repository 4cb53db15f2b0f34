"""Videos, and models that follow something in them in which everything remembered matters.

A memory that is not trained hardly changes masks, and its score of whether an object is seen is about zero for anything. Here
both are turned up. That makes no good masks, but masks that differ where anything in the arithmetic does.
"""

from __future__ import annotations

import functools
from pathlib import Path

import ikomia  # noqa: F401 - before cv2, which comes with it
import numpy as np
import torch
from skimage import data

import cv2  # isort: skip


def window(number: int, hw: tuple[int, int] = (240, 320)) -> np.ndarray:
    """A frame (H, W, 3) uint8 RGB of a window that wanders over a photograph without end."""
    (height, width), (x, y) = hw, (50 + 48 * np.sin(number / np.array([9, 14]))).astype(int)
    return np.ascontiguousarray(_photo(hw)[y : y + height, x : x + width])


@functools.cache
def _photo(hw: tuple[int, int]) -> np.ndarray:
    return cv2.resize(data.astronaut(), (hw[1] + 100, hw[0] + 100))


def moving_window(count: int, hw: tuple[int, int] = (240, 320)) -> list[np.ndarray]:
    """The first frames of the window."""
    return [window(number, hw) for number in range(count)]


def write_video(path: Path, frames: list[np.ndarray]) -> Path:
    """A video of those frames."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def frames_of(path: Path) -> list[np.ndarray]:
    """The frames of a video as OpenCV reads them, RGB."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    return frames


def that_sees(model: torch.nn.Module) -> torch.nn.Module:
    """The model with a score above zero for every object."""
    with torch.no_grad():
        model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.add_(10)
    return model


def that_remembers(model: torch.nn.Module) -> torch.nn.Module:
    """The model with a memory that matters to its masks: they differ from object to object."""
    with torch.no_grad():
        for layer in model.memory_attention.layers:
            layer.cross_attn_image.out_proj.weight.mul_(10)
        model.memory_encoder.out_proj.weight.mul_(5)
        model.memory_encoder.mask_downsampler.encoder[-1].weight.mul_(10)
        model.obj_ptr_proj.layers[-1].weight.mul_(30)  # with 3, masks stay the same without a pointer
    return model


def that_loses_what_is_dark(model: torch.nn.Module) -> torch.nn.Module:
    """The model with a score above zero for what it follows in a photograph, and below zero in black frames."""
    from infer_segment_anything_2.segmentation.objects import Object
    from infer_segment_anything_2.segmentation.segmenter import Segmenter

    tokens: list[torch.Tensor] = []
    last = model.sam_mask_decoder.pred_obj_score_head.layers[-1]
    hook = last.register_forward_hook(lambda module, given, score: tokens.append(given[0].detach().clone()))
    segmenter = Segmenter(model)
    tracker = segmenter.tracker()
    for number, frame in enumerate(darkened(moving_window(4), range(2, 4))):
        segmenter.follow(tracker, frame)
        if number == 0:
            segmenter.begin(tracker, frame, [Object(box=np.float32([70, 20, 190, 130]))])
    hook.remove()
    known = torch.cat(tokens).double()
    # The score is 1000 in the frames with the photograph and -1000 in the black ones, with the smallest weights that do that.
    weights = 1000 * torch.linalg.pinv(known - known.mean(0)) @ torch.tensor([1.0, 1, -1, -1]).double()
    with torch.no_grad():
        last.weight.copy_(weights)
        last.bias.copy_(-weights @ known.mean(0))
    return model


def darkened(frames: list[np.ndarray], which: range) -> list[np.ndarray]:
    """The frames with some of them black."""
    return [np.zeros_like(frame) if k in which else frame for k, frame in enumerate(frames)]
