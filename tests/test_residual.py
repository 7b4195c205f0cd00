"""Residuals against hand-made numbers and MONAI's SSIM."""

from __future__ import annotations

import pytest
import torch
from monai.losses import SSIMLoss
from torch import Tensor

from volad.residual import RESIDUALS, SIGNED, residual, ssim_ensemble


def pair(*values: float) -> Tensor:
    """`(1, 1, 1, n)`: a 2D window of one row."""
    return torch.tensor(values).reshape(1, 1, 1, -1)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("absolute", [3.0, 0.0, 0.5]),
        ("squared", [9.0, 0.0, 0.25]),  # sqrt((x - y)²), often called L2, would give 3, 0, 0.5
        ("positive", [3.0, 0.0, 0.0]),
        ("negative", [0.0, 0.0, 0.5]),
    ],
)
def test_residuals_by_hand(kind: str, expected: list[float]) -> None:
    x, x_hat = pair(4.0, 1.0, 0.5), pair(1.0, 1.0, 1.0)
    assert torch.equal(residual(kind, x, x_hat), pair(*expected))
    assert torch.equal(residual(kind, x - x_hat), pair(*expected))


def test_every_name_is_another_residual() -> None:
    """A branch that is always taken would make two of them equal."""
    torch.manual_seed(0)
    x, x_hat = torch.rand(2, 1, 1, 16, 16)
    maps = [residual(kind, x, x_hat) for kind in RESIDUALS]
    for i, first in enumerate(maps):
        assert all(not torch.allclose(first, second) for second in maps[i + 1 :])


@pytest.mark.parametrize("kind", RESIDUALS)
@pytest.mark.parametrize("dims", [2, 3])
def test_equal_windows_score_0(kind: str, dims: int) -> None:
    x = torch.rand(2, 1, *[16] * dims, generator=torch.Generator().manual_seed(0))
    score = residual(kind, x, x.clone())
    assert score.shape == x.shape
    torch.testing.assert_close(score, torch.zeros_like(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", RESIDUALS)
def test_scores_are_never_negative(kind: str) -> None:
    x, x_hat = torch.rand(2, 2, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    assert (residual(kind, x, x_hat) >= 0).all()


@pytest.mark.parametrize("kind", RESIDUALS)
def test_channels_are_averaged(kind: str) -> None:
    random = torch.Generator().manual_seed(0)
    x, x_hat = torch.rand(2, 2, 3, 12, 12, generator=random)
    one_by_one = [residual(kind, x[:, c : c + 1], x_hat[:, c : c + 1]) for c in range(3)]
    expected = torch.stack(one_by_one).mean(dim=0)
    torch.testing.assert_close(residual(kind, x, x_hat), expected)


@pytest.mark.parametrize("kind", RESIDUALS)
def test_shapes_that_would_broadcast_are_refused(kind: str) -> None:
    x = torch.zeros(2, 1, 8, 8)
    for other in (x[:, 0], x[:1], x[..., :1]):
        with pytest.raises(ValueError, match=r"a window of shape \(2, 1, 8, 8\) against"):
            residual(kind, x, other)


def test_ssim_of_a_difference_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="'ssim' needs both sides"):
        residual("ssim", torch.zeros(1, 1, 8, 8))


def test_an_unknown_residual_is_refused() -> None:
    x = torch.zeros(1, 1, 8, 8)
    with pytest.raises(ValueError, match="'l2'"):
        residual("l2", x, x)


def test_the_ssim_of_flat_windows_is_the_formula_for_their_means() -> None:
    """Without variance SSIM is `(2ab + c1) / (a² + b² + c1)`, c1 = 0.01² for a range of 1."""
    a, b, c1 = 0.8, 0.2, 1e-4
    score = residual("ssim", torch.full((1, 1, 9, 9, 9), a), torch.full((1, 1, 9, 9, 9), b))
    expected = (1 - (2 * a * b + c1) / (a * a + b * b + c1)) / 2
    torch.testing.assert_close(score, torch.full_like(score, expected), atol=1e-4, rtol=0)


def test_the_ssim_ensemble_is_the_mean_over_five_widths() -> None:
    """Compared away from the border, which MONAI's loss leaves out."""
    random = torch.Generator().manual_seed(0)
    x, x_hat = torch.rand(2, 1, 1, 24, 24, generator=random)
    found = ssim_ensemble(x, x_hat)[..., 5:-5, 5:-5].mean()
    losses = [
        SSIMLoss(2, win_size=11, kernel_sigma=sigma)(x, x_hat) for sigma in (0.3, 0.7, 1, 1.3, 1.7)
    ]
    torch.testing.assert_close(found, torch.stack(losses).mean() / 2)


def test_ssim_sees_lost_structure_that_brightness_hides() -> None:
    """A stripe pattern rebuilt as its mean is all lost; the same pattern, brighter, is not."""
    stripes = 0.5 + 0.1 * torch.arange(24).remainder(2).expand(1, 1, 24, 24)
    lost = residual("ssim", stripes, torch.full_like(stripes, 0.55))
    brighter = residual("ssim", stripes, stripes + 0.05)
    assert lost.min() > 5 * brighter.max()


def test_the_residuals_of_a_difference_are_the_ones_that_can_be_standardised() -> None:
    assert set(RESIDUALS) == {*SIGNED, "ssim"}
