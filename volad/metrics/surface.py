"""Distances between the surface of a mask and that of the expert mask, in mm.

With the semantics of DeepMind's `surface-distance`: the surface runs between voxels, and each piece
of it weighs as much as its area. Border voxels' centres, each weighing the same, are no measure of
a surface where voxels are not cubes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics.utils import get_edge_surface_distance
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

__all__ = ["SurfaceScores", "surface_distances"]

NAN = float("nan")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SurfaceScores:
    """Agreement of two surfaces; NaN where a mask is empty and so has none.

    Attributes:
        hd95_mm: 95 % of a surface's area is at most so far from the other; the worse direction.
        assd_mm: mean distance over the area of both surfaces.
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
    """Compare two surfaces; MONAI finds them and their distances.

    What touches the edge of the volume has a surface there too.

    Args:
        mask: the mask under judgement, `(X, Y, Z)`.
        lesion: the expert mask, of the same shape.
        spacing_mm: distance between voxel centres along X, Y and Z.
        tolerance_mm: deviation that the NSD allows.

    Returns:
        The scores, NaN where either mask is empty: callers count those cases apart.

    Source: Nikolov et al., "Clinically applicable segmentation of head and neck anatomy for
        radiotherapy", JMIR 23 (2021).
    """
    if mask.shape != lesion.shape:
        raise ValueError(f"a mask of shape {mask.shape} against one of {lesion.shape}")
    if not (np.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise ValueError(f"tolerance_mm must be 0 or more, got {tolerance_mm}")
    if not mask.any() or not lesion.any():
        return SurfaceScores(NAN, NAN, NAN)
    box = ndimage.find_objects((mask | lesion).astype(np.uint8))[0]
    sides = _surfaces(mask[box], lesion[box], spacing_mm)
    distance, area = (np.concatenate(parts) for parts in zip(*sides, strict=True))
    return SurfaceScores(
        hd95_mm=max(_percentile(*side, 0.95) for side in sides),
        assd_mm=float(np.average(distance, weights=area)),
        nsd=float(area[distance <= tolerance_mm].sum() / area.sum()),
    )


def _surfaces(
    mask: NDArray[np.bool_], lesion: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> list[tuple[Floats, Floats]]:
    """For the mask's surface, then the expert's: each piece's distance to the other, and area."""
    a, b = (torch.from_numpy(np.ascontiguousarray(one)) for one in (mask, lesion))
    with warnings.catch_warnings():
        # MONAI 1.6 warns of an argument that it hands to itself.
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy")
        edges, distances, areas = get_edge_surface_distance(
            a, b, spacing=[float(mm) for mm in spacing_mm], use_subvoxels=True, symmetric=True
        )
    return [
        (_numbers(distance), _numbers(area[edge]))
        for edge, distance, area in zip(edges, distances, areas, strict=True)
    ]


def _percentile(distance: Floats, area: Floats, share: float) -> float:
    """The distance that so much of the area does not exceed."""
    order = np.argsort(distance)
    below = np.cumsum(area[order])
    place = np.searchsorted(below, share * below[-1])
    return float(distance[order][min(place, len(order) - 1)])


def _numbers(values: Tensor) -> Floats:
    return values.numpy().astype(np.float64)
