"""The picture of a run of `lab.logs` as SVG: what the receivers took in around each fault. No I/O.

One panel for each fault, with the messages of all protocols on top of each other: a gap is what was late or lost. After
a receiver's return one more, of who got the messages that come over connections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from lab.chaos_picture import (
    AFTER,
    BAD,
    BEFORE,
    COLUMNS,
    GOOD,
    HEAD,
    INK,
    MARGIN,
    PALE,
    PANEL,
    PLOT,
    WIDTH,
    Plot,
    Rates,
    colours,
    nice,
    text,
)
from lab.logs_count import Arrival
from lab.logs_figures import LogRow
from lab.logs_plan import STREAMS

BIN = 0.5  # seconds of one point
SHARED = ("receiver-return", "receiver-rebind", "receiver-add")  # of which it is shown who got what


def picture(rows: Sequence[LogRow], history: Iterable[Arrival], epoch: float) -> str:
    """`epoch`: seconds since the epoch of the rows' second 0."""
    arrivals = list(history)
    faults = {row.fault: [one for one in rows if one.fault == row.fault] for row in rows}
    protocols = colours(list(dict.fromkeys(row.protocol for row in rows)))
    receivers = colours(sorted({one.collector for one in arrivals}))
    taken = rates(arrivals, epoch, lambda one: one.protocol)
    streams = rates((one for one in arrivals if one.protocol in STREAMS), epoch, lambda one: one.collector)
    panels = []
    for name, found in faults.items():
        panels.append((f"{name} {found[0].where}", _words(found), found, taken, protocols))
        if name in SHARED:
            words = ("over connections, per receiver", _spreads(found))
            panels.append((f"{name}: who gets it", words, found, streams, receivers))
    height = HEAD + -(-len(panels) // COLUMNS) * PANEL[1] + MARGIN
    missed = sum(bool(row.missed) for row in rows)
    lost = sum(row.count.lost for row in rows)
    title = f"{len(faults)} faults, {sum(row.count.sent for row in rows):,} messages, {lost} lost: " + (
        f"{missed} promises were not kept" if missed else "every promise held"
    )
    explained = "Messages a second into the receivers, on top of each other; seconds from the fault (red) and its end (green)."
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
            f'height="{height}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif">'
        ),
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        text((MARGIN, 32), title, size=18, bold=True, colour=BAD if missed else INK),
        text((MARGIN, 52), explained, colour=PALE),
        *_legend({**protocols, **receivers}),
    ]
    for number, (head, words, found, points, paint) in enumerate(panels):
        x = float(MARGIN + number % COLUMNS * (PANEL[0] + MARGIN))
        y = float(HEAD + number // COLUMNS * PANEL[1])
        row = found[0]
        begin, end = row.began - BEFORE, row.ended + AFTER
        # No higher than what comes all the time: a burst after a pause may be cut off.
        usual = sorted(sum(values.values()) for t, values in points if begin <= t <= end)
        plot = Plot(
            left=x + PANEL[0] - PLOT[0],
            base=y + 52 + PLOT[1],
            width=PLOT[0],
            begin=begin,
            end=end,
            top=nice(1.3 * usual[int(len(usual) * 0.8)] if usual else 1.0),
        )
        bad = any(one.missed for one in found)
        parts += [
            text((x, y + 12), head, size=14, bold=True, colour=BAD if bad else INK),
            text((x, y + 27), words[0], size=11),
            text((x, y + 41), words[1], size=11, colour=BAD if bad else GOOD),
            *plot.axes(row.began),
            *plot.areas(points, paint),
            *plot.marks(row),
        ]
    return "\n".join([*parts, "</svg>", ""])


def rates(arrivals: Iterable[Arrival], epoch: float, key: Callable[[Arrival], str]) -> Rates:
    """Messages a second by `key`, in bins of BIN seconds, each told at its middle; bins of nothing are there too."""
    bins: dict[int, dict[str, float]] = {}
    for one in arrivals:
        found = bins.setdefault(int((one.received - epoch) // BIN), {})
        found[key(one)] = found.get(key(one), 0.0) + 1 / BIN
    if not bins:
        return []
    return [((number + 0.5) * BIN, bins.get(number, {})) for number in range(min(bins), max(bins) + 1)]


def _words(found: Sequence[LogRow]) -> tuple[str, str]:
    lost = [f"{row.protocol} {row.count.lost}" for row in found if row.count.lost]
    twice = [f"{row.protocol} {row.count.twice}" for row in found if row.count.twice]
    first = f"lost: {', '.join(lost) or 'none'}; twice: {', '.join(twice) or 'none'}"
    late = max(row.count.longest for row in found)
    missed = any(row.missed for row in found)
    return first, f"at most {late:.2f} s late, {'MISSED' if missed else 'held'}"


def _spreads(found: Sequence[LogRow]) -> str:
    streams = [row.spread for row in found if row.protocol in STREAMS]
    names = sorted({name for spread in streams for name in spread})
    return "at the end: " + ", ".join(
        f"{name} {sum(spread.get(name, 0.0) for spread in streams) / max(1, len(streams)):.0%}"
        for name in names
    )


def _legend(paint: Mapping[str, str]) -> list[str]:
    parts, x = [], float(MARGIN)
    for name, colour in paint.items():
        parts.append(f'<rect x="{x}" y="64" width="14" height="14" fill="{colour}"/>')
        parts.append(text((x + 19, 76), name))
        x += 31 + 8 * len(name)
    return parts
