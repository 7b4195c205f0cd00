"""What only SteGANomaly promises: a domain without detail, a blur that nothing hides from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from phantoms import healthy_brains
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from volad.losses import discriminator_loss
from volad.methods.steganomaly import SteGANomaly, blurred, low_entropy
from volad.tensors import brain_of


def model(**changes: Any) -> SteGANomaly:
    torch.manual_seed(0)
    return SteGANomaly(**{**SteGANomaly.tiny, **changes}).eval()


class Linear(nn.Module):
    """`scale * x + shift`."""

    def __init__(self, scale: float, shift: float = 0.0) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.shift


class Largest(nn.Module):
    """A discriminator whose value is the largest of the window."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x.new_zeros(()), x.flatten(1).amax(dim=1)]


# The domain of low entropy


def test_voxels_become_the_means_of_their_classes() -> None:
    x = torch.tensor([[[[1.0, 3.2, 0.0], [1.2, 3.0, 0.0]]]])
    expected = torch.tensor([[[[1.1, 3.1, 0.0], [1.1, 3.1, 0.0]]]])
    torch.testing.assert_close(low_entropy(x, 2), expected)


def test_classes_are_of_all_channels_together() -> None:
    """Alike in the first channel, two tissues differ in the second."""
    x = torch.tensor([[[[0.5, 0.5, 0.6, 0.6]], [[1.0, 2.0, 1.0, 2.0]]]])
    expected = torch.tensor([[[[0.55, 0.55, 0.55, 0.55]], [[1.0, 2.0, 1.0, 2.0]]]])
    torch.testing.assert_close(low_entropy(x, 2), expected)


@pytest.mark.parametrize("classes", [1, 3, 4])
def test_a_brain_keeps_its_shape_and_as_many_values_as_there_are_classes(classes: int) -> None:
    x = healthy_brains(3)
    flat = low_entropy(x, classes)
    assert torch.equal(brain_of(flat), brain_of(x))
    for window, given in zip(flat, x, strict=True):
        assert len(window[window != 0].unique()) == classes
        assert window.sum() == pytest.approx(given.sum().item(), rel=1e-4)


def test_windows_with_less_brain_than_classes_and_with_none() -> None:
    x = torch.zeros(2, 1, 4, 4)
    x[0, 0, 1, 1], x[0, 0, 2, 2] = 0.4, 0.8
    torch.testing.assert_close(low_entropy(x, 3), x)


# The blur


def test_the_blur_is_a_gaussian_of_its_width_in_voxels() -> None:
    x = torch.zeros(1, 1, 25, 25, 25)
    x[0, 0, 12, 12, 12] = 1
    found = blurred(x, torch.ones_like(x), 2.0)[0, 0, 6:19, 6:19, 6:19]
    expected = gaussian_filter(x[0, 0].numpy(), 2.0)[6:19, 6:19, 6:19]
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0.05, atol=1e-5)


def test_the_blur_stays_in_the_brain() -> None:
    """A flat brain stays flat up to its border, and air stays air."""
    inside = brain_of(healthy_brains(1))
    torch.testing.assert_close(blurred(0.7 * inside, inside, 2.0), 0.7 * inside)


def checkerboard() -> Tensor:
    return (-1.0) ** sum(torch.meshgrid(*[torch.arange(16)] * 3, indexing="ij"))


class Hiding(nn.Module):
    """A translator that writes each voxel's deviation into a fine pattern of low amplitude."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.7 + 0.05 * (x - 0.7) * checkerboard()


def test_what_a_translator_hides_in_fine_patterns_does_not_reach_the_way_back() -> None:
    x = torch.full((1, 1, 16, 16, 16), 0.7)
    x[..., 6:10, 6:10, 6:10] = 1.5  # a lesion
    given: dict[float, Tensor] = {}
    for sigma in (0.01, 2.0):
        detector = model(sigma=sigma)
        detector.translators["flat"] = Hiding()
        detector.translators["healthy"].register_forward_hook(
            lambda _, args, __, s=sigma: given.setdefault(s, args[0])
        )
        with torch.no_grad():
            detector.reconstruct(x)
    hidden, left = ((given[s] - 0.7).abs().max().item() for s in (0.01, 2.0))
    assert hidden == pytest.approx(0.04, rel=1e-3)
    assert left < 0.01 * hidden


# The losses


def test_the_losses_are_cyclegans() -> None:
    """Windows of 1: made flat 2, made healthy of flat ones 1.1, and back 2.1 and 2.2."""
    detector, x = model(sigma=0.01, cycle=10.0), brain_of(healthy_brains(2))
    detector.translators["flat"], detector.translators["healthy"] = Linear(2), Linear(1, 0.1)
    for domain in ("flat", "healthy"):
        detector.discriminators[domain] = Largest()
    found = {name: loss.item() for name, loss in detector.training_step(x)}
    cycle, fooled = 10 * (abs(2.1 - 1) + abs(2.2 - 1)), (2 - 1) ** 2 + (1.1 - 1) ** 2
    assert found == {
        "translators": pytest.approx(cycle + fooled, rel=1e-4),
        "discriminators": pytest.approx((0 + 2**2) / 2 + (0 + 1.1**2) / 2, rel=1e-4),
    }


def test_the_discriminators_loss_by_hand() -> None:
    real, fake = torch.tensor([1.0, 0.0]), torch.tensor([[0.5, 1.0], [0.0, 0.0]])
    expected = ((0 + 1) / 2 + (0.25 + 1) / 4) / 2
    assert discriminator_loss(real, fake).item() == pytest.approx(expected)


def test_all_that_goes_back_is_blurred_and_no_two_windows_are_a_pair() -> None:
    detector, x = model(), healthy_brains(3)
    given: dict[str, list[Tensor]] = {"healthy": [], "flat": []}
    detector.translators["healthy"].register_forward_hook(
        lambda _, args, __: given["healthy"].append(args[0])
    )
    detector.discriminators["flat"].register_forward_hook(
        lambda _, args, __: given["flat"].append(args[0])
    )
    list(detector.training_step(x))
    flat = low_entropy(x[[2, 0, 1]], 3)
    fake = detector.translators["flat"](x) * brain_of(x)
    back = [blurred(flat, brain_of(flat), 2.0), blurred(fake, brain_of(x), 2.0)]
    for found, expected in zip(given["healthy"], back, strict=True):
        torch.testing.assert_close(found, expected)
    judged, real, old = given["flat"]
    torch.testing.assert_close(judged, fake)
    torch.testing.assert_close(real, flat)
    torch.testing.assert_close(old, fake)


def test_each_update_reaches_its_own_networks_alone() -> None:
    detector = model()
    names = []
    for name, loss in detector.training_step(healthy_brains(2)):
        detector.zero_grad()
        loss.backward()
        names.append(name)
        for other, child in detector.named_children():
            reached = [p.grad is not None for p in child.parameters()]
            assert all(reached) if other == name else not any(reached)
    assert names == ["translators", "discriminators"]


def test_what_is_not_brain_scores_nothing() -> None:
    detector, x = model(), healthy_brains(2)
    with torch.no_grad():
        assert (detector(x)[x == 0] == 0).all()


def test_a_method_without_blur_or_without_the_grid_it_needs_is_refused() -> None:
    with pytest.raises(ValueError, match="sigma must be above 0, got 0"):
        model(sigma=0)
    with pytest.raises(ValueError, match="standardise needs grid"):
        model(standardise=True)
