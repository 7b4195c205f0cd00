"""Many scans: read ahead, one model loop, write behind; resume, shards, and joining shards.

Names load on first use, so choosing a shard or joining results imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from volad.batch.run import Batch

__all__ = ["Batch"]


def __getattr__(name: str) -> Any:
    if name == "Batch":
        return import_module(f"{__name__}.run").Batch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
