"""`anycast plan`: what a fleet has to carry, with all nodes and with one or two less."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from anycast.cli.exits import ExitCode
from anycast.cli.table import Cell, Colour, paint, printable, table, wants_colour
from anycast.config.problem import ConfigError
from anycast.ops.amounts import amount, bits, percent

if TYPE_CHECKING:
    from anycast.analysis.plan import Asked, Load, Plan
    from anycast.core.values.configuration import Config

_MOST_BYTES = 64 * 1024 * 1024  # of a status document


def run(args: argparse.Namespace) -> int:
    from anycast.analysis.plan import plan
    from anycast.cli.configuration import report, report_json

    try:
        config, nodes = _configured(args)
    except ConfigError as error:
        return report_json(error, args.config) if args.json else report(error, args.config)
    nodes = args.nodes or nodes
    if nodes is None:
        return _refused("how many balancers are there? (--nodes N, or --config with a fleet's file)")
    try:
        asked = _asked(args, nodes, config)
    except ValueError as error:
        return _refused(str(error))
    found = plan(config, asked)
    if args.svg is not None:
        try:
            args.svg.write_text(picture(found), encoding="utf-8")
        except OSError as error:
            return _refused(f"{args.svg} cannot be written: {error.strerror} (name another file)")
    if args.json:
        print(json.dumps(document(found), indent=2))
    else:
        print(_text(found, colour=wants_colour(sys.stdout)), end="")
    return ExitCode.OK if found.holds else ExitCode.NEGATIVE


def _refused(why: str) -> int:
    print(f"anycast: plan: {printable(why)}", file=sys.stderr)
    return ExitCode.USAGE


def _configured(args: argparse.Namespace) -> tuple[Config | None, int | None]:
    """The configuration, of the first node of a fleet, and how many nodes its file names. Raises ConfigError."""
    from anycast.config.load import load, load_every
    from anycast.config.loaded import Loaded

    if args.config is None:
        return None, None
    if args.node is not None:
        loaded = load(args.config, node=args.node)
        return loaded.config, len(loaded.nodes) or None
    seen: list[Loaded] = []
    every, _ = load_every(args.config, lambda one: None if seen else seen.append(one))
    return seen[0].config, len(every.names) or None


def _asked(args: argparse.Namespace, nodes: int, config: Config | None) -> Asked:
    """What an option does not say of the capacity, the file's `fleet.capacity` does. Raises ValueError."""
    from anycast.analysis.plan import LIMIT, Asked, added, of_messages
    from anycast.core.fleet.values import Capacity

    given: dict[str, float | None] = {
        "packets": args.packets,
        "bits": args.bits,
        "new_connections": args.new_connections,
        "connections": args.connections,
    }
    if args.messages is not None:
        packets, rate = of_messages(args.messages, args.message_size)
        given["packets"] = packets if args.packets is None else args.packets
        given["bits"] = rate if args.bits is None else args.bits
    if args.status:
        running = added([(str(one), _document(one)) for one in args.status])
        given |= {name: value for name, value in running.items() if given[name] is None}
    written = config.fleet.capacity if config is not None and config.fleet is not None else None
    capacity = written or Capacity(limit=LIMIT)
    said = {
        "packets": args.capacity_packets,
        "bits": args.capacity_bits,
        "new_connections": args.capacity_new_connections,
        "connections": args.capacity_connections,
        "limit": args.limit,
    }
    capacity = replace(capacity, **{name: value for name, value in said.items() if value is not None})
    return Asked(
        nodes=nodes,
        clients=None if args.clients is None else round(args.clients),
        busy=args.busy,
        server_connections=args.server_connections,
        capacity=capacity,
        by_ports=args.hash == "ports",
        statuses=len(args.status),
        **given,
    )


def _document(file: Path) -> Mapping[str, object]:
    """Raises ValueError."""
    try:
        with file.open("rb") as opened:
            data = opened.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror} (name a file that can be read)") from None
    if len(data) > _MOST_BYTES:
        raise ValueError(f"{file}: larger than a status document is")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(  # noqa: TRY004 - of what was read
            f"{file}: this is no status document (`anycast status --json` writes one)"
        )
    return found


def _amount(load: Load, number: float) -> str:
    if load.resource == "busy":
        return percent(number)
    if load.resource == "bits":
        return bits(number)
    return f"{amount(number)}{'' if load.resource == 'connections' else '/s'}"


_WORDS = {
    "packets": "packets",
    "bits": "bits",
    "new_connections": "new connections",
    "connections": "connections",
    "busy": "busy",
}
_COLOUR = {"ok": Colour.GOOD, "above": Colour.BAD, "unknown": Colour.PLAIN}


def _text(found: Plan, *, colour: bool) -> str:
    limit = found.asked.capacity.limit
    parts: list[str] = []
    if found.loads:
        rows = [
            (
                _WORDS[one.resource],
                f"{one.nodes}" + (f" ({one.missing} missing)" if one.missing else ""),
                _amount(one, one.mean),
                _amount(one, one.busiest),
                Cell("-" if one.share is None else percent(one.share), _COLOUR[one.verdict]),
                Cell(
                    {"ok": "ok", "above": f"above the limit of {percent(limit)}", "unknown": "-"}[
                        one.verdict
                    ],
                    _COLOUR[one.verdict],
                ),
            )
            for one in found.loads
        ]
        head = ("OF A NODE", "NODES", "MEAN", "BUSIEST", "OF WHAT IT CARRIES", "")
        parts.append(table(head, rows, colour=colour))
    if found.needed:
        each = (
            f"{'none' if number is None else number}{'' if not missing else f' with {missing} missing'}"
            for missing, number in found.needed.items()
        )
        parts.append(f"nodes needed to stay at {percent(limit)}: {', '.join(each)}\n")
    if found.figures:
        rows_ = [(one.what, one.value) for one in found.figures]
        lines: list[str] = []
        for what, value in rows_:
            lines.append(f"{what} {value}\n")
            one = found.figures[len(lines) - 1]
            lines[-1] += f"    {printable(one.formula)} [{one.source}]\n"
        parts.append("".join(lines))
    for kind, words, shade in (
        ("contradiction", found.contradictions, Colour.BAD),
        ("warning", found.warnings, Colour.WARN),
        ("not said", found.lacking, Colour.WARN),
    ):
        if words:
            word = paint(Cell(kind, shade), colour=colour)
            parts.append("".join(f"{word}: {printable(one)}\n" for one in words))
    return "\n".join(parts)


def document(found: Plan) -> dict[str, object]:
    """For programs."""
    asked = found.asked
    return {
        "holds": found.holds,
        "nodes": asked.nodes,
        "limit": asked.capacity.limit,
        "loads": [
            {
                "resource": str(one.resource),
                "missing": one.missing,
                "nodes": one.nodes,
                "mean": one.mean,
                "busiest": one.busiest,
                "share": one.share,
                "verdict": str(one.verdict),
            }
            for one in found.loads
        ],
        "needed": [{"missing": missing, "nodes": nodes} for missing, nodes in found.needed.items()],
        "figures": [
            {
                "code": one.code,
                "what": one.what,
                "value": one.value,
                "number": one.number,
                "formula": one.formula,
                "source": one.source,
            }
            for one in found.figures
        ],
        "lacking": list(found.lacking),
        "contradictions": list(found.contradictions),
        "warnings": list(found.warnings),
    }


_WIDTH, _ROW, _LEFT, _BAR = 720, 26, 230, 380
_SHADES = {"ok": "#2e7d32", "above": "#c62828", "unknown": "#757575"}


def picture(found: Plan) -> str:
    """A bar for each resource and number of nodes, against the limit: what is known as a share."""
    known: Sequence[Load] = [one for one in found.loads if one.share is not None]
    top = max([1.0, *(one.share or 0.0 for one in known)])
    height = 60 + _ROW * max(1, len(known))
    limit = _LEFT + _BAR * found.asked.capacity.limit / top
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" font-size="13">',
        "<style>text { font-family: sans-serif }</style>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        '<text x="12" y="22" font-size="15">The busiest node, of what it carries</text>',
    ]
    for place, one in enumerate(known):
        y = 40 + _ROW * place
        width = _BAR * (one.share or 0.0) / top
        less = f", {one.missing} missing" if one.missing else ""
        parts += [
            f'<text x="12" y="{y + 14}">{_WORDS[one.resource]}: {one.nodes} {"node" if one.nodes == 1 else "nodes"}{less}</text>',
            f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="18" fill="{_SHADES[one.verdict]}"/>',
            f'<text x="{_LEFT + width + 6:.1f}" y="{y + 14}">{percent(one.share or 0.0)}</text>',
        ]
    if not known:
        parts.append('<text x="12" y="54">nobody has said what a node carries</text>')
    else:
        bottom, told = 40 + _ROW * len(known), f"limit {percent(found.asked.capacity.limit)}"
        parts += [
            f'<line x1="{limit:.1f}" y1="34" x2="{limit:.1f}" y2="{bottom}" stroke="#000" stroke-dasharray="4 3"/>',
            f'<text x="{limit:.1f}" y="{bottom + 14}" text-anchor="middle">{told}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
