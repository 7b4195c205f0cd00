"""SteGANomaly: a scan goes to a domain without detail and back, and a blur erases hidden lesions.

Method: Baur et al., "SteGANomaly: Inhibiting CycleGAN steganography for unsupervised anomaly
detection in brain MRI", MICCAI 2020, of which only the abstract could be read, and no code of the
authors is public; CycleGAN after Zhu et al. (ICCV 2017). Differs from them, as far as is known:
the domain of low entropy is made of the healthy scans themselves, each voxel by the mean of its
tissue class (k-means in the window), and a window is judged beside that of the next one in the
batch (in a batch of one, beside its own); all that comes into that domain, real or translated, is
blurred before the way back by a Gaussian that does not reach beyond the brain, in training and in
scoring; windows may be 3D, and translators work at half the resolution or less, with channels that
a volume can afford; what is translated is cut to the brain, where the cycle's losses and scores are
taken, but discriminators see the air around it, too; no loss for windows that are in the right
domain already, no buffer of past translations, and no falling learning rate; the epoch kept is the
one with the least residual on healthy windows; on aligned volumes the residual may be standardised
voxel by voxel with the residuals of healthy scans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from monai.networks.layers import gaussian_1d, separable_filtering
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn

from volad.gan_nets import ResidualTranslator
from volad.losses import discriminator_loss, frozen
from volad.methods._base import Reconstruction, Update
from volad.tensors import brain_mean, brain_of

__all__ = ["SteGANomaly"]

#: Steps of k-means, which starts at quantiles.
KMEANS_STEPS = 10


class SteGANomaly(Reconstruction):
    """Translate healthy windows to flat tissue classes and back, as CycleGAN does, with a blur.

    Args:
        channels: image channels.
        spatial_dims: 2 for slices, 3 for volumes and patches.
        features: the translators' channels of each level; each level halves the resolution.
        blocks: residual blocks at their coarsest level.
        judge_features: channels of the discriminators' first level; each level doubles them.
        judge_levels: levels of the discriminators after the first; all but the last halve the
            resolution. With 3, as in CycleGAN, a window needs 24 voxels along each axis.
        classes: tissue classes of the domain of low entropy.
        sigma: standard deviation of the blur, in voxels.
        cycle: weight of the cycle's L1 losses (mean over brain voxels) beside the adversarial ones.
        residual: how a window and its reconstruction are compared, a name in `volad.residual`.
        grid: spatial shape of aligned whole volumes, in voxels; needed by `standardise`.
        standardise: divide residuals by their healthy spread at each voxel.
        floor: added to that spread, in units of the image.
        mirror: take that spread from every scan and its mirror image (first spatial axis), for
            grids that are symmetric about the middle.
    """

    tiny: ClassVar[Mapping[str, Any]] = {
        "features": (8, 16),
        "blocks": 1,
        "judge_features": 8,
        "judge_levels": 1,
    }
    training_defaults: ClassVar[Mapping[str, Any]] = {"batch": 4, "lr": 2e-4, "betas": [0.5, 0.999]}

    def __init__(
        self,
        channels: int = 1,
        spatial_dims: int = 3,
        features: Sequence[int] = (16, 32),
        blocks: int = 6,
        judge_features: int = 16,
        judge_levels: int = 3,
        classes: int = 3,
        sigma: float = 2.0,
        cycle: float = 10.0,
        residual: str = "absolute",
        grid: Sequence[int] | None = None,
        standardise: bool = False,
        floor: float = 0.05,
        mirror: bool = False,
    ) -> None:
        if sigma <= 0:
            raise ValueError(f"sigma must be above 0, got {sigma}: the blur keeps lesions out")
        super().__init__(residual, grid, standardise, floor, channels, mirror)
        self.classes, self.sigma, self.cycle = classes, sigma, cycle
        to = ("flat", "healthy")
        self.translators = nn.ModuleDict(
            {domain: ResidualTranslator(spatial_dims, channels, features, blocks) for domain in to}
        )
        self.discriminators = nn.ModuleDict(
            {
                domain: PatchDiscriminator(
                    spatial_dims,
                    judge_features,
                    channels,
                    num_layers_d=judge_levels,
                    norm="INSTANCE",
                )
                for domain in to
            }
        )

    def training_step(self, x: Tensor) -> Iterator[Update]:
        inside, other = brain_of(x), x.roll(1, dims=0)
        flat, around = low_entropy(other, self.classes), brain_of(other)
        fakes = {"flat": self._flatten(x, inside), "healthy": self._restore(flat, around)}
        there = brain_mean((self._restore(fakes["flat"], inside) - x).abs(), x)
        back = brain_mean((self._flatten(fakes["healthy"], around) - flat).abs(), flat)
        loss = self.cycle * (there + back)
        for domain, fake in fakes.items():
            judged = frozen(self.discriminators[domain], fake)[-1]
            loss = loss + (judged - 1).square().mean()
        yield "translators", loss
        losses = []
        for domain, real in (("flat", flat), ("healthy", x)):
            judge = self.discriminators[domain]
            losses.append(discriminator_loss(judge(real)[-1], judge(fakes[domain].detach())[-1]))
        yield "discriminators", torch.stack(losses).sum()

    def reconstruct(self, x: Tensor) -> Tensor:
        inside = brain_of(x)
        return self._restore(self._flatten(x, inside), inside).to(x.dtype)

    def _flatten(self, x: Tensor, inside: Tensor) -> Tensor:
        flat: Tensor = self.translators["flat"](x)
        return flat * inside

    def _restore(self, flat: Tensor, inside: Tensor) -> Tensor:
        x_hat: Tensor = self.translators["healthy"](blurred(flat, inside, self.sigma))
        return x_hat * inside


def low_entropy(x: Tensor, classes: int) -> Tensor:
    """Windows `(B, C, *S)` with each brain voxel replaced by the mean of its tissue class.

    The classes are those of k-means on a window's brain voxels. It starts at their quantiles, in
    the order of their mean over channels, and so draws nothing at random.
    """
    return torch.stack([_low_entropy_window(window, classes) for window in x])


@torch.no_grad()
def _low_entropy_window(window: Tensor, classes: int) -> Tensor:
    inside = brain_of(window[None])[0, 0] != 0
    values = window[:, inside].T  # (voxels, C)
    if len(values) == 0:
        return window.clone()
    at = (torch.arange(classes, device=window.device) + 0.5) / classes * len(values)
    means = values[values.mean(dim=1).argsort()[at.long()]]
    for _ in range(KMEANS_STEPS):
        nearest = torch.cdist(values, means).argmin(dim=1)
        counts = torch.bincount(nearest, minlength=classes)[:, None]
        sums = torch.zeros_like(means).index_add_(0, nearest, values)
        means = torch.where(counts > 0, sums / counts.clamp(min=1), means)
    flat = torch.zeros_like(window)
    flat[:, inside] = means[nearest].T
    return flat


def blurred(x: Tensor, inside: Tensor, sigma: float) -> Tensor:
    """Windows `(B, C, *S)` after a Gaussian of `sigma` voxels, over the brain's voxels alone.

    Args:
        x: the windows.
        inside: `(B, 1, *S)`, 1 in the brain and 0 outside it.
        sigma: standard deviation, in voxels.
    """
    kernels = [gaussian_1d(torch.tensor(sigma, device=x.device))] * (x.ndim - 2)
    share = separable_filtering(inside, kernels).clamp(min=1e-6)
    smooth: Tensor = separable_filtering(x * inside, kernels) / share
    return smooth * inside
