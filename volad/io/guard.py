"""The border to files and libraries: every failure becomes one line, and nothing chatters."""

from __future__ import annotations

import os
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from volad.errors import InputError, VoladError

__all__ = ["one_line", "quiet", "reading"]

_DAMAGED = "is truncated or damaged; copy or export it again"
_lock = threading.Lock()
_inside = 0
_real_stderr = -1


def one_line(text: object) -> str:
    """The text with every run of white space, line ends included, made one blank."""
    return " ".join(str(text).split())


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what can go wrong while `path` is read into an error of volad's.

    Raises:
        InputError: the file is missing, a folder, not readable by this user, or damaged.
        VoladError: the disk or the network failed, which a retry may mend.
    """
    try:
        yield
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path}: {_DAMAGED} ({one_line(error)})") from error
    except OSError as error:
        raise _of_os(path, error) from error


def _of_os(path: Path, error: OSError) -> VoladError:
    if error.errno is None:  # raised by gzip or nibabel about the content, not by the system
        return InputError(f"{path}: {_DAMAGED} ({one_line(error)})")
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: does not exist; check the path")
    if isinstance(error, (IsADirectoryError, NotADirectoryError)):
        return InputError(f"{path}: is not a file; name the scan itself")
    if isinstance(error, PermissionError):
        return InputError(f"{path}: permission denied; make it readable for this user")
    return VoladError(f"{path}: reading failed ({error.strerror}); try again")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep C++ libraries off stderr: MetaIO writes to the descriptor itself.

    The descriptor belongs to the whole process, so threads share one redirection: the first
    one in makes it, the last one out ends it.
    """
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _inside, _real_stderr
    with _lock:
        _inside += 1
        if _inside > 1:
            return
        try:
            _real_stderr = os.dup(2)
        except OSError:  # a daemon may run with stderr closed: nothing to keep quiet
            _real_stderr = -1
            return
        _flush_stderr()
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 2)
        os.close(sink)


def _leave() -> None:
    global _inside
    with _lock:
        _inside -= 1
        if _inside or _real_stderr < 0:
            return
        os.dup2(_real_stderr, 2)
        os.close(_real_stderr)


def _flush_stderr() -> None:
    if sys.stderr is not None and not sys.stderr.closed:
        sys.stderr.flush()
