"""Find and read the results of a scan: mask, score map, region and sidecar."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volad.errors import InputError, UsageError
from volad.evaluate.case import Case
from volad.evaluate.manifest import Row
from volad.io import Map, read_map
from volad.io.guard import one_line, reading

__all__ = ["REGIONS", "Found", "ResultSet", "locate", "parse_results", "read_cases"]

#: Where the region of a scan came from, the first that there is.
REGIONS = (
    "brain_mask of the manifest",
    "brain mask beside the result",
    "voxels whose score is not 0",
    "none: no score and no brain mask",
)


@dataclass(frozen=True)
class ResultSet:
    """A folder of results, and what the outputs call it."""

    name: str
    folder: Path


@dataclass(frozen=True)
class Found:
    """The files of one scan's result; `score`, `brain` and `sidecar` may not be there."""

    mask: Path
    score: Path | None
    brain: Path | None
    sidecar: Path | None


@dataclass(frozen=True, eq=False)
class Read:
    """A case as read, where its region came from, and what the sidecar says made it."""

    case: Case
    region: str
    made_by: str


def parse_results(texts: Sequence[str]) -> list[ResultSet]:
    """`[NAME=]DIR` each; without a name the folder's own.

    Raises:
        UsageError: not a folder, or two of one name.
    """
    sets: list[ResultSet] = []
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or Path(text).is_dir():
            name, folder = Path(text).resolve().name, text
        if not name or not Path(folder).is_dir():
            raise UsageError(f"{folder}: no folder of results; give --results [NAME=]DIR")
        if name in {one.name for one in sets}:
            raise UsageError(f"two result sets are called {name!r}; give --results NAME=DIR")
        sets.append(ResultSet(name, Path(folder)))
    return sets


def locate(rows: Sequence[Row], results: ResultSet, allow_missing: bool) -> list[Found | None]:
    """The files of every row; `None` where there is no mask and that is allowed.

    Raises:
        InputError: a mask is missing, or two rows have the same one.
    """
    met: dict[Path, Row] = {}
    found: list[Found | None] = []
    for row in rows:
        one = next(_candidates(row, results.folder), None)
        if one is None and not allow_missing:
            raise InputError(
                f"{results.folder}: no {row.name}_mask.nii.gz for {row.place}; segment that scan, "
                "or use --allow-missing"
            )
        if one is not None and met.setdefault(one.mask, row) is not row:
            other = met[one.mask].place
            raise InputError(f"{one.mask}: would be the mask of {other} and of {row.place}; "
                             "give each scan a `name`")  # fmt: skip
        found.append(one)
    if not any(found):
        raise InputError(f"{results.folder}: holds none of the manifest's masks; name its folder")
    return found


def _candidates(row: Row, folder: Path) -> Iterator[Found]:
    """`volad segment` keeps the sub-folders of the folder it was given, whichever that was."""
    parts = [part for part in row.folder.parts if part not in ("/", "..")]
    for skipped in range(len(parts) + 1):
        name = PurePosixPath(*parts[skipped:], row.name).as_posix()
        mask = folder / f"{name}_mask.nii.gz"
        if mask.is_file():
            beside = [folder / f"{name}_{kind}" for kind in _BESIDE]
            yield Found(mask, *(file if file.is_file() else None for file in beside))


_BESIDE = ("score.nii.gz", "brainmask.nii.gz", "mask.json")


def read_cases(row: Row, found: Sequence[Found | None]) -> list[Read | None]:
    """Read one scan's results of several sets; the expert mask is read once.

    Raises:
        InputError: a file cannot be used, or is on another grid than the others.
    """
    lesion = None if row.lesion is None else read_map(row.lesion)
    brain = None if row.brain_mask is None else read_map(row.brain_mask, lesion)
    return [None if one is None else _read(row, one, lesion, brain) for one in found]


def _read(row: Row, found: Found, lesion: Map | None, brain: Map | None) -> Read:
    mask = read_map(found.mask, lesion or brain)
    score = None if found.score is None else read_map(found.score, mask)
    region, rule = _region(found, mask, score, brain)
    sidecar = _sidecar(found.sidecar)
    case = Case(
        name=row.label,
        subject=row.subject,
        score=None if score is None else score.array,
        mask=mask.as_mask(),
        lesion=None if lesion is None else lesion.as_mask(),
        region=region,
        spacing_mm=mask.spacing_mm,
        scan_scores=_scan_scores(sidecar, found.sidecar),
        groups=row.groups,
        contrast=_contrast(sidecar),
    )
    return Read(case, rule, _made_by(sidecar))


def _region(
    found: Found, mask: Map, score: Map | None, brain: Map | None
) -> tuple[NDArray[np.bool_] | None, str]:
    if brain is not None:
        return _not_empty(brain.as_mask(), brain), REGIONS[0]
    if found.brain is not None:
        beside = read_map(found.brain, mask)
        return _not_empty(beside.as_mask(), beside), REGIONS[1]
    if score is not None:
        return _not_empty(score.array != 0, score), REGIONS[2]
    return None, REGIONS[3]


def _not_empty(region: NDArray[np.bool_], source: Map) -> NDArray[np.bool_]:
    # With no healthy voxel to compare with, whatever is scored would look perfect.
    if not region.any():
        raise InputError(
            f"{source.path}: is 0 everywhere, so there is no region to judge in; give brain_mask "
            "in the manifest"
        )
    return region


def _sidecar(path: Path | None) -> Mapping[str, Any]:
    if path is None:
        return {}
    with reading(path):
        raw = path.read_bytes()
    try:
        content = json.loads(raw)
    except ValueError as error:
        raise InputError(
            f"{path}: is not JSON ({one_line(error)}); segment the scan again, or remove the file"
        ) from error
    return content if isinstance(content, dict) else {}


def _scan_scores(sidecar: Mapping[str, Any], path: Path | None) -> dict[str, float]:
    """The scores of the whole scan; lists, of single slices for instance, are left out."""
    stored = sidecar.get("scan_scores")
    scores = {}
    for key, value in stored.items() if isinstance(stored, dict) else ():
        if isinstance(value, (int, float)):
            if not math.isfinite(value):
                raise InputError(f"{path}: scan score {key!r} is {value}; segment the scan again")
            scores[str(key)] = float(value)
    return scores


def _contrast(sidecar: Mapping[str, Any]) -> str | None:
    threshold = sidecar.get("threshold")
    found = threshold.get("contrast") if isinstance(threshold, dict) else None
    return found if isinstance(found, str) else None


def _made_by(sidecar: Mapping[str, Any]) -> str:
    """Bundle, version and threshold in one line; empty where there is no such sidecar."""
    bundle, threshold = sidecar.get("bundle"), sidecar.get("threshold")
    if not isinstance(bundle, dict):
        return ""
    value = threshold.get("value") if isinstance(threshold, dict) else threshold
    text = f"{bundle.get('name')} {bundle.get('version')}"
    return f"{text}, threshold {value:.6g}" if isinstance(value, (int, float)) else text
