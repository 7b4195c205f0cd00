"""Many scans through one pipeline: the model is loaded once, a bad scan is not the end."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose
from tqdm import tqdm

from volad.bundle import Identity
from volad.errors import VoladError, worker_died
from volad.io import Scan, ensure_writable
from volad.io.guard import one_line
from volad.outputs import Outcome, Outputs, write_outputs, write_statistics
from volad.pipeline import Pipeline, prepare
from volad.preprocess.steps import Sample

__all__ = ["Batch"]

log = logging.getLogger(__name__)


class Batch:
    """A bundle's `evaluator`: segment every scan and write what was asked for.

    Args:
        pipeline: the way through.
        scans: what to segment (`volad.io.find_scans`).
        output_dir: folder for results; or, for one scan, the mask's own `.nii` or `.nii.gz` path.
        identity: the bundle, for the sidecars (`volad.bundle.identity`).
        save_score: write the score map.
        save_healthy: write the healthy counterpart.
        save_brain: write the brain mask.
        stats: write the lesion table of each scan and the statistics of all.
        report: write the report page of each scan.
        workers: processes that read and preprocess ahead; 0: none.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        scans: Sequence[Scan],
        output_dir: str | Path,
        identity: Identity,
        *,
        save_score: bool = True,
        save_healthy: bool = False,
        save_brain: bool = False,
        stats: bool = True,
        report: bool = True,
        workers: int = 0,
    ) -> None:
        self.pipeline = pipeline
        self.scans = list(scans)
        self.identity = identity
        self.outputs = Outputs(
            Path(output_dir), save_score, save_healthy, save_brain, stats, report
        )
        self.outputs.check(self.scans)
        self.workers = workers

    def run(
        self, check: bool = True, tell: Callable[[Outcome], None] | None = None
    ) -> list[Outcome]:
        """Segment all scans.

        Args:
            tell: called with each outcome as soon as its scan is done.
            check: raise where a scan failed, after all are done (MONAI's `bundle run` would
                otherwise end with exit code 0).

        Raises:
            VoladError: with `check`, naming the first failure.
        """
        ensure_writable(self.outputs.folder)
        done: list[Outcome] = []
        bar = tqdm(
            total=len(self.scans), unit="scan", disable=None if len(self.scans) > 1 else True
        )
        for scan, sample in self._prepared():
            done.append(self._one(scan, sample))
            if tell is not None:
                tell(done[-1])
            bar.update()
        bar.close()
        if self.outputs.stats and len(self.scans) > 1:
            write_statistics(self.outputs.folder / "statistics.csv", done)
        failed = [o for o in done if o.error]
        if check and failed:
            raise VoladError(f"{len(failed)} of {len(done)} scans failed; {failed[0].error}")
        return done

    def _one(self, scan: Scan, sample: Sample | VoladError) -> Outcome:
        try:
            if isinstance(sample, VoladError):
                raise sample
            scored = self.pipeline.score(sample)
            result = self.pipeline.finish(
                scored, healthy=self.outputs.save_healthy or self.outputs.report
            )
            return write_outputs(self.outputs, scan, result, self.pipeline, self.identity)
        except Exception as error:
            failure = _failure(scan, error)
        log.error("%s", failure)
        return Outcome(scan, error=str(failure), exit_code=failure.exit_code)

    def _prepared(self) -> Iterator[tuple[Scan, Sample | VoladError]]:
        """Each scan, read and preprocessed, or the error that this ended with; in order."""
        if self.workers < 1:
            for scan in self.scans:
                yield scan, _prepare(self.pipeline.preprocessing, scan)
            return
        waiting: deque[tuple[Scan, Future[Any]]] = deque()
        context = get_context("spawn")  # forking a process that has run torch can hang
        with ProcessPoolExecutor(
            self.workers, context, _start_worker, (self.pipeline.preprocessing, self._threads())
        ) as pool:
            for scan in self.scans:
                waiting.append((scan, pool.submit(_work, scan)))
                if len(waiting) > self.workers:  # a bound: samples are large
                    yield _collect(*waiting.popleft())
            while waiting:
                yield _collect(*waiting.popleft())

    def _threads(self) -> int:
        return max(1, torch.get_num_threads() // max(self.workers, 1))


_preprocessing: Compose | None = None


def _start_worker(preprocessing: Compose, threads: int) -> None:
    global _preprocessing  # once per process; sending it with every scan would cost more
    _preprocessing = preprocessing
    torch.set_num_threads(threads)


def _work(scan: Scan) -> Sample | VoladError:
    assert _preprocessing is not None
    return _prepare(_preprocessing, scan)


def _prepare(preprocessing: Compose, scan: Scan) -> Sample | VoladError:
    try:
        return prepare(preprocessing, scan)
    except Exception as error:
        return _failure(scan, error)


def _failure(scan: Scan, error: Exception) -> VoladError:
    """Any error as one line about a scan: a library that fails on it must not end the batch."""
    if isinstance(error, VoladError):
        return error
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return VoladError(f"{scan.path}: out of memory; use a machine or GPU with more")
    log.info("%s", scan.path, exc_info=error)
    what = f"{type(error).__name__}: {one_line(error)}"
    return VoladError(f"{scan.path}: failed unexpectedly ({what}); run with -v and report it")


def _collect(scan: Scan, future: Future[Any]) -> tuple[Scan, Sample | VoladError]:
    try:
        return scan, future.result()
    except BrokenProcessPool as error:
        raise worker_died(scan.path) from error
