"""One packet of each kind that IPVS meets, as the packet filter would see it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from anycast.core.dataplane.passage import Flow, Wrapped
from anycast.core.values.configuration import Protocol, TunnelType
from anycast.doctor.filter.rules import Value
from anycast.doctor.filter.walk import Packet

MTU = "path MTU messages"
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
_ICMP = {4: (1, "icmp", 3, 4), 6: (58, "icmpv6", 2, 0)}  # protocol, name, type and code of a path MTU message
_PROTOCOLS = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}


def place(flow: Flow) -> str:
    if flow.protocol is None:
        return f"{flow.address} (firewall mark)"
    host = f"[{flow.address}]" if flow.address.version == 6 else str(flow.address)
    return f"{host}:{flow.port}/{flow.protocol}"


def packets(
    flow: Flow, interfaces: frozenset[str] | None, *, both: bool, tracks: bool
) -> Iterator[tuple[str, Packet]]:
    """One of each kind, with the state it has where it is tracked. `both`: both directions are."""
    later = "established" if both else "invalid"
    match flow.protocol:
        case Protocol.UDP:
            yield "packets", to_vip(flow, interfaces, "new")
        case Protocol.SCTP:
            yield "INIT", to_vip(flow, interfaces, "new")
            yield "data", to_vip(flow, interfaces, later)
        case _:
            # A segment in the middle is taken for a new connection (tcp_loose), unless one is known that goes one way.
            picked_up = later if tracks else "new"
            yield "SYN", to_vip(flow, interfaces, "new", _SYN)
            yield "data", to_vip(flow, interfaces, picked_up, _ACK)
            yield "FIN", to_vip(flow, interfaces, later, _FIN | _ACK)
            yield "RST", to_vip(flow, interfaces, later, _RST)
    number, name, kind, code = _ICMP[flow.address.version]
    about: dict[str, int] = {"protocol": number, f"{name}.type": kind, f"{name}.code": code}
    yield (
        MTU,
        Packet(
            family=flow.address.version,
            values={**_common(flow, interfaces), **about},
            tracked="related" if both else "invalid",
        ),
    )


def first(flow: Flow) -> Packet:
    """With which a client begins."""
    return next(packets(flow, None, both=False, tracks=False))[1]


def beside(flow: Flow, others: Iterable[Flow]) -> Packet:
    """The same; of a firewall mark it goes to a port of its address that none of the others has."""
    if flow.protocol is not None:
        return first(flow)
    taken = {one.port for one in others if one.address == flow.address}
    port = next(port for port in range(1, 65537) if port not in taken)
    return first(replace(flow, protocol=Protocol.TCP, port=port))


def to_vip(flow: Flow, interfaces: frozenset[str] | None, state: str, flags: int | None = None) -> Packet:
    protocol = flow.protocol or Protocol.TCP
    values = _common(flow, interfaces) | _ports(protocol, None, flow.port or None)
    values |= {"protocol": _PROTOCOLS[protocol]} | ({} if flags is None else {"tcp.flags": flags})
    return Packet(family=flow.address.version, values=values, tracked=state)


def _common(flow: Flow, interfaces: frozenset[str] | None) -> dict[str, Value | frozenset[str] | None]:
    family = flow.address.version
    return {
        "family": family,
        f"daddr{family}": int(flow.address),
        f"saddr{family}": None,
        "status": "none",
        "iif": interfaces,
    }


def _ports(protocol: Protocol, source: int | None, to: int | None) -> dict[str, int | None]:
    return {"sport": source, "dport": to, f"{protocol}.sport": source, f"{protocol}.dport": to}


def from_here(packet: Packet) -> Packet:
    """It came in, and leaves for a real server that is on a link not known here."""
    values = {name: value for name, value in packet.values.items() if name != "iif"}
    return replace(packet, values=values | {"oif": None})


def answer(flow: Flow, state: str) -> Packet:
    family = flow.address.version
    protocol = flow.protocol or Protocol.TCP
    return Packet(
        family=family,
        values={
            "family": family,
            "protocol": _PROTOCOLS[protocol],
            f"saddr{family}": int(flow.address),
            f"daddr{family}": None,
            "status": "none",
            "iif": None,
            "oif": None,
            **({"tcp.flags": _SYN | _ACK} if protocol is Protocol.TCP else {}),
            **_ports(protocol, flow.port or None, None),
        },
        tracked=state,
    )


def outer(one: Wrapped) -> Packet:
    family = one.server.version
    gue = one.tunnel.type is TunnelType.GUE
    inside = 4 if one.inside == 4 else 41
    number = 17 if gue else 47 if one.tunnel.type is TunnelType.GRE else inside
    return Packet(
        family=family,
        values={
            "family": family,
            "protocol": number,
            f"saddr{family}": None,
            f"daddr{family}": int(one.server),
            "status": "none",
            "oif": None,
            **(_ports(Protocol.UDP, None, one.tunnel.port) if gue else {}),
        },
        tracked="new",
    )
