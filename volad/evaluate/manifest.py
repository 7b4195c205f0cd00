"""Read the manifest of an evaluation: scans, their expert masks, subjects and subgroups."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from volad.errors import InputError, UsageError
from volad.io.find import stem
from volad.io.table import manifest_text

__all__ = ["Row", "read_rows"]

MOST_GROUPS = 20


@dataclass(frozen=True)
class Row:
    """One scan of the manifest.

    Attributes:
        place: where it stands, for errors.
        name: what its results are called by, sub-folders included.
        label: what outputs call it: the name, with the image's folder where names repeat.
        folder: the image's folder as the manifest has it: results may be in one like it.
        subject: what the bootstrap draws.
        lesion: the expert mask's file; `None` for a scan without lesions.
        brain_mask: file with the region to judge in, if any.
        groups: subgroup column → value.
    """

    place: str
    name: str
    label: str
    folder: PurePosixPath
    subject: str
    lesion: Path | None
    brain_mask: Path | None
    groups: Mapping[str, str] = field(default_factory=dict)


def read_rows(
    path: Path | str, data_dir: Path | str | None = None, by: Sequence[str] = ()
) -> list[Row]:
    """Read a manifest.

    Args:
        path: a CSV table with the columns `image` or `name`, `lesion` (empty: a scan without
            lesions) and, optionally, `brain_mask`, `subject` and those of `by`.
        data_dir: the folder that its paths start at; by default the manifest's own.
        by: columns whose values make subgroups.

    Raises:
        InputError: not such a table, or two rows with one name.
        UsageError: a column of `by` is not there, or has too many values for subgroups.
    """
    path = Path(path)
    table = csv.DictReader(manifest_text(path).splitlines())
    columns = [column.strip() for column in table.fieldnames or ()]
    _check(columns, path, by)
    table.fieldnames = columns
    folder = path.parent if data_dir is None else Path(data_dir)
    rows = [_row(cells, f"{path}: line {table.line_num}", folder, by) for cells in table]
    if not rows:
        raise InputError(f"{path}: names no scans; add a line for each")
    _refuse_doubles(rows)
    for column in by:
        _check_groups({row.groups[column] for row in rows}, column, path)
    often = Counter(row.name for row in rows)
    return [row if often[row.name] > 1 else replace(row, label=row.name) for row in rows]


def _check(columns: Sequence[str], path: Path, by: Sequence[str]) -> None:
    found = ", ".join(columns) or "none"
    if not {"image", "name"} & set(columns):
        raise InputError(f"{path}: no column 'image' or 'name' (columns: {found}); add one")
    if "lesion" not in columns:
        raise InputError(
            f"{path}: no column 'lesion' (columns: {found}); name each scan's expert mask there, "
            "nothing for a scan without lesions"
        )
    missing = [column for column in by if column not in columns]
    if missing:
        raise UsageError(f"{path}: no column {missing[0]!r} for --by; there are: {found}")


def _check_groups(values: set[str], column: str, path: Path) -> None:
    # Each keeps a histogram of 16 MiB for each result set; subgroups of single scans say nothing.
    if len(values) > MOST_GROUPS:
        raise UsageError(
            f"{path}: column {column!r} has {len(values)} values, --by takes at most "
            f"{MOST_GROUPS}; add a column with classes"
        )


def _row(cells: Mapping[str, str | None], place: str, folder: Path, by: Sequence[str]) -> Row:
    def cell(column: str) -> str:
        return (cells.get(column) or "").strip()

    if None in cells:
        raise InputError(f"{place}: more cells than the first line has columns; quote commas")
    image = PurePosixPath(cell("image"))
    name = cell("name") or stem(Path(image))
    if not cell("name") and not cell("image"):
        raise InputError(f"{place}: neither 'image' nor 'name'; say which scan it is")
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise InputError(f"{place}: name {name!r} leads out of the results; correct it")
    return Row(
        place=place,
        name=name,
        label=(image.parent / name).as_posix(),
        folder=image.parent,
        subject=cell("subject") or (image.parent / name).as_posix(),
        lesion=folder / cell("lesion") if cell("lesion") else None,
        brain_mask=folder / cell("brain_mask") if cell("brain_mask") else None,
        groups={column: cell(column) for column in by},
    )


def _refuse_doubles(rows: Sequence[Row]) -> None:
    met: dict[PurePosixPath, Row] = {}
    for row in rows:
        # Files of one name in several folders are several scans.
        other = met.setdefault(row.folder / row.name, row)
        if other is not row:
            raise InputError(f"{row.place}: the scan of {other.place} again; leave one out")
