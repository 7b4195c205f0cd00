"""MADGAN: from three adjacent slices a GAN predicts the next three; lesions are what it did not.

Method: Han et al., "MADGAN: unsupervised medical anomaly detection GAN using multiple adjacent
brain MRI slice reconstruction", BMC Bioinformatics 22 (2021); self-attention after Zhang et al.
(ICML 2019), the critic's loss after Gulrajani et al. (NeurIPS 2017). No code of the authors is
public. Differs from them: slices come in both directions and predictions that overlap are averaged,
so that every slice is covered; the critic judges patches and sees the known slices beside the real
or predicted ones; the output is linear, not tanh, and can be the change from the nearest known
slice; losses are taken inside the brain; on aligned volumes the residual may be standardised voxel
by voxel with the residuals of healthy scans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from volad.losses import critic_loss, frozen
from volad.methods._base import Reconstruction, ScanScores, Update, Window
from volad.nets import AttentionUNet, PatchCritic
from volad.slab import SlabInferer
from volad.tensors import brain_of

__all__ = ["MADGAN"]


class MADGAN(Reconstruction):
    """Predict healthy slices from those before them, by L1 and a critic (WGAN-GP).

    Args:
        channels: image channels.
        features: the generator's channels of each level, and the critic's.
        attention: self-attention blocks in the generator: 0, 3 (inner, coarse levels) or 7 (all,
            with four levels); the critic has them on the same levels.
        change: predict the change from the nearest known slice, not the slice.
        n_in: known slices.
        n_out: predicted slices.
        offset: slices from the first known to the first predicted one; None: the next ones.
        axis: spatial axis that the slices lie across; 2 is axial.
        both: learn and predict forward and back; otherwise back only at the near edge.
        stride: slices from one slab to the next, at most `n_out`; 1 averages `n_out` predictions.
        l1: weight of the L1 loss (mean over brain voxels) beside the critic's.
        critic_steps: updates of the critic for each of the generator, each with its own share of
            the batch; 0: no critic, L1 alone.
        penalty: weight of the gradient penalty.
        residual: how a volume and its prediction are compared, a name in `volad.residual`.
        grid: spatial shape of aligned whole volumes, in voxels; needed by `standardise`.
        standardise: divide residuals by their healthy spread at each voxel.
        floor: added to that spread, in units of the image.
        mirror: take that spread from every scan and its mirror image (first spatial axis), for
            grids that are symmetric about the middle.
        slabs: slabs per pass of the generator when it predicts a volume.
    """

    windows: ClassVar[tuple[Window, ...]] = ("slab",)
    slab: SlabInferer
    tiny: ClassVar[Mapping[str, Any]] = {"features": (8, 16), "attention": 1, "critic_steps": 1}
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "batch": 16,
        "lr": 2e-4,
        "betas": [0.5, 0.9],
        "ema": 0.999,
        "windows_per_scan": 8,
    }

    def __init__(
        self,
        channels: int = 1,
        features: Sequence[int] = (64, 128, 256, 512),
        attention: int = 3,
        change: bool = False,
        n_in: int = 3,
        n_out: int = 3,
        offset: int | None = None,
        axis: int = 2,
        both: bool = True,
        stride: int = 1,
        l1: float = 100.0,
        critic_steps: int = 5,
        penalty: float = 10.0,
        residual: str = "squared",
        grid: Sequence[int] | None = None,
        standardise: bool = False,
        floor: float = 0.05,
        mirror: bool = False,
        slabs: int = 8,
    ) -> None:
        super().__init__(residual, grid, standardise, floor, channels, mirror)
        self.slab = SlabInferer(
            n_in, n_out, offset, axis=axis, both=both, stride=stride, batch=slabs
        )
        self.change = change
        self.l1, self.critic_steps, self.penalty = l1, critic_steps, penalty
        self.generator = AttentionUNet(2, channels * n_in, channels * n_out, features, attention)
        self.critic = (
            PatchCritic(2, channels * (n_in + n_out), features, attention // 2)
            if critic_steps
            else None
        )

    def training_step(self, x: Tensor) -> Iterator[Update]:
        critic, shares = self.critic, self._slabs(x).chunk(max(self.critic_steps, 1))
        if critic is not None:
            for share in shares:
                known, real = self.slab.split(share)
                with torch.no_grad():
                    fake = self._predict(known) * (real != 0)
                # The critic sees the known slices beside those it judges.
                judge = partial(_beside, critic, known)
                yield "critic", critic_loss(judge, real, fake, self.penalty)
        known, real = self.slab.split(shares[-1])
        fake = self._predict(known) * (real != 0)
        loss = self.l1 * _error(fake, real)
        if critic is not None:
            loss = loss - frozen(critic, torch.cat([known, fake], dim=1)).mean()
        yield "generator", loss

    def validation_loss(self, x: Tensor) -> Tensor:
        """Mean L1 over the brain voxels of the predicted slices."""
        along = 2 + self.slab.axis
        skip = 0 if self.slab.both else self.slab.offset
        # What learned one way only is not judged by the other.
        ahead = (y.narrow(along, skip, x.shape[along] - skip) for y in (self.reconstruct(x), x))
        return _error(*ahead)

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.slab(x, self._predict) * brain_of(x)

    def scan_scores(self, x: Tensor, score: Tensor, x_hat: Tensor | None) -> ScanScores:
        """Also `l2_slices`, each slice's score along the axis, and their `l2_mean` and `l2_max`.

        The mean is over the slices that hold brain, as Han et al. average a scan's slabs; the
        maximum is their predecessor's (Han et al. 2019).
        """
        found = super().scan_scores(x, score, x_hat)
        if x_hat is not None:
            slices = self.slice_scores(x, x_hat)[0]
            holding = float(brain_of(x).amax(dim=self._within).sum())
            found |= {
                "l2_mean": float(slices.sum()) / max(holding, 1),
                "l2_max": float(slices.max()),
                "l2_slices": [round(float(value), 6) for value in slices],
            }
        return found

    def slice_scores(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """`(B, slices)`: squared error of each slice, over the brain area of the largest slice.

        Not over its own area, or the few voxels at the top of the head would decide.
        """
        area = brain_of(x).sum(dim=self._within).amax(dim=1, keepdim=True).clamp(min=1)
        return ((x_hat - x) * brain_of(x)).square().sum(dim=self._within) / (area * x.shape[1])

    @property
    def _within(self) -> list[int]:
        """The dimensions of `(B, C, *S)` that a slice spans, and the channels."""
        return [d for d in range(1, 5) if d != 2 + self.slab.axis]

    def _slabs(self, x: Tensor) -> Tensor:
        """A slab of each window `(B, C, *S)`, at a random place if the window is deeper."""
        along, depth = 2 + self.slab.axis, self.slab.depth
        start = int(torch.randint(x.shape[along] - depth + 1, ()))
        x = x.narrow(along, start, depth)
        if self.slab.both:  # half of them run the other way
            turned = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) < 0.5
            x = torch.where(turned, x.flip(along), x)
        return x

    def _predict(self, known: Tensor) -> Tensor:
        predicted: Tensor = self.generator(known)
        return predicted + self.slab.nearest(known) if self.change else predicted


def _beside(critic: nn.Module, known: Tensor, slices: Tensor) -> Tensor:
    value: Tensor = critic(torch.cat([known, slices], dim=1))
    return value


def _error(fake: Tensor, real: Tensor) -> Tensor:
    brain = real != 0
    return ((fake - real).abs() * brain).sum() / brain.sum().clamp(min=1)
