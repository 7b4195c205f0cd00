"""Resampling is exact where it can be: on a linear ramp through the world."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from volad.preprocess.resample import resample, world_grid

Affine = NDArray[np.float64]


def turned(degrees: float) -> Affine:
    """About z, then about x."""
    a = np.deg2rad(degrees)
    about_z, about_x = np.eye(4), np.eye(4)
    about_z[:2, :2] = about_x[1:3, 1:3] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    return about_z @ about_x


def grid(spacing: tuple[float, float, float], start: tuple[float, float, float]) -> Affine:
    out = np.diag([*spacing, 1.0])
    out[:3, 3] = start
    return out


def world_of(affine: Affine, shape: tuple[int, ...]) -> Affine:
    """World coordinates `(3, *shape)` of every voxel."""
    places = np.stack([*np.indices(shape), np.ones(shape)])
    return np.tensordot(affine, places, 1)[:3]


def ramp(affine: Affine, shape: tuple[int, ...]) -> MetaTensor:
    """`x + 2 y - 3 z` in mm, whatever the grid."""
    values = np.tensordot([1.0, 2.0, -3.0], world_of(affine, shape), 1).astype(np.float32)
    return MetaTensor(torch.from_numpy(values)[None], affine=affine)


GRIDS = {
    "same": grid((2, 2, 2), (-20, -20, -20)),
    "finer and shifted": grid((1, 1.5, 0.7), (-10, -10, -5)),
    "flipped": grid((-1.5, 1, -2), (10, -10, 9)),
    "oblique": turned(25) @ grid((1.1, 0.9, 1.7), (-6, -6, -6)),
    "swapped": grid((1, 1.5, 2), (-8, -7, -9))[[1, 2, 0, 3]],
}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("turn", [0, 20])
def test_a_ramp_is_the_same_ramp_on_any_grid_inside(name: str, turn: float) -> None:
    source = turned(turn) @ grid((2, 2, 2), (-20, -20, -20))
    shape = (21, 21, 21)
    target, size = GRIDS[name], (9, 10, 8)
    out = resample(ramp(source, shape), target, size, antialias=False)
    places = np.linalg.inv(source) @ np.vstack(
        [world_of(target, size).reshape(3, -1), np.ones(np.prod(size))]
    )
    inside = ((places[:3] >= 0) & (places[:3] <= 20)).all(axis=0).reshape(size)
    assert inside.sum() > 100
    assert out.shape == (1, *size)
    np.testing.assert_allclose(
        np.asarray(out[0])[inside], np.asarray(ramp(target, size)[0])[inside], atol=1e-3
    )
    np.testing.assert_array_equal(out.affine, target)


def test_what_lies_outside_the_image_is_0() -> None:
    image = MetaTensor(torch.ones(2, 4, 4, 4), affine=np.eye(4))
    out = resample(image, grid((1, 1, 1), (2, 0, 0)), (5, 4, 4))
    assert (out[:, :2] == 1).all()
    assert (out[:, 3:] == 0).all()


def test_nearest_makes_no_new_values() -> None:
    labels = torch.arange(64.0).reshape(1, 4, 4, 4)
    out = resample(
        MetaTensor(labels, affine=np.eye(4)),
        grid((0.7, 0.7, 0.7), (0.1, 0.2, 0.3)),
        (4, 4, 4),
        mode="nearest",
    )
    assert set(out.flatten().tolist()) <= set(labels.flatten().tolist())


def stripes(axis: int) -> MetaTensor:
    """0, 1, 0, 1 along an axis, on 1 mm voxels."""
    values = np.indices((24, 24, 24))[axis] % 2
    return MetaTensor(torch.from_numpy(values.astype(np.float32))[None], affine=np.eye(4))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_coarser_voxels_hold_the_mean_and_not_every_second_voxel(axis: int) -> None:
    target = grid((2, 2, 2), (4, 4, 4))
    plain = resample(stripes(axis), target, (8, 8, 8), antialias=False)
    np.testing.assert_allclose(plain, 0, atol=1e-5)  # each new centre lies on a voxel of 0
    blurred = resample(stripes(axis), target, (8, 8, 8))
    np.testing.assert_allclose(blurred, 0.5, atol=0.1)


def test_only_the_axis_that_gets_coarser_is_blurred() -> None:
    target = grid((1, 1, 3), (4, 4, 4))
    expected = stripes(0)[:, 4:12, 4:12, 4:17:3]
    np.testing.assert_allclose(resample(stripes(0), target, (8, 8, 5)), expected, atol=1e-5)
    assert resample(stripes(2), target, (8, 8, 5)).std() < 0.1


def test_the_blurred_axis_is_the_images_own_whatever_the_new_grids_order() -> None:
    target = grid((1, 1, 3), (4, 4, 4))[:, [2, 0, 1, 3]]  # its first axis runs along z
    out = resample(stripes(0), target, (5, 8, 8))
    np.testing.assert_allclose(
        out, stripes(0)[:, 4:12, 4:12, 4:17:3].permute(0, 3, 1, 2), atol=1e-5
    )
    assert resample(stripes(2), target, (5, 8, 8)).std() < 0.1


@pytest.mark.parametrize("name", ["same", "finer and shifted"])
def test_voxels_that_are_not_larger_are_not_blurred(name: str) -> None:
    noise = torch.rand(1, 21, 21, 21, generator=torch.Generator().manual_seed(0))
    image = MetaTensor(noise, affine=GRIDS["same"])
    one, two = (resample(image, GRIDS[name], (9, 9, 9), antialias=a) for a in (True, False))
    assert torch.equal(one.as_tensor(), two.as_tensor())


def test_blurring_keeps_a_flat_image_flat_and_the_input_as_it_was() -> None:
    image = MetaTensor(torch.full((1, 20, 20, 20), 7.0), affine=np.eye(4))
    out = resample(image, grid((3, 3, 3), (2, 2, 2)), (5, 5, 5))
    np.testing.assert_allclose(out, 7, rtol=1e-5)
    assert (image == 7).all()


@pytest.mark.parametrize("turn", [0, 30])
@pytest.mark.parametrize("margin_mm", [0.0, 5.0])
def test_the_world_grid_covers_the_mask_and_its_margin(turn: float, margin_mm: float) -> None:
    affine = turned(turn) @ grid((3, 2, -1), (10, -20, 30))
    mask = np.zeros((12, 15, 20), bool)
    mask[3:8, 4:12, 6:15] = True
    found, shape = world_grid(mask, affine, 1.5, margin_mm)
    np.testing.assert_array_equal(found[:3, :3], 1.5 * np.eye(3))
    centres = world_of(affine, mask.shape)[:, mask]
    first, last = found[:3, 3], found[:3, 3] + 1.5 * (np.array(shape) - 1)
    assert (first <= centres.min(axis=1) - margin_mm + 1e-9).all()
    assert (last >= centres.max(axis=1) + margin_mm - 1e-9).all()
    if turn == 0:  # and no wider than it must be
        assert (first == centres.min(axis=1) - margin_mm).all()
        assert (last < centres.max(axis=1) + margin_mm + 1.5).all()


def test_a_mask_of_one_voxel_has_a_grid() -> None:
    mask = np.zeros((5, 5, 5), bool)
    mask[2, 2, 2] = True
    found, shape = world_grid(mask, np.eye(4), 1.0, 0.0)
    assert shape == (1, 1, 1)
    np.testing.assert_array_equal(found[:3, 3], [2, 2, 2])
