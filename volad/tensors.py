"""What is asked of windows `(B, C, *S)` in many places: where their brain is, and their size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["brain_mean", "brain_of", "crop", "divisible", "fixed_draws", "mean_over", "plain"]


def brain_of(x: Tensor) -> Tensor:
    """`(B, 1, *S)`: 1.0 where any channel of `x (B, C, *S)` is not exactly 0."""
    return (x != 0).any(dim=1, keepdim=True).to(x.dtype)


def brain_mean(values: Tensor, x: Tensor) -> Tensor:
    """Mean of `values (B, K, *S)` over the brain voxels of windows `x (B, C, *S)`; a scalar.

    0 where there is no brain.
    """
    inside = brain_of(x)
    total = torch.where(inside > 0, values, 0).sum()
    return total / (inside.sum().clamp(min=1) * values.shape[1])


def mean_over(image: Tensor, weight: Tensor) -> Tensor:
    """`(N, 1, 1, 1, 1)`: mean of each image over what `weight` holds; 0 where that is nothing."""
    total = weight.sum(dim=(2, 3, 4), keepdim=True).clamp(min=1e-3)
    return (image * weight).sum(dim=(2, 3, 4), keepdim=True) / total


def divisible(x: Tensor, factor: int, least: int = 1) -> Tensor:
    """`(B, C, *S)` with zeros behind: every size a multiple of `factor`, at least `least` of it."""
    sizes = [max(math.ceil(n / factor), least) * factor for n in x.shape[2:]]
    return pad(
        x, [b for n, size in zip(x.shape[:1:-1], sizes[::-1], strict=True) for b in (0, size - n)]
    )


def crop(y: Tensor, x: Tensor) -> Tensor:
    """`y` cut to the spatial size of `x`."""
    place: tuple[Any, ...] = (..., *(slice(n) for n in x.shape[2:]))
    return y[place]


def plain(x: Tensor) -> Tensor:
    """Without MONAI's metadata: weights that took it over could not be read back."""
    bare: Tensor = convert_to_tensor(x, track_meta=False)
    return bare


@contextmanager
def fixed_draws(device: torch.device) -> Iterator[None]:
    """Draw the same random numbers every time, on the CPU and `device`, and disturb no others."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield
