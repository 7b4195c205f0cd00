"""SegAE: an image is a mixture of tissue maps, and one of the maps is the lesions.

Method: Atlason et al., "SegAE: unsupervised white matter lesion segmentation from brain MRIs using
a CNN autoencoder", NeuroImage: Clinical 24 (2019), and its forerunner, SPIE Medical Imaging 2019,
whose cubed error and noise these are: a network splits T1, T2 and FLAIR into soft tissue maps, and
a linear layer with weights of 0 or more mixes images from them. It is meant to be trained on
unlabelled scans of patients; a training set without lesions leaves the lesion class little to learn
from. No code of the authors is public. Differs from them: any number of channels, all of them
mixed; the network changes the maps of a normal mixture, whose means are the weights, within limits,
so that it starts with voxels sorted by brightness, and what is far brighter than all of training is
a lesion whatever a network makes of the unseen; weights are kept positive by softplus, not by
clipping, and start in the order of the classes' brightness, so that classes do not change places
from training to training; the network has no skip connections, group normalisation and no layer at
full resolution; the regularisers are ours: maps are kept apart by the cosine between them, and the
lesion class small by its share; errors are a mean over brain voxels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from volad.methods._base import Method, Stage, Update
from volad.nets import ConvAutoencoder
from volad.tensors import brain_of

__all__ = ["SegAE"]

#: Most that the network changes the logarithm of a class's odds by.
LIMIT = 4.0


class SegAE(Method):
    """Score a voxel by its share of the class that is brightest where lesions are bright.

    Args:
        channels: image channels; three (T1, T2, FLAIR) as published.
        spatial_dims: 2 for slices, 3 for volumes and patches.
        classes: maps, the lesions' one included.
        bright: index of the channel that lesions are bright on (FLAIR); -1 is the last.
        features: feature channels of each level; each level halves the resolution.
        convs: convolutions per level.
        code: channels of the coarsest map.
        spread: standard deviation of the mixture's classes, in units of the image.
        power: images are compared raised to it; more than 1 makes bright voxels count for more.
        noise: standard deviation of the noise added while training, in units of the image.
        overlap: weight of the mean cosine between two maps.
        sparsity: weight of the lesion class's share of the brain.
    """

    windows = ("patch", "volume", "slice")
    sees = ("bright",)
    tiny: ClassVar[Mapping[str, Any]] = {"features": (8,), "convs": 1, "code": 8, "classes": 3}

    def __init__(
        self,
        channels: int = 1,
        spatial_dims: int = 3,
        classes: int = 5,
        bright: int = -1,
        features: Sequence[int] = (16, 32, 64),
        convs: int = 2,
        code: int = 64,
        spread: float = 0.15,
        power: float = 3.0,
        noise: float = 0.05,
        overlap: float = 0.02,
        sparsity: float = 0.01,
    ) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"classes must be 2 or more, got {classes}")
        if not -channels <= bright < channels:
            raise ValueError(
                f"bright must be the index of one of {channels} channels, got {bright}"
            )
        self.bright, self.power, self.noise = bright, power, noise
        self.overlap, self.sparsity = overlap, sparsity
        network = ConvAutoencoder(spatial_dims, channels, classes, features, convs, code)
        self.net = Decomposition(network, classes, channels, bright, spread)

    def stages(self) -> Sequence[Stage]:
        return [Stage(self.training_step)]

    def training_step(self, x: Tensor) -> Iterator[Update]:
        yield "net", self._loss(x + self.noise * torch.randn_like(x) * brain_of(x), x)

    def validation_loss(self, x: Tensor) -> Tensor:
        """The loss of training, without noise."""
        return self._loss(x, x)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.net(x)
        return maps[:, self.lesion, None] * brain_of(x)

    @property
    def lesion(self) -> int:
        """Index of the lesions' class."""
        return int(self.net.weight[:, self.bright].argmax())

    def _loss(self, seen: Tensor, x: Tensor) -> Tensor:
        brain = brain_of(x)
        maps: Tensor = self.net(seen) * brain
        voxels = brain.sum().clamp(min=1)
        # Noise must not make a power of a negative number.
        error = (x.clamp(min=0) ** self.power - self.net.mix(maps) ** self.power) * brain
        loss: Tensor = error.square().sum() / (voxels * x.shape[1])
        loss = loss + self.overlap * likeness(maps)
        return loss + self.sparsity * maps[:, self.lesion].sum() / voxels


class Decomposition(nn.Module):
    """A network that splits images into maps, and the weights that mix them from these.

    Args:
        network: `(B, channels, *S)` to `(B, classes, *S)`.
        classes: maps.
        channels: image channels.
        bright: the channel that the classes are ordered by in the beginning.
        spread: standard deviation of the classes around their weights.
    """

    def __init__(
        self, network: nn.Module, classes: int, channels: int, bright: int, spread: float
    ) -> None:
        super().__init__()
        self.network, self.spread = network, spread
        weight = torch.full((classes, channels), 0.5)
        # From cerebrospinal fluid on FLAIR to what is brighter than nearly all of a healthy brain.
        weight[:, bright] = torch.linspace(0.2, 1.2, classes)
        self.raw = nn.Parameter(weight.expm1().log())  # softplus undone

    @property
    def weight(self) -> Tensor:
        """`(classes, channels)`: how bright a class is on each channel, above 0."""
        return softplus(self.raw)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, classes, *S)`: shares of the classes, that sum to 1 at each voxel."""
        # The weights learn by how images are mixed alone.
        means = self.weight.detach().view(1, *self.weight.shape, *[1] * (x.ndim - 2))
        squares = (x[:, None] - means).square().sum(dim=2)
        change: Tensor = LIMIT * (self.network(x).float() / LIMIT).tanh()
        return (change - squares / (2 * self.spread**2)).softmax(dim=1)

    def mix(self, maps: Tensor) -> Tensor:
        """`(B, channels, *S)`: the image that is made of these maps."""
        parts = maps[:, :, None] * self.weight.view(1, *self.weight.shape, *[1] * (maps.ndim - 2))
        return parts.sum(dim=1)


def likeness(maps: Tensor) -> Tensor:
    """Mean cosine between two maps of `(B, K, *S)`: 0 where no voxel has two classes; a scalar."""
    rows = normalize(maps.flatten(2), dim=2)
    cosine = (rows[:, :, None] * rows[:, None]).sum(dim=-1)
    classes = maps.shape[1]
    return (cosine.sum(dim=(1, 2)) - cosine.diagonal(dim1=1, dim2=2).sum(dim=1)).mean() / (
        classes * (classes - 1)
    )
