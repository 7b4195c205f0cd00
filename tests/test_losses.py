"""Loss terms against values worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck

from volad.losses import critic_loss, gradient_penalty
from volad.nets import PatchCritic


def linear(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(3,), (2, 5, 4), (1, 3, 4, 5)])
def test_the_penalty_of_a_linear_critic_is_that_of_its_weights(shape: tuple[int, ...]) -> None:
    """The slope of `w . x` is `w` everywhere; its norm is over all axes."""
    w = linear(*shape)
    real, fake = torch.rand(4, *shape), torch.rand(4, *shape)
    found = gradient_penalty(lambda x: (x * w).flatten(1).sum(dim=1), real, fake)
    torch.testing.assert_close(found, (w.norm() - 1).square())


def test_the_penalty_is_zero_where_the_slope_is_one_and_one_where_it_is_flat() -> None:
    real, fake = torch.rand(2, 5, 3, 3)[:1], torch.rand(1, 5, 3, 3)
    w = torch.full((5, 3, 3), 45**-0.5)
    for scale, expected in ((1.0, 0.0), (0.0, 1.0), (3.0, 4.0)):
        found = gradient_penalty(lambda x, s=scale: (x * w * s).sum(dim=(1, 2, 3)), real, fake)
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_the_penalty_is_taken_between_each_fake_and_its_real_window() -> None:
    places: list[Tensor] = []

    def critic(x: Tensor) -> Tensor:
        places.append(x.detach())
        return x.flatten(1).sum(dim=1)

    real, fake = torch.ones(500, 1, 2), torch.zeros(500, 1, 2)
    gradient_penalty(critic, real, fake)
    share = places[0]
    assert torch.equal(share[:, :, 0], share[:, :, 1])  # one share for a window
    assert 0 <= share.min() < 0.05
    assert 0.95 < share.max() <= 1


def test_the_gradient_of_the_penalty_is_right() -> None:
    """Against finite differences, through a critic with attention and normalisation."""
    torch.manual_seed(0)
    critic = PatchCritic(2, 1, (8, 8), attention=1).double()
    nn.init.constant_(critic.levels[0][1].gamma, 0.7)
    real, fake = torch.rand(2, 2, 1, 8, 8).double()
    names, weights = zip(*critic.named_parameters(), strict=True)

    def penalty(*values: Tensor) -> Tensor:
        given = dict(zip(names, values, strict=True))
        torch.manual_seed(1)
        # `gradient_penalty` works in float32, so its formula is restated in double here.
        share = torch.rand(2, 1, 1, 1).double()
        between = torch.lerp(fake, real, share).requires_grad_()
        value = torch.func.functional_call(critic, given, between).sum()
        (slope,) = torch.autograd.grad(value, between, create_graph=True)
        return (slope.flatten(1).norm(dim=1) - 1).square().mean()

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert gradcheck(penalty, weights, fast_mode=True, atol=1e-4)
        expected = torch.autograd.grad(penalty(*weights), weights, allow_unused=True)
    critic.float()
    torch.manual_seed(1)
    found = gradient_penalty(critic, real.float(), fake.float())
    gradients = torch.autograd.grad(found, list(critic.parameters()), allow_unused=True)
    for got, wanted in zip(gradients, expected, strict=True):
        if wanted is None:  # the last bias moves no slope
            assert got is None
        else:
            torch.testing.assert_close(got, wanted.float(), rtol=1e-3, atol=1e-5)


def test_the_critics_loss_is_fake_less_real_and_the_penalty() -> None:
    w = linear(4)
    real, fake = torch.rand(3, 4), torch.rand(3, 4)
    found = critic_loss(lambda x: x @ w, real, fake, penalty=7.0)
    expected = (fake @ w).mean() - (real @ w).mean() + 7 * (w.norm() - 1).square()
    torch.testing.assert_close(found, expected)


def test_the_critics_loss_does_not_reach_the_generator() -> None:
    w = linear(4).requires_grad_()
    fake = torch.rand(3, 4, requires_grad=True)
    critic_loss(lambda x: x @ w, torch.rand(3, 4), fake).backward()
    assert w.grad is not None
    assert fake.grad is None


def test_the_penalty_keeps_full_precision_under_autocast() -> None:
    w = nn.Linear(64, 1, bias=False)
    real, fake = torch.rand(2, 3, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradient_penalty(lambda x: w(x)[:, 0], real, fake)
    torch.testing.assert_close(found, (w.weight.norm() - 1).square(), rtol=1e-5, atol=1e-6)
