"""Find lesions in a scan, a folder of scans or a manifest."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
from typing import TYPE_CHECKING

from volad import bundle
from volad.batch.shards import shard_of
from volad.commands.arguments import add_machine, at_least, given, number, set_threads
from volad.errors import UsageError

if TYPE_CHECKING:
    from volad.outputs import Outcome

__all__ = ["add_arguments", "run"]

log = logging.getLogger(__name__)

SOME_FAILED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    add = parser.add_argument
    switch = argparse.BooleanOptionalAction
    add("input", nargs="?", help="a scan (NIfTI, NRRD, MetaImage, DICOM folder or zip), a folder "
        "of scans, or a manifest; default: $HOLOSCAN_INPUT_PATH")  # fmt: skip
    add("-o", "--output", help="folder for the results, or the mask's own path ending in .nii.gz; "
        "default: $HOLOSCAN_OUTPUT_PATH")  # fmt: skip
    add("-b", "--bundle", default=bundle.DEFAULT, help=f"name or folder [{bundle.DEFAULT}]")
    add("--brain-mask", type=bundle.literal, metavar="FILE",
        help="the scan's brain mask, on its own grid")  # fmt: skip
    add("--channel", type=_channel, action="append", default=[], metavar="NAME=FILE",
        help="a further image of the patient, for bundles of several channels")  # fmt: skip
    add("--volume", type=at_least(0), metavar="K", help="which volume of a 4D file, from 0")
    add("--series", metavar="ID", help="which DICOM series of a folder")
    add("--workers", type=at_least(0), metavar="N", help="processes that preprocess ahead [from "
        "four scans on as many as CPU threads, at most 8; else 0]")  # fmt: skip
    add("--resume", action="store_true", default=None,
        help="leave out scans whose results, made from the same bytes with the same settings, are "
        "whole")  # fmt: skip
    add("--num-shards", type=_shards, metavar="N", help="share the scans among N runs; auto: as "
        "many as the SLURM array has tasks")  # fmt: skip
    add("--shard-index", type=at_least(0), metavar="K", help="which of them this is, from 0 "
        "[$JOB_COMPLETION_INDEX, or the place of $SLURM_ARRAY_TASK_ID in its array]")  # fmt: skip
    add("--bids", action=switch, default=None, help="the input is a BIDS data set, and so will be "
        "the output [where it has a dataset_description.json]")  # fmt: skip
    add("--bids-suffix", metavar="NAME", help="its contrast [the bundle's, such as T1w]")
    add("--force", action="store_true", default=None, help="make a mask even of a scan that is of "
        "another kind than the bundle knows; it is flagged")  # fmt: skip
    add("--overlap", type=number(0, 0.9, or_equal=True), metavar="R",
        help="share by which windows overlap, for bundles with patches")  # fmt: skip
    add("--amp", action=switch, default=None, help="bfloat16 autocast")
    cut = parser.add_mutually_exclusive_group()
    cut.add_argument("--threshold", type=number(-math.inf), metavar="S",
                     help="on the score, in place of the calibrated one")  # fmt: skip
    cut.add_argument("--healthy-fpr", type=number(0, 1), metavar="R", help="calibrated threshold "
                     "for this share of false-positive voxels in healthy scans")  # fmt: skip
    cut.add_argument("--false-mm3", type=number(0), metavar="V", help="calibrated threshold "
                     "for so many mm³ of false-positive lesions a healthy scan")  # fmt: skip
    cut.add_argument("--false-lesions", type=number(0), metavar="N", help="calibrated threshold "
                     "for so many false-positive lesions a healthy scan")  # fmt: skip
    add("--min-lesion-mm3", type=number(0, or_equal=True), metavar="V",
        help="smaller lesions are dropped")  # fmt: skip
    add("--save-score", action=switch, default=None, help="write the score map [yes]")
    add("--save-healthy", action=switch, default=None, help="write the healthy counterpart [no]")
    add("--save-brain", action=switch, default=None, help="write the brain mask [no]")
    add("--stats", action=switch, default=None, help="write the lesion tables [yes]")
    add("--report", action=switch, default=None, help="write the report page [yes]")
    add("--json", action="store_true", help="one JSON object a scan on stdout")
    add_machine(parser)


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    set_threads(args.threads)
    from volad import api  # torch and MONAI load only when needed

    output = args.output or os.environ.get("HOLOSCAN_OUTPUT_PATH")
    scans = args.input or os.environ.get("HOLOSCAN_INPUT_PATH")
    if not scans or not output:
        raise UsageError("give the scan and, with -o, where the results go")
    outcomes = api.segment(
        scans,
        output,
        tell=lambda outcome: _print_outcome(outcome, args.json),
        bundle_name=args.bundle,
        device=args.device,
        settings=given(
            args,
            "brain_mask", "volume", "series", "workers", "amp", "threshold", "healthy_fpr",
            "min_lesion_mm3", "save_score", "save_healthy", "save_brain", "stats", "report",
            "resume", "bids", "bids_suffix", "force",
        ) | _shard(args) | ({"inferer::overlap": args.overlap} if args.overlap is not None else {})
        | ({"dataset::channel_files": dict(args.channel)} if args.channel else {})
        | _promise(args),
    )  # fmt: skip
    failed = [o for o in outcomes if o.error]
    if not failed:
        return 0
    return failed[0].exit_code if len(outcomes) == 1 else SOME_FAILED


def _promise(args: argparse.Namespace) -> dict[str, object]:
    """The bundle's setting for a promise on false lesions, where one is asked for."""
    for of in ("false_mm3", "false_lesions"):
        if (rate := getattr(args, of)) is not None:
            return {"promise": {"of": of, "rate": rate}}
    return {}


def _channel(text: str) -> tuple[str, str]:
    """`NAME=FILE`."""
    name, equals, file = text.partition("=")
    if not (name and equals and file):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FILE")
    return name, bundle.literal(file)


def _shards(text: str) -> str:
    """A number of shards, or `auto`."""
    return text if text == "auto" else str(at_least(1)(text))


_shards.__name__ = "number of shards"


def _shard(args: argparse.Namespace) -> dict[str, int]:
    """Which shard this is; nothing without shards, since older bundles know none."""
    shards, index = shard_of(args.num_shards, args.shard_index, os.environ)
    return {"num_shards": shards, "shard_index": index} if shards > 1 else {}


def _print_outcome(outcome: Outcome, as_json: bool) -> None:
    for flag in outcome.flags:
        log.warning("%s: %s", outcome.scan.path, flag)
    if as_json:
        files = {kind: os.fspath(path) for kind, path in outcome.files.items()}
        more = {"resumed": outcome.resumed, "seconds": outcome.seconds}
        print(json.dumps({**outcome.row(), "files": files, **more}), flush=True)
    elif not outcome.error:
        print(outcome.files["mask"], flush=True)
