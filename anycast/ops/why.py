"""Why a VIP is announced or not: a chain from its checks to the BGP sessions, and what would change it. Pure.

In plain words, for an operator at night. Each link says whether it holds. The verdict is that of `core/vip/decide.py`,
decided again with other facts to find what else is in the way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, assert_never

from anycast.core.dataplane import ipvs
from anycast.core.dataplane.proof import Proof
from anycast.core.health.aim import targets_of
from anycast.core.health.phase import Health, Phase
from anycast.core.maintenance.clocks import Expiry
from anycast.core.maintenance.progress import arriving, stage_ends
from anycast.core.maintenance.stages import FILE, NODE, NODE_SCOPES, STOP, Stage
from anycast.core.preference import sent, spelt
from anycast.core.state import ACTIVE, State, VipState, health_of
from anycast.core.values.configuration import (
    Address,
    Aimed,
    Forwarding,
    RealServer,
    Role,
    Service,
    Target,
    Vip,
    WhenUnhealthy,
)
from anycast.core.values.report import Report
from anycast.core.values.route import GRACEFUL_SHUTDOWN, Prefix, Route
from anycast.core.values.standing import Standing
from anycast.core.view import At, Receipt
from anycast.core.vip.decide import Advertise, Facts, Reason, ServiceFacts, SorryFacts, Verdict, decide
from anycast.core.vip.facts import facts, recent_crashes, start_hold
from anycast.core.vip.hold import FREE
from anycast.core.vip.requirements import Requirement
from anycast.ops.servers import Look, Row, Seen, rows, seen
from anycast.ops.source import Tally, place_of
from anycast.ops.status import (
    FAMILIES,
    Clock,
    Obstacle,
    Routing,
    Silence,
    conditions,
    configured_families,
    entry_status,
    held_down,
    is_announced,
    kernel_error,
    meant,
    neighbors,
    no_session,
    prefixes,
    routing,
    touch_file,
    viewed,
)

VERSION = 1
LISTED = 20  # servers that are named; the others are counted
_NAMED = 5  # in one sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One thing a link is made of. `facts`: the same for programs."""

    holds: bool
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    name: str
    holds: bool
    text: str
    items: tuple[Item, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """Everything there is to look at."""

    state: State
    vip: Vip
    clock: Clock
    tallies: Mapping[Target, Tally]
    notes: Mapping[str, str]
    facts: Facts
    routes: Routing
    rows: tuple[tuple[Service, Row, Seen], ...]


def document(
    state: State,
    vip: Vip,
    tallies: Mapping[Target, Tally],
    *,
    now: float,
    wall: float,
    standing: Sequence[Standing] | None = None,
    notes: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """The explanation as JSON-ready values. The keys of `"version": 1` stay; new ones may come.

    `standing`: what is wrong with the node; None: what the state tells of that. `notes`: of `Tripwires`.
    """
    look = Look(state)
    case = _Case(
        state=state,
        vip=vip,
        clock=Clock(now=now, wall=wall),
        tallies=tallies,
        notes=notes,
        facts=facts(state, vip, now),
        routes=routing(state, now),
        rows=tuple((service, row, seen(row, look)) for service in vip.services for row in rows(vip, service)),
    )
    known = state.vips.get(vip.name, VipState())
    announced = is_announced(case.routes, vip)
    return {
        "version": VERSION,
        "vip": vip.name,
        "announced": announced,
        "advertise": str(known.verdict.advertise),
        "reason": str(known.verdict.reason),
        "detail": known.verdict.detail,
        **case.clock.since(known.since),
        "changes": known.changes,
        "text": _headline(case, known.verdict, announced=announced),
        "chain": [
            {
                "link": link.name,
                "holds": link.holds,
                "text": link.text,
                "items": [
                    {"holds": item.holds, "text": item.text, "facts": dict(item.facts)} for item in link.items
                ],
            }
            for link in _chain(case, known)
        ],
        "would_change": list(dict.fromkeys(would_change(case, known.verdict))),
        "standing": [
            {
                "kind": str(one.kind),
                "text": f"{one.text}, since {_moment(case, one.since)}",
                **case.clock.since(one.since),
            }
            for one in (conditions(state) if standing is None else standing)
        ],
    }


def _headline(case: _Case, verdict: Verdict, *, announced: bool) -> str:
    match verdict.advertise, announced:
        case Advertise.NO, True:
            word = "still announced, and is being withdrawn"
        case Advertise.NO, False:
            word = "not announced"
        case Advertise.DRAIN, True if verdict.reason is Reason.SORRY:
            word = f"{_by_whom(case)}, and announced as the last resort"
        case Advertise.DRAIN, True:
            word = "announced as the last resort"
        case _, True:
            word = f"announced ({'learned by the routing daemon' if case.routes.table else 'acknowledged by ExaBGP'})"
        case _ if case.routes.silence is not None:
            return f"whether {case.vip.name} is announced is not known: {case.routes.silence.text}"
        case _:
            return f"{case.vip.name} is not announced, although it should be: {next(_obstacles(case), 'unknown')}"
    detail = f" ({verdict.detail})" if verdict.detail else ""
    return f"{case.vip.name} is {word}: {_MEANING[verdict.reason]}{detail}"


def _by_whom(case: _Case) -> str:
    began = [one.sorry.since for one in case.facts.services if one.sorry and one.sorry.serves]
    since = min((at for at in began if at is not None), default=None)
    if since is None:
        return "served by its real servers again"
    return f"served by the sorry pool since {_moment(case, since)}"


_MEANING = {
    Reason.STOPPING: "the agent is stopping",
    Reason.NODE_MAINTENANCE: "the node is in maintenance",
    Reason.VIP_MAINTENANCE: "the VIP is in maintenance",
    Reason.KERNEL_UNAVAILABLE: "the kernel cannot be read",
    Reason.STARTING: "the agent has only just started",
    Reason.KERNEL_DIFFERS: "the kernel does not have what the VIP needs",
    Reason.ADDRESS_MISSING: "an address of the VIP is not on this node",
    Reason.UNPROVEN: "this node cannot check its real servers or requirements",
    Reason.BELOW_QUORUM: "too few real servers are usable",
    Reason.NODE_CHECK_FAILED: "a check that the node requires fails",
    Reason.VIP_CHECK_FAILED: "a check that the VIP requires fails",
    Reason.LOCAL_CHECK_FAILED: "what this node itself serves of it fails its check",
    Reason.SORRY: "too few real servers are, or were, usable",
    Reason.HEALTHY: "everything it needs is in place",
}


def text(body: Mapping[str, Any]) -> str:
    """The document for people."""
    lines = [body["text"], ""]
    for link in body["chain"]:
        lines.append(f"{'ok ' if link['holds'] else 'NO '} {link['link']}: {link['text']}")
        lines += [f"      {'' if item['holds'] else 'NO '}{item['text']}" for item in link["items"]]
    if body["would_change"]:
        lines += ["", "what would change it:", *(f"  - {sentence}" for sentence in body["would_change"])]
    if body["standing"]:
        lines += ["", "what is wrong with the node:", *(f"  - {one['text']}" for one in body["standing"])]
    return "\n".join(lines) + "\n"


# The chain.


def _chain(case: _Case, known: VipState) -> Iterator[Link]:
    if case.vip.services:
        yield _checks(case)
        yield _services(case)
    if local := _local(case):
        yield local
    if required := _requirements(case):
        yield required
    yield _kernel(case)
    yield _verdict(case, known)
    yield _lease(case)
    yield _exabgp(case)
    yield _sessions(case)
    if routers := _routers(case):
        yield routers


def _checks(case: _Case) -> Link:
    """Every real server that gets no new clients, or is about to change."""
    ill = [one for one in case.rows if not _is_well(one[2])]
    items = [_server(case, *one) for one in ill[:LISTED]]
    if len(ill) > LISTED:
        items.append(Item(holds=False, text=f"and {len(ill) - LISTED} more"))
    well = len(case.rows) - len(ill)
    return Link(
        name="checks",
        holds=not ill,
        text=f"{well} of {len(case.rows)} real servers are up and in use",
        items=tuple(items),
    )


def _is_well(found: Seen) -> bool:
    return found.health.phase is Phase.UP and not found.health.unknown and not found.drained


def _server(case: _Case, service: Service, row: Row, found: Seen) -> Item:
    health, tally = found.health, _tally(case, row.check)
    named = f"{row.server.name} ({_at(row.address, row.port)}) of {service.name}"
    since = None if health.phase is Phase.UNDECIDED else health.since
    return Item(
        holds=_is_well(found),
        text=f"{named}: {_state_of(case, row, found)}",
        facts={
            "service": service.name,
            "server": row.server.name,
            "address": str(row.address),
            "port": row.port,
            "phase": str(health.phase),
            "drained": found.drained,
            "detail": health.detail,
            "held_down_s": held_down(health, case.clock.now),
            "check_failed_to_run": health.unknown,
            **case.clock.since(since),
            "changes": health.changes,
            **tally,
        },
    )


def _tally(case: _Case, check: Aimed) -> dict[str, Any]:
    """Over all the checks it rests on; in a row only where there is one."""
    targets = targets_of(check)
    found = [case.tallies[target] for target in targets if target in case.tallies]
    return {
        "failures": sum(tally.failures for tally in found),
        "in_a_row": sum(tally.in_a_row for tally in found) if len(targets) == 1 else None,
    }


def _state_of(case: _Case, row: Row, found: Seen) -> str:
    """`down since 12:03:10Z: connection refused, 3 failures in a row; 4 failures in all, turned twice`."""
    parts = [_health(case, found.health)]
    tally = _tally(case, row.check)
    if (tally["in_a_row"] or 0) > 1:
        parts[0] += f", {tally['in_a_row']} failures in a row"
    if tally["failures"]:
        parts.append(f"{_count(tally['failures'], 'failure')} in all, {_turned(found.health.changes)}")
    if found.drained:
        parts.insert(0, _drained(case, row.server, row.scope))
    return "; ".join((*parts, *_noted(case, row.check)))


def _noted(case: _Case, check: Aimed) -> Iterator[str]:
    """What is unusual about its tripwires."""
    if not case.notes:
        return
    places = (place_of(target) for target in targets_of(check) if target.check.tripwire)
    yield from (note for place in dict.fromkeys(places) if (note := case.notes.get(place)))


def _health(case: _Case, health: Health) -> str:
    detail = f": {health.detail}" if health.detail else ""
    if health.phase is Phase.UNPROVEN:
        return f"it could not be checked for too long and is not used{detail}"
    if health.unknown:
        settled = "up" if health.is_up else str(health.phase)
        return f"its check could not run{detail}; it still counts as {settled}, by its last result"
    match health.phase:
        case Phase.UNDECIDED:
            return f"no result yet{detail}"
        case Phase.FALLING:
            return f"up, and failing for {_count(health.streak, 'run')}{detail}"
        case Phase.RISING:
            well = f"and well for {_count(health.streak, 'run')}"
            return f"down since {_moment(case, health.since)}, {well}{_held(case, health)}{detail}"
        case Phase.UP | Phase.DOWN:
            return f"{health.phase} since {_moment(case, health.since)}{_held(case, health)}{detail}"
        case _:
            assert_never(health.phase)


def _held(case: _Case, health: Health) -> str:
    held = held_down(health, case.clock.now)
    return f", held down for {held:.0f} s more because it flapped" if held else ""


def _drained(case: _Case, server: RealServer, scope: str) -> str:
    entry = case.state.maintenance.get(scope)
    if entry is None:
        return "taken out by the configuration: its weight is 0" if server.weight == 0 else "taken out"
    return f"taken out by {entry.by} since {_wall(case, entry.since)}{_for(entry.reason)}"


def _services(case: _Case) -> Link:
    items = tuple(_service(case, one) for one in case.facts.services)
    bad = sum(not item.holds for item in items)
    text = (
        f"{bad} of {len(items)} have too few usable real servers"
        if bad
        else "each has enough usable real servers"
    )
    return Link(name="services", holds=not bad, text=text, items=items)


def _service(case: _Case, one: ServiceFacts) -> Item:
    needed = one.needs(whole=case.facts.whole)
    which = "to stay announced" if needed == one.quorum.low and case.facts.whole else "to be announced"
    text = f"{one.name}: {one.usable} of {_count(one.total, 'real server')} usable, {needed} needed {which}"
    if one.unheard:
        text += f", {one.unheard} without a result yet"
    if one.untested + one.unproven:
        text += f", {one.untested + one.unproven} that cannot be checked ({one.fault})"
    if one.kept:
        text += f"; {one.kept} that were replaced go on until {one.quorum.low} of these are usable"
    if one.sorry is not None:
        text += f"; {_sorry(case, one.sorry)}"
    stays = case.vip.when_unhealthy is WhenUnhealthy.LAST_RESORT
    limited = case.facts.limited and case.facts.advertised
    if one.spare and not one.serving and not one.by_sorry and (stays or limited):
        by = "when_unhealthy: last_resort" if stays else "fleet.velocity"
        text += f"; so the {one.spare} that only checks are against get clients ({by})"
    return Item(
        holds=(one.possible if case.facts.whole else one.serving) >= needed,
        text=text,
        facts={
            "service": one.name,
            "usable": one.usable,
            "undecided": one.undecided,
            "unproven": one.unproven,
            "total": one.total,
            "replaced": one.kept,
            "spare": one.spare,
            "needed": needed,
            "low": one.quorum.low,
            "high": one.quorum.high,
            "sorry": one.by_sorry,
        },
    )


def _sorry(case: _Case, sorry: SorryFacts) -> str:
    count = f"{sorry.usable} of {sorry.total} usable"
    if sorry.serves and sorry.since is not None:
        return f"the sorry pool serves since {_moment(case, sorry.since)} ({count})"
    if sorry.leaving and sorry.since is not None:
        until = sorry.since + case.state.config.timing.server_drain
        return f"its sorry pool served until {_moment(case, sorry.since)}, its connections may last until {_moment(case, until)}"
    return f"its sorry pool stands by ({count})" if sorry.usable else f"its sorry pool cannot serve ({count})"


def _requirements(case: _Case) -> Link | None:
    items = tuple(_requirement(case, one) for one in _ours(case) if not one.is_local)
    if not items:
        return None
    holds = all(item.holds for item in items)
    return Link(
        name="requirements",
        holds=holds,
        text="every requirement holds" if holds else "a requirement does not hold",
        items=items,
    )


def _ours(case: _Case) -> list[Requirement]:
    """What is about the VIP: the node's first."""
    return [*case.state.index.node_requirements, *case.state.index.vips[case.vip.name].requirements]


def _local(case: _Case) -> Link | None:
    """What the node itself serves."""
    items = tuple(_requirement(case, one) for one in _ours(case) if one.is_local)
    if not items:
        return None
    bad = sum(not item.holds for item in items)
    text = f"{bad} of {len(items)} that this node itself serves {'fails' if bad == 1 else 'fail'}"
    return Link(
        name="local",
        holds=not bad,
        text=text if bad else "what this node itself serves is well",
        items=items,
    )


def _requirement(case: _Case, one: Requirement) -> Item:
    health = health_of(case.state, one.check)
    since = None if health.phase is Phase.UNDECIDED else health.since
    about = one.subject if one.is_local else f"required by {one.scope}"
    return Item(
        holds=health.is_up,
        text=f"{about}: {_health(case, health)}",
        facts={
            "scope": one.scope,
            "phase": str(health.phase),
            "detail": health.detail,
            "held_down_s": held_down(health, case.clock.now),
            "check_failed_to_run": health.unknown,
            **case.clock.since(since),
            "changes": health.changes,
            **_tally(case, one.check),
        },
    )


def _kernel(case: _Case) -> Link:
    error = kernel_error(case.state, case.clock.now)
    if error is not None:
        return Link(name="kernel", holds=False, text=f"the kernel's state is not known: {error}")
    if not case.facts.proven:
        return Link(
            name="kernel", holds=False, text=f"differs from what is wanted: {_difference(case.facts)}"
        )
    ago = case.clock.now - case.state.kernel.read_at
    return Link(name="kernel", holds=True, text=f"read {ago:.1f} s ago, and as wanted")


def _difference(f: Facts) -> str:
    return f.difference or f.missing_address or "unknown"


def _verdict(case: _Case, known: VipState) -> Link:
    verdict = known.verdict
    text = (
        f"advertise {verdict.advertise}, {verdict.reason}: {_MEANING[verdict.reason]}, since "
        f"{_moment(case, known.since)}, {_count(known.changes, 'change')} since the agent started"
    )
    items = tuple(_in_force(case, scope) for scope in _covering(case))
    return Link(name="verdict", holds=verdict.advertise is Advertise.YES, text=text, items=items)


def _covering(case: _Case) -> list[str]:
    """The scopes in maintenance that the VIP is in."""
    return [scope for scope in (*NODE_SCOPES, case.vip.name) if scope in case.state.maintenance]


def _in_force(case: _Case, scope: str) -> Item:
    state, clock = case.state, case.clock
    found = entry_status(state, scope, now=clock.now, wall=clock.wall)
    word = "the node" if scope in NODE_SCOPES else case.vip.name
    overdue = ", overdue" if found["overdue"] else ""
    return Item(
        holds=False,
        text=f"{word} is in maintenance{overdue}, {_stage(case, scope)}: {_maintenance(case, scope)}",
        facts={key: value for key, value in found.items() if key != "connections"},
    )


def _stage(case: _Case, scope: str) -> str:
    """The stage of the maintenance, and what it waits for."""
    progress = case.state.progress.get(scope, ACTIVE)
    ends = stage_ends(case.state, progress)
    latest = "" if ends is None else f", until {_moment(case, ends)} at the latest"
    timing = case.state.config.timing
    match progress.stage:
        case Stage.ACTIVE:
            return "active"
        case Stage.DRAINING:
            return f"draining: its routes stay announced as the last resort{latest}"
        case Stage.WITHDRAWN if progress.waits_for_plugins and case.routes.silence is not None:
            return f"withdrawn: nobody acknowledges it, for {case.routes.silence.text}{latest}"
        case Stage.WITHDRAWN if progress.waits_for_plugins:
            return f"withdrawn: waits until the plugins acknowledge it{latest}"
        case Stage.WITHDRAWN:
            return f"withdrawn: waits while the routers follow{latest}"
        case Stage.QUIET:
            packets = arriving(case.state, scope, progress.since)
            now = "not known yet" if packets is None else f"{packets:.0f} a second now"
            return f"quiet: waits until no more packets arrive ({now}, at most {timing.quiet_rate:g} allowed){latest}"
        case Stage.DOWN:
            return "down: it may be rebooted"
        case _:
            assert_never(progress.stage)


def _lease(case: _Case) -> Link:
    lease = case.state.lease
    if lease.routes is None:
        return Link(name="lease", holds=False, text="no lease has been sent yet")
    mine = lease.routes
    items = []
    for one in prefixes(case.routes, case.vip):
        route = mine.get(one.prefix)
        attributes = "not in it" if route is None else "in it"
        if route is not None and GRACEFUL_SHUTDOWN in route.communities:
            attributes = "in it as the last resort (GRACEFUL_SHUTDOWN)"
        elif route is not None and case.vip.role is Role.BACKUP:
            attributes = f"in it as a backup ({spelt(route)}): clients come while no primary announces it"
        attributes += _in_common(case, one.prefix, announced=route is not None)
        items.append(
            Item(
                holds=route is not None,
                text=f"{one.prefix}: {attributes}",
                facts={"prefix": str(one.prefix), "wanted": one.wanted},
            )
        )
    ago = case.clock.now - lease.sent_at
    return Link(
        name="lease",
        holds=all(item.holds for item in items),
        text=f"number {lease.seq}, sent {ago:.1f} s ago, good for {lease.ttl:g} s",
        items=tuple(items),
    )


def _in_common(case: _Case, prefix: Prefix, *, announced: bool) -> str:
    one = case.routes.shared.get(prefix)
    if one is None:
        return ""
    if not announced:
        return f": {one.text}"
    mine = "" if case.vip.name in one.held_by or not one.against else ", whatever becomes of this one"
    return f", by {one.needs} of {one.vips} VIPs: {', '.join(one.held_by)}{mine}"


def _exabgp(case: _Case) -> Link:
    reports = [report for _, report in sorted(case.state.plugins.items()) if report is not None]
    items = []
    for one in prefixes(case.routes, case.vip):
        if one.failed is not None:
            text = f"not announced: {one.failed}"
        elif one.pending:
            text = "a command is under way"
        elif one.acknowledged:
            text = "in the table" if case.routes.table else "announced and acknowledged"
        else:
            text = "not known" if one.obstacle is Obstacle.EXABGP_SILENT else "not announced"
        items.append(
            Item(
                holds=one.acknowledged,
                text=f"{one.prefix}: {text}",
                facts={
                    "prefix": str(one.prefix),
                    "acknowledged": one.acknowledged,
                    "announced": one.announced,
                    "obstacle": one.obstacle,
                    "pending": one.pending,
                    "failed": one.failed,
                },
            )
        )
    if not case.state.plugins:
        words = f"no {'announcer' if case.routes.table else 'plugin'} is connected"
    elif not reports:
        words = "the plugin has not reported yet"
    elif case.routes.silence is not None:
        words = case.routes.silence.text
    else:
        expired = ", its lease has run out" if any(report.lease_expired for report in reports) else ""
        words = f"{_follower(reports[0])} follows lease {reports[0].seq}{expired}"
        words += f"; {case.routes.unseen}" if case.routes.unseen else ""
    return Link(name="exabgp", holds=all(item.holds for item in items), text=words, items=tuple(items))


def _follower(report: Report) -> str:
    if report.speaker:
        return (
            f"the announcer of the {report.speaker}{', learned by ' + report.daemon if report.daemon else ''}"
        )
    return f"ExaBGP {report.exabgp_version or 'of unknown version'}"


def _sessions(case: _Case) -> Link:
    """For each family of the VIP one session must be up; sessions that are down are listed in any case."""
    families = configured_families(case.state)
    items = []
    for one in neighbors(case.state, case.clock.now):
        carries = sorted(families.get(one.address, ()))
        name = (
            f"{one.address} ({' and '.join(FAMILIES[family] for family in carries)})"
            if carries
            else one.address
        )
        items.append(
            Item(
                holds=one.state == "up",
                text=f"{name}: {one.state} since {_moment(case, one.changed)}"
                + (f", {one.reason}" if one.reason else "")
                + _own_way(case, one.address, carries),
                facts={
                    "neighbor": one.address,
                    "state": one.state,
                    "families": [f"ipv{family}" for family in carries],
                    **case.clock.since(one.changed),
                },
            )
        )
    up = sum(item.holds for item in items)
    missing = _families_without_session(case)
    text = f"{up} of {len(items)} BGP sessions are up"
    if missing and up:
        text += f", none that carries {' or '.join(FAMILIES[version] for version in missing)}"
    return Link(name="sessions", holds=not missing, text=text, items=tuple(items))


def _routers(case: _Case) -> Link | None:
    """What the routers have of it; None: none of them is asked."""
    found = [
        (one.prefix, neighbor, known)
        for one in prefixes(case.routes, case.vip)
        for neighbor, known in viewed(case.state, case.vip, one.prefix)
    ]
    if not found:
        return None
    items = tuple(
        Item(
            holds=known.receipt is not Receipt.NOT_RECEIVED,
            text=f"{prefix} at {neighbor.address}: {_receipt(case, known)}{_company(known)}",
            facts={
                "prefix": str(prefix),
                "neighbor": str(neighbor.address),
                "receipt": str(known.receipt),
                **case.clock.since(known.since),
                "doubt": known.doubt,
                "others": known.others,
                "last_resort": known.last_resort,
                "at_least": known.at_least,
            },
        )
        for prefix, neighbor, known in found
    )
    count = Counter(known.receipt for _, _, known in found)
    told = [f"{number} {_SPELT[receipt]}" for receipt in Receipt if (number := count[receipt])]
    return Link(
        name="routers",
        holds=not count[Receipt.NOT_RECEIVED],
        text=f"what the routers have of it, of {_count(len(found), 'path')}: {', '.join(told)}",
        items=items,
    )


_SPELT = {
    Receipt.RECEIVED: "received",
    Receipt.NOT_RECEIVED: "NOT received",
    Receipt.AWAITED: "not there yet",
    Receipt.NOT_ANNOUNCED: "not announced",
    Receipt.UNKNOWN: "not known",
}


def _receipt(case: _Case, known: At) -> str:
    match known.receipt:
        case Receipt.RECEIVED:
            return f"received, since {_moment(case, known.since or case.clock.now)}"
        case Receipt.NOT_RECEIVED:
            return f"NOT received, since {_moment(case, known.since or case.clock.now)}"
        case Receipt.UNKNOWN:
            return f"not known: {known.why}"
        case _:
            return _SPELT[known.receipt]


def _company(known: At) -> str:
    """`; 3 other nodes there, 1 of them as the last resort`."""
    if known.others is None:
        return ""
    least = "at least " if known.at_least else ""
    last = f", {known.last_resort} of them as the last resort" if known.last_resort else ""
    return f"; {least}{_count(known.others, 'other node')} there{last}"


def _own_way(case: _Case, neighbor: str, families: list[int]) -> str:
    """What this router is sent, where not all are sent the same."""
    routes: Mapping[Prefix, Route] = case.state.lease.routes or {}
    mine = (
        routes.get(one.prefix) for one in prefixes(case.routes, case.vip) if one.prefix.version in families
    )
    told = dict.fromkeys(
        "it does not get the VIP"
        if got is None
        else f"it gets the VIP with {spelt(got) or 'nothing of its own'}"
        for route in mine
        if route is not None and route.variants
        for got in (sent(route, neighbor),)
    )
    return "".join(f"; {words}" for words in told)


def _families_without_session(case: _Case) -> tuple[int, ...]:
    return tuple(
        dict.fromkeys(one.prefix.version for one in prefixes(case.routes, case.vip) if not one.sessions_up)
    )


# What would change it.


def would_change(case: _Case, verdict: Verdict) -> Iterator[str]:
    """What an operator, a real server or time would have to do, for this reason and for what would then be in the way."""
    f = case.facts
    match verdict.reason:
        case Reason.STOPPING:
            yield "the agent must be started again (`systemctl start anycast-agent`)"
        case Reason.NODE_MAINTENANCE:
            for scope in (one for one in _covering(case) if one in NODE_SCOPES):
                yield _to_end(case, scope)
            yield from _then(case, replace(f, node_maintenance=Stage.ACTIVE))
        case Reason.VIP_MAINTENANCE:
            yield _to_end(case, case.vip.name)
            yield from _then(case, replace(f, vip_maintenance=Stage.ACTIVE))
        case Reason.KERNEL_UNAVAILABLE:
            yield f"the kernel must be read again ({verdict.detail}): `anycast doctor` says what is missing"
        case Reason.STARTING:
            yield from _to_start(case)
        case Reason.KERNEL_DIFFERS | Reason.ADDRESS_MISSING:
            yield from _to_mend(case)
        case Reason.UNPROVEN:
            yield from _to_be_proven(case)
        case Reason.BELOW_QUORUM | Reason.SORRY:
            yield from _to_be_left(case)
            for service in case.facts.services:
                if (sentence := _to_reach_quorum(case, service)) is not None:
                    yield sentence
                    yield from _to_be_sorry(case, service)
        case Reason.NODE_CHECK_FAILED | Reason.VIP_CHECK_FAILED | Reason.LOCAL_CHECK_FAILED:
            for one in _ours(case):
                health = health_of(case.state, one.check)
                if one.reason is verdict.reason and not health.is_up:
                    yield f"{_asked(one)} must {_again(one)}: {_health(case, health)}"
        case Reason.HEALTHY:
            yield from _to_be_heard(case)
        case _:
            assert_never(verdict.reason)


def _asked(one: Requirement) -> str:
    return one.subject if one.is_local else f"what {one.scope} requires"


def _again(one: Requirement) -> str:
    return "pass its check again on this node" if one.is_local else "hold again"


def _to_end(case: _Case, scope: str) -> str:
    """What ends a maintenance."""
    said = _maintenance(case, scope)
    if scope == FILE:
        path = touch_file(case.state)
        return f"maintenance of the node by the file {path}, {said}: remove it"
    if scope == STOP:
        return f"maintenance of the node until the agent ends, by {said}: `anycast maintenance off`"
    what, option = ("the node", "") if scope == NODE else (scope, f" --vip {scope}")
    return f"maintenance of {what} by {said}: `anycast maintenance off{option}`{_expiry(case, scope)}"


def _expiry(case: _Case, scope: str) -> str:
    """`, or by itself at 18:30:00Z`."""
    entry = case.state.maintenance.get(scope)
    if entry is None or entry.end is None:
        return ""
    end = entry.end
    overdue = scope in case.state.progress and case.state.progress[scope].overdue
    if end.then is Expiry.HOLD:
        passed = "passed" if overdue else "will pass"
        return f"; its end, {_wall(case, end.at)}, {passed} and the maintenance goes on (--on-expiry hold)"
    # Both clocks must say so: one that was set over the end does not end it.
    left = end.at - case.clock.wall
    if end.due is not None:
        left = max(left, end.due - case.clock.now)
    return f", or by itself at {_moment(case, case.clock.now + max(0.0, left))}"


def _then(case: _Case, without: Facts) -> Iterator[str]:
    """What else is in the way once one obstacle is gone."""
    verdict = decide(without)
    if verdict.reason is not Reason.HEALTHY:
        yield from (
            f"and then: {sentence}" for sentence in would_change(replace(case, facts=without), verdict)
        )


def _to_start(case: _Case) -> Iterator[str]:
    f = case.facts
    waiting = [
        row for _, row, found in case.rows if found.health.phase is Phase.UNDECIDED and not found.drained
    ]
    if waiting:
        names = _list(list(dict.fromkeys(row.server.name for row in waiting)))
        yield f"waiting for the first result of the check of {names}: it comes by itself"
    for one in _ours(case):
        if health_of(case.state, one.check).phase is Phase.UNDECIDED:
            what = f"the check of {one.subject}" if one.is_local else _asked(one)
            yield f"waiting for the first result of {what}: it comes by itself"
    if not f.proven:
        yield f"the kernel must be as wanted: {_difference(f)}; it is being written and read back"
    if f.held and not waiting and f.proven:
        yield from _to_be_held_no_more(case)
    elif not waiting and f.proven:
        yield "nothing is missing any more: the next step decides"


def _to_be_held_no_more(case: _Case) -> Iterator[str]:
    state, now = case.state, case.clock.now
    known = state.vips.get(case.vip.name, VipState())
    if known.stable_since is None:
        yield f"everything must hold for {start_hold(state, now):g} s after the agent's start"
    else:
        end = _moment(case, known.stable_since + start_hold(state, now))
        yield f"everything must hold until {end}: a repair of the kernel or lost real servers restart that wait"
    crashes = recent_crashes(state, now)
    if crashes > FREE:
        yield (
            f"the {crashes} crashes before made that wait longer: `journalctl -u anycast-agent` has the reason; a clean stop "
            "(`systemctl restart anycast-agent`) forgets them"
        )


def _to_mend(case: _Case) -> Iterator[str]:
    what = f"the kernel must be as wanted: {_difference(case.facts)}"
    problems = case.state.kernel.problems
    if problems:
        yield f"{what}; it refused: {'; '.join(problems[:3])} (see `anycast doctor`)"
    elif not case.state.config.manage_sysctls and "net." in case.facts.difference:
        yield f"{what}; `sysctls: check` keeps the agent from setting it: set it yourself (`anycast doctor` shows how)"
    elif case.facts.proof is Proof.FAILED:
        yield f"{what}; another program may be changing it (`anycast doctor` names those that manage interfaces): the agent tries again every second"
    else:
        yield f"{what}; it is being changed and read back"


def _to_be_proven(case: _Case) -> Iterator[str]:
    for service in case.facts.services:
        if service.untested + service.unproven and service.needs(whole=case.facts.whole) > service.serving:
            yield (
                f"{service.name}: this node must be able to check its real servers again ({service.fault}); whether "
                "they are well is not known"
            )
    for requirement in _ours(case):
        health = health_of(case.state, requirement.check)
        if health.phase is Phase.UNPROVEN:
            yield f"{_asked(requirement)} must be checked again: {_health(case, health)}"


def _to_be_left(case: _Case) -> Iterator[str]:
    ends = [
        one.sorry.since for one in case.facts.services if one.sorry and one.sorry.leaving and one.sorry.since
    ]
    if ends:
        until = _moment(case, max(ends) + case.state.config.timing.server_drain)
        yield f"the connections to the sorry pool must end: the kernel is asked every {case.state.config.timing.reconcile:g} s, and at {until} they are ended"


def _to_be_sorry(case: _Case, service: ServiceFacts) -> Iterator[str]:
    if service.sorry is None or service.sorry.usable:
        return
    rows = [(row, found) for row, found in _rows_of(case, service) if row.sorry]
    named = _list([f"{row.server.name} ({_state_of(case, row, found)})" for row, found in rows], "; ")
    yield f"{service.name}: or its sorry pool serves meanwhile, once one of {named} can"


def _rows_of(case: _Case, service: ServiceFacts) -> Iterator[tuple[Row, Seen]]:
    version = 6 if service.name.endswith("6") else 4
    for one, row, found in case.rows:
        # With a tunnel one address may be behind both families.
        if f"{one.name} IPv{version}" == service.name and (
            one.forwarding is Forwarding.TUNNEL
            or any(ipvs.version_of(key) == version for key in row.services)
        ):
            yield row, found


def _to_reach_quorum(case: _Case, service: ServiceFacts) -> str | None:
    needed = service.needs(whole=case.facts.whole)
    lacking = needed - (service.possible if case.facts.whole else service.serving)
    if lacking <= 0:
        return None
    out = [
        (row, found)
        for row, found in _rows_of(case, service)
        if not row.sorry and (found.drained or not found.health.is_up)
    ]
    head = (
        f"{service.name}: {service.usable} of {_count(service.total, 'real server')} usable, {needed} needed"
    )
    ill = [(row, found) for row, found in out if not found.drained]
    drained = [row for row, found in out if found.drained]
    parts = []
    if ill:
        who = "one" if lacking == 1 else str(lacking)
        named = _list([f"{row.server.name} ({_state_of(case, row, found)})" for row, found in ill], "; ")
        parts.append(f"{who} of {named} must come up")
    if drained:
        commands = [
            f"`anycast undrain-server {row.scope}`" for row in drained if row.scope in case.state.maintenance
        ]
        named = _list([row.server.name for row in drained])
        parts.append(
            f"{named} {'was' if len(drained) == 1 else 'were'} taken out"
            + (f": {_list(commands)}" if commands else " by the configuration")
        )
    if service.total < needed:
        parts.append(f"only {_count(service.total, 'real server')} configured: add some, or lower the quorum")
    return f"{head}: {', or '.join(parts)}"


def _to_be_heard(case: _Case) -> Iterator[str]:
    """The verdict is to announce it: what keeps the announcement from the routers, or what would end it."""
    before = list(_obstacles(case))
    if before:
        yield from before
        return
    for service in case.facts.services:
        spare = service.serving - service.quorum.low
        few = "the next one that fails takes it down" if spare < 1 else f"{spare} more may fail"
        if service.kept:
            yield (
                f"{service.name}: {service.kept} real servers that were replaced go on until {service.quorum.low} of the "
                f"{service.total} new ones are usable ({service.usable} now): {few}"
            )
            continue
        yield f"{service.name}: it stays up while {service.quorum.low} of {service.total} are usable: {few}"


def _must_answer(silence: Silence) -> str:
    if silence.daemon:
        return (
            "the announcer must answer the agent, and its watchdog ends it (if this stays: `systemctl restart anycast-table`)"
            if silence.mute
            else "BIRD must answer the announcer (`systemctl status bird`; if this stays: `systemctl restart bird`)"
        )
    restart = "`systemctl restart anycast-exabgp`, which costs its sessions until they are up again"
    if silence.mute:
        return (
            "the plugin must answer the agent (`anycast doctor` names a frozen unit, which `systemctl thaw "
            f"anycast-exabgp` frees; else {restart})"
        )
    return f"ExaBGP must answer the plugin, which ends it after 5 s of silence (if this stays: {restart})"


def _obstacles(case: _Case) -> Iterator[str]:
    if not case.routes.plugin:
        yield (
            "the announcer must run: none is connected (`systemctl status anycast-table`)"
            if case.routes.table
            else "ExaBGP must run with the anycast plugin: no plugin is connected (`systemctl status anycast-exabgp`)"
        )
        return
    if case.routes.silence is not None:
        yield f"{_must_answer(case.routes.silence)}: {case.routes.silence.text}"
        return
    for report in case.state.plugins.values():
        if report is not None and report.lease_expired:
            yield f"the plugin {report.pid} must get a lease in time: its last one has run out (is the node overloaded?)"
    for one in prefixes(case.routes, case.vip):
        if one.failed is not None:
            yield f"{one.prefix} must be taken by {'the routing daemon' if case.routes.table else 'ExaBGP'}: {one.failed}"
        elif not one.acknowledged:
            yield f"{one.prefix} waits for " + (
                ("the kernel to have it" if case.routes.table else "ExaBGP to acknowledge it")
                if one.wanted
                else "the kernel to serve it, with enough real servers"
            )
    if case.routes.unseen:
        return
    where = f"see the log of {'BIRD' if case.routes.table else 'ExaBGP'} and of the routers"
    if not case.routes.session_is_up():
        each = (one for sessions in case.routes.sessions.values() for one in sessions)
        yield f"a BGP session must come up: {where}{meant(each)}"
        return
    for version in _families_without_session(case):
        yield f"{no_session(case.routes, version, case.vip)}: {where}"


# Words.


def _maintenance(case: _Case, scope: str) -> str:
    entry = case.state.maintenance.get(scope)
    if entry is None:
        return "nobody"
    return f"{entry.by} since {_wall(case, entry.since)}{_for(entry.reason)}"


def _for(reason: str) -> str:
    return f" ({reason})" if reason else ""


def _moment(case: _Case, instant: float) -> str:
    return _wall(case, case.clock.wall - (case.clock.now - instant))


def _wall(case: _Case, time: float) -> str:
    """The time of the day, with the date where it is another."""
    try:
        moment, today = datetime.fromtimestamp(time, UTC), datetime.fromtimestamp(case.clock.wall, UTC)
    except (OverflowError, ValueError, OSError):
        return "an unknown time"
    return f"{moment:%H:%M:%SZ}" if moment.date() == today.date() else f"{moment:%Y-%m-%d %H:%M:%SZ}"


def _at(address: Address, port: int) -> str:
    host = f"[{address}]" if address.version == 6 else str(address)
    return f"{host}:{port}" if port else host


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _turned(number: int) -> str:
    return {0: "never turned", 1: "turned once", 2: "turned twice"}.get(number, f"turned {number} times")


def _list(words: Sequence[str], separator: str = ", ") -> str:
    left = len(words) - _NAMED
    return separator.join(words[:_NAMED]) + (f" and {left} more" if left > 0 else "")
