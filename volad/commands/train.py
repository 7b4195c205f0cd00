"""Train a method on healthy scans: makes a bundle, calibrated and ready for use."""

from __future__ import annotations

import argparse
from pathlib import Path

from volad import bundle
from volad.commands.arguments import (
    add_machine,
    assignment,
    at_least,
    given,
    number,
    set_threads,
)

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add its arguments."""
    add = parser.add_argument
    add("method", help="see volad methods")
    add("-o", "--output", required=True, type=Path, metavar="BUNDLE", help="the bundle's folder")
    add("--manifest", required=True, help="CSV of healthy scans: subject, split, image, sha256")
    add("--data-dir", required=True, help="folder that the manifest's paths start at")
    add("--modality", choices=("mr", "ct"), default="mr")
    add("--channels", type=lambda text: text.split(","), default=[], metavar="NAME,NAME",
        help="several images of each person, the first that of the manifest's image, the others "
        "its columns of these names: t1,t2,flair")  # fmt: skip
    add("--simulate", choices=("ct", "mr"), help="the scans are healthy T1 heads; learn from CT "
        "(with --modality ct), or from MR of any contrast, simulated of them")  # fmt: skip
    add("--space", choices=("mni", "isotropic"), default="mni",
        help="volumes aligned to MNI152 at 2 mm, or patches (slabs, for methods on those) on an "
        "isotropic grid [mni]")  # fmt: skip
    add("--spacing-mm", type=number(0), default=1.0, help="voxel size of the isotropic grid [1]")
    add("--patch", type=at_least(8), nargs=3, default=(64, 64, 64), metavar="N",
        help="voxels of a patch, or of a slab within its slices [64 64 64]")  # fmt: skip
    add("--set", type=assignment, action="append", default=[], metavar="KEY=VALUE",
        help="an argument of the method (volad methods NAME), the value as JSON")  # fmt: skip
    add("--training", type=assignment, action="append", default=[], metavar="KEY=VALUE",
        help="any other setting of train.json, the value as JSON")  # fmt: skip
    add("--epochs", type=at_least(1))
    add("--batch", type=at_least(1))
    add("--lr", type=number(0))
    add("--ema", type=float, help="decay of the averaged weights; 0: none")
    add("--patience", type=at_least(0), help="epochs without a better validation loss; 0: all")
    add("--amp", action=argparse.BooleanOptionalAction, default=None, help="bfloat16 autocast")
    add("--seed", type=int)
    add("--log-dir", type=bundle.literal, help="TensorBoard logs")
    add("--workers", type=at_least(0), metavar="N", help="processes that preprocess [0]")
    add("--cache-dir", help="preprocessed scans [BUNDLE/cache]")
    add("--healthy-fpr", type=number(0, 1), default=0.001, metavar="R", help="the promise [0.001]")
    add_machine(parser)


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    set_threads(args.threads)
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
        training=given(args, "epochs", "batch", "lr", "ema", "patience", "amp", "seed", "log_dir")
        | dict(args.training),
        device=args.device,
        workers=args.workers or 0,
        cache_dir=args.cache_dir,
        rate=args.healthy_fpr,
        simulate=args.simulate,
        channels=args.channels,
    )
    print(f"{args.output}: threshold {found.threshold:.4g} from {len(found.scans)} healthy scans")
    return 0
