"""What only the autoencoder promises: its options, against answers one can work out."""

from __future__ import annotations

import pytest
import torch

from volad.methods.ae import AE

GRID = (16, 16, 16)


def aligned(**changes: object) -> AE:
    torch.manual_seed(0)
    options = {"features": (8, 16), "code": 4, "convs": 1, "grid": GRID, "residual": "absolute"}
    return AE(**{**options, **changes}).eval()  # type: ignore[arg-type]


def healthy(count: int) -> torch.Tensor:
    """Scans `(count, 1, 16, 16, 16)` with a rim of 4 voxels of air."""
    x = torch.zeros(count, 1, *GRID)
    x[..., 4:12, 4:12, 4:12] = 0.5 + 0.1 * torch.rand(count, 1, 8, 8, 8)
    return x


def run(model: AE, stage: int, x: torch.Tensor) -> None:
    for _ in model.stages()[stage].step(x):
        pass


def test_trust_goes_from_the_mean_scan_to_the_networks_answer() -> None:
    x = healthy(3)
    models = {trust: aligned(atlas=True, trust=trust) for trust in (0.25, 1.0)}
    for model in models.values():
        run(model, 0, x)  # the stage that averages
    mean = x.mean(dim=0, keepdim=True)
    with torch.no_grad():
        whole = models[1.0].reconstruct(x)
        quarter = models[0.25].reconstruct(x)
    torch.testing.assert_close(quarter, (0.75 * mean + 0.25 * whole) * (x != 0))


def test_a_network_that_answers_nothing_leaves_the_mean_scan() -> None:
    model, x = aligned(atlas=True), healthy(4)
    run(model, 0, x)
    for parameter in model.net.out.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        torch.testing.assert_close(
            model.reconstruct(x[:1]), x.mean(dim=0, keepdim=True) * (x[:1] != 0)
        )


def test_standardising_divides_by_the_healthy_spread_of_the_residual() -> None:
    model, x = aligned(standardise=True, floor=0.05), healthy(6)
    with torch.no_grad():
        run(model, 1, x)
        difference = x - model.reconstruct(x)
        spread = difference.std(dim=0, correction=0)
        expected = ((difference[:1] - difference.mean(dim=0)) / (spread + 0.05)).abs() * (
            x[:1] != 0
        )
        torch.testing.assert_close(model(x[:1]), expected, rtol=1e-3, atol=1e-4)


def test_mirrored_statistics_are_those_of_scans_and_mirror_images() -> None:
    x = healthy(3)
    mirrored, doubled = aligned(atlas=True, mirror=True), aligned(atlas=True)
    run(mirrored, 0, x)
    run(doubled, 0, torch.cat([x, x.flip(2)]))
    assert mirrored.atlas is not None
    assert doubled.atlas is not None
    torch.testing.assert_close(mirrored.atlas.mean, doubled.atlas.mean)
    torch.testing.assert_close(mirrored.atlas.mean, mirrored.atlas.mean.flip(1))


def test_what_is_not_brain_scores_nothing() -> None:
    model, x = aligned(), healthy(1)
    with torch.no_grad():
        assert (model(x)[x == 0] == 0).all()


def test_corruption_is_undone_in_training_only() -> None:
    model, x = aligned(corruption="gaussian", amount=5.0), healthy(1)
    with torch.no_grad():
        torch.testing.assert_close(model(x), model(x))
        losses = [float(next(iter(model.training_step(x)))[1]) for _ in range(2)]
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"grid": None, "standardise": True}, "needs grid"),
        ({"grid": None, "atlas": True}, "atlas needs grid"),
        ({"grid": None, "bottleneck": "dense"}, "dense bottleneck needs grid"),
        ({"corruption": "salt"}, "salt_and_pepper"),
        ({"trust": 0.0}, "trust must be"),
        ({"residual": "l3"}, "residual must be"),
        ({"grid": (15, 16, 16), "bottleneck": "dense"}, "multiples of 4"),
    ],
)
def test_arguments_that_cannot_work_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        aligned(**changes)
