"""The threshold from healthy scores, and what a bundle stores so that it can be set anew."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibration_helpers import STEP, STORED, Scores, all_healthy, counted, healthy, scans

from volad.calibrate import KINDS, QUANTITIES, Calibration, Promise, load_threshold, tail_of, words
from volad.calibrate.curves import COUNTED, rounded_up
from volad.calibrate.stored import facts_for, steps_keep
from volad.errors import InputError, UsageError, VoladError

STEPS = [{"step": "DropSmallLesions", "min_mm3": 20.0}]


def fit(scores: list[Scores], rate: float = 0.01, **more: Any) -> Calibration:
    return Calibration.fit(all_healthy(scores), Promise(rate=rate, **more))


def fit_counted(promise: Promise | None = None) -> Calibration:
    kept = [counted(scan, row) for row, scan in enumerate(all_healthy(scans(12, voxels=5000)))]
    return Calibration.fit(kept, promise or Promise(rate=0.01), STEPS)


def share_above(scores: list[Scores], threshold: float) -> float:
    """The mean over scans of the share of voxels above a threshold, counted."""
    return float(np.mean([(score > threshold).mean() for score in scores]))


def save(folder: Path, found: Calibration) -> Path:
    file = folder / "calibration.json"
    file.write_text(json.dumps(found.to_json()))
    return file


def old(folder: Path) -> Path:
    """A file as volad 0.1 wrote it, with real scores: without counts, promise on the mean."""
    stored = json.loads(STORED.read_text())
    promise = {"kind": "voxel_false_positive_rate", "rate": 0.001, "meaning": "..."}
    kept = {key: stored[key] for key in ("healthy_scans", "realised", "tails")}
    names = [{key: scan[key] for key in ("name", "sha256")} for scan in stored["scans"]]
    file = folder / "calibration.json"
    file.write_text(json.dumps({"threshold": 2.4, "promise": promise, "scans": names, **kept}))
    return file


# Scores


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05, 0.09])
def test_the_threshold_keeps_its_room_on_the_scans_it_was_set_on(rate: float) -> None:
    scores = scans(10)
    found = fit(scores, rate, cap=2)
    room, bound = found.promise.room(10), found.promise.bound
    assert found.mean_capped == np.minimum(found.losses, bound).mean() <= room * (1 + 1e-6)
    counted_mean = np.mean([min((s > found.threshold).mean(), bound) for s in scores])
    assert room / STEP**2 < counted_mean <= room * (1 + 1e-6)


def test_shares_are_of_all_brain_voxels_and_not_of_the_found_ones() -> None:
    """Of 1000 voxels 10 are above 0: 1 %. Counts like fp / (fp + tp) would say 100 %."""
    score = np.r_[np.ones(10), np.zeros(990)].astype(np.float32)
    assert healthy(score).curve("voxel_fpr").at(0.5) == pytest.approx(0.01, rel=STEP - 1)


def test_only_brain_voxels_count() -> None:
    score = np.zeros((10, 10, 10), np.float32)
    brain = np.zeros(score.shape, bool)
    score[:5], brain[5:] = 9, True
    assert tail_of(score, brain).max() == 0


@pytest.mark.parametrize("voxels", [50, 1000, 20_000])
def test_a_share_is_never_below_the_count_and_at_most_a_level_above(voxels: int) -> None:
    (score,) = scans(1, voxels=voxels)
    curve = healthy(score).curve("voxel_fpr")
    for threshold in np.quantile(score, [0.0, 0.1, 0.5, 0.9, 0.99]) + 1e-4:
        exact = (score > threshold).mean()
        assert exact <= curve.at(threshold) <= exact * STEP + 1 / voxels
    assert curve.at(float(score.max())) == 0
    assert curve.at(float(score.min()) - 1) == 1


def test_shares_of_scores_with_ties() -> None:
    score = np.repeat(np.arange(20, dtype=np.float32), 500)
    curve = healthy(score).curve("voxel_fpr")
    for threshold in (0, 3.5, 4, 17, 18.5):
        exact = (score > threshold).mean()
        assert exact <= curve.at(threshold) <= exact * STEP


def test_the_lowest_threshold_of_a_curve_is_the_lowest() -> None:
    curve = healthy(scans(1)[0]).curve("voxel_fpr")
    for rate in (1e-5, 0.001, 0.0123, 0.5):
        found = curve.lowest(rate)
        assert curve.at(found) <= rate < curve.at(float(np.nextafter(found, -9)))
    assert curve.lowest(1) == -np.inf


def test_a_score_that_is_0_almost_everywhere_still_gives_a_threshold() -> None:
    """Positive-only residuals: no threshold lets half of the voxels through."""
    scores = [np.r_[np.linspace(1, 2, 100), np.zeros(900)].astype(np.float32)] * 12
    found = fit(scores, 0.5)
    assert found.threshold == 0
    assert share_above(scores, 0) == pytest.approx(0.1)


def test_stored_scores_are_never_below_the_true_ones() -> None:
    """A voxel at a threshold must not come to lie above it by being written in six digits."""
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32).astype(float)
    values = np.r_[values, np.float32(0.1), 0.0, 1e-30, -3.0]
    short = rounded_up(values)
    assert (short >= values).all()
    np.testing.assert_allclose(short, values, rtol=1.01e-5)
    assert (rounded_up(short) == short).all()


def test_lesions_that_merge_do_not_lower_the_loss() -> None:
    lesions = np.zeros(25)
    lesions[[3, 4, 5]] = 4, 2, 7
    scan = replace(counted(healthy(scans(1, voxels=10**6)[0])), lesions=lesions)
    at = scan.tail[COUNTED]
    curve = scan.curve("false_lesions")
    assert [curve.at(at[k]) for k in (2, 3, 4, 5, 6)] == [0, 4, 4, 7, 7]
    assert curve.at((at[4] + at[5]) / 2) == 7  # between two, as at the lower
    assert curve.at(at[-1] - 1) == np.inf  # not counted so low
    assert curve.at(scan.tail[0]) == 0


def test_an_empty_brain_is_refused() -> None:
    with pytest.raises(InputError, match="brain mask is empty; "):
        tail_of(np.zeros((2, 2, 2), np.float32), np.zeros((2, 2, 2), bool))


# The file


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", QUANTITIES)
def test_the_file_gives_the_same_threshold_and_says_what_it_promises(
    of: str, kind: str, tmp_path: Path
) -> None:
    promise = Promise(of, {"voxel_fpr": 0.01}.get(of, 6.0), kind, level=0.8, cap=5)
    found = fit_counted(promise)
    file = save(tmp_path, found)
    stored = json.loads(file.read_text())
    assert load_threshold(file) == found.threshold
    assert Calibration.from_json(stored).to_json() == stored
    assert stored["promise"]["rate"] == promise.rate
    assert stored["healthy_scans"] == 12
    assert words.amount(promise.rate, of) in stored["promise"]["meaning"]
    assert "12 scans" in stored["promise"]["guarantee"]
    assert facts_for(file) == found.facts()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", QUANTITIES)
def test_another_promise_from_the_file_is_what_a_fresh_fit_gives(
    of: str, kind: str, tmp_path: Path
) -> None:
    file = save(tmp_path, fit_counted())
    setting = {"of": of, "rate": {"voxel_fpr": 0.03}.get(of, 4.0), "kind": kind, "level": 0.8}
    fresh = fit_counted(Promise.of_setting(setting, cap=10))
    assert load_threshold(file, promise=setting) == fresh.threshold
    assert facts_for(file, promise=setting) == fresh.facts()
    assert fresh.threshold != fit_counted().threshold


def test_another_rate_keeps_the_cap_of_the_calibration(tmp_path: Path) -> None:
    file = save(tmp_path, fit(scans(4), 0.01, cap=2))
    assert load_threshold(file, 0.01) == load_threshold(file)
    assert load_threshold(file, 0.05) == fit(scans(4), 0.05, cap=2).threshold
    with pytest.raises(InputError, match="4 healthy subjects are too few for a cap of 10"):
        load_threshold(file, promise={"of": "voxel_fpr", "rate": 0.01, "cap": 10})


def test_a_file_of_volad_0_1_promises_voxels_and_no_lesions(tmp_path: Path) -> None:
    file = old(tmp_path)
    assert load_threshold(file) == 2.4
    fresh = Calibration.from_json(json.loads(STORED.read_text()), Promise(rate=0.01))
    assert load_threshold(file, 0.01) == fresh.threshold
    for of in ("false_mm3", "false_lesions"):
        with pytest.raises(UsageError, match="run volad calibrate again") as caught:
            load_threshold(file, promise={"of": of, "rate": 3})
        assert "\n" not in str(caught.value)


def test_lesions_must_be_counted_as_small_as_they_are_kept(tmp_path: Path) -> None:
    file = save(tmp_path, fit_counted())
    lesions = {"of": "false_lesions", "rate": 5}
    expected = load_threshold(file, promise=lesions)
    for size in (20, 50):
        assert load_threshold(file, promise=lesions, min_lesion_mm3=size) == expected
    with pytest.raises(UsageError, match="--min-lesion-mm3 5; leave it out"):
        load_threshold(file, promise=lesions, min_lesion_mm3=5)
    assert load_threshold(file, 0.01, min_lesion_mm3=5) == load_threshold(file)


@pytest.mark.parametrize(
    ("now", "keeps"),
    [
        (STEPS, True),
        ([{**STEPS[0], "min_mm3": 30.0}], True),
        ([{**STEPS[0], "min_mm3": 10.0}], False),
        ([{**STEPS[0], "step": "Other"}], False),
        ([], False),
        ([*STEPS, {"step": "Other"}], False),
    ],
)
def test_which_mask_steps_keep_a_promise_on_lesions(now: Any, keeps: bool) -> None:
    assert steps_keep(STEPS, now) is keeps


def test_the_same_scans_give_the_same_calibration() -> None:
    assert fit(scans(9)).to_json() == fit(scans(9)).to_json()


def test_new_healthy_scans_keep_the_rate_within_the_interval_most_of_the_time() -> None:
    """100 times: calibrate on 10 scans, count on 10 others."""
    inside = 0
    for seed in range(100):
        found = fit(scans(10, seed, voxels=5000), cap=2)
        mean = share_above(scans(10, 1000 + seed, voxels=5000), found.threshold)
        low, high = found.facts()["realised"]["interval_95_of_mean"]
        inside += low <= mean <= high
    assert 80 <= inside <= 99


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_scans_are_refused(count: int) -> None:
    with pytest.raises(InputError, match="at least 2 healthy subjects, and this promise of 9"):
        fit(scans(count))


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 5.0, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate: float, tmp_path: Path) -> None:
    file = save(tmp_path, fit(scans(9)))
    with pytest.raises(UsageError, match="must be between 0 and 1, got"):
        load_threshold(file, rate)
    with pytest.raises(UsageError, match="leave one of the two settings out"):
        load_threshold(file, 0.1, {"rate": 0.1})


def test_a_bundle_that_was_not_calibrated_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="run volad calibrate, or give --threshold"):
        load_threshold(tmp_path / "calibration.json")


@pytest.mark.parametrize(
    "content",
    [*("", "{", "[]", "{}", '{"threshold": NaN}', '{"threshold": ""}'), '{"tails": {"scores": 1}}'],
)
def test_a_file_that_is_no_calibration_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(content)
    for rate in (None, 0.01):
        with pytest.raises(VoladError, match="run volad calibrate again") as caught:
            load_threshold(file, rate)
        assert "\n" not in str(caught.value)


def test_the_report_says_all_that_one_needs_to_know() -> None:
    said = words.report(fit_counted())
    assert "on average over new healthy scans, at most 1 % of a scan's brain voxels" in said
    assert "one scan counts at most 10 %" in said
    assert "12 (9 are the fewest for this promise)" in said
    assert "in 9 of 10 such calibrations the true mean, capped as said, is at most" in said
    each = words.report(fit_counted(Promise("false_lesions", 1, "each", level=0.8)))
    assert "with probability 0.8, at most 1 false lesion in" in each
    assert "of new healthy scans stay within" in each
    assert "99 for 99%" in each
