"""Building blocks that MONAI lacks in the form the methods need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from monai.networks.blocks import Convolution, SubpixelUpsample, UpSample
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from volad.dense_code import DenseCode
from volad.tensors import crop, divisible

__all__ = [
    "AttentionUNet",
    "ConvAutoencoder",
    "PatchCritic",
    "SelfAttention",
    "coarse_grid",
]

#: Of the leaky rectifiers.
SLOPE = 0.1
#: Of networks with a critic: batch statistics would spoil its penalty, and averaged weights.
INSTANCE = ("instance", {"affine": True})


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
        bottleneck: in place of those two, a module from and to `(B, channels[-1], *coarse)`.
        normalise: with group normalisation; without it and without a bias in any layer but those at
            the ends of the code, what comes out grows with what goes in, as deviations from a mean
            should: normalised, a scan that hardly deviates looks like one that does.
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
        bottleneck: nn.Module | None = None,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        conv = partial(_conv, spatial_dims, normalise)
        self.factor = 2 ** len(channels)
        levels = [in_channels, *channels]
        self.encoder = nn.Sequential()
        self.decoder = nn.Sequential()
        for before, after in pairwise(levels):
            self.encoder.append(conv(before, after, 2))
            for _ in range(convs - 1):
                self.encoder.append(conv(after, after))
        if bottleneck is not None:
            self.bottleneck = bottleneck
        elif grid is None:
            self.bottleneck = _spatial_code(spatial_dims, channels[-1], code, dropout)
        else:
            coarse = coarse_grid(grid, self.factor)
            self.bottleneck = DenseCode(spatial_dims, channels[-1], code, coarse, dropout)
        up = list(reversed(channels))
        for before, after in pairwise(up):
            self.decoder.append(conv(before, after))
            self.decoder.append(
                UpSample(spatial_dims, after, after, 2, mode="nontrainable", interp_mode="linear")
            )
            for _ in range(convs - 1):
                self.decoder.append(conv(after, after))
        self.decoder.append(conv(channels[0], channels[0]))
        self.out = SubpixelUpsample(spatial_dims, channels[0], out_channels, scale_factor=2)

    @property
    def dense(self) -> DenseCode | None:
        """The dense code, which has to be started (`DenseCode`); None with a spatial one."""
        return self.bottleneck if isinstance(self.bottleneck, DenseCode) else None

    def encode(self, x: Tensor) -> Tensor:
        """`(B, in_channels, *S)` to the bottleneck's input, `(B, channels[-1], *coarse)`."""
        y: Tensor = self.encoder(divisible(x, self.factor))
        return y

    def decode(self, y: Tensor, x: Tensor) -> Tensor:
        """The bottleneck's output to `(B, out_channels, *S)`, S as that of `x`."""
        return crop(self.out(self.decoder(y)), x)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, *S)` to `(B, out_channels, *S)`; any S with a spatial bottleneck."""
        return self.decode(self.bottleneck(self.encode(x)), x)


def coarse_grid(grid: Sequence[int], factor: int) -> tuple[int, ...]:
    """Spatial shape of the bottleneck of a network that takes `grid` and shrinks it by `factor`."""
    if any(n % factor for n in grid):
        raise ValueError(f"a dense code needs a grid in multiples of {factor}, got {tuple(grid)}")
    return tuple(n // factor for n in grid)


def _spatial_code(spatial_dims: int, channels: int, code: int, dropout: float) -> nn.Module:
    drop = {2: nn.Dropout2d, 3: nn.Dropout3d}[spatial_dims]
    return nn.Sequential(
        Convolution(spatial_dims, channels, code, kernel_size=1, conv_only=True),
        drop(dropout),
        Convolution(spatial_dims, code, channels, kernel_size=1, conv_only=True),
    )


def _conv(
    spatial_dims: int, normalise: bool, before: int, after: int, stride: int = 1
) -> nn.Module:
    conv: nn.Module = Convolution(
        spatial_dims,
        before,
        after,
        strides=stride,
        norm=("group", {"num_groups": math.gcd(8, after)}) if normalise else None,
        act=("leakyrelu", {"negative_slope": SLOPE}),
        bias=False,
    )
    if not normalise:  # then each layer has to keep the spread by itself
        for layer in conv.modules():
            if isinstance(layer, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(layer.weight, a=SLOPE)
    return conv


class SelfAttention(nn.Module):
    """SAGAN's block: `x + gamma * o`, `o` a mean of all places weighted by their likeness.

    Queries and keys have an eighth of the channels; `gamma` starts at 0, so the block starts as
    the identity. torch's fused kernels never hold the `N x N` weights of N places; they need
    queries and keys as long as the values, hence the zeros, which change no product.

    Source: Zhang et al., "Self-Attention Generative Adversarial Networks", ICML 2019; no spectral
    normalisation, which the gradient penalty makes needless.

    Args:
        spatial_dims: 2 or 3.
        channels: of the input and the output.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.thin = max(channels // 8, 1)
        self.query_key_value = Convolution(
            spatial_dims, channels, 2 * self.thin + channels, kernel_size=1, conv_only=True
        )
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, *S)` to the same shape."""
        # The fused kernels want each place's channels side by side.
        parts = self.query_key_value(x).flatten(2).transpose(1, 2)[:, None].contiguous()
        query, key, value = parts.split([self.thin, self.thin, x.shape[1]], dim=-1)
        rest = [0, x.shape[1] - self.thin]
        found = scaled_dot_product_attention(pad(query, rest), pad(key, rest), value, scale=1.0)
        return x + self.gamma * found[:, 0].transpose(1, 2).view_as(x)


class AttentionUNet(nn.Module):
    """U-Net of strided and transposed convolutions, as pix2pix's, with self-attention.

    Each level halves the resolution with a convolution of kernel 4 and the way up doubles it with a
    transposed one. The first level and the output have no normalisation.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels in.
        out_channels: channels out.
        features: channels of each level.
        attention: attention blocks, the innermost first: 1 at the bottom, 3 with one before and one
            behind it, and so on; 0 or odd, up to twice the levels less one.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        features: Sequence[int],
        attention: int = 0,
    ) -> None:
        super().__init__()
        deepest = len(features)
        if attention and (attention % 2 == 0 or not 0 < attention < 2 * deepest):
            raise ValueError(
                f"attention must be 0 or an odd number below {2 * deepest}, got {attention}"
            )
        self.factor = 2**deepest
        attended = range(deepest - attention // 2, deepest + 1) if attention else ()
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, (before, after) in enumerate(pairwise([in_channels, *features]), start=1):
            step = _halve(spatial_dims, before, after, norm=level > 1)
            self.down.append(_attended(step, spatial_dims, after, level in attended))
        for level in range(deepest - 1, 0, -1):
            # Below the bottom, what comes up meets what went down on the level before.
            before = features[level] * (1 if level == deepest - 1 else 2)
            step = _double(spatial_dims, before, features[level - 1])
            self.up.append(_attended(step, spatial_dims, features[level - 1], level in attended))
        last = features[0] * (1 if deepest == 1 else 2)
        self.out = _double(spatial_dims, last, out_channels, conv_only=True)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, *S)` to `(B, out_channels, *S)`, any S."""
        y, passed = divisible(x, self.factor, least=2), []
        for step in self.down:
            y = step(y)
            passed.append(y)
        for step, skipped in zip(self.up, reversed(passed[:-1]), strict=True):
            y = torch.cat([step(y), skipped], dim=1)
        return crop(self.out(y), x)


class PatchCritic(nn.Module):
    """Strided convolutions, then one value at every place, averaged: critic of any window.

    No batch normalisation, which would mix windows and spoil a gradient penalty.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels in.
        features: channels of each level; each halves the resolution.
        attention: attention blocks, behind the last level but one and those before it.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, features: Sequence[int], attention: int = 0
    ) -> None:
        super().__init__()
        deepest = len(features)
        self.factor = 2**deepest
        attended = range(deepest - attention, deepest)
        self.levels = nn.Sequential()
        for level, (before, after) in enumerate(pairwise([in_channels, *features]), start=1):
            step = _halve(spatial_dims, before, after, norm=level > 1)
            self.levels.append(_attended(step, spatial_dims, after, level in attended))
        self.value = Convolution(spatial_dims, features[-1], 1, kernel_size=1, conv_only=True)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, *S)` to `(B,)`."""
        places: Tensor = self.value(self.levels(divisible(x, self.factor, least=2)))
        return places.flatten(1).mean(dim=1)


def _halve(spatial_dims: int, before: int, after: int, norm: bool) -> nn.Module:
    leaky = ("leakyrelu", {"negative_slope": 0.2})
    kind = INSTANCE if norm else None
    return _strided(spatial_dims, before, after, act=leaky, norm=kind, bias=not norm)


def _double(spatial_dims: int, before: int, after: int, conv_only: bool = False) -> nn.Module:
    up = {"is_transposed": True, "output_padding": 0, "act": "relu", "norm": INSTANCE}
    return _strided(spatial_dims, before, after, bias=conv_only, conv_only=conv_only, **up)


def _strided(spatial_dims: int, before: int, after: int, **more: Any) -> nn.Module:
    conv: nn.Module = Convolution(
        spatial_dims, before, after, strides=2, kernel_size=4, padding=1, **more
    )
    return conv


def _attended(step: nn.Module, spatial_dims: int, channels: int, attention: bool) -> nn.Module:
    return nn.Sequential(step, SelfAttention(spatial_dims, channels)) if attention else step
