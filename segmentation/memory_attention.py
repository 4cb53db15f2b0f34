"""sam2's memory attention on a CPU with fewer products: how what is remembered of an object changes a frame's features.

The weights and the function are those of `sam2.modeling.memory_attention.MemoryAttention` (sam2 1.1.0). The order of the
arithmetic is another, so results differ by float rounding. Below, P is the number of image tokens, one for each position of
the image embedding (4,096 in a released model), C the number of channels (256), K the number of memory tokens (up to 28,736)
and M the number of their channels (64).

- Memory tokens are weighted first and projected after: A (X W_V) = (A X) W_V, with M instead of C products for each of the
  P K attention weights. The bias of the values is added as it is, since attention weights add up to one. The projections of
  the values and of the output are one matrix.
- Half of the channels of queries and keys encode the column of a position, the other half its row. All tokens of one row have
  the second half turned by the same rotation R, which can be moved to the query: q (R W m) = (q R W) m. So for a row of the
  image the C / 2 channels of that half become the M channels of the token itself, for all remembered frames at once.
- In the first layer the frame attends to itself before it meets a memory: once per frame, and not once per object.
- Attention weights are made and used in blocks that stay in the processor's cache, and so are the MLPs' hidden channels.
- Rotary position encodings of the keys are not repeated for each remembered frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .sam2_package import MemoryAttention, MemoryAttentionLayer, RoPEAttention, SAM2Base

#: Queries that meet a row of memory tokens at once: 4 MB of attention weights in a released model with seven memories.
QUERIES_AT_ONCE = 2048
#: Tokens that go through an MLP at once: 8 MB of hidden channels in a released model.
TOKENS_AT_ONCE = 1024
#: Scores may exceed what is subtracted from them by so much: e^30 is far from the greatest float32, and so are sums of it.
MARGIN = 30.0


@dataclass(frozen=True)
class _Memory:
    """What is remembered of an object, by rows of the image (h, w); F frames are remembered.

    Attributes:
        tokens: (h, F w, M), with their position encoding.
        values: (h, M + 1, F w), without, and ones: so weighted values come with the sum of their weights.
        pointers: (X, M), with their position encoding; they have no place in the image.
        pointer_values: (M + 1, X), as `values`.
    """

    tokens: Tensor
    values: Tensor
    pointers: Tensor
    pointer_values: Tensor


class LeanMemoryAttention:
    """Computes what `MemoryAttention.forward` does, for objects of one frame.

    Args:
        model: one for which :meth:`fits` is true, on the CPU.
    """

    def __init__(self, model: SAM2Base) -> None:
        self._attention: MemoryAttention = model.memory_attention
        self._rotations: dict[tuple[int, tuple[int, int]], Tensor] = {}
        self._row_tables: dict[tuple[int, tuple[int, int]], Tensor] = {}
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
            remembered = _by_rows(of_object, memory_position, pointers, (height, width))
            tokens = self._last[1]
            for i in range(len(self._attention.layers)):
                if i > 0:
                    tokens = self._attend_to_itself(i, tokens, (height, width))
                tokens = self._attend_to_memory(i, tokens, remembered, (height, width))
                self._think(i, tokens)
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

    def _attend_to_memory(self, i: int, tokens: Tensor, memory: _Memory, hw: tuple[int, int]) -> Tensor:
        """Tokens (P, C) plus what they take from the memory in layer `i`."""
        layer = self._attention.layers[i]
        attention: RoPEAttention = layer.cross_attn_image
        queries = _rotated(attention.q_proj(layer.norm2(tokens)), self._turn(attention, hw))
        queries /= math.sqrt(queries.shape[1])
        keys = self._keys_of_rows(attention, memory.tokens, hw)
        table = self._row_table(attention, hw)
        pointer_keys = attention.k_proj(memory.pointers)
        taken = torch.cat(
            [_taken(part.T.contiguous(), keys, table, pointer_keys, memory) for part in queries.split(QUERIES_AT_ONCE)],
            dim=1,
        )
        weight, bias = self._cross_output[i]
        return torch.addmm(tokens + bias, taken.T, weight)

    def _think(self, i: int, tokens: Tensor) -> None:
        """Add to tokens (P, C) what the MLP of layer `i` makes of each."""
        layer = self._attention.layers[i]
        for part in tokens.split(TOKENS_AT_ONCE):
            part += layer.linear2(layer.activation(layer.linear1(layer.norm3(part))))

    def _keys_of_rows(self, attention: RoPEAttention, tokens: Tensor, hw: tuple[int, int]) -> Tensor:
        """(h, F w, D / 2 + M + 1): for each of the memory tokens (h, F w, M) the half of its key that depends on the column,
        the token itself, and a one for what :meth:`_row_table` adds."""
        height, width = hw
        half = attention.internal_dim // 2
        keys = F.linear(tokens, attention.k_proj.weight[:half], attention.k_proj.bias[:half])
        turn = self._turn(attention, hw)[:width, : half // 2]
        torch.view_as_complex(keys.view(height, -1, width, half // 2, 2)).mul_(turn)
        return torch.cat([keys, tokens, tokens.new_ones(*tokens.shape[:2], 1)], dim=2)

    def _row_table(self, attention: RoPEAttention, hw: tuple[int, int]) -> Tensor:
        """(h, M + 1, D / 2): for each row what makes of the second half of a query one for the tokens there, and of the score
        that the bias of the keys adds."""
        key = (id(attention), hw)
        if key not in self._row_tables:
            half = attention.internal_dim // 2
            weights = torch.cat([attention.k_proj.weight.T, attention.k_proj.bias[None]])[:, half:]
            turn = self._turn(attention, hw)[:: hw[1], half // 2 :]
            pairs = torch.view_as_complex(weights.reshape(-1, half // 2, 2))
            self._row_tables[key] = torch.view_as_real(pairs * turn[:, None]).flatten(2).contiguous()
        return self._row_tables[key]

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


def _by_rows(memory: Tensor, position: Tensor, pointers: int, hw: tuple[int, int]) -> _Memory:
    """Memory tokens (K, M), frame by frame and then the pointers, in the order in which they are used."""
    height, width = hw
    placed, described = len(memory) - pointers, memory + position

    def rows(tokens: Tensor) -> Tensor:
        return tokens[:placed].view(-1, height, width, tokens.shape[1]).transpose(0, 1).flatten(1, 2)

    values = torch.cat([memory, memory.new_ones(len(memory), 1)], dim=1)
    return _Memory(
        rows(described), rows(values).transpose(1, 2).contiguous(), described[placed:], values[placed:].T.contiguous()
    )


def _rotated(tokens: Tensor, turn: Tensor) -> Tensor:
    """Tokens (P, D) turned, in place, by a rotary position encoding (P, D / 2), complex."""
    torch.view_as_complex(tokens.view(*turn.shape, 2)).mul_(turn)
    return tokens


def _taken(queries: Tensor, keys: Tensor, table: Tensor, pointer_keys: Tensor, memory: _Memory) -> Tensor:
    """(M, Q): the tokens of a memory, weighted for each of the queries (D, Q).

    Args:
        queries: turned and scaled.
        keys: as :meth:`LeanMemoryAttention._keys_of_rows` gives them.
        table: as :meth:`LeanMemoryAttention._row_table` gives it.
        pointer_keys: (X, D).
        memory: of the keys.
    """
    half = len(queries) // 2
    taken = _Weighted(queries.new_zeros(len(memory.pointer_values), queries.shape[1]))
    if len(pointer_keys):
        taken.add(pointer_keys @ queries, memory.pointer_values)
    asked = queries.new_empty(keys.shape[2], queries.shape[1])
    asked[:half] = queries[:half]
    scores = queries.new_empty(keys.shape[1], queries.shape[1])
    for row, values in enumerate(memory.values):
        torch.mm(table[row], queries[half:], out=asked[half:])
        asked[-1] -= taken.subtracted
        taken.add(torch.mm(keys[row], asked, out=scores), values)
    return taken.summed[:-1] / taken.summed[-1]


class _Weighted:
    """Values that are added up with the softmax of scores as weights, block by block.

    Attributes:
        summed: (M, Q), weighted values.
        subtracted: (Q,), from all scores of a query, so that no weight is too great for a float.
    """

    def __init__(self, summed: Tensor) -> None:
        self.summed = summed
        self.subtracted = summed.new_zeros(summed.shape[1])
        self._is_empty = True

    def add(self, scores: Tensor, values: Tensor) -> None:
        """Add values (M, K) with scores (K, Q), from which `subtracted` was subtracted already, and which are overwritten."""
        greatest = scores.amax(dim=0)
        if self._is_empty:
            self._is_empty = False
            scores -= greatest
            self.subtracted += greatest
        elif greatest.max() > MARGIN:
            more = greatest.clamp_(min=0)
            scores -= more
            self.subtracted += more
            self.summed *= more.neg().exp()
        self.summed.addmm_(values, scores.exp_())
