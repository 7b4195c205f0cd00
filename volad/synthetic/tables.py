"""The tables of a suite, and back from them the lesions that were painted."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from volad.errors import InputError
from volad.io import write_text
from volad.io.guard import one_line, reading
from volad.io.table import csv_text
from volad.synthetic.case import Case
from volad.synthetic.spec import Suite

__all__ = ["LesionRow", "read_lesions", "write_tables"]


@dataclass(frozen=True)
class LesionRow:
    """One painted lesion.

    Attributes:
        name: of the volume it is in.
        label: its value in the label map.
        subject: whose scan it is.
        kind: of outline (`volad.synthetic.spec.KINDS`).
        tissue: where it was put.
        shape: name of the outline.
        mm3: its volume.
        size_bin: the bin that is in.
        contrast: as asked for.
        contrast_realised: mean change of its voxels, in the same unit.
        texture: as asked for.
        mass_effect: as asked for.
        x_mm: its centre, RAS mm of the scan.
        y_mm: see `x_mm`.
        z_mm: see `x_mm`.
        synthetic: always `yes`.
    """

    name: str
    label: int
    subject: str
    kind: str
    tissue: str
    shape: str
    mm3: float
    size_bin: str
    contrast: float
    contrast_realised: float
    texture: str
    mass_effect: float
    x_mm: float
    y_mm: float
    z_mm: float
    synthetic: str = "yes"


def write_tables(
    folder: Path, made: Sequence[tuple[Case, Mapping[str, Any]]], suite: Suite, seed: int
) -> Path:
    """Write `lesions.csv`, `scans.csv` and, last, `manifest.csv`, whose path is returned."""
    lesions = [row for case, record in made for row in _lesions(case, record, suite)]
    names = [field.name for field in fields(LesionRow)]
    _write(folder / "lesions.csv", names, [vars(row) for row in lesions])
    volumes = [_volume(case, record, suite, seed) for case, record in made]
    _write(folder / "scans.csv", ["image", "name", "synthetic"], volumes)
    _write(folder / "manifest.csv", list(volumes[0]), volumes)
    return folder / "manifest.csv"


def read_lesions(path: Path | str) -> list[LesionRow]:
    """Read a suite's `lesions.csv`.

    Raises:
        InputError: it is not such a table.
    """
    path = Path(path)
    with reading(path):
        text = path.read_text(encoding="utf-8")
    kinds: dict[str, Any] = {"int": int, "float": float, "str": str}
    try:
        return [
            LesionRow(**{f.name: kinds[str(f.type)](line[f.name]) for f in fields(LesionRow)})
            for line in csv.DictReader(text.splitlines())
        ]
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{path}: not the lesions.csv of a suite ({one_line(repr(error))}); run volad "
            "synthesize again"
        ) from error


def _volume(
    case: Case, record: Mapping[str, Any], suite: Suite, seed: int
) -> dict[str, str | float]:
    """A row of `manifest.csv`; what a control has none of is empty."""
    recipe = case.recipe
    mm3 = sum(lesion["mm3"] for lesion in record["lesions"])
    return {
        "image": case.image,
        "name": case.name,
        "lesion": case.labels,
        "brain_mask": case.brain,
        "subject": case.subject,
        "source": case.scan,
        "kind": case.kind,
        "contrast": f"{recipe.contrast:g}" if recipe else "",
        "texture": recipe.texture if recipe else "",
        "mass_effect": f"{recipe.mass_effect:g}" if recipe else "",
        "size_bin": suite.size_bin(mm3) if recipe else "",
        "mm3": f"{mm3:g}",
        "synthetic": "yes",
        "seed": seed,
    }


def _lesions(case: Case, record: Mapping[str, Any], suite: Suite) -> list[LesionRow]:
    if case.recipe is None:
        return []
    return [
        LesionRow(
            name=case.name,
            label=one["label"],
            subject=case.subject,
            kind=one["kind"],
            tissue=one["tissue"],
            shape=one["shape"],
            mm3=one["mm3"],
            size_bin=suite.size_bin(one["mm3"]),
            contrast=case.recipe.contrast,
            contrast_realised=one["contrast_realised"],
            texture=case.recipe.texture,
            mass_effect=case.recipe.mass_effect,
            x_mm=one["centre_mm"][0],
            y_mm=one["centre_mm"][1],
            z_mm=one["centre_mm"][2],
        )
        for one in record["lesions"]
    ]


def _write(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    chosen = ({key: row[key] for key in columns if key in row} for row in rows)
    write_text(path, csv_text(columns, chosen))
