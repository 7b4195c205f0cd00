"""The sidecar of a scan: what made its mask, or why there is none."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Mapping
from typing import Any

import torch

from volad.bundle import Identity
from volad.calibrate.measure import describe_steps
from volad.calibrate.stored import steps_keep
from volad.io import Scan, Volume
from volad.pipeline import Pipeline, Result
from volad.preprocess.steps import Sample
from volad.provenance import software

__all__ = ["sidecar", "sidecar_of_refused"]


def sidecar(result: Result, pipeline: Pipeline, identity: Identity) -> dict[str, Any]:
    """What made a mask: everything needed to trust it or to make it again."""
    return {
        **_input(result.volume),
        "flags": list(result.flags),
        "scan_check": result.scan_check,
        "bundle": identity.facts(),
        "threshold": _threshold(result, pipeline, identity),
        "scan_scores": result.scan_scores,
        "preprocessing": result.facts,
        "postprocessing": {
            type(step).__name__: vars(step)
            for step in (*pipeline.map_steps, pipeline.cut, *pipeline.mask_steps)
        },
        **_circumstances(pipeline, result.seconds),
    }


def sidecar_of_refused(
    sample: Sample, facts: Mapping[str, Any], pipeline: Pipeline, identity: Identity
) -> dict[str, Any]:
    """Why a scan has no mask.

    Args:
        sample: the preprocessed scan.
        facts: of the scan check (`volad.scan_check.ScanCheck.facts`).
        pipeline: whose scan check it is.
        identity: the bundle.
    """
    return {
        **_input(sample["volume"]),
        "mask": None,
        "flags": list(sample["flags"]),
        "scan_check": dict(facts),
        "bundle": identity.facts(),
        "preprocessing": sample["facts"],
        **_circumstances(pipeline, sample["seconds"]),
    }


def _input(volume: Volume) -> dict[str, Any]:
    return {
        "Type": "Lesion",
        "Sources": [_source(volume.scan), *(path.name for _, path in volume.scan.channels)],
        "SpatialReference": "orig",
        "input": {
            "sha256": volume.sha256,
            "shape": list(volume.shape),
            "spacing_mm": list(volume.spacing_mm),
        },
    }


def _source(scan: Scan) -> str:
    """Where the mask comes from; in BIDS by the data set's link and the path in it."""
    if not scan.bids_suffix:
        return scan.path.name
    return f"bids:raw:{(scan.group / scan.path.name).as_posix()}"


def _circumstances(pipeline: Pipeline, seconds: Mapping[str, float]) -> dict[str, Any]:
    device = pipeline.device
    peak = {"host_mib": _peak_mib()}
    if device.type == "cuda":
        peak["device_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return {
        "software": {**software(), "python": platform.python_version()},
        "device": str(device),
        "amp": pipeline.amp,
        "threads": torch.get_num_threads(),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "peak_memory": {name: round(value) for name, value in peak.items()},
        "notice": "volad is not a medical device: not for diagnosis or treatment",
    }


def _threshold(result: Result, pipeline: Pipeline, identity: Identity) -> dict[str, Any]:
    """What the mask was cut at, and what it promises; null where nothing is promised.

    A calibration's promise holds for its own threshold only, for scans of its contrast and, where
    it is one on lesions, for masks that lesions were counted in.
    """
    found = identity.calibration
    several = found.get("contrasts", {})
    contrast = result.facts.get("contrast", {}).get("like") if several else None
    found = several.get(contrast, found)
    calibrated = result.threshold == found.get("threshold")
    promise = found.get("promise", {}) if calibrated else None
    if several and contrast not in several:
        promise = None
    if promise and promise.get("of") in ("false_mm3", "false_lesions"):
        kept = steps_keep(found.get("mask_steps", ()), describe_steps(pipeline))
        promise = promise if kept else None
    return {
        "value": result.threshold,
        "source": "calibration" if calibrated else "user",
        **({"contrast": contrast} if several else {}),
        "promise": promise or None,
        "calibration": {key: value for key, value in found.items() if key != "contrasts"},
    }


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB here
