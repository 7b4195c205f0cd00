"""Run a benchmark: train what is to be trained, score every scan, evaluate. Resumable.

Everything lies below one folder, so that every figure can be traced to what made it:

    bundles/RUN/                 a trained detector (a method's name and its seed)
    data/                        manifests, and scans with lesions painted in
    results/RUN/DATA/run.json    which weights, threshold, data and volad made the results here
    results/RUN/DATA/*_mask.nii.gz, ...
    evaluation/DATA/             what `volad evaluate` writes
    benchmark.md, benchmark.json the tables
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

import volad
from volad import api, bundle
from volad.batch.resume import earlier
from volad.benchmark.data import Ready, make_training
from volad.benchmark.plan import Detector, Plan, Source, seeds_of
from volad.calibrate import Promise
from volad.calibrate.session import Session, calibrate_together
from volad.calibrate.subjects import by_subject
from volad.errors import UsageError, VoladError
from volad.io import Scan, write_json
from volad.io.digest import sha256_of
from volad.outputs import Outputs, write_outputs
from volad.pipeline import Pipeline, Shared
from volad.provenance import parameters, scan_parameters

__all__ = ["Run", "judges_of", "score", "train_all"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """One finished bundle under judgement.

    Attributes:
        name: its folder's and its results' name.
        detector: row of the table; several seeds share one.
        root: the bundle.
    """

    name: str
    detector: str
    root: Path


def train_all(plan: Plan, out: Path, device: str) -> list[Run]:
    """Find finished bundles, and train and calibrate those that are not there yet."""
    runs: list[Run] = []
    todo: dict[tuple[Scan, ...], list[Run]] = {}
    healthy = plan.training and make_training(plan.training, out / "data", out / "cache")
    for detector, seed in seeds_of(plan.detectors):
        if detector.bundle is not None:
            runs.append(Run(detector.name, detector.name, bundle.find(detector.bundle)))
        else:
            assert healthy is not None
            runs.append(_run_of(detector, seed or 0, out))
            if not (runs[-1].root / "models" / "calibration.json").exists():
                found = _learned(healthy, detector, seed or 0, runs[-1], out, device)
                todo.setdefault(tuple(found), []).append(runs[-1])
    for healthy_scans, learned in todo.items():
        scans = list(healthy_scans)
        promise = Promise(rate=api.DEFAULT_RATE).eased(len(by_subject(scans)))
        setting = api.device_setting(device)
        sessions = [Session(run.root, scans, promise, device=setting) for run in learned]
        calibrate_together(sessions, scans)
    return runs


def _run_of(detector: Detector, seed: int, out: Path) -> Run:
    name = f"{detector.name}-seed{seed}"
    return Run(name, detector.name, out / "bundles" / name)


def _learned(
    healthy: Source, detector: Detector, seed: int, run: Run, out: Path, device: str
) -> list[Scan]:
    """Train a run, or go on with it, up to its calibration; the scans for that."""
    assert detector.method is not None
    log.info("training %s", run.name)
    return api.learn(
        detector.method,
        run.root,
        manifest=healthy.manifest,
        data_dir=healthy.data_dir,
        channels=healthy.channels,
        arguments=detector.arguments,
        **detector.preparation,
        training={**detector.training, "seed": seed},
        device=device,
        cache_dir=out / "cache",
    )


def judges_of(runs: Sequence[Run], data: Ready) -> list[Run]:
    """The runs whose channels a data set's scans have.

    Raises:
        UsageError: there are none.
    """
    wanted = list(data.channels)
    found = [run for run in runs if list(bundle.channels(run.root)) == wanted]
    if not found:
        raise UsageError(
            f"data: {data.name}: no detector has its channels ({', '.join(wanted) or 'one'}); "
            "name those of 'training', or of a bundle"
        )
    return found


def score(runs: Sequence[Run], data: Ready, out: Path, device: str) -> dict[str, Path]:
    """Segment a data set's scans with every run; what is finished is kept, as by `--resume`.

    The runs' channels must be those of the scans.

    Runs that prepare scans alike share the preparation, which costs most of the time.

    Returns:
        The folder of results of each run.
    """
    folders = {run.name: out / "results" / run.name / data.name for run in runs}
    judged = [_Judged.of(run, data, folders[run.name], device) for run in runs]
    for scan in tqdm(data.scans, desc=data.name, unit="scan", disable=None):
        shared = Shared(scan)
        for one in judged:
            made_with = scan_parameters(one.common, scan)
            if earlier(one.outputs, scan, made_with) is not None:
                continue
            sample = shared.sample(one.pipeline.preprocessing, one.recipe)
            result = one.pipeline.finish(one.pipeline.score(sample))
            write_outputs(one.outputs, scan, result, one.pipeline, one.identity, made_with)
    return folders


@dataclass(frozen=True)
class _Judged:
    """A run that is ready to score.

    Attributes:
        outputs: where its results go.
        pipeline: its bundle's.
        identity: its bundle.
        recipe: how it prepares scans (`volad.bundle.recipe`).
        common: what its results depend on (`volad.provenance.parameters`).
    """

    outputs: Outputs
    pipeline: Pipeline
    identity: bundle.Identity
    recipe: str
    common: Mapping[str, Any]

    @classmethod
    def of(cls, run: Run, data: Ready, folder: Path, device: str) -> _Judged:
        identity = bundle.identity(run.root)
        _begin(folder, _stamp(run, identity, data))
        # A scan of another kind is judged too, and counted among the flagged: to leave it out
        # flatters.
        settings = {"device": api.device_setting(device), "force": True}
        parser = bundle.open_config(run.root, "inference", settings)
        pipeline: Pipeline = bundle.build(parser, "pipeline")
        outputs = Outputs(folder, save_brain=True, stats=False, report=False)
        common = parameters(pipeline, identity, outputs.wanted())
        return cls(outputs, pipeline, identity, bundle.recipe(run.root), common)


def _stamp(run: Run, identity: bundle.Identity, data: Ready) -> dict[str, Any]:
    """What results depend on; another stamp makes them anew."""
    files = [run.root / "configs" / "inference.json", run.root / "models" / "calibration.json"]
    hashes = {f.name: sha256_of([f]) for f in [*files, data.manifest] if f.exists()}
    return {
        "bundle": identity.facts(),
        "data": data.name,
        "synthetic": data.synthetic,
        "sha256": hashes,
        "volad": volad.__version__,
    }


def _begin(folder: Path, stamp: dict[str, Any]) -> None:
    """Keep results that this stamp made; begin anew where another did."""
    path = folder / "run.json"
    if path.exists():
        try:
            if json.loads(path.read_text(encoding="utf-8")) == stamp:
                return
        except ValueError:
            log.info("%s: unreadable; making its results anew", path)
        shutil.rmtree(folder)
    elif folder.exists() and any(folder.iterdir()):
        raise VoladError(f"{folder}: holds files that no benchmark made; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, stamp)
