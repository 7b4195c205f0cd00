"""The dense bottleneck: closed it is one, it starts from principal components, and it is used."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from phantoms import Scans
from torch import Tensor

from volad.dense_code import DenseCode
from volad.methods._base import Reconstruction
from volad.methods.ae import AE
from volad.methods.dose import DoSE
from volad.methods.vae import VAE
from volad.train import Trainer

GRID = (16, 16, 16)


def features(count: int, rank: int, seed: int = 0) -> Tensor:
    """`(count, 8, 2, 2, 2)` that lie in a plane of `rank` dimensions away from 0."""
    draws = torch.Generator().manual_seed(seed)
    basis = torch.randn(rank, 64, generator=torch.Generator().manual_seed(9))
    rows = torch.randn(count, rank, generator=draws) @ basis + 3.0
    return rows.view(count, 8, 2, 2, 2)


def passed(code: DenseCode, x: Tensor) -> Tensor:
    with torch.no_grad():
        return code(x).flatten(1)


def closed(x: Tensor, code: int, batch: int) -> DenseCode:
    torch.manual_seed(0)
    made = DenseCode(3, 8, code, (2, 2, 2)).eval()
    for part in x.split(batch):
        made.measure(part)
    made.close()
    return made


def test_open_it_lets_everything_pass_and_closed_as_much_as_the_code_holds() -> None:
    x = features(40, 7)
    code = DenseCode(3, 8, 3, (2, 2, 2)).eval()
    ranks = [torch.linalg.matrix_rank(passed(code, x) - passed(code, x).mean(dim=0), rtol=1e-4)]
    code.measure(x)
    code.close()
    ranks.append(torch.linalg.matrix_rank(passed(code, x) - passed(code, x).mean(dim=0), rtol=1e-4))
    assert [int(rank) for rank in ranks] == [7, 3]


@pytest.mark.parametrize("batch", [2, 5, 40])
def test_a_code_as_long_as_the_features_differ_loses_nothing(batch: int) -> None:
    x = features(40, 4)
    code = closed(x, 4, batch)
    still_open = DenseCode(3, 8, 4, (2, 2, 2)).eval()
    still_open.load_state_dict({**code.state_dict(), "closed": torch.zeros(())})
    torch.testing.assert_close(passed(code, x), passed(still_open, x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("batch", [3, 40])
def test_it_starts_from_the_principal_components(batch: int) -> None:
    torch.manual_seed(0)
    strong = features(40, 2) + 0.05 * torch.randn(40, 8, 2, 2, 2)
    code = closed(strong, 2, batch)
    with torch.no_grad():
        rows = code.squeeze(strong).flatten(1)
        _, strength, components = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)
        alike = (code.encode.weight @ components[:2].T).abs()
    torch.testing.assert_close(code.mean, rows.mean(dim=0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(code.strength, strength[:2], rtol=2e-2, atol=1e-3)
    torch.testing.assert_close(alike, torch.eye(2), rtol=0, atol=2e-2)


def test_without_features_it_has_nothing_to_start_from() -> None:
    with pytest.raises(ValueError, match="measure features first"):
        DenseCode(3, 8, 2, (2, 2, 2)).close()


def test_dropout_acts_on_the_closed_code_while_training_only() -> None:
    x = features(6, 4)
    code = DenseCode(3, 8, 4, (2, 2, 2), dropout=0.5).eval()
    code.measure(x)
    code.close()
    assert torch.equal(passed(code, x), passed(code, x))
    assert not torch.equal(passed(code.train(), x), passed(code, x))


def balls(count: int, seed: int) -> Tensor:
    """Scans `(count, 1, 16, 16, 16)` of 0.4, with a ball whose brightness is all that differs."""
    axis = torch.arange(16.0) - 7.5
    apart = axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None] ** 2
    draws = torch.Generator().manual_seed(seed)
    bright = torch.rand(count, 1, 1, 1, 1, generator=draws) * 0.4
    return 0.4 + bright * torch.sigmoid((5.0 - apart.sqrt()) * 2)


DENSE: dict[str, Any] = {"features": (8, 16), "convs": 1, "code": 2, "grid": GRID}


@pytest.mark.parametrize(
    "model",
    [
        partial(AE, bottleneck="dense", atlas=True),
        partial(AE, bottleneck="dense"),
        partial(VAE, bottleneck="dense", atlas=True),
        partial(VAE, bottleneck="dense"),
        partial(DoSE, members=2, samples=2, atlas=True),
    ],
)
def test_counterparts_follow_what_makes_a_scan_differ(
    model: Callable[..., Reconstruction], tmp_path: Path
) -> None:
    """A code that is the same for all scans makes a z-score of an autoencoder."""
    torch.manual_seed(0)
    detector = model(**DENSE)
    Trainer(
        detector, Scans(balls(24, 1)), None, tmp_path / "model.pt", max_epochs=12, batch=4, lr=2e-3
    ).run()
    x = balls(12, 2)
    with torch.no_grad():
        x_hat = detector.eval().reconstruct(x)
    own, followed = (values - values.mean(dim=0) for values in (x, x_hat))
    assert float((own - followed).square().mean() / own.square().mean()) < 0.5
