"""From where on a test flags a scan: rarely reached in a whole cohort of healthy ones.

Each limit is exceeded anywhere in a cohort of normally distributed scans with a probability of
`level`, whatever the number of scans: robust estimates from few scans vary much, which tables of
the normal and chi-squared distributions leave out. Where no formula holds exactly, cohorts of the
same size are simulated.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from volad.screen.mcd import fast_mcd

__all__ = ["NORMAL_MAD", "distance_limit", "feature_limits", "leverage_limit"]

#: Standard deviation of a normal distribution whose median absolute deviation is 1.
NORMAL_MAD = 1.4826
#: Simulated cohorts, for tests of single features (in blocks of so many) and for distances.
COHORTS, BLOCK, DISTANCE_COHORTS = 20_000, 1000, 400


@lru_cache(maxsize=8)
def feature_limits(scans: int, level: float) -> tuple[float, float]:
    """Of the z-test, in standard deviations, and of the box-whisker test, in box lengths.

    Args:
        scans: N, of the cohort.
        level: probability that any of N normal values is beyond.
    """
    random = np.random.default_rng(0)
    furthest = np.empty((2, COHORTS))
    for first in range(0, COHORTS, BLOCK):
        values = random.normal(size=(BLOCK, scans))
        low, middle, high = np.percentile(values, (25, 50, 75), axis=1, keepdims=True)
        off = np.abs(values - middle)
        mad = np.median(off, axis=1)
        beyond = np.maximum(values - high, low - values)
        furthest[0, first : first + BLOCK] = off.max(axis=1) / (NORMAL_MAD * mad)
        furthest[1, first : first + BLOCK] = (beyond / (high - low)).max(axis=1)
    z, box = np.quantile(furthest, 1 - level, axis=1)
    return float(z), float(box)


@lru_cache(maxsize=8)
def distance_limit(scans: int, components: int, level: float) -> float:
    """Of the robust distance from the bulk of a cohort (`volad.screen.mcd.fast_mcd`).

    It does not depend on location and covariance of the cohort, so one kind is simulated.
    """
    random = np.random.default_rng(0)
    furthest = np.empty(DISTANCE_COHORTS)
    for cohort in range(DISTANCE_COHORTS):
        rows = random.normal(size=(scans, components))
        furthest[cohort] = fast_mcd(rows, cohort).squared(rows).max()
    return float(np.sqrt(np.quantile(furthest, 1 - level)))


def leverage_limit(
    leverage: NDArray[np.float64], components: int, times: float, level: float
) -> float:
    """Of the leverage in a principal component analysis: the larger of two limits.

    Args:
        leverage: `(N,)` of the cohort.
        components: how many were kept.
        times: of the median, which is the rule of thumb.
        level: the scores of normal scans are spread evenly over the sphere, which makes a leverage
            beta distributed; of N scans, any is beyond with this probability at most.
    """
    count = len(leverage)
    chance = float(stats.beta.isf(level / count, components / 2, (count - components) / 2))
    return max(times * float(np.median(leverage)), chance)
