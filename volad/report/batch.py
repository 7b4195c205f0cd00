"""Several scans as one table and as one page, from the rows that JSON lines hold too.

A row is a mapping with `name`, `exit_code`, `error`, `scan_scores`, `scan_check`, `flags` and,
where the scan was segmented, `Name`, `Num_Lesions`, `Num_Vox`, `Lesion_Volume` and `files` (paths
by kind).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any
from urllib.parse import quote

from volad.io.table import csv_text
from volad.report.html import asset, policy
from volad.report.lesions import summary_row

__all__ = ["render_index", "statistics_csv"]

Row = Mapping[str, Any]
CHECKED = ("check", "check_kind_p", "check_quality_p")


def statistics_csv(rows: Sequence[Row]) -> str:
    """One row a scan: lesions in LST-AI's columns, `scan_*` scores, check, flags, how it ended.

    The scan check has its columns (`check`, `check_kind_p`, `check_quality_p`) where any scan was
    checked.

    Scores have a column where any scan has them, so that one that failed does not shift the table.
    """
    names = dict.fromkeys(key for row in rows for key in row["scan_scores"])
    lesions = list(summary_row("", [], 0))
    checked = CHECKED if any(row.get("scan_check") for row in rows) else ()
    columns = [*lesions, *(f"scan_{key}" for key in names), *checked, "flags", "error"]
    return csv_text(columns, (_line(row, lesions, checked=bool(checked)) for row in rows))


def _line(row: Row, lesions: Sequence[str], *, checked: bool) -> dict[str, Any]:
    scores = {f"scan_{key}": f"{value:.6g}" for key, value in row["scan_scores"].items()}
    check = _check(row.get("scan_check") or {}) if checked else {}
    ended = {"flags": "; ".join(row["flags"]), "error": row["error"]}
    found = {key: row[key] for key in lesions if key in row}
    return {"Name": row["name"], **found, **scores, **check, **ended}


def _check(facts: Mapping[str, Any]) -> dict[str, str]:
    p = [f"{facts[family]['p']:.4g}" if family in facts else "" for family in ("kind", "quality")]
    return dict(zip(CHECKED, [facts.get("verdict", ""), *p], strict=True))


def render_index(rows: Sequence[Row]) -> str:
    """A page that links every scan's report: failed, then flagged, then by lesion volume.

    Args:
        rows: with `files` relative to the page.
    """
    style = asset("assets/report.css") + asset("assets/batch.css")
    failed = sum(bool(row["error"]) for row in rows)
    flagged = sum(bool(row["flags"]) and not row["error"] for row in rows)
    with_lesions = sum(row.get("Num_Lesions", 0) > 0 for row in rows)
    total = f"{len(rows)} scan{'s' * (len(rows) != 1)}"
    return Template(asset("batch.html")).substitute(
        policy=policy(style),
        style=style,
        summary=f"{total}: {failed} failed, {flagged} flagged, {with_lesions} with lesions",
        rows="\n".join(_row(row) for row in sorted(rows, key=_urgency)),
    )


def _urgency(row: Row) -> tuple[bool, bool, float, str]:
    return not row["error"], not row["flags"], -row.get("Lesion_Volume", 0.0), row["name"]


def _row(row: Row) -> str:
    files = row.get("files", {})
    name = _link(files.get("report"), row["name"])
    links = (("mask", "mask"), ("score", "score"), ("lesions", "table"), ("sidecar", "facts"))
    more = " ".join(_link(files[kind], text) for kind, text in links if kind in files)
    if row["error"]:
        kind, cells = "failed", f'<td colspan="2"></td><td>{escape(row["error"])}</td>'
    else:
        kind = "flagged" if row["flags"] else "done"
        notes = "<br>".join(escape(flag) for flag in row["flags"])
        volume = f"{row['Lesion_Volume'] / 1000:.2f}"
        cells = f"<td>{row['Num_Lesions']}</td><td>{volume}</td><td>{notes}</td>"
    return f'<tr class="{kind}"><th scope="row">{name}</th>{cells}<td>{more}</td></tr>'


def _link(path: str | None, text: str) -> str:
    return escape(text) if path is None else f'<a href="{quote(path)}">{escape(text)}</a>'
