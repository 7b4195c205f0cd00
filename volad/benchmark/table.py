"""The tables of a benchmark: Markdown to read, JSON to compute with; every row names its run."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from volad import bundle
from volad.benchmark.data import Ready
from volad.benchmark.run import Run
from volad.evaluate.numbers import number, written
from volad.synthetic import curves, read_lesions

__all__ = ["facts_of", "markdown"]

#: What a table shows, where its data set has it; `evaluation/` has all.
SHOWN = (
    "auprc_pooled",
    "dice_oracle_mean",
    "dice_mean",
    "dice_gap",
    "lesion_sensitivity",
    "false_lesions_per_scan",
    "scan_auroc:mask_ml",
    "healthy_fpr",
    "healthy_false_ml",
    "healthy_false_lesions",
)
SYNTHETIC = "SYNTHETIC: lesions painted into healthy scans, no clinical result"
NOTE = (
    "With 95 % bootstrap intervals over subjects. Oracle numbers look at the labels: bounds, not "
    "operating points. Seconds are from reading to mask, on the machine that ran it: trust ratios."
)


def facts_of(
    judged: Mapping[str, Sequence[Run]],
    data: Sequence[Ready],
    evaluations: Mapping[str, Mapping[str, Any]],
    folders: Mapping[str, Mapping[str, Path]],
) -> dict[str, Any]:
    """All tables as plain values.

    Args:
        judged: by data set, its runs in the order of the rows.
        data: in the order of the tables.
        evaluations: by data set, what `volad.evaluate.evaluate` returned.
        folders: by data set and run, where the results lie.
    """
    return {
        "data": {
            ready.name: {
                "synthetic": ready.synthetic,
                "scans": len(ready.scans),
                "evaluation": f"evaluation/{ready.name}/evaluation.json",
                "warnings": evaluations[ready.name]["warnings"],
                "rows": [
                    _row(run, evaluations[ready.name], folders[ready.name][run.name])
                    for run in judged[ready.name]
                ],
                "by_contrast_and_size": {
                    run.name: _curves(ready, folders[ready.name][run.name])
                    for run in judged[ready.name]
                },
                "seeds": _seeds(judged[ready.name], evaluations[ready.name]),
                "paired": evaluations[ready.name]["paired"],
            }
            for ready in data
        }
    }


def _row(run: Run, evaluation: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    found = evaluation["results"][run.name]
    sidecars = [json.loads(p.read_text(encoding="utf-8")) for p in folder.glob("*_mask.json")]
    return {
        "run": run.name,
        "detector": run.detector,
        "made_by": f"results/{run.name}/{folder.name}/run.json",
        "metrics": {key: found["metrics"][key] for key in SHOWN if key in found["metrics"]},
        "seconds_a_scan": float(np.mean([sum(s["seconds"].values()) for s in sidecars])),
        "model_seconds_a_scan": float(np.mean([s["seconds"]["model"] for s in sidecars])),
        "flagged": sum(bool(s["flags"]) for s in sidecars),
        "parameters": sum(p.numel() for p in bundle.part(run.root, "network_def").parameters()),
    }


def _curves(ready: Ready, folder: Path) -> list[dict[str, Any]]:
    """Sensitivity at the run's own threshold, by contrast and size of the painted lesions."""
    if ready.lesions is None:
        return []
    lesions = read_lesions(ready.lesions)
    names = {row.name for row in lesions}
    with ready.manifest.open(newline="", encoding="utf-8") as stream:
        maps = {row["name"]: row["lesion"] for row in csv.DictReader(stream)}
    results = (
        (name, _voxels(folder / f"{name}_mask.nii.gz"), _voxels(Path(maps[name])))
        for name in sorted(names)
    )
    cells = curves(results, lesions)
    return [{**asdict(cell), "sensitivity": cell.sensitivity} for cell in cells]


def _voxels(path: Path) -> NDArray[Any]:
    return np.asarray(nib.load(path).dataobj)


def _seeds(runs: Sequence[Run], evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Mean and range over the seeds of each detector that has several."""
    found = []
    for detector in dict.fromkeys(run.detector for run in runs):
        mine = [evaluation["results"][r.name]["metrics"] for r in runs if r.detector == detector]
        if len(mine) < 2:
            continue
        values = {
            key: [one[key]["value"] for one in mine if key in one and one[key]["value"] is not None]
            for key in SHOWN
        }
        found.append(
            {
                "detector": detector,
                "seeds": len(mine),
                "metrics": {
                    key: {"mean": float(np.mean(v)), "lowest": min(v), "highest": max(v)}
                    for key, v in values.items()
                    if v
                },
            }
        )
    return found


def markdown(facts: Mapping[str, Any]) -> str:
    """One table a data set."""
    parts = [NOTE]
    for name, data in facts["data"].items():
        label = f" ({SYNTHETIC})" if data["synthetic"] else ""
        parts.append(f"\n**{name}**, {data['scans']} scans{label}\n")
        parts += _table(data)
        parts += _curve_tables(data["by_contrast_and_size"])
        parts += [f"\n{line}." for line in data["warnings"]]
    return "\n".join(parts) + "\n"


def _table(data: Mapping[str, Any]) -> list[str]:
    keys = [key for key in SHOWN if any(_value(row, key) for row in data["rows"])]
    heads = [f"{number(k).label}{f' [{u}]' if (u := number(k).unit) else ''}" for k in keys]
    lines = ["| " + " | ".join(["run", *heads, "parameters", "s a scan", "of it the model"]) + " |"]
    lines += ["|---" * (len(keys) + 4) + "|"]
    for row in data["rows"]:
        cells = [written(key, row["metrics"].get(key)) for key in keys]
        cells += [f"{row['parameters']:,}", f"{row['seconds_a_scan']:.1f}"]
        cells += [f"{row['model_seconds_a_scan']:.2f}"]
        lines.append("| " + " | ".join([row["run"], *cells]) + " |")
    for row in data["seeds"]:
        cells = [_range(key, row["metrics"].get(key)) for key in keys]
        name = f"{row['detector']}, {row['seeds']} seeds"
        lines.append("| " + " | ".join([name, *cells, "", "", ""]) + " |")
    return lines


def _curve_tables(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """For each run, contrasts down and sizes across."""
    lines: list[str] = []
    for run, cells in found.items():
        if not cells:
            continue
        shares = {tuple(cell["group"]): f"{cell['found']} of {cell['lesions']}" for cell in cells}
        contrasts = sorted({contrast for contrast, _ in shares})
        sizes = sorted(
            {size for _, size in shares}, key=lambda size: int(re.findall(r"\d+", size)[0])
        )
        lines += [
            f"\n{run}: painted lesions found, by contrast (white minus grey matter is 1) and mm³\n"
        ]
        lines += ["| contrast | " + " | ".join(sizes) + " |", "|---" * (len(sizes) + 1) + "|"]
        for contrast in contrasts:
            row = [shares.get((contrast, size), "–") for size in sizes]
            lines.append(f"| {contrast:+g} | " + " | ".join(row) + " |")
    return lines


def _value(row: Mapping[str, Any], key: str) -> bool:
    return row["metrics"].get(key, {}).get("value") is not None


def _range(key: str, values: Mapping[str, float] | None) -> str:
    if values is None:
        return "–"
    digits = number(key).digits
    mean, low, high = (f"{values[k]:.{digits}f}" for k in ("mean", "lowest", "highest"))
    return f"{mean} [{low} to {high}]"
