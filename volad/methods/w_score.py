"""Baseline: how far a scan of any contrast is from healthy ones at every voxel of the template.

Method: W-scores, which are z-scores after regression on covariates, La Joie et al.,
"Region-specific hierarchy between atrophy, hypometabolism, and beta-amyloid load in Alzheimer's
disease dementia", Journal of Neuroscience 32 (2012). Differs from them: the covariates are the
brightness of the scan's own tissues, so that one model fits every contrast that it has seen
(`volad.tissue_normal`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from volad.methods._base import Method, Stage, Update
from volad.residual import SIGNED, residual
from volad.surroundings import anatomy
from volad.tensors import brain_of
from volad.tissue_normal import TissueNormal, deviation

__all__ = ["WScore"]


class WScore(Method):
    """Score a voxel by how many spreads it lies off what healthy scans with such tissues have.

    Args:
        grid: spatial shape of the volumes aligned to MNI152, in voxels; even.
        channels: image channels.
        residual: which side counts: `absolute`, `squared`, `positive` or `negative`.
    """

    windows = ("volume",)
    tiny: ClassVar[Mapping[str, Any]] = {"grid": (16, 16, 16)}
    training_defaults: ClassVar[Mapping[str, Any]] = {"batch": 64}  # each costs a new fit

    def __init__(
        self,
        grid: Sequence[int] = (80, 96, 88),
        channels: int = 1,
        residual: str = "absolute",
    ) -> None:
        super().__init__()
        if residual not in SIGNED:
            raise ValueError(f"residual must be one of {sorted(SIGNED)}, got {residual!r}")
        if any(n % 2 for n in grid):
            raise ValueError(f"grid must be even, got {tuple(grid)}")
        self.kind = residual
        known = interpolate(anatomy(), size=tuple(grid), mode="trilinear", align_corners=False)
        self.register_buffer("known", known, persistent=False)
        self.normal = TissueNormal(known, channels)
        self._seen: list[Tensor] = []

    def stages(self) -> Sequence[Stage]:
        return [Stage(self._collect, epochs=1, finish=self._forget, learns=False)]

    def _collect(self, x: Tensor) -> Iterator[Update]:
        self._seen.append(x.half())  # resolves the intensity scale to a thousandth
        # After every batch: a training that was killed after the last one goes on with the fit.
        self.normal.fit(torch.cat(self._seen))
        yield from ()

    def _forget(self) -> None:
        self._seen.clear()

    def forward(self, x: Tensor) -> Tensor:
        known = self.get_buffer("known")
        if x.shape[2:] != known.shape[2:]:
            raise ValueError(
                f"this model scores whole aligned volumes of {tuple(known.shape[2:])}, "
                f"got {tuple(x.shape[2:])}"
            )
        images = x.flatten(0, 1)[:, None]
        brain = brain_of(x).repeat_interleave(x.shape[1], dim=0)
        maps = self.normal().repeat(len(x), 1, 1, 1, 1)
        away, spread = deviation(images, brain, known, maps)
        return residual(self.kind, (away / spread * brain).reshape(x.shape))
