"""Kinds of arguments that the commands share, and options that several of them have."""

from __future__ import annotations

import argparse
import json
import math
import os
from typing import Any

__all__ = ["add_machine", "assignment", "at_least", "given", "number", "set_threads"]


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Where a command runs."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N [auto]")
    parser.add_argument("--threads", type=at_least(1), metavar="N", help="CPU threads")


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options among `names` that the user gave; the bundle's values stand for the others."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def set_threads(threads: int | None) -> None:
    """Apply `--threads`; to be called before anything loads torch."""
    if threads is None:
        return
    # Before torch loads: its OpenMP pool reads this once.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)


def assignment(text: str) -> tuple[str, Any]:
    """`key=value`; the value as JSON (or Python's True, False) where it is, otherwise as text."""
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        # As a text, "False" would be true.
        return key, json.loads(value.lower() if value in ("True", "False") else value)
    except ValueError:
        return key, value


def at_least(lowest: int) -> Any:
    """A whole number that is not below `lowest`."""

    def parse(text: str) -> int:
        value = int(text)
        if value < lowest:
            raise argparse.ArgumentTypeError(f"must be {lowest} or more, got {value}")
        return value

    parse.__name__ = "whole number"
    return parse


def number(low: float, high: float = math.inf, *, or_equal: bool = False) -> Any:
    """A finite number between two limits, which are allowed themselves with `or_equal`."""

    def parse(text: str) -> float:
        value = float(text)
        within = low <= value <= high if or_equal else low < value < high
        if not (within and math.isfinite(value)):
            raise argparse.ArgumentTypeError(f"must be {rule}, got {text}")
        return value

    if low == -math.inf:
        rule = "a finite number"
    else:
        rule = f"between {low:g} and {high:g}" if high < math.inf else f"above {low:g}"
        rule += ", or equal" if or_equal else ""
    parse.__name__ = "number"
    return parse
