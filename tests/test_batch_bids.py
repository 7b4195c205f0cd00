"""A BIDS data set in, a BIDS derivative out."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from batch_helpers import batch
from pipeline_helpers import files_below, save_head, segment

import volad
from volad.errors import InputError, UsageError
from volad.io import find_scans

RAW = '{"Name": "raw", "BIDSVersion": "1.10.0"}'


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two subjects, one with two sessions and two runs; other contrasts, and results, beside."""
    folder = tmp_path / "raw"
    for name in (
        "sub-01/anat/sub-01_ct.nii.gz",
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_run-1_ct.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_run-2_ct.nii",
        "sub-02/ses-b/anat/sub-02_ses-b_ct.nii.gz",
        "sub-02/ses-b/func/sub-02_ses-b_task-rest_ct.nii.gz",
        "derivatives/x/sub-01/anat/sub-01_ct.nii.gz",
        "sourcedata/sub-01/anat/sub-01_ct.nii.gz",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not read here")
    (folder / "dataset_description.json").write_text(RAW)
    return folder


def test_scans_of_one_contrast_are_found(raw: Path) -> None:
    found = find_scans(raw, bids_suffix="ct")
    assert [(scan.group.as_posix(), scan.name) for scan in found] == [
        ("sub-01/anat", "sub-01"),
        ("sub-02/ses-a/anat", "sub-02_ses-a_run-1"),
        ("sub-02/ses-a/anat", "sub-02_ses-a_run-2"),
        ("sub-02/ses-b/anat", "sub-02_ses-b"),
    ]
    assert {scan.bids_suffix for scan in found} == {"ct"}
    assert [scan.name for scan in find_scans(raw)] == ["sub-01"]  # T1w
    with pytest.raises(InputError, match=r"no .*_FLAIR\.nii\.gz.*contrasts there: T1w, ct"):
        find_scans(raw, bids_suffix="FLAIR")


def test_a_folder_is_bids_where_it_or_the_user_says_so(raw: Path) -> None:
    plain = find_scans(raw, bids=False)
    assert len(plain) == 8
    assert {scan.bids_suffix for scan in plain} == {""}
    (raw / "dataset_description.json").write_text(
        RAW.replace("}", ', "DatasetType": "derivative"}')
    )
    assert find_scans(raw) == plain
    assert len(find_scans(raw, bids=True, bids_suffix="ct")) == 4
    for text in ("{}", "[]", "no JSON", '{"BIDSVersion": ""}'):
        (raw / "dataset_description.json").write_text(text)
        assert find_scans(raw) == plain
    with pytest.raises(UsageError, match="is no folder"):
        find_scans(raw / "sub-01" / "anat" / "sub-01_ct.nii.gz", bids=True)


def test_a_subject_in_two_formats_is_refused(raw: Path) -> None:
    (raw / "sub-01" / "anat" / "sub-01_ct.nii").write_text("twice")
    with pytest.raises(InputError, match="would both be written as 'sub-01'"):
        find_scans(raw, bids_suffix="ct")


def test_results_are_a_derivative(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    for name in ("sub-01/anat/sub-01_ct", "sub-02/ses-a/anat/sub-02_ses-a_ct"):
        (raw / name).parent.mkdir(parents=True)
        save_head(raw / f"{name}.nii.gz")
    assert segment(raw, "-o", out, "--bids", "--save-healthy", "--save-brain") == 0
    one, two = "sub-01/anat/sub-01", "sub-02/ses-a/anat/sub-02_ses-a"
    kinds = [
        *("desc-volad_report.html", "space-orig_desc-healthy_ct.nii.gz"),
        *("space-orig_desc-volad_lesions.csv", "space-orig_desc-volad_score.nii.gz"),
        *("space-orig_label-L_desc-volad_mask.json", "space-orig_label-L_desc-volad_mask.nii.gz"),
        "space-orig_label-brain_desc-volad_mask.nii.gz",
    ]
    once = ["dataset_description.json", "index.html", "statistics.csv"]
    once += ["volad-plan.json", "volad.jsonl"]
    assert files_below(out) == sorted(
        [*(f"{name}_{kind}" for name in (one, two) for kind in kinds), *once]
    )
    facts = json.loads((out / f"{two}_{kinds[4]}").read_text())
    assert facts["Type"] == "Lesion"
    assert facts["Sources"] == ["bids:raw:sub-02/ses-a/anat/sub-02_ses-a_ct.nii.gz"]
    assert facts["SpatialReference"] == "orig"
    about = json.loads((out / "dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative"
    assert about["GeneratedBy"] == [{"Name": "volad", "Version": volad.__version__}]
    assert about["DatasetLinks"] == {"raw": raw.as_uri()}
    table = list(csv.DictReader((out / "statistics.csv").open()))
    assert [row["Name"] for row in table] == [one, two]
    again = batch(raw, out, resume=True, bids=True, report=True, save_healthy=True, save_brain=True)
    assert [outcome.resumed for outcome in again.run()] == [True, True]
