"""Many scans: what is in memory at once, workers that die, signals, and two runs in one folder."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_helpers import Notes, batch, journal, results, save_heads
from killing import dies_while_sending
from monai.transforms import Compose
from pipeline_helpers import files_below, segment

from volad.batch.flow import Flow, Job, failed_outcome
from volad.batch.reader import DiedError, GivenUpError, Here, Process, worker_count
from volad.errors import StoppedError, VoladError
from volad.io import Scan
from volad.outputs import Outcome
from volad.pipeline import Pipeline, prepare


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three heads, `a`, `b` and `c`."""
    return save_heads(tmp_path_factory.mktemp("scans"), 3)


@pytest.fixture(scope="module")
def undisturbed(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one run over them writes."""
    out = tmp_path_factory.mktemp("undisturbed")
    batch(scans, out).run()
    return results(out)


def named(*names: str) -> list[Scan]:
    return [Scan(Path(f"{name}.nii"), name) for name in names]


def flow(scans: list[Scan], readers: list[Any], folder: Path, **given: Any) -> Flow:
    """A flow that knows no earlier results."""
    return Flow(
        scans,
        readers,
        given.get("writers", 1),
        lambda scan: folder / f".{scan.name}.lock",
        given.get("clear", lambda _: None),
        given.get("known", lambda _: None),
        failed_outcome,
    )


def run(flow: Flow, work: Callable[[Job], Outcome]) -> list[Outcome]:
    """The outcomes of all scans, with a model that does nothing."""
    done = []
    with flow:
        for event in flow.events(lambda: False):
            if isinstance(event, Job):
                flow.write(event, lambda job=event: work(job))
            else:
                done.append(event)
    return done


# What is in memory


class Counting:
    """A reader that counts the scans which were begun."""

    def __init__(self) -> None:
        self.begun = 0

    def prepare(self, scan: Scan) -> Any:
        self.begun += 1
        return {"image": scan.name}

    def stop(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize(("slow", "readers", "writers"), [("model", 3, 2), ("writer", 1, 1)])
def test_memory_is_bounded_whichever_stage_is_slow(
    tmp_path: Path, slow: str, readers: int, writers: int
) -> None:
    sources, written, most = [Counting() for _ in range(readers)], 0, 0

    def inside() -> None:
        nonlocal most
        most = max(most, sum(source.begun for source in sources) - written)

    def work(job: Job) -> Outcome:
        time.sleep(0.02 if slow == "writer" else 0)
        inside()
        return Outcome(job.scan)

    names = [str(n) for n in range(30)]
    stream = flow(named(*names), sources, tmp_path, writers=writers)
    done = []
    with stream:
        for event in stream.events(lambda: False):
            if isinstance(event, Job):
                time.sleep(0.02 if slow == "model" else 0)
                inside()
                stream.write(event, lambda job=event: work(job))
            else:
                done.append(event.scan.name)
                written += 1
    assert sorted(done) == sorted(names)
    assert most == readers + writers + 2
    assert files_below(tmp_path) == []


def test_workers_by_default_are_as_many_as_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 6)
    assert [worker_count(None, scans) for scans in (1, 3, 4, 5, 100)] == [0, 0, 4, 5, 6]
    assert [worker_count(2, scans) for scans in (1, 3)] == [1, 2]
    assert worker_count(0, 100) == 0
    monkeypatch.setattr("torch.get_num_threads", lambda: 64)
    assert worker_count(None, 100) == 8


# Workers that die


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


def test_a_killed_workers_scan_is_tried_again_alone(tmp_path: Path, notes: Path) -> None:
    deadly = Compose([Notes(notes, {"b": 1, "e": 2})])
    readers = [Process(deadly, 1) for _ in range(2)]
    done = run(flow(named(*"abcdefgh"), readers, tmp_path), lambda job: Outcome(job.scan))
    outcomes = {outcome.scan.name: outcome for outcome in done}
    assert sorted(outcomes) == list("abcdefgh")
    assert {name for name, outcome in outcomes.items() if outcome.error} == {"e"}
    assert outcomes["e"].exit_code == 1
    assert outcomes["e"].error == (
        "e.nii: a worker process died, most likely for lack of memory; run with fewer --workers"
    )
    lines = notes.read_text().splitlines()
    assert [lines.count(f"begin {name}") for name in "abcdefgh"] == [1, 2, 1, 1, 2, 1, 1, 1]
    # Those that died come last, one after the other, with nothing else under way.
    assert lines[-3:] in (["begin b", "end b", "begin e"], ["begin e", "begin b", "end b"])
    begun, ended = (
        {line.split()[1] for line in lines[:-3] if line.startswith(what)}
        for what in ("begin", "end")
    )
    assert begun - ended == {"b", "e"}


def test_a_worker_that_dies_while_it_sends_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("volad.batch.reader._serve", dies_while_sending)
    reader = Process(None, 1)  # it never gets to its steps, so it need not load their libraries
    with pytest.raises(DiedError):
        reader.prepare(named("a")[0])


def test_a_reader_that_is_stopped_gives_up(notes: Path) -> None:
    here = Here(Compose([Notes(notes, {})]))
    here.stop()
    with pytest.raises(GivenUpError):
        here.prepare(named("a")[0])
    process = Process(Compose([Notes(notes, {}, seconds=600)]), 1)
    threading.Timer(0.3, process.stop).start()
    with pytest.raises(GivenUpError):
        process.prepare(named("a")[0])
    with pytest.raises(GivenUpError):
        process.prepare(named("a")[0])


def test_workers_give_what_one_process_gives(
    scans: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    done = batch(scans, tmp_path, workers=2).run()
    assert [outcome.scan.name for outcome in done] == ["a", "b", "c"]
    assert results(tmp_path) == undisturbed


# Failures


def test_a_scan_that_cannot_be_written_does_not_end_the_batch(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from volad import outputs

    really = outputs.write_mask

    def full(path: Path, *given: Any) -> None:
        if path.name.startswith("b"):
            raise VoladError(f"{path.parent}: the disk is full")
        really(path, *given)

    monkeypatch.setattr(outputs, "write_mask", full)
    done = batch(scans, tmp_path).run(check=False)
    assert [outcome.exit_code for outcome in done] == [0, 1, 0]
    assert not [name for name in files_below(tmp_path) if name.startswith(("b", "."))]
    rows = {row["name"]: row for row in journal(tmp_path)}
    assert (rows["b"]["exit_code"], rows["b"]["files"]) == (1, {})
    assert rows["a"]["seconds"]["model"] > 0
    assert rows["a"]["peak_memory"]["host_mib"] > 50


def test_what_tell_raises_ends_the_run_in_good_order(scans: Path, tmp_path: Path) -> None:
    """As when the reader of a pipe goes away."""

    def tell(_: Outcome) -> None:
        raise BrokenPipeError

    before = threading.active_count()
    with pytest.raises(BrokenPipeError):
        batch(scans, tmp_path).run(tell=tell)
    assert threading.active_count() == before
    assert not [name for name in files_below(tmp_path) if name.startswith(".")]


# Signals


@pytest.fixture
def handlers() -> Iterator[None]:
    """A job that a shell started in the background ignores Ctrl-C: take it as at a terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_what_resume_goes_on_from(
    scans: Path,
    undisturbed: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: int,
) -> None:
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    told: list[str] = []

    def slow(preprocessing: Compose, scan: Scan, before_step: Callable[[], None]) -> Any:
        while scan.name == "c":  # until the run is stopped
            before_step()
            time.sleep(0.01)
        return prepare(preprocessing, scan, before_step)

    def tell(outcome: Outcome) -> None:
        told.append(outcome.scan.name)
        if len(told) == 1:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr("volad.batch.reader.prepare", slow)
        with pytest.raises(
            StoppedError, match=r"interrupted; \d of 3 scans are done.*--resume"
        ) as stopped:
            batch(scans, tmp_path).run(tell=tell)
    assert stopped.value.exit_code == code
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert 1 <= len(told) < 3
    # Every result is whole, there is no table yet, and nothing else is left.
    assert {row["name"] for row in journal(tmp_path)} == set(told)
    expected = {k: v for k, v in undisturbed.items() if k[0] in told and k[1] == "_"}
    expected["volad-plan.json"] = undisturbed["volad-plan.json"]
    assert results(tmp_path) == expected

    done = batch(scans, tmp_path, resume=True).run()
    assert [outcome.scan.name for outcome in done if outcome.resumed] == sorted(told)
    assert results(tmp_path) == undisturbed


def test_the_command_line_tells_how_to_go_on(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    really = Pipeline.infer

    def infer(self: Pipeline, sample: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return really(self, sample)

    monkeypatch.setattr(Pipeline, "infer", infer)
    assert segment(scans, "-o", tmp_path, "--no-report") == 143
    assert "scans are done, the same command with --resume goes on" in capsys.readouterr().err


# Two runs in one folder


def test_two_runs_in_one_folder_do_every_scan_once(
    scans: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    both = [batch(scans, tmp_path, resume=True) for _ in range(2)]
    done: list[list[Outcome]] = []
    threads = [threading.Thread(target=lambda b=one: done.append(b.run())) for one in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [[outcome.name for outcome in outcomes] for outcomes in done] == [["a", "b", "c"]] * 2
    rows = journal(tmp_path)
    assert sorted(row["name"] for row in rows if not row["resumed"]) == ["a", "b", "c"]
    assert sorted(row["name"] for row in rows if row["resumed"]) == ["a", "b", "c"]
    assert results(tmp_path) == undisturbed


def test_a_scan_that_another_run_has_is_waited_for(tmp_path: Path) -> None:
    """The others are done first."""
    from volad.batch.lock import take

    lock = take(tmp_path / ".a.lock")
    assert lock is not None
    order: list[str] = []

    def work(job: Job) -> Outcome:
        order.append(job.scan.name)
        if len(order) == 2:
            lock.release()
        return Outcome(job.scan)

    done = run(flow(named("a", "b", "c"), [Counting()], tmp_path), work)
    assert order == ["b", "c", "a"]
    assert len(done) == 3


def test_a_shard_needs_no_scans(scans: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"num_shards": 5, "shard_index": 4}
    assert batch(scans, tmp_path, **given).run() == []
