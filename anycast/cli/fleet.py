"""The verb fleet: all nodes as this one sees them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Any, TypeAlias

from anycast.cli import client, status
from anycast.cli.exits import ExitCode
from anycast.cli.table import Cell, Colour, duration, printable, table, wants_colour
from anycast.ops.amounts import percent

WIDTH = 80  # columns, which rows keep to where names are not very long
NODE, VIP = 8, 24  # letters of a name that are always shown
DIGITS = 6  # of a fingerprint: enough to tell a few apart
VIPS = 20  # that are shown, if there are more
TROUBLES = 20
LINES = 3  # of one VIP
VIEW = "/fleet/view"

Told: TypeAlias = Mapping[str, Any]


def run(path: Path, args: argparse.Namespace) -> int:
    """Raises client.UnreachableError, unless it is watched: there that is an answer too."""
    if args.watch is not None:
        return status.watch(partial(_look, path, args, compact=True), args.watch, as_json=args.json)
    return status.once(partial(_look, path, args))


def _look(path: Path, args: argparse.Namespace, *, compact: bool = False) -> status.Shown:
    answer = client.read(path, VIEW)
    if not answer.ok:
        return ExitCode.NEGATIVE, "", f"anycast: {printable(answer.error)}\n"
    if args.json:
        return ExitCode.OK, json.dumps(answer.body, indent=None if compact else 2) + "\n", ""
    return ExitCode.OK, text(answer.body, colour=wants_colour(sys.stdout), every=args.all), ""


def text(told: Told, *, colour: bool, every: bool = False) -> str:
    """The document in tables: nodes, what is wrong, who is out and who waits, VIPs."""
    parts = [_head(told), _nodes(told, colour=colour)]
    if told["troubles"]:
        parts.append(_troubles(told["troubles"]))
    if told["queue"]:
        parts.append(_queue(told["queue"], colour=colour))
    parts.append(_vips(told["vips"], len(told["nodes"]), colour=colour, every=every))
    return "\n".join(parts)


def _head(told: Told) -> str:
    nodes = told["nodes"]
    number = f"{len(nodes)} nodes" if len(nodes) != 1 else "one node"
    heard = sum(node["seen"] in ("here", "heard", "late") for node in nodes)
    out = sum(one["claim"] == "held" and not _vip_of(one) for one in told["queue"])
    lines = [f"fleet of {number}, {heard} known, as {printable(told['node'])} sees it (view: {told['view']})"]
    lines.append(f"  out for maintenance: {out}, of {told['max_out']} that may be")
    return "\n".join(lines) + "\n"


def _state(node: Told) -> Cell:
    if node["seen"] in ("gone", "unknown"):
        return Cell(node["seen"], Colour.BAD)
    if node["seen"] == "late":
        return Cell("late", Colour.WARN)
    if node["maintenance"] != "active":
        return Cell(node["maintenance"], Colour.WARN)
    return Cell("active", Colour.GOOD) if node["ready"] else Cell("not ready", Colour.BAD)


def _nodes(told: Told, *, colour: bool) -> str:
    head = ("AGE", "VERSION", "STATE", "VIPS", "SHARE", "LOAD", "N-1", "CONFIG", "TABLES")
    rows = [_node(node) for node in told["nodes"]]
    rest = sum(max(len(word), *(len(row[at].text) for row in rows)) + 2 for at, word in enumerate(head))
    names = [_short(node["name"], max(NODE, WIDTH - rest)) for node in told["nodes"]]
    return table(
        ("NODE", *head), [(name, *row) for name, row in zip(names, rows, strict=True)], colour=colour
    )


def _node(node: Told) -> tuple[Cell, ...]:
    """All but its name."""
    return (
        Cell("here" if node["seen"] == "here" else duration(node["age_s"])),
        Cell(_short(node["version"] or "-", 7)),
        _state(node),
        Cell("-" if node["vips"] is None else f"{node['announced']}/{node['vips']}"),
        Cell("-" if node["share"] is None else percent(node["share"])),
        _used(node["today"]),
        _used(node["one_less"]),
        Cell(_print(node["configuration"]), Colour.PLAIN if node["same_configuration"] else Colour.WARN),
        Cell(_print(node["tables"]), Colour.PLAIN if node["disagreement"] is None else Colour.BAD),
    )


def _used(figure: Told | None) -> Cell:
    """Of the node's capacity. Over its limit it is an alarm."""
    if figure is None:
        return Cell("-")
    more = "+" if figure["at_least"] else ""
    kind = Colour.BAD if figure["used"] > figure["limit"] else Colour.PLAIN
    return Cell(f"{percent(figure['used'])}{more}", kind)


def _print(fingerprint: str | None) -> str:
    return fingerprint[:DIGITS] if fingerprint else "-"


def _short(word: str, most: int) -> str:
    return word if len(word) <= most else f"{word[: most - 1]}…"


def _troubles(troubles: Sequence[Told]) -> str:
    lines = [
        line
        for one in troubles[:TROUBLES]
        for line in wrap(printable(one["text"]), WIDTH, initial_indent="! ", subsequent_indent="  ")
    ]
    more = len(troubles) - TROUBLES
    return "".join(f"{line}\n" for line in [*lines, *([f"and {more:,} more like these"] if more > 0 else [])])


def _vip_of(one: Told) -> str:
    """The VIP whose turn it is; empty: it is the whole node. An agent of an older release does not say."""
    return str(one.get("scope", ""))


def _queue(queue: Sequence[Told], *, colour: bool) -> str:
    places = iter(range(1, len(queue) + 1))
    vips = any(map(_vip_of, queue))
    rows = []
    for one in queue:
        vip = _vip_of(one)
        held = Cell("takes out" if vip else "out", Colour.WARN)
        rows.append(
            (
                held if one["claim"] == "held" else f"waits {next(places)}",
                _short(one["node"], 16),
                *([_short(f"VIP {vip}" if vip else "node", VIP)] if vips else []),
                duration(one["ago_s"]),
                _short(one["by"] or "-", 12),
                _short(one["reason"] or "-", 30) + (" (forced)" if one["forced"] else ""),
            )
        )
    return table(("TURN", "NODE", *(["WHAT"] if vips else []), "SINCE", "BY", "REASON"), rows, colour=colour)


def _vips(vips: Sequence[Told], nodes: int, *, colour: bool, every: bool) -> str:
    wrong = [vip for vip in vips if vip["others"] or vip["unknown"] or vip["without"] or vip["other_tables"]]
    well = [vip for vip in vips if vip not in wrong]
    shown = [*wrong, *well]
    shown = shown if every else shown[:VIPS]
    left = len(vips) - len(shown)
    names = [_short(vip["name"], VIP) for vip in shown]
    width = WIDTH - max([len("VIP"), *map(len, names)]) - len("ANNOUNCED") - 4
    rows = [row for name, vip in zip(names, shown, strict=True) for row in _rows(name, vip, nodes, width)]
    return table(("VIP", "ANNOUNCED", "ELSEWHERE"), rows, colour=colour) + (
        f"and {left:,} more VIPs (all of them: `anycast fleet --all`)\n" if left else ""
    )


def _rows(name: str, vip: Told, nodes: int, width: int) -> Iterator[tuple[str | Cell, ...]]:
    number = len(vip["announced"])
    kind = Colour.GOOD if number == nodes else Colour.WARN if number else Colour.BAD
    first, *rest = _packed(list(_elsewhere(vip)), width) or [""]
    yield name, Cell(f"{number} of {nodes}", kind), first
    yield from (("", "", line) for line in rest)


def _elsewhere(vip: Told) -> Iterator[str]:
    for one in vip["others"]:
        yield f"{one['node']} {one['standing']}: {one['reason']} {duration(one['since_s'])}"
    for node in vip["other_tables"]:
        yield f"{node} has another table"
    for node in vip["unknown"]:
        yield f"{node} not known"
    for node in vip["without"]:
        yield f"{node} has it not"


def _packed(words: Sequence[str], width: int) -> list[str]:
    """In a few lines; what does not fit is counted."""
    lines: list[str] = []
    for place, word in enumerate(words):
        left = f" +{len(words) - place}"
        if lines and len(lines[-1]) + len(word) + 2 <= width - len(left):
            lines[-1] += f"; {word}"
        elif len(lines) == LINES:
            lines[-1] += left
            break
        else:
            lines.append(_short(word, width - len(left)))
    return lines
