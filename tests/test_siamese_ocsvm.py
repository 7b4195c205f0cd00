"""What only the siamese autoencoder with one-class SVMs promises, against answers by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from phantoms import Scans, healthy_brains
from resuming import same_when_killed
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from volad.methods.siamese_ocsvm import SiameseOCSVM, discrepancy
from volad.train import Trainer


def model(**changes: Any) -> SiameseOCSVM:
    torch.manual_seed(0)
    return SiameseOCSVM(**{**SiameseOCSVM.tiny, **changes}).eval()


def collected(detector: SiameseOCSVM, x: Tensor) -> SiameseOCSVM:
    stage = detector.stages()[1]
    with torch.no_grad():
        for _ in stage.step(x):
            pass
        stage.finish()
    return detector


class Mean(nn.Module):
    """A code that one can work out: the mean of a patch and a constant."""

    def forward(self, rows: Tensor) -> Tensor:
        mean = rows.flatten(1).mean(dim=1, keepdim=True)
        return torch.cat([mean, torch.ones_like(mean)], dim=1)


def averaging(**changes: Any) -> SiameseOCSVM:
    # So wide and so strict that the middle of the controls is well inside.
    detector = model(code=2, nu=0.1, width=2.0, **changes)
    detector.net.encode = Mean()
    return detector


def test_the_patch_of_a_site_surrounds_its_cube_and_is_empty_beyond_the_grid() -> None:
    """Cubes of 2 voxels in patches of 4: the corner's reaches 1 voxel out on each side."""
    detector = averaging()
    x = torch.arange(16.0**3).reshape(1, 16, 16, 16) + 1
    first = x[0, :3, :3, :3].sum() / 64
    inner = x[0, 3:7, 5:9, 9:13].mean()  # cube (4:6, 6:8, 10:12), site (2, 3, 5)
    last = x[0, 13:, 13:, 13:].sum() / 64
    at = torch.tensor([0, (2 * 8 + 3) * 8 + 5, 511])
    torch.testing.assert_close(detector._codes(x, at)[:, 0], torch.stack([first, inner, last]))


def test_every_scan_gives_patches_of_the_same_places() -> None:
    detector = model()
    x = (
        torch.arange(16.0**3).reshape(1, 1, 16, 16, 16)
        * torch.tensor([1.0, 2.0])[:, None, None, None, None]
    )
    corner = torch.tensor([[0, 0, 0], [3, 5, 9], [12, 12, 12], [14, 0, 0]])
    cut = detector._cut(x, corner)
    assert cut.shape == (2, 4, 1, 4, 4, 4)
    assert torch.equal(cut[0, 1, 0], x[0, 0, 3:7, 5:9, 9:13])
    assert torch.equal(cut[1], 2 * cut[0])
    assert (cut[:, 3, 0, 2:] == 0).all()


def seen(detector: SiameseOCSVM, x: Tensor) -> Tensor:
    """The patches `(B * P, C, *patch)` that the loss of a validation sees."""
    rows: list[Tensor] = []
    hook = detector.net.encode.register_forward_hook(lambda _, args, __: rows.append(args[0]))
    detector.validation_loss(x)
    hook.remove()
    return rows[0]


def test_the_loss_is_the_error_in_the_brain_and_the_distance_of_pairs_from_their_mean() -> None:
    x = healthy_brains(3)
    with torch.no_grad():
        detector = model(similarity=0.7)
        rows = seen(detector, x)
        codes = detector.net.encode(rows)
        error = (detector.net.decode(codes) - rows)[rows != 0].square().mean()
        a, b, c = (codes - codes.mean(dim=0)).view(3, 16, -1)
        pairs = torch.cat([cosine_similarity(*pair, dim=-1) for pair in ((a, b), (b, c), (c, a))])
        expected = error + 0.7 * (1 - pairs).mean()
        torch.testing.assert_close(detector.validation_loss(x), expected)
        plain = model(similarity=0.0)
        torch.testing.assert_close(plain.validation_loss(x), error)


def test_a_scan_alone_is_its_own_pair() -> None:
    x = healthy_brains(1)
    with torch.no_grad():
        pair, plain = (model(similarity=s).validation_loss(x) for s in (1.0, 0.0))
    torch.testing.assert_close(pair, plain)


def test_places_are_drawn_where_there_is_brain() -> None:
    x = torch.zeros(2, 1, 16, 16, 16)
    x[..., 8:10, 8:10, 8:10] = 0.5
    assert (seen(model(), x).flatten(1) != 0).any(dim=1).all()


def test_the_discrepancy_of_two_codes_from_two_draws_by_hand() -> None:
    """`c = 4`: within, d^2 = 1 gives 4/5 and d^2 = 4 gives 4/8; across 1, 4/8, 4/5 and 4/5."""
    codes, drawn = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    expected = 4 / 5 + 4 / 8 - 2 * (1 + 4 / 8 + 4 / 5 + 4 / 5) / 4
    assert discrepancy(codes, drawn).item() == pytest.approx(expected)


def test_codes_like_the_prior_are_nearer_to_it() -> None:
    torch.manual_seed(0)
    drawn, alike = torch.randn(2, 200, 4)
    assert discrepancy(alike, drawn).abs() < 0.01
    assert discrepancy(alike + 1, drawn) > 0.05
    assert discrepancy(0.2 * alike, drawn) > 0.05


def test_a_weight_on_the_prior_adds_its_discrepancy() -> None:
    x = healthy_brains(2)
    with torch.no_grad():
        losses = [float(model(prior=p).validation_loss(x)) for p in (0.0, 1.0, 2.0)]
    assert losses[1] != losses[0]
    assert losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], abs=1e-5)


def brains(levels: Tensor) -> Tensor:
    """Scans that are alike everywhere: cubes of 12 voxels with air around, one a level."""
    x = torch.zeros(len(levels), 1, 16, 16, 16)
    x[..., 2:14, 2:14, 2:14] = levels.view(-1, 1, 1, 1, 1)
    return x


def test_scores_are_decisions_at_sites_and_interpolated_between_them() -> None:
    """Scans without differences within have the same score everywhere inside."""
    levels = torch.linspace(0.5, 0.7, 9)
    detector = collected(averaging(), brains(levels))
    asked = brains(torch.tensor([0.6, 5.0]))
    with torch.no_grad():
        found = detector(asked)
    at = torch.tensor([(4 * 8 + 4) * 8 + 4])  # a site whose patch is full
    decision = [-float(detector.svm(torch.tensor([[v, 1.0]]), at)) for v in (0.6, 5.0)]
    assert decision[0] < -0.05
    assert decision[1] == pytest.approx(1)
    for scan, expected in zip(found[:, 0, 6:10, 6:10, 6:10], decision, strict=True):
        torch.testing.assert_close(scan, torch.full_like(scan, expected))
    assert (found[asked == 0] == 0).all()
    # At the rim the score is not drawn to that of the air: 5.0 is as far out there.
    torch.testing.assert_close(found[1][asked[1] != 0], torch.ones(12**3))


def test_a_lone_outlier_is_found_where_it_is() -> None:
    detector = collected(averaging(), brains(torch.linspace(0.5, 0.7, 9)))
    x = brains(torch.tensor([0.6]))
    x[..., 8:10, 8:10, 8:10] = 5.0
    with torch.no_grad():
        found = detector(x)[0, 0]
    assert found[8:10, 8:10, 8:10].min() > 0
    assert found[2:5, 2:5, 2:5].max() < -0.05


def test_where_most_controls_have_no_brain_nothing_is_scored() -> None:
    x = brains(torch.linspace(0.5, 0.7, 9))
    more = x[4:5].clone()
    more[..., :2, 4:12, 4:12] = 0.6
    with torch.no_grad():
        found = collected(averaging(), x)(more)
    assert found.isfinite().all()
    assert (found[..., 0, 4:12, 4:12] == 0).all()


def test_a_grid_that_is_no_multiple_of_the_stride_is_covered() -> None:
    grid = (13, 16, 15)
    x = healthy_brains(9)[..., :13, :, :15]
    with torch.no_grad():
        found = collected(averaging(grid=grid), x)(x[:1])
    assert found.shape == (1, 1, *grid)
    assert (found[..., 12, :, :][x[:1, :, 12] != 0] != 0).all()


def test_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"volumes of \(16, 16, 16\), got \(16, 16, 15\)"):
        model()(torch.zeros(1, 1, 16, 16, 15))


@pytest.mark.parametrize("changes", [{"patch": 5}, {"patch": 2, "stride": 4}, {"stride": 3}])
def test_patches_that_cannot_be_centred_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="patch must be larger than stride"):
        model(**changes)


def test_the_model_as_it_comes_fits_into_a_bundle() -> None:
    held = SiameseOCSVM().state_dict().values()
    assert sum(v.numel() * v.element_size() for v in held) < 25e6


def test_a_training_killed_after_any_epoch_ends_as_one_that_was_not(tmp_path: Path) -> None:
    def trainer(checkpoint: Path) -> Trainer:
        return Trainer(
            model(),
            Scans(healthy_brains(6)),
            None,
            tmp_path / "model.pt",
            checkpoint=checkpoint,
            max_epochs=2,
            batch=3,
        )

    done = same_when_killed(trainer, tmp_path)
    assert len(done) == 3  # and the collecting stage
