"""Judge cases one after the other; what is kept of each is a row of numbers and a histogram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from volad.evaluate.agreement import limits_of_agreement
from volad.evaluate.case import Case
from volad.evaluate.estimates import by_size, estimate
from volad.evaluate.histograms import Chosen, Spill
from volad.evaluate.measure import CaseRow, measure
from volad.evaluate.sampling import Estimate, Sampler
from volad.evaluate.scores import Curves, curves
from volad.evaluate.settings import FROC_SHARES, HEALTHY_RATES, Settings, Thresholds
from volad.metrics.histogram import ScoreHistogram

__all__ = ["Evaluation", "FrocPoint", "Summary", "Survey", "compare"]


@dataclass(frozen=True, eq=False)
class FrocPoint:
    """One threshold of the FROC curve; `share` of the region's voxels exceed it."""

    share: float
    threshold: float
    sensitivity: Estimate
    false_per_scan: Estimate


@dataclass(frozen=True, eq=False)
class Summary:
    """All numbers of a result set, or of a subgroup of it.

    Attributes:
        counts: of scans, subjects, and of what could not be judged.
        estimates: by the keys of `volad.evaluate.numbers`.
        sizes: lesion sensitivity and number of expert lesions in each bin of `SIZES_MM3`.
        froc: by rising share of voxels above the threshold.
        agreement_ml: Bland-Altman 95 % limits of the mask's volume minus the expert's.
        curves: of the pooled voxels; `None` without score maps.
        subgroups: column → value → summary.
    """

    counts: Mapping[str, int]
    estimates: Mapping[str, Estimate]
    sizes: Sequence[tuple[Estimate, int]]
    froc: Sequence[FrocPoint]
    agreement_ml: tuple[float, float]
    curves: Curves | None
    subgroups: Mapping[str, Mapping[str, Summary]] = field(default_factory=dict)


class Survey:
    """The first pass over all cases: their scores give the thresholds of the second."""

    def __init__(self) -> None:
        self._all = ScoreHistogram()
        self._healthy = ScoreHistogram()

    def add(self, case: Case) -> None:
        """Look at the scores of a case's region."""
        if case.score is None or case.region is None:
            return
        scores = np.asarray(case.score[case.region], np.float32)
        unlabelled = np.zeros(len(scores), bool)
        self._all.add(scores, unlabelled)
        if case.lesion is None:
            self._healthy.add(scores, unlabelled)

    def thresholds(self, calibrated: Thresholds | None = None) -> Thresholds:
        """Thresholds for the second pass.

        Args:
            calibrated: those at healthy false-positive rates, where a bundle's calibration has
                them; by default from the lesion-free scans seen.
        """
        froc: dict[float, float] = {}
        for share in FROC_SHARES if self._all.healthy_voxels else ():
            threshold = self._all.threshold_at_fpr(share)
            if threshold not in froc.values():
                froc[share] = threshold
        if calibrated is not None:
            return replace(calibrated, froc=froc)
        if self._healthy.healthy_voxels == 0:
            return Thresholds(froc)
        rates = {rate: self._healthy.threshold_at_fpr(rate) for rate in HEALTHY_RATES}
        return Thresholds(froc, rates, "the lesion-free scans of the manifest")


class Evaluation:
    """Cases of one result set, judged one by one.

    Memory does not grow with the size of the scans and hardly with their number: a row of numbers
    is kept of each, its histogram lies in a temporary file.

    Args:
        settings: what decides the numbers.
        thresholds: of the FROC curve and for Dice at healthy false-positive rates
            (`Survey.thresholds`); without them both are left out.
    """

    def __init__(
        self, settings: Settings | None = None, thresholds: Thresholds | None = None
    ) -> None:
        self.settings = settings or Settings()
        self.thresholds = thresholds or Thresholds()
        self.rows: list[CaseRow] = []
        self._spill = Spill()
        self._total = ScoreHistogram()
        self._totals: dict[tuple[str, str], ScoreHistogram] = {}

    def add(self, case: Case) -> CaseRow:
        """Judge a case."""
        row = measure(case, self.settings, self.thresholds)
        own = ScoreHistogram()
        if case.score is not None:
            own.add(*case.voxels())
        self._total += own
        for group in row.groups.items():
            self._totals[group] = self._totals.get(group, ScoreHistogram()) + own
        self._spill.append(own.coarse())
        self.rows.append(row)
        return row

    def histograms(self, places: Sequence[int]) -> Chosen:
        """Those of some rows."""
        return Chosen(self._spill, places)

    def summary(self) -> Summary:
        """All numbers so far, with those of every subgroup.

        Raises:
            ValueError: no case was added.
        """
        if not self.rows:
            raise ValueError("no case to summarise; add one")
        groups: dict[str, dict[str, Summary]] = {column: {} for column in self.rows[0].groups}
        for (column, value), total in sorted(self._totals.items()):
            places = [i for i, row in enumerate(self.rows) if row.groups[column] == value]
            groups[column][value] = self._summary(places, total)
        return replace(self._summary(range(len(self.rows)), self._total), subgroups=groups)

    def _summary(self, places: Sequence[int], total: ScoreHistogram) -> Summary:
        rows = [self.rows[i] for i in places]
        sampler = Sampler([row.subject for row in rows], self.settings.draws, self.settings.seed)
        return Summary(
            counts=_counts(rows),
            estimates=estimate(rows, self.histograms(places), total, sampler, self.settings),
            sizes=by_size(rows, sampler),
            froc=_froc(rows, self.thresholds, self.settings),
            agreement_ml=limits_of_agreement(rows, sampler),
            curves=curves(total) if total.lesion_voxels else None,
        )


def compare(first: Evaluation, other: Evaluation) -> dict[str, Estimate]:
    """First minus other in the same draws of subjects, for each number that both have.

    Only scans that both have are compared. A scan where one of the two lacks a number drops out of
    that number's mean, one without a score map out of all numbers of scores.
    """
    place = {row.name: i for i, row in enumerate(other.rows)}
    mine = [i for i, row in enumerate(first.rows) if row.name in place]
    theirs = [place[first.rows[i].name] for i in mine]
    if not mine:
        return {}
    rows, partners = [first.rows[i] for i in mine], [other.rows[i] for i in theirs]
    sampler = Sampler([row.subject for row in rows], first.settings.draws, first.settings.seed)
    whole = len(mine) == len(first.rows) == len(other.rows)
    totals = (first._total, other._total) if whole else (None, None)
    a = estimate(rows, first.histograms(mine), totals[0], sampler, first.settings, partners)
    b = estimate(partners, other.histograms(theirs), totals[1], sampler, first.settings, rows)
    return {key: a[key] - b[key] for key in a if key in b}


def _counts(rows: Sequence[CaseRow]) -> dict[str, int]:
    lesioned = [row for row in rows if row.lesioned]
    return {
        "scans": len(rows),
        "subjects": len({row.subject for row in rows}),
        "with_lesions": len(lesioned),
        "without_lesions": len(rows) - len(lesioned),
        "without_score": sum(not row.has_score for row in rows),
        "empty_masks_with_lesions": sum(row.mask_ml == 0 for row in lesioned),
        "lesions": sum(row.lesions for row in rows),
    }


def _froc(rows: Sequence[CaseRow], thresholds: Thresholds, settings: Settings) -> list[FrocPoint]:
    rows = [row for row in rows if row.froc]
    if not rows or not any(row.lesions for row in rows):
        return []
    sampler = Sampler([row.subject for row in rows], settings.draws, settings.seed)
    lesions = np.array([row.lesions for row in rows], float)
    found_false = np.array([row.froc for row in rows], float)  # (N, thresholds, 2)
    return [
        FrocPoint(
            share,
            threshold,
            sampler.total_ratio(found_false[:, k, 0], lesions),
            sampler.mean(found_false[:, k, 1]),
        )
        for k, (share, threshold) in enumerate(thresholds.froc.items())
    ]
