"""Where anomalies lie and what shape they have: anywhere, along the surface, in the fluid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from volad.anomalies.draws import drawn, log_uniform, noise, uniform
from volad.anomalies.fills import Blob, intensity, pool, some_fill
from volad.surroundings import blur

__all__ = ["CASES", "anywhere", "in_fluid", "on_surface"]

#: Voxels of a whole brain at 2 mm; a window with fewer has fewer anomalies.
BRAIN = 200_000


class Case(NamedTuple):
    """What the anomalies of a window are like.

    Attributes:
        often: how often it is drawn, beside the others; never: it can be asked for.
        most: anomalies, at most.
        radii: of the smallest and the largest, in voxels.
        widest: the largest radius where the brain is small, as a share of its width as a cube.
    """

    often: float
    most: int
    radii: tuple[float, float]
    widest: float = 1 / 4


CASES = {
    "none": Case(0.05, 0, (0.0, 0.0)),
    "many small": Case(0.35, 60, (0.9, 3.5)),
    "very many": Case(0.15, 300, (0.9, 4.0)),
    "some": Case(0.3, 16, (1.2, 6.0)),
    "one large": Case(0.15, 1, (5.0, 16.0)),
    "one very large": Case(0.0, 1, (8.0, 20.0), 1 / 3),
}
#: Collections along the surface: how thick they are and how far they reach, in voxels.
THICKNESS, REACH = (1.2, 5.0), (5.0, 30.0)


def anywhere(
    brain: Tensor, likely: Tensor | None, changes: tuple[float, float], case: str | None = None
) -> Iterator[Blob]:
    """The anomalies of one window, which look alike in most windows, as a patient's do.

    Args:
        brain: bool `(X, Y, Z)`.
        likely: `(1, 1, X, Y, Z)`, where they are more frequent, or None.
        changes: weakest and strongest change of brightness.
        case: a name in `CASES`; None: drawn.
    """
    names = [name for name, each in CASES.items() if each.often]
    case = case or names[drawn([CASES[name].often for name in names])]
    _, most, (smallest, largest), widest = CASES[case]
    size = float(brain.sum())
    count = int(1 + most * min(size / BRAIN, 1) * uniform() ** 2) if most else 0
    radii = smallest, max(min(largest, size ** (1 / 3) * widest), smallest)
    weights = brain.float()
    if likely is not None and uniform() < 0.7:
        weights = weights * (likely[0, 0] + 0.02)
    change = log_uniform(*changes) * (1 if uniform() < 0.6 else -1)
    fill = some_fill()
    for centre in _places(weights, count):
        if uniform() < 0.1:
            fill, change = some_fill(), -change
        radius = log_uniform(*radii)
        box, share, depth = _shape(centre, radius, tuple(brain.shape), brain.device)
        yield Blob(box, share, depth, change * uniform(0.7, 1.3), fill)
        if most == 1 and fill is intensity:
            yield from _within(centre, radius, brain, changes)


def _within(
    centre: Tensor, radius: float, brain: Tensor, changes: tuple[float, float]
) -> Iterator[Blob]:
    """Up to two parts of a large anomaly, one in the other: a core in its oedema."""
    for _ in range(int(torch.randint(3, ()))):
        radius *= uniform(0.4, 0.8)
        centre = centre + 0.3 * radius * torch.randn(3)
        centre = torch.minimum(centre.clamp(min=0), torch.tensor(brain.shape) - 1.0)
        change = log_uniform(*changes) * (1 if uniform() < 0.5 else -1)
        box, share, depth = _shape(centre, radius, tuple(brain.shape), brain.device)
        yield Blob(box, share, depth, change, intensity)


def on_surface(brain: Tensor, changes: tuple[float, float]) -> Iterator[Blob]:
    """Up to three collections along the brain's surface, lenses or crescents."""
    inner = brain.float()[None, None]
    change = log_uniform(*changes) * (1 if uniform() < 0.8 else -1)
    for _ in range(int(torch.randint(1, 4, ()))):
        thickness = uniform(*THICKNESS)
        # A Gaussian mean of the brain is 0.5 on its surface, and 0.84 one spread below that.
        near = torch.sigmoid((0.84 - blur(inner, thickness)[0, 0]) / 0.05) * brain
        (centre,) = _places(near, 1)
        box, share, depth = _shape(centre, log_uniform(*REACH), tuple(brain.shape), brain.device)
        yield Blob(box, share * near[box], depth * near[box], change, intensity)


def in_fluid(own: Tensor, brain: Tensor, changes: tuple[float, float]) -> Iterator[Blob]:
    """Up to three pools of fluid brighter than the tissue around, `own (C, X, Y, Z)` as it is."""
    values = own[:, brain].float()
    fluid, tissue = (torch.quantile(values[:, ::7], at, dim=1).mean() for at in (0.02, 0.5))
    share = ((fluid + tissue) / 2 - own.mean(dim=0)) / (tissue - fluid).clamp(min=1e-3) * 2 + 0.5
    share = share.clamp(0, 1) * brain
    bright = float(tissue) + log_uniform(*changes)
    for centre in _places((share > 0.6).float(), int(torch.randint(1, 4, ()))):
        box, within, depth = _shape(centre, log_uniform(*REACH), tuple(brain.shape), brain.device)
        yield Blob(box, within * share[box], depth, bright, pool)


def _places(weights: Tensor, count: int) -> Tensor:
    """Voxels `(count, 3)`, drawn by the weights."""
    if not count or not weights.any():
        return torch.zeros(0, 3)
    voxels = torch.multinomial(weights.flatten(), count, replacement=True).cpu()
    return torch.stack(torch.unravel_index(voxels, weights.shape), dim=1).float()


def _shape(
    centre: Tensor, radius: float, grid: tuple[int, ...], device: torch.device
) -> tuple[tuple[slice, ...], Tensor, Tensor]:
    """A bumpy ellipsoid: its box, its share of each voxel and how deep each lies in it."""
    stretch = torch.rand(3) * 0.9 + 0.55
    radii = radius * stretch / stretch.prod() ** (1 / 3)
    reach = 1.4 * float(radii.max()) + 2
    box = tuple(
        slice(max(int(c - reach), 0), min(int(c + reach) + 1, n))
        for c, n in zip(centre.tolist(), grid, strict=True)
    )
    axes = [
        torch.arange(s.start, s.stop, device=device) - c
        for s, c in zip(box, centre.tolist(), strict=True)
    ]
    offset = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    turn = torch.linalg.qr(torch.randn(3, 3)).Q.to(device)
    apart = ((offset @ turn) / radii.to(device)).norm(dim=-1)
    bumps = uniform(0, 0.35) * noise(tuple(apart.shape), 1.2 * radius + 1, device)
    inside = 1 - apart * (1 + bumps).clamp(min=0.3)
    edge = uniform(0.15, 0.6) / radius  # of the soft rim, in radii
    return box, torch.sigmoid(inside / edge), inside.clamp(0, 1)
