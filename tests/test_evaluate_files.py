"""`volad evaluate` from files: manifests, folders of results, refusals, outputs."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluate_helpers import AFFINE, SHAPE, block, cohort, noisy, save_manifest, save_result
from io_helpers import refused, save_nifti

from volad.cli import main
from volad.errors import InputError, UsageError
from volad.evaluate.files import REGIONS, ResultSet, locate, parse_results
from volad.evaluate.manifest import read_rows
from volad.evaluate.run import parse_bundles

Captured = pytest.CaptureFixture[str]


def evaluate(manifest: Path, *options: object) -> int:
    """`volad evaluate MANIFEST ...` with few draws, into `out` beside the manifest."""
    words = [manifest, "-o", manifest.parent / "out", "--draws", 100, *options]
    return main(["evaluate", *map(str, words)])


def facts(manifest: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((manifest.parent / "out" / "evaluation.json").read_text())
    return found


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def two_scans(root: Path) -> Path:
    """One scan whose mask is the expert's, one without lesions and with an empty mask."""
    lesion = block((2, 2, 2))
    save_nifti(root / "lesion.nii.gz", lesion.astype(np.uint8), AFFINE)
    save_result(root / "a", "sick", lesion, noisy(0, lesion))
    save_result(root / "a", "well", lesion & False, noisy(1, lesion & False))
    rows = [{"image": "T1/sick.nii.gz", "lesion": "lesion.nii.gz"}, {"image": "T1/well.nii.gz"}]
    return save_manifest(root / "manifest.csv", rows)


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


# Refusals


@pytest.mark.parametrize("kind", ["mask", "score", "lesion"])
def test_another_grid_is_refused(tmp_path: Path, capsys: Captured, kind: str) -> None:
    manifest = two_scans(tmp_path)
    path = tmp_path / ("lesion.nii.gz" if kind == "lesion" else f"a/sick_{kind}.nii.gz")
    moved = AFFINE.copy()
    moved[0, 3] = 1
    save_nifti(path, np.ones(SHAPE, np.uint8), moved)
    assert evaluate(manifest, "--results", tmp_path / "a") == 42
    error = capsys.readouterr().err
    other = "sick_mask" if kind == "score" else "lesion"
    assert f"sick_{kind}" in error or kind == "lesion"
    assert "1 mm off" in error
    assert other in error
    save_nifti(path, np.ones((12, 12, 11), np.uint8), AFFINE)
    assert evaluate(manifest, "--results", tmp_path / "a") == 42
    assert "(12, 12, 11)" in capsys.readouterr().err
    assert not (tmp_path / "out" / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a/sick_mask.json", b"{", ["sick_mask.json", "is not JSON"]),
        ("a/sick_mask.json", b'{"scan_scores": {"m": NaN}}', ["'m'", "nan"]),
        ("a/sick_mask.nii.gz", b"", ["sick_mask.nii.gz"]),
        ("lesion.nii.gz", None, ["lesion.nii.gz", "does not exist"]),
    ],
)
def test_files_that_cannot_be_used(
    tmp_path: Path, capsys: Captured, name: str, content: bytes | None, says: Sequence[str]
) -> None:
    manifest = two_scans(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    assert evaluate(manifest, "--results", tmp_path / "a") == 42
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(words in error for words in says), error


def test_soft_masks_and_broken_scores_are_refused(tmp_path: Path, capsys: Captured) -> None:
    manifest = two_scans(tmp_path)
    soft = block((2, 2, 2)) * np.float32(0.3)
    save_nifti(tmp_path / "lesion.nii.gz", soft, AFFINE)
    assert evaluate(manifest, "--results", tmp_path / "a") == 42
    assert "is no mask, it holds values such as 0.3" in capsys.readouterr().err
    manifest = two_scans(tmp_path)
    score = noisy(0, block((2, 2, 2)))
    score[5, 5, 5] = np.nan
    save_nifti(tmp_path / "a" / "sick_score.nii.gz", score, AFFINE)
    assert evaluate(manifest, "--results", tmp_path / "a") == 42
    assert "NaN" in capsys.readouterr().err


def test_a_score_map_of_zeros_shows_no_region(tmp_path: Path, capsys: Captured) -> None:
    manifest = two_scans(tmp_path)
    save_nifti(tmp_path / "a" / "sick_score.nii.gz", np.zeros(SHAPE, np.float32), AFFINE)
    assert evaluate(manifest, "--results", tmp_path / "a") == 42
    assert "no region to judge in" in capsys.readouterr().err


def test_result_folders(tmp_path: Path) -> None:
    (tmp_path / "run=1").mkdir()
    (tmp_path / "b").mkdir()
    named = parse_results([f"first={tmp_path / 'b'}", str(tmp_path / "run=1")])
    assert [one.name for one in named] == ["first", "run=1"]
    refused(UsageError, parse_results, [str(tmp_path / "no")], says=["no folder of results"])
    twice = [str(tmp_path / "b")] * 2
    refused(UsageError, parse_results, twice, says=["'b'", "NAME=DIR"])


def test_bundles_belong_to_result_sets(tmp_path: Path) -> None:
    a, b = ResultSet("a", tmp_path), ResultSet("b", tmp_path)
    assert parse_bundles(["x"], [a]) == {"a": "x"}
    assert parse_bundles(["b=x", "a=y"], [a, b]) == {"b": "x", "a": "y"}
    refused(UsageError, parse_bundles, ["x"], [a, b], says=["which results", "NAME=x"])
    with pytest.raises(UsageError, match="no results 'c'"):
        parse_bundles(["c=x"], [a, b])


def test_thresholds_of_a_bundle(tmp_path: Path) -> None:
    manifest = cohort(tmp_path)
    chosen = ["--results", tmp_path / "a", "--bundle", "brain_t1_ae"]
    assert evaluate(manifest, *chosen) == 0
    found = facts(manifest)["results"]["a"]["healthy_thresholds"]
    assert found["source"] == "the calibration of bundle brain_t1_ae"
    rates = list(found["by_rate"].values())
    assert len(rates) == 3
    assert rates == sorted(rates, reverse=True)
    assert evaluate(manifest, "--results", tmp_path / "a", "--bundle", "brain_t1_a") == 2


# Manifests


def test_results_lie_in_the_folders_that_segment_keeps(tmp_path: Path) -> None:
    """Of images in `T1/s1/`, results may be in `T1/s1/`, `s1/` or none, as segment was called."""
    rows = [{"image": f"T1/{s}/head.nii.gz", "lesion": ""} for s in ("s1", "s2")]
    manifest = read_rows(save_manifest(tmp_path / "m.csv", rows))
    assert [row.label for row in manifest] == ["T1/s1/head", "T1/s2/head"]
    assert [row.subject for row in manifest] == ["T1/s1/head", "T1/s2/head"]
    results = ResultSet("a", tmp_path / "a")
    for name in ("s1/head", "T1/s2/head"):
        save_result(results.folder, name, block((2, 2, 2)))
    found = locate(manifest, results, allow_missing=False)
    places = [one.mask.relative_to(results.folder).as_posix() for one in found if one]
    assert places == ["s1/head_mask.nii.gz", "T1/s2/head_mask.nii.gz"]
    # One file for both scans is a mistake, not two results.
    shutil.rmtree(results.folder)
    save_result(results.folder, "head", block((2, 2, 2)))
    says = ["would be the mask of", "`name`"]
    refused(InputError, locate, manifest, results, False, says=says)
    shutil.rmtree(results.folder)
    results.folder.mkdir()
    refused(InputError, locate, manifest, results, True, says=["holds none"])


def test_manifest_columns(tmp_path: Path) -> None:
    rows = [
        {"image": "x.nii.gz", "lesion": "l.nii.gz", "subject": "p1", "site": " A "},
        {"name": "sub/y", "lesion": " ", "brain_mask": "b.nii.gz", "site": ""},
    ]
    manifest = save_manifest(tmp_path / "m.csv", rows)
    x, y = read_rows(manifest, by=["site"])
    assert (x.name, x.subject, x.lesion) == ("x", "p1", tmp_path / "l.nii.gz")
    assert (y.name, y.subject, y.lesion) == ("sub/y", "sub/y", None)
    assert y.brain_mask == tmp_path / "b.nii.gz"
    assert [dict(row.groups) for row in (x, y)] == [{"site": "A"}, {"site": ""}]
    assert read_rows(manifest, tmp_path / "data")[0].lesion == tmp_path / "data" / "l.nii.gz"


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("image\nx.nii.gz\n", InputError, ["no column 'lesion'"]),
        ("file,lesion\nx,\n", InputError, ["no column 'image' or 'name'"]),
        ("image,lesion\n", InputError, ["names no scans"]),
        ("image,lesion\n,l.nii.gz\n", InputError, ["line 2", "neither"]),
        ("image,lesion\nx.nii.gz,a,b\n", InputError, ["line 2", "more cells"]),
        ("name,lesion\n../x,\n", InputError, ["line 2", "leads out"]),
        ("image,lesion\nx.nii.gz,\nx.nii.gz,\n", InputError, ["line 3", "line 2", "again"]),
        ("image,lesion\nx.nii.gz,\n", UsageError, ["no column 'site'", "image, lesion"]),
    ],
)
def test_manifests_that_are_none(
    tmp_path: Path, text: str, error: type[InputError], says: Sequence[str]
) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    by = ["site"] if error is UsageError else []
    refused(error, read_rows, path, None, by, says=says)


def test_a_column_with_a_value_a_scan_makes_no_subgroups(tmp_path: Path) -> None:
    rows = [{"image": f"{k}.nii.gz", "lesion": "", "age": str(k)} for k in range(21)]
    path = save_manifest(tmp_path / "m.csv", rows)
    refused(UsageError, read_rows, path, None, ["age"], says=["21 values", "at most 20"])
