"""Seconds and peak memory of one scan from file to mask, stage by stage, in a fresh process.

    python benchmarks/one_scan.py SCAN [--bundle NAME] [--threads 2]

Ratios count: seconds depend on the machine. Reads what the sidecar says, and the whole process's
wall time and peak memory from the operating system.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Run `volad segment` once and print its stages."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("scan", type=Path)
    parser.add_argument("--bundle", default="brain_t1_ae")
    parser.add_argument("--threads", default="2")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        subprocess.run(
            [
                *(sys.executable, "-m", "volad", "segment", args.scan, "-o", folder),
                *("--bundle", args.bundle, "--threads", args.threads, "--device", "cpu"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        wall = time.perf_counter() - began
        facts = json.loads(next(Path(folder).glob("*_mask.json")).read_text())
    peak_gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"{args.scan.name}: {wall:.1f} s wall, {peak_gib:.2f} GiB peak, {facts['input']}")
    for stage, seconds in facts["seconds"].items():
        print(f"  {stage:18} {seconds:6.2f} s  {seconds / wall:5.1%} of the wall time")


if __name__ == "__main__":
    main()
