"""What an evaluation is told, and the rules that it states in every output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["RULES", "Settings", "Thresholds"]

#: Shares of the region's voxels; the scores they exceed are the thresholds of the FROC curve.
FROC_SHARES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 2e-2, 5e-2, 1e-1)
#: Healthy voxel false-positive rates at which Dice is given.
HEALTHY_RATES = (0.01, 0.05, 0.10)

RULES = {
    "masks": "Dice, lesions, surfaces and volumes compare each mask as it was given with the "
    "expert mask, over the whole scan.",
    "region": "The region is the manifest's brain_mask; else the brain mask beside the result "
    "(volad segment --save-brain); else the voxels whose score is not 0, which leaves out brain "
    "voxels that score exactly 0 and so changes AUROC and false-positive rates.",
    "scores": "AUPRC, AUROC and Dice at other thresholds are of the region's voxels and all lesion "
    "voxels; a lesion voxel outside the region counts as missed. Pooled: over the voxels of all "
    "scans, those without lesions included.",
    "oracle": "Oracle numbers look at the labels: their threshold is the best one found with the "
    "expert masks, so they bound what a threshold can reach and are no operating point. "
    "Pooled: over all voxels; mean: one threshold for all subjects.",
    "empty": "Dice, HD95, average surface distance and NSD are of scans with lesions. An empty "
    "mask has Dice 0 there and no surface: such scans are counted apart.",
    "lesions": "Lesions are 26-connected. An expert lesion is found if any voxel of the mask lies "
    "in it; a lesion of the mask is false if it touches no expert lesion. Expert lesions below the "
    "smallest size are neither found nor missed, and what touches only those is neither true "
    "nor false.",
    "froc": "A lesion is found where its highest score is above the threshold; what is above it "
    "inside the region and touches no expert lesion is false.",
    "intervals": "95 % bootstrap limits over subjects (percentiles); a subject counts as the mean "
    "of its scans in means, and with the sum of its voxels and lesions in pooled numbers. "
    "Fewer than two subjects (in pooled numbers: with lesions) have no limits.",
    "pooled_intervals": "The limits of pooled numbers come from scores rounded to within 1 %, the "
    "numbers themselves to within 0.05 %; `certain` bounds what the rounding can do.",
}


@dataclass(frozen=True)
class Settings:
    """What decides the numbers.

    Attributes:
        min_lesion_mm3: expert lesions below this volume are ignored.
        tolerance_mm: of the normalised surface distance.
        draws: bootstrap draws.
        seed: of the bootstrap.
        froc: whether to make the FROC curve, which takes most of the time.
    """

    min_lesion_mm3: float = 0.0
    tolerance_mm: float = 1.0
    draws: int = 2000
    seed: int = 0
    froc: bool = True


@dataclass(frozen=True)
class Thresholds:
    """Thresholds that a first pass, or a bundle, gave.

    Attributes:
        froc: share of the region's voxels → score it exceeds, rising shares.
        healthy: healthy voxel false-positive rate → score to exceed.
        source: where `healthy` comes from, in words.
        contrasts: the same as `healthy`, for scans of each contrast that has its own.
    """

    froc: Mapping[float, float] = field(default_factory=dict)
    healthy: Mapping[float, float] = field(default_factory=dict)
    source: str = "none: no scan without lesions and no bundle's calibration"
    contrasts: Mapping[str, Mapping[float, float]] = field(default_factory=dict)

    def healthy_for(self, contrast: str | None) -> Mapping[float, float]:
        """`healthy` for scans of a contrast."""
        return self.healthy if contrast is None else self.contrasts.get(contrast, self.healthy)
