"""Tensors on disk: trained weights and checkpoints, whole or not at all, with no code in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from volad.errors import UsageError
from volad.methods._base import Method

__all__ = ["load_checkpoint", "save_tensors", "save_weights"]


def save_weights(method: Method, path: Path) -> None:
    """Write a method's state, on the CPU, as `torch.load(weights_only=True)` reads it."""
    save_tensors({k: v.detach().cpu() for k, v in method.state_dict().items()}, path)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what a training wrote after an epoch."""
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        if "method" in state:
            return state
    except (EOFError, RuntimeError, TypeError, UnpicklingError):
        pass
    raise UsageError(
        f"{path} is not a checkpoint of volad; name another --checkpoint or remove it to start anew"
    )


def save_tensors(state: Mapping[str, Any], path: Path) -> None:
    """`torch.save`, whole or not at all."""
    from volad.io.write import atomic

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        torch.save(dict(state), temporary)
