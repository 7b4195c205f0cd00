"""Bayesian U-Net: where a segmenter of healthy tissue is unsure what it sees, there is a lesion.

Method: Seeböck et al., "Exploiting epistemic uncertainty of anatomy segmentation for anomaly
detection in retinal OCT", IEEE Transactions on Medical Imaging 39 (2020); dropout as an
approximation of a Bayesian network after Gal and Ghahramani (ICML 2016). No code of the authors is
public. Differs from them: brains in 3D instead of retinas in 2D; the weak labels are not layers
that another program segmented, but classes of a normal mixture of the training set's intensities
(of the first channel), smoothed over neighbours, since a method here sees nothing but healthy
scans; MONAI's U-Net with instance normalisation, its size and dropout ours; losses and scores
inside the brain only; majority ray casting works on the uncertainties themselves, so that a
threshold can be calibrated after it, along 26 directions and with rays of limited length; on
aligned volumes uncertainty may be standardised voxel by voxel with that of healthy scans, since
borders between tissues are unsure in everybody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from monai.networks.layers import gaussian_1d, separable_filtering
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from volad.heads import VoxelNormal
from volad.methods._base import Method, Stage, Update
from volad.ray_casting import majority_rays
from volad.tensors import brain_mean, brain_of, crop, divisible, fixed_draws

__all__ = ["BayesianUNet"]

#: Passes that are made at once.
PASSES_AT_ONCE = 4


class BayesianUNet(Method):
    """Score a voxel by the variance of its class's probability under dropout.

    Args:
        channels: image channels.
        classes: tissues, 2 or more.
        smooth: standard deviation of the Gaussian that tissue probabilities are smoothed with
            before a voxel gets its label, in voxels; 0: not at all.
        features: feature channels of each level; each but the first halves the resolution again.
        dropout: share of the activations that are dropped in every block.
        passes: passes with dropout that a variance is taken over.
        rays: length of the rays of majority ray casting, in voxels; 0: none are cast.
        grid: spatial shape of aligned whole volumes, in voxels; needed by `standardise`.
        standardise: subtract the mean uncertainty of healthy scans at each voxel and divide by its
            spread; what is then below 0 is 0.
        floor: added to that spread, in units of the variance.
    """

    windows = ("patch", "volume")
    # Of what is far too bright a small model is sure that it is the brightest tissue.
    sees = ("dark",)
    tiny: ClassVar[Mapping[str, Any]] = {
        "features": (8, 16),
        "passes": 8,
        "rays": 2,
        "grid": (16, 16, 16),
        "standardise": True,
    }

    def __init__(
        self,
        channels: int = 1,
        classes: int = 3,
        smooth: float = 1.0,
        features: Sequence[int] = (16, 32, 64, 128),
        dropout: float = 0.2,
        passes: int = 20,
        rays: float = 3.0,
        grid: Sequence[int] | None = None,
        standardise: bool = False,
        floor: float = 0.01,
    ) -> None:
        super().__init__()
        if standardise and grid is None:
            raise ValueError("standardise needs grid, the volumes' shape")
        if passes < 2:
            raise ValueError(f"a variance needs passes to be 2 or more, got {passes}")
        self.smooth, self.passes, self.rays = smooth, passes, rays
        self.factor = 2 ** (len(features) - 1)
        self.tissues = TissueMixture(classes)
        self.net = UNet(
            spatial_dims=3,
            in_channels=channels,
            out_channels=classes,
            channels=features,
            strides=[2] * (len(features) - 1),
            norm=("instance", {"affine": True}),
            dropout=dropout,
        )
        self.spread = VoxelNormal(1, grid, floor) if standardise and grid is not None else None

    def stages(self) -> Sequence[Stage]:
        count = Stage(self._count, 1, self.tissues.fit, learns=False)
        learn = [count, Stage(self.training_step)]
        if self.spread is None:
            return learn
        return [*learn, Stage(self._measure, 1, learns=False, whole=True)]

    def training_step(self, x: Tensor) -> Iterator[Update]:
        yield "net", self._error(x)

    def validation_loss(self, x: Tensor) -> Tensor:
        """Mean cross-entropy with the weak labels, without dropout."""
        return self._error(x)

    def forward(self, x: Tensor) -> Tensor:
        score = self.uncertainty(x)
        if self.spread is not None:
            score = self.spread(score).clamp(min=0)
        if self.rays:
            score = majority_rays(score, self.rays)
        return score * brain_of(x)

    def uncertainty(self, x: Tensor) -> Tensor:
        """`(B, 1, *S)`: variance over the passes, summed over classes."""
        found = []
        for window in x:  # each alone and from the same seed, so that none changes another's
            total, squares = torch.zeros((), device=x.device), torch.zeros((), device=x.device)
            with self._dropping(x.device):
                for done in range(0, self.passes, PASSES_AT_ONCE):
                    some = min(PASSES_AT_ONCE, self.passes - done)
                    shares = self._logits(window.expand(some, *window.shape)).softmax(dim=1)
                    total = total + shares.sum(dim=0)
                    squares = squares + shares.square().sum(dim=0)
            variance = squares / self.passes - (total / self.passes).square()
            found.append(variance.clamp(min=0).sum(dim=0, keepdim=True))
        return torch.stack(found) * brain_of(x)

    def labels(self, x: Tensor) -> Tensor:
        """`(B, *S)`: each voxel's tissue, an index from dark to bright, of windows `(B, C, *S)`."""
        shares: Tensor = self.tissues(x[:, 0])
        if self.smooth:
            weights = gaussian_1d(torch.tensor(self.smooth)).to(x.device)
            # The share of brain under the Gaussian is the same for all tissues.
            shares = separable_filtering(shares * brain_of(x), [weights] * 3)
        return shares.argmax(dim=1)

    def _count(self, x: Tensor) -> Iterator[Update]:
        self.tissues.add(x[:, 0][brain_of(x)[:, 0] > 0])
        yield from ()

    def _measure(self, x: Tensor) -> Iterator[Update]:
        assert self.spread is not None
        self.spread.update(self.uncertainty(x))
        yield from ()

    def _error(self, x: Tensor) -> Tensor:
        error = cross_entropy(self._logits(x), self.labels(x), reduction="none")
        return brain_mean(error[:, None], x)

    def _logits(self, x: Tensor) -> Tensor:
        """`(B, classes, *S)`, for any S."""
        return crop(self.net(divisible(x, self.factor, least=2)), x).float()

    @contextmanager
    def _dropping(self, device: torch.device) -> Iterator[None]:
        """Dropout is on, with the same draws every time, and no one else's draws are touched."""
        layers = [m for m in self.net.modules() if isinstance(m, nn.Dropout)]
        with fixed_draws(device):
            for layer in layers:
                layer.train()
            try:
                yield
            finally:
                for layer in layers:
                    layer.train(self.training)


class TissueMixture(nn.Module):
    """A mixture of normal distributions, fitted to a histogram of healthy brains' intensities.

    Args:
        classes: normal distributions.
        bins: of the histogram.
        highest: intensity of its upper end; what is brighter counts as this bright.
        rounds: of expectation and maximisation.
    """

    counts: Tensor
    mean: Tensor
    std: Tensor
    share: Tensor

    def __init__(
        self, classes: int, bins: int = 256, highest: float = 2.0, rounds: int = 300
    ) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"classes must be 2 or more, got {classes}")
        self.highest, self.rounds = highest, rounds
        self.register_buffer("counts", torch.zeros(bins, dtype=torch.double))
        self.register_buffer("mean", torch.linspace(0, 1, classes))
        self.register_buffer("std", torch.ones(classes))
        self.register_buffer("share", torch.full((classes,), 1 / classes))

    def add(self, values: Tensor) -> None:
        """Count intensities `(N,)`."""
        bins = len(self.counts)
        index = (values * (bins / self.highest)).long().clamp(0, bins - 1)
        self.counts += torch.bincount(index, minlength=bins)

    def fit(self) -> None:
        """Fit means, standard deviations and shares to what was counted, from dark to bright."""
        width = self.highest / len(self.counts)
        centre = (torch.arange(len(self.counts)).to(self.mean) + 0.5) * width
        weight = (self.counts / self.counts.sum()).to(self.mean)
        classes = len(self.mean)
        # Start at quantiles: each class has as many voxels.
        quantiles = (torch.arange(classes).to(weight) + 0.5) / classes
        at = torch.searchsorted(weight.cumsum(0), quantiles).clamp(max=len(centre) - 1)
        self.mean.copy_(centre[at])
        overall = (weight * (centre - (weight * centre).sum()).square()).sum().sqrt()
        self.std.fill_(float((overall / classes).clamp(min=width)))
        for _ in range(self.rounds):
            mine = self(centre[None])[0] * weight  # (classes, bins)
            total = mine.sum(dim=1).clamp(min=1e-12)
            self.share.copy_(total / total.sum())
            self.mean.copy_((mine * centre).sum(dim=1) / total)
            spread = (mine * (centre - self.mean[:, None]).square()).sum(dim=1) / total
            self.std.copy_(spread.sqrt().clamp(min=width))
        order = self.mean.argsort()
        for buffer in (self.mean, self.std, self.share):
            buffer.copy_(buffer[order])

    def forward(self, values: Tensor) -> Tensor:
        """`(B, classes, ...)`: how probable each class is at intensities `(B, ...)`."""
        shape = (1, -1, *[1] * (values.ndim - 1))
        mean, std, share = (b.view(shape) for b in (self.mean, self.std, self.share))
        likely = share.log() - std.log() - ((values[:, None] - mean) / std).square() / 2
        return likely.softmax(dim=1)
