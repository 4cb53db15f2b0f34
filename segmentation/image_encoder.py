"""sam2's image encoder on a CPU without unnecessary work: the same operations on the same numbers, and the same features.

In sam2 1.1.0 a quarter of the time of an encoding goes into something other than matrix products and attention. Half of that
quarter is left out here:

- The position encodings for the memory of videos, 90 MB: a single image does not need them.
- The position embedding of the trunk is the same for all images, but sam2 stretches it again for each.
- The channels of a pixel in the first stage are far apart in memory, and each operation that needs them together copies them.
- Arrays of 50 to 150 MB are given back to the system after one layer, and cleared for the next. Windows of attention do not
  depend on one another, and neither do pixels in the MLPs. So a few rows are computed at a time, in memory that is used again.

The features are bit for bit those of sam2 on the processors on which this was tried. Elsewhere a matrix product of fewer rows
may be rounded differently. They also have the memory layout of sam2's features, on which the rounding in the mask decoder
depends.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .sam2_package import (
    FpnNeck,
    Hiera,
    ImageEncoder,
    MultiScaleBlock,
    SAM2Base,
    flat_features,
    trunk_position,
    window_partition,
    window_unpartition,
)

#: Pixels that windowed attention and the MLPs take at once. Their results are then some 30 MB at most, and the C library keeps
#: that memory for the next ones (glibc gives 32 MB and more back to the system, DEFAULT_MMAP_THRESHOLD_MAX). With fewer pixels,
#: matrix products begin to be rounded differently.
PIXELS_AT_ONCE = 8192


class LeanImageEncoder:
    """Computes the feature maps of one image, as `SAM2Base.forward_image` does.

    Args:
        model: one for which :meth:`fits` is true, on the CPU.
    """

    def __init__(self, model: SAM2Base) -> None:
        self._model = model
        self._position: Tensor | None = None

    @staticmethod
    def fits(model: SAM2Base) -> bool:
        """Whether this class computes what the model's encoder does; it does for all released models."""
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
        """Feature maps (h * w, 1, C), from fine to coarse.

        Args:
            pixels: (1, 3, S, S) float32, normalised.
        """
        model, encoder = self._model, self._model.image_encoder
        maps = self._neck(self._trunk(pixels))
        if encoder.scalp > 0:
            maps = maps[: -encoder.scalp]
        if model.use_high_res_features_in_sam:
            decoder = model.sam_mask_decoder
            maps[0], maps[1] = decoder.conv_s0(maps[0]), decoder.conv_s1(maps[1])
        return flat_features(model, maps)

    def _trunk(self, pixels: Tensor) -> list[Tensor]:
        """Hiera.forward: features (1, C, h, w) of each stage, from fine to coarse."""
        trunk: Hiera = self._model.image_encoder.trunk
        x: Tensor = trunk.patch_embed(pixels)
        if self._position is None or self._position.shape != x.shape:
            _, height, width, _ = x.shape
            self._position = trunk_position(trunk, (height, width)).contiguous()
        x = torch.add(self._position, x)
        outputs: list[Tensor] = []
        for i, block in enumerate(trunk.blocks):
            x = _block(block, x)
            if i == trunk.stage_ends[-1] or (i in trunk.stage_ends and trunk.return_interm_layers):
                feature = x.permute(0, 3, 1, 2)
                outputs.append(feature if outputs else feature.contiguous())  # as sam2 stores that of the first stage
        return outputs

    def _neck(self, features: list[Tensor]) -> list[Tensor]:
        """FpnNeck.forward without the position encodings."""
        neck: FpnNeck = self._model.image_encoder.neck
        maps: list[Tensor] = []
        for level in reversed(range(len(features))):
            here = neck.convs[len(features) - 1 - level](features[level])
            if maps and level in neck.fpn_top_down_levels:
                corners = None if neck.fpn_interp_model == "nearest" else False
                here = here + F.interpolate(
                    maps[0], scale_factor=2.0, mode=neck.fpn_interp_model, align_corners=corners, antialias=False
                )
                if neck.fuse_type == "avg":
                    here /= 2
            maps.insert(0, here)
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
    """`x` plus what attention within its windows adds. Written into `x` where the shape does not change."""
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
    """The maximum of each cell of (N, H, W, C), as hieradet.do_pool computes it."""
    if block.pool is None:
        return x
    return block.pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
