"""MNI152's own tissues on voxels of 4 mm, as if they were a healthy scan's."""

from __future__ import annotations

from functools import cache

import numpy as np
from ct_helpers import meta
from numpy.typing import NDArray
from scipy import ndimage

from volad.preprocess.align import load_template
from volad.tissues import Tissues, tissues_of


def pooled(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of 2 x 2 x 2 voxels of the template's grid."""
    return np.asarray(array.reshape(40, 2, 48, 2, 44, 2).mean(axis=(1, 3, 5)))


@cache
def example_t1() -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
    """A T1 `(X, Y, Z)`, its brain and its affine."""
    template = load_template()
    grey, white = pooled(template.grey), pooled(template.white)
    brain = ndimage.binary_fill_holes(grey + white > 0.3)
    t1 = np.where(brain, 200 * grey + 300 * white + 60 * (1 - grey - white), 0)
    t1 += np.random.default_rng(0).normal(0, 5, t1.shape) * brain
    affine = template.affine @ np.diag([2.0, 2, 2, 1])
    affine[:3, 3] += 1
    return t1.astype(np.float32), brain, affine


@cache
def example() -> Tissues:
    """The tissues of that T1."""
    t1, brain, affine = example_t1()
    return tissues_of(meta(t1, affine), meta(brain, affine))
