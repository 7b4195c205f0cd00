"""Find places for lesions and paint them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from volad.synthetic.anatomy import Anatomy
from volad.synthetic.shapes import Pose, Shape, ellipsoid, library, shares
from volad.synthetic.spec import Lesion, Recipe

__all__ = ["Placed", "cut", "paint", "place_all"]

#: Places that are tried for a lesion before it is left out.
TRIES = 60
#: Least distance between two lesions; two voxels where they are larger.
GAP_MM = 4.0
#: Share of a lesion that must lie in its tissue. A lesion of a centilitre is in all of them.
LEAST = {"white": 0.75, "periventricular": 0.6, "deep": 0.8, "cortex": 0.35, "anywhere": 0.75}
#: Widest blur of an outline, as a share of the edge of a cube of the lesion's size.
EDGE_SHARE = 0.12
#: A real outline is scaled to a size by no more than this, so it is chosen among those like it.
MOST_SCALE = 1.5


@dataclass(frozen=True, eq=False)
class Placed:
    """A lesion with its place.

    Attributes:
        lesion: what was asked for.
        shape: name of the outline.
        box: the part of the anatomy's grid it lies in.
        share: how much of each of its voxels it fills, before it is cut.
    """

    lesion: Lesion
    shape: str
    box: tuple[slice, ...]
    share: NDArray[np.float32]


def place_all(
    anatomy: Anatomy, recipe: Recipe, random: np.random.Generator
) -> tuple[list[Placed], list[Lesion]]:
    """Find a place for each lesion, the largest first; returns those without one too."""
    found: list[Placed] = []
    without: list[Lesion] = []
    taken = np.zeros(anatomy.brain.shape, bool)
    for lesion in sorted(recipe.lesions, key=lambda one: -one.mm3):
        placed = _place(anatomy, lesion, recipe.edge_mm, taken, random)
        if placed is None:
            without.append(lesion)
            continue
        found.append(placed)
        _take(taken, placed, anatomy)
    return found, without


def cut(placed: Placed, anatomy: Anatomy) -> NDArray[np.float32]:
    """What a lesion fills of the voxels of its box, without air and fluid, in one piece."""
    share = placed.share * anatomy.brain[placed.box] * _tissue(anatomy, placed.box)
    labels, count = ndimage.label(share >= 0.5, np.ones((3, 3, 3)))
    if count < 2:
        return share
    largest = np.bincount(labels.ravel())[1:].argmax() + 1
    distance = ndimage.distance_transform_edt(labels != largest)
    return np.where(((labels == 0) | (labels == largest)) & (distance < 3), share, 0)


def paint(
    anatomy: Anatomy,
    share: NDArray[np.float32],
    box: tuple[slice, ...],
    recipe: Recipe,
    random: np.random.Generator,
) -> NDArray[np.float32]:
    """The part `box` of the scan, with a lesion that fills `share` of its voxels."""
    image = anatomy.image[box]
    change = recipe.contrast * anatomy.spread * anatomy.gain[box]
    if recipe.texture == "core":
        change = change * _core(share, anatomy.spacing_mm)
    if recipe.texture != "smooth":
        return image + share * change
    cloud = _cloud(share, anatomy.spacing_mm, random) * 0.25 * np.abs(change)
    grain = anatomy.noise * random.standard_normal(image.shape)
    new = _background(anatomy, box) + change + cloud + grain
    return np.asarray(image + share * (new - image), np.float32)


def _place(
    anatomy: Anatomy,
    lesion: Lesion,
    edge_mm: float,
    taken: NDArray[np.bool_],
    random: np.random.Generator,
) -> Placed | None:
    places = np.argwhere(_places(anatomy, lesion.tissue) & ~taken)
    if len(places) == 0:
        return None
    for _ in range(TRIES):
        shape, turn = _outline(anatomy, lesion, random)
        centre_mm = _centre_mm(anatomy, lesion, shape, turn, places, random)
        turn = _away(anatomy, centre_mm) @ turn if lesion.kind == "ovoid" else turn
        scale = (lesion.mm3 * anatomy.volume_ratio / shape.mm3) ** (1 / 3)
        pose = Pose(shape, centre_mm, turn * scale)
        # A blur as wide as the lesion would leave nothing that fills half a voxel.
        edge = min(edge_mm, EDGE_SHARE * lesion.mm3 ** (1 / 3))
        box, share = shares(pose, anatomy.to_template, anatomy.brain.shape, edge)
        placed = Placed(lesion, shape.name, box, share)
        if _fits(placed, anatomy, taken):
            return placed
    return None


def _places(anatomy: Anatomy, tissue: str) -> NDArray[np.bool_]:
    """Voxels in which a lesion may be centred."""
    depth = anatomy.depth_mm
    solid = anatomy.brain & (anatomy.fluid < 0.3)
    if tissue == "white":
        return (anatomy.white > 0.8) & (depth > 6)
    if tissue == "periventricular":
        near = (anatomy.ventricle_mm > 2) & (anatomy.ventricle_mm < 10)
        return (anatomy.white > 0.6) & near
    if tissue == "deep":
        return solid & (depth > 22)
    if tissue == "cortex":
        return (anatomy.grey > 0.6) & (depth > 2) & (depth < 14)
    return solid & (depth > 4)


def _outline(
    anatomy: Anatomy, lesion: Lesion, random: np.random.Generator
) -> tuple[Shape, NDArray[np.float64]]:
    """A shape, and how it is turned: a real one a little and to either side."""
    if lesion.kind == "stroke":
        wanted = lesion.mm3 * anatomy.volume_ratio
        close = [s for s in library() if abs(math.log(s.mm3 / wanted)) < 3 * math.log(MOST_SCALE)]
        # Below and above the library's sizes the nearest ones are scaled further.
        pool = close or sorted(library(), key=lambda s: abs(math.log(s.mm3 / wanted)))[:20]
        shape = pool[int(random.integers(len(pool)))]
        mirror = np.diag([random.choice([-1.0, 1.0]), 1.0, 1.0])
        turn = Rotation.from_euler("xyz", random.uniform(-15, 15, 3), degrees=True).as_matrix()
        return shape, turn @ mirror
    radius_mm = (3 * lesion.mm3 * anatomy.volume_ratio / (4 * np.pi)) ** (1 / 3)
    form = random.uniform(0.85, 1.2, 3)
    if lesion.kind == "ovoid":
        form[0] *= random.uniform(1.5, 2.2)
        return ellipsoid("ovoid", radius_mm * form / form.prod() ** (1 / 3)), np.eye(3)
    turn = Rotation.random(random_state=random).as_matrix()
    return ellipsoid("lacune", radius_mm * form / form.prod() ** (1 / 3)), turn


def _centre_mm(
    anatomy: Anatomy,
    lesion: Lesion,
    shape: Shape,
    turn: NDArray[np.float64],
    places: NDArray[np.int_],
    random: np.random.Generator,
) -> NDArray[np.float64]:
    if lesion.tissue == "home":
        side = np.array([np.sign(np.linalg.det(turn)), 1, 1])
        return np.asarray(shape.home_mm * side + random.normal(0, 4, 3))
    voxel = places[int(random.integers(len(places)))]
    matrix = anatomy.to_template
    return np.asarray(matrix[:3, :3] @ voxel + matrix[:3, 3])


def _away(anatomy: Anatomy, centre_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """A rotation that lays the first axis along the way out of the ventricles."""
    back = np.linalg.inv(anatomy.to_template)
    voxel = np.round(back[:3, :3] @ centre_mm + back[:3, 3]).astype(int)
    around = tuple(slice(max(v - 2, 0), v + 3) for v in voxel)
    slope = np.array([np.mean(g) for g in np.gradient(anatomy.ventricle_mm[around])])
    # A covector goes to the template's space by the inverse transpose.
    out = back[:3, :3].T @ slope
    length = np.linalg.norm(out)
    if not np.isfinite(length) or length < 1e-6:
        return np.eye(3)
    rotation, _ = Rotation.align_vectors(out[None] / length, [[1.0, 0.0, 0.0]])
    return np.asarray(rotation.as_matrix())


def _fits(placed: Placed, anatomy: Anatomy, taken: NDArray[np.bool_]) -> bool:
    """Whether a lesion lies in its tissue, is not cut to a stump, and touches no other."""
    whole = float(placed.share.sum())
    if whole == 0:
        return False
    share = cut(placed, anatomy)
    mask = share >= 0.5
    if not mask.any() or (mask & taken[placed.box]).any():
        return False
    least = 0.6 if placed.lesion.tissue in ("home", "cortex") else 0.75
    # The box ends where the grid does, so a lesion that reaches out of it is short of its size.
    if float(share.sum()) * anatomy.voxel_mm3 < least * placed.lesion.mm3:
        return False
    return _in_tissue(placed, share, anatomy) >= LEAST.get(placed.lesion.tissue, 0.6)


def _in_tissue(placed: Placed, share: NDArray[np.float32], anatomy: Anatomy) -> float:
    """The share of a lesion that lies in its tissue."""
    tissue, box = placed.lesion.tissue, placed.box
    if tissue in ("white", "periventricular"):
        there = anatomy.white[box]
    elif tissue == "cortex":
        there = anatomy.grey[box]
    else:
        there = 1 - anatomy.fluid[box]
    return float((share * there).sum() / placed.share.sum())


def _take(taken: NDArray[np.bool_], placed: Placed, anatomy: Anatomy) -> None:
    """Mark a lesion and the gap around it."""
    gap = np.maximum(np.ceil(GAP_MM / anatomy.spacing_mm), 2).astype(int)
    wide = tuple(
        slice(max(s.start - g, 0), s.stop + g) for s, g in zip(placed.box, gap, strict=True)
    )
    mask = np.zeros(taken.shape, bool)
    mask[placed.box] = placed.share > 0.05
    taken[wide] |= ndimage.maximum_filter(mask[wide], 2 * gap + 1)


def _tissue(anatomy: Anatomy, box: tuple[slice, ...]) -> NDArray[np.float32]:
    """How much of each voxel is no fluid; a lone voxel that looks like fluid is noise."""
    return np.asarray(1 - ndimage.median_filter(anatomy.fluid[box], 3), np.float32)


def _core(share: NDArray[np.float32], spacing_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 0.5 at the rim to three times that in the middle; 1 on average over the lesion."""
    mask = np.pad(share >= 0.5, 1)
    depth = ndimage.distance_transform_edt(mask, sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    profile = 0.5 + np.minimum(depth / max(float(depth.max()), 1e-6), 1)
    return np.asarray(profile * share.sum() / max(float((profile * share).sum()), 1e-6))


def _cloud(
    share: NDArray[np.float32], spacing_mm: NDArray[np.float64], random: np.random.Generator
) -> NDArray[np.float64]:
    """Smooth noise, of mean 0 and variance 1 over the lesion."""
    noise = ndimage.gaussian_filter(random.standard_normal(share.shape), 2.0 / spacing_mm)
    weight = share / max(float(share.sum()), 1e-6)
    noise -= (weight * noise).sum()
    return np.asarray(noise / max(float(np.sqrt((weight * noise**2).sum())), 1e-6))


def _background(anatomy: Anatomy, box: tuple[slice, ...]) -> NDArray[np.float32]:
    """Local mean of the tissue without fluid, over a few millimetres."""
    sigma = 3.0 / anatomy.spacing_mm
    reach = np.ceil(3 * sigma).astype(int)
    wide = tuple(slice(max(s.start - r, 0), s.stop + r) for s, r in zip(box, reach, strict=True))
    inner = tuple(
        slice(s.start - w.start, s.stop - w.start) for s, w in zip(box, wide, strict=True)
    )
    weight = np.maximum(anatomy.brain[wide] * (1 - anatomy.fluid[wide]), 1e-3)
    mean = ndimage.gaussian_filter(weight * anatomy.image[wide], sigma)
    return np.asarray((mean / ndimage.gaussian_filter(weight, sigma))[inner], np.float32)
