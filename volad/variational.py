"""What variational autoencoders share: normal posteriors, their bottleneck, likelihoods.

Nothing here averages: divergences and log-likelihoods are summed over codes or voxels, in nats, so
that their balance does not depend on the window's size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn
from torch.distributions import Laplace, Normal, kl_divergence

from volad.nets import ConvAutoencoder, coarse_grid

__all__ = [
    "LIKELIHOODS",
    "GaussianAutoencoder",
    "GaussianCode",
    "log_density",
    "log_likelihood",
    "normal",
    "per_window",
    "rate",
    "standard",
]

#: Logarithms of variances are kept within this of 0: beyond it, exponentials lose their digits.
LOG_VARIANCE = 10.0

#: Distributions of a voxel about its reconstruction. With `gaussian` a bound has squared errors,
#: with `laplace` absolute ones.
LIKELIHOODS: dict[str, type[Normal] | type[Laplace]] = {"gaussian": Normal, "laplace": Laplace}


def normal(parameters: Tensor, dim: int = 1) -> Normal:
    """Means and logarithms of variances, halves of `parameters` along `dim`, as a distribution."""
    mean, log_variance = parameters.float().chunk(2, dim=dim)
    log_variance = log_variance.clamp(-LOG_VARIANCE, LOG_VARIANCE)
    return Normal(mean, (log_variance / 2).exp(), validate_args=False)


def standard(like: Tensor) -> Normal:
    """The prior of codes shaped like `like`: independent, mean 0, standard deviation 1."""
    return Normal(torch.zeros_like(like), torch.ones_like(like), validate_args=False)


def per_window(values: Tensor) -> Tensor:
    """The sum of each window's values: `(B, ...)` to `(B,)`."""
    return values.flatten(1).sum(dim=1)


def log_density(distribution: Any, values: Tensor) -> Tensor:
    """Of each value, in nats; torch's own method has no types."""
    found: Tensor = distribution.log_prob(values)
    return found


def rate(posterior: Normal) -> Tensor:
    """KL divergence of codes from their standard normal prior, in nats per window: `(B,)`."""
    return per_window(kl_divergence(posterior, standard(posterior.mean)))


def log_likelihood(
    x: Tensor, x_hat: Tensor, inside: Tensor, scale: float, kind: str = "gaussian"
) -> Tensor:
    """Log-density of each voxel about its reconstruction, 0 outside the brain; nats.

    Args:
        x: windows `(B, C, *S)`.
        x_hat: their reconstructions, of the same shape.
        inside: `(B, 1, *S)`, 1.0 in the brain and 0.0 outside.
        scale: standard deviation of the Gaussian, or scale of the Laplace distribution.
        kind: a name in `LIKELIHOODS`.
    """
    return log_density(LIKELIHOODS[kind](x_hat.float(), scale, validate_args=False), x) * inside


class GaussianCode(nn.Module):
    """A bottleneck whose code is a normal distribution with independent components.

    Args:
        spatial_dims: 2 or 3.
        channels: of the features in and out.
        code: channels of the spatial code, or length of the dense one.
        grid: spatial shape of the features: given for the dense code, None for the spatial one.
    """

    def __init__(
        self, spatial_dims: int, channels: int, code: int, grid: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.enter, self.leave = nn.Sequential(), nn.Sequential()
        if grid is None:
            self.enter.append(_pointwise(spatial_dims, channels, 2 * code))
            self.leave.append(_pointwise(spatial_dims, code, channels))
            return
        thin = max(channels // 8, 1)
        size = thin * math.prod(grid)
        self.enter.append(_pointwise(spatial_dims, channels, thin))
        self.enter.extend([nn.Flatten(), nn.Linear(size, 2 * code)])
        self.leave.extend([nn.Linear(code, size), nn.Unflatten(1, (thin, *grid))])
        self.leave.append(_pointwise(spatial_dims, thin, channels))

    def posterior(self, features: Tensor) -> Normal:
        """The code's distribution: `(B, code, *coarse)`, or `(B, code)` of the dense code."""
        return normal(self.enter(features))

    def forward(self, features: Tensor) -> Tensor:
        """Features `(B, channels, *coarse)` through the mean code."""
        y: Tensor = self.leave(self.posterior(features).mean)
        return y


class GaussianAutoencoder(ConvAutoencoder):
    """A variational autoencoder's network; called as a function, it decodes the mean code.

    Args:
        spatial_dims: 2 or 3.
        channels: image channels.
        features: feature channels of each level; each level halves the resolution.
        convs: convolutions per level.
        code: channels of the spatial code, or length of the dense one.
        grid: spatial shape of the input: given for the dense code, None for the spatial one.
    """

    bottleneck: GaussianCode

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        features: Sequence[int],
        convs: int,
        code: int,
        grid: Sequence[int] | None = None,
    ) -> None:
        coarse = None if grid is None else coarse_grid(grid, 2 ** len(features))
        bottleneck = GaussianCode(spatial_dims, features[-1], code, coarse)
        super().__init__(
            spatial_dims, channels, channels, features, convs, code, bottleneck=bottleneck
        )

    def posterior(self, x: Tensor) -> Normal:
        """The codes' distribution given windows `(B, C, *S)`."""
        return self.bottleneck.posterior(self.encode(x))

    def generate(self, z: Tensor, x: Tensor) -> Tensor:
        """What codes `z` decode to: shaped like the windows `x (B, C, *S)`."""
        return self.decode(self.bottleneck.leave(z), x)


def _pointwise(spatial_dims: int, before: int, after: int) -> nn.Module:
    conv: nn.Module = Convolution(spatial_dims, before, after, kernel_size=1, conv_only=True)
    return conv
