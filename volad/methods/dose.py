"""Scores of a whole scan, by an ensemble of VAEs: is it another kind of image than healthy ones.

Method: Heer et al., "The OOD blind spot of unsupervised anomaly detection", MIDL 2021, who compare
three scores: the divergence of the code (KL), the Watanabe-Akaike information criterion (WAIC)
after Choi et al., "WAIC, but why?", 2018, and the density of states estimator (DoSE) of Morningstar
et al., "Density of states estimation for out-of-distribution detection", AISTATS 2021. Differs from
them: one volume is one sample, and statistics are per brain voxel, since brains differ in size; KL
is one of DoSE's statistics and no score of its own, since a lesion may lower it as well as raise it
(dark ones did, in phantoms); WAIC's variance over the ensemble is taken voxel by voxel, as Watanabe
does over the data, because that of a whole volume's likelihood would swamp its mean; DoSE's
statistics are means over the ensemble, their densities are those of the training scans, of at most
`remembered` drawn at random, and there is no support vector machine; nothing here tells lesions
from other reasons to be unlike healthy scans; samples of codes are the same for every scan. Voxels
are scored by the residual from the ensemble's mean reconstruction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from volad.methods._base import Reconstruction, ScanScores, Stage, Update, Window
from volad.tensors import brain_of
from volad.variational import (
    GaussianAutoencoder,
    log_density,
    log_likelihood,
    per_window,
    rate,
    standard,
)

__all__ = ["DoSE"]

#: Rate, cross-entropy, entropy, distortion and importance-weighted bound.
STATISTICS = 5


class DoSE(Reconstruction):
    """Train VAEs by their bound (summed over voxels, averaged over the batch) and ask them all.

    Scores of a scan, besides `mean` and `p99` of the residual: `waic`, in nats per brain voxel, and
    `dose`, in nats.

    Args:
        channels: image channels.
        features: feature channels of each level; each level halves the resolution.
        convs: convolutions per level.
        code: channels of the spatial code, or length of the dense one.
        grid: spatial shape of the aligned volumes, in voxels: the code is one vector (dense); None:
            a coarse map of codes (spatial).
        members: networks of the ensemble, 2 or more.
        samples: codes drawn to estimate likelihoods, for each member.
        scale: standard deviation of the likelihood, in units of the image.
        residual: how a scan and its reconstruction are compared, a name in `volad.residual`.
        remembered: training scans whose statistics make the densities.
        bandwidth: of these densities, in standard deviations of the statistic.
        atlas: the networks, then without normalisation, take and give what deviates from the mean
            healthy scan; needs `grid`.
    """

    windows: ClassVar[tuple[Window, ...]] = ("volume",)  # scores are of whole scans
    tiny: ClassVar[Mapping[str, Any]] = {
        **{"features": (8, 16), "code": 4, "convs": 1},
        **{"members": 2, "samples": 4, "remembered": 16},
    }

    def __init__(
        self,
        channels: int = 1,
        features: Sequence[int] = (16, 32, 64),
        convs: int = 1,
        code: int = 64,
        grid: Sequence[int] | None = None,
        members: int = 5,
        samples: int = 16,
        scale: float = 0.1,
        residual: str = "squared",
        remembered: int = 1024,
        bandwidth: float = 0.2,
        atlas: bool = False,
    ) -> None:
        if members < 2:
            raise ValueError(f"members must be 2 or more, got {members}")
        super().__init__(residual, grid, channels=channels, atlas=atlas)
        self.scale, self.samples = scale, samples
        self.members = nn.ModuleList(
            GaussianAutoencoder(3, channels, features, convs, code, grid, normalise=not atlas)
            for _ in range(members)
        )
        self.density = _KernelDensity(remembered, STATISTICS, bandwidth)

    def stages(self) -> Sequence[Stage]:
        return [*super().stages(), Stage(self._remember, epochs=1, learns=False)]

    def training_step(self, x: Tensor) -> Iterator[Update]:
        yield "members", self._negative_elbo(x, sample=True)

    def validation_loss(self, x: Tensor) -> Tensor:
        return self._negative_elbo(x, sample=False)

    def reconstruct(self, x: Tensor) -> Tensor:
        seen = self.deviation(x)
        x_hat = torch.stack([member(seen) for member in self.members]).mean(dim=0)
        return self.scan(x_hat.to(x.dtype)) * brain_of(x)

    @torch.no_grad()
    def scan_scores(self, x: Tensor, score: Tensor, x_hat: Tensor | None) -> ScanScores:
        """Also `waic` and `dose`."""
        found = super().scan_scores(x, score, x_hat)
        evidence = self.evidence(x.to(self.density.values.device))
        own = {"waic": evidence.waic, "dose": self.density(evidence.statistics)}
        there = bool((x != 0).any())
        return found | {name: float(value) if there else 0.0 for name, value in own.items()}

    def evidence(self, x: Tensor) -> _Evidence:
        """What the ensemble makes of scans `(B, C, *S)`."""
        inside = brain_of(x)
        looks = [self._look(member, self.deviation(x), inside) for member in self.members]
        size = inside.flatten(1).sum(dim=1).clamp(min=1)
        statistics = torch.stack([statistics for statistics, _ in looks]).mean(dim=0)
        voxels = torch.stack([likelihood for _, likelihood in looks])
        criterion = per_window(voxels.mean(dim=0) - voxels.var(dim=0)) - statistics[:, 0]
        return _Evidence(statistics / size[:, None], -criterion / size)

    def _look(self, member: nn.Module, x: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """A member's statistics `(B, STATISTICS)`, and expected log-likelihoods `(B, C, *S)`."""
        assert isinstance(member, GaussianAutoencoder)
        posterior = member.posterior(x)
        prior = standard(posterior.mean)
        voxels, weights = torch.zeros_like(x), []
        random = torch.Generator().manual_seed(0)
        for _ in range(self.samples):
            # The same draws for every scan: scores must neither flicker nor depend on the batch.
            noise = torch.randn(posterior.mean.shape[1:], generator=random).to(x.device)
            z = posterior.mean + posterior.stddev * noise
            likelihood = log_likelihood(x, member.generate(z, x), inside, self.scale)
            voxels += likelihood / self.samples
            ratio = per_window(log_density(prior, z) - log_density(posterior, z))
            weights.append(per_window(likelihood) + ratio)
        # Of a normal distribution: the logarithm of sqrt(2 pi e) times its standard deviation.
        entropy = per_window(posterior.stddev.log() + (math.log(2 * math.pi) + 1) / 2)
        divergence = rate(posterior)
        bound = torch.stack(weights).logsumexp(dim=0) - math.log(self.samples)
        statistics = [divergence, divergence + entropy, entropy, -per_window(voxels), bound]
        return torch.stack(statistics, dim=1), voxels

    def _remember(self, x: Tensor) -> Iterator[Update]:
        self.density.update(self.evidence(x).statistics)
        yield from ()

    def _negative_elbo(self, x: Tensor, sample: bool) -> Tensor:
        """The mean over members and windows, in nats; at a sample of the code or its mean."""
        losses, seen, inside = [], self.deviation(x), brain_of(x)
        for member in self.members:
            assert isinstance(member, GaussianAutoencoder)
            losses.append(member.negative_elbo(seen, inside, self.scale, sample=sample))
        return torch.stack(losses).mean()


class _Evidence(NamedTuple):
    """Statistics `(B, STATISTICS)` and WAIC, negated, `(B,)`; in nats per brain voxel."""

    statistics: Tensor
    waic: Tensor


class _KernelDensity(nn.Module):
    """For each of some statistics, a Gaussian kernel density over healthy scans.

    Args:
        capacity: scans that are remembered; of more, a random sample.
        statistics: numbers of a scan.
        bandwidth: standard deviation of the kernel, in those of the statistic.
    """

    values: Tensor
    count: Tensor

    def __init__(self, capacity: int, statistics: int, bandwidth: float) -> None:
        super().__init__()
        self.bandwidth = bandwidth
        self.register_buffer("values", torch.zeros(capacity, statistics))
        self.register_buffer("count", torch.zeros(()))

    def update(self, statistics: Tensor) -> None:
        """Take in scans `(B, statistics)`."""
        for row in statistics:
            place = seen = int(self.count)
            if seen >= len(self.values):  # reservoir sampling, the same in every process
                random = torch.Generator().manual_seed(seen)
                place = int(torch.randint(seen + 1, (), generator=random))
            if place < len(self.values):
                self.values[place] = row
            self.count += 1

    def forward(self, statistics: Tensor) -> Tensor:
        """Minus the sum of the statistics' log-densities: `(B, statistics)` to `(B,)`, nats."""
        known = self.values[: max(int(self.count), 1)]
        # Statistics that all but agree (few scans) must not make a score overflow.
        spread = known.std(dim=0, correction=0).clamp(min=1e-6)
        kernel = Normal(known / spread, self.bandwidth, validate_args=False)
        terms = log_density(kernel, (statistics / spread)[:, None])
        return -(terms.logsumexp(dim=1) - math.log(len(known))).sum(dim=1)
