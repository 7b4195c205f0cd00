"""Majority ray casting, against maps whose answer one can see and against thresholding first."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from volad.ray_casting import majority_rays


def ring(size: int = 11) -> torch.Tensor:
    """`(1, 1, size, size)`: the outline of a square of 5 pixels."""
    x = torch.zeros(1, 1, size, size)
    x[..., 3:8, 3:8] = 0.7
    x[..., 4:7, 4:7] = 0
    return x


def test_an_outline_is_filled() -> None:
    found = majority_rays(ring(), 4)
    assert (found[..., 4:7, 4:7] == 0.7).all()
    assert (found[..., :2, :] == 0).all()


def test_a_closed_surface_is_filled() -> None:
    x = torch.zeros(1, 1, 9, 9, 9)
    x[..., 2:7, 2:7, 2:7] = 1
    x[..., 3:6, 3:6, 3:6] = 0
    assert (majority_rays(x, 4)[..., 3:6, 3:6, 3:6] == 1).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_a_lone_voxel_vanishes(dims: int) -> None:
    x = torch.zeros(1, 1, *[9] * dims)
    x[(..., *[4] * dims)] = 1
    assert (majority_rays(x, 3) == 0).all()


def test_rays_end_after_their_length() -> None:
    """The middle of the ring is 2 pixels from it, on diagonals 2.8."""
    assert majority_rays(ring(), 2)[0, 0, 5, 5] == 0  # four of eight rays are not most
    assert majority_rays(ring(), 1)[0, 0, 5, 5] == 0
    assert majority_rays(ring(), 3)[0, 0, 5, 5] == pytest.approx(0.7)


def test_more_than_half_of_the_rays_have_to_hit() -> None:
    x = torch.zeros(1, 1, 7, 7)
    around = [d for d in product((-1, 0, 1), repeat=2) if any(d)]
    for number, (a, b) in enumerate(around, start=1):
        x[..., 3 + a, 3 + b] = 1
        assert majority_rays(x, 1)[0, 0, 3, 3] == (number > 4)


def test_a_threshold_after_it_gives_what_rays_in_a_thresholded_map_do() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 1, 7, 6, 8)
    found = majority_rays(x, 2)
    for level in (0.3, 0.5, 0.7, 0.9):
        hit = majority_rays((x > level).float(), 2) > 0
        assert torch.equal(found > level, hit)


def test_windows_do_not_affect_each_other() -> None:
    torch.manual_seed(0)
    x = torch.rand(3, 1, 6, 6, 6)
    assert torch.equal(majority_rays(x, 2)[1:2], majority_rays(x[1:2], 2))
