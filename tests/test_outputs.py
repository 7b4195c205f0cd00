"""What is written for a scan, under which names, and what the sidecar vouches for."""

from __future__ import annotations

import csv
import json
import platform
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pipeline_helpers import (
    LESION,
    files_below,
    head,
    pipeline,
    ready_bundle,
    save_head,
    sha256,
    voxels,
)

import volad
from volad import bundle
from volad.errors import UsageError, VoladError
from volad.io import Scan
from volad.outputs import Outcome, Outputs, write_outputs, write_statistics
from volad.pipeline import Pipeline, Result


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    """A head with a lesion."""
    return Scan(save_head(tmp_path_factory.mktemp("scan") / "head.nii.gz"), "head")


@pytest.fixture(scope="module")
def run() -> Pipeline:
    return pipeline(ready_bundle())


@pytest.fixture(scope="module")
def result(scan: Scan, run: Pipeline) -> Result:
    return run(scan, healthy=True)


def written(folder: Path, scan: Scan, result: Result, run: Pipeline, **wanted: bool) -> Outcome:
    """Write a result as the ready bundle's."""
    outputs = Outputs(folder, **wanted)
    return write_outputs(outputs, scan, result, run, bundle.identity(ready_bundle()))


def sidecar(outcome: Outcome) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(outcome.files["sidecar"].read_text())
    return facts


# Names


@pytest.mark.parametrize(
    ("target", "group", "kind", "path"),
    [
        ("out", "", "mask.nii.gz", "out/head_mask.nii.gz"),
        ("out", "site/ses", "score.nii.gz", "out/site/ses/head_score.nii.gz"),
        ("out/x_mask.nii.gz", "", "mask.nii.gz", "out/x_mask.nii.gz"),
        ("out/x_mask.nii.gz", "site", "score.nii.gz", "out/x_score.nii.gz"),
        ("out/x_mask.nii.gz", "", "mask.json", "out/x_mask.json"),
        ("out/x.nii.gz", "", "mask.nii.gz", "out/x.nii.gz"),
        ("out/x.nii.gz", "", "mask.json", "out/x_mask.json"),
        ("out.d", "", "report.html", "out.d/head_report.html"),
    ],
)
def test_names(target: str, group: str, kind: str, path: str) -> None:
    scan = Scan(Path("head.nii.gz"), "head", group=Path(group))
    assert Outputs(Path(target)).path(scan, kind) == Path(path)


def test_impossible_targets_are_refused(tmp_path: Path) -> None:
    one, two = (Scan(tmp_path / f"{name}.nii.gz", name) for name in "ab")
    Outputs(tmp_path / "out").check([one, two])
    Outputs(tmp_path / "x_mask.nii.gz").check([one])
    with pytest.raises(UsageError, match="one mask file for 2 scans; name a folder"):
        Outputs(tmp_path / "x_mask.nii.gz").check([one, two])
    with pytest.raises(UsageError, match=r"packed; name it x\.nii\.gz"):
        Outputs(tmp_path / "x.nii").check([one])
    with pytest.raises(UsageError, match="is the scan itself"):
        Outputs(tmp_path / "sub" / ".." / "a.nii.gz").check([one])


# The sidecar


def test_the_sidecar_says_what_made_the_mask(
    scan: Scan, result: Result, run: Pipeline, tmp_path: Path
) -> None:
    outcome = written(tmp_path, scan, result, run)
    facts = sidecar(outcome)
    calibration = json.loads((ready_bundle() / "models" / "calibration.json").read_text())
    assert facts["Type"] == "Lesion"
    assert facts["Sources"] == ["head.nii.gz"]
    assert facts["input"] == {
        "sha256": sha256(scan.path),
        "shape": [40, 48, 44],
        "spacing_mm": [4.0, 4.0, 4.0],
    }
    assert facts["bundle"] == {
        "name": "head_ct_ae",
        "version": "0.1.0",
        "method": "ae",
        "weights_sha256": sha256(ready_bundle() / "models" / "model.pt"),
    }
    assert facts["threshold"]["value"] == calibration["threshold"] == result.threshold
    assert facts["threshold"]["calibration"]["promise"] == calibration["promise"]
    assert facts["threshold"]["calibration"]["healthy_scans"] == 2
    assert facts["software"] == {
        "volad": volad.__version__,
        "monai": version("monai"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    assert (facts["device"], facts["amp"], facts["threads"]) == ("cpu", False, 1)
    assert facts["seconds"] == {k: round(v, 3) for k, v in result.seconds.items()}
    assert 50 < facts["peak_memory"]["host_mib"] < 100_000
    assert facts["preprocessing"]["brain_extraction"] == "stripped"
    assert facts["preprocessing"]["brain_ml"] == pytest.approx(result.brain.sum() * 0.064)
    assert "not a medical device" in facts["notice"]


def test_sidecar_table_summary_and_mask_agree(
    scan: Scan, result: Result, run: Pipeline, tmp_path: Path
) -> None:
    outcome = written(tmp_path, scan, result, run)
    mask = voxels(outcome.files["mask"])
    rows = list(csv.DictReader(outcome.files["lesions"].open()))
    assert len(rows) > 1
    assert sum(int(row["voxels"]) for row in rows) == mask.sum()
    assert sidecar(outcome)["lesions"] == {
        "count": len(rows),
        "voxels": mask.sum(),
        "mm3": pytest.approx(mask.sum() * 64),
    }
    assert outcome.summary == {
        "Name": "head",
        "Num_Lesions": len(rows),
        "Num_Vox": mask.sum(),
        "Lesion_Volume": mask.sum() * 64,
    }


def test_scan_scores_reach_sidecar_outcome_and_report(
    scan: Scan, result: Result, run: Pipeline, tmp_path: Path
) -> None:
    """The lists among them only the sidecar, and not the page that a person reads."""
    assert result.scan_scores["p99"] > result.scan_scores["mean"] > 0
    scores = {"mean": 0.123456, "l2_slices": [0.25, 0.765432]}
    outcome = written(tmp_path, scan, replace(result, scan_scores=scores), run)
    assert sidecar(outcome)["scan_scores"] == scores
    assert outcome.scan_scores == {"mean": 0.123456}
    page = outcome.files["report"].read_text()
    assert "<dt>scan_scores</dt><dd><dl><dt>mean</dt><dd>0.123456</dd></dl></dd>" in page
    assert "l2_slices" not in page
    assert "0.765432" not in page


def test_flags_reach_sidecar_report_and_outcome(
    scan: Scan, result: Result, run: Pipeline, tmp_path: Path
) -> None:
    flag = "the field of view cuts the brain: what lies near the cut is less reliable"
    outcome = written(tmp_path, scan, replace(result, flags=(flag,)), run)
    assert outcome.flags == (flag,)
    assert sidecar(outcome)["flags"] == [flag]
    assert flag in outcome.files["report"].read_text()


def test_a_threshold_that_is_not_the_bundles_is_said(
    scan: Scan, result: Result, run: Pipeline, tmp_path: Path
) -> None:
    assert sidecar(written(tmp_path, scan, result, run))["threshold"]["source"] == "calibration"
    other = replace(result, threshold=result.threshold * 1.01)
    assert sidecar(written(tmp_path, scan, other, run))["threshold"]["source"] == "user"


def test_maps_hold_what_was_found(
    scan: Scan, result: Result, run: Pipeline, tmp_path: Path
) -> None:
    outcome = written(tmp_path, scan, result, run, save_healthy=True, save_brain=True)
    assert np.array_equal(voxels(outcome.files["mask"]) > 0, result.mask)
    assert np.array_equal(voxels(outcome.files["score"]), result.score)
    assert np.array_equal(voxels(outcome.files["healthy"]), result.healthy)
    assert np.array_equal(voxels(outcome.files["brain"]) > 0, result.brain)
    assert outcome.files["brain"].name == "head_brainmask.nii.gz"
    kinds = ["mask", "score", "healthy", "brain", "lesions", "report", "sidecar"]
    assert list(outcome.files) == kinds


def test_no_healthy_map_where_a_method_infers_none(
    scan: Scan, result: Result, run: Pipeline, tmp_path: Path
) -> None:
    outcome = written(tmp_path, scan, replace(result, healthy=None), run, save_healthy=True)
    assert "healthy" not in outcome.files
    assert "head_healthy.nii.gz" not in files_below(tmp_path)


def test_a_scan_without_lesions_has_whole_results(
    scan: Scan, result: Result, run: Pipeline, tmp_path: Path
) -> None:
    outcome = written(tmp_path, scan, replace(result, mask=np.zeros_like(result.mask)), run)
    assert not voxels(outcome.files["mask"]).any()
    assert sidecar(outcome)["lesions"] == {"count": 0, "voxels": 0, "mm3": 0}
    assert outcome.files["lesions"].read_text().count("\n") == 1
    assert outcome.summary["Num_Vox"] == 0


@pytest.mark.parametrize("writer", ["write_mask", "write_map", "write_text"])
def test_the_sidecar_is_last(
    scan: Scan,
    result: Result,
    run: Pipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    writer: str,
) -> None:
    """Where anything before it fails there is none, not even an earlier run's."""

    def fail(path: Path, *_: object) -> None:
        raise VoladError(f"{path.parent}: the disk is full; free space")

    written(tmp_path, scan, result, run)
    assert "head_mask.json" in files_below(tmp_path)
    monkeypatch.setattr(f"volad.outputs.{writer}", fail)
    with pytest.raises(VoladError, match="the disk is full"):
        written(tmp_path, scan, result, run)
    assert "head_mask.json" not in files_below(tmp_path)


# The report and the table of a batch


def test_the_report_page_stands_alone(
    scan: Scan, result: Result, run: Pipeline, tmp_path: Path
) -> None:
    page = written(tmp_path, scan, result, run).files["report"].read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    for words in ("head", sha256(scan.path), "head_ct_ae", "not a medical device"):
        assert words in page
    assert 'src="http' not in page
    assert 'href="http' not in page.split("</head>")[0]


def test_statistics_have_a_row_for_every_scan(tmp_path: Path) -> None:
    done = [
        Outcome(
            Scan(Path("a.nii"), "a"),
            summary={"Name": "a", "Num_Lesions": 2, "Num_Vox": 9, "Lesion_Volume": 9.5},
            scan_scores={"mean": 0.125, "p99": 1 / 3},
            flags=("cut, short", "small"),
        ),
        Outcome(Scan(Path("b.nii"), "b", group=Path("s1")), error='b.nii: "bad"; x', exit_code=42),
    ]
    write_statistics(tmp_path / "statistics.csv", done)
    assert (tmp_path / "statistics.csv").read_text() == (
        "Name,Num_Lesions,Num_Vox,Lesion_Volume,scan_mean,scan_p99,flags,error\n"
        'a,2,9,9.5,0.125,0.333333,"cut, short; small",\n'
        's1/b,,,,,,,"b.nii: ""bad""; x"\n'
    )
    rows = (tmp_path / "statistics.csv").read_text().splitlines()
    write_statistics(tmp_path / "statistics.csv", reversed(done))  # the first one failed
    assert (tmp_path / "statistics.csv").read_text().splitlines() == [rows[0], *rows[:0:-1]]


def test_statistics_of_scans_that_all_failed(tmp_path: Path) -> None:
    write_statistics(tmp_path / "statistics.csv", [Outcome(Scan(Path("a"), "a"), error="bad")])
    assert (tmp_path / "statistics.csv").read_text() == (
        "Name,Num_Lesions,Num_Vox,Lesion_Volume,flags,error\na,,,,,bad\n"
    )


def test_the_phantom_is_what_the_tests_take_it_for() -> None:
    """The lesion lies inside the brain, and is the only difference between the two heads."""
    sick, healthy = head(90, lesion=True), head(90)
    changed = np.zeros(sick.shape, bool)
    changed[LESION] = True
    assert np.array_equal(sick != healthy, changed)
    assert (healthy[LESION] > -1000).all()
