"""Building blocks that MONAI lacks in the form the methods need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from monai.networks.blocks import Convolution, SubpixelUpsample, UpSample
from torch import Tensor, nn

__all__ = ["ConvAutoencoder"]


class ConvAutoencoder(nn.Module):
    """Convolutional autoencoder with a spatial or a dense bottleneck, in 2D or 3D.

    Every level halves the resolution with a strided convolution after `convs - 1` plain ones, and
    the way up mirrors it with interpolation and convolution, which leaves no checkerboard. The last
    doubling is a sub-pixel convolution, so that no layer works at full resolution: on a CPU those
    cost more than all others together.
    After Sato et al. 2018 (pooling and transposed convolutions there) and the table B1 of Baur
    et al. 2021, with kernel 3 and group normalisation, since 3D batches are small.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels in.
        out_channels: channels out.
        channels: feature channels of each level, the last one at the bottleneck.
        convs: convolutions per level.
        code: channels of the spatial bottleneck, or length of the dense one.
        grid: spatial shape of the input: given for the dense bottleneck, None for the spatial one.
        dropout: channel dropout of the bottleneck while training.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int],
        convs: int,
        code: int,
        grid: Sequence[int] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.factor = 2 ** len(channels)
        levels = [in_channels, *channels]
        self.encoder = nn.Sequential()
        self.decoder = nn.Sequential()
        for before, after in pairwise(levels):
            self.encoder.append(_conv(spatial_dims, before, after, stride=2))
            for _ in range(convs - 1):
                self.encoder.append(_conv(spatial_dims, after, after))
        self.bottleneck = (
            _spatial_code(spatial_dims, channels[-1], code, dropout)
            if grid is None
            else _DenseCode(spatial_dims, channels[-1], code, self._coarse(grid), dropout)
        )
        up = list(reversed(channels))
        for before, after in pairwise(up):
            self.decoder.append(_conv(spatial_dims, before, after))
            self.decoder.append(
                UpSample(spatial_dims, after, after, 2, mode="nontrainable", interp_mode="linear")
            )
            for _ in range(convs - 1):
                self.decoder.append(_conv(spatial_dims, after, after))
        self.decoder.append(_conv(spatial_dims, channels[0], channels[0]))
        self.out = SubpixelUpsample(spatial_dims, channels[0], out_channels, scale_factor=2)

    def _coarse(self, grid: Sequence[int]) -> tuple[int, ...]:
        if any(n % self.factor for n in grid):
            raise ValueError(
                f"a dense code needs a grid in multiples of {self.factor}, got {tuple(grid)}"
            )
        return tuple(n // self.factor for n in grid)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, *S)` to `(B, out_channels, *S)`; any S with a spatial bottleneck."""
        size = x.shape[2:]
        border: list[int] = []
        for n in reversed(size):
            border += [0, -n % self.factor]
        code = self.bottleneck(self.encoder(nn.functional.pad(x, border)))
        y: Tensor = self.out(self.decoder(code))
        crop: tuple[Any, ...] = (..., *(slice(n) for n in size))
        return y[crop]


class _DenseCode(nn.Module):
    """B3 "dense": 1x1 convolution to an eighth of the channels, then one vector per window."""

    def __init__(
        self, spatial_dims: int, channels: int, code: int, grid: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        thin = max(channels // 8, 1)
        self.shape = (thin, *grid)
        size = math.prod(self.shape)
        self.squeeze = Convolution(spatial_dims, channels, thin, kernel_size=1, conv_only=True)
        self.encode = nn.Linear(size, code)
        self.dropout = nn.Dropout(dropout)
        self.decode = nn.Linear(code, size)
        self.expand = Convolution(spatial_dims, thin, channels, kernel_size=1, conv_only=True)

    def forward(self, x: Tensor) -> Tensor:
        code = self.dropout(self.encode(self.squeeze(x).flatten(1)))
        y: Tensor = self.expand(self.decode(code).view(-1, *self.shape))
        return y


def _spatial_code(spatial_dims: int, channels: int, code: int, dropout: float) -> nn.Module:
    drop = {2: nn.Dropout2d, 3: nn.Dropout3d}[spatial_dims]
    return nn.Sequential(
        Convolution(spatial_dims, channels, code, kernel_size=1, conv_only=True),
        drop(dropout),
        Convolution(spatial_dims, code, channels, kernel_size=1, conv_only=True),
    )


def _conv(spatial_dims: int, before: int, after: int, stride: int = 1) -> nn.Module:
    conv: nn.Module = Convolution(
        spatial_dims,
        before,
        after,
        strides=stride,
        norm=("group", {"num_groups": math.gcd(8, after)}),
        act=("leakyrelu", {"negative_slope": 0.1}),
        bias=False,
    )
    return conv
