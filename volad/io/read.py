"""Read a scan, or a mask on its grid, in whatever format it comes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from numpy.typing import NDArray

from volad.errors import InputError
from volad.io.check import check, check_affine, check_zooms
from volad.io.digest import sha256_of
from volad.io.find import Scan
from volad.io.header import Loaded

if TYPE_CHECKING:
    from nibabel import Nifti1Header

__all__ = ["Map", "Volume", "read_map", "read_mask", "read_volume"]

_SAME_GRID = 1e-3  # mm; headers written by different tools round differently


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan that was read and checked.

    Attributes:
        image: `(1, X, Y, Z)` float32 with the affine voxel → RAS mm.
        header: the NIfTI header that outputs inherit; NIfTI-2 where the scan is.
        sha256: of the input's bytes, as hexadecimal digits.
        warnings: what is odd about the scan, one line each.
        scan: where it came from.
        affine: `(4, 4)` float64, voxel → RAS mm, the scan's own bit for bit; read-only.
    """

    image: MetaTensor
    header: Nifti1Header
    sha256: str
    warnings: tuple[str, ...]
    scan: Scan
    affine: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        # A copy: transforms may change the tensor's affine, outputs need the scan's.
        affine = np.array(self.image.affine.cpu().numpy(), np.float64)
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along X, Y and Z."""
        x, y, z = self.image.shape[1:]
        return int(x), int(y), int(z)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along X, Y and Z, by the affine."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel."""
        x, y, z = self.affine[:3, :3].T
        return float(abs(np.dot(x, np.cross(y, z))))  # exact for plain grids, det() is not


@dataclass(frozen=True, eq=False)
class Map:
    """A score map or a mask that goes with a scan.

    Attributes:
        array: `(X, Y, Z)` finite float32.
        affine: `(4, 4)` float64, voxel → RAS mm.
        path: the file.
    """

    array: NDArray[np.float32]
    affine: NDArray[np.float64]
    path: Path

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along X, Y and Z, by the affine."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    def as_mask(self) -> NDArray[np.bool_]:
        """Where it is not 0.

        Raises:
            InputError: it holds fractions, so where the mask ends is not said.
        """
        inside: NDArray[np.bool_] = self.array != 0
        values = self.array[inside]
        fractions = values[values != np.round(values)]
        if fractions.size:
            raise InputError(
                f"{self.path}: is no mask, it holds values such as {fractions[0]:g}; threshold it"
            )
        return inside


def read_map(path: Path | str, like: Map | None = None) -> Map:
    """Read a score map or a mask; it may be 0 everywhere.

    Args:
        path: file of any format that scans may have.
        like: a map whose grid it must have.

    Raises:
        InputError: unreadable, not finite, or on another grid.
        VoladError: the disk or the network failed.
    """
    path = Path(path)
    loaded = _load(path, None, None)
    check_zooms(loaded.zooms, path)
    check_affine(loaded.affine, path)
    if like is not None:
        _check_grid(loaded, path, like.array.shape, like.affine, f"resample it onto {like.path}")
    if not np.isfinite(loaded.array).all():
        raise InputError(f"{path}: has NaN or infinite voxels; replace them with 0")
    return Map(loaded.array, loaded.affine, path)


def read_volume(scan: Scan, *, volume: int | None = None) -> Volume:
    """Read a scan in float32.

    Args:
        scan: what `find_scans` found.
        volume: index of the volume to take from a 4D file, from 0.

    Raises:
        InputError: the scan is unreadable or unusable; it never will be otherwise.
        VoladError: the disk or the network failed.
    """
    loaded = _load(scan.path, volume, scan.series)
    check(loaded.array, loaded.affine, loaded.zooms, scan.path)
    image = MetaTensor(torch.from_numpy(loaded.array)[None], affine=torch.from_numpy(loaded.affine))
    return Volume(image, loaded.header, sha256_of(loaded.sources), loaded.warnings, scan)


def read_mask(path: Path | str, like: Volume) -> NDArray[np.bool_]:
    """Read a brain mask that lies on a scan's grid.

    Args:
        path: file of any format that scans may have; a voxel is in where it is not 0.
        like: the scan.

    Returns:
        `(X, Y, Z)`, at least one voxel true.

    Raises:
        InputError: unreadable, empty, or on another grid.
    """
    path = Path(path)
    loaded = _load(path, None, None)
    check_zooms(loaded.zooms, path)
    check_affine(loaded.affine, path)
    way_out = f"resample it onto {like.scan.path} with nearest neighbours"
    _check_grid(loaded, path, like.shape, like.affine, way_out)
    if not np.isfinite(loaded.array).all():
        raise InputError(f"{path}: the mask has NaN or infinite voxels; replace them with 0")
    mask: NDArray[np.bool_] = loaded.array != 0
    if not mask.any():
        raise InputError(f"{path}: the mask is empty; leave it out, or make it again")
    return mask


def _check_grid(
    loaded: Loaded,
    path: Path,
    shape: tuple[int, ...],
    affine: NDArray[np.float64],
    way_out: str,
) -> None:
    if loaded.array.shape != shape:
        raise InputError(f"{path}: its shape {loaded.array.shape} is not {shape}; {way_out}")
    apart = float(np.abs(loaded.affine - affine).max())
    if apart > _SAME_GRID:
        raise InputError(f"{path}: its affine is up to {apart:.3g} mm off; {way_out}")


def _load(path: Path, volume: int | None, series: str | None) -> Loaded:
    name = path.name.lower()
    if path.is_dir():
        from volad.io.dicom import load_series

        return load_series(path, series, volume)
    if name.endswith(".zip"):
        from volad.io.dicom import load_zip

        return load_zip(path, series, volume)
    if name.endswith((".nrrd", ".nhdr", ".mha", ".mhd")):
        from volad.io.itk import load_itk

        return load_itk(path, volume)
    from volad.io.nifti import load_nifti

    return load_nifti(path, volume)
