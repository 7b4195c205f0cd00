"""A bundle's `models/calibration.json`: a promise, its threshold, and what it was set from."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volad.calibrate import words
from volad.calibrate.curves import COUNTED, LEVELS, HealthyScan, brief, rounded_up
from volad.calibrate.promise import CONFIDENCE, Promise
from volad.errors import InputError, UsageError

__all__ = ["Calibration", "facts_for", "load_threshold", "steps_keep"]

#: What only new calibrations are made from; `volad info` and sidecars leave it out.
TABLES = ("tails", "scans", "counts")


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
    """

    promise: Promise
    threshold: float
    losses: tuple[float, ...]
    scans: tuple[HealthyScan, ...]
    mask_steps: tuple[Mapping[str, Any], ...] = ()

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
        promise.require(len(scans))
        # As they are stored, so that the stored ones give the same threshold.
        kept = tuple(
            replace(scan, tail=rounded_up(scan.tail), mm3=_or_none(scan.mm3)) for scan in scans
        )
        curves = [scan.curve(promise.of) for scan in kept]
        threshold = promise.threshold(curves)
        losses = [min(c.at(threshold), c.values[np.isfinite(c.values)].max()) for c in curves]
        return cls(promise, threshold, tuple(map(float, losses)), kept, tuple(mask_steps))

    def facts(self) -> dict[str, Any]:
        """What a sidecar tells of it: all but the tables."""
        low, high = _interval_of_mean(np.array(self.losses))
        return {
            "threshold": self.threshold,
            "promise": {
                **self.promise.facts(),
                "meaning": words.meaning(self.promise),
                "guarantee": words.guarantee(self.promise, len(self.scans)),
                "scans_needed": self.promise.scans_needed(),
            },
            "healthy_scans": len(self.scans),
            "realised": {
                "mean": float(np.mean(self.losses)),
                "lowest": min(self.losses),
                "highest": max(self.losses),
                "interval_95_of_mean": [low, high],
                **({"mean_capped": self.mean_capped} if self.promise.kind == "mean" else {}),
            },
            "sureness": self.sureness(),
            "mask_steps": [dict(step) for step in self.mask_steps],
        }

    @property
    def mean_capped(self) -> float:
        """The mean loss of the scans, each counting as much as the promise lets it."""
        return float(np.minimum(self.losses, self.promise.bound).mean())

    def sureness(self) -> dict[str, Any]:
        """What is so in 9 of 10 such calibrations (`Promise.mean_limit`, `Promise.coverage`)."""
        count = len(self.scans)
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


def load_threshold(
    path: str | os.PathLike[str],
    rate: float | None = None,
    promise: Mapping[str, Any] | None = None,
    min_lesion_mm3: float | None = None,
) -> float:
    """The calibrated threshold of a bundle, or the one for another promise.

    Args:
        path: the bundle's `models/calibration.json`.
        rate: mean share of a healthy scan's brain voxels above the threshold.
        promise: settings of a `Promise`, as `{"of": "false_lesions", "rate": 2}`.
        min_lesion_mm3: below which size the mask drops lesions.

    Raises:
        UsageError: the bundle was never calibrated, or its lesions were counted otherwise.
        InputError: its healthy scans are too few for the promise.
    """
    if rate is None and promise is None:
        stored = _read(path)
        try:
            threshold = float(stored["threshold"])
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{path}: holds no calibration; run volad calibrate again") from error
        if not math.isfinite(threshold):
            raise UsageError(f"{path}: the threshold is not a number; run volad calibrate again")
        return threshold
    found = _with_promise(path, rate, promise)
    size = {} if min_lesion_mm3 is None else {"min_mm3": min_lesion_mm3}
    now = [{**step, **size} if "min_mm3" in step else step for step in found.mask_steps]
    if found.promise.of != "voxel_fpr" and not steps_keep(found.mask_steps, now):
        raise UsageError(
            f"{path}: smaller lesions than the bundle keeps were not counted, so nothing can be "
            f"promised with --min-lesion-mm3 {min_lesion_mm3:g}; leave it out"
        )
    return found.threshold


def facts_for(
    path: str | os.PathLike[str],
    rate: float | None = None,
    promise: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a sidecar tells of a bundle's calibration, or of the one for another promise."""
    if rate is None and promise is None:
        return {key: value for key, value in _read(path).items() if key not in TABLES}
    return _with_promise(path, rate, promise).facts()


def steps_keep(counted: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a promise on false lesions holds for these mask steps, too.

    It does for the steps that the lesions were counted with, and where yet larger lesions are
    dropped, since this only leaves fewer.
    """
    if len(counted) != len(now):
        return False
    for before, after in zip(counted, now, strict=True):
        least, size = before.get("min_mm3"), after.get("min_mm3")
        alike = {**before, "min_mm3": None} == {**after, "min_mm3": None}
        if not alike or (size is None) != (least is None) or (least or 0) > (size or 0):
            return False
    return True


def _with_promise(
    path: str | os.PathLike[str], rate: float | None, setting: Mapping[str, Any] | None
) -> Calibration:
    stored = _read(path)
    if rate is not None and setting is not None:
        raise UsageError("healthy_fpr is a promise itself; leave one of the two settings out")
    wanted = {"of": "voxel_fpr", "rate": rate} if setting is None else setting
    try:
        count = len(stored["tails"]["scores"])
        cap = _cap_of(stored, count)
        return Calibration.from_json(stored, Promise.of_setting(wanted, cap=cap))
    except (UsageError, InputError) as error:
        raise type(error)(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UsageError(f"{path}: holds no calibration; run volad calibrate again") from error


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(
            f"{path}: the bundle is not calibrated; run volad calibrate, or give --threshold"
        ) from error
    except ValueError as error:
        raise UsageError(f"{path}: is not JSON; run volad calibrate again") from error
    if not isinstance(stored, dict):
        raise UsageError(f"{path}: holds no calibration; run volad calibrate again")
    return stored


def _promise_of(stored: Mapping[str, Any]) -> Promise:
    """The stored promise; that of volad 0.1 was on the mean of the voxels, without a guarantee."""
    promise = stored["promise"]
    if "of" not in promise:
        return Promise(rate=float(promise["rate"])).eased(len(stored["tails"]["scores"]))
    known = {k: promise[k] for k in ("of", "rate", "kind", "cap", "level") if k in promise}
    return Promise(**known)


def _cap_of(stored: Mapping[str, Any], count: int) -> float:
    """The cap that the calibration was made with: what its scans can carry."""
    cap = stored.get("promise", {}).get("cap")
    return Promise().eased(count).cap if cap is None else float(cap)


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
        )
        for row, (scan, tail) in enumerate(zip(stored["scans"], tails, strict=True))
    ]


def _of_scan(scan: HealthyScan) -> dict[str, Any]:
    size = {} if scan.brain_mm3 is None else {"brain_mm3": scan.brain_mm3}
    return {"name": scan.name, "sha256": scan.sha256, **size}


def _interval_of_mean(values: NDArray[np.float64], draws: int = 2000) -> tuple[float, float]:
    """95 % interval of the mean over as many new scans; scans, not voxels, are drawn.

    Both the scans calibrated on and the new ones are a draw from all there are, so two draws are
    made. It describes the scans; what is guaranteed is said by the promise.
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
