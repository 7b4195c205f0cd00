"""What anomalies are drawn with. All draws are torch's."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["drawn", "log_uniform", "noise", "uniform"]


def noise(shape: tuple[int, ...], voxels: float, device: torch.device) -> Tensor:
    """Smooth noise of spread 1, about, that changes over so many voxels."""
    coarse = [max(2, math.ceil(n / max(voxels, 1)) + 1) for n in shape]
    draw = torch.randn(1, 1, *coarse, device=device)
    return 1.4 * interpolate(draw, size=shape, mode="trilinear", align_corners=True)[0, 0]


def uniform(low: float = 0.0, high: float = 1.0) -> float:
    """A number from `low` to `high`."""
    return low + (high - low) * float(torch.rand(()))


def log_uniform(low: float, high: float) -> float:
    """A number from `low` to `high` whose logarithm is uniform."""
    return float(low * (high / low) ** uniform())


def drawn(weights: list[float]) -> int:
    """An index, as often as its weight says."""
    return int(torch.multinomial(torch.tensor(weights), 1))
