"""Limits, differences, subgroups and agreement of an evaluation: what depends on the draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from evaluate_helpers import EMPTY, FAST, block, case, judged, several, values
from scipy import stats

from volad.evaluate import Case, Evaluation, compare
from volad.evaluate.agreement import pearson, spearman
from volad.evaluate.sampling import Estimate, Sampler
from volad.evaluate.scores import pooled_estimates
from volad.metrics.histogram import ScoreHistogram


def test_one_subject_gives_no_limits() -> None:
    """Two scans of one person are no sample of people."""
    scans = [case(name, subject="one", mask=block((2, 2, k))) for k, name in ((2, "a"), (3, "b"))]
    for key, one in judged(scans).summary().estimates.items():
        interval = one.interval()
        assert np.isfinite(interval.value), key
        assert np.isnan([interval.low, interval.high]).all(), key


def test_a_subject_counts_once_in_means() -> None:
    worse = block((2, 2, 3))  # Dice 1/2
    scans = [case(f"a{k}", subject="a") for k in range(3)] + [case("b", mask=worse)]
    found = judged(scans).summary()
    assert values(found)["dice_mean"] == pytest.approx((1 + 0.5) / 2)
    assert found.estimates["dice_mean"].n == 2
    assert found.counts["subjects"] == 2


def test_limits_cover_the_number_and_shrink_with_subjects() -> None:
    few, many = (judged(several(n=n)).summary() for n in (4, 24))
    for key in ("auprc_pooled", "dice_mean", "dice_oracle_mean", "lesion_precision"):
        a, b = few.estimates[key].interval(), many.estimates[key].interval()
        assert a.low <= a.value <= a.high
        assert b.high - b.low < a.high - a.low


def test_limits_lie_about_the_number_where_coarse_bins_change_it() -> None:
    """All scores are within 2 % of each other, so coarse bins tie most of them."""
    random = np.random.default_rng(0)
    histograms, total = [], ScoreHistogram()
    for _ in range(2):
        lesion = random.random(5000) < 0.05
        one = ScoreHistogram()
        one.add(1 + 0.002 * (random.normal(size=5000) + 2 * lesion), lesion)
        histograms.append(one.coarse())
        total += one
    both = np.ones(2, bool)
    sampler = Sampler(["a", "b"], 200, 0)
    found = pooled_estimates(histograms, both, both, sampler, total)
    rough = pooled_estimates(histograms, both, both, sampler, None)
    undrawn = (sampler.weights == 1).all(axis=1)
    for key, one in found.items():
        interval = one.interval()
        assert interval.low <= interval.value <= interval.high, key
        assert one.draws[undrawn] == pytest.approx(one.value), key
    exact = total.average_precision().value
    assert found["auprc_pooled"].value == exact
    assert rough["auprc_pooled"].interval().high < exact


def test_identical_results_differ_by_exactly_nothing() -> None:
    a, b = judged(several()), judged(several())
    differences = compare(a, b)
    assert set(differences) == set(a.summary().estimates)
    for key, one in differences.items():
        interval = one.interval()
        assert (interval.value, interval.low, interval.high) == (0, 0, 0), key


def test_a_better_detector_wins_in_every_draw() -> None:
    differences = compare(judged(several(0.8)), judged(several(0.2)))
    for key in ("auprc_pooled", "auprc_mean", "auroc_pooled", "dice_oracle_pooled"):
        assert differences[key].interval().low > 0, key


def test_pairs_drop_what_either_lacks() -> None:
    """One detector's mask is empty in a scan: HD95 is compared on the other scans alone."""
    far = block((2, 2, 3))
    a = judged([case("x"), case("y"), case("z", mask=EMPTY.copy())])
    b = judged([case("x"), case("y", mask=far), case("z", mask=far)])
    difference = compare(a, b)["hd95_mm"]
    alone = values(judged([case("y", mask=far)]).summary())["hd95_mm"]
    assert difference.n == 2
    assert difference.value == pytest.approx((0 - alone) / 2)


def test_only_shared_scans_are_compared() -> None:
    cases = several()
    whole, part = judged(cases), judged(cases[2:])
    for key, one in compare(whole, part).items():
        assert one.value == 0, key
    assert compare(judged([case("p")]), judged([case("q")])) == {}


def test_subgroups_are_the_same_numbers_of_fewer_scans() -> None:
    cases = several()
    found = judged(cases)
    groups = found.summary().subgroups["site"]
    assert sorted(groups) == ["A", "B"]
    alone = Evaluation(FAST, found.thresholds)
    for one in cases:
        if one.groups["site"] == "A":
            alone.add(one)
    expected = alone.summary()
    assert values(groups["A"]) == pytest.approx(values(expected))
    assert groups["A"].counts == expected.counts


def test_scan_auroc_by_hand() -> None:
    def scan(name: str, score: float, lesioned: bool, **more: Any) -> Case:
        lesion = block((2, 2, 2)) if lesioned else None
        return case(name, lesion=lesion, scan_scores={"m": score}, **more)

    cases = [scan("a", 3, True), scan("b", 1, True), scan("c", 1, False), scan("d", 0, False)]
    assert values(judged(cases).summary())["scan_auroc:m"] == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    # A score that one scan lacks is not judged on the others alone.
    cases.append(case("e"))
    assert "scan_auroc:m" not in judged(cases).summary().estimates


def test_volume_correlation() -> None:
    sizes = [(1, 2), (2, 2), (3, 4), (4, 3)]
    cases = [
        case(f"s{k}", lesion=block((2, 2, 2), size=a), mask=block((2, 2, 2), size=b))
        for k, (a, b) in enumerate(sizes)
    ]
    v = values(judged(cases).summary())
    expert, mask = np.array(sizes).T ** 3
    assert v["volume_pearson"] == pytest.approx(stats.pearsonr(mask, expert).statistic)
    assert v["volume_spearman"] == pytest.approx(stats.spearmanr(mask, expert).statistic)
    assert "volume_pearson" not in judged(cases[:2]).summary().estimates


def test_weighted_correlations_are_those_of_repeated_subjects() -> None:
    random = np.random.default_rng(0)
    x, y = random.integers(0, 5, (2, 9)).astype(float)  # with ties
    weights = random.integers(0, 4, (20, 9)).astype(float)
    for formula, reference in ((pearson, stats.pearsonr), (spearman, stats.spearmanr)):
        expected = [
            reference(np.repeat(x, row.astype(int)), np.repeat(y, row.astype(int))).statistic
            for row in weights
        ]
        assert formula(x, y, weights) == pytest.approx(expected)


def test_sampler_draws_subjects_not_scans() -> None:
    sampler = Sampler(["a", "a", "b"], 50, 0)
    weights = sampler.of_scans()
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 0] + weights[:, 2] == 2).all()
    mean = sampler.mean(np.array([1.0, 3.0, np.nan]))
    assert (mean.value, mean.n) == (2.0, 1)
    assert isinstance(mean, Estimate)
