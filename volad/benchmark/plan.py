"""What a benchmark compares: a JSON file of detectors and data sets.

    {
      "folders": ["ixi", "patients"],
      "training": {"manifest": "ixi.csv", "data_dir": "{ixi}"},
      "detectors": {
        "brain_t1_ae": {"bundle": "brain_t1_ae"},
        "z-score": {"method": "voxel_gaussian", "arguments": {"floor": 0.01}, "seeds": [0, 1]}
      },
      "data": {
        "patients": {"manifest": "patients.csv", "data_dir": "{patients}", "by": ["site"]},
        "healthy": {"manifest": "ixi.csv", "data_dir": "{ixi}", "split": "test"},
        "painted": {"manifest": "ixi.csv", "data_dir": "{ixi}", "split": "test", "synthetic": {}}
      }
    }

`{NAME}` stands for a folder that the command line names (`--folder NAME=DIR`); other relative paths
start at the file's own folder. A detector is a bundle, or a method that is trained on `training`
once per seed. `"simulate": "mr"` or `"ct"` takes a data set's healthy T1 heads for what
`volad train --simulate` makes of them. `synthetic` paints lesions into a data set's healthy scans,
as `volad synthesize` does; it may hold a `seed` and a `suite`, a file of its settings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from volad import methods
from volad.errors import UsageError
from volad.skeleton.training import Simulated

__all__ = ["DataSet", "Detector", "Plan", "read_plan"]

#: Names become folders and columns.
_NAME = re.compile(r"[\w.+-][\w .+-]*")


@dataclass(frozen=True)
class Detector:
    """What is judged: a finished bundle, or a method to train once per seed.

    Attributes:
        name: row of the table.
        bundle: a bundle's name or folder; None where `method` is trained.
        method: name of the method.
        arguments: the method's arguments that differ from its defaults.
        preparation: `modality`, `space`, `spacing_mm`, `patch` and `simulate` that differ from the
            defaults of `volad train`.
        training: settings of `train.json` that differ from its defaults.
        seeds: one training each.
    """

    name: str
    bundle: str | None = None
    method: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    preparation: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Synthetic:
    """How lesions are painted: from which seed, and the file of a suite of one's own, if any."""

    seed: int = 0
    suite: Path | None = None


@dataclass(frozen=True)
class DataSet:
    """What detectors are judged on.

    Attributes:
        name: heading of the table.
        manifest: CSV as for `volad evaluate`; one without a column `lesion` is all healthy.
        data_dir: folder that its paths start at.
        split: which of its rows, by the column `split`; None: all.
        scans: at most so many rows, the first; None: all.
        by: columns whose values get figures of their own.
        synthetic: how lesions are painted into the scans; None: they are as they are.
        simulate: `mr` or `ct`, simulated of the scans, healthy T1 heads; None: they are themselves.
    """

    name: str
    manifest: Path
    data_dir: Path
    split: str | None = None
    scans: int | None = None
    by: tuple[str, ...] = ()
    synthetic: Synthetic | None = None
    simulate: Simulated | None = None


@dataclass(frozen=True)
class Plan:
    """A whole benchmark; `training` is manifest and folder of the healthy scans to train on."""

    detectors: tuple[Detector, ...]
    data: tuple[DataSet, ...]
    training: tuple[Path, Path] | None


def read_plan(path: Path, folders: Mapping[str, Path]) -> Plan:
    """Read and check a benchmark's file, before hours are spent on it.

    Args:
        path: the JSON file.
        folders: what each `{NAME}` stands for.

    Raises:
        UsageError: not such a file, an unknown key, method or folder.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(stored, dict):
        raise UsageError(f"{path}: must hold an object with 'detectors' and 'data'")
    _check_keys(stored, {"folders", "training", "detectors", "data"}, str(path))
    missing = sorted(set(stored.get("folders", ())) - set(folders))
    if missing:
        raise UsageError(f"{path}: needs the folder {missing[0]!r}; add --folder {missing[0]}=DIR")
    place = _Places(path, folders)
    training = None
    if "training" in stored:
        _check_keys(stored["training"], {"manifest", "data_dir"}, f"{path}: training")
        training = (place(stored["training"]["manifest"]), place(stored["training"]["data_dir"]))
    detectors = tuple(
        _detector(name, entry, path, training is not None)
        for name, entry in _named(stored, "detectors", path)
    )
    data = tuple(
        _data_set(name, entry, place, path) for name, entry in _named(stored, "data", path)
    )
    return Plan(detectors, data, training)


def _named(stored: Mapping[str, Any], key: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    entries = stored.get(key)
    if not isinstance(entries, dict) or not entries:
        raise UsageError(f"{path}: {key!r} must name at least one, as an object")
    for name, entry in entries.items():
        if not _NAME.fullmatch(name):
            raise UsageError(f"{path}: {key}: {name!r} cannot be a folder's name")
        if not isinstance(entry, dict):
            raise UsageError(f"{path}: {key}: {name}: must be an object")
    return list(entries.items())


def _detector(name: str, entry: Mapping[str, Any], path: Path, can_train: bool) -> Detector:
    where = f"{path}: detectors: {name}"
    known = {"bundle", "method", "arguments", "preparation", "training", "seeds"}
    _check_keys(entry, known, where)
    if ("bundle" in entry) == ("method" in entry):
        raise UsageError(f"{where}: give either 'bundle' or 'method'")
    if "bundle" in entry:
        _check_keys(entry, {"bundle"}, where)
        return Detector(name, bundle=entry["bundle"])
    if not can_train:
        raise UsageError(f"{where}: a method needs healthy scans; add 'training'")
    methods.load(entry["method"])
    seeds = entry.get("seeds", [0])
    if not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise UsageError(f"{where}: seeds must be whole numbers, got {seeds}")
    preparation = entry.get("preparation", {})
    _check_keys(preparation, {"modality", "space", "spacing_mm", "patch", "simulate"}, where)
    return Detector(
        name,
        method=entry["method"],
        arguments=entry.get("arguments", {}),
        preparation=preparation,
        training=entry.get("training", {}),
        seeds=tuple(seeds),
    )


def _data_set(name: str, entry: Mapping[str, Any], place: _Places, path: Path) -> DataSet:
    where = f"{path}: data: {name}"
    known = {"manifest", "data_dir", "split", "scans", "by", "synthetic", "simulate"}
    _check_keys(entry, known, where)
    if "manifest" not in entry:
        raise UsageError(f"{where}: name its 'manifest'")
    if entry.get("simulate") not in (None, "mr", "ct"):
        raise UsageError(f"{where}: simulate must be 'mr' or 'ct', got {entry['simulate']!r}")
    manifest = place(entry["manifest"])
    return DataSet(
        name,
        manifest,
        place(entry["data_dir"]) if "data_dir" in entry else manifest.parent,
        entry.get("split"),
        entry.get("scans"),
        tuple(entry.get("by", ())),
        _synthetic(entry["synthetic"], place, where) if "synthetic" in entry else None,
        entry.get("simulate"),
    )


def _synthetic(entry: Mapping[str, Any], place: _Places, where: str) -> Synthetic:
    _check_keys(entry, {"seed", "suite"}, f"{where}: synthetic")
    suite = place(entry["suite"]) if "suite" in entry else None
    return Synthetic(entry.get("seed", 0), suite)


def _check_keys(entry: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(entry) - known)
    if unknown:
        raise UsageError(f"{where}: unknown key {unknown[0]!r}; known are {sorted(known)}")


class _Places:
    """Paths of a benchmark's file."""

    def __init__(self, path: Path, folders: Mapping[str, Path]) -> None:
        self.path, self.folders = path, folders

    def __call__(self, text: str) -> Path:
        for name in re.findall(r"\{(\w+)\}", text):
            if name not in self.folders:
                raise UsageError(f"{self.path}: {{{name}}}: add --folder {name}=DIR")
            text = text.replace(f"{{{name}}}", str(self.folders[name]))
        return self.path.parent / text


def seeds_of(detectors: Sequence[Detector]) -> list[tuple[Detector, int | None]]:
    """Each training of each detector; None for a finished bundle."""
    return [
        (detector, seed)
        for detector in detectors
        for seed in (detector.seeds if detector.bundle is None else (None,))
    ]
