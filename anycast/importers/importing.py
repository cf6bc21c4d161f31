"""From files of a source to a configuration that `anycast check` accepts, and a report of every line."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from enum import StrEnum

from anycast.config.problem import ConfigError, Problem
from anycast.importers.model import Keys, Place, Setup, Value, keys
from anycast.importers.report import Fate, Report, places
from anycast.importers.source import SourceError
from anycast.importers.writer import users, write

NAME = "anycast.yaml"  # of the file, in what is said of it
_ROUNDS = 8
# Of RFC 5737, 5398 and 3849: nobody's.
_OWN_AS, _ROUTER_AS = 64496, 64497
_ROUTER = "198.51.100.254"
_ROUTER6, _OWN6 = "2001:db8:ffff::fe", ipaddress.ip_address("2001:db8:ffff::1")
_NODES = ipaddress.ip_network("198.51.100.0/24")


_WITHDRAWN = (
    "a VIP is withdrawn while one of its services has too few usable real servers (quorum, by default one), with its other services and "
    "addresses; `when_unhealthy: last_resort` keeps the route, worse than that of healthy nodes"
)

_NAT = (
    "forwarding nat: answers must come back through the node that the packet came by; real servers whose gateway is one node, or an address that "
    "VRRP moves, answer through the wrong one when several nodes are active: write dr or tunnel, or give all other nodes role: backup"
)


class Source(StrEnum):
    KEEPALIVED = "keepalived"
    IPVS = "ipvs"
    EXABGP = "exabgp"
    ANYCAST_HEALTHCHECKER = "anycast-healthchecker"
    LDIRECTORD = "ldirectord"


@dataclass(frozen=True, slots=True)
class Imported:
    """`text`: the file. `warnings`: what `anycast check` says of it. `counts`: VIPs, services, real servers."""

    source: Source
    text: str
    warnings: tuple[Problem, ...]
    counts: tuple[int, int, int]


def finished(source: Source, setup: Setup, report: Report, place: Place) -> Imported:
    """As a file without problems. What our rules do not allow is left out, and said.

    `place`: the source as a whole. Raises SourceError.
    """
    if not setup.vips:
        raise SourceError(
            place,
            "nothing of it can be imported",
            "see what the report says against each line",
        )
    for vip in setup.vips:
        if any(service.sorry is None for service in vip.services):
            report.different(vip.place, _WITHDRAWN)
        for service in vip.services:
            if service.forwarding == "nat":
                report.different(service.place, _NAT)
    setup = _with_bgp(setup, report, place)
    notes = _notes(report)
    head = (
        f"Written by `anycast import {source}`. `anycast check` says what is wrong, `anycast doctor` what a node still needs.",
    )
    for _ in range(_ROUNDS):
        if not setup.vips:
            raise SourceError(
                place,
                "there is nothing left to import",
                "see what the report says against each line",
            )
        text = write(setup, head, notes)
        try:
            warnings = _checked(text, fleet=bool(setup.nodes))
        except ConfigError as error:
            setup = _pruned(setup, error.problems, report, place)
            continue
        services = sum(len(vip.services) for vip in setup.vips)
        servers = {
            (s.address, s.port) for vip in setup.vips for service in vip.services for s in service.servers
        }
        return Imported(source, text, warnings, (len(setup.vips), services, len(servers)))
    raise SourceError(
        place,
        "what is left cannot be written in a way that `anycast check` accepts",
        "see the report",
    )


def _checked(text: str, *, fleet: bool) -> tuple[Problem, ...]:
    """The warnings of `anycast check`. Raises ConfigError."""
    from anycast.config.load import loads, loads_every

    if fleet:
        return loads_every(text, lambda _: None, NAME).warnings
    return loads(text, NAME).warnings


def _pruned(setup: Setup, problems: Sequence[Problem], report: Report, place: Place) -> Setup:
    """Without what the problems are about: a VIP, or a setting. Raises SourceError: it is about neither."""
    by_name = {vip.name: vip for vip in setup.vips}
    gone: set[str] = set()
    sections: set[str] = set()
    for problem in problems:
        section = str(problem.path[0]) if problem.path else ""
        words = f"{problem.what} ({problem.do})"
        if section == "vips" and len(problem.path) > 1 and problem.path[1] in by_name:
            vip = by_name[str(problem.path[1])]
            gone.add(vip.name)
            report.impossible(vip.place, f"the VIP is left out: {words}")
        elif section in ("pools", "checks") and len(problem.path) > 1:
            for name in users(setup, section, str(problem.path[1])):
                gone.add(name)
                report.impossible(by_name[name].place, f"the VIP is left out: {words}")
        elif setup.settings.get(section) is not None:
            sections.add(section)
            report.impossible(place, f"{section} is left out: {words}")
        elif section in ("bgp", "nodes") and setup.bgp is not None:
            report.impossible(place, f"{section}: {words}")
            return replace(setup, bgp=_placeholder(setup, report, place))
    report.left_out(_lines_of_gone(setup, gone), "left out with its VIP")
    if not gone and not sections:
        first = next(iter(problems), None)
        raise SourceError(
            place,
            f"it cannot be written as a configuration: {first}",
            "please report this file",
        )
    bgp = None if setup.bgp is None else _without_vips(setup.bgp, gone)
    return replace(setup.without(gone), bgp=bgp, settings=setup.settings.without(*sections))


def _lines_of_gone(setup: Setup, gone: AbstractSet[str]) -> set[Place]:
    """What VIPs that are left out were made of, and no other is."""
    out: set[Place] = set()
    staying: set[Place] = set()
    for vip in setup.vips:
        lines = out if vip.name in gone else staying
        lines.add(vip.place)
        for service in vip.services:
            lines.update(service.lines)
    return out - staying


def _without_vips(bgp: Keys, gone: AbstractSet[str]) -> Keys:
    """What neighbors get, without these VIPs."""
    neighbors = bgp.get("neighbors")
    if not gone or not isinstance(neighbors, tuple):
        return bgp
    found: list[Value] = []
    for one in neighbors:
        export = one.get("export") if isinstance(one, Keys) else None
        if isinstance(one, Keys) and isinstance(export, tuple):
            left = tuple(name for name in export if name not in gone)
            if not left:
                continue
            found.append(one.with_(export=left))
        else:
            found.append(one)
    return bgp.with_(neighbors=tuple(found))


def _with_bgp(setup: Setup, report: Report, place: Place) -> Setup:
    nodes = setup.nodes
    if nodes and not all(address for _, address in nodes):
        spare = (str(one) for one in _NODES.hosts())
        nodes = tuple((name, address or next(spare)) for name, address in nodes)
        report.to_write(
            place,
            "nodes: each node's router id, an IPv4 number that no other node has; there are placeholders now",
        )
    setup = replace(setup, nodes=nodes)
    if setup.bgp is not None:
        return setup
    setup = replace(setup, bgp=_placeholder(setup, report, place))
    return _with_own_addresses(setup, report, place) if nodes and _has_ipv6(setup) else setup


def _with_own_addresses(setup: Setup, report: Report, place: Place) -> Setup:
    """Of each node, for its sessions over IPv6."""
    report.to_write(
        place,
        "nodes: each node's local_address, its own in sessions over IPv6; there are placeholders now",
    )
    own = (keys(router_id=one, local_address=str(_OWN6 + at)) for at, (_, one) in enumerate(setup.nodes))
    return replace(
        setup, nodes=tuple((name, keys(bgp=bgp)) for (name, _), bgp in zip(setup.nodes, own, strict=True))
    )


def _has_ipv6(setup: Setup) -> bool:
    return any(":" in address for vip in setup.vips for address in vip.addresses)


def _placeholder(setup: Setup, report: Report, place: Place) -> Keys:
    report.to_write(
        place,
        "bgp: the AS numbers, this node's address (router_id) and the routers: the source does not know them; there are placeholders now, "
        "with which no session comes up",
    )
    neighbors: list[Value] = [keys(address=_ROUTER, remote_as=_ROUTER_AS)]
    if _has_ipv6(setup):
        local = None if setup.nodes else str(_OWN6)
        neighbors.append(keys(address=_ROUTER6, remote_as=_ROUTER_AS, local_address=local))
    own = None if setup.nodes else str(next(iter(_NODES.hosts())))
    return keys(local_as=_OWN_AS, router_id=own, neighbors=tuple(neighbors))


def _notes(report: Report) -> dict[str, str]:
    """Comments above sections with placeholders."""
    said = [note.text for note in report.notes() if note.fate is Fate.TO_WRITE]
    found = {}
    if any(text.startswith("bgp:") for text in said):
        found["bgp"] = (
            "CHANGE: these are placeholders. Your AS number, this node's address, your routers (docs/routers.md)."
        )
    if any(text.startswith("nodes:") for text in said):
        told = {"router id": "router id", "local_address": "address in sessions over IPv6 (local_address)"}
        wanted = [text for word, text in told.items() if any(f"each node's {word}," in one for one in said)]
        found["nodes"] = f"CHANGE: each node's {' and '.join(wanted)}."
    return found


def lines_of(report: Report) -> Iterator[str]:
    """The report as text."""
    fate = None
    for note in report.notes():
        if note.fate is not fate:
            fate = note.fate
            yield ""
            yield f"{fate} (of {report.count(fate):,} line{'' if report.count(fate) == 1 else 's'})"
        yield f"  {places(note.places)}: {note.text}"
    if report.unseen:
        yield f"  and {report.unseen:,} more things, of which nothing is kept"
