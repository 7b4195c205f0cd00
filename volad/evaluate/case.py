"""What one result of one scan is judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["Case"]

#: What a lesion voxel outside the region scores: below everything, so it is always missed.
MISSED = float(np.finfo(np.float32).min)


@dataclass(frozen=True, eq=False)
class Case:
    """A mask, and where there is one a score map, with the expert's mask.

    Attributes:
        name: the scan.
        subject: what the bootstrap draws; a subject may have several scans.
        score: `(X, Y, Z)` finite, higher is more abnormal; `None` where there is only a mask.
        mask: `(X, Y, Z)` lesion mask under judgement.
        lesion: `(X, Y, Z)` expert mask; `None` for a scan without lesions.
        region: `(X, Y, Z)` where scores and rates are judged; `None` where it is not known.
        spacing_mm: distance between voxel centres along X, Y and Z.
        scan_scores: measures of the whole scan, higher is more abnormal.
        groups: subgroup column → value.
        contrast: what the scan is like (`volad.preprocess.contrast`), where a threshold was chosen
            by that; `None` else.
    """

    name: str
    subject: str
    score: NDArray[np.floating] | None
    mask: NDArray[np.bool_]
    lesion: NDArray[np.bool_] | None
    region: NDArray[np.bool_] | None
    spacing_mm: tuple[float, float, float]
    scan_scores: Mapping[str, float] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    contrast: str | None = None

    def __post_init__(self) -> None:
        for name in ("score", "lesion", "region"):
            array = getattr(self, name)
            if array is not None and array.shape != self.mask.shape:
                raise ValueError(
                    f"{self.name}: {name} is {array.shape} voxels, the mask {self.mask.shape}"
                )
        if self.lesion is not None and not self.lesion.any():
            object.__setattr__(self, "lesion", None)
        if self.score is not None and self.region is None:
            raise ValueError(f"{self.name}: a score map needs the region it is judged in")

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel."""
        x, y, z = self.spacing_mm
        return x * y * z

    def expert(self) -> NDArray[np.bool_]:
        """The expert mask, empty for a scan without lesions."""
        return np.zeros_like(self.mask) if self.lesion is None else self.lesion

    def voxels(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Scores and labels `(N,)` of the region and of all lesion voxels.

        Lesion voxels outside the region count as missed: they score `MISSED`.

        Raises:
            ValueError: there is no score map.
        """
        if self.score is None or self.region is None:
            raise ValueError(f"{self.name}: has no score map")
        inside = np.asarray(self.score[self.region], np.float32)
        if self.lesion is None:
            return inside, np.zeros(len(inside), bool)
        outside = int(np.count_nonzero(self.lesion & ~self.region))
        scores = np.append(inside, np.full(outside, MISSED, np.float32))
        return scores, np.append(self.lesion[self.region], np.ones(outside, bool))
