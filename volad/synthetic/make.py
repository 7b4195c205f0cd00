"""Make one synthetic volume of a healthy scan: with lesions, or with atrophy and no lesion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage

from volad.synthetic.anatomy import Anatomy, study
from volad.synthetic.lesions import Placed, cut, paint, place_all
from volad.synthetic.spec import Lesion, Recipe
from volad.synthetic.warp import displacement, move

__all__ = ["Made", "Painted", "make", "with_atrophy", "with_lesions"]

#: Fluid gives way to a growing lesion more readily than tissue does.
FLUID_GIVES = 4.0
#: With atrophy sulci grow by this share of what the ventricles grow by.
SULCI = 0.25
#: How far from a ventricle tissue still grows fully with it, and half of the way to none.
VENTRICLE_LINING_MM = 1.5


@dataclass(frozen=True)
class Painted:
    """One lesion as it came out.

    Attributes:
        label: its value in the label map.
        lesion: what was asked for.
        shape: name of the outline.
        mm3: volume of its voxels in the label map.
        centre: `(3,)` its centre of mass, voxels of the scan.
        contrast: mean change of its voxels, in the unit of `Recipe.contrast`; partial volume and
            the limits of the scan's values make it less than asked for.
    """

    label: int
    lesion: Lesion
    shape: str
    mm3: float
    centre: tuple[float, float, float]
    contrast: float


@dataclass(frozen=True, eq=False)
class Made:
    """A synthetic volume, on the scan's own grid.

    Attributes:
        image: `(X, Y, Z)` float32 in the scan's units.
        labels: `(X, Y, Z)` uint8, 0 where there is no lesion; a lesion is what fills half a voxel.
        lesions: one for each label.
        left_out: lesions for which no place was found.
    """

    image: NDArray[np.float32]
    labels: NDArray[np.uint8]
    lesions: tuple[Painted, ...]
    left_out: tuple[Lesion, ...]


def make(
    image: MetaTensor,
    brain: MetaTensor,
    to_template: NDArray[np.float64],
    recipe: Recipe,
    random: np.random.Generator,
) -> Made:
    """Paint lesions into a healthy scan.

    Args:
        image: `(1, X, Y, Z)` in native intensities.
        brain: `(1, X, Y, Z)` bool, on the same grid.
        to_template: `(4, 4)`, the scan's world to MNI152, mm.
        recipe: what to make.
        random: where all draws come from.
    """
    return with_lesions(image.numpy()[0], study(image, brain, to_template), recipe, random)


def with_lesions(
    whole: NDArray[np.float32], anatomy: Anatomy, recipe: Recipe, random: np.random.Generator
) -> Made:
    """As `make`, for a scan `(X, Y, Z)` that has been studied: several volumes of one scan."""
    placed, left_out = place_all(anatomy, recipe, random)
    if recipe.mass_effect:
        offsets = growth_field(anatomy, placed, recipe.mass_effect)
        fluid = move(anatomy.fluid, offsets, order=1)
        anatomy = replace(anatomy, image=move(anatomy.image, offsets), fluid=fluid)
    image, labels = anatomy.image.copy(), np.zeros(anatomy.brain.shape, np.uint8)
    low, high = float(whole.min()), float(whole.max())
    painted: list[Painted] = []
    for one in placed:
        share = cut(one, anatomy)
        new = np.clip(paint(anatomy, share, one.box, recipe, random), low, high)
        # The neighbour's part of a box that overlaps this one stays as it is.
        image[one.box] = np.where(share > 0, new, image[one.box])
        mask = share >= 0.5
        if not mask.any():  # what was pushed around it left it nothing
            left_out.append(one.lesion)
            continue
        label = len(painted) + 1
        labels[one.box][mask] = label
        painted.append(_record(label, one, mask, image, anatomy))
    return Made(
        _put_back(whole, image, anatomy),
        _put_back(np.zeros(whole.shape, np.uint8), labels, anatomy),
        tuple(painted),
        tuple(left_out),
    )


def with_atrophy(
    whole: NDArray[np.float32], anatomy: Anatomy, growth: float
) -> NDArray[np.float32]:
    """The scan `(X, Y, Z)` with wider ventricles and sulci, and no lesion.

    Args:
        whole: the scan.
        anatomy: of the scan.
        growth: by how much the ventricles grow, as a share; sulci grow by a quarter of it.
    """
    return _put_back(whole, move(anatomy.image, atrophy_field(anatomy, growth)), anatomy)


def atrophy_field(anatomy: Anatomy, growth: float) -> NDArray[np.float32]:
    """Where tissue comes from in `with_atrophy`: offsets `(3, X, Y, Z)` in voxels."""
    fluid = anatomy.fluid * anatomy.brain
    # Ventricles are thin in the young: their lining grows with them.
    inner = anatomy.brain * np.clip(2 - anatomy.ventricle_mm / VENTRICLE_LINING_MM, 0, 1)
    rate = np.maximum(np.log1p(growth) * inner, np.log1p(growth * SULCI) * fluid)
    tissue = anatomy.brain * (1 - np.maximum(fluid, inner))
    # Sulci lie at the surface, so only its outermost layer stands still.
    return displacement(rate, tissue, anatomy.depth_mm, anatomy.spacing_mm, free_mm=3.0)


def growth_field(
    anatomy: Anatomy, placed: Sequence[Placed], mass_effect: float
) -> NDArray[np.float32]:
    """Where tissue comes from once lesions pushed it away: offsets `(3, X, Y, Z)` in voxels."""
    filled = np.zeros(anatomy.brain.shape, np.float32)
    for one in placed:
        np.maximum(filled[one.box], one.share, out=filled[one.box])
    filled *= anatomy.brain
    give = anatomy.brain * (1 - filled) * (1 + (FLUID_GIVES - 1) * anatomy.fluid)
    return displacement(
        -np.log1p(-mass_effect) * filled, give, anatomy.depth_mm, anatomy.spacing_mm
    )


def _record(
    label: int,
    one: Placed,
    mask: NDArray[np.bool_],
    image: NDArray[np.float32],
    anatomy: Anatomy,
) -> Painted:
    change = (image[one.box] - anatomy.image[one.box])[mask]
    unit = anatomy.spread * anatomy.gain[one.box][mask]
    starts = [s.start + b.start for s, b in zip(one.box, anatomy.box, strict=True)]
    x, y, z = (np.array(ndimage.center_of_mass(mask)) + starts).tolist()
    mm3 = float(mask.sum()) * anatomy.voxel_mm3
    return Painted(label, one.lesion, one.shape, mm3, (x, y, z), float((change / unit).mean()))


def _put_back(whole: NDArray, part: NDArray, anatomy: Anatomy) -> NDArray:  # type: ignore[type-arg]
    out = whole.copy()
    out[anatomy.box] = part
    return out
