"""Many single points on one image through sam2's mask decoder, in a third of its time on a CPU.

The same weights and the same function as `sam2.modeling.sam.mask_decoder.MaskDecoder` (sam2 1.1.0), computed in another order,
so that results differ by float rounding only. With P places of the image embedding (4,096 in a released model), C channels
(256), T tokens a point (8) and H heads (8):

- What the image alone decides is computed once per image, not once per point: the projections of the first layer, and those
  of the position encoding in all layers. In sam2 each point carries its own copy of the image through the first layer.
- Attention between T tokens and P places projects the tokens onto the C channels instead of the places onto heads:
  (Q W_Q)(X W_K)^T = (Q W_Q W_K^T) X^T. That is H T = 64 products a place and channel instead of C / 2 = 128, and no (P, C / 2)
  arrays of queries, keys and values. Biases of keys drop out of the softmax; those of values pass through it, as weights add
  up to one.
- A mask given as a prompt reaches the places through 16 channels: what the first layer does with it is of rank 16.
- Masks are made of the points alone whose predicted IoU is high enough; it is known before them.
- The transposed convolutions, whose kernel is their stride, are matrix products; done some places at a time, and channels last,
  their results stay in the processor's cache. Pixels come into their order at the end, one number a pixel instead of 32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .model_loader import sam2_imports

with sam2_imports():
    from sam2.modeling.sam.mask_decoder import MaskDecoder
    from sam2.modeling.sam.prompt_encoder import PromptEncoder
    from sam2.modeling.sam.transformer import Attention, TwoWayTransformer
    from sam2.modeling.sam2_base import SAM2Base

#: Places of the image embedding that are upscaled at once: 3 MB of intermediate results with a released model.
PLACES_AT_ONCE = 1024

#: sam2's predictor hands masks out, and so on as prompts, with logits limited to this.
MASK_INPUT_LIMIT = 32.0


@dataclass(frozen=True)
class _Source:
    """What the first layer makes of an image before any prompt: the same for all points.

    Attributes:
        keys, values: (P, D), what tokens attend to.
        queries: (P, D), what attends to tokens.
        places: (P, C), the image itself.
    """

    keys: Tensor
    values: Tensor
    queries: Tensor
    places: Tensor


class PointDecoder:
    """Decodes points, one object each, on one image.

    Args:
        model: one that :meth:`fits`.
        image_embed: (1, C, h, w), of SAM2ImagePredictor's features.
        high_res_feats: (1, C / 8, 4 h, 4 w) and (1, C / 4, 2 h, 2 w), of the same.
    """

    def __init__(self, model: SAM2Base, image_embed: Tensor, high_res_feats: list[Tensor]) -> None:
        self._decoder: MaskDecoder = model.sam_mask_decoder
        self._prompts: PromptEncoder = model.sam_prompt_encoder
        self._transformer: TwoWayTransformer = self._decoder.transformer
        layers = self._transformer.layers
        self._to_image = [layer.cross_attn_token_to_image for layer in layers]
        self._to_image.append(self._transformer.final_attn_token_to_image)
        self._to_tokens = [layer.cross_attn_image_to_token for layer in layers]
        # (C, 16): what the channels of a prompted mask become.
        self._mask_weight = self._prompts.mask_downscaling[-1].weight.flatten(1)

        self._hw = tuple(image_embed.shape[-2:])
        image, position = (_places_first(x) for x in (image_embed, self._prompts.get_dense_pe()))
        no_mask = self._prompts.no_mask_embed.weight
        self._without_mask = self._source(image + no_mask, position)
        self._with_mask = self._source(image + self._prompts.mask_downscaling[-1].bias, position)
        self._position_keys = [F.linear(position, a.k_proj.weight) for a in self._to_image]
        self._position_queries = [a.q_proj(position) for a in self._to_tokens]

        first, _, _, second, _ = self._decoder.output_upscaling
        fine, coarse = high_res_feats
        self._upscaling = [
            (_as_matrix(conv.weight), _blocks(feature, levels) + conv.bias.repeat(4**levels))
            for levels, (conv, feature) in enumerate([(first, coarse), (second, fine)], start=1)
        ]

    @staticmethod
    def fits(model: SAM2Base) -> bool:
        """Whether this class computes what the model's decoder does, as for all released models."""
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
        iou_above: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Masks of N points, as SAM2ImagePredictor._predict with one positive point each gives them.

        Args:
            points: (N, 2) float32, xy in pixels of the model's input.
            multimask_output: three masks a point instead of one.
            mask_input: (N, 1, 4 h, 4 w) logits of a mask for each point, as a further prompt.
            iou_above: leave masks out whose predicted IoU is not above it.

        Returns:
            Logits (K, 4 h, 4 w) and predicted IoUs (K,), point by point; K is N or 3 N where `iou_above` is None.
        """
        labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
        prompts, _ = self._prompts((points[:, None], labels), None, None)
        decoder = self._decoder
        own = [decoder.iou_token.weight, decoder.mask_tokens.weight]
        if decoder.pred_obj_scores:
            own.insert(0, decoder.obj_score_token.weight)
        tokens = torch.cat([torch.cat(own).expand(len(points), -1, -1), prompts], dim=1)
        tokens, places = self._transform(tokens, None if mask_input is None else self._mask_channels(mask_input))

        at = int(decoder.pred_obj_scores)
        ious = decoder.iou_prediction_head(tokens[:, at])
        hyper = torch.stack(
            [mlp(tokens[:, at + 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1
        )
        found = [
            self._masks(*of_point, multimask_output, iou_above) for of_point in zip(places, hyper, ious, strict=True)
        ]
        return torch.cat([logits for logits, _ in found]), torch.cat([iou for _, iou in found])

    def _masks(
        self, places: Tensor, hyper: Tensor, ious: Tensor, multimask_output: bool, iou_above: float | None
    ) -> tuple[Tensor, Tensor]:
        """Logits (K, 4 h, 4 w) and IoUs (K,) of one point: those of its masks whose IoU is above `iou_above`."""

        def good(ious: Tensor) -> Tensor:  # an IoU that is not a number is above none
            return torch.ones_like(ious, dtype=torch.bool) if iou_above is None else ious > iou_above

        if multimask_output:
            wanted = 1 + torch.nonzero(good(ious[1:]))[:, 0]
        elif self._decoder.dynamic_multimask_via_stability:
            # Mask 0, or where it is not stable the best of the others: known only when both are there.
            wanted = torch.stack([torch.zeros_like(best := 1 + ious[1:].argmax()), best])
            if not good(ious[wanted]).any():
                wanted = wanted[:0]
        else:
            wanted = torch.nonzero(good(ious[:1]))[:, 0]
        if not len(wanted):
            return places.new_zeros(0, *(4 * side for side in self._hw)), ious[:0]
        logits, ious = self._upscale(places, hyper[wanted]), ious[wanted]
        if not multimask_output and self._decoder.dynamic_multimask_via_stability:
            logits, ious = self._decoder._dynamic_multimask_via_stability(logits[None], ious[None])
            logits, ious = logits[0], ious[0]
            keep = good(ious)
            logits, ious = logits[keep], ious[keep]
        return logits, ious

    def _source(self, image: Tensor, position: Tensor) -> _Source:
        to_image, to_tokens = self._to_image[0], self._to_tokens[0]
        return _Source(
            keys=F.linear(image + position, to_image.k_proj.weight),
            values=to_image.v_proj(image),
            queries=to_tokens.q_proj(image + position),
            places=image,
        )

    def _mask_channels(self, masks: Tensor) -> Tensor:
        """(N, P, 16) of masks (N, 1, 4 h, 4 w): PromptEncoder.mask_downscaling but for its last convolution."""
        first, norm1, act1, second, norm2, act2, _ = self._prompts.mask_downscaling
        height, width = self._hw
        blocks = masks.reshape(-1, height, 2, 2, width, 2, 2).permute(
            0, 1, 4, 2, 5, 3, 6
        )  # 2 x 2 blocks of 2 x 2 pixels
        x = F.linear(blocks.reshape(-1, 4), first.weight.flatten(1), first.bias)
        x = act1(F.layer_norm(x, x.shape[-1:], norm1.weight, norm1.bias, norm1.eps))
        weight = second.weight.permute(0, 2, 3, 1).flatten(1)
        x = F.linear(x.reshape(-1, weight.shape[1]), weight, second.bias)
        x = act2(F.layer_norm(x, x.shape[-1:], norm2.weight, norm2.bias, norm2.eps))
        return x.reshape(len(masks), height * width, -1)

    def _transform(self, prompts: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The two-way transformer: tokens (N, T, C) and channels (N, P, 16) of masks to tokens and places (N, P, C)."""
        tokens, places = prompts, None
        for i, layer in enumerate(self._transformer.layers):
            if layer.skip_first_layer_pe:
                tokens = layer.self_attn(tokens, tokens, tokens)
            else:
                queries = tokens + prompts
                tokens = tokens + layer.self_attn(queries, queries, tokens)
            tokens = layer.norm1(tokens)
            tokens = layer.norm2(tokens + self._attend_to_image(i, tokens + prompts, places, mask))
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            places = layer.norm4(self._attend_to_tokens(i, tokens, tokens + prompts, places, mask))
        tokens = tokens + self._attend_to_image(len(self._transformer.layers), tokens + prompts, places, mask)
        return self._transformer.norm_final_attn(tokens), places

    def _attend_to_image(self, i: int, tokens: Tensor, places: Tensor | None, mask: Tensor | None) -> Tensor:
        """What tokens (N, T, C) learn from the image: (N, T, C)."""
        attention = self._to_image[i]
        queries = _by_head(attention, attention.q_proj(tokens))  # (N, H T, D)
        if places is None:
            source = self._without_mask if mask is None else self._with_mask
            shares = queries @ source.keys.T
            if mask is not None:
                shares.baddbmm_(queries @ (attention.k_proj.weight @ self._mask_weight), mask.transpose(1, 2))
            shares = shares.softmax(dim=-1)
            values = shares @ source.values
            if mask is not None:
                values += shares @ mask @ (attention.v_proj.weight @ self._mask_weight).T
        else:
            shares = queries @ self._position_keys[i].T
            shares.baddbmm_(queries @ attention.k_proj.weight, places.transpose(1, 2))
            values = attention.v_proj(shares.softmax(dim=-1) @ places)
        count = tokens.shape[1]
        values = values.unflatten(1, (-1, count)) * _heads(attention)[:, None]
        return attention.out_proj(values.sum(dim=1))

    def _attend_to_tokens(
        self, i: int, tokens: Tensor, keys: Tensor, places: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """The image, with what it learns from tokens (N, T, C) whose keys (N, T, C) have their positions: (N, P, C)."""
        attention = self._to_tokens[i]
        keys = _by_head(attention, attention.k_proj(keys)).transpose(1, 2)  # (N, D, H T)
        # (N, H T, C). The shares of each head add up to one: with its part of the bias each adds the whole bias.
        gains = _by_head(attention, attention.v_proj(tokens), scaled=False) @ attention.out_proj.weight.T
        gains += attention.out_proj.bias / attention.num_heads
        source = self._without_mask if mask is None else self._with_mask
        queries = source.queries if places is None else self._position_queries[i]
        shares = torch.bmm(queries.expand(len(keys), -1, -1), keys)  # (N, P, H T); matmul would copy it
        if places is not None:
            shares.baddbmm_(places, attention.q_proj.weight.T @ keys)
        elif mask is not None:
            shares.baddbmm_(mask, (attention.q_proj.weight @ self._mask_weight).T @ keys)
        shares = shares.unflatten(2, (attention.num_heads, -1)).softmax(dim=-1).flatten(2)
        if places is not None:
            return torch.baddbmm(places, shares, gains)
        if mask is not None:
            shares = torch.cat([shares, mask], dim=2)
            gains = torch.cat([gains, self._mask_weight.T.expand(len(gains), -1, -1)], dim=1)
        return torch.baddbmm(source.places, shares, gains)

    def _upscale(self, places: Tensor, hyper: Tensor) -> Tensor:
        """Logits (K, 4 h, 4 w) from places (P, C) and what the decoder's small networks ask of each pixel (K, C / 8)."""
        _, norm, act1, _, act2 = self._decoder.output_upscaling
        (coarse, coarse_added), (fine, fine_added) = self._upscaling
        logits = places.new_empty(len(places), 16, len(hyper))
        for start in range(0, len(places), PLACES_AT_ONCE):
            part = slice(start, start + PLACES_AT_ONCE)
            x = torch.addmm(coarse_added[part], places[part], coarse).view(-1, fine.shape[0])
            x = act1(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
            x = torch.addmm(fine_added[part].view(len(x), -1), x, fine).view(-1, hyper.shape[1])
            torch.mm(act2(x), hyper.T, out=logits[part].view(-1, len(hyper)))
        return _unblock(logits, self._hw)


def _places_first(x: Tensor) -> Tensor:
    """(P, C) of (1, C, h, w)."""
    return x[0].flatten(1).T.contiguous()


def _heads(attention: Attention) -> Tensor:
    """(H, D): 1 where a channel belongs to a head."""
    eye = torch.eye(attention.num_heads, dtype=attention.q_proj.weight.dtype, device=attention.q_proj.weight.device)
    return eye.repeat_interleave(attention.internal_dim // attention.num_heads, dim=1)


def _by_head(attention: Attention, x: Tensor, scaled: bool = True) -> Tensor:
    """(N, H T, D) of (N, T, D): each head's own channels, the others zero, so that heads are rows of one matrix product.

    `scaled` by the square root that attention divides by.
    """
    heads = _heads(attention)
    if scaled:
        heads = heads * (attention.internal_dim // attention.num_heads) ** -0.5
    return (x[:, None] * heads[:, None]).flatten(1, 2)


def _as_matrix(weight: Tensor) -> Tensor:
    """(C, 4 c) of a transposed convolution's weight (C, c, 2, 2)."""
    return weight.permute(0, 2, 3, 1).flatten(1).contiguous()


def _blocks(feature: Tensor, levels: int) -> Tensor:
    """(P, 4**levels * c) of (1, c, 2**levels h, 2**levels w): the pixels of each place in the order in which `levels`
    transposed convolutions make them."""
    channels, height, width = feature.shape[1:]
    twos = (2,) * levels
    x = feature[0].reshape(channels, height >> levels, *twos, width >> levels, *twos)
    rows, columns = range(1, 2 + levels), range(2 + levels, 3 + 2 * levels)
    order = [axis for pair in zip(rows, columns, strict=True) for axis in pair]
    return x.permute(*order, 0).reshape((height * width) >> (2 * levels), -1)


def _unblock(logits: Tensor, hw: tuple[int, int]) -> Tensor:
    """(K, 4 h, 4 w) of (P, 16, K): the pixels of each place put where they belong."""
    height, width = hw
    x = logits.view(height, width, 2, 2, 2, 2, -1).permute(6, 0, 2, 4, 1, 3, 5)
    return x.reshape(-1, 4 * height, 4 * width)
