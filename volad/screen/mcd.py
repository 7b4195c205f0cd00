"""Robust location and covariance of a table: the minimum covariance determinant, by FAST-MCD.

Source: Rousseeuw, Van Driessen, "A fast algorithm for the minimum covariance determinant
    estimator", Technometrics 41 (1999), without its nested samples, which only save time on
    thousands of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Spread", "fast_mcd", "support_size"]

Table = NDArray[np.float64]
Rows = NDArray[np.intp]

#: Random subsets to start from, concentration steps of each, and how many of them go on.
STARTS, FIRST_STEPS, KEPT = 100, 2, 10
#: Steps end by themselves, as the determinant falls with each; this is for rounding alone.
MOST_STEPS = 100
#: Smallest share of the largest variance: rows in a plane must not divide by zero.
FLAT = 1e-12


@dataclass(frozen=True, eq=False)
class Spread:
    """Location `(Q,)` and covariance `(Q, Q)` of rows."""

    location: Table
    covariance: Table

    @classmethod
    def of(cls, rows: Table) -> Spread:
        """Mean and maximum likelihood covariance of rows `(N, Q)`."""
        location = rows.mean(axis=0)
        off = rows - location
        return cls(location, off.T @ off / len(rows))

    def squared(self, rows: Table) -> Table:
        """Squared Mahalanobis distance `(N,)` of rows `(N, Q)`."""
        variances, axes = self._axes()
        along: Table = (rows - self.location) @ axes
        return np.asarray((along**2 / variances).sum(axis=1))

    def log_determinant(self) -> float:
        """Of the covariance."""
        return float(np.log(self._axes()[0]).sum())

    def _axes(self) -> tuple[Table, Table]:
        variances, axes = np.linalg.eigh(self.covariance)
        floor = max(FLAT * float(variances[-1]), np.finfo(np.float64).tiny)
        return np.maximum(variances, floor), axes


def support_size(count: int, dimensions: int) -> int:
    """How many of `count` rows the estimate is from: the fewest, for the highest breakdown."""
    return (count + dimensions + 1) // 2


def fast_mcd(rows: Table, seed: int = 0) -> Spread:
    """Location and covariance of the half of the rows whose covariance is smallest.

    Up to nearly half of the rows, wherever they lie, cannot spoil it. The covariance is that of the
    half as it is, smaller than that of all rows.

    Args:
        rows: `(N, Q)`, N above 2 Q.
        seed: of the random starts.
    """
    count, dimensions = rows.shape
    size = support_size(count, dimensions)
    random = np.random.default_rng(seed)
    ends = []
    for _ in range(STARTS):
        half = random.choice(count, dimensions + 1, replace=False)
        for _ in range(FIRST_STEPS):
            half = _concentrated(rows, half, size)
        ends.append(half)
    ends.sort(key=lambda half: _volume(rows, half))
    settled = (_settled(rows, half) for half in ends[:KEPT])
    return Spread.of(rows[min(settled, key=lambda half: _volume(rows, half))])


def _concentrated(rows: Table, half: Rows, size: int) -> Rows:
    """The `size` rows that lie nearest to those of `half`: never of a larger determinant."""
    distance = Spread.of(rows[half]).squared(rows)
    return np.sort(np.argpartition(distance, size - 1)[:size])


def _settled(rows: Table, half: Rows) -> Rows:
    for _ in range(MOST_STEPS):
        before, half = half, _concentrated(rows, half, len(half))
        if np.array_equal(before, half):
            break
    return half


def _volume(rows: Table, half: Rows) -> float:
    return Spread.of(rows[half]).log_determinant()
