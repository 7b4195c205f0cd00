"""What `volad evaluate` takes and refuses: grids, files, folders of results, manifests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from evaluate_helpers import (
    AFFINE,
    SHAPE,
    block,
    cohort,
    evaluate,
    facts,
    noisy,
    save_manifest,
    save_result,
    two_scans,
)
from io_helpers import refused, save_nifti

from volad import bundle
from volad.calibrate import load_threshold
from volad.errors import InputError, UsageError
from volad.evaluate.files import ResultSet, locate, parse_results, read_cases
from volad.evaluate.manifest import read_rows
from volad.evaluate.run import parse_bundles

Captured = pytest.CaptureFixture[str]


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


def test_a_bundle_with_thresholds_by_contrast_judges_each_scan_by_its_own(tmp_path: Path) -> None:
    manifest = cohort(tmp_path, lesioned=2, healthy=0)
    for number, contrast in enumerate(("t1", "t2")):
        sidecar = tmp_path / "a" / f"scan{number}_mask.json"
        found = json.loads(sidecar.read_text()) if sidecar.exists() else {}
        sidecar.write_text(json.dumps({**found, "threshold": {"contrast": contrast}}))
    assert evaluate(manifest, "--results", tmp_path / "a", "--bundle", "brain_mr_any") == 0
    found = facts(manifest)["results"]["a"]["healthy_thresholds"]
    assert set(found["contrasts"]) == {"t1", "t2", "flair", "pd"}
    path = bundle.find("brain_mr_any") / "models" / "calibration.json"
    for rate, threshold in found["contrasts"]["t2"].items():
        own = load_threshold(path, float(rate))
        assert isinstance(own, dict)
        assert threshold == own["t2"] != found["by_rate"][rate] == own["otherwise"]
    rows = read_rows(manifest)
    places = locate(rows, ResultSet("a", tmp_path / "a"), allow_missing=False)
    reads = [read_cases(row, [place])[0] for row, place in zip(rows, places, strict=True)]
    assert [read.case.contrast for read in reads if read] == ["t1", "t2"]


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
