"""`anycast budget`: how long each kind of failure can last, from the configuration alone."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from anycast.cli.exits import ExitCode
from anycast.cli.table import Cell, Colour, paint, printable, table, wants_colour
from anycast.config.problem import ConfigError

if TYPE_CHECKING:
    from anycast.analysis.budget import Assumed, Budget, Outage

_SCOPES = 3  # named in a row


def run(args: argparse.Namespace) -> int:
    from anycast.analysis.budget import budget
    from anycast.cli.configuration import report, report_json
    from anycast.config.load import load

    try:
        config = load(args.config, node=args.node).config
    except ConfigError as error:
        return report_json(error, args.config) if args.json else report(error, args.config)
    found = budget(config, _assumed(args))
    above = found.above(args.max) if args.max is not None else ()
    if args.json:
        print(json.dumps(_document(found, args.max, above), indent=2))
    else:
        print(_text(found, above, colour=wants_colour(sys.stdout)), end="")
        if above:
            kinds = ", ".join(dict.fromkeys(one.kind for one in above))
            print(f"{args.config}: longer than {args.max:g} s: {kinds}", file=sys.stderr)
    return ExitCode.NEGATIVE if above else ExitCode.OK


def _assumed(args: argparse.Namespace) -> Assumed:
    from anycast.analysis.budget import Assumed

    given = {name: getattr(args, name) for name in ("router", "watchdog", "graceful_restart", "bfd_receive")}
    values = {name: value for name, value in given.items() if value is not None}
    return Assumed(**values, hashes_ports=args.hash == "ports")


def _text(found: Budget, above: tuple[Outage, ...], *, colour: bool) -> str:
    from anycast.analysis.budget import WORDS

    rows = [
        (
            WORDS[one.kind],
            _some(one.scopes),
            Cell(f"{one.seconds:.2f} s", Colour.BAD if one in above else Colour.PLAIN),
            " + ".join(map(str, one.terms)),
        )
        for one in found.outages
    ]
    text = table(("FAILURE", "WHERE", "AT MOST", "SUM"), rows, colour=colour)
    if found.backups:
        text += (
            f"backup here: {_some(found.backups)}: while a primary announces the VIP, a failure of this node costs its clients "
            "nothing; the figures hold for when this node serves\n"
        )
    if found.last_resorts:
        text += (
            f"last resort here: {_some(found.last_resorts)}: where the real servers of a VIP fail for all nodes alike, clients "
            "are sent on to them for as long as that lasts; the figures of its services hold while another node is healthy\n"
        )
    if found.sorries:
        text += (
            f"sorry pool here: {_some(found.sorries)}: where the real servers of a service fail, new clients have its sorry pool "
            "with the write that takes the last one out, and the VIP stays announced, as the last resort\n"
        )
    for concern in found.concerns:
        word = paint(Cell("warning", Colour.WARN), colour=colour)
        text += f"{word}: {concern.code}: {printable(concern.what)} ({concern.do})\n"
    return text


def _some(scopes: tuple[str, ...]) -> str:
    more = len(scopes) - _SCOPES
    return ", ".join(scopes[:_SCOPES]) + (f" and {more} more" if more > 0 else "")


def _document(found: Budget, most: float | None, above: tuple[Outage, ...]) -> dict[str, object]:
    from anycast.analysis.budget import WORDS

    return {
        "max": most,
        "ok": not above,
        "outages": [
            {
                "kind": one.kind,
                "what": WORDS[one.kind],
                "scopes": list(one.scopes),
                "seconds": round(one.seconds, 6),
                "terms": [
                    {"count": term.count, "seconds": round(term.seconds, 6), "what": term.what}
                    for term in one.terms
                ],
                "exceeds": one in above,
            }
            for one in found.outages
        ],
        "backups": list(found.backups),
        "last_resorts": list(found.last_resorts),
        "sorries": list(found.sorries),
        "warnings": [{"code": one.code, "what": one.what, "do": one.do} for one in found.concerns],
    }
