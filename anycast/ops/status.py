"""The status document: everything the node knows, ready for JSON. Pure: instants and clocks come in as data.

Where a thing has lasted for a time, `since` is the wall-clock start in ISO 8601 (UTC) and `since_s` the seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

from anycast.core import ipvs
from anycast.core.decision import Advertise, Reason, ServiceFacts
from anycast.core.health import Health, Phase
from anycast.core.kernel import KINDS
from anycast.core.maintenance import NODE, Stage, is_server
from anycast.core.members import check_of, server_port, servers_of, service_key, versions
from anycast.core.model import Address, Forwarding, Neighbor, Prefix, RealServer, Service, Vip
from anycast.core.report import NeighborState, Report
from anycast.core.state import (
    State,
    VipState,
    connections_of,
    facts,
    health_of,
    is_at_rest,
    is_drained,
    kernel_table,
    prefix_of,
    stage_of,
    stale_at,
)

VERSION = 1
NO_ANNOUNCER = "no announcer is connected (is ExaBGP running with the anycast process?)"
NO_SESSION = "no BGP session is up (see the log of ExaBGP and of the routers)"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixStatus:
    """One prefix of a VIP. `announced`: an announcer has it acknowledged and nothing under way for it."""

    prefix: Prefix
    wanted: bool
    announced: bool
    pending: bool
    failed: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clock:
    now: float
    wall: float

    def since(self, instant: float | None) -> dict[str, Any]:
        if instant is None:
            return {"since": None, "since_s": None}
        return self.wall_since(self.wall - (self.now - instant))

    def wall_since(self, time: float) -> dict[str, Any]:
        return {"since": iso(time), "since_s": round(max(0.0, self.wall - time), 3)}


def iso(time: float) -> str | None:
    """Seconds since the epoch as ISO 8601 in UTC, whole seconds; None beyond the calendar."""
    try:
        moment = datetime.fromtimestamp(time, UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def document(
    state: State, *, now: float, wall: float, version: str, pid: int, reload_ok: bool = True
) -> dict[str, Any]:
    """The status as JSON-ready values. `now`: monotonic instant; `wall`: seconds since the epoch, the same moment.

    `reload_ok`: whether the last configuration that was read was applied.

    The keys of `"version": 1` stay; new ones may come.
    """
    clock = _Clock(now=now, wall=wall)
    reasons = readiness(state, now)
    return {
        "version": VERSION,
        "node": {
            "name": state.config.node.name,
            "version": version,
            "pid": pid,
            "uptime_s": round(now - state.started_at, 3),
            "stopping": state.stopping_since is not None,
        },
        "ready": {"ready": not reasons, "reasons": list(reasons)},
        "config": {"reload_ok": reload_ok},
        "vips": [vip_status(state, vip, now=now, wall=wall) for vip in state.config.vips],
        "requirements": _requirements(state, clock),
        "kernel": _kernel(state, now),
        "announcers": [_announcer(source, report) for source, report in sorted(state.announcers.items())],
        "neighbors": [
            {
                "address": neighbor.address,
                "state": neighbor.state,
                **clock.since(neighbor.changed),
                "reason": neighbor.reason,
            }
            for neighbor in neighbors(state)
        ],
        "maintenance": maintenance_status(state, now=now, wall=wall),
    }


def readiness(state: State, now: float) -> tuple[str, ...]:
    """Why the node cannot do its work, in words; empty: it is ready. Maintenance is work."""
    return tuple(_obstacles(state, now))


def _obstacles(state: State, now: float) -> Iterator[str]:
    if state.stopping_since is not None:
        yield "the agent is stopping"
    error = kernel_error(state, now)
    if error is not None:
        yield f"kernel unavailable: {error}"
    for vip in state.config.vips:
        verdict = state.vips[vip.name].verdict
        if verdict.reason is Reason.STARTING:
            yield f"VIP {vip.name} is still starting" + (f": {verdict.detail}" if verdict.detail else "")
    if not state.announcers:
        yield NO_ANNOUNCER
        return
    if not _any_session(state):
        yield NO_SESSION
    for report in _reports(state):
        if report.lease_expired:
            yield f"the lease of announcer {report.pid} has run out: it announces nothing"
        for failed in report.failed:
            yield f"route {failed.prefix} is not announced: {failed.why}"


def kernel_error(state: State, now: float) -> str | None:
    """Why nothing can be said of the kernel, or None when it was read not long ago."""
    kernel = state.kernel
    if kernel.error is not None:
        return kernel.error
    if kernel.snapshot is None:
        return "it has not been read yet"
    if now >= stale_at(state):
        return f"not read for {now - kernel.read_at:.0f} s"
    return None


def neighbors(state: State) -> tuple[NeighborState, ...]:
    """The BGP sessions: those of the configuration in its order, then others an announcer tells of.

    A session nobody has told of is `unknown`, with `changed` at the agent's start.
    """
    known: dict[str, NeighborState] = {}
    for report in _reports(state):
        for heard in report.neighbors:
            name = _canonical(heard.address)
            present = known.get(name)
            # A later announcer knows better, unless its ExaBGP merely does not have the session.
            if present is None or present.state != "up" or heard.state == "up":
                known[name] = replace(heard, address=name)
    configured = [_configured(state, neighbor, known) for neighbor in state.config.bgp.neighbors]
    names = {neighbor.address for neighbor in configured}
    return (*configured, *(known[name] for name in known if name not in names))


def _configured(state: State, neighbor: Neighbor, known: Mapping[str, NeighborState]) -> NeighborState:
    name = str(neighbor.address)
    silent = NeighborState(
        address=name, state="unknown", changed=state.started_at, reason="no announcer tells of it"
    )
    return known.get(name, silent)


def _canonical(address: str) -> str:
    try:
        return str(ip_address(address))
    except ValueError:
        return address


def _reports(state: State) -> list[Report]:
    return [report for _, report in sorted(state.announcers.items()) if report is not None]


def prefixes(state: State, vip: Vip) -> tuple[PrefixStatus, ...]:
    """What the lease wants of the VIP's prefixes and what the announcers made of it."""
    wanted = {route.prefix for route in state.lease.routes or ()}
    reports = _reports(state)
    return tuple(
        PrefixStatus(
            prefix=prefix,
            wanted=prefix in wanted,
            announced=any(prefix in report.announced and prefix not in report.pending for report in reports),
            pending=any(prefix in report.pending for report in reports),
            failed=next((f.why for report in reports for f in report.failed if f.prefix == prefix), None),
        )
        for prefix in map(prefix_of, vip.addresses)
    )


def is_announced(state: State, vip: Vip) -> bool:
    """Whether every prefix of the VIP is acknowledged by some announcer, and some BGP session is up to carry it."""
    return _any_session(state) and all(prefix.announced for prefix in prefixes(state, vip))


def obstacle(state: State, vip: Vip) -> str:
    """What keeps a VIP whose verdict is to be announced from being heard by a router; empty: nothing."""
    if state.vips.get(vip.name, VipState()).verdict.advertise is Advertise.NO:
        return ""
    each = prefixes(state, vip)
    failed = [f"{prefix.prefix}: {prefix.failed}" for prefix in each if prefix.failed is not None]
    if failed:
        return "; ".join(failed)
    if not state.announcers:
        return NO_ANNOUNCER
    if not _any_session(state):
        return NO_SESSION
    waiting = [
        f"{prefix.prefix} waits for {'ExaBGP to acknowledge it' if prefix.wanted else 'kernel and servers'}"
        for prefix in each
        if not prefix.announced
    ]
    return "; ".join(waiting)


def _any_session(state: State) -> bool:
    return any(neighbor.state == "up" for neighbor in neighbors(state))


def vip_status(state: State, vip: Vip, *, now: float, wall: float) -> dict[str, Any]:
    """One VIP as it stands in the document."""
    known = state.vips.get(vip.name, VipState())
    each = prefixes(state, vip)
    return {
        "name": vip.name,
        "addresses": [str(address) for address in vip.addresses],
        "advertise": str(known.verdict.advertise),
        "reason": str(known.verdict.reason),
        "detail": known.verdict.detail,
        **_Clock(now=now, wall=wall).since(known.since),
        "announced": is_announced(state, vip),
        "obstacle": obstacle(state, vip),
        "prefixes": [
            {
                "prefix": str(prefix.prefix),
                "wanted": prefix.wanted,
                "announced": prefix.announced,
                "pending": prefix.pending,
                "failed": prefix.failed,
            }
            for prefix in each
        ],
        "stage": str(vip_stage(state, vip.name, now)),
        "services": _services(state, vip, _Clock(now=now, wall=wall)),
    }


def vip_stage(state: State, name: str, now: float) -> Stage:
    """How far maintenance has taken the VIP: its own or its node's, whichever is further."""
    return max((stage_of(state, scope, now) for scope in (NODE, name)), key=list(Stage).index)


def service_facts(state: State, vip: Vip, now: float) -> Iterator[tuple[Service, int, ServiceFacts]]:
    """Each service of a VIP in each IP version, with its count of usable servers."""
    pairs = [(service, version) for service in vip.services for version in versions(vip)]
    for (service, version), found in zip(pairs, facts(state, vip, now).services, strict=True):
        yield service, version, found


def _services(state: State, vip: Vip, clock: _Clock) -> list[dict[str, Any]]:
    families: dict[str, list[dict[str, Any]]] = {service.name: [] for service in vip.services}
    for service, version, found in service_facts(state, vip, clock.now):
        families[service.name].append(
            {
                "family": f"ipv{version}",
                "usable": found.usable,
                "undecided": found.undecided,
                "total": found.total,
            }
        )
    return [
        {
            "name": service.name,
            "pool": service.pool.name,
            "scheduler": str(service.scheduler),
            "flags": sorted(map(str, service.flags)),
            "forwarding": str(service.forwarding),
            "tunnel": str(service.tunnel.type) if service.forwarding is Forwarding.TUNNEL else None,
            "one_packet": service.one_packet,
            "persistence_s": service.persistence.timeout if service.persistence else None,
            "quorum": {"low": service.quorum.low, "high": service.quorum.high},
            "families": families[service.name],
            "tables": [
                {"address": str(address), "fingerprint": fingerprint(state, address, service)}
                for address in vip.addresses
            ],
            "servers": _servers(state, vip, service, clock),
            "removing": _removing(state, vip, service, clock.now),
        }
        for service in vip.services
    ]


def fingerprint(state: State, address: Address, service: Service) -> str | None:
    """Of the table as the kernel was last read: equal on nodes that agree. None: it is not there."""
    key = service_key(address, service)
    actual = kernel_table(state).get(key)
    wanted = state.desired.table.get(key)
    return None if actual is None or wanted is None else ipvs.fingerprint(actual, wanted)


def _servers(state: State, vip: Vip, service: Service, clock: _Clock) -> list[dict[str, Any]]:
    rows: dict[tuple[str, Address], dict[str, Any]] = {}
    for version in versions(vip):
        keys = {service_key(address, service) for address in vip.addresses if address.version == version}
        wanted, held = _destinations(state.desired.table, keys), _destinations(kernel_table(state), keys)
        for server, address in servers_of(service, version):
            at = (address, server_port(service, server))
            found = [table.get(at) for table in held]
            rows.setdefault(
                (server.name, address),
                _server(state, vip, service, server, address, clock=clock)
                | {
                    "weight": _lowest([table.get(at) for table in wanted]),
                    "kernel_weight": _lowest(found),
                    "active": sum(one.active for one in found if one is not None),
                    "inactive": sum(one.inactive for one in found if one is not None),
                },
            )
    return list(rows.values())


def _destinations(
    table: ipvs.Table, keys: Iterable[ipvs.Key]
) -> list[dict[ipvs.DestinationKey, ipvs.Destination]]:
    """The destinations of each service; none where it is missing."""
    return [{one.key: one for one in table[key].destinations} if key in table else {} for key in keys]


def _lowest(found: list[ipvs.Destination | None]) -> int | None:
    """The lowest weight behind the VIP's addresses; None: behind one of them the server is missing."""
    weights = [one.weight for one in found if one is not None]
    return min(weights) if weights and len(weights) == len(found) else None


def _server(
    state: State, vip: Vip, service: Service, server: RealServer, address: Address, *, clock: _Clock
) -> dict[str, Any]:
    health = health_of(state, check_of(vip, service, server, address))
    return {
        "name": server.name,
        "address": str(address),
        "port": server_port(service, server),
        "drained": is_drained(state, service, server),
        "phase": str(health.phase),
        "detail": _detail(health, clock.now),
        "held_down_s": _held_down(health, clock.now),
        "check_failed_to_run": health.unknown,
        **clock.since(None if health.phase is Phase.UNDECIDED else health.since),
    }


def _held_down(health: Health, now: float) -> float:
    """Seconds for which it cannot come up, because it flapped."""
    return 0.0 if health.is_up else round(health.flaps.held_for(now), 3)


def _detail(health: Health, now: float) -> str:
    held = _held_down(health, now)
    if not held:
        return health.detail
    told = f"held down, it flapped: reusable in {held:.0f} s"
    return f"{told}; {health.detail}" if health.detail else told


def _removing(state: State, vip: Vip, service: Service, now: float) -> list[dict[str, Any]]:
    """Real servers that the configuration dropped and that still have connections to finish."""
    keys = {service_key(address, service) for address in vip.addresses}
    held = {
        (key, one.key): one.active
        for key in keys
        if key in kernel_table(state)
        for one in kernel_table(state)[key].destinations
    }
    return [
        {
            "address": str(at[0]),
            "port": at[1],
            "active": held.get((key, at), 0),
            "left_s": round(max(0.0, retiring.until - now), 3),
        }
        for (key, at), retiring in state.retiring.items()
        if key in keys
    ]


def _requirements(state: State, clock: _Clock) -> list[dict[str, Any]]:
    """What must hold besides real servers. `vip` empty: of the node; `service` empty: of the whole VIP."""
    found = []
    for one in state.requirements:
        health = health_of(state, one.check)
        found.append(
            {
                "scope": one.scope,
                "vip": one.vip,
                "service": one.service,
                "phase": str(health.phase),
                "detail": health.detail,
                "check_failed_to_run": health.unknown,
                **clock.since(None if health.phase is Phase.UNDECIDED else health.since),
            }
        )
    return found


def _kernel(state: State, now: float) -> dict[str, Any]:
    kernel = state.kernel
    error = kernel_error(state, now)
    sync = kernel.snapshot.sync if kernel.snapshot is not None else None
    return {
        "available": error is None,
        "error": error,
        "proven": all(
            vip.name in state.differences and state.differences[vip.name].proven for vip in state.config.vips
        ),
        "read_ago_s": round(now - kernel.read_at, 3) if kernel.snapshot is not None else None,
        "problems": list(kernel.problems),
        "foreign_services": sum(not state.desired.is_ours(key) for key in kernel_table(state)),
        "repairs": {kind: kernel.repairs.get(kind, 0) for kind in KINDS},
        "connection_sync": {
            str(role): {"interface": one.interface, "id": one.id, "group": str(one.group)}
            for role, one in (sync or {}).items()
        },
    }


def _announcer(source: int, report: Report | None) -> dict[str, Any]:
    """An announcer that is connected; one that has not reported yet has nulls."""
    return {
        "source": source,
        "connected": True,
        "seq": report.seq if report else None,
        "exabgp_version": report.exabgp_version if report else None,
        "exabgp_pid": report.exabgp_pid if report else None,
        "errors": report.errors if report else None,
        "acks": report.acks if report else None,
        "oldest_ack_age_s": report.oldest_ack_age if report else None,
        "lease_expired": report.lease_expired if report else None,
    }


def scope_status(state: State, scope: str, now: float) -> dict[str, Any]:
    """`stage`; of a real server `draining` or `drained`, and how many `connections` it still has."""
    if not is_server(scope):
        return {"stage": str(stage_of(state, scope, now)), "connections": None}
    if scope not in state.maintenance:
        return {"stage": str(Stage.ACTIVE), "connections": connections_of(state, scope)}
    stage = "drained" if is_at_rest(state, scope) else "draining"
    return {"stage": stage, "connections": connections_of(state, scope)}


def maintenance_status(state: State, *, now: float, wall: float) -> list[dict[str, Any]]:
    """Every maintenance in force. `scope`: empty for the node, the name of a VIP, or `POOL/SERVER`."""
    clock = _Clock(now=now, wall=wall)
    return [
        {
            "scope": scope,
            "reason": entry.reason,
            "by": entry.by,
            **clock.wall_since(entry.since),
            **scope_status(state, scope, now),
        }
        for scope, entry in sorted(state.maintenance.items())
    ]
