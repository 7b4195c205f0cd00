"""Workers that read and preprocess scans: processes of their own, or this one.

Not `ProcessPoolExecutor`: when a process of it dies, it cannot say which scan that was, fails all
others too, and waits for ever where the death comes in the middle of sending a result. Here every
worker has a pipe of its own, whose end tells at once that the worker is gone.
"""

from __future__ import annotations

import logging
import pickle
import signal
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Event, Lock
from typing import Any, Protocol

import torch
from monai.transforms import Compose

from volad.errors import VoladError
from volad.io import Scan
from volad.io.guard import one_line
from volad.pipeline import prepare
from volad.preprocess.steps import Sample

__all__ = ["DiedError", "GivenUpError", "Here", "Process", "Reader", "failure", "worker_count"]

log = logging.getLogger(__name__)

#: Fewer scans are done before processes have loaded their libraries.
WORTH_WORKERS = 4
MOST_WORKERS = 8
#: What worker processes need; loaded by the server that they are forked from, so that each of them,
#: and each that takes a dead one's place, is there at once.
_LOADED_ONCE = ("volad.batch.reader", "SimpleITK")


class DiedError(Exception):
    """The worker process was killed while it had a scan."""


class GivenUpError(Exception):
    """The run is being stopped."""


class Reader(Protocol):
    """What prepares one scan after the other."""

    def prepare(self, scan: Scan) -> Sample | VoladError:
        """The sample, or why there is none.

        Raises:
            DiedError: the process was killed.
            GivenUpError: `stop` was called.
        """

    def stop(self) -> None:
        """Give up what is being prepared; may be called from another thread."""

    def close(self) -> None:
        """Free what it holds; it must have no scan."""


class Here:
    """Prepare scans in this process."""

    def __init__(self, preprocessing: Compose) -> None:
        self.preprocessing = preprocessing
        self._stopped = Event()

    def prepare(self, scan: Scan) -> Sample | VoladError:
        return _attempt(self.preprocessing, scan, self._check)

    def stop(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        pass

    def _check(self) -> None:
        if self._stopped.is_set():
            raise GivenUpError


class Process:
    """Prepare scans in a process of its own, started at the first scan and anew when it dies."""

    def __init__(self, preprocessing: Compose, threads: int) -> None:
        self._settings = (preprocessing, threads)
        self._process: Any = None
        self._pipe: Connection | None = None
        self._guard = Lock()
        self._stopped = False

    def prepare(self, scan: Scan) -> Sample | VoladError:
        try:
            pipe = self._started()
            pipe.send(scan)
            packed = pipe.recv_bytes()
        except (EOFError, OSError) as error:
            self._end()
            raise (GivenUpError if self._stopped else DiedError) from error
        found: Sample | VoladError = pickle.loads(packed)
        return found

    def stop(self) -> None:
        with self._guard:
            self._stopped = True
            if self._process is not None:
                self._process.kill()  # it holds no file and no lock

    def close(self) -> None:
        self._end()

    def _started(self) -> Connection:
        if self._pipe is not None:
            return self._pipe
        with self._guard:
            if self._stopped:
                raise GivenUpError
            # Forking a process that has run torch can hang; the server has only loaded it.
            context = get_context("forkserver")
            context.set_forkserver_preload(list(_LOADED_ONCE))
            self._pipe, its_end = context.Pipe()
            self._process = context.Process(
                target=_serve, args=(its_end, *self._settings), daemon=True
            )
            self._process.start()
            its_end.close()  # or its death would not end the pipe
        return self._pipe

    def _end(self) -> None:
        with self._guard:
            pipe, process = self._pipe, self._process
            self._pipe = self._process = None
        if pipe is not None:
            pipe.close()
        if process is not None:
            process.kill()
            process.join()


def worker_count(wanted: int | None, scans: int) -> int:
    """Processes to use; where none are asked for, as many as torch has threads."""
    if wanted is not None:
        return min(wanted, scans)
    return 0 if scans < WORTH_WORKERS else min(torch.get_num_threads(), MOST_WORKERS, scans)


def failure(scan: Scan, error: Exception) -> VoladError:
    """Any error as one line about a scan: a library that fails on it must not end the batch."""
    if isinstance(error, VoladError):
        return error
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return VoladError(f"{scan.path}: out of memory; use a machine or GPU with more")
    log.info("%s", scan.path, exc_info=error)
    what = f"{type(error).__name__}: {one_line(error)}"
    return VoladError(f"{scan.path}: failed unexpectedly ({what}); run with -v and report it")


def _attempt(
    preprocessing: Compose, scan: Scan, before_step: Callable[[], None] = lambda: None
) -> Sample | VoladError:
    try:
        return prepare(preprocessing, scan, before_step)
    except GivenUpError:
        raise
    except Exception as error:
        return failure(scan, error)


def _serve(pipe: Connection, preprocessing: Compose, threads: int) -> None:
    """A worker process: ends when the other end of its pipe does, so it never outlives a run."""
    for one in (signal.SIGINT, signal.SIGTERM):  # sent to a whole group: the main process decides
        signal.signal(one, signal.SIG_IGN)
    torch.set_num_threads(threads)
    while True:
        try:
            scan = pipe.recv()
            # Not `send`: torch would hand tensors over in shared memory, of which containers have
            # little.
            pipe.send_bytes(pickle.dumps(_attempt(preprocessing, scan), protocol=5))
        except (EOFError, OSError):
            return
