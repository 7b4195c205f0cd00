"""Join the shards of a batch: one table and one page, or what is missing."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    add = parser.add_argument
    switch = argparse.BooleanOptionalAction
    add("output", type=Path, help="the folder that volad segment wrote to")
    add("--expect", metavar="INPUT", help="the input whose scans must all be there [what the "
        "shards were given]")  # fmt: skip
    add("--bids", action=switch, default=None, help="that is a BIDS data set [where it has a "
        "dataset_description.json]")  # fmt: skip
    add("--bids-suffix", default="T1w", metavar="NAME", help="its contrast [T1w]")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from volad.batch.merge import merge
    from volad.io import find_scans

    expected = None
    if args.expect is not None:
        scans = find_scans(args.expect, bids=args.bids, bids_suffix=args.bids_suffix)
        expected = [scan.identifier for scan in scans]
    merge(args.output, expected)
    print(args.output / "statistics.csv")
    return 0
