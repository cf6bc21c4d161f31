"""What the rules of nftables and of iptables have in common.

IPVS meets one direction of direct routing and of tunnels. What it passes on is therefore taken out of connection
tracking before anything asks for a state. A service with masquerading is left in it: both directions pass here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from anycast.core.values.configuration import Forwarding, Protocol, TunnelType

if TYPE_CHECKING:
    from anycast.core.dataplane.passage import Flow, Passage
    from anycast.core.values.configuration import Address, Config, Service, Vip

Hook: TypeAlias = Literal["input", "forward", "output"]
FAMILIES = (4, 6)
PROTOCOLS = tuple(Protocol)
UNKNOWN = "what a firewall mark goes by is not known here"
OF_CLIENTS = "path MTU of clients"
OF_TUNNEL = "path MTU of a tunnel"
_SHOWN = 5  # services in one line
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


def needless(ways: Passage, hook: Hook | None) -> str:
    """Why there is no rule to write; empty: there are some. `hook`: of rules that accept; None: those with notrack."""
    if not ways.direct and not ways.masqueraded:
        return "no VIP has a service that IPVS passes on"
    if hook is None and not ways.direct:
        return (
            "every service has `forwarding: nat`, and stays tracked; behind stateful rules it needs "
            "net.ipv4.vs.conntrack=1, and rules that accept: --accept writes them"
        )
    if hook == "forward" and not ways.servers:
        if ways.masqueraded:
            return "no service with `forwarding: nat` has a real server"
        return "only answers of `forwarding: nat` pass there, and no service has it"
    return ""


def doubts(config: Config) -> Iterator[str]:
    """VIPs of which the rules treat a packet in another way than its service would need."""
    for vip in config.vips:
        masqueraded = [one for one in vip.services if one.forwarding is Forwarding.NAT and one.mark]
        direct = [one for one in vip.services if one.forwarding is not Forwarding.NAT]
        if masqueraded and direct:
            yield _both_ways(vip, masqueraded, direct)


def _both_ways(vip: Vip, masqueraded: Sequence[Service], direct: Sequence[Service]) -> str:
    """A mark is set later than tracking is decided, so its packets cannot be told from others of the VIP."""
    marks = _names(masqueraded)
    if whole := [one for one in direct if one.mark]:
        does = f"every packet to it is notrack for the sake of {_names(whole)}, those of {marks} with `forwarding: nat` too"
        cure = "Give them a VIP of their own"
    else:
        does = (
            f"the packets of {_names(direct)} are notrack, also those that somebody marks for {marks} with "
            f"`forwarding: nat`; all others to it stay tracked"
        )
        cure = "Do not mark the packets of these ports, or give the mark a VIP of its own"
    return f"vips.{vip.name}: {does}. What is masqueraded and notrack loses its answers to `ct state invalid drop`. {cure}."


def _names(services: Sequence[Service]) -> str:
    shown = [one.name for one in services[:_SHOWN]]
    rest = len(services) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
