"""Judging cases in memory: numbers a person can solve, draws, subgroups and differences."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from evaluate_helpers import EMPTY, FAST, SHAPE, block, case, judged, several, values
from sklearn.metrics import average_precision_score, roc_auc_score

from volad.evaluate import Evaluation, Settings, Survey, Thresholds


def test_masks_judged_by_hand() -> None:
    """Two lesioned scans and one without; a voxel is 3 mm³."""
    two = block((2, 2, 2), (7, 7, 7))
    half = block((2, 2, 2))
    stray = block((9, 2, 2), size=1)
    found = judged(
        [
            case("half", score=None, lesion=two, mask=half),
            case("stray", score=None, lesion=half, mask=half | stray),
            case("healthy", score=None, lesion=None, mask=stray),
        ]
    ).summary()
    v = values(found)
    # Dice 2*8/(8+16) and 2*8/(9+8).
    assert v["dice_mean"] == pytest.approx((16 / 24 + 16 / 17) / 2)
    assert v["lesion_sensitivity"] == pytest.approx(2 / 3)
    assert v["lesion_precision"] == pytest.approx(2 / 4)
    assert v["lesion_f1"] == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    assert v["false_lesions_per_scan"] == pytest.approx(2 / 3)
    assert v["healthy_false_lesions"] == 1
    assert v["healthy_false_ml"] == pytest.approx(0.003)
    assert v["healthy_fpr"] == pytest.approx(1 / 12**3)
    assert v["volume_bias_ml"] == pytest.approx((-0.024 + 0.003) / 2)
    assert v["scan_auroc:mask_ml"] == 1
    assert found.counts == {
        "scans": 3,
        "subjects": 3,
        "with_lesions": 2,
        "without_lesions": 1,
        "without_score": 3,
        "empty_masks_with_lesions": 0,
        "lesions": 3,
    }
    # All three expert lesions have 24 mm³.
    assert [count for _, count in found.sizes] == [0, 3, 0, 0, 0, 0]
    assert found.sizes[1][0].value == pytest.approx(2 / 3)
    assert "auprc_pooled" not in v
    assert "dice_oracle_mean" not in v


def test_an_empty_mask_has_dice_0_and_no_surface() -> None:
    found = judged([case("a"), case("b", mask=EMPTY.copy())]).summary()
    v = values(found)
    assert v["dice_mean"] == 0.5
    assert found.counts["empty_masks_with_lesions"] == 1
    # The other scan's mask is the expert's: its surface numbers are perfect, and the only ones.
    assert (v["hd95_mm"], v["nsd"]) == (0, 1)
    assert found.estimates["hd95_mm"].n == 1


def test_scans_without_lesions_do_not_lift_dice() -> None:
    alone = values(judged([case("a", mask=block((2, 2, 3)))]).summary())
    beside = values(
        judged(
            [case("a", mask=block((2, 2, 3))), case("b", lesion=None, mask=EMPTY.copy())]
        ).summary()
    )
    assert alone["dice_mean"] == beside["dice_mean"] == 0.5


def test_voxel_numbers_against_scikit_learn() -> None:
    cases = several()
    found = judged(cases).summary()
    voxels = [one.voxels() for one in cases]
    scores, lesions = (np.concatenate(part) for part in zip(*voxels, strict=True))
    exact = average_precision_score(lesions, scores)
    low, high = found.curves.certain["auprc_pooled"]
    assert low <= exact <= high
    assert found.estimates["auprc_pooled"].value == pytest.approx(exact, abs=high - low)
    low, high = found.curves.certain["auroc_pooled"]
    assert low <= roc_auc_score(lesions, scores) <= high
    each = [average_precision_score(b, a) for a, b in voxels if b.any()]
    assert values(found)["auprc_mean"] == pytest.approx(np.mean(each))


def test_a_lesion_voxel_outside_the_region_is_missed() -> None:
    lesion = block((2, 2, 2))
    score = np.where(lesion, 1.0, 0.5).astype(np.float32)
    half = np.ones(SHAPE, bool)
    half[:3] = False  # the lesion's lower half
    inside = judged([case("a", score=score, lesion=lesion)]).summary()
    cut = judged([case("a", score=score, lesion=lesion, region=half)]).summary()
    assert values(inside)["auprc_mean"] == 1
    # Half of the lesion comes first; the other half last, after every healthy voxel.
    healthy = int((half & ~lesion).sum())
    last = sum((4 + 4) / (4 + 4 + healthy) for _ in range(4))
    assert values(cut)["auprc_mean"] == pytest.approx((4 + last) / 8)
    # The best threshold calls the seen half: 2*4/(4+8).
    assert values(cut)["dice_oracle_pooled"] == pytest.approx(8 / 12)


def test_oracle_mean_is_one_threshold_for_all() -> None:
    """Each scan alone has a perfect threshold, but not the same one."""
    lesion = block((2, 2, 2))
    dark = np.where(lesion, 0.2, 0.1).astype(np.float32)
    light = np.where(lesion, 0.8, 0.5).astype(np.float32)
    found = judged([case("dark", score=dark), case("light", score=light)]).summary()
    healthy = 12**3 - 8
    best = max((0 + 1) / 2, (1 + 16 / (8 + 8 + healthy)) / 2)
    v = values(found)
    assert v["dice_oracle_mean"] == pytest.approx(best)
    assert v["dice_gap"] == pytest.approx(best - v["dice_mean"])


def test_healthy_rates_come_from_scans_without_lesions_only() -> None:
    cases = several()
    survey = Survey()
    for one in cases:
        survey.add(one)
    thresholds = survey.thresholds()
    healthy = np.concatenate([one.voxels()[0] for one in cases if one.lesion is None])
    for rate, threshold in thresholds.healthy.items():
        assert (healthy > threshold).mean() <= rate
        assert (healthy > threshold * (1 - 2**-10)).mean() > rate - 1e-3
    assert "lesion-free" in thresholds.source
    # With lesions in every scan there is nothing to take them from, and nothing is made up.
    found = judged([one for one in cases if one.lesion is not None])
    assert found.thresholds.healthy == {}
    assert not any(key.startswith("dice_at") for key in found.summary().estimates)


def test_dice_at_a_given_threshold() -> None:
    score = np.where(block((2, 2, 2)), 0.9, 0.1).astype(np.float32)
    score[9, 9, 9] = 0.6
    evaluation = Evaluation(FAST, Thresholds(healthy={0.01: 0.5, 0.05: 0.7}, source="by hand"))
    evaluation.add(case("a", score=score))
    v = values(evaluation.summary())
    assert v["dice_at_fpr_1"] == pytest.approx(16 / 17)
    assert v["dice_at_fpr_5"] == 1
    assert "dice_at_fpr_10" not in v


def test_scans_of_a_contrast_with_thresholds_of_its_own_are_judged_at_those() -> None:
    score = np.where(block((2, 2, 2)), 0.9, 0.1).astype(np.float32)
    score[9, 9, 9] = 0.6
    thresholds = Thresholds(healthy={0.01: 0.5}, contrasts={"t2": {0.01: 0.7}})
    for contrast, dice in ((None, 16 / 17), ("flair", 16 / 17), ("t2", 1)):
        evaluation = Evaluation(FAST, thresholds)
        evaluation.add(case("a", score=score, contrast=contrast))
        assert values(evaluation.summary())["dice_at_fpr_1"] == pytest.approx(dice)


def test_froc_ends_with_everything_found() -> None:
    points = judged(several()).summary().froc
    assert [point.share for point in points] == sorted(point.share for point in points)
    sensitivity = [point.sensitivity.value for point in points]
    assert sensitivity == sorted(sensitivity)
    assert sensitivity[-1] == 1
    assert points[0].false_per_scan.value == 0
    assert points[-1].false_per_scan.value > 1
    assert judged(several(), Settings(draws=200, froc=False)).summary().froc == []


def test_memory_does_not_grow_with_the_scans() -> None:
    """Of a scan of a quarter of a megabyte some kilobytes stay."""
    shape = (40, 40, 40)
    lesion = np.zeros(shape, bool)
    lesion[9:12, 9:12, 9:12] = True
    score = np.random.default_rng(0).uniform(0.1, 1, shape).astype(np.float32)
    evaluation = Evaluation(FAST)

    def add(n: int) -> int:
        for k in range(n):
            evaluation.add(
                case(
                    f"{len(evaluation.rows)}-{k}",
                    score=score.copy(),
                    mask=lesion.copy(),
                    lesion=lesion.copy(),
                    region=np.ones(shape, bool),
                )
            )
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = add(3)
        assert add(20) - before < 20 * 8_000
    finally:
        tracemalloc.stop()


def test_what_cannot_be_a_case() -> None:
    with pytest.raises(ValueError, match="region"):
        case(region=None)
    with pytest.raises(ValueError, match="lesion is"):
        case(lesion=np.zeros((2, 2, 2), bool))
    with pytest.raises(ValueError, match="no case"):
        Evaluation().summary()
    assert case(lesion=EMPTY).lesion is None
