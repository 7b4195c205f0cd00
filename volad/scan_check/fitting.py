"""Learn a scan check from the healthy scans that a detector was trained and validated on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from volad.errors import InputError
from volad.preprocess.steps import Sample
from volad.scan_check.check import LEAST_LIMIT, MARGIN, ScanCheck, Usual
from volad.scan_check.measure import kind_of, quality_of, reconstruction_of
from volad.scan_check.vary import vary
from volad.scan_check.words import FEATURES, of_scan_score

if TYPE_CHECKING:
    from volad.pipeline import Pipeline

__all__ = ["fit", "measure", "values_of"]

Found = dict[str, float]


def fit(
    pipeline: Pipeline,
    train: Iterable[Sample],
    validation: Iterable[Sample],
    scans: Sequence[Mapping[str, str]],
    seed: int = 0,
) -> ScanCheck:
    """Learn the usual ranges from scans trained on, and calibrate with scans that were not.

    Ranges of the kind are those of the scans as they are and, once each, mildly varied; those of
    the quality are of the scans as they are.

    Args:
        pipeline: of the bundle, trained; without a scan check.
        train: samples before the intensity scale (`volad.cache.read_cached`); read once.
        validation: as `train`.
        scans: name and sha256 of each of `validation`.
        seed: of the variation.
    """
    random = np.random.default_rng(seed)
    plain, varied = [], []
    scale = pipeline.preprocessing.transforms[-1]
    for sample in train:
        plain.append(measure(pipeline, scale(sample)))
        varied.append(kind_of(scale(vary(sample, random))))
    known = [measure(pipeline, scale(sample)) for sample in validation]
    if not plain or not known:
        raise InputError("a scan check needs healthy scans of the splits train and validation")
    check = ScanCheck(_ranges(plain, varied), LEAST_LIMIT, {}, (), len(plain))
    furthest = max(check.distance(found, "kind") for found in [*plain, *known])
    wide = replace(check, limit=max(LEAST_LIMIT, MARGIN * furthest))
    return wide.recalibrated(known, scans)


def measure(pipeline: Pipeline, sample: Sample) -> Found:
    """All features of a preprocessed sample."""
    inferred = pipeline.infer({**sample, "seconds": {}})
    return {
        **kind_of(sample),
        **quality_of(sample),
        **reconstruction_of(
            pipeline.network,
            sample["image"].as_tensor()[None],
            inferred["pred"].as_tensor()[None],
            None if inferred["healthy"] is None else inferred["healthy"][None],
        ),
    }


def values_of(facts: Mapping[str, Any]) -> Found:
    """What was measured of a scan, from what its sidecar says (`ScanCheck.facts`)."""
    return {
        name: math.nan if fact["value"] is None else float(fact["value"])
        for name, fact in facts["features"].items()
    }


def _ranges(plain: Sequence[Found], varied: Sequence[Found]) -> dict[str, Usual]:
    ranges = {}
    for name in dict.fromkeys(name for found in plain for name in found):
        known = FEATURES.get(name)
        widened = [*plain, *varied] if known is not None and known.family == "kind" else plain
        values = np.array([found[name] for found in widened if name in found])
        values = values[np.isfinite(values)]
        if len(values):
            feature = known or of_scan_score(name, float(np.median(values)))
            ranges[name] = Usual.fit(values, feature.tolerance)
    return ranges
