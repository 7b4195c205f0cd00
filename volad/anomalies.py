"""Anomalies painted into healthy windows, for methods that learn to find them.

Each is a blob of graded size with a soft edge at a random place of the brain, filled in one of
several ways (`FILLS`). All draws are torch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, grid_sample, interpolate, max_pool3d

from volad.surroundings import blur

__all__ = ["CHANGE", "FILLS", "Painted", "paint"]

#: Voxels of a whole brain at 2 mm; a window with fewer has fewer anomalies.
BRAIN = 200_000
#: Cases, how often each is drawn, how many anomalies it has at most, and their radii in voxels.
CASES: dict[str, tuple[float, int, tuple[float, float]]] = {
    "none": (0.05, 0, (0.0, 0.0)),
    "many small": (0.35, 60, (0.9, 3.5)),
    "very many": (0.15, 300, (0.9, 4.0)),
    "some": (0.3, 16, (1.2, 6.0)),
    "one large": (0.15, 1, (5.0, 16.0)),
}
#: Ways to fill an anomaly, and how often each is drawn.
FILLS = {"intensity": 0.88, "foreign": 0.04, "poisson": 0.03, "texture": 0.02, "deformation": 0.03}
#: Weakest and strongest change of brightness, in units of the image.
CHANGE = (0.12, 0.8)
#: Collections along the surface: how thick they are and how far they reach, in voxels.
THICKNESS, REACH = (1.2, 5.0), (5.0, 30.0)
#: What is changed by less than this somewhere near is no anomaly that can be seen.
VISIBLE = 0.03
#: Steps that a blended patch takes to settle.
SETTLING = 60


@dataclass(frozen=True, eq=False)
class Painted:
    """Windows with anomalies.

    Attributes:
        image: `(B, C, X, Y, Z)`.
        label: `(B, 1, X, Y, Z)` 1.0 where an anomaly fills half of a voxel or more.
        sure: `(B, 1, X, Y, Z)` 1.0 in brain voxels that are clearly anomalous or clearly not.
    """

    image: Tensor
    label: Tensor
    sure: Tensor


def paint(
    x: Tensor,
    likely: Tensor | None = None,
    change: tuple[float, float] = CHANGE,
    layers: float = 0.0,
) -> Painted:
    """Paint anomalies into healthy windows `(B, C, X, Y, Z)`, 0 outside the brain, and stay there.

    Foreign-patch interpolation after Tan et al. (MICCAI 2020 workshops), Poisson blending after
    Tan et al., "Detecting outliers with Poisson image interpolation", MICCAI 2021; intensities on
    coarse blobs after Kascenas et al. (MIDL 2022); deformation and texture as Baugh et al., "Many
    tasks make light work", MICCAI 2023, combine such kinds.

    Args:
        x: the windows; one lends the others its tissue.
        likely: `(1, 1, X, Y, Z)`, where lesions are more frequent, weights; None: all the brain.
        change: weakest and strongest change of brightness, in units of the image.
        layers: share of the windows that have collections along the brain's surface, instead, as
            blood outside the brain lies there.
    """
    painted = []
    for index in range(len(x)):
        brain = (x[index] != 0).any(dim=0)
        if not brain.any():
            blobs: Iterable[_Blob] = ()
        elif layers and _uniform() < layers:
            blobs = _layers(brain, change)
        else:
            blobs = _blobs(brain, likely, change)
        painted.append(_window(x, index, brain, blobs))
    image, label, sure = (torch.stack(list(part)) for part in zip(*painted, strict=True))
    return Painted(image, label, sure)


def _window(
    x: Tensor, index: int, brain: Tensor, blobs: Iterable[_Blob]
) -> tuple[Tensor, Tensor, Tensor]:
    """One window `(C, X, Y, Z)` with anomalies, its label and where that is sure."""
    own = x[index]
    share = torch.zeros(brain.shape, device=x.device)
    image = own.clone()
    for blob in blobs:
        piece = blob.share * brain[blob.box]
        lender = own.flip(1)
        if len(x) > 1:
            lender = x[(index + int(torch.randint(1, len(x), ()))) % len(x)]
        where = (slice(None), *blob.box)
        image[where] = blob.fill(image[where], lender[where], piece, blob)
        share[blob.box] = torch.maximum(share[blob.box], piece)
    image = torch.where(brain, image.clamp(1e-3, 2.0), 0)
    seen = max_pool3d((image - own).abs().amax(dim=0)[None], 3, 1, 1)[0] > VISIBLE
    label = (share >= 0.5) & seen
    sure = brain & (label | (share < 0.1) | ~seen)
    return image, label[None].float(), sure[None].float()


@dataclass(frozen=True, eq=False)
class _Blob:
    box: tuple[slice, ...]
    share: Tensor  # how much of each voxel it fills
    depth: Tensor  # 0 at its edge, 1 in the middle
    change: float  # of brightness, with its sign
    fill: Callable[[Tensor, Tensor, Tensor, _Blob], Tensor]


def _blobs(brain: Tensor, likely: Tensor | None, changes: tuple[float, float]) -> Iterator[_Blob]:
    """The anomalies of one window, which look alike in most windows, as a patient's do."""
    names = list(CASES)
    case = CASES[names[_drawn([CASES[name][0] for name in names])]]
    _, most, (smallest, largest) = case
    size = float(brain.sum())
    count = int(1 + most * min(size / BRAIN, 1) * _uniform() ** 2) if most else 0
    radii = smallest, max(min(largest, size ** (1 / 3) / 4), smallest)
    weights = brain.float()
    if likely is not None and _uniform() < 0.7:
        weights = weights * (likely[0, 0] + 0.02)
    change = _log_uniform(*changes) * (1 if _uniform() < 0.6 else -1)
    fill = _fill()
    for centre in _places(weights, count):
        if _uniform() < 0.1:
            fill, change = _fill(), -change
        radius = _log_uniform(*radii)
        box, share, depth = _shape(centre, radius, tuple(brain.shape), brain.device)
        yield _Blob(box, share, depth, change * _uniform(0.7, 1.3), fill)


def _layers(brain: Tensor, changes: tuple[float, float]) -> Iterator[_Blob]:
    """Up to three collections along the brain's surface, lenses or crescents."""
    inner = brain.float()[None, None]
    change = _log_uniform(*changes) * (1 if _uniform() < 0.8 else -1)
    for _ in range(int(torch.randint(1, 4, ()))):
        thickness = _uniform(*THICKNESS)
        # A Gaussian mean of the brain is 0.5 on its surface, and 0.84 one spread below that.
        near = torch.sigmoid((0.84 - blur(inner, thickness)[0, 0]) / 0.05) * brain
        (centre,) = _places(near, 1)
        box, share, depth = _shape(centre, _log_uniform(*REACH), tuple(brain.shape), brain.device)
        yield _Blob(box, share * near[box], depth * near[box], change, _intensity)


def _places(weights: Tensor, count: int) -> Tensor:
    """Voxels `(count, 3)`, drawn by the weights."""
    if not count:
        return torch.zeros(0, 3)
    drawn = torch.multinomial(weights.flatten(), count, replacement=True).cpu()
    return torch.stack(torch.unravel_index(drawn, weights.shape), dim=1).float()


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
    bumps = _uniform(0, 0.35) * _noise(tuple(apart.shape), 1.2 * radius + 1, device)
    inside = 1 - apart * (1 + bumps).clamp(min=0.3)
    edge = _uniform(0.15, 0.6) / radius  # of the soft rim, in radii
    return box, torch.sigmoid(inside / edge), inside.clamp(0, 1)


def _fill() -> Callable[[Tensor, Tensor, Tensor, _Blob], Tensor]:
    kinds = {
        "intensity": _intensity,
        "foreign": _foreign,
        "poisson": _poisson,
        "texture": _texture,
        "deformation": _deformation,
    }
    return list(kinds.values())[_drawn([FILLS[name] for name in kinds])]


def _intensity(own: Tensor, lender: Tensor, share: Tensor, blob: _Blob) -> Tensor:
    """Brighter or darker than what is around; with a grain, and a core or a rim where large."""
    base = _smooth(own) if _uniform() < 0.7 else own  # lesions hide the tissue's own texture
    change = torch.full_like(share, blob.change)
    if max(share.shape) > 12 and _uniform() < 0.6:
        core = torch.sigmoid((blob.depth - _uniform(0.2, 0.6)) * 12)
        change = change + core * (_uniform(-2, 1) * blob.change)
    grain = _noise(tuple(share.shape), _uniform(1, 4), share.device)
    change = change * (1 + _uniform(0, 0.3) * grain)
    return torch.lerp(own, base + change, share)


def _foreign(own: Tensor, lender: Tensor, share: Tensor, blob: _Blob) -> Tensor:
    """Mixed with the same place of another window, or of the other side."""
    other = torch.where(lender != 0, lender, own)
    return torch.lerp(own, other, share * _uniform(0.4, 1.0))


def _poisson(own: Tensor, lender: Tensor, share: Tensor, blob: _Blob) -> Tensor:
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


def _texture(own: Tensor, lender: Tensor, share: Tensor, blob: _Blob) -> Tensor:
    """Blurred, or grainier than healthy tissue."""
    if _uniform() < 0.5:
        return torch.lerp(own, _smooth(own), share)
    grain = _noise(tuple(share.shape), _uniform(1, 2.5), share.device)
    return own + share * abs(blob.change) * grain


def _deformation(own: Tensor, lender: Tensor, share: Tensor, blob: _Blob) -> Tensor:
    """Tissue pushed out of the blob, or drawn into it."""
    strength = _uniform(0.3, 0.9) * (1 if _uniform() < 0.5 else -1)
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


def _noise(shape: tuple[int, ...], voxels: float, device: torch.device) -> Tensor:
    """Smooth noise of spread 1, about, that changes over so many voxels."""
    coarse = [max(2, math.ceil(n / max(voxels, 1)) + 1) for n in shape]
    draw = torch.randn(1, 1, *coarse, device=device)
    return 1.4 * interpolate(draw, size=shape, mode="trilinear", align_corners=True)[0, 0]


def _uniform(low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand(()))


def _log_uniform(low: float, high: float) -> float:
    return float(low * (high / low) ** _uniform())


def _drawn(weights: list[float]) -> int:
    return int(torch.multinomial(torch.tensor(weights), 1))
