"""What only SegAE promises, against answers one can work out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from phantoms import Scans, healthy_brains, lesion_mask
from torch import nn

from volad.methods.segae import LIMIT, SegAE, likeness
from volad.train import Trainer


def model(**changes: Any) -> SegAE:
    torch.manual_seed(0)
    return SegAE(**{**SegAE.tiny, **changes}).eval()


def untaught(**changes: Any) -> SegAE:
    """A model whose network changes nothing."""
    found = model(**changes)
    for parameter in found.net.network.parameters():
        nn.init.zeros_(parameter)
    return found


def cube(*levels: float) -> torch.Tensor:
    """`(1, channels, 8, 8, 8)`: a cube of brain that is alike everywhere, with air around it."""
    x = torch.zeros(1, len(levels), 8, 8, 8)
    x[..., 2:6, 2:6, 2:6] = torch.tensor(levels).view(1, -1, 1, 1, 1)
    return x


def test_classes_start_in_the_order_of_their_brightness_where_lesions_are_bright() -> None:
    weight = model(channels=3, classes=5, bright=1).net.weight
    torch.testing.assert_close(weight[:, 1], torch.tensor([0.2, 0.45, 0.7, 0.95, 1.2]))
    torch.testing.assert_close(weight[:, [0, 2]], torch.full((5, 2), 0.5))


def test_an_untaught_model_is_a_normal_mixture_around_the_weights() -> None:
    """Weights 0.2, 0.7, 1.2 and a spread of 0.5: squares of 0.95 are 0.5625, 0.0625, 0.0625."""
    detector = untaught(spread=0.5)
    odds = torch.tensor([-0.5625, -0.0625, -0.0625]).mul(2).exp()
    expected = float(odds[2] / odds.sum())
    x = cube(0.95)
    with torch.no_grad():
        score = detector(x)
    torch.testing.assert_close(score[x != 0], torch.full((64,), expected))
    assert (score[x == 0] == 0).all()


def test_all_channels_tell_the_classes_apart() -> None:
    detector = untaught(channels=2, spread=0.5)
    wanted = torch.tensor([[0.2, 0.2], [0.2, 0.7], [1.2, 0.8]])
    detector.net.raw.data = wanted.expm1().log()
    odds = -2 * (torch.tensor([1.0, 0.8]) - wanted).square().sum(dim=1)
    with torch.no_grad():
        maps = detector.net(cube(1.0, 0.8))
    torch.testing.assert_close(maps[0, :, 4, 4, 4], odds.softmax(dim=0))


def test_the_network_changes_odds_within_limits() -> None:
    """However sure it is that all is of the first class."""
    detector = untaught()
    detector.net.network = Certain()
    bare = untaught()
    x = cube(0.7)
    with torch.no_grad():
        odds, before = detector.net(x).log(), bare.net(x).log()
    change = (odds - before)[0, :, 4, 4, 4]
    torch.testing.assert_close(change[0] - change[1], torch.tensor(LIMIT))
    torch.testing.assert_close(change[1], change[2])


class Certain(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.full_like(x, 1e4), torch.zeros_like(x), torch.zeros_like(x)], dim=1)


def test_the_lesions_class_is_the_brightest_wherever_it_is() -> None:
    detector = untaught(channels=2, bright=0)
    detector.net.raw.data = torch.tensor([[0.2, 3.0], [1.2, 0.1], [0.7, 0.1]]).expm1().log()
    assert detector.lesion == 1
    with torch.no_grad():
        assert detector(cube(1.2, 0.1))[0, 0, 4, 4, 4] > 0.9


def test_images_are_mixed_of_maps_and_weights() -> None:
    detector = model(channels=2)
    detector.net.raw.data = torch.tensor([[0.2, 1.0], [0.4, 2.0], [0.8, 3.0]]).expm1().log()
    maps = torch.tensor([0.5, 0.25, 0.25]).view(1, 3, 1, 1, 1)
    mixed = detector.net.mix(maps).flatten()
    torch.testing.assert_close(mixed, torch.tensor([0.1 + 0.1 + 0.2, 0.5 + 0.5 + 0.75]))


def test_weights_stay_positive_however_far_they_are_pushed() -> None:
    detector = model()
    detector.net.raw.data.fill_(-50)
    assert (detector.net.weight > 0).all()


def test_the_likeness_of_maps_by_hand() -> None:
    """Cosines of (1, 0), (1, 1) and (0, 2): 1/sqrt(2), 0 and 1/sqrt(2)."""
    maps = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])[None, :, :, None]
    assert likeness(maps).item() == pytest.approx(2 / 2**0.5 / 3)
    apart = torch.eye(3)[None, :, :, None]
    assert likeness(apart).item() == pytest.approx(0, abs=1e-6)
    assert likeness(torch.ones(2, 3, 4, 4)).item() == pytest.approx(1)


@pytest.mark.parametrize("power", [1.0, 3.0])
def test_the_loss_is_the_squared_difference_of_powers_in_the_brain(power: float) -> None:
    detector = untaught(power=power, overlap=0.0, sparsity=0.0)
    x = cube(0.8)
    with torch.no_grad():
        mixed = float(detector.net.mix(detector.net(x))[0, 0, 4, 4, 4])
        assert abs(mixed - 0.8) > 0.01
        expected = (0.8**power - mixed**power) ** 2
        assert detector.validation_loss(x).item() == pytest.approx(expected, rel=1e-4)


def test_both_regularisers_are_added_with_their_weights() -> None:
    x = cube(0.95)
    with torch.no_grad():
        bare, apart, sparse = (
            untaught(overlap=o, sparsity=s).validation_loss(x).item()
            for o, s in ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5))
        )
        # Maps that are alike everywhere have cosines of 1, and the lesion's share is its score.
        share = float(untaught()(x)[0, 0, 4, 4, 4])
    assert apart - bare == pytest.approx(0.5, abs=1e-5)
    assert sparse - bare == pytest.approx(0.5 * share, abs=1e-5)


def test_noise_is_added_in_training_and_in_the_brain_only() -> None:
    detector, x = untaught(), cube(0.95)
    seen: list[torch.Tensor] = []
    detector.net.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    with torch.no_grad():
        next(detector.training_step(x))
        detector.validation_loss(x)
    noise = seen[0] - x
    assert (noise[x == 0] == 0).all()
    assert 0.03 < noise[x != 0].std() < 0.07
    assert torch.equal(seen[1], x)


def test_lesions_in_unlabelled_scans_become_the_lesions_class(tmp_path: Path) -> None:
    """Trained on patients: a blob each, brighter than tissue but not than the class to start."""
    x = healthy_brains(16)
    mask = lesion_mask().expand_as(x)
    sick = torch.where(mask, x + 0.35, x)
    detector = model()
    Trainer(detector, Scans(sick), None, tmp_path / "m.pt", max_epochs=6, batch=4, lr=3e-3).run()
    with torch.no_grad():
        score = detector(sick[:4])
    inside = mask[:4]
    assert score[inside].mean() > 0.5
    assert score[(sick[:4] != 0) & ~inside].mean() < 0.1


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"classes": 1}, "classes must be"), ({"channels": 2, "bright": 2}, "bright must be")],
)
def test_arguments_that_cannot_work_are_refused(changes: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        model(**changes)
