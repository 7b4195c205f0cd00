"""The training loop, on methods of one or two weights that a person can follow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from phantoms import Scans
from torch import Tensor, nn

from volad.errors import UsageError, VoladError
from volad.methods._base import Method, Stage, Update
from volad.train import Epoch, Trainer


def windows(count: int = 6) -> Scans:
    """2D windows `(1, 4, 4)` of ones, the first scaled by 1, the second by 2, and so on."""
    return Scans(torch.arange(1.0, count + 1).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4))


def settings(**changes: Any) -> dict[str, Any]:
    return {"max_epochs": 4, "batch": 2, "lr": 0.1, **changes}


class Weight(nn.Module):
    """One number."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(value))


class Slider(Method):
    """A weight that training pulls to 1, about 0.1 a step, while the best one is 0.3."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Weight()
        self.register_buffer("steps", torch.tensor(0.0))

    def stages(self) -> Sequence[Stage]:
        return [Stage(self.step)]

    def step(self, x: Tensor) -> Iterator[Update]:
        self.steps += 1
        yield "net", (self.net.w - 1).square()

    def validation_loss(self, x: Tensor) -> Tensor:
        return (self.net.w - 0.3).square()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.net.w


class ThreeStages(Method):
    """Learns a noisy filter, then measures its output, then learns a scale: all a stage can do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Dropout(0.3), nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1))
        self.head = Weight(1.0)
        self.register_buffer("total", torch.tensor(0.0))
        self.register_buffer("mean", torch.tensor(0.0))

    def stages(self) -> Sequence[Stage]:
        return [
            Stage(self.filter),
            Stage(self.measure, epochs=1, finish=self.fit, learns=False),
            Stage(self.scale, epochs=3),
        ]

    def filter(self, x: Tensor) -> Iterator[Update]:
        yield "net", (self.net(x) - x).square().mean()

    def measure(self, x: Tensor) -> Iterator[Update]:
        self.total += self.net(x).mean(dim=(1, 2, 3)).sum()
        yield from ()

    def fit(self) -> None:
        self.mean.copy_(self.total / 6)

    def scale(self, x: Tensor) -> Iterator[Update]:
        noisy = x + torch.randn_like(x)
        yield "head", (self.head.w * self.net(noisy) - self.mean).square().mean()

    def forward(self, x: Tensor) -> Tensor:
        score: Tensor = (self.head.w * self.net(x) - self.mean).abs()
        return score


def results(epochs: Sequence[Epoch]) -> list[tuple[Any, ...]]:
    """What epochs did, without the time they took."""
    return [(e.stage, e.number, e.losses, e.validation) for e in epochs]


def state(method: Method) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in method.state_dict().items()}


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize(("ema", "patience"), [(0.0, 2), (0.8, 0), (0.8, 2)])
@pytest.mark.parametrize("kind", [ThreeStages, Slider])
def test_a_training_killed_after_any_epoch_ends_as_one_that_was_not(
    kind: type[Method], patience: int, ema: float, schedule: str, tmp_path: Path
) -> None:
    options = settings(
        ema=ema, patience=patience, schedule=schedule, max_epochs=7 if patience else 3, seed=3
    )

    def trainer(name: str) -> Trainer:
        method = kind()
        file = tmp_path / f"{name}.pt"
        return Trainer(method, windows(), windows(3), tmp_path / "m.pt", checkpoint=file, **options)

    torch.manual_seed(0)
    start = kind().state_dict()
    whole = trainer("whole")
    whole.method.load_state_dict(start)
    done = whole.run()
    assert len(done) >= 3
    for count in range(1, len(done) + 1):
        first = trainer(f"killed{count}")
        first.method.load_state_dict(start)
        epochs = first.epochs()
        before = [next(epochs) for _ in range(count)]
        epochs.close()
        second = trainer(f"killed{count}")  # its own first weights are others
        after = second.run()
        assert results([*before, *after]) == results(done)
        for key, value in whole.method.state_dict().items():
            assert torch.equal(second.method.state_dict()[key], value), (count, key)


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    method = Slider()
    file, out = tmp_path / "checkpoint.pt", tmp_path / "model.pt"
    assert len(Trainer(method, windows(), None, out, checkpoint=file, **settings()).run()) == 4
    again = Slider()
    assert Trainer(again, windows(), None, out, checkpoint=file, **settings()).run() == []
    assert torch.equal(again.net.w, method.net.w)


def test_the_seed_alone_decides(tmp_path: Path) -> None:
    ends = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        method = ThreeStages()
        torch.manual_seed(len(ends))
        Trainer(method, windows(), None, tmp_path / "m.pt", **settings(seed=seed)).run()
        ends.append(state(method))
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    assert any(not torch.equal(ends[0][key], ends[2][key]) for key in ends[0])


def test_every_epoch_draws_anew_and_only_learning_augments(tmp_path: Path) -> None:
    train, validation = windows(), windows(2)
    Trainer(ThreeStages(), train, validation, tmp_path / "m.pt", **settings()).run()
    assert [augment for _, augment in train.seeds] == [True] * 4 + [False] + [True] * 3
    assert len({seed for seed, _ in train.seeds}) == 8
    assert len(set(validation.seeds)) == 1
    assert validation.seeds[0][1] is False


def test_learning_shuffles_the_windows_in_another_way_in_every_epoch(tmp_path: Path) -> None:
    seen: list[float] = []

    class Ordered(Slider):
        def step(self, x: Tensor) -> Iterator[Update]:
            seen.extend(x[:, 0, 0, 0].tolist())
            return super().step(x)

    Trainer(Ordered(), windows(), None, tmp_path / "m.pt", **settings()).run()
    epochs = [tuple(seen[i : i + 6]) for i in range(0, 24, 6)]
    assert {tuple(sorted(epoch)) for epoch in epochs} == {(1, 2, 3, 4, 5, 6)}
    assert len(set(epochs)) == 4


class Adversaries(Method):
    """Two weights in turn, as a critic and a generator are."""

    def __init__(self) -> None:
        super().__init__()
        self.critic, self.generator = Weight(1.0), Weight(2.0)
        self.seen: list[tuple[float, float]] = []

    def stages(self) -> Sequence[Stage]:
        return [Stage(self.step, epochs=1)]

    def look(self) -> None:
        self.seen.append((self.critic.w.item(), self.generator.w.item()))

    def step(self, x: Tensor) -> Iterator[Update]:
        self.look()
        yield "critic", self.critic.w * 3
        self.look()
        yield "generator", self.generator.w * self.critic.w
        self.look()

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_the_second_update_of_a_step_sees_the_new_weights_of_the_first(tmp_path: Path) -> None:
    method = Adversaries()
    (epoch,) = Trainer(method, windows(2), None, tmp_path / "m.pt", **settings()).run()
    start, middle, end = method.seen
    assert start == (1.0, 2.0)
    assert middle == (pytest.approx(0.9), 2.0)  # Adam's first step is lr long
    assert end == (middle[0], pytest.approx(1.9))  # the generator's loss leaves the critic alone
    assert epoch.losses == {"critic": pytest.approx(3.0), "generator": pytest.approx(2 * 0.9)}


class Counting(Method):
    """Learns through buffers alone."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.tensor(0.0))
        self.register_buffer("mean", torch.tensor(0.0))
        self.modes: set[tuple[bool, bool]] = set()

    def stages(self) -> Sequence[Stage]:
        return [Stage(self.collect, epochs=1, finish=self.fit, learns=False)]

    def collect(self, x: Tensor) -> Iterator[Update]:
        self.modes.add((self.training, torch.is_grad_enabled()))
        self.total += x[:, 0, 0, 0].sum()
        yield from ()

    def fit(self) -> None:
        self.mean.copy_(self.total / 5)

    def forward(self, x: Tensor) -> Tensor:
        return x - self.mean


def test_a_stage_of_buffers_sees_every_window_once_in_evaluation_mode(tmp_path: Path) -> None:
    method = Counting()  # five windows by two: the last batch is not whole
    (epoch,) = Trainer(method, windows(5), windows(2), tmp_path / "m.pt", **settings()).run()
    assert method.mean == 3.0  # of 1 to 5
    assert method.modes == {(False, False)}
    assert epoch.losses == {}
    assert epoch.validation is None


def test_a_method_without_stages_needs_no_training(tmp_path: Path) -> None:
    class Ready(Slider):
        def stages(self) -> Sequence[Stage]:
            return []

    assert Trainer(Ready(), windows(), None, tmp_path / "m.pt", **settings()).run() == []
    assert (tmp_path / "m.pt").exists()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_in_one_line_and_spoils_nothing(
    bad: float, tmp_path: Path
) -> None:
    class Diverging(Slider):
        def step(self, x: Tensor) -> Iterator[Update]:
            yield "net", self.net.w * bad

    method = Diverging()
    with pytest.raises(VoladError, match=r"the loss of 'net' is (nan|inf) in stage 1; ") as caught:
        Trainer(method, windows(), None, tmp_path / "m.pt", **settings()).run()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m.pt").exists()
    assert method.net.w == 0


def test_the_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    Trainer(Slider(), windows(), None, tmp_path / "m.pt", checkpoint=file, **settings()).run()
    with pytest.raises(UsageError, match="is the checkpoint of another model; ") as caught:
        Trainer(ThreeStages(), windows(), None, tmp_path / "m.pt", checkpoint=file).run()
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_a_file_that_is_no_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="is not a checkpoint of volad; ") as caught:
        Trainer(Slider(), windows(), None, tmp_path / "m.pt", checkpoint=file).run()
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == content


def run_slider(tmp_path: Path, validation: Scans | None, **changes: Any) -> tuple[Slider, list]:
    """One step of about 0.1 an epoch."""
    method = Slider()
    options = settings(batch=6, max_epochs=8, **changes)
    done = Trainer(method, windows(), validation, tmp_path / "m.pt", **options).run()
    return method, done


def test_an_early_stop_brings_the_best_weights_back(tmp_path: Path) -> None:
    method, done = run_slider(tmp_path, windows(2), patience=2)
    # 0.1, 0.2, 0.3 (the best), 0.4, 0.5 (the second without a better one)
    assert len(done) == 5
    assert method.net.w.item() == pytest.approx(0.3, abs=0.03)
    assert min(e.validation for e in done) == done[2].validation


def test_the_best_epochs_buffers_come_back_with_its_weights(tmp_path: Path) -> None:
    """Running statistics of a normalisation belong to the weights."""
    method, _ = run_slider(tmp_path, windows(2), patience=2)
    assert method.steps == 3


def test_without_patience_all_epochs_run_and_the_best_weights_are_kept(tmp_path: Path) -> None:
    method, done = run_slider(tmp_path, windows(2))
    assert len(done) == 8
    assert method.net.w.item() == pytest.approx(0.3, abs=0.03)


def test_without_validation_scans_nothing_stops_early(tmp_path: Path) -> None:
    method, done = run_slider(tmp_path, None, patience=2)
    assert len(done) == 8
    assert {e.validation for e in done} == {None}
    assert method.net.w > 0.6


def test_a_validation_loss_that_is_no_number_is_not_the_best(tmp_path: Path) -> None:
    class Blind(Slider):
        def validation_loss(self, x: Tensor) -> Tensor:
            return super().validation_loss(x) if self.net.w > 0.15 else self.net.w * math.nan

    method = Blind()
    options = settings(batch=6, max_epochs=8, patience=2)
    done = Trainer(method, windows(), windows(2), tmp_path / "m.pt", **options).run()
    assert len(done) == 5
    assert method.net.w.item() == pytest.approx(0.3, abs=0.03)


def test_averaged_weights_are_the_running_average_of_the_trained_ones(tmp_path: Path) -> None:
    trained = [run_slider(tmp_path, None, patience=0)[0].net.w.item()]
    path = []
    method = Slider()
    trainer = Trainer(method, windows(), None, tmp_path / "m.pt", **settings(batch=6, max_epochs=8))
    for _ in trainer.epochs():
        path.append(method.net.w.item())
    assert path[-1] == trained[0]
    expected = 0.0
    for w in path:
        expected = 0.5 * expected + 0.5 * w
    averaged, _ = run_slider(tmp_path, None, ema=0.5)
    assert averaged.net.w.item() == pytest.approx(expected)


def test_validation_judges_the_averaged_weights_and_training_goes_on_from_its_own(
    tmp_path: Path,
) -> None:
    averaged, done = run_slider(tmp_path, windows(2), ema=0.5)
    _, plain = run_slider(tmp_path, windows(2))
    assert [e.losses for e in done] == [e.losses for e in plain]
    assert [e.validation for e in done] != [e.validation for e in plain]
    best = min(e.validation for e in done)
    assert averaged.validation_loss(torch.zeros(1)).item() == pytest.approx(best)


def rates(tmp_path: Path, **changes: Any) -> list[float]:
    """The learning rate of each epoch."""
    trainer = Trainer(Slider(), windows(), None, tmp_path / "m.pt", **settings(**changes))
    trainer.checkpoint = tmp_path / "checkpoint.pt"
    found = []
    for _ in trainer.epochs():
        stored = torch.load(trainer.checkpoint, weights_only=True)
        found.append(stored["optimizers"]["net"]["param_groups"][0]["lr"])
    return found


def test_the_learning_rate_stays_or_falls_as_asked_for(tmp_path: Path) -> None:
    assert rates(tmp_path / "a") == [0.1] * 4
    by_hand = [0.1 * (1 + math.cos(math.pi * number / 4)) / 2 for number in range(4)]
    assert rates(tmp_path / "b", schedule="cosine") == pytest.approx(by_hand)
    with pytest.raises(UsageError, match="constant or cosine, got 'linear'"):
        rates(tmp_path / "c", schedule="linear")


@pytest.mark.parametrize(("clip", "expected"), [(0.0, 2000.0), (1.0, 1.0), (5000.0, 2000.0)])
def test_gradients_are_scaled_down_to_the_norm_asked_for(
    clip: float, expected: float, tmp_path: Path
) -> None:
    class Steep(Slider):
        def step(self, x: Tensor) -> Iterator[Update]:
            yield "net", 2000 * self.net.w

    method = Steep()
    Trainer(method, windows(), None, tmp_path / "m.pt", **settings(clip_norm=clip)).run()
    assert method.net.w.grad is not None
    assert method.net.w.grad.item() == pytest.approx(expected, rel=1e-4)


def test_weights_are_plain_tensors_on_the_cpu_and_the_methods_own(tmp_path: Path) -> None:
    method = ThreeStages()
    file = tmp_path / "new" / "folder" / "model.pt"
    Trainer(method, windows(), windows(2), file, **settings()).run()
    stored = torch.load(file, weights_only=True)
    assert stored.keys() == method.state_dict().keys()
    assert all(torch.equal(stored[k], v) for k, v in method.state_dict().items())
    assert not any(value.requires_grad for value in stored.values())
    assert not method.training


def test_losses_are_logged_for_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, done = run_slider(tmp_path, windows(2), log_dir=tmp_path / "logs")
    logs = EventAccumulator(str(tmp_path / "logs"))
    logs.Reload()
    losses = logs.Scalars("stage1/loss/net")
    assert [event.step for event in losses] == list(range(8))
    assert [event.value for event in losses] == pytest.approx([e.losses["net"] for e in done])
    validation = [event.value for event in logs.Scalars("stage1/loss/validation")]
    assert validation == pytest.approx([e.validation for e in done])


def test_without_a_log_folder_nothing_is_logged(tmp_path: Path) -> None:
    run_slider(tmp_path, windows(2))
    assert [file.name for file in tmp_path.iterdir()] == ["m.pt"]
