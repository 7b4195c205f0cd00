"""The memory's addressing against weights solved by hand, and MemAE's loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from phantoms import healthy_brains
from torch import Tensor, nn

from volad.memory import Memory, address_entropy
from volad.methods.memae import MemAE


def model(**changes: Any) -> MemAE:
    torch.manual_seed(0)
    return MemAE(**{**MemAE.tiny, **changes}).eval()


def memory(items: Sequence[Sequence[float]], shrink: float) -> Memory:
    found = Memory(len(items), len(items[0]), shrink)
    found.items = nn.Parameter(torch.tensor(items))
    return found


#: Times the items [1, 0], [0, 1] and [0, 0]: weights of 6, 3 and 1 tenths.
CODE = torch.tensor([math.log(6), math.log(3)]).view(1, 2, 1, 1)
ITEMS = ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0))


@pytest.mark.parametrize(
    ("shrink", "expected"),
    [
        (0.0, (0.6, 0.3, 0.1)),
        (0.6, (2 / 3, 1 / 3, 0.0)),  # the threshold is 0.2
        (1.5, (1.0, 0.0, 0.0)),  # 0.5
        (2.0, (0.6, 0.3, 0.1)),  # 0.667: none exceeds it
    ],
)
def test_the_weights_are_the_softmax_shrunk_and_scaled(
    shrink: float, expected: tuple[float, ...]
) -> None:
    read, weights = memory(ITEMS, shrink)(CODE)
    torch.testing.assert_close(weights.flatten(), torch.tensor(expected))
    torch.testing.assert_close(read.flatten(), torch.tensor(expected[:2]))  # the items are axes


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3)])
def test_every_place_reads_by_its_own_code(shape: Sequence[int]) -> None:
    torch.manual_seed(0)
    found, codes = Memory(30, 6, shrink=1.0), 3 * torch.randn(2, 6, *shape)
    read, weights = found(codes)
    assert read.shape == codes.shape
    assert weights.shape == (2, 30, *shape)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, *shape))
    assert (weights >= 0).all()
    assert (weights == 0).any(dim=1).all()
    place = (slice(1, 2), slice(None), *[slice(2, 3)] * len(shape))
    torch.testing.assert_close(found(codes[place])[0], read[place])


def test_a_code_without_a_like_passes_gradients_on() -> None:
    """All weights are 1/3, below the threshold: as zeros they would be lost to training."""
    found, codes = memory(ITEMS, shrink=2.0), torch.zeros(1, 2, 1, 1, requires_grad=True)
    read, weights = found(codes)
    (read.sum() + address_entropy(weights).sum()).backward()
    assert codes.grad is not None
    assert found.items.grad is not None
    assert codes.grad.isfinite().all()
    assert codes.grad.abs().sum() > 0
    assert found.items.grad.isfinite().all()


def test_entropy_by_hand_and_its_gradient_at_weights_of_zero() -> None:
    weights = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).T[None].requires_grad_()  # (1, items, places)
    entropy = address_entropy(weights)
    torch.testing.assert_close(entropy, torch.tensor([[[0.0, math.log(2)]]]))
    entropy.sum().backward()
    assert weights.grad is not None
    assert weights.grad.isfinite().all()


def test_nothing_goes_around_the_memory() -> None:
    """With one item to read, every window is rebuilt as the same one."""
    net = model(items=1, shrink=0.0).net
    one, two = torch.rand(2, 1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(net(one)[0], net(two)[0])


def test_the_loss_is_the_squared_error_and_the_entropy_inside_the_brain() -> None:
    x = torch.zeros(1, 2, 16, 16)
    x[..., 4:8, 4:8] = 0.5  # two channels of a brain that one place of the code has for itself
    detector = model(channels=2, spatial_dims=2, entropy=0.3)
    with torch.no_grad():
        x_hat, weights = detector.net(x)
        ((name, loss),) = detector.training_step(x)
        validation = detector.validation_loss(x)
    squared = (x_hat - 0.5)[..., 4:8, 4:8].square().mean()
    used = weights[0, :, 1, 1]
    entropy = -(used[used > 0] * used[used > 0].log()).sum()
    assert entropy > 0.1
    assert name == "net"
    torch.testing.assert_close(loss, squared + 0.3 * entropy)
    torch.testing.assert_close(validation, squared)


def test_training_learns_the_items() -> None:
    detector = model().train()
    ((_, loss),) = detector.training_step(healthy_brains(2))
    loss.backward()
    grad = detector.net.memory.items.grad
    assert grad is not None
    assert grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(16, 16), (17, 3), (17, 13, 9)])
def test_windows_of_any_size(shape: Sequence[int]) -> None:
    detector, x = model(spatial_dims=len(shape)), torch.rand(2, 1, *shape)
    with torch.no_grad():
        assert detector(x).shape == x.shape


def test_outside_the_brain_the_counterpart_is_0() -> None:
    x = healthy_brains(1)
    with torch.no_grad():
        assert (model().reconstruct(x)[x == 0] == 0).all()


def test_standardised_residuals_are_divided_by_their_healthy_spread() -> None:
    detector, x = model(grid=(16, 16, 16), standardise=True, residual="absolute"), healthy_brains(6)
    with torch.no_grad():
        for _ in detector.stages()[1].step(x):
            pass
        difference = x - detector.reconstruct(x)
        spread = difference.std(dim=0, correction=0) + 0.05
        expected = ((difference[:1] - difference.mean(dim=0)) / spread).abs() * (x[:1] != 0)
        torch.testing.assert_close(detector(x[:1]), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"standardise": True}, "needs grid"),
        ({"residual": "l3"}, "residual must be"),
        ({"items": 2, "shrink": 2.0}, "shrink must be from 0 to below the 2 items, got 2"),
        ({"shrink": -1.0}, "shrink must be"),
    ],
)
def test_arguments_that_cannot_work_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        model(**changes)


def test_half_precision_keeps_the_weights_exact_enough_to_sum_to_1() -> None:
    x: Tensor = healthy_brains(1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        _, weights = model().net(x)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(1, 4, 4, 4))
