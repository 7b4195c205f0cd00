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
once per seed. `"simulate": "mr"` or `"ct"` takes the healthy T1 heads of a data set, or of
`training`, for what `volad train --simulate` makes of them; MR in the `contrasts` that are named
(`flair`, `t2`, `t1`, `pd`, `any`), in turn. `"channels": ["t1", "t2", "flair"]` are those of each
scan, the first in the column `image`, each other one in its own; of simulated MR they are the
contrasts that each head is shown in. A detector is judged on the data sets whose channels are its
own. `synthetic` paints lesions into a data set's healthy scans, as `volad synthesize` does; it may
hold a `seed` and a `suite`, a file of its settings.
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
from volad.simulate_mr import CONTRASTS
from volad.skeleton.training import Simulated

__all__ = ["DataSet", "Detector", "Plan", "Source", "read_plan"]

#: Keys of all that names scans.
SOURCE = {"manifest", "data_dir", "simulate", "contrasts", "channels", "scans"}
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
class Source:
    """Where scans come from.

    Attributes:
        manifest: CSV as for `volad train` or `volad evaluate`.
        data_dir: folder that its paths start at.
        simulate: `mr` or `ct`, simulated of the scans, healthy T1 heads; None: they are themselves.
        contrasts: of simulated MR, in turn; empty: the usual ones.
        channels: names of several channels; empty: one channel.
        scans: at most so many rows, the first, of those to learn from or to judge on; None: all.
    """

    manifest: Path
    data_dir: Path
    simulate: Simulated | None = None
    contrasts: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    scans: int | None = None


@dataclass(frozen=True)
class DataSet:
    """What detectors are judged on.

    Attributes:
        name: heading of the table.
        source: its scans; a manifest without a column `lesion` is all healthy.
        split: which of its rows, by the column `split`; None: all.
        by: columns whose values get figures of their own.
        synthetic: how lesions are painted into the scans; None: they are as they are.
    """

    name: str
    source: Source
    split: str | None = None
    by: tuple[str, ...] = ()
    synthetic: Synthetic | None = None


@dataclass(frozen=True)
class Plan:
    """A whole benchmark; `training` are the healthy scans that methods learn from."""

    detectors: tuple[Detector, ...]
    data: tuple[DataSet, ...]
    training: Source | None


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
        _check_keys(stored["training"], SOURCE, f"{path}: training")
        training = _source(stored["training"], place, f"{path}: training")
    detectors = tuple(
        _detector(name, entry, path, training) for name, entry in _named(stored, "detectors", path)
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


def _detector(name: str, entry: Mapping[str, Any], path: Path, training: Source | None) -> Detector:
    where = f"{path}: detectors: {name}"
    known = {"bundle", "method", "arguments", "preparation", "training", "seeds"}
    _check_keys(entry, known, where)
    if ("bundle" in entry) == ("method" in entry):
        raise UsageError(f"{where}: give either 'bundle' or 'method'")
    if "bundle" in entry:
        _check_keys(entry, {"bundle"}, where)
        return Detector(name, bundle=entry["bundle"])
    if training is None:
        raise UsageError(f"{where}: a method needs healthy scans; add 'training'")
    methods.load(entry["method"])
    seeds = entry.get("seeds", [0])
    if not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise UsageError(f"{where}: seeds must be whole numbers, got {seeds}")
    preparation = entry.get("preparation", {})
    _check_keys(preparation, {"modality", "space", "spacing_mm", "patch", "simulate"}, where)
    if "simulate" in preparation and training.simulate is not None:
        raise UsageError(f"{where}: what is simulated for all cannot be simulated again")
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
    _check_keys(entry, SOURCE | {"split", "by", "synthetic"}, where)
    source = _source(entry, place, where)
    if source.channels and "synthetic" in entry:
        raise UsageError(f"{where}: lesions are painted into scans of one channel only")
    return DataSet(
        name,
        source,
        entry.get("split"),
        tuple(entry.get("by", ())),
        _synthetic(entry["synthetic"], place, where) if "synthetic" in entry else None,
    )


def _source(entry: Mapping[str, Any], place: _Places, where: str) -> Source:
    if "manifest" not in entry:
        raise UsageError(f"{where}: name its 'manifest'")
    simulate = entry.get("simulate")
    if simulate not in (None, "mr", "ct"):
        raise UsageError(f"{where}: simulate must be 'mr' or 'ct', got {simulate!r}")
    contrasts, channels = (tuple(entry.get(key, ())) for key in ("contrasts", "channels"))
    if contrasts and (simulate != "mr" or channels):
        raise UsageError(f"{where}: contrasts are of simulated MR of one channel")
    if channels and simulate == "ct":
        raise UsageError(f"{where}: simulated CT has one channel")
    odd = sorted({*contrasts, *(channels if simulate else ())} - set(CONTRASTS))
    if odd:
        raise UsageError(f"{where}: no contrast {odd[0]!r}; known are {', '.join(CONTRASTS)}")
    manifest = place(entry["manifest"])
    data_dir = place(entry["data_dir"]) if "data_dir" in entry else manifest.parent
    return Source(manifest, data_dir, simulate, contrasts, channels, entry.get("scans"))


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
