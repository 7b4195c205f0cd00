"""Heads in Hounsfield units, as a CT shows them: with skin, skull, table, holder and tilt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

RADII_MM = np.array([66.0, 82.0, 64.0])
FIELD_MM = (200.0, 240.0, 190.0)


def grid_affine(
    spacing_mm: Sequence[float] = (2.0, 2.0, 3.0), tilt_deg: float = 0.0
) -> NDArray[np.float64]:
    """`(4, 4)` of a grid whose middle is the origin; a tilted gantry shears it."""
    affine = np.diag([*spacing_mm, 1.0])
    affine[1, 2] = -np.tan(np.deg2rad(tilt_deg)) * spacing_mm[2]
    shape = np.array(grid_shape(spacing_mm))
    affine[:3, 3] = -affine[:3, :3] @ ((shape - 1) / 2)
    return affine


def grid_shape(spacing_mm: Sequence[float]) -> tuple[int, int, int]:
    x, y, z = (round(size / s) for size, s in zip(FIELD_MM, spacing_mm, strict=True))
    return x, y, z


def head_in_hu(
    affine: NDArray[np.float64], shape: Sequence[int], *, holder: bool = True, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A head `(X, Y, Z)` wherever the grid looks at it, and its brain."""
    x, y, z = np.moveaxis(
        np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3], -1, 0
    )

    def inside(radii: Sequence[float], centre: Sequence[float] = (0, 0, 0)) -> NDArray[np.bool_]:
        parts = zip((x, y, z), radii, centre, strict=True)
        return np.asarray(sum(((a - c) / r) ** 2 for a, r, c in parts) <= 1)

    hu = np.full(shape, -1000.0, np.float32)
    if holder:  # a trough of plastic about the back of the head, and the table below it
        hu[inside((96, 112, 300)) & ~inside((92, 108, 300)) & (y < -40)] = 90
        hu[(y < -113) & (y > -118)] = 120
    for extra_mm, value in ((20, 40), (17, -80), (7, 1000), (0, 35)):  # skin, fat, skull, brain
        hu[inside(RADII_MM + extra_mm)] = value
    hu[inside((12, 35, 14))] = 5
    hu[inside((13, 13, 60), (0, -20, -80)) & (hu > 300)] = 35  # great foramen
    noise = np.random.default_rng(seed).normal(0, 5, tuple(shape))
    return hu + noise.astype(np.float32), inside(RADII_MM)


def meta(array: NDArray[np.generic], affine: NDArray[np.float64]) -> MetaTensor:
    """`(X, Y, Z)` as an image of one channel."""
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(array))[None], affine=affine)


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))
