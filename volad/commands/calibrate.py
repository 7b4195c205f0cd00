"""Set a bundle's threshold anew from healthy scans, as for a new scanner; say how sure it is."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from volad.commands.arguments import add_machine, number, set_threads
from volad.errors import UsageError

if TYPE_CHECKING:
    from volad.calibrate import Promise

__all__ = ["add_arguments", "run"]

#: Most that is promised unless asked otherwise; other quantities have no usual value.
DEFAULT_FPR = 0.001
PROMISES = ("voxel-fpr", "false-mm3", "false-lesions")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    add = parser.add_argument
    add("bundle", help="name or folder")
    add("--on", metavar="FOLDER", help="healthy scans that were not trained on")
    add("--manifest", help="CSV of healthy scans")
    add("--data-dir", help="folder that the manifest's paths start at")
    add("--split", default="validation", help="which of the manifest's splits [validation]")
    add("-o", "--output", metavar="DIR", help="calibrate a copy of the bundle, which stays as it "
        "is; default: the bundle itself, if it is no shipped one")  # fmt: skip
    add("--promise", choices=PROMISES, help="what to keep low in healthy scans: the share of brain "
        "voxels above the threshold, or volume or number of the false lesions in the mask "
        "[voxel-fpr]")  # fmt: skip
    add("--at-most", type=number(0, or_equal=True), metavar="R",
        help="how low: a share, mm³ a scan, or lesions a scan [0.001 for voxel-fpr]")  # fmt: skip
    add("--healthy-fpr", type=number(0, 1), metavar="R",
        help="short for --promise voxel-fpr --at-most R")  # fmt: skip
    add("--kind", choices=("mean", "each"), default="mean",
        help="on average over new healthy scans, or in each of them [mean]")  # fmt: skip
    add("--cap", type=number(1), metavar="K", help="with --kind mean: a scan counts at most K "
        "times R; takes K - 1 healthy scans or more [10]")  # fmt: skip
    add("--level", type=number(0, 1), metavar="P", help="with --kind each: the probability that a "
        "new scan keeps to R; 0.9 takes 9 healthy scans, 0.95 takes 19 [0.9]")  # fmt: skip
    add("--force", action="store_true", help="take scans, too, that are of another kind than the "
        "bundle knows; it lets their like pass from then on")  # fmt: skip
    add("--json", action="store_true", help="one JSON object on stdout")
    add_machine(parser)


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    set_threads(args.threads)
    promise = _promise(args)
    from volad import api
    from volad.calibrate import words

    found = api.calibrate(
        args.bundle,
        _healthy(args),
        promise=promise,
        device=args.device,
        output=args.output,
        force=args.force,
    )
    print(json.dumps(found.facts(), indent=2) if args.json else words.report(found))
    return 0


def _promise(args: argparse.Namespace) -> Promise:
    from volad.calibrate import Promise

    short = args.healthy_fpr is not None
    if short and (args.promise or args.at_most is not None):
        raise UsageError("--healthy-fpr is a promise itself; leave --promise and --at-most out")
    if args.cap is not None and args.kind == "each":
        raise UsageError("--cap is for --kind mean; leave it out")
    if args.level is not None and args.kind == "mean":
        raise UsageError("--level is for --kind each; add that, or leave it out")
    of = (args.promise or "voxel-fpr").replace("-", "_")
    rate = args.healthy_fpr if short else args.at_most
    if rate is None:
        if of != "voxel_fpr":
            raise UsageError(f"--promise {args.promise} needs --at-most, how low it is to be kept")
        rate = DEFAULT_FPR
    settings = {"cap": args.cap, "level": args.level}
    chosen = {name: value for name, value in settings.items() if value is not None}
    return Promise(of, rate, args.kind, **chosen)


def _healthy(args: argparse.Namespace) -> Any:
    if (args.on is None) == (args.manifest is None):
        raise UsageError("give the healthy scans with --on FOLDER, or with --manifest and --split")
    if args.manifest is None:
        return args.on
    from volad import bundle
    from volad.data import read_split

    if args.data_dir is None:
        raise UsageError("--manifest needs --data-dir, the folder its paths start at")
    channels = bundle.channels(bundle.find(args.bundle))
    return [row.scan for row in read_split(args.manifest, args.data_dir, args.split, channels)]
