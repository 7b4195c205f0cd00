"""ITK on one thread: its sums over several differ from run to run in the last digits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import SimpleITK as sitk  # noqa: N813

__all__ = ["one_thread"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Run ITK filters on one thread. A registration's own setting does not reach its metric."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
