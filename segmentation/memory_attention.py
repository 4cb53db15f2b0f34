"""sam2's memory attention on a CPU with fewer products: how what is remembered of an object changes a frame's features.

The weights and the function are those of `sam2.modeling.memory_attention.MemoryAttention` (sam2 1.1.0). The order of the
arithmetic is another, so results differ by float rounding. Below, P is the number of image tokens, one for each position of
the image embedding (4,096 in a released model), C the number of channels (256), K the number of memory tokens (up to 28,736)
and M the number of their channels (64).

- Memory tokens are weighted first and projected after: A (X W_V) = (A X) W_V, with M instead of C products for each of the
  P K attention weights. The bias of the values is added as it is, since attention weights add up to one. The projections of
  the values and of the output are one matrix.
- In the first layer the frame attends to itself before it meets a memory: once per frame, and not once per object.
- Attention weights are made and used in blocks that stay in the processor's cache.
- Rotary position encodings of the keys are not repeated for each remembered frame.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .sam2_package import MemoryAttention, MemoryAttentionLayer, RoPEAttention, SAM2Base

#: Queries and keys of one block of attention weights: 2 MB of them.
QUERIES_AT_ONCE, KEYS_AT_ONCE = 512, 1024


class LeanMemoryAttention:
    """Computes what `MemoryAttention.forward` does, for objects of one frame.

    Args:
        model: one for which :meth:`fits` is true, on the CPU.
    """

    def __init__(self, model: SAM2Base) -> None:
        self._attention: MemoryAttention = model.memory_attention
        self._rotations: dict[tuple[int, tuple[int, int]], Tensor] = {}
        # The features of the last frame, and what it is after it has attended to itself in the first layer.
        self._last: tuple[Tensor, Tensor] | None = None
        self._self_output = [_merged(layer.self_attn) for layer in self._attention.layers]
        self._cross_output = [_merged(layer.cross_attn_image) for layer in self._attention.layers]

    @staticmethod
    def fits(model: SAM2Base) -> bool:
        """Whether this class computes what the model's memory attention does; it does for all released models."""
        attention = model.memory_attention
        return (
            type(attention) is MemoryAttention
            and attention.batch_first
            and all(
                type(layer) is MemoryAttentionLayer
                and not layer.pos_enc_at_attn
                and layer.pos_enc_at_cross_attn_keys
                and not layer.pos_enc_at_cross_attn_queries
                and all(
                    type(part) is RoPEAttention and part.num_heads == 1
                    for part in (layer.self_attn, layer.cross_attn_image)
                )
                for layer in attention.layers
            )
        )

    def __call__(
        self, features: Tensor, position: Tensor, memory: Tensor, memory_position: Tensor, pointers: int
    ) -> Tensor:
        """The features of a frame (N, C, h, w), as they are for each of N objects.

        Args:
            features: (1, C, h, w).
            position: (1, C, h, w), their position encoding.
            memory: (N, K, M).
            memory_position: (K, M).
            pointers: how many of the K are pointers, the last ones: they have no place in the image.
        """
        height, width = features.shape[-2:]
        if self._last is None or self._last[0] is not features:
            tokens = features[0].flatten(1).T
            if self._attention.pos_enc_at_input:
                tokens = tokens + 0.1 * position[0].flatten(1).T
            self._last = features, self._attend_to_itself(0, tokens, (height, width))
        found = features.new_empty(len(memory), *features.shape[1:])
        for k, of_object in enumerate(memory):
            tokens = self._last[1]
            for i in range(len(self._attention.layers)):
                if i > 0:
                    tokens = self._attend_to_itself(i, tokens, (height, width))
                tokens = self._attend_to_memory(i, tokens, of_object, memory_position, pointers, (height, width))
                tokens = self._think(i, tokens)
            found[k] = self._attention.norm(tokens).T.view(-1, height, width)
        return found

    def _attend_to_itself(self, i: int, tokens: Tensor, hw: tuple[int, int]) -> Tensor:
        """Tokens (P, C) plus what they take from one another in layer `i`."""
        layer = self._attention.layers[i]
        attention: RoPEAttention = layer.self_attn
        normed = layer.norm1(tokens)
        turn = self._turn(attention, hw)
        queries, keys = _rotated(attention.q_proj(normed), turn), _rotated(attention.k_proj(normed), turn)
        taken = F.scaled_dot_product_attention(queries[None, None], keys[None, None], normed[None, None])[0, 0]
        weight, bias = self._self_output[i]
        return torch.addmm(tokens + bias, taken, weight)

    def _attend_to_memory(
        self, i: int, tokens: Tensor, memory: Tensor, memory_position: Tensor, pointers: int, hw: tuple[int, int]
    ) -> Tensor:
        """Tokens (P, C) plus what they take from memory tokens (K, M) in layer `i`."""
        layer = self._attention.layers[i]
        attention: RoPEAttention = layer.cross_attn_image
        turn = self._turn(attention, hw)
        queries = _rotated(attention.q_proj(layer.norm2(tokens)), turn)
        keys = attention.k_proj(memory + memory_position)
        placed = len(keys) - pointers
        keys[:placed] = _rotated(keys[:placed], turn)
        taken = _weighted(queries / math.sqrt(queries.shape[1]), keys, memory)
        weight, bias = self._cross_output[i]
        return torch.addmm(tokens + bias, taken, weight)

    def _think(self, i: int, tokens: Tensor) -> Tensor:
        """Tokens (P, C) plus what the MLP of layer `i` makes of each."""
        layer = self._attention.layers[i]
        return tokens + layer.linear2(layer.activation(layer.linear1(layer.norm3(tokens))))

    def _turn(self, attention: RoPEAttention, hw: tuple[int, int]) -> Tensor:
        """Rotary position encoding (P, D / 2), complex, of tokens of that height and width."""
        key = (id(attention), hw)
        if key not in self._rotations:
            self._rotations[key] = attention.compute_cis(end_x=hw[1], end_y=hw[0])
        return self._rotations[key]


def _merged(attention: RoPEAttention) -> tuple[Tensor, Tensor]:
    """What takes weighted tokens (P, M) to the output: (M, C) and (C,), the projections of values and output in one."""
    with torch.no_grad():
        weight = (attention.out_proj.weight @ attention.v_proj.weight).T.contiguous()
        return weight, attention.out_proj(attention.v_proj.bias)


def _rotated(tokens: Tensor, turn: Tensor) -> Tensor:
    """Tokens (F P, D), of F frames, turned by a rotary position encoding (P, D / 2), complex."""
    pairs = torch.view_as_complex(tokens.view(-1, *turn.shape, 2))
    return torch.view_as_real(pairs * turn).view_as(tokens)


def _weighted(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """(P, M): softmax(queries keys^T) values, of (P, D), (K, D) and (K, M), some attention weights at a time.

    The softmax of each query is put together from blocks of keys: what was added up before is scaled down where a block has a
    greater attention weight than those before it.
    """
    result = queries.new_empty(len(queries), values.shape[1])
    blocks = [slice(start, start + KEYS_AT_ONCE) for start in range(0, len(keys), KEYS_AT_ONCE)]
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = queries[start : start + QUERIES_AT_ONCE]
        greatest = queries.new_full((len(part), 1), -math.inf)
        total, summed = torch.zeros_like(greatest), queries.new_zeros(len(part), values.shape[1])
        for block in blocks:
            weights = part @ keys[block].T
            greater = torch.maximum(greatest, weights.amax(dim=1, keepdim=True))
            weights.sub_(greater).exp_()
            scale = greatest.sub_(greater).exp_()
            total.mul_(scale).add_(weights.sum(dim=1, keepdim=True))
            summed.mul_(scale).addmm_(weights, values[block])
            greatest = greater
        result[start : start + QUERIES_AT_ONCE] = summed / total
    return result
