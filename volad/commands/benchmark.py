"""Compare detectors on data sets: train, calibrate, segment, evaluate, one table. Resumable."""

from __future__ import annotations

import argparse
from pathlib import Path

from volad.commands.arguments import add_machine, at_least, set_threads
from volad.errors import UsageError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    add = parser.add_argument
    add("plan", type=Path, help="JSON file of detectors and data sets (volad/benchmark/plan.py)")
    add("-o", "--output", required=True, type=Path, metavar="OUT", help="folder for everything; "
        "called again on it, finished parts are kept")  # fmt: skip
    add("--folder", action="append", default=[], metavar="NAME=DIR",
        help="what {NAME} stands for in the plan")  # fmt: skip
    add("--draws", type=at_least(100), default=2000, metavar="N", help="bootstrap draws [2000]")
    add("--froc", action=argparse.BooleanOptionalAction, default=True,
        help="make FROC curves, which take most of an evaluation's time [yes]")  # fmt: skip
    add_machine(parser)


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    set_threads(args.threads)
    from volad import benchmark  # torch and MONAI load only when needed
    from volad.evaluate import Settings

    plan = benchmark.read_plan(args.plan, dict(map(_folder, args.folder)))
    settings = Settings(draws=args.draws, froc=args.froc)
    benchmark.run_plan(plan, args.output, device=args.device, settings=settings)
    print((args.output / "benchmark.md").read_text(encoding="utf-8"), end="")
    return 0


def _folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not equals or not name or not folder:
        raise UsageError(f"--folder {text!r}: must be NAME=DIR")
    if not Path(folder).is_dir():
        raise UsageError(f"--folder {text}: there is no folder {folder}")
    return name, Path(folder)
