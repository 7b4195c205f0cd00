"""One interpolation from any grid to any other, through world coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["resample", "world_grid"]


def resample(
    image: MetaTensor,
    affine: NDArray[np.float64],
    shape: Sequence[int],
    *,
    mode: str = "bilinear",
    antialias: bool = True,
) -> MetaTensor:
    """Sample `image (C, X, Y, Z)` at the voxel centres of another grid; 0 outside the image.

    Args:
        image: its affine maps voxels to the same world as `affine`.
        affine: `(4, 4)` voxel to world of the grid to sample on, mm.
        shape: spatial shape of that grid.
        mode: `bilinear` (trilinear on volumes) or `nearest`.
        antialias: where the new voxels are larger, blur first, so that a 2 mm copy of a 1 mm scan
            looks like a 2 mm scan. The width matches the two point spread functions (Cardoso et
            al., "Scale factor point spread function matching", MICCAI 2015).
    """
    source = np.asarray(image.affine, np.float64)
    if antialias:
        image = _blur(image, source, affine)
    sampler = SpatialResample(mode=mode, padding_mode="zeros", dtype=torch.float32)
    out = sampler(image, dst_affine=torch.from_numpy(affine), spatial_size=tuple(shape))
    return MetaTensor(out.as_tensor(), affine=torch.from_numpy(affine))


def _blur(
    image: MetaTensor, source: NDArray[np.float64], target: NDArray[np.float64]
) -> MetaTensor:
    """Blur each source axis to the width that the target's voxels have along it."""
    step = np.abs(np.linalg.inv(source[:3, :3]) @ target[:3, :3]).max(axis=1)
    sigma = np.sqrt(np.maximum(step**2 - 1, 0) / (8 * np.log(2)))  # FWHM 1 → FWHM `step` voxels
    if sigma.max() < 0.1:  # under a tenth of a voxel the kernel is one sample wide
        return image
    array = cast("NDArray[np.float32]", image.numpy().astype(np.float32))
    blurred = np.stack([ndimage.gaussian_filter(c, sigma, truncate=3) for c in array])
    return MetaTensor(torch.from_numpy(blurred), affine=image.affine)


def world_grid(
    mask: NDArray[np.bool_], affine: NDArray[np.float64], spacing_mm: float, margin_mm: float
) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    """An axis-aligned RAS grid around the voxels of `mask (X, Y, Z)`: its affine and shape."""
    corners = np.argwhere(mask)
    low, high = corners.min(axis=0), corners.max(axis=0)
    box = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1)
    world = affine[:3, :3] @ box + affine[:3, 3:]
    start = world.min(axis=1) - margin_mm
    size = np.ceil((world.max(axis=1) + margin_mm - start) / spacing_mm).astype(int) + 1
    grid = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    grid[:3, 3] = start
    return grid, (int(size[0]), int(size[1]), int(size[2]))
