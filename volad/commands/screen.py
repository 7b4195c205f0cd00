"""Find the healthy scans that should not be trained on, and say why; write a manifest without."""

from __future__ import annotations

import argparse
from pathlib import Path

from volad.commands.arguments import at_least, set_threads

__all__ = ["add_arguments", "run"]

#: The shipped bundle for T1, which scans to train on mostly are.
T1 = "brain_t1_ae"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    add = parser.add_argument
    add("-b", "--bundle", default=T1,
        help=f"whose steps prepare the scans [{T1}]")  # fmt: skip
    add("--manifest", required=True, type=Path,
        help="CSV of healthy scans: subject, split, image, sha256")  # fmt: skip
    add("--data-dir", required=True, type=Path, help="folder that the manifest's paths start at")
    add("--split", default="train", help="which of the manifest's splits [train]")
    add("-o", "--output", required=True, type=Path, metavar="OUT", help="folder for screen.csv, "
        "screen.json, screen.html, and kept.csv, the manifest without flagged scans")  # fmt: skip
    add("--cache-dir", type=Path, help="preprocessed scans, shared with volad train [OUT/cache]")
    add("--workers", type=at_least(0), default=0, metavar="N",
        help="processes that preprocess [0]")  # fmt: skip
    add("--threads", type=at_least(1), metavar="N", help="CPU threads")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    set_threads(args.threads)
    from volad.screen import Job, screen  # torch and MONAI load only when needed

    found = screen(
        Job(
            bundle_name=args.bundle,
            manifest=args.manifest,
            data_dir=args.data_dir,
            split=args.split,
            cache_dir=args.cache_dir,
            workers=args.workers,
        ),
        args.output,
    )
    flagged = [one for one in found.findings if one.flagged]
    for one in flagged:
        print(f"{one.row.image}: {'; '.join(one.reasons)}")
    print(f"{len(found.findings)} scans, {len(flagged)} flagged: {found.page}")
    return 0
