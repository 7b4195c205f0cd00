"""Whether an earlier run's results for a scan still hold: nothing is taken on trust."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from volad.errors import VoladError
from volad.io import Scan, input_sha256
from volad.io.digest import sha256_of
from volad.io.write import as_json
from volad.outputs import FILES, Outcome, Outputs, without_features
from volad.provenance import sealed
from volad.report.lesions import summary_row

__all__ = ["clear", "earlier", "lock_path"]


def lock_path(outputs: Outputs, scan: Scan) -> Path:
    """The lock of a scan's results: a hidden file beside its sidecar."""
    sidecar = outputs.path(scan, "mask.json")
    return sidecar.with_name(f".{sidecar.name}.lock")


def clear(outputs: Outputs, scan: Scan) -> None:
    """Remove the temporary files of a process that died over a scan; its lock must be held."""
    for kind in FILES.values():
        path = outputs.path(scan, kind)
        start = f".{path.name}."
        for file in path.parent.iterdir():
            if file.name.startswith(start) and ".tmp" in file.name:
                file.unlink(missing_ok=True)


def earlier(outputs: Outputs, scan: Scan, made_with: Mapping[str, Any]) -> Outcome | None:
    """The outcome that an earlier run wrote for a scan, or None where it must be done again.

    It holds where the sidecar names the same parameters (`volad.provenance`) and input, and every
    file that it vouches for is there with the bytes it had.
    """
    sidecar = outputs.path(scan, "mask.json")
    try:
        text = sidecar.read_text(encoding="utf-8")
        facts = json.loads(text)
        if text != as_json(sealed(facts)) or facts["parameters"] != json.loads(
            json.dumps(made_with)
        ):
            return None
        files = _intact(outputs, scan, facts)
        if files is None or facts["input"]["sha256"] != input_sha256(scan):
            return None
        return _outcome(scan, {**files, "sidecar": sidecar}, facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, VoladError):
        return None  # whatever is wrong with it, or with the scan, the run will tell


def _intact(outputs: Outputs, scan: Scan, facts: Mapping[str, Any]) -> dict[str, Path] | None:
    """The files beside the sidecar, where they are what it says."""
    if "error" in facts:  # refused by the scan check: that there is no mask is the result
        return None if outputs.path(scan, "mask.nii.gz").exists() else {}
    recorded = facts["outputs"]
    files = {kind: outputs.path(scan, FILES[kind]) for kind in recorded}
    if "mask" not in files:
        return None
    for kind, path in files.items():
        if recorded[kind] != {"file": path.name, "sha256": sha256_of([path])}:
            return None
    return files


def _outcome(scan: Scan, files: dict[str, Path], facts: Mapping[str, Any]) -> Outcome:
    outcome = Outcome(
        scan,
        files,
        flags=tuple(facts["flags"]),
        resumed=True,
        scan_check=without_features(facts["scan_check"]),
    )
    if "error" in facts:
        ended = facts["error"]
        return replace(outcome, error=ended["message"], exit_code=ended["exit_code"])
    found = facts["lesions"]
    summary = {
        **summary_row(outcome.name, [], 0),
        "Num_Lesions": found["count"],
        "Num_Vox": found["voxels"],
        "Lesion_Volume": round(found["mm3"], 2),
    }
    scores = {k: v for k, v in facts["scan_scores"].items() if not isinstance(v, list)}
    return replace(outcome, summary=summary, scan_scores=scores)
