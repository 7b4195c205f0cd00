"""Errors that volad's users meet: one clear line each, and the exit code it ends with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "IncompleteError",
    "InputError",
    "OtherKindError",
    "StoppedError",
    "UsageError",
    "VoladError",
    "worker_died",
]


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


class OtherKindError(InputError):
    """A scan is of another kind than the bundle knows, such as another contrast.

    Args:
        message: what is odd about it.
        facts: what the sidecar says (`volad.scan_check.ScanCheck.facts`).
        sample: the preprocessed scan, for the rest of the sidecar.
    """

    exit_code = 4

    def __init__(
        self, message: str, facts: Mapping[str, Any] | None = None, sample: Any = None
    ) -> None:
        super().__init__(message)
        self.facts = dict(facts or {})
        self.sample = sample


class IncompleteError(VoladError):
    """Some of several scans failed or are missing; what there is has been written."""

    exit_code = 3


class StoppedError(VoladError):
    """A signal ended a run in good order.

    Args:
        message: how far it came and how to go on.
        number: the signal's; the exit code is a shell's, 128 above it (130 for Ctrl-C, 143 for
            SIGTERM).
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


def worker_died(scan: Path) -> VoladError:
    """What to raise where a process that prepares scans was killed."""
    return VoladError(
        f"{scan}: a worker process died, most likely for lack of memory; run with fewer --workers"
    )
