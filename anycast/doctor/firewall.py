"""What the loaded rules of the packet filter do to the packets of the VIPs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from anycast.core.dataplane.passage import Flow, Passage, Wrapped, passage
from anycast.core.values.configuration import Config, Forwarding, Protocol, TunnelType
from anycast.doctor.demands import CONNTRACK, CONNTRACK_COUNT, CONNTRACK_MAX, reach, services
from anycast.doctor.facts import Facts
from anycast.doctor.filter.rules import Table, Value
from anycast.doctor.filter.walk import Budget, Fate, Packet, SpentError, through
from anycast.doctor.finding import Code, Finding, Severity, some, unchecked

_NOTRACK = "notrack for the VIPs: `anycast render nftables` (or `iptables`) writes the rules"
_FIN, _SYN, _RST, _ACK = 1, 2, 4, 16
_ICMP = {4: (1, "icmp", 3, 4), 6: (58, "icmpv6", 2, 0)}  # protocol, name, type and code of a path MTU message
_SERVERS = 50  # real servers of a tunnel or behind masquerading that are tried
_PROTOCOLS = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}
_GRAVE = frozenset({"SYN", "data", "packets", "INIT", "answers", "wrapped packets"})
_MTU = "path MTU messages"


@dataclass(slots=True)
class _Losses:
    """By what drops them: kinds of packets and what they are of."""

    by: dict[str, tuple[list[str], list[str]]] = field(default_factory=dict)
    masqueraded: set[str] = field(default_factory=set)  # the droppers of theirs that a sysctl cures
    stateful: set[str] = field(default_factory=set)
    unless: dict[str, str] = field(default_factory=dict)
    tracked: dict[str, None] = field(default_factory=dict)  # VIPs of one direction that are

    def lost(self, fate: Fate, kind: str, place: str) -> None:
        if fate.unless and not fate.stateful:
            return  # the rule before may be the one that is meant for these packets
        if fate.unless:
            self.unless.setdefault(fate.by, fate.unless)
        kinds, places = self.by.setdefault(fate.by, ([], []))
        kinds.append(kind)
        places.append(place)
        if fate.stateful:
            self.stateful.add(fate.by)


def firewall(facts: Facts, config: Config | None) -> Iterator[Finding]:
    """By the rules where they could be read; else by whether anything is tracked."""
    if config is None or facts.packet_filter is None:
        yield from _by_count(facts, config)
        return
    losses = _Losses()
    spent = False
    try:
        _try_all(facts, facts.packet_filter, passage(config), losses)
    except SpentError:
        spent = True
    for by, (kinds, places) in losses.by.items():
        yield _dropped(by, losses, list(dict.fromkeys(kinds)), places)
    stateful = any(table.stateful for table in facts.packet_filter)
    if losses.tracked and stateful:
        yield from _bounded(facts, list(losses.tracked))
    if facts.number(CONNTRACK) == 1 and losses.tracked and Forwarding.NAT not in _ways(config):
        yield _twice(stateful=stateful)
    if spent:
        yield unchecked("some services against the rules of the packet filter", "there are too many of both")


def _by_count(facts: Facts, config: Config | None) -> Iterator[Finding]:
    ways = _ways(config)
    tracks, count = facts.number(CONNTRACK), facts.number(CONNTRACK_COUNT) or 0
    if tracks == 1 and Forwarding.NAT not in ways:
        yield _twice(stateful=True)
    if tracks == 0 and Forwarding.NAT in ways and count:
        yield Finding(
            severity=Severity.INFO,
            code=Code.CONNTRACK_RULES,
            text=f"connections are tracked here, and {CONNTRACK} is 0: a rule in FORWARD that drops `ct state invalid` drops "
            "the answers of masqueraded real servers",
            fix=f"`sysctl -w {CONNTRACK}=1`, if there is such a rule",
        )
    elif count and ways != {Forwarding.NAT}:
        yield Finding(
            severity=Severity.INFO,
            code=Code.CONNTRACK_RULES,
            text=f"connections are tracked here ({_full(facts)}): a rule that drops `ct state invalid` drops "
            "the FIN and RST of clients, whose connections then stay at their real servers; and once the table is full, "
            "packets of the VIPs are dropped too",
            fix=_NOTRACK,
        )


def _ways(config: Config | None) -> set[Forwarding]:
    return {reach(service).forwarding for _, service in services(config)} if config is not None else set()


def _full(facts: Facts) -> str:
    return f"{facts.number(CONNTRACK_COUNT) or 0:,} of {facts.number(CONNTRACK_MAX) or 0:,}"


def _twice(*, stateful: bool) -> Finding:
    return Finding(
        severity=Severity.WARNING,
        code=Code.VS_CONNTRACK,
        text=f"{CONNTRACK} is 1: every connection of IPVS is tracked in nf_conntrack too, at twice the cost; stateful "
        "rules cannot rest on it, for only one direction passes this node and all but the first packet is invalid",
        fix=f"`sysctl -w {CONNTRACK}=0`"
        + (f"; with stateful rules of your own {_NOTRACK}" if stateful else ""),
    )


def _bounded(facts: Facts, vips: Sequence[str]) -> Iterator[Finding]:
    yield Finding(
        severity=Severity.INFO,
        code=Code.CONNTRACK_RULES,
        text=f"rules here have connections tracked ({_full(facts)}), those of {some(vips)} too: once that table is full, "
        f"packets of the VIPs are dropped, also with {CONNTRACK}=0",
        fix=_NOTRACK,
    )


def _dropped(by: str, losses: _Losses, kinds: list[str], places: list[str]) -> Finding:
    grave = bool(_GRAVE & set(kinds))
    unless = f", unless {losses.unless[by]} accepts them before" if by in losses.unless else ""
    if by in losses.masqueraded:
        fix = f"`sysctl -w {CONNTRACK}=1`, and in /etc/sysctl.d"
    elif by in losses.stateful:
        fix = _NOTRACK
    else:
        fix = (
            "a rule before it that accepts them, whatever their state: `anycast render nftables --accept HOOK`, "
            "or `iptables --accept`"
        )
    return Finding(
        severity=Severity.ERROR if grave else Severity.WARNING,
        code=Code.FIREWALL_DROPS,
        text=f"{by} drops {_joined(kinds)} of {some(places)}{unless}"
        + ("" if grave else f": {_harm(kinds)}"),
        fix=fix,
    )


def _joined(kinds: Sequence[str]) -> str:
    return " and ".join([", ".join(kinds[:-1]), kinds[-1]] if len(kinds) > 1 else kinds)


def _harm(kinds: Sequence[str]) -> str:
    if {"FIN", "RST"} & set(kinds):
        return "real servers keep connections that clients have closed, IPVS counts them and drains wait for them"
    return "path MTU messages are lost, and long packets with them"


def _try_all(facts: Facts, tables: Sequence[Table], ways: Passage, losses: _Losses) -> None:
    budget = Budget()
    tracks = facts.number(CONNTRACK) == 1
    interfaces = facts.uplinks or None
    for nat, flows in ((False, ways.direct), (True, ways.masqueraded)):
        for flow in flows:
            for what, packet in _packets(flow, interfaces, both=nat and tracks, tracks=tracks):
                fate = _coming_in(tables, packet, budget)
                if not nat and what != _MTU:
                    if not fate.packet.untracked:
                        losses.tracked[str(flow.address)] = None
                    if not fate.by:
                        leaving = replace(fate.packet, untracked=fate.packet.untracked or not tracks)
                        fate = through(tables, "output", _from_here(leaving), budget)
                if fate.by:
                    losses.lost(fate, what, _place(flow))
    for flow in ways.servers[:_SERVERS]:
        fate = through(tables, "prerouting", _answer(flow, "established" if tracks else "invalid"), budget)
        if not fate.by:
            fate = through(tables, "forward", fate.packet, budget)
        if fate.by:
            losses.lost(fate, "answers", _place(flow))
            if fate.stateful and not tracks:
                losses.masqueraded.add(fate.by)
    for one in ways.wrapped[:_SERVERS]:
        fate = through(tables, "output", _outer(one), budget)
        if fate.by:
            losses.lost(fate, "wrapped packets", f"the real server {one.server}")


def _coming_in(tables: Sequence[Table], packet: Packet, budget: Budget) -> Fate:
    fate = through(tables, "prerouting", packet, budget)
    return fate if fate.by else through(tables, "input", fate.packet, budget)


def _place(flow: Flow) -> str:
    if flow.protocol is None:
        return f"{flow.address} (firewall mark)"
    host = f"[{flow.address}]" if flow.address.version == 6 else str(flow.address)
    return f"{host}:{flow.port}/{flow.protocol}"


def _packets(
    flow: Flow, interfaces: frozenset[str] | None, *, both: bool, tracks: bool
) -> Iterator[tuple[str, Packet]]:
    """One of each kind, with the state it has where it is tracked. `both`: both directions are."""
    later = "established" if both else "invalid"
    match flow.protocol:
        case Protocol.UDP:
            yield "packets", _to(flow, interfaces, "new")
        case Protocol.SCTP:
            yield "INIT", _to(flow, interfaces, "new")
            yield "data", _to(flow, interfaces, later)
        case _:
            # A segment in the middle is taken for a new connection (tcp_loose), unless one is known that goes one way.
            picked_up = later if tracks else "new"
            yield "SYN", _to(flow, interfaces, "new", _SYN)
            yield "data", _to(flow, interfaces, picked_up, _ACK)
            yield "FIN", _to(flow, interfaces, later, _FIN | _ACK)
            yield "RST", _to(flow, interfaces, later, _RST)
    number, name, kind, code = _ICMP[flow.address.version]
    about: dict[str, int] = {"protocol": number, f"{name}.type": kind, f"{name}.code": code}
    yield (
        _MTU,
        Packet(
            family=flow.address.version,
            values={**_common(flow, interfaces), **about},
            tracked="related" if both else "invalid",
        ),
    )


def _to(flow: Flow, interfaces: frozenset[str] | None, state: str, flags: int | None = None) -> Packet:
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


def _from_here(packet: Packet) -> Packet:
    """It came in, and leaves for a real server that is on a link not known here."""
    values = {name: value for name, value in packet.values.items() if name != "iif"}
    return replace(packet, values=values | {"oif": None})


def _answer(flow: Flow, state: str) -> Packet:
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


def _outer(one: Wrapped) -> Packet:
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
