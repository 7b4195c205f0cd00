"""Healthy scans as a calibration keeps them: simulated, and those of a shipped bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from volad.calibrate import LEVELS, Calibration, Curve, HealthyScan, tail_of

STORED = Path(__file__).parents[1] / "bundles" / "brain_t1_ae" / "models" / "calibration.json"
#: Two levels of a tail next to each other: so far may a share be off.
STEP = 10 ** (1 / 40) * 1.001

Scores = NDArray[np.float32]


def scans(count: int, seed: int = 0, voxels: int = 20_000) -> list[Scores]:
    """Scores of healthy brains, each with its own spread and offset."""
    random = np.random.default_rng(seed)
    spread, offset = np.exp(random.normal(0, 0.15, count)), random.normal(0, 0.1, count)
    scores = random.normal(size=(count, voxels)) * spread[:, None] + offset[:, None]
    return list(scores.astype(np.float32))


def healthy(score: Scores, name: str = "a") -> HealthyScan:
    """A scan that is all brain, without counts."""
    return HealthyScan(name, f"sha-{name}", tail_of(score, np.ones(score.shape, bool)))


def all_healthy(scores: list[Scores]) -> list[HealthyScan]:
    return [healthy(score, str(row)) for row, score in enumerate(scores)]


def counted(scan: HealthyScan, seed: int = 0) -> HealthyScan:
    """The scan with counts of lesions that grow as the threshold falls, but for merging ones."""
    random = np.random.default_rng(seed)
    lesions = np.maximum(0, np.cumsum(random.integers(-1, 4, 25))).astype(float)
    mm3 = np.cumsum(random.exponential(30, 25))
    return HealthyScan(scan.name, scan.sha256, scan.tail, 1.5e6, lesions, mm3)


def stored_scans() -> list[HealthyScan]:
    """The healthy scans of a shipped bundle: real scores."""
    return list(Calibration.from_json(json.loads(STORED.read_text())).scans)


def heavy(count: int, seed: int) -> list[Curve]:
    """Losses with a heavy tail: few scans score much higher than all others.

    Each scan's share above a threshold `t` is `exp(-t / size)`, its size log-normal.
    """
    sizes = np.exp(np.random.default_rng(seed).normal(0, 1.5, count))
    values = np.r_[0.0, LEVELS[1:], 1.0]
    return [Curve(-np.log(LEVELS) * size, values) for size in sizes]
