"""What the tests mean for each scan, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from volad.data import Row
from volad.screen.features import WORDS, Described
from volad.screen.outliers import Comparison, Features

__all__ = ["Finding", "findings_of"]

#: Odd features that a reason names.
NAMED = 3
WHOLE = {
    "leverage": "as a whole it is unlike the others",
    "robust_distance": "as a whole it lies far from the bulk of the others",
}


@dataclass(frozen=True)
class Finding:
    """One scan's.

    Attributes:
        row: of the manifest.
        reasons: why it is flagged, the oddest first; empty where it is not.
        values: of each test; empty where it could not be prepared.
        features: what was measured.
    """

    row: Row
    reasons: tuple[str, ...]
    values: Mapping[str, float] = field(default_factory=dict)
    features: Mapping[str, float] = field(default_factory=dict)

    @property
    def flagged(self) -> bool:
        """Whether it should not be trained on."""
        return bool(self.reasons)


def findings_of(
    rows: Sequence[Row],
    described: Sequence[Described | str],
    features: Features,
    tests: Sequence[Comparison],
) -> list[Finding]:
    """Of each row.

    Args:
        rows: of the manifest.
        described: of each of them; what could not be described is flagged for that.
        features: of the scans that could be.
        tests: of the same.
    """
    findings, number = [], 0
    for row, one in zip(rows, described, strict=True):
        if isinstance(one, str):
            findings.append(Finding(row, (f"it cannot be prepared: {one}",)))
            continue
        findings.append(
            Finding(
                row,
                (*_odd_features(features, tests, number), *_odd_whole(tests, number)),
                {test.name: float(test.values[number]) for test in tests},
                dict(zip(features.names, map(float, features.values[number]), strict=True)),
            )
        )
        number += 1
    return findings


def _odd_features(features: Features, tests: Sequence[Comparison], number: int) -> tuple[str, ...]:
    single = [test for test in tests if test.name not in WHOLE]
    odd = np.any([test.beyond[number] for test in single], axis=0)
    # In units of each test's limit, so that both count alike.
    off = np.max([np.abs(test.offsets[number]) / test.limit for test in single], axis=0)
    order = sorted(map(int, np.flatnonzero(odd)), key=lambda k: -off[k])
    words = [_words(features, single[0], number, k) for k in order[:NAMED]]
    more = len(order) - NAMED
    return (*words, *([f"features that are odd besides: {more}"] if more > 0 else []))


def _words(features: Features, z: Comparison, number: int, k: int) -> str:
    name, value = features.names[k], features.values[number, k]
    middle = np.nanmedian(features.values[:, k])
    known = WORDS[name]
    said = known.low if z.offsets[number, k] < 0 else known.high
    return f"{said} ({name} {value:.3g}, median {middle:.3g})"


def _odd_whole(tests: Sequence[Comparison], number: int) -> list[str]:
    return [
        f"{WHOLE[test.name]} ({test.name.replace('_', ' ')} {test.values[number]:.3g}, "
        f"limit {test.limit:.3g})"
        for test in tests
        if test.name in WHOLE and test.beyond[number].any()
    ]
