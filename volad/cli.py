"""The `volad` command: a thin door. Every command parses, makes one call, and returns a code.

Exit codes: 0 done; 1 a run-time error that may be worth a retry; 2 wrong arguments; 3 finished, but
some of several scans failed; 42 an input that can never work.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volad import __version__, bundle, methods
from volad.errors import UsageError, VoladError

if TYPE_CHECKING:
    from volad.outputs import Outcome

__all__ = ["main"]

log = logging.getLogger(__name__)

SOME_FAILED = 3
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    args = _parser().parse_args(argv)
    level = logging.ERROR if args.quiet else logging.INFO if args.verbose else logging.WARNING
    if args.quiet:
        os.environ["TQDM_DISABLE"] = "1"  # before tqdm loads
    logging.basicConfig(level=level, format="volad: %(message)s", stream=sys.stderr, force=True)
    try:
        code: int = args.run(args)
    except VoladError as error:
        print(f"volad: {_one_line(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("volad: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `volad methods | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def segment(args: argparse.Namespace) -> int:
    """Find lesions in a scan, a folder of scans or a manifest."""
    _set_threads(args.threads)
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
        settings=_given(
            args,
            "brain_mask", "volume", "series", "workers", "amp", "threshold", "healthy_fpr",
            "min_lesion_mm3", "save_score", "save_healthy", "stats", "report",
        ) | ({"inferer::overlap": args.overlap} if args.overlap is not None else {}),
    )  # fmt: skip
    failed = [o for o in outcomes if o.error]
    if not failed:
        return 0
    return failed[0].exit_code if len(outcomes) == 1 else SOME_FAILED


def _print_outcome(outcome: Outcome, as_json: bool) -> None:
    name = (outcome.scan.group / outcome.scan.name).as_posix()
    for flag in outcome.flags:
        log.warning("%s: %s", outcome.scan.path, flag)
    if as_json:
        files = {kind: os.fspath(path) for kind, path in outcome.files.items()}
        row = {"name": name, "exit_code": outcome.exit_code, "error": outcome.error}
        facts = {**row, "files": files, **outcome.summary, "flags": outcome.flags}
        print(json.dumps(facts), flush=True)
    elif not outcome.error:
        print(outcome.files["mask"], flush=True)


def train(args: argparse.Namespace) -> int:
    """Train a method on healthy scans: makes a bundle, calibrated and ready for use."""
    _set_threads(args.threads)
    from volad import api

    found = api.train(
        args.method,
        args.output,
        manifest=args.manifest,
        data_dir=args.data_dir,
        arguments=dict(args.set),
        modality=args.modality,
        space=args.space,
        spacing_mm=args.spacing_mm,
        patch=args.patch,
        training=_given(args, "epochs", "batch", "lr", "ema", "patience", "amp", "seed", "log_dir")
        | dict(args.training),
        device=args.device,
        workers=args.workers or 0,
        cache_dir=args.cache_dir,
        rate=args.healthy_fpr,
    )
    print(f"{args.output}: threshold {found.threshold:.4g} from {len(found.scans)} healthy scans")
    return 0


def calibrate(args: argparse.Namespace) -> int:
    """Set a bundle's threshold anew from healthy scans, as after a change of scanner."""
    _set_threads(args.threads)
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


def list_methods(args: argparse.Namespace) -> int:
    """List the methods, or show one's documentation."""
    if args.name:
        print(methods.documentation(args.name))
        return 0
    width = max(len(name) for name in methods.names())
    for name in methods.names():
        print(f"{name:{width}}  {methods.summary(name)}")
    return 0


def info(args: argparse.Namespace) -> int:
    """Tell versions and bundles, or all about one bundle; answers without loading torch."""
    facts: dict[str, Any] = {"volad": __version__, **_versions(), "bundles": bundle.names()}
    if args.bundle:
        found = bundle.identity(bundle.find(args.bundle))
        facts = {**found.facts(), "modality": found.modality, "calibration": found.calibration}
    if args.json:
        print(json.dumps(facts))
        return 0
    for key, value in facts.items():
        text = json.dumps(value, indent=2) if isinstance(value, (dict, list)) else value
        print(f"{key}: {text}")
    return 0


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0]}
    for package in ("monai", "torch", "nibabel", "SimpleITK", "numpy", "scipy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options among `names` that the user gave; the bundle's values stand for the others."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _set_threads(threads: int | None) -> None:
    if threads is None:
        return
    # Before torch loads: its OpenMP pool reads this once.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)


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


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="volad",
        description="Find lesions in 3D medical scans without lesion labels. Research software: "
        "not a medical device, not for diagnosis or treatment.",
        epilog=__doc__.split("\n\n")[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"volad {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-q", "--quiet", action="store_true", help="only errors on stderr")
    common.add_argument("-v", "--verbose", action="store_true", help="more on stderr")
    machine = argparse.ArgumentParser(add_help=False)
    machine.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N [auto]")
    machine.add_argument("--threads", type=_at_least(1), metavar="N", help="CPU threads")
    _add_segment(commands.add_parser("segment", parents=[common, machine], **_doc(segment)))
    _add_train(commands.add_parser("train", parents=[common, machine], **_doc(train)))
    _add_calibrate(commands.add_parser("calibrate", parents=[common, machine], **_doc(calibrate)))
    about = commands.add_parser("methods", parents=[common], **_doc(list_methods))
    about.add_argument("name", nargs="?", help="a method, for its documentation")
    about.set_defaults(run=list_methods)
    about = commands.add_parser("info", parents=[common], **_doc(info))
    about.add_argument("bundle", nargs="?", help="a bundle's name or folder")
    about.add_argument("--json", action="store_true", help="one JSON object")
    about.set_defaults(run=info)
    return top


def _doc(command: Any) -> dict[str, Any]:
    return {"help": command.__doc__, "description": command.__doc__}


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
    parser.set_defaults(run=segment)


def _add_train(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("method", help="see volad methods")
    add("-o", "--output", required=True, type=Path, metavar="BUNDLE", help="the bundle's folder")
    add("--manifest", required=True, help="CSV of healthy scans: subject, split, image, sha256")
    add("--data-dir", required=True, help="folder that the manifest's paths start at")
    add("--modality", choices=("mr", "ct"), default="mr")
    add("--space", choices=("mni", "isotropic"), default="mni",
        help="whole volumes aligned to MNI152, or patches on an isotropic grid [mni]")  # fmt: skip
    add("--spacing-mm", type=_number(0), default=1.0, help="voxel size of the isotropic grid [1]")
    add("--patch", type=_at_least(8), nargs=3, default=(64, 64, 64), metavar="N")
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
    parser.set_defaults(run=train)


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("bundle", help="name or folder")
    add("--on", metavar="FOLDER", help="healthy scans that were not trained on")
    add("--manifest", help="CSV of healthy scans")
    add("--data-dir", help="folder that the manifest's paths start at")
    add("--split", default="validation", help="which of the manifest's splits [validation]")
    add("--healthy-fpr", type=_number(0, 1), default=0.001, metavar="R", help="the promise [0.001]")
    parser.set_defaults(run=calibrate)
