"""Baseline: a normal distribution of healthy intensities at every voxel of the template.

Method: the voxel-wise z-score against aligned healthy scans, |x - mean(v)| / std(v); as a
baseline for unsupervised detection e.g. Meissen et al., "simpleBAD" (2023). Differs from it: the
spread has a floor, so that few scans or a quiet voxel do not make the score explode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from volad.heads import VoxelNormal
from volad.methods._base import Method, Stage, Update
from volad.residual import SIGNED, residual
from volad.tensors import brain_of

__all__ = ["VoxelGaussian"]


class VoxelGaussian(Method):
    """Score a voxel by how many standard deviations it lies off the healthy mean.

    Args:
        grid: spatial shape of the aligned volumes, in voxels.
        channels: image channels.
        floor: added to the standard deviation, in units of the image.
        residual: which side counts: `absolute`, `squared`, `positive` or `negative`.
    """

    windows = ("volume",)
    tiny: ClassVar[Mapping[str, Any]] = {"grid": (16, 16, 16)}

    def __init__(
        self,
        grid: Sequence[int] = (80, 96, 88),
        channels: int = 1,
        floor: float = 0.05,
        residual: str = "absolute",
    ) -> None:
        super().__init__()
        if residual not in SIGNED:
            raise ValueError(f"residual must be one of {sorted(SIGNED)}, got {residual!r}")
        self.kind = residual
        self.normal = VoxelNormal(channels, grid, floor)

    def stages(self) -> Sequence[Stage]:
        return [Stage(self._collect, epochs=1, learns=False)]

    def _collect(self, x: Tensor) -> Iterator[Update]:
        self.normal.update(x)
        yield from ()

    def forward(self, x: Tensor) -> Tensor:
        return residual(self.kind, self.normal(x) * brain_of(x))
