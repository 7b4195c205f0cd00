"""Step 5: a window against its healthy counterpart, as one score per voxel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.metrics.regression import compute_ssim_and_cs
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["RESIDUALS", "SIGNED", "residual"]

#: Widths of the SSIM ensemble's Gaussian kernels, in voxels, all cut to SSIM_KERNEL voxels.
SSIM_SIGMAS = (0.3, 0.7, 1.0, 1.3, 1.7)
SSIM_KERNEL = 11

#: Residuals that are functions of the difference `x - x_hat` alone. `positive` finds what is
#: brighter than healthy tissue (FLAIR, T2, bleeding on CT), `negative` what is darker (T1).
SIGNED: dict[str, Callable[[Tensor], Tensor]] = {
    "absolute": torch.abs,
    "squared": torch.square,
    "positive": lambda difference: difference.clamp(min=0),
    "negative": lambda difference: (-difference).clamp(min=0),
}


def ssim_ensemble(x: Tensor, x_hat: Tensor) -> Tensor:
    """`(1 - SSIM) / 2`, averaged over kernel widths: structure that is lost, not brightness.

    Source: Wang et al., IEEE TIP 13 (2004); the ensemble as used for brain MR by Behrendt et al.
    """
    dims = x.ndim - 2
    border = [SSIM_KERNEL // 2] * (2 * dims)
    a, b = pad(x, border, mode="replicate"), pad(x_hat, border, mode="replicate")
    maps = [
        compute_ssim_and_cs(a, b, dims, [SSIM_KERNEL] * dims, [sigma] * dims)[0]
        for sigma in SSIM_SIGMAS
    ]
    return (1 - torch.stack(maps).mean(dim=0)) / 2


RESIDUALS = (*SIGNED, "ssim")


def residual(kind: str, x: Tensor, x_hat: Tensor | None = None) -> Tensor:
    """Compare windows with their healthy counterparts: `(B, C, *S)` in, `(B, 1, *S)` out.

    Args:
        kind: one of `RESIDUALS`.
        x: the windows, or the difference itself where `x_hat` is None.
        x_hat: the counterparts, of exactly the same shape: broadcasting would hide a bug.
    """
    if kind not in RESIDUALS:
        raise ValueError(f"residual must be one of {sorted(RESIDUALS)}, got {kind!r}")
    if x_hat is not None and x.shape != x_hat.shape:
        raise ValueError(
            f"a window of shape {tuple(x.shape)} against a counterpart of {tuple(x_hat.shape)}"
        )
    if kind in SIGNED:
        score = SIGNED[kind](x if x_hat is None else x - x_hat)
    elif x_hat is not None:
        score = ssim_ensemble(x, x_hat)
    else:
        raise ValueError(f"residual {kind!r} needs both sides")
    return score.mean(dim=1, keepdim=True)
