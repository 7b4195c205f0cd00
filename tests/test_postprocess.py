"""From score to mask, in volumes that a person can solve; voxels are 3 x 2 x 1 mm."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage

from volad.postprocess import DropSmallLesions, MedianSmooth, Rim, Threshold, ToScan

SPACING = np.diag([3.0, 2.0, 1.0, 1.0])


def image(array: NDArray[Any], affine: NDArray[np.float64] = SPACING) -> MetaTensor:
    """`(X, Y, Z)` as `(1, X, Y, Z)` with its affine."""
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(array))[None], affine=affine)


def drop(mask: NDArray[np.bool_], min_mm3: float, affine: Any = SPACING) -> NDArray[np.bool_]:
    found = DropSmallLesions(min_mm3)({"pred": image(mask, affine)})["pred"]
    assert found.dtype == torch.bool
    np.testing.assert_array_equal(found.affine, affine)
    return np.asarray(found[0])


def empty(*shape: int) -> NDArray[np.bool_]:
    return np.zeros(shape or (6, 6, 6), bool)


def test_lesions_are_measured_in_mm3() -> None:
    """One voxel is 6 mm³: two are 12, three are 18."""
    mask = empty()
    mask[0, 0, :2] = mask[4, 4, :3] = True
    three = empty()
    three[4, 4, :3] = True
    np.testing.assert_array_equal(drop(mask, 12), mask)
    np.testing.assert_array_equal(drop(mask, 12.1), three)
    np.testing.assert_array_equal(drop(mask, 18), three)
    assert not drop(mask, 18.1).any()


def test_voxel_size_is_the_affines_whatever_its_axes() -> None:
    """Flipped, swapped and oblique axes leave a voxel at 6 mm³."""
    mask = empty()
    mask[0, 0, :2] = True
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]]
    for affine in (SPACING @ np.diag([-1, 1, 1, 1]), SPACING[[2, 0, 1, 3]], turn @ SPACING):
        assert drop(mask, 11.9, affine).sum() == 2
        assert drop(mask, 12.1, affine).sum() == 0


def test_voxels_that_touch_at_a_corner_are_one_lesion() -> None:
    mask = empty()
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = True
    np.testing.assert_array_equal(drop(mask, 18), mask)
    apart = empty()
    apart[0, 0, 0] = apart[2, 2, 2] = True
    assert not drop(apart, 7).any()


def test_nothing_is_dropped_below_0_mm3_and_nothing_added() -> None:
    mask = empty()
    mask[3, 3, 3] = True
    np.testing.assert_array_equal(drop(mask, 0), mask)
    assert not drop(empty(), 0).any()
    np.testing.assert_array_equal(drop(~empty(), 10), ~empty())


def rim(brain: NDArray[np.bool_], width_mm: float) -> NDArray[np.bool_]:
    """Where a score of 1 is left."""
    sample = {"pred": image(np.ones(brain.shape, np.float32)), "brain": image(brain)}
    return np.asarray(Rim(width_mm)(sample)["pred"][0] > 0)


def test_the_rim_is_measured_in_mm_along_each_axis() -> None:
    """A voxel's depth is to the nearest centre outside: 3, 2 or 1 mm for the outermost layer."""
    brain = empty(11, 11, 11)
    brain[1:10, 1:10, 1:10] = True
    expected = empty(11, 11, 11)
    expected[1:10, 2:9, 3:8] = True  # deeper than 2 mm: all layers, all but one, all but two
    np.testing.assert_array_equal(rim(brain, 2.0), expected)
    np.testing.assert_array_equal(rim(brain, 0.0), brain)


def test_the_field_of_views_border_is_a_surface_too() -> None:
    expected = empty(7, 7, 7)
    expected[:, 1:-1, 2:-2] = True
    np.testing.assert_array_equal(rim(~empty(7, 7, 7), 2.0), expected)


def test_a_rim_wider_than_the_brain_leaves_nothing() -> None:
    assert not rim(~empty(), 50).any()


def native(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> Any:
    """A scan as far as `ToScan` looks at it."""
    return SimpleNamespace(shape=shape, affine=affine)


TURN = np.eye(4)
TURN[:3, :3] = [[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]

NATIVE = {
    "plain": SPACING,
    "flipped": np.diag([-3.0, 2.0, -1.0, 1.0]),
    "swapped axes": (SPACING @ np.diag([1, -1, 1, 1]))[[2, 0, 1, 3]],
    "oblique": TURN @ SPACING,
}
SHAPE = (18, 26, 48)


def centred(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The affine with the middle of the grid at the world's origin."""
    out = affine.copy()
    out[:3, 3] = -out[:3, :3] @ (np.array(SHAPE) - 1) / 2
    return out


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("moved", ["not moved", "moved"])
def test_a_blob_on_the_models_grid_lands_at_its_voxel_of_the_scan(name: str, moved: str) -> None:
    affine = centred(NATIVE[name])
    to_model = np.eye(4)
    if moved == "moved":  # turned, stretched, and shifted
        to_model = TURN @ np.diag([1.2, 0.9, 1.1, 1.0])
        to_model[:3, 3] = (4.0, -3.0, 2.0)
    grid = np.diag([2.0, 2.0, 2.0, 1.0])
    grid[:3, 3] = -40
    voxel = np.array([6, 15, 20])  # of the scan
    place = np.linalg.inv(grid) @ to_model @ affine @ [*voxel, 1]
    apart_mm = [2 * (np.arange(41) - c) for c in place[:3]]
    squares = np.add.outer(np.add.outer(apart_mm[0] ** 2, apart_mm[1] ** 2), apart_mm[2] ** 2)
    blob = np.exp(-squares / (2 * 4.0**2)).astype(np.float32)
    sample = {
        "pred": image(blob, np.eye(4)),  # its own affine is not looked at: networks lose it
        "image": image(np.zeros((41, 41, 41), np.float32), grid),
        "volume": native(SHAPE, affine),
        "native_brain": image(~empty(*SHAPE), affine),
        "to_model": to_model,
    }
    out = ToScan()(sample)["pred"]
    assert out.shape == (1, *SHAPE)
    np.testing.assert_array_equal(out.affine, affine)
    assert np.unravel_index(int(out[0].argmax()), SHAPE) == tuple(voxel)
    centre = ndimage.center_of_mass(out[0].numpy())
    np.testing.assert_allclose(centre, voxel, atol=0.1)
    assert out.max() > 0.9


def test_scores_outside_the_scans_brain_and_the_models_grid_are_0() -> None:
    brain = ~empty(10, 10, 10)
    brain[:, :, 5:] = False
    sample = {
        "pred": image(np.ones((4, 10, 10), np.float32)),
        "image": image(np.ones((4, 10, 10), np.float32)),
        "volume": native((10, 10, 10), SPACING),
        "native_brain": image(brain),
        "to_model": np.eye(4),
    }
    out = np.asarray(ToScan()(sample)["pred"][0])
    expected = brain.copy()
    expected[4:] = False
    np.testing.assert_allclose(out[:4], expected[:4], atol=1e-6)
    np.testing.assert_array_equal(out[5:], 0)  # at 4 the grid ends half a voxel further on


def test_a_score_on_the_scans_own_grid_comes_back_as_it_is() -> None:
    score = np.random.default_rng(0).random((5, 6, 7), np.float32)
    sample = {
        "pred": image(score),
        "image": image(score),
        "volume": native((5, 6, 7), SPACING),
        "native_brain": image(~empty(5, 6, 7)),
        "to_model": np.eye(4),
    }
    np.testing.assert_allclose(ToScan()(sample)["pred"][0], score, atol=1e-5)


def test_a_lesion_scores_above_the_threshold_not_at_it() -> None:
    score = np.array([[[0.4, 0.5, 0.6]]], np.float32)
    out = Threshold(0.5)({"pred": image(score)})
    assert out["pred"].dtype == torch.bool
    assert out["pred"].flatten().tolist() == [False, False, True]
    np.testing.assert_array_equal(out["score"][0], score)
    np.testing.assert_array_equal(out["pred"].affine, SPACING)


def smooth(score: NDArray[Any], size: int) -> NDArray[np.float32]:
    return np.asarray(MedianSmooth(size)({"pred": image(score)})["pred"][0])


def test_a_median_removes_a_lone_voxel_and_keeps_a_plane() -> None:
    score = np.zeros((9, 9, 9), np.float32)
    score[4, 4, 4] = 1
    assert not smooth(score, 3).any()
    score = np.zeros((9, 9, 9), np.float32)
    score[:5] = 1
    np.testing.assert_array_equal(smooth(score, 3), score)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_median_does_not_shift(size: int) -> None:
    """A ramp stays a ramp, and a mirrored map gives the mirrored result."""
    ramp = np.broadcast_to(np.arange(15, dtype=np.float32)[:, None, None], (15, 15, 15))
    inner = (slice(2, -2),) * 3
    np.testing.assert_array_equal(smooth(ramp, size)[inner], ramp[inner])
    score = np.random.default_rng(0).random((7, 7, 7), np.float32)
    np.testing.assert_array_equal(smooth(score[::-1], size), smooth(score, size)[::-1])


@pytest.mark.parametrize("size", [0, 2, 4, -3])
def test_an_even_median_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"size must be odd, got {size}"):
        MedianSmooth(size)


def test_unusable_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="width_mm must be 0 or more, got -1"):
        Rim(-1)
    with pytest.raises(ValueError, match="min_mm3 must be 0 or more, got -1"):
        DropSmallLesions(-1)
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"must be a finite number, got {value}"):
            Threshold(value)


@pytest.mark.parametrize("step", [MedianSmooth(3), Rim(1), Threshold(0.5), DropSmallLesions(1)])
def test_a_step_leaves_its_sample_as_it_was(step: Any) -> None:
    score = np.random.default_rng(0).random((6, 6, 6), np.float32)
    pred = score > 0.5 if isinstance(step, DropSmallLesions) else score
    sample = {"pred": image(pred), "brain": image(~empty()), "facts": 1}
    out = step(sample)
    assert sample.keys() == {"pred", "brain", "facts"}
    np.testing.assert_array_equal(sample["pred"][0], pred)
    assert out["facts"] == 1
