"""Restoration: the image is changed until a Gaussian mixture VAE finds it likely.

Method: You et al., "Unsupervised lesion detection via image restoration with a normative prior",
MIDL 2019; the model after Dilokthanakul et al., "Deep unsupervised clustering with Gaussian mixture
variational autoencoders", 2016. Differs from them: 3D; strided convolutions with group
normalisation in place of their encoder, and interpolation with a sub-pixel convolution in place of
their decoder; the likelihood has one fixed standard deviation, in units of images of about 0.1 to
1; the usual initial weights; loss taken inside the brain only; a tenth of the steps; codes are
means while restoring, not samples; total variation is rounded off near 0, and its weight is an
argument that is not tuned on healthy scans; on aligned volumes the residual may be standardised
voxel by voxel with the residuals of healthy scans.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from monai.networks.blocks import Convolution
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from volad.methods._base import Reconstruction, Update
from volad.nets import ConvAutoencoder
from volad.restore import restore
from volad.tensors import brain_of
from volad.variational import log_density, log_likelihood, normal, per_window, rate

__all__ = ["GMVAERestoration"]


class GMVAERestoration(Reconstruction):
    """Maximise the bound of healthy windows by weights, then of a window by its voxels.

    The bound is summed over voxels and averaged over the batch. Restoring maximises it, times
    `scale^2`, less the total variation of the change: the data term is then half the squared
    distance from what the model decodes, and the other arguments are in units of the image.

    Args:
        channels: image channels.
        spatial_dims: 2 for slices, 3 for volumes and patches.
        features: feature channels of each level; each level halves the resolution.
        convs: convolutions per level.
        classes: components of the mixture.
        z: channels of the code's map.
        w: channels of the map that the mixture's means and variances are made from.
        hidden: channels between the two.
        free: nats for the class at each place of the map that the bound does not count, so that
            one class does not take all.
        scale: standard deviation of the likelihood, in units of the image.
        steps: steps of the restoration; time grows with them.
        step: share of the way to what the model decodes that a step goes, in the first fifth of
            the steps; 0.4 of it later.
        smoothness: weight of the total variation of the change, in units of the image: a change of
            one voxel alone by less than about 6 times this is held back (4 times in 2D). Above
            `0.003 / step` the descent swings.
        limit: a slope is cut to this size: a voxel changes by `step * limit` at most in a step.
        residual: how a window and the restored one are compared, a name in `volad.residual`.
        grid: spatial shape of aligned whole volumes, in voxels; needed by `standardise`.
        standardise: divide residuals by their healthy spread at each voxel.
        floor: added to that spread, in units of the image.
        mirror: take that spread from every scan and its mirror image (first spatial axis), for
            grids that are symmetric about the middle.
    """

    tiny: ClassVar[Mapping[str, Any]] = {
        **{"features": (8, 16), "convs": 1, "classes": 3, "hidden": 8},
        **{"steps": 10, "step": 0.15},
    }

    def __init__(
        self,
        channels: int = 1,
        spatial_dims: int = 3,
        features: Sequence[int] = (16, 32),
        convs: int = 2,
        classes: int = 6,
        z: int = 1,
        w: int = 1,
        hidden: int = 64,
        free: float = 0.5,
        scale: float = 0.1,
        steps: int = 50,
        step: float = 0.1,
        smoothness: float = 0.02,
        limit: float = 1.0,
        residual: str = "absolute",
        grid: Sequence[int] | None = None,
        standardise: bool = False,
        floor: float = 0.05,
        mirror: bool = False,
    ) -> None:
        if classes < 2:
            raise ValueError(f"classes must be 2 or more, got {classes}")
        super().__init__(residual, grid, standardise, floor, channels, mirror)
        self.scale = scale
        self.restore = partial(restore, steps=steps, step=step, smoothness=smoothness, limit=limit)
        bottleneck = _MixtureCode(spatial_dims, features[-1], classes, z, w, hidden, free)
        self.net = _MixtureAutoencoder(
            spatial_dims, channels, channels, features, convs, z, bottleneck=bottleneck
        )

    def training_step(self, x: Tensor) -> Iterator[Update]:
        yield "net", self.negative_bound(x, brain_of(x), sample=True).mean()

    def validation_loss(self, x: Tensor) -> Tensor:
        return self.negative_bound(x, brain_of(x)).mean()

    def reconstruct(self, x: Tensor) -> Tensor:
        inside = brain_of(x)
        return self.restore(x, lambda y: self.scale**2 * self.negative_bound(y, inside))

    def negative_bound(self, x: Tensor, inside: Tensor, sample: bool = False) -> Tensor:
        """Minus the bound of `log p(x)` of windows `(B, C, *S)`, in nats: `(B,)`.

        Args:
            x: windows.
            inside: `(B, 1, *S)`, the brain: it does not change while x is restored.
            sample: take samples of the codes, not their means.
        """
        code = self.net.bottleneck
        q_z, q_w = code.posteriors(self.net.encode(x))
        z, w = (q.rsample() if sample else q.mean for q in (q_z, q_w))
        x_hat = self.net.decode(code.leave(z), x)
        found = log_likelihood(x, x_hat, inside, self.scale)
        return code.divergence(q_z, q_w, z, w) - per_window(found)


class _MixtureCode(nn.Module):
    """Maps of `w ~ N(0, 1)`, class `c` of K alike likely, and `z | w, c` normal, place by place."""

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        classes: int,
        z: int,
        w: int,
        hidden: int,
        free: float,
    ) -> None:
        super().__init__()
        pointwise = partial(Convolution, spatial_dims, kernel_size=1)
        self.classes, self.free = classes, free
        self.to_z = pointwise(in_channels=channels, out_channels=2 * z, conv_only=True)
        self.to_w = pointwise(in_channels=channels, out_channels=2 * w, conv_only=True)
        self.mixture = nn.Sequential(
            pointwise(in_channels=w, out_channels=hidden, norm=None, act="relu"),
            pointwise(in_channels=hidden, out_channels=2 * classes * z, conv_only=True),
        )
        self.leave = pointwise(in_channels=z, out_channels=channels, conv_only=True)

    def posteriors(self, features: Tensor) -> tuple[Normal, Normal]:
        """The distributions of z `(B, z, *coarse)` and w `(B, w, *coarse)`."""
        return normal(self.to_z(features)), normal(self.to_w(features))

    def components(self, w: Tensor) -> Normal:
        """The distributions of z in each class: `(B, K, z, *coarse)`."""
        return normal(self.mixture(w).unflatten(1, (self.classes, -1)), dim=2)

    def divergence(self, q_z: Normal, q_w: Normal, z: Tensor, w: Tensor) -> Tensor:
        """What the bound loses by the codes, in nats: `(B,)`.

        `KL(q(w) | N(0, 1)) + sum_c p(c | z, w) KL(q(z) | p(z | w, c)) + max(free, KL(p(c | z, w) |
        1 / K))`, the last two at each place of the map.
        """
        components = self.components(w)
        log_share = log_density(components, z[:, None]).sum(dim=2).log_softmax(dim=1)
        share = log_share.exp()
        one = Normal(q_z.loc[:, None], q_z.scale[:, None], validate_args=False)
        of_z = (share * kl_divergence(one, components).sum(dim=2)).sum(dim=1)
        of_class = (share * (log_share + math.log(self.classes))).sum(dim=1)
        return rate(q_w) + per_window(of_z + of_class.clamp(min=self.free))


class _MixtureAutoencoder(ConvAutoencoder):
    bottleneck: _MixtureCode
