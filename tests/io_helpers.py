"""Small scans for the tests of volad.io, and what every refusal must look like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from volad.errors import VoladError
from volad.io import Volume, find_scans, read_volume

SHAPE = (5, 6, 7)


def phantom(dtype: Any = np.int16, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Every voxel another small number, so that any mix-up of axes shows."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def turned(spacing: Sequence[float] = (0.9, 1.1, 2.3)) -> np.ndarray:
    """An affine at right angles, oblique to every world axis."""
    a, b = 0.3, -0.2
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x * spacing
    affine[:3, 3] = (-31.7, 12.3, 45.9)
    return affine


def save_nifti(path: Path, data: np.ndarray | None = None, affine: Any = None) -> Path:
    """Write a NIfTI-1 file in mm with both codes 1."""
    data = phantom() if data is None else data
    image = nib.Nifti1Image(data, turned() if affine is None else affine)
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 1)
    image.header.set_xyzt_units("mm", "sec")
    image.to_filename(path)
    return path


def read(path: Path, **options: Any) -> Volume:
    """Find the one scan that a path is and read it."""
    (scan,) = find_scans(path)
    return read_volume(scan, **options)


def values(volume: Volume) -> np.ndarray:
    """The `(X, Y, Z)` voxels of a volume."""
    return volume.image.numpy()[0]


def refused(
    kind: type[VoladError], call: Callable[..., object], *args: Any, says: Sequence[str]
) -> str:
    """Assert that a call is refused in one line of rule and way out that has all of `says`."""
    with pytest.raises(VoladError) as caught:
        call(*args)
    message = str(caught.value)
    assert type(caught.value) is kind, message
    assert "\n" not in message
    assert "; " in message, f"no way out: {message}"
    for words in says:
        assert words in message
    return message


def save_dicom(
    folder: Path,
    voxels: np.ndarray,
    affine_lps: np.ndarray,
    *,
    ending: str = ".dcm",
    series: str | None = None,
    **tags: Any,
) -> list[Path]:
    """Write `(X, Y, Z)` uint16 voxels as a series of slices, last slice first.

    The affine is voxel → LPS mm; the file names say nothing of the order.
    """
    folder.mkdir(exist_ok=True, parents=True)
    series = series or generate_uid()
    spacing = np.linalg.norm(affine_lps[:3, :3], axis=0)
    axes = affine_lps[:3, :3] / spacing
    files = []
    for number in reversed(range(voxels.shape[2])):
        slice_ = pydicom.Dataset()
        slice_.file_meta = FileMetaDataset()
        slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_.file_meta.MediaStorageSOPClassUID = slice_.SOPClassUID = MRImageStorage
        slice_.SOPInstanceUID = slice_.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        slice_.SeriesInstanceUID = slice_.StudyInstanceUID = series
        slice_.Modality, slice_.SeriesDescription = "MR", "T1 axial"
        slice_.Columns, slice_.Rows = voxels.shape[:2]
        slice_.PixelSpacing = [round(float(spacing[1]), 9), round(float(spacing[0]), 9)]
        directions = (*axes[:, 0], *axes[:, 1])
        slice_.ImageOrientationPatient = [round(float(c), 9) for c in directions]
        position = affine_lps[:3, 3] + number * affine_lps[:3, 2]
        slice_.ImagePositionPatient = [round(float(c), 9) for c in position]
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated = slice_.BitsStored = 16
        slice_.HighBit, slice_.PixelRepresentation = 15, 0
        slice_.PixelData = voxels[:, :, number].T.astype("<u2").tobytes()
        for tag, value in tags.items():
            setattr(slice_, tag, value)
        file = folder / f"{(number * 5) % 97:02d}-{series[-6:]}{ending}"
        slice_.save_as(file, enforce_file_format=True)
        files.append(file)
    return files[::-1]


def patched(path: Path, at: int, content: bytes) -> Path:
    """A plain scan with some bytes of its header or voxels replaced."""
    save_nifti(path, phantom(np.float32))
    whole = bytearray(path.read_bytes())
    whole[at : at + len(content)] = content
    path.write_bytes(whole)
    return path
