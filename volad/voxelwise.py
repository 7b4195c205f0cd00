"""Networks without convolutions: numbers that tell what surrounds a voxel in, a logit out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Voxelwise"]


class Voxelwise(nn.Module):
    """Networks on values of voxels `(N, F)`, standardised; to the logits of each `(M, N)`.

    Args:
        size: F.
        hidden: units of each hidden layer.
        members: M.
        dropout: share of the units that are 0 while training.
    """

    mean: Tensor
    square: Tensor
    count: Tensor

    def __init__(self, size: int, hidden: int, members: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("square", torch.ones(size))
        self.register_buffer("count", torch.zeros(()))
        self.members = nn.ModuleList(
            nn.Sequential(
                nn.Linear(size, hidden),
                nn.Sequential(nn.SiLU(), nn.Dropout(dropout)),
                nn.Linear(hidden, hidden),
                nn.Sequential(nn.SiLU(), nn.Dropout(dropout)),
                nn.Linear(hidden, 1),
            )
            for _ in range(members)
        )

    def measure(self, values: Tensor) -> None:
        """Take more values into the mean and spread that all are standardised with."""
        self.count += 1
        self.mean += (values.mean(dim=0) - self.mean) / self.count
        self.square += (values.square().mean(dim=0) - self.square) / self.count

    def forward(self, values: Tensor) -> Tensor:
        spread = (self.square - self.mean**2).clamp(min=1e-6).sqrt()
        standardised = (values - self.mean) / spread
        return torch.stack([member(standardised)[:, 0].float() for member in self.members])
