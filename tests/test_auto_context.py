"""The voxelwise network that looks again: what each pass learns from and sees."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from phantoms import Scans, healthy_brains
from torch import Tensor

from volad import skeleton
from volad.methods.auto_context import AutoContext, _some
from volad.tensors import brain_of
from volad.train import Trainer
from volad.voxelwise import Voxelwise

#: All of a window.
WHOLE = (slice(None),) * 5


def tiny(**settings: object) -> AutoContext:
    torch.manual_seed(0)
    return AutoContext(**{**AutoContext.tiny, **settings})  # type: ignore[arg-type]


def trained(tmp_path: Path, **settings: object) -> AutoContext:
    method, brains = tiny(**settings), healthy_brains(8)
    Trainer(
        method, Scans(brains), None, tmp_path / "model.pt", max_epochs=10, batch=4, lr=3e-3
    ).run()
    return method.eval().requires_grad_(False)


def _logit(chance: Tensor) -> Tensor:
    return torch.logit(chance.double())


def test_the_drawn_voxels_are_as_many_as_asked_for_and_carry_their_label() -> None:
    method = tiny(anomalous=50, healthy=200)
    values, label = method._drawn(healthy_brains(4), 0)
    assert values.shape == (len(label), 26)
    assert int((label == 0).sum()) == 4 * 200
    assert 0 < int(label.sum()) <= 4 * 50


def test_some_are_drawn_of_many_and_all_of_few() -> None:
    where = torch.zeros(1, 1, 4, 4, 4, dtype=torch.bool)
    where[0, 0, 1, 2, 3] = where[0, 0, 3, 0, 0] = True
    assert sorted(_some(where, 9).tolist()) == [1 * 16 + 2 * 4 + 3, 3 * 16]
    assert len(_some(where, 1)) == 1


def test_values_are_standardised_by_all_that_was_measured() -> None:
    net = Voxelwise(3, 4, 1)
    torch.manual_seed(0)
    values = 5 + 2 * torch.randn(4, 1000, 3)
    for part in values:
        net.measure(part)
    flat = values.flatten(0, 1)
    assert torch.allclose(net.mean, flat.mean(dim=0), atol=1e-3)
    seen: list[Tensor] = []
    net.members[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    net(flat)
    assert torch.allclose(seen[0].std(dim=0), torch.ones(3), atol=1e-2)


def test_a_later_pass_sees_what_an_earlier_one_found(tmp_path: Path) -> None:
    method = trained(tmp_path)
    x = healthy_brains(1, seed=1)
    before = method._seen(x, WHOLE, 1)
    with torch.no_grad():
        for member in method._network(0).members:
            member[-1].bias += 3.0  # type: ignore[index,operator]
    after = method._seen(x, WHOLE, 1)
    assert torch.equal(before[:, :26], after[:, :26])
    inside = brain_of(x)[:, 0] > 0
    assert torch.allclose((after - before)[:, 26][inside], torch.tensor(3.0), atol=1e-4)
    assert not torch.equal(method(x), torch.zeros_like(x))


def test_passes_learn_one_after_the_other() -> None:
    method, x = tiny(), healthy_brains(4)
    first, second = method.stages()
    for stage, number in ((first, 0), (second, 1)):
        method.zero_grad(set_to_none=True)
        name, loss = next(stage.step(x))
        loss.backward()  # type: ignore[no-untyped-call]
        learns = {key.split(".")[1] for key, p in method.named_parameters() if p.grad is not None}
        assert (name, learns) == ("passes", {str(number)})
        stage.finish()
        assert int(method.finished) == number + 1


def test_until_the_second_pass_is_trained_the_first_one_answers() -> None:
    method, x = tiny().eval(), healthy_brains(1)
    list(method.stages()[0].step(healthy_brains(4)))
    method.eval()
    with torch.no_grad():
        one = method(x)
        method.finished.fill_(1)
        assert torch.equal(method(x), one)
        method.finished.fill_(2)
        assert not torch.equal(method(x), one)


def test_scores_are_chances_in_a_scan_and_not_among_the_drawn() -> None:
    method, x = tiny(rarity=30.0, passes=1, score="chance").eval(), healthy_brains(1)
    even = tiny(rarity=1.0, passes=1, score="chance").eval()
    with torch.no_grad():
        rare, drawn = method(x), even(x)
    inside = x != 0
    assert not rare[~inside].any()
    lowered = _logit(drawn[inside]) - _logit(rare[inside])
    assert torch.allclose(lowered, torch.full_like(lowered, math.log(30.0)), atol=1e-2)


def test_the_answer_is_the_mean_of_all_networks_or_the_last_ones(tmp_path: Path) -> None:
    method, x = trained(tmp_path), healthy_brains(1, seed=1)
    method.average = True
    with torch.no_grad():
        both = method._logits(x, None, 2)
        first = method._logits(x, WHOLE, 1)
        method.average = False
        assert torch.equal(method._logits(x, WHOLE, 1), first)
        last = method._logits(x, WHOLE, 2)
    torch.testing.assert_close(both, (first + last) / 2)
    assert not torch.equal(first, last)


def test_log_odds_rank_as_chances_do_and_are_0_where_nothing_is_likely() -> None:
    x = healthy_brains(1)
    with torch.no_grad():
        chance, found = (tiny(passes=1, score=kind).eval()(x) for kind in ("chance", "log_odds"))
    odds = chance / (1 - chance)
    torch.testing.assert_close(found, torch.log1p(50 * odds), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="score must be"):
        tiny(score="odds")


def test_a_window_is_scored_as_it_is_alone_and_in_larger_air(tmp_path: Path) -> None:
    method = trained(tmp_path)
    x = healthy_brains(2, seed=1)
    found = method(x)
    assert torch.equal(method(x[1:]), found[1:])
    wide = torch.nn.functional.pad(x, [4] * 6)
    inner = method(wide)[..., 4:-4, 4:-4, 4:-4]
    assert torch.allclose(inner, found, atol=1e-5)


def test_the_second_look_knows_more(tmp_path: Path) -> None:
    """It may not do worse than the first on anomalies of the kind that both have learned."""
    method = trained(tmp_path, updates=60, hidden=32)
    held_out = healthy_brains(8, seed=2)
    second = float(method.validation_loss(held_out))
    method.finished.fill_(0)
    assert second < float(method.validation_loss(held_out))


def test_windows_without_brain_teach_nothing() -> None:
    method, air = tiny(), torch.zeros(2, 1, 16, 16, 16)
    updates = list(method._learn(0, air))
    assert [float(loss.detach()) for _, loss in updates] == [0.0] * method.updates
    assert not method._network(0).count
    assert float(method.validation_loss(air)) == 0.0


def test_what_mni152_has_is_no_part_of_the_weights() -> None:
    method = tiny(prior=True, mirror=True)
    assert "known" not in method.state_dict()
    assert method.passes[0].size == 26 + (2 + 3) + (15 + 3 + 5)
    assert tiny(prior=True, mirror=True, relative=False).passes[0].size == 26 + 2 + 15


def test_the_first_batch_tells_what_healthy_scans_are(tmp_path: Path) -> None:
    method = tiny(prior=True, mirror=True, atlas=True, updates=2, passes=1)
    assert method.normal is not None
    known = method.known
    assert known is not None
    brain = known[:, 2:3] > 0.3
    x = torch.cat([brain * (a + b * known[:, 2:3]) for a, b in ((0.2, 0.6), (0.9, -0.5))])
    list(method.stages()[0].step(x))
    maps = method.normal.maps.clone()
    assert method.normal.fitted
    assert maps.any()
    list(method.stages()[0].step(x.flip(1, 2)))
    assert torch.equal(method.normal.maps, maps)
    assert torch.isfinite(method.eval()(x[:1])).all()


def test_a_trace_is_refused() -> None:
    """It would cut every other brain to the box of the one that it saw."""
    with pytest.raises(RuntimeError, match="run the bundle"):
        torch.jit.trace(tiny().eval(), healthy_brains(1), check_trace=False)


def test_an_atlas_needs_places() -> None:
    with pytest.raises(ValueError, match="atlas needs prior"):
        tiny(atlas=True)


def test_its_bundle_does_not_smooth_what_it_found(tmp_path: Path) -> None:
    skeleton.create(tmp_path / "b", "auto_context", arguments={})
    skeleton.create(tmp_path / "c", "ae", arguments={})
    steps = [
        [step["_target_"] for step in config["postprocessing"]["transforms"]]
        for config in (
            json.loads((tmp_path / name / "configs" / "inference.json").read_text())
            for name in "bc"
        )
    ]
    assert steps[1] == ["volad.postprocess.MedianSmooth", *steps[0]]
