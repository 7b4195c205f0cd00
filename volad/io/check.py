"""Refuse what would silently work: flat, colour, complex, broken or empty volumes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from volad.errors import InputError

__all__ = [
    "check",
    "check_affine",
    "check_dtype",
    "check_shape",
    "check_values",
    "check_zooms",
    "pick_volume",
]

#: The smallest volume of a unit cell that counts: det(A) over the product of A's column lengths.
_FLAT = 1e-6


def check(
    array: NDArray[np.float32], affine: NDArray[np.float64], zooms: ArrayLike, path: Path
) -> None:
    """Check a read volume as a whole.

    Args:
        array: `(X, Y, Z)` voxel values.
        affine: `(4, 4)` voxel → RAS mm.
        zooms: the three voxel spacings the file states, in mm.
        path: the file to name in errors.

    Raises:
        InputError: the volume is unusable.
    """
    check_shape(array.shape, path)
    check_zooms(zooms, path)
    check_affine(affine, path)
    check_values(array, path)


def check_dtype(dtype: np.dtype[np.generic], path: Path) -> None:
    """Accept real numbers: no complex values, no colours, no records."""
    if dtype.kind == "c":
        raise InputError(f"{path}: complex values ({dtype}); export the magnitude image")
    if dtype.kind not in "iufb":
        raise InputError(f"{path}: several values a voxel, such as RGB; export one grey channel")


def check_shape(shape: Sequence[int], path: Path) -> None:
    """Accept three axes of two or more voxels each."""
    shown = " x ".join(str(n) for n in shape)
    if 0 in shape:
        raise InputError(f"{path}: empty, {shown} voxels; export the scan again")
    if len(shape) != 3 or min(shape) < 2:
        raise InputError(f"{path}: 2D, {shown} voxels; give the whole 3D volume")


def check_zooms(zooms: ArrayLike, path: Path) -> None:
    """Accept three positive, finite spacings in mm."""
    values = np.asarray(zooms, np.float64)
    if not (np.isfinite(values).all() and (values > 0).all()):
        shown = ", ".join(f"{value:g}" for value in values)
        raise InputError(
            f"{path}: voxel spacing must be positive, got ({shown}); correct the header "
            "or convert the scan again"
        )


def check_affine(affine: NDArray[np.float64], path: Path) -> None:
    """Accept finite affines that map the grid onto a 3D space."""
    if not np.isfinite(affine).all():
        raise InputError(
            f"{path}: the affine holds NaN or Inf; correct the header or convert the scan again"
        )
    axes = affine[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if (lengths == 0).any() or abs(np.linalg.det(axes / lengths)) < _FLAT:
        raise InputError(
            f"{path}: the affine is singular (it flattens the volume); correct the header's "
            "sform or qform, or convert the scan again"
        )


def check_values(array: NDArray[np.float32], path: Path) -> None:
    """Accept finite values that are not all the same."""
    low, high = float(array.min()), float(array.max())  # NaN and Inf come through both
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        raise InputError(
            f"{path}: {bad} of {array.size} voxels are NaN or infinite; replace them, "
            "for instance with 0"
        )
    if low == high:
        raise InputError(f"{path}: every voxel is {low:g}; export the scan again")


def pick_volume(
    shape: Sequence[int], volume: int | None, path: Path
) -> tuple[tuple[int, int, int], int]:
    """Choose the volume to read.

    Args:
        shape: the file's shape; trailing axes of length 1 do not count.
        volume: index the user chose, from 0, or `None`.
        path: the file to name in errors.

    Returns:
        The volume's `(X, Y, Z)` and its index along the fourth axis.

    Raises:
        InputError: not one volume, and none chosen; or a choice that is not there.
    """
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) < 3 or 0 in shape:
        check_shape(shape, path)
    if len(shape) > 4:
        shown = " x ".join(str(n) for n in shape)
        raise InputError(f"{path}: {len(shape)}D, {shown}; export one 3D volume")
    count = shape[3] if len(shape) == 4 else 1
    if volume is None and count != 1:
        raise InputError(
            f"{path}: 4D with {count} volumes; choose one with --volume K (0 to {count - 1})"
        )
    if not 0 <= (volume or 0) < max(count, 1):
        raise InputError(f"{path}: has {count} volumes, no number {volume}; count from 0")
    return (shape[0], shape[1], shape[2]), volume or 0
