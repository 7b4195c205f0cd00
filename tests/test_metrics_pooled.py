"""Bootstrap of pooled metrics against pooling the voxels of every draw."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from volad.metrics import dice, oracle_dice
from volad.metrics import pooled as module
from volad.metrics.bootstrap import weights
from volad.metrics.histogram import ScoreHistogram, SparseHistogram
from volad.metrics.pooled import mean_oracle_dice, pooled

SUBJECTS = 5


def drawn(seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Subjects of different size and difficulty; the last has no lesion.

    Scores are of 7 bits, so that the coarse histograms lose nothing.
    """
    random = np.random.default_rng(seed)
    found = []
    for i in range(SUBJECTS):
        lesion = random.random(200 + 100 * i) < (0.1 if i + 1 < SUBJECTS else 0)
        score = random.normal(0.3 * i, 1, len(lesion)) + lesion * i / 2
        found.append(((score * 16).round().clip(-127, 127) / 16, lesion))
    return found


def coarse(score: np.ndarray, lesion: np.ndarray) -> SparseHistogram:
    histogram = ScoreHistogram()
    histogram.add(score, lesion)
    return histogram.coarse()


def repeated(
    voxels: list[tuple[np.ndarray, np.ndarray]], times: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The voxels of one draw."""
    parts = [part for part, n in zip(voxels, times, strict=True) for _ in range(n)]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


@pytest.mark.parametrize("budget", [1, 1000, 1 << 21])
def test_each_draw_is_its_subjects_voxels_together(
    budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few draws and scans are taken at a time."""
    monkeypatch.setattr(module, "BUDGET", budget)
    monkeypatch.setattr(module, "BLOCK", 2 if budget < 10_000 else 64)
    voxels = drawn()
    times = weights(SUBJECTS, draws=12, seed=1)
    found = pooled([coarse(*part) for part in voxels], times)
    for i, row in enumerate(times):
        score, lesion = repeated(voxels, row)
        expected = average_precision_score(lesion, score)
        assert found.average_precision[i] == pytest.approx(expected, abs=1e-12)
        assert found.auroc[i] == pytest.approx(roc_auc_score(lesion, score), abs=1e-12)
        assert found.oracle_dice[i] == pytest.approx(oracle_dice(score, lesion)[0], abs=1e-12)


@pytest.mark.parametrize("budget", [1, 1 << 21])
def test_the_mean_dice_is_the_best_of_all_common_thresholds(
    budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUDGET", budget)
    voxels = drawn()
    times = weights(SUBJECTS, draws=6, seed=1)
    found = mean_oracle_dice([coarse(*part) for part in voxels], times)
    thresholds = [-np.inf, *np.unique(np.concatenate([score for score, _ in voxels]))]
    each = np.array([[dice(s > t, x) for s, x in voxels[:-1]] for t in thresholds])
    for row, value in zip(times[:, :-1], found, strict=True):  # the last has no lesion
        assert value == pytest.approx((each @ row).max() / row.sum())


def test_draws_without_lesions_are_not_defined() -> None:
    histograms = [coarse(*part) for part in drawn()]
    times = np.array([[0, 0, 0, 0, 5], [1, 0, 0, 0, 0]])
    found = pooled(histograms, times)
    for values in (found.average_precision, found.auroc, found.oracle_dice):
        assert np.isnan(values).tolist() == [True, False]
    assert np.isnan(mean_oracle_dice(histograms, times)).tolist() == [True, False]


def test_without_subjects_nothing_is_defined() -> None:
    assert np.isnan(pooled([], np.zeros((3, 0))).auroc).tolist() == [True] * 3
    assert np.isnan(mean_oracle_dice([], np.zeros((3, 0)))).tolist() == [True] * 3
    assert len(pooled([], np.zeros((0, 0))).auroc) == 0


def test_weights_for_other_subjects_are_refused() -> None:
    with pytest.raises(ValueError, match="5 histograms"):
        pooled([coarse(*part) for part in drawn()], np.ones((3, 4)))


def test_memory_does_not_grow_with_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUDGET", 1 << 14)
    histograms = [coarse(*part) for part in drawn()]
    peaks = []
    for draws in (200, 2000):
        times = weights(SUBJECTS, draws)
        tracemalloc.start()
        pooled(histograms, times)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2000 * 100  # a few numbers a draw are the result
