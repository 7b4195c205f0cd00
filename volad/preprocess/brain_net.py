"""Step 2a, the network: deepbet's two small LinkNets, rebuilt to load plain tensors.

deepbet ships TorchScript traces, a format that PyTorch has deprecated, in a package that asks for
GUI libraries. Its weights (MIT, `weights/README.md`) are kept here as one half-precision file.

Source: Fisch et al., "deepbet: Fast brain extraction of T1-weighted MRI using convolutional neural
    networks", Computers in Biology and Medicine 179 (2024); after Chaurasia and Culurciello,
    "LinkNet", VCIP 2017.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import cast

import torch
from torch import Tensor, nn

__all__ = ["LinkNet", "load_nets"]


class LinkNet(nn.Module):
    """`(B, 1, *S)` to the probability of brain `(B, 1, *S)`; `S` in multiples of 32.

    The names of the parts are those of deepbet's state dict.
    """

    def __init__(self) -> None:
        super().__init__()
        self.init = nn.Sequential(
            nn.Conv3d(1, 16, 7, stride=2, padding=3, bias=False),
            nn.InstanceNorm3d(16),
            nn.ReLU(),
            nn.MaxPool3d(3, stride=2, padding=1),
        )
        self.down0 = Down(16, 16)
        self.down1 = Down(16, 32)
        self.down2 = Down(32, 64)
        self.down3 = Down(64, 128)
        self.up0 = Up(128, 64, stride=2)
        self.up1 = Up(64, 32, stride=2)
        self.up2 = Up(32, 16, stride=2)
        self.up3 = Up(16, 16, stride=1)
        self.tp_conv1 = nn.Sequential(
            nn.ConvTranspose3d(16, 8, 3, stride=2, padding=1, output_padding=1),
            nn.InstanceNorm3d(8),
            nn.ReLU(),
        )
        self.conv = nn.Sequential(nn.Conv3d(8, 8, 3, padding=1), nn.InstanceNorm3d(8), nn.ReLU())
        self.tp_conv2 = nn.ConvTranspose3d(8, 2, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        e0 = self.init(x)  # (B, 16, *S/4)
        e1 = self.down0(e0)
        e2 = self.down1(e1)
        e3 = self.down2(e2)
        d = self.up0(self.down3(e3)) + e3  # (B, 64, *S/16)
        d = self.up1(d) + e2
        d = self.up2(d) + e1
        d = self.up3(d) + e0
        logits = self.tp_conv2(self.conv(self.tp_conv1(d)))  # (B, 2, *S): other, brain
        # The softmax of two classes is the sigmoid of their difference, in half the memory.
        return torch.sigmoid(logits[:, 1:] - logits[:, :1])


class Down(nn.Module):
    """Two residual blocks; the first halves the grid where the number of channels changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.block1 = Block(inputs, outputs, stride=1 if inputs == outputs else 2)
        self.block2 = Block(outputs, outputs, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.block2(self.block1(x)))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.InstanceNorm3d(outputs),
            nn.ReLU(),
            nn.Conv3d(outputs, outputs, 3, padding=1, bias=False),
            nn.InstanceNorm3d(outputs),
        )
        self.downsample: nn.Module = nn.Identity()
        if stride != 1:
            self.downsample = nn.Sequential(
                nn.Conv3d(inputs, outputs, 1, stride=stride, bias=False),
                nn.InstanceNorm3d(outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.double_conv(x) + self.downsample(x))


class Up(nn.Module):
    """Squeeze to a quarter of the channels, enlarge the grid, widen."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        narrow = inputs // 4
        self.conv1 = _conv(nn.Conv3d(inputs, narrow, 1, bias=False))
        self.tp_conv = _conv(
            nn.ConvTranspose3d(
                narrow, narrow, 3, stride, padding=1, output_padding=stride - 1, bias=False
            )
        )
        self.conv2 = _conv(nn.Conv3d(narrow, outputs, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.conv2(self.tp_conv(self.conv1(x))))


def _conv(conv: nn.Conv3d | nn.ConvTranspose3d) -> nn.Sequential:
    return nn.Sequential(conv, nn.InstanceNorm3d(conv.out_channels), nn.ReLU())


@lru_cache(maxsize=2)
def load_nets(device: str) -> tuple[LinkNet, LinkNet]:
    """The net that finds the box around the brain in a whole scan, and the one that segments it."""
    with (files("volad.preprocess") / "weights" / "deepbet.pt").open("rb") as file:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    nets = LinkNet(), LinkNet()
    for net, name in zip(nets, ("locate", "segment"), strict=True):
        net.load_state_dict({key: value.float() for key, value in weights[name].items()})
        net.to(device).eval().requires_grad_(False)
    return nets
