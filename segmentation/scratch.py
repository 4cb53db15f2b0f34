"""Memory that large results are written into again and again.

Memory of some megabytes goes back to the system when it is freed, and is cleared page by page when it is next used. For the
result of a normalisation or an activation that takes several times as long as to compute it.
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
        """A tensor of that shape with any numbers in it, in the place of the one that was taken before.

        Args:
            like: has its dtype and device, the same in each call.
        """
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
