"""Corruptions that denoising methods learn to undo. Every random draw is torch's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from volad.tensors import brain_of

__all__ = ["CORRUPTIONS", "corrupt"]


def masking(x: Tensor, amount: float) -> Tensor:
    """Set a share `amount` of the voxels to 0 (Vincent et al. 2010)."""
    return x * (torch.rand_like(x[:, :1]) >= amount)


def gaussian(x: Tensor, amount: float) -> Tensor:
    """Add noise of standard deviation `amount` to every voxel (Vincent et al. 2010)."""
    return x + amount * torch.randn_like(x)


def salt_and_pepper(x: Tensor, amount: float) -> Tensor:
    """Set a share `amount` of the voxels to their window's lowest or highest value, by a coin."""
    axes = tuple(range(1, x.ndim))
    low, high = x.amin(dim=axes, keepdim=True), x.amax(dim=axes, keepdim=True)
    draw = torch.rand_like(x[:, :1])
    return torch.where(draw < amount / 2, low, torch.where(draw < amount, high, x))


def coarse(x: Tensor, amount: float) -> Tensor:
    """Add blobs of lesion size, brighter or darker by up to about `amount`.

    Noise is drawn on a coarse grid and interpolated, at a random blob size from 2 to 12 voxels for
    every window; a random share of the brain is left alone, so that most of what the network sees
    is as in a patient: healthy tissue with something in it.

    After Kascenas et al., "Denoising autoencoders for unsupervised anomaly detection in brain
    MRI", MIDL 2022 (one blob size and noise everywhere there).
    """
    size = x.shape[2:]
    mode = "trilinear" if len(size) == 3 else "bilinear"
    out = []
    for window in x:
        blob = 2 * 6 ** torch.rand(()).item()
        grid = [max(2, round(n / blob)) for n in size]
        noise = torch.randn(1, 1, *grid, device=x.device, dtype=x.dtype)
        noise = interpolate(noise, size=size, mode=mode, align_corners=False)[0]
        noise = noise / noise.std().clamp(min=1e-6)
        limit = 0.5 + 1.5 * torch.rand(()).item()  # beyond it a blob begins: 60 % to 5 % of voxels
        blobs = noise.sign() * (noise.abs() - limit).clamp(min=0, max=0.5) * 2
        strength = amount * torch.rand(()).item()
        out.append(window + strength * blobs)
    return torch.stack(out)


#: Name to function `(windows (B, C, *S), amount) -> windows`.
CORRUPTIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "masking": masking,
    "gaussian": gaussian,
    "salt_and_pepper": salt_and_pepper,
    "coarse": coarse,
}


def corrupt(kind: str, x: Tensor, amount: float) -> Tensor:
    """Corrupt windows `(B, C, *S)` inside the brain; where x is 0 it stays 0."""
    inside = brain_of(x) > 0
    return torch.where(inside, CORRUPTIONS[kind](x, amount), x)
