"""`volad evaluate` from files: manifests, folders of results, refusals, outputs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from evaluate_helpers import (
    AFFINE,
    SHAPE,
    cohort,
    evaluate,
    facts,
    save_manifest,
    table,
    two_scans,
)
from io_helpers import save_nifti

from volad.evaluate.files import REGIONS

Captured = pytest.CaptureFixture[str]


# The whole command


def test_the_whole_command(tmp_path: Path, capsys: Captured) -> None:
    manifest = cohort(tmp_path, sets={"good": 0.6, "poor": 0.2})
    results = [f"good={tmp_path / 'good'}", tmp_path / "poor"]
    assert evaluate(manifest, "--results", results[0], "--results", results[1], "--by", "site") == 0
    shown = capsys.readouterr()
    assert "good minus poor" in shown.out
    assert "looks at labels" in shown.out
    assert shown.err == ""
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "cases.csv",
        "evaluation.html",
        "evaluation.json",
        "summary.csv",
    ]
    found = facts(manifest)
    assert list(found["results"]) == ["good", "poor"]
    good = found["results"]["good"]
    assert good["counts"]["scans"] == 7
    assert good["regions"] == {REGIONS[2]: 7}
    assert good["made_by"] == {"tiny 1.0, threshold 0.5": 7}
    assert good["metrics"]["auprc_pooled"]["value"] > 0.5
    low, high = good["certain"]["auprc_pooled"]
    assert low <= good["metrics"]["auprc_pooled"]["value"] <= high
    assert list(good["subgroups"]["site"]) == ["A", "B"]
    (pair,) = found["paired"]
    assert (pair["first"], pair["other"]) == ("good", "poor")
    assert pair["metrics"]["auprc_pooled"]["low"] > 0
    assert "26-connected" in found["rules"]["lesions"]
    assert found["manifest"]["sha256"]


def test_oracle_numbers_say_so(tmp_path: Path) -> None:
    manifest = cohort(tmp_path)
    assert evaluate(manifest, "--results", tmp_path / "a") == 0
    metrics = facts(manifest)["results"]["a"]["metrics"]
    oracle = {key for key in metrics if "oracle" in key or "gap" in key}
    assert oracle == {"dice_oracle_pooled", "dice_oracle_mean", "dice_gap"}
    for key, one in metrics.items():
        assert one["looks_at_labels"] == (key in oracle)
        assert ("looks at labels" in one["label"]) == (key in oracle)


def test_tables(tmp_path: Path) -> None:
    manifest = two_scans(tmp_path)
    assert evaluate(manifest, "--results", tmp_path / "a") == 0
    sick, well = table(tmp_path / "out" / "cases.csv")
    assert (sick["name"], sick["lesioned"], sick["dice"]) == ("sick", "1", "1")
    assert float(sick["lesion_ml"]) == pytest.approx(0.024)
    assert (well["name"], well["lesioned"], well["dice"], well["hd95_mm"]) == ("well", "0", "", "")
    rows = {row["metric"]: row for row in table(tmp_path / "out" / "summary.csv")}
    assert float(rows["dice_mean"]["value"]) == 1
    # One lesioned subject: a value, no limits, though there is another without lesions.
    for key in ("dice_mean", "auprc_pooled", "lesion_sensitivity", "scan_auroc:mask_ml"):
        row = rows[key]
        assert (row["subjects"], row["low_95"], row["high_95"]) == ("1", "", ""), key
        assert row["value"] != ""
    assert rows["dice_oracle_mean"]["looks_at_labels"] == "1"


def test_json_on_stdout_is_the_file(tmp_path: Path, capsys: Captured) -> None:
    manifest = cohort(tmp_path)
    assert evaluate(manifest, "--results", tmp_path / "a", "--json") == 0
    assert json.loads(capsys.readouterr().out) == facts(manifest)


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    manifest = cohort(tmp_path)
    names = ("evaluation.json", "evaluation.html", "summary.csv", "cases.csv")
    runs = []
    for _ in range(2):
        assert evaluate(manifest, "--results", tmp_path / "a") == 0
        runs.append([(tmp_path / "out" / name).read_bytes() for name in names])
    assert runs[0] == runs[1]


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    manifest = cohort(tmp_path, sets={"a": 0.6, "<b>": 0.2})
    results = [f"a={tmp_path / 'a'}", f"<i>={tmp_path / '<b>'}"]
    assert evaluate(manifest, "--results", results[0], "--results", results[1], "--by", "site") == 0
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert not re.search(r"(src|href)\s*=|https?:|@import|url\(", page)
    assert "<script" not in page
    assert "default-src 'none'" in page
    charts = re.findall(r'<svg viewBox="0 0 460.*?</svg>', page, re.S)
    titles = [re.search('aria-label="([^"]*)"', one).group(1) for one in charts]  # type: ignore[union-attr]
    assert [title.split()[0] for title in titles] == ["Precision", "FROC:", "Dice", "Lesion"]
    assert charts[0].count("<polyline") == 2
    assert charts[2].count("<circle") == 8  # four lesioned scans in each of two sets
    assert "<i>" not in page
    assert "&lt;i&gt;" in page


# Data sets with something missing


def test_masks_alone(tmp_path: Path, capsys: Captured) -> None:
    manifest = two_scans(tmp_path)
    for score in (tmp_path / "a").glob("*_score.nii.gz"):
        score.unlink()
    assert evaluate(manifest, "--results", tmp_path / "a") == 0
    found = facts(manifest)
    metrics = found["results"]["a"]["metrics"]
    assert metrics["dice_mean"]["value"] == 1
    assert not {"auprc_pooled", "dice_oracle_mean", "healthy_fpr"} & set(metrics)
    assert found["results"]["a"]["regions"] == {REGIONS[3]: 2}
    assert any("2 of 2 scans have no score map" in line for line in found["warnings"])
    assert "no score map" in capsys.readouterr().out


def test_no_scan_without_lesions(tmp_path: Path) -> None:
    manifest = cohort(tmp_path, lesioned=3, healthy=0)
    assert evaluate(manifest, "--results", tmp_path / "a") == 0
    found = facts(manifest)
    metrics = found["results"]["a"]["metrics"]
    gone = [key for key in metrics if key.startswith(("dice_at", "healthy", "scan_auroc"))]
    assert gone == []
    assert any("no Dice at healthy" in line for line in found["warnings"])


def test_no_scan_with_lesions(tmp_path: Path) -> None:
    manifest = cohort(tmp_path, lesioned=0, healthy=3)
    assert evaluate(manifest, "--results", tmp_path / "a") == 0
    found = facts(manifest)
    assert set(found["results"]["a"]["metrics"]) == {
        "false_lesions_per_scan",
        "healthy_fpr",
        "healthy_false_ml",
        "healthy_false_lesions",
    }
    assert found["results"]["a"]["pr_curve"] == []
    assert any("no scan has lesions" in line for line in found["warnings"])


def test_missing_scans(tmp_path: Path, capsys: Captured) -> None:
    manifest = cohort(tmp_path)
    (tmp_path / "a" / "scan1_mask.nii.gz").unlink()
    assert evaluate(manifest, "--results", tmp_path / "a") == 42
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "scan1_mask.nii.gz" in error
    assert "--allow-missing" in error
    assert evaluate(manifest, "--results", tmp_path / "a", "--allow-missing") == 0
    assert "1 missing" in capsys.readouterr().out
    one = facts(manifest)["results"]["a"]
    assert (one["missing"], one["counts"]["scans"]) == (["scan1"], 6)
    assert "1 scans of the manifest are missing" in (tmp_path / "out/evaluation.html").read_text()


# Regions


def test_regions_in_their_order(tmp_path: Path) -> None:
    manifest = two_scans(tmp_path)
    inside = np.zeros(SHAPE, bool)
    inside[1:9, 1:9, 1:9] = True
    save_nifti(tmp_path / "a" / "sick_brainmask.nii.gz", inside.astype(np.uint8), AFFINE)
    assert evaluate(manifest, "--results", tmp_path / "a") == 0
    assert facts(manifest)["results"]["a"]["regions"] == {REGIONS[1]: 1, REGIONS[2]: 1}
    sick, well = table(tmp_path / "out" / "cases.csv")
    assert (sick["region_voxels"], well["region_voxels"]) == ("512", "1000")
    inside[:2] = False
    save_nifti(tmp_path / "brain.nii.gz", inside.astype(np.uint8), AFFINE)
    rows = table(manifest)
    rows[0]["brain_mask"] = "brain.nii.gz"
    save_manifest(manifest, rows)
    assert evaluate(manifest, "--results", tmp_path / "a") == 0
    assert facts(manifest)["results"]["a"]["regions"] == {REGIONS[0]: 1, REGIONS[2]: 1}
    assert table(tmp_path / "out" / "cases.csv")[0]["region_voxels"] == "448"


def test_sets_in_different_regions_are_warned_of(tmp_path: Path) -> None:
    manifest = cohort(tmp_path, sets={"a": 0.6, "b": 0.6})
    both = ["--results", tmp_path / "a", "--results", tmp_path / "b"]
    assert evaluate(manifest, *both) == 0
    assert facts(manifest)["warnings"] == []
    save_nifti(tmp_path / "b" / "scan0_brainmask.nii.gz", np.ones(SHAPE, np.uint8), AFFINE)
    assert evaluate(manifest, *both) == 0
    assert any("different regions" in line for line in facts(manifest)["warnings"])
