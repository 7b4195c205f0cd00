"""Bootstrap intervals: subjects are drawn with replacement, never voxels.

Percentile intervals (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13).
The same number of subjects, draws and seed give the same draws, so that differences between methods
can be taken draw by draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DRAWS", "Interval", "auroc_interval", "interval", "interval_of", "paired", "weights"]

DRAWS = 2000
NAN = float("nan")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A number and its bootstrap limits.

    Attributes:
        value: on the subjects as they are; NaN where it is not defined.
        low, high: limits; NaN for fewer than two subjects, since one subject says nothing of
            others.
        n: subjects it comes from, where known.
    """

    value: float
    low: float
    high: float
    n: int | None = None


def weights(n: int, draws: int = DRAWS, seed: int | Sequence[int] = 0) -> NDArray[np.int64]:
    """How often each draw of `n` out of `n` subjects holds each: `(draws, n)`, rows sum to `n`."""
    if n == 0:
        return np.zeros((draws, 0), np.int64)
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)


def interval_of(
    value: float, draws: NDArray[np.floating], n: int | None = None, level: float = 0.95
) -> Interval:
    """An interval from a statistic's bootstrap draws `(B,)`.

    Draws in which the statistic is not defined (NaN) are left out.
    """
    defined = draws[~np.isnan(draws)]
    if np.isnan(value) or len(defined) == 0 or (n is not None and n < 2):
        return Interval(float(value), NAN, NAN, n)
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high), n)


def interval(
    values: NDArray[np.floating],
    statistic: Callable[[Floats], float] | None = None,
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A statistic over subjects, with its interval.

    Args:
        values: `(N,)`, one a subject; NaN: this subject has none, and is left out.
        statistic: of the values `(N,)` of the drawn subjects; None: their mean.
        draws: how many.
        level: coverage aimed at.
        seed: of the draws.
    """
    there = _defined(np.asarray(values, np.float64))
    n = len(there)
    if n == 0:
        return Interval(NAN, NAN, NAN, 0)
    times = weights(n, draws, seed)
    if statistic is None:
        return interval_of(float(there.mean()), times @ there / n, n, level)
    found = np.array([statistic(np.repeat(there, row)) for row in times], np.float64)
    return interval_of(float(statistic(there)), found, n, level)


def paired(
    a: NDArray[np.floating],
    b: NDArray[np.floating],
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean of `a - b` over subjects, with its interval.

    Args:
        a: `(N,)`, one value a subject.
        b: `(N,)`, of the same subjects in the same order; subjects where either is NaN are left
            out, and `n` says how many are left.
        draws: how many.
        level: coverage aimed at.
        seed: of the draws.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(f"pairs need equal shapes, got {np.shape(a)} and {np.shape(b)}")
    return interval(np.subtract(a, b, dtype=np.float64), None, draws, level, seed)


def auroc_interval(
    healthy: NDArray[np.floating],
    lesioned: NDArray[np.floating],
    draws: int = DRAWS,
    level: float = 0.95,
    seed: int = 0,
    *,
    same_subjects: bool = False,
) -> Interval:
    """Scan-level AUROC: share of pairs in which the lesioned scan scores higher, ties a half.

    Args:
        healthy: `(H,)`, one score a subject; NaN is left out.
        lesioned: `(L,)` likewise; subjects are drawn within each group.
        draws: how many.
        level: coverage aimed at.
        seed: of the draws.
        same_subjects: both arrays hold the same subjects in the same order, without NaN. Nobody is
            compared with themself, and a draw takes both scans of a subject.
    """
    a, b = np.asarray(healthy, np.float64), np.asarray(lesioned, np.float64)
    if same_subjects:
        if a.shape != b.shape or np.isnan(a + b).any():
            raise ValueError("the same subjects need two full arrays of one shape")
        times = weights(len(a), draws, seed)
        return _auroc(a, b, times, times, level, np.eye(len(a), dtype=bool))
    a, b = _defined(a), _defined(b)
    # Two streams: one seed for both would draw the two groups alike.
    of_a, of_b = weights(len(a), draws, [seed, 0]), weights(len(b), draws, [seed, 1])
    return _auroc(a, b, of_a, of_b, level, np.zeros((len(b), len(a)), bool))


def _auroc(
    a: Floats,
    b: Floats,
    of_a: NDArray[np.int64],
    of_b: NDArray[np.int64],
    level: float,
    left_out: NDArray[np.bool_],
) -> Interval:
    """From scores, how often each draw holds each of them, and pairs `(L, H)` to leave out."""
    counts = (~left_out).astype(np.float64)
    wins = counts * (np.sign(b[:, None] - a) + 1) / 2
    # The scans as they are come first.
    one = np.vstack([np.ones((1, len(a))), of_a]), np.vstack([np.ones((1, len(b))), of_b])
    won, pairs = (((one[1] @ matrix) * one[0]).sum(axis=1) for matrix in (wins, counts))
    found = np.divide(won, pairs, out=np.full(len(won), NAN), where=pairs > 0)
    n = len(a) if left_out.any() else len(a) + len(b)
    result = interval_of(float(found[0]), found[1:], n, level)
    enough = min(len(a), len(b)) > 1
    return result if enough else Interval(result.value, NAN, NAN, n)


def _defined(values: Floats) -> Floats:
    return values[~np.isnan(values)]
