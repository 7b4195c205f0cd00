"""What only f-AnoGAN promises: its losses and scores, against answers one can work out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from phantoms import Scans, healthy_brains
from resuming import same_when_killed
from torch import Tensor, nn

from volad.losses import energy_score, frozen
from volad.methods.fanogan import FAnoGAN
from volad.tensors import brain_of
from volad.train import Trainer


def model(**changes: Any) -> FAnoGAN:
    torch.manual_seed(0)
    return FAnoGAN(**{**FAnoGAN.tiny, "critic_steps": 2, **changes}).eval()


class Always(nn.Module):
    """Generates the same window whatever the code."""

    def __init__(self, window: Tensor) -> None:
        super().__init__()
        self.window = nn.Parameter(window)

    def forward(self, code: Tensor) -> Tensor:
        return self.window.expand(len(code), *self.window.shape)


class Scaled(nn.Module):
    """A critic whose features are the window times a weight, and which sums them to its value."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.features = nn.Conv3d(1, 1, 1, bias=False)
        nn.init.constant_(self.features.weight, weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).flatten(1).sum(dim=1)


def by_hand(kappa: float = 1.0) -> tuple[FAnoGAN, Tensor]:
    """A model that generates 0.5 and whose critic sees 3 times the window, and a scan.

    The scan has 8 brain voxels among its 4096: four of 0.9, four of 0.2.
    """
    detector = model(kappa=kappa, penalty=10.0)
    detector.generator = Always(torch.full((1, 16, 16, 16), 0.5))  # type: ignore[assignment]
    detector.critic = Scaled(3.0)  # type: ignore[assignment]
    x = torch.zeros(1, 1, 16, 16, 16)
    x[0, 0, 4:6, 4:6, 4], x[0, 0, 4:6, 4:6, 5] = 0.9, 0.2
    return detector, x


def test_the_losses_of_the_gan_are_those_of_wgan_gp() -> None:
    """The slope of 3 times a sum over 4096 voxels is 3 * 64 everywhere."""
    detector, x = by_hand()
    real, fake = 3 * (4 * 0.9 + 4 * 0.2), 3 * 4096 * 0.5
    critic = fake - real + 10 * (3 * 64 - 1) ** 2
    found = [(name, loss.item()) for name, loss in detector.adversarial_step(x)]
    assert found == [
        ("critic", pytest.approx(critic, rel=1e-5)),
        ("critic", pytest.approx(critic, rel=1e-5)),
        ("generator", pytest.approx(-fake, rel=1e-5)),
    ]


@pytest.mark.parametrize("kappa", [0.0, 1.0, 0.5])
def test_the_encoders_loss_and_the_scans_score_are_image_and_features(kappa: float) -> None:
    """Squared errors: over the 8 brain voxels, and 9 times them over all 4096 places."""
    detector, x = by_hand(kappa)
    squared = 4 * 0.4**2 + 4 * 0.3**2
    expected = squared / 8 + kappa * 9 * squared / 4096
    ((name, loss),) = detector.training_step(x)
    assert name == "encoder"
    assert loss.item() == pytest.approx(expected)
    assert detector.validation_loss(x).item() == pytest.approx(expected)
    with torch.no_grad():
        x_hat = detector.reconstruct(x)
        scores = detector.scan_scores(x, detector.compare(x, x_hat), x_hat)
        assert detector.scan_scores(x, x, x)["anomaly"] == 0
    assert scores["anomaly"] == pytest.approx(expected)
    assert scores["mean"] == pytest.approx(0.35)
    assert scores["p99"] == pytest.approx(0.4)


def test_with_an_atlas_what_is_generated_is_a_deviation_from_the_mean_scan() -> None:
    detector, x = model(atlas=True), healthy_brains(3)
    for _ in detector.stages()[0].step(x):
        raise AssertionError("the mean scan is no update")
    mean = x.sum(dim=0) / (x != 0).sum(dim=0).clamp(min=1)
    detector.generator = Always(torch.full((1, 16, 16, 16), 0.1))  # type: ignore[assignment]
    with torch.no_grad():
        torch.testing.assert_close(detector.reconstruct(x), (mean + 0.1) * (x != 0))
        # The critic sees deviations, too: of a scan that is the mean, none.
        detector.critic = Scaled(3.0)  # type: ignore[assignment]
        found = float(detector.anomaly(mean[None], mean[None] + 0.1 * (mean[None] != 0)))
    inside = float((mean != 0).float().mean())
    assert found == pytest.approx(0.01 + 0.09 * inside, rel=1e-4)


def test_each_update_reaches_its_own_network_alone() -> None:
    detector, x = model(), healthy_brains(2)
    names = []
    for stage in detector.stages():
        for name, loss in stage.step(x):
            detector.zero_grad()
            loss.backward()
            names.append(name)
            for other, child in detector.named_children():
                reached = [p.grad is not None for p in child.parameters()]
                assert all(reached) if other == name else not any(reached)
    assert names == ["critic", "critic", "generator", "encoder"]


def test_every_update_draws_codes_of_its_own() -> None:
    detector, codes = model(critic_steps=3), []
    detector.generator.register_forward_hook(lambda _, args, __: codes.append(args[0]))
    list(detector.adversarial_step(healthy_brains(5)))
    assert [code.shape for code in codes] == [(5, 8)] * 4
    drawn = torch.cat(codes)
    assert len(drawn.unique(dim=0)) == 20
    assert drawn.std() == pytest.approx(1, abs=0.2)


def test_the_gan_is_validated_by_what_it_draws_and_the_encoder_by_its_loss() -> None:
    detector, x = by_hand()
    list(detector.adversarial_step(x))
    # All samples are one, so nothing lies between them: only the distance inside the brain counts.
    distance = (4 * 0.4**2 + 4 * 0.3**2) ** 0.5
    with torch.no_grad():
        assert detector.validation_loss(x).item() == pytest.approx(distance)
        list(detector.training_step(x))
        assert detector.validation_loss(x).item() == detector.anomaly(x, 0.5 * brain_of(x)).item()


def test_the_validation_of_the_gan_is_the_same_whatever_the_seed() -> None:
    detector, x = model(), healthy_brains(2)
    list(detector.adversarial_step(x))
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with torch.no_grad():
            found.append(detector.validation_loss(x))
    assert torch.equal(*found)


def test_the_energy_score_by_hand() -> None:
    samples = torch.tensor([0.0, 3.0, 6.0])[:, None]  # 4 apart on average
    score = energy_score(samples, torch.tensor([[3.0], [9.0]]))
    assert score.item() == pytest.approx((2 + 6) / 2 - 4 / 2)
    # The norm is over all axes but the first.
    pair = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    assert energy_score(pair, torch.ones(1, 1, 2, 2)).item() == pytest.approx((2 + 0) / 2 - 2 / 2)


def test_the_energy_score_is_lowest_for_the_distribution_of_the_windows() -> None:
    random = torch.Generator().manual_seed(0)
    x, samples = torch.randn(2, 1000, 4, generator=random)
    own = energy_score(samples, x)
    for other in (samples + 0.5, 2 * samples, 0.5 * samples, 0 * samples):
        assert energy_score(other, x) > own


def test_a_frozen_module_answers_and_passes_gradients_on_but_learns_nothing() -> None:
    module, x = nn.Linear(3, 2), torch.rand(4, 3, requires_grad=True)
    found = frozen(module, x)
    assert torch.equal(found, module(x))
    found.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, module.weight.sum(dim=0).expand(4, 3))
    assert all(p.grad is None and p.requires_grad for p in module.parameters())


def test_what_is_not_brain_scores_nothing() -> None:
    detector, x = model(), healthy_brains(2)
    with torch.no_grad():
        assert (detector(x)[x == 0] == 0).all()


def test_windows_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"windows of \(16, 16, 16\) voxels, got \(16, 15, 16\)"):
        model().reconstruct(torch.zeros(1, 1, 16, 15, 16))


def test_a_training_killed_in_any_stage_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """Also between the stages, whose validations differ."""

    def trainer(checkpoint: Path) -> Trainer:
        return Trainer(
            model(features=(4, 8), critic_steps=1, standardise=True),
            Scans(healthy_brains(4)),
            Scans(healthy_brains(2, seed=1)),
            tmp_path / "model.pt",
            checkpoint=checkpoint,
            **{"max_epochs": 2, "batch": 4, "lr": 1e-3, "betas": (0.0, 0.9), "ema": 0.5},
        )

    done = same_when_killed(trainer, tmp_path, after=(1, 2, 3))
    assert [epoch.stage for epoch in done] == [0, 0, 1, 1, 2]
