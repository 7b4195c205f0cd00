"""How well the lesion volume of a mask agrees with the expert's, scan by scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

__all__ = ["VolumeAgreement", "volume_agreement"]

NAN = float("nan")


@dataclass(frozen=True)
class VolumeAgreement:
    """Agreement of two volumes over scans; NaN for fewer than three.

    Attributes:
        pearson: linear correlation; NaN where a side does not vary.
        spearman: rank correlation; likewise.
        bias_ml: mean of mask minus expert, in ml.
        low_ml, high_ml: Bland-Altman 95 % limits of agreement: bias ± 1.96 standard deviations of
            the differences.
        n: scans.
    """

    pearson: float
    spearman: float
    bias_ml: float
    low_ml: float
    high_ml: float
    n: int


def volume_agreement(
    mask_ml: NDArray[np.floating], expert_ml: NDArray[np.floating]
) -> VolumeAgreement:
    """Compare volumes.

    Args:
        mask_ml: `(N,)`, a scan each.
        expert_ml: `(N,)`, of the same scans; scans where either is NaN are left out.

    Source: Bland and Altman, Lancet 327 (1986).
    """
    mask, expert = np.asarray(mask_ml, np.float64), np.asarray(expert_ml, np.float64)
    if mask.shape != expert.shape:
        raise ValueError(f"volumes of {mask.shape} masks for {expert.shape} experts'")
    there = ~np.isnan(mask + expert)
    mask, expert = mask[there], expert[there]
    n = len(mask)
    if n < 3:
        return VolumeAgreement(NAN, NAN, NAN, NAN, NAN, n)
    difference = mask - expert
    bias, spread = float(difference.mean()), 1.96 * float(difference.std(ddof=1))
    varies = np.ptp(mask) > 0 and np.ptp(expert) > 0
    return VolumeAgreement(
        pearson=float(stats.pearsonr(mask, expert).statistic) if varies else NAN,
        spearman=float(stats.spearmanr(mask, expert).statistic) if varies else NAN,
        bias_ml=bias,
        low_ml=bias - spread,
        high_ml=bias + spread,
        n=n,
    )
