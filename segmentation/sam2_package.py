"""The one door to sam2: what this package uses of it is imported here, and its private parts are touched here alone.

sam2 1.1 is made to be run, not to be taken apart. Its next version may move or rename what is behind this door, and then this
is the file to mend.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def package_folder() -> Path | None:
    """Where sam2 is installed, None where it is not; it is not imported to find out."""
    spec = find_spec("sam2")
    return Path(spec.origin).parent if spec and spec.origin else None


@contextmanager
def _hydra_left_alone() -> Iterator[None]:
    """Import sam2 in the body of this context without touching Hydra's global state.

    `import sam2` (1.1.0) initialises Hydra for the whole process unless somebody did so before; a library that initialises it
    later fails. Here Hydra looks initialised while sam2 is imported, so nothing happens to it. The price: a program whose
    first import of sam2 goes through here, and that later calls `build_sam2` itself, has to call
    `hydra.initialize_config_module("sam2", version_base="1.2")` before. Who imported sam2 earlier notices nothing.

    Raises:
        ImportError: a sam2 from before its configs were part of it.
    """
    folder = package_folder()
    if folder and not (folder / "configs").is_dir():
        raise ImportError(
            f"The sam2 in {folder} is too old: accepted is 1.1.0 or newer, below 1.2. "
            "Install it with: pip install --upgrade 'sam2>=1.1.0,<1.2'"
        )
    from hydra.core.global_hydra import GlobalHydra

    hydra: Any = GlobalHydra.instance()
    before = hydra.hydra
    if before is None:
        hydra.hydra = "not initialised: infer_segment_anything_2 is importing sam2"
    try:
        yield
    finally:
        hydra.hydra = before


with _hydra_left_alone():
    from sam2.modeling.backbones.hieradet import Hiera, MultiScaleAttention, MultiScaleBlock
    from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
    from sam2.modeling.backbones.utils import window_partition, window_unpartition
    from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
    from sam2.modeling.sam.mask_decoder import MaskDecoder
    from sam2.modeling.sam.prompt_encoder import PromptEncoder
    from sam2.modeling.sam.transformer import Attention, RoPEAttention, TwoWayTransformer
    from sam2.modeling.sam2_base import SAM2Base
    from sam2.modeling.sam2_utils import get_1d_sine_pe
    from sam2.utils.amg import (
        MaskData,
        batched_mask_to_box,
        build_point_grid,
        generate_crop_boxes,
        is_box_near_crop_edge,
        remove_small_regions,
        uncrop_boxes_xyxy,
    )

__all__ = [
    "Attention",
    "FpnNeck",
    "Hiera",
    "ImageEncoder",
    "MaskData",
    "MaskDecoder",
    "MemoryAttention",
    "MemoryAttentionLayer",
    "MultiScaleAttention",
    "MultiScaleBlock",
    "PromptEncoder",
    "RoPEAttention",
    "SAM2Base",
    "SeenMasks",
    "TwoWayTransformer",
    "batched_mask_to_box",
    "build_point_grid",
    "decode_in_video",
    "encode_memory",
    "flat_features",
    "generate_crop_boxes",
    "get_1d_sine_pe",
    "is_box_near_crop_edge",
    "masks_in_video",
    "model_class",
    "package_folder",
    "remove_small_regions",
    "stable_or_best",
    "trunk_position",
    "uncrop_boxes_xyxy",
    "window_partition",
    "window_unpartition",
]

# Only the modules that hold models: importing another one can have effects (sam2.benchmark runs a benchmark).
_TARGET = re.compile(r"(?P<module>sam2\.(?:modeling(?:\.\w+)+|sam2_\w+))\.(?P<name>[A-Za-z]\w*)", re.ASCII)


def model_class(target: object) -> type[torch.nn.Module] | None:
    """The class of a model's part that the `_target_` of a config names, or None if it names anything else.

    Imports nothing but the modules of sam2 that hold models.
    """
    match = _TARGET.fullmatch(target) if isinstance(target, str) else None
    if match is None:
        return None
    try:
        found = getattr(importlib.import_module(match["module"]), match["name"], None)
    except ImportError:
        return None
    # Defined there, not merely imported there: sam2.modeling.sam2_base.F is torch's.
    accepted = isinstance(found, type) and issubclass(found, torch.nn.Module) and found.__module__ == match["module"]
    return found if accepted else None


def flat_features(model: SAM2Base, maps: list[Tensor]) -> list[Tensor]:
    """Feature maps (1, C, h, w) as the (h * w, 1, C) in which SAM2Base passes them on, from fine to coarse."""
    # The position encodings, which it puts in order beside the maps, are not used.
    return model._prepare_backbone_features({"backbone_fpn": maps, "vision_pos_enc": maps})[1]


def trunk_position(trunk: Hiera, hw: tuple[int, int]) -> Tensor:
    """The position embedding of the trunk (1, h, w, C), stretched to the size `hw` of its patches."""
    return trunk._get_pos_embed(hw)


def stable_or_best(decoder: MaskDecoder, logits: Tensor, ious: Tensor) -> tuple[Tensor, Tensor]:
    """sam2's dynamic multimask: the first mask where it is stable, else the best of the others by predicted IoU.

    Args:
        decoder: says what stable means.
        logits: (N, C, h, w), the single mask first.
        ious: (N, C).

    Returns:
        (N, 1, h, w) and (N, 1).
    """
    return decoder._dynamic_multimask_via_stability(logits, ious)


@dataclass(frozen=True)
class SeenMasks:
    """N objects in one frame of a video, as sam2 finds them.

    Attributes:
        logits: (N, 1, 4 h, 4 w) float32; all of them far below zero where the object is not seen.
        ious: (N,), predicted.
        pointers: (N, C), what is remembered of the object beside its mask.
        scores: (N, 1), above zero where the object is seen.
    """

    logits: Tensor
    ious: Tensor
    pointers: Tensor
    scores: Tensor


def decode_in_video(
    model: SAM2Base,
    features: Tensor,
    high_res_feats: list[Tensor],
    points: tuple[Tensor, Tensor] | None,
) -> SeenMasks:
    """The masks of N objects in a frame: of prompted ones, or without points of followed ones.

    Args:
        model: of the features.
        features: (N, C, h, w), with what is remembered of each object, or with the model's embedding for no memory.
        high_res_feats: (1, C / 8, 4 h, 4 w) and (1, C / 4, 2 h, 2 w) of the frame.
        points: (N, P, 2) in pixels of the model's input and (N, P) labels, those of a box's corners 2 and 3; None of objects
            that were prompted in an earlier frame.
    """
    prompts = None if points is None else {"point_coords": points[0], "point_labels": points[1]}
    found = model._forward_sam_heads(
        features,
        point_inputs=prompts,
        high_res_features=high_res_feats,
        multimask_output=model._use_multimask(points is not None, prompts),  # then the best of three
    )
    _, _, ious, logits, _, pointers, scores = found
    return SeenMasks(logits, ious.amax(dim=1), pointers, scores)


def masks_in_video(model: SAM2Base, features: Tensor, high_res_feats: list[Tensor], masks: Tensor) -> SeenMasks:
    """What sam2 makes of masks that are given in place of a prompt.

    Args:
        model: of the features.
        features: (N, C, h, w), without anything remembered.
        high_res_feats: as in :func:`decode_in_video`.
        masks: (N, 1, S, S), 0 and 1, at the size of the model's input.
    """
    _, _, ious, logits, _, pointers, scores = model._use_mask_as_output(features, high_res_feats, masks)
    return SeenMasks(logits, ious.amax(dim=1), pointers, scores)


def encode_memory(
    model: SAM2Base, features: Tensor, masks: Tensor, scores: Tensor, is_prompted: bool
) -> tuple[Tensor, Tensor]:
    """What is remembered of N masks of a frame, and of where it was.

    Args:
        model: of the features.
        features: (1, C, h, w) of the frame.
        masks: (N, 1, S, S) logits at the size of the model's input.
        scores: (N, 1), as in :class:`SeenMasks`.
        is_prompted: the objects were prompted in this frame.

    Returns:
        (N, h * w, M), and its position encoding (h * w, M).
    """
    tokens = features.expand(len(masks), -1, -1, -1).flatten(2).permute(2, 0, 1)
    sizes = [(features.shape[-2], features.shape[-1])]
    remembered, positions = model._encode_new_memory([tokens], sizes, masks, scores, is_prompted)
    return remembered.flatten(2).transpose(1, 2), positions[-1][0].flatten(1).T
