"""What cannot work is refused in one line with the right exit code, and leaves nothing behind."""

from __future__ import annotations

import builtins
import csv
import errno
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from io_helpers import patched, phantom, save_dicom, save_nifti
from pipeline_helpers import bundle_copy, files_below, grid, head, save_head, segment

Captured = pytest.CaptureFixture[str]

PERMANENT, WRONG_CALL, RETRY, SOME_FAILED = 42, 2, 1, 3


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder for results that is not there yet."""
    return tmp_path / "out"


@pytest.fixture
def refused(out: Path, capfd: Captured) -> Callable[..., None]:
    """Run `volad segment` and assert one line on stderr, the exit code, and no output."""

    def check(scan: Path, *options: object, code: int, says: list[str]) -> None:
        assert segment(scan, "-o", out, *options) == code
        captured = capfd.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        assert line.startswith("volad: ")
        for words in says:
            assert words in line
        assert not out.exists() or files_below(out) == []

    return check


def floats(*numbers: float) -> bytes:
    return np.array(numbers, "<f4").tobytes()


def truncated(folder: Path) -> Path:
    whole = save_head(folder / "scan.nii.gz").read_bytes()
    (folder / "scan.nii.gz").write_bytes(whole[: len(whole) // 2])
    return folder / "scan.nii.gz"


def text(folder: Path) -> Path:
    (folder / "scan.nii.gz").write_text("The scan is on the other disk.\n")
    return folder / "scan.nii.gz"


def packed_text(folder: Path) -> Path:
    (folder / "scan.nii.gz").write_bytes(gzip.compress(b"The scan is on the other disk.\n" * 40))
    return folder / "scan.nii.gz"


def empty_file(folder: Path) -> Path:
    (folder / "scan.nii.gz").touch()
    return folder / "scan.nii.gz"


def empty_folder(folder: Path) -> Path:
    (folder / "scans").mkdir()
    return folder / "scans"


def voxels_of(data: np.ndarray) -> Callable[[Path], Path]:
    return lambda folder: save_nifti(folder / "scan.nii.gz", data, grid())


def header_of(at: int, content: bytes) -> Callable[[Path], Path]:
    return lambda folder: patched(folder / "scan.nii", at, content)


def with_voxel(value: float) -> np.ndarray:
    data = head(1).astype(np.float32)
    data[20, 20, 20] = value
    return data


RGB = np.zeros((5, 6, 7), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: folder / "scan.nii.gz", ["does not exist", "check the path"]),
        (truncated, ["truncated or damaged", "copy or export it again"]),
        (text, ["is not a NIfTI file", "dcm2niix"]),
        (packed_text, ["is not a NIfTI file", "dcm2niix"]),
        (empty_file, ["scan.nii.gz", "; "]),
        (empty_folder, ["no scans in it", "name the right folder"]),
        (voxels_of(phantom(shape=(6, 7))), ["2D, 6 x 7", "give the whole 3D volume"]),
        (voxels_of(phantom(shape=(6, 1, 7))), ["2D, 6 x 1 x 7", "give the whole 3D volume"]),
        (voxels_of(phantom(shape=(5, 6, 7, 3))), ["4D with 3 volumes", "--volume K (0 to 2)"]),
        (voxels_of(phantom(np.complex64)), ["complex values", "export the magnitude image"]),
        (voxels_of(RGB), ["RGB", "export one grey channel"]),
        (voxels_of(with_voxel(np.nan)), ["1 of 84480 voxels are NaN", "replace them"]),
        (voxels_of(with_voxel(np.inf)), ["1 of 84480 voxels are NaN or inf", "replace them"]),
        (voxels_of(np.full((5, 6, 7), 3.0)), ["every voxel is 3", "export the scan again"]),
        (header_of(84, floats(0)), ["spacing must be positive", "correct the header"]),
        (header_of(84, floats(-2)), ["spacing must be positive", "correct the header"]),
        (header_of(280, floats(0, 0, 0, 5)), ["affine is singular", "correct the header's sform"]),
        (header_of(280, floats(np.nan)), ["NaN or Inf", "correct the header"]),
        # Readable, but no CT.
        (voxels_of(phantom()), ["is not in Hounsfield units", "rescale slope and intercept"]),
    ],
)
def test_scans_that_can_never_work(
    tmp_path: Path, make: Callable[[Path], Path], says: list[str], refused: Callable[..., None]
) -> None:
    scan = make(tmp_path)
    refused(scan, code=PERMANENT, says=[f"{scan}: ", *says])


def test_a_folder_of_two_series(tmp_path: Path, refused: Callable[..., None]) -> None:
    for number in ("1.2.1", "1.2.2"):
        save_dicom(tmp_path / "dicom", phantom(np.uint16), np.eye(4), series=number)
    says = [str(tmp_path / "dicom"), "2 DICOM series", "choose one with --series ID: 1.2.1"]
    refused(tmp_path / "dicom", code=PERMANENT, says=says)


def test_a_file_that_this_user_may_not_read(
    tmp_path: Path, refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, really = save_head(tmp_path / "scan.nii.gz"), builtins.open

    def forbid(file: Any, *args: Any, **options: Any) -> Any:
        if file == scan:  # root may read anything, so permission bits would prove nothing
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return really(file, *args, **options)

    monkeypatch.setattr(builtins, "open", forbid)
    says = [f"{scan}: permission denied", "make it readable for this user"]
    refused(scan, code=PERMANENT, says=says)


def test_a_disk_that_fails_is_worth_a_retry(
    tmp_path: Path, refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, really = save_head(tmp_path / "scan.nii.gz"), builtins.open

    def fail(file: Any, *args: Any, **options: Any) -> Any:
        if file == scan:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
        return really(file, *args, **options)

    monkeypatch.setattr(builtins, "open", fail)
    refused(scan, code=RETRY, says=[f"{scan}: reading failed", "try again"])


@pytest.mark.parametrize(
    ("mask", "affine", "says"),
    [
        (np.zeros((40, 48, 44), np.uint8), grid(), ["the mask is empty", "make it again"]),
        (np.ones((40, 48, 43), np.uint8), grid(), ["its shape (40, 48, 43) is not", "resample"]),
        (np.ones((40, 48, 44), np.uint8), grid() * 1.5, ["its affine is up to", "resample"]),
        (None, None, ["does not exist", "check the path"]),
    ],
)
def test_a_brain_mask_that_does_not_fit(
    tmp_path: Path,
    mask: np.ndarray | None,
    affine: np.ndarray,
    says: list[str],
    refused: Callable[..., None],
) -> None:
    scan, brain = save_head(tmp_path / "scan.nii.gz"), tmp_path / "brain.nii.gz"
    if mask is not None:
        save_nifti(brain, mask, affine)
    refused(scan, "--brain-mask", brain, code=PERMANENT, says=[f"{brain}: ", *says])


def test_a_volume_that_is_not_there(tmp_path: Path, refused: Callable[..., None]) -> None:
    scan = save_nifti(tmp_path / "scan.nii.gz", phantom(shape=(5, 6, 7, 3)))
    says = [f"{scan}: has 3 volumes, no number 7", "count from 0"]
    refused(scan, "--volume=7", code=PERMANENT, says=says)


# Outputs


@pytest.mark.parametrize("below", ["", "/deep/er"])
def test_an_output_folder_that_is_a_file(tmp_path: Path, below: str, capfd: Captured) -> None:
    scan = save_head(tmp_path / "scan.nii.gz")
    (tmp_path / "taken").write_text("mine")
    assert segment(scan, "-o", f"{tmp_path / 'taken'}{below}") == WRONG_CALL
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"volad: {tmp_path / 'taken'}{below}: a file is where a folder must be; "
        "name another output folder\n"
    )
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_read_only_output_is_told_before_the_work(
    tmp_path: Path, out: Path, refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = save_head(tmp_path / "scan.nii.gz")

    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def too_late(*_: object) -> None:
        raise AssertionError("the scan was segmented for nothing")

    monkeypatch.setattr(Path, "write_bytes", read_only)
    monkeypatch.setattr("volad.batch.reader.prepare", too_late)
    says = [f"{out}: cannot be written", "Read-only file system", "name another output folder"]
    refused(scan, code=RETRY, says=says)


@pytest.mark.parametrize("full_at", range(5))
def test_a_full_disk_leaves_whole_files_and_no_sidecar(
    tmp_path: Path, out: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch, full_at: int
) -> None:
    """Whichever file the disk is full at: those before it are whole, none is partial."""
    order = ["mask.nii.gz", "score.nii.gz", "lesions.csv", "report.html", "mask.json"]
    scan, synced, really = save_head(tmp_path / "scan.nii.gz"), 0, os.fsync

    def fill(file: int) -> None:
        nonlocal synced
        if synced == full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synced += 1
        really(file)

    out.mkdir()
    (out / "scan_mask.json").write_text("an earlier run's")
    monkeypatch.setattr(os, "fsync", fill)
    assert segment(scan, "-o", out) == RETRY
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"volad: {out}: the disk is full; free space or name another output folder\n"
    )
    assert files_below(out) == sorted(f"scan_{kind}" for kind in order[:full_at])


# Bundles


def test_damaged_weights(tmp_path: Path, refused: Callable[..., None]) -> None:
    scan, root = save_head(tmp_path / "scan.nii.gz"), bundle_copy(tmp_path)
    weights = root / "models" / "model.pt"
    whole = weights.read_bytes()
    for content in (whole[: len(whole) // 2], b"no weights", b""):
        weights.write_bytes(content)
        says = [f"{weights}: the weights are unreadable or damaged", "get the bundle again"]
        refused(scan, "-b", root, code=WRONG_CALL, says=says)
    weights.unlink()
    says = [f"{weights}: the bundle has no weights", "volad train"]
    refused(scan, "-b", root, code=WRONG_CALL, says=says)


def test_weights_of_another_network(tmp_path: Path, refused: Callable[..., None]) -> None:
    scan, root = save_head(tmp_path / "scan.nii.gz"), bundle_copy(tmp_path)
    weights = root / "models" / "model.pt"
    stored = torch.load(weights, weights_only=True)
    lost = next(iter(stored))
    stored.pop(lost)
    torch.save(stored, weights)
    says = [f"{weights}: the weights do not fit", lost, "get the bundle again"]
    refused(scan, "-b", root, code=WRONG_CALL, says=says)


def test_scores_that_are_not_finite(tmp_path: Path, refused: Callable[..., None]) -> None:
    scan, root = save_head(tmp_path / "scan.nii.gz"), bundle_copy(tmp_path)
    weights = root / "models" / "model.pt"
    stored = torch.load(weights, weights_only=True)
    torch.save({name: torch.full_like(value, torch.nan) for name, value in stored.items()}, weights)
    says = [f"{scan}: the model gave scores that are not finite", "--device cpu"]
    refused(scan, "-b", root, code=RETRY, says=says)


@pytest.mark.parametrize("name", ["inference", "metadata"])
@pytest.mark.parametrize("content", ["{", None])
def test_a_bundle_that_is_not_whole(
    tmp_path: Path, name: str, content: str | None, refused: Callable[..., None]
) -> None:
    scan, root = save_head(tmp_path / "scan.nii.gz"), bundle_copy(tmp_path)
    config = root / "configs" / f"{name}.json"
    if content is None:
        config.unlink()
    else:
        config.write_text(content)
    says = [str(root), "; " if content is None else "JSON"]
    refused(scan, "-b", root, code=WRONG_CALL, says=says)


# Batches


def test_one_bad_scan_among_good_ones(tmp_path: Path, out: Path, capfd: Captured) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in ("a", "c"):
        save_head(scans / f"{name}.nii.gz")
    (scans / "b.nii.gz").write_text("no scan")
    assert segment(scans, "-o", out, "--json", "--no-report") == SOME_FAILED

    captured = capfd.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith(f"volad: {scans / 'b.nii.gz'}: is not a NIfTI file; ")
    # As they end, and a file that cannot be read ends at once.
    rows = sorted(map(json.loads, captured.out.splitlines()), key=lambda row: row["name"])
    assert [(row["name"], row["exit_code"]) for row in rows] == [("a", 0), ("b", 42), ("c", 0)]
    assert f"volad: {rows[1]['error']}" == line
    assert rows[1]["files"] == {}
    table = list(csv.DictReader((out / "statistics.csv").open()))
    assert [row["Name"] for row in table] == ["a", "b", "c"]
    assert [row["error"] for row in table] == ["", rows[1]["error"], ""]
    assert (table[1]["Num_Lesions"], table[1]["Num_Vox"]) == ("", "")
    assert rows[1]["scan_scores"] == {}
    assert [bool(row["scan_mean"]) for row in table] == [True, False, True]
    assert not [name for name in files_below(out) if name.startswith(("b", "."))]
    assert nib.load(out / "c_mask.nii.gz").shape == (40, 48, 44)


def test_two_scans_of_one_name(tmp_path: Path, refused: Callable[..., None]) -> None:
    (tmp_path / "scans").mkdir()
    for ending in (".nii", ".nii.gz"):
        save_head(tmp_path / "scans" / f"a{ending}")
    says = ["would both be written as 'a'", "rename one"]
    refused(tmp_path / "scans", code=PERMANENT, says=says)
