"""Set a bundle's threshold anew from healthy scans, as after a change of scanner."""

from __future__ import annotations

import argparse
import json
from typing import Any

from volad.commands.arguments import add_machine, number, set_threads
from volad.errors import UsageError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    add = parser.add_argument
    add("bundle", help="name or folder")
    add("--on", metavar="FOLDER", help="healthy scans that were not trained on")
    add("--manifest", help="CSV of healthy scans")
    add("--data-dir", help="folder that the manifest's paths start at")
    add("--split", default="validation", help="which of the manifest's splits [validation]")
    add("--healthy-fpr", type=number(0, 1), default=0.001, metavar="R", help="the promise [0.001]")
    add_machine(parser)


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    set_threads(args.threads)
    from volad import api

    healthy: Any = args.on
    if (args.on is None) == (args.manifest is None):
        raise UsageError("give the healthy scans with --on FOLDER, or with --manifest and --split")
    if args.manifest is not None:
        from volad.data import read_split

        if args.data_dir is None:
            raise UsageError("--manifest needs --data-dir, the folder its paths start at")
        healthy = [row.scan for row in read_split(args.manifest, args.data_dir, args.split)]
    found = api.calibrate(args.bundle, healthy, rate=args.healthy_fpr, device=args.device)
    stored = found.to_json()
    print(json.dumps({k: v for k, v in stored.items() if k not in ("tails", "scans")}, indent=2))
    return 0
