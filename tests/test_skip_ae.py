"""Dropout on the skip connections, and mean, variance and likelihood of several passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from phantoms import healthy_brains
from torch import Tensor

from volad.methods.skip_ae import SkipAE


def model(**changes: Any) -> SkipAE:
    torch.manual_seed(0)
    return SkipAE(**{**SkipAE.tiny, **changes}).eval()


class Passes(torch.nn.Module):
    """In place of the network: gives the passes it was made with, whatever the window."""

    def __init__(self, *passes: Tensor) -> None:
        super().__init__()
        self.passes = passes

    def sample(self, x: Tensor, passes: int) -> Sequence[Tensor]:
        assert passes == len(self.passes)
        return [p.expand_as(x) for p in self.passes]


#: Two voxels of brain of two image channels, beside two of air.
X = torch.tensor([[0.5, 0.9, 0, 0], [0.5, 0.2, 0, 0]]).view(1, 2, 2, 2)
ONE = torch.tensor([[0.4, 0.9, 7, 7], [0.5, 0.2, 7, 7]]).view(1, 2, 2, 2)
TWO = torch.tensor([[0.8, 0.9, 9, 7], [0.7, 0.6, 9, 7]]).view(1, 2, 2, 2)


def knowing(score: str, **changes: Any) -> SkipAE:
    found = model(channels=2, spatial_dims=2, score=score, **changes)
    found.net = Passes(ONE, TWO)  # type: ignore[assignment]
    return found


def test_the_counterpart_is_the_passes_mean_inside_the_brain() -> None:
    expected = torch.tensor([[0.6, 0.9, 0, 0], [0.6, 0.4, 0, 0]]).view(1, 2, 2, 2)
    torch.testing.assert_close(knowing("residual").reconstruct(X), expected)


def test_residual_variance_and_likelihood_by_hand() -> None:
    """Means over the two channels; a variance is a square of half the distance of two passes."""
    residual = torch.tensor([[(0.1 + 0.1) / 2, (0 + 0.2) / 2], [0, 0]]).view(1, 1, 2, 2)
    variances = torch.tensor([[0.04, 0.0], [0.01, 0.04]])
    variance = torch.tensor([[0.025, 0.02], [0, 0]]).view(1, 1, 2, 2)
    squares = torch.tensor([[0.01, 0.0], [0.01, 0.04]])
    total = variances + 0.1**2
    nll = (squares / (2 * total) + (total / 0.01).log() / 2).mean(dim=0)
    likelihood = torch.cat([nll, torch.zeros(2)]).view(1, 1, 2, 2)
    torch.testing.assert_close(knowing("residual")(X), residual)
    torch.testing.assert_close(knowing("variance")(X), variance)
    torch.testing.assert_close(knowing("likelihood", noise=0.1)(X), likelihood)


def test_the_likelihood_is_that_of_torchs_normal_up_to_a_constant() -> None:
    found = knowing("likelihood", noise=0.1)(X)[..., 0, :]
    spread = (torch.tensor([[0.04, 0.0], [0.01, 0.04]]) + 0.01).sqrt()
    mean = torch.tensor([[0.6, 0.9], [0.6, 0.4]])
    normal = torch.distributions.Normal(mean, spread)
    best = torch.distributions.Normal(0.0, 0.1).log_prob(torch.tensor(0.0))
    expected = (best - normal.log_prob(X[0, :, 0])).mean(dim=0)
    torch.testing.assert_close(found.flatten(), expected)


def test_masks_take_whole_channels_and_enlarge_the_others() -> None:
    net = model(features=(200, 300), skip_dropout=0.75, dropout=0.5).net
    features = [torch.ones(3, 200, 4, 4, 4), torch.ones(3, 300, 2, 2, 2)]
    torch.manual_seed(0)
    for masks in (1, 3):
        for dropped, rate in zip(net._drop(features, masks), (0.75, 0.5), strict=True):
            channels = dropped.flatten(2)
            assert (channels == channels[..., :1]).all()
            assert set(channels.unique().tolist()) == {0.0, 1 / (1 - rate)}
            for window in channels[..., 0]:
                assert (window == 0).float().mean() == pytest.approx(rate, abs=0.12)
            alike = (channels[0] == channels[1]).all()
            assert alike == (masks == 1)


def test_every_skip_and_the_coarsest_features_are_dropped_at_their_rates() -> None:
    net = model(features=(8, 16, 32), skip_dropout=0.4, dropout=0.2).net
    assert net.rates == [0.4, 0.4, 0.2]


def sampled(detector: SkipAE, x: Tensor, passes: int) -> Tensor:
    with torch.no_grad():
        return torch.stack(list(detector.net.sample(x, passes)))


@pytest.mark.parametrize("rates", [(0.5, 0.0), (0.0, 0.5)])
def test_each_pass_has_other_masks_and_all_windows_the_same(rates: tuple[float, float]) -> None:
    detector = model(skip_dropout=rates[0], dropout=rates[1])
    x = healthy_brains(1).expand(3, -1, -1, -1, -1)
    found = sampled(detector, x, 4)
    torch.testing.assert_close(found[:, 1:], found[:, :2])
    assert (found.std(dim=0) > 0).any()
    assert torch.equal(sampled(detector, x, 2), found[:2])  # more passes add to those there are


def test_without_dropout_every_pass_is_the_one_without_masks() -> None:
    x = healthy_brains(2)
    detector = model(skip_dropout=0.0, dropout=0.0)
    with torch.no_grad():
        alone = model(skip_dropout=0.0, dropout=0.0, passes=0).reconstruct(x)
        torch.testing.assert_close(detector.reconstruct(x), alone)
        torch.testing.assert_close(sampled(detector, x, 2) * (x != 0), alone.expand(2, *x.shape))


def test_no_passes_mean_one_without_dropout() -> None:
    x = healthy_brains(1)
    with torch.no_grad():
        whole = model(passes=0).reconstruct(x)
        assert torch.equal(whole, model(passes=0).net(x) * (x != 0))
        assert not torch.allclose(whole, model(passes=2).reconstruct(x), atol=1e-3)


def test_training_drops_out_and_its_loss_is_the_l1_over_the_brain() -> None:
    x = torch.zeros(2, 1, 16, 16)
    x[..., 4:8, 4:8] = 0.5
    detector = model(spatial_dims=2).train()
    outs: list[Tensor] = []
    detector.net.register_forward_hook(lambda _, __, out: outs.append(out))
    with torch.no_grad():
        for _ in range(2):
            ((name, loss),) = detector.training_step(x)
            assert name == "net"
            torch.testing.assert_close(loss, (outs[-1] - 0.5)[..., 4:8, 4:8].abs().mean())
        detector.eval()
        validation = [detector.validation_loss(x) for _ in range(2)]
    assert not torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0][0], outs[0][1])  # each window has its own masks
    assert validation[0] == validation[1]


@pytest.mark.parametrize("score", ["residual", "variance", "likelihood"])
@pytest.mark.parametrize("shape", [(16, 16), (17, 3), (17, 13, 9)])
def test_windows_of_any_size(shape: Sequence[int], score: str) -> None:
    detector, x = model(spatial_dims=len(shape), score=score), torch.rand(2, 1, *shape)
    x[..., 0] = 0
    with torch.no_grad():
        found = detector(x)
    assert found.shape == x.shape
    assert found.isfinite().all()
    assert (found >= 0).all()
    assert (found[x == 0] == 0).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"standardise": True}, "needs grid"),
        (
            {"standardise": True, "grid": (16, 16, 16), "score": "variance"},
            "cannot be standardised",
        ),
        ({"residual": "l3"}, "residual must be"),
        ({"score": "entropy"}, "score must be"),
        ({"score": "variance", "passes": 1}, "needs at least 2 passes, got 1"),
        ({"score": "likelihood", "passes": 0}, "needs at least 2 passes, got 0"),
        ({"skip_dropout": 1.0}, "below 1, got 1.0 and 0.1"),
        ({"dropout": -0.1}, "below 1, got 0.5 and -0.1"),
    ],
)
def test_arguments_that_cannot_work_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        model(**changes)
