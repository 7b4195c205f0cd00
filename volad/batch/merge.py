"""Join the shards of a batch into one table and one page, and name what is missing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from volad.batch import journal
from volad.errors import IncompleteError, InputError

__all__ = ["merge"]

_SHOWN = 10


def merge(folder: Path, expected: Sequence[str] | None = None) -> list[journal.Row]:
    """Write `statistics.csv` and `index.html` of a batch from its journals.

    They are, byte for byte, those of one run over all scans. Where a scan is missing they are not
    written, since a table must not pass for the cohort's that is not.

    Args:
        folder: the output folder that the shards wrote to.
        expected: names of the scans that must be there; default: those the shards were given.

    Returns:
        The rows of the table.

    Raises:
        IncompleteError: scans are missing, or (with the table written) failed; names them.
        InputError: no batch wrote to the folder.
    """
    rows = journal.read(folder)
    names = journal.planned(folder) if expected is None else list(expected)
    missing = [name for name in names if name not in rows or _lost(folder, rows[name])]
    if missing:
        raise IncompleteError(
            f"{folder}: {_listed(missing, names, 'missing')}; run their shards again with --resume"
        )
    kept = [rows[name] for name in sorted(set(names))]
    journal.write_tables(folder, kept)
    failed = [str(row["name"]) for row in kept if row["exit_code"]]
    if failed:
        raise IncompleteError(f"{folder}: {_listed(failed, names, 'failed')}; see statistics.csv")
    return kept


def _lost(folder: Path, row: journal.Row) -> bool:
    """Whether a file that a line names is gone."""
    try:
        return not all((folder / path).is_file() for path in row["files"].values())
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}: a line of {row['name']} is not volad's") from error


def _listed(some: Collection[str], names: Collection[str], what: str) -> str:
    shown = ", ".join(sorted(some)[:_SHOWN]) + (", ..." if len(some) > _SHOWN else "")
    return f"{len(some)} of {len(names)} scans {what}: {shown}"
