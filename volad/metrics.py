"""Voxel-wise metrics of score maps and masks against expert masks.

Only evaluation reads lesion masks: no function here is called while training, calibrating or
segmenting.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["average_precision", "dice", "oracle_dice"]


def average_precision(score: NDArray[np.floating], lesion: NDArray[np.bool_]) -> float:
    """Area under the precision-recall curve as a step function (scikit-learn's definition).

    Args:
        score: `(N,)`, higher is more abnormal.
        lesion: `(N,)`; NaN is returned where none is true.
    """
    _, found, called = _curve(score, lesion)
    if len(found) == 0 or found[-1] == 0:
        return float("nan")
    gained = np.diff(found, prepend=0)
    return float((gained * found / called).sum() / found[-1])


def oracle_dice(score: NDArray[np.floating], lesion: NDArray[np.bool_]) -> tuple[float, float]:
    """The best Dice over all thresholds, and the score to exceed for it.

    It looks at the labels: an upper bound, never an operating point. NaN where there is no lesion.
    """
    thresholds, found, called = _curve(score, lesion)
    if len(found) == 0 or found[-1] == 0:
        return float("nan"), float("nan")
    dices = 2 * found / (called + found[-1])
    best = int(dices.argmax())
    below = thresholds[best + 1] if best + 1 < len(thresholds) else -np.inf
    return float(dices[best]), float(below)


def dice(mask: NDArray[np.bool_], lesion: NDArray[np.bool_]) -> float:
    """`2 |A and B| / (|A| + |B|)`; NaN where both are empty, so that no mean is lifted by them."""
    total = int(mask.sum()) + int(lesion.sum())
    if total == 0:
        return float("nan")
    return 2 * int((mask & lesion).sum()) / total


def _curve(
    score: NDArray[np.floating], lesion: NDArray[np.bool_]
) -> tuple[NDArray[np.floating], NDArray[np.int64], NDArray[np.int64]]:
    """At each distinct score, descending: it, lesion voxels and voxels at or above it."""
    order = np.argsort(-score, kind="stable")
    ordered, hits = score[order], lesion[order]
    last = np.nonzero(np.append(np.diff(ordered) != 0, len(ordered) > 0))[0]
    return ordered[last], np.cumsum(hits, dtype=np.int64)[last], last.astype(np.int64) + 1
