"""Memory that large results are written into again and again.

Memory of some megabytes goes back to the system when it is freed, and is cleared page by page when it is next used. For the
results of a layer that takes as long as to compute them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Scratch:
    """Memory for one result at a time, the next one in the place of the last."""

    def __init__(self) -> None:
        self._numbers: Tensor | None = None

    def take(self, like: Tensor, *shape: int) -> Tensor:
        """A tensor of any numbers with the dtype and device of another one; the tensors that were taken before are lost."""
        size = math.prod(shape)
        if self._numbers is None or self._numbers.numel() < size:
            self._numbers = like.new_empty(size)
        return self._numbers[:size].view(shape)

    def linear(self, layer: torch.nn.Linear, x: Tensor) -> Tensor:
        """What `layer` makes of `x` (..., C)."""
        flat = x.reshape(-1, layer.in_features)
        result = self.take(flat, len(flat), layer.out_features)
        torch.addmm(layer.bias, flat, layer.weight.T, out=result)
        return result.view(*x.shape[:-1], -1)
