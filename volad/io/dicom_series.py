"""Which of the series in a DICOM folder to read: a rule for head CT, stated with the result."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from volad.io.guard import one_line, quiet

__all__ = ["Series", "choose", "describe", "is_sharp"]

#: Fewer images are a scout, a dose report or a strip of key images, not a volume.
LEAST_SLICES = 8
#: A gantry tilts by up to 30 degrees, so an axial slice's normal keeps this much of the long axis.
AXIAL = 0.8
_SHARP_WORDS = ("BONE", "EDGE", "LUNG", "SHARP", "DETAIL")
#: Philips names kernels by letters; D and E, with or without Y, are for bone.
_PHILIPS_SHARP = re.compile(r"^(Y?[DE]|EB|YB)$")
#: Siemens: `H31s`, `J70h`, `Hr60f`; from 50 on they sharpen edges.
_SIEMENS = re.compile(r"^[A-Z]{1,2}(\d{2})[A-Z]?\b")
#: Canon and Toshiba: FC01 to FC29 and FC40 to FC49 are soft, FC6x are soft for the brain.
_CANON = re.compile(r"^FC(\d{2})")


@dataclass(frozen=True)
class Series:
    """What a series says of itself in its first file.

    Attributes:
        key: its id.
        slices: how many files it has.
        description: its name, or `no description`.
        modality: such as `CT`.
        image_type: its words, as DICOM parts them by backslashes.
        kernel: of the reconstruction.
        thickness_mm: of a slice; infinite where it is not said.
        contrast: whether a contrast agent was given.
        axial: whether its slices lie across the body's long axis.
    """

    key: str
    slices: int
    description: str
    modality: str
    image_type: str
    kernel: str
    thickness_mm: float
    contrast: bool
    axial: bool

    @property
    def wanted(self) -> bool:
        """Whether it may be a head's own plain CT, of a kernel for soft tissue."""
        kinds = self.image_type.upper().split("\\")
        own = "DERIVED" not in kinds and "SECONDARY" not in kinds and "LOCALIZER" not in kinds
        plain = self.modality == "CT" and self.axial and not self.contrast
        return own and plain and self.slices >= LEAST_SLICES and not is_sharp(self.kernel)


def is_sharp(kernel: str) -> bool:
    """Whether a CT kernel's name is one for bone or lung; a name not known counts as soft."""
    name = kernel.upper().replace("\\", " ").strip()
    if any(word in name for word in _SHARP_WORDS) or _PHILIPS_SHARP.match(name):
        return True
    if canon := _CANON.match(name):
        return int(canon[1]) // 10 in (3, 5, 7, 8)
    siemens = _SIEMENS.match(name)
    return siemens is not None and int(siemens[1]) >= 50


def choose(found: Mapping[str, Sequence[Path]]) -> tuple[str, str] | None:
    """The series to read where none was asked for, and a line that says why.

    Of a head CT's plain axial series with a soft kernel, neither derived nor scouts, the one of
    the thinnest slices, and of those alike the one of the most. None where that leaves none, or
    leaves it open.
    """
    all_series = [describe(key, files) for key, files in found.items()]
    wanted = sorted((one for one in all_series if one.wanted), key=_rank)
    if not wanted or (len(wanted) > 1 and _rank(wanted[0]) == _rank(wanted[1])):
        return None
    best = wanted[0]
    thick = f", {best.thickness_mm:g} mm" if np.isfinite(best.thickness_mm) else ""
    kernel = f", kernel {best.kernel}" if best.kernel else ""
    return best.key, (
        f"of {len(found)} series, took {best.key} ({best.description}, {best.slices} slices{thick}"
        f"{kernel}): the thinnest plain axial CT with a soft kernel; --series ID takes another"
    )


def _rank(series: Series) -> tuple[float, int]:
    return series.thickness_mm, -series.slices


def describe(key: str, files: Sequence[Path]) -> Series:
    """Read what the first file of a series says; what it leaves out is empty."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(files[0]))
    tags: dict[str, str] = {}
    try:
        with quiet():
            reader.ReadImageInformation()
        tags = {tag: one_line(reader.GetMetaData(tag)) for tag in reader.GetMetaDataKeys()}
    except RuntimeError:
        pass  # a damaged file is named when the series is read
    return Series(
        key=key,
        slices=len(files),
        description=tags.get("0008|103e", "") or "no description",
        modality=tags.get("0008|0060", ""),
        image_type=tags.get("0008|0008", ""),
        kernel=tags.get("0018|1210", ""),
        thickness_mm=_number(tags.get("0018|0050", "")),
        contrast=bool(tags.get("0018|0010", "")),
        axial=_axial(tags.get("0020|0037", "")),
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("inf")


def _axial(orientation: str) -> bool:
    try:
        row, column = np.array([float(n) for n in orientation.split("\\")]).reshape(2, 3)
    except ValueError:
        return False
    return bool(abs(np.cross(row, column)[2]) > AXIAL)
