"""The scan check of a bundle: usual ranges, distances from them, and what these mean."""

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

from volad.errors import UsageError
from volad.scan_check.words import FEATURES, Family, Feature, of_scan_score

__all__ = ["ALPHA", "FAMILIES", "Finding", "ScanCheck", "Usual", "load", "p_value"]

#: A scan is flagged where so few healthy scans are as far out.
ALPHA = 0.05
#: A scan is refused where it lies this much further out than every healthy scan did.
MARGIN = 1.5
#: And never nearer than this: the largest distances of real T1 scans of other scanners
#: are half of it, other contrasts lie three times as far out (benchmarks/scan_check.py).
LEAST_LIMIT = 3.0

FAMILIES: tuple[Family, ...] = ("kind", "quality")
SCORE = "score_"


@dataclass(frozen=True)
class Usual:
    """Where healthy scans have a feature.

    Attributes:
        centre: median.
        below: from there down to the 5th percentile, at least the feature's tolerance.
        above: and up to the 95th.
    """

    centre: float
    below: float
    above: float

    @classmethod
    def fit(cls, values: NDArray[np.float64], tolerance: float) -> Usual:
        """From the values `(N,)` of healthy scans, none of them NaN."""
        low, centre, high = (float(v) for v in np.percentile(values, (5, 50, 95)))
        return cls(centre, max(centre - low, tolerance), max(high - centre, tolerance))

    def distance(self, value: float) -> float:
        """With its sign: -1 at the 5th percentile, 1 at the 95th."""
        off = value - self.centre
        return off / (self.above if off > 0 else self.below)


@dataclass(frozen=True)
class Finding:
    """What the check found in one family of one scan.

    Attributes:
        family: `kind` or `quality`.
        distance: of its oddest feature, in units of the usual range's half.
        p: conformal p-value: how often a healthy scan is at least as far out.
        unusual: whether that is rare.
        refused: whether it is far beyond all healthy scans, and of a family that refuses.
        odd: what is odd about it in words, the oddest first; empty where nothing is.
    """

    family: Family
    distance: float
    p: float
    unusual: bool
    refused: bool
    odd: tuple[str, ...]


@dataclass(frozen=True)
class ScanCheck:
    """Tells whether a scan is of the kind that a bundle knows.

    A scan's distance is that of its oddest feature: the difference from the median of healthy
    scans over the half of their usual range. Its p-value is that of split conformal prediction:
    the share of calibration scans, itself among them, that are as far out. For a healthy scan like
    those it is at or below any a with a probability of at most a.

    A p-value alone must not refuse: of n calibration scans the furthest one has 1 / (n + 1), and so
    would one of n + 1 new healthy ones. So a low one only flags a scan; it is refused where it is
    beyond `limit`, out of reach of all healthy scans that were seen.

    Attributes:
        usual: of every feature.
        limit: distance of the kind beyond which a scan is refused.
        distances: of the calibration scans, by family.
        scans: name and sha256 of each of these.
        fitted: how many scans the usual ranges are from.

    Source: Vovk, Gammerman, Shafer, "Algorithmic learning in a random world" (2005); Heer et al.,
        "The OOD blind spot of unsupervised anomaly detection", MIDL (2021), for why.
    """

    usual: Mapping[str, Usual]
    limit: float
    distances: Mapping[str, tuple[float, ...]]
    scans: tuple[Mapping[str, str], ...]
    fitted: int

    def feature(self, name: str) -> Feature:
        """What is known of a feature by its name."""
        if name in FEATURES:
            return FEATURES[name]
        return of_scan_score(name.removeprefix(SCORE), self.usual[name].centre)

    def offsets(self, found: Mapping[str, float], family: Family) -> dict[str, float]:
        """Signed distance of each feature of a family that could be measured."""
        return {
            name: self.usual[name].distance(value)
            for name, value in found.items()
            if name in self.usual and math.isfinite(value) and self.feature(name).family == family
        }

    def distance(self, found: Mapping[str, float], family: Family) -> float:
        """Distance of the oddest feature; 0 where nothing could be measured."""
        return max((abs(off) for off in self.offsets(found, family).values()), default=0.0)

    def judge(self, found: Mapping[str, float], family: Family) -> Finding:
        """Judge what was measured of a scan."""
        offsets, distance = self.offsets(found, family), self.distance(found, family)
        p = p_value(distance, self.distances[family])
        refused = family == "kind" and distance > self.limit
        odd = sorted(
            (name for name, off in offsets.items() if abs(off) > 1), key=lambda n: -abs(offsets[n])
        )
        words = tuple(self._words(name, offsets[name]) for name in odd)
        return Finding(family, distance, p, p <= ALPHA, refused, words)

    def _words(self, name: str, offset: float) -> str:
        feature = self.feature(name)
        return f"{feature.low if offset < 0 else feature.high} ({feature.about})"

    def recalibrated(
        self,
        found: Sequence[Mapping[str, float]],
        scans: Sequence[Mapping[str, str]],
        widen: bool = False,
    ) -> ScanCheck:
        """With other calibration scans, such as those of a new scanner.

        Args:
            found: what was measured of each.
            scans: name and sha256 of each.
            widen: raise the limit, so that scans like all of these are no longer refused.
        """
        distances: dict[str, tuple[float, ...]] = {
            family: tuple(self.distance(one, family) for one in found) for family in FAMILIES
        }
        furthest = max(distances["kind"], default=0.0)
        limit = max(self.limit, MARGIN * furthest) if widen else self.limit
        return replace(self, distances=distances, scans=tuple(scans), limit=limit)

    def facts(self, found: Mapping[str, float], findings: Sequence[Finding]) -> dict[str, Any]:
        """What a sidecar says."""
        facts: dict[str, Any] = {"verdict": _verdict(findings)}
        for finding in findings:
            facts[finding.family] = {
                "p": finding.p,
                "distance": finding.distance,
                **({"limit": self.limit} if finding.family == "kind" else {}),
                "odd": list(finding.odd),
            }
        facts |= {"flagged_at_p": ALPHA, "calibration_scans": len(self.scans), "features": {}}
        for name, value in found.items():
            if name in self.usual:
                facts["features"][name] = self._fact(name, value)
        return facts

    def _fact(self, name: str, value: float) -> dict[str, Any]:
        usual, measured = self.usual[name], math.isfinite(value)
        return {
            "value": value if measured else None,
            "usual": [usual.centre - usual.below, usual.centre + usual.above],
            "distance": abs(usual.distance(value)) if measured else None,
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values for `models/scan_check.json`."""
        return {
            "meaning": "distance 1 is where 90 % of healthy scans end; kind: refused beyond the "
            f"limit; kind and quality: flagged where p is {ALPHA} or less",
            "limit": self.limit,
            "fitted_on": self.fitted,
            "usual": {
                name: {"centre": u.centre, "below": u.below, "above": u.above}
                for name, u in self.usual.items()
            },
            "calibration": {family: list(self.distances[family]) for family in FAMILIES},
            "scans": [dict(scan) for scan in self.scans],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ScanCheck:
        """Read back."""
        return cls(
            usual={name: Usual(**values) for name, values in stored["usual"].items()},
            limit=float(stored["limit"]),
            distances={f: tuple(map(float, stored["calibration"][f])) for f in FAMILIES},
            scans=tuple(stored["scans"]),
            fitted=int(stored["fitted_on"]),
        )


def p_value(distance: float, calibration: Sequence[float]) -> float:
    """`(1 + number of calibration distances at or above it) / (their number + 1)`."""
    return (1 + sum(other >= distance for other in calibration)) / (len(calibration) + 1)


def load(path: str | os.PathLike[str]) -> ScanCheck | None:
    """A bundle's scan check, None where it has none.

    Raises:
        UsageError: the file is damaged.
    """
    try:
        return ScanCheck.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path}: holds no scan check; get the bundle again") from error


def _verdict(findings: Sequence[Finding]) -> str:
    if any(finding.refused for finding in findings):
        return "another kind"
    unusual = [finding.family for finding in findings if finding.unusual]
    return f"unusual {' and '.join(unusual)}" if unusual else "usual"
