"""One stage of a training while it runs: optimisers, averaged weights, early stop."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler
from tqdm import tqdm

from volad import distributed
from volad.errors import VoladError
from volad.methods._base import Method, Stage

if TYPE_CHECKING:
    from volad.train import Trainer

__all__ = ["Epoch", "StageRun", "Windows"]

log = logging.getLogger(__name__)


class Windows(Protocol):
    """A set of healthy windows `(C, *S)` (see `volad.data.HealthySet`)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor: ...

    def set_epoch(self, seed: int, *, augment: bool, whole: bool = False) -> None:
        """Draw the coming epoch's random windows and augmentation from `seed`.

        With `whole`, the windows are whole volumes.
        """


@dataclass(frozen=True)
class Epoch:
    """What an epoch did: mean losses by child module, and the validation loss if there is one."""

    stage: int
    number: int
    losses: dict[str, float]
    validation: float | None
    seconds: float


class StageRun:
    """One stage while it is trained: its optimisers, averaged weights and best epoch."""

    def __init__(
        self, trainer: Trainer, stage: Stage, index: int, state: Mapping[str, Any]
    ) -> None:
        self.trainer, self.stage, self.index = trainer, stage, index
        self.method = trainer.method
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.average: dict[str, Tensor] = {}
        self.best: dict[str, Tensor] = dict(state.get("best", {}))
        self.best_loss = float(state.get("best_loss", float("inf")))
        self.best_epoch = int(state.get("best_epoch", 0))
        self.start = int(state.get("epoch", 0))
        if stage.learns:
            self._build(state)

    def _build(self, state: Mapping[str, Any]) -> None:
        """One Adam for every child module that has something to learn."""
        for name, child in self.method.named_children():
            parameters = [p for p in child.parameters() if p.requires_grad]
            if parameters:
                self.optimizers[name] = torch.optim.Adam(
                    parameters, self.trainer.lr, betas=self.trainer.betas
                )
                if name in state.get("optimizers", {}):
                    self.optimizers[name].load_state_dict(state["optimizers"][name])
        if self.trainer.ema:
            self.average = dict(state.get("average", {})) or {
                k: v.detach().clone() for k, v in self.method.named_parameters()
            }

    def __iter__(self) -> Iterator[Epoch]:
        total = self.stage.epochs or self.trainer.max_epochs
        bar = tqdm(
            range(self.start, total),
            desc=f"stage {self.index + 1}",
            unit="epoch",
            initial=self.start,
            total=total,
            disable=distributed.hide_bar(),
        )
        for number in bar:
            # Asked here and not after the epoch, so that a training killed right then stops too.
            if self._stale(number):
                log.info("no better validation loss for %d epochs: stopping", self.trainer.patience)
                break
            began = time.monotonic()
            self._set_rate(number / total)
            losses = self._epoch(number)
            distributed.equalise(self.method)  # running statistics are of a process's own windows
            validation = self._validate() if self.stage.learns else None
            bar.set_postfix({**losses, **({"val": validation} if validation is not None else {})})
            self._keep_best(number, validation)
            self.trainer._save(self._state(number + 1))
            yield Epoch(self.index, number, losses, validation, time.monotonic() - began)

    def _set_rate(self, passed: float) -> None:
        """The learning rate of an epoch, by the share of the stage that has passed, 0 to 1."""
        falls = self.trainer.schedule == "cosine"
        rate = self.trainer.lr * (0.5 * (1 + math.cos(math.pi * passed)) if falls else 1.0)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate

    def _stale(self, number: int) -> bool:
        patience, validation = self.trainer.patience, self.trainer.sets[1]
        if not patience or not validation or not self.stage.learns:
            return False
        return number - 1 - self.best_epoch >= patience

    def close(self) -> None:
        """Take the best weights, then let the stage finish."""
        if self.best:
            _assign(self.method, self.best)
        elif self.average:
            _assign(self.method, self.average)
        self.method.eval()
        with torch.no_grad():
            self.stage.finish()
        distributed.equalise(self.method)

    def _epoch(self, number: int) -> dict[str, float]:
        windows = self.trainer.sets[0]
        seed = hash((self.trainer.seed, self.index, number)) % 2**31
        learns = self.stage.learns
        own = distributed.own_seed(seed) if learns else seed  # statistics: all windows, everywhere
        torch.manual_seed(own)
        windows.set_epoch(own, augment=learns, whole=self.stage.whole)
        draws = torch.Generator().manual_seed(seed)
        mine = distributed.Share(RandomSampler(windows, generator=draws)) if learns else None
        loader: DataLoader[Tensor] = DataLoader(
            windows,  # type: ignore[arg-type]
            batch_size=self.trainer.batch,
            sampler=mine,
            drop_last=mine is not None and len(mine) > self.trainer.batch,
            generator=draws,
        )
        self.method.train(learns)
        losses: dict[str, list[float]] = defaultdict(list)
        with torch.set_grad_enabled(learns):
            for x in loader:
                self._step(x.to(self.trainer.device), losses)
        return {name: sum(values) / len(values) for name, values in losses.items()}

    def _step(self, x: Tensor, losses: dict[str, list[float]]) -> None:
        updates = self.stage.step(x)
        while True:
            # A generator runs under the context of the caller of `next`.
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self._amp):
                update = next(updates, None)
            if update is None:
                break
            name, loss = update
            value = distributed.mean(loss)
            if not math.isfinite(value):
                raise VoladError(
                    f"the loss of {name!r} is {value} in stage {self.index + 1}; "
                    "train with a lower --lr, or without --amp"
                )
            optimizer = self.optimizers[name]
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            parameters = [p for g in optimizer.param_groups for p in g["params"]]
            distributed.average_gradients(parameters)
            if self.trainer.clip_norm:
                nn.utils.clip_grad_norm_(parameters, self.trainer.clip_norm)
            optimizer.step()
            losses[name].append(value)
        self._update_average()

    @property
    def _amp(self) -> bool:
        return self.trainer.amp and self.stage.learns

    @torch.no_grad()
    def _update_average(self) -> None:
        for name, parameter in self.method.named_parameters():
            if name in self.average:
                self.average[name].lerp_(parameter, 1 - self.trainer.ema)

    @torch.no_grad()
    def _validate(self) -> float | None:
        windows = self.trainer.sets[1]
        if windows is None or len(windows) == 0:
            return None
        windows.set_epoch(distributed.own_seed(self.trainer.seed), augment=False)
        trained = copy.deepcopy(dict(self.method.named_parameters())) if self.average else {}
        _assign(self.method, self.average)
        self.method.eval()
        total = 0.0
        mine = distributed.share(range(len(windows)))
        for x in DataLoader(windows, self.trainer.batch, sampler=mine):  # type: ignore[arg-type]
            with torch.autocast(self.trainer.device.type, torch.bfloat16, enabled=self._amp):
                loss = self.method.validation_loss(x.to(self.trainer.device))
            total += loss.item() * len(x)
        _assign(self.method, trained)
        return distributed.total(total, self.trainer.device) / len(windows)

    def _keep_best(self, number: int, validation: float | None) -> None:
        if validation is None or not validation < self.best_loss:  # NaN is not better
            return
        self.best_loss, self.best_epoch = validation, number
        # Buffers too: a normalisation's running statistics belong to the weights.
        source = {**self.method.state_dict(), **self.average}
        self.best = {name: value.detach().clone() for name, value in source.items()}

    def _state(self, epoch: int) -> dict[str, Any]:
        return {
            "stage": self.index,
            "epoch": epoch,
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "average": self.average,
            "best": self.best,
            "best_loss": self.best_loss,
            "best_epoch": self.best_epoch,
        }


@torch.no_grad()
def _assign(method: Method, values: Mapping[str, Tensor]) -> None:
    for name, own in chain(method.named_parameters(), method.named_buffers()):
        if name in values:
            own.copy_(values[name])
