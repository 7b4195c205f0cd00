"""Spatial autoencoder with dropout on its skip connections, by one pass or by Monte Carlo.

Method: Baur et al., "Modeling healthy anatomy with artificial intelligence for unsupervised anomaly
detection in brain MRI", Radiology: Artificial Intelligence 3 (2021), and "Bayesian
skip-autoencoders for unsupervised hyperintense anomaly detection in high resolution brain MRI",
ISBI 2020; mean, variance and likelihood of several passes after Pawlowski et al., "Unsupervised
lesion detection in brain CT using Bayesian convolutional autoencoders", MIDL 2018. No code of these
is public, and only abstracts and summaries of them could be read. Differs from them, as far as
known: 3D or 2D; volad's U-Net (strided convolutions of kernel 4, instance normalisation, fewer
channels) instead of kernel 5 and batch normalisation; dropout takes whole channels, and acts on the
skip connections and the coarsest features only, so that the encoder runs once for all passes; every
window meets the same masks, drawn from fixed seeds; the error is a mean over brain voxels; no
erosion of the mask and no intensity prior on the score; on aligned volumes the residual may be
standardised voxel by voxel with the residuals of healthy scans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from volad.methods._base import Reconstruction, Update
from volad.nets import AttentionUNet
from volad.tensors import brain_mean, brain_of, crop, divisible

__all__ = ["SkipAE"]


class SkipAE(Reconstruction):
    """Minimise the absolute error of rebuilding healthy windows while channels drop out.

    Args:
        channels: image channels.
        spatial_dims: 2 for slices, 3 for volumes and patches.
        features: feature channels of each level; each level halves the resolution.
        skip_dropout: share of the channels that each skip connection loses; without any loss the
            network copies its input, lesions and all.
        dropout: share of the channels that the coarsest features lose.
        passes: passes with dropout at test time, whose mean is the reconstruction; 0: one pass
            without dropout.
        score: `residual`; or, from two passes on, `variance` of the passes, in squared units of
            the image, or `likelihood`, the negative logarithm of the normal density of the image
            around the passes' mean, less its lowest value.
        noise: standard deviation of the image itself, in units of it, that `likelihood` adds to
            that of the passes.
        residual: how a window and its reconstruction are compared, a name in `volad.residual`.
        grid: spatial shape of aligned whole volumes, in voxels; needed by `standardise`.
        standardise: divide residuals by their healthy spread at each voxel.
        floor: added to that spread, in units of the image.
        mirror: take that spread from every scan and its mirror image (first spatial axis), for
            grids that are symmetric about the middle.
    """

    tiny: ClassVar[Mapping[str, Any]] = {"features": (8, 16), "passes": 2}

    def __init__(
        self,
        channels: int = 1,
        spatial_dims: int = 3,
        features: Sequence[int] = (32, 64, 128),
        skip_dropout: float = 0.5,
        dropout: float = 0.1,
        passes: int = 10,
        score: Literal["residual", "variance", "likelihood"] = "residual",
        noise: float = 0.05,
        residual: str = "absolute",
        grid: Sequence[int] | None = None,
        standardise: bool = False,
        floor: float = 0.05,
        mirror: bool = False,
    ) -> None:
        if score not in ("residual", "variance", "likelihood"):
            raise ValueError(f"score must be residual, variance or likelihood, got {score!r}")
        if standardise and score != "residual":
            raise ValueError(f"score {score!r} cannot be standardised")
        if score != "residual" and passes < 2:
            raise ValueError(f"score {score!r} needs at least 2 passes, got {passes}")
        super().__init__(residual, grid, standardise, floor, channels, mirror)
        self.passes, self.score, self.noise = passes, score, noise
        self.net = _SkipAutoencoder(spatial_dims, channels, features, skip_dropout, dropout)

    def training_step(self, x: Tensor) -> Iterator[Update]:
        yield "net", self.validation_loss(x)

    def validation_loss(self, x: Tensor) -> Tensor:
        return brain_mean((self.net(x) - x).abs(), x)

    def reconstruct(self, x: Tensor) -> Tensor:
        x_hat = self._sampled(x).mean(dim=0) if self.passes else self.net(x).to(x.dtype)
        return x_hat * brain_of(x)

    def compare(self, x: Tensor, x_hat: Tensor) -> Tensor:
        if self.score == "residual":
            return super().compare(x, x_hat)
        score = self._sampled(x).var(dim=0, correction=0)
        if self.score == "likelihood":
            noise = self.noise**2
            total = score + noise
            score = (x - x_hat).square() / (2 * total) + (total / noise).log() / 2
        return score.mean(dim=1, keepdim=True) * brain_of(x)

    def _sampled(self, x: Tensor) -> Tensor:
        """The passes with dropout, `(passes, B, C, *S)`."""
        return torch.stack([y.to(x.dtype) for y in self.net.sample(x, self.passes)])


class _SkipAutoencoder(nn.Module):
    """volad's U-Net without attention, with channel dropout on what goes from encoder to decoder.

    Args:
        spatial_dims: 2 or 3.
        channels: in and out.
        features: channels of each level.
        skip_dropout: rate on the skip connections.
        dropout: rate on the coarsest features.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        features: Sequence[int],
        skip_dropout: float,
        dropout: float,
    ) -> None:
        super().__init__()
        if not (0 <= skip_dropout < 1 and 0 <= dropout < 1):
            raise ValueError(
                f"rates of dropout must be from 0 to below 1, got {skip_dropout} and {dropout}"
            )
        plain = AttentionUNet(spatial_dims, channels, channels, features)
        self.factor = plain.factor
        self.down, self.up, self.out = plain.down, plain.up, plain.out
        self.rates = [skip_dropout] * (len(features) - 1) + [dropout]

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, *S)`, any S, to the same shape; while training, each window has its own masks."""
        features = self._encode(x)
        if self.training:
            features = self._drop(features, len(x))
        return crop(self._decode(features), x)

    def sample(self, x: Tensor, passes: int) -> Iterator[Tensor]:
        """`passes` reconstructions with dropout, whose masks are the same for all windows."""
        features = self._encode(x)
        for number in range(passes):
            random = torch.Generator().manual_seed(number)
            yield crop(self._decode(self._drop(features, 1, random)), x)

    def _encode(self, x: Tensor) -> list[Tensor]:
        """The features of each level."""
        # The coarsest features' normalisation needs more than one place.
        y, features = divisible(x, self.factor, least=2), []
        for step in self.down:
            y = step(y)
            features.append(y)
        return features

    def _drop(
        self, features: Sequence[Tensor], masks: int, random: torch.Generator | None = None
    ) -> list[Tensor]:
        """Set random channels to 0 and enlarge the others: by one mask for all windows, or B."""
        dropped = []
        for values, rate in zip(features, self.rates, strict=True):
            shape = (masks, values.shape[1], *[1] * (values.ndim - 2))
            kept = torch.rand(shape, generator=random) >= rate
            dropped.append(values * kept.to(values) / (1 - rate))
        return dropped

    def _decode(self, features: Sequence[Tensor]) -> Tensor:
        """A window of the features of each level."""
        *skipped, y = features
        for step, beside in zip(self.up, reversed(skipped), strict=True):
            y = torch.cat([step(y), beside], dim=1)
        window: Tensor = self.out(y)
        return window
