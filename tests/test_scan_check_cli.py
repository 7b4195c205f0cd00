"""The scan check from outside: exit codes, sidecars, tables and pages, with and without `--force`.

The scans are the CT phantoms of `pipeline_helpers`; one of another kind has its grey values turned
over, as another contrast has.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from io_helpers import save_nifti
from pipeline_helpers import (
    bundle_copy,
    files_below,
    grid,
    head,
    healthy_set,
    ready_bundle,
    save_head,
    segment,
)

from volad import bundle
from volad.cli import main
from volad.errors import VoladError

Captured = pytest.CaptureFixture[str]


def save_other(path: Path, seed: int = 91) -> Path:
    """Write a head whose bright tissue is dark."""
    hu = head(seed).astype(np.int32)
    return save_nifti(path, np.where(hu > -1000, 75 - hu, -1000).astype(np.int16), grid())


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return save_other(tmp_path / "other.nii.gz")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def sidecar(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}_mask.json").read_text())
    return found


def test_training_makes_the_check() -> None:
    stored = json.loads((ready_bundle() / "models" / "scan_check.json").read_text())
    assert stored["fitted_on"] == 3
    assert [scan["name"] for scan in stored["scans"]] == ["sub3", "sub4"]
    assert {"depth_contrast", "level", "noise", "score_p99"} <= stored["usual"].keys()


def test_a_scan_of_the_kind_says_so(tmp_path: Path, out: Path) -> None:
    """With its lesion, which is of more than 1 % of the brain."""
    assert segment(save_head(tmp_path / "head.nii.gz"), "-o", out) == 0
    found = sidecar(out, "head")["scan_check"]
    assert found["verdict"] == "usual"
    assert found["forced"] is False
    assert found["calibration_scans"] == 2
    for family in ("kind", "quality"):
        assert found[family]["p"] in (1 / 3, 2 / 3, 1)
    feature = found["features"]["depth_contrast"]
    assert feature["usual"][0] < feature["value"] < feature["usual"][1]
    page = (out / "head_report.html").read_text()
    assert "Scan check: usual (kind p = " in page


def test_another_kind_is_refused_and_leaves_a_sidecar_without_a_mask(
    other: Path, out: Path, capsys: Captured
) -> None:
    assert segment(other, "-o", out) == 4
    printed, said = capsys.readouterr()
    assert printed == ""
    assert said.count("\n") == 1
    assert f"{other}: is not of the kind that this bundle knows: " in said
    assert "--force" in said
    assert files_below(out) == ["other_mask.json"]
    facts = sidecar(out, "other")
    assert facts["mask"] is None
    assert "threshold" not in facts
    found = facts["scan_check"]
    assert found["verdict"] == "another kind"
    assert found["kind"]["distance"] > found["kind"]["limit"]
    assert found["kind"]["p"] == 1 / 3
    assert found["kind"]["odd"]
    assert found["features"]["depth_contrast"]["distance"] > 1
    assert len(facts["input"]["sha256"]) == 64
    assert facts["bundle"]["name"] == "head_ct_ae"


def test_force_makes_the_mask_and_keeps_the_flag(other: Path, out: Path, capsys: Captured) -> None:
    assert segment(other, "-o", out, "--force") == 0
    assert "not of the kind that this bundle knows, gone on by force" in capsys.readouterr().err
    assert {"other_mask.nii.gz", "other_report.html"} <= set(files_below(out))
    facts = sidecar(out, "other")
    assert facts["scan_check"]["verdict"] == "another kind"
    assert facts["scan_check"]["forced"] is True
    assert any("by force" in flag for flag in facts["flags"])
    assert "gone on by force" in (out / "other_report.html").read_text()
    # Refused later on, the scan keeps no mask that could be taken for a result.
    assert segment(other, "-o", out, "--resume") == 4
    assert files_below(out) == ["other_mask.json"]


def test_one_of_several_is_refused(tmp_path: Path, out: Path, capsys: Captured) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    save_head(scans / "a.nii.gz")
    save_other(scans / "b.nii.gz")
    (scans / "c.nii.gz").write_text("no scan")
    assert segment(scans, "-o", out, "--no-report", "--json") == 3
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["name"]: row["exit_code"] for row in rows} == {"a": 0, "b": 4, "c": 42}
    checks = {row["name"]: row["scan_check"] for row in rows}
    assert (checks["a"]["verdict"], checks["b"]["verdict"]) == ("usual", "another kind")
    assert checks["c"] is None
    assert "features" not in checks["a"]
    assert not (out / "b_mask.nii.gz").exists()
    table = {row["Name"]: row for row in csv.DictReader((out / "statistics.csv").open())}
    assert [table[name]["check"] for name in "abc"] == ["usual", "another kind", ""]
    assert float(table["b"]["check_kind_p"]) == pytest.approx(1 / 3, abs=1e-4)
    assert table["b"]["check_quality_p"] == ""
    assert table["a"]["check_quality_p"] != ""
    assert "is not of the kind" in table["b"]["error"]


def test_a_scan_left_out_by_resume_keeps_its_check(
    tmp_path: Path, out: Path, capsys: Captured
) -> None:
    scan = save_head(tmp_path / "head.nii.gz")
    rows = []
    for options in ((), ("--resume",)):
        assert segment(scan, "-o", out, "--no-report", "--json", *options) == 0
        rows.append(json.loads(capsys.readouterr().out))
    assert [row["resumed"] for row in rows] == [False, True]
    assert rows[0]["scan_check"] == rows[1]["scan_check"]


def test_started_by_monai_it_does_alike(other: Path, out: Path) -> None:
    """`monai.bundle run` builds the same evaluator and runs it; it knows no exit codes."""
    settings = {"dataset_dir": str(other), "output_dir": str(out), "device": "cpu"}
    parser = bundle.open_config(ready_bundle(), "inference", settings)
    with pytest.raises(VoladError, match="is not of the kind that this bundle knows"):
        bundle.build(parser, "run")
    assert files_below(out) == ["other_mask.json"]
    forced = bundle.open_config(ready_bundle(), "inference", {**settings, "force": True})
    bundle.build(forced, "run")
    assert (out / "other_mask.nii.gz").is_file()


def test_a_bundle_without_a_check_segments_and_says_so(
    other: Path, out: Path, tmp_path: Path
) -> None:
    root = bundle_copy(tmp_path)
    (root / "models" / "scan_check.json").unlink()
    assert segment(other, "-o", out, "-b", root) == 0
    assert sidecar(out, "other")["scan_check"] is None
    assert "Scan check" not in (out / "other_report.html").read_text()


def test_a_damaged_check_is_named(other: Path, out: Path, tmp_path: Path, capsys: Captured) -> None:
    root = bundle_copy(tmp_path)
    (root / "models" / "scan_check.json").write_text("{}")
    assert segment(other, "-o", out, "-b", root) == 2
    assert "scan_check.json: holds no scan check" in capsys.readouterr().err
    assert not out.exists() or files_below(out) == []


def test_calibration_refuses_another_kind_and_by_force_learns_it(
    tmp_path: Path, out: Path, capsys: Captured
) -> None:
    root, scans = bundle_copy(tmp_path), tmp_path / "mine"
    scans.mkdir()
    for seed in (81, 82):
        save_other(scans / f"{seed}.nii.gz", seed)
    before = (root / "models" / "scan_check.json").read_text()
    command = ["calibrate", str(root), "--on", str(scans), "--device=cpu", "--healthy-fpr=0.1"]
    command += ["--cap=3"]
    assert main(command) == 4
    assert "leave the scan out of the calibration" in capsys.readouterr().err
    assert (root / "models" / "scan_check.json").read_text() == before
    assert main([*command, "--force"]) == 0
    stored = json.loads((root / "models" / "scan_check.json").read_text())
    assert [scan["name"] for scan in stored["scans"]] == ["81", "82"]
    assert stored["limit"] > json.loads(before)["limit"]
    assert stored["usual"] == json.loads(before)["usual"]
    scan = save_other(tmp_path / "third.nii.gz", 83)
    assert segment(scan, "-o", out, "-b", root, "--no-report") == 0
    assert sidecar(out, "third")["scan_check"]["verdict"] == "usual"


def test_calibration_on_the_same_scans_changes_nothing(tmp_path: Path) -> None:
    root, scans = bundle_copy(tmp_path), tmp_path / "validation"
    scans.mkdir()
    for name in ("sub3", "sub4"):
        source = healthy_set() / "scans" / f"{name}.nii.gz"
        (scans / source.name).write_bytes(source.read_bytes())
    before = json.loads((root / "models" / "scan_check.json").read_text())
    command = ["calibrate", str(root), "--on", str(scans), "--device=cpu", "--healthy-fpr=0.1"]
    assert main([*command, "--cap=3"]) == 0
    after = json.loads((root / "models" / "scan_check.json").read_text())
    for family in ("kind", "quality"):
        assert after["calibration"][family] == pytest.approx(
            before["calibration"][family], rel=1e-4
        )
    assert {k: v for k, v in after.items() if k != "calibration"} == {
        k: v for k, v in before.items() if k != "calibration"
    }
