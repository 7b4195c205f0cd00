"""How often a bundle's scan check refuses or flags scans that it should, and those it should not.

    python benchmarks/scan_check.py --manifest data_manifests/ixi_hh_2mm.csv --data-dir DIR \
        --bundle brain_t1_ae [--scans 10] [--others FILE ...]

Each held-out healthy scan (split `test`) goes through the whole pipeline as it is and after each of
the changes below, from a fixed seed. `refused` is the share of which no mask is made (in brackets:
by an earlier step, such as an implausible brain mask), `kind` and `quality` the shares flagged in
each family (p <= 0.05). Contrasts are made from the grey values of T1 and are no real ones; those
are what `--others` is for, each a row of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from painted import paint
from scan_changes import CHANGES, Levels
from scipy import ndimage
from tqdm import tqdm

from volad import bundle
from volad.data import read_split
from volad.errors import InputError
from volad.io import Scan, Volume, read_volume
from volad.pipeline import Pipeline, prepare
from volad.preprocess.align import load_template
from volad.preprocess.steps import Sample


def main() -> None:
    """Change, check and print."""
    args = _arguments()
    pipeline: Pipeline = bundle.build(
        bundle.open_config(bundle.find(args.bundle), "inference", {"force": True}), "pipeline"
    )
    if pipeline.scan_check is None:
        raise SystemExit(f"{args.bundle} has no scan check")
    print("| scans | n | refused | kind flagged | quality flagged | oddest, of one of them |")
    print("|---|---|---|---|---|---|", flush=True)
    rows = read_split(args.manifest, args.data_dir, "test")[: args.scans]
    found: dict[str, list[dict[str, Any] | None]] = {}
    for number, row in enumerate(tqdm(rows, unit="scan")):
        for name, facts in _variants(pipeline, row.scan, number, set(args.only)):
            found.setdefault(name, []).append(facts)
    for name, every in found.items():
        _print(name, every)
    for path in args.others:
        _print(
            f"real: {Path(path).parent.name}/{Path(path).name}",
            [_check(pipeline, Scan(Path(path), path))],
        )


def _variants(
    pipeline: Pipeline, scan: Scan, seed: int, only: set[str]
) -> Iterator[tuple[str, dict[str, Any] | None]]:
    volume = read_volume(scan)
    untouched = prepare(pipeline.preprocessing, volume)
    yield "untouched", _judged(pipeline, untouched)
    levels = Levels.of(untouched, volume)
    for name, change in CHANGES.items():
        if not only or name in only:
            random = np.random.default_rng(seed)
            yield name, _check(pipeline, change(volume, levels, random))
    for name, edit in EDITS.items():
        if not only or name in only:
            yield name, _judged(pipeline, edit(untouched, np.random.default_rng(seed)))
    if not only or "brain mask 8 mm too wide" in only:
        yield "brain mask 8 mm too wide", _check(pipeline, volume, widen_mm=8)
    if not only or "brain mask everything" in only:
        yield "brain mask everything", _check(pipeline, volume, widen_mm=None)


def _check(
    pipeline: Pipeline, scan: Scan | Volume, widen_mm: float | None = 0
) -> dict[str, Any] | None:
    """What the check finds; None where an earlier step refuses the scan.

    `widen_mm` enlarges the brain mask; None: to all of the field of view.
    """
    try:
        if widen_mm == 0:
            sample = prepare(pipeline.preprocessing, scan)
        else:
            sample = _widened(pipeline, scan, widen_mm)
        return _judged(pipeline, sample)
    except InputError:
        return None


def _widened(pipeline: Pipeline, scan: Scan | Volume, widen_mm: float | None) -> Sample:
    load, extract, *rest = pipeline.preprocessing.transforms
    sample = extract(load({"image": scan}))
    brain = sample["brain"].numpy()[0] > 0
    if widen_mm is None:
        brain = np.ones_like(brain)
    else:
        away = ndimage.distance_transform_edt(~brain, sampling=sample["volume"].spacing_mm)
        brain = away <= widen_mm
    given = MetaTensor(torch.from_numpy(brain)[None], affine=sample["image"].affine)
    mask, how = extract.extract(sample["image"], given)  # refuses what cannot be a brain
    ml = float(brain.sum()) * sample["volume"].voxel_mm3 / 1000
    facts = {**sample["facts"], "brain_extraction": how, "brain_ml": ml}
    sample = {**sample, "brain": mask, "native_brain": mask, "facts": facts, "seconds": {}}
    for step in rest:
        sample = step(sample)
    return sample


def _judged(pipeline: Pipeline, sample: Sample) -> dict[str, Any]:
    facts: dict[str, Any] = pipeline.infer({**sample, "seconds": {}})["scan_check"]
    return facts


def _painted(sample: Sample, random: np.random.Generator) -> Sample:
    image, _ = paint(sample["image"].numpy()[0], sample["brain"].numpy()[0] > 0, random)
    affine = sample["image"].affine
    return {**sample, "image": MetaTensor(torch.from_numpy(image)[None], affine=affine)}


def _large(radius_mm: float) -> Callable[[Sample, np.random.Generator], Sample]:
    """One ball in the white matter as dark as fluid, such as an old infarct leaves."""

    def edit(sample: Sample, random: np.random.Generator) -> Sample:
        image, brain = sample["image"].numpy()[0].copy(), sample["brain"].numpy()[0] > 0
        centre = random.choice(np.argwhere((load_template().white > 0.6) & brain))
        grid = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij"), axis=-1)
        ball = (((grid - centre) * 2.0) ** 2).sum(axis=-1) <= radius_mm**2
        image[ball & brain] = np.percentile(image[brain], 3)
        affine = sample["image"].affine
        return {**sample, "image": MetaTensor(torch.from_numpy(image)[None], affine=affine)}

    return edit


EDITS = {
    "8 painted lesions": _painted,
    "one dark lesion of 34 ml": _large(20),
    "one dark lesion of 113 ml": _large(30),
}


def _print(name: str, found: list[dict[str, Any] | None]) -> None:
    n = len(found)
    early = sum(facts is None for facts in found)
    facts = [one for one in found if one is not None]
    refused = early + sum(one["verdict"] == "another kind" for one in facts)
    shares = [f"{refused / n:.0%}" + (f" ({early / n:.0%})" if early else "")]
    for family in ("kind", "quality"):
        flagged = sum(one[family]["p"] <= one["flagged_at_p"] for one in facts)
        shares.append(f"{flagged / len(facts):.0%}" if facts else "")
    print(f"| {name} | {n} | {' | '.join(shares)} | {_oddest(facts)} |", flush=True)


def _oddest(facts: list[dict[str, Any]]) -> str:
    every = [
        (feature["distance"], name)
        for one in facts
        for name, feature in one["features"].items()
        if feature["distance"] is not None
    ]
    return "{1} at {0:.1f}".format(*max(every)) if every else ""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--bundle", default=bundle.DEFAULT)
    parser.add_argument("--scans", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=[], help="names of changes; default: all")
    parser.add_argument("--others", nargs="*", default=[], help="further scans, each a row")
    return parser.parse_args()


if __name__ == "__main__":
    main()
