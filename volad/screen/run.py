"""The whole job: describe every scan of a manifest, compare them, write what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from volad import bundle
from volad.data import read_split
from volad.errors import UsageError
from volad.io import ensure_writable, write_json, write_text
from volad.screen.features import Described, blocks_of, describe, features_of
from volad.screen.files import KEPT, facts_of, kept_csv, scans_csv
from volad.screen.findings import Finding, findings_of
from volad.screen.outliers import Comparison, Features, image_tests, univariate_tests
from volad.screen.page import render_page

__all__ = ["Job", "Screened", "compare", "screen"]


@dataclass(frozen=True)
class Job:
    """What to screen.

    Attributes:
        bundle_name: a shipped bundle's name or a bundle's folder: whose steps prepare the scans.
        manifest: CSV of healthy scans with splits (`volad.data`).
        data_dir: folder that the manifest's paths start at.
        split: which of the manifest's splits.
        cache_dir: folder for prepared scans; default: `cache` in the output.
        workers: processes that prepare scans.
    """

    bundle_name: str | Path
    manifest: Path
    data_dir: Path
    split: str = "train"
    cache_dir: Path | None = None
    workers: int = 0


@dataclass(frozen=True, eq=False)
class Screened:
    """What was found.

    Attributes:
        findings: of every scan, in the manifest's order.
        page: path of the report.
    """

    findings: Sequence[Finding]
    page: Path


def screen(job: Job, output: Path) -> Screened:
    """Write `screen.csv`, `screen.json`, `screen.html`, and `kept.csv`, the manifest that is left.

    Args:
        job: what to screen.
        output: folder for the files; made where it is not there.

    Raises:
        InputError: the manifest or its files are unusable, or too few scans can be prepared.
        UsageError: there is no such bundle, or the manifest would be overwritten.
        VoladError: the output cannot be written.
    """
    root = bundle.find(job.bundle_name)
    if job.manifest.resolve() == (output / KEPT).resolve():
        raise UsageError(f"{job.manifest}: would be overwritten; name another output folder")
    rows = read_split(job.manifest, job.data_dir, job.split, bundle.channels(root))
    ensure_writable(output)
    described = describe(rows, root, job.cache_dir or output / "cache", job.workers)
    features, tests, compared = compare([one for one in described if isinstance(one, Described)])
    findings = findings_of(rows, described, features, tests)
    facts = {"bundle": bundle.identity(root).facts(), **facts_of(job, findings, features, tests)}
    facts["compared"] = compared
    write_text(output / "screen.csv", scans_csv(findings, features, tests))
    write_text(output / "screen.html", render_page(facts, findings, tests))
    write_text(output / KEPT, kept_csv(job.manifest, job.split, findings))
    write_json(output / "screen.json", facts)
    return Screened(findings, output / "screen.html")


def compare(found: Sequence[Described]) -> tuple[Features, list[Comparison], str]:
    """All tests of scans, and what the components were those of."""
    features = features_of(found)
    single = univariate_tests(features)
    blocks = blocks_of(found)
    if blocks is None:
        rows, compared = np.nan_to_num(single[0].offsets), "features"
    else:
        rows, compared = blocks.reshape(len(blocks), -1), "images"
    return features, [*single, *image_tests(rows)], compared
