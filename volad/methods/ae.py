"""3D convolutional autoencoder: what it cannot rebuild from healthy anatomy is the lesion.

Method: Sato et al., "A primitive study on unsupervised anomaly detection with an autoencoder in
emergency head CT volumes", SPIE Medical Imaging 2018; the dense and spatial bottlenecks after Baur
et al., "Autoencoders for unsupervised anomaly segmentation in brain MR images: a comparative
study", Medical Image Analysis 69 (2021); corruption after Vincent et al. (JMLR 2010) and Kascenas
et al. (MIDL 2022). Differs from them: strided convolutions with group normalisation; loss and score
are taken inside the brain only; a dense code starts from principal components (`DenseCode`); on
aligned volumes the network may explain what deviates from the mean healthy scan, and the residual
may be standardised voxel by voxel with the residuals of healthy scans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from volad.corrupt import CORRUPTIONS, corrupt
from volad.methods._base import Reconstruction, Update
from volad.nets import ConvAutoencoder
from volad.tensors import brain_mean, brain_of

__all__ = ["AE"]


class AE(Reconstruction):
    """Minimise the error of rebuilding healthy windows, corrupted or not, from a narrow code.

    Args:
        channels: image channels.
        spatial_dims: 2 for slices, 3 for volumes and patches.
        features: feature channels of each level; each level halves the resolution.
        convs: convolutions per level.
        bottleneck: `spatial` keeps a coarse map of codes; `dense` has one vector for the window
            and needs `grid`; it is trained twice as long, first without the code.
        code: channels of the spatial code, or length of the dense one.
        grid: spatial shape of aligned whole volumes, in voxels; None for patches and slices.
        standardise: divide residuals by their healthy spread at each voxel; needs `grid`.
        floor: added to that spread, in units of the image.
        mirror: take atlas and spread from every scan and its mirror image (first spatial axis), for
            grids that are symmetric about the middle, as MNI152's is: twice the scans for free.
        atlas: the network, then without normalisation, takes and gives what deviates from the mean
            healthy scan, so that the code only has to hold what makes this brain differ; needs
            `grid`.
        trust: with `atlas`, how far the counterpart goes from the mean healthy scan (0) to the
            network's answer (1). Less than 1 keeps lesions that look like a healthy variant, as
            those beside the ventricles do, from being explained away.
        corruption: `none`, or a name in `volad.corrupt`, undone in training only.
        amount: strength of the corruption: a share of the voxels, or a standard deviation.
        loss: `l2` as in Sato et al., `l1` as in Baur et al.; mean over brain voxels.
        residual: how a window and its reconstruction are compared, a name in `volad.residual`.
        dropout: channel dropout of the code while training.
    """

    tiny: ClassVar[Mapping[str, Any]] = {"features": (8, 16), "code": 4, "convs": 1}

    def __init__(
        self,
        channels: int = 1,
        spatial_dims: int = 3,
        features: Sequence[int] = (16, 32, 64),
        convs: int = 2,
        bottleneck: Literal["spatial", "dense"] = "spatial",
        code: int = 64,
        grid: Sequence[int] | None = None,
        standardise: bool = False,
        floor: float = 0.05,
        mirror: bool = False,
        atlas: bool = False,
        trust: float = 1.0,
        corruption: str = "none",
        amount: float = 0.3,
        loss: Literal["l1", "l2"] = "l2",
        residual: str = "squared",
        dropout: float = 0.0,
    ) -> None:
        if bottleneck == "dense" and grid is None:
            raise ValueError("the dense bottleneck needs grid, the volumes' shape")
        if corruption != "none" and corruption not in CORRUPTIONS:
            known = ", ".join(("none", *CORRUPTIONS))
            raise ValueError(f"corruption must be one of {known}, got {corruption!r}")
        if not 0 < trust <= 1:
            raise ValueError(f"trust must be above 0 and at most 1, got {trust}")
        super().__init__(residual, grid, standardise, floor, channels, mirror, atlas)
        self.trust = trust
        self.corruption = corruption
        self.amount = amount
        self.loss = loss
        self.net = ConvAutoencoder(
            spatial_dims,
            channels,
            channels,
            features,
            convs,
            code,
            grid if bottleneck == "dense" else None,
            dropout,
            normalise=not atlas,
        )

    def training_step(self, x: Tensor) -> Iterator[Update]:
        seen = x if self.corruption == "none" else corrupt(self.corruption, x, self.amount)
        yield "net", self._error(self._rebuild(seen), x)

    def validation_loss(self, x: Tensor) -> Tensor:
        return self._error(self._rebuild(x), x)

    def reconstruct(self, x: Tensor) -> Tensor:
        x_hat = self._rebuild(x)
        if self.atlas is not None:
            x_hat = torch.lerp(self.atlas.mean.expand_as(x), x_hat, self.trust)
        return x_hat * brain_of(x)

    def _rebuild(self, x: Tensor) -> Tensor:
        x_hat: Tensor = self.net(self.deviation(x))
        return self.scan(x_hat.to(x.dtype))

    def _error(self, x_hat: Tensor, x: Tensor) -> Tensor:
        difference = x_hat - x
        return brain_mean(difference.abs() if self.loss == "l1" else difference.square(), x)
