"""A bundle's `models/calibration.json`, read back: its thresholds, or those for another promise."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from volad.calibrate.calibration import Calibration
from volad.calibrate.promise import Promise
from volad.errors import InputError, UsageError
from volad.thresholds import by_contrast

__all__ = ["facts_for", "load_threshold", "steps_keep"]

#: What only new calibrations are made from; `volad info` and sidecars leave it out.
TABLES = ("tails", "scans", "counts")


def load_threshold(
    path: str | os.PathLike[str],
    rate: float | None = None,
    promise: Mapping[str, Any] | None = None,
    min_lesion_mm3: float | None = None,
) -> float | dict[str, float]:
    """The calibrated threshold of a bundle, or the one for another promise.

    Args:
        path: the bundle's `models/calibration.json`.
        rate: mean share of a healthy scan's brain voxels above the threshold.
        promise: settings of a `Promise`, as `{"of": "false_lesions", "rate": 2}`.
        min_lesion_mm3: below which size the mask drops lesions.

    Returns:
        The threshold; where the calibration knows several contrasts, one for each and `otherwise`.

    Raises:
        UsageError: the bundle was never calibrated, or its lesions were counted otherwise.
        InputError: its healthy scans are too few for the promise.
    """
    if rate is None and promise is None:
        stored = _read(path)
        try:
            threshold = float(stored["threshold"])
            own = {k: float(one["threshold"]) for k, one in stored.get("contrasts", {}).items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{path}: holds no calibration; run volad calibrate again") from error
        if not all(map(math.isfinite, (threshold, *own.values()))):
            raise UsageError(f"{path}: the threshold is not a number; run volad calibrate again")
        return by_contrast(threshold, own)
    found = _with_promise(path, rate, promise)
    size = {} if min_lesion_mm3 is None else {"min_mm3": min_lesion_mm3}
    now = [{**step, **size} if "min_mm3" in step else step for step in found.mask_steps]
    if found.promise.of != "voxel_fpr" and not steps_keep(found.mask_steps, now):
        raise UsageError(
            f"{path}: smaller lesions than the bundle keeps were not counted, so nothing can be "
            f"promised with --min-lesion-mm3 {min_lesion_mm3:g}; leave it out"
        )
    return found.thresholds


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
        cap = _cap_of(stored)
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


def _cap_of(stored: Mapping[str, Any]) -> float:
    """The cap that the calibration was made with: what its scans can carry."""
    cap = stored.get("promise", {}).get("cap")
    if cap is not None:
        return float(cap)
    # None is stored with a promise on each scan, and by volad 0.1, which knew no subjects.
    return Promise().eased(int(stored.get("healthy_subjects", len(stored["scans"])))).cap
