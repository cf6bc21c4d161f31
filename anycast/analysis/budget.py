"""How long, at most, routers go on sending clients to something that cannot serve them, by kind of failure.

Every bound is a sum of terms: what the configuration says, what this program and its units fix, and what was measured
of others. docs/budget.md has the source of each. Where two mechanisms notice the same failure the sooner one counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from anycast.analysis.routers import without_bfd
from anycast.core.health.compose import leaves
from anycast.core.values.checks import SILENT, IdleCheck, keepalive
from anycast.core.values.configuration import (
    Check,
    Config,
    Leaf,
    Neighbor,
    Protocol,
    Role,
    Rule,
    WhenUnhealthy,
)

# Seconds: the plugin asks ExaBGP 1 s after its last answer, waits 5 s for the next, and kills 1 s after SIGTERM;
# it looks four times a second.
STUCK = 7.5
GUARDIAN = 2.75  # seconds: the plugin's guardian ends ExaBGP after 2.5 s, and counts in quarters of a second
DEAF_ENDED = 1.0  # seconds: the agent asks twice a second what the router has taken, and ends the connection
OSPF_CONCLUDES = 1.0  # seconds from the end of the dead interval to the router's table
ROUTER_DIALS = 2.0  # seconds between two attempts of a router as we render it
EXABGP_DIALS = 60.0  # seconds between two attempts of ExaBGP at the most
SHORTEST_HOLD = 3  # seconds: no less is allowed but 0
LONG_HOLD = 10.0  # seconds
LONG_INTERVAL = 5.0  # seconds


class Kind(StrEnum):
    """What fails. The words are stable: programs go by them."""

    SERVER_DIES = "server_dies"
    SERVER_HANGS = "server_hangs"
    SERVICE_DIES = "service_dies"
    SERVICE_HANGS = "service_hangs"
    REQUIREMENT_FAILS = "requirement_fails"
    UNPROVEN = "unproven"
    AGENT_DIES = "agent_dies"
    PLUGIN_DIES = "plugin_dies"
    PLUGIN_HANGS = "plugin_hangs"
    EXABGP_DIES = "exabgp_dies"
    EXABGP_HANGS = "exabgp_hangs"
    NODE_DIES = "node_dies"
    LINK_DOWN = "link_down"
    PACKETS_LOST = "packets_lost"
    ROUTER_RESTARTS = "router_restarts"
    ROUTER_DEAF = "router_deaf"
    ANNOUNCER_DIES = "announcer_dies"
    ANNOUNCER_HANGS = "announcer_hangs"
    DAEMON_DIES = "daemon_dies"
    DAEMON_HANGS = "daemon_hangs"


WORDS: dict[Kind, str] = {
    Kind.SERVER_DIES: "a real server refuses",
    Kind.SERVER_HANGS: "a real server answers nothing",
    Kind.SERVICE_DIES: "all that serve a service refuse",
    Kind.SERVICE_HANGS: "all that serve a service answer nothing",
    Kind.REQUIREMENT_FAILS: "a required check fails",
    Kind.UNPROVEN: "checks cannot run, by a fault of the node's own",
    Kind.AGENT_DIES: "agent crashes or hangs",
    Kind.PLUGIN_DIES: "plugin crashes",
    Kind.PLUGIN_HANGS: "plugin hangs",
    Kind.EXABGP_DIES: "ExaBGP crashes",
    Kind.EXABGP_HANGS: "ExaBGP hangs",
    Kind.NODE_DIES: "node frozen or without power",
    Kind.LINK_DOWN: "uplink down, carrier lost",
    Kind.PACKETS_LOST: "uplink loses packets, carrier up",
    Kind.ROUTER_RESTARTS: "router restarts: its routes are back",
    Kind.ROUTER_DEAF: "router reads nothing and keeps the session",
    Kind.ANNOUNCER_DIES: "announcer crashes",
    Kind.ANNOUNCER_HANGS: "announcer hangs",
    Kind.DAEMON_DIES: "routing daemon of the node crashes",
    Kind.DAEMON_HANGS: "routing daemon of the node hangs",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """What the configuration does not say. Times in seconds."""

    router: float = 0.2  # from the UPDATE, or the end of the session, to the router's kernel
    kernel: float = 0.05  # from an outcome to IPVS
    lease: float = 0.05  # from an outcome through the lease, the plugin and ExaBGP to the wire
    cleared: float = 0.3  # the unit of an announcer that has ended removes its routes
    respawn: float = 0.2  # ExaBGP starts a plugin that died, and the plugin withdraws
    carrier: float = 0.02  # the router's kernel tells its BGP daemon of a lost carrier
    start: float = 2.0  # a router's BGP daemon, from its start until it listens
    watchdog: float = (
        2.5  # WatchdogSec of the shipped anycast-exabgp.service and anycast-table.service; 0: there is none
    )
    graceful_restart: float = 0.0  # what router and ExaBGP have agreed on; 0: nothing, as rendered here
    bfd_receive: float = 0.0  # the routers' least receive interval of BFD; 0: the node's, as rendered here
    hashes_ports: bool = True  # the routers spread flows by ports too


@dataclass(frozen=True, slots=True)
class Term:
    """`count` times `seconds` of something."""

    seconds: float
    what: str
    count: int = 1

    @property
    def total(self) -> float:
        return self.count * self.seconds if self.count else 0.0

    def __str__(self) -> str:
        times = "" if self.count == 1 else f"{self.count} x "
        return f"{times}{self.seconds:g} s {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """`scopes`: the services, or the neighbors, that the terms hold for."""

    kind: Kind
    scopes: tuple[str, ...]
    terms: tuple[Term, ...]

    @property
    def seconds(self) -> float:
        return math.fsum(term.total for term in self.terms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """What makes an outage longer than need be, or does harm besides. `code` is stable."""

    code: str
    what: str
    do: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """`backups`: the VIPs for which this node is a backup. Its failures cost their clients nothing while a primary serves.

    `last_resorts`: those that stay announced as the last resort. Where all nodes fail alike, clients come for as long as
    that lasts. `sorries`: those with a sorry pool, which stay announced while it serves.
    """

    outages: tuple[Outage, ...]
    concerns: tuple[Concern, ...]
    backups: tuple[str, ...] = ()
    last_resorts: tuple[str, ...] = ()
    sorries: tuple[str, ...] = ()

    def above(self, seconds: float) -> tuple[Outage, ...]:
        # The sums are of decimal fractions: 0.3 + 0.2 must not exceed 0.5.
        return tuple(one for one in self.outages if one.seconds > seconds + 1e-9)


def budget(config: Config, assumed: Assumed | None = None) -> Budget:
    assumed = assumed or Assumed()
    outages = tuple(_grouped((*_checked(config, assumed), *_announced(config, assumed))))
    backups = tuple(vip.name for vip in config.vips if vip.role is Role.BACKUP)
    # What the node itself serves is its own: a VIP that has nothing else has no real servers that may fail for all nodes.
    last = tuple(
        vip.name for vip in config.vips if vip.services and vip.when_unhealthy is WhenUnhealthy.LAST_RESORT
    )
    sorries = tuple(vip.name for vip in config.vips if any(one.sorry is not None for one in vip.services))
    concerns = tuple(_concerns(config, assumed))
    return Budget(outages=outages, concerns=concerns, backups=backups, last_resorts=last, sorries=sorries)


def _grouped(outages: Iterable[Outage]) -> Iterator[Outage]:
    """One of each sum: what differs in its scope alone is told once. In the order of the kinds, the longest first."""
    found: dict[tuple[Kind, tuple[Term, ...]], Outage] = {}
    for one in outages:
        key = (one.kind, one.terms)
        known = found.get(key)
        scopes = one.scopes if known is None else tuple(dict.fromkeys((*known.scopes, *one.scopes)))
        found[key] = replace(one, scopes=scopes)
    order = list(Kind)
    yield from sorted(found.values(), key=lambda one: (order.index(one.kind), -one.seconds))


def _checked(config: Config, assumed: Assumed) -> Iterator[Outage]:
    """What a check notices."""
    kernel = Term(assumed.kernel, "kernel")
    route = (Term(assumed.lease, "lease"), Term(assumed.router, "router"))
    for vip in config.vips:
        for service in vip.services:
            scope = (f"{vip.name} {service.name}",)
            dies, hangs, unproven = (
                _slowest(service.pool.check, how) for how in (_fails, _hangs, _cannot_run)
            )
            yield Outage(kind=Kind.SERVER_DIES, scopes=scope, terms=(*dies, kernel))
            yield Outage(kind=Kind.SERVER_HANGS, scopes=scope, terms=(*hangs, kernel))
            yield Outage(kind=Kind.SERVICE_DIES, scopes=scope, terms=(*dies, *route))
            yield Outage(kind=Kind.SERVICE_HANGS, scopes=scope, terms=(*hangs, *route))
            yield Outage(kind=Kind.UNPROVEN, scopes=scope, terms=(*unproven, *route))
            if service.sorry is not None:
                scope = (f"{vip.name} {service.name} sorry",)
                dies, hangs = (_slowest(service.sorry.check, how) for how in (_fails, _hangs))
                yield Outage(kind=Kind.SERVER_DIES, scopes=scope, terms=(*dies, kernel))
                yield Outage(kind=Kind.SERVER_HANGS, scopes=scope, terms=(*hangs, kernel))
        for local in vip.local:
            kinds = ((Kind.SERVICE_DIES, _fails), (Kind.SERVICE_HANGS, _hangs), (Kind.UNPROVEN, _cannot_run))
            for kind, how in kinds:
                if local.check is not None and (terms := _slowest(local.check, how)):
                    yield Outage(kind=kind, scopes=(f"{vip.name} {local.name}",), terms=(*terms, *route))
    for name, rule in _requirements(config):
        for kind, how in ((Kind.REQUIREMENT_FAILS, _hangs), (Kind.UNPROVEN, _cannot_run)):
            if terms := _slowest(rule, how):
                yield Outage(kind=kind, scopes=(name,), terms=(*terms, *route))


def _requirements(config: Config) -> Iterator[tuple[str, Rule[Leaf]]]:
    every = [("node", config.require)]
    for vip in config.vips:
        every.append((vip.name, vip.require))
        every += [(f"{vip.name} {one.name}", one.require) for one in vip.services]
        every += [(f"{vip.name} {one.name}", one.require) for one in vip.local]
    yield from ((name, rule) for name, rule in every if rule is not None)


def _slowest(tree: Check | Rule[Leaf], how: Callable[[Check], Iterable[Term]]) -> tuple[Term, ...]:
    """Of the checks that a rule is made of; empty where it rests on BGP sessions alone."""
    checks = [tree] if isinstance(tree, Check) else [leaf for leaf in leaves(tree) if isinstance(leaf, Check)]
    every = [tuple(how(check)) for check in checks]
    return max(every, key=lambda terms: math.fsum(term.total for term in terms), default=())


def _fails(check: Check) -> Iterator[Term]:
    """It fails just after it was looked at."""
    yield Term(check.interval, "interval")
    if check.fall > 1:
        yield Term(min(check.fast_interval, check.interval), "fast interval", check.fall - 1)


def _hangs(check: Check) -> Iterator[Term]:
    """Beats that a silent run misses are left out: it costs its timeout at most."""
    if isinstance(check.kind, IdleCheck):
        first, again = keepalive(check.interval)
        yield Term(first, "keepalive")
        yield Term(again, "keepalive without an answer", SILENT)
    yield from _fails(check)
    yield Term(check.timeout, "timeout", check.fall)


def _cannot_run(check: Check) -> Iterator[Term]:
    """The last proof counts for as long as it lasts, from when a run has first proven nothing."""
    yield Term(check.interval, "interval")
    yield Term(check.timeout, "timeout")
    yield Term(check.proof_lasts, "the last proof lasts")


def _announced(config: Config, assumed: Assumed) -> Iterator[Outage]:
    """What the lease, a watchdog or the routers notice."""
    router, every = Term(assumed.router, "router"), ("node",)

    def one(kind: Kind, *terms: Term, scopes: tuple[str, ...] = every) -> Outage:
        return Outage(kind=kind, scopes=scopes, terms=(*terms, router))

    if config.speaker.is_table:
        yield from _by_table(config, assumed, one)
        return
    yield one(
        Kind.AGENT_DIES, Term(config.timing.lease_ttl, "lease TTL"), Term(assumed.lease, "plugin and ExaBGP")
    )
    yield one(Kind.PLUGIN_DIES, Term(assumed.respawn, "respawn and withdraw"))
    hung = Term(assumed.watchdog, "watchdog") if assumed.watchdog else Term(GUARDIAN, "guardian")
    yield one(Kind.PLUGIN_HANGS, hung)
    hold = Term(float(config.bgp.hold_time), "hold time")
    for neighbor in config.bgp.neighbors:
        scopes = (str(neighbor.address),)
        silence = _sooner(hold, *_bfd(config, neighbor, assumed))
        stuck = _sooner(hold, Term(STUCK, "plugin ends it"))
        kept = [Term(assumed.graceful_restart, "graceful restart")] if assumed.graceful_restart else []
        yield one(Kind.EXABGP_DIES, *kept, scopes=scopes)
        yield one(Kind.EXABGP_HANGS, stuck, scopes=scopes)
        yield one(Kind.NODE_DIES, silence, *kept, scopes=scopes)
        yield one(Kind.LINK_DOWN, _unplugged(neighbor, silence, assumed), *kept, scopes=scopes)
        yield one(Kind.PACKETS_LOST, silence, *kept, scopes=scopes)
        dials = Term(ROUTER_DIALS, "until it dials", 2)
        if neighbor.ttl_security or neighbor.address.is_link_local:  # it would dial in vain
            dials = Term(EXABGP_DIALS, "until ExaBGP dials")
        yield one(Kind.ROUTER_RESTARTS, Term(assumed.start, "start of its BGP daemon"), dials, scopes=scopes)
        yield one(Kind.ROUTER_DEAF, hold, Term(DEAF_ENDED, "its connection is ended"), scopes=scopes)


def _by_table(config: Config, assumed: Assumed, one: Callable[..., Outage]) -> Iterator[Outage]:
    """The announcer writes a table of the kernel, and a routing daemon has the sessions."""
    ttl, daemon = (
        Term(config.timing.lease_ttl, "lease TTL"),
        Term(assumed.lease, "announcer and routing daemon"),
    )
    cleared = Term(assumed.cleared, "its unit removes the routes")
    yield one(Kind.AGENT_DIES, ttl, daemon)
    yield one(Kind.ANNOUNCER_DIES, cleared)
    if assumed.watchdog:
        yield one(Kind.ANNOUNCER_HANGS, Term(assumed.watchdog, "watchdog"), cleared)
    hold = Term(float(config.bgp.hold_time), "hold time")
    for neighbor in config.bgp.neighbors:
        scopes = (str(neighbor.address),)
        silence = _sooner(hold, *_bfd(config, neighbor, assumed))
        kept = [Term(assumed.graceful_restart, "graceful restart")] if assumed.graceful_restart else []
        yield one(Kind.DAEMON_DIES, *kept, scopes=scopes)
        yield one(Kind.DAEMON_HANGS, hold, scopes=scopes)  # BFD may go on: it is another thread of BIRD's
        yield one(Kind.NODE_DIES, silence, *kept, scopes=scopes)
        yield one(Kind.LINK_DOWN, _unplugged(neighbor, silence, assumed), *kept, scopes=scopes)
        yield one(Kind.PACKETS_LOST, silence, *kept, scopes=scopes)
        dials = Term(ROUTER_DIALS, "until it dials", 2)
        yield one(Kind.ROUTER_RESTARTS, Term(assumed.start, "start of its BGP daemon"), dials, scopes=scopes)
        yield one(Kind.ROUTER_DEAF, hold, Term(DEAF_ENDED, "its connection is ended"), scopes=scopes)
    if (ospf := config.speaker.ospf) is not None:
        dead = Term(float(ospf.dead), "OSPF dead interval")
        for kind in (Kind.DAEMON_DIES, Kind.DAEMON_HANGS, Kind.NODE_DIES, Kind.PACKETS_LOST):
            yield one(kind, dead, Term(OSPF_CONCLUDES, "OSPF of the router"), scopes=("OSPF",))
        yield one(Kind.LINK_DOWN, Term(assumed.carrier, "carrier"), scopes=("OSPF",))


def _bfd(config: Config, neighbor: Neighbor, assumed: Assumed) -> Iterator[Term]:
    """The router counts by the node's multiplier, and expects packets as often as the slower of both ends says."""
    if neighbor.bfd is not None and not _without_bfd(config, neighbor):
        yield Term(max(neighbor.bfd.interval, assumed.bfd_receive), "BFD", neighbor.bfd.multiplier)


def _unplugged(neighbor: Neighbor, silence: Term, assumed: Assumed) -> Term:
    """A router that is on no link of the node's does not see the carrier go."""
    return silence if neighbor.distance else Term(assumed.carrier, "carrier")


def _without_bfd(config: Config, neighbor: Neighbor) -> str:
    return without_bfd(config, neighbor, neighbor.software)


def _sooner(*terms: Term) -> Term:
    return min(terms, key=lambda term: term.total)


def _concerns(config: Config, assumed: Assumed) -> Iterator[Concern]:
    yield from _sessions(config, assumed)
    yield from _slow_checks(config, assumed)
    if not assumed.watchdog and config.speaker.is_table:
        yield Concern(
            code="no_watchdog",
            what="without a watchdog nothing ends an announcer that hangs: its routes stay for ever",
            do="run it as the unit anycast-table does: WatchdogSec=2500ms, and ExecStopPost= with --clear",
        )
    elif not assumed.watchdog:
        yield Concern(
            code="no_watchdog",
            what="without a watchdog nothing ends an ExaBGP whose failed reload has ended the plugin: its routes stay",
            do="never reload ExaBGP, or run it with WatchdogSec=2500ms and NotifyAccess=all, as the unit anycast-exabgp does",
        )
    udp = [
        f"{vip.name} {s.name}" for vip in config.vips for s in vip.services if _datagrams(s.protocol, s.mark)
    ]
    if udp and assumed.hashes_ports:
        yield Concern(
            code="fragments",
            what="routers that hash ports send datagrams in fragments to another node than whole ones (harmless with equal "
            f"tables), and some send the fragments of one to different nodes (it is lost): {_some(udp)}",
            do="keep datagrams below the MTU, or have the routers hash addresses alone (then say --hash addresses)",
        )


def _datagrams(protocol: Protocol, mark: int) -> bool:
    return protocol is Protocol.UDP and not mark


def _sessions(config: Config, assumed: Assumed) -> Iterator[Concern]:
    hold, neighbors = config.bgp.hold_time, config.bgp.neighbors
    if hold > LONG_HOLD:
        yield Concern(
            code="long_hold",
            what=f"with a hold time of {hold} s that is how long a hung ExaBGP can keep its routes"
            f"{'' if hold < STUCK else f' ({STUCK:g} s where the plugin still runs)'}, and a dead node without BFD",
            do="write bgp.hold_time: 3, and have the routers accept it",
        )
    reasons = sorted({why for one in neighbors if (why := _without_bfd(config, one))})
    for why in reasons if hold > SHORTEST_HOLD else ():
        mute = [str(one.address) for one in neighbors if _without_bfd(config, one) == why]
        yield Concern(
            code="no_bfd",
            what=f"{why}: a frozen node, or a link that loses packets, is noticed by {_some(mute)} after {hold} s",
            do=f"write bgp.hold_time: {SHORTEST_HOLD}",
        )
    if without := [
        str(one.address) for one in neighbors if one.bfd is None and not _without_bfd(config, one)
    ]:
        yield Concern(
            code="no_bfd",
            what=f"no BFD with {_some(without)}: a frozen node, or a link that loses packets, is noticed after {hold} s",
            do="write bgp.bfd: true, and render BIRD's configuration and the routers' again"
            if config.speaker.is_table
            else "write bgp.bfd: true, and run bfdd on both ends (anycast render frr-bfd, router-frr, router-bird)",
        )
    if held := [
        str(one.address)
        for one in neighbors
        if any(_bfd(config, one, assumed)) and one.bfd and one.bfd.interval < assumed.bfd_receive
    ]:
        yield Concern(
            code="router_bfd",
            what=f"the routers expect BFD every {assumed.bfd_receive * 1000:g} ms, slower than this node sends: {_some(held)}",
            do="give the routers this node's timers (anycast render router-frr, router-bird): FRR has 300 ms by default",
        )
    late = [
        f"{one.address} ({one.bfd})"
        for one in neighbors
        if one.bfd and any(term.total >= hold for term in _bfd(config, one, assumed))
    ]
    if late:
        yield Concern(
            code="slow_bfd",
            what=f"BFD is no sooner than the hold time of {hold} s with {_some(late)}",
            do="write a shorter bfd.interval or a smaller bfd.multiplier",
        )
    if config.timing.lease_ttl > hold:
        yield Concern(
            code="lease_outlives_hold",
            what=f"the lease of {config.timing.lease_ttl:g} s outlives the hold time of {hold} s: the routes of a dead "
            "agent stay longer than those of a dead node",
            do="write a shorter timing.lease_ttl",
        )
    if assumed.graceful_restart:
        yield Concern(
            code="graceful_restart",
            what=f"graceful restart keeps the routes of a dead ExaBGP for {assumed.graceful_restart:g} s",
            do="turn it off on the routers and on ExaBGP; what `anycast render` writes has it off",
        )


def _slow_checks(config: Config, assumed: Assumed) -> Iterator[Concern]:
    slow: dict[float, list[str]] = {}
    nervous: list[str] = []
    for vip in config.vips:
        trees = [(one.pool.check, one.name) for one in vip.services]
        trees += [(one.check, one.name) for one in vip.local if one.check is not None]
        for tree, service in trees:
            name = f"{vip.name} {service}"
            checks = (
                [tree] if isinstance(tree, Check) else [one for one in leaves(tree) if isinstance(one, Check)]
            )
            if any(check.fall == 1 for check in checks):
                nervous.append(name)
            terms = _slowest(tree, _fails)
            whole = math.fsum(term.total for term in terms) + assumed.lease + assumed.router
            if terms and terms[0].seconds > LONG_INTERVAL and terms[0].seconds > whole / 2:
                slow.setdefault(terms[0].seconds, []).append(name)
    for interval, names in slow.items():
        yield Concern(
            code="slow_checks",
            what=f"the check's interval of {interval:g} s is most of the time a failure stays unnoticed: {_some(names)}",
            do="write a shorter interval; fast_interval and fall count only once the first run has failed",
        )
    if nervous:
        yield Concern(
            code="nervous_checks",
            what=f"with fall: 1 a single lost packet takes a server out: {_some(nervous)}",
            do="write fall: 2 or more, with a short fast_interval",
        )


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) < 5 else f"{', '.join(names[:3])} and {len(names) - 3} more"
