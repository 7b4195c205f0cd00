"""Whether the false-positive promise holds on healthy scans that nothing has seen.

    python benchmarks/healthy.py --manifest data_manifests/ixi_hh_2mm.csv --data-dir DIR \
        --bundles brain_t1_ae ...

Takes the manifest's `test` split: neither trained nor calibrated on. Prints, for each bundle, the
promised share of brain voxels above the threshold, with the 95 % interval that the calibration
expects of the mean over as many scans as it had itself; the realised one, with its own 95 %
bootstrap interval over scans; and what is left in the masks once small lesions are dropped.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from tqdm import tqdm

from volad import bundle
from volad.data import read_split
from volad.pipeline import Pipeline, prepare
from volad.report.lesions import find_lesions


def main() -> None:
    """Score the held-out scans with every bundle, and print a table."""
    args = _arguments()
    rows = read_split(args.manifest, args.data_dir, args.split)
    roots = [bundle.find(name) for name in args.bundles]
    pipelines: list[Pipeline] = [
        bundle.build(bundle.open_config(root, "inference", {}), "pipeline") for root in roots
    ]
    found: list[list[tuple[float, float, int]]] = [[] for _ in roots]
    for row in tqdm(rows, unit="scan"):
        prepared: dict[str, Any] = {}  # bundles that prepare scans alike share the work
        for root, pipeline, results in zip(roots, pipelines, found, strict=True):
            recipe = str(bundle.settings(root, "preprocessing"))
            if recipe not in prepared:
                prepared[recipe] = prepare(pipeline.preprocessing, row.scan)
            result = pipeline.finish(pipeline.score(prepared[recipe]))
            above = float((result.score[result.brain] > result.threshold).mean())
            lesions = find_lesions(result.mask, result.score, result.volume.affine)
            results.append((above, sum(x.volume_mm3 for x in lesions) / 1000, len(lesions)))
    print("| bundle | scans | promised | realised | false ml a scan | false lesions a scan |")
    print("|---|---|---|---|---|---|")
    for root, results in zip(roots, found, strict=True):
        rates, volumes, counts = (np.array(column) for column in zip(*results, strict=True))
        draws = np.random.default_rng(0).choice(rates, (2000, len(rates))).mean(axis=1)
        low, high = np.percentile(draws, [2.5, 97.5])
        stored = bundle.identity(root).calibration
        least, most = stored["realised"]["interval_95_of_mean"]
        print(
            f"| {root.name} | {len(rates)} | {stored['promise']['rate']:.3%} "
            f"({least:.3%} to {most:.3%}) | {rates.mean():.3%} "
            f"({low:.3%} to {high:.3%}) | {volumes.mean():.2f} (at most {volumes.max():.2f}) "
            f"| {counts.mean():.1f} |"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--bundles", nargs="+", required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
