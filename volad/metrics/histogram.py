"""Histogram of scores: ranking metrics of any number of voxels in constant memory.

Bins are fixed beforehand, so that no score depends on another scan's. A bin is one value of the top
20 bits of a float32 (sign, exponent, 11 bits of the mantissa) and holds the scores above the bin
below it and up to its own value: scores up to 1/2048 of themselves apart. So

- metrics "above a bin's value" are exact, not interpolated,
- scores of half precision each have a bin of their own, and all metrics of them are exact,
- otherwise only the order WITHIN a bin is lost, and the bounds given are certain, since they are
  over all orders.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from volad.metrics import binned

__all__ = ["Bounded", "Curve", "OracleDice", "ScoreHistogram", "SparseHistogram", "edges_of"]

BITS = 20
COARSE_BITS = 16
#: A float32's sign bit, and the pattern of infinity.
SIGN = 1 << 31
INFINITY = 0x7F800000
#: Voxels binned at once.
CHUNK = 1 << 20

NAN = float("nan")


class Bounded(NamedTuple):
    """A metric with the voxels of a bin tied, and the certain bounds of its exact value."""

    value: float
    low: float
    high: float


class OracleDice(NamedTuple):
    """The best Dice: it looks at the labels.

    Attributes:
        dice: what `threshold` reaches, exactly.
        threshold: the score to exceed.
        error: by at most so much a threshold within a bin is better.
    """

    dice: float
    threshold: float
    error: float


@dataclass(frozen=True, eq=False)
class Curve:
    """Points of the precision-recall and the ROC curve, by descending threshold, `(N,)` each."""

    threshold: NDArray[np.float64]
    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    false_positive_rate: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SparseHistogram:
    """Occupied bins of a coarser histogram (the top 16 bits): a few kilobytes a scan.

    Attributes:
        index: `(K,)` uint16, ascending.
        lesion: `(K,)` uint32 lesion voxels.
        healthy: `(K,)` uint32 other voxels.
    """

    index: NDArray[np.uint16]
    lesion: NDArray[np.uint32]
    healthy: NDArray[np.uint32]


class ScoreHistogram:
    """Counts of lesion and healthy voxels by score; 16 MiB whatever is added."""

    def __init__(self) -> None:
        self._lesion = np.zeros(1 << BITS, np.int64)
        self._healthy = np.zeros(1 << BITS, np.int64)

    def add(self, score: NDArray[np.floating], lesion: NDArray[np.bool_]) -> None:
        """Count voxels.

        Args:
            score: any shape and range, higher is more abnormal; taken as float32.
            lesion: of the same shape.

        Raises:
            ValueError: a score is NaN or infinite; nothing is counted then.
        """
        if score.shape != lesion.shape:
            raise ValueError(f"{score.shape} scores for {lesion.shape} labels")
        values, labels = score.ravel(), lesion.ravel().astype(bool, copy=False)
        if not np.isfinite(values).all():
            raise ValueError("a score is NaN or infinite")
        for start in range(0, len(values), CHUNK):
            part = slice(start, start + CHUNK)
            bins, hits = _bins_of(values[part]), labels[part]
            self._lesion += np.bincount(bins[hits], minlength=1 << BITS)
            self._healthy += np.bincount(bins[~hits], minlength=1 << BITS)

    def __add__(self, other: ScoreHistogram) -> ScoreHistogram:
        total = ScoreHistogram()
        total._lesion = self._lesion + other._lesion
        total._healthy = self._healthy + other._healthy
        return total

    @property
    def lesion_voxels(self) -> int:
        """How many were counted."""
        return int(self._lesion.sum())

    @property
    def healthy_voxels(self) -> int:
        """How many were counted."""
        return int(self._healthy.sum())

    def average_precision(self) -> Bounded:
        """Area under the precision-recall curve; NaN without lesion voxels."""
        _, lesion, healthy = self._descending()
        low, high = binned.average_precision_bounds(lesion, healthy)
        return Bounded(float(binned.average_precision(lesion, healthy)), float(low), float(high))

    def auroc(self) -> Bounded:
        """Area under the ROC curve; NaN without voxels of both kinds."""
        _, lesion, healthy = self._descending()
        low, high = binned.auroc_bounds(lesion, healthy)
        return Bounded(float(binned.auroc(lesion, healthy)), float(low), float(high))

    def oracle_dice(self) -> OracleDice:
        """The best Dice over all thresholds; NaN without lesion voxels."""
        if self.lesion_voxels == 0:
            return OracleDice(NAN, NAN, NAN)
        index, lesion, healthy = self._descending()
        dices = binned.dices(lesion, healthy)
        best = int(dices.argmax())
        # Any value between this bin's scores and the next's will do; the higher one is the bin
        # below, whether or not it is occupied.
        threshold = edges_of(index[best : best + 1] - 1)[0]
        most = binned.best_dice(lesion, healthy)[1]
        return OracleDice(float(dices[best]), float(threshold), float(most - dices[best]))

    def threshold_at_fpr(self, rate: float) -> float:
        """The lowest bin value that at most this share of the healthy voxels exceeds.

        NaN without healthy voxels; -inf where all may exceed it.
        """
        if not 0 <= rate <= 1:
            raise ValueError(f"the false-positive rate must be between 0 and 1, got {rate}")
        total = self.healthy_voxels
        if total == 0:
            return NAN
        above = total - np.cumsum(self._healthy)
        lowest = int(np.argmax(above / total <= rate))
        return float(edges_of(np.array([lowest]))[0])

    def false_positive_rate(self, threshold: float) -> float:
        """Share of the healthy voxels above a threshold; NaN without any.

        Exact for the value of a bin, as all thresholds given here are. Otherwise all of the bin
        that the threshold falls in counts as above it.
        """
        total = self.healthy_voxels
        return int(self._healthy[_first_above(threshold) :].sum()) / total if total else NAN

    def dice_at(self, threshold: float) -> float:
        """Dice of all voxels above a threshold, read as in `false_positive_rate`."""
        first = _first_above(threshold)
        found, wrong = int(self._lesion[first:].sum()), int(self._healthy[first:].sum())
        called = found + wrong + self.lesion_voxels
        return 2 * found / called if called else NAN

    def curve(self, points: int = 200) -> Curve:
        """At most so many points, evenly over recall; none without lesion voxels."""
        index, lesion, healthy = self._descending()
        found, passed = np.cumsum(lesion), np.cumsum(healthy)
        if self.lesion_voxels == 0:
            return Curve(*np.zeros((4, 0)))
        at = np.searchsorted(found, np.linspace(0, 1, points) * found[-1])
        at = np.unique(np.minimum(at, len(found) - 1))
        return Curve(
            threshold=edges_of(index[at] - 1),
            recall=found[at] / found[-1],
            precision=found[at] / (found[at] + passed[at]),
            false_positive_rate=passed[at] / passed[-1] if passed[-1] else np.full(len(at), NAN),
        )

    def coarse(self) -> SparseHistogram:
        """What `volad.metrics.pooled` needs of a scan or a subject."""
        occupied = np.nonzero(self._lesion + self._healthy)[0]
        shift = BITS - COARSE_BITS
        index, place = np.unique((occupied + (1 << shift) - 1) >> shift, return_inverse=True)
        counts = np.zeros((2, len(index)), np.int64)
        np.add.at(counts[0], place, self._lesion[occupied])
        np.add.at(counts[1], place, self._healthy[occupied])
        if counts.max(initial=0) > np.iinfo(np.uint32).max:
            raise ValueError("a bin of one scan or subject holds 2^32 voxels or more")
        return SparseHistogram(index.astype(np.uint16), *counts.astype(np.uint32))

    def _descending(
        self,
    ) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
        """Occupied bins, and their lesion and healthy voxels."""
        index = np.nonzero(self._lesion + self._healthy)[0][::-1]
        return index, self._lesion[index].astype(float), self._healthy[index].astype(float)


def edges_of(index: NDArray[np.integer], bits: int = BITS) -> NDArray[np.float64]:
    """The values of bins; -inf for those below all finite scores."""
    rank = (index.astype(np.int64) << (32 - bits)) - SIGN
    lowest = rank <= -INFINITY
    raw = np.where(rank < 0, SIGN - rank, rank)
    values = np.where(lowest, 0, raw).astype(np.uint32).view(np.float32)
    return np.where(lowest, -np.inf, values.astype(np.float64))


def _bins_of(score: NDArray[np.floating]) -> NDArray[np.int64]:
    """The bin of each score `(N,)` that is not NaN."""
    with np.errstate(over="ignore"):  # beyond float32's range is the outermost bin
        raw = np.ascontiguousarray(score, np.float32).view(np.int32).astype(np.int64)
    # Without the sign bit, bit patterns are in the order of the numbers; both zeros have rank 0.
    magnitude = raw & (SIGN - 1)
    rank = np.where(raw < 0, -magnitude, magnitude)
    shift = 32 - BITS
    return (rank + SIGN + (1 << shift) - 1) >> shift


def _first_above(threshold: float) -> int:
    """The first bin whose value exceeds a threshold."""
    if np.isnan(threshold):
        raise ValueError("the threshold is NaN")
    with np.errstate(over="ignore"):
        value = np.array([threshold], np.float64).astype(np.float32)
    place = _bins_of(value)
    return int((place + (edges_of(place) <= value))[0])
