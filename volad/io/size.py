"""How large a scan is, from its header alone."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

from volad.io.find import Scan
from volad.io.guard import quiet

__all__ = ["voxel_count"]


def voxel_count(scan: Scan) -> int:
    """Voxels of a scan, by its header; of a zip, half the bytes in it.

    A scan that cannot be read has 0: what is wrong with it is told when its turn comes.
    """
    try:
        return _count(scan)
    except Exception:  # damaged in whatever way, and every library has its own errors
        return 0


def _count(scan: Scan) -> int:
    name = scan.path.name.lower()
    if scan.path.is_dir():
        from volad.io.dicom import series_files

        files = series_files(scan.path, scan.series)
        return len(files) * _itk_count(files[0])
    if name.endswith(".zip"):
        with zipfile.ZipFile(scan.path) as packed:
            return sum(member.file_size for member in packed.infolist()) // 2
    if name.endswith((".nii", ".nii.gz")):
        import nibabel as nib

        return math.prod(int(n) for n in nib.load(scan.path).shape)
    return _itk_count(scan.path)


def _itk_count(path: Path) -> int:
    import SimpleITK as sitk  # noqa: N813

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with quiet():
        reader.ReadImageInformation()
    return math.prod(reader.GetSize())
