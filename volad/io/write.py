"""Write results whole or not at all, on the scan's own grid."""

from __future__ import annotations

import gzip
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from volad.errors import UsageError, VoladError

if TYPE_CHECKING:
    from nibabel import Nifti1Header

    from volad.io.read import Volume

__all__ = [
    "SIMULATED",
    "as_json",
    "atomic",
    "ensure_writable",
    "is_simulated",
    "note_of",
    "remove",
    "write_json",
    "write_map",
    "write_mask",
    "write_new",
    "write_text",
    "write_values",
]

#: How the notes of all simulated scans begin.
SIMULATED = "volad: SIMULATED"


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what was written there becomes `path` at the end.

    After a failure of any kind, Ctrl-C included, nothing is left and an old `path` stands.
    The temporary name is hidden and keeps the ending. A missing folder is made.

    Raises:
        VoladError: the disk is full, the folder read-only, or the like.
        UsageError: `path` is a folder, or its folder is a file.
    """
    path = Path(path)
    ending = ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix
    unique = f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp{ending}"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / unique
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_bytes(text.encode())


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON for people and machines; NaN is no JSON, so it is a `ValueError`."""
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """The text of `write_json`."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_mask(path: Path | str, mask: NDArray[Any], like: Volume) -> None:
    """Write a mask as uint8 `.nii.gz` with the scan's header.

    Args:
        path: ends in `.nii.gz`.
        mask: `(X, Y, Z)`, bool or uint8.
        like: the scan.
    """
    if mask.dtype not in (np.bool_, np.uint8):
        raise ValueError(f"a mask is bool or uint8, got {mask.dtype}; threshold it first")
    _write(Path(path), mask.astype(np.uint8, copy=False), like)


def write_map(path: Path | str, array: NDArray[Any], like: Volume) -> None:
    """Write a map as float32 `.nii.gz` with the scan's header.

    Args:
        path: ends in `.nii.gz`.
        array: `(X, Y, Z)` real numbers.
        like: the scan.
    """
    if array.dtype.kind not in "fiub":
        raise ValueError(f"a map holds real numbers, got {array.dtype}")
    _write(Path(path), array.astype(np.float32, copy=False), like)


def write_values(
    path: Path | str,
    array: NDArray[Any],
    like: Volume,
    note: str,
    scale: tuple[float, float] = (1.0, 0.0),
) -> None:
    """Write voxels in the data type they have, as `.nii.gz` with the scan's header.

    Args:
        path: ends in `.nii.gz`.
        array: `(X, Y, Z)` real numbers.
        like: the scan.
        note: the header's `descrip`, ASCII, at most 79 characters.
        scale: slope and intercept by which readers turn the voxels into values.
    """
    if array.dtype.kind not in "fiu":
        raise ValueError(f"voxels are real numbers, got {array.dtype}")
    _write(Path(path), array, like, note.encode("ascii"), scale)


def write_new(
    path: Path | str, array: NDArray[Any], affine: NDArray[np.float64], note: str
) -> None:
    """Write voxels that no scan stands behind, as `.nii.gz` in RAS mm.

    Args:
        path: ends in `.nii.gz`.
        array: `(X, Y, Z)` of a type that NIfTI has.
        affine: `(4, 4)`, voxel to RAS mm.
        note: the header's `descrip`, ASCII, at most 79 characters.
    """
    image = nib.Nifti1Image(array, affine)
    image.header["descrip"] = note.encode("ascii")
    image.header.set_xyzt_units("mm")
    with atomic(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), 1, mtime=0))


def note_of(path: Path | str) -> str:
    """The note that `write_new` gave a file."""
    return bytes(nib.load(path).header["descrip"]).decode("ascii", "replace").rstrip("\0")


def is_simulated(path: Path | str) -> bool:
    """Whether the file says that volad simulated it; what is no NIfTI says nothing."""
    try:
        return note_of(path).startswith(SIMULATED)
    except (KeyError, ValueError, ImageFileError, OSError):
        return False


def ensure_writable(folder: Path | str) -> None:
    """Make the output folder if need be and try it, before any work is done for it.

    Raises:
        UsageError: it is a file.
        VoladError: nothing can be written there.
    """
    folder = Path(folder)
    probe = folder / f".volad.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    with writing(probe):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"volad")
        finally:
            probe.unlink(missing_ok=True)


def remove(path: Path | str) -> None:
    """Remove an output of an earlier run, if there is one.

    Raises:
        VoladError: the folder is read-only, or the like.
    """
    path = Path(path)
    with writing(path):
        path.unlink(missing_ok=True)


def _write(
    path: Path,
    array: NDArray[Any],
    like: Volume,
    note: bytes = b"volad",
    scale: tuple[float, float] = (1.0, 0.0),
) -> None:
    if not path.name.endswith(".nii.gz"):
        raise ValueError(f"{path} must end in .nii.gz")
    if array.shape != like.shape:
        raise ValueError(f"{path}: shape {array.shape} is not the scan's {like.shape}")
    header = _header(like.header, array, note)
    header["scl_slope"], header["scl_inter"] = scale
    head = header.binaryblock + b"\0\0\0\0"  # no extensions
    with (
        atomic(path) as temporary,
        open(temporary, "wb") as file,
        # No time and no name in the gzip header: the same result is the same bytes.
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as stream,
    ):
        stream.write(head)
        for z in range(array.shape[2]):  # never a second copy of the volume
            stream.write(array[..., z].tobytes(order="F"))


def _header(scan: Nifti1Header, array: NDArray[Any], note: bytes) -> Nifti1Header:
    """The scan's header with only what describes voxel values changed.

    qform, sform, their codes and the units stay as they are in the file: nibabel's image
    classes would compute or reset them.
    """
    header = scan.as_byteswapped("<")
    header["dim"] = [3, *array.shape, 1, 1, 1, 1]
    header.set_data_dtype(array.dtype)
    header["vox_offset"] = header.single_vox_offset
    header["magic"] = header.single_magic
    header["cal_min"], header["cal_max"] = 0, 0
    for key in ("intent_code", "intent_p1", "intent_p2", "intent_p3"):
        header[key] = 0
    header["intent_name"], header["descrip"] = b"", note
    return header


@contextmanager
def writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _of_os(path, error) from error


def _of_os(path: Path, error: OSError) -> VoladError:
    folder = path.parent
    if error.errno in (ENOSPC, EDQUOT):
        return VoladError(f"{folder}: the disk is full; free space or name another output folder")
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return UsageError(f"{folder}: a file is where a folder must be; name another output folder")
    if isinstance(error, IsADirectoryError):
        return UsageError(f"{path}: is a folder, not a file; name another output")
    return VoladError(
        f"{folder}: cannot be written ({error.strerror or error}); allow it or name another "
        "output folder"
    )


def _sync(path: Path) -> None:
    """Have the bytes on disk before the name points at them, or a crash may leave it empty."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
