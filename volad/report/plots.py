"""Small charts as inline SVG, drawn without a plotting library and styled by the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

__all__ = ["Axis", "Series", "chart"]

#: Kept apart by people who see few colours too (Okabe and Ito), light enough for a dark page.
COLOURS = ("#56b4e9", "#e69f00", "#2fc89a", "#d67fb0", "#f0e442", "#e8703a", "#9aa4ff", "#c9ccd1")
WIDTH, HEIGHT = 460, 320
LEFT, RIGHT, TOP, BOTTOM = 62, 24, 12, 46


@dataclass(frozen=True)
class Axis:
    """One axis of a chart.

    Attributes:
        label: what it shows, with its unit.
        low, high: its ends; `high` above `low`, both positive where `log`.
        log: whether decades are equally far apart.
    """

    label: str
    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, 0 to 1; beyond the ends it is drawn at the end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values to label."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            every = max(1, (last - first) // 6)
            return [10.0**power for power in range(first, last + 1, every)]
        rough = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * n for n in (1, 2, 5, 10) if unit * n >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [n * step for n in range(first, last + 1)]


@dataclass(frozen=True)
class Series:
    """One result set's points.

    Attributes:
        name: for the legend.
        points: `(x, y)`.
        line: join the points.
        dots: mark each point.
        labels: what each dot is, shown when pointed at.
    """

    name: str
    points: Sequence[tuple[float, float]]
    line: bool = True
    dots: bool = False
    labels: Sequence[str] = field(default_factory=tuple)


def chart(title: str, x: Axis, y: Axis, series: Sequence[Series], *, diagonal: bool = False) -> str:
    """An SVG chart with its legend.

    Args:
        title: read out by screen readers and shown above.
        x: across.
        y: upwards.
        series: coloured in their order.
        diagonal: draw the line of equal values.
    """
    parts = [*_frame(x, y)]
    if diagonal:
        low, high = max(x.low, y.low), min(x.high, y.high)
        parts.append(_polyline([(low, low), (high, high)], x, y, 'class="guide"'))
    for number, one in enumerate(series):
        parts += _drawn(one, COLOURS[number % len(COLOURS)], x, y)
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>{_legend(series)}</figure>"
    )


def _frame(x: Axis, y: Axis) -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for tick in x.ticks():
        at = _x(tick, x)
        parts.append(f'<line class="grid" x1="{at}" y1="{TOP}" x2="{at}" y2="{bottom}"/>')
        parts.append(f'<text x="{at}" y="{bottom + 16}" text-anchor="middle">{tick:.6g}</text>')
    for tick in y.ticks():
        at = _y(tick, y)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{at}" x2="{right}" y2="{at}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4}" text-anchor="end">{tick:.6g}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>')
    middle, centre = (LEFT + right) / 2, (TOP + bottom) / 2
    parts.append(
        f'<text class="label" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{escape(x.label)}</text>"
        f'<text class="label" x="14" y="{centre}" text-anchor="middle" '
        f'transform="rotate(-90 14 {centre})">{escape(y.label)}</text>'
    )
    return parts


def _drawn(one: Series, colour: str, x: Axis, y: Axis) -> list[str]:
    points = [(a, b) for a, b in one.points if math.isfinite(a) and math.isfinite(b)]
    parts = []
    if one.line and len(points) > 1:
        parts.append(_polyline(points, x, y, f'class="curve" stroke="{colour}"'))
    if one.dots:
        labels = list(one.labels) or [one.name] * len(one.points)
        for (a, b), label in zip(one.points, labels, strict=True):
            if math.isfinite(a) and math.isfinite(b):
                parts.append(
                    f'<circle cx="{_x(a, x)}" cy="{_y(b, y)}" r="3.2" fill="{colour}">'
                    f"<title>{escape(label)}</title></circle>"
                )
    return parts


def _polyline(points: Sequence[tuple[float, float]], x: Axis, y: Axis, how: str) -> str:
    path = " ".join(f"{_x(a, x)},{_y(b, y)}" for a, b in points)
    return f'<polyline {how} points="{path}"/>'


def _legend(series: Sequence[Series]) -> str:
    items = [
        f'<li><svg viewBox="0 0 12 12" aria-hidden="true"><rect width="12" height="12" rx="2" '
        f'fill="{COLOURS[number % len(COLOURS)]}"/></svg>{escape(one.name)}</li>'
        for number, one in enumerate(series)
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def _x(value: float, axis: Axis) -> float:
    return round(LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT), 1)


def _y(value: float, axis: Axis) -> float:
    return round(HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM), 1)
