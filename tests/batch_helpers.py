"""What tests of batches share: scans, runs, and steps during which a worker is killed."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from monai.transforms import Transform
from pipeline_helpers import files_below, ready_bundle, save_head

from volad import bundle
from volad.batch import Batch
from volad.preprocess.steps import Sample
from volad.provenance import MEASURED


def save_heads(folder: Path, count: int) -> Path:
    """Write `a.nii.gz`, `b.nii.gz`, ... with a lesion in every other one."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        name = f"{chr(ord('a') + number)}.nii.gz"
        save_head(folder / name, 90 + number, lesion=number % 2 == 0)
    return folder


def batch(scans: Path, out: Path, root: Path | None = None, **settings: Any) -> Batch:
    """A bundle's batch on the CPU, as `volad segment` builds it; without report pages."""
    settings = {"device": "cpu", "report": False, **settings}
    given = {"dataset_dir": str(scans), "output_dir": str(out), **settings}
    parser = bundle.open_config(root or ready_bundle(), "inference", given)
    built: Batch = bundle.build(parser, "evaluator")
    return built


def journal(out: Path) -> list[dict[str, Any]]:
    """All lines of a folder's journals."""
    files = sorted(out.glob("volad*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def results(out: Path) -> dict[str, Any]:
    """Every file below a folder with its bytes; sidecars without times, no journals."""
    found: dict[str, Any] = {}
    for name in files_below(out):
        if name.endswith("_mask.json"):
            facts = json.loads((out / name).read_text())
            found[name] = {key: one for key, one in facts.items() if key not in MEASURED}
        elif not name.endswith(".jsonl"):
            found[name] = (out / name).read_bytes()
    return found


class Notes(Transform):
    """A step that makes a sample of a scan's name, and notes when it begins and ends.

    Args:
        notes: the file; every line is `begin NAME` or `end NAME`.
        deadly: names of scans during which the process is killed, and how many times.
        seconds: how long it takes.
    """

    def __init__(self, notes: Path, deadly: dict[str, int], seconds: float = 0.05) -> None:
        self.notes, self.deadly, self.seconds = notes, deadly, seconds

    def __call__(self, sample: Sample) -> Sample:
        name = sample["image"].name
        tries = self._note("begin", name)
        time.sleep(self.seconds)
        if tries <= self.deadly.get(name, 0):
            os.kill(os.getpid(), signal.SIGKILL)
        self._note("end", name)
        return {"image": name, "process": os.getpid()}

    def _note(self, what: str, name: str) -> int:
        line = f"{what} {name}"
        with self.notes.open("a") as file:
            file.write(line + "\n")
        return self.notes.read_text().splitlines().count(line)
