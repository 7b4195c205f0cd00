"""The SHA-256 of an input: what a result was made from, and whether that has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from volad.io.find import Scan
from volad.io.guard import reading

__all__ = ["combined", "input_sha256", "sha256_of"]


def input_sha256(scan: Scan) -> str:
    """Hash a scan's bytes without decoding them.

    For a DICOM series these are its files', sorted by name; for a header with its voxels in
    another file (`.mhd`, `.nhdr`), both files'. Of several channels it is `combined`.

    Raises:
        InputError: the scan cannot be opened.
    """
    further = {name: sha256_of(_sources(path, None)) for name, path in scan.channels}
    return combined(sha256_of(_sources(scan.path, scan.series)), further)


def combined(first: str, further: Mapping[str, str]) -> str:
    """One hash for the hashes of all channels, in which it counts which channel has which.

    Args:
        first: of the first channel; alone, it is the hash of them all.
        further: of the others, by name.
    """
    if not further:
        return first
    lines = [first, *(f"{sha256} {name}" for name, sha256 in sorted(further.items()))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def sha256_of(files: Iterable[Path]) -> str:
    """Hash the bytes of files one after the other, as hexadecimal digits."""
    total = hashlib.sha256()
    for file in files:
        with reading(file), open(file, "rb") as opened:
            while block := opened.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def _sources(path: Path, series: str | None) -> Iterable[Path]:
    if path.is_dir():
        from volad.io.dicom import series_files

        return series_files(path, series)
    if path.name.lower().endswith((".nii", ".nii.gz", ".zip")):
        return [path]
    from volad.io.itk import data_files

    return data_files(path)
