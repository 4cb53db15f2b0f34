"""sam2's image encoder on a CPU without unnecessary work: the same operations on the same numbers, and the same features.

In sam2 1.1.0 nearly half of the time of an encoding goes into something other than matrix products and attention. Most of that
is left out here:

- The position encodings for the memory of videos, 90 MB: a single image does not need them.
- The position embedding of the trunk is the same for all images, but sam2 stretches it again for each.
- The channels of a pixel in the first stage are far apart in memory, and each operation that needs them together copies them.
- Arrays of 20 to 150 MB are given back to the system after one layer, and cleared page by page for the next. Here large results
  are written into the same memory again and again (:class:`.scratch.Scratch`). Windows of attention do not depend on one
  another, and neither do pixels in the MLPs and in the neck, so a few rows are computed at a time.

The features are bit for bit those of sam2 on the processors on which this was tried. Elsewhere a matrix product of fewer rows
may be rounded differently. They also have the memory layout of sam2's features, on which the rounding in the mask decoder
depends.
"""

from __future__ import annotations

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .sam2_package import (
    FpnNeck,
    Hiera,
    ImageEncoder,
    MultiScaleAttention,
    MultiScaleBlock,
    SAM2Base,
    flat_features,
    trunk_position,
    window_partition,
    window_unpartition,
)
from .scratch import Scratch

#: Pixels that windowed attention, the MLPs and the finest map take at once: results of 25 MB at most with sam2_hiera_tiny. With
#: fewer pixels, matrix products begin to be rounded differently.
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
                type(block) is MultiScaleBlock
                and type(block.attn) is MultiScaleAttention
                and isinstance(block.mlp.act, nn.GELU)
                for block in encoder.trunk.blocks
            )
        )

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """Feature maps (h * w, 1, C), from fine to coarse.

        Args:
            pixels: (1, 3, S, S) float32, normalised.
        """
        maps = self._neck(self._trunk(pixels))
        scalp = self._model.image_encoder.scalp
        return flat_features(self._model, maps[: len(maps) - scalp])

    def _trunk(self, pixels: Tensor) -> list[Tensor]:
        """Hiera.forward: features (1, C, h, w) of each stage, from fine to coarse."""
        trunk: Hiera = self._model.image_encoder.trunk
        x: Tensor = trunk.patch_embed(pixels)
        if self._position is None or self._position.shape != x.shape:
            _, height, width, _ = x.shape
            self._position = trunk_position(trunk, (height, width)).contiguous()
        x = torch.add(self._position, x)
        outputs: list[Tensor] = []
        run = _Blocks()
        for i, block in enumerate(trunk.blocks):
            x = run(block, x)
            if i == trunk.stage_ends[-1] or (i in trunk.stage_ends and trunk.return_interm_layers):
                outputs.append(x.permute(0, 3, 1, 2))
        return outputs

    def _neck(self, features: list[Tensor]) -> list[Tensor]:
        """FpnNeck.forward without the position encodings, and what the mask decoder projects its finest maps to."""
        neck: FpnNeck = self._model.image_encoder.neck
        decoder = self._model.sam_mask_decoder
        projections = [decoder.conv_s0, decoder.conv_s1] if self._model.use_high_res_features_in_sam else []
        maps: list[Tensor] = []
        here: Tensor | None = None
        for level in reversed(range(len(features))):
            conv = neck.convs[len(features) - 1 - level]
            project = projections[level] if level < len(projections) else nn.Identity()
            # sam2 stores the channels of the first stage far apart, and in another order a convolution is rounded differently.
            if level == 0 and level not in neck.fpn_top_down_levels:
                rows = max(1, PIXELS_AT_ONCE // features[0].shape[-1])
                parts = [project(conv(part.contiguous())) for part in features[0].split(rows, dim=2)]
                maps.insert(0, torch.cat(parts, dim=2))
                break
            coarser, here = here, conv(features[level] if level else features[0].contiguous())
            if coarser is not None and level in neck.fpn_top_down_levels:
                corners = None if neck.fpn_interp_model == "nearest" else False
                here = here + F.interpolate(
                    coarser, scale_factor=2.0, mode=neck.fpn_interp_model, align_corners=corners, antialias=False
                )
                if neck.fuse_type == "avg":
                    here /= 2
            maps.insert(0, project(here))
        return maps


class _Blocks:
    """Runs the trunk's blocks, one after the other, in the same memory."""

    def __init__(self) -> None:
        self._wide, self._narrow = Scratch(), Scratch()

    def __call__(self, block: MultiScaleBlock, x: Tensor) -> Tensor:
        """MultiScaleBlock.forward: (1, H, W, C) to (1, H / stride, W / stride, C'). May write into `x`."""
        _, height, width, _ = x.shape
        rows = height
        if block.window_size > 0:
            rows = max(1, PIXELS_AT_ONCE // (block.window_size * width)) * block.window_size
        if rows >= height:
            x = self._add_attention(block, x)
        else:
            stride = block.q_stride[0] if block.q_stride else 1
            in_place = stride == 1 and block.dim == block.dim_out
            attended = x if in_place else x.new_empty(1, height // stride, width // stride, block.dim_out)
            for start in range(0, height, rows):
                part = self._add_attention(block, x[:, start : start + rows])
                if not in_place:
                    attended[:, start // stride : (start + rows) // stride] = part
            x = attended
        widen, narrow = block.mlp.layers
        for part in x.view(-1, block.dim_out).split(PIXELS_AT_ONCE):
            hidden = self._wide.linear(widen, block.norm2(part))
            torch.ops.aten.gelu_(hidden, approximate=block.mlp.act.approximate)
            part += self._narrow.linear(narrow, hidden)
        return x

    def _add_attention(self, block: MultiScaleBlock, x: Tensor) -> Tensor:
        """`x` plus what attention within its windows adds. Written into `x` where the shape does not change."""
        normed = block.norm1(x)
        shortcut = x if block.dim == block.dim_out else _pooled(block.proj(normed), block)
        hw = shortcut.shape[1:3]
        window = block.window_size
        if window > 0:
            normed, _ = window_partition(normed, window)
        attended = self._attend(block, normed)
        if window > 0:
            window //= block.q_stride[0] if block.q_stride else 1
            padded = tuple(-(-side // window) * window for side in hw)
            attended = window_unpartition(attended, window, padded, hw)
        return shortcut.add_(attended)

    def _attend(self, block: MultiScaleBlock, x: Tensor) -> Tensor:
        """MultiScaleAttention.forward: windows (N, h, w, C) to (N, h / stride, w / stride, C')."""
        attention: MultiScaleAttention = block.attn
        count, height, width, _ = x.shape
        qkv = self._wide.linear(attention.qkv, x).view(count, height * width, 3, attention.num_heads, -1)
        queries, keys, values = qkv.unbind(2)
        if block.q_stride:
            queries = _pooled(queries.reshape(count, height, width, -1), block)
            height, width = queries.shape[1:3]
            queries = queries.reshape(count, height * width, attention.num_heads, -1)
        queries, keys, values = (x.transpose(1, 2) for x in (queries, keys, values))
        attended = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2)
        return self._narrow.linear(attention.proj, attended.reshape(count, height, width, -1))


def _pooled(x: Tensor, block: MultiScaleBlock) -> Tensor:
    """The maximum of each cell of (N, H, W, C), as hieradet.do_pool computes it, which first moves all channels apart."""
    if block.pool is None:
        return x
    down, across = block.q_stride
    height, width = x.shape[1] // down, x.shape[2] // across
    cells = x[:, : height * down, : width * across].unflatten(2, (width, across)).unflatten(1, (height, down))
    return reduce(torch.maximum, (cells[:, :, i, :, k] for i in range(down) for k in range(across)))
