"""An evaluation as one HTML file: tables, curves and single scans; no network, no script."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from volad.report import fragments
from volad.report.html import asset, policy
from volad.report.plots import Axis, Series, chart

__all__ = ["render_evaluation"]

Facts = Mapping[str, Any]
#: Writes a number of a key with its limits.
Writer = Callable[..., str]


def render_evaluation(
    facts: Facts, cases: Sequence[Facts], written: Writer, main: Sequence[str]
) -> str:
    """Write the page.

    Args:
        facts: what `evaluation.json` holds.
        cases: what `cases.csv` holds, a mapping a row.
        written: `(key, interval, signed=False)` → text.
        main: keys that subgroups are shown by.
    """
    style = asset("assets/report.css") + asset("assets/evaluation.css")
    results = facts["results"]
    name = facts["manifest"]["file"]
    metrics = {key: one["metrics"] for key, one in results.items()}
    return Template(asset("evaluation.html")).substitute(
        policy=policy(style),
        name=escape(name),
        style=style,
        summary="; ".join(_counts(key, one["counts"]) for key, one in results.items()),
        warnings=fragments.warning_list(facts["warnings"]),
        numbers=_metric_table(metrics, written),
        charts="\n".join(_charts(results, cases)),
        paired="".join(_pair(pair, written) for pair in facts["paired"]),
        sizes=_sizes(results, written),
        subgroups=_subgroups(results, written, main),
        rules=fragments.definitions(facts["rules"]),
        provenance=fragments.definitions(_provenance(facts)),
    )


def _counts(name: str, counts: Facts) -> str:
    return (
        f"{escape(name)}: {counts['scans']} scans of {counts['subjects']} subjects, "
        f"{counts['with_lesions']} with lesions, {counts['lesions']} lesions, "
        f"{counts['empty_masks_with_lesions']} masks empty where there are lesions"
    )


def _provenance(facts: Facts) -> dict[str, Any]:
    kept = ("folder", "missing", "regions", "made_by", "healthy_thresholds", "oracle_thresholds")
    sets = {
        name: {key: one[key] for key in kept} | {"certain bounds": one["certain"]}
        for name, one in facts["results"].items()
    }
    return {key: facts[key] for key in ("manifest", "settings", "software")} | {"results": sets}


def _metric_table(
    columns: Mapping[str, Facts], written: Writer, keys: Iterable[str] | None = None, **how: bool
) -> str:
    """A row a number, a column a result set or group."""
    keys = dict.fromkeys(key for one in columns.values() for key in one) if keys is None else keys
    rows = []
    for key in keys:
        what = next((one[key] for one in columns.values() if key in one), None)
        if what is not None:
            unit = f" [{what['unit']}]" if what["unit"] else ""
            cells = [written(key, one.get(key), **how) for one in columns.values()]
            rows.append((what["looks_at_labels"], [what["label"] + unit, *cells]))
    return _table(["", *columns], rows)


def _table(head: Sequence[str], rows: Iterable[tuple[bool, Sequence[str]]]) -> str:
    lines = []
    for oracle, cells in rows:
        inner = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr class="oracle">{inner}</tr>' if oracle else f"<tr>{inner}</tr>")
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _pair(pair: Facts, written: Writer) -> str:
    title = f"{pair['first']} minus {pair['other']}, the same subjects drawn for both"
    table = _metric_table({"difference": pair["metrics"]}, written, signed=True)
    return (
        f'<section class="panel" aria-label="Comparison"><h2>{escape(title)}</h2>{table}</section>'
    )


def _sizes(results: Mapping[str, Facts], written: Writer) -> str:
    bins = zip(*(one["sensitivity_by_size"] for one in results.values()), strict=True)
    rows = []
    for one in bins:
        if any(part["lesions"] for part in one):
            cells = [f"{written('lesion_sensitivity', p)} of {p['lesions']}" for p in one]
            rows.append((False, [one[0]["label"], *cells]))
    return _table(["expert lesion", *results], rows)


def _subgroups(results: Mapping[str, Facts], written: Writer, main: Sequence[str]) -> str:
    parts = []
    columns = next(iter(results.values()))["subgroups"]
    for column in columns:
        inner = []
        for name, one in results.items():
            groups = {
                f"{value or '(empty)'}, {group['counts']['scans']} scans": group["metrics"]
                for value, group in one["subgroups"][column].items()
            }
            inner.append(f"<h3>{escape(name)}</h3>{_metric_table(groups, written, main)}")
        parts.append(
            f'<section class="panel" aria-label="Subgroups"><h2>By {escape(column)}</h2>'
            f"{''.join(inner)}</section>"
        )
    return "".join(parts)


def _charts(results: Mapping[str, Facts], cases: Sequence[Facts]) -> Iterable[str]:
    curves = [Series(name, [(r, p) for r, p in one["pr_curve"]]) for name, one in results.items()]
    if any(one.points for one in curves):
        recall, precision = Axis("recall", 0, 1), Axis("precision", 0, 1)
        yield chart("Precision and recall of all voxels together", recall, precision, curves)
    yield from _froc(results)
    lesioned = [case for case in cases if case["lesioned"]]
    if lesioned:
        yield from _single_scans(list(results), lesioned)


def _froc(results: Mapping[str, Facts]) -> Iterable[str]:
    series = [
        Series(name, sorted(_froc_points(one["froc"])), dots=True) for name, one in results.items()
    ]
    rates = [x for one in series for x, _ in one.points]
    if rates:
        x = _decades("false lesions a scan; none: on the left axis", rates)
        yield chart(
            "FROC: lesions found and false ones", x, Axis("lesion sensitivity", 0, 1), series
        )


def _froc_points(froc: Sequence[Facts]) -> list[tuple[float, float]]:
    return [
        (point["false_per_scan"]["value"], point["sensitivity"]["value"])
        for point in froc
        if point["sensitivity"]["value"] is not None
    ]


def _single_scans(names: Sequence[str], cases: Sequence[Facts]) -> Iterable[str]:
    volumes = _decades("expert lesion volume [ml]", [case["lesion_ml"] for case in cases])
    both = _decades("", [case[key] for case in cases for key in ("lesion_ml", "mask_ml")])
    yield chart(
        "Dice of each scan, mask as given",
        volumes,
        Axis("Dice", 0, 1),
        [_dots(name, cases, "dice") for name in names],
    )
    yield chart(
        "Lesion volume of each scan; empty masks lie on the lower axis",
        Axis("expert lesion volume [ml]", both.low, both.high, log=True),
        Axis("volume of the mask [ml]", both.low, both.high, log=True),
        [_dots(name, cases, "mask_ml") for name in names],
        diagonal=True,
    )


def _dots(name: str, cases: Sequence[Facts], key: str) -> Series:
    mine = [case for case in cases if case["results"] == name and case[key] is not None]
    return Series(
        name,
        [(case["lesion_ml"], case[key]) for case in mine],
        line=False,
        dots=True,
        labels=[f"{case['name']}: {case[key]:.3g}" for case in mine],
    )


def _decades(label: str, values: Iterable[float]) -> Axis:
    """A logarithmic axis that begins and ends with a decade."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    return Axis(label, 10.0**low, 10.0 ** max(high, low + 1), log=True)
