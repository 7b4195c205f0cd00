"""Paint synthetic lesions into healthy scans: a data set to judge detectors on, without labels."""

from __future__ import annotations

import argparse

from volad import bundle
from volad.commands.arguments import at_least, set_threads

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    add = parser.add_argument
    add("manifest", help="CSV of healthy scans: subject, split, image, sha256")
    add("--data-dir", required=True, help="folder that the manifest's paths start at")
    add("--split", default="test", help="which of the manifest's splits; never one that a "
        "detector was trained on [test]")  # fmt: skip
    add("-o", "--output", required=True, metavar="SUITE", help="the suite's folder")
    add("--scans", type=at_least(1), metavar="N", help="only the split's first N scans")
    add("--seed", type=at_least(0), default=0, help="of all random draws [0]")
    add("--suite", metavar="FILE.json", help="settings that differ from the default suite's "
        "(volad.synthetic.spec.Suite)")  # fmt: skip
    add("-b", "--bundle", default=bundle.DEFAULT,
        help=f"whose brain extraction to use [{bundle.DEFAULT}]")  # fmt: skip
    add("--threads", type=at_least(1), metavar="N", help="CPU threads")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    set_threads(args.threads)
    from volad import synthetic
    from volad.data import read_split

    suite = synthetic.DEFAULT if args.suite is None else synthetic.read_suite(args.suite)
    rows = read_split(args.manifest, args.data_dir, args.split)[: args.scans]
    sources = [synthetic.Source(row.subject, row.scan) for row in rows]
    print(
        synthetic.write_suite(sources, args.output, suite, seed=args.seed, bundle_name=args.bundle)
    )
    return 0
