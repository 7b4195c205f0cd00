"""Locks between processes: two of them never write the same scan, or the same table, at once.

A lock is a hidden file that a process holds with `flock` while it works and removes when it is
done. The system lets go of the lock of a process that dies, however it dies, so a file that is left
over stops nobody; that it is left over tells the next holder that temporary files may be too. On
NFS this works from version 4 on, and on version 3 with its lock daemon (Linux passes `flock` on to
the server); where a file system has no locks at all, a warning says so once and work goes on.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from volad.io.write import writing

__all__ = ["Lock", "folder_lock", "take"]

log = logging.getLogger(__name__)

#: What a folder has but once (and the file by which it is tried whether it can be written).
_ONCE = ("volad", "volad-plan.json", "dataset_description.json", "statistics.csv", "index.html")
_BUSY = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK)


@dataclass(frozen=True)
class Lock:
    """A lock that this process holds.

    Attributes:
        path: the hidden file.
        left_over: whether it was there already, from a process that died.
    """

    path: Path
    left_over: bool
    _file: int

    def release(self) -> None:
        """Let go; the file is removed first, while no other process can hold it."""
        with suppress(OSError):  # a folder that went read-only meanwhile
            self.path.unlink(missing_ok=True)
        os.close(self._file)


def take(path: Path, *, wait: bool = False) -> Lock | None:
    """Take a lock.

    Args:
        path: the lock's file; its folder is made where it is not there.
        wait: until another process lets go of it; otherwise the answer is then None.

    Raises:
        VoladError: nothing can be written there.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file, is_new = _open(path)
            if not _flock(file, path, wait):
                os.close(file)
                return None
            if _still_at(file, path):
                return Lock(path, not is_new, file)
            os.close(file)  # its holder removed it in between: begin again


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of what a whole folder has but once, and clear what a dead holder left."""
    lock = take(folder / ".volad.lock", wait=True)
    assert lock is not None
    try:
        if lock.left_over:
            for name in _ONCE:
                for stale in folder.glob(f".{name}.*.tmp*"):
                    stale.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def _open(path: Path) -> tuple[int, bool]:
    while True:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            pass
        try:
            return os.open(path, os.O_RDWR), False
        except FileNotFoundError:  # just removed
            continue


def _flock(file: int, path: Path, wait: bool) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in _BUSY:
            return False
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise
        _warn(path.parent)
    return True


def _still_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


@lru_cache(maxsize=8)
def _warn(folder: Path) -> None:
    log.warning("%s: has no file locks; let no other volad process write there", folder)
