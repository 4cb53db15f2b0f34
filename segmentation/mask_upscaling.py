"""The end of sam2's mask decoder on a CPU: masks of image tokens, without a picture of 32 channels between.

The transposed convolutions have a kernel as large as their stride, so they are matrix products. They take some image tokens at
a time, channels last, so that their results stay in the processor's cache. Pixels are put in order at the end, when there is
one number per pixel and no longer 32. P, h, w and C are as in :mod:`.mask_decoder`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .sam2_package import MaskDecoder

#: Image tokens that are computed at once: 3 MB of intermediate results with a released model.
TOKENS_AT_ONCE = 1024


class MaskUpscaling:
    """Makes the masks of one image that are asked for.

    Args:
        decoder: a mask decoder with high-resolution features.
        high_res_feats: (1, C / 8, 4 h, 4 w) and (1, C / 4, 2 h, 2 w), of the image.
    """

    def __init__(self, decoder: MaskDecoder, high_res_feats: list[Tensor]) -> None:
        self._layers = decoder.output_upscaling
        first, _, _, second, _ = self._layers
        fine, coarse = high_res_feats
        self._hw = (coarse.shape[-2] // 2, coarse.shape[-1] // 2)
        self._steps = [
            (_as_matrix(conv.weight), _blocks(feature, levels) + conv.bias.repeat(4**levels))
            for levels, (conv, feature) in enumerate([(first, coarse), (second, fine)], start=1)
        ]

    def __call__(self, image_tokens: Tensor, hyper: Tensor, made: Tensor) -> Tensor:
        """Logits (K, 4 h, 4 w) of image tokens (P, C) and outputs of the hypernetworks (M, C / 8), of the K masks that `made`
        (M,) bool asks for."""
        height, width = self._hw
        if not made.any():
            return image_tokens.new_zeros(0, 4 * height, 4 * width)
        _, norm, act1, _, act2 = self._layers
        (coarse, coarse_added), (fine, fine_added) = self._steps
        logits = image_tokens.new_empty(len(image_tokens), 16, len(hyper))
        for start in range(0, len(image_tokens), TOKENS_AT_ONCE):
            part = slice(start, start + TOKENS_AT_ONCE)
            x = torch.addmm(coarse_added[part], image_tokens[part], coarse).view(-1, fine.shape[0])
            x = act1(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
            x = torch.addmm(fine_added[part].view(len(x), -1), x, fine).view(-1, hyper.shape[1])
            # Of all masks, which costs next to nothing here: a product of another width is rounded otherwise.
            torch.mm(act2(x), hyper.T, out=logits[part].view(-1, len(hyper)))
        return _unblock(logits if made.all() else logits[..., made], self._hw)


def _as_matrix(weight: Tensor) -> Tensor:
    """(C, 4 c) of a transposed convolution's weight (C, c, 2, 2)."""
    return weight.permute(0, 2, 3, 1).flatten(1).contiguous()


def _blocks(feature: Tensor, levels: int) -> Tensor:
    """(P, 4**levels * c) of (1, c, 2**levels h, 2**levels w): the pixels of each image token, in the order in which `levels`
    transposed convolutions make them."""
    channels, height, width = feature.shape[1:]
    twos = (2,) * levels
    x = feature[0].reshape(channels, height >> levels, *twos, width >> levels, *twos)
    rows, columns = range(1, 2 + levels), range(2 + levels, 3 + 2 * levels)
    order = [axis for pair in zip(rows, columns, strict=True) for axis in pair]
    return x.permute(*order, 0).reshape((height * width) >> (2 * levels), -1)


def _unblock(logits: Tensor, hw: tuple[int, int]) -> Tensor:
    """(K, 4 h, 4 w) of (P, 16, K): the pixels of each image token, put in their places in the picture."""
    height, width = hw
    x = logits.view(height, width, 2, 2, 2, 2, -1).permute(6, 0, 2, 4, 1, 3, 5)
    return x.reshape(-1, 4 * height, 4 * width)
