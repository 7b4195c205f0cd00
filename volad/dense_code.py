"""A dense bottleneck that starts from the principal components of what the network sees."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn

__all__ = ["DenseCode"]


class DenseCode(nn.Module):
    """One vector per window between a 1x1 convolution to an eighth of the channels and back.

    Learned from nothing, such a code ends up the same for every scan: what 100 scans have in common
    is found long before what tells them apart, and then nothing asks for the code. So a network is
    trained in three steps: without the code, which lets all features pass until `close`; then the
    features of all scans are shown to `measure`, and their mean and principal components become the
    two layers of the code; then all is trained on.

    Source: Hinton and Salakhutdinov, "Reducing the dimensionality of data with neural networks",
        Science 313 (2006), where a deep autoencoder needs such a start, from restricted Boltzmann
        machines there; the best linear code is that of the principal components (Baldi and Hornik,
        Neural Networks 2 (1989)). They are found batch by batch after Ross et al., "Incremental
        learning for robust visual tracking", IJCV 77 (2008).

    Args:
        spatial_dims: 2 or 3.
        channels: of the features in and out.
        code: length of the vector.
        grid: spatial shape of the features.
        dropout: share of the code's numbers that are 0 while training.
        unit: each number of the code starts with a spread of 1, as a standard normal prior has it,
            not with that of its component.
    """

    seen: Tensor
    mean: Tensor
    strength: Tensor
    closed: Tensor

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        code: int,
        grid: Sequence[int],
        dropout: float = 0.0,
        unit: bool = False,
    ) -> None:
        super().__init__()
        self.unit = unit
        thin = max(channels // 8, 1)
        self.shape = (thin, *grid)
        size = math.prod(self.shape)
        self.squeeze = Convolution(spatial_dims, channels, thin, kernel_size=1, conv_only=True)
        self.encode = nn.Linear(size, code)
        self.dropout = nn.Dropout(dropout)
        self.decode = nn.Linear(code, size)
        self.expand = Convolution(spatial_dims, thin, channels, kernel_size=1, conv_only=True)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("strength", torch.zeros(code))
        self.register_buffer("closed", torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        """`(B, channels, *grid)` to the same shape."""
        rows = self.rows(features)
        return self.leave(self.encode(rows)) if self.closed else self._expanded(rows)

    def rows(self, features: Tensor) -> Tensor:
        """What the code is taken from: `(B, channels, *grid)` to `(B, size)`."""
        found: Tensor = self.squeeze(features).flatten(1)
        return found

    def leave(self, code: Tensor) -> Tensor:
        """Codes `(B, code)` to features `(B, channels, *grid)`."""
        return self._expanded(self.decode(self.dropout(code)))

    def _expanded(self, rows: Tensor) -> Tensor:
        y: Tensor = self.expand(rows.view(-1, *self.shape))
        return y

    @torch.no_grad()
    def measure(self, features: Tensor) -> None:
        """Take the features `(B, channels, *grid)` of more windows into the components."""
        rows = self.rows(features).float()
        count, found = len(rows), rows.mean(dim=0)
        total = self.seen + count
        # Both means may differ from the new one: their distance is one more row.
        between = (self.seen * count / total).sqrt() * (self.mean - found)
        known = self.strength[:, None] * self.encode.weight
        stacked = torch.cat([known, rows - found, between[None]])
        _, strength, components = torch.linalg.svd(stacked, full_matrices=False)
        kept = min(len(self.strength), len(strength))
        self.strength.zero_()[:kept] = strength[:kept]
        self.encode.weight.zero_()[:kept] = components[:kept]
        self.mean += (found - self.mean) * count / total
        self.seen.copy_(total)

    @torch.no_grad()
    def close(self) -> None:
        """From now on only the code passes.

        Raises:
            ValueError: nothing was measured.
        """
        if not self.seen:
            raise ValueError("the code has nothing to start from: measure features first")
        basis = self.encode.weight
        spread = torch.ones_like(self.strength)
        if self.unit:
            spread = (self.strength / self.seen.sqrt()).clamp(min=1e-6)
        self.decode.weight.copy_(basis.T * spread)
        self.decode.bias.copy_(self.mean)
        self.encode.weight.copy_(basis / spread[:, None])
        self.encode.bias.copy_(-self.encode.weight @ self.mean)
        self.closed.fill_(1)
