"""Score histograms of many scans in a temporary file, so that memory does not grow with them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import overload

import numpy as np

from volad.metrics.histogram import SparseHistogram

__all__ = ["Chosen", "Spill"]


class Spill:
    """Histograms on disk, in the order they were appended; the file goes when the object does."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="volad-")  # noqa: SIM115 (closed with it)
        self._spans: list[tuple[int, int]] = []

    def append(self, one: SparseHistogram) -> None:
        """Write one."""
        self._spans.append((self._file.seek(0, 2), len(one.index)))
        for array in (one.index, one.lesion, one.healthy):
            self._file.write(array.tobytes())

    def read(self, place: int) -> SparseHistogram:
        """Read one back."""
        start, n = self._spans[place]
        self._file.seek(start)
        raw = self._file.read(n * (2 + 4 + 4))
        return SparseHistogram(
            np.frombuffer(raw, np.uint16, n),
            np.frombuffer(raw, np.uint32, n, 2 * n),
            np.frombuffer(raw, np.uint32, n, 6 * n),
        )


class Chosen(Sequence[SparseHistogram]):
    """Some of the histograms of a spill, read when they are asked for."""

    def __init__(self, spill: Spill, places: Sequence[int]) -> None:
        self._spill, self._places = spill, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, key: int) -> SparseHistogram: ...

    @overload
    def __getitem__(self, key: slice) -> Chosen: ...

    def __getitem__(self, key: int | slice) -> SparseHistogram | Chosen:
        if isinstance(key, slice):
            return Chosen(self._spill, self._places[key])
        return self._spill.read(self._places[key])
