"""f-AnoGAN: an encoder finds the scan that a GAN of healthy anatomy would have generated instead.

Method: Schlegl et al., "f-AnoGAN: Fast unsupervised anomaly detection with generative adversarial
networks", Medical Image Analysis 54 (2019), with the loss izi_f; the critic's after Gulrajani et
al. (NeurIPS 2017). Differs from it: windows are 3D, as in Simarro Viana et al. (BrainLes 2020), and
of any shape; critic and encoder are plain strided convolutions without normalisation, and the
generator convolutions with group normalisation and interpolation, instead of residual blocks with
layer and batch normalisation; they are narrower, and a convolution to a quarter of the channels
stands before or behind their linear layers, so that volumes fit; the generator's output is linear,
not tanh; the critic's updates for one of the generator share its batch and differ in the codes
drawn; Adam instead of RMSProp for the encoder; both stages have as many epochs as asked for, and
the best one is kept, on healthy windows: of the GAN by the energy score of what it generates, of
the encoder by its loss; reconstructions are cut to the brain, but the GAN also learns the air
around it; the image's part of the encoder's loss and of the scan's score is a mean over the brain;
the map may be any residual; on aligned volumes the networks may take and give what deviates from
the mean healthy scan, and residuals may be standardised voxel by voxel with those of healthy scans;
there is no score by the distance of codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from volad.gan_nets import WindowEncoder, WindowGenerator
from volad.losses import critic_loss, energy_score, frozen
from volad.methods._base import Reconstruction, ScanScores, Stage, Update, Window
from volad.tensors import brain_mean, brain_of

__all__ = ["FAnoGAN"]

#: Windows that are generated to validate the GAN.
SAMPLES = 8


class FAnoGAN(Reconstruction):
    """Learn to generate healthy windows (WGAN-GP), then to encode windows for that generator.

    Args:
        channels: image channels.
        features: feature channels of each level of the three networks; each level halves the
            resolution.
        code: length of a window's code; codes are drawn from the standard normal distribution.
        grid: spatial shape of a window, in voxels: of a patch, or of aligned whole volumes.
        critic_steps: updates of the critic for each of the generator.
        penalty: weight of the gradient penalty.
        kappa: weight of the critic's features beside the image, in the encoder's loss and the
            scan's score `anomaly`.
        residual: how a window and its reconstruction are compared, a name in `volad.residual`.
        standardise: divide residuals by their healthy spread at each voxel; for whole volumes.
        floor: added to that spread, in units of the image.
        mirror: take atlas and spread from every scan and its mirror image (first spatial axis), for
            grids that are symmetric about the middle.
        atlas: the networks take and give what deviates from the mean healthy scan; for whole
            volumes.
    """

    windows: ClassVar[tuple[Window, ...]] = ("volume", "patch")
    tiny: ClassVar[Mapping[str, Any]] = {"features": (8, 16), "code": 8, "grid": (16, 16, 16)}
    training_defaults: ClassVar[Mapping[str, Any]] = {"batch": 8, "lr": 1e-4, "betas": [0.0, 0.9]}

    def __init__(
        self,
        channels: int = 1,
        features: Sequence[int] = (16, 32, 64, 128),
        code: int = 128,
        grid: Sequence[int] = (64, 64, 64),
        critic_steps: int = 5,
        penalty: float = 10.0,
        kappa: float = 1.0,
        residual: str = "absolute",
        standardise: bool = False,
        floor: float = 0.05,
        mirror: bool = False,
        atlas: bool = False,
    ) -> None:
        super().__init__(residual, grid, standardise, floor, channels, mirror, atlas)
        self.grid, self.code = tuple(grid), code
        self.critic_steps, self.penalty, self.kappa = critic_steps, penalty, kappa
        self.generator = WindowGenerator(code, channels, features, grid)
        self.critic = WindowEncoder(channels, 1, features, grid)
        self.encoder = WindowEncoder(channels, code, features, grid)
        self._generating = False  # which stage a validation is of

    def learning(self) -> Sequence[Stage]:
        return [Stage(self.adversarial_step), *super().learning()]

    def adversarial_step(self, x: Tensor) -> Iterator[Update]:
        """The first stage's updates: of the critic, then of the generator."""
        self._generating = True
        x = self.deviation(x)
        for _ in range(self.critic_steps):
            with torch.no_grad():
                fake = self._draw(x)
            yield "critic", critic_loss(self.critic, x, fake, self.penalty)
        yield "generator", -frozen(self.critic, self._draw(x)).mean()

    def training_step(self, x: Tensor) -> Iterator[Update]:
        self._generating = False
        x_hat = self.scan(frozen(self.generator, self.encoder(self.deviation(x))))
        yield "encoder", self.anomaly(x, x_hat * brain_of(x))

    def validation_loss(self, x: Tensor) -> Tensor:
        """Of the encoder its loss; of the GAN the energy score, in the brain, of what it draws."""
        if not self._generating:
            return self.anomaly(x, self.reconstruct(x))
        draws = torch.Generator().manual_seed(0)  # the same in every epoch
        codes = torch.randn(SAMPLES, self.code, generator=draws).to(x.device)
        drawn = self.generator(codes).to(x.dtype)
        pairs = zip(self.deviation(x), brain_of(x), strict=True)
        scores = [energy_score(drawn * inside, one[None]) for one, inside in pairs]
        return torch.stack(scores).mean()

    def reconstruct(self, x: Tensor) -> Tensor:
        if x.shape[2:] != self.grid:
            raise ValueError(
                f"this model scores windows of {self.grid} voxels, got {tuple(x.shape[2:])}"
            )
        x_hat: Tensor = self.generator(self.encoder(self.deviation(x)))
        return self.scan(x_hat.to(x.dtype)) * brain_of(x)

    def scan_scores(self, x: Tensor, score: Tensor, x_hat: Tensor | None) -> ScanScores:
        """Also `anomaly`, Schlegl et al.'s A(x): the residual of image and critic's features."""
        found = super().scan_scores(x, score, x_hat)
        if x_hat is not None:
            device = next(self.parameters()).device
            found["anomaly"] = float(self.anomaly(x.to(device), x_hat.to(device)))
        return found

    def anomaly(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """A(x) of windows `(B, C, *S)` and their counterparts, averaged; a scalar.

        The squared error's mean over brain voxels, and `kappa` times that over features. Any S: the
        critic's features are convolutions.
        """
        image = brain_mean((x_hat - x).square(), x)
        both = (self.deviation(y, brain_of(x)) for y in (x_hat, x))
        seen, expected = (frozen(self.critic.features, y) for y in both)
        return image + self.kappa * mse_loss(seen.float(), expected.float())

    def _draw(self, x: Tensor) -> Tensor:
        """As many generated windows as there are in `x`."""
        fake: Tensor = self.generator(torch.randn(len(x), self.code, device=x.device))
        return fake
