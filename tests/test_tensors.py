"""What is asked of windows in many places."""

from __future__ import annotations

import torch

from volad.tensors import brain_mean, brain_of, crop, divisible, fixed_draws


def test_the_brain_is_where_any_channel_is_not_0() -> None:
    x = torch.tensor([[[0.0, 1.0, 0.0]], [[0.0, 0.0, -2.0]]]).transpose(0, 1)
    assert brain_of(x).tolist() == [[[0.0, 1.0, 1.0]]]


def test_a_mean_over_the_brain_by_hand() -> None:
    """Two brain voxels of two channels: (1 + 3 + 5 + 7) / 4; what is outside may even be NaN."""
    x = torch.tensor([[[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]])
    values = torch.tensor([[[torch.nan, 1.0, 3.0], [9.0, 5.0, 7.0]]])
    assert brain_mean(values, x) == 4.0
    assert brain_mean(values[:, :1], x) == 2.0
    assert brain_mean(values, torch.zeros_like(x)) == 0.0


def test_padding_to_a_multiple_and_back() -> None:
    x = torch.rand(2, 1, 5, 8, 3)
    padded = divisible(x, 4, least=2)
    assert padded.shape == (2, 1, 8, 8, 8)
    assert torch.equal(crop(padded, x), x)
    assert padded.count_nonzero() == x.count_nonzero()
    assert divisible(x, 4).shape == (2, 1, 8, 8, 4)


def test_fixed_draws_are_the_same_and_leave_the_others_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    drawn = []
    for _ in range(2):
        with fixed_draws(torch.device("cpu")):
            drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
    assert torch.equal(torch.rand(3), expected)
