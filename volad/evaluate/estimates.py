"""From the rows of many scans to estimates of every number."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from volad.evaluate.agreement import scan_aurocs, volumes
from volad.evaluate.measure import CaseRow
from volad.evaluate.numbers import ordered
from volad.evaluate.sampling import Estimate, Floats, Sampler, ratio
from volad.evaluate.scores import oracle_mean, pooled_estimates
from volad.evaluate.settings import HEALTHY_RATES, Settings
from volad.metrics.histogram import ScoreHistogram, SparseHistogram

__all__ = ["by_size", "estimate"]


def estimate(
    rows: Sequence[CaseRow],
    histograms: Sequence[SparseHistogram],
    total: ScoreHistogram | None,
    sampler: Sampler,
    settings: Settings,
    partners: Sequence[CaseRow] | None = None,
) -> dict[str, Estimate]:
    """Estimate every number that these scans have, by the keys of `volad.evaluate.numbers`.

    Args:
        rows: `N` scans.
        histograms: of the same scans, empty for one without a score map.
        total: of all their voxels.
        sampler: draws of their subjects.
        settings: of the evaluation.
        partners: the same scans' rows in another result set: what either lacks is left out.
    """
    partners = rows if partners is None else partners
    others = meaned(partners)
    values = {
        key: np.where(np.isfinite(others[key]), column, np.nan)
        for key, column in meaned(rows).items()
    }
    found = {key: sampler.mean(column) for key, column in values.items()}
    found |= counted(rows, sampler) | volumes(rows, sampler)
    found |= scan_aurocs(rows, settings.draws, settings.seed)
    with_score = np.array([row.has_score for row in rows], bool)
    scored = with_score & np.array([row.has_score for row in partners], bool)
    if scored.any():
        whole = total if (scored == with_score).all() else None
        lesioned = np.array([row.lesioned for row in rows], bool)
        found |= pooled_estimates(histograms, scored, lesioned, sampler, whole)
        found["dice_oracle_mean"] = oracle_mean(histograms, scored & lesioned, sampler)
        deployable = sampler.mean(np.where(scored & lesioned, values["dice_mean"], np.nan))
        found["dice_gap"] = found["dice_oracle_mean"] - deployable
    return {key: found[key] for key in ordered(found) if np.isfinite(found[key].value)}


def column(rows: Sequence[CaseRow], read: Callable[[CaseRow], float]) -> Floats:
    """One number of each row, `(N,)`."""
    return np.array([read(row) for row in rows], np.float64)


def meaned(rows: Sequence[CaseRow]) -> dict[str, Floats]:
    """Numbers that are means over subjects: each scan's value `(N,)`, NaN where it has none."""
    healthy = column(rows, lambda row: not row.lesioned)
    of_healthy = np.where(healthy > 0, 1.0, np.nan)
    values = {
        "auprc_mean": column(rows, lambda row: row.auprc),
        "dice_mean": column(rows, lambda row: row.dice),
        "hd95_mm": column(rows, lambda row: row.hd95_mm),
        "assd_mm": column(rows, lambda row: row.assd_mm),
        "nsd": column(rows, lambda row: row.nsd),
        "false_lesions_per_scan": column(rows, lambda row: row.false),
        "healthy_fpr": of_healthy * column(rows, lambda row: row.false_positive_rate),
        "healthy_false_ml": of_healthy * column(rows, lambda row: row.mask_ml),
        "healthy_false_lesions": of_healthy * column(rows, lambda row: row.false),
    }
    for rate in HEALTHY_RATES:
        dices = [row.dice_at.get(rate, np.nan) for row in rows]
        values[f"dice_at_fpr_{100 * rate:g}"] = np.array(dices, np.float64)
    return values


def counted(rows: Sequence[CaseRow], sampler: Sampler) -> dict[str, Estimate]:
    """Lesion-wise numbers: of all lesions together, so a subject counts by its lesions."""
    lesions, found, predicted, false = (
        sampler.sums(column(rows, read))
        for read in (
            lambda row: row.lesions,
            lambda row: row.found,
            lambda row: row.predicted,
            lambda row: row.false,
        )
    )
    return {
        "lesion_sensitivity": sampler.of_sums(lambda s: ratio(s[0], s[1]), found, lesions),
        "lesion_precision": sampler.of_sums(
            lambda s: ratio(s[0], s[1]), predicted - false, predicted
        ),
        "lesion_f1": sampler.of_sums(_f1, found, predicted - false, predicted, lesions),
    }


def _f1(sums: list[Floats]) -> Floats:
    found, true, predicted, lesions = sums
    sensitivity, precision = ratio(found, lesions), ratio(true, predicted)
    # Nothing found is F1 0, also where nothing was predicted.
    total = np.where(predicted > 0, precision, 0) + sensitivity
    return np.where(total == 0, 0.0, ratio(2 * precision * sensitivity, total))


def by_size(rows: Sequence[CaseRow], sampler: Sampler) -> list[tuple[Estimate, int]]:
    """Lesion sensitivity, and the number of expert lesions, in each bin of `SIZES_MM3`."""
    sizes = np.array([row.sizes for row in rows], np.float64)  # (N, bins, 2)
    return [
        (sampler.total_ratio(sizes[:, b, 1], sizes[:, b, 0]), int(sizes[:, b, 0].sum()))
        for b in range(sizes.shape[1])
    ]
