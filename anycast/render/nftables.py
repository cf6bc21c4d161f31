"""nftables: a table of our own that takes the VIPs out of connection tracking, and rules that accept them in another's.

A table of ours cannot accept on behalf of another: each base chain of a hook has its say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from anycast.core.dataplane.passage import Flow, Passage, passage
from anycast.render.firewall import (
    FAMILIES,
    OF_CLIENTS,
    OF_TUNNEL,
    PROTOCOLS,
    UNKNOWN,
    Ends,
    Hook,
    needless,
    of,
    one_way,
    tunnels,
)
from anycast.render.template import render

if TYPE_CHECKING:
    from anycast.core.values.configuration import Address, Config

_TYPE = {4: "ipv4_addr", 6: "ipv6_addr"}
_IP = {4: "ip", 6: "ip6"}
_ERRORS = {
    4: "icmp type { destination-unreachable, time-exceeded, parameter-problem }",
    6: "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }",
}
_TOO_BIG = {4: "icmp type destination-unreachable icmp code frag-needed", 6: "icmpv6 type packet-too-big"}
# Where such a message has the protocol and the port of the packet that it is about, in bits: after 8 bytes of ICMP.
_QUOTED = {4: (136, 240), 6: (112, 400)}


def nftables_conf(config: Config) -> str:
    """A file for `nft -f`, which takes the place of what it loaded before at once."""
    ways = passage(config)
    return render(
        "nftables.conf",
        needless=needless(ways, None),
        masqueraded=bool(ways.masqueraded),
        sets=list(_sets(ways)),
        prerouting=[line for family in FAMILIES for line in _prerouting(ways, family)],
        output=[line for family in FAMILIES for line in _output(ways, family)],
    )


def nftables_accept(config: Config, hook: Hook) -> str:
    """Rules to include in a chain of somebody's own of this hook."""
    ways = passage(config)
    lines = {"input": _accept_input, "forward": _accept_forward, "output": _accept_output}[hook]
    rules = [line for family in FAMILIES for line in lines(ways, family)]
    return render("nftables-accept.conf", hook=hook, rules=rules, needless=needless(ways, hook))


def _sets(ways: Passage) -> Iterator[tuple[str, str, list[str]]]:
    """Name, type and elements: a packet costs one search, however many services there are."""
    for family in FAMILIES:
        marked = of(ways.direct, family, None)
        for protocol in PROTOCOLS:
            if flows := of(ways.direct, family, protocol):
                yield f"{protocol}{family}", f"{_TYPE[family]} . inet_service", _pairs(flows)
            if marked and (flows := of(ways.masqueraded, family, protocol)):
                yield f"nat_{protocol}{family}", f"{_TYPE[family]} . inet_service", _pairs(flows)
        if marked:
            yield f"marked{family}", _TYPE[family], [str(one.address) for one in marked]
        if vips := one_way(ways, family):
            yield f"vips{family}", _TYPE[family], list(map(str, vips))
        for ends in tunnels(ways, family):
            yield _name(ends), _TYPE[family], list(map(str, ends.servers))


def _name(ends: Ends) -> str:
    return f"tunnel{ends.family}_{ends.number}" + (f"_{ends.port}" if ends.port else "")


def _pairs(flows: Iterable[Flow]) -> list[str]:
    return [f"{one.address} . {one.port}" for one in flows]


def _prerouting(ways: Passage, family: int) -> Iterator[str]:
    ip = _IP[family]
    if of(ways.direct, family, None):
        for protocol in PROTOCOLS:
            if of(ways.masqueraded, family, protocol):
                yield f"{ip} daddr . {protocol} dport @nat_{protocol}{family} accept"
        yield f'{ip} daddr @marked{family} notrack comment "{UNKNOWN}"'
    for protocol in PROTOCOLS:
        if of(ways.direct, family, protocol):
            yield f"{ip} daddr . {protocol} dport @{protocol}{family} notrack"
    if one_way(ways, family):
        yield f'{ip} daddr @vips{family} {_ERRORS[family]} notrack comment "{OF_CLIENTS}"'
    for ends in tunnels(ways, family):
        yield f'{_about(ends)} notrack comment "{OF_TUNNEL}"'


def _output(ways: Passage, family: int) -> Iterator[str]:
    ip = _IP[family]
    if one_way(ways, family):
        yield f'{ip} saddr @vips{family} {_ERRORS[family]} notrack comment "{OF_CLIENTS}"'
    for ends in tunnels(ways, family):
        yield f"{ip} daddr @{_name(ends)} {_kind(ends)} notrack"


def _accept_input(ways: Passage, family: int) -> Iterator[str]:
    yield from _accept("d", (*ways.direct, *ways.masqueraded), family)
    if vips := one_way(ways, family):
        yield f'{_IP[family]} daddr {_set(vips)} {_ERRORS[family]} accept comment "{OF_CLIENTS}"'
    for ends in tunnels(ways, family):
        yield f'{_about(ends)} accept comment "{OF_TUNNEL}"'


def _accept_forward(ways: Passage, family: int) -> Iterator[str]:
    yield from _accept("s", ways.servers, family, "ct state established,related ")


def _accept_output(ways: Passage, family: int) -> Iterator[str]:
    yield from _accept("d", (*ways.direct, *ways.servers), family)
    if vips := one_way(ways, family):
        yield f'{_IP[family]} saddr {_set(vips)} {_ERRORS[family]} accept comment "{OF_CLIENTS}"'
    for ends in tunnels(ways, family):
        yield f"{_IP[family]} daddr {_set(ends.servers)} {_kind(ends)} accept"


def _accept(end: str, flows: Sequence[Flow], family: int, state: str = "") -> Iterator[str]:
    """`end`: s or d, as in saddr and dport."""
    ip = _IP[family]
    if marked := of(flows, family, None):
        addresses = _set(dict.fromkeys(one.address for one in marked))
        # Not the whole VIP, which the node's own daemons may listen on: what somebody has marked.
        having = "meta mark != 0 " if end == "d" else ""
        yield f'{having}{ip} {end}addr {addresses} {state}accept comment "{UNKNOWN}"'
    for protocol in PROTOCOLS:
        if found := of(flows, family, protocol):
            pairs = ", ".join(dict.fromkeys(_pairs(found)))
            yield f"{ip} {end}addr . {protocol} {end}port {{ {pairs} }} {state}accept"


def _set(addresses: Iterable[Address]) -> str:
    return f"{{ {', '.join(map(str, addresses))} }}"


def _about(ends: Ends) -> str:
    """The message of a router on the way to the real servers that a wrapped packet was too long."""
    protocol, port = _QUOTED[ends.family]
    quoted = f" @th,{port},16 {ends.port}" if ends.port else ""
    return f"{_TOO_BIG[ends.family]} @th,{protocol},8 {ends.number}{quoted}"


def _kind(ends: Ends) -> str:
    return f"udp dport {ends.port}" if ends.port else f"meta l4proto {ends.number}"
