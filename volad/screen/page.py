"""A screening as one HTML file: flagged scans first; no network, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from volad.report import fragments
from volad.report.html import asset, policy
from volad.report.plots import Axis, Series, chart
from volad.screen.findings import Finding
from volad.screen.outliers import Comparison

__all__ = ["render_page"]


def render_page(
    facts: Mapping[str, Any], findings: Sequence[Finding], tests: Sequence[Comparison]
) -> str:
    """Write the page.

    Args:
        facts: what `screen.json` holds.
        findings: of every scan.
        tests: whose limits they are held against.
    """
    style = "".join(asset(f"assets/{name}.css") for name in ("report", "batch", "evaluation"))
    template = files("volad.screen").joinpath("page.html").read_text(encoding="utf-8")
    counts = facts["counts"]
    return Template(template).substitute(
        policy=policy(style),
        style=style,
        name=escape(facts["manifest"]["file"]),
        summary=f"{counts['scans']} scans of the split {escape(facts['split'])}: "
        f"{counts['flagged']} flagged, {counts['kept']} kept",
        head="".join(
            f'<th scope="col">{_title(test)}<br>limit {test.limit:.3g}</th>' for test in tests
        ),
        rows="\n".join(_row(one, tests) for one in sorted(findings, key=_urgency(tests))),
        charts="\n".join(_chart(findings, *pair) for pair in (tests[:2], tests[2:])),
        provenance=fragments.definitions(facts),
    )


def _title(test: Comparison) -> str:
    return test.name.replace("_", " ")


def _urgency(tests: Sequence[Comparison]) -> Any:
    def key(one: Finding) -> tuple[bool, bool, float]:
        over = (one.values[test.name] / test.limit for test in tests if one.values)
        return not one.flagged, bool(one.values), -max(over, default=0.0)

    return key


def _row(one: Finding, tests: Sequence[Comparison]) -> str:
    cells = "".join(f"<td>{_value(one, test)}</td>" for test in tests)
    why = "<br>".join(escape(reason) for reason in one.reasons)
    kind = "flagged" if one.flagged else "done"
    name = f"{escape(one.row.subject)}<br>{escape(one.row.image.name)}"
    return f'<tr class="{kind}"><th scope="row">{name}</th>{cells}<td>{why}</td></tr>'


def _value(one: Finding, test: Comparison) -> str:
    if test.name not in one.values:
        return ""
    value = one.values[test.name]
    return f"<strong>{value:.3g}</strong>" if value > test.limit else f"{value:.3g}"


def _chart(findings: Sequence[Finding], x: Comparison, y: Comparison) -> str:
    """Every scan by two tests, each in units of its limit."""
    measured = [one for one in findings if one.values]

    def points(flagged: bool) -> Series:
        mine = [one for one in measured if one.flagged == flagged]
        return Series(
            "flagged" if flagged else "kept",
            [(one.values[x.name] / x.limit, one.values[y.name] / y.limit) for one in mine],
            line=False,
            dots=True,
            labels=[f"{one.row.subject}, {one.row.image.name}" for one in mine],
        )

    across, up = (Axis(f"{_title(test)} / limit", 0, _end(test)) for test in (x, y))
    series = [points(flagged=False), points(flagged=True)]
    return chart(f"{_title(x)} and {_title(y)}: flagged beyond 1", across, up, series)


def _end(test: Comparison) -> float:
    """Far outliers lie on the edge, or they would press the others together."""
    return float(min(max(test.values.max() / test.limit, 1.0), 3.0)) * 1.05
