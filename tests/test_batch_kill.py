"""`kill -9` at any moment: a run with `--resume` ends as one that was never disturbed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from batch_helpers import journal, results, save_heads
from killing import Runs
from pipeline_helpers import ready_bundle

import volad

pytestmark = pytest.mark.slow

MOMENTS = 20


def command(scans: Path, out: Path, *more: str) -> list[str]:
    bundle = str(ready_bundle())
    where = ["-o", str(out), "-b", bundle, "--device=cpu"]
    return ["segment", str(scans), *where, "--workers=0", "-q", *more]


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    with Runs() as started:
        yield started


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_heads(tmp_path_factory.mktemp("scans"), 3)


@pytest.fixture(scope="module")
def undisturbed(
    runs: Runs, scans: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], float]:
    """What an undisturbed run writes, and how long it takes."""
    out = tmp_path_factory.mktemp("undisturbed")
    assert runs.run(command(scans, out)) == 0  # files that are read get into the system's memory
    began = time.perf_counter()
    assert runs.run(command(scans, out)) == 0
    return results(out), time.perf_counter() - began


def done_once(out: Path) -> list[str]:
    """Names of the scans that the journals say were segmented, not taken over."""
    return sorted(row["name"] for row in journal(out) if not row["resumed"])


def test_killed_at_any_moment(
    runs: Runs, scans: Path, undisturbed: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    expected, seconds = undisturbed
    draw, killed = random.Random(0), 0
    for number in range(4 * MOMENTS):
        out = tmp_path / str(number)
        moment = draw.uniform(0, seconds)
        if runs.run(command(scans, out), kill_after_s=moment) != -9:
            seconds *= 0.9  # it had ended: the machine has become faster
            continue
        before = {row["name"] for row in journal(out)}
        assert runs.run(command(scans, out, "--resume")) == 0
        assert results(out) == expected, f"killed after {moment:.3f} s"
        # No work is lost whose line was written; none is done again.
        assert before <= {row["name"] for row in journal(out) if row["resumed"]}
        assert len(set(done_once(out))) == len(done_once(out))
        killed += 1
        if killed == MOMENTS:
            break
    assert killed == MOMENTS


def test_killed_again_and_again(
    runs: Runs, scans: Path, undisturbed: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    """Every run gets a little further."""
    expected, seconds = undisturbed
    for _ in range(12):
        if runs.run(command(scans, tmp_path, "--resume"), kill_after_s=seconds * 0.7) == 0:
            break
    assert runs.run(command(scans, tmp_path, "--resume")) == 0
    assert results(tmp_path) == expected


def test_workers_of_a_killed_run_end_and_the_rest_is_done(
    scans: Path, undisturbed: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    arguments = [sys.executable, "-m", "volad", *command(scans, tmp_path, "--workers=1")]
    there = Path(volad.__file__).parents[1]
    # As many threads as the undisturbed run: another number rounds sums otherwise.
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=there, env=env)
    assert run.stdout is not None
    assert run.stdout.readline()  # the first scan is done, others are under way
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    if not children.exists():
        pytest.skip("this system does not tell a process's children")
    workers = [Path(f"/proc/{pid}") for pid in _descendants(run.pid)]
    assert workers
    run.kill()
    run.wait()
    run.stdout.close()
    until = time.monotonic() + 60
    while any(_alive(worker) for worker in workers) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [worker for worker in workers if _alive(worker)]
    again = [*arguments, "--resume"]
    subprocess.run(again, check=True, cwd=there, stdout=subprocess.DEVNULL, env=env)
    assert results(tmp_path) == undisturbed[0]


def _more(out: Path, before: int) -> bool:
    """Whether another scan is done: a sidecar is written last."""
    return len([*out.glob("*_mask.json")]) > before


def _descendants(pid: int) -> list[int]:
    """Processes below one, by all threads that may have started them."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *_descendants(child)]
    return found


def _alive(process: Path) -> bool:
    try:
        return process.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_shards_that_are_killed_and_submitted_again(
    runs: Runs, scans: Path, tmp_path: Path
) -> None:
    """Eight shards, two of them killed midway: all done, none twice, the table that of one run."""
    many = save_heads(tmp_path / "scans", 16)
    assert runs.run(command(many, tmp_path / "one", "--no-report")) == 0
    out = tmp_path / "out"
    shards = [
        command(many, out, "--no-report", "--resume", "--num-shards=8", f"--shard-index={k}")
        for k in range(8)
    ]
    for number, shard in enumerate(shards):
        before = len([*out.glob("*_mask.json")])
        midway = partial(_more, out, before) if number in (2, 5) else None
        runs.run(shard, kill_once=midway)
    assert runs.run(["merge", str(out)]) == 3
    for number in (2, 5):
        assert runs.run(shards[number]) == 0
    assert runs.run(["merge", str(out), "--expect", str(many)]) == 0
    assert len(set(done_once(out))) == len(done_once(out))
    assert {row["name"] for row in journal(out)} == {path.name[0] for path in many.iterdir()}
    one, joined = results(tmp_path / "one"), results(out)
    joined.pop("index.html")  # the one run was told to write no pages
    assert joined == one
