"""What the commands do, as functions: segment scans, train a detector, calibrate it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from volad import bundle, simulate_ct, simulate_mr, skeleton
from volad.cache import fill_cache, read_cached
from volad.calibrate import Calibration, Promise
from volad.calibrate.session import Session, calibrate_together
from volad.calibrate.subjects import by_subject
from volad.calibrate.target import TRAINED_ON
from volad.data import Row, read_split
from volad.errors import UsageError
from volad.io import Scan, find_scans, is_simulated, write_json
from volad.outputs import Outcome
from volad.pipeline import Pipeline
from volad.preprocess.intensity import learn_landmarks
from volad.scan_check.fitting import fit
from volad.skeleton.training import Simulated

__all__ = ["calibrate", "device_setting", "learn", "segment", "train"]

#: Share of a healthy brain's voxels that may score above the threshold, unless asked otherwise.
DEFAULT_RATE = 0.001


def device_setting(name: str) -> str:
    """A device's name as a bundle's `device` setting.

    Only `auto` may fall back to the CPU: a named device that is not there is an error.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UsageError(f"--device {name}: there are {count} CUDA devices; use --device auto")
    return f"$torch.device('{device}')"


def segment(
    scans: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    bundle_name: str | os.PathLike[str] = bundle.DEFAULT,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    tell: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Segment a scan, a folder of scans or a manifest with a trained bundle.

    Args:
        scans: what `volad.io.find_scans` takes.
        output: folder for the results, or the one mask's own path.
        bundle_name: a shipped bundle's name or a bundle's folder.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        settings: keys of the bundle's `inference.json` to override, as for `monai.bundle run`.
        tell: called with each outcome as soon as its scan is done.

    Returns:
        How each scan ended; a scan that failed is an outcome, not an exception.
    """
    root = bundle.find(bundle_name)
    parser = bundle.open_config(
        root,
        "inference",
        {
            "dataset_dir": bundle.literal(scans),
            "output_dir": bundle.literal(output),
            "device": device_setting(device),
            **(settings or {}),
        },
    )
    bundle.build(parser, "dataset")  # bad input is named before weights are loaded
    outcomes: list[Outcome] = bundle.build(parser, "evaluator").run(check=False, tell=tell)
    return outcomes


def train(
    method: str,
    root: str | os.PathLike[str],
    *,
    device: str = "auto",
    rate: float = DEFAULT_RATE,
    **how: Any,
) -> Calibration:
    """Make a bundle for a method, train it on healthy scans, and calibrate its threshold.

    Args:
        method: name of the method.
        root: folder of the bundle.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        rate: false-positive rate to calibrate for.
        how: everything else that `learn` takes.
    """
    healthy = learn(method, root, device=device, rate=rate, **how)
    return calibrate(root, healthy, rate=rate, device=device, output=root)


def learn(
    method: str,
    root: str | os.PathLike[str],
    *,
    manifest: str | os.PathLike[str],
    data_dir: str | os.PathLike[str],
    arguments: Mapping[str, Any] | None = None,
    modality: str = "mr",
    space: str = "mni",
    spacing_mm: float = 1.0,
    patch: Sequence[int] = (64, 64, 64),
    training: Mapping[str, Any] | None = None,
    device: str = "auto",
    workers: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
    rate: float = DEFAULT_RATE,
    simulate: Simulated | None = None,
    channels: Sequence[str] = (),
) -> list[Scan]:
    """Make a bundle for a method and train it on healthy scans; the threshold is still to be set.

    Called again on the same folder, a training that was cut short goes on from its checkpoint.

    Args:
        method: name of the method.
        root: folder of the bundle.
        manifest: CSV of healthy scans with splits (`volad.data`).
        data_dir: folder that the manifest's paths start at.
        arguments: the method's arguments that differ from its defaults.
        modality: `mr` or `ct`.
        space: `mni` (whole aligned volumes) or `isotropic` (patches).
        spacing_mm: voxel size of the isotropic space.
        patch: spatial shape of its patches.
        training: settings of `train.json` that differ from its defaults.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        workers: processes that preprocess.
        cache_dir: folder for preprocessed scans; default: `cache` in the bundle.
        rate: false-positive rate to calibrate for, which the scans have to be enough for.
        simulate: the scans are healthy T1 with skull; CTs, or MRs of any contrast, are simulated of
            them to learn from, and to calibrate with. Such a bundle has no scan check: what is
            usual in simulated scans says nothing of real ones.
        channels: names of several channels, the first that of the manifest's `image`, each other
            one a column there; their intensities are scaled by each scan's own range.

    Returns:
        Healthy scans to calibrate on.
    """
    folder = Path(root)
    cache = Path(cache_dir) if cache_dir is not None else folder / "cache"
    rows = {
        name: read_split(Path(manifest), Path(data_dir), name, channels)
        for name in ("train", "validation")
    }
    # What cannot be calibrated need not be trained.
    subjects = len(by_subject(rows["validation"]))
    Promise(rate=rate).eased(subjects).require(subjects)
    recipe: dict[str, Any] = {
        "arguments": dict(arguments or {}),
        "modality": modality,
        "space": space,
        "spacing_mm": spacing_mm,
        "patch": list(patch),
        "training": dict(training or {}),
        "channels": tuple(channels),
        "simulate": simulate,
    }
    if not (folder / "configs" / "train.json").exists():
        recipe["simulated_files"] = any(is_simulated(row.image) for row in rows["train"])
        skeleton.create(folder, method, **recipe)
        try:
            # There is one set of landmarks, and none of any contrast.
            if modality == "mr" and not channels and simulate is None:
                landmarks = _learn_landmarks(folder, rows["train"], cache, workers)
                skeleton.create(folder, method, **recipe, landmarks=landmarks)
        except BaseException:
            for name in ("train", "inference"):  # a half-made bundle must not look like a whole one
                (folder / "configs" / f"{name}.json").unlink()
            raise
    elif (
        skeleton.network(method, recipe["arguments"], space, channels),
        recipe["channels"],
    ) != (bundle.network_def(folder), bundle.channels(folder)):
        raise UsageError(
            f"{folder} is a bundle of another network ({bundle.identity(folder).method}); name "
            "another folder, or give the arguments it was made with, --channels too"
        )
    parser = bundle.open_config(
        folder,
        "train",
        {
            "dataset_dir": bundle.literal(data_dir),
            "manifest": bundle.literal(manifest),
            "cache_dir": bundle.literal(cache),
            "device": device_setting(device),
            "workers": workers,
            **(training or {}),
        },
    )
    bundle.build(parser, "initialize")
    bundle.build(parser, "train::trainer").run()
    learned = [{"subject": row.subject, "sha256": row.input_sha256} for row in rows["train"]]
    write_json(folder / "models" / TRAINED_ON, {"scans": learned})
    if simulate is not None:
        into, healthy = cache / f"simulated_{simulate}", rows["validation"]
        if simulate == "ct":
            return find_scans(simulate_ct.write_scans(healthy, into, cache, workers=workers))
        # Enough of each contrast for a threshold of its own.
        made = simulate_mr.write_scans(healthy, into, cache, heads="each", workers=workers)
        return find_scans(made)
    _fit_scan_check(folder, rows, cache, workers, device)
    return [row.scan for row in rows["validation"]]


def _fit_scan_check(
    folder: Path, rows: Mapping[str, Sequence[Row]], cache: Path, workers: int, device: str
) -> None:
    settings = {"device": device_setting(device), "threshold": 0.0}
    pipeline: Pipeline = bundle.build(bundle.open_config(folder, "inference", settings), "pipeline")
    pipeline.scan_check = None  # that of an earlier training must not refuse anything
    steps = bundle.settings(folder, "preprocessing")
    samples = {
        split: map(read_cached, fill_cache(found, pipeline.preprocessing, cache, steps, workers))
        for split, found in rows.items()
    }
    known = [{"name": row.scan.name, "sha256": row.input_sha256} for row in rows["validation"]]
    check = fit(pipeline, samples["train"], samples["validation"], known)
    write_json(folder / "models" / "scan_check.json", check.to_json())


def _learn_landmarks(
    folder: Path, rows: Sequence[Any], cache: Path, workers: int
) -> tuple[float, ...]:
    settings = bundle.settings(folder, "preprocessing")
    steps = bundle.part(folder, "preprocessing")
    files = fill_cache(rows, steps, cache, settings, workers)
    brains = []
    for file in files:
        with np.load(file) as stored:
            brains.append(stored["image"][0][stored["brain"][0]])
    return learn_landmarks(brains)


def calibrate(
    root: str | os.PathLike[str],
    healthy: Sequence[Scan] | str | os.PathLike[str],
    *,
    promise: Promise | None = None,
    rate: float = DEFAULT_RATE,
    device: str = "auto",
    output: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> Calibration:
    """Set a bundle's threshold from healthy scans that it was not trained on.

    The scan check's p-values are of these scans from then on, too.

    Args:
        root: folder of the bundle; its `models/calibration.json` is written.
        healthy: the scans, or what `volad.io.find_scans` takes; all distinct, none trained on.
        promise: what to keep; refused where the scans are too few for it.
        rate: without `promise`: mean share of a healthy scan's brain voxels above the threshold;
            with fewer than 9 subjects, one counts less (`Promise.eased`).
        device: where the method runs.
        output: folder for a calibrated copy of the bundle, which then stays as it is.
        force: take scans, too, that the scan check refuses; it lets their like pass from then on.
    """
    folder = bundle.find(root)
    if isinstance(healthy, (str, os.PathLike)):
        healthy = find_scans(Path(healthy), channels=bundle.channels(folder))
    scans = list(healthy)
    promise = promise or Promise(rate=rate).eased(len(by_subject(scans)))
    session = Session(
        folder, scans, promise, device=device_setting(device), output=output, force=force
    )
    return calibrate_together([session], scans)[0]
