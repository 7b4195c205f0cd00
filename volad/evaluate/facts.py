"""What `evaluation.json` holds: all numbers, and everything needed to read or remake them."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import volad
from volad.evaluate.evaluation import FrocPoint, Summary, compare
from volad.evaluate.numbers import number
from volad.evaluate.run import Job, Judged
from volad.evaluate.sampling import Estimate
from volad.evaluate.settings import RULES
from volad.io.digest import sha256_of
from volad.metrics.lesionwise import SIZES_MM3

__all__ = ["facts_of"]


def facts_of(job: Job, judged: Sequence[Judged]) -> dict[str, Any]:
    """Plain values for JSON; what is not defined is `null`, or absent where no scan has it."""
    results = {one.results.name: _of_results(one) for one in judged}
    first = judged[0]
    return {
        "manifest": {"file": job.manifest.name, "sha256": sha256_of([job.manifest])},
        "settings": {
            **asdict(job.settings),
            "by": list(job.by),
            "bundles": dict(job.bundles),
            "allow_missing": job.allow_missing,
            "confidence_level": 0.95,
        },
        "rules": dict(RULES),
        "warnings": warnings_of(judged),
        "results": results,
        "paired": [_paired(first, other) for other in judged[1:]],
        "software": {
            "volad": volad.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "scipy", "monai")},
        },
    }


def _of_results(judged: Judged) -> dict[str, Any]:
    evaluation = judged.evaluation
    thresholds = evaluation.thresholds
    contrasts = {name: _by_rate(one) for name, one in thresholds.contrasts.items()}
    summary = evaluation.summary()
    return {
        "folder": str(judged.results.folder),
        "missing": list(judged.missing),
        "regions": dict(judged.regions),
        "made_by": dict(judged.made_by),
        "healthy_thresholds": {
            "source": thresholds.source,
            "by_rate": _by_rate(thresholds.healthy),
            **({"contrasts": contrasts} if contrasts else {}),
        },
        **_of_summary(summary),
        "subgroups": {
            column: {value: _of_summary(one) for value, one in values.items()}
            for column, values in summary.subgroups.items()
        },
    }


def _by_rate(thresholds: Mapping[float, float]) -> dict[str, float]:
    return {f"{rate:g}": value for rate, value in thresholds.items()}


def _of_summary(summary: Summary) -> dict[str, Any]:
    curves = summary.curves
    return {
        "counts": dict(summary.counts),
        "metrics": {key: metric(key, one) for key, one in summary.estimates.items()},
        "volume_limits_of_agreement_ml": [_finite(v) for v in summary.agreement_ml],
        "certain": {} if curves is None else _plain(curves.certain),
        "oracle_thresholds": {} if curves is None else _plain(curves.oracle_thresholds),
        "sensitivity_by_size": [
            {
                "label": f"{low:g} to {high:g} mm³" if math.isfinite(high) else f"from {low:g} mm³",
                "from_mm3": low,
                "to_mm3": _finite(high),
                "lesions": count,
                **interval(one),
            }
            for low, high, (one, count) in zip(
                SIZES_MM3[:-1], SIZES_MM3[1:], summary.sizes, strict=True
            )
        ],
        "froc": [_of_froc(point) for point in summary.froc],
        "pr_curve": [] if curves is None else [list(point) for point in curves.precision_recall],
    }


def _of_froc(point: FrocPoint) -> dict[str, Any]:
    return {
        "share": point.share,
        "threshold": point.threshold,
        "sensitivity": interval(point.sensitivity),
        "false_per_scan": interval(point.false_per_scan),
    }


def _paired(first: Judged, other: Judged) -> dict[str, Any]:
    differences = compare(first.evaluation, other.evaluation)
    return {
        "first": first.results.name,
        "other": other.results.name,
        "meaning": "first minus other, the same subjects drawn for both",
        "metrics": {key: metric(key, one) for key, one in differences.items()},
    }


def metric(key: str, estimate: Estimate) -> dict[str, Any]:
    """An estimate with what it is."""
    what = number(key)
    return {
        "label": what.label,
        "unit": what.unit,
        "looks_at_labels": what.oracle,
        **interval(estimate),
    }


def interval(estimate: Estimate) -> dict[str, Any]:
    """An estimate with its limits, which are `None` with fewer than two subjects."""
    found = estimate.interval()
    return {
        "value": _finite(found.value),
        "low": _finite(found.low),
        "high": _finite(found.high),
        "subjects": estimate.n,
    }


def warnings_of(judged: Sequence[Judged]) -> list[str]:
    """What a reader must know before the numbers, one line each."""
    lines = []
    for one in judged:
        lines += [f"{one.results.name}: {line}" for line in _warnings(one)]
    if len(judged) > 1 and _regions_differ(judged):
        lines.append(
            "the result sets are judged in different regions, so their voxel numbers are not of "
            "the same voxels; give brain_mask in the manifest"
        )
    return lines


def _warnings(judged: Judged) -> list[str]:
    rows = judged.evaluation.rows
    lines = []
    if judged.missing:
        lines.append(f"{len(judged.missing)} scans of the manifest are missing and not judged")
    unscored = sum(not row.has_score for row in rows)
    if unscored:
        lines.append(f"{unscored} of {len(rows)} scans have no score map: numbers of scores are "
                     "without them")  # fmt: skip
    if not judged.evaluation.thresholds.healthy and unscored < len(rows):
        lines.append("no Dice at healthy false-positive rates: no scan without lesions and no "
                     "bundle's calibration")  # fmt: skip
    if not any(row.lesioned for row in rows):
        lines.append("no scan has lesions: only false positives are judged")
    if len({row.subject for row in rows}) < 2:
        lines.append("one subject: no limits can be given")
    return lines


def _regions_differ(judged: Sequence[Judged]) -> bool:
    first = {row.name: row.region_voxels for row in judged[0].evaluation.rows}
    return any(
        first.get(row.name, row.region_voxels) != row.region_voxels
        for one in judged[1:]
        for row in one.evaluation.rows
    )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: [_finite(v) for v in value] if isinstance(value, tuple) else _finite(value)
        for key, value in values.items()
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
