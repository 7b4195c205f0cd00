"""Variational autoencoder: lesions by residual, by the slope of the code's divergence, or both.

Method: Baur et al., "Autoencoders for unsupervised anomaly segmentation in brain MR images: a
comparative study", Medical Image Analysis 69 (2021), for the network and the residual; Zimmerer et
al., "Unsupervised anomaly localization using variational auto-encoders", MICCAI 2019, for the
scores from gradients. Differs from them: strided convolutions with kernel 3 and group
normalisation, 3D; a dense code starts from principal components (`DenseCode`), and with `atlas` the
network explains what deviates from the mean healthy scan; loss and scores are taken inside the
brain only; the likelihood's scale is an argument (both have 1); no dropout; gradients are taken at
the mean code, not at a sample; the combination does not rescale the gradient map to 0..1, which
would make a window's scores depend on its own extremes; on aligned volumes the residual may be
standardised voxel by voxel with the residuals of healthy scans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from monai.networks.layers import gaussian_1d, separable_filtering
from torch import Tensor

from volad.methods._base import Reconstruction, Update
from volad.tensors import brain_of
from volad.variational import LIKELIHOODS, GaussianAutoencoder, rate

__all__ = ["VAE"]

Score = Literal["residual", "kl_gradient", "elbo_gradient", "combination"]

#: The kernel that smooths gradients ends this many voxels from its middle.
REACH = 3


class VAE(Reconstruction):
    """Maximise the evidence lower bound (ELBO): summed over voxels, averaged over the batch.

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
            grids that are symmetric about the middle.
        atlas: the network, then without normalisation, takes and gives what deviates from the mean
            healthy scan; needs `grid`.
        likelihood: `gaussian` (squared errors, as Zimmerer et al.) or `laplace` (absolute ones, as
            Baur et al.).
        scale: its standard deviation, or the Laplace distribution's scale, in units of the image:
            the lower, the more the code may hold.
        residual: how a window and its reconstruction are compared, a name in `volad.residual`.
        score: `residual`; `kl_gradient`, the absolute slope of the code's divergence from its prior
            in the image, in nats per unit; `elbo_gradient`, that of the bound; or `combination`,
            the divergence's slope times the residual.
        blur: standard deviation in voxels of the Gaussian that smooths slopes, which strided
            convolutions make uneven; 0: none.
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
        likelihood: str = "gaussian",
        scale: float = 0.1,
        residual: str = "squared",
        score: Score = "residual",
        blur: float = 3.0,
    ) -> None:
        if bottleneck == "dense" and grid is None:
            raise ValueError("the dense bottleneck needs grid, the volumes' shape")
        for name, value, known in (
            ("likelihood", likelihood, tuple(LIKELIHOODS)),
            ("score", score, get_args(Score)),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        super().__init__(residual, grid, standardise, floor, channels, mirror, atlas)
        self.likelihood, self.scale = likelihood, scale
        self.score, self.blur = score, blur
        self.net = GaussianAutoencoder(
            spatial_dims,
            channels,
            features,
            convs,
            code,
            grid if bottleneck == "dense" else None,
            normalise=not atlas,
        )

    def training_step(self, x: Tensor) -> Iterator[Update]:
        yield "net", self.negative_elbo(x, sample=True).mean()

    def validation_loss(self, x: Tensor) -> Tensor:
        return self.negative_elbo(x).mean()

    def reconstruct(self, x: Tensor) -> Tensor:
        x_hat: Tensor = self.net(self.deviation(x))
        return self.scan(x_hat.to(x.dtype)) * brain_of(x)

    def compare(self, x: Tensor, x_hat: Tensor) -> Tensor:
        if self.score == "residual":
            return super().compare(x, x_hat)
        if self.score == "combination":
            return super().compare(x, x_hat) * self._slope(x, self.divergence)
        return self._slope(
            x, self.divergence if self.score == "kl_gradient" else self.negative_elbo
        )

    def divergence(self, x: Tensor) -> Tensor:
        """KL divergence of windows' codes from their prior, in nats: `(B, C, *S)` to `(B,)`."""
        return rate(self.net.posterior(self.deviation(x)))

    def negative_elbo(self, x: Tensor, sample: bool = False) -> Tensor:
        """`-log p(x | z) + KL`, z the mean code or a sample, in nats: `(B, C, *S)` to `(B,)`."""
        # Deviations of both from one mean scan differ by as much as the two.
        return self.net.negative_elbo(
            self.deviation(x), brain_of(x), self.scale, self.likelihood, sample=sample
        )

    def _slope(self, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Absolute gradient of `function` at windows `(B, C, *S)`, smoothed: `(B, 1, *S)`."""
        inside = brain_of(x)
        # bfloat16 has too few digits for a gradient to be a score.
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            at = x.detach().float().requires_grad_()
            (slope,) = torch.autograd.grad(function(at).sum(), at)
            size: Tensor = slope.abs().mean(dim=1, keepdim=True) * inside
            if self.blur:
                kernel = gaussian_1d(torch.tensor(self.blur), REACH / self.blur, normalize=True)
                size = separable_filtering(size, kernel) * inside
        return size
