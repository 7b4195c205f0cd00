"""Healthy "brains" of 16 voxels that a person can picture, and a training set made of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SIZE = 16


def healthy_brains(count: int, seed: int = 0, size: int = SIZE) -> Tensor:
    """`(count, 1, size, size, size)`: balls of about 0.6 with a brighter core, 0 outside.

    Every subject has another brightness, another core and its own noise.
    """
    random = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-1, 1, size)
    radius = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0)
    one = (count, 1, 1, 1, 1)
    shape = (count, 1, size, size, size)
    level = 0.6 + 0.03 * torch.randn(one, generator=random)
    core = 0.2 + 0.03 * torch.randn(one, generator=random)
    noise = 0.02 * torch.randn(shape, generator=random)
    return (level + core * torch.exp(-((radius / 0.5) ** 2)) + noise) * (radius < 0.95)


def lesion_mask(size: int = SIZE) -> Tensor:
    """`(size, size, size)` bool: a cube of 4 voxels, off the centre, inside the brain."""
    mask = torch.zeros(size, size, size, dtype=torch.bool)
    low = size // 2 - 5
    mask[low : low + 4, size // 2 : size // 2 + 4, size // 2 - 2 : size // 2 + 2] = True
    return mask


def with_lesion(brains: Tensor, lesion: Tensor, kind: str) -> Tensor:
    """Brains whose voxels in `lesion` are far brighter, or far darker, than healthy ones."""
    return torch.where(lesion, {"bright": 1.5, "dark": 0.1}[kind], brains)


class Scans:
    """A set of windows for `volad.train.Trainer`, as they are.

    Attributes:
        seeds: of every epoch begun, with whether augmentation was asked for.
    """

    def __init__(self, windows: Tensor | Sequence[Tensor]) -> None:
        self.windows = windows
        self.seeds: list[tuple[int, bool]] = []

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Tensor:
        return self.windows[index]

    def set_epoch(self, seed: int, *, augment: bool, whole: bool = False) -> None:
        self.seeds.append((seed, augment))
