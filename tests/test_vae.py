"""What only the VAE promises: its bound and its slopes, against answers one can work out."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from phantoms import healthy_brains, lesion_mask, with_lesion
from test_methods import of_scan, train
from torch import Tensor, nn

from volad.methods.vae import VAE
from volad.variational import (
    LOG_VARIANCE,
    GaussianAutoencoder,
    GaussianCode,
    log_likelihood,
    normal,
    per_window,
    rate,
)

GRID = (16, 16, 16)


def model(**changes: Any) -> VAE:
    torch.manual_seed(0)
    return VAE(**{**VAE.tiny, **changes}).eval()


# What all variational methods share


def test_the_rate_is_the_divergence_from_the_standard_normal() -> None:
    """Of N(1, 4): (4 + 1 - 1 - log 4) / 2; of N(0, 1): none; over all codes of a window."""
    parameters = torch.zeros(2, 6, 1)
    parameters[1, 0], parameters[1, 3] = 1.0, math.log(4)
    parameters[1, 1] = 2.0  # of N(2, 1): 2
    expected = torch.tensor([0.0, (4 - math.log(4)) / 2 + 2])
    torch.testing.assert_close(rate(normal(parameters)), expected)


def test_variances_are_kept_where_exponentials_have_digits() -> None:
    found = normal(torch.tensor([[0.0, 0.0, -1e9, 1e9]])).stddev
    half = math.exp(LOG_VARIANCE / 2)
    torch.testing.assert_close(found, torch.tensor([[1 / half, half]]))


def test_log_likelihoods_are_the_densities_in_the_brain_and_nothing_outside() -> None:
    x = torch.tensor([[[0.5, 1.0, 0.0]]])
    x_hat = torch.tensor([[[0.5, 0.8, 9.0]]])
    inside = torch.tensor([[[1.0, 1.0, 0.0]]])
    gaussian = log_likelihood(x, x_hat, inside, 0.1)
    top = -math.log(0.1 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(gaussian, torch.tensor([[[top, top - 2.0, 0.0]]]))
    laplace = log_likelihood(x, x_hat, inside, 0.1, "laplace")
    torch.testing.assert_close(
        laplace, torch.tensor([[[-math.log(0.2), -math.log(0.2) - 2.0, 0.0]]])
    )


@pytest.mark.parametrize(("grid", "shape"), [(None, (3, 4, 4)), ((4, 4), (3,))])
def test_the_codes_of_the_bottleneck_have_a_map_or_a_vector(
    grid: tuple[int, int] | None, shape: tuple[int, ...]
) -> None:
    code = GaussianCode(2, 8, 3, grid)
    features = torch.rand(5, 8, 4, 4)
    assert code.posterior(features).mean.shape == (5, *shape)
    assert code(features).shape == features.shape


def test_a_dense_code_starts_as_its_standard_normal_prior() -> None:
    """Means of the components' own spread would be far from it, or hardly differ."""
    torch.manual_seed(0)
    code, features = GaussianCode(2, 8, 3, (4, 4)), 0.01 * torch.randn(64, 8, 4, 4)
    assert code.dense is not None
    assert code.open
    before = code(features)
    code.dense.measure(features)
    code.dense.close()
    assert not code.open
    with torch.no_grad():
        means = code.posterior(features).mean
        found = torch.nn.functional.mse_loss(code(features), before)
    torch.testing.assert_close(means.mean(dim=0), torch.zeros(3), rtol=0, atol=1e-3)
    torch.testing.assert_close(means.std(dim=0, correction=0), torch.ones(3), rtol=0.02, atol=0)
    assert found < torch.var(before, dim=0).mean(), "it rebuilds less than a mean would"


# The method


def test_the_loss_is_the_negative_bound_summed_over_voxels_and_averaged_over_windows() -> None:
    detector, x = model(), healthy_brains(3)
    torch.manual_seed(5)
    ((child, loss),) = detector.training_step(x)
    torch.manual_seed(5)
    posterior = detector.net.posterior(x)
    noise = torch.randn(posterior.mean.shape)
    x_hat = detector.net.generate(posterior.mean + posterior.stddev * noise, x)
    inside = x != 0
    squares = (((x - x_hat) / 0.1).square() / 2)[inside].sum()
    constant = inside.sum() * math.log(0.1 * math.sqrt(2 * math.pi))
    variance = posterior.stddev.square()
    kl = (variance + posterior.mean.square() - 1 - variance.log()).sum() / 2
    assert child == "net"
    torch.testing.assert_close(loss, (squares + constant + kl) / 3)


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_validation_takes_the_mean_code(likelihood: str) -> None:
    detector, x = model(likelihood=likelihood), healthy_brains(2)
    with torch.no_grad():
        inside = (x != 0).float()
        found = per_window(log_likelihood(x, detector.net(x), inside, 0.1, likelihood))
        expected = (rate(detector.net.posterior(x)) - found).mean()
        torch.testing.assert_close(detector.validation_loss(x), expected)
        assert detector.validation_loss(x) == detector.validation_loss(x)


def test_a_lower_scale_lets_the_code_hold_more(tmp_path: Any) -> None:
    x, found = healthy_brains(16), []
    for scale in (1.0, 0.03):
        detector = model(scale=scale)
        train(detector, x, tmp_path / "model.pt", max_epochs=15)
        found.append(float(detector.divergence(x).mean().detach()))
    assert found[1] > 2 * found[0] > 0


class Linear(nn.Module):
    """A network whose one code is N(sum of weights times voxels, 1), and that decodes to 0."""

    bottleneck = SimpleNamespace(open=False)
    negative_elbo = GaussianAutoencoder.negative_elbo

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def posterior(self, x: Tensor) -> Any:
        mean = (self.weights * x).flatten(1).sum(dim=1, keepdim=True)
        return normal(torch.cat([mean, torch.zeros_like(mean)], dim=1))

    def generate(self, z: Tensor, x: Tensor) -> Tensor:
        return 0 * x


def linear(**changes: Any) -> tuple[VAE, Tensor, Tensor]:
    detector, x = model(blur=0.0, **changes), healthy_brains(2)
    weights = torch.randn(GRID, generator=torch.Generator().manual_seed(1)) / 1000
    detector.net = Linear(weights)  # type: ignore[assignment]
    return detector, x, weights


def test_the_divergences_slope_is_the_one_worked_out() -> None:
    """KL = m^2 / 2 of the code's mean m = w . x, so dKL / dx = m w."""
    detector, x, weights = linear(score="kl_gradient")
    mean = (weights * x).flatten(1).sum(dim=1).view(-1, 1, 1, 1, 1)
    with torch.no_grad():
        found = detector.compare(x, torch.zeros_like(x))
    torch.testing.assert_close(found, (mean * weights).abs() * (x != 0))


def test_the_bounds_slope_adds_that_of_the_likelihood() -> None:
    """Decoding to 0 costs x^2 / (2 scale^2), whose slope is x / scale^2."""
    detector, x, weights = linear(score="elbo_gradient", scale=0.5)
    mean = (weights * x).flatten(1).sum(dim=1).view(-1, 1, 1, 1, 1)
    with torch.no_grad():
        found = detector.compare(x, torch.zeros_like(x))
    torch.testing.assert_close(found, (mean * weights + 4 * x).abs() * (x != 0))


def test_the_combination_is_the_residual_times_the_divergences_slope() -> None:
    detector, x, weights = linear(score="combination", residual="absolute")
    mean = (weights * x).flatten(1).sum(dim=1).view(-1, 1, 1, 1, 1)
    with torch.no_grad():
        found = detector.compare(x, 0.5 * x)
    torch.testing.assert_close(found, (mean * weights).abs() * 0.5 * x)


def test_slopes_are_averaged_over_channels() -> None:
    detector, x, weights = linear(score="kl_gradient", channels=2)
    both = torch.cat([x, 2 * x], dim=1)
    mean = (weights * both).flatten(1).sum(dim=1).view(-1, 1, 1, 1, 1)
    with torch.no_grad():
        found = detector.compare(both, both)
    torch.testing.assert_close(found, (mean * weights).abs() * (x != 0))


def test_smoothing_spreads_a_slope_by_a_gaussian_of_seven_voxels_in_the_brain() -> None:
    detector = model(score="kl_gradient", blur=3.0)
    weights = torch.zeros(GRID)
    weights[8, 8, 8] = 1.0
    detector.net = Linear(weights)  # type: ignore[assignment]
    x = torch.ones(1, 1, *GRID)
    x[..., 10:] = 0.0
    with torch.no_grad():
        found = detector.compare(x, x)[0, 0]
    shares = torch.tensor(
        [
            math.erf((n + 0.5) / (3 * math.sqrt(2))) - math.erf((n - 0.5) / (3 * math.sqrt(2)))
            for n in range(-3, 4)
        ]
    )
    shares = shares / shares.sum()
    torch.testing.assert_close(found[5:12, 8, 8], shares * shares[3] ** 2)
    assert found[4, 8, 8] == found[12, 8, 8] == 0
    assert (found[..., 10:] == 0).all()


def test_scores_ignore_the_callers_low_precision() -> None:
    detector, x = model(score="kl_gradient"), healthy_brains(1)
    with torch.no_grad():
        plain = detector.compare(x, x)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(detector.compare(x, x), plain)


@pytest.mark.parametrize("bottleneck", ["spatial", "dense"])
@pytest.mark.parametrize("score", ["kl_gradient", "elbo_gradient", "combination"])
def test_each_score_finds_a_lesion(bottleneck: Any, score: Any, tmp_path: Any) -> None:
    detector = model(bottleneck=bottleneck, score=score, grid=GRID, blur=1.0)
    train(detector, healthy_brains(16), tmp_path / "model.pt")
    x, lesion = healthy_brains(3, seed=1), lesion_mask().expand(3, 1, *GRID)
    with torch.no_grad():
        found = detector(with_lesion(x, lesion, "bright"))
    assert found.shape == x.shape
    pairs = found[lesion][:, None] > found[(x != 0) & ~lesion]
    assert pairs.float().mean() > 0.7


def test_standardised_residuals_enter_the_combination(tmp_path: Any) -> None:
    detector = model(score="combination", grid=GRID, standardise=True)
    train(detector, healthy_brains(8), tmp_path / "model.pt", max_epochs=2)
    assert detector.spread is not None
    assert detector.spread.count == 8
    x = healthy_brains(1, seed=1)
    with torch.no_grad():
        whole = detector(x)
        detector.score = "residual"
        residual = detector(x)
        detector.score = "kl_gradient"
        torch.testing.assert_close(whole, residual * detector(x))


def test_scan_scores_of_slopes_are_numbers() -> None:
    found = of_scan(model(score="kl_gradient"), healthy_brains(1))
    assert found["mean"] > 0  # type: ignore[operator]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"standardise": True}, "needs grid"),
        ({"bottleneck": "dense"}, "needs grid"),
        ({"bottleneck": "dense", "grid": (15, 16, 16)}, "multiples of 4"),
        ({"likelihood": "poisson"}, "gaussian, laplace"),
        ({"score": "kl"}, "kl_gradient"),
    ],
)
def test_arguments_that_cannot_work_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        model(**changes)
