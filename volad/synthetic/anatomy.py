"""What a scan's voxels are, so that a lesion can be put where one may be and be told from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage

from volad.errors import InputError
from volad.preprocess.align import load_template
from volad.preprocess.resample import resample

__all__ = ["Anatomy", "study"]

#: Voxels that the levels of the tissues are found from.
SAMPLED = 200_000
#: Room around the brain, in voxels, for what reaches beyond it while it is worked out.
MARGIN = 4
#: The lateral and third ventricles lie within this of MNI152's midline.
VENTRICLES_MM = 32.0
DEEP_MM = 18.0
#: Tissues that differ by less than this share of the brain's range are not told apart.
LEAST_SPREAD = 0.02


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A healthy scan around its brain; arrays `(X, Y, Z)` on the scan's grid, cut to `box`.

    Attributes:
        image: in the scan's units.
        brain: bool.
        box: which part of the scan's grid.
        to_template: `(4, 4)`, voxels of the cut grid to MNI152 mm.
        spacing_mm: `(3,)` distance between voxels along each axis.
        voxel_mm3: volume of a voxel.
        volume_ratio: volume in MNI152 over volume in the scan.
        grey: share of grey matter, 0 to 1.
        white: share of white matter.
        fluid: share of cerebrospinal fluid.
        levels: what grey matter, white matter and fluid look like, in the scan's units.
        gain: brightness of the place, about 1: the scan's own bias field, roughly.
        noise: standard deviation of the scan's noise in white matter.
        depth_mm: distance to the brain's surface.
        ventricle_mm: distance to the lateral ventricles; infinite where there are none.
    """

    image: NDArray[np.float32]
    brain: NDArray[np.bool_]
    box: tuple[slice, ...]
    to_template: NDArray[np.float64]
    spacing_mm: NDArray[np.float64]
    voxel_mm3: float
    volume_ratio: float
    grey: NDArray[np.float32]
    white: NDArray[np.float32]
    fluid: NDArray[np.float32]
    levels: tuple[float, float, float]
    gain: NDArray[np.float32]
    noise: float
    depth_mm: NDArray[np.float32]
    ventricle_mm: NDArray[np.float32]

    @property
    def spread(self) -> float:
        """The difference between white and grey matter: the unit of contrast."""
        return abs(self.levels[1] - self.levels[0])


def study(image: MetaTensor, brain: MetaTensor, to_template: NDArray[np.float64]) -> Anatomy:
    """Find the tissues of a healthy scan, whatever its contrast.

    A mixture of three normal laws, with MNI152's tissue probabilities as its weights, fitted by
    expectation and maximisation (Ashburner and Friston, "Unified segmentation", NeuroImage 26
    (2005), without its deformation), twice: the second time with the scan's bias taken out.

    Args:
        image: `(1, X, Y, Z)` in native intensities.
        brain: `(1, X, Y, Z)` bool, on the same grid.
        to_template: `(4, 4)`, the scan's world to MNI152, mm (`volad.preprocess.align`).

    Raises:
        InputError: the brain lies outside the template, or white and grey matter look alike.
    """
    whole = brain.numpy()[0] > 0
    box = _around(whole)
    affine = np.asarray(image.affine, np.float64).copy()
    affine[:3, 3] += affine[:3, :3] @ [s.start for s in box]
    values, inside = image.numpy()[0][box].astype(np.float32), whole[box]
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    priors = _priors(affine, to_template, inside, spacing_mm)
    gain = np.ones(values.shape, np.float32)
    for _ in range(2):
        shares, levels = _mixture(values / gain, inside, priors)
        gain = _gain(values, shares[1], levels[1], inside, spacing_mm)
    spread_of_all = float(np.subtract(*np.percentile(values[inside], [98, 2])))
    if abs(levels[1] - levels[0]) < LEAST_SPREAD * spread_of_all:
        raise InputError("white and grey matter look alike in it, so lesions have no contrast")
    depth_mm = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=spacing_mm)
    depth_mm = depth_mm[1:-1, 1:-1, 1:-1].astype(np.float32)
    moved = to_template @ affine
    return Anatomy(
        image=values,
        brain=inside,
        box=box,
        to_template=moved,
        spacing_mm=spacing_mm,
        voxel_mm3=float(abs(np.linalg.det(affine[:3, :3]))),
        volume_ratio=float(abs(np.linalg.det(to_template[:3, :3]))),
        grey=shares[0],
        white=shares[1],
        fluid=shares[2],
        levels=levels,
        gain=gain,
        noise=_noise(values, shares[1] > 0.9),
        depth_mm=depth_mm,
        ventricle_mm=_ventricle_mm(shares[2], depth_mm, moved, spacing_mm),
    )


def _around(brain: NDArray[np.bool_]) -> tuple[slice, ...]:
    (box,) = ndimage.find_objects(brain.astype(np.uint8))
    return tuple(
        slice(max(s.start - MARGIN, 0), min(s.stop + MARGIN, n))
        for s, n in zip(box, brain.shape, strict=True)
    )


def _priors(
    affine: NDArray[np.float64],
    to_template: NDArray[np.float64],
    brain: NDArray[np.bool_],
    spacing_mm: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Probabilities `(3, X, Y, Z)` of grey matter, white matter and fluid before any intensity."""
    template = load_template()
    maps = torch.from_numpy(np.stack([template.grey, template.white]))
    there = MetaTensor(maps, affine=np.linalg.inv(to_template) @ template.affine)
    grey, white = resample(there, affine, brain.shape, antialias=False).numpy()
    if not (white[brain] > 0.5).any() or not (grey[brain] > 0.5).any():
        raise InputError("the brain does not lie on MNI152, so its tissues cannot be found")
    three = np.stack([grey, white, np.clip(1 - grey - white, 0, 1)])
    # An affine alignment is some millimetres off, and no gyrus lies where the template's does.
    blurred = [ndimage.gaussian_filter(p, 2.0 / spacing_mm) for p in three]
    return np.asarray(np.maximum(np.stack(blurred), 0.02), np.float32)


def _mixture(
    values: NDArray[np.float32], brain: NDArray[np.bool_], priors: NDArray[np.float32]
) -> tuple[NDArray[np.float32], tuple[float, float, float]]:
    """Shares `(3, X, Y, Z)` and levels of the three tissues."""
    step = max(int(brain.sum()) // SAMPLED, 1)
    x, prior = values[brain][::step].astype(np.float64), priors[:, brain][:, ::step]
    low, high = np.percentile(x, [0.5, 99.5])
    kept = (x >= low) & (x <= high)
    x, prior = x[kept], prior[:, kept].astype(np.float64)
    likely: NDArray[np.floating] = prior**3  # where the template is sure, to begin with
    for _ in range(25):
        weight = likely.sum(axis=1)
        means = likely @ x / weight
        sigmas = np.sqrt((likely * (x - means[:, None]) ** 2).sum(axis=1) / weight)
        sigmas = np.maximum(sigmas, 1e-3 * (high - low) + 1e-9)
        likely = _posterior(x, prior, means, sigmas)
    shares = np.zeros((3, *values.shape), np.float32)
    inside = np.clip(values[brain], low, high)
    shares[:, brain] = _posterior(inside, priors[:, brain], means, sigmas)
    return shares, (float(means[0]), float(means[1]), float(means[2]))


def _posterior(
    x: NDArray[np.floating],
    prior: NDArray[np.floating],
    means: NDArray[np.float64],
    sigmas: NDArray[np.float64],
) -> NDArray[np.float64]:
    """`(3, N)`, summing to 1 over the tissues."""
    logs = -0.5 * ((x - means[:, None]) / sigmas[:, None]) ** 2
    logs += np.log(prior / sigmas[:, None])
    weights = np.exp(logs - logs.max(axis=0))
    return np.asarray(weights / weights.sum(axis=0), np.float64)


def _gain(
    values: NDArray[np.float32],
    white: NDArray[np.float32],
    level: float,
    brain: NDArray[np.bool_],
    spacing_mm: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Local brightness of white matter over its level, smooth over centimetres."""
    sigma = 20.0 / spacing_mm
    sure = np.where(brain & (white > 0.8), 1, 0).astype(np.float32)
    amount = ndimage.gaussian_filter(sure, sigma)
    local = ndimage.gaussian_filter(sure * values, sigma) / np.maximum(amount, 1e-6)
    # Far from white matter nothing is known, and the place counts as average.
    known = amount / (amount + 0.02)
    gain = 1 + known * (local / (level if abs(level) > 1e-6 else 1e-6) - 1)
    return np.asarray(np.clip(gain, 0.6, 1.6), np.float32)


def _noise(values: NDArray[np.float32], white: NDArray[np.bool_]) -> float:
    """From differences of neighbours in white matter, by their median."""
    pairs = white[1:] & white[:-1]
    apart = np.abs(values[1:] - values[:-1])[pairs]
    return float(np.median(apart) / (0.6745 * np.sqrt(2))) if len(apart) else 0.0


def _ventricle_mm(
    fluid: NDArray[np.float32],
    depth_mm: NDArray[np.float32],
    to_template: NDArray[np.float64],
    spacing_mm: NDArray[np.float64],
) -> NDArray[np.float32]:
    x, y, z = np.meshgrid(*map(np.arange, fluid.shape), indexing="ij", sparse=True)
    row = to_template[0]
    across_mm = row[0] * x + row[1] * y + row[2] * z + row[3]
    deep = (fluid > 0.5) & (depth_mm > DEEP_MM) & (np.abs(across_mm) < VENTRICLES_MM)
    labels, _ = ndimage.label(deep)
    sizes = np.bincount(labels.ravel()) * float(np.prod(spacing_mm))
    large = sizes > 200
    large[0] = False
    if not large.any():
        return np.full(fluid.shape, np.inf, np.float32)
    distance = ndimage.distance_transform_edt(~large[labels], sampling=spacing_mm)
    return np.asarray(distance, np.float32)
