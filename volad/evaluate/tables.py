"""The judgement as tables: a row a scan, a row a number, and text for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from volad.evaluate.measure import CaseRow
from volad.evaluate.numbers import ordered, written
from volad.io.table import csv_text

__all__ = ["case_facts", "cases_csv", "summary_csv", "terminal"]

_COUNTS = ("lesions", "found", "predicted", "false")
_MEASURES = ("sensitivity", "precision", "false_positive_rate")
_SURFACES = ("hd95_mm", "assd_mm", "nsd")


def case_facts(results: str, row: CaseRow) -> dict[str, Any]:
    """One row of `cases.csv`; what is not defined is `None`."""
    facts: dict[str, Any] = {
        "results": results,
        "name": row.name,
        "subject": row.subject,
        **row.groups,
        "lesioned": int(row.lesioned),
        "region_voxels": row.region_voxels,
        "lesion_ml": row.lesion_ml,
        "mask_ml": row.mask_ml,
        "auprc": row.auprc,
        "dice": row.dice,
        **{f"dice_at_fpr_{100 * rate:g}": value for rate, value in row.dice_at.items()},
        **{key: getattr(row, key) for key in (*_MEASURES, *_COUNTS, *_SURFACES)},
        **{f"scan_{key}": value for key, value in row.scan_scores.items()},
    }
    return {key: _or_none(value) for key, value in facts.items()}


def cases_csv(cases: Iterable[Mapping[str, Any]]) -> str:
    """A row for each scan of each result set; a column where any scan has it."""
    cases = list(cases)
    columns = dict.fromkeys(key for case in cases for key in case)
    return _csv(list(columns), cases)


def summary_csv(facts: Mapping[str, Any]) -> str:
    """A row for each number of each result set, subgroup and comparison."""
    return _csv(
        ["results", "minus", "subgroup", "value_of_subgroup", "metric", "label", "unit",
         "looks_at_labels", "value", "low_95", "high_95", "subjects"],
        _summary_rows(facts),
    )  # fmt: skip


def _summary_rows(facts: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    for name, one in facts["results"].items():
        yield from _metric_rows(one, {"results": name})
        for column, values in one["subgroups"].items():
            for value, group in values.items():
                where = {"results": name, "subgroup": column, "value_of_subgroup": value}
                yield from _metric_rows(group, where)
    for pair in facts["paired"]:
        yield from _metric_rows(pair, {"results": pair["first"], "minus": pair["other"]})


def _metric_rows(part: Mapping[str, Any], where: Mapping[str, str]) -> Iterable[dict[str, Any]]:
    for key, one in part["metrics"].items():
        yield {
            **where,
            "metric": key,
            **{name: one[name] for name in ("label", "unit", "value", "subjects")},
            "looks_at_labels": int(one["looks_at_labels"]),
            "low_95": one["low"],
            "high_95": one["high"],
        }


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    return csv_text(columns, ({key: _short(value) for key, value in row.items()} for row in rows))


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def terminal(facts: Mapping[str, Any]) -> str:
    """The numbers of the result sets side by side, then their differences."""
    parts = []
    results = facts["results"]
    for name, one in results.items():
        count = one["counts"]
        missing = f", {len(one['missing'])} missing" if one["missing"] else ""
        parts.append(
            f"{name}: {count['scans']} scans of {count['subjects']} subjects, "
            f"{count['with_lesions']} with lesions ({count['lesions']} lesions), "
            f"{count['empty_masks_with_lesions']} of them with an empty mask{missing}"
        )
    metrics = {name: one["metrics"] for name, one in results.items()}
    parts.append("\n" + _table("95 % bootstrap limits over subjects", metrics))
    parts.append("\n" + _sizes(results))
    for pair in facts["paired"]:
        title = f"{pair['first']} minus {pair['other']}"
        parts.append("\n" + _table(title, {"difference": pair["metrics"]}, signed=True))
    parts += ["", *(f"note: {line}" for line in facts["warnings"])]
    return "\n".join(parts).rstrip() + "\n"


def _table(title: str, columns: Mapping[str, Mapping[str, Any]], signed: bool = False) -> str:
    keys = ordered(key for column in columns.values() for key in column)
    rows = []
    for key in keys:
        cells = [written(key, column.get(key), signed=signed) for column in columns.values()]
        label = next(column[key]["label"] for column in columns.values() if key in column)
        unit = next(column[key]["unit"] for column in columns.values() if key in column)
        rows.append([f"{label}{f' [{unit}]' if unit else ''}", *cells])
    return _lines([title, *columns], rows)


def _sizes(results: Mapping[str, Any]) -> str:
    rows = []
    for bins in zip(*(one["sensitivity_by_size"] for one in results.values()), strict=True):
        if any(one["lesions"] for one in bins):
            cells = [f"{written('lesion_sensitivity', b)} of {b['lesions']}" for b in bins]
            rows.append([bins[0]["label"], *cells])
    return _lines(["lesion sensitivity by size", *results], rows)


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned with blanks."""
    wide = [max(len(line[k]) for line in (head, *rows)) for k in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, wide, strict=True)).rstrip()
        for line in (head, ["-" * width for width in wide], *rows)
    ]
    return "\n".join(lines)
