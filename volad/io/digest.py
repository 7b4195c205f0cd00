"""The SHA-256 of an input: what a result was made from, and whether that has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from volad.io.find import Scan
from volad.io.guard import reading

__all__ = ["input_sha256", "sha256_of"]


def input_sha256(scan: Scan) -> str:
    """Hash a scan's bytes without decoding them.

    For a DICOM series these are its files', sorted by name; for a header with its voxels in
    another file (`.mhd`, `.nhdr`), both files'.

    Raises:
        InputError: the scan cannot be opened.
    """
    return sha256_of(_sources(scan))


def sha256_of(files: Iterable[Path]) -> str:
    """Hash the bytes of files one after the other, as hexadecimal digits."""
    total = hashlib.sha256()
    for file in files:
        with reading(file), open(file, "rb") as opened:
            while block := opened.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def _sources(scan: Scan) -> Iterable[Path]:
    if scan.path.is_dir():
        from volad.io.dicom import series_files

        return series_files(scan.path, scan.series)
    if scan.path.name.lower().endswith((".nii", ".nii.gz", ".zip")):
        return [scan.path]
    from volad.io.itk import data_files

    return data_files(scan.path)
