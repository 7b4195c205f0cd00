"""Numbers of score maps over all thresholds, from the histograms of many scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volad.evaluate.sampling import Estimate, Floats, Sampler
from volad.metrics.histogram import ScoreHistogram, SparseHistogram
from volad.metrics.pooled import mean_oracle_dice, pooled

__all__ = ["Curves", "curves", "oracle_mean", "pooled_estimates"]


@dataclass(frozen=True)
class Curves:
    """What the pooled voxels give besides the estimates.

    Attributes:
        certain: number → the bounds that rounding scores into bins leaves.
        oracle_thresholds: number → the score to exceed; found by looking at the labels.
        precision_recall: `(recall, precision)` by falling threshold.
    """

    certain: Mapping[str, tuple[float, float]]
    oracle_thresholds: Mapping[str, float]
    precision_recall: Sequence[tuple[float, float]]


def curves(total: ScoreHistogram) -> Curves:
    """Bounds, oracle threshold and curve of all voxels together."""
    _, *auprc = total.average_precision()
    _, *auroc = total.auroc()
    oracle = total.oracle_dice()
    curve = total.curve()
    return Curves(
        certain={
            "auprc_pooled": (auprc[0], auprc[1]),
            "auroc_pooled": (auroc[0], auroc[1]),
            "dice_oracle_pooled": (oracle.dice, oracle.dice + oracle.error),
        },
        oracle_thresholds={"dice_oracle_pooled": oracle.threshold},
        precision_recall=list(zip(curve.recall.tolist(), curve.precision.tolist(), strict=True)),
    )


def pooled_estimates(
    histograms: Sequence[SparseHistogram],
    scored: NDArray[np.bool_],
    lesioned: NDArray[np.bool_],
    sampler: Sampler,
    total: ScoreHistogram | None,
) -> dict[str, Estimate]:
    """AUPRC, AUROC and oracle Dice of the voxels of all subjects together.

    Args:
        histograms: of `N` scans.
        scored: `(N,)` which of them count.
        lesioned: `(N,)` which have lesions: limits need two such subjects, however many others.
        sampler: draws of their subjects.
        total: histogram of the voxels of those that count, for numbers more exact than the coarse
            histograms give; None: there is none. The draws are then moved by as much as the number,
            so that the limits lie about it.
    """
    found = pooled(histograms, _all_and_drawn(sampler) * scored)
    n = sampler.count(scored & lesioned)
    draws = {
        "auprc_pooled": found.average_precision,
        "auroc_pooled": found.auroc,
        "dice_oracle_pooled": found.oracle_dice,
    }
    exact = {}
    if total is not None:
        exact = {
            "auprc_pooled": total.average_precision().value,
            "auroc_pooled": total.auroc().value,
            "dice_oracle_pooled": total.oracle_dice().dice,
        }
    return {key: _estimate(exact.get(key, values[0]), values, n) for key, values in draws.items()}


def oracle_mean(
    histograms: Sequence[SparseHistogram], chosen: NDArray[np.bool_], sampler: Sampler
) -> Estimate:
    """Best mean Dice of the subjects at one threshold common to all, found anew in each draw.

    Args:
        histograms: of `N` scans.
        chosen: `(N,)` those with lesions and a score.
        sampler: draws of their subjects.
    """
    # A subject counts once, as the mean of its scans.
    of_subject = sampler.sums(chosen.astype(float))[sampler.index]
    share = np.divide(chosen, of_subject, out=np.zeros(len(chosen)), where=chosen)
    values = mean_oracle_dice(histograms, _all_and_drawn(sampler) * share)
    return Estimate(float(values[0]), values[1:], sampler.count(chosen))


def _estimate(number: float, values: Floats, n: int) -> Estimate:
    """A share; coarse histograms have that of the data, then those of the draws, as `values`."""
    return Estimate(float(number), np.clip(values[1:] + (number - values[0]), 0, 1), n)


def _all_and_drawn(sampler: Sampler) -> Floats:
    """How often each scan counts: in the data themselves, then in each draw."""
    return np.vstack([np.ones(len(sampler.index)), sampler.of_scans()])
