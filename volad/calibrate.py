"""The threshold: from healthy scans that were not trained on, never from lesion labels."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volad.errors import InputError, UsageError

__all__ = ["LEVELS", "Calibration", "false_positive_rate", "load_threshold", "tail_of"]

#: Shares of the brain's voxels at which a scan's scores are kept: 10^-6 to 1, 40 a decade.
LEVELS = np.logspace(-6, 0, 241)


@dataclass(frozen=True)
class Calibration:
    """Healthy scores, and the threshold that keeps a promise on them.

    Attributes:
        rate: the promise: on average over healthy scans, at most this share of a scan's brain
            voxels scores above the threshold (before small lesions are dropped).
        threshold: the lowest score that keeps it.
        rates: realised share of each calibration scan.
        interval: 95 % bootstrap interval over scans of the mean rate of as many new scans.
        scans: id and sha256 of each scan.
        tails: `(scans, len(LEVELS))`, the score that each share of the brain's voxels exceeds; with
            it the threshold can be set anew for another rate.
    """

    rate: float
    threshold: float
    rates: tuple[float, ...]
    interval: tuple[float, float]
    scans: tuple[Mapping[str, str], ...]
    tails: NDArray[np.float64]

    @classmethod
    def fit(
        cls, tails: NDArray[np.float64], rate: float, scans: Sequence[Mapping[str, str]]
    ) -> Calibration:
        """Find the threshold for a rate from the scores of healthy scans."""
        if not 0 < rate < 1:
            raise UsageError(f"the false-positive rate must be between 0 and 1, got {rate}")
        if len(tails) < 2:
            raise InputError("calibration needs at least 2 healthy scans, better 20")
        tails = _short(tails)  # as they are stored, so that a stored tail gives the same threshold
        low, high = float(tails.min()), float(tails.max())
        for _ in range(100):  # the mean rate falls with the threshold: halve the bracket
            middle = (low + high) / 2
            if np.mean([false_positive_rate(tail, middle) for tail in tails]) > rate:
                low = middle
            else:
                high = middle
        rates = np.array([false_positive_rate(tail, high) for tail in tails])
        return cls(rate, high, tuple(rates.tolist()), bootstrap_mean(rates), tuple(scans), tails)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `models/calibration.json`."""
        return {
            "threshold": self.threshold,
            "promise": {
                "kind": "voxel_false_positive_rate",
                "rate": self.rate,
                "meaning": "on average over healthy scans like those calibrated on, at most this "
                "share of the brain's voxels scores above the threshold",
            },
            "healthy_scans": len(self.scans),
            "realised": {
                "mean": float(np.mean(self.rates)),
                "lowest": min(self.rates),
                "highest": max(self.rates),
                "interval_95_of_mean": list(self.interval),
            },
            "scans": [dict(scan) for scan in self.scans],
            "tails": {
                "levels": _short(LEVELS).tolist(),
                "scores": self.tails.tolist(),
            },
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], rate: float | None = None) -> Calibration:
        """Read back; with another `rate`, find its threshold from the stored scores."""
        tails = np.array(stored["tails"]["scores"], np.float64)
        rate = float(stored["promise"]["rate"]) if rate is None else rate
        return cls.fit(tails, rate, stored["scans"])


def tail_of(score: NDArray[np.float32], brain: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The scores that the shares `LEVELS` of the brain's voxels exceed: `(len(LEVELS),)`."""
    inside = np.sort(score[brain])[::-1]
    if len(inside) == 0:
        raise InputError("the brain mask is empty; give one with --brain-mask FILE")
    place = np.minimum(np.floor(LEVELS * len(inside)).astype(int), len(inside) - 1)
    tail: NDArray[np.float64] = inside[place].astype(np.float64)
    return tail


def false_positive_rate(tail: NDArray[np.float64], threshold: float) -> float:
    """The share of a scan's brain that scores above a threshold, from its tail."""
    above = tail > threshold
    if not above.any():
        return 0.0
    last = int(np.nonzero(above)[0][-1])
    if last + 1 == len(tail):
        return 1.0
    # Between two levels the share is interpolated in its logarithm.
    high, low = tail[last], tail[last + 1]
    part = 0.0 if high == low else (high - threshold) / (high - low)
    return float(10 ** np.interp(part, [0, 1], np.log10(LEVELS[last : last + 2])))


def bootstrap_mean(values: NDArray[np.float64], draws: int = 2000) -> tuple[float, float]:
    """95 % interval of the mean over as many new scans; scans, not voxels, are drawn.

    Both the scans calibrated on and the new ones are a draw from all there are, so two draws
    are made. With 10 or 20 scans some 9 of 10 new means lie inside (tests/test_calibrate.py).
    """
    random = np.random.default_rng(0)
    means = random.choice(values, (2, draws, len(values))).mean(axis=2)
    new = means[0] * means[1] / max(float(values.mean()), 1e-12)
    low, high = np.percentile(new, [2.5, 97.5])
    return float(low), float(high)


def load_threshold(path: str | os.PathLike[str], rate: float | None = None) -> float:
    """The calibrated threshold of a bundle, or the one for another healthy rate.

    Raises:
        UsageError: the bundle was never calibrated.
    """
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(
            f"{path}: the bundle is not calibrated; run volad calibrate, or give --threshold"
        ) from error
    except ValueError as error:
        raise UsageError(f"{path}: is not JSON; run volad calibrate again") from error
    try:
        if rate is not None:
            return Calibration.from_json(stored, rate).threshold
        threshold = float(stored["threshold"])
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: holds no calibration; run volad calibrate again") from error
    if not math.isfinite(threshold):
        raise UsageError(f"{path}: the threshold is not a number; run volad calibrate again")
    return threshold


def collect(
    samples: Iterable[tuple[Mapping[str, str], Mapping[str, Any]]],
) -> tuple[NDArray[np.float64], list[Mapping[str, str]]]:
    """Tails of scored samples (`Pipeline.score`), and the scans they came from."""
    tails, scans = [], []
    for scan, sample in samples:
        brain = sample["native_brain"].numpy()[0] > 0
        tails.append(tail_of(sample["pred"].numpy()[0], brain))
        scans.append(scan)
    return np.array(tails), scans


def _short(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Six digits, which a file need not be longer for."""
    return np.array([float(f"{v:.6g}") for v in values.flat]).reshape(values.shape)
