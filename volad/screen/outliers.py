"""Four tests that compare the scans of a cohort with each other.

Source: z-test: Li et al., "Outlier detection and removal improves accuracy of machine learning
    approach to multispectral burn diagnostic imaging", Journal of Biomedical Optics 20 (2015);
    box-whisker: Li et al. (2016), on the quality of segmented peduncles; leverage and robust
    distance: Mejia et al., "PCA leverage: outlier detection for high-dimensional functional
    magnetic resonance imaging data", Biostatistics 18 (2017).

Differs from them: location and scale are the median and the median absolute deviation, so that
outliers do not hide themselves or each other and one round suffices; all limits are set for the
cohort as a whole (`limits`), not for one value, that of the robust distance by simulation, not from
an F distribution; a difference within a feature's tolerance counts for nothing; rows of the
principal component analysis are scans, not moments, and its columns are not scaled, since
intensities share one scale already; components are few against the scans, as the robust distance
needs them to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from volad.screen.limits import NORMAL_MAD, distance_limit, feature_limits, leverage_limit
from volad.screen.mcd import fast_mcd

__all__ = ["ALPHA", "Comparison", "Features", "components", "image_tests", "univariate_tests"]

Array = NDArray[np.float64]

#: Probability that a test flags any scan of a cohort of normal ones, all four tests together.
ALPHA = 0.05
TESTS = ("z", "box", "leverage", "robust_distance")
LEVEL = ALPHA / len(TESTS)
#: Leverage beyond so many times its median is unusual, however likely by chance (Mejia et al.).
MEDIANS = 4.0
#: A component takes so many scans, and there are at most so many: a random start of the robust
#: distance is of one scan more than components, and must have a chance to hold no outlier.
SCANS_PER_COMPONENT, MOST_COMPONENTS = 10, 20


@dataclass(frozen=True, eq=False)
class Features:
    """What was measured of every scan.

    Attributes:
        names: K of them.
        values: `(N, K)`, NaN where not measurable.
        tolerances: `(K,)`, differences that count for nothing (`volad.scan_check.words`).
    """

    names: Sequence[str]
    values: Array
    tolerances: Array


@dataclass(frozen=True, eq=False)
class Comparison:
    """All scans in one test.

    Attributes:
        name: one of `TESTS`.
        offsets: `(N, K)` how far each scan is off in each feature, with sign; K is 1 for tests of
            the scan as a whole.
        limit: beyond it, a scan is flagged.
    """

    name: str
    offsets: Array
    limit: float

    @property
    def values(self) -> Array:
        """`(N,)` of the feature that is furthest off; 0 where nothing could be measured."""
        return np.asarray(np.nan_to_num(np.abs(self.offsets)).max(axis=1))

    @property
    def beyond(self) -> NDArray[np.bool_]:
        """`(N, K)`, true where the limit is exceeded."""
        return np.nan_to_num(np.abs(self.offsets)) > self.limit


def univariate_tests(features: Features) -> list[Comparison]:
    """Robust z-test and box-whisker test of each feature by itself."""
    values = features.values
    low, middle, high = np.nanpercentile(values, (25, 50, 75), axis=0)
    z_limit, box_limit = feature_limits(len(values), LEVEL / values.shape[1])
    mad = np.nanmedian(np.abs(values - middle), axis=0)
    # So wide that what is within the tolerance stays within the limit.
    scale = np.maximum(NORMAL_MAD * mad, features.tolerances / z_limit)
    box = np.maximum(high - low, features.tolerances / box_limit)
    outside = np.maximum(values - high, 0) + np.minimum(values - low, 0)
    return [
        Comparison("z", (values - middle) / scale, z_limit),
        Comparison("box", outside / box, box_limit),
    ]


def image_tests(rows: Array) -> list[Comparison]:
    """Leverage and robust distance in the principal components of rows `(N, V)`."""
    scores = components(rows)
    count, kept = scores.shape
    leverage = (scores**2).sum(axis=1)
    distance = np.sqrt(fast_mcd(scores).squared(scores))
    return [
        Comparison("leverage", leverage[:, None], leverage_limit(leverage, kept, MEDIANS, LEVEL)),
        Comparison("robust_distance", distance[:, None], distance_limit(count, kept, LEVEL)),
    ]


def components(rows: Array) -> Array:
    """Orthonormal scores `(N, Q)` in the principal components of more than average variance."""
    off = rows - np.median(rows, axis=0)
    variances, scores = np.linalg.eigh(off @ off.T)
    most = min(len(rows) // SCANS_PER_COMPONENT, MOST_COMPONENTS)
    kept = min(int((variances > variances.mean()).sum()), most)
    return np.asarray(scores[:, ::-1][:, : max(kept, 1)])
