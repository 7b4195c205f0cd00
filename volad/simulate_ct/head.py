"""Tissues to Hounsfield units, before any scanner: brain, membranes, vessels, lime, skull."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.special import expit

from volad.ageing import blob, wider
from volad.simulate_ct.look import Look
from volad.tissues import Map, Tissues

__all__ = ["Head", "head_of"]

AIR, FAT, SKIN = -1000.0, -85.0, 40.0
#: Where lime is found in healthy adults.
CHOROID_MM, PINEAL_MM, PALLIDUM_MM = (23.0, -42.0, 8.0), (0.0, -29.0, 3.0), (20.0, -4.0, 0.0)
#: How deep the sulci of the brain's surface reach.
SULCI_MM = 14.0
#: Courses of the arteries of one side, MNI152 mm: carotid and middle cerebral, anterior cerebral,
#: basilar and posterior cerebral.
ARTERIES_MM = (
    ((13, 0, -30), (12, 4, -18), (9, 4, -13), (24, 4, -16), (36, 0, -10), (42, -10, 0)),
    ((9, 4, -13), (2, 14, -13), (1, 28, -4), (1, 34, 12)),
    ((0, -28, -48), (0, -20, -24), (10, -22, -18), (22, -32, -10)),
)


@dataclass(frozen=True, eq=False)
class Head:
    """A head without noise or blur.

    Attributes:
        hu: `(X, Y, Z)` Hounsfield units.
        outside_mm: `(X, Y, Z)` distance to the brain's surface, negative inside it.
    """

    hu: Map
    outside_mm: Map


def head_of(tissues: Tissues, look: Look, random: np.random.Generator) -> Head:
    """Fill the tissues of a head with the values of a look; the random draws place the lime."""
    outside = _outside_mm(tissues)
    fluid = wider(tissues, look.ventricle_growth_mm, look.sulcus_growth, random)
    fluid = fluid * (1 - look.fullness * expit((outside + SULCI_MM) / 2))
    fluid = np.maximum(fluid, _rim_fluid(tissues, look, outside))
    total = tissues.grey + tissues.white
    white = np.where(total > 1e-3, tissues.white / np.maximum(total, 1e-3), 0)
    hu = (1 - fluid) * (look.grey + white * (look.white - look.grey)) + look.fluid * fluid
    for share, value in [*_membranes(tissues, look, outside), _arteries(tissues, look)]:
        hu = hu + np.clip(share, 0, 1) * (value - hu)
    for share, value in _lime(tissues, look, random):
        hu = np.maximum(hu, share * value)
    return Head(_wrapped(np.asarray(hu, np.float32), outside, look, random), outside)


def _outside_mm(tissues: Tissues) -> Map:
    spacing = tissues.spacing_mm
    out = ndimage.distance_transform_edt(~tissues.brain, sampling=spacing)
    into = ndimage.distance_transform_edt(tissues.brain, sampling=spacing)
    return np.asarray(out - into, np.float32)


def _rim_fluid(tissues: Tissues, look: Look, outside: Map) -> Map:
    """Share of fluid between brain and bone; more in front and above, where a brain shrinks."""
    _, y, z = tissues.world()
    reach = look.rim_fluid_mm * expit((y + 0.6 * z - 10) / 12)
    shrunk = np.where(reach > 0.3, expit((outside + reach) / 0.6), 0)
    return np.asarray(np.where(outside > 0, outside < look.gap_mm, shrunk), np.float32)


def _arteries(tissues: Tissues, look: Look) -> tuple[Map, float]:
    """Carotid, middle and anterior cerebral and basilar arteries: share of the voxel, and value."""
    points, steps = [], np.linspace(0, 1, 12)[:, None]
    for line in ARTERIES_MM:
        for side in (-1.0, 1.0):
            corners = np.array(line) * (side, 1, 1)
            points += [a + steps * (b - a) for a, b in pairwise(corners)]
    apart, _ = cKDTree(np.concatenate(points)).query(
        np.stack(np.broadcast_arrays(*tissues.world()), axis=-1), distance_upper_bound=8.0
    )
    share = np.clip((look.artery_mm - apart) / tissues.spacing_mm.min() + 0.5, 0, 1)
    return np.asarray(share * tissues.brain, np.float32), look.blood


def _membranes(tissues: Tissues, look: Look, outside: Map) -> list[tuple[Map, float]]:
    """Falx, tentorium and the venous sinuses along them: share of the voxel, and value."""
    x, y, z = tissues.world()
    within, spaces = outside < look.gap_mm, 0.5 + 0.5 * tissues.fluid
    above = 1 / (1 + np.exp(-(z - 28 + 0.25 * np.abs(y)) / 4))  # the falx ends above the callosum
    falx = look.membrane * np.exp(-((x / 1.8) ** 2)) * above * spaces
    rim = expit((outside + look.sinus_mm) / 1.5)
    sagittal = np.exp(-((x / look.sinus_mm) ** 2)) * rim * ((z > 5) | (y < -75))
    course = -20 + look.sinus_shift_mm - 0.15 * (y + 70) - 0.004 * x**2
    low = np.exp(-(((z - course) / (1.5 * look.sinus_mm)) ** 2)) * (y < -35)
    transverse = low * rim * (np.abs(x) < 62)
    # A tent: low at the sides and behind, rising to the straight sinus and the splenium.
    ridge = np.exp(-((x / 22) ** 2))
    height = -28 + 0.25 * (y + 90) + (13 + 0.25 * (y + 90)) * ridge + look.tent_shift_mm
    behind = ((y < -34) | ((np.abs(x) > 14) & (y < -12))) * (y > -94)  # in front: petrous ridges
    tent = np.exp(-(((z - height) / 2.2) ** 2)) * behind
    wide = 0.7 * look.sinus_mm
    straight = 1.4 * np.exp(-((x / wide) ** 2) - ((z - height) / wide) ** 2) * behind
    pairs = [
        (falx, look.dura),
        (look.membrane * tent * spaces, look.dura),
        (straight, look.blood),
        (sagittal, look.blood),
        (1.2 * transverse, look.blood),
    ]
    return [(np.asarray(share * within, np.float32), value) for share, value in pairs]


def _lime(tissues: Tissues, look: Look, random: np.random.Generator) -> list[tuple[Map, float]]:
    """Calcified pieces: share of the voxel, and value."""
    pieces: list[tuple[Map, float]] = []
    for side in (-1.0, 1.0):
        where = np.array(CHOROID_MM) * (side, 1, 1) + random.normal(0, 3, 3)
        within = np.clip(2 - tissues.ventricle_mm / 4, 0.3, 1)  # the plexus hangs in the ventricle
        size = random.uniform((2, 3, 2), (4, 8, 6))
        pieces.append(
            (np.asarray(blob(tissues, where, size) * within, np.float32), look.choroid_calcified)
        )
        where = np.array(PALLIDUM_MM) * (side, 1, 1) + random.normal(0, 2, 3)
        size = random.uniform(2.0, 4.0, 3)
        pieces.append((blob(tissues, where, size), look.basal_calcified))
    where = np.array(PINEAL_MM) + random.normal(0, 2, 3)
    pieces.append((blob(tissues, where, random.uniform(1.2, 2.8, 3)), look.pineal_calcified))
    for _ in range(int(random.integers(1, 4))):
        where = np.array([0.0, random.uniform(-60, 50), random.uniform(45, 70)])
        size = np.array([1.0, random.uniform(3, 10), random.uniform(2, 5)])
        pieces.append((blob(tissues, where, size), look.falx_calcified))
    return [(share, value) for share, value in pieces if value > 0]


def _wrapped(hu: Map, outside: Map, look: Look, random: np.random.Generator) -> Map:
    """The brain with a skull and a scalp around it, and air outside them."""
    texture = ndimage.gaussian_filter(random.standard_normal(hu.shape), 2.0)
    thickness = look.skull_mm * (1 + 2.0 * texture)
    bone = look.bone * (1 + 1.0 * texture)
    out = np.where(outside > look.gap_mm - 1, np.maximum(look.dura, hu), hu)
    out = np.where(outside > look.gap_mm, bone, out)
    edge = look.gap_mm + np.maximum(thickness, 2.0)
    out = np.where(outside > edge, FAT, out)
    out = np.where(outside > edge + look.scalp_mm - 2, SKIN, out)
    return np.asarray(np.where(outside > edge + look.scalp_mm, AIR, out), np.float32)
