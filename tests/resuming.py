"""Trainings that are killed after an epoch and go on from their checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from volad.train import Epoch, Trainer

__all__ = ["same_when_killed"]


def same_when_killed(
    trainer: Callable[[Path], Trainer], folder: Path, after: Iterable[int] | None = None
) -> list[Epoch]:
    """Train once whole and, for each count, killed after so many epochs: the weights are the same.

    Args:
        trainer: makes a new one, the same each time, for a checkpoint's path.
        folder: for the checkpoints.
        after: the counts; None: after any epoch.

    Returns:
        The epochs of the whole training.
    """
    whole = trainer(folder / "whole.pt")
    done = whole.run()
    for count in after or range(1, len(done) + 1):
        first = trainer(folder / f"killed{count}.pt").epochs()
        for _ in range(count):
            next(first)
        first.close()
        second = trainer(folder / f"killed{count}.pt")
        second.run()
        for key, value in whole.method.state_dict().items():
            assert torch.equal(second.method.state_dict()[key], value), (count, key)
    return done
