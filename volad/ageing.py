"""A healthy young brain's tissues as old age has them: wider ventricles, horns and sulci."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from volad.tissues import Map, Tissues

__all__ = ["aged", "blob", "wider"]

#: Where the horns of the lateral ventricles widen with age, MNI152 mm; drawn about these.
HORNS_MM = ((34.0, -12.0, -23.0), (25.0, -74.0, 3.0))


def aged(
    tissues: Tissues, ventricles_mm: float, sulci: float, random: np.random.Generator
) -> Tissues:
    """The same head with more fluid; grey and white matter give way to it alike.

    Args:
        tissues: of a healthy head.
        ventricles_mm: how far the ventricles' walls go out.
        sulci: how much more fluid the sulci hold, as a share.
        random: places the horns.
    """
    fluid = wider(tissues, ventricles_mm, sulci, random)
    rest = np.clip((1 - fluid) / np.maximum(tissues.grey + tissues.white, 1e-3), 0, 1)
    return replace(
        tissues,
        grey=np.asarray(rest * tissues.grey, np.float32),
        white=np.asarray(rest * tissues.white, np.float32),
        fluid=fluid,
        ventricle_mm=np.maximum(tissues.ventricle_mm - ventricles_mm, 0),
    )


def wider(tissues: Tissues, ventricles_mm: float, sulci: float, random: np.random.Generator) -> Map:
    """Share of fluid `(X, Y, Z)` of the head that `aged` makes."""
    grown = 1 / (1 + np.exp(2.5 * (tissues.ventricle_mm - ventricles_mm)))
    grown *= ventricles_mm > 0.3
    near = ndimage.gaussian_filter(tissues.fluid, 1.0)
    in_sulci = tissues.fluid * (1 + sulci) + 0.35 * sulci * near
    wide = np.maximum(in_sulci, grown)
    for horn in HORNS_MM:
        for side in (-1.0, 1.0):
            where = np.array(horn) * (side, 1, 1) + random.normal(0, 2, 3)
            size = np.array([0.5, 1.2, 0.5]) * ventricles_mm * random.uniform(0.3, 1.5)
            wide = np.maximum(wide, blob(tissues, where, np.maximum(size, 0.1)))
    return np.asarray(np.clip(wide, 0, 1) * tissues.brain, np.float32)


def blob(tissues: Tissues, where: NDArray[np.float64], size: NDArray[np.float64]) -> Map:
    """A soft ellipsoid of the brain `(X, Y, Z)`, 0 to 1; centre and radii in MNI152 mm."""
    x, y, z = tissues.world()
    apart = sum(((a - c) / s) ** 2 for a, c, s in zip((x, y, z), where, size, strict=True))
    return np.asarray(
        np.minimum(1.8 * np.exp(-0.7 * np.asarray(apart)), 1) * tissues.brain, np.float32
    )
