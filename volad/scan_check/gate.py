"""Where the scan check stands in a pipeline: before the model, and once more behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monai.transforms import Transform
from torch import Tensor

from volad.errors import OtherKindError
from volad.methods._base import Method
from volad.preprocess.steps import Sample
from volad.scan_check.check import Finding, ScanCheck
from volad.scan_check.measure import kind_of, quality_of, reconstruction_of

__all__ = ["MeasureAhead", "admit", "look_back"]

#: Oddities named in a line.
NAMED = 2


class MeasureAhead(Transform):
    """A last step of preprocessing that takes the measuring off the model's loop."""

    def __call__(self, sample: Sample) -> Sample:
        return {**sample, "measured": {"kind": kind_of(sample), "quality": quality_of(sample)}}


def _measured(
    sample: Sample, family: str, measure: Callable[[Sample], dict[str, float]]
) -> dict[str, float]:
    found: dict[str, float] = sample.get("measured", {}).get(family) or measure(sample)
    return found


def admit(check: ScanCheck, sample: Sample, force: bool) -> dict[str, float]:
    """Measure of which kind a preprocessed sample is.

    Raises:
        OtherKindError: of another than the bundle knows, and `force` is False; with what the
            sidecar says of it.
    """
    found = _measured(sample, "kind", kind_of)
    kind = check.judge(found, "kind")
    if kind.refused and not force:
        facts = {**check.facts(found, [kind]), "forced": False}
        where, scans = sample["volume"].scan.path, len(check.scans)
        raise OtherKindError(
            f"{where}: is not of the kind that this bundle knows: {_named(kind)}; "
            f"{kind.distance:.1f} times as far out as healthy scans usually are, refused beyond "
            f"{check.limit:.1f} (p = {kind.p:.3f} among {scans} of them); check the series, or "
            "give --force",
            facts,
            sample,
        )
    return found


def look_back(
    check: ScanCheck,
    found: dict[str, float],
    sample: Sample,
    network: Method,
    score: Tensor,
    x_hat: Tensor | None,
) -> dict[str, Any]:
    """What to add to a sample: `scan_check` for its sidecar, and its `flags`.

    Args:
        check: of the bundle.
        found: what `admit` measured.
        sample: the same.
        network: the method.
        score: `(1, *S)` its score map.
        x_hat: `(C, *S)` its healthy counterpart, or None.
    """
    counterpart = None if x_hat is None else x_hat[None]
    model = reconstruction_of(network, sample["image"].as_tensor()[None], score[None], counterpart)
    found = {**found, **_measured(sample, "quality", quality_of), **model}
    kind, quality = (check.judge(found, family) for family in ("kind", "quality"))
    facts = {**check.facts(found, [kind, quality]), "forced": kind.refused}
    return {"scan_check": facts, "flags": [*sample["flags"], *_flags(kind, quality)]}


def _flags(kind: Finding, quality: Finding) -> list[str]:
    lines = []
    if kind.refused:
        lines.append(f"not of the kind that this bundle knows, gone on by force: {_named(kind)}")
    elif kind.unusual:
        lines.append(
            f"unlike the healthy scans this bundle was calibrated on: {_named(kind)} (p = "
            f"{kind.p:.3f}); if your scans are all so, volad calibrate --on healthy ones of them"
        )
    if quality.unusual:
        lines.append(f"of unusual quality: {_named(quality)} (p = {quality.p:.3f})")
    return lines


def _named(finding: Finding) -> str:
    return ", ".join(finding.odd[:NAMED]) or "a little of everything"
