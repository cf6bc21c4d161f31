"""What a reload would do, as it is shown: `reload --dry-run` and `check --against-running`."""

from __future__ import annotations

import base64
import json
import sys
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from anycast.cli import client
from anycast.cli.exits import ExitCode
from anycast.cli.maintenance import refused
from anycast.cli.table import Cell, Colour, printable, table, wants_colour

TIMEOUT = 60.0  # seconds; a large configuration is read and compared meanwhile
_WORDS = {
    "withdrawn": "withdrawn",
    "changed": "changed",
    "coming": "announced once the VIP is proven",
    "announced": "announced",
}
_FATES = {
    "added": "added: clients once its check is good",
    "drains": "drains, and is removed then",
    "leaves": "goes with its address, once the route is gone",
    "removed": "removed",
    "kept": "serves on until those that replace it are proven",
    "idle": "stays, without new clients",
    "resumes": "has new clients again",
    "changed": "changed",
}
_BAD = frozenset({"withdrawn", "drains", "leaves", "removed", "idle"})


def ask(
    path: Path, *, allow_removal: bool, texts: Iterable[bytes] | None = None, node: str | None = None
) -> client.Answer:
    """`texts`: a configuration as `config.kept` keeps it. `node`: which one is meant. Raises client.UnreachableError."""
    body: dict[str, Any] = {"allow_removal": True} if allow_removal else {}
    if node is not None:
        body["node"] = node
    if texts is not None:
        body["texts"] = base64.b64encode(zlib.compress(b"".join(texts))).decode()
    return client.command(path, "/reload/plan", body or None, timeout=TIMEOUT)


def show(
    answer: client.Answer,
    document: dict[str, Any] | None = None,
    *,
    as_json: bool,
    said: Collection[str] = (),
) -> int:
    """The exit status says which of three it is: nothing changes, something does, it would be refused.

    `document`: what stands around it as JSON. `said`: warnings that were shown before.
    """
    if "problems" not in answer.body:
        return refused(answer)
    code = exit_code(answer.body)
    if as_json:
        print(json.dumps(answer.body if document is None else {**document, "reload": answer.body}, indent=2))
        return code
    for warning in answer.body["warnings"]:
        if warning not in said:
            print(f"warning: {printable(warning)}", file=sys.stderr)
    for line in lines(answer.body, colour=wants_colour(sys.stdout)):
        print(line)
    for problem in answer.body["problems"]:
        print(printable(problem), file=sys.stderr)
    if code == ExitCode.CONFIG:
        print("a reload would be refused: nothing would change", file=sys.stderr)
    return code


def exit_code(body: dict[str, Any]) -> ExitCode:
    if not body["ok"]:
        return ExitCode.CONFIG
    plan = body["plan"]
    return ExitCode.CHANGES if body["changes"] or any(plan["counts"].values()) else ExitCode.OK


def lines(body: dict[str, Any], *, colour: bool) -> Iterator[str]:
    plan = body["plan"]
    if plan is None:
        return
    if not body["changes"] and not any(plan["counts"].values()):
        yield "nothing would change"
        return
    yield from (printable(change) for change in body["changes"])
    yield from _block(
        ("ROUTE", "VIP", "WOULD BE", "WHY"),
        (
            (one["prefix"], one["vip"], _cell(one["way"], _WORDS), "; ".join(one["what"]))
            for one in plan["routes"]
        ),
        plan["more_routes"],
        colour=colour,
    )
    yield from _block(
        ("SERVICE", "VIP", "NAME", "WOULD BE", "CONNECTIONS"),
        (
            (one["service"], one["vip"], one["name"], _cell(one["change"], {}), str(one["connections"]))
            for one in plan["services"]
        ),
        plan["more_services"],
        colour=colour,
    )
    yield from _block(
        ("REAL SERVER", "ADDRESS", "SERVICE", "CONNECTIONS", "WOULD BE", ""),
        (
            (
                server["server"],
                _place(server),
                service["service"],
                str(server["connections"]),
                _cell(server["fate"], _FATES),
                "; ".join(server["what"]),
            )
            for service in plan["services"]
            for server in service["servers"]
        ),
        sum(one["more_servers"] for one in plan["services"]),
        colour=colour,
    )
    yield ""
    yield _sum(plan["counts"])
    waits = plan.get("waits")  # none of an agent of an older release
    if waits is not None and not plan["sessions"]:
        yield f"{waits['who']} waits for its configuration: {printable(waits['how'])}"
    elif waits is not None:
        named = "; ".join(
            f"neighbor {one['neighbor']} {one['change']}"
            + (f" ({', '.join(one['what'])})" if one["what"] else "")
            for one in plan["sessions"]
        )
        yield f"sessions that wait for {waits['who']}: {printable(named)}: {printable(waits['how'])}"


def _place(server: dict[str, Any]) -> str:
    address = f"[{server['address']}]" if ":" in server["address"] else server["address"]
    return f"{address}:{server['port']}" if server["port"] else str(server["address"])


def _cell(word: str, words: dict[str, str]) -> Cell:
    return Cell(words.get(word, word), Colour.BAD if word in _BAD else Colour.PLAIN)


def _block(
    head: Sequence[str], rows: Iterable[Sequence[str | Cell]], more: int, *, colour: bool
) -> Iterator[str]:
    found = list(rows)
    if not found:
        return
    yield ""
    yield table(head, found, colour=colour).rstrip("\n")
    if more:
        yield f"… and {more:,} more"


def _sum(counts: dict[str, int]) -> str:
    going = sum(counts[f"servers_{fate}"] for fate in ("drains", "leaves", "removed"))
    come = counts["routes_coming"] + counts["routes_announced"]
    routes = f"{counts['routes_withdrawn']} withdrawn, {counts['routes_changed']} changed, {come} to come"
    services = ", ".join(f"{counts[f'services_{one}']} {one}" for one in ("removed", "added", "changed"))
    kept = f"{counts['servers_kept']} kept until they are replaced, {counts['servers_added']} added"
    servers = f"{going} go, with {counts['connections_of_leaving']} established connections; {kept}"
    return f"routes: {routes}\nservices: {services}\nreal servers: {servers}"
