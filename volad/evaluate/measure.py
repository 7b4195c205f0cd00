"""The numbers of one case; of every scan only these are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from volad.evaluate.case import Case
from volad.evaluate.settings import Settings, Thresholds
from volad.metrics.counts import Confusion, dice
from volad.metrics.curves import average_precision
from volad.metrics.lesionwise import froc, match
from volad.metrics.surface import SurfaceScores, surface_distances

__all__ = ["CaseRow", "measure"]

NAN = float("nan")


@dataclass(frozen=True)
class CaseRow:
    """What is kept of a case; NaN where a number is not defined.

    Attributes:
        lesioned: whether the expert marked anything.
        auprc: average precision of this scan's voxels.
        dice: of the mask as given.
        dice_at: healthy false-positive rate → Dice of the score above its threshold.
        false_positive_rate: of the mask, among the region's healthy voxels.
        lesions, found, predicted, false: lesion-wise counts of the mask.
        sizes: `(bins, 2)` expert lesions and those found, by `SIZES_MM3`.
        froc: `(thresholds, 2)` lesions found and false ones.
    """

    name: str
    subject: str
    groups: Mapping[str, str]
    lesioned: bool
    has_score: bool
    region_voxels: int
    lesion_ml: float
    mask_ml: float
    auprc: float = NAN
    dice: float = NAN
    dice_at: Mapping[float, float] = field(default_factory=dict)
    sensitivity: float = NAN
    precision: float = NAN
    false_positive_rate: float = NAN
    lesions: int = 0
    found: int = 0
    predicted: int = 0
    false: int = 0
    sizes: tuple[tuple[int, int], ...] = ()
    froc: tuple[tuple[int, int], ...] = ()
    hd95_mm: float = NAN
    assd_mm: float = NAN
    nsd: float = NAN
    scan_scores: Mapping[str, float] = field(default_factory=dict)


def measure(case: Case, settings: Settings, thresholds: Thresholds) -> CaseRow:
    """Measure one case."""
    expert = case.expert()
    ml = case.voxel_mm3 / 1000
    whole = Confusion.of(case.mask, expert)
    lesions = match(case.mask, expert, case.voxel_mm3, settings.min_lesion_mm3)
    surface = _surface(case, settings)
    return CaseRow(
        name=case.name,
        subject=case.subject,
        groups=dict(case.groups),
        lesioned=case.lesion is not None,
        has_score=case.score is not None,
        region_voxels=0 if case.region is None else int(np.count_nonzero(case.region)),
        lesion_ml=(whole.tp + whole.fn) * ml,
        mask_ml=(whole.tp + whole.fp) * ml,
        auprc=NAN if case.score is None else average_precision(*case.voxels()),
        dice=whole.dice if case.lesion is not None else NAN,
        dice_at=_dice_at(case, thresholds),
        sensitivity=whole.sensitivity,
        precision=whole.precision if case.lesion is not None else NAN,
        false_positive_rate=_false_positive_rate(case, expert),
        lesions=lesions.counts.lesions,
        found=lesions.counts.found,
        predicted=lesions.counts.predicted,
        false=lesions.counts.false,
        sizes=lesions.by_size(),
        froc=_froc(case, expert, settings, thresholds),
        hd95_mm=surface.hd95_mm,
        assd_mm=surface.assd_mm,
        nsd=surface.nsd,
        scan_scores={**case.scan_scores},
    )


def _surface(case: Case, settings: Settings) -> SurfaceScores:
    if case.lesion is None or not case.mask.any():
        return SurfaceScores(NAN, NAN, NAN)
    return surface_distances(case.mask, case.lesion, case.spacing_mm, settings.tolerance_mm)


def _false_positive_rate(case: Case, expert: NDArray[np.bool_]) -> float:
    if case.region is None:
        return NAN
    return Confusion.of(case.mask, expert, case.region).false_positive_rate


def _dice_at(case: Case, thresholds: Thresholds) -> dict[float, float]:
    if case.score is None or case.lesion is None:
        return {}
    scores, lesion = case.voxels()
    healthy = thresholds.healthy_for(case.contrast)
    return {rate: dice(scores > value, lesion) for rate, value in healthy.items()}


def _froc(
    case: Case, expert: NDArray[np.bool_], settings: Settings, thresholds: Thresholds
) -> tuple[tuple[int, int], ...]:
    if case.score is None or not settings.froc or not thresholds.froc:
        return ()
    points = froc(
        case.score,
        expert,
        list(thresholds.froc.values()),
        case.voxel_mm3,
        settings.min_lesion_mm3,
        region=case.region,
    )
    return tuple((point.found, point.false) for point in points)
