"""What the loaded rules of the packet filter do to the packets of the VIPs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from anycast.core.dataplane.passage import Flow, Passage, passage
from anycast.core.values.configuration import Config, Forwarding
from anycast.doctor.demands import CONNTRACK, CONNTRACK_COUNT, CONNTRACK_MAX, reach, services
from anycast.doctor.facts import Facts
from anycast.doctor.filter import samples
from anycast.doctor.filter.rendered import outdated
from anycast.doctor.filter.rules import Table
from anycast.doctor.filter.walk import Budget, Fate, Packet, SpentError, through
from anycast.doctor.finding import SYSCTL_FILE, Code, Finding, Severity, some, unchecked

_NOTRACK = "notrack for the VIPs: `anycast render nftables` (or `iptables`) writes the rules"
_NEAR, _FULL = 0.8, 0.99  # shares of the table of tracked connections
_SERVERS = 50  # real servers of a tunnel or behind masquerading that are tried
_GRAVE = frozenset({"SYN", "data", "packets", "INIT", "answers", "wrapped packets"})


@dataclass(slots=True)
class _Losses:
    """By what drops them: kinds of packets and what they are of."""

    by: dict[str, tuple[list[str], list[str]]] = field(default_factory=dict)
    masqueraded: set[str] = field(default_factory=set)  # the droppers of theirs that a sysctl cures
    unanswered: dict[str, None] = field(default_factory=dict)  # masqueraded services that are notrack
    notrack: set[str] = field(default_factory=set)  # the droppers of their answers
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
    ways = passage(config)
    try:
        _try_all(facts, facts.packet_filter, ways, losses)
    except SpentError:
        spent = True
    for by, (kinds, places) in losses.by.items():
        yield _dropped(by, losses, list(dict.fromkeys(kinds)), places)
    stateful = any(table.stateful for table in facts.packet_filter)
    yield from (late := list(_outdated(facts.packet_filter, ways)))
    if _is_near(facts):
        yield _filling(facts, list(losses.tracked) if stateful else [])
    elif losses.tracked and stateful and not late:
        yield _bounded(facts, list(losses.tracked))
    if facts.number(CONNTRACK) == 1 and losses.tracked and Forwarding.NAT not in _ways(config):
        yield _twice(stateful=stateful)
    if spent:
        yield unchecked("some services against the rules of the packet filter", "there are too many of both")


def _by_count(facts: Facts, config: Config | None) -> Iterator[Finding]:
    ways = _ways(config)
    tracks = facts.number(CONNTRACK)
    if tracks == 1 and Forwarding.NAT not in ways:
        yield _twice(stateful=True)
    if not facts.number(CONNTRACK_COUNT):
        return
    direct = ways != {Forwarding.NAT}
    if _is_near(facts):
        yield _filling(facts, ["VIPs that are not notrack"] if direct else [])
    if tracks == 0 and Forwarding.NAT in ways:
        yield Finding(
            severity=Severity.INFO,
            code=Code.CONNTRACK_RULES,
            text=f"connections are tracked here, and {CONNTRACK} is 0: a rule in FORWARD that drops `ct state invalid` drops "
            "the answers of masqueraded real servers",
            fix=f"`sysctl -w {CONNTRACK}=1`, if there is such a rule"
            + ("; the VIPs of all other services must be notrack then" if direct else ""),
        )
    if direct:
        yield Finding(
            severity=Severity.INFO,
            code=Code.CONNTRACK_RULES,
            text=f"connections are tracked here ({_full(facts)}): of services without `forwarding: nat` a rule that drops "
            "`ct state invalid` drops the FIN and RST of clients, whose connections then stay at their real servers; and "
            "once the table is full, packets of their VIPs are dropped too",
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


def _bounded(facts: Facts, vips: Sequence[str]) -> Finding:
    return Finding(
        severity=Severity.INFO,
        code=Code.CONNTRACK_RULES,
        text=f"rules here have connections tracked ({_full(facts)}), those of {some(vips)} too: once that table is full, "
        f"packets of the VIPs are dropped, also with {CONNTRACK}=0",
        fix=_NOTRACK,
    )


def _outdated(tables: Sequence[Table], ways: Passage) -> Iterator[Finding]:
    if (found := outdated(tables, ways)) is None:
        return
    for text in found.texts:
        yield Finding(
            severity=Severity.WARNING,
            code=Code.FIREWALL_OUTDATED,
            text=text,
            fix=found.fix,
        )


def _is_near(facts: Facts) -> bool:
    count, most = facts.number(CONNTRACK_COUNT) or 0, facts.number(CONNTRACK_MAX) or 0
    return 0 < most * _NEAR <= count


def _filling(facts: Facts, vips: Sequence[str]) -> Finding:
    """`vips`: those whose packets need a place in the table."""
    count, most = facts.number(CONNTRACK_COUNT) or 0, facts.number(CONNTRACK_MAX) or 0
    full = count >= most * _FULL
    lost = f"every packet of {some(vips)}, also of connections that IPVS knows, and " if vips else ""
    return Finding(
        severity=Severity.ERROR if full else Severity.WARNING,
        code=Code.CONNTRACK_FULL,
        text=f"the table of tracked connections is {'full' if full else 'nearly full'} ({_full(facts)}): when it is, the kernel "
        f"drops {lost}new connections of the node itself: checks, BGP, masqueraded services",
        fix=(f"{_NOTRACK}; " if vips else "")
        + f"a larger {CONNTRACK_MAX} (`sysctl -w`, and in {SYSCTL_FILE}), or notrack for what else fills it "
        "(`conntrack -L`)",
    )


def _dropped(by: str, losses: _Losses, kinds: list[str], places: list[str]) -> Finding:
    grave = bool(_GRAVE & set(kinds))
    unless = f", unless {losses.unless[by]} accepts them before" if by in losses.unless else ""
    if by in losses.masqueraded:
        fix = f"`sysctl -w {CONNTRACK}=1`, and in /etc/sysctl.d"
    elif by in losses.notrack:
        fix = (
            "no notrack for these services, so that their answers have a state: `anycast render nftables` (or `iptables`) "
            "writes none, unless the VIP has a firewall mark without `forwarding: nat` too"
        )
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
    for flow in ways.direct:
        fate = through(tables, "prerouting", samples.beside(flow, ways.masqueraded), budget)
        if not fate.packet.untracked:
            losses.tracked[str(flow.address)] = None
    for nat, flows in ((False, ways.direct), (True, ways.masqueraded)):
        for flow in flows:
            for what, packet in samples.packets(flow, interfaces, both=nat and tracks, tracks=tracks):
                fate = _coming_in(tables, packet, budget)
                if nat and fate.packet.untracked:
                    losses.unanswered[samples.place(flow)] = None
                if not nat and what != samples.MTU and not fate.by:
                    leaving = replace(fate.packet, untracked=fate.packet.untracked or not tracks)
                    fate = through(tables, "output", samples.from_here(leaving), budget)
                if fate.by:
                    losses.lost(fate, what, samples.place(flow))
    for flow, fate in _answers(tables, ways, "established" if tracks else "invalid", budget):
        losses.lost(fate, "answers", samples.place(flow))
        if fate.stateful and not tracks:
            losses.masqueraded.add(fate.by)
    if losses.unanswered and tracks:
        for _, fate in _answers(tables, ways, "invalid", budget):
            if fate.stateful:
                losses.notrack.add(fate.by)
                for place in losses.unanswered:
                    losses.lost(fate, "answers", place)
    for one in ways.wrapped[:_SERVERS]:
        fate = through(tables, "output", samples.outer(one), budget)
        if fate.by:
            losses.lost(fate, "wrapped packets", f"the real server {one.server}")


def _answers(
    tables: Sequence[Table], ways: Passage, state: str, budget: Budget
) -> Iterator[tuple[Flow, Fate]]:
    """Those of masqueraded real servers that are dropped, and how."""
    for flow in ways.servers[:_SERVERS]:
        fate = through(tables, "prerouting", samples.answer(flow, state), budget)
        if not fate.by:
            fate = through(tables, "forward", fate.packet, budget)
        if fate.by:
            yield flow, fate


def _coming_in(tables: Sequence[Table], packet: Packet, budget: Budget) -> Fate:
    fate = through(tables, "prerouting", packet, budget)
    return fate if fate.by else through(tables, "input", fate.packet, budget)
