"""`Batch`: many scans through one pipeline, whose model is loaded once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose
from tqdm import tqdm

from volad.batch import journal
from volad.batch.derivatives import describe_dataset
from volad.batch.flow import Flow, Job, failed_outcome
from volad.batch.lock import folder_lock
from volad.batch.reader import Here, Process, Reader, worker_count
from volad.batch.resume import clear, earlier, lock_path
from volad.batch.shards import pick
from volad.batch.signals import Signals
from volad.bundle import Identity
from volad.errors import OtherKindError, StoppedError, VoladError
from volad.io import Scan, ensure_writable
from volad.outputs import Outcome, Outputs, write_outputs, write_refusal
from volad.pipeline import Pipeline
from volad.preprocess.steps import Sample
from volad.provenance import parameters, scan_parameters
from volad.scan_check.gate import MeasureAhead

__all__ = ["Batch"]

log = logging.getLogger(__name__)


class Batch:
    """A bundle's `evaluator`: segment every scan and write what was asked for.

    Worker processes read and preprocess ahead, one loop runs the model, and threads post-process
    and write behind it; at most workers + writers + 2 scans are in memory at once.

    Args:
        pipeline: the way through.
        scans: what to segment (`volad.io.find_scans`).
        output_dir: folder for results; or, for one scan, the mask's own `.nii` or `.nii.gz` path.
        identity: the bundle, for the sidecars (`volad.bundle.identity`).
        save_score: write the score map.
        save_healthy: write the healthy counterpart.
        save_brain: write the brain mask.
        stats: write the lesion table of each scan and the statistics of all.
        report: write the report page of each scan and one page that links them.
        workers: processes that read and preprocess ahead; 0: a thread of this one; None: from four
            scans on as many as torch has threads, at most eight.
        writers: threads that post-process and write; None: one for two workers.
        resume: leave out scans whose results of an earlier run still hold.
        num_shards: how many runs share the scans, on any machines (`volad.batch.shards`).
        shard_index: which of them this is, from 0.
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
        workers: int | None = 0,
        writers: int | None = None,
        resume: bool = False,
        num_shards: int = 1,
        shard_index: int = 0,
    ) -> None:
        self.pipeline = pipeline
        self.all_scans = list(scans)
        self.scans = pick(self.all_scans, num_shards, shard_index)
        self.identity = identity
        self.outputs = Outputs(
            Path(output_dir), save_score, save_healthy, save_brain, stats, report
        )
        self.outputs.check(self.all_scans)
        self.workers = worker_count(workers, len(self.scans))
        self.writers = max(1, self.workers // 2) if writers is None else max(1, writers)
        self.resume = resume
        self.num_shards = num_shards
        self._journal: Path | None = None
        if len(self.all_scans) > 1:
            self._journal = journal.journal_path(self.outputs.folder, num_shards, shard_index)
        self._common: dict[str, Any] = {}
        self._made_with: dict[Scan, dict[str, Any]] = {}

    def run(
        self, check: bool = True, tell: Callable[[Outcome], None] | None = None
    ) -> list[Outcome]:
        """Segment all scans.

        Args:
            tell: called with each outcome as soon as its scan is done.
            check: raise where a scan failed, after all are done (MONAI's `bundle run` would
                otherwise end with exit code 0).

        Returns:
            Outcomes in the order of the scans.

        Raises:
            StoppedError: Ctrl-C or SIGTERM came; what is done is whole and known to `resume`.
            VoladError: with `check`, naming the first failure.
        """
        self._begin()
        done: dict[Scan, Outcome] = {}
        several = len(self.scans) > 1
        with (
            Signals() as signals,
            self._flow() as flow,
            tqdm(total=len(self.scans), unit="scan", disable=None if several else True) as bar,
        ):
            for event in flow.events(lambda: signals.number > 0):
                if isinstance(event, Job):
                    self._infer(event, flow)
                    continue
                done[event.scan] = event
                self._record(event, tell)
                bar.update()
        if signals.number:
            raise StoppedError(
                f"interrupted; {len(done)} of {len(self.scans)} scans are done, the same command "
                "with --resume goes on",
                signals.number,
            )
        outcomes = [done[scan] for scan in self.scans]
        self._finish(outcomes)
        failed = [o for o in outcomes if o.error]
        if check and failed:
            raise VoladError(f"{len(failed)} of {len(outcomes)} scans failed; {failed[0].error}")
        return outcomes

    def _begin(self) -> None:
        folder = self.outputs.folder
        with folder_lock(folder):  # so that it is cleared of what a killed run left
            ensure_writable(folder)
        if self._journal is not None:
            journal.write_plan(folder, [scan.identifier for scan in self.all_scans])
        describe_dataset(folder, self.all_scans)
        self._common = parameters(self.pipeline, self.identity, self.outputs.wanted())

    def _finish(self, outcomes: Sequence[Outcome]) -> None:
        """A shard knows only its own scans: their table comes from `volad merge`."""
        if self._journal is None or self.num_shards > 1:
            return
        wanted = {"stats": self.outputs.stats, "report": self.outputs.report}
        rows = [self._row(outcome) for outcome in outcomes]
        journal.write_tables(self.outputs.folder, rows, **wanted)

    def _flow(self) -> Flow:
        steps = self.pipeline.preprocessing
        if self.pipeline.scan_check is not None:
            steps = Compose([*steps.transforms, MeasureAhead()])
        readers: list[Reader] = [Here(steps)]
        if self.workers:
            threads = max(1, torch.get_num_threads() // self.workers)
            readers = [Process(steps, threads) for _ in range(self.workers)]
        return Flow(
            self.scans,
            readers,
            self.writers,
            partial(lock_path, self.outputs),
            partial(clear, self.outputs),
            self._earlier,
            self._failed,
        )

    def _earlier(self, scan: Scan) -> Outcome | None:
        # Before the scan is read: what changes later then does not agree.
        self._made_with[scan] = scan_parameters(self._common, scan)
        return earlier(self.outputs, scan, self._made_with[scan]) if self.resume else None

    def _failed(self, scan: Scan, error: VoladError) -> Outcome:
        """The outcome of a scan that failed, its lock still held.

        For one that was refused its sidecar says why; for all others nothing is written.
        """
        if isinstance(error, OtherKindError):
            made_with = self._made_with.get(scan)
            return write_refusal(self.outputs, scan, error, self.pipeline, self.identity, made_with)
        return failed_outcome(scan, error)

    def _infer(self, job: Job, flow: Flow) -> None:
        try:
            inferred = self.pipeline.infer(job.sample)
        except Exception as error:
            flow.drop(job, error)
            return
        flow.write(job, partial(self._write, job.scan, inferred))

    def _write(self, scan: Scan, inferred: Sample) -> Outcome:
        healthy = self.outputs.save_healthy or self.outputs.report
        result = self.pipeline.finish(self.pipeline.to_scan(inferred), healthy=healthy)
        made_with = self._made_with.get(scan)
        return write_outputs(self.outputs, scan, result, self.pipeline, self.identity, made_with)

    def _record(self, outcome: Outcome, tell: Callable[[Outcome], None] | None) -> None:
        self._made_with.pop(outcome.scan, None)
        if outcome.error:
            log.error("%s", outcome.error)
        if self._journal is not None:
            measured = {"seconds": outcome.seconds, "peak_memory": outcome.peak_memory}
            row = {**self._row(outcome), "resumed": outcome.resumed, **measured}
            journal.append(self._journal, row)
        if tell is not None:
            tell(outcome)

    def _row(self, outcome: Outcome) -> journal.Row:
        files = journal.relative(outcome.files, self.outputs.folder)
        return {**outcome.row(), "files": files}
