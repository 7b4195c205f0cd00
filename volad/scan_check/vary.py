"""Mild variation of healthy scans, such as another scanner or another day gives.

The kind that a bundle knows shall be wider than one scanner: healthy scans are fitted as they are
and varied. Nothing here makes another contrast: brighter tissue stays brighter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["vary"]

#: Largest exponent of the grey values (and its inverse), standard deviation of noise (of the
#: scan's range), blur (voxels), relative shading, all drawn evenly; and how often the rim is lost.
GAMMA, NOISE, BLUR, SHADING, RIM_LOST = 1.5, 0.04, 0.6, 0.15, 0.3


def vary(sample: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
    """A sample before the intensity scale, with `image` and `brain`, varied at random.

    Of several channels only the first is left, which is what `kind_of` measures.
    """
    image, brain = sample["image"].numpy()[0], sample["brain"].numpy()[0] > 0
    if random.random() < RIM_LOST:
        brain = ndimage.binary_erosion(brain)
    low, high = np.percentile(image[brain], (1, 99))
    unit = np.where(brain, (image - low) / max(float(high - low), 1e-12), 0)
    unit = _blurred(unit, brain, random.uniform(0, BLUR))
    unit = unit * (1 + random.uniform(0, SHADING) * _field(brain.shape, random))
    unit = np.sign(unit) * np.abs(unit) ** (GAMMA ** random.uniform(-1, 1))
    unit = unit + random.normal(0, random.uniform(0, NOISE), unit.shape)
    varied = np.where(brain, low + unit * (high - low), 0).astype(np.float32)
    affine = sample["image"].affine
    return {
        **sample,
        "image": MetaTensor(torch.from_numpy(varied)[None], affine=affine),
        "brain": MetaTensor(torch.from_numpy(brain)[None], affine=affine),
    }


def _blurred(unit: NDArray[Any], brain: NDArray[np.bool_], sigma: float) -> NDArray[Any]:
    share = ndimage.gaussian_filter(brain.astype(np.float64), sigma)
    blurred: NDArray[Any] = ndimage.gaussian_filter(unit * brain, sigma) / np.maximum(share, 1e-6)
    return np.where(brain, blurred, 0)


def _field(shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float64]:
    """Smooth, between -1 and 1: a few random values, interpolated."""
    coarse = random.uniform(-1, 1, (4, 4, 4))
    zoom = [size / 4 for size in shape]
    field: NDArray[np.float64] = ndimage.zoom(coarse, zoom, order=3, mode="nearest", grid_mode=True)
    return np.clip(field, -1, 1)
