"""The tables and facts that a screening writes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from volad.io.digest import sha256_of
from volad.io.table import csv_text, manifest_text
from volad.provenance import software
from volad.screen.findings import Finding
from volad.screen.outliers import ALPHA, LEVEL, Comparison, Features

if TYPE_CHECKING:
    from volad.screen.run import Job

__all__ = ["KEPT", "facts_of", "kept_csv", "scans_csv"]

KEPT = "kept.csv"
MULTIPLE_TESTING = (
    f"In a cohort of healthy scans whose measures are normally distributed, any scan at all is "
    f"flagged with a probability of about {ALPHA:.0%} at most, whatever the number of scans: each "
    f"of the four tests has {LEVEL:.2%} of that for all scans and features together (Bonferroni). "
    "Real measures have heavier tails than normal ones, so look at the scans before leaving them "
    "out."
)
MASKING = (
    "Location and scale are medians and median absolute deviations, and the robust distance is "
    "from the half of the scans that lie closest together: outliers do not hide each other while "
    "they are the smaller half. The leverage by itself misses outliers of one kind."
)


def scans_csv(findings: Sequence[Finding], features: Features, tests: Sequence[Comparison]) -> str:
    """One row a scan, in the manifest's order: tests with their limits, then all features."""
    columns = ["subject", "image", "flagged", "reason"]
    columns += [column for test in tests for column in (test.name, f"{test.name}_limit")]
    rows = []
    for one in findings:
        row = {
            "subject": one.row.subject,
            "image": str(one.row.image),
            "flagged": "yes" if one.flagged else "no",
            "reason": "; ".join(one.reasons),
            **{f"{test.name}_limit": f"{test.limit:.6g}" for test in tests},
        }
        measured = {**one.values, **one.features}
        row |= {name: f"{value:.6g}" for name, value in measured.items() if np.isfinite(value)}
        rows.append(row)
    return csv_text([*columns, *features.names], rows)


def kept_csv(manifest: Path, split: str, findings: Sequence[Finding]) -> str:
    """The manifest with all its columns, without the flagged scans; other splits as they are."""
    table = csv.DictReader(io.StringIO(manifest_text(manifest)))
    screened = iter(findings)
    kept = [row for row in table if row["split"] != split or not next(screened).flagged]
    return csv_text(list(table.fieldnames or ()), kept)


def facts_of(
    job: Job, findings: Sequence[Finding], features: Features, tests: Sequence[Comparison]
) -> dict[str, Any]:
    """Settings, limits and counts."""
    return {
        "manifest": {"file": str(job.manifest), "sha256": sha256_of([job.manifest])},
        "data_dir": str(job.data_dir),
        "split": job.split,
        "counts": {
            "scans": len(findings),
            "flagged": sum(one.flagged for one in findings),
            "cannot_be_prepared": sum(not one.values for one in findings),
            "kept": sum(not one.flagged for one in findings),
        },
        "tests": {
            test.name: {"limit": test.limit, "flagged": int(test.beyond.any(axis=1).sum())}
            for test in tests
        },
        "alpha": ALPHA,
        "alpha_of_each_test": LEVEL,
        "multiple_testing": MULTIPLE_TESTING,
        "masking": MASKING,
        "features": {
            name: {"median": float(np.nanmedian(column)), "tolerance": float(tolerance)}
            for name, column, tolerance in zip(
                features.names, features.values.T, features.tolerances, strict=True
            )
        },
        "software": software(),
    }
