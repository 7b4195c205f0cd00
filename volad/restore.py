"""Restoration: change a scan step by step until a model of healthy scans finds it likely."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from volad.tensors import brain_of

__all__ = ["restore", "total_variation"]

#: Differences of neighbours far below this count as none; in units of the image.
EDGE = 0.02

#: The last 4/5 of the steps are shorter by this factor.
LATER = 0.4


def total_variation(x: Tensor) -> Tensor:
    """Sum of the absolute differences of neighbours along every axis: `(B, C, *S)` to `(B,)`.

    Rounded off near 0, `sqrt(d^2 + EDGE^2) - EDGE`: where the absolute value has a kink, the last
    digits of a difference would decide which way a descent goes.
    """
    steps = (x.diff(dim=d) for d in range(2, x.ndim))
    sizes = ((d.square() + EDGE**2).sqrt() - EDGE for d in steps)
    return torch.stack([size.flatten(1).sum(dim=1) for size in sizes]).sum(dim=0)


def restore(
    x: Tensor,
    energy: Callable[[Tensor], Tensor],
    *,
    steps: int,
    step: float,
    smoothness: float,
    limit: float,
) -> Tensor:
    """Descend `energy(y) + smoothness * TV(x - y)` from `y = x`; outside the brain y stays 0.

    Total variation acts on the change and not on the image, so that a lesion is taken away as a
    whole while edges and noise of the scan stay. It is stable up to about
    `step * smoothness = EDGE / 6` in 3D.

    Source: You et al., "Unsupervised lesion detection via image restoration with a normative
    prior", MIDL 2019: a fifth of the steps at full length, the others at 0.4 of it.

    Args:
        x: windows `(B, C, *S)`.
        energy: `(B, C, *S)` to one value a window, `(B,)`; it must not mix windows.
        steps: number of steps.
        step: length of the first steps, in units of the image per unit of slope.
        smoothness: weight of the total variation.
        limit: slopes of a voxel are cut to this size.

    Returns:
        The restored windows, in new memory.
    """
    inside = brain_of(x)
    start = x.detach().float()
    y = start.clone()
    # bfloat16 has too few digits for many short steps.
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        for number in range(steps):
            y.requires_grad_()
            total = energy(y) + smoothness * total_variation(start - y)
            (slope,) = torch.autograd.grad(total.sum(), y)
            length = step if 5 * number < steps else LATER * step
            y = y.detach() - length * slope.clamp(-limit, limit) * inside
    return y
