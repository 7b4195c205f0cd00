"""Read NRRD and MetaImage through SimpleITK."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk  # noqa: N813 (the name its own documentation uses)
from numpy.typing import NDArray

from volad.errors import InputError
from volad.io.check import check_dtype, check_shape, pick_volume
from volad.io.guard import quiet, reading
from volad.io.header import Loaded, header_for, lps_to_ras

if TYPE_CHECKING:
    from SimpleITK import Image, ImageFileReader

__all__ = ["data_files", "load_itk"]

_DATA_FILE = re.compile(rb"^(?:ElementDataFile\s*=|data ?file:)\s*(.+?)\s*$", re.IGNORECASE)
_HEADER_LINES = 1000


def load_itk(path: Path, volume: int | None = None) -> Loaded:
    """Read one volume of a `.nrrd`, `.nhdr`, `.mha` or `.mhd`.

    Raises:
        InputError: damaged, or not one volume of real numbers.
    """
    sources = data_files(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with quiet():
            reader.ReadImageInformation()
            shape, warnings = _prepare(reader, volume, path)
            image = reader.Execute()
    except RuntimeError as error:  # ITK's own text spans lines and may name the wrong cause
        raise InputError(
            f"{path}: is truncated, damaged or not what its ending says; export it again"
        ) from error
    header = header_for(shape, lps_to_ras(_affine(image)))
    array = np.ascontiguousarray(sitk.GetArrayViewFromImage(image).T)
    return Loaded(
        array, header.get_best_affine(), header, image.GetSpacing(), tuple(sources), warnings
    )


def data_files(path: Path) -> list[Path]:
    """The header file and, where the voxels lie apart from it, the file with the voxels."""
    with reading(path), open(path, "rb") as file:
        name = _data_file_name(file.readline(4096) for _ in range(_HEADER_LINES))
    if name in (None, "LOCAL"):
        return [path]
    assert name is not None
    if name.startswith("LIST") or "%" in name:
        raise InputError(f"{path}: voxels in several files; convert it to one .mha or .nii.gz")
    data = path.parent / name
    if not data.is_file():
        raise InputError(f"{path}: its voxels, {data}, are missing; keep the two files together")
    with reading(data), open(data, "rb"):
        return [path, data]


def _data_file_name(lines: Iterable[bytes]) -> str | None:
    for line in lines:
        found = _DATA_FILE.match(line)
        if found:
            return found[1].decode(errors="replace")
        if not line.strip():  # the end of an NRRD header or of the file; MetaImage has none
            return None
    return None


def _prepare(
    reader: ImageFileReader, volume: int | None, path: Path
) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """Check what the header says and set the reader on one volume; its shape, its warnings."""
    check_dtype(_dtype(reader), path)
    shape, index = pick_volume(reader.GetSize(), volume, path)
    check_shape(shape, path)
    more = reader.GetDimension() - 3
    if more:
        reader.SetExtractSize([*shape, *[0] * more])
        reader.SetExtractIndex([0, 0, 0, index, *[0] * (more - 1)])
    reader.SetOutputPixelType(sitk.sitkFloat32)
    if path.suffix.lower() in (".nrrd", ".nhdr") and not reader.HasMetaDataKey("NRRD_space"):
        return shape, ("the NRRD header names no space: left-posterior-superior was taken",)
    return shape, ()


def _dtype(reader: ImageFileReader) -> np.dtype[np.generic]:
    """A NumPy type of the same kind; several components a voxel make a record."""
    if reader.GetPixelID() in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64):
        return np.dtype(np.complex64)
    return np.dtype([("", "f4")] if reader.GetNumberOfComponents() > 1 else np.float32)


def _affine(image: Image) -> NDArray[np.float64]:
    """Voxel → LPS mm, `(4, 4)`."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine
