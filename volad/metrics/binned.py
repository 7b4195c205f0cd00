"""Formulas of ranking metrics for scores that were counted into bins.

Arrays hold lesion and healthy voxels of each bin, `(..., K)`, bins in order of DESCENDING score; a
bin's voxels count as one tie, unless said otherwise. Where a metric is not defined it is NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

__all__ = [
    "auroc",
    "auroc_bounds",
    "average_precision",
    "average_precision_bounds",
    "best_dice",
    "dices",
]

Floats = NDArray[np.float64]


def average_precision(lesion: Floats, healthy: Floats) -> Floats:
    """Average precision, `(...)`."""
    found = np.cumsum(lesion, axis=-1)
    gained = lesion * _share(found, found + np.cumsum(healthy, axis=-1), nothing=0.0)
    return _share(gained.sum(axis=-1), _last(found))


def average_precision_bounds(lesion: Floats, healthy: Floats) -> tuple[Floats, Floats]:
    """The least and the most that it can be for any order of the voxels within their bins.

    A lesion voxel counts with the precision at its own score. That is highest for all of a bin's
    lesion voxels if they tie above its healthy ones, and lowest if they come one by one below them;
    both orders exist, so the bounds are attained, and nothing lies outside them.
    """
    found = np.cumsum(lesion, axis=-1)
    passed = np.cumsum(healthy, axis=-1)
    before = passed - healthy
    high = lesion * _share(found, found + before, nothing=0.0)
    # The i-th of h lesion voxels, with T found before and C healthy ones passed, has a precision of
    # (T + i) / (T + i + C) = 1 - C / (T + i + C).
    low = lesion - passed * _harmonic(found - lesion + passed, lesion)
    total = _last(found)
    return _share(low.sum(axis=-1), total), _share(high.sum(axis=-1), total)


def auroc(lesion: Floats, healthy: Floats) -> Floats:
    """Area under the ROC curve, ties a half, `(...)`."""
    low, high = auroc_bounds(lesion, healthy)
    return (low + high) / 2


def auroc_bounds(lesion: Floats, healthy: Floats) -> tuple[Floats, Floats]:
    """The least and the most that it can be for any order of the voxels within their bins."""
    passed = np.cumsum(healthy, axis=-1)
    total = _last(passed)
    below = total[..., None] - passed
    pairs = lesion.sum(axis=-1) * total
    low = (lesion * below).sum(axis=-1)
    return _share(low, pairs), _share(low + (lesion * healthy).sum(axis=-1), pairs)


def dices(lesion: Floats, healthy: Floats) -> Floats:
    """Dice of all voxels down to and with each bin, `(..., K)`; NaN without lesion voxels."""
    found = np.cumsum(lesion, axis=-1)
    total = _last(found)[..., None]
    score = _share(2 * found, found + np.cumsum(healthy, axis=-1) + total)
    return np.where(total > 0, score, np.nan)


def best_dice(lesion: Floats, healthy: Floats) -> tuple[Floats, Floats]:
    """The best Dice of a threshold between bins, and the most that one within a bin can reach."""
    found = np.cumsum(lesion, axis=-1)
    total = _last(found)
    before = np.cumsum(healthy, axis=-1) - healthy
    within = _share(2 * found, found + before + total[..., None])
    between = dices(lesion, healthy)
    best, most = (np.where(total > 0, d.max(axis=-1, initial=0), np.nan) for d in (between, within))
    return best, most


def _last(values: Floats) -> Floats:
    last: Floats = values[..., -1] if values.shape[-1] else np.zeros(values.shape[:-1])
    return last


def _share(part: Floats, whole: Floats, nothing: float = np.nan) -> Floats:
    part, whole = np.broadcast_arrays(part, whole)
    share: Floats = np.divide(part, whole, out=np.full(part.shape, nothing), where=whole > 0)
    return share


def _harmonic(start: Floats, count: Floats) -> Floats:
    """The sum of `1 / (start + i)` for i from 1 to `count`."""
    small = digamma(start + count + 1) - digamma(start + 1)
    # Far out the two are nearly equal; their series differ term by term without loss.
    a = np.maximum(start, 1)
    b = a + count
    far = np.log1p(count / a) + (1 / b - 1 / a) / 2 - (1 / b**2 - 1 / a**2) / 12
    return np.where(start < 1000, small, far)
