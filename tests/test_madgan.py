"""What only MADGAN promises, against answers one can work out, and from manifest to mask."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from phantoms import Scans, healthy_brains
from pipeline_helpers import LESION, main, ready_bundle, save_head, train_arguments, voxels
from resuming import same_when_killed
from torch import Tensor, nn

from volad.losses import critic_loss
from volad.methods.madgan import MADGAN
from volad.train import Trainer


def model(**changes: Any) -> MADGAN:
    torch.manual_seed(0)
    return MADGAN(**{**MADGAN.tiny, "slabs": 4, **changes}).eval()


def copying(**changes: Any) -> MADGAN:
    """A model whose generator predicts no change: it copies the nearest known slice."""
    found = model(change=True, **changes)
    for parameter in found.generator.out.parameters():
        nn.init.zeros_(parameter)
    return found


def brain(shape: tuple[int, int, int] = (16, 16, 15), axis: int = 2) -> Tensor:
    """`(1, 1, *shape)`: alike on every slice, with air around each."""
    x = 0.5 + 0.3 * torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(1))
    x = x.select(2 + axis, 0).unsqueeze(2 + axis).expand_as(x).clone()
    for d in {0, 1, 2} - {axis}:
        x.narrow(2 + d, 0, 3).zero_()
    return x


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("both", [True, False])
def test_a_perfectly_predicted_slice_scores_zero(axis: int, both: bool) -> None:
    detector = copying(axis=axis, both=both)
    x = brain(axis=axis)
    x.select(2 + axis, 7).mul_(1.5)  # one slice that the others did not announce
    with torch.no_grad():
        x_hat, score = detector.reconstruct(x), detector(x)
    slices = detector.slice_scores(x, x_hat)[0]
    hit = [7]  # and those that are predicted from it
    hit += [*range(8, 13)] + ([*range(2, 7)] if both else [])
    silent = [n for n in range(15) if n not in hit and (both or n > 2)]
    assert len(silent) >= 4
    assert (slices[silent] < 1e-12).all()
    assert score.index_select(2 + axis, torch.tensor(silent)).abs().max() < 1e-12
    assert slices.argmax() == 7
    assert score.select(2 + axis, 7).max() > 0.01


def test_slice_and_scan_scores_are_squared_errors_over_the_largest_slices_brain() -> None:
    detector = copying()
    x = torch.zeros(1, 1, 4, 4, 5)
    x[..., 1:3, 0, :4] = 0.5  # two voxels of brain on four slices, and one more on the second
    x[..., 0, 0, 1] = 0.5
    x_hat = x.clone()
    x_hat[..., 1, 0, 2] = 0.8
    x_hat[..., 0, 0, 1] = 0.3
    x_hat[..., 3, 3, :] = 9  # not brain
    expected = torch.tensor([[0, 0.04, 0.09, 0, 0]]) / 3
    torch.testing.assert_close(detector.slice_scores(x, x_hat), expected)
    found = detector.scan_scores(x, torch.zeros_like(x), x_hat)
    assert found["l2_mean"] == pytest.approx(0.13 / 3 / 4, abs=1e-6)  # over slices with brain
    assert found["l2_max"] == pytest.approx(0.03, abs=1e-6)
    assert found["l2_slices"] == pytest.approx([0, 0.04 / 3, 0.03, 0, 0], abs=1e-6)
    assert {"mean", "p99"} <= found.keys()


def losses(detector: MADGAN, x: Tensor) -> list[tuple[str, float]]:
    torch.manual_seed(3)
    return [(name, loss.item()) for name, loss in detector.training_step(x)]


def slabs(count: int) -> Tensor:
    return healthy_brains(count)[..., 5:11].contiguous()


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_critic_steps_share_the_batch_and_the_generator_learns_last(steps: int) -> None:
    detector, x = model(critic_steps=steps, both=False), slabs(10)
    sizes: list[int] = []
    detector.generator.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    names = [name for name, _ in losses(detector, x)]
    assert names == ["critic"] * steps + ["generator"]
    assert sizes == [10 // steps] * (steps + 1)


def test_the_losses_are_those_of_the_paper() -> None:
    """`E D(fake) - E D(real) + 10 GP` for the critic, `-E D(fake) + 100 L1` for the generator."""
    detector, x = model(both=False), slabs(4)
    assert detector.critic is not None
    known, real = x[:, 0, :, :, :3].movedim(-1, 1), x[:, 0, :, :, 3:].movedim(-1, 1)
    with torch.no_grad():
        fake = detector.generator(known) * (real != 0)
    torch.manual_seed(3)
    torch.randint(5, ())  # as the step draws the slabs' place first

    def judge(slices: Tensor) -> Tensor:
        assert detector.critic is not None
        value: Tensor = detector.critic(torch.cat([known, slices], dim=1))
        return value

    critic = critic_loss(judge, real, fake, 10.0).item()
    l1 = (fake - real).abs().sum() / (real != 0).sum()
    generator = (100 * l1 - judge(fake).mean()).item()
    found = losses(detector, x)
    assert found == [("critic", pytest.approx(critic)), ("generator", pytest.approx(generator))]


def test_without_critic_steps_there_is_no_critic() -> None:
    detector = model(critic_steps=0, both=False)
    assert not any(key.startswith("critic") for key in detector.state_dict())
    assert [name for name, _ in losses(detector, slabs(4))] == ["generator"]


def test_the_generators_update_leaves_the_critic_alone() -> None:
    detector = model()
    assert detector.critic is not None
    for name, loss in detector.training_step(slabs(4)):
        detector.zero_grad()
        loss.backward()
        mine, other = detector.generator, detector.critic
        if name == "critic":
            mine, other = other, mine
        assert all(p.grad is not None for p in mine.parameters())
        assert all(p.grad is None for p in other.parameters())


def test_both_ways_are_learned_unless_one_is_asked_for() -> None:
    x = slabs(200) * torch.linspace(1, 2, 6)  # brighter from slice to slice
    seen: dict[bool, list[bool]] = {}
    for both in (True, False):
        detector = model(both=both, critic_steps=0)
        rising: list[bool] = []
        detector.generator.register_forward_hook(
            lambda _, args, __, r=rising: r.extend(
                (args[0][:, 0].mean(dim=(1, 2)) < args[0][:, 2].mean(dim=(1, 2))).tolist()
            )
        )
        losses(detector, x)
        seen[both] = rising
    assert all(seen[False])
    assert 0.3 < np.mean(seen[True]) < 0.7


@pytest.mark.parametrize("both", [True, False])
def test_the_validation_loss_is_the_l1_of_what_was_learned(both: bool) -> None:
    detector, x = copying(both=both), torch.zeros(2, 1, 8, 8, 6)
    x[..., 2:6, 2:6, :] = torch.arange(1.0, 7.0)
    forward, back = (1 + 2 + 3) / 3, (1 + 2 + 3) / 3  # slices 4, 5, 6 from 3, and 3, 2, 1 from 4
    expected = (forward + back) / 2 if both else forward
    with torch.no_grad():
        assert detector.validation_loss(x) == pytest.approx(expected)


def test_mirror_measures_the_spread_of_scan_and_mirror_image() -> None:
    detector = copying(grid=(16, 16, 16), standardise=True, mirror=True)
    x = healthy_brains(3) * torch.linspace(0.8, 1.2, 16).view(-1, 1, 1)  # not symmetric
    with torch.no_grad():
        for _ in detector.stages()[1].step(x):
            pass
        twice = torch.cat([x, x.flip(2)])
        difference = twice - detector.reconstruct(twice)
    assert detector.spread is not None
    assert detector.spread.count == 6
    torch.testing.assert_close(detector.spread.mean[0], difference.mean(dim=0)[0])


def test_a_training_killed_after_any_epoch_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """Two optimisers, averaged weights, bfloat16, random turns: all go on as they were."""
    options: dict[str, Any] = {
        **{"max_epochs": 3, "batch": 4, "lr": 1e-3, "betas": (0.5, 0.9)},
        **{"ema": 0.9, "amp": True, "seed": 5},
    }

    def trainer(checkpoint: Path) -> Trainer:
        return Trainer(
            model(critic_steps=2, grid=(16, 16, 16), standardise=True),
            Scans(healthy_brains(8)),
            Scans(healthy_brains(2, seed=1)),
            tmp_path / "model.pt",
            checkpoint=checkpoint,
            **options,
        )

    done = same_when_killed(trainer, tmp_path)
    assert len(done) == 4  # and the measuring stage


# From the command line

TINY = ["--set", "features=[8,16]", "--set", "attention=1", "--set", "critic_steps=2"]
OPTIONS = [
    # One thread, as conftest.py gives the tests: sums over more differ in their last digits.
    *(
        "--threads=1",
        "--modality=ct",
        "--device=cpu",
        "--batch=8",
        "--lr=0.003",
        "--no-amp",
        "--ema=0.5",
    ),
    *("--set", "change=true", "--set", "residual=positive", "--healthy-fpr=0.005", *TINY),
]
KILL = """
import os, sys
from volad.train import Trainer
from volad.cli import main
save, count = Trainer._save, 0
def killed(self, state):
    global count
    save(self, state)
    count += 1
    if count == 2:
        os.kill(os.getpid(), 9)
Trainer._save = killed
main(sys.argv[1:])
"""


def test_a_killed_training_reaches_the_same_weights_when_called_again(tmp_path: Path) -> None:
    cached = ["--space=isotropic", "--spacing-mm=6", "--patch", "40", "40", "40", "--epochs=4"]
    cached += ["--cache-dir", str(ready_bundle() / "cache")]  # the same preprocessing
    arguments = [train_arguments(tmp_path / n, *OPTIONS, *cached, method="madgan") for n in "ab"]
    assert main(arguments[0]) == 0
    died = subprocess.run([sys.executable, "-c", KILL, *arguments[1]], check=False)
    assert died.returncode == -9
    assert not (tmp_path / "b" / "models" / "model.pt").exists()
    assert main(arguments[1]) == 0
    whole, resumed = (
        torch.load(tmp_path / n / "models" / "model.pt", weights_only=True) for n in "ab"
    )
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    config = json.loads((tmp_path / "a" / "configs" / "train.json").read_text())
    assert config["train"]["dataset"]["roi"] == [40, 40, 6]
    assert config["betas"] == [0.5, 0.9]  # the method's own


def test_from_manifest_to_mask_on_aligned_volumes(tmp_path: Path) -> None:
    root, scan, out = tmp_path / "madgan", save_head(tmp_path / "scan.nii.gz"), tmp_path / "out"
    more = ("--space=mni", "--epochs=2", "--set", "standardise=true", "--set", "mirror=true")
    assert main(train_arguments(root, *OPTIONS, *more, method="madgan")) == 0
    config = json.loads((root / "configs" / "train.json").read_text())
    assert config["train"]["dataset"]["roi"] == [-1, -1, 6]
    weights = torch.load(root / "models" / "model.pt", weights_only=True)
    assert weights["spread.count"] == 6  # three whole volumes and their mirror images
    assert main(["segment", str(scan), "-o", str(out), "-b", str(root), "--device=cpu"]) == 0
    score = voxels(out / "scan_score.nii.gz")
    inside = np.zeros(score.shape, bool)
    inside[LESION] = True
    assert score[inside].mean() > 3 * score[(score > 0) & ~inside].mean()
    stored = json.loads((out / "scan_mask.json").read_text())["scan_scores"]
    assert len(stored["l2_slices"]) == 88
    assert stored["l2_max"] == pytest.approx(max(stored["l2_slices"]), abs=1e-6)
