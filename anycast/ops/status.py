"""The status document: everything the node knows, ready for JSON. Pure: instants and clocks come in as data.

Where a thing has lasted for a time, `since` is the wall-clock start in ISO 8601 (UTC) and `since_s` the seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, assert_never

from anycast.core.dataplane import ipvs
from anycast.core.dataplane.kernel import KINDS
from anycast.core.dataplane.members import first_addresses, service_key
from anycast.core.health.phase import Health, Phase
from anycast.core.hooks import Tally as HookTally
from anycast.core.in_force import AS_WRITTEN, InForce, trial_left
from anycast.core.in_force import conditions as of_configuration
from anycast.core.kept import standing as kept_servers
from anycast.core.maintenance.progress import arriving, stage_ends, vip_packets
from anycast.core.maintenance.stages import (
    FILE,
    NODE,
    NODE_SCOPES,
    STOP,
    Progress,
    Stage,
    is_saved,
    is_server,
)
from anycast.core.names import nearest
from anycast.core.preference import export_of
from anycast.core.prefixes import prefixes_of
from anycast.core.state import State, VipState, health_of, kernel_table, services_of
from anycast.core.values.configuration import Address, Export, Forwarding, Neighbor, Prefix, Service, Vip
from anycast.core.values.moment import iso
from anycast.core.values.report import EXPLAINED, NeighborState, Report, silent_for
from anycast.core.values.standing import Condition, Standing
from anycast.core.view import At, Receipt, at, sums
from anycast.core.vip.decide import Advertise, Reason, ServiceFacts, Verdict
from anycast.core.vip.facts import connections_of, furthest, held_for, is_at_rest, recent_crashes, start_hold
from anycast.core.vip.requirements import Requirement
from anycast.ops.fleet_view import fleet_status
from anycast.ops.servers import Look, Row, Seen, rows, seen, sees_answers
from anycast.ops.shared import InCommon, in_common
from anycast.ops.source import TOUCH_FILE, Tripwires
from anycast.ops.strain import Overload
from anycast.ops.traffic import NO_RATES, Rates, Traffic, keys_of

if TYPE_CHECKING:
    from anycast.ops.headroom import Figures  # which is made of what is here


VERSION = 1
LEAST_LAG = 2.0  # seconds without a step of the engine, at least, that are more than this process being late
LIVE_TTLS = 3  # lease lifetimes without a step of the engine before it counts as hung
NAMED = 3  # VIPs named in the summary
LISTED = 20  # VIPs named where one is asked for that is not there
UNUSUAL = 20  # servers named whose tripwires are not as others
FAMILIES = {4: "IPv4", 6: "IPv6"}
NO_VIP = "no VIP is configured: there is nothing to announce"
NO_PLUGIN = "no plugin is connected (is ExaBGP running with the anycast plugin?)"
NO_ANNOUNCER = "no announcer is connected (`systemctl status anycast-table`)"
NO_SESSION = "no BGP session is up (see the log of ExaBGP and of the routers)"
NO_SESSION_OF_BIRD = "no session of BGP or OSPF is up (`birdc show protocols`, and the log of the routers)"


class Obstacle(StrEnum):
    """What keeps a prefix from the routers, as a stable word. The first that applies counts."""

    NO_PLUGIN = "no_plugin"
    EXABGP_SILENT = "exabgp_silent"  # what it announces and which sessions are up is not known
    ROUTE_REFUSED = "route_refused"
    NO_SESSION = "no_session"  # none that carries its family is up
    NOT_ACKNOWLEDGED = "not_acknowledged"
    NOT_IN_LEASE = "not_in_lease"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixStatus:
    """One prefix of a VIP. `announced`: acknowledged by ExaBGP, and a session that carries its family is up.

    `unseen`: it is not known which sessions are up, so that is not asked for.
    """

    prefix: Prefix
    wanted: bool
    acknowledged: bool
    pending: bool
    failed: str | None
    sessions: tuple[NeighborState, ...]  # that carry its family
    obstacle: Obstacle | None
    unseen: bool = False

    @property
    def sessions_up(self) -> int:
        return _count_up(self.sessions)

    @property
    def announced(self) -> bool:
        return self.acknowledged and (self.unseen or self.sessions_up > 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Of an ExaBGP. `mute`: it is its plugin that does not answer. `hold_time`: seconds until routers drop its routes, at most.

    `daemon`: that learns the table of the kernel, in its place.
    """

    seconds: float
    mute: bool
    hold_time: int
    daemon: str = ""

    @property
    def who(self) -> str:
        """`ExaBGP has not answered for 4 s`."""
        if self.daemon:
            whose = "the announcer" if self.mute else self.daemon
        else:
            whose = "ExaBGP's plugin" if self.mute else "ExaBGP"
        return f"{whose} has not answered for {self.seconds:.0f} s"

    @property
    def text(self) -> str:
        """With what it means."""
        return (
            f"{self.who}: it is not known what it announces and which sessions are up; routers drop its routes "
            f"within {self.hold_time} s of its last keepalive"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """What the lease wants and what the plugins made of it, worked out once for all VIPs."""

    wanted: frozenset[Prefix]
    acknowledged: frozenset[Prefix]  # by ExaBGP, and nothing is under way for it
    pending: frozenset[Prefix]
    failed: Mapping[Prefix, str]
    sessions: Mapping[int, tuple[NeighborState, ...]]  # by the family they carry: 4, 6
    exports: Mapping[str, tuple[Export, ...]]  # of the neighbors that do not get every VIP as it says
    plugin: bool  # some plugin is connected
    silence: Silence | None  # of an ExaBGP that does not answer; None: each answers
    table: bool = False  # the routes stand in a table of the kernel, which a daemon learns
    unseen: str = ""  # why it is not known which sessions that daemon has
    shared: Mapping[Prefix, InCommon] = field(default_factory=dict)  # prefixes of several VIPs

    def sessions_of(self, vip: Vip, version: int) -> tuple[NeighborState, ...]:
        """Those that carry an address of the VIP to a router that gets it."""
        sessions = self.sessions[version]
        if not self.exports:
            return sessions
        return tuple(
            one for one in sessions if export_of(self.exports.get(one.address), vip.name) is not None
        )

    def session_is_up(self) -> bool:
        return any(_count_up(sessions) for sessions in self.sessions.values())


def _count_up(sessions: tuple[NeighborState, ...]) -> int:
    return sum(session.state == "up" for session in sessions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    now: float
    wall: float

    def since(self, instant: float | None) -> dict[str, Any]:
        if instant is None:
            return {"since": None, "since_s": None}
        return self.wall_since(self.wall - (self.now - instant))

    def wall_since(self, time: float) -> dict[str, Any]:
        return {"since": iso(time), "since_s": round(max(0.0, self.wall - time), 3)}


class View(Protocol):
    """The parts of the document that grow with the real servers."""

    def servers(self, vip: Vip, service: Service) -> Any: ...

    def fingerprint(self, vip: Vip, address: Address, service: Service) -> str | None: ...


class _Fresh:
    """Everything worked out anew."""

    def __init__(self, state: State, clock: Clock, traffic: Traffic | None) -> None:
        self._state = state
        self._clock = clock
        self._traffic = traffic
        self._look = Look(state)

    def servers(self, vip: Vip, service: Service) -> list[dict[str, Any]]:
        pairs = [(row, seen(row, self._look)) for row in rows(vip, service)]
        whole = service_rates(vip, service, self._clock.now, self._traffic)
        return servers_status(pairs, whole, self._clock, self._traffic)

    def fingerprint(self, _vip: Vip, address: Address, service: Service) -> str | None:
        return fingerprint(self._state, address, service)


def document(
    state: State,
    *,
    now: float,
    wall: float,
    version: str,
    pid: int,
    force: InForce = AS_WRITTEN,
    overload: Overload | None = None,
    hooks: Mapping[str, HookTally] | None = None,
    view: View | None = None,
    traffic: Traffic | None = None,
) -> dict[str, Any]:
    """The status as JSON-ready values. `now`: monotonic instant; `wall`: seconds since the epoch, the same moment.

    `force`: how the configuration stands to the file. `overload`: while there is one. `view`: None works everything out
    anew.

    The keys of `"version": 1` stay; new ones may come.
    """
    routes, view = routing(state, now), view or _Fresh(state, Clock(now=now, wall=wall), traffic)
    vips = [
        vip_status(state, vip, now=now, wall=wall, routes=routes, view=view, traffic=traffic)
        for vip in state.config.vips
    ]
    return frame(
        state,
        vips,
        now=now,
        wall=wall,
        version=version,
        pid=pid,
        force=force,
        overload=overload,
        traffic=traffic,
        hooks=hooks,
    )


def frame(
    state: State,
    vips: object,
    *,
    now: float,
    wall: float,
    version: str,
    pid: int,
    force: InForce = AS_WRITTEN,
    overload: Overload | None = None,
    traffic: Traffic | None = None,
    hooks: Mapping[str, HookTally] | None = None,
    headroom: Figures | None = None,
    tripwires: Tripwires | None = None,
) -> dict[str, Any]:
    """The document around the VIPs."""
    clock = Clock(now=now, wall=wall)
    reasons, families = readiness(state, now), configured_families(state)
    return {
        "version": VERSION,
        "node": {
            "name": state.config.node.name,
            "version": version,
            "pid": pid,
            "uptime_s": round(now - state.started_at, 3),
            "stopping": state.stopping_since is not None,
            "recent_crashes": recent_crashes(state, now),
            "overload": None if overload is None else _overload(overload, now),
            **_stage(state, furthest(state, NODE_SCOPES), clock),
        },
        "ready": {"ready": not reasons, "reasons": list(reasons)},
        "standing": [
            _condition(one, clock)
            for one in conditions(state, overload=overload, hooks=hooks, force=force, now=now)
        ],
        "config": _config(force, now),
        "vips": vips,
        "requirements": _requirements(state, clock),
        "tripwires": _tripwires(tripwires),
        "traffic": _node_traffic(state, now, traffic),
        "headroom": None if headroom is None else headroom.document(),
        "kernel": _kernel(state, now),
        "plugins": [_plugin(state, source, now) for source in sorted(state.plugins)],
        "neighbors": [
            {
                "address": neighbor.address,
                "state": neighbor.state,
                **clock.since(neighbor.changed),
                "reason": neighbor.reason,
                "families": [f"ipv{family}" for family in sorted(families.get(neighbor.address, ()))],
                "view": _view(state, neighbor.address, clock),
            }
            for neighbor in neighbors(state, now)
        ],
        "maintenance": maintenance_status(state, now=now, wall=wall),
        "fleet": fleet_status(state, clock),
    }


def _tripwires(found: Tripwires | None) -> dict[str, Any] | None:
    if found is None or not found.wanted:
        return None
    return {
        "wanted": found.wanted,
        **found.counts,
        "ends": dict(found.ends),
        "unusual": len(found.notes),
        "servers": [
            {"server": place, "detail": found.notes[place]} for place in sorted(found.notes)[:UNUSUAL]
        ],
    }


def _view(state: State, address: str, clock: Clock) -> dict[str, Any] | None:
    """What is known of what this router has; None: it is not asked."""
    neighbor = next((one for one in state.config.bgp.neighbors if str(one.address) == address), None)
    if neighbor is None or not neighbor.view:
        return None
    found = sums(state, neighbor)
    return {
        "complete": found.doubt is None,
        "reason": found.doubt,
        "why": found.why,
        "since": (complete := clock.since(found.since))["since"],
        "since_s": complete["since_s"],
        "received": found.received,
        "not_received": found.not_received,
        "paths": found.paths,
        "dropped": found.dropped,
    }


def viewed(state: State, vip: Vip, prefix: Prefix) -> Iterator[tuple[Neighbor, At]]:
    """What the routers that are asked, and that get it, have of the prefix."""
    for neighbor in state.config.bgp.neighbors:
        carries = prefix.version in (neighbor.families or {neighbor.address.version})
        if neighbor.view and carries and export_of(neighbor.export, vip.name) is not None:
            yield neighbor, at(state, neighbor, prefix)


def _routers(state: State, vip: Vip, prefix: Prefix, clock: Clock) -> list[dict[str, Any]]:
    return [
        {
            "neighbor": str(neighbor.address),
            "receipt": str(found.receipt),
            **clock.since(found.since),
            "reason": found.doubt,
            "why": found.why,
            "others": found.others,
            "last_resort": found.last_resort,
            "at_least": found.at_least,
        }
        for neighbor, found in viewed(state, vip, prefix)
    ]


def lacking(state: State, vip: Vip) -> list[str]:
    """The routers that do not have it, though they should."""
    if not state.views.told:
        return []
    return list(
        dict.fromkeys(
            str(neighbor.address)
            for prefix in prefixes_of(vip)
            for neighbor, found in viewed(state, vip, prefix)
            if found.receipt is Receipt.NOT_RECEIVED
        )
    )


def conditions(
    state: State,
    *,
    overload: Overload | None = None,
    hooks: Mapping[str, HookTally] | None = None,
    force: InForce = AS_WRITTEN,
    now: float = 0.0,
) -> tuple[Standing, ...]:
    """Everything that is wrong with the node for a while, the oldest first. `overload` and `hooks`: where they are known."""
    found = [*state.standing.values(), *of_configuration(force, now)]
    if overload is not None:
        took = f"{overload.doing} took {overload.seconds:.2f} s of {overload.limit:.2f} s"
        times = "once" if overload.times == 1 else f"{overload.times} times"
        text = f"the agent is overloaded: {took} ({times})"
        found.append(Standing(kind=Condition.OVERLOADED, since=overload.since, text=text))
    for name, tally in (hooks or {}).items():
        if tally.failing:
            text = f"the hook {name} fails ({tally.why}): `anycast hook test {name}` shows how"
            found.append(Standing(kind=Condition.HOOK_FAILING, since=tally.since, text=text, about=name))
    return tuple(sorted(found, key=lambda one: (one.since, one.kind, one.about)))


def _condition(one: Standing, clock: Clock) -> dict[str, Any]:
    return {"kind": str(one.kind), "about": one.about, "text": one.text, **clock.since(one.since)}


def _config(force: InForce, now: float) -> dict[str, Any]:
    left = trial_left(force, now)
    return {
        "reload_ok": force.reload_ok,
        "confirm_s": None if left is None else round(left, 3),
        "fingerprint": force.fingerprint,
        "nodes": list(force.nodes),
    }


def _overload(overload: Overload, now: float) -> dict[str, Any]:
    return {
        "doing": overload.doing,
        "longest_s": round(overload.seconds, 3),
        "limit_s": round(overload.limit, 3),
        "times": overload.times,
        "last_s": round(now - overload.last, 3),
    }


def summary(state: State, now: float) -> str:
    """One line for a service manager: how many VIPs are announced, and why the others are not.

    The agent asks for it once a second, so it looks at verdicts and sessions, and at no route.
    """
    if state.stopping_since is not None:
        return "stopping: withdrawing every VIP"
    verdicts = [(vip.name, state.vips.get(vip.name, VipState()).verdict) for vip in state.config.vips]
    others = [(name, verdict) for name, verdict in verdicts if verdict.advertise is not Advertise.YES]
    words = f"announcing {len(verdicts) - len(others)} of {len(verdicts)} VIPs"
    if not state.plugins:
        who = "announcer" if state.config.speaker.is_table else "plugin"
        words = f"no {who} is connected, nothing is announced"
    elif (silent := _silence(state, now)) is not None:
        words = silent.text
    elif not any(map(_count_up, _carriers(state, now).values())):
        words = "no BGP session is up, nothing is announced"
    more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
    named = ", ".join(f"{name} {verdict.reason}" for name, verdict in others[:NAMED])
    return words + (f" ({named}{more})" if others else "")


def lag(state: State, last_step: float, now: float) -> str:
    """Empty while the engine turns, else for how long it has not.

    It depends on neither real servers nor BGP, for a supervisor must not restart the agent because of those.
    """
    passed, allowed = now - last_step, LIVE_TTLS * state.config.timing.lease_ttl
    return "" if passed <= allowed else f"the engine has not run for {passed:.1f} s ({allowed:g} s allowed)"


def lost_its_lease(state: State, last_step: float, now: float) -> bool:
    """Whether the agent has hung for so long that its routes are gone with its lease."""
    return now - last_step > max(state.config.timing.lease_ttl, LEAST_LAG)


def no_vip(name: str, vips: tuple[Vip, ...]) -> str:
    """Why there is nothing to say of it."""
    near = nearest(name, [vip.name for vip in vips])
    if near is not None and len(vips) > LISTED:
        return f"there is no VIP {name!r} (did you mean {near}?)"
    known = ", ".join(vip.name for vip in vips[:LISTED]) or "none"
    known += f" and {len(vips) - LISTED} more" if len(vips) > LISTED else ""
    guess = f"did you mean {near}? " if near is not None else ""
    return f"there is no VIP {name!r} ({guess}configured: {known})"


def readiness(state: State, now: float) -> tuple[str, ...]:
    """Why the node cannot do its work, in words; empty: it is ready. Maintenance is work."""
    return tuple(_obstacles(state, now))


def _obstacles(state: State, now: float) -> Iterator[str]:
    if state.stopping_since is not None:
        yield "the agent is stopping"
    error = kernel_error(state, now)
    if error is not None:
        yield f"kernel unavailable: {error}"
    if not state.config.vips:
        yield NO_VIP
    starting = _STARTING.of(state.vips)
    for vip in state.config.vips if starting else ():
        if vip.name in starting:
            detail = state.vips[vip.name].verdict.detail
            yield f"VIP {vip.name} is still starting" + (f": {detail}" if detail else "")
    if not state.plugins:
        yield NO_ANNOUNCER if state.config.speaker.is_table else NO_PLUGIN
        return
    if (silence := _silence(state, now)) is not None:
        yield silence.text
        return
    sessions = _carriers(state, now)
    if not any(map(_count_up, sessions.values())):
        yield no_session_at_all(routing(state, now))
    else:
        for version in _VERSIONS.of(state.config.vips):
            if not _count_up(sessions[version]):
                yield no_session(routing(state, now), version)
    for report in _reports(state):
        if report.lease_expired:
            yield f"the lease of plugin {report.pid} has run out: it announces nothing"
        for failed in report.failed:
            yield f"route {failed.prefix} is not announced: {failed.why}"


T = TypeVar("T")
U = TypeVar("U")


class _Kept(Generic[T, U]):
    """What follows from one value, worked out again once it is another object: other nodes ask all the time."""

    def __init__(self, work: Callable[[T], U]) -> None:
        self._work = work
        self._of: tuple[T, U] | None = None

    def of(self, value: T) -> U:
        if self._of is None or self._of[0] is not value:
            self._of = value, self._work(value)
        return self._of[1]


def _starting(vips: Mapping[str, VipState]) -> frozenset[str]:
    return frozenset(name for name, one in vips.items() if one.verdict.reason is Reason.STARTING)


def _versions(vips: tuple[Vip, ...]) -> tuple[int, ...]:
    return tuple(sorted({address.version for vip in vips for address in vip.addresses}))


_STARTING, _VERSIONS = _Kept(_starting), _Kept(_versions)


def kernel_error(state: State, now: float) -> str | None:
    """Why nothing can be said of the kernel, or None when it was read not long ago."""
    kernel = state.kernel
    if kernel.error is not None:
        return kernel.error
    if kernel.snapshot is None:
        return "it has not been read yet"
    if now >= kernel.good_until:
        return f"not read for {now - kernel.read_at:.0f} s"
    return None


def neighbors(state: State, now: float) -> tuple[NeighborState, ...]:
    """The BGP sessions: those of the configuration in its order, then others a plugin tells of.

    A session is `unknown` from the agent's start until a plugin tells of it, and while its ExaBGP does not answer.
    """
    known: dict[str, NeighborState] = {}
    for report in _reports(state):
        silence = _silence_of(state, report, now)
        for heard in report.neighbors:
            name = _canonical(heard.address)
            if silence is not None:
                unknown = replace(heard, state="unknown", changed=now - silence.seconds, reason=silence.who)
                known.setdefault(name, replace(unknown, address=name))
                continue
            present = known.get(name)
            # A later plugin knows better, unless its ExaBGP merely does not have the session.
            if present is None or present.state != "up" or heard.state == "up":
                known[name] = replace(heard, address=name)
    configured = [_configured(state, neighbor, known) for neighbor in state.config.bgp.neighbors]
    names = {neighbor.address for neighbor in configured}
    return (*configured, *(known[name] for name in known if name not in names))


def _configured(state: State, neighbor: Neighbor, known: Mapping[str, NeighborState]) -> NeighborState:
    name, who = str(neighbor.address), "announcer" if state.config.speaker.is_table else "plugin"
    silent = NeighborState(
        address=name, state="unknown", changed=state.started_at, reason=f"no {who} reports it"
    )
    return known.get(name, silent)


def _canonical(address: str) -> str:
    try:
        return str(ip_address(address))
    except ValueError:
        return address


def _reports(state: State) -> list[Report]:
    return [report for _, report in sorted(state.plugins.items()) if report is not None]


def no_session(routes: Routing, version: int, vip: Vip | None = None) -> str:
    """That no session carries the family, with the neighbors that should. `vip`: to a router that gets it."""
    sessions = routes.sessions[version] if vip is None else routes.sessions_of(vip, version)
    down = ", ".join(f"{session.address} {session.state}" for session in sessions)
    none = f"no BGP session that carries {FAMILIES[version]} is up ({down or 'no neighbor carries it'})"
    return none + meant(sessions)


def no_session_at_all(routes: Routing) -> str:
    return (NO_SESSION_OF_BIRD if routes.table else NO_SESSION) + meant(
        each for sessions in routes.sessions.values() for each in sessions
    )


def meant(sessions: Iterable[NeighborState]) -> str:
    """What routers meant that keep a session down, and what to do; empty: nothing that needs an explanation."""
    down = {one.address: one.reason for one in sessions if one.state != "up"}
    told = ((words, [each for each in down if words in down[each]]) for words in EXPLAINED.values())
    return "".join(f"; {', '.join(names)}: {words}" for words, names in told if names)


def configured_families(state: State) -> dict[str, frozenset[int]]:
    """By the address of the neighbor, the families (4, 6) that its session carries."""
    return {
        str(neighbor.address): neighbor.families or frozenset({neighbor.address.version})
        for neighbor in state.config.bgp.neighbors
    }


def _silence(state: State, now: float) -> Silence | None:
    """The longest; None: every ExaBGP answers."""
    silences = (_silence_of(state, report, now) for report in _reports(state))
    known = [silence for silence in silences if silence is not None]
    return max(known, key=lambda silence: silence.seconds, default=None)


def _silence_of(state: State, report: Report, now: float) -> Silence | None:
    seconds = silent_for(report, now)
    if seconds is None:
        return None
    daemon = (report.daemon or "BIRD") if report.speaker else ""
    return Silence(seconds=seconds, mute=report.mute, hold_time=state.config.bgp.hold_time, daemon=daemon)


def _carriers(state: State, now: float) -> dict[int, tuple[NeighborState, ...]]:
    """The sessions that carry each family."""
    sessions, families = neighbors(state, now), configured_families(state)
    # What a session of somebody else's configuration carries is not known.
    others = tuple(session for session in sessions if session.address not in families)
    if state.config.speaker.ospf is not None:  # of which each version has its own neighbors
        of_ospf = {
            4: [one for one in others if ":" not in one.address],
            6: [one for one in others if ":" in one.address],
        }
        return {
            version: (
                *(one for one in sessions if version in families.get(one.address, ())),
                *of_ospf[version],
            )
            for version in FAMILIES
        }
    return {
        version: tuple(one for one in sessions if version in families.get(one.address, ())) or others
        for version in FAMILIES
    }


def routing(state: State, now: float) -> Routing:
    answering = [report for report in _reports(state) if _silence_of(state, report, now) is None]
    return Routing(
        wanted=frozenset(state.lease.routes or ()),
        acknowledged=frozenset().union(*(set(one.announced).difference(one.pending) for one in answering)),
        pending=frozenset().union(*(one.pending for one in answering)),
        failed={one.prefix: one.why for report in reversed(answering) for one in report.failed},
        sessions=_carriers(state, now),
        exports={
            str(one.address): one.export for one in state.config.bgp.neighbors if one.export is not None
        },
        plugin=bool(state.plugins),
        silence=_silence(state, now),
        table=state.config.speaker.is_table,
        unseen=next((one.unseen for one in answering if one.speaker and one.unseen), ""),
        shared=in_common(state),
    )


def prefixes(routes: Routing, vip: Vip) -> tuple[PrefixStatus, ...]:
    """What the lease wants of the VIP's prefixes and what the plugins made of it."""
    return tuple(
        PrefixStatus(
            prefix=prefix,
            wanted=prefix in routes.wanted,
            acknowledged=prefix in routes.acknowledged,
            pending=prefix in routes.pending,
            failed=routes.failed.get(prefix),
            sessions=(sessions := routes.sessions_of(vip, prefix.version)),
            obstacle=_obstacle(routes, prefix, sessions),
            unseen=bool(routes.unseen),
        )
        for prefix in prefixes_of(vip)
    )


def _obstacle(routes: Routing, prefix: Prefix, sessions: tuple[NeighborState, ...]) -> Obstacle | None:
    if not routes.plugin:
        return Obstacle.NO_PLUGIN
    if routes.silence is not None and prefix not in routes.acknowledged:
        return Obstacle.EXABGP_SILENT
    if prefix in routes.failed:
        return Obstacle.ROUTE_REFUSED
    if not routes.unseen and not _count_up(sessions):
        return Obstacle.NO_SESSION
    if prefix not in routes.acknowledged:
        return Obstacle.NOT_ACKNOWLEDGED if prefix in routes.wanted else Obstacle.NOT_IN_LEASE
    return None


def is_announced(routes: Routing, vip: Vip) -> bool:
    """Whether ExaBGP has acknowledged every prefix of the VIP, and a BGP session that carries its family is up."""
    return all(
        prefix in routes.acknowledged
        and (routes.unseen or _count_up(routes.sessions_of(vip, prefix.version)) > 0)
        for prefix in prefixes_of(vip)
    )


def obstacle(state: State, vip: Vip, routes: Routing) -> str:
    """What keeps a VIP that should be announced from the routers; empty: nothing."""
    if state.vips.get(vip.name, VipState()).verdict.advertise is Advertise.NO:
        return ""
    each = [prefix for prefix in prefixes(routes, vip) if prefix.obstacle is not None]
    return "; ".join(dict.fromkeys(_obstacle_text(routes, vip, prefix) for prefix in each))


def _obstacle_text(routes: Routing, vip: Vip, prefix: PrefixStatus) -> str:
    match prefix.obstacle:
        case Obstacle.NO_PLUGIN:
            return NO_ANNOUNCER if routes.table else NO_PLUGIN
        case Obstacle.EXABGP_SILENT:
            return "" if routes.silence is None else routes.silence.text
        case Obstacle.ROUTE_REFUSED:
            return f"{prefix.prefix}: {prefix.failed}"
        case Obstacle.NO_SESSION:
            return (
                no_session(routes, prefix.prefix.version, vip)
                if routes.session_is_up()
                else no_session_at_all(routes)
            )
        case Obstacle.NOT_ACKNOWLEDGED:
            return f"{prefix.prefix} waits for {'the kernel to have' if routes.table else 'ExaBGP to acknowledge'} it"
        case Obstacle.NOT_IN_LEASE:
            if (one := routes.shared.get(prefix.prefix)) is not None:
                return f"{prefix.prefix} is not announced: {one.text}"
            return f"{prefix.prefix} waits for kernel and servers"
        case None:
            return ""
        case _:
            assert_never(prefix.obstacle)


def _obstacle_word(state: State, vip: Vip, each: tuple[PrefixStatus, ...]) -> Obstacle | None:
    if state.vips.get(vip.name, VipState()).verdict.advertise is Advertise.NO:
        return None
    return min((one.obstacle for one in each if one.obstacle), key=list(Obstacle).index, default=None)


def vip_status(
    state: State,
    vip: Vip,
    *,
    now: float,
    wall: float,
    routes: Routing | None = None,
    view: View | None = None,
    traffic: Traffic | None = None,
) -> dict[str, Any]:
    """One VIP as it stands in the document. `routes` and `view`: where they are known already."""
    clock = Clock(now=now, wall=wall)
    routes = routes or routing(state, now)
    each = prefixes(routes, vip)
    known = state.vips.get(vip.name, VipState())
    stable = held_for(state, known, now)
    return {
        "name": vip.name,
        "addresses": [str(address) for address in vip.addresses],
        "role": str(vip.role),
        "when_unhealthy": str(vip.when_unhealthy),
        "advertise": str(known.verdict.advertise),
        "last_resort": known.verdict.is_last_resort,
        "reason": str(known.verdict.reason),
        "detail": known.verdict.detail,
        **clock.since(known.since),
        "announced": (announced := is_announced(routes, vip)),
        "level": str(level(known.verdict, announced=announced)),
        "obstacle": obstacle(state, vip, routes),
        "obstacle_reason": _obstacle_word(state, vip, each),
        "hold_s": None if stable is None else start_hold(state, now),
        "stable_s": None if stable is None else round(stable, 3),
        "prefixes": [
            {
                "prefix": str(prefix.prefix),
                "wanted": prefix.wanted,
                "acknowledged": prefix.acknowledged,
                "announced": prefix.announced,
                "pending": prefix.pending,
                "failed": prefix.failed,
                "sessions_up": prefix.sessions_up,
                "sessions": len(prefix.sessions),
                "obstacle": prefix.obstacle,
                "shared": None
                if (one := routes.shared.get(prefix.prefix)) is None
                else one.body(prefix.prefix, stays=prefix.wanted and known.verdict.advertise is Advertise.NO),
                "routers": _routers(state, vip, prefix.prefix, clock),
            }
            for prefix in each
        ],
        **_stage(state, vip_progress(state, vip.name), clock),
        "packets_per_s": _rounded(vip_packets(state, vip)),
        "traffic": _vip_traffic(vip, now, traffic),
        "services": _services(state, vip, clock, view or _Fresh(state, clock, traffic), traffic),
        "local": [
            local_status(state, name, port, one, clock) for name, port, one in local_services(state, vip)
        ],
    }


def service_rates(vip: Vip, service: Service, now: float, traffic: Traffic | None) -> Rates | None:
    """None: not known."""
    return None if traffic is None else traffic.rates(keys_of(vip, service), now)


def vip_rates(vip: Vip, now: float, traffic: Traffic | None) -> Rates | None:
    """None: not known, or IPVS has nothing to do with it."""
    if traffic is None or not vip.services:
        return None
    return traffic.rates((key for service in vip.services for key in keys_of(vip, service)), now)


def node_rates(state: State, now: float, traffic: Traffic | None) -> Rates | None:
    """Of all VIPs together. None: not known."""
    if traffic is None:
        return None
    vips = state.config.vips
    if not any(vip.services for vip in vips):
        return None
    keys = (key for vip in vips for service in vip.services for key in keys_of(vip, service))
    return traffic.rates(keys, now) or (None if traffic.window() is None else NO_RATES)


def share(rates: Rates | None, of: Rates | None) -> float | None:
    """Of new connections. None: there were none, or it is not known."""
    return rates.connections / of.connections if rates and of and of.connections else None


def _node_traffic(state: State, now: float, traffic: Traffic | None) -> dict[str, Any]:
    answers = any(sees_answers(service) for vip in state.config.vips for service in vip.services)
    seconds = None if traffic is None else traffic.window()
    return {
        "counted": traffic is not None and traffic.counted,
        "over_s": None if seconds is None else round(seconds, 1),
        "rates": _rates(node_rates(state, now, traffic), answers=answers),
    }


def _vip_traffic(vip: Vip, now: float, traffic: Traffic | None) -> dict[str, Any] | None:
    return _rates(vip_rates(vip, now, traffic), answers=any(map(sees_answers, vip.services)))


def _rates(found: Rates | None, *, answers: bool) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "connections_per_s": round(found.connections, 2),
        "packets_in_per_s": round(found.packets_in, 1),
        "packets_out_per_s": round(found.packets_out, 1) if answers else None,
        "bits_in_per_s": round(8 * found.bytes_in),
        "bits_out_per_s": round(8 * found.bytes_out) if answers else None,
    }


class Level(StrEnum):
    """How bad it is that a VIP stands as it does. Stable words."""

    OK = "ok"
    PLANNED = "planned"  # somebody has taken it out
    WARNING = "warning"  # it has only just started
    CRITICAL = "critical"


_ON_PURPOSE = frozenset({Reason.NODE_MAINTENANCE, Reason.VIP_MAINTENANCE, Reason.STOPPING})


def level(verdict: Verdict, *, announced: bool) -> Level:
    if verdict.reason in _ON_PURPOSE:
        return Level.PLANNED
    if announced and verdict.advertise is not Advertise.NO and not verdict.is_last_resort:
        return Level.OK
    return Level.WARNING if verdict.reason is Reason.STARTING else Level.CRITICAL


def vip_progress(state: State, name: str) -> Progress:
    """How far maintenance has taken the VIP: its own or its node's, whichever is further."""
    return furthest(state, (*NODE_SCOPES, name))


def stage_left(state: State, progress: Progress, now: float) -> float | None:
    """Seconds until the stage is over at the latest; None: it stays."""
    ends = stage_ends(state, progress)
    return None if ends is None else max(0.0, ends - now)


def _stage(state: State, progress: Progress, clock: Clock) -> dict[str, Any]:
    left = stage_left(state, progress, clock.now)
    began = clock.since(None if progress.stage is Stage.ACTIVE else progress.since)
    return {
        "stage": str(progress.stage),
        "stage_since": began["since"],
        "stage_since_s": began["since_s"],
        "stage_left_s": None if left is None else round(left, 3),
    }


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 1)


def service_facts(state: State, vip: Vip) -> Iterator[tuple[Service, int, ServiceFacts]]:
    """Each service of a VIP in each IP version, with its count of usable servers."""
    for service in vip.services:
        for address in first_addresses(vip):
            yield service, address.version, services_of(state, service_key(address, service))


def _services(
    state: State, vip: Vip, clock: Clock, view: View, traffic: Traffic | None
) -> list[dict[str, Any]]:
    now = clock.now
    families: dict[str, list[dict[str, Any]]] = {service.name: [] for service in vip.services}
    for service, version, found in service_facts(state, vip):
        families[service.name].append(
            {
                "family": f"ipv{version}",
                "usable": found.usable,
                "undecided": found.undecided,
                "unproven": found.unproven,
                "total": found.total,
                "kept": found.kept,
                "sorry": _sorry(found, clock),
            }
        )
    return [
        {
            "name": service.name,
            "pool": service.pool.name,
            "sorry_pool": None if service.sorry is None else service.sorry.name,
            "scheduler": str(service.scheduler),
            "flags": sorted(map(str, service.flags)),
            "forwarding": str(service.forwarding),
            "tunnel": str(service.tunnel.type) if service.forwarding is Forwarding.TUNNEL else None,
            "one_packet": service.one_packet,
            "persistence_s": service.persistence.timeout if service.persistence else None,
            "quorum": {"low": service.quorum.low, "high": service.quorum.high},
            "families": families[service.name],
            "tables": [
                {"address": str(address), "fingerprint": view.fingerprint(vip, address, service)}
                for address in vip.addresses
            ],
            "traffic": _rates(service_rates(vip, service, now, traffic), answers=sees_answers(service)),
            "servers": view.servers(vip, service),
            "removing": _removing(state, vip, service, now),
            "kept": _kept(state, vip, service, clock),
        }
        for service in vip.services
    ]


def _sorry(found: ServiceFacts, clock: Clock) -> dict[str, Any] | None:
    """`since`: when its sorry pool began to serve, or ceased to."""
    if (sorry := found.sorry) is None:
        return None
    return {
        "serves": sorry.serves,
        "usable": sorry.usable,
        "total": sorry.total,
        **clock.since(sorry.since),
    }


def local_services(state: State, vip: Vip) -> Iterator[tuple[str, int, Requirement | None]]:
    """What the node itself serves of a VIP: name and port, and its check at each address; None: it has none of its own."""
    checks: dict[str, list[Requirement]] = {}
    for one in state.index.vips[vip.name].requirements if vip.local else ():
        if one.is_local:
            checks.setdefault(one.service, []).append(one)
    for local in vip.local:
        for check in checks.get(local.name) or (None,):
            yield local.name, local.port, check


def local_status(state: State, name: str, port: int, one: Requirement | None, clock: Clock) -> dict[str, Any]:
    health = None if one is None else health_of(state, one.check)
    known = health is not None and health.phase is not Phase.UNDECIDED
    return {
        "name": name,
        "address": None if one is None or one.address is None else str(one.address),
        "port": port,
        "phase": None if health is None else str(health.phase),
        "detail": "" if health is None else server_detail(health, clock.now),
        "check_failed_to_run": health is not None and health.unknown,
        "warned": health is not None and health.warned,
        "changes": 0 if health is None else health.changes,
        **clock.since(health.since if health is not None and known else None),
    }


def fingerprint(state: State, address: Address, service: Service) -> str | None:
    """Of the table as the kernel was last read: equal on nodes that agree. None: it is not there."""
    key = service_key(address, service)
    actual = kernel_table(state).get(key)
    wanted = state.desired.table.get(key)
    return None if actual is None or wanted is None else ipvs.fingerprint(actual, wanted)


def servers_status(
    pairs: Iterable[tuple[Row, Seen]], whole: Rates | None, clock: Clock, traffic: Traffic | None
) -> list[dict[str, Any]]:
    """The real servers of a service. `whole`: what the service carries, of which each has its share."""
    told = []
    for row, one in pairs:
        rates = None if traffic is None else traffic.of_server(row, clock.now)
        part = share(rates, whole)
        told.append(
            {
                **server_status(row, one, clock),
                "traffic": _rates(rates, answers=row.sees_answers),
                "share": None if part is None else round(part, 4),
            }
        )
    return told


def server_status(row: Row, found: Seen, clock: Clock) -> dict[str, Any]:
    """A real server of a service, without what it carries."""
    health = found.health
    return {
        "name": row.server.name,
        "address": str(row.address),
        "port": row.port,
        "sorry": row.sorry,
        "drained": found.drained,
        "phase": str(health.phase),
        "detail": server_detail(health, clock.now),
        "held_down_s": held_down(health, clock.now),
        "check_failed_to_run": health.unknown,
        "warned": health.warned,
        "changes": health.changes,
        "weight": found.weight,
        "kernel_weight": found.kernel_weight,
        "active": found.active,
        "inactive": found.inactive,
        **clock.since(since_of(found)),
        "drained_since": None if found.drained_since is None else iso(found.drained_since),
        "drained_since_s": None
        if found.drained_since is None
        else clock.wall_since(found.drained_since)["since_s"],
    }


def held_down(health: Health, now: float) -> float:
    """Seconds for which it cannot come up, because it flapped."""
    return 0.0 if health.is_up else round(health.flaps.held_for(now), 3)


def server_detail(health: Health, now: float) -> str:
    held = held_down(health, now)
    if not held:
        return health.detail
    told = f"held down for {held:.0f} s more because it flapped"
    return f"{told}; {health.detail}" if health.detail else told


def since_of(found: Seen) -> float | None:
    return None if found.health.phase is Phase.UNDECIDED else found.health.since


def _removing(state: State, vip: Vip, service: Service, now: float) -> list[dict[str, Any]]:
    """Real servers that the configuration dropped and that still have connections to finish."""
    if not state.retiring:
        return []
    keys = {service_key(address, service) for address in vip.addresses}
    snapshot = state.kernel.snapshot
    held = (
        {}
        if snapshot is None
        else {(key, at): each.active for key in keys for at, each in snapshot.connections_of(key).items()}
    )
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


def _kept(state: State, vip: Vip, service: Service, clock: Clock) -> list[dict[str, Any]]:
    """Real servers that were replaced, and that serve on until enough of the new ones are proven."""
    if not state.kept:
        return []
    found: dict[ipvs.DestinationKey, dict[str, Any]] = {}
    for key in dict.fromkeys(service_key(address, service) for address in vip.addresses):
        counts = {} if state.kernel.snapshot is None else state.kernel.snapshot.connections_of(key)
        for member, health, usable in kept_servers(state, key):
            at = member.up.key
            one = found.setdefault(
                at,
                {
                    "name": member.server,
                    "address": str(at[0]),
                    "port": at[1],
                    "phase": str(health.phase),
                    "detail": server_detail(health, clock.now),
                    "weight": member.up.weight if usable else 0,
                    "active": 0,
                    **clock.since(state.kept[key].since),
                },
            )
            one["active"] += counts.get(at, ipvs.NO_CONNECTIONS).active
    return list(found.values())


def _requirements(state: State, clock: Clock) -> list[dict[str, Any]]:
    """What must hold besides what serves. `vip` empty: of the node; `service` empty: of the whole VIP."""
    found = []
    for one in state.index.requirements:
        if one.is_local:
            continue
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


def _plugin(state: State, source: int, now: float) -> dict[str, Any]:
    """A plugin that is connected; one that has not reported yet has nulls."""
    report = state.plugins[source]
    since = report.silent_since if report else None
    return {
        "source": source,
        "connected": True,
        "seq": report.seq if report else None,
        "exabgp_version": report.exabgp_version if report else None,
        "exabgp_pid": report.exabgp_pid if report else None,
        "speaker": (report.speaker or None) if report else None,
        "daemon": (report.daemon or None) if report else None,
        "errors": report.errors if report else None,
        "acks": report.acks if report else None,
        "oldest_ack_age_s": None if since is None else round(max(0.0, now - since), 3),
        "silent": _silence_of(state, report, now) is not None if report else None,
        "mute": report.mute if report else None,
        "lease_expired": report.lease_expired if report else None,
        "late_leases": report.late_leases if report else None,
    }


def scope_status(state: State, scope: str, *, now: float, wall: float) -> dict[str, Any]:
    """Where the scope stands: `stage`, since when and for how long at most, and what still comes in.

    A real server is `draining` or `drained` and has `connections`.
    """
    clock = Clock(now=now, wall=wall)
    if not is_server(scope):
        # Of the node the furthest counts: it is out for a command and for a file.
        scopes = NODE_SCOPES if scope == NODE and NODE not in state.progress else (scope,)
        packets = arriving(state, scope)
        return {
            **_stage(state, furthest(state, scopes), clock),
            "packets_per_s": _rounded(packets),
            "connections": None,
        }
    entry = state.maintenance.get(scope)
    stage = Stage.ACTIVE if entry is None else "drained" if is_at_rest(state, scope) else "draining"
    began = clock.since(None if entry is None else entry.began)
    return {
        "stage": str(stage),
        "stage_since": began["since"],
        "stage_since_s": began["since_s"],
        "stage_left_s": None,
        "packets_per_s": None,
        "connections": connections_of(state, scope),
    }


def maintenance_status(state: State, *, now: float, wall: float) -> list[dict[str, Any]]:
    """Every maintenance in force."""
    return [entry_status(state, scope, now=now, wall=wall) for scope in sorted(state.maintenance)]


def entry_status(state: State, scope: str, *, now: float, wall: float) -> dict[str, Any]:
    """A maintenance in force. `scope`: empty for the node, the name of a VIP, or `POOL/SERVER`.

    `source` says what ends it: `command`, `file` (removing `file`), or `stop` (the end of the agent, or a command).
    `ends_in_s` is negative once it is overdue.
    """
    entry = state.maintenance[scope]
    return {
        "scope": NODE if scope in NODE_SCOPES else scope,
        "source": {FILE: "file", STOP: "stop"}.get(scope, "command"),
        "file": touch_file(state) if scope == FILE else None,
        "kept": is_saved(scope),
        "reason": entry.reason,
        "by": entry.by,
        **Clock(now=now, wall=wall).wall_since(entry.since),
        "ends": None if entry.end is None else iso(entry.end.at),
        "ends_in_s": None if entry.end is None else round(entry.end.at - wall, 3),
        "on_expiry": None if entry.end is None else str(entry.end.then),
        "overdue": scope in state.progress and state.progress[scope].overdue,
        **scope_status(state, scope, now=now, wall=wall),
    }


def touch_file(state: State) -> str:
    """While it exists the node is in maintenance."""
    return f"{state.config.node.runtime_dir}/{TOUCH_FILE}"
