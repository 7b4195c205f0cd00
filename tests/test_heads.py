"""The normal distribution at every voxel, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from phantoms import healthy_brains

from volad.heads import VoxelNormal

GRID = (3, 4, 5)


def values(count: int = 7) -> torch.Tensor:
    """`(count, 2, *GRID)`."""
    return torch.randn(count, 2, *GRID, generator=torch.Generator().manual_seed(0)) * 3 + 10


def fitted(floor: float = 0.1) -> VoxelNormal:
    head = VoxelNormal(2, GRID, floor)
    for batch in values().split(3):  # 3, 3 and 1
        head.update(batch)
    return head


def test_mean_and_spread_are_numpys() -> None:
    head, array = fitted(), values().numpy()
    np.testing.assert_allclose(head.mean, array.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(head.std, array.std(axis=0), rtol=1e-4)


def test_of_brains_only_a_voxel_counts_the_scans_with_brain_there() -> None:
    scans = torch.zeros(3, 2, *GRID)
    scans[:2, :, 1:] = values(2)[:, :, 1:]
    scans[0, :, 2] = 0
    head = VoxelNormal(2, GRID, floor=0.1, brain_only=True)
    for scan in scans:
        head.update(scan[None])
    torch.testing.assert_close(head.mean[:, 1], scans[:2, :, 1].mean(dim=0))
    torch.testing.assert_close(head.mean[:, 2], scans[1, :, 2])
    assert not head.mean[:, 0].any()


def test_the_score_is_the_standard_score_with_a_floor_under_the_spread() -> None:
    array = values().numpy()
    expected = (array - array.mean(axis=0)) / (array.std(axis=0) + 0.1)
    np.testing.assert_allclose(fitted()(values()), expected, rtol=1e-3, atol=1e-4)


def test_a_voxel_that_never_varied_is_divided_by_the_floor_alone() -> None:
    head = VoxelNormal(1, GRID, floor=0.5)
    head.update(torch.full((4, 1, *GRID), 2.0))
    assert torch.equal(head(torch.full((1, 1, *GRID), 3.0)), torch.full((1, 1, *GRID), 2.0))


def test_rounding_never_makes_a_spread_that_is_no_number() -> None:
    """Mean of squares minus square of mean falls below 0 at some of 1000 voxels that never vary."""
    head = VoxelNormal(1, (10, 10, 10), floor=0.05)
    still = 1 + torch.rand(1, 1, 10, 10, 10, generator=torch.Generator().manual_seed(0))
    for _ in range(200):
        head.update(still)
    assert (head.squares / head.count - head.mean.square() < 0).any()
    assert head.std.isfinite().all()
    assert (head.std < 0.01).all()


def test_brains_of_the_unit_scale_keep_three_digits_over_a_thousand_scans() -> None:
    brains = healthy_brains(1000, size=8)
    head = VoxelNormal(1, (8, 8, 8), floor=0.05)
    for batch in brains.split(4):
        head.update(batch)
    np.testing.assert_allclose(head.std, brains.numpy().std(axis=0), atol=2e-4)


def test_weights_carry_the_statistics() -> None:
    copy = VoxelNormal(2, GRID, floor=0.1)
    copy.load_state_dict(fitted().state_dict())
    assert torch.equal(copy(values()), fitted()(values()))


@pytest.mark.parametrize("shape", [(1, 2, 3, 4, 6), (1, 1, 3, 4, 5), (1, 2, 3, 4, 1)])
def test_another_grid_is_refused_where_it_would_broadcast(shape: tuple[int, ...]) -> None:
    head = fitted()
    with pytest.raises(ValueError, match=r"whole aligned volumes of \(2, 3, 4, 5\), got"):
        head(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"whole aligned volumes of \(2, 3, 4, 5\), got"):
        head.update(torch.zeros(shape))


@pytest.mark.parametrize("floor", [0.0, -1.0])
def test_a_floor_of_nothing_is_refused(floor: float) -> None:
    with pytest.raises(ValueError, match="floor must be above 0"):
        VoxelNormal(1, GRID, floor)
