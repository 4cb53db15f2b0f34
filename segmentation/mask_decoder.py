"""Single points through sam2's mask decoder, many at once on one image, in a sixth of sam2's time on a CPU.

The weights and the function are those of `sam2.modeling.sam.mask_decoder.MaskDecoder` (sam2 1.1.0). The order of the arithmetic
is another, so results differ by float rounding. Below, P is the number of image tokens, one for each position of the image
embedding (4,096 in a released model), C the number of channels (256), T the number of tokens of a point (8) and H the number of
heads (8).

- What depends on the image alone is computed once per image and not once per point: the projections of the first layer, and the
  projections of the position encoding in all layers. In sam2 each point has a copy of the image tokens in the first layer.
- Attention between T tokens and P image tokens projects the tokens onto the C channels, instead of the image tokens onto heads:
  (Q W_Q)(X W_K)^T = (Q W_Q W_K^T) X^T. That is H T = 64 products per image token and channel instead of C / 2 = 128, and no
  arrays of (P, C / 2) for queries, keys and values. The bias of the keys has no effect on the softmax. The bias of the values
  is added as it is, since attention weights add up to one.
- A mask as a prompt is added to the image tokens through 16 channels, so what the first layer computes from it has rank 16.
- All weights lie in rows of P numbers, for the softmax over 8 tokens too, which then takes many image tokens at once. They and
  the image tokens are written into memory that was used before (:class:`.scratch.Scratch`).
- IoUs are predicted before masks are made, so only masks with a high enough IoU are made.
- Masks are made by :class:`.mask_upscaling.MaskUpscaling`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .mask_upscaling import TOKENS_AT_ONCE, MaskUpscaling
from .sam2_package import Attention, MaskDecoder, PromptEncoder, SAM2Base, TwoWayTransformer, stable_or_best
from .scratch import Scratch

#: sam2's predictor limits the logits of masks that it returns to this, and so those of masks that are given as prompts.
MASK_INPUT_LIMIT = 32.0


@dataclass(frozen=True)
class _FirstLayer:
    """What the first layer computes from an image before it meets a point.

    Attributes:
        image_tokens: (P, C), the image.
        keys, values: (P, D), for the attention from tokens to the image.
        queries: (P, D), for the attention from the image to tokens.
    """

    image_tokens: Tensor
    keys: Tensor
    values: Tensor
    queries: Tensor


class Decoded(NamedTuple):
    """Masks of N points, C of each: those that were made, and the predicted IoUs of all.

    Attributes:
        logits: (K, 4 h, 4 w), of the masks that were made.
        made: (K,) int64, which of the N C masks these are, in rising order.
        ious: (N C,), point by point. Of a mask that was not made it is the most that its IoU can be.
    """

    logits: Tensor
    made: Tensor
    ious: Tensor


def passes(ious: Tensor, threshold: float) -> Tensor:
    """Bool, which predicted IoUs are above a threshold, in their own precision, as sam2 compares. One of 0 lets all pass, also
    what is not a number."""
    return ious > threshold if threshold > 0 else torch.ones_like(ious, dtype=torch.bool)


class PointDecoder:
    """Decodes points on one image into masks. Each point is an object of its own.

    Args:
        model: one for which :meth:`fits` is true.
        image_embed: (1, C, h, w), as in the features of SAM2ImagePredictor.
        high_res_feats: (1, C / 8, 4 h, 4 w) and (1, C / 4, 2 h, 2 w), from the same features.
    """

    def __init__(self, model: SAM2Base, image_embed: Tensor, high_res_feats: list[Tensor]) -> None:
        self._decoder: MaskDecoder = model.sam_mask_decoder
        self._prompts: PromptEncoder = model.sam_prompt_encoder
        self._transformer: TwoWayTransformer = self._decoder.transformer
        layers = self._transformer.layers
        self._to_image: list[Attention] = [layer.cross_attn_token_to_image for layer in layers]
        self._to_image.append(self._transformer.final_attn_token_to_image)
        self._to_tokens: list[Attention] = [layer.cross_attn_image_to_token for layer in layers]
        # (C, 16): from the channels of a mask prompt to those of the image.
        self._mask_weight: Tensor = self._prompts.mask_downscaling[-1].weight.flatten(1)

        self._weights, self._softmax, self._image_tokens = Scratch(), Scratch(), Scratch()

        height, width = image_embed.shape[-2:]
        self._hw = (height, width)
        image, position = (_as_tokens(x) for x in (image_embed, self._prompts.get_dense_pe()))
        no_mask = self._prompts.no_mask_embed.weight
        self._without_mask = self._first_layer(image + no_mask, position)
        self._with_mask = self._first_layer(image + self._prompts.mask_downscaling[-1].bias, position)
        self._position_keys = [F.linear(position, a.k_proj.weight) for a in self._to_image]
        self._position_queries: list[Tensor] = [a.q_proj(position) for a in self._to_tokens]

        self._upscale = MaskUpscaling(self._decoder, high_res_feats)

    @staticmethod
    def fits(model: SAM2Base) -> bool:
        """Whether this class computes what the model's decoder does; it does for all released models."""
        decoder = model.sam_mask_decoder
        return (
            type(decoder) is MaskDecoder
            and decoder.use_high_res_features
            and type(decoder.transformer) is TwoWayTransformer
            and type(model.sam_prompt_encoder) is PromptEncoder
        )

    def decode(
        self,
        points: Tensor,
        *,
        multimask_output: bool,
        mask_input: Tensor | None = None,
        iou_above: float = 0.0,
        skip: Tensor | None = None,
    ) -> Decoded:
        """Masks of N points, as SAM2ImagePredictor._predict gives them for one positive point each.

        A mask is the same to the last bit whichever others are made with it.

        Args:
            points: (N, 2) float32, xy in pixels of the model's input.
            multimask_output: three masks per point instead of one.
            mask_input: (N, 1, 4 h, 4 w) logits of a mask for each point, as a further prompt.
            iou_above: make only masks whose predicted IoU :func:`passes` this.
            skip: (N C,) bool, masks that are not wanted; None: all are.
        """
        labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
        prompts, _ = self._prompts((points[:, None], labels), None, None)
        decoder = self._decoder
        own = [decoder.iou_token.weight, decoder.mask_tokens.weight]
        if decoder.pred_obj_scores:
            own.insert(0, decoder.obj_score_token.weight)
        tokens = torch.cat([torch.cat(own).expand(len(points), -1, -1), prompts], dim=1)
        tokens, image_tokens = self._transform(tokens, None if mask_input is None else self._mask_channels(mask_input))

        at = int(decoder.pred_obj_scores)
        ious = decoder.iou_prediction_head(tokens[:, at])
        hyper = torch.stack(
            [mlp(tokens[:, at + 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1
        )
        per_point = ious.shape[1] - 1 if multimask_output else 1
        wanted = torch.ones(len(points), per_point, dtype=torch.bool) if skip is None else ~skip.view(-1, per_point)
        masks_of_point = self._three_masks if multimask_output else self._single_mask
        found = [
            masks_of_point(*of_point, iou_above) for of_point in zip(image_tokens, hyper, ious, wanted, strict=True)
        ]
        logits, made, best = zip(*found, strict=True)
        return Decoded(torch.cat(logits), torch.nonzero(torch.cat(made))[:, 0], torch.cat(best))

    def _three_masks(
        self, image_tokens: Tensor, hyper: Tensor, ious: Tensor, wanted: Tensor, iou_above: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of one point all masks but the single one.

        Args:
            image_tokens: (P, C).
            hyper: (M, C / 8), the output of the hypernetwork of each mask, the single mask first.
            ious: (M,).
            wanted: (M - 1,) bool.
            iou_above: as in :meth:`decode`.

        Returns:
            Logits (K, 4 h, 4 w) of those that were made, which these are (M - 1,) bool, and IoUs (M - 1,).
        """
        made = passes(ious[1:], iou_above) & wanted
        return self._upscale(image_tokens, hyper[1:], made), made, ious[1:]

    def _single_mask(
        self, image_tokens: Tensor, hyper: Tensor, ious: Tensor, wanted: Tensor, iou_above: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of one point the one mask that sam2 gives for it; arguments and results as in :meth:`_three_masks`, with one mask."""
        if not self._decoder.dynamic_multimask_via_stability:
            made = passes(ious[:1], iou_above) & wanted
            return self._upscale(image_tokens, hyper[:1], made), made, ious[:1]
        # The single mask if it is stable, else the best of the others: which one is known when both are made.
        either = torch.stack([torch.zeros_like(wanted[0], dtype=torch.int64), 1 + ious[1:].argmax()])
        made = passes(ious[either], iou_above).any() & wanted
        logits, of_mask = self._upscale(image_tokens, hyper[either], made.expand(2)), ious[either].max()[None]
        if made:
            logits, of_mask = (x[0] for x in stable_or_best(self._decoder, logits[None], ious[either][None]))
            made = passes(of_mask, iou_above)
            logits = logits[made]
        return logits, made, of_mask

    def _first_layer(self, image_tokens: Tensor, position: Tensor) -> _FirstLayer:
        to_image, to_tokens = self._to_image[0], self._to_tokens[0]
        return _FirstLayer(
            image_tokens=image_tokens,
            keys=F.linear(image_tokens + position, to_image.k_proj.weight),
            values=to_image.v_proj(image_tokens),
            queries=to_tokens.q_proj(image_tokens + position),
        )

    def _mask_channels(self, masks: Tensor) -> Tensor:
        """(N, P, 16) of masks (N, 1, 4 h, 4 w): PromptEncoder.mask_downscaling without its last convolution."""
        first, norm1, act1, second, norm2, act2, _ = self._prompts.mask_downscaling
        height, width = self._hw
        # 2 x 2 blocks of 2 x 2 pixels: the kernels of both convolutions are as large as their strides.
        blocks = masks.reshape(-1, height, 2, 2, width, 2, 2).permute(0, 1, 4, 2, 5, 3, 6)
        x = F.linear(blocks.reshape(-1, 4), first.weight.flatten(1), first.bias)
        x = act1(F.layer_norm(x, x.shape[-1:], norm1.weight, norm1.bias, norm1.eps))
        weight = second.weight.permute(0, 2, 3, 1).flatten(1)
        x = F.linear(x.reshape(-1, weight.shape[1]), weight, second.bias)
        x = act2(F.layer_norm(x, x.shape[-1:], norm2.weight, norm2.bias, norm2.eps))
        return x.reshape(len(masks), height * width, -1)

    def _transform(self, prompts: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The two-way transformer.

        Args:
            prompts: (N, T, C), the tokens of each point. They serve as their own position encoding, too.
            mask: (N, P, 16), the channels of a mask prompt.

        Returns:
            Tokens (N, T, C), and image tokens (N, P, C) until the next call.
        """
        first = self._without_mask if mask is None else self._with_mask
        tokens, image_tokens = prompts, first.image_tokens
        for i, layer in enumerate(self._transformer.layers):
            if layer.skip_first_layer_pe:
                tokens = layer.self_attn(tokens, tokens, tokens)
            else:
                queries = tokens + prompts
                tokens = tokens + layer.self_attn(queries, queries, tokens)
            tokens = layer.norm1(tokens)
            queries = tokens + prompts
            if i == 0:
                learned = self._first_to_image(queries, first, mask)
            else:
                learned = self._attend_to_image(i, queries, image_tokens)
            tokens = layer.norm2(tokens + learned)
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            keys = tokens + prompts
            if i == 0:
                image_tokens = self._first_to_tokens(first, mask, keys, tokens)
            else:
                self._attend_to_tokens(i, image_tokens, keys, tokens)
            for part in image_tokens.view(-1, image_tokens.shape[-1]).split(TOKENS_AT_ONCE):
                part.copy_(layer.norm4(part))
        tokens = tokens + self._attend_to_image(len(self._transformer.layers), tokens + prompts, image_tokens)
        return self._transformer.norm_final_attn(tokens), image_tokens

    def _first_to_image(self, tokens: Tensor, first: _FirstLayer, mask: Tensor | None) -> Tensor:
        """:meth:`_attend_to_image` in the first layer, whose keys and values are the same for all points but for a mask."""
        attention = self._to_image[0]
        queries = _by_head(attention, attention.q_proj(tokens))  # (N, H T, D)
        weights = self._weights_of(queries, first.keys)
        if mask is not None:
            weights.baddbmm_(queries @ (attention.k_proj.weight @ self._mask_weight), mask.transpose(1, 2))
        weights = self._softmax_over_image(weights)
        values = weights @ first.values
        if mask is not None:
            values += weights @ mask @ (attention.v_proj.weight @ self._mask_weight).T
        return _join_heads(attention, values)

    def _attend_to_image(self, i: int, tokens: Tensor, image_tokens: Tensor) -> Tensor:
        """(N, T, C): what tokens (N, T, C) take from the image (N, P, C) in layer `i`."""
        attention = self._to_image[i]
        queries = _by_head(attention, attention.q_proj(tokens))  # (N, H T, D)
        weights = self._weights_of(queries, self._position_keys[i])
        weights.baddbmm_(queries @ attention.k_proj.weight, image_tokens.transpose(1, 2))
        values = attention.v_proj(self._softmax_over_image(weights) @ image_tokens)
        return _join_heads(attention, values)

    def _first_to_tokens(self, first: _FirstLayer, mask: Tensor | None, keys: Tensor, values: Tensor) -> Tensor:
        """(N, P, C): what :meth:`_attend_to_tokens` makes of the image in the first layer, whose queries are the same for all
        points but for a mask."""
        attention = self._to_tokens[0]
        keys, values = _by_head(attention, attention.k_proj(keys)), _values_by_head(attention, values)
        weights = self._weights_of(keys, first.queries)
        if mask is None:
            weights = self._softmax_over_tokens(attention, weights)
        else:
            weights.baddbmm_(keys @ (attention.q_proj.weight @ self._mask_weight), mask.transpose(1, 2))
            # The mask's part of the image tokens is added in the same product.
            weights = torch.cat([self._softmax_over_tokens(attention, weights), mask.transpose(1, 2)], dim=1)
            values = torch.cat([values, self._mask_weight.T.expand(len(values), -1, -1)], dim=1)
        image_tokens = self._image_tokens.take(first.image_tokens, len(keys), *first.image_tokens.shape)
        return torch.baddbmm(first.image_tokens, weights.transpose(1, 2), values, out=image_tokens)

    def _attend_to_tokens(self, i: int, image_tokens: Tensor, keys: Tensor, values: Tensor) -> None:
        """Add to the image (N, P, C) what it takes from tokens in layer `i`.

        Args:
            keys: (N, T, C), the tokens with their position encoding.
            values: (N, T, C), the tokens without it.
        """
        attention = self._to_tokens[i]
        keys, values = _by_head(attention, attention.k_proj(keys)), _values_by_head(attention, values)
        weights = self._weights_of(keys, self._position_queries[i])
        weights.baddbmm_(keys @ attention.q_proj.weight, image_tokens.transpose(1, 2))
        image_tokens.baddbmm_(self._softmax_over_tokens(attention, weights).transpose(1, 2), values)

    def _weights_of(self, of_tokens: Tensor, of_image: Tensor) -> Tensor:
        """(N, H T, P): the product of keys or queries (N, H T, D) with queries or keys of the image (P, D)."""
        weights = self._weights.take(of_tokens, *of_tokens.shape[:2], len(of_image))
        torch.mm(of_tokens.flatten(0, 1), of_image.T, out=weights.view(-1, len(of_image)))
        return weights

    def _softmax_over_image(self, weights: Tensor) -> Tensor:
        """Attention weights (N, H T, P) that add up to one over the image."""
        return torch.softmax(weights, dim=-1, out=self._softmax.take(weights, *weights.shape))

    def _softmax_over_tokens(self, attention: Attention, weights: Tensor) -> Tensor:
        """Attention weights (N, H T, P) that add up to one over the T tokens of each head."""
        by_head = weights.unflatten(1, (attention.num_heads, -1))
        return torch.softmax(by_head, dim=2, out=self._softmax.take(by_head, *by_head.shape)).flatten(1, 2)


def _as_tokens(x: Tensor) -> Tensor:
    """(P, C) of (1, C, h, w)."""
    return x[0].flatten(1).T.contiguous()


def _heads(attention: Attention) -> Tensor:
    """(H, D): 1 where a channel belongs to a head."""
    weight: Tensor = attention.q_proj.weight
    eye = torch.eye(attention.num_heads, dtype=weight.dtype, device=weight.device)
    return eye.repeat_interleave(attention.internal_dim // attention.num_heads, dim=1)


def _by_head(attention: Attention, x: Tensor, scaled: bool = True) -> Tensor:
    """(N, H T, D) of (N, T, D): a row for each head with the head's own channels, the others zero.

    So one matrix product serves all heads. `scaled` divides by the square root of a head's number of channels, as attention
    does.
    """
    heads = _heads(attention)
    if scaled:
        heads = heads * (attention.internal_dim // attention.num_heads) ** -0.5
    return (x[:, None] * heads[:, None]).flatten(1, 2)


def _values_by_head(attention: Attention, tokens: Tensor) -> Tensor:
    """(N, H T, C): the values of tokens (N, T, C), projected to what they add to an image token."""
    values = _by_head(attention, attention.v_proj(tokens), scaled=False) @ attention.out_proj.weight.T
    # The attention weights of each head add up to one, so H parts of the bias add up to the bias.
    values += attention.out_proj.bias / attention.num_heads
    return values


def _join_heads(attention: Attention, values: Tensor) -> Tensor:
    """(N, T, C) of values (N, H T, D), of which each head gives its own channels."""
    values = values.unflatten(1, (attention.num_heads, -1)) * _heads(attention)[:, None]
    return attention.out_proj(values.sum(dim=1))
