"""A bundle that is being calibrated, scan by scan, alone or beside others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from volad import bundle
from volad.calibrate.calibration import Calibration
from volad.calibrate.curves import HealthyScan
from volad.calibrate.measure import describe_steps, measure, refuse_known
from volad.calibrate.promise import Promise
from volad.calibrate.subjects import by_subject
from volad.calibrate.target import save, target, trained_on
from volad.errors import VoladError
from volad.io import Scan
from volad.pipeline import Pipeline, Shared
from volad.scan_check.fitting import values_of

__all__ = ["Session", "calibrate_together"]


class Session:
    """One bundle: takes scored healthy scans, then finds and writes its threshold.

    Args:
        root: folder of the bundle.
        scans: the healthy scans; all distinct, none trained on.
        promise: what to keep; refused where the scans are too few for it.
        device: where the method runs, as a setting of the bundle.
        output: folder for a calibrated copy of the bundle, which then stays as it is.
        force: take scans, too, that the scan check refuses; it lets their like pass from then on.
    """

    def __init__(
        self,
        root: Path,
        scans: Sequence[Scan],
        promise: Promise,
        *,
        device: str,
        output: str | os.PathLike[str] | None = None,
        force: bool = False,
    ) -> None:
        self.root, self.promise, self.force = root, promise, force
        self.into = target(root, output, bundle.shelf())
        # Before an hour's work, and again for those that were measured.
        promise.require(len(by_subject(scans)))
        refuse_known(scans, trained_on(root))
        settings = {"device": device, "threshold": 0.0, **({"force": True} if force else {})}
        parser = bundle.open_config(root, "inference", settings)
        self.pipeline: Pipeline = bundle.build(parser, "pipeline")
        self.recipe = bundle.recipe(root)
        self._measured: list[HealthyScan] = []
        self._checked: list[Any] = []

    def take(self, shared: Shared) -> None:
        """Score and count a scan; one that fails stops it, since leaving it out would flatter."""
        try:
            scored = self.pipeline.score(shared.sample(self.pipeline.preprocessing, self.recipe))
            self._measured.append(measure(self.pipeline, scored))
        except VoladError as error:
            raise type(error)(f"{error}; or leave the scan out of the calibration") from error
        self._checked.append(scored["scan_check"])

    def save(self) -> Calibration:
        """Write what was found; the scan check's p-values are of these scans from then on, too."""
        found = Calibration.fit(self._measured, self.promise, describe_steps(self.pipeline))
        files = {"calibration.json": found.to_json()}
        if self.pipeline.scan_check is not None:
            names = [{"name": one.name, "sha256": one.sha256} for one in self._measured]
            values = [values_of(facts) for facts in self._checked]
            check = self.pipeline.scan_check.recalibrated(values, names, widen=self.force)
            files["scan_check.json"] = check.to_json()
        save(self.root, self.into, files)
        return found


def calibrate_together(sessions: Sequence[Session], scans: Sequence[Scan]) -> list[Calibration]:
    """Calibrate bundles on the same scans, each prepared once for all that prepare it alike."""
    for scan in tqdm(scans, desc="calibrate", unit="scan", disable=None):
        shared = Shared(scan)
        for session in sessions:
            session.take(shared)
    return [session.save() for session in sessions]
