"""Run `volad` many times in processes that can be killed, without loading its libraries each time.

    python tests/killing.py

reads a JSON list of arguments a line and forks a process for each, whose id it prints at once; the
exit code (negative: of a signal) follows on the next line. It has run nothing itself when it forks,
so no thread is lost.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

import volad


class Runs:
    """Starts runs of the command line from a process that has loaded everything once."""

    def __enter__(self) -> Runs:
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(volad.__file__).parents[1],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        )
        self._line()  # all is loaded
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.communicate()

    def run(
        self,
        arguments: Sequence[str],
        kill_after_s: float | None = None,
        kill_once: Callable[[], bool] | None = None,
    ) -> int:
        """Exit code of a run.

        It is killed (-9), unless it has ended before, after a time or once something is true.
        """
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(list(arguments)) + "\n")
        self._server.stdin.flush()
        pid = int(self._line())
        if kill_after_s is not None or kill_once is not None:
            time.sleep(kill_after_s or 0)
            until = time.monotonic() + 60
            while kill_once is not None and not kill_once() and time.monotonic() < until:
                time.sleep(0.001)
            # At worst a zombie: the server waits for it only when told.
            os.kill(pid, signal.SIGKILL)
        self._server.stdin.write("\n")
        self._server.stdin.flush()
        return int(self._line())

    def _line(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline()


def dies_while_sending(pipe: Connection, *_: object) -> None:
    """A worker that is killed when a part of its answer is on the way."""
    pipe.recv()
    os.write(pipe.fileno(), struct.pack("!i", 1_000_000) + b"a part")
    os.kill(os.getpid(), signal.SIGKILL)


def _serve() -> None:
    import SimpleITK  # noqa: F401
    import torch
    from monai.bundle import ConfigParser  # noqa: F401

    from volad import api  # noqa: F401
    from volad.batch import merge, run  # noqa: F401
    from volad.cli import main
    from volad.io import nifti, read  # noqa: F401

    torch.set_num_threads(1)
    print("ready", flush=True)
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(os.devnull, os.O_RDWR), 1)
            os._exit(main(json.loads(line)))
        print(pid, flush=True)
        sys.stdin.readline()
        status = os.waitpid(pid, 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve()
