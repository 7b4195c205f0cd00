"""`volad synthesize`: a data set like any other, marked as synthetic, the same each time."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from synthetic_helpers import HEAD

from volad.cli import main
from volad.errors import InputError, UsageError
from volad.io import Scan, find_scans, read_mask, read_volume
from volad.synthetic import DEFAULT, Source, read_lesions, write_suite
from volad.synthetic.stored import NOTE

SMALL = {
    "lesions": [
        {"kind": "stroke", "mm3": 9000, "tissue": "anywhere"},
        {"kind": "ovoid", "mm3": 1500, "tissue": "white"},
    ],
    "volumes": 2,
    "mass_effects": [0, 0.4],
}


def save_coarse(folder: Path) -> Path:
    """The test data's head on voxels of 4 mm, as int16."""
    scan = nib.load(HEAD)
    values = ndimage.zoom(scan.get_fdata(), 0.5, order=1, grid_mode=True, mode="nearest")
    affine = scan.affine.copy()
    affine[:3, :3] *= 2
    affine[:3, 3] += scan.affine[:3, :3] @ [0.5, 0.5, 0.5]
    path = folder / "head.nii.gz"
    nib.save(nib.Nifti1Image(np.round(values).astype(np.int16), affine), path)
    return path


def save_inputs(folder: Path, suite: object = SMALL) -> list[str]:
    """A manifest of one coarse scan and a suite; returns the command line without its output."""
    save_coarse(folder)
    (folder / "scans.csv").write_text("subject,split,image,sha256\nsub1,test,head.nii.gz,\n")
    (folder / "small.json").write_text(json.dumps(suite))
    where = ["--data-dir", str(folder), "--suite", str(folder / "small.json")]
    return ["-q", str(folder / "scans.csv"), *where]


def synthesize(folder: Path, *more: str) -> int:
    return main(["synthesize", *save_inputs(folder), *more])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of one coarse scan; tests only read it."""
    folder = tmp_path_factory.mktemp("suite")
    assert synthesize(folder, "-o", str(folder / "suite")) == 0
    return folder / "suite"


def manifest(suite: Path) -> list[dict[str, str]]:
    with (suite / "manifest.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def contents(suite: Path) -> dict[str, bytes]:
    files = sorted(p for p in suite.rglob("*") if p.is_file())
    return {p.relative_to(suite).as_posix(): p.read_bytes() for p in files}


def test_it_holds_a_clean_an_atrophic_and_the_lesioned_volumes(made: Path) -> None:
    rows = manifest(made)
    assert [row["kind"] for row in rows] == ["clean", "atrophy", "lesions", "lesions"]
    columns = "image,name,lesion,brain_mask,subject,source,kind,contrast,texture,mass_effect"
    assert ",".join(rows[0]) == f"{columns},size_bin,mm3,synthetic,seed"
    assert [bool(row["lesion"]) for row in rows] == [False, False, True, True]
    assert {row["subject"] for row in rows} == {"sub1"}
    assert [row["mass_effect"] for row in rows] == ["", "", "0", "0.4"]
    assert [float(row["contrast"]) for row in rows[2:]] == list(DEFAULT.contrasts[:2])


def test_everything_says_that_it_is_synthetic(made: Path) -> None:
    for row in manifest(made):
        assert row["synthetic"] == "yes"
        assert row["name"].endswith("_synthetic")
        files = [row["image"], row["brain_mask"], *([row["lesion"]] if row["lesion"] else [])]
        for file in files:
            assert "_synthetic" in file
            assert nib.load(made / file).header["descrip"].item().decode() == NOTE
        sidecar = json.loads((made / "images" / f"{row['name']}.json").read_text())
        assert sidecar["synthetic"] is True
    assert json.loads((made / "suite.json").read_text())["synthetic"] is True
    assert all(row.synthetic == "yes" for row in read_lesions(made / "lesions.csv"))


def test_the_clean_control_is_the_scan_bit_for_bit(made: Path) -> None:
    clean, atrophy, *_ = manifest(made)
    source = nib.load(made.parent / "head.nii.gz")
    copy = nib.load(made / clean["image"])
    assert copy.get_data_dtype() == source.get_data_dtype()
    assert np.array_equal(np.asarray(copy.dataobj), np.asarray(source.dataobj))
    assert np.array_equal(copy.affine, source.affine)
    unusual = np.asarray(nib.load(made / atrophy["image"]).dataobj)
    assert not np.array_equal(unusual, np.asarray(source.dataobj))


def test_the_tables_agree_with_the_label_maps(made: Path) -> None:
    lesions = read_lesions(made / "lesions.csv")
    for row in manifest(made)[2:]:
        image = nib.load(made / row["lesion"])
        labels = np.asarray(image.dataobj)
        mine = [lesion for lesion in lesions if lesion.name == row["name"]]
        assert [lesion.label for lesion in mine] == list(np.unique(labels)[1:])
        for lesion in mine:
            mask = labels == lesion.label
            assert lesion.mm3 == mask.sum() * 64
            assert lesion.size_bin == DEFAULT.size_bin(lesion.mm3)
            centre = nib.affines.apply_affine(image.affine, ndimage.center_of_mass(mask))
            np.testing.assert_allclose(centre, (lesion.x_mm, lesion.y_mm, lesion.z_mm), atol=0.01)
        assert float(row["mm3"]) == (labels > 0).sum() * 64


def test_it_is_a_data_set_like_any_other(made: Path) -> None:
    rows = manifest(made)
    whole, bare = find_scans(made / "manifest.csv"), find_scans(made / "scans.csv")
    assert (
        [scan.name for scan in whole] == [scan.name for scan in bare] == [r["name"] for r in rows]
    )
    assert all(scan.brain_mask is None for scan in bare)
    for scan, row in zip(whole, rows, strict=True):
        volume = read_volume(scan)
        assert scan.brain_mask is not None
        brain = read_mask(scan.brain_mask, volume)
        if row["lesion"]:
            assert not (read_mask(made / row["lesion"], volume) & ~brain).any()
    # A search of the folder takes no mask for a scan.
    assert {scan.path for scan in find_scans(made)} == {made / row["image"] for row in rows}


def test_the_same_call_makes_the_same_bytes_and_another_seed_others(
    made: Path, tmp_path: Path
) -> None:
    assert synthesize(tmp_path, "-o", str(tmp_path / "again")) == 0
    assert contents(tmp_path / "again") == contents(made)
    assert synthesize(tmp_path, "-o", str(tmp_path / "other"), "--seed", "1") == 0
    other = contents(tmp_path / "other")
    same = [name for name, content in contents(made).items() if other.get(name) == content]
    lesioned = [name for name in same if "lesions" in name and name.endswith(".nii.gz")]
    assert lesioned == []
    assert any("clean" in name for name in same)


def test_what_is_whole_is_kept_and_what_is_not_is_made_again(made: Path, tmp_path: Path) -> None:
    output = shutil.copytree(made, tmp_path / "suite")
    first, second = (output / row["image"] for row in manifest(output)[2:])
    os.utime(first, (1, 1))
    second.unlink()
    (output / "manifest.csv").unlink()
    assert synthesize(tmp_path, "-o", str(output)) == 0
    assert first.stat().st_mtime == 1
    assert contents(output) == contents(made)


def test_other_settings_make_a_volume_anew(made: Path, tmp_path: Path) -> None:
    output = shutil.copytree(made, tmp_path / "suite")
    before = contents(output)
    stronger = [*save_inputs(tmp_path, {**SMALL, "atrophy": 2.0}), "-o", str(output)]
    assert main(["synthesize", *stronger]) == 0
    changed = {name for name, content in contents(output).items() if before[name] != content}
    name = "images/head_atrophy_synthetic"
    assert changed == {f"{name}.nii.gz", f"{name}.json", "suite.json"}


def test_wrong_calls_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert synthesize(tmp_path, "-o", str(tmp_path)) == 2
    assert synthesize(tmp_path, "-o", str(tmp_path / "s"), "--split", "train") == 42
    assert synthesize(tmp_path, "-o", str(tmp_path / "s"), "-b", "no_such") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "something other than a suite" in lines[0]
    assert "no scan in the split 'train'" in lines[1]
    assert "no bundle 'no_such'" in lines[2]


def test_two_scans_of_one_name_are_refused(tmp_path: Path) -> None:
    scans = [Source(part, Scan(tmp_path / part / "t1.nii.gz", "t1")) for part in "ab"]
    with pytest.raises(InputError, match="both be written as 't1'"):
        write_suite(scans, tmp_path / "suite")
    with pytest.raises(UsageError, match="no healthy scans"):
        write_suite([], tmp_path / "suite")
