"""Step 7: what is written for a scan, and under which names; the sidecar always last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from volad.bundle import Identity
from volad.errors import OtherKindError, UsageError
from volad.io import Scan, remove, write_json, write_map, write_mask, write_text
from volad.io.digest import sha256_of
from volad.pipeline import Pipeline, Result
from volad.provenance import MEASURED, parameters, scan_parameters, sealed
from volad.report.batch import statistics_csv
from volad.report.lesions import find_lesions, lesions_csv, summary_row
from volad.report.page import render_page
from volad.sidecar import sidecar, sidecar_of_refused

__all__ = ["FILES", "Outcome", "Outputs", "write_outputs", "write_refusal", "write_statistics"]

#: All that can be written for a scan, in this order, by the names that `Outcome.files` has.
FILES = {
    "mask": "mask.nii.gz",
    "score": "score.nii.gz",
    "healthy": "healthy.nii.gz",
    "brain": "brainmask.nii.gz",
    "lesions": "lesions.csv",
    "report": "report.html",
    "sidecar": "mask.json",
}
NIFTI = (".nii.gz", ".nii")
#: The same as BIDS derivatives; what is no lesion mask has other entities, so that tools which look
#: for `label-L` find the mask alone.
BIDS_KINDS = {
    "mask.nii.gz": "space-orig_label-L_desc-volad_mask.nii.gz",
    "score.nii.gz": "space-orig_desc-volad_score.nii.gz",
    "healthy.nii.gz": "space-orig_desc-healthy_{suffix}.nii.gz",
    "brainmask.nii.gz": "space-orig_label-brain_desc-volad_mask.nii.gz",
    "lesions.csv": "space-orig_desc-volad_lesions.csv",
    "report.html": "desc-volad_report.html",
    "mask.json": "space-orig_label-L_desc-volad_mask.json",
}


@dataclass(frozen=True)
class Outputs:
    """Where results go and which are wanted.

    Attributes:
        target: a folder, or the path of the one mask.
        save_score: write the score map.
        save_healthy: write the healthy counterpart.
        save_brain: write the brain mask, the region that scores and rates are of.
        stats: write lesion tables.
        report: write report pages.
    """

    target: Path
    save_score: bool = True
    save_healthy: bool = False
    save_brain: bool = False
    stats: bool = True
    report: bool = True

    @property
    def is_file(self) -> bool:
        """Whether the target is the one mask, not a folder."""
        return self.target.name.endswith(NIFTI)

    @property
    def folder(self) -> Path:
        """The folder that all results lie below."""
        return self.target.parent if self.is_file else self.target

    def check(self, scans: Sequence[Scan]) -> None:
        """Refuse a mask path for several scans, one that is not packed, and the scan itself."""
        if not self.is_file:
            return
        if len(scans) != 1:
            raise UsageError(
                f"{self.target}: one mask file for {len(scans)} scans; name a folder with -o"
            )
        if not self.target.name.endswith(".nii.gz"):
            raise UsageError(f"{self.target}: masks are packed; name it {self.target.name}.gz")
        inputs = (scans[0].path, *(path for _, path in scans[0].channels))
        if self.target.resolve() in [path.resolve() for path in inputs]:
            raise UsageError(f"{self.target}: is the scan itself; name another file or a folder")

    def wanted(self) -> list[str]:
        """Names of the optional outputs that are asked for."""
        flags = ("save_score", "save_healthy", "save_brain", "stats", "report")
        return [name for name in flags if getattr(self, name)]

    def path(self, scan: Scan, kind: str) -> Path:
        """Path of `mask.nii.gz`, `score.nii.gz`, `mask.json`, ... for a scan."""
        if not self.is_file:
            if scan.bids_suffix:
                kind = BIDS_KINDS[kind].format(suffix=scan.bids_suffix)
            return self.target / scan.group / f"{scan.name}_{kind}"
        if kind == "mask.nii.gz":
            return self.target
        stem = self.target.name.removesuffix(".gz").removesuffix(".nii").removesuffix("_mask")
        return self.target.parent / f"{stem}_{kind}"


@dataclass(frozen=True)
class Outcome:
    """How one scan ended.

    Attributes:
        scan: which one.
        files: what was written, by kind (`mask`, `sidecar`, ...); empty where it failed, only the
            sidecar where the scan was refused.
        summary: its row of the statistics (`volad.report.lesions.summary_row`).
        scan_scores: how unlike healthy the whole scan is, by measure (`Method.scan_scores`, without
            its lists).
        flags: lines that the user must see.
        error: what went wrong, in one line; empty where nothing did.
        exit_code: 0, or the error's.
        seconds: wall time per stage.
        peak_memory: MiB of the process, and of the device, when it was written.
        resumed: whether an earlier run's results still hold, so that nothing was done.
        scan_check: verdict and p-values (`volad.scan_check.ScanCheck.facts`, without its
            features); None where nobody asked.
    """

    scan: Scan
    files: dict[str, Path] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    scan_scores: dict[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    error: str = ""
    exit_code: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory: dict[str, int] = field(default_factory=dict)
    resumed: bool = False
    scan_check: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """What tables call the scan."""
        return self.scan.identifier

    def row(self) -> dict[str, Any]:
        """What tables and JSON lines tell of it, without its files."""
        return {
            "name": self.name,
            "exit_code": self.exit_code,
            "error": self.error,
            **self.summary,
            "scan_scores": self.scan_scores,
            "scan_check": self.scan_check,
            "flags": list(self.flags),
        }


def write_outputs(
    outputs: Outputs,
    scan: Scan,
    result: Result,
    pipeline: Pipeline,
    identity: Identity,
    made_with: Mapping[str, Any] | None = None,
) -> Outcome:
    """Write one scan's results; each file whole or not at all, the sidecar last.

    Args:
        outputs: where to and which.
        scan: the scan.
        result: what was found in it.
        pipeline: what found it.
        identity: the bundle.
        made_with: `volad.provenance.scan_parameters` from before the scan was read, by which
            `--resume` knows the results; by default taken now.

    Raises:
        VoladError: the disk is full or read-only.
    """
    volume = result.volume
    lesions = find_lesions(result.mask, result.score, volume.affine)
    facts = sidecar(result, pipeline, identity)
    scalars = {k: v for k, v in result.scan_scores.items() if not isinstance(v, list)}
    facts["lesions"] = {
        "count": len(lesions),
        "voxels": sum(x.voxels for x in lesions),
        "mm3": sum(x.volume_mm3 for x in lesions),
    }
    facts["parameters"] = made_with or _made_with(outputs, scan, pipeline, identity)
    files = {"mask": outputs.path(scan, "mask.nii.gz")}
    _remove_earlier(outputs, scan)
    write_mask(files["mask"], result.mask, volume)
    if outputs.save_score:
        files["score"] = outputs.path(scan, "score.nii.gz")
        write_map(files["score"], result.score, volume)
    if outputs.save_healthy and result.healthy is not None:
        files["healthy"] = outputs.path(scan, "healthy.nii.gz")
        write_map(files["healthy"], result.healthy, volume)
    if outputs.save_brain:
        files["brain"] = outputs.path(scan, "brainmask.nii.gz")
        write_mask(files["brain"], result.brain, volume)
    if outputs.stats:
        files["lesions"] = outputs.path(scan, "lesions.csv")
        write_text(files["lesions"], lesions_csv(lesions))
    if outputs.report:
        files["report"] = outputs.path(scan, "report.html")
        # A number for each of a hundred slices is for programs; times would make the page of the
        # same result another file each time.
        shown = {k: v for k, v in facts.items() if k not in MEASURED} | {"scan_scores": scalars}
        write_text(files["report"], _page(result, lesions, shown, identity))
    facts["outputs"] = {
        kind: {"file": path.name, "sha256": sha256_of([path])} for kind, path in files.items()
    }
    files["sidecar"] = outputs.path(scan, "mask.json")
    write_json(files["sidecar"], sealed(facts))
    check = without_features(result.scan_check)
    outcome = Outcome(
        scan, files, {}, scalars, result.flags, **{k: facts[k] for k in MEASURED}, scan_check=check
    )
    return replace(outcome, summary=summary_row(outcome.name, lesions, int(result.mask.sum())))


def write_refusal(
    outputs: Outputs,
    scan: Scan,
    error: OtherKindError,
    pipeline: Pipeline,
    identity: Identity,
    made_with: Mapping[str, Any] | None = None,
) -> Outcome:
    """Write why a scan has no mask, in its sidecar alone; what an earlier run made of it goes.

    The arguments are those of `write_outputs`.

    Raises:
        VoladError: the disk is full or read-only.
    """
    facts = sidecar_of_refused(error.sample, error.facts, pipeline, identity)
    facts["error"] = {"message": str(error), "exit_code": error.exit_code}
    facts["parameters"] = made_with or _made_with(outputs, scan, pipeline, identity)
    _remove_earlier(outputs, scan)
    files = {"sidecar": outputs.path(scan, "mask.json")}
    write_json(files["sidecar"], sealed(facts))
    return Outcome(
        scan,
        files,
        scan_check=without_features(error.facts),
        flags=tuple(facts["flags"]),
        error=str(error),
        exit_code=error.exit_code,
        **{k: facts[k] for k in MEASURED},
    )


def _made_with(
    outputs: Outputs, scan: Scan, pipeline: Pipeline, identity: Identity
) -> dict[str, Any]:
    return scan_parameters(parameters(pipeline, identity, outputs.wanted()), scan)


def without_features(facts: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a table shows of `ScanCheck.facts`."""
    return None if facts is None else {k: v for k, v in facts.items() if k != "features"}


def _remove_earlier(outputs: Outputs, scan: Scan) -> None:
    """An earlier run's files must not stand beside a new mask, or as if they were one.

    The sidecar, which vouches for the others, goes first.
    """
    for kind in reversed(FILES.values()):
        remove(outputs.path(scan, kind))


def _page(result: Result, lesions: Any, facts: dict[str, Any], identity: Identity) -> str:
    volume = result.volume
    return render_page(
        name=volume.scan.name,
        image=volume.image.numpy()[0],
        score=result.score,
        mask=result.mask,
        affine=volume.affine,
        lesions=lesions,
        provenance=facts,
        threshold=result.threshold,
        healthy=result.healthy,
        warnings=result.flags,
        modality=identity.modality,
    )


def write_statistics(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Write the table of several scans (`volad.report.batch.statistics_csv`)."""
    write_text(path, statistics_csv([outcome.row() for outcome in outcomes]))
