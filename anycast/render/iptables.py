"""iptables: chains of our own in the tables raw and filter, as text for iptables-restore and ip6tables-restore.

A line that begins with -4 or -6 is passed over by the other of the two, so one file is for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses
from itertools import groupby
from typing import TYPE_CHECKING

from anycast.core.dataplane.passage import Flow, Passage, passage
from anycast.core.values.configuration import Protocol
from anycast.render.firewall import FAMILIES, Ends, needless, of, one_way, tunnels
from anycast.render.template import render

if TYPE_CHECKING:
    from anycast.core.values.configuration import Address, Config

_MULTIPORT = 15  # ports that one rule takes; a range counts as two
_NOTRACK, _RETURN, _ACCEPT = "CT --notrack", "RETURN", "ACCEPT"
_ERRORS = {
    4: [
        f"icmp --icmp-type {name}"
        for name in ("destination-unreachable", "time-exceeded", "parameter-problem")
    ],
    6: [
        f"ipv6-icmp --icmpv6-type {name}"
        for name in ("destination-unreachable", "packet-too-big", "time-exceeded", "parameter-problem")
    ],
}


def iptables_rules(config: Config, *, accept: bool = False, update: bool = False) -> str:
    """`accept`: these packets are accepted too, before any other rule. `update`: without the jumps to the chains,
    which are there already.
    """
    ways = passage(config)
    chains: dict[str, dict[str, list[str]]] = {"raw": {"PREROUTING": [], "OUTPUT": []}}
    if accept:
        chains["filter"] = {"INPUT": [], "FORWARD": [], "OUTPUT": []}
    for family in FAMILIES:
        chains["raw"]["PREROUTING"] += _prerouting(ways, family)
        chains["raw"]["OUTPUT"] += _output(ways, family, _NOTRACK)
        if accept:
            chains["filter"]["INPUT"] += _input(ways, family)
            chains["filter"]["FORWARD"] += _forward(ways, family)
            both = (*ways.direct, *ways.servers)
            chains["filter"]["OUTPUT"] += [
                *_flows(family, both, "d", _ACCEPT),
                *_output(ways, family, _ACCEPT),
            ]
    return render(
        "iptables.rules",
        tables=chains,
        needless=needless(ways, "input" if accept else None),
        masqueraded=bool(ways.masqueraded),
        accept=accept,
        update=update,
    )


def _prerouting(ways: Passage, family: int) -> Iterator[str]:
    if of(ways.direct, family, None):
        known = [one for one in ways.masqueraded if one.protocol is not None]
        yield from _flows(family, known, "d", _RETURN)
    yield from _flows(family, ways.direct, "d", _NOTRACK)
    yield from _errors(family, one_way(ways, family), "d", _NOTRACK)
    yield from _about(tunnels(ways, family), _NOTRACK)


def _input(ways: Passage, family: int) -> Iterator[str]:
    yield from _flows(family, (*ways.direct, *ways.masqueraded), "d", _ACCEPT)
    yield from _errors(family, one_way(ways, family), "d", _ACCEPT)
    yield from _about(tunnels(ways, family), _ACCEPT)


def _forward(ways: Passage, family: int) -> Iterator[str]:
    yield from _flows(family, ways.servers, "s", _ACCEPT, "-m conntrack --ctstate ESTABLISHED,RELATED ")


def _output(ways: Passage, family: int, target: str) -> Iterator[str]:
    yield from _errors(family, one_way(ways, family), "s", target)
    for ends in tunnels(ways, family):
        kind = f"udp --dport {ends.port}" if ends.port else ends.number
        for network in _networks(ends.servers):
            yield f"{family} -d {network} -p {kind} -j {target}"


def _flows(family: int, flows: Sequence[Flow], end: str, target: str, state: str = "") -> Iterator[str]:
    """As few rules as it takes, for they are gone through one by one. `end`: s or d, as in --dport."""
    ports: dict[tuple[Address, Protocol | None], set[int]] = {}
    for one in flows:
        if one.address.version == family:
            ports.setdefault((one.address, one.protocol), set()).add(one.port)
    alike: dict[tuple[Protocol | None, tuple[int, ...]], list[Address]] = {}
    for (address, protocol), those in ports.items():
        alike.setdefault((protocol, tuple(sorted(those))), []).append(address)
    for (protocol, numbers), addresses in alike.items():
        for network in _networks(addresses):
            if protocol is None:
                # Not the whole VIP, which the node's own daemons may listen on: what somebody has marked.
                having = "-m mark ! --mark 0 " if (end, target) == ("d", _ACCEPT) else ""
                yield f"{family} -{end} {network} {having}{state}-j {target}"
                continue
            for chunk in _chunks(numbers):
                which = f"-m multiport --{end}ports {','.join(chunk)}"
                yield f"{family} -{end} {network} -p {protocol} {which} {state}-j {target}"


def _errors(family: int, vips: Iterable[Address], end: str, target: str) -> Iterator[str]:
    for network in _networks(vips):
        for error in _ERRORS[family]:
            yield f"{family} -{end} {network} -p {error} -j {target}"


def _about(ends: Iterable[Ends], target: str) -> Iterator[str]:
    """The messages of routers on the way to the real servers that a wrapped packet was too long.

    u32 has no names: `0>>22&0x3C@` goes over the header of IPv4, that of IPv6 has 40 bytes; then 8 bytes of ICMP.
    """
    for one in ends:
        if one.family == 4:
            port = f"&&0>>22&0x3C@28&0xFFFF={one.port}" if one.port else ""
            what, where = "icmp --icmp-type fragmentation-needed", f"0>>22&0x3C@14&0xFF={one.number}{port}"
        else:
            port = f"&&88&0xFFFF={one.port}" if one.port else ""
            what, where = "ipv6-icmp --icmpv6-type packet-too-big", f"51&0xFF={one.number}{port}"
        yield f'{one.family} -p {what} -m u32 --u32 "{where}" -j {target}'


def _networks(addresses: Iterable[Address]) -> tuple[str, ...]:
    """The fewest networks that hold these addresses and no others."""
    every = list(addresses)
    fours = collapse_addresses(IPv4Network(one) for one in every if isinstance(one, IPv4Address))
    sixes = collapse_addresses(IPv6Network(one) for one in every if isinstance(one, IPv6Address))
    return (*map(str, fours), *map(str, sixes))


def _chunks(ports: Sequence[int]) -> Iterator[list[str]]:
    """Ports and ranges, as many at a time as a rule takes."""
    chunk: list[str] = []
    room = _MULTIPORT
    for _, run in groupby(enumerate(ports), lambda one: one[1] - one[0]):
        members = [port for _, port in run]
        takes = 1 if len(members) == 1 else 2
        if takes > room:
            yield chunk
            chunk, room = [], _MULTIPORT
        chunk.append(str(members[0]) if takes == 1 else f"{members[0]}:{members[-1]}")
        room -= takes
    yield chunk
