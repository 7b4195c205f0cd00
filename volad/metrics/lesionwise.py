"""Metrics that count lesions: 26-connected components of a mask.

The matching rule: an expert lesion is found if any voxel of the mask overlaps it, and a predicted
lesion is false if it overlaps no expert lesion. Expert lesions below a size are ignored: neither
found nor missed, and a predicted lesion that overlaps only ignored ones is neither true nor false.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["SIZES_MM3", "FrocPoint", "LesionCounts", "LesionMatch", "froc", "match"]

#: Limits of the bins by size that sensitivity is given for, in mm³; a bin holds its lower limit.
SIZES_MM3 = (0.0, 10.0, 50.0, 100.0, 500.0, 1000.0, float("inf"))

NAN = float("nan")
CORNERS = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class LesionCounts:
    """Lesions of one or, added up, many scans.

    Attributes:
        lesions: expert lesions that are not ignored.
        found: of these, overlapped by the mask.
        predicted: lesions of the mask that are true or false.
        false: of these, those that overlap no expert lesion.
    """

    lesions: int = 0
    found: int = 0
    predicted: int = 0
    false: int = 0

    def __add__(self, other: LesionCounts) -> LesionCounts:
        return LesionCounts(
            self.lesions + other.lesions,
            self.found + other.found,
            self.predicted + other.predicted,
            self.false + other.false,
        )

    @property
    def sensitivity(self) -> float:
        """Share of the expert lesions that is found; NaN without any."""
        return self.found / self.lesions if self.lesions else NAN

    @property
    def precision(self) -> float:
        """Share of the predicted lesions that is true; NaN without any."""
        return (self.predicted - self.false) / self.predicted if self.predicted else NAN

    @property
    def f1(self) -> float:
        """Harmonic mean of sensitivity and precision; NaN with neither kind of lesion.

        As for Dice, it is 0 where there are lesions on one side only.
        """
        if self.lesions == 0 and self.predicted == 0:
            return NAN
        if self.found == 0 or self.predicted == self.false:
            return 0.0
        return 2 * self.sensitivity * self.precision / (self.sensitivity + self.precision)


@dataclass(frozen=True)
class LesionMatch:
    """The lesions of one scan.

    Attributes:
        counts: how many.
        lesions: volume in mm³ of each expert lesion that is not ignored, and whether it is found.
    """

    counts: LesionCounts
    lesions: tuple[tuple[float, bool], ...]

    def by_size(self) -> tuple[tuple[int, int], ...]:
        """Lesions and found ones of each bin of `SIZES_MM3`."""
        limits = np.array(SIZES_MM3[1:-1])
        bins = [(0, 0)] * (len(limits) + 1)
        for mm3, found in self.lesions:
            place = int(np.count_nonzero(_reaches(mm3, limits)))
            bins[place] = (bins[place][0] + 1, bins[place][1] + found)
        return tuple(bins)


@dataclass(frozen=True)
class FrocPoint:
    """Free-response operating point of one scan.

    Attributes:
        threshold: the score to exceed.
        lesions: expert lesions that are not ignored.
        found: of these, with a voxel above the threshold.
        false: lesions of the score above the threshold that overlap no expert lesion.
    """

    threshold: float
    lesions: int
    found: int
    false: int


def match(
    mask: NDArray[np.bool_], lesion: NDArray[np.bool_], voxel_mm3: float, min_mm3: float = 0.0
) -> LesionMatch:
    """Match the lesions of a mask with the expert's.

    Args:
        mask: the mask under judgement, `(X, Y, Z)`.
        lesion: the expert mask, of the same shape.
        voxel_mm3: volume of a voxel.
        min_mm3: smaller expert lesions are ignored.
    """
    _check_shapes(mask, lesion)
    box = _box(mask | lesion)
    mask, lesion = mask[box], lesion[box]
    expert, volumes = _labelled(lesion, voxel_mm3)
    counted = _reaches(volumes, min_mm3)
    counted[0] = False  # label 0 is what is no lesion
    found = np.zeros(len(volumes), bool)
    found[expert[mask]] = True
    predicted, sizes = _labelled(mask, voxel_mm3)
    touching, touching_counted = np.zeros(len(sizes), bool), np.zeros(len(sizes), bool)
    touching[predicted[lesion]] = True
    touching_counted[predicted[counted[expert]]] = True
    touching_counted[0] = False
    false = int(np.count_nonzero(~touching[1:]))
    return LesionMatch(
        LesionCounts(
            lesions=int(np.count_nonzero(counted)),
            found=int(np.count_nonzero(counted & found)),
            predicted=int(np.count_nonzero(touching_counted)) + false,
            false=false,
        ),
        tuple(zip(volumes[counted].tolist(), found[counted].tolist(), strict=True)),
    )


def froc(
    score: NDArray[np.floating],
    lesion: NDArray[np.bool_],
    thresholds: Sequence[float],
    voxel_mm3: float,
    min_mm3: float = 0.0,
    min_predicted_mm3: float = 0.0,
    region: NDArray[np.bool_] | None = None,
) -> list[FrocPoint]:
    """Found and false lesions at each threshold (free-response ROC).

    Args:
        score: `(X, Y, Z)`, higher is more abnormal.
        lesion: the expert mask, of the same shape.
        thresholds: scores to exceed.
        voxel_mm3: volume of a voxel.
        min_mm3: smaller expert lesions are ignored; what overlaps them is never false.
        min_predicted_mm3: smaller false lesions do not count.
        region: where scores count; None: everywhere.

    Source: Bunch et al., "A free response approach to the measurement and characterization of
        radiographic-observer performance", Proc. SPIE 127 (1977).
    """
    _check_shapes(score, lesion)
    peaks = _peaks(score, lesion, voxel_mm3, min_mm3, region)
    points: dict[float, FrocPoint] = {}
    box, above = _box(np.ones(score.shape, bool)), None
    for threshold in sorted(set(map(float, thresholds))):
        above = score[box] > threshold
        if region is not None:
            above &= region[box]
        inner = _box(above)  # what is above a higher threshold lies within
        box = tuple(
            slice(o.start + i.start, o.start + i.stop) for o, i in zip(box, inner, strict=True)
        )
        false = _count_false(above[inner], lesion[box], voxel_mm3, min_predicted_mm3)
        found = int(np.count_nonzero(peaks > threshold))
        points[threshold] = FrocPoint(threshold, len(peaks), found, false)
    return [points[float(threshold)] for threshold in thresholds]


def _peaks(
    score: NDArray[np.floating],
    lesion: NDArray[np.bool_],
    voxel_mm3: float,
    min_mm3: float,
    region: NDArray[np.bool_] | None,
) -> NDArray[np.float64]:
    """The highest score of each expert lesion that is not ignored; -inf outside the region."""
    box = _box(lesion)
    labels, volumes = _labelled(lesion[box], voxel_mm3)
    counts = labels > 0 if region is None else (labels > 0) & region[box]
    peaks = np.full(len(volumes), -np.inf)
    np.maximum.at(peaks, labels[counts], score[box][counts])
    return peaks[1:][_reaches(volumes[1:], min_mm3)]


def _count_false(
    above: NDArray[np.bool_], lesion: NDArray[np.bool_], voxel_mm3: float, min_mm3: float
) -> int:
    labels, volumes = _labelled(above, voxel_mm3)
    false = _reaches(volumes, min_mm3)
    false[labels[lesion]] = False
    false[0] = False
    return int(np.count_nonzero(false))


def _labelled(
    mask: NDArray[np.bool_], voxel_mm3: float
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Components, and the volume of each label in mm³, with label 0 for the rest."""
    labels, count = ndimage.label(mask, structure=CORNERS)
    voxels = np.bincount(labels[mask], minlength=count + 1)
    return labels, voxels.astype(np.float64) * voxel_mm3


def _reaches(
    mm3: NDArray[np.float64] | float, least: NDArray[np.float64] | float
) -> NDArray[np.bool_]:
    # A hair less, since a voxel's volume rounds.
    return np.asarray(mm3 >= np.multiply(least, 1 - 1e-6))


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The bounding box of what is true; empty where nothing is."""
    (found,) = ndimage.find_objects(mask.view(np.uint8), max_label=1)
    return found if found is not None else (slice(0, 0),) * mask.ndim


def _check_shapes(a: NDArray[np.generic], lesion: NDArray[np.bool_]) -> None:
    if a.shape != lesion.shape:
        raise ValueError(f"an expert mask of shape {lesion.shape} for one of {a.shape}")
