"""The data sets of a benchmark as manifests of `volad evaluate`, lesions painted in where asked."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from volad import simulate_ct, simulate_mr
from volad.benchmark.plan import DataSet
from volad.data import Row
from volad.errors import InputError, UsageError
from volad.io import Scan, write_text
from volad.io.find import stem
from volad.io.table import csv_text, manifest_text
from volad.synthetic import DEFAULT, Source, read_suite, write_suite

__all__ = ["Ready", "make_ready"]

PATHS = ("image", "lesion", "brain_mask")


@dataclass(frozen=True)
class Ready:
    """A data set whose files are all there.

    Attributes:
        name: of the data set.
        manifest: CSV for `volad evaluate`, with absolute paths.
        scans: the scans in its order.
        lesions: table of the painted lesions; None where lesions are real or there are none.
    """

    name: str
    manifest: Path
    scans: tuple[Scan, ...]
    lesions: Path | None

    @property
    def synthetic(self) -> bool:
        """Whether its lesions are painted, not real."""
        return self.lesions is not None


def make_ready(data: DataSet, folder: Path, cache_dir: Path) -> Ready:
    """Choose a data set's rows, simulate and paint where asked, and write its manifest.

    Args:
        data: the data set.
        folder: where its files go.
        cache_dir: folder of prepared T1 scans and their tissues.

    Raises:
        InputError: a manifest that is unreadable, has no such rows, or names a missing file.
    """
    rows = _rows(data)
    lesions = None
    if data.simulate is not None:
        rows = _simulated(data, rows, folder, cache_dir)
    if data.synthetic is not None:
        sources = [Source(row["subject"], _scan(row)) for row in rows]
        painted = write_suite(
            sources,
            folder / data.name,
            DEFAULT if data.synthetic.suite is None else read_suite(data.synthetic.suite),
            seed=data.synthetic.seed,
        )
        lesions = painted.parent / "lesions.csv"
        rows = _rows(DataSet(data.name, painted, painted.parent, by=data.by))
    manifest = folder / f"{data.name}.csv"
    write_text(manifest, csv_text(list(rows[0]), rows))
    return Ready(data.name, manifest, tuple(map(_scan, rows)), lesions)


def _simulated(
    data: DataSet, rows: Sequence[Mapping[str, str]], folder: Path, cache_dir: Path
) -> list[dict[str, str]]:
    """The rows of what is simulated of healthy T1 scans."""
    write_scans = {"ct": simulate_ct, "mr": simulate_mr}[data.simulate or ""].write_scans
    healthy = [
        Row(row["subject"], row.get("split", ""), Path(row["image"]), row.get("sha256", ""))
        for row in rows
    ]
    made = write_scans(healthy, folder / f"{data.name}_simulated", cache_dir)
    by = () if data.synthetic is not None else data.by  # which may be columns of the suite
    return _rows(DataSet(data.name, made, made.parent, by=by))


def _scan(row: Mapping[str, str]) -> Scan:
    return Scan(Path(row["image"]), row["name"])


def _rows(data: DataSet) -> list[dict[str, str]]:
    """The rows that a data set takes, with absolute paths, a name each and a column `lesion`."""
    rows = list(csv.DictReader(manifest_text(data.manifest).splitlines()))
    if not rows or "image" not in rows[0]:
        raise InputError(f"{data.manifest}: no scans, or no column 'image'; add it")
    missing = [column for column in data.by if column not in rows[0]]
    # A suite, and what is simulated, bring columns of their own.
    if missing and data.synthetic is None and data.simulate is None:
        raise UsageError(f"{data.manifest}: no column {missing[0]!r} for 'by' of {data.name}")
    chosen = [row for row in rows if data.split in (None, row.get("split"))][: data.scans]
    if not chosen:
        raise InputError(f"{data.manifest}: no rows with split {data.split!r}")
    return [_whole(row, data) for row in chosen]


def _whole(row: Mapping[str, str | None], data: DataSet) -> dict[str, str]:
    whole = {key: value or "" for key, value in row.items() if key}
    whole.setdefault("lesion", "")
    for column in PATHS:
        if whole.get(column):
            path = (data.data_dir / whole[column]).resolve()
            if not path.exists():
                raise InputError(f"{data.manifest}: {path} is not there; check its data_dir")
            whole[column] = str(path)
    whole["name"] = whole.get("name") or stem(Path(whole["image"]))
    whole["subject"] = whole.get("subject") or whole["name"]
    return whole
