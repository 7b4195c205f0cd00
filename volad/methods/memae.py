"""Autoencoder that rebuilds from a memory of healthy codes; what needs other codes is the lesion.

Method: Gong et al., "Memorizing normality to detect anomaly: memory-augmented deep autoencoder for
unsupervised anomaly detection", ICCV 2019, with likeness as the product of code and item, as in the
authors' code (the cosine in the paper). Differs from it: volumes instead of video clips, so every
level halves all axes; volad's encoder and decoder (three levels, fewer channels, group
normalisation, interpolation and a sub-pixel convolution instead of transposed ones); the threshold
on the weights is stated in units of the mean weight; places whose weights all lie below it read by
those weights, where the authors read zeros; the error is taken over brain voxels and the entropy
over places of the code that hold brain; on aligned volumes the residual may be standardised voxel
by voxel with the residuals of healthy scans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.functional import interpolate

from volad.memory import Memory, address_entropy
from volad.methods._base import Reconstruction, Update
from volad.nets import ConvAutoencoder
from volad.tensors import brain_mean, brain_of, crop, divisible

__all__ = ["MemAE"]


class MemAE(Reconstruction):
    """Minimise squared error and entropy of the memory's weights over healthy windows.

    Args:
        channels: image channels.
        spatial_dims: 2 for slices, 3 for volumes and patches.
        features: feature channels of each level; each level halves the resolution. The last is
            the length of an item.
        convs: convolutions per level.
        items: items in the memory, which all places of the code share.
        shrink: weights up to this many times the mean one, `1 / items`, become 0. The authors
            advise 1 to 3.
        entropy: weight of the mean entropy (nats) beside the mean squared error.
        residual: how a window and its reconstruction are compared, a name in `volad.residual`.
        grid: spatial shape of aligned whole volumes, in voxels; needed by `standardise`.
        standardise: divide residuals by their healthy spread at each voxel.
        floor: added to that spread, in units of the image.
        mirror: take that spread from every scan and its mirror image (first spatial axis), for
            grids that are symmetric about the middle.
    """

    tiny: ClassVar[Mapping[str, Any]] = {"features": (8, 16), "convs": 1, "items": 20}

    def __init__(
        self,
        channels: int = 1,
        spatial_dims: int = 3,
        features: Sequence[int] = (16, 32, 64),
        convs: int = 2,
        items: int = 2000,
        shrink: float = 2.0,
        entropy: float = 2e-4,
        residual: str = "squared",
        grid: Sequence[int] | None = None,
        standardise: bool = False,
        floor: float = 0.05,
        mirror: bool = False,
    ) -> None:
        super().__init__(residual, grid, standardise, floor, channels, mirror)
        self.entropy = entropy
        self.net = _MemoryAutoencoder(spatial_dims, channels, features, convs, items, shrink)

    def training_step(self, x: Tensor) -> Iterator[Update]:
        x_hat, weights = self.net(x)
        # A place of the code counts by the share of brain in what it stands for.
        share = interpolate(brain_of(x), size=weights.shape[2:], mode="area")
        entropy = (address_entropy(weights) * share).sum() / share.sum().clamp(min=1)
        yield "net", brain_mean((x_hat - x).square(), x) + self.entropy * entropy

    def validation_loss(self, x: Tensor) -> Tensor:
        return brain_mean((self.net(x)[0] - x).square(), x)

    def reconstruct(self, x: Tensor) -> Tensor:
        x_hat: Tensor = self.net(x)[0]
        return x_hat.to(x.dtype) * brain_of(x)


class _MemoryAutoencoder(nn.Module):
    """volad's convolutional autoencoder with a memory for a bottleneck."""

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        features: Sequence[int],
        convs: int,
        items: int,
        shrink: float,
    ) -> None:
        super().__init__()
        # Of this one all but the bottleneck is used.
        plain = ConvAutoencoder(spatial_dims, channels, channels, features, convs, code=1)
        self.factor = plain.factor
        self.encoder, self.decoder, self.out = plain.encoder, plain.decoder, plain.out
        self.memory = Memory(items, features[-1], shrink)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, C, *S)`, any S, to its reconstruction and the weights `(B, items, *coarse)`."""
        read, weights = self.memory(self.encoder(divisible(x, self.factor)))
        return crop(self.out(self.decoder(read)), x), weights
