"""What only the Bayesian U-Net promises, against answers one can work out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from phantoms import healthy_brains
from torch import Tensor, nn

from volad.methods.bayesian_unet import BayesianUNet, TissueMixture

GRID = (16, 16, 16)


def model(**changes: Any) -> BayesianUNet:
    torch.manual_seed(0)
    options = {"features": (8, 16), "passes": 6, "rays": 0, **changes}
    return BayesianUNet(**options).eval()


def run(detector: BayesianUNet, stage: int, x: Tensor) -> None:
    with torch.no_grad():
        for _ in detector.stages()[stage].step(x):
            pass
        detector.stages()[stage].finish()


class Taking(nn.Module):
    """A network whose passes take turns: class 0 for sure, class 1 for sure, and so on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.zeros(len(x), 3, *x.shape[2:])
        for one in logits:
            one[self.calls % 3] = 1e3
            self.calls += 1
        return logits


def test_the_score_is_the_variance_of_each_class_summed() -> None:
    """Six passes that are sure of each class twice: each has a mean of 1/3 and variance 2/9."""
    detector = model()
    detector.net = Taking()
    x = healthy_brains(1)
    with torch.no_grad():
        found = detector(x)
    torch.testing.assert_close(found, 3 * 2 / 9 * (x != 0))


def test_the_variance_is_of_passes_with_dropout_on() -> None:
    x = healthy_brains(1)
    with torch.no_grad():
        assert model()(x).max() > 1e-4
        assert model(dropout=0.0)(x).max() < 1e-6


def test_scoring_leaves_dropout_off_and_the_random_numbers_alone() -> None:
    detector, x = model(), healthy_brains(1)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with torch.no_grad():
        detector(x)
        assert torch.equal(torch.rand(3), expected)
        assert torch.equal(detector.net(x), detector.net(x))


def mixture(values: Tensor, classes: int) -> TissueMixture:
    found = TissueMixture(classes)
    for some in values.split(1000):
        found.add(some)
    found.fit()
    return found


def test_the_mixture_that_made_the_intensities_is_found() -> None:
    random = torch.Generator().manual_seed(0)
    made = ((6000, 0.9, 0.05), (2000, 0.2, 0.04), (12000, 0.6, 0.06))
    parts = [m + s * torch.randn(n, generator=random) for n, m, s in made]
    found = mixture(torch.cat(parts), 3)
    np.testing.assert_allclose(found.mean, [0.2, 0.6, 0.9], atol=0.01)
    np.testing.assert_allclose(found.std, [0.04, 0.06, 0.05], atol=0.01)
    np.testing.assert_allclose(found.share, [0.1, 0.6, 0.3], atol=0.02)


def test_probabilities_are_bayes_rule_by_hand() -> None:
    found = TissueMixture(2)
    found.mean.copy_(torch.tensor([0.3, 0.7]))
    found.std.copy_(torch.tensor([0.1, 0.2]))
    found.share.copy_(torch.tensor([0.25, 0.75]))
    # At 0.5: exp(-2) / 0.1 against exp(-1/2) / 0.2.
    dark, bright = 0.25 * np.exp(-2) / 0.1, 0.75 * np.exp(-0.5) / 0.2
    at = found(torch.tensor([[0.5]]))[0, :, 0]
    np.testing.assert_allclose(at, [dark / (dark + bright), bright / (dark + bright)], rtol=1e-5)


def test_one_intensity_for_all_still_gives_finite_classes() -> None:
    found = mixture(torch.full((5000,), 0.6), 3)
    for buffer in (found.mean, found.std, found.share):
        assert buffer.isfinite().all()
    assert found(torch.tensor([[0.0, 0.6, 3.0]])).isfinite().all()


def halves() -> Tensor:
    """`(1, 1, 16, 16, 16)`: 0.3 and 0.9, half of each, with one voxel of the other in the first."""
    x = torch.zeros(1, 1, *GRID)
    x[..., 2:8, 2:14, 2:14], x[..., 8:14, 2:14, 2:14] = 0.3, 0.9
    x[..., 4, 8, 8] = 0.9
    return x


def test_labels_are_tissues_from_dark_to_bright_without_lone_voxels() -> None:
    x = halves()
    for smooth, lone in ((0.0, 1), (1.0, 0)):
        detector = model(classes=2, smooth=smooth)
        run(detector, 0, x)
        labels = detector.labels(x)[0]
        assert (labels[8:14, 2:14, 2:14] == 1).all()
        assert labels[4, 8, 8] == lone
        assert (labels[2:8, 2:14, 2:14] == 0).sum() == 6 * 12 * 12 - lone


def test_tissues_are_counted_in_the_brain_only() -> None:
    detector = model(classes=2)
    run(detector, 0, halves())
    assert detector.tissues.counts.sum() == 12**3
    np.testing.assert_allclose(detector.tissues.mean, [0.3, 0.9], atol=0.01)


def test_the_loss_is_the_cross_entropy_with_the_labels_in_the_brain() -> None:
    detector, x = model(), healthy_brains(2)
    run(detector, 0, x)
    with torch.no_grad():
        shares = detector.net(x).softmax(dim=1)
        mine = shares.gather(1, detector.labels(x)[:, None])
        expected = -mine[x != 0].log().mean()
        torch.testing.assert_close(detector.validation_loss(x), expected)


def test_standardised_uncertainty_is_that_above_healthy_scans() -> None:
    x = healthy_brains(4)
    detector = model(grid=GRID, standardise=True, floor=0.01)
    run(detector, 2, x)
    with torch.no_grad():
        each = detector.uncertainty(x)
        mean, spread = each.mean(dim=0), each.std(dim=0, correction=0)
        expected = ((each[:1] - mean) / (spread + 0.01)).clamp(min=0)
        torch.testing.assert_close(detector(x[:1]), expected, rtol=1e-3, atol=1e-4)


def test_windows_of_any_size_are_scored() -> None:
    detector = model(features=(4, 8, 8, 8))
    with torch.no_grad():
        found = detector(torch.full((1, 1, 5, 9, 17), 0.5))
    assert found.shape == (1, 1, 5, 9, 17)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"standardise": True}, "needs grid"),
        ({"passes": 1}, "passes to be 2 or more"),
        ({"classes": 1}, "classes must be"),
    ],
)
def test_arguments_that_cannot_work_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        model(**changes)
