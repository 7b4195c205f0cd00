"""Make room in a brain: smooth fields that let one part grow and press the rest together.

A velocity whose divergence is the growth that is asked for is found from Poisson's equation, and
followed for a time of one by scaling and squaring (Arsigny et al., "A Log-Euclidean framework for
statistics on diffeomorphisms", MICCAI 2006), so that nothing folds. What grows is taken from the
rest of the brain, and at the brain's surface all stands still: its volume stays the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

__all__ = ["displacement", "jacobian", "move"]

#: The fields are smooth: they are found on voxels of about this size.
COARSE_MM = 2.5
#: Over this depth below the surface the brain goes from still to free.
FREE_MM = 8.0
#: Squarings: a step of the flow is then far below a voxel.
SQUARINGS = 6
#: Displacements below this, in voxels, are left out: there the scan stays as it is, bit for bit.
LEAST = 0.02


def displacement(
    growth: NDArray[np.floating],
    give: NDArray[np.floating],
    depth_mm: NDArray[np.floating],
    spacing_mm: NDArray[np.float64],
    free_mm: float = FREE_MM,
) -> NDArray[np.float32]:
    """Where each voxel's tissue comes from: offsets `(3, X, Y, Z)` in voxels.

    Args:
        growth: `(X, Y, Z)`, logarithm of how many times its volume the tissue there takes.
        give: `(X, Y, Z)`, 0 to 1: how readily tissue there gives way to it.
        depth_mm: distance to the brain's surface, 0 outside.
        spacing_mm: `(3,)`.
        free_mm: depth from which tissue moves freely.
    """
    factors = np.maximum(np.round(COARSE_MM / spacing_mm), 1).astype(int)
    rate, sink, depth = (_pooled(a, factors) for a in (growth, give, depth_mm))
    coarse_mm = spacing_mm * factors
    total = float(sink.sum())
    if total > 0:
        rate = rate - sink * (rate.sum() / total)
    velocity = _gradient(_potential(rate, coarse_mm), coarse_mm)
    ramp = np.clip(depth / free_mm, 0, 1)
    still = ramp * ramp * (3 - 2 * ramp)
    back = np.stack([-v * still / mm for v, mm in zip(velocity, coarse_mm, strict=True)])
    offsets = _followed(back)
    out = [
        ndimage.affine_transform(
            offset, 1 / factors, 0.5 / factors - 0.5, growth.shape, order=1, mode="nearest"
        )
        for offset in offsets
    ]
    return np.stack([o * f for o, f in zip(out, factors, strict=True)]).astype(np.float32)


def jacobian(offsets: NDArray[np.floating]) -> NDArray[np.float64]:
    """`(X, Y, Z)`: the volume that a voxel's tissue had, in voxels; above 0 nothing folds."""
    parts = [np.gradient(offset.astype(np.float64)) for offset in offsets]
    matrix = np.stack([np.stack(row, axis=-1) for row in parts], axis=-2) + np.eye(3)
    return np.asarray(np.linalg.det(matrix), np.float64)


def move(
    image: NDArray[np.float32], offsets: NDArray[np.float32], order: int = 3
) -> NDArray[np.float32]:
    """Fetch each voxel from where its tissue comes from; within the values there were."""
    moved = np.abs(offsets).max(axis=0) > LEAST
    if not moved.any():
        return image.copy()
    at = np.argwhere(moved).T + offsets[:, moved]
    out = image.copy()
    fetched = ndimage.map_coordinates(image, at, order=order, mode="nearest")
    out[moved] = np.clip(fetched, image.min(), image.max())
    return out


def _pooled(array: NDArray[np.floating], factors: NDArray[np.int_]) -> NDArray[np.float64]:
    """Means over blocks of voxels; the last block repeats the edge."""
    pads = [(0, -n % f) for n, f in zip(array.shape, factors, strict=True)]
    padded = np.pad(array.astype(np.float64), pads, mode="edge")
    shape = [part for n, f in zip(padded.shape, factors, strict=True) for part in (n // f, f)]
    return np.asarray(padded.reshape(shape).mean(axis=(1, 3, 5)), np.float64)


def _potential(rate: NDArray[np.float64], spacing_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve `laplace(p) = rate` with no flow through the box, by cosine transform."""
    spectrum = fft.dctn(rate, type=2)
    waves = [
        (2 * np.cos(np.pi * np.arange(n) / n) - 2) / mm**2
        for n, mm in zip(rate.shape, spacing_mm, strict=True)
    ]
    laplace = waves[0][:, None, None] + waves[1][:, None] + waves[2]
    laplace[0, 0, 0] = 1
    spectrum = spectrum / laplace
    spectrum[0, 0, 0] = 0
    return np.asarray(fft.idctn(spectrum, type=2), np.float64)


def _gradient(
    potential: NDArray[np.float64], spacing_mm: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    return [np.asarray(g) for g in np.gradient(potential, *spacing_mm)]


def _followed(velocity: NDArray[np.float64]) -> NDArray[np.float64]:
    """The displacement after a time of one, in voxels as the velocity `(3, X, Y, Z)`."""
    offsets = velocity / 2**SQUARINGS
    grid = np.stack(np.meshgrid(*map(np.arange, velocity.shape[1:]), indexing="ij")).astype(float)
    for _ in range(SQUARINGS):
        at = grid + offsets
        step = [ndimage.map_coordinates(o, at, order=1, mode="nearest") for o in offsets]
        offsets = offsets + np.stack(step)
    return np.asarray(offsets, np.float64)
