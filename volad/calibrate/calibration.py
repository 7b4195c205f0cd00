"""A promise, the threshold that keeps it, and the healthy scans that it was set from.

A promise kept on average over scans of several contrasts says nothing of one of them. Where scans
say which contrast they have (`volad.preprocess.contrast`), each gets its own threshold from the
healthy scans that have it, too: calibration within categories, Mondrian conformal prediction (Vovk
et al. 2005, "Algorithmic Learning in a Random World", section 4.5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volad.calibrate import words
from volad.calibrate.curves import COUNTED, LEVELS, HealthyScan, brief, rounded_up
from volad.calibrate.promise import CONFIDENCE, Promise
from volad.calibrate.subjects import by_subject, merged
from volad.errors import UsageError
from volad.thresholds import by_contrast

__all__ = ["Calibration"]


@dataclass(frozen=True)
class Calibration:
    """Healthy scans, and the threshold that keeps a promise on new ones.

    Attributes:
        promise: what is kept.
        threshold: the lowest score that keeps it.
        losses: what each scan loses at the threshold, not capped; where that is below the lowest
            threshold that its lesions were counted at, what it loses there.
        scans: what was measured.
        mask_steps: name and settings of each step that made the final mask from the cut score;
            lesions were counted after them.
        contrasts: by contrast, the calibration for scans that have it, where those calibrated on
            are enough for the promise.
    """

    promise: Promise
    threshold: float
    losses: tuple[float, ...]
    scans: tuple[HealthyScan, ...]
    mask_steps: tuple[Mapping[str, Any], ...] = ()
    contrasts: Mapping[str, Calibration] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        scans: Sequence[HealthyScan],
        promise: Promise,
        mask_steps: Sequence[Mapping[str, Any]] = (),
    ) -> Calibration:
        """Find the threshold for a promise.

        Raises:
            InputError: the scans are too few for it, or their lesions were not counted.
        """
        promise.require(len(by_subject(scans)))
        # As they are stored, so that the stored ones give the same threshold.
        kept = tuple(
            replace(scan, tail=rounded_up(scan.tail), mm3=_or_none(scan.mm3)) for scan in scans
        )
        steps = tuple(mask_steps)
        alone = {}
        for name in sorted({scan.contrast for scan in kept if scan.contrast}):
            alike = tuple(scan for scan in kept if scan.contrast == name)
            if len(by_subject(alike)) >= promise.scans_needed():
                alone[name] = cls._of(alike, promise, steps)
        return replace(cls._of(kept, promise, steps), contrasts=alone)

    @classmethod
    def _of(
        cls, scans: tuple[HealthyScan, ...], promise: Promise, steps: tuple[Mapping[str, Any], ...]
    ) -> Calibration:
        curves = [scan.curve(promise.of) for scan in scans]
        of_subjects = [
            merged([curves[index] for index in group], worst=promise.kind == "each")
            for group in by_subject(scans)
        ]
        threshold = promise.threshold(of_subjects)
        losses = [min(c.at(threshold), c.values[np.isfinite(c.values)].max()) for c in curves]
        return cls(promise, threshold, tuple(map(float, losses)), scans, steps)

    def facts(self) -> dict[str, Any]:
        """What a sidecar tells of it: all but the tables."""
        low, high = _interval_of_mean(self._of_subjects(np.array(self.losses)))
        return {
            "threshold": self.threshold,
            "promise": {
                **self.promise.facts(),
                "meaning": words.meaning(self.promise),
                "guarantee": words.guarantee(self.promise, len(self.scans), self.subjects),
                "scans_needed": self.promise.scans_needed(),
            },
            "healthy_scans": len(self.scans),
            "healthy_subjects": self.subjects,
            "realised": {
                "mean": float(np.mean(self.losses)),
                "lowest": min(self.losses),
                "highest": max(self.losses),
                "interval_95_of_mean": [low, high],
                **({"mean_capped": self.mean_capped} if self.promise.kind == "mean" else {}),
            },
            "sureness": self.sureness(),
            "mask_steps": [dict(step) for step in self.mask_steps],
            **({"contrasts": self._by_contrast()} if self.contrasts else {}),
        }

    def _by_contrast(self) -> dict[str, Any]:
        return {name: found.facts() for name, found in self.contrasts.items()}

    @property
    def thresholds(self) -> float | dict[str, float]:
        """As `volad.postprocess.Threshold` takes it: by contrast, where there are several."""
        return by_contrast(self.threshold, {k: v.threshold for k, v in self.contrasts.items()})

    @property
    def subjects(self) -> int:
        """How many subjects the scans are of; that many count for the promise."""
        return len(by_subject(self.scans))

    @property
    def mean_capped(self) -> float:
        """The mean loss of the subjects, each counting as much as the promise lets it."""
        means = self._of_subjects(np.array(self.losses))
        return float(np.minimum(means, self.promise.bound).mean())

    def _of_subjects(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of each subject the mean of its scans' losses."""
        return np.array([losses[group].mean() for group in by_subject(self.scans)])

    def sureness(self) -> dict[str, Any]:
        """What is so in 9 of 10 such calibrations (`Promise.mean_limit`, `Promise.coverage`)."""
        count = self.subjects
        if self.promise.kind == "mean":
            return {"confidence": CONFIDENCE, "mean_at_most": self.promise.mean_limit(count)}
        return {"confidence": CONFIDENCE, "coverage_between": list(self.promise.coverage(count))}

    def to_json(self) -> dict[str, Any]:
        """Plain values for `models/calibration.json`."""
        tables: dict[str, Any] = {
            "scans": [_of_scan(scan) for scan in self.scans],
            "tails": {
                "levels": brief(LEVELS).tolist(),
                "scores": [scan.tail.tolist() for scan in self.scans],
            },
        }
        if all(scan.lesions is not None for scan in self.scans):
            tables["counts"] = {
                "levels": brief(LEVELS[COUNTED]).tolist(),
                "lesions": [_ints(scan.lesions) for scan in self.scans],
                "mm3": [np.asarray(scan.mm3).tolist() for scan in self.scans],
            }
        return {**self.facts(), **tables}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], promise: Promise | None = None) -> Calibration:
        """Read back; with another `promise`, find its threshold from what is stored."""
        if promise is None:
            promise = _promise_of(stored)
        scans = _scans_of(stored)
        if promise.of != "voxel_fpr" and "counts" not in stored:
            raise UsageError("this calibration counted no false lesions; run volad calibrate again")
        return cls.fit(scans, promise, stored.get("mask_steps", ()))


def _promise_of(stored: Mapping[str, Any]) -> Promise:
    """The stored promise; that of volad 0.1 was on the mean of the voxels, without a guarantee."""
    promise = stored["promise"]
    if "of" not in promise:
        return Promise(rate=float(promise["rate"])).eased(len(stored["scans"]))
    known = {k: promise[k] for k in ("of", "rate", "kind", "cap", "level") if k in promise}
    return Promise(**known)


def _scans_of(stored: Mapping[str, Any]) -> list[HealthyScan]:
    tails = np.array(stored["tails"]["scores"], np.float64)
    if tails.ndim != 2 or tails.shape[1] != len(LEVELS):
        raise ValueError(f"tails have {len(LEVELS)} scores a scan, got {tails.shape}")
    counts = stored.get("counts")
    return [
        HealthyScan(
            name=str(scan.get("name", row)),
            sha256=str(scan.get("sha256", "")),
            tail=tail,
            brain_mm3=scan.get("brain_mm3"),
            lesions=None if counts is None else np.array(counts["lesions"][row], np.float64),
            mm3=None if counts is None else np.array(counts["mm3"][row], np.float64),
            contrast=scan.get("contrast"),
            subject=scan.get("subject", ""),
        )
        for row, (scan, tail) in enumerate(zip(stored["scans"], tails, strict=True))
    ]


def _of_scan(scan: HealthyScan) -> dict[str, Any]:
    size = {} if scan.brain_mm3 is None else {"brain_mm3": scan.brain_mm3}
    contrast = {} if scan.contrast is None else {"contrast": scan.contrast}
    subject = {"subject": scan.subject} if scan.subject else {}
    return {"name": scan.name, **subject, "sha256": scan.sha256, **size, **contrast}


def _interval_of_mean(values: NDArray[np.float64], draws: int = 2000) -> tuple[float, float]:
    """95 % interval of the mean over as many new subjects; these, not voxels, are drawn.

    Both those calibrated on and the new ones are a draw from all there are, so two draws are
    made. It describes them; what is guaranteed is said by the promise.
    """
    random = np.random.default_rng(0)
    means = random.choice(values, (2, draws, len(values))).mean(axis=2)
    new = means[0] * means[1] / max(float(values.mean()), 1e-12)
    low, high = np.percentile(new, [2.5, 97.5])
    return float(low), float(high)


def _or_none(mm3: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    return None if mm3 is None else rounded_up(mm3)


def _ints(values: NDArray[np.float64] | None) -> list[int]:
    return [] if values is None else [int(v) for v in values]
