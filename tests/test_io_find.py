"""What a path means: one scan, many, or a clear refusal."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from io_helpers import phantom, refused, save_dicom, save_nifti, turned

from volad.errors import InputError, VoladError
from volad.io import Scan, find_scans, input_sha256


def touch(*paths: Path) -> None:
    """Make files that finding has no need to open."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("scan.nii", "scan"),
        ("scan.v2.nii.gz", "scan.v2"),
        ("SCAN.NII.GZ", "SCAN"),
        ("scan.nrrd", "scan"),
        ("scan.nhdr", "scan"),
        ("scan.mha", "scan"),
        ("scan.mhd", "scan"),
        ("scan.zip", "scan"),
        ("old_mask.nii.gz", "old_mask"),
    ],
)
def test_a_file_is_a_scan(tmp_path: Path, file: str, name: str) -> None:
    touch(tmp_path / file)
    assert find_scans(str(tmp_path / file)) == [Scan(tmp_path / file, name)]


def test_a_folder_is_searched_in_order(tmp_path: Path) -> None:
    touch(tmp_path / "b.nii", tmp_path / "a.mha", tmp_path / "sub" / "deep" / "b.nii.gz")
    touch(tmp_path / ".hidden.nii", tmp_path / ".cache" / "c.nii", tmp_path / "notes.txt")
    touch(*(tmp_path / f"a{end}.nii.gz" for end in ("_mask", "_score", "_healthy", "_brainmask")))
    touch(tmp_path / "export.zip", tmp_path / "data.raw", tmp_path / ".nii.gz")
    assert find_scans(tmp_path) == [
        Scan(tmp_path / "a.mha", "a"),
        Scan(tmp_path / "b.nii", "b"),
        Scan(tmp_path / "sub" / "deep" / "b.nii.gz", "b", group=Path("sub/deep")),
    ]


def test_links_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path / "store" / "a.nii")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "link").symlink_to(tmp_path / "store")
    (tmp_path / "study" / "loop").symlink_to(tmp_path / "study")
    (tmp_path / "study" / "b.nii").symlink_to(tmp_path / "store" / "a.nii")
    found = [(scan.name, scan.group) for scan in find_scans(tmp_path / "study")]
    assert found == [("b", Path()), ("a", Path("link"))]


def test_series_folders(tmp_path: Path) -> None:
    series = tmp_path / "patient" / "T1"
    save_dicom(series, phantom(), turned(), ending="")
    touch(series / "notes.txt", tmp_path / "patient" / "DICOMDIR", tmp_path / "x.nii")
    (tmp_path / "patient" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    assert find_scans(series) == [Scan(series, "T1")]
    both = [Scan(series, "T1", group=Path("patient")), Scan(tmp_path / "x.nii", "x")]
    assert find_scans(tmp_path) == both
    touch(series / "T1.nii.gz")
    says = [str(series), "T1.nii.gz", "manifest"]
    refused(InputError, find_scans, series, says=says)
    refused(InputError, find_scans, tmp_path, says=says)


def test_a_series_folder_named_by_a_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_dicom(tmp_path / "T1", phantom(), turned())
    monkeypatch.chdir(tmp_path / "T1")
    assert [scan.name for scan in find_scans(".")] == ["T1"]


def test_csv_manifest(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii", tmp_path / "in" / "b.nii", tmp_path / "mask.nii")
    table = "\ufeffname,image , brain_mask,age\n,a.nii,,30\nsecond, in/b.nii ,mask.nii,40\n"
    (tmp_path / "list.csv").write_text(f"{table}third,{tmp_path / 'a.nii'}\n", encoding="utf-8")
    assert find_scans(tmp_path / "list.csv") == [
        Scan(tmp_path / "a.nii", "a"),
        Scan(tmp_path / "in" / "b.nii", "second", tmp_path / "mask.nii"),
        Scan(tmp_path / "a.nii", "third"),
    ]


def test_json_manifests(tmp_path: Path) -> None:
    touch(tmp_path / "a.nii", tmp_path / "b.nii", tmp_path / "c.nii", tmp_path / "m.nii")
    a = {"image": "a.nii", "name": "first", "brain_mask": "m.nii"}
    wanted = [Scan(tmp_path / "a.nii", "first", tmp_path / "m.nii"), Scan(tmp_path / "b.nii", "b")]
    plain, decathlon = tmp_path / "plain.json", tmp_path / "decathlon.json"
    plain.write_text(json.dumps([a, "./b.nii"]))
    assert find_scans(plain) == wanted
    content = {
        "labels": ["background", "lesion"],
        "modality": {"0": "MRI"},
        "training": [a, {"image": "b.nii", "label": "never_read.nii"}],
        "testing": ["./c.nii"],
        "numTest": 1,
    }
    decathlon.write_text(json.dumps(content))
    assert find_scans(decathlon) == [*wanted, Scan(tmp_path / "c.nii", "c")]


def test_a_manifest_may_name_a_series(tmp_path: Path) -> None:
    for series, count in (("1.2.3", 7), ("1.2.4", 5)):
        save_dicom(tmp_path / "s", phantom()[..., :count], np.eye(4), series=series)
    lists = tmp_path / "list.csv"
    lists.write_text("image,series\ns,1.2.4\n")
    assert find_scans(lists) == [Scan(tmp_path / "s", "s", series="1.2.4")]
    lists.write_text("image\ns\n")
    refused(InputError, find_scans, lists, says=["list.csv: line 2", "2 DICOM series", "1.2.3"])


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("l.csv", "path\na.nii\n", ["no column 'image'", "columns: path", "first line"]),
        ("l.csv", "", ["no column 'image'", "columns: none"]),
        ("l.csv", "image\n", ["names no scans", "add a line"]),
        ("l.csv", "name,image\na,\n", ["line 2", "no 'image'"]),
        ("l.csv", "image\na.nii\ngone.nii\n", ["line 3", "gone.nii", "does not exist"]),
        ("l.csv", "image,brain_mask\na.nii,gone.nii\n", ["line 2", "gone.nii", "does not exist"]),
        ("l.csv", "image,name\na.nii,../b\n", ["line 2", "'../b' is no file name"]),
        ("l.csv", "image\nempty\n", ["line 2", "empty", "no DICOM series"]),
        ("l.csv", b"image\n\xff\xfe\n", ["not UTF-8", "save the manifest"]),
        ("l.json", "{", ["is not JSON", "correct it"]),
        ("l.json", "3", ["names no scans"]),
        ("l.json", "{}", ["names no scans"]),
        ("l.json", '[{"image": ["a.nii", "b.nii"]}]', ["entry 1", "one scan"]),
        ("l.json", '{"training": [{"label": "a.nii"}]}', ["training 1", "no 'image'"]),
        ("l.json", '["gone.nii"]', ["entry 1", "gone.nii", "does not exist"]),
    ],
)
def test_bad_manifests(tmp_path: Path, file: str, content: str | bytes, says: list[str]) -> None:
    touch(tmp_path / "a.nii")
    (tmp_path / "empty").mkdir()
    written = content if isinstance(content, bytes) else content.encode()
    (tmp_path / file).write_bytes(written)
    refused(InputError, find_scans, tmp_path / file, says=[file, *says])


def test_two_scans_with_one_name(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a.nii", tmp_path / "in" / "a.nrrd")
    says = ["in/a.nii ", "in/a.nrrd ", "'a'", "rename one"]
    refused(InputError, find_scans, tmp_path / "in", says=says)
    (tmp_path / "l.csv").write_text("image\nin/a.nii\nin/a.nrrd\n")
    refused(InputError, find_scans, tmp_path / "l.csv", says=[*says, "l.csv", "`name`"])
    (tmp_path / "l.csv").write_text("image,name\nin/a.nii,one\nin/a.nrrd,two\n")
    assert [scan.name for scan in find_scans(tmp_path / "l.csv")] == ["one", "two"]


def test_nothing_to_find(tmp_path: Path) -> None:
    gone = tmp_path / "gone.nii"
    refused(InputError, find_scans, gone, says=["gone.nii", "does not exist", "check the path"])
    refused(InputError, find_scans, tmp_path, says=[str(tmp_path), "no scans", "right folder"])
    touch(tmp_path / "a_mask.nii.gz", tmp_path / "image.tiff")
    refused(InputError, find_scans, tmp_path, says=["no scans", "*_mask.nii.gz"])
    tiff = tmp_path / "image.tiff"
    refused(InputError, find_scans, tiff, says=["image.tiff", "unknown ending", ".nii.gz"])
    inside = tmp_path / "image.tiff" / "a.nii"
    refused(InputError, find_scans, inside, says=["a.nii", "is not a file"])


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        (errno.EACCES, InputError, ["permission denied", "make it readable"]),
        (errno.EIO, VoladError, ["reading failed", "try again"]),
    ],
)
def test_a_folder_that_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type, says: list[str]
) -> None:
    touch(tmp_path / "a.nii", tmp_path / "sub" / "b.nii")
    scandir = os.scandir

    def fail(path: object = ".") -> object:
        if str(path).endswith("sub"):
            raise OSError(code, os.strerror(code), str(path))
        return scandir(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", fail)
    refused(kind, find_scans, tmp_path, says=[str(tmp_path), *says])


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    import hashlib

    (scan,) = find_scans(save_nifti(tmp_path / "a.nii.gz"))
    assert input_sha256(scan) == hashlib.sha256(scan.path.read_bytes()).hexdigest()
    files = save_dicom(tmp_path / "series", phantom(), turned())
    (scan,) = find_scans(tmp_path / "series")
    every = b"".join(file.read_bytes() for file in sorted(files))
    assert input_sha256(scan) == hashlib.sha256(every).hexdigest()


def test_finding_imports_nothing_heavy() -> None:
    code = "import sys, volad.io.find, volad.io; volad.io.find_scans; volad.io.Scan\n"
    code += "print([m for m in ('torch', 'monai', 'nibabel', 'SimpleITK') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    import volad.io

    assert all(getattr(volad.io, name) is not None for name in volad.io.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        volad.io.nothing  # noqa: B018
