"""Denoising U-Net: it learned to take coarse noise off healthy scans, and takes lesions off too.

Method: Kascenas et al., "Denoising autoencoders for unsupervised anomaly detection in brain MRI",
MIDL 2022. Differs from it: 3D or 2D, of one image channel or more; noise in separate blobs of
random size and strength, bright and dark, the same in all channels, with untouched tissue between
(`volad.corrupt`); MONAI's BasicUNet (five levels instead of four, max pooling, zero padding, no
weight normalisation) with few channels at full resolution, where a 3D network spends most of its
time; the squared error is a mean over brain voxels; plain Adam without decay of weights or rate;
no erosion or median of the residual, which a bundle's post-processing may have; on aligned volumes
the residual may be standardised voxel by voxel with the residuals of healthy scans.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from monai.networks.nets import BasicUNet
from torch import Tensor

from volad.corrupt import CORRUPTIONS, corrupt
from volad.methods._base import Reconstruction, Update
from volad.tensors import brain_mean, brain_of, crop, divisible, fixed_draws

__all__ = ["DAE"]

#: Resolutions of BasicUNet.
LEVELS = 5


class DAE(Reconstruction):
    """Minimise the squared error of rebuilding healthy windows from corrupted ones.

    Args:
        channels: image channels.
        spatial_dims: 2 for slices, 3 for volumes and patches.
        features: feature channels of the five levels, full resolution first; each of the others
            halves it.
        corruption: what is undone in training, a name in `volad.corrupt`.
        amount: strength of the corruption: a share of the voxels, or in units of the image.
        residual: how a window and its reconstruction are compared, a name in `volad.residual`.
        grid: spatial shape of aligned whole volumes, in voxels; needed by `standardise`.
        standardise: divide residuals by their healthy spread at each voxel.
        floor: added to that spread, in units of the image.
        mirror: take that spread from every scan and its mirror image (first spatial axis), for
            grids that are symmetric about the middle.
    """

    tiny: ClassVar[Mapping[str, Any]] = {"features": (8, 8, 8, 8, 8)}

    def __init__(
        self,
        channels: int = 1,
        spatial_dims: int = 3,
        features: Sequence[int] = (8, 8, 32, 64, 128),
        corruption: str = "coarse",
        amount: float = 0.5,
        residual: str = "absolute",
        grid: Sequence[int] | None = None,
        standardise: bool = False,
        floor: float = 0.05,
        mirror: bool = False,
    ) -> None:
        if corruption not in CORRUPTIONS:
            raise ValueError(
                f"corruption must be one of {', '.join(CORRUPTIONS)}, got {corruption!r}"
            )
        if len(features) != LEVELS:
            raise ValueError(f"features must be {LEVELS} numbers, got {tuple(features)}")
        super().__init__(residual, grid, standardise, floor, channels, mirror)
        self.corruption, self.amount = corruption, amount
        self.net = BasicUNet(
            spatial_dims,
            channels,
            channels,
            (*features, features[0]),
            act="swish",
            norm=("group", {"num_groups": math.gcd(4, *features)}),
        )

    def training_step(self, x: Tensor) -> Iterator[Update]:
        yield "net", self._error(corrupt(self.corruption, x, self.amount), x)

    def validation_loss(self, x: Tensor) -> Tensor:
        """The training loss, with the same noise at every call.

        Not the error on windows as they are, which a network that changes nothing would win.
        """
        with fixed_draws(x.device):
            noisy = corrupt(self.corruption, x, self.amount)
        return self._error(noisy, x)

    def reconstruct(self, x: Tensor) -> Tensor:
        return self._denoise(x).to(x.dtype) * brain_of(x)

    def _denoise(self, x: Tensor) -> Tensor:
        return crop(self.net(divisible(x, 2 ** (LEVELS - 1))), x)

    def _error(self, noisy: Tensor, x: Tensor) -> Tensor:
        return brain_mean((self._denoise(noisy) - x).square(), x)
