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

import numpy as np
import torch
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from volad.anomalies import Painted, paint
from volad.methods._base import Contrast, Method, Stage, Update, Window, brain_of
from volad.nets import INSTANCE, crop, divisible
from volad.preprocess.align import load_template

__all__ = ["SyntheticAnomaly"]

#: Channels at full resolution, before the score.
LAST = 8


class SyntheticAnomaly(Method):
    """Score a voxel by the probability, as the network has it, that it belongs to an anomaly.

    Args:
        channels: image channels.
        features: feature channels of each level; each level halves the resolution, the last one
            excepted. The first works at half of it, so that none costs what full resolution does.
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
    tiny: ClassVar[Mapping[str, Any]] = {"features": (8, 16), "res_units": 1, "draws": 4}
    #: In so few steps the tiny model learns one kind of contrast.
    sees: ClassVar[tuple[Contrast, ...]] = ("dark",)
    training_defaults: ClassVar[Mapping[str, Any]] = {"batch": 2, "ema": 0.999, "lr": 1e-3}
    prior: Tensor | None

    def __init__(
        self,
        channels: int = 1,
        features: Sequence[int] = (32, 64, 128, 128),
        res_units: int = 2,
        mirror: bool = False,
        prior: bool = False,
        dice: float = 1.0,
        rare: float = 20.0,
        draws: int = 1,
    ) -> None:
        super().__init__()
        self.mirror, self.dice, self.rare, self.draws = mirror, dice, rare, draws
        self.register_buffer("prior", _tissues() if prior else None, persistent=False)
        self.factor = 2 ** (len(features) - 1)
        # MONAI's ends with a normalised channel, which a rare class cannot stand out from.
        self.net = nn.Sequential(
            UNet(
                spatial_dims=3,
                in_channels=channels * (2 if mirror else 1) + (2 if prior else 0),
                out_channels=LAST,
                channels=tuple(features),
                strides=(2,) * (len(features) - 1),
                num_res_units=res_units,
                norm=INSTANCE,
            ),
            nn.Conv3d(LAST, 1, kernel_size=1),
        )

    def stages(self) -> Sequence[Stage]:
        return [Stage(self.training_step)]

    def training_step(self, x: Tensor) -> Iterator[Update]:
        for _ in range(self.draws):
            yield "net", self._loss(self._painted(x))

    def validation_loss(self, x: Tensor) -> Tensor:
        """The training loss, on the same anomalies every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
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
        # The bottleneck's instance normalisation needs more than one place.
        whole = divisible(torch.cat(parts, dim=1), self.factor, least=2)
        return crop(self.net(whole), x).float()

    def _loss(self, painted: Painted) -> Tensor:
        """Mean cross-entropy of the voxels that are sure, weighted, and 1 - the batch's soft Dice."""
        logits, label, sure = self._logits(painted.image), painted.label, painted.sure
        weight = sure * (1 + (self.rare - 1) * label)
        entropy = binary_cross_entropy_with_logits(logits, label, weight, reduction="sum")
        chance = torch.sigmoid(logits) * sure
        both = 2 * (chance * label).sum() + 1
        overlap = both / (chance.sum() + (label * sure).sum() + 1)
        return entropy / weight.sum().clamp(min=1) + self.dice * (1 - overlap)


def _tissues() -> Tensor:
    """`(1, 2, 80, 96, 88)`: MNI152's shares of grey and of white matter."""
    template = load_template()
    return torch.from_numpy(np.stack([template.grey, template.white]))[None]
