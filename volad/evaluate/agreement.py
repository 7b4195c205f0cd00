"""Correlation of lesion volumes, and scan-level AUROC, in every bootstrap draw at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from volad.evaluate.measure import CaseRow
from volad.evaluate.numbers import MASK_ML, SCAN_AUROC
from volad.evaluate.sampling import Estimate, Floats, Sampler, ratio
from volad.metrics.volumes import volume_agreement

__all__ = ["limits_of_agreement", "pearson", "scan_aurocs", "spearman", "volumes"]


def volumes(rows: Sequence[CaseRow], sampler: Sampler) -> dict[str, Estimate]:
    """Agreement of lesion volumes in ml over subjects with lesions; NaN for fewer than three."""
    mask, expert = _volumes(rows, sampler)
    there = np.isfinite(mask)
    of_all = volume_agreement(mask, expert)
    weights = sampler.weights[:, there]
    found = {"volume_bias_ml": sampler.mean(_of_lesioned(rows, lambda r: r.mask_ml - r.lesion_ml))}
    for key, formula in (("pearson", pearson), ("spearman", spearman)):
        draws = formula(mask[there], expert[there], weights) if of_all.n >= 3 else np.zeros(0)
        found[f"volume_{key}"] = Estimate(getattr(of_all, key), draws, of_all.n)
    return found


def limits_of_agreement(rows: Sequence[CaseRow], sampler: Sampler) -> tuple[float, float]:
    """Bland-Altman 95 % limits of the mask's volume minus the expert's, in ml."""
    found = volume_agreement(*_volumes(rows, sampler))
    return found.low_ml, found.high_ml


def _volumes(rows: Sequence[CaseRow], sampler: Sampler) -> tuple[Floats, Floats]:
    """Of the mask and the expert, `(S,)` each; NaN for subjects without lesions."""
    mask, expert = (
        sampler.means(_of_lesioned(rows, read))
        for read in (lambda row: row.mask_ml, lambda row: row.lesion_ml)
    )
    return mask, expert


def _of_lesioned(rows: Sequence[CaseRow], read: Callable[[CaseRow], float]) -> Floats:
    return np.array([read(row) if row.lesioned else np.nan for row in rows], np.float64)


def pearson(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Pearson's r of `x` and `y` in each draw.

    Args:
        x: `(S,)`, or `(B, S)` where it differs between draws.
        y: likewise.
        weights: `(B, S)` how often a draw holds each.

    Returns:
        `(B,)`; NaN where one does not vary.
    """
    total = weights.sum(axis=1, keepdims=True)
    dx = x - ratio((weights * x).sum(axis=1, keepdims=True), total)
    dy = y - ratio((weights * y).sum(axis=1, keepdims=True), total)
    shared = (weights * dx * dy).sum(axis=1)
    spread = (weights * dx**2).sum(axis=1) * (weights * dy**2).sum(axis=1)
    return ratio(shared, np.sqrt(spread))


def spearman(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Spearman's rho, with arguments and result like `pearson`."""
    return pearson(_ranks(x, weights), _ranks(y, weights), weights)


def _ranks(values: Floats, weights: Floats) -> Floats:
    """Mean ranks `(B, S)` of values `(S,)` that occur as often as their weights say."""
    _, place = np.unique(values, return_inverse=True)
    levels = np.zeros((len(weights), place.max() + 1))
    np.add.at(levels.T, place, weights.T)
    below = np.cumsum(levels, axis=1) - levels
    ranks: Floats = (below + (levels + 1) / 2)[:, place]
    return ranks


def scan_aurocs(rows: Sequence[CaseRow], draws: int, seed: int) -> dict[str, Estimate]:
    """AUROC of each scan score, and of the mask's volume, for telling lesioned scans from others.

    Subjects are drawn among those with and among those without lesions. Scores that not every scan
    has are left out.
    """
    lesioned = np.array([row.lesioned for row in rows], bool)
    if lesioned.all() or not lesioned.any():
        return {}
    subjects = np.array([row.subject for row in rows])
    groups = [
        Sampler(subjects[one], draws, [seed, k]) for k, one in enumerate((lesioned, ~lesioned))
    ]
    n = min(group.subjects for group in groups)
    weights = [np.vstack([np.ones((1, len(g.index))), g.of_scans()]) for g in groups]
    found = {}
    for name in (MASK_ML, *_shared_scores(rows)):
        values = _scan_values(rows, name)
        wins = _wins(values[lesioned], values[~lesioned])
        top = np.einsum("bl,bl->b", weights[0], weights[1] @ wins.T)
        aurocs = ratio(top, weights[0].sum(axis=1) * weights[1].sum(axis=1))
        found[SCAN_AUROC + name] = Estimate(float(aurocs[0]), aurocs[1:], n)
    return found


def _wins(lesioned: Floats, healthy: Floats) -> Floats:
    """`(L, H)`: 1 where the lesioned scan scores higher, 1/2 where they tie."""
    difference = lesioned[:, None] - healthy[None]
    wins: Floats = (np.sign(difference) + 1) / 2
    return wins


def _shared_scores(rows: Sequence[CaseRow]) -> list[str]:
    return [name for name in rows[0].scan_scores if all(name in row.scan_scores for row in rows)]


def _scan_values(rows: Sequence[CaseRow], name: str) -> NDArray[np.float64]:
    return np.array([row.mask_ml if name == MASK_ML else row.scan_scores[name] for row in rows])
