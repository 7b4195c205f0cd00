"""`volad screen`: robust estimates, four tests and their limits, and the command on phantoms."""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from io_helpers import save_nifti
from numpy.typing import NDArray
from pipeline_helpers import grid, head, save_head, write_training_manifest
from scipy import stats
from sklearn.covariance import MinCovDet

from volad import skeleton
from volad.commands import screen as command
from volad.data import Row
from volad.errors import InputError, UsageError
from volad.screen import limits
from volad.screen.features import WORDS, Described, blocks_of, features_of
from volad.screen.findings import findings_of
from volad.screen.limits import distance_limit, feature_limits, leverage_limit
from volad.screen.mcd import Spread, fast_mcd, support_size
from volad.screen.outliers import Comparison, Features, components, image_tests, univariate_tests
from volad.screen.run import compare

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def few_cohorts() -> Iterator[None]:
    """Simulate fewer cohorts: quick, and near enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "DISTANCE_COHORTS", 50)
        distance_limit.cache_clear()
        yield
    distance_limit.cache_clear()


# Minimum covariance determinant


def test_a_spread_by_hand() -> None:
    spread = Spread.of(np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0], [2.0, 4.0]]))
    np.testing.assert_allclose(spread.location, [1, 2])
    np.testing.assert_allclose(spread.covariance, np.diag([1.0, 4.0]))
    np.testing.assert_allclose(spread.squared(np.array([[3.0, 2.0], [1.0, 8.0]])), [4, 9])
    assert spread.log_determinant() == pytest.approx(np.log(4))


def test_mcd_of_one_column_is_the_narrowest_half() -> None:
    found = fast_mcd(np.array([[10.0], [2.0], [0.0], [20.0], [1.0]]))
    assert support_size(5, 1) == 3
    assert found.location == pytest.approx([1])
    assert found.covariance[0, 0] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("seed", "count", "dimensions"), [(0, 30, 3), (1, 44, 5), (2, 61, 2)])
def test_mcd_agrees_with_scikit_learn(seed: int, count: int, dimensions: int) -> None:
    random = np.random.default_rng(seed)
    rows = random.normal(size=(count, dimensions)) @ random.normal(size=(dimensions, dimensions))
    rows[: count // 4] += 30
    other = MinCovDet(support_fraction=support_size(count, dimensions) / count, random_state=0).fit(
        rows
    )
    found = fast_mcd(rows)
    # Both search at random: the smaller determinant is the better half.
    assert found.log_determinant() <= np.linalg.slogdet(other.raw_covariance_)[1] + 1e-9
    np.testing.assert_allclose(found.location, other.raw_location_, atol=0.3 * rows.std())
    assert set(np.argsort(found.squared(rows))[-(count // 4) :]) == set(range(count // 4))


def test_mcd_agrees_with_scikit_learn_to_the_digit_where_the_half_is_plain() -> None:
    random = np.random.default_rng(3)
    rows = random.normal(size=(40, 3))
    rows[22:] = 50 + 20 * random.normal(size=(18, 3))
    other = MinCovDet(support_fraction=22 / 40, random_state=0).fit(rows)
    found = fast_mcd(rows)
    assert support_size(40, 3) == 22
    np.testing.assert_allclose(found.location, rows[:22].mean(axis=0))
    np.testing.assert_allclose(found.location, other.raw_location_)
    np.testing.assert_allclose(found.covariance, other.raw_covariance_)


def test_mcd_sees_outliers_that_hide_each_other() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(100, 2))
    rows[:35] += 12
    limit = stats.chi2.isf(0.001, 2)
    assert not (Spread.of(rows).squared(rows)[:35] > limit).any()
    assert (fast_mcd(rows).squared(rows)[:35] > limit).all()


def test_robust_distances_do_not_depend_on_units_or_axes() -> None:
    random = np.random.default_rng(1)
    rows = random.normal(size=(50, 3))
    moved = rows @ np.array([[1000.0, 2, 0], [0, 1, 5], [0, 0, 0.01]]) + [3, -50, 7]
    np.testing.assert_allclose(fast_mcd(moved).squared(moved), fast_mcd(rows).squared(rows))


def test_mcd_of_rows_in_a_plane_is_finite() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 2)) @ np.array([[1.0, 0, 1], [0, 1.0, 1]])
    assert np.isfinite(fast_mcd(rows).squared(rows)).all()


# Limits


@pytest.mark.parametrize("scans", [12, 60])
def test_limits_of_features_keep_their_level_in_small_cohorts(scans: int) -> None:
    level = 0.05
    z_limit, box_limit = feature_limits(scans, level)
    values = np.random.default_rng(7).normal(5, 3, size=(scans, 4000))
    whole = Features([str(k) for k in range(4000)], values, np.zeros(4000))
    z, box = univariate_tests(whole)
    for test, limit in ((z, z_limit), (box, box_limit)):
        beyond = np.mean(np.abs(test.offsets).max(axis=0) > limit)
        assert beyond == pytest.approx(level, rel=0.3), test.name


def test_the_z_limit_of_many_scans_is_that_of_the_normal_distribution() -> None:
    z_limit, box_limit = feature_limits(500, 0.05)
    plain = stats.norm.isf(0.05 / 2 / 500)
    assert z_limit == pytest.approx(plain, rel=0.05)
    quartile = stats.norm.isf(0.25)
    assert box_limit == pytest.approx((plain - quartile) / (2 * quartile), rel=0.07)


def test_the_limit_of_distances_keeps_its_level(few_cohorts: None) -> None:
    limit = distance_limit(24, 2, 0.25)
    random = np.random.default_rng(8)
    cohorts = [random.normal(size=(24, 2)) for _ in range(50)]
    beyond = [np.sqrt(fast_mcd(rows).squared(rows).max()) > limit for rows in cohorts]
    assert 0.1 < np.mean(beyond) < 0.45


def test_the_limit_of_leverage_is_the_larger_of_two() -> None:
    even = np.full(40, 4 / 40)
    chance = stats.beta.isf(0.01 / 40, 2, 18)
    assert leverage_limit(even, 4, 4, 0.01) == pytest.approx(max(0.4, chance))
    assert leverage_limit(even, 4, 1, 0.01) == pytest.approx(chance)
    assert leverage_limit(even, 4, 9, 0.01) == pytest.approx(0.9)


def test_leverage_of_normal_images_is_beta_distributed() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(80, 400)) * np.linspace(0.1, 3, 400)
    scores = components(rows)
    kept = scores.shape[1]
    leverage = (scores**2).sum(axis=1)
    assert stats.kstest(leverage, stats.beta(kept / 2, (80 - kept) / 2).cdf).pvalue > 0.01


# The four tests


def table(values: Array, tolerance: float = 0.0) -> Features:
    count = values.shape[1]
    return Features([f"f{k}" for k in range(count)], values, np.full(count, tolerance))


def test_z_and_box_by_hand() -> None:
    column = np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 17])
    z, box = univariate_tests(table(column[:, None]))
    # Median 5, median absolute deviation 2; quartiles 3 and 7.
    np.testing.assert_allclose(z.offsets[:, 0], (column - 5) / (1.4826 * 2))
    np.testing.assert_allclose(box.offsets[:, 0], [-0.5, -0.25, 0, 0, 0, 0, 0, 0.25, 2.5])
    np.testing.assert_allclose(box.values, np.abs(box.offsets[:, 0]))


def test_what_is_within_the_tolerance_counts_for_nothing() -> None:
    column = np.zeros(40)
    column[:2] = 0.099, -0.2
    strict, eased = univariate_tests(table(column[:, None] + 5, 0.1)), table(column[:, None], 0.3)
    for test in strict:
        assert list(np.flatnonzero(test.beyond)) == [1], test.name
        assert test.offsets[1, 0] < 0
    assert not any(test.beyond.any() for test in univariate_tests(eased))


def test_outliers_of_one_kind_do_not_hide_each_other() -> None:
    column = np.random.default_rng(0).normal(size=60)
    column[:9] = 12
    plain = np.abs(column - column.mean()) / column.std()
    z, box = univariate_tests(table(column[:, None]))
    assert plain.max() < 3
    for test in (z, box):
        assert list(np.flatnonzero(test.beyond)) == list(range(9)), test.name


def test_what_could_not_be_measured_is_not_odd() -> None:
    values = np.random.default_rng(0).normal(size=(30, 2))
    values[0, 0], values[1] = np.nan, np.nan
    for test in univariate_tests(table(values)):
        assert not test.beyond.any()
        assert test.values[1] == 0


def test_components_are_those_of_more_than_average_variance() -> None:
    rows = np.zeros((30, 3))
    rows[0] = [10, 0, 0]
    rows[1:3, 1] = [4, -4]
    rows[3:, 2] = 1e-3 * np.random.default_rng(0).normal(size=27)
    scores = components(rows)
    assert scores.shape == (30, 2)
    np.testing.assert_allclose(scores.T @ scores, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(np.abs(scores[:3, 0]), [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(np.abs(scores[:3, 1]), [0, 0.5**0.5, 0.5**0.5], atol=1e-6)
    noise = np.random.default_rng(1).normal(size=(50, 300))
    assert components(noise).shape == (50, 5)  # a component takes 10 scans


def images(count: int = 40, seed: int = 0) -> Array:
    """`(count, 500)` of healthy scans that differ in three ways, and by noise."""
    random = np.random.default_rng(seed)
    ways = random.normal(size=(3, 500))
    return random.normal(size=(count, 3)) @ ways + 0.3 * random.normal(size=(count, 500))


def test_one_odd_image_has_leverage_and_distance(few_cohorts: None) -> None:
    rows = images()
    rows[7] += 5 * np.sin(np.arange(500))
    for test in image_tests(rows):
        assert list(np.flatnonzero(test.beyond)) == [7], test.name


def test_several_images_of_one_other_kind_lie_far_off(few_cohorts: None) -> None:
    rows = images()
    rows[:8] += 5 * np.sin(np.arange(500))
    leverage, distance = image_tests(rows)
    assert not leverage.beyond.any()  # they share one component: why there are two tests
    assert list(np.flatnonzero(distance.beyond)) == list(range(8))


def test_healthy_images_pass(few_cohorts: None) -> None:
    flagged = [test.beyond.any() for seed in range(4) for test in image_tests(images(40, seed))]
    assert sum(flagged) <= 1


# Features of a cohort


def described(blocks: Array, **features: float) -> Described:
    return Described(features, blocks.astype(np.float32), np.eye(4))


def test_a_scan_with_left_and_right_swapped_stands_out() -> None:
    random = np.random.default_rng(0)
    uneven = random.normal(size=(1, 4, 5, 6))
    uneven = uneven - uneven[:, ::-1]
    even = random.normal(size=(1, 2, 5, 6))
    brain = np.concatenate([even, even[:, ::-1]], axis=1)
    noise = 0.5 * random.normal(size=(12, 1, 4, 5, 6))
    cohort = [described(brain + uneven + one, overlap=0.9) for one in noise]
    cohort[3] = described(brain - uneven + noise[3], overlap=0.9)
    found = features_of(cohort)
    assert found.names == ["overlap", "handedness"]
    assert found.values[3, 1] < -0.5
    assert np.delete(found.values[:, 1], 3).min() > 0.5
    not_aligned = [described(one, noise=0.1) for one in noise]
    assert features_of(not_aligned).names == ["noise"]


def test_a_feature_that_few_scans_have_is_left_out() -> None:
    flat = np.ones((1, 2, 2, 2))
    cohort = [described(flat, noise=0.1, like_t1=np.nan, overlap=0.9) for _ in range(12)]
    assert features_of(cohort).names == ["noise", "overlap"]  # and no handedness: all even


def test_images_are_compared_where_they_share_a_grid(few_cohorts: None) -> None:
    random = np.random.default_rng(0)
    cohort = [described(random.normal(size=(1, 2, 3, 4)), noise=random.normal()) for _ in range(20)]
    blocks = blocks_of(cohort)
    assert blocks is not None
    assert blocks.shape == (20, 1, 2, 3, 4)
    assert compare(cohort)[2] == "images"
    cohort[0] = described(np.ones((1, 2, 3, 5)), noise=0.0)
    assert blocks_of(cohort) is None
    assert compare(cohort)[2] == "features"


def test_every_feature_has_words() -> None:
    assert all(feature.low and feature.high for feature in WORDS.values())


def test_reasons_name_what_is_odd_and_how() -> None:
    rows = [Row(f"s{k}", "train", Path(f"s{k}.nii"), "") for k in range(3)]
    features = Features(
        ["noise", "covered"], np.array([[0.02, 1.0], [0.1, 0.2]]), np.array([0.01, 0.01])
    )
    z = Comparison("z", np.array([[0.0, 1.0], [9.0, -20.0]]), 4.0)
    distance = Comparison("robust_distance", np.array([[1.0], [9.0]]), 6.0)
    brain = np.ones((1, 2, 2, 2))
    known = [described(brain), "s1.nii: is empty; export it again", described(brain)]
    fine, broken, odd = findings_of(rows, known, features, [z, distance])
    assert not fine.flagged
    assert broken.reasons == ("it cannot be prepared: s1.nii: is empty; export it again",)
    assert odd.row is rows[2]
    assert odd.reasons == (
        "part of the brain is missing (covered 0.2, median 0.6)",
        "it is noisy (noise 0.1, median 0.06)",
        "as a whole it lies far from the bulk of the others (robust distance 9, limit 6)",
    )
    assert odd.values == {"z": 20, "robust_distance": 9}


# The command, on stripped head CTs


def corrupt(name: str) -> NDArray[np.int16]:
    """A head that should not be trained on."""
    hu = head(70)
    brain, random = hu > -1000, np.random.default_rng(0)
    if name == "cut":
        brain = brain & (np.arange(hu.shape[2]) < 22)
    changed = {
        "noisy": hu + random.normal(0, 15, hu.shape),
        "inverted": 80 - hu,
        "cut": hu,
        "empty": np.full(hu.shape, -1000),
    }
    return np.where(brain, changed[name], -1000).astype(np.int16)


CORRUPT = ("noisy", "inverted", "cut", "empty")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that nobody trained, and a manifest: 12 healthy heads and 4 others."""
    folder = tmp_path_factory.mktemp("cohort")
    scans = folder / "scans"
    scans.mkdir()
    skeleton.create(
        folder / "bundle", "ae", arguments={}, modality="ct", space="isotropic", spacing_mm=8
    )
    train = [save_head(scans / f"sub{seed}.nii.gz", seed, lesion=False) for seed in range(12)]
    train += [save_nifti(scans / f"{name}.nii.gz", corrupt(name), grid()) for name in CORRUPT]
    validation = [save_head(scans / "sub80.nii.gz", 80, lesion=False)]
    write_training_manifest(folder, train, validation)
    return folder


def run(cohort: Path, out: Path, *more: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    given = ["--bundle", str(cohort / "bundle"), "--manifest", str(cohort / "manifest.csv")]
    return command.run(
        parser.parse_args([*given, "--data-dir", str(cohort), "-o", str(out), *more])
    )


def rows_of_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_screen(
    cohort: Path, tmp_path: Path, few_cohorts: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(cohort, out) == 0
    rows = rows_of_csv(out / "screen.csv")
    flagged = {Path(row["image"]).name.split(".")[0] for row in rows if row["flagged"] == "yes"}
    assert len(rows) == 16
    assert flagged >= set(CORRUPT)
    assert len(flagged) <= len(CORRUPT) + 2
    why = {Path(row["image"]).name.split(".")[0]: row["reason"] for row in rows}
    assert "noisy" in why["noisy"]
    assert "cannot be prepared" in why["empty"]
    assert all((row["reason"] != "") == (row["flagged"] == "yes") for row in rows)
    assert float(rows[0]["z"]) < float(rows[0]["z_limit"])

    facts = json.loads((out / "screen.json").read_text())
    left = len(rows) - len(flagged)
    assert facts["counts"] == {
        "scans": 16, "flagged": len(flagged), "cannot_be_prepared": 1, "kept": left
    }  # fmt: skip
    assert facts["compared"] == "features"
    assert {*facts["tests"]} == {"z", "box", "leverage", "robust_distance"}

    kept = rows_of_csv(out / "kept.csv")
    before = rows_of_csv(cohort / "manifest.csv")
    lost = [row for row in before if Path(row["image"]).name.split(".")[0] in flagged]
    assert kept == [row for row in before if row not in lost]
    assert [row["split"] for row in kept].count("validation") == 1

    page = (out / "screen.html").read_text()
    assert escape(why["empty"]) in page
    assert page.index("empty.nii.gz") < page.index("noisy.nii.gz") < page.index("sub1.nii.gz")
    assert "http" not in page.replace("http-equiv", "")
    assert f"16 scans, {len(flagged)} flagged: {out / 'screen.html'}" in capsys.readouterr().out


def refused(kind: type[Exception], *says: str, call: Any) -> None:
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert all(words in message for words in says), message


def test_bad_input_is_one_line(cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(UsageError, "no bundle", call=lambda: run(cohort, out, "--bundle", "brain_t1_ee"))
    refused(InputError, "no scan in the split", call=lambda: run(cohort, out, "--split", "x"))
    refused(InputError, "1 of 1 scans", call=lambda: run(cohort, out, "--split", "validation"))
    out.mkdir(exist_ok=True)
    shutil.copy(cohort / "manifest.csv", out / "kept.csv")
    again = ("--manifest", str(out / "kept.csv"))
    refused(UsageError, "would be overwritten; ", call=lambda: run(cohort, out, *again))
