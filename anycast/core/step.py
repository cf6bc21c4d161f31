"""The fold: `step(state, event, now) -> (state, effects)` decides everything a node does.

Order of acts. Up: kernel first, read back, then the route. Down: route first, then the kernel. Nothing in here
waits: a slow effect answers by a later event.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TypeAlias

from anycast.core import kept, lease, limited, reload, resort, standing, touched, view
from anycast.core.dataplane import loop
from anycast.core.dataplane.desired import want
from anycast.core.dataplane.proof import Proof
from anycast.core.events import (
    ConditionSet,
    Effect,
    Event,
    Exit,
    FleetHeard,
    KernelChanged,
    KernelFailed,
    KernelRead,
    LeaveAsked,
    LeaveDropped,
    Log,
    MaintenanceSet,
    PluginConnected,
    PluginLost,
    PluginReported,
    PluginSaw,
    ProbeAnew,
    Probed,
    Reconfigured,
    SaveOwned,
    ScheduleProbe,
    SetTargets,
    StopRequested,
    Tick,
)
from anycast.core.fleet import asking, heard
from anycast.core.health import phase as healths
from anycast.core.index import Index, indexed
from anycast.core.maintenance import progress as maintenances
from anycast.core.maintenance.stages import FILE, Maintenance
from anycast.core.news import is_news, news, of_report
from anycast.core.owned import NOTHING, Owned
from anycast.core.state import (
    UNDECIDED,
    KernelState,
    LeaseState,
    Leaving,
    State,
    VipState,
    lived,
    placed,
)
from anycast.core.values.configuration import Address, Config, Target
from anycast.core.values.persistent import PersistentMap
from anycast.core.values.report import Report
from anycast.core.vip.decide import Advertise, Facts, Verdict, decide, signal
from anycast.core.vip.facts import facts, start_hold
from anycast.core.vip.hold import FREE
from anycast.core.vip.lifecycle import NEXT, Life, Signal
from anycast.core.withdrawal import PATIENCE, Phase, followed

STOP_PATIENCE = 3.0  # seconds a stopping agent waits for the withdraw to be acknowledged

Step: TypeAlias = tuple[State, list[Effect]]


def begin(
    config: Config,
    maintenance: Mapping[str, Maintenance],
    now: float,
    wall: float | None = None,
    *,
    crashes: int = 0,
    left: Owned = NOTHING,
    index: Index | None = None,
    before: Config | None = None,
) -> tuple[State, tuple[Effect, ...]]:
    """The state a node starts in. Maintenance found on disk is in force, its drain is over.

    `wall`: seconds since the epoch at the instant `now`. Without it nothing ends by itself. `crashes`: of the agents
    before, as `hold.started` counts them. `left`: what the agent before owned. `index`: of the configuration, where it
    is there already. `before`: the configuration of the agent before, where it was another and is known: by its checks
    real servers serve on that were replaced.
    """
    # A lease of the agent before may stand, and a plugin that hangs may hold its routes for longer.
    runs_out = now + left.lease_ttl
    state = State(
        config=config,
        index=Index() if before is None else indexed(before),
        started_at=now,
        seen=now,
        crashes=crashes,
        owned=left,
        kernel=KernelState(next_read=now),
        lease=LeaseState(runs_out=runs_out, opens_at=now + config.timing.lease_ttl),
        lost_until=runs_out + PATIENCE if left.lease_ttl else float("-inf"),
        maintenance=dict(maintenance),
    )
    state, moves = reload.adopted(state, config, now, index)
    state = placed(state)
    state = maintenances.begin(state, state.maintenance, now=now, wall=wall)
    effects: list[Effect] = [SetTargets(targets=state.targets), SaveOwned(owned=state.owned)]
    effects += [
        Log(
            event="maintenance.began" if scope == FILE else "maintenance.kept",
            fields=maintenances.fields_of(scope, entry),
            level="warning",
        )
        for scope, entry in state.maintenance.items()
    ]
    effects += _moved(moves)
    if moves.scopes:
        effects.append(maintenances.save(state.maintenance))
    if (seconds := start_hold(state, now)) > 0:
        level = "warning" if crashes > FREE else "info"
        fields = {"seconds": seconds, "crashes": crashes}
        effects.append(Log(event="agent.start_held", fields=fields, level=level))
    nothing = State(config=config, started_at=now, seen=now)
    state, more = _settle(nothing, state, now)
    return state, (*effects, *more)


def step(state: State, event: Event, now: float) -> tuple[State, tuple[Effect, ...]]:
    """The state after `event`, and what is to be done about it."""
    if state.exited:
        return state, ()
    before, effects = state, list[Effect]()
    gap = now - state.seen
    suspended = gap > state.config.timing.lease_ttl and state.stopping_since is None
    if suspended:
        state, effects = _suspended(state, gap, now)
    if now != state.seen:
        state = replace(state, seen=now)
    # Results from before the suspension prove nothing now; of a reading the kernel's state knows.
    after, more = (state, []) if suspended and isinstance(event, Probed) else _apply(state, event, now)
    effects += more
    after, more = _settle(before, after, now, greet=isinstance(event, PluginConnected))
    return after, (*effects, *more)


def next_wake(state: State, now: float) -> float:
    """The instant by which `step` wants a Tick, whatever else happens."""
    times = [lease.due(state), *maintenances.wakes(state, now), *loop.wakes(state, now)]
    # Waiting is no suspension: an agent that sends no lease yet looks at the clock as often as one that does.
    times.append(state.seen + state.config.timing.lease_ttl / 3)
    times.append(state.leave_at)
    if state.lost_until > now:
        times.append(state.lost_until)
    times += standing.wakes(state, now)
    times += view.wakes(state, now)
    times += resort.wakes(state, now)
    times += limited.wakes(state)
    times += asking.wakes(state, now)
    if state.stopping_since is not None:
        times.append(state.stopping_since + STOP_PATIENCE)
    return min(times)


def _apply(state: State, event: Event, now: float) -> Step:
    match event:
        case Tick(wall=wall):
            return (state, []) if wall is None else maintenances.clock(state, wall, now)
        case Probed(results=results):
            return _probed(state, results, now)
        case KernelRead():
            return loop.read(state, event, now)
        case KernelFailed(reason=reason):
            return loop.failed(state, reason, now)
        case KernelChanged(lost=lost):
            return loop.changed(state, lost, now), []
        case PluginConnected(source=source):
            return replace(state, plugins={**state.plugins, source: None}), [Log(event="plugin.connected")]
        case PluginReported(source=source, report=report):
            return _reported(state, source, report)
        case PluginSaw(source=source, change=change):
            return view.saw(state, source, change), []
        case PluginLost(source=source):
            after = view.lost(_lost(state, source), source)
            return after, [Log(event="plugin.lost", level="warning")]
        case Reconfigured(config=config):
            return _reconfigured(state, config, now)
        case ConditionSet(kind=kind, text=text, about=about):
            return standing.told(state, kind, about, text, now)
        case FleetHeard(peers=peers, problem=problem, register=register):
            return replace(
                state, fleet=heard.told(state.fleet, state.config.fleet, peers, problem, register)
            ), []
        case MaintenanceSet(scope=scope, entry=entry, skip_drain=skip_drain, by=by):
            if entry is None:
                state, said = asking.given_up(state, scope, number=None, by=by)
                state, effects = maintenances.end(state, scope, by=by)
                return state, [*said, *effects]
            state, said = asking.skipped(state, scope, entry)
            state, effects = maintenances.put(state, scope, entry, skip_drain=skip_drain, now=now)
            return state, [*said, *effects]
        case LeaveAsked():
            return asking.ask(state, event, now)
        case LeaveDropped(scope=scope, number=number, by=by):
            return asking.given_up(state, scope, number=number, by=by)
        case StopRequested(displaced=True):
            # Another agent has taken over: the routes this one would withdraw are now the other's.
            return replace(state, exited=True), [Exit(clean=False)]
        case StopRequested():
            if state.stopping_since is not None:
                return state, []
            everything = lease.withdrawal(state, map(state.owned.prefix_of, state.owned.addresses), now)
            return replace(state, stopping_since=now, stop=everything), [Log(event="agent.stopping")]


def _suspended(state: State, gap: float, now: float) -> Step:
    """The process did not run for longer than its lease lasts (SIGSTOP, a paused machine): all results are stale.

    It goes on as an agent that starts: everything must be proven anew before it is announced.
    """
    vips = {
        name: replace(known, life=NEXT[known.life, Signal.SUSPEND], stable_since=None)
        for name, known in state.vips.items()
    }
    kernel = state.kernel
    snapshot = kernel.snapshot
    kernel = replace(
        kernel,
        reported=None,
        snapshot=None,
        reached=PersistentMap(),
        settled=False,
        stale=kernel.busy,
        attempted={},
        stuck=frozenset(),
        next_read=now,
        counts=(),
        readings=(),
        adopted=kernel.adopted if snapshot is None else snapshot.table,
    )
    ttl = state.config.timing.lease_ttl
    after = replace(
        lived(state, vips),
        health=PersistentMap((target, healths.suspended(health)) for target, health in state.health.items()),
        proofs=PersistentMap(dict.fromkeys(state.proofs, Proof.UNREAD)),
        kernel=kernel,
        lease=replace(state.lease, routes=None, opens_at=now + ttl),
    )
    fields = {"seconds": round(gap, 3)}
    return after, [Log(event="agent.suspended", fields=fields, level="error"), ProbeAnew()]


def _lost(state: State, source: int) -> State:
    left = {key: report for key, report in state.plugins.items() if key != source}
    report = state.plugins.get(source)
    lease = state.lease
    # One that has routes to announce yet does so after it was lost.
    empty = (
        report is not None
        and not (report.announced or report.pending or lease.routes)
        and report.seq >= lease.changed_seq
    )
    # It withdraws when its lease runs out, or is ended by its watchdog if it hangs.
    until = state.lost_until if empty else max(state.lost_until, lease.runs_out + PATIENCE)
    return replace(state, plugins=left, lost_until=until, still_until=state.known_plugins.still_until)


def _probed(state: State, results: tuple[tuple[Target, healths.Result], ...], now: float) -> Step:
    new_health: dict[Target, healths.Health] = {}
    turned: list[tuple[Target, healths.Health, healths.Health]] = []
    effects: list[Effect] = []
    turning: dict[Target, bool] = {}  # targets that begin to change, and whether they were up
    for target, result in results:
        if not state.is_target(target):
            continue  # no longer configured: the result was under way
        old = new_health.get(target) or state.health.get(target, UNDECIDED)
        new = healths.advance(old, result, target.check, now)
        if new is not old:
            new_health[target] = new
            if healths.began_to_turn(old, new):
                turning[target] = old.is_up
            if is_news(old, new):
                turned.append((target, old, new))
        pause, quiet = healths.pause(new, target.check), healths.settled(new)
        effects.append(ScheduleProbe(target=target, after=pause, quiet=quiet))
    if not new_health:
        return state, effects
    after = replace(state, health=state.health.updated(new_health))
    suspected: dict[Target, bool] = {}  # target to whether it would fall, and not rise
    for target, siblings in state.index.siblings(turning):
        suspected.update(dict.fromkeys(siblings, turning[target]))
    for target, _ in results:
        suspected.pop(target, None)
    effects += _ask(after, suspected)
    if turned:
        effects.extend(news(state, after, turned, now))
    return after, effects


def _ask(state: State, suspected: Mapping[Target, bool]) -> Iterator[Effect]:
    """A target begins to change; its siblings may, too: probe them now, not in an interval."""
    for target, falling in suspected.items():
        health = state.health.get(target, UNDECIDED)
        if health.phase is (healths.Phase.UP if falling else healths.Phase.DOWN):
            yield ScheduleProbe(target=target, after=0.0)


def _reported(state: State, source: int, report: Report) -> Step:
    old = state.plugins.get(source)
    if source not in state.plugins or report == old:
        return state, []
    return replace(state, plugins={**state.plugins, source: report}), list(of_report(old, report))


def _reconfigured(state: State, config: Config, now: float) -> Step:
    after, moves = reload.adopted(state, config, now)
    after = replace(
        after,
        kernel=loop.reconfigured(after, now),
        outdated=standing.outdated(state, config),
        fleet=heard.reconfigured(state.fleet, config.fleet),
    )
    after = placed(after)
    effects: list[Effect] = [SetTargets(targets=after.targets)]
    if after.maintenance is not state.maintenance:
        effects.append(maintenances.save(after.maintenance))
    return after, [*effects, *_moved(moves)]


def _moved(moves: reload.Carried) -> Iterator[Log]:
    for old, new in moves.scopes.items():
        yield Log(event="maintenance.carried_over", fields={"scope": old, "to": sorted(new)}, level="warning")
    for scope in sorted(moves.orphans):
        yield Log(event="maintenance.orphaned", fields={"scope": scope}, level="warning")


def _settle(before: State, state: State, now: float, *, greet: bool = False) -> Step:
    """Draw the conclusions from what is known now that can be other than those of `before`."""
    effects: list[Effect] = []
    state, more = _placed(before, state)
    effects += more
    state, more = maintenances.expire(state, now)
    effects += more
    state, more = asking.concluded(before, state, now)
    effects += more
    state, more = loop.retired(before, state, now)
    effects += more
    state, names = want(before, _left(before, state, now))
    effects += kept.news(before, state)
    if state.kept_users is not before.kept_users and state.index is before.index:
        effects.append(SetTargets(targets=state.targets))
    state, judged, more = _move_on(before, limited.looked(state, now), names, now)
    state = limited.followed(before, state, judged, now)
    effects += more
    state, more = lease.renewed(before, state, names | judged, now, greet=greet)
    effects += more
    state = lease.stayed(before, state, now)
    state, more = loop.drive(before, state, now)
    effects += more
    if state.owned is not before.owned:
        effects.append(SaveOwned(owned=state.owned))
    state, more = view.looked(before, view.compared(before, state), now)
    effects += more
    state, more = standing.concluded(before, state, now)
    effects += more
    state, more = _finish_stop(state, now)
    effects += more
    return state, effects


def _placed(before: State, state: State) -> Step:
    """What is probed where an address of a VIP has come or gone."""
    old, new = before.kernel.snapshot, state.kernel.snapshot
    same = old is new or (old is not None and new is not None and old.addresses is new.addresses)
    after = state if same or not state.index.at_vips else placed(state)
    return after, [] if after is state else [SetTargets(targets=after.targets)]


def _left(before: State, state: State, now: float) -> State:
    """An address the configuration dropped leaves the kernel once its route has been gone for a while."""
    if not state.leaving or not touched.leaving(before, state, now):
        return state
    settle = state.config.timing.settle
    left: dict[Address, Leaving] = {}
    wakes: list[float] = []
    for address, leaving in state.leaving.items():
        went = followed(leaving.withdrawal, state.known_plugins, settle=settle, now=now)
        if went.phase is not Phase.SETTLED:
            left[address] = leaving if went is leaving.withdrawal else replace(leaving, withdrawal=went)
            wakes += [at for at in (went.wakes_at(settle),) if at is not None]
    leave_at = min(wakes, default=math.inf)
    return replace(state, leaving=state.leaving if left == state.leaving else left, leave_at=leave_at)


def _move_on(
    before: State, state: State, by_kernel: set[str], now: float
) -> tuple[State, set[str], list[Effect]]:
    """The stages of maintenance and the verdicts, each of which may change the other. And the VIPs that were judged."""
    effects: list[Effect] = []
    names = by_kernel | touched.vips(before, state, now)
    judged: set[str] = set()
    while True:
        moved, logs = maintenances.advance(before, state, now)
        effects += logs
        names |= touched.in_maintenance(state, moved)
        if not names and moved is state:
            return state, judged, effects
        judged |= names
        after, more = _judge(moved, names, now)
        effects += more
        # A verdict rests on the one before it.
        names = {name for name in names if after.vips[name] is not moved.vips[name]}
        before, state = state, after


def _judge(state: State, names: Iterable[str], now: float) -> Step:
    effects: list[Effect] = []
    vips: dict[str, VipState] = {}
    for name in state.index.in_order(names):
        known = state.vips[name]
        f = facts(state, state.index.vips[name].vip, now)
        verdict = decide(f)
        turned = (verdict.advertise, verdict.reason) != (known.verdict.advertise, known.verdict.reason)
        if turned:
            fields = {
                "vip": name,
                "advertise": verdict.advertise,
                "reason": verdict.reason,
                "detail": verdict.detail,
            }
            level = "info" if verdict.advertise is Advertise.YES else "warning"
            effects.append(Log(event="vip.verdict_changed", fields=fields, level=level))
        after = _lived(known, f, verdict, since=now if turned else known.since, now=now, turned=turned)
        if after != known:
            vips[name] = after
    return lived(state, vips), effects


def _lived(
    known: VipState, f: Facts, verdict: Verdict, *, since: float, now: float, turned: bool
) -> VipState:
    life = NEXT[known.life, signal(f, verdict)]
    stable_since = known.stable_since
    if life is not known.life:
        stable_since = now if life is Life.HOLDING else None
    return VipState(
        verdict=verdict, since=since, life=life, stable_since=stable_since, changes=known.changes + turned
    )


def _finish_stop(state: State, now: float) -> Step:
    """Exit once every plugin has withdrawn, or after a patience. IPVS stays as it is."""
    since = state.stopping_since
    if since is None or state.stop is None:
        return state, []
    went = followed(state.stop, state.known_plugins, settle=0.0, now=now)
    state = replace(state, stop=went)
    withdrawn = went.phase is not Phase.ASKED
    if not withdrawn and now < since + STOP_PATIENCE:
        return state, []
    fields = {"withdrawn": withdrawn, "left": sorted(map(str, went.left))}
    log = Log(event="agent.stopped", fields=fields, level="info" if withdrawn else "error")
    effects: list[Effect] = [log, Exit(clean=withdrawn)]
    if withdrawn:
        effects.insert(0, SaveOwned(owned=replace(state.owned, lease_ttl=0.0)))
    return replace(state, exited=True), effects
