"""Small folders of results and their manifest, for the tests of `volad evaluate`."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from io_helpers import save_nifti

from volad.cli import main
from volad.evaluate import Case, Evaluation, Settings, Survey
from volad.evaluate.evaluation import Summary

SHAPE = (12, 12, 12)
AFFINE = np.diag([1.0, 2.0, 1.5, 1.0])  # 3 mm³ a voxel


def block(*corners: tuple[int, int, int], size: int = 2) -> np.ndarray:
    """A mask with a cube at each corner."""
    mask = np.zeros(SHAPE, bool)
    for x, y, z in corners:
        mask[x : x + size, y : y + size, z : z + size] = True
    return mask


def noisy(seed: int, lesion: np.ndarray, lift: float = 0.6) -> np.ndarray:
    """A score map in which the lesion is brighter than noise; 0 at the volume's border."""
    score = np.random.default_rng(seed).uniform(0.05, 1, SHAPE) + lift * lesion
    score[[0, -1]] = score[:, [0, -1]] = score[:, :, [0, -1]] = 0
    return score.astype(np.float32)


def save_result(
    folder: Path,
    name: str,
    mask: np.ndarray,
    score: np.ndarray | None = None,
    scan_scores: Mapping[str, Any] | None = None,
    affine: np.ndarray = AFFINE,
) -> None:
    """What `volad segment` would write for a scan."""
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    save_nifti(Path(f"{target}_mask.nii.gz"), mask.astype(np.uint8), affine)
    if score is not None:
        save_nifti(Path(f"{target}_score.nii.gz"), score.astype(np.float32), affine)
    if scan_scores is not None:
        facts = {
            "scan_scores": dict(scan_scores),
            "bundle": {"name": "tiny", "version": "1.0"},
            "threshold": {"value": 0.5},
        }
        Path(f"{target}_mask.json").write_text(json.dumps(facts))


def save_manifest(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """A manifest with a column for every key of any row."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, columns, restval="")
        table.writeheader()
        table.writerows(rows)
    return path


def cohort(
    root: Path, lesioned: int = 4, healthy: int = 3, sets: Mapping[str, float] = {"a": 0.6}
) -> Path:
    """A data set with results of several qualities; returns the manifest.

    Each lesioned scan has two lesions of 8 voxels; the masks are the scores above 1.1.
    """
    rows = []
    (root / "lesions").mkdir(parents=True)
    for n in range(lesioned + healthy):
        name, sick = f"scan{n}", n < lesioned
        lesion = block((2, 2, 2), (6, 6, 6 + n % 2)) if sick else np.zeros(SHAPE, bool)
        if sick:
            save_nifti(root / "lesions" / f"{name}.nii.gz", lesion.astype(np.uint8), AFFINE)
        for label, lift in sets.items():
            score = noisy(n, lesion, lift)
            save_result(root / label, name, score > 1.1, score, {"mean": float(score.mean())})
        lesion_path = f"lesions/{name}.nii.gz" if sick else ""
        site = "AB"[n % 2]
        rows.append({"image": f"{name}.nii.gz", "lesion": lesion_path, "site": site})
    return save_manifest(root / "manifest.csv", rows)


def case(name: str = "x", **changes: Any) -> Case:
    """A case with one found lesion, all voxels in the region."""
    lesion = block((2, 2, 2))
    values: dict[str, Any] = {
        "name": name,
        "subject": name,
        "score": noisy(0, lesion),
        "mask": lesion.copy(),
        "lesion": lesion,
        "region": np.ones(SHAPE, bool),
        "spacing_mm": (1.0, 2.0, 1.5),
    }
    return Case(**{**values, **changes})


EMPTY = np.zeros(SHAPE, bool)
FAST = Settings(draws=200)


def judged(cases: Sequence[Case], settings: Settings = FAST) -> Evaluation:
    """An evaluation in two passes."""
    survey = Survey()
    for one in cases:
        survey.add(one)
    evaluation = Evaluation(settings, survey.thresholds())
    for one in cases:
        evaluation.add(one)
    return evaluation


def values(summary: Summary) -> dict[str, float]:
    return {key: one.value for key, one in summary.estimates.items()}


def several(lift: float = 0.6, n: int = 6) -> list[Case]:
    """Scans with two lesions each, and half as many without, at two sites."""
    cases = []
    for k in range(n + n // 2):
        lesion = block((2, 2, 2), (6, 6, 5)) if k < n else EMPTY
        score = noisy(k, lesion, lift)
        cases.append(
            case(
                f"s{k}",
                score=score,
                mask=score > 0.99,
                lesion=lesion if k < n else None,
                region=score != 0,
                groups={"site": "AB"[k % 2]},
                scan_scores={"mean": float(score.mean())},
            )
        )
    return cases


def evaluate(manifest: Path, *options: object) -> int:
    """`volad evaluate MANIFEST ...` with few draws, into `out` beside the manifest."""
    words = [manifest, "-o", manifest.parent / "out", "--draws", 100, *options]
    return main(["evaluate", *map(str, words)])


def facts(manifest: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((manifest.parent / "out" / "evaluation.json").read_text())
    return found


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def two_scans(root: Path) -> Path:
    """One scan whose mask is the expert's, one without lesions and with an empty mask."""
    lesion = block((2, 2, 2))
    save_nifti(root / "lesion.nii.gz", lesion.astype(np.uint8), AFFINE)
    save_result(root / "a", "sick", lesion, noisy(0, lesion))
    save_result(root / "a", "well", lesion & False, noisy(1, lesion & False))
    rows = [{"image": "T1/sick.nii.gz", "lesion": "lesion.nii.gz"}, {"image": "T1/well.nii.gz"}]
    return save_manifest(root / "manifest.csv", rows)
