"""A segmentation network that has learned to find anomalies painted into healthy scans.

Method: self-supervised detection of synthetic anomalies, after Tan et al., "Detecting outliers with
foreign patch interpolation", MELBA 2022, Kascenas et al., "Denoising autoencoders for unsupervised
anomaly detection in brain MRI", MIDL 2022, and Baugh et al., "Many tasks make light work", MICCAI
2023; on scans of randomised contrast after Billot et al., "SynthSeg", Medical Image Analysis 86
(2023). Differs from them: anomalies of all those kinds are painted side by side, graded in size
from a voxel to centimetres and in contrast from barely visible to plain (`volad.anomalies`), more
often in white matter; whole aligned volumes instead of patches, in which the network also sees the
scan's mirror image and what tissue MNI152 has at each place; the target is whether a voxel is
anomalous, not how much was blended in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from monai.networks.nets import UNet
from monai.networks.utils import pixelshuffle, pixelunshuffle
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from volad.anomalies import Painted, paint
from volad.methods._base import Method, Stage, Update, Window
from volad.nets import INSTANCE
from volad.surroundings import anatomy
from volad.tensors import brain_of, crop, divisible, fixed_draws

__all__ = ["SyntheticAnomaly"]


class SyntheticAnomaly(Method):
    """Score a voxel by the probability, as the network has it, that it belongs to an anomaly.

    Args:
        channels: image channels.
        features: feature channels of each level; the first works at half the resolution, and each
            level after it halves it again, but for the last.
        res_units: convolutions of each residual unit.
        mirror: the network also sees each window's mirror image (first spatial axis); of use on
            grids that are symmetric about the middle, as MNI152's is.
        prior: the network also sees MNI152's grey and white matter, and anomalies are painted more
            often into white matter; needs windows that are whole volumes on MNI152's 2 mm grid.
        dice: weight of the soft Dice loss beside the cross-entropy.
        rare: weight of anomalous voxels in the cross-entropy; there is about one in a thousand.
        draws: how often each batch is painted anew, each time with an update of its own.
    """

    windows: ClassVar[tuple[Window, ...]] = ("volume", "patch")
    tiny: ClassVar[Mapping[str, Any]] = {
        "features": (8, 16),
        "res_units": 1,
        "rare": 5.0,
        "draws": 10,
    }
    training_defaults: ClassVar[Mapping[str, Any]] = {"batch": 2, "ema": 0.999, "lr": 1e-3}
    prior: Tensor | None

    def __init__(
        self,
        channels: int = 1,
        features: Sequence[int] = (24, 48, 96, 128),
        res_units: int = 2,
        mirror: bool = False,
        prior: bool = False,
        dice: float = 1.0,
        rare: float = 20.0,
        draws: int = 1,
    ) -> None:
        super().__init__()
        self.mirror, self.dice, self.rare, self.draws = mirror, dice, rare, draws
        self.register_buffer("prior", anatomy()[:, :2] if prior else None, persistent=False)
        self.net = _HalfResolutionUNet(
            channels * (2 if mirror else 1) + (2 if prior else 0), features, res_units
        )

    def stages(self) -> Sequence[Stage]:
        return [Stage(self.training_step)]

    def training_step(self, x: Tensor) -> Iterator[Update]:
        for _ in range(self.draws):
            yield "net", self._loss(self._painted(x))

    def validation_loss(self, x: Tensor) -> Tensor:
        """The training loss, on the same anomalies every time."""
        with fixed_draws(x.device):
            painted = self._painted(x)
        return self._loss(painted)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self._logits(x)) * brain_of(x)

    def _painted(self, x: Tensor) -> Painted:
        likely = None if self.prior is None else self.prior[:, 1:]
        return paint(x.float(), likely)

    def _logits(self, x: Tensor) -> Tensor:
        parts = [x, *([x.flip(2)] if self.mirror else [])]
        if self.prior is not None:
            parts.append(self.prior.expand(len(x), *self.prior.shape[1:]).to(x.dtype))
        found: Tensor = self.net(torch.cat(parts, dim=1))
        return found.float()

    def _loss(self, painted: Painted) -> Tensor:
        """Weighted mean cross-entropy of the sure voxels, plus 1 - soft Dice; a scalar."""
        logits, label, sure = self._logits(painted.image), painted.label, painted.sure
        weight = sure * (1 + (self.rare - 1) * label)
        entropy = binary_cross_entropy_with_logits(logits, label, weight, reduction="sum")
        chance = torch.sigmoid(logits) * sure
        both = 2 * (chance * label).sum() + 1
        overlap = both / (chance.sum() + (label * sure).sum() + 1)
        return entropy / weight.sum().clamp(min=1) + self.dice * (1 - overlap)


class _HalfResolutionUNet(nn.Module):
    """MONAI's U-Net on blocks of 2 x 2 x 2 voxels, so that no layer works at full resolution.

    On a CPU such layers cost more than all others together.

    Args:
        in_channels: channels in.
        features: feature channels of each level.
        res_units: convolutions of each residual unit.
    """

    def __init__(self, in_channels: int, features: Sequence[int], res_units: int) -> None:
        super().__init__()
        self.factor = 2 ** len(features)
        self.unet = UNet(
            spatial_dims=3,
            in_channels=8 * in_channels,
            out_channels=features[0],
            channels=tuple(features),
            strides=(1,) + (2,) * (len(features) - 2),
            num_res_units=res_units,
            norm=INSTANCE,
        )
        # The U-Net's own channels end normalised, and a rare class could not stand out from them.
        self.last = nn.Conv3d(features[0], 8, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, *S)` to logits `(B, 1, *S)`, any S."""
        # The coarsest normalisation needs more than one place.
        blocks = pixelunshuffle(divisible(x, self.factor, least=2), 3, 2)
        return crop(pixelshuffle(self.last(self.unet(blocks)), 3, 2), x)
