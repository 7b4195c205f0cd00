"""From a lesion mask to a table: where each lesion is, how large, and how certain."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["Lesion", "find_lesions", "lesions_csv", "summary_row"]

Point = tuple[float, float, float]

_COLUMNS = (
    "lesion",
    "volume_mm3",
    "voxels",
    "x_mm",
    "y_mm",
    "z_mm",
    "i",
    "j",
    "k",
    "max_score",
    "mean_score",
)


@dataclass(frozen=True)
class Lesion:
    """One 26-connected component of a mask.

    Attributes:
        index: its number in the table, from 1, the largest first.
        centroid_voxel: mean of its voxel indices on the scan's own grid.
        centroid_mm: the same point in RAS world coordinates.
    """

    index: int
    voxels: int
    volume_mm3: float
    centroid_voxel: Point
    centroid_mm: Point
    max_score: float
    mean_score: float


def find_lesions(
    mask: NDArray[np.bool_], score: NDArray[np.float32], affine: NDArray[np.float64]
) -> list[Lesion]:
    """List the 26-connected lesions of a mask, the largest first.

    Lesions of one size are ordered by peak score, then by position, so that the same mask
    always gives the same table.

    Args:
        mask: `(X, Y, Z)` lesion mask.
        score: `(X, Y, Z)` score map on the same grid.
        affine: `(4, 4)` from voxel indices to RAS mm.
    """
    if mask.ndim != 3 or mask.shape != score.shape or np.shape(affine) != (4, 4):
        raise ValueError(
            f"mask and score must share one 3D shape and the affine be (4, 4), "
            f"got {mask.shape}, {score.shape} and {np.shape(affine)}"
        )
    inside = mask.astype(bool, copy=False)
    labels, count = ndimage.label(inside, structure=np.ones((3, 3, 3)))
    if count == 0:
        return []
    # Only lesion voxels are looked at from here on: they are few, the volume is large.
    where = np.nonzero(inside)
    label = labels[where] - 1
    values = score[where].astype(np.float64)
    voxels = np.bincount(label, minlength=count)
    centroids = np.stack([np.bincount(label, axis, count) / voxels for axis in where], axis=1)
    means = np.bincount(label, values, count) / voxels
    peaks = np.full(count, -np.inf)
    np.maximum.at(peaks, label, values)

    affine = np.asarray(affine, dtype=np.float64)
    voxel_mm3 = abs(float(np.linalg.det(affine[:3, :3])))
    world = centroids @ affine[:3, :3].T + affine[:3, 3]
    order = sorted(range(count), key=lambda n: (-voxels[n], -peaks[n], tuple(centroids[n])))
    return [
        Lesion(
            index=index,
            voxels=int(voxels[n]),
            volume_mm3=float(voxels[n] * voxel_mm3),
            centroid_voxel=_point(centroids[n]),
            centroid_mm=_point(world[n]),
            max_score=float(peaks[n]),
            mean_score=float(means[n]),
        )
        for index, n in enumerate(order, start=1)
    ]


def _point(values: NDArray[np.float64]) -> Point:
    x, y, z = values.tolist()
    return x, y, z


def lesions_csv(lesions: Sequence[Lesion]) -> str:
    """One row per lesion; the header is there also when there are no lesions.

    `x_mm, y_mm, z_mm` are RAS world coordinates, `i, j, k` voxel indices of the scan.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for lesion in lesions:
        writer.writerow(
            [
                lesion.index,
                f"{lesion.volume_mm3:.2f}",
                lesion.voxels,
                *(f"{value:.2f}" for value in lesion.centroid_mm),
                *(f"{value:.2f}" for value in lesion.centroid_voxel),
                f"{lesion.max_score:.6g}",
                f"{lesion.mean_score:.6g}",
            ]
        )
    return text.getvalue()


def summary_row(name: str, lesions: Sequence[Lesion], voxels: int) -> dict[str, str | int | float]:
    """One row per volume, with LST-AI's column names; `Lesion_Volume` is in mm³.

    Args:
        name: which scan.
        lesions: what `find_lesions` gave.
        voxels: how many voxels of the mask are set.
    """
    if voxels != sum(lesion.voxels for lesion in lesions):
        raise ValueError(
            f"the mask has {voxels} lesion voxels, but its lesions hold "
            f"{sum(lesion.voxels for lesion in lesions)}: table and mask must belong together"
        )
    return {
        "Name": name,
        "Num_Lesions": len(lesions),
        "Num_Vox": voxels,
        "Lesion_Volume": round(sum(lesion.volume_mm3 for lesion in lesions), 2),
    }
