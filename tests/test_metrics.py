"""Metrics by hand, by brute force and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from volad.metrics import average_precision, dice, oracle_dice


def drawn(seed: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of 500 voxels with at most `levels` distinct values, and a lesion of some 10 %."""
    random = np.random.default_rng(seed)
    lesion = random.random(500) < 0.1
    score = random.integers(0, levels, 500) + lesion * random.integers(0, 3, 500)
    return score.astype(np.float32), lesion


@pytest.mark.parametrize("levels", [2, 5, 50, 100_000])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_average_precision_is_that_of_scikit_learn(seed: int, levels: int) -> None:
    score, lesion = drawn(seed, levels)
    expected = average_precision_score(lesion, score)
    assert average_precision(score, lesion) == pytest.approx(expected, abs=1e-12)


def test_average_precision_by_hand() -> None:
    score = np.array([0.9, 0.8, 0.7, 0.1])
    # Recall rises by a half at precision 1/1 and by a half at precision 2/3.
    lesion = np.array([True, False, True, False])
    assert average_precision(score, lesion) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    # All scores alike: one step, whose precision is the lesion's share.
    assert average_precision(np.ones(4), lesion) == 0.5


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
    assert all(math.isnan(value) for value in oracle_dice(score, none))


def test_dice_by_hand() -> None:
    a = np.array([[True, True], [False, False]])
    b = np.array([[True, False], [True, True]])
    assert dice(a, b) == 2 * 1 / (2 + 3)
    assert dice(a, a) == 1
    assert dice(a, ~a) == 0
    assert math.isnan(dice(a & ~a, a & ~a))
