"""What a healthy scan loses to false positives, as a step function of the threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volad.errors import InputError

__all__ = ["COUNTED", "LEVELS", "Curve", "HealthyScan", "brief", "rounded_up", "tail_of"]

Floats = NDArray[np.float64]

#: Shares of the brain's voxels at which a scan's scores are kept: 10^-6 to 1, 40 a decade.
LEVELS = np.logspace(-6, 0, 241)
#: At which of `LEVELS` the lesions of the final mask are counted: 25 from 10^-5 to 4 %.
COUNTED = slice(40, 185, 6)


@dataclass(frozen=True)
class Curve:
    """A scan's loss at every threshold; it never rises with the threshold.

    Attributes:
        scores: `(K,)`, falling: where the loss steps.
        values: `(K + 1,)`, never falling: the loss where so many of `scores` are above the
            threshold.
    """

    scores: Floats
    values: Floats

    def at(self, threshold: float) -> float:
        """The loss at a threshold."""
        return float(self.at_each(np.array(threshold)))

    def at_each(self, thresholds: Floats) -> Floats:
        """The losses at many."""
        losses: Floats = self.values[np.searchsorted(-self.scores, -thresholds)]
        return losses

    def lowest(self, most: float) -> float:
        """The lowest threshold at which the loss is at most `most`; -inf where any will do."""
        steps = int(np.searchsorted(self.values, most, side="right")) - 1
        return float(self.scores[steps]) if steps < len(self.scores) else -math.inf


@dataclass(frozen=True)
class HealthyScan:
    """What is kept of a healthy scan: enough to set any promise without the scan.

    Attributes:
        name: of the scan.
        sha256: of its file.
        tail: `(len(LEVELS),)`, see `tail_of`.
        brain_mm3: volume of the brain; None in calibrations of volad 0.1.
        lesions: `(25,)`, 26-connected lesions in the final mask when it is cut at
            `tail[COUNTED]`; None in calibrations of volad 0.1.
        mm3: `(25,)`, their volume together.
        contrast: which the scan has (`volad.preprocess.contrast`), where that is known.
        subject: who was scanned, where that is known.
    """

    name: str
    sha256: str
    tail: Floats
    brain_mm3: float | None = None
    lesions: Floats | None = None
    mm3: Floats | None = None
    contrast: str | None = None
    subject: str = ""

    def curve(self, of: str) -> Curve:
        """The loss that a promise is about (`volad.calibrate.promise.QUANTITIES`).

        A share between two levels is taken as the higher one, so that the true share is never
        above it. Lesions may merge as the threshold falls: their number is the highest met on the
        way down, and between two thresholds that at the lower. Below the lowest threshold counted
        at, a count is unknown and taken as infinite.
        """
        if of == "voxel_fpr":
            return Curve(self.tail, np.r_[0.0, LEVELS[1:], 1.0])
        found = self.lesions if of == "false_lesions" else self.mm3
        if found is None:
            raise InputError("lesions were not counted; run volad calibrate again")
        scores = np.r_[self.tail[0], self.tail[COUNTED]]
        return Curve(scores, np.r_[0.0, np.maximum.accumulate(found), math.inf])


def tail_of(score: NDArray[np.float32], brain: NDArray[np.bool_]) -> Floats:
    """The scores that the shares `LEVELS` of the brain's voxels exceed: `(len(LEVELS),)`.

    At most the share `LEVELS[k]` of the voxels scores above entry `k`, none above the first.
    """
    inside = np.sort(score[brain])[::-1]
    if len(inside) == 0:
        raise InputError("the brain mask is empty; give one with --brain-mask FILE")
    place = np.minimum(np.floor(LEVELS * len(inside)).astype(int), len(inside) - 1)
    place[0] = 0
    tail: Floats = inside[place].astype(np.float64)
    return tail


def brief(values: Floats) -> Floats:
    """Six digits, which a file need not be longer for."""
    return np.array([float(f"{v:.6g}") for v in values.flat]).reshape(values.shape)


def rounded_up(values: Floats) -> Floats:
    """Six digits, never less than the value, so that a threshold stays on the safe side of it."""
    short = brief(values)
    with np.errstate(divide="ignore"):
        unit = 10.0 ** (np.floor(np.log10(np.abs(values))) - 5)
    return np.where(short < values, brief(short + unit), short)
