"""Pieces of a report page as HTML: everything a user can choose is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from volad.report.lesions import Lesion

__all__ = ["checked", "definitions", "lesion_rows", "summary", "warning_list"]

#: A page that lists more is slow to scroll and no clearer; the CSV table has them all.
MAX_ROWS = 500
_FAMILIES = ("kind", "quality")


def summary(lesions: Sequence[Lesion], threshold: float) -> str:
    """One line: how many lesions, how large together, at which threshold."""
    total_mm3 = sum(lesion.volume_mm3 for lesion in lesions)
    count = "no lesion" if not lesions else f"{len(lesions)} lesion{'s' * (len(lesions) > 1)}"
    total = f", {_volume(total_mm3)} mm³ in all" if lesions else ""
    return f"{count}{total}, at a score threshold of {threshold:.4g}"


def checked(provenance: Mapping[str, object]) -> str:
    """A line on the scan check, from what the sidecar holds; empty where nobody asked."""
    facts = provenance.get("scan_check")
    if not isinstance(facts, Mapping):
        return ""
    p = ", ".join(f"{name} p = {facts[name]['p']:.3f}" for name in _FAMILIES if name in facts)
    return f"<br>Scan check: {escape(str(facts['verdict']))} ({p})"


def warning_list(warnings: Sequence[str]) -> str:
    """A box with one line per warning, or nothing."""
    if not warnings:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in warnings)
    return f'<ul class="warnings" role="alert">{items}</ul>'


def lesion_rows(lesions: Sequence[Lesion]) -> str:
    """Table rows; each carries the world coordinates (mm) that the viewer jumps to."""
    rows = [_lesion_row(lesion) for lesion in lesions[:MAX_ROWS]]
    if not lesions:
        rows.append('<tr class="note"><td colspan="6">No lesion above the threshold.</td></tr>')
    elif len(lesions) > MAX_ROWS:
        note = f"The {MAX_ROWS} largest of {len(lesions)} lesions; the CSV table has all."
        rows.append(f'<tr class="note"><td colspan="6">{note}</td></tr>')
    return "\n".join(rows)


def _lesion_row(lesion: Lesion) -> str:
    mm = ",".join(repr(value) for value in lesion.centroid_mm)
    cells = [
        str(lesion.index),
        _volume(lesion.volume_mm3),
        *(f"{value:.1f}" for value in lesion.centroid_mm),
        f"{lesion.max_score:.3g}",
    ]
    inner = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr class="lesion" tabindex="0" data-mm="{mm}">{inner}</tr>'


def _volume(mm3: float) -> str:
    return f"{mm3:,.0f}" if mm3 >= 100 else f"{mm3:.1f}"


def definitions(values: Mapping[str, object]) -> str:
    """A definition list; a mapping inside becomes a list inside."""
    items = [
        f"<dt>{escape(str(key))}</dt><dd>{_value(value)}</dd>" for key, value in values.items()
    ]
    return f"<dl>{''.join(items)}</dl>"


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return definitions(value) if value else "none"
    if isinstance(value, (list, tuple)):
        if any(isinstance(item, (Mapping, list, tuple)) for item in value):
            return "<ol>" + "".join(f"<li>{_value(item)}</li>" for item in value) + "</ol>"
        return ", ".join(_value(item) for item in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else escape(str(value))
