"""A memory of healthy codes, as the bottleneck of an autoencoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import hardshrink

__all__ = ["Memory", "address_entropy"]

#: Keeps a logarithm and a quotient finite at weights of 0.
TINY = 1e-12


class Memory(nn.Module):
    """Replace the code at every place by a sparse mean of learned items, weighted by likeness.

    The weights are the softmax over all items of item times code. Those up to a threshold become
    0, the others are scaled to sum to 1, so that a code is rebuilt from few items and one that no
    healthy window has cannot be. At a place where none exceeds the threshold all weights stay as
    they are: weights of 0 would pass no gradient on, and the place would never learn.

    Source: Gong et al., "Memorizing normality to detect anomaly: memory-augmented deep autoencoder
    for unsupervised anomaly detection", ICCV 2019.

    Args:
        items: how many.
        channels: of a code.
        shrink: the threshold, in units of the mean weight `1 / items`; 0: none.
    """

    def __init__(self, items: int, channels: int, shrink: float) -> None:
        super().__init__()
        if not 0 <= shrink < items:
            raise ValueError(f"shrink must be from 0 to below the {items} items, got {shrink}")
        self.threshold = shrink / items
        self.items = nn.Parameter(torch.empty(items, channels))
        bound = channels**-0.5  # likeness then varies alike however long the codes are
        nn.init.uniform_(self.items, -bound, bound)

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, channels, *S)` to what is read, of the same shape, and weights `(B, items, *S)`."""
        likeness = codes.movedim(1, -1) @ self.items.T
        weights = self._sparse(likeness.float().softmax(dim=-1))
        read = (weights @ self.items).movedim(-1, 1)
        return read, weights.movedim(-1, 1)

    def _sparse(self, weights: Tensor) -> Tensor:
        kept = hardshrink(weights, self.threshold)
        total = kept.sum(dim=-1, keepdim=True)
        return torch.where(total > 0, kept / total.clamp(min=TINY), weights)


def address_entropy(weights: Tensor) -> Tensor:
    """Entropy of weights `(B, items, *S)` at every place, in nats: `(B, 1, *S)`."""
    return -(weights * (weights + TINY).log()).sum(dim=1, keepdim=True)
