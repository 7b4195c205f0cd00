"""Density heads: distributions of healthy features that a method fits and then scores with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from volad.tensors import brain_of

__all__ = ["VoxelNormal"]


class VoxelNormal(nn.Module):
    """A normal distribution at every voxel of an aligned grid, from healthy values.

    Args:
        channels: channels of the values.
        grid: spatial shape.
        floor: added to the standard deviation, in units of the values, so that few scans do not
            make a voxel infinitely sure.
        brain_only: values are images, and a voxel counts the scans that have brain there; else what
            lies outside counts as 0.
    """

    count: Tensor
    total: Tensor
    squares: Tensor

    def __init__(
        self, channels: int, grid: Sequence[int], floor: float, brain_only: bool = False
    ) -> None:
        super().__init__()
        if floor <= 0:
            raise ValueError(f"floor must be above 0, got {floor}")
        self.floor = floor
        self.brain_only = brain_only
        self.register_buffer("count", torch.zeros((1, *grid) if brain_only else ()))
        self.register_buffer("total", torch.zeros(channels, *grid))
        self.register_buffer("squares", torch.zeros(channels, *grid))

    def update(self, values: Tensor) -> None:
        """Take in healthy values `(B, C, *grid)`."""
        self._check(values)
        self.count += brain_of(values).sum(dim=0) if self.brain_only else len(values)
        self.total += values.sum(dim=0)
        self.squares += values.square().sum(dim=0)

    @property
    def mean(self) -> Tensor:
        """`(C, *grid)`."""
        return self.total / self.count.clamp(min=1)

    @property
    def std(self) -> Tensor:
        """`(C, *grid)`, without the floor; of the population, not the sample."""
        variance = self.squares / self.count.clamp(min=1) - self.mean.square()
        return variance.clamp(min=0).sqrt()

    def forward(self, values: Tensor) -> Tensor:
        """Standard scores of values `(B, C, *grid)`: `(v - mean) / (std + floor)`."""
        self._check(values)
        return (values - self.mean) / (self.std + self.floor)

    def _check(self, values: Tensor) -> None:
        if values.shape[1:] != self.total.shape:
            raise ValueError(
                f"this model scores whole aligned volumes of {tuple(self.total.shape)}, "
                f"got {tuple(values.shape[1:])}"
            )
