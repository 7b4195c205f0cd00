"""Ways to fill an anomaly: brightness, foreign tissue, texture, deformation, a pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, grid_sample

from volad.anomalies.draws import drawn, noise, uniform
from volad.tensors import mean_over

__all__ = ["FILLS", "Blob", "intensity", "pool", "some_fill"]

#: Ways to fill an anomaly, and how often each is drawn.
FILLS = {"intensity": 0.88, "foreign": 0.04, "poisson": 0.03, "texture": 0.02, "deformation": 0.03}
#: Steps that a blended patch takes to settle.
SETTLING = 60


@dataclass(frozen=True, eq=False)
class Blob:
    """One anomaly.

    Attributes:
        box: where in the window it lies.
        share: how much of each voxel of the box it fills, `(X, Y, Z)`.
        depth: 0 at its edge, 1 in the middle, likewise.
        change: of brightness, with its sign; of a pool, its brightness.
        fill: takes the box of the window `(C, X, Y, Z)`, of another window, the share of the brain
            that it fills, and the blob; gives the box as it is then.
    """

    box: tuple[slice, ...]
    share: Tensor
    depth: Tensor
    change: float
    fill: Callable[[Tensor, Tensor, Tensor, Blob], Tensor]


def some_fill() -> Callable[[Tensor, Tensor, Tensor, Blob], Tensor]:
    """One of the ways, drawn by `FILLS`."""
    kinds = {
        "intensity": intensity,
        "foreign": foreign,
        "poisson": poisson,
        "texture": texture,
        "deformation": deformation,
    }
    return list(kinds.values())[drawn([FILLS[name] for name in kinds])]


def intensity(own: Tensor, lender: Tensor, share: Tensor, blob: Blob) -> Tensor:
    """Brighter or darker than what is around; with a grain, and a core or a rim where large."""
    base = _smooth(own) if uniform() < 0.7 else own  # lesions hide the tissue's own texture
    if uniform() < 0.4:  # and large ones what tissue it was
        tissue = mean_over(own[:, None], share[None, None])[:, 0]
        base = torch.lerp(base, tissue.expand_as(base), uniform(0.3, 1))
    change = torch.full_like(share, blob.change)
    if max(share.shape) > 12 and uniform() < 0.6:
        core = torch.sigmoid((blob.depth - uniform(0.2, 0.6)) * 12)
        change = change + core * (uniform(-2, 1) * blob.change)
    grain = noise(tuple(share.shape), uniform(1, 4), share.device)
    change = change * (1 + uniform(0, 0.3) * grain)
    return torch.lerp(own, base + change, share)


def pool(own: Tensor, lender: Tensor, share: Tensor, blob: Blob) -> Tensor:
    """In the place of what was there."""
    grain = noise(tuple(share.shape), uniform(1, 4), share.device)
    return torch.lerp(own, blob.change * (1 + 0.04 * grain), share)


def foreign(own: Tensor, lender: Tensor, share: Tensor, blob: Blob) -> Tensor:
    """Mixed with the same place of another window, or of the other side."""
    other = torch.where(lender != 0, lender, own)
    return torch.lerp(own, other, share * uniform(0.4, 1.0))


def poisson(own: Tensor, lender: Tensor, share: Tensor, blob: Blob) -> Tensor:
    """Another place's gradients, without a seam: `other` plus the harmonic part of `own - other`.

    The harmonic part is what Jacobi's iterations leave of the difference inside the blob while its
    rim is held, which solves Poisson's equation of the blend (Perez et al., SIGGRAPH 2003).
    """
    other = torch.where(lender != 0, lender, own)
    held = own - other
    inside = share > 0.5
    seam = torch.where(inside, 0, held)
    for _ in range(SETTLING):
        seam = torch.where(inside, _neighbours(seam), held)
    return other + seam


def texture(own: Tensor, lender: Tensor, share: Tensor, blob: Blob) -> Tensor:
    """Blurred, or grainier than healthy tissue."""
    if uniform() < 0.5:
        return torch.lerp(own, _smooth(own), share)
    grain = noise(tuple(share.shape), uniform(1, 2.5), share.device)
    return own + share * abs(blob.change) * grain


def deformation(own: Tensor, lender: Tensor, share: Tensor, blob: Blob) -> Tensor:
    """Tissue pushed out of the blob, or drawn into it."""
    strength = uniform(0.3, 0.9) * (1 if uniform() < 0.5 else -1)
    size = torch.tensor(own.shape[1:], device=own.device)
    axes = [torch.linspace(-1, 1, int(n), device=own.device) for n in size]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    # Samples come from nearer the middle, or farther off, most of all halfway out.
    shift = strength * (blob.depth * (1 - blob.depth) * 2)[..., None]
    there = (place * (1 - shift)).flip(-1)[None]  # grid_sample wants z, y, x
    return grid_sample(own[None], there, align_corners=True, padding_mode="border")[0]


def _smooth(x: Tensor) -> Tensor:
    """Local mean of the brain in windows `(C, X, Y, Z)`, over some voxels."""
    inside = (x != 0).float()
    for _ in range(2):
        x, inside = (avg_pool3d(part[None], 3, 1, 1)[0] for part in (x, inside))
    return x / inside.clamp(min=1e-3)


def _neighbours(x: Tensor) -> Tensor:
    """Mean of the six neighbours in `(C, X, Y, Z)`; the border counts as its own neighbour."""
    total = torch.zeros_like(x)
    for axis in (1, 2, 3):
        n = x.shape[axis]
        index = torch.arange(n, device=x.device)
        for step in (-1, 1):
            total += x.index_select(axis, (index + step).clamp(0, n - 1))
    return total / 6
