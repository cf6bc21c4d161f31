"""Everything the node knows at one instant, and the pure questions asked of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import ip_network
from typing import TypeAlias

from anycast.core.dataplane import ipvs
from anycast.core.dataplane.kernel import (
    IPVS_SYSCTLS,
    NAT_SYSCTLS,
    PERSISTENCE_SYSCTLS,
    SCTP_SYSCTLS,
    SYNC_SYSCTLS,
    Desired,
    ExpireDestinations,
    KernelOp,
    Snapshot,
)
from anycast.core.dataplane.members import (
    Memberships,
    TargetName,
    Use,
    first_addresses,
    service_key,
    versions,
)
from anycast.core.dataplane.traffic import Count
from anycast.core.health.compose import compose, leaves
from anycast.core.health.phase import Health, Phase
from anycast.core.maintenance.stages import (
    NODE_SCOPES,
    ORDER,
    Maintenance,
    Progress,
    is_server,
    server_scope,
)
from anycast.core.values.checks import BgpSession
from anycast.core.values.configuration import (
    Address,
    Aimed,
    Config,
    Forwarding,
    Prefix,
    Protocol,
    RealServer,
    Rule,
    Service,
    Target,
    Vip,
)
from anycast.core.values.report import Report
from anycast.core.values.route import Route, drained
from anycast.core.vip.decide import Advertise, Facts, Reason, RequirementFacts, ServiceFacts, Verdict
from anycast.core.vip.hold import FREE, WINDOW, hold
from anycast.core.vip.requirements import Requirement

UNDECIDED = Health()
ACTIVE = Progress()
READ_FAILURES = 3  # in a row before a standing route goes: one lost netlink answer is not an outage
STALE_AFTER = 3  # reconcile intervals without a reading of the kernel
EXPIRE_AGAIN = 60.0  # seconds until the connections of one real server are ended once more

ServerKey: TypeAlias = tuple[ipvs.Key, ipvs.DestinationKey]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelState:
    """What is known of the kernel. One read or program is under way at a time (`busy`)."""

    told: Snapshot | None = None  # as the kernel told it last
    snapshot: Snapshot | None = None  # the same with the table weights that it does not tell
    read_at: float = 0.0  # of the snapshot
    counts: tuple[Count, ...] = ()  # the packets of the last readings
    error: str | None = None
    failures: int = 0
    problems: tuple[str, ...] = ()
    busy: bool = False
    under_way: tuple[KernelOp, ...] = ()  # the program that is being carried out
    attempted: Desired | None = None  # what the last program aimed at, while that is not reached
    failed_vips: frozenset[str] = frozenset()  # still different after a program
    next_read: float = 0.0
    retry_at: float = math.inf  # of a program that did not reach what it aimed at
    reached: bool = False  # it has held what is desired now
    programs: int = 0
    repairs: Mapping[str, int] = field(default_factory=dict)  # what others changed, by kind, since the start
    adopted: frozenset[ServerKey] = frozenset()
    """Destinations found in use: they keep their weight until a check has spoken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How the kernel differs from what a VIP needs. Both texts empty: proven."""

    text: str = ""
    missing_address: str | None = None
    final: bool = False  # it is not ours to mend

    @property
    def proven(self) -> bool:
        return not self.text and self.missing_address is None


NOT_READ = Difference(text="the kernel has not been read yet")


@dataclass(frozen=True, slots=True, kw_only=True)
class VipState:
    verdict: Verdict = Verdict(advertise=Advertise.NO, reason=Reason.STARTING)
    since: float = 0.0  # of advertise and reason
    started: bool = False
    stable_since: float | None = None  # while not started: proven, with nothing in the way, without a break
    changes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """An address the configuration dropped: it stays in the kernel until its route is surely gone."""

    table: ipvs.Table
    runs_out: float  # the instant from which no lease with it is good any more
    seq: int  # of the first lease without it
    withdrawn_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retiring:
    """A real server the configuration dropped: weight 0 until its connections are gone, or the instant `until`."""

    destination: ipvs.Destination
    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseState:
    seq: int = 0
    sent_at: float = 0.0
    ttl: float = 0.0
    runs_out: float = 0.0  # the instant from which none that was ever sent is good any more
    routes: tuple[Route, ...] | None = None  # None: no lease was sent yet
    changed_seq: int = 0  # of the first lease with these routes


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    config: Config
    started_at: float
    crashes: int = 0  # of the agents before, in the window before the start
    members: Memberships = field(default_factory=dict)  # of the configuration
    requirements: tuple[Requirement, ...] = ()  # of the configuration
    composed: tuple[Use, ...] = ()  # real servers that rest on a rule
    names: Mapping[Target, TargetName] = field(default_factory=dict)  # of every target there is
    siblings: Mapping[Target, tuple[Target, ...]] = field(default_factory=dict)  # of targets of real servers
    maintenance: Mapping[str, Maintenance] = field(default_factory=dict)
    progress: Mapping[str, Progress] = field(default_factory=dict)  # of the node and VIPs in maintenance
    wall_offset: float | None = None  # wall clock less monotonic clock, as last seen
    health: Mapping[Target, Health] = field(default_factory=dict)
    vips: Mapping[str, VipState] = field(default_factory=dict)
    kernel: KernelState = KernelState()
    desired: Desired = Desired(table={}, addresses=frozenset(), sysctls={})
    services: Mapping[ipvs.Key, ServiceFacts] = field(default_factory=dict)
    differences: Mapping[str, Difference] = field(default_factory=dict)
    owned: frozenset[Address] = frozenset()  # VIP addresses of every configuration of this run
    owned_marks: frozenset[ipvs.MarkKey] = frozenset()  # and the firewall marks of their services
    sync_owned: bool = False  # one of them had connection sync
    retiring: Mapping[ServerKey, Retiring] = field(default_factory=dict)
    expired: Mapping[ServerKey, float] = field(default_factory=dict)  # when its connections were ended last
    leaving: Mapping[Address, Leaving] = field(default_factory=dict)
    lease: LeaseState = LeaseState()
    plugins: Mapping[int, Report | None] = field(default_factory=dict)
    lost_until: float = -math.inf  # until then a plugin that was lost may still hold routes
    stopping_since: float | None = None
    exited: bool = False

    @property
    def rests_on_sessions(self) -> bool:
        """Whether a real server is judged by BGP sessions too."""
        rules = [use.check for use in self.composed if isinstance(use.check, Rule)]
        return any(isinstance(leaf, BgpSession) for rule in rules for leaf in leaves(rule))


def prefix_of(address: Address) -> Prefix:
    """The /32 or /128."""
    return ip_network(address)


def health_of(state: State, check: Aimed) -> Health:
    """The health of what is checked, or of what a rule makes of it."""
    if isinstance(check, Target):
        return state.health.get(check, UNDECIDED)
    if isinstance(check, Rule):
        return compose(check, partial(health_of, state))
    return _session_health(state, check)


def _session_health(state: State, session: BgpSession) -> Health:
    """As the plugins tell it. With none connected nobody knows, and no route stands either."""
    reports = [report for report in state.plugins.values() if report is not None]
    if not reports:
        return Health(detail="no plugin tells of it")
    wanted = None if session.neighbor is None else str(session.neighbor)
    told = [one for report in reports for one in report.neighbors if wanted in (None, one.address)]
    up = [one.changed for one in told if one.state == "up"]
    if up:
        return Health(phase=Phase.UP, since=min(up))
    why = "; ".join(f"{one.address} is {one.state}" for one in told) or "there is no such session"
    return Health(phase=Phase.DOWN, since=max((one.changed for one in told), default=0.0), detail=why)


def wanted_sysctls(config: Config) -> dict[str, str]:
    wanted = dict(IPVS_SYSCTLS)
    services = [service for vip in config.vips for service in vip.services]
    if any(service.protocol is Protocol.SCTP for service in services):
        wanted |= SCTP_SYSCTLS
    if any(service.persistence is not None for service in services):
        wanted |= PERSISTENCE_SYSCTLS
    if config.connection_sync is not None:
        wanted |= SYNC_SYSCTLS
    for vip in config.vips:
        if any(service.forwarding is Forwarding.NAT for service in vip.services):
            for version in versions(vip):
                wanted |= NAT_SYSCTLS[version]
    return wanted


def desired_kernel(state: State) -> Desired:
    """What the kernel should hold: the configuration with weights by health, and what is still leaving."""
    table: dict[ipvs.Key, ipvs.ServiceEntry] = {}
    addresses: set[Address] = set()
    for vip in state.config.vips:
        for address in vip.addresses:
            addresses.add(address)
            for service in vip.services:
                key = service_key(address, service)
                table[key] = _entry(state, key)
    for (key, _), retiring in state.retiring.items():
        table[key] = _with(table[key], replace(retiring.destination, weight=0))
    for address, leaving in state.leaving.items():
        addresses.add(address)
        for key, entry in leaving.table.items():
            table.setdefault(key, entry)  # a firewall mark may serve an address that stays
    return Desired(
        table=table,
        addresses=frozenset(addresses),
        sysctls=wanted_sysctls(state.config) if state.config.manage_sysctls else {},
        owned=state.owned,
        owned_marks=state.owned_marks,
        exclusive=state.config.ipvs_exclusive,
        timeouts=state.config.timeouts,
        sync=state.config.connection_sync,
        sync_owned=state.sync_owned,
    )


def _with(entry: ipvs.ServiceEntry, destination: ipvs.Destination) -> ipvs.ServiceEntry:
    destinations = (*entry.destinations, destination)
    return replace(entry, destinations=tuple(sorted(destinations, key=ipvs.canonical)))


def _entry(state: State, key: ipvs.Key) -> ipvs.ServiceEntry:
    membership = state.members[key]
    drained = drained_scopes(state)
    adopted = state.kernel.adopted
    destinations: list[ipvs.Destination] = []
    for member in membership.members:
        health = health_of(state, member.check)
        usable = health.is_up or (health.phase is Phase.UNDECIDED and (key, member.up.key) in adopted)
        destinations.append(member.up if usable and member.scope not in drained else member.down)
    return replace(membership.empty, destinations=tuple(destinations))


def drained_scopes(state: State) -> frozenset[str]:
    """`POOL/SERVER` of what was taken out by command."""
    return frozenset(scope for scope in state.maintenance if is_server(scope))


def is_drained(state: State, service: Service, server: RealServer) -> bool:
    """Somebody took the server out, by the configuration or by command: it keeps the connections it has."""
    return server.weight == 0 or server_scope(service.pool.name, server.name) in state.maintenance


def kernel_table(state: State) -> ipvs.Table:
    """The IPVS table as last read; empty before that."""
    return state.kernel.snapshot.table if state.kernel.snapshot is not None else {}


def connections_of(state: State, scope: str) -> int:
    """Active connections of the real server `POOL/SERVER` through this node, as last read."""
    table = kernel_table(state)
    count = 0
    for key, membership in state.members.items():
        ours = {member.up.key for member in membership.members if member.scope == scope}
        if ours and key in table:
            count += sum(one.active for one in table[key].destinations if one.key in ours)
    return count


def is_at_rest(state: State, scope: str) -> bool:
    """Whether a drained real server has been read back without new clients or active connections."""
    entry = state.maintenance.get(scope)
    read = state.kernel.snapshot is not None and not state.kernel.busy and state.kernel.reached
    since = entry.began if entry is not None else None
    return read and (since is None or state.kernel.read_at > since) and connections_of(state, scope) == 0


def would_fall(state: State, scope: str) -> tuple[str, ...]:
    """The services, as `web tcp/80 IPv4`, that could not stay up without the real server `scope`."""
    without = replace(
        state, maintenance={**state.maintenance, scope: Maintenance(reason="", by="", since=0.0)}
    )
    return tuple(
        f"{vip.name} {now.name}"
        for vip in state.config.vips
        for service in vip.services
        for key in (service_key(address, service) for address in first_addresses(vip))
        for now in (state.services[key],)
        if service_facts(without, key, service).usable < service.quorum.low <= now.usable
    )


def expiries(state: State, snapshot: Snapshot, now: float) -> ExpireDestinations | None:
    """What ends the connections of real servers that will not come back for them; None: nothing does.

    Such a server failed for as long as its service says, or it was taken out and the protocol has no connections
    that could end by themselves. With weight 0 alone the kernel keeps both for as long as the client goes on
    sending.
    """
    found: dict[ServerKey, None] = {}
    for vip in state.config.vips:
        for address in vip.addresses:
            for service in vip.services:
                key = service_key(address, service)
                entry = snapshot.table.get(key)
                if entry is None or service.one_packet:
                    continue
                held = {
                    one.key for one in entry.destinations if not one.weight and (one.active or one.inactive)
                }
                found.update(dict.fromkeys(_lost(state, key, service, held, now)) if held else {})
    removals = tuple(ipvs.RemoveDestination(service=key, key=at) for key, at in found)
    return ExpireDestinations(removals=removals) if removals else None


def _lost(
    state: State, key: ipvs.Key, service: Service, held: set[ipvs.DestinationKey], now: float
) -> Iterator[ServerKey]:
    drained = drained_scopes(state)
    for member in state.members[key].members:
        at = member.up.key
        rested = now >= state.expired.get((key, at), -math.inf) + EXPIRE_AGAIN
        if at not in held or not rested:
            continue
        taken_out = not member.in_use or member.scope in drained
        health = health_of(state, member.check)
        failed = health.phase is not Phase.UNDECIDED and not health.is_up
        if (taken_out and service.protocol is Protocol.UDP) or (
            failed and service.expire_failed is not None and now >= health.since + service.expire_failed
        ):
            yield key, at


def difference(state: State, vip: Vip) -> Difference:
    """How the kernel, as last read, differs from what `vip` needs: the first thing found."""
    found = (_address_difference(state, vip, address) for address in vip.addresses)
    return next((apart for apart in found if not apart.proven), Difference())


def _address_difference(state: State, vip: Vip, address: Address) -> Difference:
    snapshot = state.kernel.snapshot
    if snapshot is None:
        return NOT_READ
    for service in vip.services:
        key = service_key(address, service)
        actual = snapshot.table.get(key)
        if actual is None:
            return Difference(text=f"{key} is not in IPVS")
        if apart := ipvs.apart(actual, state.desired.table[key]):
            return Difference(text=f"{key}: {apart}")
    for name, value in wanted_sysctls(state.config).items():
        found = snapshot.sysctls.get(name)
        if found != value:
            final = not state.config.manage_sysctls
            return Difference(text=f"{name} is {found or 'not there'}, {value} is needed", final=final)
    if address not in snapshot.addresses:
        where = f"{address} on {state.config.node.interface}"
        return Difference(text=f"{where} is missing", missing_address=where)
    return Difference()


def facts(state: State, vip: Vip, now: float) -> Facts:
    known = state.vips.get(vip.name, VipState())
    advertised = known.verdict.advertise is not Advertise.NO
    apart = state.differences.get(vip.name, NOT_READ)
    return Facts(
        stopping=state.stopping_since is not None,
        node_maintenance=furthest(state, NODE_SCOPES).stage,
        vip_maintenance=furthest(state, [vip.name]).stage,
        kernel_error=_kernel_error(state, advertised=advertised, now=now),
        started=known.started,
        proven=apart.proven,
        repair_failed=vip.name in state.kernel.failed_vips,
        missing_address=apart.missing_address,
        difference=apart.text,
        held=_held(state, known, now),
        services=tuple(
            state.services[service_key(address, service)]
            for service in vip.services
            for address in first_addresses(vip)
        ),
        requirements=tuple(
            _requirement_facts(state, one) for one in state.requirements if one.vip in {"", vip.name}
        ),
        advertised=advertised,
    )


def recent_crashes(state: State, now: float) -> int:
    """Of the agents before. A run as long as the window clears them."""
    return state.crashes if now < state.started_at + WINDOW else 0


def start_hold(state: State, now: float) -> float:
    """Seconds a VIP that has not been announced yet in this run must be proven."""
    return hold(state.config.timing, recent_crashes(state, now))


def held_for(state: State, known: VipState, now: float) -> float | None:
    """Seconds that it has been proven, while that is not long enough. What counts is what was read back."""
    needed = start_hold(state, now)
    if known.started or not needed:
        return None
    since = known.stable_since
    if since is None:
        return 0.0
    return None if state.kernel.read_at >= since + needed else max(0.0, state.kernel.read_at - since)


def hold_due(state: State, now: float) -> float:
    """The instant by which the kernel must be read back to end a hold."""
    needed = start_hold(state, now)
    ends = (
        known.stable_since + needed
        for known in state.vips.values()
        if known.stable_since is not None and not known.started
    )
    return min((end for end in ends if end > state.kernel.read_at), default=math.inf)


def is_holding(state: State) -> bool:
    starting = any(known.verdict.reason is Reason.STARTING for known in state.vips.values())
    return starting and start_hold(state, state.started_at) > 0


def _held(state: State, known: VipState, now: float) -> str:
    stable = held_for(state, known, now)
    if stable is None:
        return ""
    crashes = recent_crashes(state, now)
    why = f" ({crashes} crashes in {WINDOW / 60:g} min)" if crashes > FREE else ""
    return f"data plane stable for {stable:.1f} of {start_hold(state, now):g} s{why}"


def _requirement_facts(state: State, requirement: Requirement) -> RequirementFacts:
    health = health_of(state, requirement.check)
    about = f"{requirement.service}: " if requirement.service else ""
    return RequirementFacts(
        reason=requirement.reason,
        holds=None if health.phase is Phase.UNDECIDED else health.phase.is_up,
        detail=f"{about}{health.detail}" if health.detail else "",
    )


def _kernel_error(state: State, *, advertised: bool, now: float) -> str | None:
    kernel = state.kernel
    stale = kernel.snapshot is not None and now >= stale_at(state)
    if kernel.error is not None and (stale or not advertised or kernel.failures >= READ_FAILURES):
        return kernel.error
    return f"not read for {now - kernel.read_at:.0f} s" if stale else None


def stale_at(state: State) -> float:
    """The instant from which the last reading of the kernel proves nothing any more."""
    return state.kernel.read_at + STALE_AFTER * state.config.timing.reconcile


def service_facts(state: State, key: ipvs.Key, service: Service) -> ServiceFacts:
    usable = undecided = total = 0
    drained = drained_scopes(state)
    for member in state.members[key].members:
        total += 1
        if not member.in_use or member.scope in drained:
            continue  # whatever its check says, it takes no new client
        health = health_of(state, member.check)
        usable += health.is_up
        undecided += health.phase is Phase.UNDECIDED
    return ServiceFacts(
        name=f"{service.name} IPv{ipvs.version_of(key)}",
        usable=usable,
        undecided=undecided,
        total=total,
        quorum=service.quorum,
    )


def all_service_facts(state: State) -> dict[ipvs.Key, ServiceFacts]:
    """Of every service; those of one family of a VIP are alike."""
    found: dict[ipvs.Key, ServiceFacts] = {}
    for vip in state.config.vips:
        for service in vip.services:
            for version in versions(vip):
                first, *others = [service_key(a, service) for a in vip.addresses if a.version == version]
                found[first] = service_facts(state, first, service)
                found.update(dict.fromkeys(others, found[first]))
    return found


def desired_routes(state: State) -> tuple[Route, ...]:
    """What the verdicts say should be announced, in the order of the configuration.

    An address that a standing VIP has just been given waits until the kernel serves it, with as many usable
    servers as it takes a VIP to come up.
    """
    standing = {route.prefix for route in state.lease.routes or ()}
    routes = []
    for vip in state.config.vips:
        advertise = state.vips[vip.name].verdict.advertise
        if advertise is Advertise.NO:
            continue
        for address in vip.addresses:
            route = _route(state.config, vip, address)
            drain = advertise is Advertise.DRAIN
            if route.prefix not in standing and (drain or not _may_come_up(state, vip, address)):
                continue
            routes.append(drained(route) if drain else route)
    return tuple(routes)


def _may_come_up(state: State, vip: Vip, address: Address) -> bool:
    enough = all(
        state.services[service_key(address, service)].usable >= service.quorum.high
        for service in vip.services
    )
    return enough and state.kernel.error is None and _address_difference(state, vip, address).proven


def _route(config: Config, vip: Vip, address: Address) -> Route:
    return Route(
        prefix=prefix_of(address),
        next_hop=config.bgp.next_hop_v4 if address.version == 4 else config.bgp.next_hop_v6,
        med=vip.med,
        communities=vip.communities,
        large_communities=vip.large_communities,
    )


def furthest(state: State, scopes: Iterable[str]) -> Progress:
    """Of overlapping maintenances the one that has come furthest; ACTIVE when there is none."""
    found = (state.progress.get(scope, ACTIVE) for scope in scopes)
    return max(found, key=lambda progress: ORDER.index(progress.stage), default=ACTIVE)
