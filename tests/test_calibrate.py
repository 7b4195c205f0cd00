"""The threshold keeps its promise on healthy scans, and can be set anew from what is stored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from monai.data import MetaTensor
from numpy.typing import NDArray

from volad.calibrate import (
    LEVELS,
    Calibration,
    collect,
    false_positive_rate,
    load_threshold,
    tail_of,
)
from volad.errors import InputError, UsageError, VoladError

#: Two levels of a tail next to each other: so far may an interpolated rate be off.
STEP = LEVELS[1] / LEVELS[0]
Scores = NDArray[np.float32]


def scans(count: int, seed: int = 0, voxels: int = 20_000) -> list[Scores]:
    """Scores of healthy scans `(voxels,)`, each with its own spread and offset."""
    random = np.random.default_rng(seed)
    spread, offset = np.exp(random.normal(0, 0.15, count)), random.normal(0, 0.1, count)
    scores = random.normal(size=(count, voxels)) * spread[:, None] + offset[:, None]
    return list(scores.astype(np.float32))


def tails(scores: Sequence[Scores]) -> NDArray[np.float64]:
    return np.array([tail_of(score, np.ones(score.shape, bool)) for score in scores])


def fit(scores: Sequence[Scores], rate: float) -> Calibration:
    return Calibration.fit(tails(scores), rate, [{"id": str(i)} for i in range(len(scores))])


def share_above(scores: Sequence[Scores], threshold: float) -> float:
    """The mean over scans of the share of voxels above a threshold, counted."""
    return float(np.mean([(score > threshold).mean() for score in scores]))


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05, 0.1, 0.5])
def test_the_threshold_keeps_its_rate_on_the_scans_it_was_set_on(rate: float) -> None:
    found = fit(scans(10), rate)
    assert np.mean(found.rates) <= rate
    assert rate / STEP < share_above(scans(10), found.threshold) < rate * STEP


def test_the_threshold_is_the_lowest_that_keeps_the_rate() -> None:
    found = fit(scans(10), 0.01)
    a_little_lower = found.threshold - 1e-4
    assert np.mean([false_positive_rate(t, a_little_lower) for t in found.tails]) > 0.01


def test_a_lower_rate_never_has_a_lower_threshold() -> None:
    scores = scans(5)
    thresholds = [fit(scores, rate).threshold for rate in (0.5, 0.1, 0.05, 0.01, 1e-3, 1e-4)]
    assert thresholds == sorted(thresholds)
    assert len(set(thresholds)) == 6


def test_the_rate_is_of_all_brain_voxels_and_not_of_the_found_ones() -> None:
    """Of 1000 voxels 10 are above 0: 1 %. Counts like fp / (fp + tp) would say 100 %."""
    score = np.r_[np.ones(10), np.zeros(990)].astype(np.float32)
    assert false_positive_rate(tails([score])[0], 0.5) == pytest.approx(0.01, rel=STEP - 1)


def test_only_brain_voxels_count() -> None:
    score = np.zeros((10, 10, 10), np.float32)
    brain = np.zeros(score.shape, bool)
    score[:5], brain[5:] = 9, True
    assert tail_of(score, brain).max() == 0


@pytest.mark.parametrize("voxels", [50, 1000, 20_000])
def test_rates_from_a_tail_are_within_a_level_of_exact_counts(voxels: int) -> None:
    (score,) = scans(1, voxels=voxels)
    tail = tails([score])[0]
    for threshold in np.quantile(score, [0.0, 0.1, 0.5, 0.9, 0.99]) + 1e-4:
        exact = (score > threshold).mean()
        assert exact / STEP <= false_positive_rate(tail, threshold) <= exact * STEP
    assert false_positive_rate(tail, float(score.max())) == 0
    assert false_positive_rate(tail, float(score.min()) - 1) == 1


def test_rates_of_scores_with_ties_are_within_a_level_of_exact_counts() -> None:
    score = np.repeat(np.arange(20, dtype=np.float32), 500)
    tail = tails([score])[0]
    for threshold in (0, 3.5, 4, 17, 18.5):
        exact = (score > threshold).mean()
        assert exact / STEP <= false_positive_rate(tail, threshold) <= exact * STEP


def test_a_score_that_is_0_almost_everywhere_still_gives_a_threshold() -> None:
    """Positive-only residuals: no threshold lets half of the voxels through."""
    scores = [np.r_[np.linspace(1, 2, 100), np.zeros(900)].astype(np.float32)] * 3
    found = fit(scores, 0.5)
    assert 0 <= found.threshold < 1e-6
    assert share_above(scores, found.threshold) == pytest.approx(0.1)


def test_the_file_gives_the_same_threshold_and_says_what_it_promises(tmp_path: Path) -> None:
    found = fit(scans(4), 0.01)
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(found.to_json()))
    stored = json.loads(file.read_text())
    assert load_threshold(file) == found.threshold
    assert load_threshold(file, 0.01) == found.threshold
    assert Calibration.from_json(stored).to_json() == stored
    assert stored["promise"]["rate"] == 0.01
    assert stored["healthy_scans"] == 4
    assert stored["realised"]["mean"] == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize("rate", [0.001, 0.05])
def test_another_rate_from_the_file_is_what_a_fresh_fit_gives(rate: float, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(fit(scans(4), 0.01).to_json()))
    assert load_threshold(file, rate) == fit(scans(4), rate).threshold


def test_new_healthy_scans_keep_the_rate_within_the_interval_most_of_the_time() -> None:
    """100 times: calibrate on 10 scans, count on 10 others."""
    inside, means = 0, []
    for seed in range(100):
        found = fit(scans(10, seed, voxels=5000), 0.01)
        mean = share_above(scans(10, 1000 + seed, voxels=5000), found.threshold)
        inside += found.interval[0] <= mean <= found.interval[1]
        means.append(mean)
    assert 85 <= inside <= 99
    assert np.mean(means) == pytest.approx(0.01, rel=0.15)


def test_the_interval_is_narrower_with_more_scans() -> None:
    few, many = fit(scans(5, voxels=5000), 0.01), fit(scans(40, voxels=5000), 0.01)
    assert many.interval[1] - many.interval[0] < few.interval[1] - few.interval[0]
    for found in (few, many):
        assert found.interval[0] < 0.01 < found.interval[1]


def test_the_same_scans_give_the_same_calibration() -> None:
    assert fit(scans(3), 0.01).to_json() == fit(scans(3), 0.01).to_json()


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_scans_are_refused(count: int) -> None:
    with pytest.raises(InputError, match="at least 2 healthy scans"):
        fit(scans(count), 0.01)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 5.0, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate: float, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must be between 0 and 1, got"):
        fit(scans(2), rate)
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(fit(scans(2), 0.01).to_json()))
    with pytest.raises(UsageError, match="must be between 0 and 1, got"):
        load_threshold(file, rate)


def test_an_empty_brain_is_refused() -> None:
    with pytest.raises(InputError, match="brain mask is empty; "):
        tail_of(np.zeros((2, 2, 2), np.float32), np.zeros((2, 2, 2), bool))


def test_a_bundle_that_was_not_calibrated_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="run volad calibrate, or give --threshold"):
        load_threshold(tmp_path / "calibration.json")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"threshold": NaN}', '{"threshold": ""}']
)
def test_a_file_that_is_no_calibration_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(content)
    for rate in (None, 0.01):
        with pytest.raises(VoladError, match="run volad calibrate again") as caught:
            load_threshold(file, rate)
        assert "\n" not in str(caught.value)


def test_scored_samples_are_collected_with_their_scans() -> None:
    score, brain = np.zeros((1, 3, 3, 3), np.float32), np.ones((1, 3, 3, 3), bool)
    score[0, 0, 0, 0], score[0, 2, 2, 2], brain[0, 2, 2, 2] = 5, 7, False
    sample = {"pred": MetaTensor(score), "native_brain": MetaTensor(brain)}
    found, names = collect([({"id": "a"}, sample), ({"id": "b"}, sample)])
    assert names == [{"id": "a"}, {"id": "b"}]
    assert found.shape == (2, len(LEVELS))
    assert found.max() == 5
