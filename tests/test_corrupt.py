"""Corruptions change what they say, as much as they say, inside the brain only."""

from __future__ import annotations

import pytest
import torch
from phantoms import healthy_brains
from scipy import ndimage
from torch import Tensor

from volad.corrupt import CORRUPTIONS, corrupt

every_kind = pytest.mark.parametrize("kind", CORRUPTIONS)


@pytest.fixture
def brains() -> Tensor:
    torch.manual_seed(0)
    return healthy_brains(4, size=32)


@every_kind
@pytest.mark.parametrize("dims", [2, 3])
def test_outside_the_brain_stays_exactly_0(brains: Tensor, kind: str, dims: int) -> None:
    x = brains if dims == 3 else brains[..., 16]
    out = corrupt(kind, x, 0.5)
    assert out.shape == x.shape
    assert (out[x == 0] == 0).all()
    assert (out != x).any()


@every_kind
def test_the_windows_given_are_not_changed(brains: Tensor, kind: str) -> None:
    before = brains.clone()
    corrupt(kind, brains, 0.5)
    assert torch.equal(brains, before)


@every_kind
def test_the_same_seed_gives_the_same_corruption(brains: Tensor, kind: str) -> None:
    out = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        out.append(corrupt(kind, brains, 0.5))
    assert torch.equal(out[0], out[1])
    assert not torch.equal(out[0], out[2])


@every_kind
def test_every_window_is_corrupted_in_another_way(brains: Tensor, kind: str) -> None:
    out = corrupt(kind, brains[:1].expand(2, -1, -1, -1, -1), 0.5)
    assert not torch.equal(out[0], out[1])


@every_kind
def test_no_amount_is_no_change(brains: Tensor, kind: str) -> None:
    assert torch.equal(corrupt(kind, brains, 0.0), brains)


@pytest.mark.parametrize("amount", [0.1, 0.5])
def test_masking_sets_a_share_of_the_voxels_to_0(brains: Tensor, amount: float) -> None:
    brain = brains != 0
    out = corrupt("masking", brains, amount)
    masked = brain & (out == 0)
    assert masked.sum() / brain.sum() == pytest.approx(amount, abs=0.02)
    assert torch.equal(out[~masked], brains[~masked])


def test_masking_takes_all_channels_of_a_voxel(brains: Tensor) -> None:
    out = corrupt("masking", torch.cat([brains, brains + 1], dim=1), 0.5)
    brain = brains[:, 0] != 0
    assert torch.equal((out[:, 0] == 0)[brain], (out[:, 1] == 0)[brain])


@pytest.mark.parametrize("amount", [0.1, 0.5])
def test_gaussian_noise_has_the_standard_deviation_asked_for(brains: Tensor, amount: float) -> None:
    noise = (corrupt("gaussian", brains, amount) - brains)[brains != 0]
    assert noise.std().item() == pytest.approx(amount, rel=0.05)
    assert noise.mean().item() == pytest.approx(0, abs=0.05 * amount)


@pytest.mark.parametrize("amount", [0.1, 0.5])
def test_salt_and_pepper_are_the_windows_extremes_in_equal_shares(
    brains: Tensor, amount: float
) -> None:
    out = corrupt("salt_and_pepper", brains, amount)
    for before, after in zip(brains, out, strict=True):
        brain, changed = before != 0, after != before
        assert set(after[changed].tolist()) <= {before.min().item(), before.max().item()}
        salt, pepper = (after == before.max()) & changed, (after == before.min()) & changed
        assert salt.sum() / brain.sum() == pytest.approx(amount / 2, abs=0.02)
        assert pepper.sum() / brain.sum() == pytest.approx(amount / 2, abs=0.02)


def many_coarse(amount: float) -> tuple[Tensor, Tensor]:
    """What coarse noise adds to 40 windows `(40, 32, 32, 32)` of flat brain, and where it does."""
    torch.manual_seed(0)
    flat = torch.ones(40, 1, 32, 32, 32)
    added = (corrupt("coarse", flat, amount) - flat)[:, 0]
    return added, added.abs() > 1e-6


def test_coarse_noise_leaves_another_part_of_each_brain_alone() -> None:
    _, changed = many_coarse(1.0)
    shares = changed.float().mean(dim=(1, 2, 3))
    assert shares.max() < 0.8
    assert shares.median() < 0.5
    assert shares.max() > 3 * shares.min()


def test_coarse_noise_is_bounded_by_its_amount_and_goes_both_ways() -> None:
    added, _ = many_coarse(0.4)
    assert added.abs().max() <= 0.4 + 1e-6
    assert added.abs().amax(dim=(1, 2, 3)).max() > 0.3
    assert added.min() < -0.2
    assert added.max() > 0.2


def test_coarse_noise_has_blobs_of_lesion_size_and_not_single_voxels() -> None:
    """The largest blob of each window: from a few voxels across to much of the brain."""
    added, _ = many_coarse(1.0)
    largest = []
    for window in added:
        labels, _ = ndimage.label(window.numpy() > 1e-6)
        largest.append(torch.from_numpy(labels).flatten().bincount()[1:].max().item())
    assert min(largest) >= 8
    assert max(largest) > 500
