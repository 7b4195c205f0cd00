"""What a batch leaves in its folder beside results: a plan, JSON lines, table and page."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from volad.batch.lock import folder_lock
from volad.errors import InputError
from volad.io import write_json, write_text
from volad.io.guard import reading
from volad.io.write import writing
from volad.report.batch import render_index, statistics_csv

__all__ = [
    "PLAN",
    "Row",
    "append",
    "journal_path",
    "planned",
    "read",
    "relative",
    "write_plan",
    "write_tables",
]

Row = dict[str, Any]

PLAN = "volad-plan.json"
_JOURNALS = ("volad.jsonl", "volad-shard-*-of-*.jsonl")


def journal_path(folder: Path, num_shards: int, shard_index: int) -> Path:
    """The file of a run's JSON lines; every shard has its own."""
    shard = f"-shard-{shard_index}-of-{num_shards}" if num_shards > 1 else ""
    return folder / f"volad{shard}.jsonl"


def write_plan(folder: Path, names: Iterable[str]) -> None:
    """Note the names of all scans, those of other shards too: merging knows then what is missing.

    Every shard writes the same.
    """
    with folder_lock(folder):
        write_json(folder / PLAN, {"scans": sorted(names)})


def planned(folder: Path) -> list[str]:
    """Names of the scans that the last run in a folder was given, or of the run that this was."""
    path = folder / PLAN
    with reading(path):
        text = path.read_bytes()
    try:
        names = json.loads(text)["scans"]
        return [str(name) for name in names]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is damaged; name the input with --expect") from error


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add one line, on disk before this returns; several processes may add to one file.

    Raises:
        VoladError: the disk is full, or the like.
    """
    ended = datetime.now(timezone.utc).isoformat(timespec="microseconds")
    line = json.dumps({**row, "ended": ended}, ensure_ascii=False, allow_nan=False) + "\n"
    with writing(path), open(path, "ab+") as file:
        with suppress(OSError):  # a file system without locks: then only whole lines by O_APPEND
            fcntl.flock(file, fcntl.LOCK_EX)
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # the last writer was killed within a line
                line = "\n" + line
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def read(folder: Path) -> dict[str, Row]:
    """The last line of every scan, by its name, from all journals of a folder.

    Lines that a killed process left half written are passed over; the scan has another one, or is
    missing.

    Raises:
        InputError: there is no journal.
    """
    paths = sorted(path for pattern in _JOURNALS for path in folder.glob(pattern))
    if not paths:
        raise InputError(
            f"{folder}: holds no {' and no '.join(_JOURNALS)}; name the output folder of a batch"
        )
    last: dict[str, Row] = {}
    for row in (row for path in paths for row in _lines(path)):
        known = last.get(row["name"])
        if known is None or known["ended"] <= row["ended"]:
            last[row["name"]] = row
    return last


def _lines(path: Path) -> Iterable[Row]:
    with reading(path), open(path, "rb") as file:
        for line in file:
            with suppress(ValueError, UnicodeDecodeError):
                row = json.loads(line)
                if isinstance(row, dict) and {"name", "ended", "exit_code"} <= row.keys():
                    yield row


def relative(files: Mapping[str, Path], folder: Path) -> dict[str, str]:
    """Paths as a journal holds them, so that the folder can be moved."""
    return {kind: path.relative_to(folder).as_posix() for kind, path in files.items()}


def write_tables(
    folder: Path, rows: Sequence[Row], *, stats: bool = True, report: bool = True
) -> None:
    """Write `statistics.csv` and `index.html`, in the order of the scans' names.

    Args:
        folder: the batch's.
        rows: as in a journal.
        stats: write the table.
        report: write the page.
    """
    rows = sorted(rows, key=lambda row: str(row["name"]))
    with folder_lock(folder):
        if stats:
            write_text(folder / "statistics.csv", statistics_csv(rows))
        if report:
            write_text(folder / "index.html", render_index(rows))
