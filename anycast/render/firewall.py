"""What the rules of nftables and of iptables have in common.

IPVS meets one direction of direct routing and of tunnels. What it passes on is therefore taken out of connection
tracking before anything asks for a state. A service with masquerading is left in it: both directions pass here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anycast.core.values.configuration import Protocol, TunnelType

if TYPE_CHECKING:
    from anycast.core.dataplane.passage import Flow, Passage
    from anycast.core.values.configuration import Address

FAMILIES = (4, 6)
PROTOCOLS = tuple(Protocol)
UNKNOWN = "what a firewall mark goes by is not known here"
OF_CLIENTS = "path MTU of clients"
OF_TUNNEL = "path MTU of a tunnel"
_INSIDE = {4: 4, 6: 41}  # protocol numbers of IPv4 and IPv6 inside IP
_NUMBER = {TunnelType.GRE: 47, TunnelType.GUE: 17}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """Where the packets of one kind of tunnel go. `number`: their protocol; `port`: of UDP, else 0."""

    family: int
    number: int
    port: int
    servers: tuple[Address, ...]


def tunnels(ways: Passage, family: int) -> list[Ends]:
    """Those to real servers of the family."""
    found: dict[tuple[int, int], set[Address]] = {}
    for one in ways.wrapped:
        if one.server.version != family:
            continue
        kind = (_NUMBER.get(one.tunnel.type, _INSIDE[one.inside]), one.tunnel.port)
        found.setdefault(kind, set()).add(one.server)
    return [
        Ends(family=family, number=number, port=port, servers=tuple(sorted(servers, key=int)))
        for (number, port), servers in sorted(found.items())
    ]


def of(flows: Sequence[Flow], family: int, protocol: Protocol | None) -> list[Flow]:
    """Those of a family and a protocol. None: those that may have any."""
    return [one for one in flows if one.address.version == family and one.protocol is protocol]


def one_way(ways: Passage, family: int) -> list[Address]:
    """The VIPs of the family with a service of which one direction is seen."""
    return list(dict.fromkeys(one.address for one in ways.direct if one.address.version == family))
