"""The arguments of the `volad` command."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from volad import __version__, bundle

__all__ = ["build_parser"]


def _assignment(text: str) -> tuple[str, Any]:
    """`key=value`; the value as JSON where it is, otherwise as text."""
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _at_least(lowest: int) -> Any:
    def parse(text: str) -> int:
        value = int(text)
        if value < lowest:
            raise argparse.ArgumentTypeError(f"must be {lowest} or more, got {value}")
        return value

    parse.__name__ = "whole number"
    return parse


def _number(low: float, high: float = math.inf, *, or_equal: bool = False) -> Any:
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


#: A command takes its parsed arguments and returns its exit code.
Command = Callable[[argparse.Namespace], int]


def build_parser(epilog: str, **commands: Command) -> argparse.ArgumentParser:
    """The parser of all commands; what a command does is its docstring.

    Args:
        epilog: shown below the help.
        commands: what to run for `segment`, `train`, `calibrate`, `methods` and `info`.
    """
    top = argparse.ArgumentParser(
        prog="volad",
        description="Find lesions in 3D medical scans without lesion labels. Research software: "
        "not a medical device, not for diagnosis or treatment.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"volad {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-q", "--quiet", action="store_true", help="only errors on stderr")
    common.add_argument("-v", "--verbose", action="store_true", help="more on stderr")
    machine = argparse.ArgumentParser(add_help=False)
    machine.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N [auto]")
    machine.add_argument("--threads", type=_at_least(1), metavar="N", help="CPU threads")
    subparsers = top.add_subparsers(metavar="COMMAND", required=True)
    for name, (add, parents) in {
        "segment": (_add_segment, [common, machine]),
        "train": (_add_train, [common, machine]),
        "calibrate": (_add_calibrate, [common, machine]),
        "methods": (_add_methods, [common]),
        "info": (_add_info, [common]),
    }.items():
        command = commands[name]
        parser = subparsers.add_parser(
            name, parents=parents, help=command.__doc__, description=command.__doc__
        )
        parser.set_defaults(run=command)
        add(parser)
    return top


def _add_methods(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="a method, for its documentation")


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", nargs="?", help="a bundle's name or folder")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _add_segment(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    switch = argparse.BooleanOptionalAction
    add("input", nargs="?", help="a scan (NIfTI, NRRD, MetaImage, DICOM folder or zip), a folder "
        "of scans, or a manifest; default: $HOLOSCAN_INPUT_PATH")  # fmt: skip
    add("-o", "--output", help="folder for the results, or the mask's own path ending in .nii.gz; "
        "default: $HOLOSCAN_OUTPUT_PATH")  # fmt: skip
    add("-b", "--bundle", default=bundle.DEFAULT, help=f"name or folder [{bundle.DEFAULT}]")
    add("--brain-mask", type=bundle.literal, metavar="FILE",
        help="the scan's brain mask, on its own grid")  # fmt: skip
    add("--volume", type=_at_least(0), metavar="K", help="which volume of a 4D file, from 0")
    add("--series", metavar="ID", help="which DICOM series of a folder")
    add("--workers", type=_at_least(0), metavar="N", help="processes that preprocess ahead [0]")
    add("--overlap", type=_number(0, 0.9, or_equal=True), metavar="R",
        help="share by which windows overlap, for bundles with patches")  # fmt: skip
    add("--amp", action=switch, default=None, help="bfloat16 autocast")
    cut = parser.add_mutually_exclusive_group()
    cut.add_argument("--threshold", type=_number(-math.inf), metavar="S",
                     help="on the score, in place of the calibrated one")  # fmt: skip
    cut.add_argument("--healthy-fpr", type=_number(0, 1), metavar="R", help="calibrated threshold "
                     "for this share of false-positive voxels in healthy scans")  # fmt: skip
    add("--min-lesion-mm3", type=_number(0, or_equal=True), metavar="V",
        help="smaller lesions are dropped")  # fmt: skip
    add("--save-score", action=switch, default=None, help="write the score map [yes]")
    add("--save-healthy", action=switch, default=None, help="write the healthy counterpart [no]")
    add("--stats", action=switch, default=None, help="write the lesion tables [yes]")
    add("--report", action=switch, default=None, help="write the report page [yes]")
    add("--json", action="store_true", help="one JSON object a scan on stdout")


def _add_train(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("method", help="see volad methods")
    add("-o", "--output", required=True, type=Path, metavar="BUNDLE", help="the bundle's folder")
    add("--manifest", required=True, help="CSV of healthy scans: subject, split, image, sha256")
    add("--data-dir", required=True, help="folder that the manifest's paths start at")
    add("--modality", choices=("mr", "ct"), default="mr")
    add("--space", choices=("mni", "isotropic"), default="mni",
        help="volumes aligned to MNI152 at 2 mm, or patches (slabs, for methods on those) on an "
        "isotropic grid [mni]")  # fmt: skip
    add("--spacing-mm", type=_number(0), default=1.0, help="voxel size of the isotropic grid [1]")
    add("--patch", type=_at_least(8), nargs=3, default=(64, 64, 64), metavar="N",
        help="voxels of a patch, or of a slab within its slices [64 64 64]")  # fmt: skip
    add("--set", type=_assignment, action="append", default=[], metavar="KEY=VALUE",
        help="an argument of the method (volad methods NAME), the value as JSON")  # fmt: skip
    add("--training", type=_assignment, action="append", default=[], metavar="KEY=VALUE",
        help="any other setting of train.json, the value as JSON")  # fmt: skip
    add("--epochs", type=_at_least(1))
    add("--batch", type=_at_least(1))
    add("--lr", type=_number(0))
    add("--ema", type=float, help="decay of the averaged weights; 0: none")
    add("--patience", type=_at_least(0), help="epochs without a better validation loss; 0: all")
    add("--amp", action=argparse.BooleanOptionalAction, default=None, help="bfloat16 autocast")
    add("--seed", type=int)
    add("--log-dir", type=bundle.literal, help="TensorBoard logs")
    add("--workers", type=_at_least(0), metavar="N", help="processes that preprocess [0]")
    add("--cache-dir", help="preprocessed scans [BUNDLE/cache]")
    add("--healthy-fpr", type=_number(0, 1), default=0.001, metavar="R", help="the promise [0.001]")


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("bundle", help="name or folder")
    add("--on", metavar="FOLDER", help="healthy scans that were not trained on")
    add("--manifest", help="CSV of healthy scans")
    add("--data-dir", help="folder that the manifest's paths start at")
    add("--split", default="validation", help="which of the manifest's splits [validation]")
    add("--healthy-fpr", type=_number(0, 1), default=0.001, metavar="R", help="the promise [0.001]")
