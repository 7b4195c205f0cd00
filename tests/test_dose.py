"""What only DoSE promises: the scan's statistics and scores, against answers one can work out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from phantoms import Scans, healthy_brains, lesion_mask, with_lesion
from test_methods import of_scan, trained
from torch import Tensor, nn

from volad.methods.dose import STATISTICS, DoSE, _KernelDensity
from volad.train import Trainer
from volad.variational import normal

GRID = (16, 16, 16)


def model(**changes: Any) -> DoSE:
    torch.manual_seed(0)
    return DoSE(**{**DoSE.tiny, **changes}).eval()


class Known(nn.Module):
    """A member whose code is N(1, 0.25) for every scan, and that decodes to a constant."""

    def __init__(self, answer: float) -> None:
        super().__init__()
        self.answer = answer

    def posterior(self, x: Tensor) -> Any:
        mean = torch.ones(len(x), 1)
        return normal(torch.cat([mean, mean * math.log(0.25)], dim=1))

    def generate(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.full_like(x, self.answer)


def known(monkeypatch: pytest.MonkeyPatch, *answers: float, **changes: Any) -> DoSE:
    monkeypatch.setattr("volad.methods.dose.GaussianAutoencoder", Known)
    detector = DoSE.__new__(DoSE)
    nn.Module.__init__(detector)
    detector.atlas = None
    detector.scale, detector.samples = 0.5, changes.get("samples", 8)
    detector.members = nn.ModuleList(Known(answer) for answer in answers)
    return detector


def scan(value: float = 1.0) -> Tensor:
    """`(1, 1, 4, 4, 4)` with 8 voxels of brain."""
    x = torch.zeros(1, 1, 4, 4, 4)
    x[..., 1:3, 1:3, 1:3] = value
    return x


def log_normal(difference: float, scale: float = 0.5) -> float:
    return -((difference / scale) ** 2) / 2 - math.log(scale * math.sqrt(2 * math.pi))


def test_the_statistics_are_those_of_the_paper_per_brain_voxel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The code is N(1, 1/4): rate, cross-entropy and entropy are known, as is the likelihood."""
    found = known(monkeypatch, 0.6, 0.6).evidence(scan()).statistics[0]
    entropy = math.log(0.5 * math.sqrt(2 * math.pi * math.e))
    cross = math.log(2 * math.pi) / 2 + (0.25 + 1) / 2
    expected = [(cross - entropy) / 8, cross / 8, entropy / 8, -log_normal(0.4)]
    assert found[:4].tolist() == pytest.approx(expected, rel=1e-5)


def test_the_importance_weighted_bound_is_the_likelihood_where_the_code_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A posterior that is the prior gives every sample the weight of its likelihood alone."""
    detector = known(monkeypatch, 0.6, 0.6)
    for member in detector.members:
        member.posterior = lambda x: normal(torch.zeros(len(x), 2))  # type: ignore[assignment]
    found = detector.evidence(scan()).statistics[0]
    assert found[4].item() == pytest.approx(log_normal(0.4), rel=1e-5)
    assert found[0].item() == 0


def test_the_importance_weighted_bound_is_the_log_of_the_mean_weight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = torch.Generator().manual_seed(0)
    z = [1 + 0.5 * float(torch.randn(1, generator=random)) for _ in range(3)]
    weights = [
        math.exp(8 * log_normal(0.4) + log_normal(value, 1.0) - log_normal(value - 1, 0.5))
        for value in z
    ]
    found = known(monkeypatch, 0.6, 0.6, samples=3).evidence(scan()).statistics[0]
    assert found[4].item() == pytest.approx(math.log(sum(weights) / 3) / 8, rel=1e-4)


def test_waic_is_the_mean_bound_less_the_variance_at_each_voxel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evidence = known(monkeypatch, 0.6, 0.8, 1.1).evidence(scan())
    likelihoods = [log_normal(d) for d in (0.4, 0.2, -0.1)]
    mean = float(np.mean(likelihoods)) - float(evidence.statistics[0, 0])
    expected = -(mean - float(np.var(likelihoods, ddof=1)))
    assert evidence.waic.item() == pytest.approx(expected, rel=1e-5)


def test_members_that_disagree_make_a_scan_less_like_healthy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the same mean likelihood: distances 0.3 and 0.3 against 0.1 and sqrt(0.17)."""
    agreed = known(monkeypatch, 0.7, 0.7).evidence(scan()).waic
    apart = known(monkeypatch, 0.9, 1 - math.sqrt(0.17)).evidence(scan()).waic
    assert apart > agreed + 0.01


def test_the_size_of_the_brain_is_no_statistic(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = scan(), torch.ones(1, 1, 4, 4, 4)
    detector = known(monkeypatch, 0.6, 0.8)
    first, second = (detector.evidence(x) for x in (small, large))
    torch.testing.assert_close(first.statistics[:, 3], second.statistics[:, 3])


def healthy_statistics(count: int) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(0)) * 3 + 10


def test_densities_are_those_of_scipy() -> None:
    from scipy.stats import norm

    known, new = healthy_statistics(30), torch.tensor([[9.0, 12.0], [30.0, 10.0]])
    head = _KernelDensity(64, 2, bandwidth=0.2)
    for batch in known.split(7):
        head.update(batch)
    spread = known.numpy().std(axis=0)
    expected = np.zeros(2)
    for n in range(2):
        at = norm(known.numpy()[:, n] / spread[n], 0.2)
        expected -= [
            np.logaddexp.reduce(at.logpdf(v / spread[n])) - np.log(30) for v in new.numpy()[:, n]
        ]
    np.testing.assert_allclose(head(new), expected, rtol=1e-4)


def test_of_more_scans_than_it_remembers_it_keeps_a_random_sample() -> None:
    """Of the 400 numbers 0 to 399 each has the same chance: not the first 50, not the last."""
    head = _KernelDensity(50, 1, bandwidth=0.2)
    for batch in torch.arange(400.0)[:, None].split(8):
        head.update(batch)
    kept = head.values[:, 0]
    assert head.count == 400
    assert len(set(kept.tolist())) == 50
    assert 160 < kept.mean() < 240  # 200, give or take three times 16
    again = _KernelDensity(50, 1, bandwidth=0.2)
    again.update(torch.arange(400.0)[:, None])
    assert torch.equal(again.values, head.values)


def test_scans_that_all_agree_give_finite_scores() -> None:
    head = _KernelDensity(8, 2, bandwidth=0.2)
    assert head(torch.ones(1, 2)).isfinite().all()  # no scan yet
    head.update(torch.ones(3, 2))
    assert head(torch.tensor([[1.0, 1e4]])).isfinite().all()


def test_the_last_stage_remembers_every_training_scan(tmp_path: Path) -> None:
    detector, x = model(remembered=64), healthy_brains(10)
    epochs = Trainer(detector, Scans(x), None, tmp_path / "model.pt", max_epochs=2, batch=4).run()
    assert [epoch.stage for epoch in epochs] == [0, 0, 1]
    assert detector.density.count == 10
    with torch.no_grad():
        expected = detector.evidence(x).statistics
    torch.testing.assert_close(detector.density.values[:10], expected)
    assert expected.shape == (10, STATISTICS)


def test_a_bright_lesion_raises_the_scores_of_the_scan() -> None:
    detector, healthy = trained("dose", 3), healthy_brains(4, seed=1)
    assert isinstance(detector, DoSE)
    lesion = lesion_mask().expand(1, 1, *GRID)
    for x in healthy.split(1):
        before = of_scan(detector, x)
        after = of_scan(detector, with_lesion(x, lesion, "bright"))
        assert all(after[key] > before[key] for key in ("waic", "dose"))


def test_a_scan_of_another_contrast_is_unlike_healthy() -> None:
    detector, x = trained("dose", 3), healthy_brains(1, seed=1)
    before, after = of_scan(detector, x), of_scan(detector, 1.5 * x)
    assert all(after[key] > before[key] for key in ("waic", "dose"))


def test_a_scan_without_brain_scores_nothing() -> None:
    found = of_scan(trained("dose", 3), torch.zeros(1, 1, *GRID))
    assert {found[key] for key in ("waic", "dose")} == {0.0}


def test_a_dense_code_takes_its_grid() -> None:
    detector = model(grid=GRID)
    with torch.no_grad():
        assert detector(healthy_brains(2)).shape == (2, 1, *GRID)
        assert detector.evidence(healthy_brains(2)).statistics.isfinite().all()


def test_a_single_member_is_no_ensemble() -> None:
    with pytest.raises(ValueError, match="members must be 2 or more"):
        model(members=1)
