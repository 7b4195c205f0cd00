"""Synthetic bleeding and infarction in head CT: where and how these lie, in Hounsfield units.

Shapes by anatomy, not by patients' masks, but for infarcts, which take a real stroke's outline.
Nothing here is a patient's lesion.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from volad.errors import VoladError
from volad.synthetic.shapes import Pose, library, shares

__all__ = ["BLEEDS", "CT_KINDS", "CTLesion", "CTScan", "paint_ct"]

Map = NDArray[np.float32]
#: Fresh blood, by where it is.
BLEEDS = ("epidural", "subdural", "intraparenchymal", "subarachnoid")
#: And the early, dark swelling of an infarct.
CT_KINDS = (*BLEEDS, "infarct")
#: Halvings of an interval to find the size that gives a volume.
HALVINGS = 14
#: Largest radius or thickness that is tried.
LARGEST_MM = 70.0
#: Texture of blood, smooth over some millimetres.
MOTTLE_HU, MOTTLE_MM = 3.0, 3.0
EDGE_MM = 0.8
#: Below this a voxel holds fluid, above the other brain; in between it is partial volume.
FLUID_HU, BRAIN_HU = 8.0, 26.0


@dataclass(frozen=True)
class CTLesion:
    """One lesion to paint.

    Attributes:
        kind: one of `CT_KINDS`.
        hu: what blood has, in Hounsfield units; of an infarct, how much darker (negative) it is
            than the brain it is in.
        ml: volume in the scan.
    """

    kind: str
    hu: float
    ml: float

    def __post_init__(self) -> None:
        if self.kind not in CT_KINDS:
            raise ValueError(f"kind must be one of {', '.join(CT_KINDS)}, got {self.kind!r}")
        if not 0.05 <= self.ml <= 150:
            raise ValueError(f"ml must be from 0.05 to 150, got {self.ml}")
        low, high = (-40, -1) if self.kind == "infarct" else (30, 120)
        if not low <= self.hu <= high:
            raise ValueError(f"hu of {self.kind} must be from {low} to {high}, got {self.hu}")


@dataclass(frozen=True, eq=False)
class CTScan:
    """A lesion-free head CT.

    Attributes:
        hu: `(X, Y, Z)` Hounsfield units.
        brain: bool, all that lies inside the skull.
        affine: `(4, 4)`, voxel to mm.
        to_template: `(4, 4)`, voxel to MNI152 mm.
    """

    hu: Map
    brain: NDArray[np.bool_]
    affine: NDArray[np.float64]
    to_template: NDArray[np.float64]

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        """`(3,)` distance between voxels."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0), np.float64)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000


def paint_ct(
    scan: CTScan, lesion: CTLesion, random: np.random.Generator
) -> tuple[Map, NDArray[np.bool_]]:
    """The scan `(X, Y, Z)` with a lesion, and the voxels that it fills by half or more.

    Raises:
        VoladError: no place for so large a lesion of its kind was found.
    """
    share = _share(scan, lesion, random)
    soft = ndimage.gaussian_filter(share, EDGE_MM / scan.spacing_mm) * scan.brain
    if lesion.kind == "subarachnoid":
        soft = share  # the spaces have their own partial volume
    change = lesion.hu * soft
    if lesion.kind != "infarct":
        mottle = ndimage.gaussian_filter(
            random.standard_normal(scan.hu.shape), MOTTLE_MM / scan.spacing_mm
        )
        mottle *= MOTTLE_HU / max(float(mottle.std()), 1e-6)
        # Noise stays: blood takes the place of the tissue's mean, not of its grain.
        change = soft * (lesion.hu + mottle - _level(scan))
    return np.asarray(scan.hu + change, np.float32), np.asarray(share >= 0.5, bool)


def _level(scan: CTScan) -> Map:
    """Local mean of the brain, over a few millimetres."""
    sigma = 1.5 / scan.spacing_mm
    inside = scan.brain.astype(np.float32)
    mean = ndimage.gaussian_filter(np.clip(scan.hu, -20, 80) * inside, sigma)
    return np.asarray(mean / np.maximum(ndimage.gaussian_filter(inside, sigma), 1e-3), np.float32)


def _share(scan: CTScan, lesion: CTLesion, random: np.random.Generator) -> Map:
    for _ in range(20):
        if lesion.kind == "infarct":
            share = _infarct(scan, lesion.ml, random)
        else:
            share = _sized(scan, _GROWING[lesion.kind](scan, random), lesion.ml)
        if share is not None:
            return share
    raise VoladError(f"no place for {lesion.ml:g} ml of {lesion.kind} in this scan")


def _sized(scan: CTScan, grown: Callable[[float], Map], ml: float) -> Map | None:
    """The share of each voxel in a shape that grows with one length, at the wanted volume."""
    low, high = 0.0, LARGEST_MM
    if float(grown(high).sum()) * scan.voxel_ml < ml:
        return None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if float(grown(middle).sum()) * scan.voxel_ml < ml:
            low = middle
        else:
            high = middle
    share = grown(high)
    full = float(share.sum()) * scan.voxel_ml
    # A scan too coarse, or a place too narrow, gives jumps instead.
    return share if 0.6 * ml <= full <= 1.6 * ml and (share >= 0.5).any() else None


def _places(scan: CTScan) -> tuple[NDArray[np.float64], Map]:
    """Mm of every voxel, `(3, X, Y, Z)` in the scan's world, and depth below the surface."""
    index = np.indices(scan.brain.shape).reshape(3, -1)
    world = scan.affine[:3, :3] @ index + scan.affine[:3, 3:]
    depth = ndimage.distance_transform_edt(np.pad(scan.brain, 1), sampling=scan.spacing_mm)
    return world.reshape(3, *scan.brain.shape), depth[1:-1, 1:-1, 1:-1].astype(np.float32)


def _template_z(scan: CTScan) -> NDArray[np.float64]:
    x, y, z = np.meshgrid(*map(np.arange, scan.brain.shape), indexing="ij", sparse=True)
    row = scan.to_template[2]
    return np.asarray(row[0] * x + row[1] * y + row[2] * z + row[3])


def _template_x(scan: CTScan) -> NDArray[np.float64]:
    x, y, z = np.meshgrid(*map(np.arange, scan.brain.shape), indexing="ij", sparse=True)
    row = scan.to_template[0]
    return np.asarray(row[0] * x + row[1] * y + row[2] * z + row[3])


def _one_of(where: NDArray[np.bool_], random: np.random.Generator) -> tuple[int, int, int]:
    at = np.argwhere(where)
    if len(at) == 0:
        raise VoladError("the brain lies outside MNI152, so no place for a lesion is known")
    x, y, z = at[int(random.integers(len(at)))]
    return int(x), int(y), int(z)


def _at_convexity(
    scan: CTScan, depth: Map, random: np.random.Generator
) -> tuple[tuple[int, int, int], NDArray[np.bool_]]:
    """A place under the skull at a side, and that side of the brain."""
    x, z = _template_x(scan), _template_z(scan)
    left = random.random() < 0.5
    side = scan.brain & ((x < -2) if left else (x > 2))
    rim = side & (depth < 1.8 * scan.spacing_mm.max()) & (np.abs(x) > 30) & (z > 0) & (z < 55)
    return _one_of(rim, random), side


def _epidural(scan: CTScan, random: np.random.Generator) -> Callable[[float], Map]:
    """A lens: the part of the brain's space in a ball whose centre lies outside the skull."""
    world, depth = _places(scan)
    at, side = _at_convexity(scan, depth, random)
    here = world[(slice(None), *at)]
    middle = np.array([world[i][scan.brain].mean() for i in range(3)])
    out = (here - middle) / np.linalg.norm(here - middle)
    shift = random.uniform(0.8, 1.3)

    def grown(thick_mm: float) -> Map:
        centre = here + out * shift * thick_mm
        apart = np.sqrt(sum((world[i] - centre[i]) ** 2 for i in range(3)))
        edge = np.clip((1 + shift) * thick_mm - apart + 0.5, 0, 1)
        return np.asarray(edge * side, np.float32)

    return grown


def _subdural(scan: CTScan, random: np.random.Generator) -> Callable[[float], Map]:
    """A crescent: a layer over one hemisphere, thickest at a place and thin at its ends."""
    world, depth = _places(scan)
    at, side = _at_convexity(scan, depth, random)
    reach_mm = random.uniform(55, 75)
    apart = np.sqrt(sum((world[i] - world[(i, *at)]) ** 2 for i in range(3)))
    taper = np.sqrt(np.clip(1 - (apart / reach_mm) ** 2, 0, 1))

    def grown(thick_mm: float) -> Map:
        return np.asarray(np.clip(thick_mm * taper - depth + 1, 0, 1) * side, np.float32)

    return grown


def _intraparenchymal(scan: CTScan, random: np.random.Generator) -> Callable[[float], Map]:
    """A lumpy ellipsoid in the brain's depth."""
    world, depth = _places(scan)
    z = _template_z(scan)
    solid = scan.brain & (_fluid(scan) < 0.3) & (depth > 12) & (z > -10) & (z < 50)
    at = _one_of(solid, random)
    form = random.uniform(0.8, 1.25, 3)
    form /= form.prod() ** (1 / 3)
    lumps = ndimage.gaussian_filter(random.standard_normal(scan.hu.shape), 5.0 / scan.spacing_mm)
    lumps *= 0.12 / max(float(lumps.std()), 1e-6)
    apart = np.sqrt(sum(((world[i] - world[(i, *at)]) / form[i]) ** 2 for i in range(3)))

    def grown(radius_mm: float) -> Map:
        edge = np.clip(radius_mm * (1 + lumps) - apart + 0.5, 0, 1)
        return np.asarray(edge * (depth > 1) * scan.brain, np.float32)

    return grown


def _subarachnoid(scan: CTScan, random: np.random.Generator) -> Callable[[float], Map]:
    """Blood in place of fluid: in basal cisterns, Sylvian fissures or sulci about a place."""
    world, depth = _places(scan)
    fluid = _fluid(scan) * scan.brain
    x, z = _template_x(scan), _template_z(scan)
    ventricles = (depth > 25) & (np.abs(x) < 30) & (z > -8)
    spaces = np.where(ventricles, 0, fluid)
    at = _one_of((spaces > 0.6) & (depth > 3), random)
    apart = np.sqrt(sum((world[i] - world[(i, *at)]) ** 2 for i in range(3)))

    def grown(radius_mm: float) -> Map:
        return np.asarray(spaces * np.clip(radius_mm - apart + 0.5, 0, 1), np.float32)

    return grown


def _fluid(scan: CTScan) -> Map:
    """Share of fluid, read off the Hounsfield units."""
    smooth = ndimage.gaussian_filter(np.clip(scan.hu, -20, 80), 0.7 / scan.spacing_mm)
    return np.asarray(np.clip((BRAIN_HU - smooth) / (BRAIN_HU - FLUID_HU), 0, 1), np.float32)


def _infarct(scan: CTScan, ml: float, random: np.random.Generator) -> Map | None:
    """The outline of a real stroke, at home or mirrored, scaled to the volume."""
    ratio = abs(np.linalg.det(scan.to_template[:3, :3])) / (1000 * scan.voxel_ml)
    wanted = 1000 * ml * ratio
    pool = sorted(library(), key=lambda s: abs(math.log(s.mm3 / wanted)))[:30]
    shape = pool[int(random.integers(len(pool)))]
    mirror = np.diag([random.choice([-1.0, 1.0]), 1.0, 1.0])
    scale = (wanted / shape.mm3) ** (1 / 3)
    pose = Pose(shape, mirror @ shape.home_mm, mirror * scale)
    box, part = shares(pose, scan.to_template, scan.brain.shape, EDGE_MM)
    share = np.zeros(scan.brain.shape, np.float32)
    share[box] = part
    share *= scan.brain * (1 - _fluid(scan))
    full = float(share.sum()) * scan.voxel_ml
    return share if 0.6 * ml <= full and (share >= 0.5).any() else None


_GROWING: dict[str, Callable[[CTScan, np.random.Generator], Callable[[float], Map]]] = {
    "epidural": _epidural,
    "subdural": _subdural,
    "intraparenchymal": _intraparenchymal,
    "subarachnoid": _subarachnoid,
}
