"""Iron of the deep nuclei, which a T1 hardly shows and T2, FLAIR and PD show dark."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from volad.tissues import Map, Tissues

__all__ = ["NUCLEI", "Nucleus", "iron_of"]

#: Spread of a nucleus's place from head to head, mm; an affine alignment leaves about as much.
APART_MM = 1.5


@dataclass(frozen=True)
class Nucleus:
    """An ellipsoid on the right side of the head, and its mirror image.

    Attributes:
        middle_mm: MNI152 x, y, z.
        radii_mm: half its axes, x, y, z.
        turn: about the vertical axis, degrees; its back end away from the midline.
        iron: beside the pallidum's.
    """

    middle_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    turn: float
    iron: float


#: Amounts after Hallgren and Sourander, "The effect of age on the non-haemin iron in the human
#: brain", Journal of Neurochemistry 3 (1958), above the cortex's; places and sizes are those of
#: stereotaxic atlases, rounded.
NUCLEI = {
    "pallidum": Nucleus((19, -4, -1), (4, 9, 6), 30, 1.0),
    "putamen": Nucleus((26, 3, 1), (5, 14, 9), 15, 0.5),
    "red nucleus": Nucleus((5, -20, -8), (3.5, 3.5, 4.5), 0, 0.9),
    "substantia nigra": Nucleus((10, -17, -12), (3, 6, 3.5), 30, 0.8),
    "dentate nucleus": Nucleus((15, -57, -34), (5, 8, 5), 20, 0.4),
}


def iron_of(tissues: Tissues, random: np.random.Generator) -> Map:
    """Draw the iron at each voxel, `(X, Y, Z)`: 1 is what the pallidum of an adult holds."""
    x, y, z = tissues.world()
    out = np.zeros(tissues.brain.shape, np.float32)
    for nucleus in NUCLEI.values():
        amount = nucleus.iron * random.uniform(0.5, 1.5)
        middle = np.array(nucleus.middle_mm) + random.normal(0, APART_MM, 3)
        radii = np.array(nucleus.radii_mm) * random.uniform(0.85, 1.2, 3)
        turn = Rotation.from_euler("z", nucleus.turn, degrees=True).as_matrix()
        # The two sides of a head are much alike.
        apart = np.broadcast_arrays(abs(x) - middle[0], y - middle[1], z - middle[2])
        along = np.tensordot(turn.astype(np.float32), np.stack(apart), 1)
        reach = np.sqrt(sum((a / r) ** 2 for a, r in zip(along, radii, strict=True)))
        inside = amount * np.clip((1.3 - reach) / 0.6, 0, 1)
        out = np.maximum(out, np.asarray(inside, np.float32))
    return np.asarray(out * (1 - tissues.fluid), np.float32)
