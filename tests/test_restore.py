"""Restoration by gradient steps, against answers one can work out."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from volad.restore import EDGE, restore, total_variation

OPTIONS: dict[str, Any] = {"steps": 10, "step": 0.1, "smoothness": 0.0, "limit": 1.0}


def pull(target: float) -> Any:
    """Half the squared distance from `target` at every voxel."""
    return lambda y: (y - target).square().flatten(1).sum(dim=1) / 2


def brain(count: int = 1) -> Tensor:
    x = torch.zeros(count, 1, 8, 8, 8)
    x[..., 2:6, 2:6, 2:6] = 0.5
    return x


def rounded(*steps: float) -> float:
    return sum(math.sqrt(step**2 + EDGE**2) - EDGE for step in steps)


@pytest.mark.parametrize("dims", [2, 3])
def test_total_variation_sums_the_steps_between_neighbours(dims: int) -> None:
    x = torch.zeros(2, 1, *[5] * dims)
    x[1, 0][(2,) * dims] = 0.7  # a voxel with two neighbours along each axis
    torch.testing.assert_close(total_variation(x), torch.tensor([0.0, rounded(*[0.7] * 2 * dims)]))


def test_total_variation_adds_up_channels_and_axes() -> None:
    x = torch.zeros(1, 2, 2, 2)
    x[0, 0] = torch.tensor([[0.0, 1.0], [3.0, 3.0]])
    x[0, 1] = torch.tensor([[0.0, 0.0], [2.0, 2.0]])
    assert total_variation(x).item() == pytest.approx(rounded(3, 2, 1, 0, 2, 2, 0, 0), rel=1e-6)


def test_large_steps_count_as_much_as_their_size_and_none_counts_nothing() -> None:
    x = torch.zeros(1, 1, 2, 1)
    assert total_variation(x) == 0
    x[0, 0, 1] = 100.0
    assert total_variation(x).item() == pytest.approx(100 - EDGE, rel=1e-6)


def test_a_quadratic_energy_is_left_behind_by_the_known_share() -> None:
    """Each step leaves 1 - length of the distance: 2 of 10 are whole, 8 have 0.4 of the length."""
    x = brain()
    y = restore(x, pull(0.9), **OPTIONS)
    left = 0.9**2 * 0.96**8
    torch.testing.assert_close(y[x != 0], torch.full((64,), 0.9 - 0.4 * left))


def test_air_stays_air_and_the_input_is_not_changed() -> None:
    x = brain()
    given = x.clone()
    y = restore(x, pull(0.9), **OPTIONS)
    assert (y[x == 0] == 0).all()
    assert torch.equal(x, given)
    assert y.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
    assert not y.requires_grad


def test_a_voxel_of_air_in_one_channel_is_brain_if_another_has_something() -> None:
    x = torch.zeros(1, 2, 3, 3)
    x[0, 0, 1, 1] = 0.5
    y = restore(x, pull(0.9), **OPTIONS)
    assert (y[0, :, 1, 1] > 0.3).all()
    assert y.count_nonzero() == 2


def test_slopes_are_cut_to_the_limit() -> None:
    x = brain()
    y = restore(x, lambda y: 1000 * pull(0.9)(y), **{**OPTIONS, "steps": 1, "limit": 0.25})
    torch.testing.assert_close(y[x != 0], torch.full((64,), 0.5 + 0.1 * 0.25))


def test_without_steps_nothing_is_restored() -> None:
    assert torch.equal(restore(brain(), pull(0.9), **{**OPTIONS, "steps": 0}), brain())


def test_total_variation_keeps_noise_and_lets_a_lesion_go() -> None:
    """It acts on the change: a single voxel's change costs more than it gains, a block's less."""
    target = brain()
    x = target.clone()
    x[..., 3, 3, 3] += 0.1
    lesion = torch.zeros_like(x, dtype=torch.bool)
    lesion[..., 4:6, 2:6, 2:6] = True
    x[lesion] += 0.6

    def energy(y: Tensor) -> Tensor:
        return (y - target).square().flatten(1).sum(dim=1) / 2

    options = {**OPTIONS, "steps": 200}
    free = restore(x, energy, **options)
    held = restore(x, energy, **{**options, "smoothness": 0.03})
    torch.testing.assert_close(free, target, atol=1e-3, rtol=0)
    assert held[..., 3, 3, 3].item() > 0.55  # more than half of the 0.1 is still there
    assert (held - target)[lesion].mean() < 0.2  # two thirds of the 0.6 are gone


def test_the_objective_falls_with_every_step() -> None:
    x, target = brain(), 0.9 * brain() + 0.02 * torch.arange(8.0)

    def energy(y: Tensor) -> Tensor:
        return (y - target).square().flatten(1).sum(dim=1) / 2

    options = {**OPTIONS, "smoothness": 0.01, "limit": 10.0}
    found = []
    for steps in range(0, 12):
        y = restore(x, lambda y: energy(y * (x != 0)), **{**options, "steps": steps, "step": 0.02})
        found.append(float(energy(y * (x != 0)) + 0.01 * total_variation(x - y)))
    assert all(after < before for before, after in pairwise(found))


def test_it_works_where_gradients_are_off_and_precision_is_low() -> None:
    plain = restore(brain(), pull(0.9), **OPTIONS)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(restore(brain(), pull(0.9), **OPTIONS), plain)
