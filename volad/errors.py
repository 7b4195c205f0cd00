"""Errors that volad's users meet: one clear line each, and the exit code it ends with."""

from __future__ import annotations

from pathlib import Path

__all__ = ["InputError", "UsageError", "VoladError", "worker_died"]


class VoladError(Exception):
    """Something failed at run time and may work when tried again (a full disk, a lost device).

    The message names what is wrong and what to do, in one line.
    """

    exit_code = 1


class UsageError(VoladError):
    """The call itself is wrong: an unknown bundle, a named device that is absent."""

    exit_code = 2


class InputError(VoladError):
    """An input is permanently unusable: trying again cannot help.

    Schedulers can match the exit code to give up on an item (Kubernetes `podFailurePolicy`).
    """

    exit_code = 42


def worker_died(scan: Path) -> VoladError:
    """What to raise where a process that prepares scans was killed."""
    return VoladError(
        f"{scan}: a worker process died, most likely for lack of memory; run with fewer --workers"
    )
