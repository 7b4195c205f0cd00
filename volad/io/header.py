"""What every reader hands on, and the NIfTI header of a scan that came without one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from nibabel import Nifti1Header

__all__ = ["Loaded", "header_for", "is_sheared", "lps_to_ras"]


@dataclass(frozen=True, eq=False)
class Loaded:
    """One volume as a reader found it, not yet checked.

    Attributes:
        array: `(X, Y, Z)` values, C order.
        affine: `(4, 4)` voxel → RAS mm, exactly what `header` gives.
        header: what outputs inherit.
        zooms: the three voxel spacings the file states, in mm.
        sources: the files whose bytes make up the input.
        warnings: one line each.
    """

    array: NDArray[np.float32]
    affine: NDArray[np.float64]
    header: Nifti1Header
    zooms: tuple[float, ...]
    sources: tuple[Path, ...]
    warnings: tuple[str, ...] = ()


def lps_to_ras(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn voxel → LPS mm (ITK, DICOM) into voxel → RAS mm, `(4, 4)` each; signs only."""
    flipped = affine.copy()
    flipped[:2] = -flipped[:2]
    return flipped + 0.0  # -0.0 would read oddly in a header


def is_sheared(affine: NDArray[np.float64]) -> bool:
    """Whether the voxel axes meet at other than right angles, as in a tilted gantry."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > 1e-4)


def header_for(shape: tuple[int, ...], affine: NDArray[np.float64]) -> Nifti1Header:
    """Make a NIfTI-1 header in mm for a grid.

    It holds the affine in float32, so the affine to go on with is the header's own.
    """
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.float32)
    header.set_xyzt_units("mm")
    header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0))
    header.set_sform(affine, code=1)
    if not is_sheared(affine):  # a quaternion cannot hold a shear
        header.set_qform(affine, code=1)
    return header
