"""Read NIfTI-1 and NIfTI-2, keeping the header as it was found."""

from __future__ import annotations

import gzip
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import array_from_file
from numpy.typing import NDArray

from volad.errors import InputError
from volad.io.check import check_dtype, check_shape, check_zooms, pick_volume
from volad.io.guard import one_line, reading
from volad.io.header import Loaded

if TYPE_CHECKING:
    from nibabel import Nifti1Header

__all__ = ["load_nifti"]

_SILENT = logging.getLogger("volad.io.nibabel")  # nibabel's own logger prints on stderr
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False

_GZIP = b"\x1f\x8b"
_DEFLATE_MOST = 1032  # deflate never packs more than this many bytes into one
_UNITS = {1: "metre", 3: "micrometre"}


def load_nifti(path: Path, volume: int | None = None) -> Loaded:
    """Read one volume of a `.nii` or `.nii.gz`, whichever the bytes say it is.

    Raises:
        InputError: not NIfTI, damaged, not one volume of real numbers.
    """
    with reading(path), _opened(path) as stream:
        raw = _raw_header(stream, path)
        header = _repaired(raw, path)
        zooms = tuple(float(zoom) for zoom in raw["pixdim"][1:4])
        check_dtype(header.get_data_dtype(), path)
        shape, index = pick_volume(header.get_data_shape(), volume, path)
        check_shape(shape, path)
        check_zooms(zooms, path)
        affine = _affine(header, path)
        array = _voxels(stream, header, shape, index, path)
    return Loaded(array, affine, raw, zooms, (path,), tuple(_warnings(header)))


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with open(path, "rb") as file:
        packed = file.read(2) == _GZIP
        file.seek(0)
        if not packed:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as stream:
            yield cast(BinaryIO, stream)


def _raw_header(stream: BinaryIO, path: Path) -> Nifti1Header:
    """The header's bytes as they are: nibabel would mend some fields that outputs inherit."""
    block = stream.read(540)
    if block[344:348] == b"n+1\0":
        return nib.Nifti1Header(block[:348], check=False)
    if block[4:8] == b"n+2\0":
        return nib.Nifti2Header(block, check=False)
    raise InputError(
        f"{path}: is not a NIfTI file; give a .nii or .nii.gz as dcm2niix or nibabel writes it"
    )


def _repaired(raw: Nifti1Header, path: Path) -> Nifti1Header:
    """What `nibabel.load` would make of the header, without a word on stderr."""
    header = raw.copy()
    try:
        header.check_fix(logger=_SILENT, error_level=40)
        header.get_data_dtype()
        header.get_slope_inter()
    except HeaderDataError as error:
        raise InputError(
            f"{path}: the NIfTI header is invalid ({one_line(error)}); convert the scan again"
        ) from error
    return header


def _affine(header: Nifti1Header, path: Path) -> NDArray[np.float64]:
    try:
        return np.array(header.get_best_affine(), np.float64)
    except (HeaderDataError, ValueError) as error:
        raise InputError(
            f"{path}: the header gives no valid affine ({one_line(error)}); correct its sform "
            "or qform, or convert the scan again"
        ) from error


def _voxels(
    stream: BinaryIO, header: Nifti1Header, shape: tuple[int, int, int], index: int, path: Path
) -> NDArray[np.float32]:
    dtype = header.get_data_dtype()
    size = math.prod(shape) * dtype.itemsize
    offset = header.get_data_offset() + index * size
    # A damaged header can ask for terabytes: compare before memory is taken.
    if path.stat().st_size * (_DEFLATE_MOST if isinstance(stream, gzip.GzipFile) else 1) < size:
        raise EOFError(f"{size} bytes of voxels expected")
    raw = array_from_file(shape, dtype, stream, offset, mmap=False)
    while stream.read(1 << 20):  # gzip compares its checksum only at the end
        pass
    return _to_float32(raw, *header.get_slope_inter())


def _to_float32(
    raw: NDArray[np.generic], slope: float | None, inter: float | None
) -> NDArray[np.float32]:
    """Scale in float64, one slice at a time: exact, and no second copy of the volume."""
    out = np.empty(raw.shape, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused as Inf
        for x in range(len(out)):
            plane = raw[x]
            if slope is not None and (slope, inter) != (1, 0):
                plane = plane * np.float64(slope) + np.float64(inter or 0)
            out[x] = plane
    return out


def _warnings(header: Nifti1Header) -> Iterator[str]:
    qform_code, sform_code = int(header["qform_code"]), int(header["sform_code"])
    if not (qform_code or sform_code):
        yield (
            "qform and sform codes are both 0: the scan's orientation is unknown, "
            "nibabel's default was taken"
        )
    if qform_code and sform_code and _disagree(header):
        yield "qform and sform disagree: nibabel's choice, the sform, was taken"
    unit = _UNITS.get(int(header["xyzt_units"]) & 7)
    if unit:
        yield f"the header's unit of length is the {unit}: its numbers were taken as mm"


def _disagree(header: Nifti1Header) -> bool:
    try:
        qform = header.get_qform()
    except (HeaderDataError, ValueError):  # a quaternion that is none disagrees with anything
        return True
    spacing = min(header.get_zooms()[:3])
    return bool(np.abs(qform - header.get_sform()).max() > 1e-3 * spacing)
