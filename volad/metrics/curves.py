"""Metrics over all thresholds, exact: the scores are sorted, so all of them are in memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["auroc", "average_precision", "oracle_dice"]

NAN = float("nan")


def average_precision(score: NDArray[np.floating], lesion: NDArray[np.bool_]) -> float:
    """Area under the precision-recall curve as a step function (scikit-learn's definition).

    Args:
        score: `(N,)`, higher is more abnormal.
        lesion: `(N,)`; NaN is returned where none is true.

    Raises:
        ValueError: a score is NaN.
    """
    _, found, called = _curve(score, lesion)
    if len(found) == 0 or found[-1] == 0:
        return NAN
    gained = np.diff(found, prepend=0)
    return float((gained * (found / called)).sum() / found[-1])


def auroc(score: NDArray[np.floating], lesion: NDArray[np.bool_]) -> float:
    """Share of (lesion, healthy) pairs in which the lesion scores higher; ties count a half.

    Args:
        score: `(N,)`, higher is more abnormal.
        lesion: `(N,)`; NaN is returned unless some are true and some not.

    Raises:
        ValueError: a score is NaN.
    """
    _, found, called = _curve(score, lesion)
    healthy = called - found
    if len(found) == 0 or found[-1] == 0 or healthy[-1] == 0:
        return NAN
    gained, passed = np.diff(found, prepend=0), np.diff(healthy, prepend=0)
    below = healthy[-1] - healthy
    return float((gained * (below + passed / 2)).sum() / (float(found[-1]) * float(healthy[-1])))


def oracle_dice(score: NDArray[np.floating], lesion: NDArray[np.bool_]) -> tuple[float, float]:
    """The best Dice over all thresholds, and the score to exceed for it.

    It looks at the labels: an upper bound, never an operating point. NaN where there is no lesion.

    Args:
        score: `(N,)`, higher is more abnormal.
        lesion: `(N,)`.

    Raises:
        ValueError: a score is NaN.
    """
    thresholds, found, called = _curve(score, lesion)
    if len(found) == 0 or found[-1] == 0:
        return NAN, NAN
    dices = 2 * found / (called + found[-1])
    best = int(dices.argmax())
    below = thresholds[best + 1] if best + 1 < len(thresholds) else -np.inf
    return float(dices[best]), float(below)


def _curve(
    score: NDArray[np.floating], lesion: NDArray[np.bool_]
) -> tuple[NDArray[np.floating], NDArray[np.int64], NDArray[np.int64]]:
    """At each distinct score, descending: it, lesion voxels and voxels at or above it."""
    if score.shape != lesion.shape:
        raise ValueError(f"{score.shape} scores for {lesion.shape} labels")
    order = np.argsort(-score, kind="stable")
    ordered, hits = score[order], lesion[order]
    if len(ordered) and np.isnan(ordered[-1]):  # NaN sorts last
        raise ValueError("a score is NaN")
    last = np.nonzero(np.append(ordered[1:] != ordered[:-1], len(ordered) > 0))[0]
    return ordered[last], np.cumsum(hits, dtype=np.int64)[last], last.astype(np.int64) + 1
