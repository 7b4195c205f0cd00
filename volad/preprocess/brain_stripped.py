"""Step 2a for scans that come without skull: notice it, and read the mask off the background."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["brain_mask_from_stripped", "is_stripped", "largest_component", "volume_ml"]

#: Brains with their fluid, from infants to the largest adults. Whole heads hold 2500 ml or more,
#: even after a harsh threshold.
STRIPPED_ML = (250.0, 2300.0)
#: The neck, and a head cut by the field of view, cross a face of the volume with at least about
#: 40 cm²; a brain cropped to its box touches it with little more than the brain stem.
CROSSING_CM2 = 20.0


def is_stripped(image: MetaTensor) -> bool:
    """Whether the skull was already removed from the scan `(1, X, Y, Z)`, without a network.

    Three things must hold: what differs from the constant background is one piece, of a brain's
    volume, and it does not cross the borders of the field of view. A head fails the last two even
    when its air was zeroed. A slab of a stripped brain fails the last: it counts as a head,
    which is the safe side, since the network finds the brain in it, too.
    """
    foreground, touched_cm2 = _foreground(image), 0.0
    if not foreground.any() or foreground.all():
        return False
    piece = largest_component(foreground)
    # Where a threshold zeroed the skull, brain and scalp are separate pieces.
    if piece.sum() < 0.95 * foreground.sum():
        return False
    affine = np.asarray(image.affine, np.float64)[:3, :3]
    for axis in range(3):
        u, v = np.delete(affine, axis, axis=1).T
        pixel_cm2 = float(np.linalg.norm(np.cross(u, v))) / 100
        for face in (0, -1):
            touched_cm2 = max(touched_cm2, float(np.take(piece, face, axis).sum()) * pixel_cm2)
    if touched_cm2 > CROSSING_CM2:
        return False
    low, high = STRIPPED_ML
    return low <= volume_ml(_filled(piece), image) <= high


def brain_mask_from_stripped(image: MetaTensor) -> MetaTensor:
    """Bool mask `(1, X, Y, Z)`: the largest piece that is not background, its holes filled."""
    mask = _filled(largest_component(_foreground(image)))
    return MetaTensor(torch.from_numpy(mask)[None], affine=image.affine)


def volume_ml(mask: NDArray[np.bool_], image: MetaTensor) -> float:
    """Volume of `mask (X, Y, Z)` on the grid of `image`."""
    voxel_mm3 = abs(float(np.linalg.det(np.asarray(image.affine, np.float64)[:3, :3])))
    return float(mask.sum()) * voxel_mm3 / 1000


def largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Only the largest face-connected component of `mask (X, Y, Z)`."""
    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return cast("NDArray[np.bool_]", labels == sizes.argmax())


def _foreground(image: MetaTensor) -> NDArray[np.bool_]:
    """Voxels `(X, Y, Z)` that differ from the commonest value on the faces of the volume."""
    array = image.numpy()[0]
    faces = [np.take(array, face, axis).ravel() for axis in range(3) for face in (0, -1)]
    values, counts = np.unique(np.concatenate(faces), return_counts=True)
    offset = np.abs(array - values[counts.argmax()])
    # Resampling with long kernels leaves traces of 1e-6 in what was an exact background.
    return cast("NDArray[np.bool_]", offset > 1e-4 * np.quantile(offset, 0.99))


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return cast("NDArray[np.bool_]", ndimage.binary_fill_holes(mask))
