"""Bootstrap of pooled metrics: all voxels of the drawn subjects together.

From the coarse histograms of `ScoreHistogram.coarse`, whose bins are 1/128 of a score wide, with
the voxels of a bin tied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volad.metrics import binned
from volad.metrics.histogram import COARSE_BITS, SparseHistogram

__all__ = ["PooledDraws", "mean_oracle_dice", "pooled"]

#: Numbers in one array at a time (16 MiB); there are some ten arrays.
BUDGET = 1 << 21
#: Scans whose histograms are unfolded at a time.
BLOCK = 64

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PooledDraws:
    """Pooled metrics of each draw, `(B,)`; NaN for a draw without lesion (or healthy) voxels."""

    average_precision: Floats
    auroc: Floats
    oracle_dice: Floats


def pooled(
    histograms: Sequence[SparseHistogram], weights: NDArray[np.integer] | Floats
) -> PooledDraws:
    """Metrics of the pooled voxels of each draw.

    Args:
        histograms: N scans or subjects; read several times, so they may come from a file.
        weights: `(B, N)`, how often each draw holds each of them.
    """
    bins = _occupied(histograms)
    found: list[Floats] = []
    for part in _parts(weights, len(histograms), len(bins)):
        lesion, healthy = np.zeros((2, len(part), len(bins)))
        for here, block in _blocks(histograms, bins):
            lesion += part[:, here] @ block[0]
            healthy += part[:, here] @ block[1]
        best = binned.best_dice(lesion, healthy)[0]
        found.append(
            np.stack(
                [binned.average_precision(lesion, healthy), binned.auroc(lesion, healthy), best]
            )
        )
    return PooledDraws(*np.concatenate([np.zeros((3, 0)), *found], axis=1))


def mean_oracle_dice(
    histograms: Sequence[SparseHistogram], weights: NDArray[np.integer] | Floats
) -> Floats:
    """The best mean of the scans' own Dice at one threshold common to all, `(B,)`.

    It looks at the labels. Scans without lesion voxels do not count; NaN for a draw without others.

    Args:
        histograms: N scans; read several times, so they may come from a file.
        weights: `(B, N)`, how much each draw counts each of them.
    """
    bins = _occupied(histograms)
    found: list[Floats] = []
    for part in _parts(weights, len(histograms), len(bins)):
        total, counted = np.zeros((len(part), len(bins))), np.zeros(len(part))
        for here, block in _blocks(histograms, bins):
            dices = binned.dices(*block)
            total += part[:, here] @ np.nan_to_num(dices)
            counted += part[:, here] @ (block[0].sum(axis=1) > 0)
        best = total.max(axis=1, initial=0)
        found.append(np.divide(best, counted, out=np.full(len(part), np.nan), where=counted > 0))
    return np.concatenate([np.zeros(0), *found])


def _occupied(histograms: Sequence[SparseHistogram]) -> NDArray[np.intp]:
    """Bins that hold voxels of any histogram, by descending score."""
    there = np.zeros(1 << COARSE_BITS, bool)
    for one in histograms:
        there[one.index] = True
    return np.nonzero(there)[0][::-1]


def _parts(weights: NDArray[np.integer] | Floats, n: int, bins: int) -> Iterator[Floats]:
    """Rows of the weights, as many as the budget allows for so many bins."""
    if weights.ndim != 2 or weights.shape[1] != n:
        raise ValueError(f"weights of shape {weights.shape} for {n} histograms")
    rows = max(1, BUDGET // max(bins, 1))
    for start in range(0, len(weights), rows):
        yield weights[start : start + rows].astype(np.float64)


def _blocks(
    histograms: Sequence[SparseHistogram], bins: NDArray[np.intp]
) -> Iterator[tuple[slice, Floats]]:
    """Some histograms at a time: which, and their lesion and healthy voxels `(2, n, bins)`."""
    column = np.zeros(1 << COARSE_BITS, np.intp)
    column[bins] = np.arange(len(bins))
    for start in range(0, len(histograms), BLOCK):
        here = slice(start, min(start + BLOCK, len(histograms)))
        block = np.zeros((2, here.stop - start, len(bins)))
        for row in range(here.stop - start):
            one = histograms[start + row]
            block[0, row, column[one.index]] = one.lesion
            block[1, row, column[one.index]] = one.healthy
        yield here, block
