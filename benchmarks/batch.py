"""A folder of scans by `volad segment`, against one process a scan and a stock MONAI evaluator.

    python benchmarks/batch.py --scans DIR/T1 --limit 12 [--bundle brain_t1_ae] [--workers 2]

All contenders make mask and score map of the same scans with the same network and steps, one after
the other, each in processes of its own (`stock_evaluator.py` says what MONAI's does). Ratios count:
seconds depend on the machine. Prints scans an hour and the peak of memory (of all processes
together, pages that they share counted once; Linux), how alike the masks are, which share of the
time the model loop is busy, and how far the batch is from the larger of model and preprocessing
time. For a GPU: `--device cuda` (the stock evaluator stays on the CPU and is then left out).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
LIGHT = ["--no-report", "--no-stats", "-q"]


@dataclass
class Run:
    """How long something took and how much memory it had at most."""

    seconds: float
    peak_mib: float

    def an_hour(self, scans: int) -> float:
        """Scans an hour, loading of libraries and model included."""
        return 3600 * scans / self.seconds


def main() -> None:
    """Run all contenders and print their ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--scans", type=Path, required=True, help="folder of .nii.gz files")
    parser.add_argument("--limit", type=int, default=12)
    parser.add_argument("--bundle", default="brain_t1_ae")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="of every contender")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    scans = sorted(args.scans.glob("*.nii.gz"))[: args.limit]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        (out / "scans").mkdir()
        for scan in scans:
            (out / "scans" / scan.name).symlink_to(scan.resolve())
        runs = _contenders(args, scans, out)
        _print_runs(runs, len(scans), out, [scan.name.removesuffix(".nii.gz") for scan in scans])
        _print_loop(out / "batch" / "volad.jsonl", args.workers)


def _contenders(args: argparse.Namespace, scans: list[Path], out: Path) -> dict[str, Run]:
    volad = [sys.executable, "-m", "volad", "segment"]
    options = ["-b", args.bundle, "--device", args.device, *LIGHT]
    workers = ["--workers", str(args.workers)]
    together = [*volad, str(out / "scans"), "-o", str(out / "batch"), *options, *workers]
    runs = {
        "batch": _measure([together]),
        "one process a scan": _measure(
            [[*volad, str(scan), "-o", str(out / "naive"), *options] for scan in scans]
        ),
    }
    if args.device != "cpu":
        return runs
    stock = [sys.executable, str(ROOT / "benchmarks" / "stock_evaluator.py"), args.bundle]
    for count in (0, args.workers):
        name = f"stock evaluator, {count} loader workers"
        given = [*stock, str(out / f"stock{count}"), f"--workers={count}", *map(str, scans)]
        runs[name] = _measure([given])
    return runs


def _measure(commands: list[list[str]]) -> Run:
    """Run commands one after the other."""
    began, peak = time.perf_counter(), 0.0
    environ = {**os.environ, "PYTHONPATH": os.fspath(ROOT)}
    for command in commands:
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT, env=environ)
        watch = _Watch(run.pid)
        watch.start()
        if run.wait():
            raise SystemExit(f"{' '.join(command[:4])} ... ended with exit code {run.returncode}")
        watch.done.set()
        watch.join()
        peak = max(peak, watch.peak_mib)
    return Run(time.perf_counter() - began, peak)


class _Watch(threading.Thread):
    """Looks at a process and those below it twice a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak_mib, self.done = pid, 0.0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.5):
            self.peak_mib = max(self.peak_mib, sum(map(_pss_mib, _family(self.pid))))


def _family(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:  # ended meanwhile
            continue
        for child in children:
            found += _family(child)
    return found


def _pss_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(x.split()[1]) / 1024 for x in lines if x.startswith("Pss:")), 0.0)


def _print_runs(runs: dict[str, Run], scans: int, out: Path, names: list[str]) -> None:
    batch = runs["batch"]
    folders = dict(zip(runs, sorted_folders(runs), strict=True))
    print(
        f"{scans} scans | scans an hour | batch is faster by | peak MiB | Dice with batch's masks"
    )
    for name, run in runs.items():
        alike = _dice(out / "batch", out / folders[name], names)
        print(
            f"{name:34} | {run.an_hour(scans):6.0f} | {run.seconds / batch.seconds:5.2f} | "
            f"{run.peak_mib:6.0f} | {alike}"
        )


def sorted_folders(runs: dict[str, Run]) -> list[str]:
    """Where each contender wrote."""
    stock = [f"stock{name.split()[2]}" for name in runs if name.startswith("stock")]
    return ["batch", "naive", *stock]


def _dice(one: Path, other: Path, names: list[str]) -> str:
    """Lowest and mean over the scans, and in how many the masks are the same voxel by voxel."""
    values, same = [], 0
    for name in names:
        a, b = (_mask(folder, name) for folder in (one, other))
        same += np.array_equal(a, b)
        total = a.sum() + b.sum()
        values.append(2 * (a & b).sum() / total if total else 1.0)
    return f"{min(values):.4f} lowest, {np.mean(values):.4f} mean, {same} of {len(names)} identical"


def _mask(folder: Path, name: str) -> np.ndarray:
    return np.asarray(nib.load(folder / f"{name}_mask.nii.gz").dataobj).squeeze() > 0


def _print_loop(journal: Path, workers: int) -> None:
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    ended = sorted(datetime.fromisoformat(row["ended"]).timestamp() for row in rows)
    lanes = max(1, min(workers, os.cpu_count() or 1))
    if len(rows) <= lanes:
        return
    # From when every lane has done one to the last one's end: loading is over, all are at work.
    steady = (ended[-1] - ended[lanes - 1]) / (len(rows) - lanes)
    stages: dict[str, float] = {}
    for row in rows:
        for stage, seconds in row["seconds"].items():
            stages[stage] = stages.get(stage, 0.0) + seconds / len(rows)
    order = list(stages)
    first = order.index("ScanCheck") if "ScanCheck" in order else order.index("model")
    preparing = sum(stages[stage] for stage in order[:first])
    model = sum(stages.get(stage, 0.0) for stage in ("ScanCheck", "model"))
    larger = max(model, preparing / lanes)
    gaps = [later - sooner for sooner, later in pairwise(ended)]
    print("\nstage (seconds a scan, mean): " + ", ".join(f"{k} {v:.2f}" for k, v in stages.items()))
    print(
        f"seconds a scan, once all stages are at work: {steady:.2f} (longest gap {max(gaps):.1f})"
    )
    print(f"model loop busy (model and scan check): {model / steady:.1%} of the time")
    print(f"end to end over model-only throughput: {model / steady:.3f}")
    print(
        f"over the larger of model ({model:.2f} s) and preprocessing ({preparing:.2f} s in "
        f"{lanes} lanes): {steady / larger:.2f} x"
    )
    total = sum(stages.values())
    print(
        f"the same steps in one line take {total:.2f} s: {total / larger:.2f} x is the most that "
        "reading ahead can gain on them"
    )


if __name__ == "__main__":
    main()
