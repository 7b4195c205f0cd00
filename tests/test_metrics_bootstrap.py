"""Bootstrap intervals over subjects, and agreement of volumes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from volad.metrics.bootstrap import auroc_interval, interval, interval_of, paired, weights
from volad.metrics.volumes import volume_agreement


def undefined(*values: float) -> bool:
    return all(map(math.isnan, values))


def test_each_draw_holds_as_many_subjects_as_there_are() -> None:
    times = weights(7, draws=500)
    assert times.shape == (500, 7)
    assert (times.sum(axis=1) == 7).all()
    assert times.mean(axis=0) == pytest.approx(np.ones(7), abs=0.2)
    assert (times == weights(7, draws=500)).all()
    assert (times != weights(7, draws=500, seed=1)).any()
    assert weights(0, draws=3).shape == (3, 0)


def test_the_interval_is_scipys() -> None:
    values = np.random.default_rng(0).gamma(2, size=40)
    found = interval(values, draws=20_000)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=0
    ).confidence_interval
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(expected, abs=0.02)
    assert found.n == 40


def test_any_statistic_may_be_taken() -> None:
    values = np.arange(9.0)
    found = interval(values, lambda drawn: float(np.median(drawn)), draws=20_000)
    # 5 of 9 draws or more are among the lowest two with probability 0.030, the lowest one 0.0005.
    assert (found.value, found.low, found.high) == (4, 1, 7)
    means = interval(values, lambda drawn: float(drawn.mean()))
    fast = interval(values)
    assert (means.low, means.high) == pytest.approx((fast.low, fast.high))


def test_a_wider_level_gives_a_wider_interval() -> None:
    values = np.random.default_rng(0).normal(size=30)
    narrow, wide = interval(values, level=0.5), interval(values, level=0.99)
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    samples = random.normal(1.0, 2.0, (300, 40))
    found = [interval(sample, draws=300) for sample in samples]
    held = np.mean([one.low <= 1.0 <= one.high for one in found])
    assert 0.88 < held < 0.98


@pytest.mark.parametrize("values", [[], [0.7], [0.7, np.nan], [np.nan, np.nan]])
def test_fewer_than_two_subjects_give_no_certainty(values: list[float]) -> None:
    found = interval(np.array(values))
    assert undefined(found.low, found.high)
    assert found.n == sum(map(math.isfinite, values))
    assert undefined(found.value) if not found.n else found.value == 0.7


def test_subjects_without_a_value_are_left_out() -> None:
    values = np.array([1.0, 2.0, 4.0])
    assert interval(np.array([1.0, np.nan, 2.0, 4.0, np.nan])) == interval(values)


def test_draws_that_are_not_defined_are_left_out() -> None:
    draws = np.append(np.linspace(0, 1, 101), [np.nan] * 50)
    found = interval_of(0.5, draws)
    assert (found.low, found.high) == pytest.approx((0.025, 0.975))
    assert undefined(interval_of(0.5, np.full(5, np.nan)).low)
    assert undefined(interval_of(np.nan, draws).low)
    assert undefined(interval_of(0.5, draws, n=1).low)


def test_pairs_are_of_one_subject() -> None:
    """What all gain alike is certain, however much subjects differ."""
    a = np.random.default_rng(0).normal(size=25) * 10
    found = paired(a + 0.5, a)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    same = paired(a, a)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_pairs_with_a_missing_side_are_left_out_and_counted() -> None:
    found = paired(np.array([1, np.nan, 3, 5.0]), np.array([0, 1, np.nan, 2.0]))
    assert (found.value, found.n) == (2, 2)
    with pytest.raises(ValueError, match="equal shapes"):
        paired(np.ones(3), np.ones(1))


def test_the_scan_level_auroc_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    healthy, lesioned = random.integers(0, 8, 30) + 0.0, random.integers(2, 10, 20) + 0.0
    found = auroc_interval(healthy, lesioned)
    labels = np.append(np.zeros(30), np.ones(20))
    assert found.value == pytest.approx(roc_auc_score(labels, np.append(healthy, lesioned)))
    assert found.low < found.value < found.high
    assert found.n == 50


def test_auroc_draws_are_those_of_each_group_by_itself() -> None:
    random = np.random.default_rng(0)
    healthy, lesioned = random.normal(0, 1, 30), random.normal(1, 1, 30)
    found = auroc_interval(healthy, lesioned, draws=4000)
    above = random.choice(lesioned, (4000, 30, 1)) > random.choice(healthy, (4000, 1, 30))
    drawn = above.mean(axis=(1, 2))
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.01)


def test_auroc_of_the_same_subjects_leaves_out_who_meets_themself() -> None:
    healthy, lesioned = np.array([1.0, 2.0, 3.0]), np.array([1.5, 3.5, 2.5])
    # Pairs of different subjects: 1.5 > 2, 3: 0; 3.5 > 1, 3: 2; 2.5 > 1, 2: 2.
    found = auroc_interval(healthy, lesioned, same_subjects=True)
    assert found.value == pytest.approx(4 / 6)
    assert found.n == 3
    # A draw of two of them: 0 and another 1 / 2, the other two 1.
    assert (found.low, found.high) == (0.5, 1)
    with pytest.raises(ValueError, match="same subjects"):
        auroc_interval(healthy, lesioned[:2], same_subjects=True)
    with pytest.raises(ValueError, match="same subjects"):
        auroc_interval(healthy, np.array([1, np.nan, 2]), same_subjects=True)


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("n", [0, 1])
def test_auroc_of_fewer_than_two_subjects_gives_no_certainty(n: int, same: bool) -> None:
    lesioned = np.ones(n if same else 5)
    found = auroc_interval(np.zeros(n), lesioned, same_subjects=same)
    assert undefined(found.low, found.high)
    assert undefined(found.value) if same or n == 0 else found.value == 1


def test_auroc_leaves_out_scans_without_a_score() -> None:
    found = auroc_interval(np.array([0.0, np.nan, 1.0]), np.array([0.5, 2.0, np.nan]))
    assert (found.value, found.n) == (0.75, 4)


def test_volumes_by_hand() -> None:
    expert = np.array([1.0, 2.0, 3.0, 4.0])
    found = volume_agreement(np.array([2.0, 2.0, 4.0, 6.0]), expert)
    assert found.pearson == pytest.approx(7 / math.sqrt(11 * 5))
    assert found.spearman == pytest.approx(4.5 / math.sqrt(4.5 * 5))  # ranks 1.5, 1.5, 3, 4
    assert found.bias_ml == 1
    spread = 1.96 * math.sqrt(2 / 3)
    assert (found.low_ml, found.high_ml) == pytest.approx((1 - spread, 1 + spread))
    assert found.n == 4


def test_volumes_of_fewer_than_three_scans_are_not_compared() -> None:
    found = volume_agreement(np.array([1, 2, np.nan]), np.array([1, 2, 3.0]))
    assert found.n == 2
    assert undefined(found.pearson, found.spearman, found.bias_ml, found.low_ml, found.high_ml)


@pytest.mark.filterwarnings("error")
def test_volumes_that_do_not_vary_have_no_correlation() -> None:
    found = volume_agreement(np.zeros(4), np.arange(4.0))
    assert undefined(found.pearson, found.spearman)
    assert found.bias_ml == -1.5
    with pytest.raises(ValueError, match="volumes of"):
        volume_agreement(np.zeros(4), np.zeros(1))
