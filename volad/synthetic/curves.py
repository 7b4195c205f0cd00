"""How many painted lesions a detector finds, by contrast and size: no expert's label is needed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from volad.synthetic.tables import LesionRow

__all__ = ["Cell", "curves", "found_labels"]


@dataclass(frozen=True)
class Cell:
    """The lesions that are alike in some columns.

    Attributes:
        group: the values of the columns, in their order.
        lesions: how many there are.
        found: how many of them were found.
        subjects: in how many subjects they are.
    """

    group: tuple[Any, ...]
    lesions: int
    found: int
    subjects: int

    @property
    def sensitivity(self) -> float:
        """Share of the lesions that were found."""
        return self.found / self.lesions

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Wilson's interval, as if each lesion were another subject's; too narrow where not."""
        test = binomtest(self.found, self.lesions)
        limits = test.proportion_ci(level, method="wilson")
        return float(limits.low), float(limits.high)


def found_labels(
    labels: NDArray[np.integer[Any]], prediction: NDArray[Any], threshold: float | None = None
) -> set[int]:
    """Which lesions of a label map a detector found: those that its mask overlaps anywhere.

    Args:
        labels: `(X, Y, Z)`, 0 where there is no lesion.
        prediction: `(X, Y, Z)`, a mask, or with `threshold` a score map.
        threshold: the score to exceed.
    """
    if labels.shape != prediction.shape:
        raise ValueError(f"label map {labels.shape} and result {prediction.shape} differ in shape")
    mask = prediction > threshold if threshold is not None else prediction != 0
    return {int(label) for label in np.unique(labels[mask]) if label}


def curves(
    results: Iterable[tuple[str, NDArray[Any], NDArray[np.integer[Any]]]],
    lesions: Sequence[LesionRow],
    *,
    threshold: float | None = None,
    by: Sequence[str] = ("contrast", "size_bin"),
) -> list[Cell]:
    """Sensitivity of a detector on a suite; one volume at a time is in memory.

    Args:
        results: for each volume its name, the detector's mask or score map, and the label map.
        lesions: the suite's lesions (`read_lesions`); those of volumes without a result do not
            count.
        threshold: the score to exceed, where results are score maps.
        by: columns of `LesionRow` whose values part the lesions.

    Returns:
        A cell for each combination that there is, sorted; size bins by size.

    Raises:
        ValueError: a result of a volume that the suite's lesions do not name, or the same twice.
    """
    known = {row.name for row in lesions}
    found: dict[str, set[int]] = {}
    for name, prediction, labels in results:
        if name not in known or name in found:
            raise ValueError(f"{name}: not a lesioned volume of the suite, or given twice")
        found[name] = found_labels(labels, prediction, threshold)
    total: Counter[tuple[Any, ...]] = Counter()
    hits: Counter[tuple[Any, ...]] = Counter()
    subjects: dict[tuple[Any, ...], set[str]] = {}
    for row in lesions:
        if row.name not in found:
            continue
        group = tuple(getattr(row, column) for column in by)
        total[group] += 1
        hits[group] += row.label in found[row.name]
        subjects.setdefault(group, set()).add(row.subject)
    cells = [Cell(g, total[g], hits[g], len(subjects[g])) for g in total]
    return sorted(cells, key=lambda cell: [_order(value) for value in cell.group])


def _order(value: Any) -> tuple[float, str]:
    """Numbers by value, size bins by their lower border, other words by the alphabet."""
    if not isinstance(value, str):
        return float(value), ""
    try:
        return float(value.rstrip("+").split("-")[0]), value
    except ValueError:
        return math.inf, value
