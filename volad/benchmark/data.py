"""The scans of a benchmark as manifests, simulated and with lesions painted in where asked."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from volad import simulate_ct, simulate_mr
from volad.benchmark.plan import DataSet, Source
from volad.data import Row, read_split
from volad.errors import InputError, UsageError
from volad.io import Scan, write_text
from volad.io.find import stem
from volad.io.table import csv_text, manifest_text
from volad.synthetic import DEFAULT, read_suite, write_suite
from volad.synthetic import Source as Healthy

__all__ = ["Ready", "make_ready", "make_training"]

PATHS = ("image", "lesion", "brain_mask")
#: Of the draws of simulated scans to learn from, and of those to judge on.
LEARNED, JUDGED = 2, 1


@dataclass(frozen=True)
class Ready:
    """A data set whose files are all there.

    Attributes:
        name: of the data set.
        manifest: CSV for `volad evaluate`, with absolute paths.
        scans: the scans in its order.
        lesions: table of the painted lesions; None where lesions are real or there are none.
        channels: names of several channels; empty: one channel.
    """

    name: str
    manifest: Path
    scans: tuple[Scan, ...]
    lesions: Path | None
    channels: tuple[str, ...] = ()

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
    if data.source.simulate is not None:
        rows = _simulated(data, rows, folder, cache_dir)
    if data.synthetic is not None:
        sources = [Healthy(row["subject"], _scan(row)) for row in rows]
        painted = write_suite(
            sources,
            folder / data.name,
            DEFAULT if data.synthetic.suite is None else read_suite(data.synthetic.suite),
            seed=data.synthetic.seed,
        )
        lesions = painted.parent / "lesions.csv"
        rows = _rows(DataSet(data.name, Source(painted, painted.parent), by=data.by))
    manifest = folder / f"{data.name}.csv"
    write_text(manifest, csv_text(list(rows[0]), rows))
    channels = data.source.channels
    scans = tuple(_scan(row, channels) for row in rows)
    return Ready(data.name, manifest, scans, lesions, channels)


def make_training(source: Source, folder: Path, cache_dir: Path) -> Source:
    """The scans that methods learn from and are calibrated on, fewer or simulated where asked.

    Args:
        source: as the plan has it.
        folder: where what is simulated goes.
        cache_dir: folder of prepared T1 scans and their tissues.
    """
    if source.simulate is None and source.scans is None:
        return source
    channels = source.channels if source.simulate is None else ()
    learned, held_out = (
        read_split(source.manifest, source.data_dir, split, channels)
        for split in ("train", "validation")
    )
    rows = [*learned[: source.scans], *held_out]
    if source.simulate is None:
        made = folder / "training.csv"
        lines = [_line(row) for row in rows]
        write_text(made, csv_text(list(lines[0]), lines))
    else:
        made = _written(source, rows, folder / "training_simulated", cache_dir, LEARNED)
    return Source(made, made.parent, channels=source.channels)


def _line(row: Row) -> dict[str, str]:
    """A row of a training manifest, with absolute paths."""
    line = {"subject": row.subject, "split": row.split, "image": str(row.image.resolve())}
    line |= {"sha256": row.sha256}
    for name, path, sha256 in row.channels:
        line |= {name: str(path.resolve()), f"{name}_sha256": sha256}
    return line


def _simulated(
    data: DataSet, rows: Sequence[Mapping[str, str]], folder: Path, cache_dir: Path
) -> list[dict[str, str]]:
    """The rows of what is simulated of healthy T1 scans."""
    healthy = [
        Row(row["subject"], row.get("split", ""), Path(row["image"]), row.get("sha256", ""))
        for row in rows
    ]
    into = folder / f"{data.name}_simulated"
    made = _written(data.source, healthy, into, cache_dir, JUDGED)
    by = () if data.synthetic is not None else data.by  # which may be columns of the suite
    source = Source(made, made.parent, channels=data.source.channels)
    return _rows(DataSet(data.name, source, by=by))


def _written(source: Source, rows: Sequence[Row], folder: Path, cache_dir: Path, seed: int) -> Path:
    """Simulate scans as the plan asks; the path of their manifest."""
    if source.simulate == "ct":
        return simulate_ct.write_scans(rows, folder, cache_dir, seed=seed)
    return simulate_mr.write_scans(
        rows,
        folder,
        cache_dir,
        kinds=source.channels or source.contrasts or simulate_mr.KINDS,
        heads="channels" if source.channels else "in turn",
        seed=seed,
    )


def _scan(row: Mapping[str, str], channels: Sequence[str] = ()) -> Scan:
    further = tuple((name, Path(row[name])) for name in channels[1:])
    return Scan(Path(row["image"]), row["name"], channels=further)


def _rows(data: DataSet) -> list[dict[str, str]]:
    """The rows that a data set takes, with absolute paths, a name each and a column `lesion`."""
    manifest = data.source.manifest
    rows = list(csv.DictReader(manifest_text(manifest).splitlines()))
    for column in ("image", *(data.source.channels[1:] if data.source.simulate is None else ())):
        if not rows or column not in rows[0]:
            raise InputError(f"{manifest}: no scans, or no column {column!r}; add it")
    missing = [column for column in data.by if column not in rows[0]]
    # A suite, and what is simulated, bring columns of their own.
    if missing and data.synthetic is None and data.source.simulate is None:
        raise UsageError(f"{manifest}: no column {missing[0]!r} for 'by' of {data.name}")
    chosen = [row for row in rows if data.split in (None, row.get("split"))][: data.source.scans]
    if not chosen:
        raise InputError(f"{manifest}: no rows with split {data.split!r}")
    return [_whole(row, data.source) for row in chosen]


def _whole(row: Mapping[str, str | None], source: Source) -> dict[str, str]:
    whole = {key: value or "" for key, value in row.items() if key}
    whole.setdefault("lesion", "")
    for column in (*PATHS, *source.channels[1:]):
        if whole.get(column):
            path = (source.data_dir / whole[column]).resolve()
            if not path.exists():
                raise InputError(f"{source.manifest}: {path} is not there; check its data_dir")
            whole[column] = str(path)
    whole["name"] = whole.get("name") or stem(Path(whole["image"]))
    whole["subject"] = whole.get("subject") or whole["name"]
    return whole
