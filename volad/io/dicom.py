"""Read a DICOM series: one image per file, stacked by the positions the files state."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfileobj

import numpy as np
import SimpleITK as sitk  # noqa: N813 (the name its own documentation uses)
from numpy.typing import NDArray

from volad.errors import InputError
from volad.io.check import check_dtype, check_shape, pick_volume
from volad.io.dicom_even import evened
from volad.io.dicom_series import choose, describe
from volad.io.find import MAGIC, MAGIC_AT, is_dicom
from volad.io.guard import one_line, quiet, reading
from volad.io.header import Loaded, header_for, is_sheared, lps_to_ras

__all__ = ["load_series", "load_zip", "series_files"]

_POSITION, _ORIENTATION, _SPACING = "0020|0032", "0020|0037", "0028|0030"
_MODALITY = "0008|0060"
#: (0002,0002) in the file's first group, which is always explicit VR, little endian.
_SOP_CLASS = re.compile(
    rb"\x02\x00\x02\x00UI..1\.2\.840\.10008\.5\.1\.4\.1\.1\.([0-9.]+)", re.DOTALL
)
_SLICES = (b"2", b"2.1", b"2.2", b"4", b"4.1", b"4.3", b"4.4", b"7", b"128", b"128.1", b"130")
_CONVERT = "convert the series with dcm2niix and give the .nii.gz"
_SAME_PLACE_MM = 0.01


@dataclass(frozen=True, eq=False)
class _Slice:
    """One slice; all lengths in mm, all directions LPS.

    Attributes:
        pixels: `(X, Y)` values.
        position: `(3,)` centre of the first voxel.
        steps: `(3, 2)` from one voxel to the next along X and along Y.
        modality: such as `CT`.
    """

    pixels: NDArray[np.float32]
    position: NDArray[np.float64]
    steps: NDArray[np.float64]
    modality: str


def load_series(
    folder: Path, series: str | None = None, volume: int | None = None, *, name: Path | None = None
) -> Loaded:
    """Read a series folder.

    Args:
        folder: the folder with the files of the slices.
        series: id of the series to read; without one, of several the one that
            `volad.io.dicom_series.choose` takes, which a warning says.
        volume: index the user chose; a series is one volume, so only 0 is there.
        name: what errors call the input, where it is not the folder.

    Raises:
        InputError: several series, missing or odd slices, unreadable files.
    """
    name = name or folder
    files, chosen = _chosen(folder, series, name)
    slices = [_read_slice(file, name) for file in files]
    _check_alike(slices, name)
    shape = (*slices[0].pixels.shape, len(slices))
    check_shape(shape, name)
    pick_volume(shape, volume, name)
    slices, even = _evened(_in_order(slices))
    affine, odd = _grid(slices, name)
    array = np.stack([one.pixels for one in slices], axis=-1)
    header = header_for(array.shape, lps_to_ras(affine))
    zooms = tuple(np.linalg.norm(affine[:3, :3], axis=0).tolist())
    warnings = (*chosen, *even, *odd)
    return Loaded(array, header.get_best_affine(), header, zooms, tuple(files), warnings)


def load_zip(path: Path, series: str | None = None, volume: int | None = None) -> Loaded:
    """Read the series in a zip; it is unpacked to a temporary folder that does not stay."""
    with _unzipped(path) as folder:
        loaded = load_series(folder, series, volume, name=path)
    return Loaded(
        loaded.array, loaded.affine, loaded.header, loaded.zooms, (path,), loaded.warnings
    )


def series_files(folder: Path, series: str | None, *, name: Path | None = None) -> list[Path]:
    """The files of one series, sorted by name.

    Args:
        folder: the folder with the files of the slices.
        series: id of the series; `None` where the folder holds just one, or one that stands out.
        name: what errors call the input, where it is not the folder.

    Raises:
        InputError: no series, several and none chosen, or a damaged file.
    """
    return _chosen(folder, series, name or folder)[0]


def _chosen(folder: Path, series: str | None, name: Path) -> tuple[list[Path], tuple[str, ...]]:
    """The files of a series, and a line on why it is that one, where nobody asked for it."""
    found = _all_series(folder, name)
    if series in found:
        return found[series], ()
    if series is None and len(found) == 1:
        return next(iter(found.values())), ()
    if series is None and (taken := choose(found)) is not None:
        return found[taken[0]], (taken[1],)
    listed = "; ".join(
        f"{key} ({describe(key, files).description}, {len(files)} slices)"
        for key, files in found.items()
    )
    rule = f"no series {series}" if series is not None else f"{len(found)} DICOM series"
    raise InputError(f"{name}: {rule}; choose one with --series ID: {listed}")


def _all_series(folder: Path, name: Path) -> dict[str, list[Path]]:
    reader = sitk.ImageSeriesReader
    with quiet(), reading(name):
        there = {file for file in folder.iterdir() if is_dicom(file)}
        found = {
            key: sorted(Path(file) for file in reader.GetGDCMSeriesFileNames(str(folder), key))
            for key in reader.GetGDCMSeriesIDs(str(folder))
        }
    # GDCM drops what it cannot parse: for a report or a plan beside the slices that is right,
    # but a lost slice at an end would just shorten the scan.
    lost = [file for file in sorted(there.difference(*found.values())) if _is_slice(file)]
    if lost:
        raise InputError(
            f"{name}: {_shown(lost[0], name)} is truncated or damaged; export the series again"
        )
    if not found:
        raise InputError(f"{name}: no DICOM series in it; give the folder with the slices")
    return found


def _shown(file: Path, name: Path) -> str:
    """A slice's file name; unpacked from a zip it has none that would help."""
    return file.name if file.parent == name else "a file in it"


def _is_slice(file: Path) -> bool:
    """Whether a file says it is a CT, MR, PET or secondary image, or is cut off before that."""
    with open(file, "rb") as opened:
        said = _SOP_CLASS.search(opened.read(4096))
    return said is None or said[1] in _SLICES


def _read_slice(file: Path, name: Path) -> _Slice:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(file))
    try:
        with quiet():
            reader.ReadImageInformation()
            if reader.GetNumberOfComponents() > 1:
                check_dtype(np.dtype([("", "u1")]), name)
            if len(reader.GetSize()) > 2 and reader.GetSize()[2] > 1:
                raise InputError(f"{name}: multi-frame DICOM; {_CONVERT}")
            reader.SetOutputPixelType(sitk.sitkFloat32)
            image = reader.Execute()
    except RuntimeError as error:
        raise InputError(
            f"{name}: {_shown(file, name)} holds no readable image; export the series again"
        ) from error
    position, orientation, spacing = (
        _numbers(image, tag, file, name) for tag in (_POSITION, _ORIENTATION, _SPACING)
    )
    # DICOM gives the spacing between rows (along Y) first.
    steps = orientation.reshape(2, 3).T * spacing[::-1]
    pixels = sitk.GetArrayFromImage(image).reshape(image.GetSize()[1::-1]).T
    modality = image.GetMetaData(_MODALITY).strip() if image.HasMetaDataKey(_MODALITY) else ""
    return _Slice(pixels, position, steps, modality)


def _numbers(image: sitk.Image, tag: str, file: Path, name: Path) -> NDArray[np.float64]:
    wanted = {_POSITION: 3, _ORIENTATION: 6, _SPACING: 2}[tag]
    text = image.GetMetaData(tag) if image.HasMetaDataKey(tag) else ""
    try:
        numbers = np.array([float(number) for number in text.split("\\")])
    except ValueError:
        numbers = np.empty(0)
    if len(numbers) != wanted:
        shown = _shown(file, name)
        raise InputError(f"{name}: {shown} lacks tag ({tag.replace('|', ',')}); {_CONVERT}")
    return numbers


def _check_alike(slices: list[_Slice], name: Path) -> None:
    first = slices[0]
    for one in slices:
        alike = one.pixels.shape == first.pixels.shape
        if not (alike and np.allclose(one.steps, first.steps, rtol=0, atol=1e-3)):
            raise InputError(
                f"{name}: slices differ in size, spacing or orientation; leave only those "
                "of one volume in the folder"
            )


def _in_order(slices: list[_Slice]) -> list[_Slice]:
    normal = np.cross(slices[0].steps[:, 0], slices[0].steps[:, 1])
    return sorted(slices, key=lambda one: float(one.position @ normal))


def _evened(slices: list[_Slice]) -> tuple[list[_Slice], tuple[str, ...]]:
    """Slices at one distance, where a CT has several on purpose; else as they are."""
    if any(one.modality != "CT" for one in slices) or len(slices) < 2:
        return slices, ()
    first = slices[0]
    normal = np.cross(first.steps[:, 0], first.steps[:, 1])
    positions = np.array([one.position for one in slices])
    found = evened([one.pixels for one in slices], positions, normal / np.linalg.norm(normal))
    if found is None:
        return slices, ()
    pixels, moved, warning = found
    even = [_Slice(p, at, first.steps, "CT") for p, at in zip(pixels, moved, strict=True)]
    return even, (warning,)


def _grid(slices: list[_Slice], name: Path) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Voxel → LPS mm of ordered slices, `(4, 4)`, and what to warn of.

    A tilted gantry shifts each slice against the last: the affine shears, and stays exact.
    """
    positions = np.array([one.position for one in slices])
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    affine = np.eye(4)
    affine[:3, :2] = slices[0].steps
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    _check_gaps(positions, slices[0].steps, name)
    warnings = []
    off = np.linalg.norm(positions - positions[0] - np.outer(range(len(slices)), step), axis=1)
    if off.max() > 0.01 * np.linalg.norm(step):
        warnings.append(
            f"slice spacing is not uniform: slices lie up to {off.max():.3g} mm off an even grid"
        )
    if is_sheared(affine):
        warnings.append("the gantry was tilted: slices are sheared against each other")
    return affine, tuple(warnings)


def _check_gaps(positions: NDArray[np.float64], steps: NDArray[np.float64], name: Path) -> None:
    normal = np.cross(steps[:, 0], steps[:, 1])
    gaps = np.diff(positions @ (normal / np.linalg.norm(normal)))
    if gaps.min() < _SAME_PLACE_MM:
        raise InputError(f"{name}: several slices in one place, so more than a volume; {_CONVERT}")
    usual = float(np.median(gaps))
    odd = int(np.abs(gaps - usual).argmax())
    if abs(gaps[odd] - usual) > 0.1 * usual:
        raise InputError(
            f"{name}: slices {odd + 1} and {odd + 2} are {gaps[odd]:.3g} mm apart where others "
            f"are {usual:.3g} mm: slices are missing or uneven; export the whole series again"
        )


@contextmanager
def _unzipped(path: Path) -> Iterator[Path]:
    """Unpack the DICOM files, numbered and into one folder, so no name in the zip is trusted."""
    with tempfile.TemporaryDirectory(prefix="volad-") as folder:
        try:
            with reading(path), zipfile.ZipFile(path) as archive:
                for number, member in enumerate(archive.infolist()):
                    _unzip(archive, member, Path(folder) / f"{number:06d}")
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise InputError(
                f"{path}: the zip cannot be unpacked ({one_line(error)}); make it again, "
                "without a password"
            ) from error
        yield Path(folder)


def _unzip(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    if member.is_dir() or Path(member.filename).name.upper() == "DICOMDIR":
        return
    with archive.open(member) as source:
        head = source.read(MAGIC_AT + len(MAGIC))
        if head[MAGIC_AT:] != MAGIC:
            return
        with open(target, "wb") as file:
            file.write(head)
            copyfileobj(source, file)
