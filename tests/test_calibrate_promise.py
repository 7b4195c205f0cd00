"""A promise holds on scans that it was not set on, as often as it says."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from calibration_helpers import counted, heavy, stored_scans
from scipy import stats

from volad.calibrate import KINDS, QUANTITIES, Curve, Promise
from volad.calibrate.promise import CONFIDENCE
from volad.errors import InputError, UsageError

Rule = Callable[[Promise, Sequence[Curve]], float]


def kept(promise: Promise, curves: Sequence[Curve]) -> float:
    return promise.threshold(curves)


def uncorrected(promise: Promise, curves: Sequence[Curve]) -> float:
    """What one might take instead: the mean of the scans themselves is at the rate."""
    places = np.unique(np.concatenate([curve.scores for curve in curves]))

    def enough(place: float) -> bool:
        return capped_mean([curve.at(place) for curve in curves], promise) <= promise.rate

    return float(places[bisect_left(places, True, key=lambda place: enough(float(place)))])


def left_out(promise: Promise, curves: Sequence[Curve], rule: Rule = kept) -> list[float]:
    """The loss of each scan at the threshold that the others give."""
    return [
        curve.at(rule(promise, [*curves[:row], *curves[row + 1 :]]))
        for row, curve in enumerate(curves)
    ]


def capped_mean(losses: Sequence[float], promise: Promise) -> float:
    return float(np.mean(np.minimum(losses, promise.bound)))


# What must hold without any tolerance: over all orders of the same scans, each is new once


@pytest.mark.parametrize("rate", [0.0003, 0.001, 0.01, 0.05])
@pytest.mark.parametrize("cap", [2.0, 5.0, 10.0, 20.0])
def test_the_mean_over_real_scans_left_out_is_at_most_the_rate(rate: float, cap: float) -> None:
    promise = Promise(rate=rate, cap=cap)
    curves = [scan.curve("voxel_fpr") for scan in stored_scans()]
    assert capped_mean(left_out(promise, curves), promise) <= rate


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("rate", [0.0003, 0.001, 0.01])
def test_as_many_real_scans_left_out_stay_within_as_the_level_says(
    rate: float, level: float
) -> None:
    promise = Promise(rate=rate, kind="each", level=level)
    curves = [scan.curve("voxel_fpr") for scan in stored_scans()]
    assert np.mean([loss <= rate for loss in left_out(promise, curves)]) >= level


@pytest.mark.parametrize(("of", "rate"), [("false_lesions", 3.0), ("false_mm3", 150.0)])
def test_promises_on_lesions_hold_for_scans_left_out(of: str, rate: float) -> None:
    curves = [counted(scan, row).curve(of) for row, scan in enumerate(stored_scans())]
    mean = Promise(of, rate, cap=5)
    assert capped_mean(left_out(mean, curves), mean) <= rate
    each = Promise(of, rate, "each", level=0.8)
    assert np.mean([loss <= rate for loss in left_out(each, curves)]) >= 0.8


def test_the_check_above_finds_a_threshold_without_the_correction() -> None:
    """It is not the check that is lax: what leaves out B / (n + 1) fails it."""
    promise = Promise(rate=0.001)
    failed = 0
    for seed in range(20):
        curves = heavy(15, seed)
        assert capped_mean(left_out(promise, curves), promise) <= promise.rate
        failed += capped_mean(left_out(promise, curves, uncorrected), promise) > promise.rate
    assert failed == 20
    real = [scan.curve("voxel_fpr") for scan in stored_scans()[:15]]
    assert capped_mean(left_out(promise, real, uncorrected), promise) > promise.rate


# What must hold over many draws


@pytest.mark.parametrize("count", [9, 14, 24])
def test_over_random_splits_of_real_scans_the_mean_stays_under_the_rate(count: int) -> None:
    """Calibrated on some of the 30, counted on the others; the tolerance is 4 standard errors."""
    promise, random = Promise(rate=0.001), np.random.default_rng(0)
    curves = [scan.curve("voxel_fpr") for scan in stored_scans()]
    means = []
    for _ in range(200):
        order = random.permutation(len(curves))
        threshold = promise.threshold([curves[i] for i in order[:count]])
        means.append(capped_mean([curves[i].at(threshold) for i in order[count:]], promise))
    assert np.mean(means) <= promise.rate + 4 * np.std(means) / math.sqrt(len(means))


@pytest.mark.parametrize(("rule", "holds"), [(kept, True), (uncorrected, False)])
def test_over_draws_of_a_heavy_tail_only_the_corrected_rule_holds(rule: Rule, holds: bool) -> None:
    """200 calibrations on 12 scans of a law of which 400 more are drawn to count on."""
    promise, new = Promise(rate=0.001), heavy(400, 10_000)
    means = []
    for seed in range(200):
        threshold = rule(promise, heavy(12, seed))
        means.append(capped_mean([curve.at(threshold) for curve in new], promise))
    error = np.std(means) / math.sqrt(len(means))
    if holds:
        assert np.mean(means) <= promise.rate + 3 * error
    else:
        assert np.mean(means) > promise.rate + 3 * error


@pytest.mark.parametrize(("count", "cap"), [(9, 10.0), (15, 10.0), (30, 10.0), (30, 3.0)])
def test_the_true_mean_is_under_its_limit_in_9_of_10_calibrations(count: int, cap: float) -> None:
    """The law with most to lose: a scan counts fully or not at all, by where it lies.

    The true mean at a threshold in [0, 1] is the bound times (1 - threshold).
    """
    promise = Promise(rate=0.01, cap=cap)
    limit = promise.mean_limit(count)
    random, above, draws = np.random.default_rng(0), 0, 1000
    for _ in range(draws):
        curves = [
            Curve(np.array([place]), np.array([0.0, promise.bound]))
            for place in random.uniform(size=count)
        ]
        above += promise.bound * (1 - promise.threshold(curves)) > limit
    assert above <= stats.binom.ppf(0.999, draws, 1 - CONFIDENCE)
    assert promise.rate < limit <= promise.bound


def test_a_limit_solved_by_hand() -> None:
    """With no room for a loss, n scans without any are as likely as (1 - u)^n."""
    promise = Promise(rate=0.001, cap=10)
    assert promise.room(9) == pytest.approx(0)
    assert promise.mean_limit(9) == pytest.approx(0.01 * (1 - 0.1 ** (1 / 9)))
    assert promise.mean_limit(100_000) == pytest.approx(0.001, rel=0.05)


@pytest.mark.parametrize(("count", "level"), [(9, 0.9), (19, 0.9), (30, 0.8)])
def test_coverage_follows_its_law(count: int, level: float) -> None:
    """Scans need thresholds uniform in [0, 1]: the coverage is the threshold itself."""
    promise = Promise(rate=0.01, kind="each", level=level)
    low, high = promise.coverage(count)
    random, covered = np.random.default_rng(0), []
    for _ in range(2000):
        curves = [
            Curve(np.array([place]), np.array([0.0, 1.0])) for place in random.uniform(size=count)
        ]
        covered.append(promise.threshold(curves))
    assert np.mean(covered) >= level - 3 * np.std(covered) / math.sqrt(2000)
    inside = sum(low <= share <= high for share in covered)
    least, most = stats.binom.interval(0.999, 2000, CONFIDENCE)
    assert least <= inside <= most


# The rules


def step(place: float, loss: float) -> Curve:
    return Curve(np.array([place]), np.array([0.0, loss]))


def test_risk_control_solved_by_hand() -> None:
    """Four scans, B = 0.2, rate 0.1: losses may add up to 5 * 0.1 - 0.2 = 0.3."""
    promise = Promise(rate=0.1, cap=2)
    curves = [step(1, 0.12), step(2, 0.12), step(3, 0.12), step(4, 0.9)]
    # Below 4 the last counts 0.2 (capped), below 3 another 0.12: too much.
    assert promise.threshold(curves) == 3
    assert promise.threshold([*curves[:3], step(4, 0.1)]) == 2


def test_the_quantile_solved_by_hand() -> None:
    """Nine scans at 0.9: the 9th smallest; at 0.8 the 8th."""
    curves = [step(place, 0.5) for place in (5, 2, 8, 1, 9, 3, 7, 4, 6)]
    assert Promise(rate=0.1, kind="each", level=0.9).threshold(curves) == 9
    assert Promise(rate=0.1, kind="each", level=0.8).threshold(curves) == 8


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", QUANTITIES)
def test_the_order_of_scans_does_not_matter(of: str, kind: str) -> None:
    curves = [counted(scan, row).curve(of) for row, scan in enumerate(stored_scans())]
    promise = Promise(of, {"voxel_fpr": 0.001}.get(of, 5.0), kind)
    order = np.random.default_rng(0).permutation(len(curves))
    assert promise.threshold(curves) == promise.threshold([curves[i] for i in order])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", QUANTITIES)
def test_promising_less_never_raises_the_threshold(of: str, kind: str) -> None:
    curves = [counted(scan, row).curve(of) for row, scan in enumerate(stored_scans())]
    rates = (0.0001, 0.001, 0.01, 0.1) if of == "voxel_fpr" else (1.0, 5.0, 20.0, 100.0)
    found = [Promise(of, rate, kind).threshold(curves) for rate in rates]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) > 1
    if kind == "each":
        levels = [Promise(of, rates[1], kind, level=x).threshold(curves) for x in (0.5, 0.8, 0.9)]
        assert levels == sorted(levels)


@pytest.mark.parametrize("kind", KINDS)
def test_ties_and_scores_of_zero_everywhere(kind: str) -> None:
    promise = Promise(rate=0.01, kind=kind)
    nothing = Curve(np.zeros(241), stored_scans()[0].curve("voxel_fpr").values)
    assert promise.threshold([nothing] * 20) == 0
    same = heavy(1, 0) * 20
    found = promise.threshold(same)
    most = 0.01 if kind == "each" else promise.room(20) * 1.0001
    assert same[0].at(found) <= most < same[0].at(float(np.nextafter(found, -1)))


@pytest.mark.parametrize(
    ("promise", "needed"),
    [
        (Promise(), 9),
        (Promise(cap=100), 99),
        (Promise(cap=2000), 999),  # no scan can be false by more than all its voxels
        (Promise(cap=3.5), 3),
        (Promise("false_lesions", 2, cap=5), 4),
        (Promise(kind="each"), 9),
        (Promise(kind="each", level=0.95), 19),
        (Promise(kind="each", level=0.99), 99),
        (Promise(kind="each", level=0.5), 2),
    ],
)
def test_scans_needed_are_enough_and_one_less_is_not(promise: Promise, needed: int) -> None:
    assert promise.scans_needed() == needed
    curves = [scan.curve("voxel_fpr") for scan in stored_scans()[:1]] * needed
    assert math.isfinite(promise.threshold(curves))
    with pytest.raises(InputError, match=f"takes {needed}|this promise of {needed}"):
        promise.threshold(curves[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_scans_are_told_the_nearest_promise_and_it_can_be_kept(kind: str) -> None:
    promise = Promise(kind=kind)
    curves = [scan.curve("voxel_fpr") for scan in stored_scans()[:5]]
    near = promise.eased(5)
    said = f"--cap {near.cap:g}" if kind == "mean" else f"--level {near.level:g}"
    with pytest.raises(
        InputError, match=f"5 healthy subjects are too few .* these {said}"
    ) as caught:
        promise.threshold(curves)
    assert "\n" not in str(caught.value)
    assert math.isfinite(near.threshold(curves))
    assert promise.eased(9) == promise


@pytest.mark.parametrize(
    "wrong",
    [
        *({"rate": rate} for rate in (0.0, 1.0, -0.1, 5.0, math.nan)),
        *({"of": "false_mm3", "rate": rate} for rate in (0.0, -1.0, math.inf, math.nan)),
        {"of": "voxels"},
        {"kind": "both"},
        {"cap": 1.0},
        {"cap": math.nan},
        *({"level": level} for level in (0.0, 1.0, math.nan)),
        {"sort": "mean"},
        {"rate": "many"},
    ],
)
def test_what_cannot_be_promised_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError) as caught:
        Promise.of_setting(wrong, cap=10)
    assert "\n" not in str(caught.value)


def test_no_false_lesion_at_all_can_be_promised_of_each_scan() -> None:
    curves = [counted(scan, row).curve("false_lesions") for row, scan in enumerate(stored_scans())]
    found = Promise("false_lesions", 0, "each", level=0.8).threshold(curves)
    assert sum(curve.at(found) == 0 for curve in curves) >= 25
