"""The picture of a run of `lab.chaos` as SVG: packets a second per balancer around each fault. No I/O.

One panel for each fault, with the balancers' packets on top of each other: what is missing at the top is what
clients did not get through. Below them the random part as one strip.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Protocol

from lab.chaos_figures import Row, sorted_nodes
from lab.sampler import Sample, rates

Rates = Sequence[tuple[float, Mapping[str, float]]]
Point = tuple[float, float]

WIDTH = 1500
COLUMNS = 3
MARGIN = 24
HEAD = 96  # title and legend
PANEL = (466, 212)  # with its words
PLOT = (406, 118)  # without
STRIP = 190  # height of the random part
BEFORE, AFTER = 3.0, 2.0  # seconds shown around a row
FINE, COARSE = 0.5, 1.0  # seconds of one point, in a panel and in the strip
STRIP_LINE = 120.0  # seconds on one line of the strip, about
LABELS = 14  # of the seconds, at most

# Okabe and Ito: told apart by nearly everybody.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#7f7f7f")
BAD, GOOD, INK, PALE = "#b3001b", "#1a7f37", "#1f2328", "#6e7781"


def colours(nodes: Sequence[str]) -> dict[str, str]:
    if len(nodes) <= len(_COLOURS):
        return dict(zip(nodes, _COLOURS, strict=False))
    found = {}
    for number, node in enumerate(nodes):
        red, green, blue = colorsys.hls_to_rgb(number / len(nodes), (0.42, 0.62)[number % 2], 0.62)
        found[node] = f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
    return found


def picture(
    rows: Sequence[Row], random_rows: Sequence[Row], history: Sequence[Sample], started: float
) -> str:
    """`started`: CLOCK_MONOTONIC of the rows' second 0."""
    nodes = sorted_nodes(history[-1].packets) if history else []
    paint = colours(nodes)
    fine, coarse = (
        [(t - started, values) for t, values in rates(history, width)] for width in (FINE, COARSE)
    )
    # No higher than what clients do all the time: a burst after a pause may be cut off.
    top = nice(1.1 * _usual([sum(values.values()) for _, values in fine]))
    lines = math.ceil(len(rows) / COLUMNS)
    strip_top = HEAD + lines * PANEL[1]
    strips = _strips(random_rows)
    height = strip_top + (40 + len(strips) * STRIP if strips else 0) + MARGIN
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
            f'height="{height}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif">'
        ),
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        *_legend(rows, random_rows, paint),
    ]
    for number, row in enumerate(rows):
        corner = (
            float(MARGIN + number % COLUMNS * (PANEL[0] + MARGIN)),
            float(HEAD + number // COLUMNS * PANEL[1]),
        )
        parts += _panel(row, fine, paint, top, corner)
    if strips:
        words = "Single faults in random order; seconds from the first"
        parts.append(text((MARGIN, strip_top + 24), words, size=14, bold=True))
    for number, (begin, end) in enumerate(strips):
        left = MARGIN + PANEL[0] - PLOT[0]
        base = strip_top + 40 + number * STRIP + 40 + PLOT[1]
        plot = Plot(left=left, base=base, width=WIDTH - MARGIN - left, begin=begin, end=end, top=top)
        parts += _strip(random_rows, coarse, paint, plot)
    return "\n".join([*parts, "</svg>", ""])


def _usual(totals: Sequence[float]) -> float:
    return sorted(totals)[int(len(totals) * 0.95)] if totals else 1.0


def _legend(rows: Sequence[Row], random_rows: Sequence[Row], paint: Mapping[str, str]) -> list[str]:
    every = [row for row in (*rows, *random_rows) if not row.peer]
    missed = sum(bool(row.missed) for row in every)
    most = max((row.connections for row in every), default=0)
    broken = sum(row.broken for row in every)
    verdict = "every promise held" if not missed else f"{missed} of {len(every)} did not keep their promise"
    title = f"{len(every)} faults, {len(paint)} balancers, {most} connections: {broken} broken, {verdict}"
    explained = (
        "Packets a second into each balancer, on top of each other; seconds from the fault. "
        "A gap at the top is what clients did not get through."
    )
    parts = [
        text((MARGIN, 32), title, size=18, bold=True, colour=BAD if missed else INK),
        text((MARGIN, 52), explained, colour=PALE),
    ]
    x = float(MARGIN)
    for node, colour in paint.items():
        parts.append(f'<rect x="{x}" y="64" width="14" height="14" fill="{colour}"/>')
        parts.append(text((x + 19, 76), node))
        x += 31 + 8 * len(node)
    for colour, dash, words in (
        (BAD, "", "fault"),
        (INK, "4 3", "route gone at the router"),
        (GOOD, "1 3", "mended"),
    ):
        x += 14
        parts.append(line((x, 62), (x, 80), colour, dash=dash, width=2))
        parts.append(text((x + 7, 76), words))
        x += 7 * len(words) + 10
    return parts


class Marked(Protocol):
    """When it broke, was out of the router's table, and was mended: seconds, the middle one after the first."""

    @property
    def began(self) -> float: ...
    @property
    def route_gone_s(self) -> float | None: ...
    @property
    def healed(self) -> float | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Where on the page what belongs: seconds `begin` to `end` from `left` on, `top` packets a second above `base`."""

    left: float
    base: float
    width: float
    begin: float
    end: float
    top: float

    def x(self, t: float) -> float:
        inside = min(max(t, self.begin), self.end)
        return self.left + (inside - self.begin) * self.width / (self.end - self.begin)

    def axes(self, zero: float) -> list[str]:
        """The labels count from second `zero`."""
        parts = []
        for part in (0.0, 0.5, 1.0):
            y = self.base - part * PLOT[1]
            parts.append(line((self.left, y), (self.left + self.width, y), "#d0d7de"))
            label = f"{part * self.top:,.0f}"
            parts.append(text((self.left - 5, y + 4), label, size=10, colour=PALE, anchor="end"))
        span = self.end - self.begin
        step = next((step for step in (1, 2, 5, 10, 20, 60, 600) if span / step <= LABELS), 3600)
        tick = math.ceil((self.begin - zero) / step) * step
        while tick + zero <= self.end:
            x = self.x(tick + zero)
            parts.append(line((x, self.base), (x, self.base + 4), PALE))
            parts.append(text((x, self.base + 15), f"{tick:g}", size=10, colour=PALE, anchor="middle"))
            tick += step
        return parts

    def areas(self, points: Rates, paint: Mapping[str, str]) -> list[str]:
        shown = [(t, values) for t, values in points if self.begin <= t <= self.end]
        below = [0.0] * len(shown)
        parts = []
        for node, colour in paint.items():
            above = [low + values.get(node, 0.0) for low, (_, values) in zip(below, shown, strict=True)]
            edge = [(t, value) for (t, _), value in zip(shown, above, strict=True)]
            foot = [(t, value) for (t, _), value in zip(shown, below, strict=True)]
            spots = " ".join(
                f"{self.x(t):.1f},{self.base - min(value / self.top, 1.0) * PLOT[1]:.1f}"
                for t, value in [*edge, *reversed(foot)]
            )
            parts.append(
                f'<polygon points="{spots}" fill="{colour}" fill-opacity="0.85"><title>{escape(node)}</title>'
                "</polygon>"
            )
            below = above
        return parts

    def marks(self, row: Marked) -> list[str]:
        high = self.base - PLOT[1]
        x = self.x(row.began)
        parts = [line((x, high - 6), (x, self.base), BAD, width=2)]
        if row.route_gone_s is not None:
            x = self.x(row.began + row.route_gone_s)
            parts.append(line((x, high), (x, self.base), INK, dash="4 3", width=1.5))
        if row.healed is not None:
            x = self.x(row.healed)
            parts.append(line((x, high), (x, self.base), GOOD, dash="1 3", width=2))
        return parts


def _panel(row: Row, points: Rates, paint: Mapping[str, str], top: float, corner: Point) -> list[str]:
    x, y = corner
    plot = Plot(
        left=x + PANEL[0] - PLOT[0],
        base=y + 52 + PLOT[1],
        width=PLOT[0],
        begin=row.began - BEFORE,
        end=max(row.ended, row.began + 1.0) + AFTER,  # before the next fault begins
        top=top,
    )
    bad = bool(row.missed)
    counted, promised = _words(row)
    return [
        text((x, y + 12), f"{row.name} {row.where}", size=14, bold=True, colour=BAD if bad else INK),
        text((x, y + 27), counted, size=11),
        text((x, y + 41), promised, size=11, colour=BAD if bad else PALE if row.peer else GOOD),
        *plot.axes(row.began),
        *plot.areas(points, paint),
        *plot.marks(row),
    ]


def _words(row: Row) -> tuple[str, str]:
    words = [f"{row.broken} of {row.connections} broken"]
    if row.lost_with_server:
        words.append(f"{row.lost_with_server} lost with {row.where.split('+')[0]}")
    words.append(f"longest pause {row.longest_pause_s:.2f} s")
    words.append(f"new failed {row.new_failed} of {row.new_connections}")
    gone = [f"route gone {row.route_gone_s:.2f} s"] if row.route_gone_s is not None else []
    if row.peer:
        return ", ".join(words), ", ".join(gone) or "the route stays"
    promised = [f"promised {row.promise}"] if row.promise != "-" else []
    return ", ".join(words), ", ".join([*gone, *promised, "MISSED" if row.missed else "held"])


def _strips(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """The lines of the random part: from and to, in seconds."""
    if not rows:
        return []
    begin, end = rows[0].began - BEFORE, rows[-1].ended + AFTER
    count = max(1, round((end - begin) / STRIP_LINE))
    line = (end - begin) / count
    return [(begin + n * line, begin + (n + 1) * line) for n in range(count)]


def _strip(rows: Sequence[Row], points: Rates, paint: Mapping[str, str], plot: Plot) -> list[str]:
    parts = [*plot.axes(rows[0].began), *plot.areas(points, paint)]
    for number, row in enumerate(rows):
        if not plot.begin <= row.began < plot.end:
            continue
        gone = "" if row.route_gone_s is None else f" {row.route_gone_s:.2f} s"
        # On two lines by turns: neighbours would lie on each other.
        spot = (plot.x(row.began) - 2, plot.base - PLOT[1] - 10 - 13 * (number % 2))
        anchor = "start" if spot[0] < WIDTH - 150 else "end"
        words, colour = f"{row.fault} {row.where}{gone}", BAD if row.missed else INK
        parts.append(text(spot, words, size=10, colour=colour, anchor=anchor))
        parts += plot.marks(row)
    return parts


def nice(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(max(value, 1.0)))
    return next(step * power for step in (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value)


def line(begin: Point, end: Point, colour: str, *, dash: str = "", width: float = 1.0) -> str:
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{begin[0]:.1f}" y1="{begin[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" stroke="{colour}" '
        f'stroke-width="{width:g}"{dashes}/>'
    )


def text(
    spot: Point, words: str, *, size: int = 12, bold: bool = False, colour: str = INK, anchor: str = "start"
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{spot[0]:.1f}" y="{spot[1]:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"'
        f"{weight}>{escape(words)}</text>"
    )
