"""The segmentation network on synthetic anomalies: its loss, its inputs, its score."""

from __future__ import annotations

import math

import pytest
import torch
from phantoms import healthy_brains
from torch import Tensor

from volad.anomalies import Painted
from volad.methods.synthetic_anomaly import SyntheticAnomaly


def tiny(**settings: object) -> SyntheticAnomaly:
    torch.manual_seed(0)
    return SyntheticAnomaly(**{**SyntheticAnomaly.tiny, **settings})  # type: ignore[arg-type]


def loss_of(logits: Tensor, label: Tensor, sure: Tensor, dice: float, rare: float = 1.0) -> float:
    method = tiny(dice=dice, rare=rare)
    method._logits = lambda x: logits  # type: ignore[method-assign]
    return float(method._loss(Painted(logits, label, sure)))


def test_the_loss_by_hand() -> None:
    """Two sure voxels, one of them anomalous, at a chance of one half each; a third is unsure."""
    logits = torch.tensor([0.0, 0.0, 9.0]).view(1, 1, 3, 1, 1)
    label = torch.tensor([1.0, 0.0, 0.0]).view_as(logits)
    sure = torch.tensor([1.0, 1.0, 0.0]).view_as(logits)
    assert loss_of(logits, label, sure, 0.0) == pytest.approx(math.log(2))
    logits = torch.tensor([0.0, math.log(3), 9.0]).view_as(label)
    # The healthy voxel, at a chance of 3/4, costs ln 4; the anomalous one counts three times.
    by_hand = (3 * math.log(2) + math.log(4)) / 4
    assert loss_of(logits, label, sure, 0.0, rare=3.0) == pytest.approx(by_hand)


def test_the_dice_term_by_hand() -> None:
    logits = torch.zeros(1, 1, 3, 1, 1)
    label = torch.tensor([1.0, 0.0, 0.0]).view_as(logits)
    sure = torch.tensor([1.0, 1.0, 0.0]).view_as(logits)
    # Soft Dice: (2 * 0.5 + 1) / (1 + 1 + 1).
    assert loss_of(logits, label, sure, 1.0) == pytest.approx(math.log(2) + 1 - 2 / 3)


def test_a_perfect_answer_costs_nothing() -> None:
    label = (torch.rand(2, 1, 4, 4, 4) < 0.3).float()
    assert loss_of(40 * (2 * label - 1), label, torch.ones_like(label), 1.0) < 1e-6


def test_each_draw_is_an_update() -> None:
    x = healthy_brains(2)
    updates = list(tiny(draws=3).training_step(x))
    assert [name for name, _ in updates] == ["net"] * 3
    assert len({float(loss.detach()) for _, loss in updates}) == 3  # other anomalies each time


def test_the_validation_loss_draws_the_same_anomalies_and_leaves_the_seed_alone() -> None:
    method, x = tiny().eval(), healthy_brains(2)
    torch.manual_seed(5)
    first, after = method.validation_loss(x), torch.rand(())
    torch.manual_seed(6)
    assert torch.equal(method.validation_loss(x), first)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(()), after)


def test_the_mirror_image_is_an_input_of_its_own() -> None:
    method, x = tiny(mirror=True).eval(), healthy_brains(1)
    seen: list[Tensor] = []
    method.net.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        method(x)
    assert torch.equal(seen[0][:, :1], x)
    assert torch.equal(seen[0][:, 1:], x.flip(2))


def test_the_prior_is_mni152_and_not_part_of_the_weights() -> None:
    method = tiny(prior=True)
    assert method.prior is not None
    assert method.prior.shape == (1, 2, 80, 96, 88)
    grey, white = method.prior[0]
    assert (grey + white).max() < 1.05
    assert float(white.mean()) > 0.05
    assert "prior" not in method.state_dict()


def test_scores_are_chances_and_0_outside_the_brain() -> None:
    x = healthy_brains(1)
    with torch.no_grad():
        found = tiny().eval()(x)
    assert not found[x == 0].any()
    assert ((found[x != 0] > 0) & (found[x != 0] < 1)).all()
