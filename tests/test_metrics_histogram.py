"""Histograms of scores: bounds that hold, thresholds that are exact."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from volad.metrics import dice
from volad.metrics.histogram import ScoreHistogram, edges_of

Random = np.random.Generator
N = 20_000


def _normal(random: Random) -> np.ndarray:
    return random.normal(size=N).astype(np.float32)


def _all_negative(random: Random) -> np.ndarray:
    return -random.lognormal(2, 3, N).astype(np.float32)


def _heavy_tail(random: Random) -> np.ndarray:
    return random.standard_cauchy(N)  # float64, many orders of magnitude


def _mostly_zero(random: Random) -> np.ndarray:
    return np.where(random.random(N) < 0.8, 0, random.random(N)).astype(np.float32)


def _signed_zeros(random: Random) -> np.ndarray:
    return random.choice(np.array([-0.0, 0.0, 1.0, -1.0], np.float32), N)


def _narrow(random: Random) -> np.ndarray:
    """All within a few bins: the worst case for the bounds."""
    return (1 + random.random(N) / 500).astype(np.float32)


def _half_precision(random: Random) -> np.ndarray:
    return random.normal(size=N).astype(np.float16)


LAWS = (_normal, _all_negative, _heavy_tail, _mostly_zero, _signed_zeros, _narrow, _half_precision)
Law = Callable[[Random], np.ndarray]


def drawn(law: Law, seed: int = 0, share: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and labels that go with the high ones more often."""
    random = np.random.default_rng(seed)
    score = law(random)
    rank = np.argsort(np.argsort(score.astype(float) + 0.0)) / N
    lesion: np.ndarray = random.random(N) < share * 2 * rank
    return score, lesion


def counted(score: np.ndarray, lesion: np.ndarray) -> ScoreHistogram:
    histogram = ScoreHistogram()
    histogram.add(score, lesion)
    return histogram


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("share", [0.001, 0.05, 0.4])
def test_exact_values_lie_within_the_bounds(law: Law, seed: int, share: float) -> None:
    score, lesion = drawn(law, seed, share)
    histogram = counted(score, lesion)
    for found, exact in (
        (histogram.average_precision(), average_precision_score(lesion, score)),
        (histogram.auroc(), roc_auc_score(lesion, score)),
    ):
        assert found.low - 1e-12 <= exact <= found.high + 1e-12
        assert found.low - 1e-12 <= found.value <= found.high + 1e-12


@pytest.mark.parametrize("law", LAWS)
def test_the_oracle_dice_is_reached_and_nearly_the_best(law: Law) -> None:
    score, lesion = drawn(law)
    best, threshold, error = counted(score, lesion).oracle_dice()
    precision, recall, _ = precision_recall_curve(lesion, score)
    exact = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    assert best - 1e-12 <= exact <= best + error + 1e-12
    assert dice(score.astype(np.float32) > np.float32(threshold), lesion) == pytest.approx(best)


@pytest.mark.parametrize("law", [_mostly_zero, _signed_zeros, _half_precision])
def test_scores_with_a_bin_each_are_exact(law: Law) -> None:
    score, lesion = drawn(law)
    if law is _mostly_zero:
        score = score.astype(np.float16)
    histogram = counted(score, lesion)
    exact = average_precision_score(lesion, score)
    assert histogram.average_precision().value == pytest.approx(exact, abs=1e-12)
    assert histogram.auroc().value == pytest.approx(roc_auc_score(lesion, score), abs=1e-12)


def test_the_bounds_are_narrow_for_scores_that_are_not() -> None:
    """The bound of AUPRC that is stated for continuous scores."""
    low, high = counted(*drawn(_normal)).average_precision()[1:]
    assert high - low < 2e-3


def test_bounds_by_hand() -> None:
    """Two lesion and two healthy voxels in one bin, one lesion voxel above, one below."""
    near = np.float32(1) - np.arange(4, dtype=np.float32) * np.float32(2**-20)
    score = np.append(near, [2, 0.5]).astype(np.float32)
    lesion = np.array([True, True, False, False, True, True])
    value, low, high = counted(score, lesion).average_precision()
    assert value == pytest.approx((1 + 2 * 3 / 5 + 4 / 6) / 4)
    assert low == pytest.approx((1 + 2 / 4 + 3 / 5 + 4 / 6) / 4)
    assert high == pytest.approx((1 + 1 + 1 + 4 / 6) / 4)
    # Of the 4 * 2 pairs, the upper lesion wins 2 and the lower none, whatever the order.
    assert counted(score, lesion).auroc() == pytest.approx((4 / 8, 2 / 8, 6 / 8))


def test_the_lower_bound_is_the_worst_order() -> None:
    """Far down a ranking too, where the sum of precisions is taken from a series."""
    for healthy in (3, 900, 5_000):
        near = np.float32(1) - np.arange(40, dtype=np.float32) * np.float32(2**-20)
        score = np.append(np.full(healthy, 2, np.float32), near)
        worst = np.append(np.zeros(healthy + 20, bool), np.ones(20, bool))
        exact = average_precision_score(worst, score)
        assert counted(score, worst).average_precision().low == pytest.approx(exact, rel=1e-12)


def test_a_histogram_of_parts_is_the_sum_of_the_parts() -> None:
    score, lesion = drawn(_normal)
    whole, parts = counted(score, lesion), ScoreHistogram()
    for part in np.array_split(np.arange(N), 7):
        parts.add(score[part], lesion[part])
    half = counted(score[: N // 2], lesion[: N // 2])
    added = half + counted(score[N // 2 :], lesion[N // 2 :])
    assert parts.average_precision() == added.average_precision() == whole.average_precision()
    assert half.lesion_voxels + half.healthy_voxels == N // 2  # a sum leaves its parts alone


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("rate", [0, 0.01, 0.05, 0.3, 1])
def test_thresholds_keep_their_rate_and_are_the_lowest(law: Law, rate: float) -> None:
    score, lesion = drawn(law)
    score = score.astype(np.float32)
    histogram = counted(score, lesion)
    threshold = histogram.threshold_at_fpr(rate)
    realised = (score[~lesion] > threshold).mean()
    assert realised <= rate
    assert histogram.false_positive_rate(threshold) == pytest.approx(realised)
    assert histogram.dice_at(threshold) == pytest.approx(dice(score > threshold, lesion))
    if threshold > -np.inf:  # a little lower, the rate is exceeded
        lower = threshold - max(abs(threshold), 1e-30) / 1000
        assert (score[~lesion] > lower).mean() > rate


def test_rates_that_are_a_whole_number_of_voxels_are_used_up() -> None:
    score = np.arange(1, 101, dtype=np.float32)
    histogram = counted(score, np.zeros(100, bool))
    for voxels in range(100):
        assert histogram.threshold_at_fpr(voxels / 100) == 100 - voxels


def test_a_threshold_within_a_bin_counts_all_of_the_bin() -> None:
    score = np.array([0.5, 1.0001, 1.0002, 3], np.float32)
    histogram = counted(score, np.array([False, False, True, False]))
    assert histogram.false_positive_rate(1.00015) == 2 / 3
    assert histogram.dice_at(1.00015) == 2 / (3 + 1)
    with pytest.raises(ValueError, match="NaN"):
        histogram.dice_at(math.nan)


@pytest.mark.parametrize("law", LAWS)
def test_the_curve_lies_on_that_of_scikit_learn(law: Law) -> None:
    score, lesion = drawn(law)
    curve = counted(score, lesion).curve()
    assert 1 <= len(curve.recall) <= 200
    assert (np.diff(curve.recall) > 0).all()
    assert curve.recall[-1] == 1
    for threshold, recall, precision, fpr in zip(
        curve.threshold, curve.recall, curve.precision, curve.false_positive_rate, strict=True
    ):
        called = score.astype(np.float32) > np.float32(threshold)
        assert recall == pytest.approx(called[lesion].mean())
        assert precision == pytest.approx(lesion[called].mean())
        assert fpr == pytest.approx(called[~lesion].mean())


@pytest.mark.parametrize("law", LAWS)
def test_the_coarse_form_loses_no_voxel_and_keeps_the_order(law: Law) -> None:
    score, lesion = drawn(law)
    coarse = counted(score, lesion).coarse()
    assert (coarse.index.dtype, coarse.lesion.dtype) == (np.uint16, np.uint32)
    assert coarse.lesion.sum() == lesion.sum()
    assert coarse.healthy.sum() == (~lesion).sum()
    for index, above in zip(coarse.index, _above(coarse.lesion + coarse.healthy), strict=True):
        value = edges_of(np.array([index]), bits=16)[0]
        assert (score.astype(np.float32) > np.float32(value)).sum() == above


def _above(counts: np.ndarray) -> np.ndarray:
    return counts.sum() - np.cumsum(counts)


@pytest.mark.parametrize("value", [-65504, -1, -(2**-14), 0, 2**-14, 1, 1024])
def test_a_bin_ends_with_its_value(value: float) -> None:
    """So what is the tiniest bit above is in another bin, and the bin below it too."""
    middle = np.float32(value)
    scores = np.array([np.nextafter(middle, np.float32(s)) for s in (-np.inf, np.inf)])
    histogram = counted(np.append(scores, middle), np.array([False, True, False]))
    assert histogram.average_precision() == (1, 1, 1)
    assert histogram.dice_at(value) == 1
    assert histogram.false_positive_rate(value) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused_and_nothing_counted(bad: float) -> None:
    histogram = ScoreHistogram()
    with pytest.raises(ValueError, match="NaN or infinite"):
        histogram.add(np.array([1.0, bad]), np.array([True, False]))
    assert histogram.lesion_voxels == 0


def test_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="labels"):
        ScoreHistogram().add(np.ones(3), np.ones(1, bool))


def test_float32s_whole_range_is_counted() -> None:
    limits = np.finfo(np.float32)
    score = np.array([limits.min, limits.max, limits.tiny, -1e300, 1e300])
    histogram = counted(score, np.array([False, True, False, False, True]))
    assert histogram.average_precision() == (1, 1, 1)
    assert histogram.threshold_at_fpr(1) == -np.inf


def test_without_voxels_nothing_is_defined() -> None:
    empty = ScoreHistogram()
    numbers = [*empty.average_precision(), *empty.auroc(), *empty.oracle_dice()]
    numbers += [empty.threshold_at_fpr(0.1), empty.false_positive_rate(0), empty.dice_at(0)]
    assert all(math.isnan(value) for value in numbers)
    assert len(empty.curve().recall) == 0
    assert len(empty.coarse().index) == 0


def test_one_kind_of_voxels_leaves_undefined_what_needs_both() -> None:
    healthy = counted(np.arange(5.0), np.zeros(5, bool))
    assert all(map(math.isnan, [*healthy.average_precision(), *healthy.auroc()]))
    lesion = counted(np.arange(5.0), np.ones(5, bool))
    assert lesion.average_precision() == (1, 1, 1)
    assert math.isnan(lesion.auroc().value)
    assert math.isnan(lesion.threshold_at_fpr(0.1))


def test_memory_does_not_grow_with_what_is_added() -> None:
    score, lesion = drawn(_normal)
    histogram = counted(score, lesion)
    tracemalloc.start()
    for _ in range(20):
        histogram.add(score, lesion)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 17 << 20  # its two arrays of 8 MiB may be new ones
