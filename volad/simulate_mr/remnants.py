"""What brain extraction leaves in a scan beside the brain: venous sinuses, patches of meninges."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from volad.simulate_mr.head import smooth_field
from volad.tissues import Map, Tissues

__all__ = ["SINUSES_MM", "leave_in", "remnants_of"]

#: Courses of the dural sinuses on the right side of the head, MNI152 x, y, z, from the front or
#: the middle; the second one has a mirror image. Read off the template's surface.
SINUSES_MM = {
    "superior sagittal": (
        (0, 67, 8), (0, 62, 30), (0, 40, 55), (0, 10, 71), (0, -25, 79), (0, -55, 73),
        (0, -80, 54), (0, -97, 28), (0, -103, 2), (0, -100, -10),
    ),
    "transverse": ((0, -100, -10), (20, -98, -14), (42, -84, -19), (56, -62, -22), (52, -48, -34)),
}  # fmt: skip
#: Their radii, and how far their surface strays, mm.
RADII_MM, STRAYS_MM = (1.5, 5.0), 1.5
#: Thickest patch of meninges, in voxels.
THICKEST = 2.5


def remnants_of(tissues: Tissues, random: np.random.Generator) -> tuple[Map, Map]:
    """Draw the share of each voxel that sinuses and meninges fill, both `(X, Y, Z)`."""
    shape = tissues.brain.shape
    sinus = np.zeros(shape, np.float32)
    for apart in _distances(shape, tissues.affine.tobytes()):
        if random.random() < 0.3:  # one side's is often narrow, and most extraction gets most of it
            continue
        radius = random.uniform(*RADII_MM) + STRAYS_MM * smooth_field(shape, 6, random)
        inside = (radius - apart) / float(tissues.spacing_mm[0]) + 0.5
        sinus = np.maximum(sinus, np.clip(inside, 0, 1))
    # A Gaussian mean of the brain falls with the distance to its surface as the normal integral.
    blurred = ndimage.gaussian_filter(tissues.brain.astype(np.float32), 1.0)
    patchy = smooth_field(shape, 8, random) - random.uniform(0.5, 2.0)
    thick = np.clip(THICKEST * patchy, 0, THICKEST)
    meninges = (blurred > special.ndtr(-thick)) & ~tissues.brain
    return sinus, meninges.astype(np.float32)


def leave_in(image: Map, remnants: tuple[Map, Map], random: np.random.Generator) -> Map:
    """`(X, Y, Z)`: an image with remnants in the brightness that they have in some sequence."""
    sinus, meninges = remnants
    brightest = float(np.quantile(image[image > 0], 0.99)) if (image > 0).any() else 0.0
    # Blood that flows leaves no signal, unless slowly or into a gradient echo's slice.
    blood = random.uniform(0.02, 0.4) if random.random() < 0.7 else random.uniform(0.4, 1.4)
    varies = np.clip(1 + random.uniform(0, 0.4) * smooth_field(image.shape, 4, random), 0, 2)
    for share, level in ((meninges, random.uniform(0.05, 1.3)), (sinus, blood)):
        image = image + share * (level * brightest * varies - image)
    return np.asarray(image, np.float32)


@lru_cache(maxsize=2)
def _distances(shape: tuple[int, ...], affine: bytes) -> list[NDArray[np.float32]]:
    """Each sinus's distance at each voxel `(X, Y, Z)`, mm: the sagittal one's, right, left."""
    to_mm = np.frombuffer(affine).reshape(4, 4)
    spacing = np.linalg.norm(to_mm[:3, :3], axis=0)
    out = []
    for name, course in SINUSES_MM.items():
        for side in (1, -1) if name == "transverse" else (1,):
            ends = np.array(course, float) * (side, 1, 1)
            steps = np.linspace(0, len(ends) - 1, 200)
            points = np.stack([np.interp(steps, range(len(ends)), axis) for axis in ends.T], 1)
            voxels = (points - to_mm[:3, 3]) @ np.linalg.inv(to_mm[:3, :3]).T
            away = np.ones(shape, bool)
            away[tuple(np.clip(np.round(voxels).astype(int), 0, np.array(shape) - 1).T)] = False
            apart = ndimage.distance_transform_edt(away, spacing)
            out.append(np.asarray(apart, np.float32))
    return out
