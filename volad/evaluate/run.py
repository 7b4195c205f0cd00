"""The whole job: read a manifest and folders of results, judge them, write what was found."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from volad import bundle
from volad.calibrate import load_threshold
from volad.errors import UsageError
from volad.evaluate.evaluation import Evaluation, Survey
from volad.evaluate.files import Found, Read, ResultSet, locate, read_cases
from volad.evaluate.manifest import Row, read_rows
from volad.evaluate.settings import HEALTHY_RATES, Settings, Thresholds
from volad.thresholds import OTHERWISE, named

__all__ = ["Job", "Judged", "judge", "parse_bundles"]


@dataclass(frozen=True)
class Job:
    """What to judge.

    Attributes:
        manifest: CSV (`volad.evaluate.manifest.read_rows`).
        results: the first is compared with each other.
        data_dir: the folder the manifest's paths start at; by default its own.
        by: columns of the manifest for subgroups.
        bundles: result set → bundle whose calibration gives its thresholds.
        allow_missing: go on without scans that a folder lacks.
        settings: what decides the numbers.
    """

    manifest: Path
    results: Sequence[ResultSet]
    data_dir: Path | None = None
    by: Sequence[str] = ()
    bundles: Mapping[str, str] = field(default_factory=dict)
    allow_missing: bool = False
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True, eq=False)
class Judged:
    """A result set with its judgement.

    Attributes:
        results: the folder.
        evaluation: its numbers.
        missing: scans of the manifest that it lacks.
        regions: where regions came from → scans.
        made_by: what sidecars say made the masks → scans.
    """

    results: ResultSet
    evaluation: Evaluation
    missing: Sequence[str]
    regions: Mapping[str, int]
    made_by: Mapping[str, int]


def parse_bundles(texts: Sequence[str], results: Sequence[ResultSet]) -> dict[str, str]:
    """`[SET=]BUNDLE` each: whose calibration gives which result set's thresholds.

    Raises:
        UsageError: no such result set, or which one is not said.
    """
    names = [one.name for one in results]
    bundles: dict[str, str] = {}
    for text in texts:
        name, equals, found = text.partition("=")
        if not equals:
            if len(names) > 1:
                raise UsageError(
                    f"--bundle {text}: which results is it of, {' or '.join(names)}; give "
                    f"--bundle NAME={text}"
                )
            name, found = names[0], text
        if name not in names:
            raise UsageError(f"--bundle {text}: no results {name!r}; there are: {', '.join(names)}")
        bundles[name] = found
    return bundles


def judge(job: Job) -> list[Judged]:
    """Judge every result set, in two passes over the files.

    Raises:
        InputError: a manifest, mask, map or sidecar that cannot be used, or is missing.
        UsageError: a bundle that is not there or was never calibrated.
    """
    calibrated = {name: _calibrated(found) for name, found in job.bundles.items()}
    rows = read_rows(job.manifest, job.data_dir, job.by)
    found = [locate(rows, one, job.allow_missing) for one in job.results]
    surveys = [Survey() for _ in job.results]
    for _, reads in _read_all(rows, found, "thresholds"):
        for survey, read in zip(surveys, reads, strict=True):
            if read is not None:
                survey.add(read.case)
    evaluations = [
        Evaluation(job.settings, survey.thresholds(calibrated.get(one.name)))
        for one, survey in zip(job.results, surveys, strict=True)
    ]
    missing: list[list[str]] = [[] for _ in job.results]
    origins: list[list[tuple[str, str]]] = [[] for _ in job.results]
    for row, reads in _read_all(rows, found, "scans"):
        for k, read in enumerate(reads):
            if read is None:
                missing[k].append(row.label)
                continue
            evaluations[k].add(read.case)
            origins[k].append((read.region, read.made_by))
    return [
        Judged(
            one,
            evaluations[k],
            missing[k],
            regions=Counter(region for region, _ in origins[k]),
            made_by=Counter(made_by for _, made_by in origins[k] if made_by),
        )
        for k, one in enumerate(job.results)
    ]


def _read_all(
    rows: Sequence[Row], found: Sequence[Sequence[Found | None]], what: str
) -> Iterator[tuple[Row, list[Read | None]]]:
    # No bar where nobody watches: logs stay readable.
    for k, row in enumerate(tqdm(rows, desc=what, unit="scan", disable=None, leave=False)):
        yield row, read_cases(row, [one[k] for one in found])


def _calibrated(name: str) -> Thresholds:
    """A bundle's thresholds by healthy false-positive rate, and where they come from."""
    root = bundle.find(name)
    path = root / "models" / "calibration.json"
    healthy: dict[float, float] = {}
    contrasts: dict[str, dict[float, float]] = defaultdict(dict)
    for rate in HEALTHY_RATES:
        for contrast, threshold in named(load_threshold(path, rate)).items():
            (healthy if contrast == OTHERWISE else contrasts[contrast])[rate] = threshold
    return Thresholds({}, healthy, f"the calibration of bundle {root.name}", contrasts)
