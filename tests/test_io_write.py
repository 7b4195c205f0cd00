"""Results are written whole or not at all, and the same result is the same bytes."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from io_helpers import phantom, read, refused, save_nifti, values

from volad.errors import UsageError, VoladError
from volad.io import (
    Volume,
    atomic,
    ensure_writable,
    write_json,
    write_map,
    write_mask,
    write_text,
)


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    (tmp_path / "in").mkdir()
    return read(save_nifti(tmp_path / "in" / "scan.nii.gz"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def fail(error: BaseException) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        raise error

    return call


def test_nothing_is_there_until_the_end(out: Path) -> None:
    with atomic(out / "scan_mask.nii.gz") as temporary:
        assert temporary.parent == out
        assert temporary.name.startswith(f".scan_mask.nii.gz.{os.getpid()}-")
        assert temporary.name.endswith(".tmp.nii.gz")
        temporary.write_bytes(b"whole")
        assert not (out / "scan_mask.nii.gz").exists()
    assert [file.name for file in out.iterdir()] == ["scan_mask.nii.gz"]
    assert (out / "scan_mask.nii.gz").read_bytes() == b"whole"


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit()])
def test_a_failure_leaves_the_old_file_and_nothing_else(out: Path, error: BaseException) -> None:
    (out / "a.json").write_text("old")

    def interrupted() -> None:
        with atomic(out / "a.json") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert [file.name for file in out.iterdir()] == ["a.json"]
    assert (out / "a.json").read_text() == "old"


@pytest.mark.parametrize("where", ["replace", "fsync"])
def test_a_full_disk_is_worth_a_retry(
    out: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(os, where, fail(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    mask = values(volume) > 100
    refused(VoladError, write_mask, out / "m.nii.gz", mask, volume, says=[str(out), "disk is full"])
    refused(VoladError, write_text, out / "m.txt", "x", says=[str(out), "free space"])
    assert list(out.iterdir()) == []


def test_a_disk_that_fills_while_writing_leaves_nothing(out: Path, volume: Volume) -> None:
    """/dev/full takes no byte: the disk fills in the middle of a gzip stream."""

    def write() -> None:
        with atomic(out / "m.nii.gz") as temporary, open("/dev/full", "wb", buffering=0) as full:
            temporary.write_bytes(b"begun")
            full.write(b"x")

    refused(VoladError, write, says=[str(out), "disk is full"])
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_read_only_folder(out: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    error = OSError(code, os.strerror(code))
    monkeypatch.setattr(Path, "write_bytes", fail(error))
    says = [str(out), "cannot be written", os.strerror(code), "another output folder"]
    refused(VoladError, ensure_writable, out, says=says)
    refused(VoladError, write_text, out / "a.txt", "x", says=says)
    assert list(out.iterdir()) == []


def test_a_missing_folder_is_made(tmp_path: Path, volume: Volume) -> None:
    ensure_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    write_mask(tmp_path / "c" / "d" / "m.nii.gz", values(volume) > 100, volume)
    assert (tmp_path / "c" / "d" / "m.nii.gz").is_file()


def test_a_file_in_the_folders_place_is_a_wrong_call(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for folder in (file, file / "deeper"):
        refused(UsageError, ensure_writable, folder, says=[str(folder), "a file is where"])
    refused(UsageError, write_text, file / "a.txt", "x", says=[str(file)])
    (tmp_path / "folder.txt").mkdir()
    refused(
        UsageError, write_text, tmp_path / "folder.txt", "x", says=["folder.txt", "is a folder"]
    )
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "folder.txt"]


def test_the_same_result_is_the_same_bytes(out: Path, volume: Volume) -> None:
    mask = values(volume) > 100
    write_mask(out / "a.nii.gz", mask, volume)
    time.sleep(1.1)  # gzip keeps whole seconds
    write_mask(out / "another.nii.gz", np.asfortranarray(mask), volume)
    assert (out / "a.nii.gz").read_bytes() == (out / "another.nii.gz").read_bytes()


def test_text_and_json(out: Path) -> None:
    write_text(out / "a.txt", "ä\n")
    assert (out / "a.txt").read_bytes() == "ä\n".encode()
    write_json(out / "a.json", {"name": "ä", "list": [1, 2.5, None]})
    assert json.loads((out / "a.json").read_text()) == {"name": "ä", "list": [1, 2.5, None]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(out / "b.json", float("nan"))
    assert not (out / "b.json").exists()


def test_files_get_the_usual_permissions(out: Path) -> None:
    write_text(out / "a.txt", "x")
    (out / "b.txt").write_text("x")
    assert (out / "a.txt").stat().st_mode == (out / "b.txt").stat().st_mode


def test_a_callers_mistakes(out: Path, volume: Volume) -> None:
    mask = values(volume) > 100
    with pytest.raises(ValueError, match="shape"):
        write_mask(out / "m.nii.gz", mask[:1], volume)
    with pytest.raises(ValueError, match="shape"):
        write_map(out / "m.nii.gz", phantom(np.float32)[None], volume)
    with pytest.raises(ValueError, match="threshold"):
        write_mask(out / "m.nii.gz", phantom(np.float32), volume)
    with pytest.raises(ValueError, match="real numbers"):
        write_map(out / "m.nii.gz", phantom(np.complex64), volume)
    with pytest.raises(ValueError, match=r"\.nii\.gz"):
        write_mask(out / "m.nii", mask, volume)
    assert list(out.iterdir()) == []
