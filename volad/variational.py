"""What variational autoencoders share: normal posteriors, their bottleneck, likelihoods.

Nothing here averages: divergences and log-likelihoods are summed over codes or voxels, in nats, so
that their balance does not depend on the window's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn
from torch.distributions import Laplace, Normal, kl_divergence

from volad.dense_code import DenseCode
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

#: The logarithm of a dense code's variances in the beginning: a fiftieth of the prior's.
NARROW = -4.0

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

    Attributes:
        dense: the dense code's means, which start from principal components; None with a spatial
            one. Until it is closed there is no posterior, and all features pass.
    """

    def __init__(
        self, spatial_dims: int, channels: int, code: int, grid: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.dense = None
        if grid is None:
            self.enter = _pointwise(spatial_dims, channels, 2 * code)
            self.exit = _pointwise(spatial_dims, code, channels)
            return
        self.dense = DenseCode(spatial_dims, channels, code, grid, unit=True)
        self.log_variance = nn.Linear(self.dense.encode.in_features, code)
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(self.log_variance.bias, NARROW)

    @property
    def open(self) -> bool:
        """Whether all features still pass, and there is no code."""
        return self.dense is not None and not self.dense.closed

    def posterior(self, features: Tensor) -> Normal:
        """The code's distribution: `(B, code, *coarse)`, or `(B, code)` of the dense code."""
        if self.dense is None:
            return normal(self.enter(features))
        rows = self.dense.rows(features)
        return normal(torch.cat([self.dense.encode(rows), self.log_variance(rows)], dim=1))

    def leave(self, code: Tensor) -> Tensor:
        """Codes to features `(B, channels, *coarse)`."""
        y: Tensor = self.exit(code) if self.dense is None else self.dense.leave(code)
        return y

    def forward(self, features: Tensor) -> Tensor:
        """Features `(B, channels, *coarse)` through the mean code, or past it while it is open."""
        if self.dense is not None:
            y: Tensor = self.dense(features)
            return y
        return self.leave(self.posterior(features).mean)


class GaussianAutoencoder(ConvAutoencoder):
    """A variational autoencoder's network; called as a function, it decodes the mean code.

    Args:
        spatial_dims: 2 or 3.
        channels: image channels.
        features: feature channels of each level; each level halves the resolution.
        convs: convolutions per level.
        code: channels of the spatial code, or length of the dense one.
        grid: spatial shape of the input: given for the dense code, None for the spatial one.
        normalise: see `ConvAutoencoder`.
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
        normalise: bool = True,
    ) -> None:
        coarse = None if grid is None else coarse_grid(grid, 2 ** len(features))
        super().__init__(
            spatial_dims,
            channels,
            channels,
            features,
            convs,
            code,
            bottleneck=GaussianCode(spatial_dims, features[-1], code, coarse),
            normalise=normalise,
        )

    @property
    def dense(self) -> DenseCode | None:
        """The dense code's means; None with a spatial one."""
        return self.bottleneck.dense

    def posterior(self, x: Tensor) -> Normal:
        """The codes' distribution given windows `(B, C, *S)`."""
        return self.bottleneck.posterior(self.encode(x))

    def generate(self, z: Tensor, x: Tensor) -> Tensor:
        """What codes `z` decode to: shaped like the windows `x (B, C, *S)`."""
        return self.decode(self.bottleneck.leave(z), x)

    def negative_elbo(
        self,
        x: Tensor,
        inside: Tensor,
        scale: float,
        kind: str = "gaussian",
        *,
        sample: bool = False,
    ) -> Tensor:
        """`-log p(x | z) + KL`, in nats: `(B,)`; the first alone while the code is open.

        Args:
            x: windows `(B, C, *S)`.
            inside: `(B, 1, *S)`, 1.0 in the brain and 0.0 outside.
            scale: see `log_likelihood`.
            kind: a name in `LIKELIHOODS`.
            sample: z is a sample of the code, not its mean.
        """
        if self.bottleneck.open:
            return -per_window(log_likelihood(x, self(x), inside, scale, kind))
        posterior = self.posterior(x)
        x_hat = self.generate(posterior.rsample() if sample else posterior.mean, x)
        return rate(posterior) - per_window(log_likelihood(x, x_hat, inside, scale, kind))


def _pointwise(spatial_dims: int, before: int, after: int) -> nn.Module:
    conv: nn.Module = Convolution(spatial_dims, before, after, kernel_size=1, conv_only=True)
    return conv
