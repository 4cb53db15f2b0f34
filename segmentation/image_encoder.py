"""sam2's image encoder on a CPU without what it does for nothing: the same operations on the same numbers, the same features.

In sam2 1.1.0 an encoding spends a quarter of its time on something other than matrix products and attention. Half of that
is left out here:

- Position encodings for the memory of videos, 90 MB of them, which no image needs.
- The position embedding of the trunk, the same for all images, is stretched again for each.
- The first stage's channels are stored apart from one another, and put together again by each operation that needs them so.
- Arrays of 50 to 150 MB, which the system takes back and clears again between one layer and the next. Windows of attention, and
  in the small networks behind it pixels, are independent of one another: done some rows at a time, memory is used again.

Features are bit for bit those of sam2 (on the processors that this was tried on: a matrix product of fewer rows may be rounded
differently elsewhere), and lie in memory as those of sam2 do, since that decides how the mask decoder rounds.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .model_loader import sam2_imports

with sam2_imports():
    from sam2.modeling.backbones.hieradet import Hiera, MultiScaleBlock
    from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
    from sam2.modeling.backbones.utils import window_partition, window_unpartition
    from sam2.modeling.sam2_base import SAM2Base

#: Pixels that windowed attention and the small networks take at once: at most some 30 MB of results in between, which the C
#: library keeps for the next ones (glibc gives pieces of 32 MB and more back to the system, DEFAULT_MMAP_THRESHOLD_MAX). With
#: fewer, matrix products begin to be rounded differently.
PIXELS_AT_ONCE = 8192


class LeanImageEncoder:
    """Computes what `SAM2Base.forward_image` and `_prepare_backbone_features` do, for one image.

    Args:
        model: one that :meth:`fits`, on the CPU.
    """

    def __init__(self, model: SAM2Base) -> None:
        self._model = model
        self._position: Tensor | None = None

    @staticmethod
    def fits(model: SAM2Base) -> bool:
        """Whether this class computes what the model's encoder does, as for all released models."""
        encoder = model.image_encoder
        return (
            type(encoder) is ImageEncoder
            and type(encoder.trunk) is Hiera
            and type(encoder.neck) is FpnNeck
            and all(
                type(block) is MultiScaleBlock and isinstance(block.mlp.act, torch.nn.GELU)
                for block in encoder.trunk.blocks
            )
        )

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """Feature maps (h * w, 1, C), from fine to coarse, of pixels (1, 3, S, S), normalised, float32."""
        model, encoder = self._model, self._model.image_encoder
        maps = self._neck(self._trunk(pixels))
        if encoder.scalp > 0:
            maps = maps[: -encoder.scalp]
        if model.use_high_res_features_in_sam:
            decoder = model.sam_mask_decoder
            maps[0], maps[1] = decoder.conv_s0(maps[0]), decoder.conv_s1(maps[1])
        # Position encodings, which it puts in order beside the maps, are not used.
        return model._prepare_backbone_features({"backbone_fpn": maps, "vision_pos_enc": maps})[1]

    def _trunk(self, pixels: Tensor) -> list[Tensor]:
        trunk: Hiera = self._model.image_encoder.trunk
        x = trunk.patch_embed(pixels)
        if self._position is None or self._position.shape != x.shape:
            self._position = trunk._get_pos_embed(x.shape[1:3]).contiguous()
        x = torch.add(self._position, x)
        outputs = []
        for i, block in enumerate(trunk.blocks):
            x = _block(block, x)
            if i == trunk.stage_ends[-1] or (i in trunk.stage_ends and trunk.return_interm_layers):
                feature = x.permute(0, 3, 1, 2)
                outputs.append(feature if outputs else feature.contiguous())  # as sam2 stores that of the first stage
        return outputs

    def _neck(self, features: list[Tensor]) -> list[Tensor]:
        """FpnNeck.forward without the position encodings."""
        neck: FpnNeck = self._model.image_encoder.neck
        maps: list[Any] = [None] * len(features)
        above = None
        for level in reversed(range(len(features))):
            here = neck.convs[len(features) - 1 - level](features[level])
            if above is not None and level in neck.fpn_top_down_levels:
                corners = None if neck.fpn_interp_model == "nearest" else False
                here = here + F.interpolate(
                    above, scale_factor=2.0, mode=neck.fpn_interp_model, align_corners=corners, antialias=False
                )
                if neck.fuse_type == "avg":
                    here /= 2
            maps[level] = above = here
        return maps


def _block(block: MultiScaleBlock, x: Tensor) -> Tensor:
    """MultiScaleBlock.forward: (1, H, W, C) to (1, H / stride, W / stride, C'). May write into `x`."""
    _, height, width, _ = x.shape
    rows = height
    if block.window_size > 0:
        rows = max(1, PIXELS_AT_ONCE // (block.window_size * width)) * block.window_size
    if rows >= height:
        x = _attend(block, x)
    else:
        stride = block.q_stride[0] if block.q_stride else 1
        attended = x.new_empty(1, height // stride, width // stride, block.dim_out)
        for start in range(0, height, rows):
            attended[:, start // stride : (start + rows) // stride] = _attend(block, x[:, start : start + rows])
        x = attended
    for part in x.view(-1, block.dim_out).split(PIXELS_AT_ONCE):
        part += block.mlp(block.norm2(part))
    return x


def _attend(block: MultiScaleBlock, x: Tensor) -> Tensor:
    """`x` with what its windows learn from attention; written into `x` where the shape stays."""
    normed = block.norm1(x)
    shortcut = x if block.dim == block.dim_out else _pooled(block.proj(normed), block)
    hw = shortcut.shape[1:3]
    window = block.window_size
    if window > 0:
        normed, _ = window_partition(normed, window)
    attended = block.attn(normed)
    if window > 0:
        window //= block.q_stride[0] if block.q_stride else 1
        padded = tuple(-(-side // window) * window for side in hw)
        attended = window_unpartition(attended, window, padded, hw)
    return shortcut.add_(attended)


def _pooled(x: Tensor, block: MultiScaleBlock) -> Tensor:
    """The maximum of each cell of (N, H, W, C), as hieradet.do_pool."""
    if block.pool is None:
        return x
    return block.pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
