"""The commands of `volad`, one file each.

A command's module has a docstring, whose first line is its help, `add_arguments(parser)` and
`run(args)`, which returns the exit code. None imports torch before it runs.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

__all__ = ["NAMES", "load"]

#: In the order of the help.
NAMES = (
    *("segment", "merge", "screen", "train", "calibrate"),
    *("evaluate", "synthesize", "benchmark"),
    *("methods", "info"),
)


def load(name: str) -> ModuleType:
    """The module of a command."""
    return import_module(f"{__name__}.{name}")
