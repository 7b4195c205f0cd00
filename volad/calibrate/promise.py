"""Promises about false positives in new healthy scans, and thresholds that keep them.

Both kinds hold for any detector and any law of the scores, and for as few scans as are named; all
they ask is that the scans calibrated on and the new one could have come in any order. So of each
subject there is one, or all together stand for one (`volad.calibrate.subjects`).

`mean`: conformal risk control (Angelopoulos et al. 2022, "Conformal Risk Control", theorem 1). The
threshold is the lowest at which the n scans' losses, each at most B, add up to no more than
(n + 1) rate - B; then the expected loss of a new scan is at most `rate`. A scan could be false from
end to end, so without a cap a rate of 0.1 % would take 999 scans; with B = 10 rate it takes 9.

`each`: split conformal prediction (Vovk et al. 2005; Lei et al. 2018). The threshold is the k-th
smallest of those that each scan needs by itself, k = ceil(level (n + 1)).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from scipy import special

from volad.calibrate.curves import Curve
from volad.errors import InputError, UsageError

__all__ = ["CONFIDENCE", "KINDS", "QUANTITIES", "Promise"]

#: What a promise is about: the share of brain voxels above the threshold; and volume and number
#: of the false lesions in a scan's final mask.
QUANTITIES = ("voxel_fpr", "false_mm3", "false_lesions")
KINDS = ("mean", "each")
#: In so many of all calibrations the limits hold that say how sure one is.
CONFIDENCE = 0.9
#: A hair, since sums and products round.
HAIR = 1e-9


@dataclass(frozen=True)
class Promise:
    """At most so many false positives in new healthy scans.

    The default is 0.1 % of the voxels, some 1.5 ml of a brain, of which the final mask keeps less:
    much above it the mask is noise, much below it subtle lesions are lost. It is one on the mean,
    since a mean over 30 scans is better known than the one or two of them that are worst.

    Attributes:
        of: one of `QUANTITIES`.
        rate: the most of it: a share, mm³ a scan, or lesions a scan.
        kind: `mean`: on average over scans; `each`: for each new scan, with probability `level`.
        cap: how many times the rate one scan counts at most (`mean` only).
        level: a probability (`each` only).
    """

    of: str = "voxel_fpr"
    rate: float = 0.001
    kind: str = "mean"
    cap: float = 10.0
    level: float = 0.9

    def __post_init__(self) -> None:
        if self.of not in QUANTITIES:
            raise UsageError(f"a promise is of {', '.join(QUANTITIES)}, got {self.of!r}")
        if self.kind not in KINDS:
            raise UsageError(f"a promise is for the mean or for each scan, got {self.kind!r}")
        if self.of == "voxel_fpr" and not 0 < self.rate < 1:
            raise UsageError(f"the false-positive rate must be between 0 and 1, got {self.rate}")
        none_allowed = self.kind == "each" and self.rate == 0
        if not (none_allowed or 0 < self.rate < math.inf):
            raise UsageError(f"a promise of at most {self.rate} cannot be; give more than 0")
        if not 1 < self.cap < math.inf:
            raise UsageError(f"the cap must be above 1, or any threshold would do; got {self.cap}")
        if not 0 < self.level < 1:
            raise UsageError(f"the level must be between 0 and 1, got {self.level}")

    @classmethod
    def of_setting(cls, setting: Mapping[str, Any], *, cap: float) -> Promise:
        """A promise from a bundle's `promise` setting, with another default for the cap."""
        known = [field.name for field in fields(cls)]
        try:
            unknown = [key for key in setting if key not in known]
            values: dict[str, Any] = {
                k: v if k in ("of", "kind") else float(v) for k, v in setting.items()
            }
        except (AttributeError, TypeError, ValueError) as error:
            raise UsageError(f"a promise has the settings {', '.join(known)}") from error
        if unknown:
            raise UsageError(f"a promise has no setting {unknown[0]!r}; it has {', '.join(known)}")
        values.setdefault("cap", cap)
        return cls(**values)

    def facts(self) -> dict[str, Any]:
        """Its settings; only those that its kind has."""
        other = "level" if self.kind == "mean" else "cap"
        return {key: value for key, value in asdict(self).items() if key != other}

    @property
    def bound(self) -> float:
        """The most that one scan counts."""
        return min(self.cap * self.rate, 1.0 if self.of == "voxel_fpr" else math.inf)

    def scans_needed(self) -> int:
        """How many healthy scans the promise takes."""
        if self.kind == "each":
            return max(2, math.ceil(self.level / (1 - self.level) - HAIR))
        return max(2, math.ceil(self.bound / self.rate - HAIR) - 1)

    def eased(self, scans: int) -> Promise:
        """The same promise; where the scans are too few, one that they can well carry.

        Of the mean, each scan then counts less: half of what would leave no false positive at all.
        """
        if scans >= self.scans_needed() or scans < 2:
            return self
        if self.kind == "each":
            return replace(self, level=math.floor(100 * scans / (scans + 1)) / 100)
        return replace(self, cap=(scans + 1) / 2)

    def require(self, scans: int) -> None:
        """Refuse too few scans.

        Raises:
            InputError: with the number that it takes, and the nearest promise that can be kept.
        """
        needed = self.scans_needed()
        if scans >= needed:
            return
        if scans < 2:
            raise InputError(
                "a calibration needs scans of at least 2 healthy subjects, and this promise of "
                f"{needed}; got {scans}"
            )
        near = self.eased(scans)
        say = f"--level {near.level:g}" if self.kind == "each" else f"--cap {near.cap:g}"
        kept = f"a level of {self.level:g}" if self.kind == "each" else f"a cap of {self.cap:g}"
        raise InputError(
            f"{scans} healthy subjects are too few for {kept}, which takes {needed}; give scans of "
            f"more, or with these {say}"
        )

    def threshold(self, curves: Sequence[Curve]) -> float:
        """The lowest threshold that keeps the promise, from healthy scans' losses.

        Raises:
            InputError: the scans are too few.
        """
        self.require(len(curves))
        if self.kind == "each":
            return sorted(curve.lowest(self.rate) for curve in curves)[self._rank(len(curves)) - 1]
        most = len(curves) * self.room(len(curves)) + HAIR * self.rate
        places = np.unique(np.concatenate([curve.scores for curve in curves]))
        low, high = 0, len(places) - 1  # at the highest score nothing is lost
        while low < high:
            middle = (low + high) // 2
            if sum(min(curve.at(places[middle]), self.bound) for curve in curves) <= most:
                high = middle
            else:
                low = middle + 1
        return float(places[high])

    def room(self, scans: int) -> float:
        """The mean loss, capped, that the scans calibrated on may have: less than the rate."""
        return max(0.0, ((scans + 1) * self.rate - self.bound) / scans)

    def mean_limit(self, scans: int) -> float:
        """What the true mean, capped, stays under in 9 of 10 calibrations on so many scans.

        The threshold depends on the scans, so a limit for a fixed one does not hold for it. But
        the true mean is above `u` only where the mean of n scans falls to what the rule asks for,
        r = ((n + 1) rate - B) / n, at a threshold whose true mean is `u`. The Hoeffding-Bentkus
        inequality (Bates et al. 2021, "Distribution-Free, Risk-Controlling Prediction Sets") says
        how unlikely that is; the limit is the `u` at which it is 1 in 10.
        """
        reached = self.room(scans) / self.bound
        low, high = min(reached, 1.0), 1.0
        for _ in range(60):
            middle = (low + high) / 2
            if _hoeffding_bentkus(reached, middle, scans) > 1 - CONFIDENCE:
                low = middle
            else:
                high = middle
        return high * self.bound

    def coverage(self, scans: int) -> tuple[float, float]:
        """Between which shares of new scans stay within the rate in 9 of 10 calibrations.

        The share is Beta(k, n + 1 - k) over calibrations (Vovk 2012); ties only raise it.
        """
        rank = self._rank(scans)
        tail = (1 - CONFIDENCE) / 2
        low, high = special.betaincinv(rank, scans + 1 - rank, [tail, 1 - tail])
        return float(low), float(high)

    def _rank(self, scans: int) -> int:
        return max(1, math.ceil(self.level * (scans + 1) - HAIR))


def _hoeffding_bentkus(reached: float, true: float, scans: int) -> float:
    """How likely the mean of `scans` draws in [0, 1] of mean `true` is as low as `reached`."""
    divergence = special.rel_entr(reached, true) + special.rel_entr(1 - reached, 1 - true)
    bentkus = math.e * special.bdtr(math.ceil(scans * reached - HAIR), scans, true)
    return float(min(np.exp(-scans * divergence), bentkus))
