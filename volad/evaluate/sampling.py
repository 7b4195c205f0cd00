"""Estimates with their bootstrap draws: one set of drawn subjects serves every number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volad.metrics import bootstrap

__all__ = ["Estimate", "Sampler", "ratio"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Estimate:
    """A number and what it is in each bootstrap draw.

    Attributes:
        value: NaN where it is not defined.
        draws: `(B,)`.
        n: subjects it comes from.
    """

    value: float
    draws: Floats
    n: int

    def interval(self) -> bootstrap.Interval:
        """The number with its 95 % limits; they are NaN with fewer than two subjects."""
        return bootstrap.interval_of(self.value, self.draws, self.n)

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference in every draw: both must come from one `Sampler`."""
        n = min(self.n, other.n)
        return Estimate(self.value - other.value, self.draws - other.draws, n)


class Sampler:
    """Draws of subjects, and estimates from them.

    Args:
        subjects: of each scan, `(N,)`.
        draws: how many.
        seed: the same subjects, draws and seed give the same draws.
    """

    def __init__(self, subjects: Sequence[str], draws: int, seed: int | Sequence[int]) -> None:
        names, index = np.unique(np.array(subjects, dtype=str), return_inverse=True)
        self.index: NDArray[np.intp] = index
        self.subjects = len(names)
        self.weights: Floats = bootstrap.weights(len(names), draws, seed).astype(np.float64)

    def of_scans(self) -> Floats:
        """How often each draw holds each scan, `(B, N)`."""
        weights: Floats = self.weights[:, self.index]
        return weights

    def sums(self, values: Floats) -> Floats:
        """Sums by subject, `(S,)` or `(S, K)`, of values `(N,)` or `(N, K)`; NaN counts as 0."""
        total = np.zeros((self.subjects, *values.shape[1:]))
        np.add.at(total, self.index, np.nan_to_num(values))
        return total

    def means(self, values: Floats) -> Floats:
        """Each subject's mean `(S,)` over its scans that have the value; NaN where none has."""
        count = self.sums(np.isfinite(values).astype(float))
        return ratio(self.sums(values), count)

    def count(self, chosen: NDArray[np.bool_]) -> int:
        """Subjects with any of the chosen scans `(N,)`."""
        return len(np.unique(self.index[chosen]))

    def mean(self, values: Floats) -> Estimate:
        """Mean over subjects of the values `(N,)` of their scans; NaN values do not count."""
        means = self.means(values)
        there = np.isfinite(means)
        return self.of_sums(lambda s: ratio(s[0], s[1]), np.nan_to_num(means), there.astype(float))

    def total_ratio(self, top: Floats, bottom: Floats) -> Estimate:
        """Sum of `top` over sum of `bottom`, `(N,)` each."""
        return self.of_sums(lambda s: ratio(s[0], s[1]), self.sums(top), self.sums(bottom))

    def of_sums(self, formula: Callable[[list[Floats]], Floats], *columns: Floats) -> Estimate:
        """A formula of sums over subjects; its last column says whom it is of.

        Args:
            formula: of as many arrays `(B,)` as there are columns.
            columns: `(S,)` each.
        """
        value = formula([np.array([column.sum()]) for column in columns])
        draws = formula([self.weights @ column for column in columns])
        return Estimate(float(value[0]), draws, int(np.count_nonzero(columns[-1])))


def ratio(top: Floats, bottom: Floats) -> Floats:
    """`top / bottom`, NaN where `bottom` is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(bottom != 0, top / np.where(bottom != 0, bottom, 1), np.nan)
