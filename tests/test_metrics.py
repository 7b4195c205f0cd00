"""Counts and exact curves by hand, by brute force and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, confusion_matrix, roc_auc_score

from volad.metrics import Confusion, auroc, average_precision, dice, oracle_dice


def drawn(seed: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of 500 voxels with at most `levels` distinct values, and a lesion of some 10 %."""
    random = np.random.default_rng(seed)
    lesion = random.random(500) < 0.1
    score = random.integers(0, levels, 500) + lesion * random.integers(0, 3, 500)
    return score.astype(np.float32), lesion


@pytest.mark.parametrize("levels", [2, 5, 50, 100_000])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_curves_areas_are_those_of_scikit_learn(seed: int, levels: int) -> None:
    score, lesion = drawn(seed, levels)
    expected = average_precision_score(lesion, score)
    assert average_precision(score, lesion) == pytest.approx(expected, abs=1e-12)
    assert auroc(score, lesion) == pytest.approx(roc_auc_score(lesion, score), abs=1e-12)


def test_average_precision_by_hand() -> None:
    score = np.array([0.9, 0.8, 0.7, 0.1])
    # Recall rises by a half at precision 1/1 and by a half at precision 2/3.
    lesion = np.array([True, False, True, False])
    assert average_precision(score, lesion) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    # All scores alike: one step, whose precision is the lesion's share.
    assert average_precision(np.ones(4), lesion) == 0.5


def test_auroc_by_hand() -> None:
    lesion = np.array([True, False, True, False])
    # Of four pairs the lesion wins three.
    assert auroc(np.array([0.9, 0.8, 0.7, 0.1]), lesion) == 0.75
    assert auroc(np.array([0.9, 0.8, 0.8, 0.1]), lesion) == 0.875  # one of them is a tie
    assert auroc(np.ones(4), lesion) == 0.5


@pytest.mark.parametrize("levels", [3, 40])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_oracle_dice_is_the_best_of_all_thresholds(seed: int, levels: int) -> None:
    score, lesion = drawn(seed, levels)
    tried = [dice(score > t, lesion) for t in [-np.inf, *np.unique(score)]]
    best, threshold = oracle_dice(score, lesion)
    assert best == pytest.approx(max(tried))
    assert dice(score > threshold, lesion) == pytest.approx(best)


def test_oracle_dice_of_a_perfect_score() -> None:
    score = np.array([0.2, 0.9, 0.8, 0.1])
    assert oracle_dice(score, np.array([False, True, True, False])) == (1.0, 0.2)


@pytest.mark.parametrize("score", [np.zeros(0), np.arange(3.0)])
def test_without_a_lesion_there_is_no_value(score: np.ndarray) -> None:
    none = np.zeros(len(score), bool)
    assert math.isnan(average_precision(score, none))
    assert math.isnan(auroc(score, none))
    assert all(math.isnan(value) for value in oracle_dice(score, none))


def test_without_healthy_voxels_there_is_no_auroc() -> None:
    assert math.isnan(auroc(np.arange(3.0), np.ones(3, bool)))


@pytest.mark.parametrize("metric", [average_precision, auroc, oracle_dice])
def test_scores_that_are_no_numbers_are_refused(metric: object) -> None:
    assert callable(metric)
    with pytest.raises(ValueError, match="NaN"):
        metric(np.array([1.0, np.nan, 2.0]), np.array([True, False, False]))
    with pytest.raises(ValueError, match="labels"):
        metric(np.ones(3), np.ones(1, bool))


def test_dice_by_hand() -> None:
    a = np.array([[True, True], [False, False]])
    b = np.array([[True, False], [True, True]])
    assert dice(a, b) == 2 * 1 / (2 + 3)
    assert dice(a, a) == 1
    assert dice(a, ~a) == 0
    assert math.isnan(dice(a & ~a, a & ~a))


@pytest.mark.parametrize("seed", [0, 1])
def test_counts_are_those_of_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask, lesion, region = random.random((3, 8, 8, 8)) < [[[[0.3]]], [[[0.1]]], [[[0.6]]]]
    tn, fp, fn, tp = confusion_matrix(lesion[region], mask[region]).ravel()
    found = Confusion.of(mask, lesion, region)
    assert (found.tp, found.fp, found.fn, found.tn) == (tp, fp, fn, tn)
    assert found.dice == dice(mask & region, lesion & region)
    everywhere = found + Confusion.of(mask, lesion, ~region)
    assert everywhere == Confusion.of(mask, lesion)


def test_shares_by_hand() -> None:
    counts = Confusion(tp=6, fp=2, fn=3, tn=89)
    assert counts.sensitivity == 6 / 9
    assert counts.specificity == 89 / 91
    assert counts.precision == 6 / 8
    assert counts.false_positive_rate == 2 / 91
    assert counts.false_discovery_rate == 2 / 8
    assert counts.dice == 12 / 17


def test_shares_of_nothing_are_not_defined() -> None:
    nothing = Confusion(0, 0, 0, 0)
    for share in (
        nothing.sensitivity,
        nothing.specificity,
        nothing.precision,
        nothing.false_positive_rate,
        nothing.false_discovery_rate,
        nothing.dice,
    ):
        assert math.isnan(share)


def test_masks_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\) against one of \(2,\)"):
        dice(np.ones((2, 2), bool), np.ones(2, bool))
