"""Tables as text: CSV in the one form that volad writes, and text of people's tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from volad.errors import InputError
from volad.io.guard import reading

__all__ = ["csv_text", "manifest_text"]


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A CSV table with its header; a column that a row lacks is empty there."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def manifest_text(path: Path) -> str:
    """The text of a manifest, with or without a byte order mark.

    Raises:
        InputError: it cannot be read, or is not UTF-8.
    """
    with reading(path):
        raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text; save the manifest as UTF-8") from error
