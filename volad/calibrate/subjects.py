"""Several scans of one subject count as one: they are alike, and say less than as many subjects'.

All that a promise asks is that what it was set on and what is new could have come in any order
(`volad.calibrate.promise`). Two scans of one subject could not; the subjects, with all of their
scans, could. So a subject's loss is the mean of its scans', and for promises about each scan the
highest of them, which then hold for all scans of a new subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from volad.calibrate.curves import Curve

__all__ = ["by_subject", "merged"]


class OfSubject(Protocol):
    """A scan that says who was scanned; empty where nobody said."""

    @property
    def subject(self) -> str: ...


def by_subject(scans: Sequence[OfSubject]) -> list[list[int]]:
    """Each subject's scans, by their indices; a scan whose subject nobody said is alone."""
    groups: dict[str | int, list[int]] = {}
    for index, scan in enumerate(scans):
        groups.setdefault(scan.subject or index, []).append(index)
    return list(groups.values())


def merged(curves: Sequence[Curve], *, worst: bool) -> Curve:
    """The loss of a subject: the mean of its scans' losses, or the highest, at every threshold."""
    if len(curves) == 1:
        return curves[0]
    scores = np.unique(np.concatenate([curve.scores for curve in curves]))[::-1]
    losses = np.array([[*curve.at_each(scores), curve.values[-1]] for curve in curves])
    return Curve(scores, losses.max(axis=0) if worst else losses.mean(axis=0))
