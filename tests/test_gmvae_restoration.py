"""What only the Gaussian mixture VAE promises: its bound, and what restoring does to a window."""

from __future__ import annotations

import math
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch
from phantoms import healthy_brains, lesion_mask, with_lesion
from test_methods import train, trained
from torch import Tensor

from volad.methods.gmvae_restoration import GMVAERestoration
from volad.restore import total_variation
from volad.variational import normal

GRID = (16, 16, 16)


def model(**changes: Any) -> GMVAERestoration:
    torch.manual_seed(0)
    return GMVAERestoration(**{**GMVAERestoration.tiny, **changes}).eval()


def kl(mean: float, std: float, other_mean: float, other_std: float) -> float:
    """Of two normal distributions of one number."""
    return (
        math.log(other_std / std) + (std**2 + (mean - other_mean) ** 2) / (2 * other_std**2) - 0.5
    )


def density(value: float, mean: float, std: float) -> float:
    return math.exp(-(((value - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))


@pytest.mark.parametrize("free", [0.0, 0.5])
def test_the_divergence_is_that_of_the_paper_at_every_place(free: float) -> None:
    """Two classes, one number z, a map of two places; by plain arithmetic on numbers."""
    detector = model(classes=2, z=1, w=1, free=free)
    code = detector.net.bottleneck
    means, stds = [[0.0, 1.0], [2.0, -1.0]], [[1.0, 0.5], [2.0, 1.0]]  # [class][place]
    code.components = lambda w: torch.distributions.Normal(  # type: ignore[method-assign]
        torch.tensor(means).view(1, 2, 1, 2, 1, 1), torch.tensor(stds).view(1, 2, 1, 2, 1, 1)
    )
    z_mean, z_std, z = [0.3, -0.2], [0.7, 1.3], [0.5, 0.1]
    w_mean, w_std = [1.0, 0.0], [1.0, 2.0]

    def at(values: list[float]) -> Tensor:
        return torch.tensor(values).view(1, 1, 2, 1, 1)

    found = code.divergence(
        torch.distributions.Normal(at(z_mean), at(z_std)),
        torch.distributions.Normal(at(w_mean), at(w_std)),
        at(z),
        torch.zeros(1, 1, 2, 1, 1),
    )
    expected = 0.0
    for place in range(2):
        weights = [density(z[place], means[c][place], stds[c][place]) for c in range(2)]
        shares = [weight / sum(weights) for weight in weights]
        expected += kl(w_mean[place], w_std[place], 0.0, 1.0)
        for c in range(2):
            expected += shares[c] * kl(z_mean[place], z_std[place], means[c][place], stds[c][place])
        expected += max(free, sum(share * math.log(2 * share) for share in shares))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_several_numbers_at_a_place_decide_the_class_together() -> None:
    """Class 0 explains both numbers of z, class 1 neither: the class costs log 2 in all."""
    code = model(classes=2, z=2, free=0.0).net.bottleneck
    centres = torch.tensor([[0.0, 0.0], [50.0, 50.0]]).view(1, 2, 2, 1, 1, 1)
    code.components = lambda w: torch.distributions.Normal(  # type: ignore[method-assign]
        centres, torch.ones_like(centres)
    )
    zero = torch.zeros(1, 2, 1, 1, 1)
    q_z = torch.distributions.Normal(zero, torch.ones_like(zero))
    q_w = torch.distributions.Normal(zero[:, :1], torch.ones_like(zero[:, :1]))
    found = code.divergence(q_z, q_w, zero, zero[:, :1])
    assert found.item() == pytest.approx(math.log(2), rel=1e-5)


def test_each_class_has_means_and_variances_of_its_own_made_from_w() -> None:
    code, w = model(classes=3, z=2).net.bottleneck, torch.randn(2, 1, 4, 4, 4)
    found, raw = code.components(w), code.mixture(w)
    assert found.mean.shape == (2, 3, 2, 4, 4, 4)
    for c, n in product(range(3), range(2)):
        torch.testing.assert_close(found.mean[:, c, n], raw[:, 4 * c + n])
        torch.testing.assert_close(found.stddev[:, c, n], (raw[:, 4 * c + 2 + n] / 2).exp())


def test_the_loss_is_summed_over_voxels_and_averaged_over_windows() -> None:
    detector, x = model(), healthy_brains(3)
    inside = (x != 0).float()
    with torch.no_grad():
        code = detector.net.bottleneck
        features = detector.net.encode(x)
        q_z, q_w = code.posteriors(features)
        x_hat = detector.net.decode(code.leave(q_z.mean), x)
        errors = (((x - x_hat) / 0.1).square() / 2 * inside).sum()
        constant = inside.sum() * math.log(0.1 * math.sqrt(2 * math.pi))
        codes = code.divergence(q_z, q_w, q_z.mean, q_w.mean).sum()
        torch.testing.assert_close(detector.validation_loss(x), (errors + constant + codes) / 3)
    first, second = (float(next(iter(detector.training_step(x)))[1]) for _ in range(2))
    assert first != second  # it samples the codes


def test_restoring_raises_the_bound_less_the_change() -> None:
    x = with_lesion(healthy_brains(1, seed=1), lesion_mask().expand(1, 1, *GRID), "bright")
    inside, found = (x != 0).float(), []
    for steps in (0, 5, 20, 60):
        detector = trained_model(steps=steps, step=0.05)
        with torch.no_grad():
            y = detector.reconstruct(x)
            cost = 0.1**2 * detector.negative_bound(y, inside) + 0.02 * total_variation(x - y)
        found.append(float(cost))
    assert all(after < before for before, after in pairwise(found))


def trained_model(**changes: Any) -> GMVAERestoration:
    detector = model(**changes)
    weights = trained("gmvae_restoration", 3).state_dict()
    detector.load_state_dict(weights)
    return detector.requires_grad_(False)


def test_a_lesion_is_taken_away_and_healthy_tissue_stays() -> None:
    detector = trained_model(steps=60)
    healthy = healthy_brains(2, seed=1)
    lesion = lesion_mask().expand(2, 1, *GRID)
    with torch.no_grad():
        y = detector.reconstruct(with_lesion(healthy, lesion, "bright"))
    change = (y - with_lesion(healthy, lesion, "bright")).abs()
    assert change[lesion].mean() > 0.4  # half of what the lesion added
    assert change[(healthy != 0) & ~lesion].mean() < 0.1
    assert (y[healthy == 0] == 0).all()


def test_without_steps_the_window_is_its_own_counterpart() -> None:
    x = healthy_brains(2)
    with torch.no_grad():
        detector = model(steps=0)
        assert torch.equal(detector.reconstruct(x), x)
        assert (detector(x) == 0).all()


def test_classes_are_all_used_after_training(tmp_path: Path) -> None:
    detector = model()
    train(detector, healthy_brains(16), tmp_path / "model.pt")
    with torch.no_grad():
        code = detector.net.bottleneck
        q_z, q_w = code.posteriors(detector.net.encode(healthy_brains(4)))
        scores = code.components(q_w.mean).log_prob(q_z.mean[:, None]).sum(dim=2)
        shares = scores.softmax(dim=1).mean(dim=(0, 2, 3, 4))
    assert (shares > 0.02).all()


def test_standardising_measures_what_restoring_changes() -> None:
    detector = model(grid=GRID, standardise=True, steps=3)
    x = healthy_brains(4)
    with torch.no_grad():
        for _ in detector.stages()[1].step(x):
            pass
        difference = x - detector.reconstruct(x)
    assert detector.spread is not None
    torch.testing.assert_close(detector.spread.mean, difference.mean(dim=0))


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"standardise": True}, "needs grid"), ({"classes": 1}, "classes must be")],
)
def test_arguments_that_cannot_work_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        model(**changes)


def test_normal_halves_along_the_axis_asked_for() -> None:
    found = normal(torch.tensor([[[1.0, 0.0], [2.0, 0.0]]]), dim=2)
    torch.testing.assert_close(found.mean, torch.tensor([[[1.0], [2.0]]]))
    torch.testing.assert_close(found.stddev, torch.ones(1, 2, 1))
