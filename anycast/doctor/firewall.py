"""What the loaded rules of the packet filter do to the packets of the VIPs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, auto

from anycast.core.dataplane.kernel import SetSysctl
from anycast.core.dataplane.passage import Flow, Passage, passage
from anycast.core.values.configuration import Config, Forwarding
from anycast.doctor.demands import CONNTRACK, CONNTRACK_COUNT, CONNTRACK_MAX, reach, services
from anycast.doctor.facts import Facts
from anycast.doctor.filter import samples
from anycast.doctor.filter.rendered import outdated
from anycast.doctor.filter.rules import Table
from anycast.doctor.filter.walk import Budget, Fate, Packet, SpentError, through
from anycast.doctor.finding import SYSCTL_FILE, Code, Finding, Severity, set_sysctls, some, unchecked

_NOTRACK = "notrack for the VIPs: `anycast render nftables` (or `iptables`) writes the rules"
_TRACK = set_sysctls(SetSysctl(name=CONNTRACK, value="1"))
_NEAR, _FULL = 0.8, 0.99  # shares of the table of tracked connections
_ACCEPTED = frozenset({"input", "forward", "output"})  # hooks for which `render` writes rules that accept
_SERVERS = 50  # real servers of a tunnel or behind masquerading that are tried
_GRAVE = frozenset({"SYN", "data", "packets", "INIT", "answers", "wrapped packets"})


class _Cure(IntEnum):
    """In the order in which they are to be told."""

    NOTRACK = auto()
    TRACK = auto()  # by IPVS too, so that masqueraded connections have a state
    KEEP_TRACKED = auto()
    ACCEPT = auto()


@dataclass(slots=True)
class _Loss:
    """Of one rule or policy: kinds of packets and what they are of, and the hooks in which they met it."""

    kinds: dict[str, None] = field(default_factory=dict)
    places: dict[str, None] = field(default_factory=dict)
    hooks: dict[str, None] = field(default_factory=dict)
    cures: set[_Cure] = field(default_factory=set)
    unless: str = ""


@dataclass(slots=True)
class _Losses:
    by: dict[str, _Loss] = field(default_factory=dict)
    unanswered: dict[str, None] = field(default_factory=dict)  # masqueraded services that are notrack
    tracked: dict[str, None] = field(default_factory=dict)  # VIPs of one direction that are

    def lost(self, fate: Fate, kind: str, place: str, *cures: _Cure) -> None:
        if fate.unless and not fate.stateful:
            return  # the rule before may be the one that is meant for these packets
        loss = self.by.setdefault(fate.by, _Loss())
        loss.unless = loss.unless or fate.unless
        loss.kinds[kind] = None
        loss.places[place] = None
        loss.hooks[fate.hook] = None
        loss.cures.update(cures)


def firewall(facts: Facts, config: Config | None) -> Iterator[Finding]:
    """By the rules where they could be read; else by whether anything is tracked."""
    if config is None or facts.packet_filter is None:
        yield from _by_count(facts, config)
        return
    yield from _unmarked(facts.packet_filter, config)
    losses = _Losses()
    spent = False
    ways = passage(config)
    try:
        _try_all(facts, facts.packet_filter, ways, losses)
    except SpentError:
        spent = True
    for by, loss in losses.by.items():
        yield _dropped(by, loss, tracked=bool(losses.tracked))
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


def _unmarked(tables: Sequence[Table], config: Config) -> Iterator[Finding]:
    """Services whose packets nobody marks, as after a flush of all rules: checks go on as before."""
    places: dict[int, list[str]] = {}
    for vip, service in services(config):
        for version in {address.version for address in vip.addresses} if service.mark else ():
            set_there = [one.marks for one in tables if version in one.families]
            if not any(service.mark in marks or None in marks for marks in set_there):
                places.setdefault(service.mark, []).append(f"{vip.name} (IPv{version})")
    for mark, where in places.items():
        yield Finding(
            severity=Severity.WARNING,
            code=Code.MARK_UNSET,
            text=f"no rule of nftables or iptables sets the firewall mark {mark} of {some(where)}: packets to it come to no real "
            "server, while all checks pass (tc and BPF, which can set one too, were not asked)",
            fix=f"a rule that sets {mark} in prerouting, priority mangle, in a file that is loaded at boot and when nftables is upgraded "
            "(docs/firewalls.md has one)",
        )


def _by_count(facts: Facts, config: Config | None) -> Iterator[Finding]:
    ways = _ways(config)
    tracks = facts.number(CONNTRACK)
    if tracks == 1 and Forwarding.NAT not in ways:
        yield _twice(stateful=True)
    if not facts.number(CONNTRACK_COUNT):
        return
    direct = config is None or not ways <= {Forwarding.NAT}  # what the node itself serves is seen both ways
    if _is_near(facts):
        yield _filling(facts, ["VIPs that are not notrack"] if direct else [])
    if tracks == 0 and Forwarding.NAT in ways:
        yield Finding(
            severity=Severity.INFO,
            code=Code.CONNTRACK_RULES,
            text=f"connections are tracked here, and {CONNTRACK} is 0: a rule in FORWARD that drops `ct state invalid` drops "
            "the answers of masqueraded real servers",
            fix=f"{_TRACK}, if there is such a rule"
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
        fix=set_sysctls(SetSysctl(name=CONNTRACK, value="0"))
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
        + f"a larger {CONNTRACK_MAX} (`sysctl -w`, and for the next boot in {SYSCTL_FILE}), or notrack for what else fills it "
        "(`conntrack -L`)",
    )


def _dropped(by: str, loss: _Loss, *, tracked: bool) -> Finding:
    """`tracked`: VIPs of one direction are."""
    grave = bool(_GRAVE & loss.kinds.keys())
    unless = f", unless {loss.unless} accepts them before" if loss.unless else ""
    return Finding(
        severity=Severity.ERROR if grave else Severity.WARNING,
        code=Code.FIREWALL_DROPS,
        text=f"{by} drops {_joined(list(loss.kinds))} of {some(loss.places)}{unless}"
        + ("" if grave else f": {_harm(loss.kinds)}"),
        fix="; ".join(_cured(loss, tracked=tracked)),
    )


def _cured(loss: _Loss, *, tracked: bool) -> Iterator[str]:
    if _Cure.TRACK in loss.cures and (tracked or _Cure.NOTRACK in loss.cures):
        # With the sysctl alone they would lose all but the first packet of a connection.
        yield f"{_NOTRACK} for those without masquerading; after that, for the masqueraded ones, {_TRACK}"
    elif _Cure.TRACK in loss.cures:
        yield _TRACK
    elif _Cure.NOTRACK in loss.cures:
        yield _NOTRACK
    if _Cure.KEEP_TRACKED in loss.cures:
        yield (
            "no notrack for these services, so that their answers have a state: `anycast render nftables` (or `iptables`) "
            "writes none, unless the VIP has a firewall mark without `forwarding: nat` too"
        )
    if _Cure.ACCEPT in loss.cures:
        whatever = ", whatever their state" if loss.hooks.keys() - {"forward"} else ""
        hooks = [f"`anycast render nftables --accept {hook}`" for hook in loss.hooks if hook in _ACCEPTED]
        write = f": {', '.join(hooks)}, or `iptables --accept`" if hooks else ""
        yield f"a rule before it that accepts them{whatever}{write}"


def _joined(kinds: Sequence[str]) -> str:
    return " and ".join([", ".join(kinds[:-1]), kinds[-1]] if len(kinds) > 1 else kinds)


def _harm(kinds: Iterable[str]) -> str:
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
        for what, packet in samples.packets(flow, interfaces, both=False, tracks=tracks):
            fate = _coming_in(tables, packet, budget)
            if what != samples.MTU and not fate.by:
                leaving = replace(fate.packet, untracked=fate.packet.untracked or not tracks)
                fate = through(tables, "output", samples.from_here(leaving), budget)
            if fate.by:
                cure = _Cure.NOTRACK if fate.stateful else _Cure.ACCEPT
                losses.lost(fate, what, samples.place(flow), cure)
    for flow in ways.masqueraded:
        packets = samples.packets(flow, interfaces, both=tracks, tracks=tracks)
        known = samples.packets(flow, interfaces, both=True, tracks=True)
        for (what, packet), (_, known_packet) in zip(packets, known, strict=True):
            fate = _coming_in(tables, packet, budget)
            if fate.packet.untracked:
                losses.unanswered[samples.place(flow)] = None
            if fate.by:
                would_pass = not tracks and not _coming_in(tables, known_packet, budget).by
                losses.lost(fate, what, samples.place(flow), _Cure.TRACK if would_pass else _Cure.ACCEPT)
    _try_answers(tables, ways, losses, budget, tracks=tracks)
    for one in ways.wrapped[:_SERVERS]:
        fate = through(tables, "output", samples.outer(one), budget)
        if fate.by:
            losses.lost(fate, "wrapped packets", f"the real server {one.server}", _Cure.ACCEPT)


def _try_answers(
    tables: Sequence[Table], ways: Passage, losses: _Losses, budget: Budget, *, tracks: bool
) -> None:
    """Those of masqueraded real servers."""
    refused = {flow for flow, _ in _answers(tables, ways, "established", budget)}
    for flow, fate in _answers(tables, ways, "established" if tracks else "invalid", budget):
        # What is rendered to accept them asks for their state.
        cures = {_Cure.ACCEPT} if flow in refused else set[_Cure]()
        losses.lost(fate, "answers", samples.place(flow), *cures, *(() if tracks else (_Cure.TRACK,)))
    if losses.unanswered and tracks:
        for _, fate in _answers(tables, ways, "invalid", budget):
            if fate.stateful:
                for place in losses.unanswered:
                    losses.lost(fate, "answers", place, _Cure.KEEP_TRACKED)


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
