"""Step 2e: bring intensities onto one scale, so that a number means the same in every scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volad.errors import InputError

__all__ = ["PERCENTILES", "Scale", "landmarks_of", "learn_landmarks"]

#: Percentiles of the brain's intensities that landmarks stand for.
PERCENTILES = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99)


@dataclass(frozen=True)
class Scale:
    """A monotone, piecewise linear map of intensities.

    Beyond its ends it goes on with its mean slope: the end pieces' own can be near vertical where a
    scan is coarsely quantised.

    Attributes:
        source: knots in units of the scan, ascending.
        target: knots in units of the model, ascending.
    """

    source: tuple[float, ...]
    target: tuple[float, ...]

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """From the scan's units to the model's."""
        return _piecewise(values, self.source, self.target)

    def inverse(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """From the model's units to the scan's."""
        return _piecewise(values, self.target, self.source)


def landmarks_of(values: NDArray[np.float32]) -> tuple[float, ...]:
    """The percentiles of the brain's intensities `values (N,)`, strictly ascending.

    Raises:
        InputError: where half of the brain has one value; no scale can be read from that.
    """
    knots = np.percentile(values, PERCENTILES).astype(np.float64)
    if knots[-1] <= knots[0] or np.mean(values == np.median(values)) > 0.5:
        raise InputError(
            "more than half of the brain has one and the same intensity; is this an image, "
            "and the brain mask right? Give the right one with --brain-mask FILE"
        )
    # Coarsely quantised scans repeat a percentile; a knot must lie above the one before it.
    step = 1e-4 * (knots[-1] - knots[0])
    for i in range(1, len(knots)):
        knots[i] = max(knots[i], knots[i - 1] + step)
    return tuple(float(k) for k in knots)


def learn_landmarks(scans: Sequence[NDArray[np.float32]]) -> tuple[float, ...]:
    """Standard landmarks from the brain intensities `(N,)` of healthy scans.

    Each scan is first scaled so that its 5th to 95th percentile spans 0.4 to 1, then percentiles
    are averaged.

    Source: Nyúl, Udupa, Zhang, "New variants of a method of MRI scale standardization", IEEE TMI
        19 (2000).
    """
    rows = np.array([landmarks_of(values) for values in scans])
    low, high = rows[:, PERCENTILES.index(5)], rows[:, PERCENTILES.index(95)]
    unit = 0.4 + 0.6 * (rows - low[:, None]) / (high - low)[:, None]
    return tuple(float(k) for k in unit.mean(axis=0))


def _piecewise(
    values: NDArray[np.float32], source: Sequence[float], target: Sequence[float]
) -> NDArray[np.float32]:
    x, y = np.asarray(source), np.asarray(target)
    slope = (y[-1] - y[0]) / (x[-1] - x[0])
    beyond = np.minimum(values - x[0], 0) + np.maximum(values - x[-1], 0)
    out = np.interp(values, x, y) + slope * beyond
    mapped: NDArray[np.float32] = out.astype(np.float32)
    return mapped
