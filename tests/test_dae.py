"""What only the denoising U-Net promises: what it sees, what it learns, what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from monai.networks.nets import BasicUNet
from phantoms import healthy_brains
from torch import Tensor, nn

from volad.corrupt import CORRUPTIONS, corrupt
from volad.methods.dae import DAE


def model(**changes: Any) -> DAE:
    torch.manual_seed(0)
    return DAE(**{**DAE.tiny, **changes}).eval()


def answering(value: float, **changes: Any) -> DAE:
    """A model whose network answers the same everywhere."""
    found = model(**changes)
    assert isinstance(found.net, BasicUNet)
    nn.init.zeros_(found.net.final_conv.weight)
    nn.init.constant_(found.net.final_conv.bias, value)
    return found


def seen_by(detector: DAE) -> list[Tensor]:
    """What the network is given from now on."""
    seen: list[Tensor] = []
    detector.net.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    return seen


def loss_of(detector: DAE, x: Tensor) -> Tensor:
    with torch.no_grad():
        ((name, loss),) = detector.training_step(x)
    assert name == "net"
    return loss


def test_the_loss_is_the_squared_error_from_the_clean_window_over_its_brain() -> None:
    x = torch.zeros(2, 2, 16, 16)
    x[0, :, 4:8, 4:8] = 0.5
    x[1, 0, 8, 8], x[1, 1, 8, 8] = 1.0, 0.0  # brain in one channel is brain in both
    detector = answering(0.7, channels=2, spatial_dims=2, amount=3.0)
    expected = (32 * 0.2**2 + 0.3**2 + 0.7**2) / (2 * 17)
    assert loss_of(detector, x) == pytest.approx(expected, rel=1e-4)
    with torch.no_grad():
        assert detector.validation_loss(x) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_training_shows_corrupted_windows_and_scoring_the_windows_themselves(
    corruption: str,
) -> None:
    detector, x = model(corruption=corruption, amount=0.4), healthy_brains(2)
    seen = seen_by(detector)
    torch.manual_seed(7)
    expected = corrupt(corruption, x, 0.4)
    torch.manual_seed(7)
    loss_of(detector, x)
    with torch.no_grad():
        detector(x)
    assert torch.equal(seen[0], expected)
    assert not torch.equal(seen[0], x)
    assert torch.equal(seen[1], x)


def test_validation_meets_the_same_noise_whatever_was_drawn_before() -> None:
    detector, x = model(), healthy_brains(2)
    seen, found = seen_by(detector), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        with torch.no_grad():
            found.append(detector.validation_loss(x))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], x)
    assert found[0] == found[1]


def test_the_score_is_how_far_the_window_is_from_its_denoised_self() -> None:
    x = torch.zeros(1, 1, 16, 16, 16)
    x[..., 2:9, 2:9, 2:9] = 0.5
    x[..., 4, 4, 4] = 1.5
    with torch.no_grad():
        found = answering(0.6)(x)
    expected = 0.1 * (x == 0.5) + 0.9 * (x == 1.5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(16, 16), (17, 3), (17, 13, 20)])
def test_windows_of_any_size(shape: Sequence[int]) -> None:
    detector, x = model(spatial_dims=len(shape)), torch.rand(2, 1, *shape)
    with torch.no_grad():
        assert detector(x).shape == x.shape


def test_a_window_smaller_than_the_network_shrinks_by() -> None:
    """One place is left at the bottom, which a normalisation over one value would refuse."""
    detector = model(spatial_dims=2)
    with torch.no_grad():
        assert detector(torch.rand(1, 1, 3, 5)).isfinite().all()


def test_few_channels_at_full_resolution() -> None:
    detector, size = DAE(), (32, 32, 32)
    widest: list[int] = []

    def note(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        if made.shape[2:] == size and given[0].shape[2:] == size:
            widest.append(max(given[0].shape[1], made.shape[1]))

    for part in detector.modules():
        if isinstance(part, nn.Conv3d):
            part.register_forward_hook(note)
    with torch.no_grad():
        detector(torch.rand(1, 1, *size))
    assert max(widest) <= 16
    assert 4 * sum(p.numel() for p in detector.parameters()) < 25e6


@pytest.mark.parametrize("features", [(8, 8, 8, 8, 8), (6, 10, 8, 4, 2), (5, 7, 9, 11, 13)])
def test_any_features_can_be_normalised(features: Sequence[int]) -> None:
    detector, x = model(features=features), healthy_brains(2)
    loss = loss_of(detector.train(), x)
    assert loss.isfinite()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"standardise": True}, "needs grid"),
        ({"residual": "l3"}, "residual must be"),
        ({"corruption": "salt"}, "salt_and_pepper"),
        ({"corruption": "none"}, "corruption must be"),
        ({"features": (8, 16)}, r"features must be 5 numbers, got \(8, 16\)"),
    ],
)
def test_arguments_that_cannot_work_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        model(**changes)
