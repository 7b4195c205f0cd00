"""Whether whole scans with lesions are told from healthy ones, by every score of a scan.

    python benchmarks/scan_level.py --manifest data_manifests/ixi_hh_2mm.csv --data-dir DIR \
        --bundles brain_t1_ae ... [--scans N] [--patients DIR --image T1]

Synthetic: the area under the ROC curve (AUROC) between held-out healthy scans (split `test`) and
the same scans with dark lesions painted in as in `painted.py`, over all pairs of two different
subjects, with 95 % bootstrap intervals over subjects; and in how many the score rises against the
scan's own. Patients (`--patients`, folders as in `development.py`): the share of the healthy scans
that score below each, with its exact 95 % interval. Patients come from another scanner, so a high
rank may be the scanner's doing and is no proof that the lesions were seen. Scores are those of
`Method.scan_scores` that are single numbers, and the ml above the bundle's own threshold. For
bundles in MNI space.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from painted import painted
from scipy.stats import binomtest
from tqdm import tqdm

from volad import bundle
from volad.data import read_split
from volad.errors import UsageError
from volad.metrics import bootstrap
from volad.pipeline import Pipeline, prepare

ML = "ml above the threshold"
Scores = dict[tuple[str, str], list[float]]


def main() -> None:
    """Score healthy scans, painted ones and patients with every bundle, and print two tables."""
    args = _arguments()
    roots = [bundle.find(name) for name in args.bundles]
    if len({root.name for root in roots}) < len(roots):
        raise UsageError("two bundles have one name; the tables could not tell them apart")
    pipelines: dict[Path, Pipeline] = {
        root: bundle.build(bundle.open_config(root, "inference", {}), "pipeline") for root in roots
    }
    rows = read_split(args.manifest, args.data_dir, "test")
    rows = list({row.subject: row for row in rows}.values())[: args.scans]  # one scan a subject
    healthy: Scores = {}
    lesioned: Scores = {}
    patients: Scores = {}
    volumes = []
    for seed, row in enumerate(tqdm(rows, unit="scan")):
        for root, sample in _prepared(pipelines, row.scan):
            _add(healthy, root, pipelines[root], sample)
            sick, lesion = painted(sample, np.random.default_rng(seed))
            _add(lesioned, root, pipelines[root], sick)
        volumes.append(lesion.sum() * sample["volume"].voxel_mm3 / 1000)
    folders = sorted(p for p in args.patients.iterdir() if p.is_dir()) if args.patients else []
    for folder in tqdm(folders, unit="patient", disable=not folders):
        for root, sample in _prepared(pipelines, str(folder / f"{args.image}.nii.gz")):
            _add(patients, root, pipelines[root], sample)
    print(
        f"{len(rows)} healthy scans, and the same with lesions PAINTED in: synthetic, "
        f"{min(volumes):.0f} to {max(volumes):.0f} ml a scan\n"
    )
    print("| bundle | score of a scan | AUROC (95 %) | rises in |")
    print("|---|---|---|---|")
    for (name, score), values in healthy.items():
        before, after = np.array(values), np.array(lesioned[name, score])
        rises = f"{(after > before).sum()} of {len(rows)}"
        auc = bootstrap.auroc_interval(before, after, same_subjects=True)
        limits = f"{auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f})"
        print(f"| {name} | {score} | {limits} | {rises} |")
    if folders:
        _print_ranks([folder.name for folder in folders], healthy, patients)


def _print_ranks(names: list[str], healthy: Scores, patients: Scores) -> None:
    print(
        "\nPatients come from ANOTHER SCANNER than the healthy scans: their rank may be its doing\n"
    )
    print(
        "| patient | bundle | score of a scan | value | healthy: median, highest | above (95 %) |"
    )
    print("|---|---|---|---|---|---|")
    for i, patient in enumerate(names):
        for (name, score), values in healthy.items():
            value = patients[name, score][i]
            below = sum(x < value for x in values)
            exact = binomtest(
                below, len(values)
            ).proportion_ci()  # a bootstrap of "all" has no width
            print(
                f"| {patient} | {name} | {score} | {value:.4g} "
                f"| {np.median(values):.4g}, {max(values):.4g} "
                f"| {below} of {len(values)} ({exact.low:.2f} to {exact.high:.2f}) |"
            )


def _prepared(pipelines: dict[Path, Pipeline], scan: Any) -> list[tuple[Path, dict[str, Any]]]:
    """The scan for each bundle; those that prepare scans alike share the work."""
    done: dict[str, dict[str, Any]] = {}
    found = []
    for root, pipeline in pipelines.items():
        recipe = str(bundle.settings(root, "preprocessing"))
        if recipe not in done:
            done[recipe] = prepare(pipeline.preprocessing, scan)
        found.append((root, done[recipe]))
    return found


def _add(found: Scores, root: Path, pipeline: Pipeline, sample: dict[str, Any]) -> None:
    result = pipeline.finish(pipeline.score(sample))
    single = {k: v for k, v in result.scan_scores.items() if isinstance(v, float)}
    single[ML] = float(result.mask.sum() * result.volume.voxel_mm3 / 1000)
    for score, value in single.items():
        found.setdefault((root.name, score), []).append(value)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--bundles", nargs="+", required=True)
    parser.add_argument("--scans", type=int)
    parser.add_argument("--patients", type=Path)
    parser.add_argument("--image", default="T1")
    return parser.parse_args()


if __name__ == "__main__":
    main()
