"""Several processes that train one model, started by torchrun; one alone needs none of this.

Every process holds the whole model and takes its share of an epoch's windows; gradients are
averaged before each optimiser's step, so all models stay equal. No `DistributedDataParallel`: a
step may run its networks several times, or differentiate twice. All it has to do is to yield the
same updates in the same order in every process. With one process nothing is changed or sent.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import chain, cycle, islice
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import RandomSampler, Sampler

from volad.errors import UsageError

#: How long to wait for the slowest process. torchrun ends all as soon as one fails.
TIMEOUT = timedelta(hours=2)
T = TypeVar("T")


def device() -> torch.device:
    """This process's GPU, or the CPU where there is none."""
    cuda = torch.cuda.is_available()
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    )


def start(device: torch.device | str) -> None:
    """Join the other processes; only the first one reports progress.

    Raises:
        UsageError: this process was not started by torchrun.
    """
    if "LOCAL_RANK" not in os.environ:
        raise UsageError("multi_gpu_train.json is for torchrun; leave it out to train alone")
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT)
    logging.getLogger("volad").setLevel(logging.NOTSET if first() else logging.WARNING)


def stop() -> None:
    """Leave the others."""
    dist.destroy_process_group()


def rank() -> int:
    """Which process this is."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def first() -> bool:
    """Whether this is the process that writes files."""
    return rank() == 0


def hide_bar() -> bool | None:
    """What tqdm takes as `disable`: one process shows progress, and only on a terminal."""
    return None if first() else True


def wait() -> None:
    """Go on when all processes have come here."""
    if world() > 1:
        dist.barrier()


def own_seed(seed: int) -> int:
    """Another seed in every process, far from `seed + 1`, which augmentation takes too."""
    return seed + 1_000_003 * rank()


def share(items: Sequence[T]) -> Sequence[T]:
    """This process's items; the other processes have the others."""
    return items[rank() :: world()]


class Share(Sampler[int]):
    """This process's part of an order of windows that all know: parts of the same length.

    What does not go round is left out; with fewer windows than processes, some are given twice.
    """

    def __init__(self, order: RandomSampler) -> None:
        self.order = order

    def __len__(self) -> int:
        return max(len(self.order) // world(), 1)

    def __iter__(self) -> Iterator[int]:
        return islice(cycle(self.order), rank(), rank() + len(self) * world(), world())


def total(value: float, device: torch.device) -> float:
    """The sum over the processes, the same in all."""
    if world() == 1:
        return value
    found = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(found)
    return found.item()


def mean(value: Tensor) -> float:
    """The mean of a scalar over the processes, the same in all; not finite where one is not."""
    return total(value.item(), value.device) / world()


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace gradients by their means over the processes.

    A parameter without one counts as zeros, and stays without where no process has one.
    """
    if world() == 1:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    there = torch.tensor([float(p.grad is not None) for p in parameters]).to(gradients[0])
    flat = torch.cat([*(g.flatten() for g in gradients), there])  # one message, not hundreds
    dist.all_reduce(flat)
    sizes = [*(g.numel() for g in gradients), len(there)]
    *means, there = torch.split(flat / world(), sizes)
    for p, gradient, value, some in zip(parameters, gradients, means, there.tolist(), strict=True):
        if some:
            p.grad = gradient.copy_(value.view_as(gradient))


@torch.no_grad()
def equalise(module: nn.Module) -> None:
    """Give all processes the first one's parameters and buffers; go on when all have them."""
    if world() > 1:
        for tensor in chain(module.parameters(), module.buffers()):
            value = tensor.contiguous()
            dist.broadcast(value, 0)
            tensor.copy_(value)
    wait()
