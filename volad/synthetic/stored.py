"""Values as a scan's file stores them: its integers, its scale, and a mark that says synthetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from volad.io import Volume, write_values

__all__ = ["NOTE", "write_image", "write_labels"]

#: The header's `descrip` of all that a suite holds.
NOTE = "volad: synthetic, not a patient's scan"


def write_image(path: Path, image: NDArray[np.float32], like: Volume) -> None:
    """Write an image `(X, Y, Z)` in the scan's data type, rounded to its integers."""
    dtype = like.header.get_data_dtype()
    if dtype.kind not in "iu":
        write_values(path, image.astype("<f4", copy=False), like, NOTE)
        return
    scale = _scale(like)
    limits = np.iinfo(dtype)
    raw = np.round((image.astype(np.float64) - scale[1]) / scale[0])
    kept = np.clip(raw, limits.min, limits.max).astype(dtype.newbyteorder("<"))
    write_values(path, kept, like, NOTE, scale)


def write_labels(path: Path, labels: NDArray[np.uint8], like: Volume) -> None:
    """Write a label map or a mask `(X, Y, Z)`."""
    write_values(path, labels.astype(np.uint8, copy=False), like, NOTE)


def _scale(volume: Volume) -> tuple[float, float]:
    slope, inter = float(volume.header["scl_slope"]), float(volume.header["scl_inter"])
    if not np.isfinite(slope) or slope == 0:  # NIfTI: the voxels are the values
        return 1.0, 0.0
    return slope, inter if np.isfinite(inter) else 0.0
