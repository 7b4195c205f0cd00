"""From scans to samples to results, with bounded room: readers ahead, writers behind."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from volad.batch.lock import Lock, take
from volad.batch.reader import DiedError, GivenUpError, Reader, failure
from volad.errors import VoladError, worker_died
from volad.io import Scan
from volad.outputs import Outcome
from volad.preprocess.steps import Sample

__all__ = ["Flow", "Job", "failed_outcome"]

log = logging.getLogger(__name__)

_POLL_S = 0.2
#: How often a scan is tried whose worker dies; the second time nothing else is in memory.
_TRIES = 2


@dataclass(frozen=True)
class Job:
    """A scan that is prepared and waits for the model; its lock is held.

    Attributes:
        scan: which one.
        lock: against other processes; `Flow.write` and `Flow.drop` release it.
        sample: what preprocessing made of it.
    """

    scan: Scan
    lock: Lock
    sample: Sample


class Flow:
    """Jobs for one model loop, in the order they get ready, and its outcomes.

    At most `readers + writers + 2` scans are between the first byte read and the last one written,
    however many there are and whichever stage is slow: that bounds memory.

    Args:
        scans: what to do.
        readers: what prepares them, each in a thread of its own.
        writers: threads that write.
        lock_path: a scan's lock file.
        clear: called with a scan whose lock a dead process left.
        known: a scan's earlier outcome, where that still holds; called with its lock held.
        failed: the outcome of a scan that failed; called with its lock held.
    """

    def __init__(
        self,
        scans: Sequence[Scan],
        readers: Sequence[Reader],
        writers: int,
        lock_path: Callable[[Scan], Path],
        clear: Callable[[Scan], None],
        known: Callable[[Scan], Outcome | None],
        failed: Callable[[Scan, VoladError], Outcome],
    ) -> None:
        self._todo = deque(scans)
        self._later: deque[Scan] = deque()
        self._died: set[Scan] = set()
        self._readers = readers
        self._lock_path, self._clear = lock_path, clear
        self._known, self._failed = known, failed
        self._events: queue.SimpleQueue[Job | Outcome | None] = queue.SimpleQueue()
        self._room = _Room(len(readers) + writers + 2)
        self._stopped = threading.Event()
        self._writers = ThreadPoolExecutor(writers, "volad-writer")
        self._feeder = threading.Thread(target=self._feed, name="volad-feeder")

    def __enter__(self) -> Flow:
        self._feeder.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for _ in self.stop():
            pass

    def events(self, stop: Callable[[], bool]) -> Iterator[Job | Outcome]:
        """Jobs to run and to hand to `write` or `drop`, and outcomes, until all are done.

        Args:
            stop: asked between two of them; where it says so, what is being written is finished,
                everything else dropped.
        """
        feeding = True
        while feeding or self._room.taken:
            if stop():
                yield from self.stop()
                return
            try:
                event = self._events.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if event is None:
                feeding = False
            else:
                yield event
                if isinstance(event, Outcome):
                    self._room.leave()

    def write(self, job: Job, work: Callable[[], Outcome]) -> None:
        """Have a job's outcome made behind the model loop."""

        def run() -> None:
            try:
                outcome = work()
            except Exception as error:
                self.drop(job, error)
                return
            job.lock.release()
            self._events.put(outcome)

        self._writers.submit(run)

    def drop(self, job: Job, error: Exception) -> None:
        """End a job that failed in the model or behind it."""
        outcome = self._failure(job.scan, error)
        job.lock.release()
        self._events.put(outcome)

    def _failure(self, scan: Scan, error: Exception) -> Outcome:
        try:
            return self._failed(scan, failure(scan, error))
        except Exception as another:  # as on a full disk
            return failed_outcome(scan, failure(scan, another))

    def stop(self) -> Iterator[Outcome]:
        """End all threads and processes; yields the outcomes that were still to be told."""
        self._stopped.set()
        self._room.close()
        for reader in self._readers:
            reader.stop()
        self._feeder.join()
        for reader in self._readers:
            reader.close()
        self._writers.shutdown(wait=True)
        while not self._events.empty():
            event = self._events.get()
            if isinstance(event, Job):
                event.lock.release()
            elif event is not None:
                yield event

    # Reading ahead: a thread for each reader, then the rest one by one

    def _feed(self) -> None:
        threads = [
            threading.Thread(target=self._read, args=(reader,), name="volad-reader")
            for reader in self._readers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # What killed its worker, most likely for lack of memory, is tried again alone; so is what
        # another process was working on.
        self._room.size = 1
        while self._later and not self._stopped.is_set():
            self._enter(self._later.popleft(), self._readers[0], alone=True)
        self._events.put(None)

    def _read(self, reader: Reader) -> None:
        while not self._stopped.is_set():
            try:
                scan = self._todo.popleft()
            except IndexError:
                return
            self._enter(scan, reader, alone=False)

    def _enter(self, scan: Scan, reader: Reader, *, alone: bool) -> None:
        if not self._room.enter():
            return
        try:
            event = self._ready(scan, reader, alone)
        except GivenUpError:
            event = None
        except Exception as error:
            event = failed_outcome(scan, failure(scan, error))
        if event is None:
            self._room.leave()
        else:
            self._events.put(event)

    def _ready(self, scan: Scan, reader: Reader, alone: bool) -> Job | Outcome | None:
        """A job, or the outcome where there is none to do, or None where it is for later."""
        path = self._lock_path(scan)
        lock = take(path)
        while lock is None:
            if not alone:
                self._later.append(scan)
                return None
            self._wait()
            lock = take(path)
        try:
            if lock.left_over:
                self._clear(scan)
            outcome = self._known(scan)
            sample = None if outcome else self._prepared(scan, reader, alone)
            if isinstance(sample, VoladError):
                outcome = self._failure(scan, sample)
            elif sample is not None:
                return Job(scan, lock, sample)
        except BaseException:
            lock.release()
            raise
        lock.release()
        return outcome

    def _prepared(self, scan: Scan, reader: Reader, alone: bool) -> Sample | VoladError | None:
        tries = _TRIES - (scan in self._died) if alone else 1
        for _ in range(tries):
            try:
                return reader.prepare(scan)
            except DiedError:
                log.info("%s: its worker process died", scan.path)
        if alone:
            return worker_died(scan.path)
        self._died.add(scan)
        self._later.append(scan)
        return None

    def _wait(self) -> None:
        time.sleep(_POLL_S)
        if self._stopped.is_set():
            raise GivenUpError


def failed_outcome(scan: Scan, error: VoladError) -> Outcome:
    """How a scan ended that failed."""
    return Outcome(scan, error=str(error), exit_code=error.exit_code)


class _Room:
    """Counts the scans that are inside, and lets one more in where there is room."""

    def __init__(self, size: int) -> None:
        self.size, self.taken = size, 0
        self._closed = False
        self._changed = threading.Condition()

    def enter(self) -> bool:
        """Wait for room; False where the run ends first."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self.taken < self.size)
            self.taken += not self._closed
            return not self._closed

    def leave(self) -> None:
        with self._changed:
            self.taken -= 1
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
