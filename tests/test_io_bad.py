"""Scans that would silently give nonsense are refused, in one line and without chatter."""

from __future__ import annotations

import builtins
import errno
import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from io_helpers import patched, phantom, read, refused, save_nifti, turned

import volad
from volad.errors import InputError, VoladError
from volad.io import Scan, read_mask, read_volume
from volad.io.check import check
from volad.io.guard import quiet


@pytest.fixture(autouse=True)
def silence(capfd: pytest.CaptureFixture[str]) -> object:
    """No library may print anything, whatever is wrong."""
    yield
    assert capfd.readouterr() == ("", "")


def float32(*numbers: float) -> bytes:
    return np.array(numbers, "<f4").tobytes()


def int16(*numbers: int) -> bytes:
    return np.array(numbers, "<i2").tobytes()


RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (phantom(shape=(6, 7)), ["2D, 6 x 7", "whole 3D"]),
        (phantom(shape=(6, 7, 1)), ["2D, 6 x 7 x 1", "whole 3D"]),
        (phantom(shape=(1, 6, 7)), ["2D, 1 x 6 x 7", "whole 3D"]),
        (phantom(np.complex64), ["complex", "magnitude"]),
        (np.zeros((5, 6, 7), RGB), ["RGB", "grey channel"]),
        (np.full((5, 6, 7), 3, np.int16), ["every voxel is 3", "export the scan again"]),
        (phantom(shape=(5, 6, 7, 4)), ["4D with 4 volumes", "--volume K (0 to 3)"]),
        (phantom(shape=(5, 6, 7, 1, 3)), ["5D, 5 x 6 x 7 x 1 x 3", "one 3D volume"]),
    ],
)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_unfit_data(tmp_path: Path, data: np.ndarray, says: list[str], ending: str) -> None:
    scan = tmp_path / f"scan{ending}"
    nib.Nifti1Image(data, turned()).to_filename(scan)
    refused(InputError, read, scan, says=[f"{scan}: ", *says])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers_are_counted(tmp_path: Path, bad: float) -> None:
    data = phantom(np.float32)
    data[2, 3, 1:4] = bad
    scan = save_nifti(tmp_path / "scan.nii", data)
    refused(InputError, read, scan, says=["scan.nii", "3 of 210 voxels are NaN", "replace them"])
    huge = phantom(np.float64)
    huge[0, 0, 0] = 1e300  # beyond float32
    refused(InputError, read, save_nifti(tmp_path / "huge.nii", huge), says=["1 of 210 voxels"])


@pytest.mark.parametrize("spacing", [0.0, -2.0, np.nan, np.inf])
def test_unfit_spacing(tmp_path: Path, spacing: float) -> None:
    scan = patched(tmp_path / "scan.nii", 84, float32(spacing))  # pixdim[2]
    says = ["scan.nii", "spacing must be positive", f"{spacing:g}", "correct the header"]
    refused(InputError, read, scan, says=says)


@pytest.mark.parametrize(
    ("at", "content", "says"),
    [
        (280, float32(0, 0, 0, 5), ["singular", "correct the header's sform"]),  # srow_x
        (280, float32(np.nan), ["NaN or Inf", "correct the header"]),
        (292, float32(np.inf), ["NaN or Inf", "correct the header"]),  # srow_x's offset
        (296, float32(1, 1, 1) + float32(0) + float32(1, 1, 1), ["singular"]),
        (70, int16(1), ["header is invalid", "convert the scan again"]),  # datatype: binary
        (70, int16(999), ["header is invalid", "convert the scan again"]),
        (112, float32(2, np.nan), ["header is invalid", "convert the scan again"]),  # scl_inter
        (344, b"ni1\0", ["is not a NIfTI file", "dcm2niix"]),  # a header without its .img
        (40, int16(3, 5, 0, 7), ["empty, 5 x 0 x 7 voxels", "export"]),
        (40, int16(4, 5, 6, 7, 0), ["empty, 5 x 6 x 7 x 0 voxels", "export"]),
        (40, int16(3, 5, 6, 8), ["truncated", "copy or export it again"]),  # a slice too many
    ],
)
def test_unfit_headers(tmp_path: Path, at: int, content: bytes, says: list[str]) -> None:
    refused(InputError, read, patched(tmp_path / "scan.nii", at, content), says=["scan.nii", *says])


def test_a_damaged_header_does_not_take_all_memory(tmp_path: Path) -> None:
    plain = patched(tmp_path / "scan.nii", 40, int16(3, 32000, 32000, 32000))
    packed = tmp_path / "packed.nii.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for scan in (plain, packed):
        refused(InputError, read, scan, says=[scan.name, "131072000000000 bytes of voxels"])


def test_nibabel_is_silent_too(tmp_path: Path) -> None:
    """In a process of its own, since nibabel keeps the stderr it met when imported."""
    patched(tmp_path / "datatype.nii", 70, int16(999))
    patched(tmp_path / "qfac.nii", 76, float32(0))
    code = "import sys, pathlib; from volad.io.nifti import load_nifti\n"
    code += "from volad.errors import InputError\n"
    code += "load_nifti(pathlib.Path('qfac.nii'))\n"
    code += "try: load_nifti(pathlib.Path('datatype.nii'))\nexcept InputError as e: print(e)"
    root = str(Path(volad.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root},
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("datatype.nii: the NIfTI header is invalid")


def test_threads_share_the_silence(capfd: pytest.CaptureFixture[str]) -> None:
    first, second = quiet(), quiet()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    os.write(2, b"lost")
    second.__exit__(None, None, None)
    os.write(2, b"heard")
    assert capfd.readouterr().err == "heard"


def test_a_quaternion_that_is_none(tmp_path: Path) -> None:
    scan = patched(tmp_path / "scan.nii", 252, int16(1, 0) + float32(3, 4, 5))  # qform_code, …
    refused(InputError, read, scan, says=["scan.nii", "no valid affine", "correct its sform"])


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize(
    "content", [b"", b"hello\n" * 200, gzip.compress(b"hello\n" * 200, mtime=0)]
)
def test_what_is_no_nifti(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refused(InputError, read, tmp_path / name, says=[name, "is not a NIfTI file", "give a .nii"])


CUTS = {
    "in the header": lambda whole: whole[:90],
    "in the voxels": lambda whole: whole[: len(whole) // 2],
    "in the checksum": lambda whole: whole[:-3],
    "a flipped bit": lambda whole: whole[:-30] + bytes([whole[-30] ^ 4]) + whole[-29:],
    "after its magic": lambda whole: whole[:3],
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_damaged_gzip(tmp_path: Path, cut: Callable[[bytes], bytes]) -> None:
    noise = np.random.default_rng(0).integers(0, 2000, (5, 6, 7)).astype(np.int16)
    scan = save_nifti(tmp_path / "scan.nii.gz", noise)
    scan.write_bytes(cut(scan.read_bytes()))
    refused(InputError, read, scan, says=[f"{scan}: is truncated or damaged", "export it again"])


def test_a_cut_off_plain_file(tmp_path: Path) -> None:
    scan = save_nifti(tmp_path / "scan.nii")
    scan.write_bytes(scan.read_bytes()[:-2])
    refused(InputError, read, scan, says=["scan.nii", "truncated", "export it again"])


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        (errno.EACCES, InputError, ["permission denied", "make it readable"]),
        (errno.EIO, VoladError, ["reading failed", "try again"]),
    ],
)
@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.mha", "scan.zip"])
def test_a_file_that_cannot_be_opened(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    code: int,
    kind: type[VoladError],
    says: list[str],
) -> None:
    (tmp_path / name).write_bytes(b"x")
    real = builtins.open

    def fail(file: object, *args: object, **kwargs: object) -> object:
        if str(file).endswith(name):
            raise OSError(code, os.strerror(code), str(file))
        return real(file, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(builtins, "open", fail)
    monkeypatch.setattr("io.open", fail)  # zipfile's way
    refused(kind, read_volume, Scan(tmp_path / name, "scan"), says=[name, *says])


def test_a_folder_in_a_files_place(tmp_path: Path) -> None:
    folder = tmp_path / "scan.nii.gz"
    folder.mkdir()
    says = ["scan.nii.gz", "no DICOM series", "give the folder"]
    refused(InputError, read_volume, Scan(folder, "scan"), says=says)
    refused(InputError, read, folder, says=["scan.nii.gz", "no scans in it", "right folder"])


def test_a_scan_that_went_away(tmp_path: Path) -> None:
    gone = Scan(tmp_path / "scan.nii", "scan")
    refused(InputError, read_volume, gone, says=["scan.nii", "does not exist", "check the path"])


@pytest.mark.parametrize("number", [3, -1])
def test_a_volume_that_is_not_there(tmp_path: Path, number: int) -> None:
    scan = save_nifti(tmp_path / "scan.nii", phantom(shape=(5, 6, 7, 3)))
    with pytest.raises(InputError, match=f"has 3 volumes, no number {number}; count from 0"):
        read(scan, volume=number)


def test_masks_off_the_grid(tmp_path: Path) -> None:
    volume = read(save_nifti(tmp_path / "scan.nii"))
    ones, both = np.ones((5, 6, 7), np.uint8), [str(tmp_path / "scan.nii"), "resample it"]
    small = save_nifti(tmp_path / "small.nii", ones[:4])
    refused(InputError, read_mask, small, volume, says=["small.nii", "(4, 6, 7)", *both])
    moved = turned()
    moved[1, 3] += 0.5
    off = save_nifti(tmp_path / "off.nii", ones, moved)
    refused(InputError, read_mask, off, volume, says=["off.nii", "0.5 mm off", *both])
    empty = save_nifti(tmp_path / "empty.nii", ones * 0)
    refused(InputError, read_mask, empty, volume, says=["empty.nii", "is empty", "leave it out"])
    gaps = save_nifti(tmp_path / "gaps.nii", np.where(phantom() == 4, np.nan, 1.0))
    refused(InputError, read_mask, gaps, volume, says=["gaps.nii", "NaN", "replace them"])
    gone = tmp_path / "gone.nii"
    refused(InputError, read_mask, gone, volume, says=["gone.nii", "does not exist"])
    moved[1, 3] = turned()[1, 3] + 5e-4
    assert read_mask(save_nifti(tmp_path / "near.nii", ones, moved), volume).all()


def test_check_takes_what_is_sound(tmp_path: Path) -> None:
    data, path = phantom(np.float32), tmp_path / "scan.nii"
    check(data, turned(), (0.9, 1.1, 2.3), path)
    refused(InputError, check, data, turned(), (0.9, 0, 2), path, says=["scan.nii", "(0.9, 0, 2)"])
    refused(InputError, check, data[0], turned(), (1, 1, 1), path, says=["scan.nii", "2D"])
    flat = turned() @ np.diag([1, 1, 0, 1])
    refused(InputError, check, data, flat, (1, 1, 1), path, says=["scan.nii", "singular"])
