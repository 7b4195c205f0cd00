"""Read a manifest: a CSV table or a JSON datalist that names scans."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from volad.errors import InputError
from volad.io.guard import one_line
from volad.io.table import manifest_text

__all__ = ["MANIFESTS", "Entry", "read_manifest"]

MANIFESTS = (".csv", ".json")
_SPLITS = ("train", "val", "test")  # Decathlon's training, validation, testing and short forms


@dataclass(frozen=True)
class Entry:
    """One line of a manifest.

    Attributes:
        place: where it stands, for errors.
        image: the scan.
        name: what outputs are to be called by, if said.
        brain_mask: file with the brain mask, if any.
        series: id of the DICOM series, if any.
        channels: files of further channels, by name.
        subject: who was scanned; empty where it is not said.
    """

    place: str
    image: Path
    name: str | None = None
    brain_mask: Path | None = None
    series: str | None = None
    channels: Mapping[str, Path] = field(default_factory=dict)
    subject: str = ""


def read_manifest(path: Path, channels: Sequence[str] = ()) -> list[Entry]:
    """Read a `.csv` or `.json` manifest; relative paths start at its folder.

    Args:
        path: the manifest.
        channels: columns that name further channels.

    Raises:
        InputError: not a manifest, no `image` in it, or a name that is no file name.
    """
    text = manifest_text(path)
    rows = _of_csv if path.suffix.lower() == ".csv" else _of_json
    entries = [_entry(row, place, path, channels) for place, row in rows(text, path)]
    if not entries:
        raise InputError(f"{path}: names no scans; add a line for each")
    return entries


def _of_csv(text: str, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    table = csv.DictReader(text.splitlines())
    columns = [column.strip() for column in table.fieldnames or ()]
    if "image" not in columns:
        found = ", ".join(columns) or "none"
        raise InputError(
            f"{path}: no column 'image' (columns: {found}); name it so in the first line, "
            "parted by commas"
        )
    table.fieldnames = columns
    for row in table:
        yield f"line {table.line_num}", row


def _of_json(text: str, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({one_line(error)}); correct it there") from error
    if isinstance(found, list):
        found = {"entry": found}
    if not isinstance(found, dict):
        found = {}
    for key, items in found.items():
        for number, item in enumerate(items if isinstance(items, list) else (), start=1):
            if isinstance(item, dict):
                yield f"{key} {number}", item
            # Decathlon lists its test scans as plain paths; other keys hold labels and credits.
            elif isinstance(item, str) and key.startswith((*_SPLITS, "entry")):
                yield f"{key} {number}", {"image": item}


def _entry(row: Mapping[str, Any], place: str, path: Path, channels: Sequence[str]) -> Entry:
    image = _text(row, "image")
    if not image:
        raise InputError(f"{path}: {place}: no 'image'; name one scan file or series folder there")
    name, mask = _text(row, "name"), _text(row, "brain_mask")
    if name and (name in (".", "..") or "/" in name or "\\" in name):
        raise InputError(f"{path}: {place}: name {name!r} is no file name; leave folders out")
    return Entry(
        place,
        path.parent / image,
        name or None,
        path.parent / mask if mask else None,
        _text(row, "series") or None,
        {key: path.parent / text for key in channels if (text := _text(row, key))},
        _text(row, "subject"),
    )


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return value.strip() if isinstance(value, str) else ""
