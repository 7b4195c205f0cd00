"""The one training loop: optimisers, mixed precision, averages, early stop, checkpoints, resume."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from volad import distributed
from volad.checkpoint import load_checkpoint, save_tensors, save_weights
from volad.errors import UsageError
from volad.methods._base import Method
from volad.stage_run import Epoch, StageRun, Windows

__all__ = ["Epoch", "Trainer", "Windows"]

log = logging.getLogger(__name__)


class Trainer:
    """Train a method stage by stage, and save its weights.

    Every epoch draws its random numbers from `(seed, stage, epoch)` alone, so a training that was
    killed and goes on from its checkpoint reaches, on the CPU, the same weights bit for bit as one
    that was not.

    Args:
        method: what to train.
        train: healthy windows to learn from.
        validation: healthy windows of other subjects, for the early stop; never lesions.
        output: file for the trained weights (`models/model.pt`).
        max_epochs: passes over the training set, for every stage that does not say itself.
        batch: windows per step.
        lr: Adam's learning rate.
        schedule: `constant`, or `cosine`: the rate falls to about nothing over a stage's epochs.
        betas: Adam's decay rates.
        clip_norm: gradients are scaled down to this norm; 0: never.
        ema: weights used after training are this running average of the trained ones, taken after
            each batch; 0: none.
        patience: epochs without a better validation loss before a stage ends; 0: never.
        device: where to train.
        amp: bfloat16 autocast.
        seed: of everything random.
        checkpoint: file to continue from and to write to after every epoch; None: none.
        log_dir: folder for TensorBoard logs; None: none.
    """

    def __init__(
        self,
        method: Method,
        train: Windows,
        validation: Windows | None,
        output: str | Path,
        *,
        max_epochs: int = 100,
        batch: int = 4,
        lr: float = 1e-3,
        schedule: Literal["constant", "cosine"] = "constant",
        betas: tuple[float, float] = (0.9, 0.999),
        clip_norm: float = 1.0,
        ema: float = 0.0,
        patience: int = 0,
        device: torch.device | str = "cpu",
        amp: bool = False,
        seed: int = 0,
        checkpoint: str | Path | None = None,
        log_dir: str | Path | None = None,
    ) -> None:
        self.method = method
        self.sets = (train, validation)
        self.output = Path(output)
        self.max_epochs = max_epochs
        self.batch = batch
        if schedule not in ("constant", "cosine"):
            raise UsageError(f"schedule must be constant or cosine, got {schedule!r}")
        self.schedule = schedule
        self.lr, self.betas, self.clip_norm = lr, (betas[0], betas[1]), clip_norm
        self.ema, self.patience = ema, patience
        self.device = torch.device(device)
        self.amp = amp
        self.seed = seed
        self.checkpoint = Path(checkpoint) if checkpoint else None
        self.log_dir = Path(log_dir) if log_dir else None

    def run(self) -> list[Epoch]:
        """Train to the end, show progress, and write the weights."""
        done = list(self.epochs())
        if distributed.first():
            save_weights(self.method, self.output)
        distributed.wait()
        return done

    def epochs(self) -> Iterator[Epoch]:
        """Train, yielding after each epoch (and each checkpoint)."""
        self.method.to(self.device)
        state = self._load()
        distributed.equalise(self.method)
        writer = _writer(self.log_dir) if distributed.first() else None
        stages = self.method.stages()
        for index, stage in enumerate(stages):
            if index < state["stage"]:
                continue
            run = StageRun(self, stage, index, state if index == state["stage"] else {})
            for epoch in run:
                _write_log(writer, epoch)
                log.info("%s", epoch)
                yield epoch
            run.close()
            self._save({"stage": index + 1, "epoch": 0})
        if writer is not None:
            writer.close()
        self.method.eval()

    def _load(self) -> dict[str, Any]:
        if self.checkpoint is None or not self.checkpoint.exists():
            return {"stage": 0, "epoch": 0}
        state = load_checkpoint(self.checkpoint, self.device)
        try:
            self.method.load_state_dict(state.pop("method"))
        except RuntimeError as error:
            raise UsageError(
                f"{self.checkpoint} is the checkpoint of another model; "
                "name another --checkpoint or remove it to start anew"
            ) from error
        return state

    def _save(self, state: Mapping[str, Any]) -> None:
        if self.checkpoint is not None and distributed.first():
            save_tensors({"method": self.method.state_dict(), **state}, self.checkpoint)


def _writer(log_dir: Path | None) -> Any:
    if log_dir is None:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError("--log-dir needs tensorboard: pip install tensorboard") from error
    return SummaryWriter(os.fspath(log_dir))


def _write_log(writer: Any, epoch: Epoch) -> None:
    if writer is None:
        return
    values: dict[str, float] = {f"loss/{k}": v for k, v in epoch.losses.items()}
    if epoch.validation is not None:
        values["loss/validation"] = epoch.validation
    for name, value in values.items():
        writer.add_scalar(f"stage{epoch.stage + 1}/{name}", value, epoch.number)
