"""Many scans in shards, some of them killed midway and started again, against one run over all.

    python benchmarks/shards.py [--scans 200] [--shards 8] [--killed 2]

Makes tiny scans and a detector for them (`tools/many_scans`), runs every shard as a process of its
own, kills (`kill -9`) some when they have done a few scans, starts those again, merges, and checks:
all scans done, none twice, tables and every result equal to the one run's byte for byte (sidecars
but for their times). Ends with exit code 1 where that does not hold.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run all of it in a temporary folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--scans", type=int, default=200)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--killed", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make = [str(ROOT / "tools" / "many_scans"), str(work / "scans"), f"--count={args.scans}"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([sys.executable, *make, "--bundle", str(work / "ct")], check=True, **quiet)
        print(f"{args.scans} scans, {args.shards} shards, {args.killed} of them killed midway")
        began = time.perf_counter()
        _volad(work, "one").wait()
        print(f"one run: {time.perf_counter() - began:.0f} s")
        for shard in range(args.shards):
            _shard(work, shard, args.shards, kill=shard < args.killed)
        merged = _merge(work)
        print(f"merge before the killed shards are started again: exit code {merged.returncode}")
        print(f"  {merged.stderr.strip()[-160:]}")
        for shard in range(args.killed):
            _shard(work, shard, args.shards, kill=False)
        again = _merge(work)
        holds = {
            "the first merge named what was missing": merged.returncode == 3,
            "the second merge found all": again.returncode == 0,
            **_compare(work, args.scans),
        }
    for what, is_so in holds.items():
        print(f"{'yes' if is_so else 'NO '}  {what}")
    sys.exit(0 if all(holds.values()) else 1)


def _volad(work: Path, out: str, *more: str) -> subprocess.Popen[str]:
    where = [str(work / "scans"), "-o", str(work / out), "-b", str(work / "ct"), "--device=cpu"]
    arguments = ["segment", *where, "--no-report", "--workers=0", "-q", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "volad", *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


def _shard(work: Path, shard: int, shards: int, *, kill: bool) -> None:
    given = (f"--num-shards={shards}", f"--shard-index={shard}", "--resume")
    run = _volad(work, "out", *given)
    assert run.stdout is not None
    if kill:
        for _ in range(5):
            run.stdout.readline()
        run.kill()
    run.communicate()
    print(f"shard {shard}: exit code {run.returncode}, {len(_rows(work))} lines")


def _merge(work: Path) -> subprocess.CompletedProcess[str]:
    command = ["merge", str(work / "out"), "--expect", str(work / "scans")]
    return subprocess.run(
        [sys.executable, "-m", "volad", *command], capture_output=True, text=True, cwd=ROOT
    )


def _rows(work: Path) -> list[dict[str, Any]]:
    files = sorted((work / "out").glob("volad-shard-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def _compare(work: Path, scans: int) -> dict[str, bool]:
    done = [row["name"] for row in _rows(work) if not row["resumed"]]
    one, out = (_results(work / name) for name in ("one", "out"))
    out.pop("index.html", None)  # the one run was told to write no pages
    return {
        "all scans are done": len({row["name"] for row in _rows(work)}) == scans,
        "none was told done twice": len(set(done)) == len(done),
        "the table is the one run's": one["statistics.csv"] == out.get("statistics.csv"),
        f"all {len(one)} files are the one run's, and there is none more": one == out,
    }


def _results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in folder.rglob("*"):
        if path.name.endswith("_mask.json"):
            facts = json.loads(path.read_text())
            found[path.name] = {k: facts[k] for k in facts if k not in ("seconds", "peak_memory")}
        elif path.is_file() and path.suffix != ".jsonl":
            found[path.name] = path.read_bytes()
    return found


if __name__ == "__main__":
    main()
