"""Voxel counts of a mask against an expert mask, and the shares they give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Confusion", "dice"]


@dataclass(frozen=True)
class Confusion:
    """How many voxels fall where. Shares with nothing to divide by are NaN, never 0 or 1.

    Attributes:
        tp: lesion voxels that the mask has.
        fp: healthy voxels that the mask has.
        fn: lesion voxels that it lacks.
        tn: healthy voxels that it lacks.
    """

    tp: int
    fp: int
    fn: int
    tn: int

    @classmethod
    def of(
        cls,
        mask: NDArray[np.bool_],
        lesion: NDArray[np.bool_],
        region: NDArray[np.bool_] | None = None,
    ) -> Confusion:
        """Count.

        Args:
            mask: the mask under judgement, any shape.
            lesion: the expert mask, of the same shape.
            region: where to count; None: everywhere.
        """
        mask, lesion = _masks(mask, lesion)
        if region is not None:
            _, region = _masks(mask, region)
            mask, lesion = mask[region], lesion[region]
        tp = int(np.count_nonzero(mask & lesion))
        fp = int(np.count_nonzero(mask)) - tp
        fn = int(np.count_nonzero(lesion)) - tp
        return cls(tp, fp, fn, mask.size - tp - fp - fn)

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(
            self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn
        )

    @property
    def sensitivity(self) -> float:
        """Share of the lesion voxels that is found (recall)."""
        return _share(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float:
        """Share of the healthy voxels that is left alone."""
        return _share(self.tn, self.tn + self.fp)

    @property
    def precision(self) -> float:
        """Share of the mask that is lesion."""
        return _share(self.tp, self.tp + self.fp)

    @property
    def false_positive_rate(self) -> float:
        """Share of the HEALTHY voxels that the mask has."""
        return _share(self.fp, self.fp + self.tn)

    @property
    def false_discovery_rate(self) -> float:
        """Share of the MASK that is healthy."""
        return _share(self.fp, self.fp + self.tp)

    @property
    def dice(self) -> float:
        """Dice's coefficient."""
        return _share(2 * self.tp, 2 * self.tp + self.fp + self.fn)


def dice(mask: NDArray[np.bool_], lesion: NDArray[np.bool_]) -> float:
    """`2 |A and B| / (|A| + |B|)`; NaN where both are empty, so that no mean is lifted by them."""
    return Confusion.of(mask, lesion).dice


def _masks(
    mask: NDArray[np.bool_], lesion: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    if mask.shape != lesion.shape:
        raise ValueError(f"a mask of shape {mask.shape} against one of {lesion.shape}")
    return mask.astype(bool, copy=False), lesion.astype(bool, copy=False)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
