"""Training with two real processes, on the CPU: as one process, alike, resumable, and as a bundle.

Each test starts a pair of processes that do one job and return what they saw.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from monai.data import MetaTensor
from phantoms import Scans
from pipeline_helpers import healthy_set
from test_train import Counting, Slider, ThreeStages, results, settings, state, windows
from torch import Tensor, nn

from volad import bundle, distributed, skeleton
from volad.cache import fill_cache
from volad.data import Row
from volad.errors import UsageError, VoladError
from volad.methods._base import Method, Stage, Update
from volad.train import Trainer

REPOSITORY = Path(__file__).parents[1]

#: What both processes of a test run: it takes the test's folder and gives back a result.
Job = Callable[[Path], Any]


def on_two(job: Job, folder: Path) -> list[Any]:
    """What a job gives back in each of two processes."""
    # Processes of a server that has imported the slow things start at once.
    mp.get_context("forkserver").set_forkserver_preload(["volad.cli", "volad.train", "volad.data"])
    mp.start_processes(_process, (job, folder), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"result{n}.pt", weights_only=False) for n in range(2)]


def _process(rank: int, job: Job, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/group", rank=rank, world_size=2, timeout=timedelta(minutes=2)
    )
    torch.save(job(folder), folder / f"result{rank}.pt")
    distributed.stop()


def train(method: Method, folder: Path, validation: Scans | None = None, **changes: Any) -> Any:
    """The epochs, and the state at the end."""
    sets = (changes.pop("train", windows()), validation)
    output = folder / f"model{distributed.rank()}.pt"
    done = Trainer(method, *sets, output, **settings(**changes)).run()
    return results(done), state(method)


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert torch.equal(other[key], value), key


# Two processes do what one does


class Game(Method):
    """A generator against a critic with WGAN-GP's penalty; nothing in it is random."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 1, 1))
        self.critic = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 1))
        self.critic.spare = nn.Parameter(torch.ones(2))  # never has a gradient
        self.double()

    def stages(self) -> Sequence[Stage]:
        return [Stage(self.step)]

    def step(self, x: Tensor) -> Iterator[Update]:
        for _ in range(2):
            y = self.generator(x).detach()
            middle = ((x + y) / 2).requires_grad_()
            (slope,) = torch.autograd.grad(self.critic(middle).sum(), middle, create_graph=True)
            penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
            yield "critic", self.critic(y).mean() - self.critic(x).mean() + 10 * penalty
        y = self.generator(x)
        yield "generator", (y - x).abs().mean() - self.critic(y).mean()

    def validation_loss(self, x: Tensor) -> Tensor:
        return (self.generator(x) - x).abs().mean()

    def forward(self, x: Tensor) -> Tensor:
        return (self.generator(x) - x).abs()


def noise(count: int, seed: int) -> Scans:
    random = torch.Generator().manual_seed(seed)
    return Scans(torch.randn(count, 1, 4, 4, generator=random, dtype=torch.float64))


def play(folder: Path, batch: int = 2) -> Any:
    torch.manual_seed(5 + distributed.rank())  # the first process's weights are the ones to take
    # 13 windows: one is left out in every epoch. The gradients' norm is about 10.
    options = {"train": noise(13, 0), "lr": 0.01, "clip_norm": 3.0, "ema": 0.5, "patience": 9}
    return train(Game(), folder, noise(5, 1), batch=batch, **options)


def test_two_processes_reach_the_weights_of_one_with_twice_the_batch(tmp_path: Path) -> None:
    epochs, weights = play(tmp_path, batch=4)
    assert len(epochs) == 4
    for theirs, reached in on_two(play, tmp_path):
        for key, value in weights.items():
            torch.testing.assert_close(reached[key], value, rtol=0, atol=1e-10, msg=key)
        for own, their in zip(epochs, theirs, strict=True):
            assert their[2] == pytest.approx(own[2], abs=1e-10)
            assert their[3] == pytest.approx(own[3], abs=1e-10)


class Watching(Slider):
    """Notes the windows and the random numbers of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.windows: list[float] = []
        self.random: list[float] = []

    def step(self, x: Tensor) -> Iterator[Update]:
        self.windows += x[:, 0, 0, 0].tolist()
        self.random.append(torch.rand(()).item())
        return super().step(x)


def watch(folder: Path) -> Any:
    learnt, counted, judged = windows(7), windows(5), windows(3)
    method, measured = Watching(), Counting()
    train(method, folder, judged, train=learnt, max_epochs=1, batch=4)
    train(measured, folder, train=counted)
    seeds = {*learnt.seeds, *judged.seeds}
    return method.windows, method.random, seeds, counted.seeds, measured.mean.item()


def test_processes_share_the_windows_of_learning_and_draw_their_own_random_numbers(
    tmp_path: Path,
) -> None:
    first, second = on_two(watch, tmp_path)
    windows0, random0, seeds0, counted0, mean0 = first
    windows1, random1, seeds1, counted1, mean1 = second
    assert len(windows0) == len(windows1) == 3
    assert len({*windows0, *windows1}) == 6
    assert not {*random0} & {*random1}
    assert not seeds0 & seeds1
    assert counted0 == counted1
    assert mean0 == mean1 == 3.0  # of 1 to 5: both saw all of them, once
    # Both named a file of their own, but only the first writes.
    assert [f.name for f in tmp_path.glob("model*")] == ["model0.pt"]


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7])
def test_shares_are_of_one_length(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    order = [*reversed(range(count))]
    monkeypatch.setattr(distributed, "world", lambda: 3)
    parts = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(list(distributed.Share(order)))  # type: ignore[arg-type]
    length = max(count // 3, 1)
    assert [len(part) for part in parts] == [length] * 3
    seen = [index for part in parts for index in part]
    assert {*seen} <= {*order}
    assert len({*seen}) == min(count, 3 * length)


# All processes agree


class Judged(Slider):
    """Its best weight is 0.1 for the first validation window and 0.5 for the second."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.register_buffer("drawn", torch.tensor(0.0))

    def stages(self) -> Sequence[Stage]:
        return [Stage(self.step, finish=lambda: self.drawn.copy_(torch.rand(())))]

    def step(self, x: Tensor) -> Iterator[Update]:
        self.norm(x)
        yield from super().step(x)

    def validation_loss(self, x: Tensor) -> Tensor:
        return (self.net.w - 0.1 * x).square().mean()


def stop_early(folder: Path) -> Any:
    """The epochs, and the state after each and at the end."""
    values = torch.tensor([1.0, 5.0]).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    file = folder / f"checkpoint{distributed.rank()}.pt"
    options = settings(batch=3, max_epochs=9, patience=2, checkpoint=file)
    method = Judged()
    trainer = Trainer(method, windows(), Scans(values), folder / "model.pt", **options)
    epochs, states = [], []
    for epoch in trainer.epochs():
        epochs.append(epoch)
        states.append(state(method))
    return results(epochs), [*states, state(method)]


def test_both_stop_at_the_same_epoch_with_the_same_weights_and_buffers(tmp_path: Path) -> None:
    (epochs0, states0), (epochs1, states1) = on_two(stop_early, tmp_path)
    assert epochs0 == epochs1
    assert len(epochs0) == 5  # 0.1, 0.2, 0.3 (the best for both windows), and two in vain
    assert states0[-1]["net.w"].item() == pytest.approx(0.3, abs=0.03)
    assert states0[-1]["norm.num_batches_tracked"] == 3
    for state0, state1 in zip(states0, states1, strict=True):
        assert_equal(state0, state1)
    # Both named a file of their own, but only the first writes.
    assert [f.name for f in tmp_path.glob("checkpoint*")] == ["checkpoint0.pt"]


class Diverging(Slider):
    """Only the second process's loss is not finite."""

    def step(self, x: Tensor) -> Iterator[Update]:
        yield "net", self.net.w * (math.inf if distributed.rank() else 1.0)


def diverge(folder: Path) -> str:
    with pytest.raises(VoladError) as caught:
        train(Diverging(), folder)
    return str(caught.value)


def test_a_loss_that_is_not_finite_in_one_process_stops_all(tmp_path: Path) -> None:
    for message in on_two(diverge, tmp_path):
        assert message.startswith("the loss of 'net' is nan in stage 1; ")
        assert "\n" not in message
    assert not [*tmp_path.glob("model*")]


def gradients(folder: Path) -> Any:
    rank = distributed.rank()
    everywhere, second, nowhere = (nn.Parameter(torch.zeros(2, 3)) for _ in range(3))
    everywhere.grad = torch.full((3, 2), 1.0 + rank).T  # as of channels-last weights
    second.grad = torch.full((2, 3), 4.0) if rank else None
    distributed.average_gradients([everywhere, second, nowhere])
    return [p.grad for p in (everywhere, second, nowhere)]


def test_a_missing_gradient_counts_as_zeros_unless_nobody_has_one(tmp_path: Path) -> None:
    for everywhere, second, nowhere in on_two(gradients, tmp_path):
        assert torch.equal(everywhere, torch.full((2, 3), 1.5))
        assert torch.equal(second, torch.full((2, 3), 2.0))
        assert nowhere is None


def test_one_process_keeps_what_it_has() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    gradient = parameter.grad = torch.tensor([1e-40, math.inf])
    distributed.average_gradients([parameter])
    assert parameter.grad is gradient
    assert torch.equal(gradient, torch.tensor([1e-40, math.inf]))
    assert distributed.mean(torch.tensor(0.1)) == torch.tensor(0.1).item()
    assert distributed.total(0.1, torch.device("cpu")) == 0.1
    assert distributed.own_seed(7) == 7
    assert distributed.share(range(5)) == range(5)
    assert list(distributed.Share([2, 0, 1])) == [2, 0, 1]  # type: ignore[arg-type]
    assert (distributed.rank(), distributed.world(), distributed.first()) == (0, 1, True)
    assert distributed.hide_bar() is None


# Files


def resume(folder: Path) -> Any:
    """Trained through; and killed after every epoch, each time to go on with other weights."""

    def trainer(name: str, seed: int) -> Trainer:
        torch.manual_seed(seed)  # of the weights to start from
        files = {"output": folder / "m.pt", "checkpoint": folder / f"{name}.pt"}
        options = settings(**files, ema=0.8, patience=2, max_epochs=3, log_dir=folder / name)
        return Trainer(ThreeStages(), windows(8), windows(3), **options)

    whole = trainer("whole", 0)
    done = whole.run()
    killed: list[Any] = []
    while True:
        again = trainer("killed", len(killed))
        epochs = again.epochs()
        one = next(epochs, None)
        epochs.close()
        if one is None:
            break
        killed.append(one)
        distributed.wait()  # torchrun starts anew only after both have ended
    return results(done), results(killed), state(whole.method), state(again.method)


def test_a_training_killed_and_resumed_with_two_ends_as_one_that_was_not(tmp_path: Path) -> None:
    (done, killed, whole, again), other = on_two(resume, tmp_path)
    assert len(done) == 7
    assert killed == done == other[0] == other[1]
    assert_equal(whole, again)
    assert_equal(whole, other[2])
    assert_equal(whole, other[3])
    assert_equal(whole, torch.load(tmp_path / "m.pt", weights_only=True))
    assert len([*(tmp_path / "whole").iterdir()]) == 1  # one process's log


def prepare(folder: Path) -> Any:
    made: list[str] = []

    def step(sample: Any) -> Any:
        time.sleep(0.3 * distributed.rank())
        made.append(sample["image"].name)
        return {"image": MetaTensor(torch.ones(1, 2)), "brain": torch.ones(1, 2)}

    rows = [Row(f"s{n}", "train", Path(f"s{n}.nii"), f"hash{n}") for n in range(5)]
    # The last transform is not for the cache.
    files = fill_cache(rows, SimpleNamespace(transforms=[step, None]), folder / "cache", None)
    return made, [file.exists() for file in files]


def test_every_scan_is_preprocessed_by_one_process_and_all_wait(tmp_path: Path) -> None:
    (made0, there0), (made1, there1) = on_two(prepare, tmp_path)
    assert sorted([*made0, *made1]) == ["s0", "s1", "s2", "s3", "s4"]
    assert made0
    assert made1
    assert there0 == there1 == [True] * 5


# As a bundle


def test_torchrun_trains_a_bundle_through_its_overlay(tmp_path: Path) -> None:
    root, data = tmp_path / "ct", healthy_set()
    skeleton.create(
        root,
        "ae",
        arguments={"features": [8, 16], "convs": 1, "code": 4, "dropout": 0.1},
        modality="ct",
        space="isotropic",
        spacing_mm=6,
        patch=(16, 16, 16),
        training={"epochs": 2, "batch": 2, "amp": False, "log_dir": str(tmp_path / "logs")},
    )
    configs = [str(root / "configs" / f"{name}.json") for name in ("train", "multi_gpu_train")]
    settings = {
        "config_file": str(configs),
        "bundle_root": str(root),
        "dataset_dir": str(data),
        "manifest": str(data / "manifest.csv"),
        "device": "$torch.device('cpu')",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "monai.bundle", "run"]
    command += [part for key, value in settings.items() for part in (f"--{key}", value)]
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert sorted(f.name for f in (root / "models").iterdir()) == ["checkpoint.pt", "model.pt"]
    bundle.load_weights(bundle.part(root, "network_def"), root / "models" / "model.pt", "cpu")
    assert len([*(root / "cache").iterdir()]) == 5
    assert len([*(tmp_path / "logs").iterdir()]) == 1
    # One process reports: each epoch once.
    assert ran.stderr.count("Epoch(stage=0, number=1,") == 1


def test_the_overlay_without_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(UsageError, match="is for torchrun; "):
        distributed.start("cpu")


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert distributed.device() == torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert distributed.device() == torch.device("cpu")
