"""Bugs of published evaluation code, each of which volad must not have.

Seen in public repositories of brain anomaly segmentation; one test a bug, on volad's own code.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from sklearn.metrics import confusion_matrix
from torch import Tensor

from volad import cli
from volad.commands.arguments import assignment
from volad.methods.ae import AE
from volad.methods.intensity import Intensity
from volad.metrics import Confusion, average_precision, dice
from volad.metrics.bootstrap import interval
from volad.metrics.histogram import ScoreHistogram
from volad.metrics.lesionwise import LesionCounts, match
from volad.metrics.surface import surface_distances
from volad.postprocess import MedianSmooth
from volad.residual import RESIDUALS, residual
from volad.window import build

#: 1 lesion voxel found, 2 missed, 3 false ones, 94 left alone: every share is another number.
MASK = np.array([True] + [False] * 2 + [True] * 3 + [False] * 94)
LESION = np.array([True] * 3 + [False] * 97)


def test_the_false_positive_rate_is_of_the_healthy_voxels() -> None:
    """Not `tp` over something, and not `fp / (fp + tp)`, the false discovery rate."""
    counts = Confusion.of(MASK, LESION)
    assert counts.false_positive_rate == 3 / 97
    assert counts.false_discovery_rate == 3 / 4
    histogram = ScoreHistogram()
    histogram.add(MASK.astype(np.float32), LESION)
    assert histogram.false_positive_rate(0.5) == 3 / 97


def test_counts_are_in_their_places() -> None:
    """Scikit-learn's `confusion_matrix(true, predicted).ravel()` is TN, FP, FN, TP."""
    counts = Confusion.of(MASK, LESION)
    assert (counts.tp, counts.fp, counts.fn, counts.tn) == (1, 3, 2, 94)
    matrix = confusion_matrix(LESION, MASK).ravel().tolist()
    assert matrix == [counts.tn, counts.fp, counts.fn, counts.tp]


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_every_mode_can_be_selected(loss: str) -> None:
    """`if cfg.get('mode', 'l1'):` is always true, so there was one mode whatever was asked for."""
    x, x_hat = torch.rand(2, 1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    maps = [residual(kind, x, x_hat) for kind in RESIDUALS]
    assert all(not torch.equal(a, b) for i, a in enumerate(maps) for b in maps[:i])
    assert _loss_of_2(loss) == {"l1": 2, "l2": 4}[loss]


def test_l2_is_the_square() -> None:
    """`sqrt((x - rec) ** 2)` is the L1 error."""
    x = torch.full((1, 1, 4, 4), 3.0)
    assert (residual("squared", x, torch.zeros_like(x)) == 9).all()
    assert _loss_of_2("l2") == 4


def _loss_of_2(loss: str) -> float:
    """The autoencoder's loss where the image is 2 and the network answers 0."""
    model = AE(spatial_dims=2, features=(4, 8), code=2, convs=1, loss=loss).eval()  # type: ignore[arg-type]
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    return model.validation_loss(torch.full((1, 1, 16, 16), 2.0)).item()


def test_empty_cases_lift_no_mean() -> None:
    """A Dice of 1 for every empty slice does, silently; here they are NaN and counted apart."""
    empty = np.zeros((4, 4, 4), bool)
    some = empty.copy()
    some[1, 1, 1] = True
    dices = np.array([dice(some, some), dice(some, ~some), dice(empty, empty)])
    mean = interval(dices)
    assert (mean.value, mean.n) == (0.5, 2)
    assert math.isnan(average_precision(np.zeros(4), np.zeros(4, bool)))
    surface = surface_distances(empty, empty, (1, 1, 1), 1)
    assert all(map(math.isnan, (surface.hd95_mm, surface.assd_mm, surface.nsd)))
    lesions = match(empty, empty, 1.0).counts
    assert lesions == LesionCounts()
    assert all(map(math.isnan, (lesions.sensitivity, lesions.precision, lesions.f1)))


def test_a_score_does_not_depend_on_other_scans() -> None:
    """Scaling all scores by the test set's lowest and highest leaks the set into each score."""
    random = np.random.default_rng(0)
    score, lesion = random.normal(size=1000).astype(np.float32), random.random(1000) < 0.1
    alone, together = ScoreHistogram(), ScoreHistogram()
    alone.add(score, lesion)
    together.add(score, lesion)
    threshold, coarse = alone.threshold_at_fpr(0.05), alone.coarse()
    # Another scan, all lesion, with scores far beyond those of the first.
    together.add(np.array([-1e30, 1e30], np.float32), np.array([True, True]))
    assert together.threshold_at_fpr(0.05) == threshold
    kept = np.isin(coarse.index, together.coarse().index)
    assert kept.all()  # the same bins as before, and two more
    assert len(together.coarse().index) == len(coarse.index) + 2
    scans = torch.rand(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.1
    scans[1] *= 1000
    for method in (Intensity(), AE(features=(4, 8), code=2, convs=1).eval()):
        with torch.no_grad():
            torch.testing.assert_close(method(scans)[:1], method(scans[:1]))


def test_a_median_does_not_shift_the_map() -> None:
    """An even kernel does, by half a voxel: it is refused, and an odd one keeps an edge's place."""
    for size in (2, 4):
        with pytest.raises(ValueError, match="odd"):
            MedianSmooth(size)
    step = torch.zeros(1, 9, 9, 9)
    step[:, :5] = 1
    for score in (step, step.flip(1), step.transpose(1, 3)):
        pred = MetaTensor(score.contiguous())
        assert torch.equal(MedianSmooth(3)({"pred": pred})["pred"].as_tensor(), score)


def test_overlap_is_not_the_step() -> None:
    """With an overlap of a quarter, windows of 8 start 6 apart; as a step they would start at 2."""
    starts: list[int] = []

    def remember(x: Tensor) -> Tensor:
        starts.extend(int(window.min()) for window in x)
        return x.clone()

    along_z = torch.arange(32.0).expand(1, 1, 8, 8, 32)
    build("patch", (8, 8, 8), overlap=0.25, batch=1)(along_z, remember)
    assert starts == [0, 6, 12, 18, 24]


def test_switches_can_be_switched_off() -> None:
    """`type=bool` takes every text for true, `--flag False` too."""
    actions = list(_actions(cli._parser()))
    assert len(actions) > 20
    assert [a.dest for a in actions if a.type is bool] == []
    args = cli._parser().parse_args(["segment", "scan", "-o", "out", "--no-save-score", "--report"])
    assert (args.save_score, args.report, args.stats) == (False, True, None)
    with pytest.raises(SystemExit):
        cli._parser().parse_args(["segment", "scan", "-o", "out", "--save-score=False"])


@pytest.mark.parametrize("text", ["false", "False", "true", "True"])
def test_a_methods_switch_is_no_text(text: str) -> None:
    """`--set dark=False` as the text "False" would be true."""
    assert assignment(f"dark={text}") == ("dark", text.lower() == "true")


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every option of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
