"""What the importers that know IPVS say alike of a service."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import ip_address

from anycast.importers.model import Place, Server, Service, Setup, Sorry, Vip, check
from anycast.importers.report import Report

_OTHER_NODE = (
    "each node chooses by itself: a connection that comes to another node, when one leaves or returns, may go on at another real server, "
    "and breaks; `scheduler: mh` chooses alike on every node, `connection_sync` tells the others"
)
LOCAL_CHOICE = {name: f"scheduler {name}: {_OTHER_NODE}" for name in ("rr", "wrr", "lc", "wlc")}


def with_mh(setup: Setup, report: Report) -> Setup:
    """With mh where each node would choose by itself."""
    report.forget(LOCAL_CHOICE.values())
    return replace(setup, vips=tuple(_with_mh(vip, report) for vip in setup.vips))


def _with_mh(vip: Vip, report: Report) -> Vip:
    found = []
    for service in vip.services:
        if service.scheduler in LOCAL_CHOICE and len(service.servers) <= _MAGLEV:
            by_port = " and port" if service.persistence is None else ""
            report.different(
                service.place,
                f"scheduler {service.scheduler}: mh is written in its place: every node chooses alike, by the client's address{by_port}. A connection "
                "that was begun before, and comes to another node, is at another real server there but for chance (one in as many as there are)",
            )
            found.append(replace(service, scheduler="mh", flags=None))
        else:
            found.append(service)
    return replace(vip, services=tuple(found))


NO_PLACE = (
    "scheduler mh: a real server that was put into the table with weight 0 (ipvsadm -R; keepalived's alpha with inhibit_on_failure, until its check "
    "succeeds) has no place in it, and the kernel does not tell; here it has one, by the weight that is usual in its service, so flows move at the "
    "first reconcile (18.6 % of 2,000, one server of four), and nodes that are moved over choose otherwise than those that are not"
)

PERSISTENCE = (
    "persistence: each node remembers its own clients: a client whose flows come to another node may be sent to another real server there, and "
    "its connections break; `connection_sync` tells the others, `scheduler: mh` with flags: [mh-fallback] needs no memory"
)
DEFAULT_PERSISTENCE = 360  # seconds, of keepalived and ipvsadm
NUMBERED_FLAGS = {
    "mh": {"flag-1": "mh-fallback", "flag-2": "mh-port"},
    "sh": {"flag-1": "sh-fallback", "flag-2": "sh-port"},
}
"""What a scheduler's flags are called by number."""

OTHER_SCHEDULERS = {
    "sed": "wlc: new connections go by weight and their number too, but an idle fast server is not preferred",
    "nq": "wlc: new connections go by weight and their number too, but an idle server is not taken first",
    "lblc": "wlc: a destination has no real server of its own any more",
    "lblcr": "wlc: a destination has no real servers of its own any more",
    "fo": "wlc: all real servers get connections by their weight, not the heaviest alone",
    "ovf": "wlc: all real servers get connections by their weight, not the next one when the first is full",
    "twos": "wlc: the least loaded of all is taken, not the better one of two",
}
"""Schedulers that are not ours, with what is written in their place and what that means."""

_ADDRESS_COMMAND = re.compile(
    r"(?:sudo )?(?:/\S*/)?(?:ip(?: -\S+)* a(?:ddr|ddress)? (?:add|del|delete|replace|change)|ifconfig) [^&|]*\Z"
)
_MAGLEV = 4093  # places of its table
_FALLBACK = {"mh": "mh-fallback", "sh": "sh-fallback"}
_USUAL = {"mh": {"mh-port", "mh-fallback"}, "sh": {"sh-fallback"}}


def places_address(command: str) -> bool:
    """Whether it puts addresses on the node or takes them away, and does nothing else."""
    parts = [" ".join(part.split()) for part in command.split(";")]
    return any(parts) and all(_ADDRESS_COMMAND.match(part) for part in parts if part)


def scheduler_that_can_be(name: str, servers: int, place: Place, report: Report) -> str:
    """The one to write."""
    if name in OTHER_SCHEDULERS:
        report.different(place, f"scheduler {name}: {OTHER_SCHEDULERS[name]}")
        return "wlc"
    if name == "dh" and servers > 1:
        report.different(
            place,
            "scheduler dh: it sends all clients of a VIP to the same real server, and to none when that one is down; mh is written, which "
            "spreads them",
        )
        return "mh"
    if name == "sh" and servers > 256:
        report.different(
            place,
            "scheduler sh: its table has 256 places, and there are more servers: mh is written, which gives each a share",
        )
        return "mh"
    return name


def flags_that_can_be(
    scheduler: str, flags: Sequence[str], place: Place, report: Report, *, persistent: bool
) -> tuple[str, ...] | None:
    """None: the usual ones."""
    fallback = _FALLBACK.get(scheduler)
    if fallback is None:
        return None
    found = [flag for flag in dict.fromkeys(flags) if flag.startswith(f"{scheduler}-")]
    if fallback not in found:
        report.different(
            place,
            f"scheduler {scheduler}: {fallback} is added: without it the new clients of a server that is down or drained get no server",
        )
        found.append(fallback)
    usual = {fallback} if persistent else _USUAL[scheduler]
    if scheduler == "mh":
        report.different(
            place,
            "scheduler mh: real servers are inserted in one order on every node, whatever the order was before, so some flows move at the "
            "change (of 2,000, with the order reversed: 22 with 10 servers, 120 with 100)",
        )
    return None if set(found) == usual else tuple(sorted(found, reverse=True))


def named_apart(servers: Iterable[Server]) -> tuple[Server, ...]:
    """A host that is there with several ports: its address alone would be the name of each."""
    found = tuple(servers)
    times = Counter(server.address for server in found)
    return tuple(
        server
        if times[server.address] == 1
        else replace(server, name=f"{server.address.replace(':', '-').strip('-')}-{server.port or 'same'}")
        for server in found
    )


def sorry_that_can_be(
    word: str, server: Server, service: Service, report: Report, *, version: int
) -> Sorry | None:
    """The sorry pool of a service, from the line `word`. `server`: with the port that is written. `version`: of the VIP.

    What becomes of the line is said here.
    """
    place, way = server.place, service.forwarding
    if way != "tunnel" and version and ip_address(server.address).version != version:
        report.impossible(
            place, f"{word}: it is of another address family than the VIP, and only a tunnel leads there"
        )
        return None
    port = server.port if way == "nat" and server.port not in (None, 0, service.port) else None
    if any((one.address, one.port) == (server.address, port) for one in service.servers):
        report.impossible(
            place, f"{word}: it is a real server of the service too, and would be dead with the others"
        )
        return None
    how = "icmp" if service.mark or service.protocol == "sctp" else service.protocol
    report.different(
        place,
        f"{word}: sorry: as before it gets new clients while the quorum is lost. It is checked too, {_BY[how]}; at other times it stands in the "
        "kernel's table with weight 0; and while it serves, the VIP is announced as the last resort, so that nodes with real servers are preferred",
    )
    if way != "nat" and ip_address(server.address).is_loopback:
        report.different(
            place,
            f"{word}: it is this node itself, and packets arrive there with the VIP's address: the program must listen at that address too",
        )
    if port is None and server.port not in (None, 0, service.port):
        report.different(
            place, f"{word}: with {way} no port is changed, so it is served at that of the service"
        )
    return Sorry(server=replace(server, port=port), check=None if how == "tcp" else check(how))


_BY = {
    "tcp": "by a TCP handshake",
    "udp": "for `port unreachable`",
    "icmp": "by icmp",
}


def one_packet_that_can_be(
    *, wanted: bool, protocol: str, forwarding: str, persistent: bool, place: Place, report: Report
) -> bool | None:
    """`protocol` empty: of a mark. None: as is usual."""
    if wanted and protocol not in ("udp", ""):
        return None
    if wanted and forwarding == "nat":
        report.impossible(
            place,
            "one-packet scheduling: with NAT the answers of packets that are scheduled by themselves cannot be translated back, so it is not "
            "written",
        )
        return None
    usual = protocol == "udp" and forwarding != "nat" and not persistent
    return None if wanted == usual else wanted
