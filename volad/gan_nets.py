"""Networks that generate and translate windows, and what judges and encodes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from monai.networks.blocks import Convolution, SubpixelUpsample, UpSample
from monai.networks.nets import AutoEncoder
from torch import Tensor, nn

from volad.nets import INSTANCE
from volad.tensors import crop, divisible

__all__ = ["ResidualTranslator", "WindowEncoder", "WindowGenerator"]


class WindowEncoder(nn.Module):
    """Strided convolutions, then one vector for the window; with a vector of length 1, a critic.

    No normalisation: it would hide from a critic how bright a window is.

    Args:
        in_channels: channels in.
        length: of the vector.
        channels: feature channels of each level; each halves the resolution.
        grid: spatial shape of a window.

    Attributes:
        features: all but the last layers, a module for windows of any size.
    """

    def __init__(
        self, in_channels: int, length: int, channels: Sequence[int], grid: Sequence[int]
    ) -> None:
        super().__init__()
        dims, leaky = len(grid), ("leakyrelu", {"negative_slope": 0.2})
        self.features = _Padded()
        for before, after in pairwise([in_channels, *channels]):
            self.features.append(
                Convolution(
                    dims, before, after, strides=2, kernel_size=4, padding=1, act=leaky, norm=None
                )
            )
        thin, coarse = _coarsest(channels, grid)
        self.vector = nn.Sequential(
            Convolution(dims, channels[-1], thin, kernel_size=1, conv_only=True),
            nn.Flatten(),
            nn.Linear(thin * math.prod(coarse), length),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, *grid)` to `(B, length)`."""
        y: Tensor = self.vector(self.features(x))
        return y


class WindowGenerator(nn.Module):
    """One vector to a window: convolutions and interpolation, as on `ConvAutoencoder`'s way up.

    MONAI's `Generator` has transposed convolutions of kernel 3, which leave a checkerboard, and a
    linear layer to all channels, which for a volume has more weights than all other layers.

    Args:
        length: of the vector.
        out_channels: channels out.
        channels: feature channels of each level, the coarsest last.
        grid: spatial shape of a window.
    """

    def __init__(
        self, length: int, out_channels: int, channels: Sequence[int], grid: Sequence[int]
    ) -> None:
        super().__init__()
        dims, self.grid = len(grid), tuple(grid)
        thin, coarse = _coarsest(channels, grid)
        self.start = nn.Sequential(
            nn.Linear(length, thin * math.prod(coarse)),
            nn.Unflatten(1, (thin, *coarse)),
            Convolution(dims, thin, channels[-1], kernel_size=1, conv_only=True),
        )
        self.up = nn.Sequential()
        for before, after in pairwise(channels[::-1]):
            self.up.append(_normalised(dims, before, after))
            self.up.append(
                UpSample(dims, after, after, 2, mode="nontrainable", interp_mode="linear")
            )
        self.up.append(_normalised(dims, channels[0], channels[0]))
        # Sub-pixel, so that no layer works at full resolution.
        self.out = SubpixelUpsample(dims, channels[0], out_channels, scale_factor=2)

    def forward(self, vector: Tensor) -> Tensor:
        """`(B, length)` to `(B, out_channels, *grid)`."""
        y: Tensor = self.out(self.up(self.start(vector)))
        place: tuple[Any, ...] = (..., *(slice(n) for n in self.grid))
        return y[place]


class ResidualTranslator(nn.Module):
    """CycleGAN's translator: strided convolutions, residual blocks, transposed convolutions.

    MONAI's `AutoEncoder`, for windows of any size. After Zhu et al., "Unpaired image-to-image
    translation using cycle-consistent adversarial networks", ICCV 2017, without the convolutions of
    kernel 7 at full resolution, which on a volume cost more than all others together.

    Args:
        spatial_dims: 2 or 3.
        channels: in and out.
        features: feature channels of each level; each halves the resolution.
        blocks: residual blocks of two convolutions, at the coarsest level.
    """

    def __init__(
        self, spatial_dims: int, channels: int, features: Sequence[int], blocks: int
    ) -> None:
        super().__init__()
        self.factor = 2 ** len(features)
        self.net = AutoEncoder(
            spatial_dims,
            channels,
            channels,
            features,
            strides=[2] * len(features),
            inter_channels=[features[-1]] * blocks,
            num_inter_units=2,
            act="relu",
            norm=INSTANCE,
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(B, channels, *S)` to the same shape, any S."""
        # Instance normalisation needs two places at the least.
        return crop(self.net(divisible(x, self.factor, least=2)), x)


class _Padded(nn.Sequential):
    """Layers that halve the resolution each, of windows padded to what halves evenly."""

    def forward(self, x: Tensor) -> Tensor:
        x = divisible(x, 2 ** len(self))
        for layer in self:
            x = layer(x)
        return x


def _coarsest(channels: Sequence[int], grid: Sequence[int]) -> tuple[int, list[int]]:
    """Channels and spatial shape where a vector is taken or put.

    A quarter of the channels: the linear layers would outweigh all others.
    """
    return max(channels[-1] // 4, 1), [math.ceil(n / 2 ** len(channels)) for n in grid]


def _normalised(spatial_dims: int, before: int, after: int) -> nn.Module:
    conv: nn.Module = Convolution(
        spatial_dims,
        before,
        after,
        norm=("group", {"num_groups": math.gcd(8, after)}),
        act=("leakyrelu", {"negative_slope": 0.1}),
        bias=False,
    )
    return conv
