"""The `volad` command: a thin door. Every command parses, makes one call, and returns a code.

Exit codes: 0 done; 1 a run-time error that may be worth a retry; 2 wrong arguments; 3 finished, but
some of several scans failed; 42 an input that can never work.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from volad import __version__, bundle, methods
from volad.arguments import build_parser
from volad.errors import UsageError, VoladError
from volad.io.guard import one_line

if TYPE_CHECKING:
    from volad.outputs import Outcome

__all__ = ["main"]

log = logging.getLogger(__name__)

SOME_FAILED = 3
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    parser = build_parser(
        (__doc__ or "").partition("\n\n")[2],
        segment=segment,
        train=train,
        calibrate=calibrate,
        methods=list_methods,
        info=info,
    )
    args = parser.parse_args(argv)
    level = logging.ERROR if args.quiet else logging.INFO if args.verbose else logging.WARNING
    if args.quiet:
        os.environ["TQDM_DISABLE"] = "1"  # before tqdm loads
    logging.basicConfig(level=level, format="volad: %(message)s", stream=sys.stderr, force=True)
    try:
        code: int = args.run(args)
    except VoladError as error:
        print(f"volad: {one_line(error)}", file=sys.stderr)
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
        facts = {**row, "files": files, **outcome.summary, "scan_scores": outcome.scan_scores}
        print(json.dumps({**facts, "flags": outcome.flags}), flush=True)
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
