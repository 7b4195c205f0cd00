"""Distances between the surface of a mask and that of the expert mask, in mm."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

__all__ = ["SurfaceScores", "surface_distances"]

NAN = float("nan")


@dataclass(frozen=True)
class SurfaceScores:
    """Agreement of two surfaces; NaN where a mask is empty and so has none.

    Attributes:
        hd95_mm: 95th percentile of the distances, the worse of the two directions.
        assd_mm: mean of the distances of both directions.
        nsd: share of both surfaces' area within the tolerance of the other (surface Dice).
    """

    hd95_mm: float
    assd_mm: float
    nsd: float


def surface_distances(
    mask: NDArray[np.bool_],
    lesion: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    tolerance_mm: float,
) -> SurfaceScores:
    """Compare two surfaces, by MONAI.

    Distances run between the centres of the masks' border voxels; the NSD's surface lies between
    voxels, each piece weighted by its area, as in Nikolov et al., "Clinically applicable
    segmentation of head and neck anatomy for radiotherapy", JMIR 23 (2021). A voxel at the edge of
    the volume is a border voxel too.

    Args:
        mask: the mask under judgement, `(X, Y, Z)`.
        lesion: the expert mask, of the same shape.
        spacing_mm: distance between voxel centres along X, Y and Z.
        tolerance_mm: deviation that the NSD allows.

    Returns:
        The scores, NaN where either mask is empty: callers count those cases apart.
    """
    if mask.shape != lesion.shape:
        raise ValueError(f"a mask of shape {mask.shape} against one of {lesion.shape}")
    if not (np.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise ValueError(f"tolerance_mm must be 0 or more, got {tolerance_mm}")
    if not mask.any() or not lesion.any():
        return SurfaceScores(NAN, NAN, NAN)
    box = ndimage.find_objects((mask | lesion).astype(np.uint8))[0]
    a, b = _batch(mask[box]), _batch(lesion[box])
    spacing = tuple(float(mm) for mm in spacing_mm)  # MONAI wants them all of one Python type
    every = {"include_background": True, "spacing": spacing}
    with warnings.catch_warnings():
        # MONAI 1.6 warns of an argument that it hands to itself.
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy")
        hd95 = compute_hausdorff_distance(a, b, percentile=95, **every)
        assd = compute_average_surface_distance(a, b, symmetric=True, **every)
        nsd = compute_surface_dice(a, b, [float(tolerance_mm)], use_subvoxels=True, **every)
    return SurfaceScores(hd95.item(), assd.item(), nsd.item())


def _batch(mask: NDArray[np.bool_]) -> Tensor:
    """`(1, 1, X + 2, Y + 2, Z + 2)`: with a rim, so that the surface is closed."""
    return torch.from_numpy(np.pad(mask, 1))[None, None]
