"""Judge masks and score maps against expert masks."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from volad.commands.arguments import at_least, number, set_threads

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    add = parser.add_argument
    add("manifest", type=Path, help="CSV of scans: image or name, lesion (expert mask; empty: a "
        "scan without lesions), and, if wanted, brain_mask, subject, columns for --by")  # fmt: skip
    add("--results", action="append", required=True, metavar="[NAME=]DIR",
        help="folder that volad segment filled (NAME_mask.nii.gz, NAME_score.nii.gz, "
        "NAME_mask.json); the first is compared with each other")  # fmt: skip
    add("-o", "--output", required=True, type=Path, metavar="OUT", help="folder for the outputs")
    add("--data-dir", type=Path, metavar="DIR",
        help="folder that the manifest's paths start at [the manifest's own]")  # fmt: skip
    add("--by", action="append", default=[], metavar="COLUMN",
        help="a column of the manifest whose values make subgroups")  # fmt: skip
    add("--min-lesion-mm3", type=number(0, or_equal=True), default=0.0, metavar="V",
        help="expert lesions below this are neither found nor missed [0]")  # fmt: skip
    add("--tolerance-mm", type=number(0), default=1.0, metavar="T",
        help="of the normalised surface distance [1]")  # fmt: skip
    add("--bundle", action="append", default=[], metavar="[NAME=]BUNDLE",
        help="take the thresholds of 1, 5 and 10 %% healthy false positives from its calibration "
        "[from the scans without lesions]")  # fmt: skip
    add("--draws", type=at_least(100), default=2000, metavar="N", help="bootstrap draws [2000]")
    add("--seed", type=at_least(0), default=0, help="of the bootstrap [0]")
    add("--froc", action=argparse.BooleanOptionalAction, default=True,
        help="make the FROC curve, which takes most of the time [yes]")  # fmt: skip
    add("--allow-missing", action="store_true", help="go on without scans that a folder lacks")
    add("--json", action="store_true", help="print evaluation.json instead of the table")
    add("--threads", type=at_least(1), metavar="N", help="CPU threads")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    set_threads(args.threads)
    from volad import evaluate  # torch and MONAI load only when needed

    results = evaluate.parse_results(args.results)
    facts = evaluate.evaluate(
        evaluate.Job(
            manifest=args.manifest,
            results=results,
            data_dir=args.data_dir,
            by=args.by,
            bundles=evaluate.parse_bundles(args.bundle, results),
            allow_missing=args.allow_missing,
            settings=evaluate.Settings(
                min_lesion_mm3=args.min_lesion_mm3,
                tolerance_mm=args.tolerance_mm,
                draws=args.draws,
                seed=args.seed,
                froc=args.froc,
            ),
        ),
        args.output,
    )
    if args.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print(evaluate.terminal(facts), end="")
    return 0
