"""The picture of `lab.bench_scale` as SVG: cost over size, both axes logarithmic, so that the slope is seen. No I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from lab.scale.figures import Point, slope

COLUMNS = 3
PANEL = (400, 300)
PLOT = (262, 190)
LEFT, ABOVE = 70, 60  # from a panel's corner to its plot's
HEAD, MARGIN = 84, 24

_BASE, _OURS = "#d55e00", "#0072b2"  # Okabe and Ito: told apart by nearly everybody
_INK, _PALE, _GRID = "#1f2328", "#6e7781", "#d0d7de"
_PAINT = {"base": _BASE, "ours": _OURS}


def picture(points: Sequence[Point], base: str) -> str:
    """One panel for each kind of work, all with the same axes. `base`: the name of the build we are compared with."""
    works = list(dict.fromkeys(one.work for one in points))
    lines = max(1, math.ceil(len(works) / COLUMNS))
    width = 2 * MARGIN + COLUMNS * PANEL[0]
    height = HEAD + lines * PANEL[1] + MARGIN
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif">'
        ),
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(MARGIN, 32, "CPU time of one event over the number of VIPs", size=18, bold=True),
        _text(
            MARGIN, 52, "Five real servers each; both axes logarithmic: a flat line costs the same at every size",
            colour=_PALE,
        ),
        *_legend(base),
    ]  # fmt: skip
    span = _Span(points)
    for number, work in enumerate(works):
        corner = (
            MARGIN + number % COLUMNS * PANEL[0],
            HEAD + number // COLUMNS * PANEL[1],
        )
        parts += _panel(work, [one for one in points if one.work == work], span, corner)
    return "\n".join([*parts, "</svg>", ""])


class _Span:
    """Whole powers of ten that hold every point."""

    def __init__(self, points: Sequence[Point]) -> None:
        sizes = [one.vips for one in points] or [1]
        costs = [one.cost for one in points if one.cost > 0] or [1e-3]
        self.x = _powers(min(sizes), max(sizes))
        self.y = _powers(min(costs), max(costs))

    def spot(self, size: float, cost: float, left: float, base: float) -> tuple[float, float]:
        across = (math.log10(size) - self.x[0]) / (self.x[1] - self.x[0])
        up = (math.log10(cost) - self.y[0]) / (self.y[1] - self.y[0])
        return left + across * PLOT[0], base - up * PLOT[1]


def _powers(least: float, most: float) -> tuple[int, int]:
    low, high = math.floor(math.log10(least)), math.ceil(math.log10(most))
    return low, max(high, low + 1)


def _legend(base: str) -> list[str]:
    parts, x = [], float(MARGIN)
    for build, words in (("base", base), ("ours", "this build")):
        parts.append(_line((x, 68), (x + 24, 68), _PAINT[build], width=2.5))
        parts.append(_text(x + 30, 72, words))
        x += 60 + 8 * len(words)
    return parts


def _panel(work: str, points: Sequence[Point], span: _Span, corner: tuple[int, int]) -> list[str]:
    left, top = corner[0] + LEFT, corner[1] + ABOVE
    base = top + PLOT[1]
    parts = [_text(left, top - 34, work, size=14, bold=True), *_slopes(work, points, left, top - 14)]
    parts += _axes(span, left, base)
    ends: list[tuple[float, str, str]] = []
    for build in ("base", "ours"):
        line = sorted(
            (one for one in points if one.build == build and one.cost > 0), key=lambda one: one.vips
        )
        spots = [span.spot(one.vips, one.cost, left, base) for one in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{_PAINT[build]}" stroke-width="2.5"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{_PAINT[build]}">'
            f"<title>{build}, {one.vips:,} VIPs: {time_of(one.cost)}</title></circle>"
            for (x, y), one in zip(spots, line, strict=True)
        ]
        ends += [(spots[-1][1], time_of(line[-1].cost), _PAINT[build])] if line else []
    return parts + _labels(ends, left + PLOT[0] + 9)


def _slopes(work: str, points: Sequence[Point], x: float, y: float) -> list[str]:
    parts = []
    for build, name in (("base", "then"), ("ours", "now")):
        if (found := slope(points, build, work)) is not None:
            words = f"{name}: size^{found:.2f}"
            parts.append(_text(x, y, words, size=11, colour=_PAINT[build]))
            x += 20 + 7 * len(words)
    return parts


def _labels(ends: Sequence[tuple[float, str, str]], x: float) -> list[str]:
    """What the largest size costs, beside the end of each line; neighbours are moved apart."""
    parts = []
    free = -math.inf
    for y, words, colour in sorted(ends):
        place = max(y + 4, free)
        parts.append(_text(x, place, words, size=11, colour=colour))
        free = place + 13
    return parts


def _axes(span: _Span, left: float, base: float) -> list[str]:
    parts = []
    for power in range(span.y[0], span.y[1] + 1):
        y = span.spot(1, 10**power, left, base)[1]
        parts.append(_line((left, y), (left + PLOT[0], y), _GRID))
        parts.append(_text(left - 6, y + 4, time_of(10**power), size=10, colour=_PALE, anchor="end"))
    for power in range(span.x[0], span.x[1] + 1):
        x = span.spot(10**power, 1, left, base)[0]
        parts.append(_line((x, base - PLOT[1]), (x, base + 4), _GRID))
        parts.append(_text(x, base + 17, f"{10**power:,}", size=10, colour=_PALE, anchor="middle"))
    parts.append(_text(left + PLOT[0] / 2, base + 33, "VIPs", size=11, colour=_PALE, anchor="middle"))
    return parts


def time_of(seconds: float) -> str:
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= unit * 0.9999:
            value = seconds / unit
            return f"{value:.0f} {name}" if value >= 10 or value == round(value) else f"{value:.1f} {name}"
    return f"{seconds * 1e9:.0f} ns"


def _line(begin: tuple[float, float], end: tuple[float, float], colour: str, *, width: float = 1.0) -> str:
    return (
        f'<line x1="{begin[0]:.1f}" y1="{begin[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" stroke="{colour}" '
        f'stroke-width="{width:g}"/>'
    )


def _text(
    x: float,
    y: float,
    words: str,
    *,
    size: int = 12,
    bold: bool = False,
    colour: str = _INK,
    anchor: str = "start",
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}>'
        f"{escape(words)}</text>"
    )
