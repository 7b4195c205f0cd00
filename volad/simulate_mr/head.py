"""One simulated MR of a healthy brain on the MNI152 grid, with what a scanner does to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch.nn.functional import interpolate

from volad.simulate_mr.contrast import Contrast
from volad.tissues import Map, Tissues

__all__ = ["brain_of_head", "detail_of", "image_of", "smooth_field"]

#: Where the choroid plexus hangs in the lateral ventricles, MNI152 mm, and how large it is.
PLEXUS_MM, PLEXUS_SIZE_MM = (23.0, -42.0, 8.0), (7.0, 12.0, 8.0)
#: Over how many voxels a warp changes.
WARP_VOXELS = 12


def detail_of(tissues: Tissues, t1: Map) -> Map:
    """What the T1 shows beyond three tissues: its deviation from their mean brightness.

    Args:
        tissues: of the T1.
        t1: `(X, Y, Z)` on the tissues' grid, without bias.

    Returns:
        `(X, Y, Z)` in units of the difference of white and grey matter, -1 to 1; 0 in fluid, whose
        brightness in T1 says nothing of it elsewhere.
    """
    shares = np.stack([tissues.grey, tissues.white, tissues.fluid])
    flat = shares.reshape(3, -1)
    # Least squares: a mean over each tissue would take in what its voxels hold of the others.
    levels = np.linalg.solve(flat @ flat.T + 1e-3 * np.eye(3), flat @ t1.ravel())
    spread = max(abs(float(levels[1] - levels[0])), 1e-6)
    expected = np.tensordot(levels, shares, 1)
    solid = tissues.brain * (1 - tissues.fluid)
    return np.asarray(np.clip((t1 - expected) / spread, -1, 1) * solid, np.float32)


def image_of(
    tissues: Tissues, detail: Map, iron: Map, contrast: Contrast, random: np.random.Generator
) -> Map:
    """`(X, Y, Z)`: the tissues in a contrast, before noise, at the T1's place.

    Args:
        tissues: of the head.
        detail: `detail_of` it.
        iron: `volad.simulate_mr.iron.iron_of` it.
        contrast: the sequence.
        random: of what varies within a tissue.
    """
    shape = tissues.brain.shape
    grey = contrast.grey * (1 + contrast.grey_varies * smooth_field(shape, 8, random))
    white = contrast.white * (1 + contrast.white_varies * smooth_field(shape, 12, random))
    if contrast.rim:
        near = np.exp(-tissues.ventricle_mm / contrast.rim_mm)
        # Caps sit at the horns more than along the walls, so the rim comes and goes.
        white = white * (1 + contrast.rim * near * np.clip(smooth_field(shape, 10, random), 0, 2))
    flow = np.clip(1 + contrast.fluid_varies * smooth_field(shape, 6, random), 0.2, 2)
    fluid = contrast.fluid * flow
    image = tissues.grey * grey + tissues.white * white + tissues.fluid * fluid
    solid = tissues.grey + tissues.white
    image += contrast.detail * max(abs(contrast.grey - contrast.white), 0.05) * detail * solid
    image *= np.exp(-contrast.iron * iron)
    plexus = _plexus(tissues, random) * tissues.fluid
    image += plexus * (contrast.plexus * max(contrast.grey, contrast.white) - image)
    return np.asarray(np.maximum(image, 0) * tissues.brain, np.float32)


def brain_of_head(tissues: Tissues, random: np.random.Generator) -> NDArray[np.bool_]:
    """A mask as an extraction finds it: up to some millimetres more or less than the brain."""
    rough = 0.15 * smooth_field(tissues.brain.shape, 8, random)
    blurred = ndimage.gaussian_filter(tissues.brain.astype(np.float32), 1.0)
    # Two voxels below the surface a Gaussian mean is 0.98: without a limit the mask gets holes.
    edge = np.minimum(random.uniform(0.35, 0.75) + rough, 0.95)
    return np.asarray((blurred > edge) & tissues.brain, bool)


def moved(
    maps: Sequence[Map], spacing_mm: float, random: np.random.Generator, warp_mm: float = 0.0
) -> list[Map]:
    """Maps `(X, Y, Z)`, all as far out of place as an affine alignment may leave a head.

    With `warp_mm` of another shape, too: smoothly displaced, with such a spread along each axis.
    """
    turn = Rotation.from_euler("xyz", random.normal(0, 1.2, 3), degrees=True).as_matrix()
    matrix = turn * (1 + random.normal(0, 0.02, 3))
    middle = (np.array(maps[0].shape) - 1) / 2
    offset = middle - matrix @ middle + random.normal(0, 1.0, 3) / spacing_mm
    if not warp_mm:
        return [ndimage.affine_transform(m, matrix, offset, order=1) for m in maps]
    shape = maps[0].shape
    places = np.indices(shape, np.float32)
    there = np.tensordot(matrix.astype(np.float32), places, 1)
    for axis, shift in zip(there, offset, strict=True):
        axis += shift + warp_mm / spacing_mm * smooth_field(shape, WARP_VOXELS, random)
    return [ndimage.map_coordinates(m, there, order=1) for m in maps]


def scanned(image: Map, brain: NDArray[np.bool_], random: np.random.Generator) -> Map:
    """An image with the scanner's resolution, the bias that correction leaves, and noise."""
    if random.random() < 0.5:
        # The tissues come from resampled scans of 2 mm: finer ones are sharper.
        edges = image - ndimage.gaussian_filter(image, 1.0)
        out = np.maximum(image + random.uniform(0.0, 0.9) * edges, 0)
    else:
        sigmas = np.full(3, random.uniform(0.0, 0.6))
        if random.random() < 0.7:  # thick slices
            sigmas[int(random.integers(3))] = random.uniform(0.6, 1.6)
        out = ndimage.gaussian_filter(image, sigmas)
    out *= np.exp(random.uniform(0, 0.08) * smooth_field(image.shape, 24, random))
    level = float(np.median(out[brain])) if brain.any() else 0.0
    noise = level * random.uniform(0.005, 0.05)
    pair = noise * random.standard_normal((2, *image.shape), dtype=np.float32)
    # Magnitudes, so the noise is Rician where there is little signal.
    return np.asarray(np.hypot(out + pair[0], pair[1]) * brain, np.float32)


def smooth_field(shape: Sequence[int], voxels: float, random: np.random.Generator) -> Map:
    """`(X, Y, Z)` smooth noise of spread 1, about; it changes over so many voxels."""
    coarse = [max(2, round(n / voxels)) + 1 for n in shape]
    draw = torch.from_numpy(random.standard_normal((1, 1, *coarse), dtype=np.float32))
    field = interpolate(draw, size=tuple(shape), mode="trilinear", align_corners=True)[0, 0]
    # Between its knots interpolated noise is weaker.
    return np.asarray(1.4 * field.numpy(), np.float32)


def _plexus(tissues: Tissues, random: np.random.Generator) -> Map:
    """Share of each voxel that the choroid plexus may fill."""
    x, y, z = tissues.world()
    out = np.zeros(tissues.brain.shape, np.float32)
    for side in (-1.0, 1.0):
        where = np.array(PLEXUS_MM) * (side, 1, 1) + random.normal(0, 3, 3)
        size = np.array(PLEXUS_SIZE_MM) * random.uniform(0.3, 1.2, 3)
        apart = sum(((a - c) / s) ** 2 for a, c, s in zip((x, y, z), where, size, strict=True))
        out = np.maximum(out, np.exp(-2 * np.asarray(apart)))
    return np.asarray(random.uniform(0, 1) * out, np.float32)
