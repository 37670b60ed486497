"""The plots of a report, as SVG text: nothing is loaded, nothing is executed, colours come from the page."""

from __future__ import annotations

import math
from html import escape
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from seedbed.regression.axes import Axis, label, power_of_ten
from seedbed.regression.figures import percent, significant

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from seedbed.regression.result import CheckReport, Prefix

__all__ = ["drift_plot", "evidence_plot", "flip_plot", "position_plot", "sequence_plot"]

WIDTH, LEFT, RIGHT, TOP = 720, 132, 24, 16
MOST_SEQUENCES = 80
MOST = 4000
"""Points drawn, at most; of more, every k-th."""


def drift_plot(report: CheckReport) -> str:
    """The drift with its interval beside the margin, the noise and the plain KL, on one axis."""
    statistics = report.statistics
    rows = [
        ("drift D", statistics.drift.value, report.interval, "mark"),
        ("with noise", statistics.kl.value, statistics.kl.interval(), "soft"),
        *([("the noise", report.noise.value, report.noise.interval(), "soft")] if report.noise is not None else []),
    ]
    ends = [value for _, middle, interval, _ in rows for value in (middle, *interval) if math.isfinite(value)]
    low, high = min(0.0, *ends), max(report.margin * 2, *ends)
    axis = Axis(low * 1.15, high * 1.15, LEFT, WIDTH - RIGHT, report.margin / 10)
    height = TOP + 34 * len(rows) + 40
    parts = _horizontal_ticks(axis, height - 34)
    for place, (name, middle, (begin, end), kind) in enumerate(rows):
        y = TOP + 34 * place + 17
        begin, end = (axis(min(max(value, axis.low), axis.high)) for value in (begin, end))
        parts += [
            _text(LEFT - 10, y + 4, name, "end"),
            f'<line class="{kind}" x1="{begin}" x2="{end}" y1="{y}" y2="{y}" stroke-width="3"/>',
            f'<circle class="{kind}" cx="{axis(middle)}" cy="{y}" r="5"><title>{escape(name)}: {significant(middle)} nats</title></circle>',
        ]
    margin, text = axis(report.margin), f"margin {significant(report.margin)}"
    parts += [
        f'<line class="margin" x1="{margin}" x2="{margin}" y1="{TOP - 8}" y2="{height - 34}"/>',
        # On the side where there is room.
        _text(margin + 5, TOP, text, "start", "margin") if margin < WIDTH - 150 else _text(margin - 5, TOP, text, "end", "margin"),
        _text((LEFT + WIDTH - RIGHT) / 2, height - 4, "nats a token, 95 % intervals", "middle"),
    ]
    return _svg(height, "Drift with its interval, noise and margin", parts)


def position_plot(report: CheckReport) -> str:
    """The drift of each prefix against its length."""
    points = _thinned(report.prefixes)
    largest = max((abs(point.d) for point in points), default=0.0)
    linear = max(1e-12, min(report.margin / 10, largest / 10 or report.margin / 10))
    low = min((point.d for point in points), default=0.0)
    x = Axis(0, max((point.position for point in points), default=1), LEFT, WIDTH - RIGHT, math.inf)
    y = Axis(min(low, -linear), max(largest, report.margin * 2), 256, TOP, linear)
    parts = _horizontal_ticks(x, 256) + _vertical_ticks(y)
    parts += _margin_line(y, report.margin, "margin")
    parts += [f'<circle class="mark point" cx="{x(point.position)}" cy="{y(point.d)}" r="2.5"/>' for point in points]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, 290, "length of the prefix, tokens", "middle"))
    parts.append(_text(LEFT, 10, "D, nats", "end"))
    return _svg(296, "Drift of each prefix against its length", parts)


def sequence_plot(report: CheckReport) -> str:
    """The drift of each sequence, with two standard errors of the mean over its prefixes on either side."""
    members: dict[int, list[float]] = {}
    for prefix in report.prefixes:
        members.setdefault(prefix.sequence, []).append(prefix.d)
    chosen = list(members)[:: math.ceil(len(members) / MOST_SEQUENCES) or 1]
    marks = [(fmean(members[one]), _error(members[one])) for one in chosen]
    ends = [value for mean, error in marks for value in (mean - 2 * error, mean + 2 * error)]
    largest = max(map(abs, ends), default=0.0)
    linear = max(1e-12, min(report.margin / 10, largest / 10 or report.margin / 10))
    x = Axis(-0.5, max(len(marks) - 0.5, 0.5), LEFT, WIDTH - RIGHT, math.inf)
    y = Axis(min(0.0, *ends) - linear, max(report.margin * 2, *ends), 256, TOP, linear)
    parts = _vertical_ticks(y) + _margin_line(y, report.margin, "margin")
    for place, (mean, error) in enumerate(marks):
        at = x(place)
        parts.append(f'<line class="mark" x1="{at}" x2="{at}" y1="{y(mean - 2 * error)}" y2="{y(mean + 2 * error)}"/>')
        parts.append(f'<circle class="mark" cx="{at}" cy="{y(mean)}" r="3"><title>{significant(mean)} nats</title></circle>')
    shown = f"{len(marks)} of {len(members)} sequences" if len(marks) < len(members) else f"{len(marks)} sequences"
    parts += [_text((LEFT + WIDTH - RIGHT) / 2, 280, shown, "middle"), _text(LEFT, 10, "D, nats", "end")]
    return _svg(286, "Drift of each sequence", parts)


def evidence_plot(report: CheckReport) -> str:
    """The e-value after each sequence, on a scale of powers of ten."""
    values = [0.0, *(value / math.log(10) for value in report.path)]
    alarm = -math.log10(report.alpha)
    x = Axis(0, max(len(values) - 1, 1), LEFT, WIDTH - RIGHT, math.inf)
    y = Axis(min(0.0, *values) - 0.2, max(alarm * 1.2, *values), 256, TOP, math.inf)
    parts = _horizontal_ticks(x, 256)
    for power in sorted({round(value) for value in y.ticks()}):
        at = y(power)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(_text(LEFT - 8, at + 4, f"{10.0**power:g}" if abs(power) < 4 else power_of_ten(power), "end"))
    parts += _margin_line(y, alarm, f"proven at {percent(report.alpha)}", is_left=True)  # where the path is low
    points = " ".join(f"{x(place)},{y(value)}" for place, value in enumerate(values))
    parts.append(f'<polyline class="mark path" points="{points}"/>')
    parts.append(f'<circle class="mark" cx="{x(len(values) - 1)}" cy="{y(values[-1])}" r="4"/>')
    parts += [_text((LEFT + WIDTH - RIGHT) / 2, 290, "sequences", "middle"), _text(LEFT, 10, "e-value", "end")]
    return _svg(296, "Evidence against nothing having changed", parts)


def flip_plot(report: CheckReport) -> str:
    """Each prefix by how far its best token led and how far its row moved; filled where another token is best now."""
    points = [point for point in _thinned(report.prefixes) if math.isfinite(point.gap)]
    points.sort(key=lambda point: point.flipped)
    x = Axis(0, max((point.gap for point in points), default=1.0), LEFT, WIDTH - RIGHT, math.inf)
    y = Axis(0, max((point.kl for point in points), default=1e-6) * 1.2 or 1e-6, 256, TOP, 1e-7)
    parts = _horizontal_ticks(x, 256) + _vertical_ticks(y)
    for point in points:
        kind = "flip" if point.flipped else "soft point"
        parts.append(f'<circle class="{kind}" cx="{x(point.gap)}" cy="{y(point.kl)}" r="{4 if point.flipped else 2.5}"/>')
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, 290, "lead of the best token when recorded, nats", "middle"))
    parts.append(_text(LEFT, 10, "KL, nats", "end"))
    return _svg(296, "Flips: prefixes with another best token, by how far the old one led", parts)


def _margin_line(y: Axis, value: float, text: str, *, is_left: bool = False) -> list[str]:
    at = y(value)
    line = f'<line class="margin" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>'
    x, anchor = (LEFT + 4, "start") if is_left else (WIDTH - RIGHT, "end")
    return [line, _text(x, at - 4, text, anchor, "margin")]


def _error(values: Sequence[float]) -> float:
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _thinned(points: Sequence[Prefix]) -> list[Prefix]:
    return list(points[:: math.ceil(len(points) / MOST) or 1])


def _horizontal_ticks(axis: Axis, y: float) -> list[str]:
    parts = []
    for value in axis.ticks():
        x = axis(value)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{y}"/>')
        parts.append(_text(x, y + 15, label(value), "middle"))
    return parts


def _vertical_ticks(axis: Axis) -> list[str]:
    parts = []
    for value in axis.ticks():
        y = axis(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(_text(LEFT - 8, y + 4, label(value), "end"))
    return parts


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: float, title: str, parts: Iterable[str]) -> str:
    name = escape(title)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{name}"><title>{name}</title>{"".join(parts)}</svg>'
