"""`volad benchmark`: detectors x data sets, trained, calibrated, evaluated, in tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from volad.benchmark.data import Ready, make_ready
from volad.benchmark.plan import DataSet, Detector, Plan, Source, read_plan
from volad.benchmark.run import Run, judges_of, score, train_all
from volad.benchmark.table import facts_of, markdown
from volad.evaluate import Job, ResultSet, Settings, evaluate
from volad.io import ensure_writable, write_json, write_text

__all__ = ["DataSet", "Detector", "Plan", "Source", "read_plan", "run_plan"]


def run_plan(
    plan: Plan, out: Path, *, device: str = "auto", settings: Settings | None = None
) -> dict[str, Any]:
    """Do what is not done yet of a benchmark, and write its tables (`volad.benchmark.run`).

    Args:
        plan: what to compare.
        out: the folder that everything goes to; called again on it, finished parts are kept.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        settings: of the evaluation.

    Returns:
        What `benchmark.json` holds.

    Raises:
        VoladError: whatever training, segmenting or evaluating raises; a scan that fails stops the
            benchmark, since a table without it would flatter.
    """
    ensure_writable(out)
    sets = [make_ready(data, out / "data", out / "cache") for data in plan.data]
    runs = train_all(plan, out, device)
    judged = {ready.name: judges_of(runs, ready) for ready in sets}
    evaluations, folders = {}, {}
    for data, ready in zip(plan.data, sets, strict=True):
        mine = judged[ready.name]
        folders[ready.name] = score(mine, ready, out, device)
        evaluations[ready.name] = _evaluated(mine, data, ready, folders[ready.name], out, settings)
    facts = facts_of(judged, sets, evaluations, folders)
    write_json(out / "benchmark.json", facts)
    write_text(out / "benchmark.md", markdown(facts))
    return facts


def _evaluated(
    runs: list[Run],
    data: DataSet,
    ready: Ready,
    folders: Mapping[str, Path],
    out: Path,
    settings: Settings | None,
) -> Mapping[str, Any]:
    job = Job(
        manifest=ready.manifest,
        results=[ResultSet(run.name, folders[run.name]) for run in runs],
        by=data.by,
        bundles={run.name: str(run.root) for run in runs},
        settings=settings or Settings(),
    )
    return evaluate(job, out / "evaluation" / ready.name)
