"""Lesions counted one by one: the matching rule, sizes and FROC."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from volad.metrics.lesionwise import SIZES_MM3, LesionCounts, froc, match

SHAPE = (12, 12, 12)


def boxes(*places: tuple[slice, slice, slice]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    for place in places:
        mask[place] = True
    return mask


def box(at: int, size: int = 2) -> tuple[slice, slice, slice]:
    """A cube on the diagonal."""
    return (slice(at, at + size),) * 3


def test_found_missed_and_false_by_hand() -> None:
    """Two of three expert lesions are found, one by two predictions; one prediction is false."""
    lesion = boxes(box(0, 3), box(5), box(9))
    mask = boxes(box(0, 1), box(2, 1), box(6, 1), (slice(0, 1), slice(8, 9), slice(8, 9)))
    result = match(mask, lesion, voxel_mm3=2.0)
    assert result.counts == LesionCounts(lesions=3, found=2, predicted=4, false=1)
    assert result.lesions == ((54.0, True), (16.0, True), (16.0, False))
    assert result.counts.sensitivity == 2 / 3
    assert result.counts.precision == 3 / 4
    assert result.counts.f1 == pytest.approx(2 * (2 / 3) * (3 / 4) / (2 / 3 + 3 / 4))


def test_one_prediction_may_find_two_lesions() -> None:
    lesion = boxes(box(0), box(4))
    mask = boxes(box(0, 6))
    assert match(mask, lesion, 1.0).counts == LesionCounts(2, 2, 1, 0)


def test_voxels_that_touch_at_a_corner_are_one_lesion() -> None:
    diagonal = boxes(box(3, 1), box(4, 1))
    assert match(diagonal, boxes(box(4, 1)), 1.0).counts == LesionCounts(1, 1, 1, 0)
    apart = boxes(box(3, 1), box(5, 1))
    assert match(apart, apart, 1.0).counts == LesionCounts(2, 2, 2, 0)


def test_touching_without_a_common_voxel_is_no_match() -> None:
    lesion, mask = boxes(box(2)), boxes((slice(4, 5), slice(2, 4), slice(2, 4)))
    assert match(mask, lesion, 1.0).counts == LesionCounts(1, 0, 1, 1)


def test_ignored_lesions_are_neither_found_nor_missed_nor_false() -> None:
    lesion = boxes(box(0, 1), box(3, 1), box(6))
    mask = boxes(box(0, 1), box(10, 1))
    # The mask's first lesion lies on an ignored one: it is not counted at all.
    assert match(mask, lesion, 1.0, min_mm3=8).counts == LesionCounts(1, 0, 1, 1)
    assert match(mask, lesion, 1.0, min_mm3=0).counts == LesionCounts(3, 1, 2, 1)


def test_a_prediction_on_an_ignored_and_another_lesion_is_true() -> None:
    lesion = boxes(box(0, 1), box(3))
    assert match(boxes(box(0, 4)), lesion, 1.0, min_mm3=8).counts == LesionCounts(1, 1, 1, 0)


def test_a_lesion_of_just_the_least_size_counts_though_its_volume_rounds() -> None:
    lesion = boxes((slice(0, 7), slice(0, 7), slice(0, 1)))
    assert 49 * (1 / 49) < 1
    assert match(lesion, lesion, 1 / 49, min_mm3=1).counts.lesions == 1
    assert match(lesion, lesion, 1 / 49, min_mm3=1.01).counts.lesions == 0


def test_counts_add_up_over_scans() -> None:
    total = LesionCounts(3, 2, 4, 1) + LesionCounts(1, 0, 2, 2)
    assert total == LesionCounts(4, 2, 6, 3)
    assert (total.sensitivity, total.precision) == (0.5, 0.5)


def test_shares_of_no_lesions_are_not_defined() -> None:
    nothing = LesionCounts()
    assert all(map(math.isnan, (nothing.sensitivity, nothing.precision, nothing.f1)))
    only_false = LesionCounts(predicted=2, false=2)
    assert math.isnan(only_false.sensitivity)
    assert (only_false.precision, only_false.f1) == (0, 0)
    only_missed = LesionCounts(lesions=2)
    assert math.isnan(only_missed.precision)
    assert (only_missed.sensitivity, only_missed.f1) == (0, 0)


def test_empty_masks_have_no_lesions() -> None:
    empty = boxes()
    assert match(empty, empty, 1.0).counts == LesionCounts()
    assert match(empty, boxes(box(1)), 1.0).counts == LesionCounts(lesions=1)
    assert match(boxes(box(1)), empty, 1.0).counts == LesionCounts(predicted=1, false=1)


def test_lesions_by_size() -> None:
    """A bin holds its lower limit and not its upper."""
    lesion = boxes(box(0, 1), box(3, 2), box(7, 3))  # 1, 8 and 27 voxels
    by_size = match(boxes(box(3, 1)), lesion, voxel_mm3=6.25).by_size()
    assert len(by_size) == len(SIZES_MM3) - 1
    assert by_size == ((1, 0), (0, 0), (1, 1), (1, 0), (0, 0), (0, 0))  # 6.25, 50, 168.75 mm³


@pytest.mark.parametrize("seed", range(3))
def test_a_match_is_the_rule_voxel_by_voxel(seed: int) -> None:
    random = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(random.normal(size=(2, 20, 20, 20)), (0, 1, 1, 1))
    lesion, mask = smooth > np.quantile(smooth, 0.95)
    expert, n = ndimage.label(lesion, np.ones((3, 3, 3)))
    found = [bool(mask[expert == i].any()) for i in range(1, n + 1)]
    big = [bool((expert == i).sum() >= 20) for i in range(1, n + 1)]
    predicted, m = ndimage.label(mask, np.ones((3, 3, 3)))
    true = false = 0
    for i in range(1, m + 1):
        touched = set(expert[predicted == i].tolist()) - {0}
        true += any(big[j - 1] for j in touched)
        false += not touched
    counts = match(mask, lesion, 1.0, min_mm3=20).counts
    expected = sum(f and b for f, b in zip(found, big, strict=True))
    assert counts == LesionCounts(sum(big), expected, true + false, false)
    assert 0 < counts.found < counts.lesions
    assert 0 < counts.false < counts.predicted


def scored(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    score, other, region = ndimage.gaussian_filter(
        random.normal(size=(3, 18, 18, 18)), (0, 1, 1, 1)
    )
    lesion = score + other > np.quantile(score + other, 0.93)
    return score.astype(np.float32), lesion, region > np.quantile(region, 0.3)


@pytest.mark.parametrize("seed", range(3))
def test_froc_is_the_match_at_each_threshold(seed: int) -> None:
    score, lesion, region = scored(seed)
    thresholds = [float(np.quantile(score, q)) for q in (0.99, 0.5, 0.9, 0.999)] + [99.0]
    points = froc(score, lesion, thresholds, voxel_mm3=2.0, min_mm3=20, region=region)
    assert [point.threshold for point in points] == thresholds
    for point, threshold in zip(points, thresholds, strict=True):
        counts = match((score > threshold) & region, lesion, 2.0, min_mm3=20).counts
        assert (point.lesions, point.found, point.false) == (
            counts.lesions,
            counts.found,
            counts.false,
        )
    assert max(point.false for point in points) > 0
    assert points[-1].found == 0 < points[1].found


def test_froc_by_hand() -> None:
    """A lesion is found by its highest voxel; a false lesion must reach its least size."""
    lesion = boxes(box(0), box(4, 1))
    score = np.zeros(SHAPE, np.float32)
    score[1, 1, 1], score[4, 4, 4] = 5, 1
    score[8:10, 8, 8], score[11, 11, 11] = 3, 4
    points = froc(score, lesion, [4, 2, 0.5], voxel_mm3=1.0)
    assert [(p.lesions, p.found, p.false) for p in points] == [(2, 1, 0), (2, 1, 2), (2, 2, 2)]
    points = froc(score, lesion, [4, 2, 0.5], 1.0, min_mm3=8, min_predicted_mm3=2)
    assert [(p.lesions, p.found, p.false) for p in points] == [(1, 1, 0), (1, 1, 1), (1, 1, 1)]


def test_froc_without_lesions_counts_what_is_false() -> None:
    score = np.zeros(SHAPE)
    score[boxes(box(1), box(6))] = 1
    points = froc(score, boxes(), [0.5, 2], 1.0)
    assert [(p.lesions, p.found, p.false) for p in points] == [(0, 0, 2), (0, 0, 0)]
    assert froc(score, boxes(), [], 1.0) == []


def test_a_lesion_outside_the_region_is_missed() -> None:
    lesion, score = boxes(box(1)), np.ones(SHAPE)
    (point,) = froc(score, lesion, [-5.0], 1.0, region=boxes(box(8)))
    assert (point.lesions, point.found, point.false) == (1, 0, 1)


def test_masks_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 12, 12\)"):
        match(boxes(), boxes()[:1], 1.0)
    with pytest.raises(ValueError, match=r"\(1, 12, 12\)"):
        froc(np.zeros(SHAPE), boxes()[:1], [0.5], 1.0)
