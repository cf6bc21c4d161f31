"""Everything the node knows at one instant, and the pure questions asked of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from ipaddress import ip_network

from anycast.core import ipvs
from anycast.core.compose import Look, compose, leaves
from anycast.core.decision import Advertise, Facts, Reason, RequirementFacts, ServiceFacts, Verdict
from anycast.core.health import Health, Phase
from anycast.core.kernel import IPVS_SYSCTLS, NAT_SYSCTLS, Desired, Snapshot
from anycast.core.kinds import BgpSession, IcmpCheck, NodeKind
from anycast.core.maintenance import NODE, Maintenance, Stage, stage
from anycast.core.model import (
    HERE,
    Address,
    Check,
    CommandCheck,
    Config,
    Forwarding,
    Prefix,
    RealServer,
    Rule,
    Service,
    Target,
    Vip,
)
from anycast.core.report import Report
from anycast.core.routes import Route, drained

UNDECIDED = Health()
READ_FAILURES = 3  # in a row before a standing route goes: one lost netlink answer is not an outage
STALE_AFTER = 3  # reconcile intervals without a reading of the kernel


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelState:
    """What is known of the kernel. One read or program is under way at a time (`busy`)."""

    snapshot: Snapshot | None = None
    read_at: float = 0.0  # of the snapshot
    error: str | None = None
    failures: int = 0
    problems: tuple[str, ...] = ()
    busy: bool = False
    attempted: Desired | None = None  # what the last program aimed at, while that is not reached
    failed_vips: frozenset[str] = frozenset()  # still different after a program
    next_read: float = 0.0
    retry_at: float = math.inf  # of a program that did not reach what it aimed at
    programs: int = 0
    adopted: frozenset[tuple[ipvs.ServiceKey, ipvs.DestinationKey]] = frozenset()
    """Destinations found in use: they keep their weight until a check has spoken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How the kernel differs from what a VIP needs. Both empty: proven."""

    text: str = ""
    missing_address: str | None = None

    @property
    def proven(self) -> bool:
        return not self.text and self.missing_address is None


NOT_READ = Difference(text="the kernel has not been read yet")


@dataclass(frozen=True, slots=True, kw_only=True)
class VipState:
    verdict: Verdict = Verdict(advertise=Advertise.NO, reason=Reason.STARTING)
    since: float = 0.0  # of advertise and reason
    started: bool = False
    changes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """An address the configuration dropped: it stays in the kernel until its route is surely gone."""

    table: ipvs.Table
    runs_out: float  # the instant from which no lease with it is good any more
    seq: int  # of the first lease without it
    withdrawn_at: float | None = None


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
    targets: frozenset[Target] = frozenset()
    maintenance: Mapping[str, Maintenance] = field(default_factory=dict)
    health: Mapping[Target, Health] = field(default_factory=dict)
    vips: Mapping[str, VipState] = field(default_factory=dict)
    kernel: KernelState = KernelState()
    desired: Desired = Desired(table={}, addresses=frozenset(), sysctls={})
    differences: Mapping[str, Difference] = field(default_factory=dict)
    owned: frozenset[Address] = frozenset()  # VIP addresses of every configuration of this run
    leaving: Mapping[Address, Leaving] = field(default_factory=dict)
    lease: LeaseState = LeaseState()
    announcers: Mapping[int, Report | None] = field(default_factory=dict)
    stopping_since: float | None = None
    exited: bool = False


def prefix_of(address: Address) -> Prefix:
    """The /32 or /128."""
    return ip_network(address)


def service_key(address: Address, service: Service) -> ipvs.ServiceKey:
    return ipvs.ServiceKey(protocol=service.protocol, address=address, port=service.port)


def server_address(server: RealServer, version: int) -> Address | None:
    """The server's address in the family, if it has one."""
    return next((address for address in server.addresses if address.version == version), None)


def aim(check: Check, address: Address = HERE, port: int = 0) -> Target:
    """What the check looks at, used for a real server's address and port, or for the node."""
    own, fixed, check = _aimed(check)
    return Target(address=own or address, port=port if fixed is None else fixed, check=check)


@cache
def _aimed(check: Check) -> tuple[Address | None, int | None, Check]:
    """The check's own address and port, and the check without them: where it is aimed is the target's to say.

    Services that end at the same place by different words then share one target.
    """
    kind, address = check.kind, check.address
    if address is not None:
        check = replace(check, address=None)
    match kind:
        case _ if isinstance(kind, NodeKind):
            return HERE, 0, check
        case IcmpCheck():
            return address, 0, check
        case CommandCheck():
            return address, None, check
        case _ if kind.port is None:
            return address, None, check
        case _:
            return address, kind.port, replace(check, kind=replace(kind, port=None))


def health_of(state: State, service: Service, server: RealServer, address: Address) -> Health:
    """The health of a real server as the service sees it."""
    check, port = service.pool.check, server.port or service.port
    if isinstance(check, Check):
        return state.health.get(aim(check, address, port), UNDECIDED)
    return compose(check, _looking(state, address, port))


def _looking(state: State, address: Address = HERE, port: int = 0) -> Look:
    def look(leaf: Check | BgpSession) -> Health:
        if isinstance(leaf, BgpSession):
            return _session_health(state, leaf)
        return state.health.get(aim(leaf, address, port), UNDECIDED)

    return look


def _session_health(state: State, session: BgpSession) -> Health:
    """As the announcers tell it. With none connected nobody knows, and no route stands either."""
    reports = [report for report in state.announcers.values() if report is not None]
    if not reports:
        return Health(detail="no announcer tells of it")
    wanted = None if session.neighbor is None else str(session.neighbor)
    told = [one for report in reports for one in report.neighbors if wanted in (None, one.address)]
    up = [one.changed for one in told if one.state == "up"]
    if up:
        return Health(phase=Phase.UP, since=min(up))
    why = "; ".join(f"{one.address} is {one.state}" for one in told) or "there is no such session"
    return Health(phase=Phase.DOWN, since=max((one.changed for one in told), default=0.0), detail=why)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A rule about the node, a VIP or a service, and what it is about."""

    rule: Rule
    reason: Reason
    vip: str = ""  # empty: the node
    service: str = ""  # empty: the whole VIP

    @property
    def scope(self) -> str:
        return " ".join(word for word in ("vip" if self.vip else "node", self.vip, self.service) if word)


def requirements(config: Config, vip: Vip | None = None) -> Iterator[Requirement]:
    """The node's, then those of `vip`, or of every VIP."""
    if config.require is not None:
        yield Requirement(rule=config.require, reason=Reason.NODE_CHECK_FAILED)
    for one in config.vips if vip is None else (vip,):
        if one.require is not None:
            yield Requirement(rule=one.require, reason=Reason.VIP_CHECK_FAILED, vip=one.name)
        for service in one.services:
            if service.require is not None:
                yield Requirement(
                    rule=service.require,
                    reason=Reason.VIP_CHECK_FAILED,
                    vip=one.name,
                    service=service.name,
                )


def requirement_health(state: State, requirement: Requirement) -> Health:
    return compose(requirement.rule, _looking(state))


def servers_of(service: Service, version: int) -> Iterator[tuple[RealServer, Address]]:
    for server in service.pool.servers:
        address = server_address(server, version)
        if address is not None:
            yield server, address


def versions(vip: Vip) -> list[int]:
    return sorted({address.version for address in vip.addresses})


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A real server as a service of a VIP uses it."""

    vip: Vip
    service: Service
    server: RealServer
    address: Address

    @property
    def targets(self) -> tuple[Target, ...]:
        port = self.server.port or self.service.port
        found = leaves(self.service.pool.check)
        return tuple(aim(leaf, self.address, port) for leaf in found if isinstance(leaf, Check))


def uses(config: Config) -> Iterator[Use]:
    for vip in config.vips:
        for service in vip.services:
            for version in versions(vip):
                for server, address in servers_of(service, version):
                    yield Use(vip=vip, service=service, server=server, address=address)


def required_targets(requirement: Requirement) -> tuple[Target, ...]:
    return tuple(aim(leaf) for leaf in leaves(requirement.rule) if isinstance(leaf, Check))


def targets(config: Config) -> frozenset[Target]:
    servers = frozenset(target for use in uses(config) for target in use.targets)
    return servers.union(*(required_targets(one) for one in requirements(config)))


def target_names(config: Config) -> dict[Target, tuple[str, tuple[str, ...]]]:
    """For people: the real server a target is, and what rests on it: services (`web tcp/80`), `node`, `vip web`."""
    names: dict[Target, tuple[str, tuple[str, ...]]] = {}
    for use in uses(config):
        for target in use.targets:
            _, services = names.get(target, (use.server.name, ()))
            names[target] = (use.server.name, (*services, f"{use.vip.name} {use.service.name}"))
    for one in requirements(config):
        for target in required_targets(one):
            server, services = names.get(target, ("", ()))
            names[target] = (server, (*services, one.scope))
    return names


def wanted_sysctls(config: Config) -> dict[str, str]:
    wanted = dict(IPVS_SYSCTLS)
    for vip in config.vips:
        if any(service.forwarding is Forwarding.NAT for service in vip.services):
            for version in versions(vip):
                wanted |= NAT_SYSCTLS[version]
    return wanted


def desired_kernel(state: State) -> Desired:
    """What the kernel should hold: the configuration with weights by health, and what is still leaving."""
    table: dict[ipvs.ServiceKey, ipvs.ServiceEntry] = {}
    addresses: set[Address] = set()
    for vip in state.config.vips:
        for address in vip.addresses:
            addresses.add(address)
            for service in vip.services:
                table[service_key(address, service)] = _entry(state, address, service)
    for address, leaving in state.leaving.items():
        addresses.add(address)
        table.update(leaving.table)
    return Desired(
        table=table,
        addresses=frozenset(addresses),
        sysctls=wanted_sysctls(state.config) if state.config.manage_sysctls else {},
        owned=state.owned,
        exclusive=state.config.ipvs_exclusive,
    )


def _entry(state: State, address: Address, service: Service) -> ipvs.ServiceEntry:
    key = service_key(address, service)
    destinations = [
        _destination(state, key, service, server, server_ip)
        for server, server_ip in servers_of(service, address.version)
    ]
    return ipvs.ServiceEntry(
        scheduler=service.scheduler,
        flags=service.flags,
        destinations=tuple(sorted(destinations, key=ipvs.canonical)),
    )


def _destination(
    state: State, key: ipvs.ServiceKey, service: Service, server: RealServer, address: Address
) -> ipvs.Destination:
    port = server.port or service.port
    health = health_of(state, service, server, address)
    if health.phase is Phase.UNDECIDED:
        usable = (key, (address, port)) in state.kernel.adopted
    else:
        usable = health.phase.is_up
    return ipvs.Destination(
        address=address,
        port=port,
        weight=server.weight if usable else 0,
        forwarding=service.forwarding,
        # A destination inserted with 0 is left out of the Maglev table, on this node alone.
        table_weight=max(1, server.weight),
    )


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
        if not ipvs.same(actual, state.desired.table[key]):
            return Difference(text=f"{key} is not in IPVS as it should be")
    for name, value in wanted_sysctls(state.config).items():
        found = snapshot.sysctls.get(name)
        if found != value:
            return Difference(text=f"{name} is {found or 'not there'}, {value} is needed")
    if address not in snapshot.addresses:
        where = f"{address} on {state.config.node.interface}"
        return Difference(text=f"{where} is missing", missing_address=where)
    return Difference()


def facts(state: State, vip: Vip, now: float) -> Facts:
    known = state.vips.get(vip.name, VipState())
    advertised = known.verdict.advertise is not Advertise.NO
    apart = state.differences.get(vip.name, NOT_READ)
    drain = state.config.timing.drain
    return Facts(
        stopping=state.stopping_since is not None,
        node_maintenance=stage(state.maintenance.get(NODE), drain=drain, now=now),
        vip_maintenance=stage(state.maintenance.get(vip.name), drain=drain, now=now),
        kernel_error=_kernel_error(state, advertised=advertised, now=now),
        started=known.started,
        proven=apart.proven,
        repair_failed=vip.name in state.kernel.failed_vips,
        missing_address=apart.missing_address,
        difference=apart.text,
        services=tuple(
            _service_facts(state, service, version) for service in vip.services for version in versions(vip)
        ),
        requirements=tuple(_requirement_facts(state, one) for one in requirements(state.config, vip)),
        advertised=advertised,
    )


def _requirement_facts(state: State, requirement: Requirement) -> RequirementFacts:
    health = requirement_health(state, requirement)
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


def _service_facts(state: State, service: Service, version: int) -> ServiceFacts:
    usable = undecided = total = 0
    for server, address in servers_of(service, version):
        health = health_of(state, service, server, address)
        total += 1
        if server.weight == 0:
            continue  # drained: whatever its check says, it takes no new client
        undecided += health.phase is Phase.UNDECIDED
        usable += health.phase.is_up
    return ServiceFacts(
        name=f"{service.name} IPv{version}",
        usable=usable,
        undecided=undecided,
        total=total,
        quorum=service.quorum,
    )


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
        _service_facts(state, service, address.version).usable >= service.quorum.high
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


def stage_of(state: State, scope: str, now: float) -> Stage:
    return stage(state.maintenance.get(scope), drain=state.config.timing.drain, now=now)
