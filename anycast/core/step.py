"""The fold: `step(state, event, now) -> (state, effects)` decides everything a node does.

Order of acts. Up: kernel first, read back, then the route. Down: route first, then the kernel. Nothing in here
waits: a slow effect answers by a later event.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TypeAlias

from anycast.core import lease, reload
from anycast.core.dataplane import loop
from anycast.core.dataplane.desired import want
from anycast.core.dataplane.proof import Proof
from anycast.core.events import (
    Effect,
    Event,
    Exit,
    KernelChanged,
    KernelFailed,
    KernelRead,
    Log,
    MaintenanceSet,
    PluginConnected,
    PluginLost,
    PluginReported,
    ProbeAnew,
    Probed,
    Reconfigured,
    SaveOwned,
    ScheduleProbe,
    SetTargets,
    StopRequested,
    Tick,
)
from anycast.core.health import phase as healths
from anycast.core.maintenance import progress as maintenances
from anycast.core.maintenance.stages import FILE, Maintenance
from anycast.core.news import is_news, news, of_report
from anycast.core.owned import NOTHING, Owned
from anycast.core.state import UNDECIDED, KernelState, LeaseState, Leaving, State, VipState, prefix_of
from anycast.core.values.configuration import Address, Config, Target
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
) -> tuple[State, tuple[Effect, ...]]:
    """The state a node starts in. Maintenance found on disk is in force, its drain is over.

    `wall`: seconds since the epoch at the instant `now`. Without it nothing ends by itself. `crashes`: of the agents
    before, as `hold.started` counts them. `left`: what the agent before owned.
    """
    # A lease of the agent before may stand, and a plugin that hangs may hold its routes for longer.
    runs_out = now + left.lease_ttl
    state = State(
        config=config,
        started_at=now,
        seen=now,
        crashes=crashes,
        owned=left,
        kernel=KernelState(next_read=now),
        lease=LeaseState(runs_out=runs_out, opens_at=now + config.timing.lease_ttl),
        lost_until=runs_out + PATIENCE if left.lease_ttl else float("-inf"),
        maintenance=dict(maintenance),
    )
    state, moves = reload.adopted(state, config, now)
    state = maintenances.begin(state, state.maintenance, now=now, wall=wall)
    effects: list[Effect] = [SetTargets(targets=frozenset(state.names)), SaveOwned(owned=state.owned)]
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
    state, more = _settle(state, state, now)
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
    if after is state and not effects and not isinstance(event, Tick | PluginConnected):
        return state, ()
    after, more = _settle(before, after, now, greet=isinstance(event, PluginConnected))
    return after, (*effects, *more)


def next_wake(state: State, now: float) -> float:
    """The instant by which `step` wants a Tick, whatever else happens."""
    times = [lease.due(state), *maintenances.wakes(state, now), *loop.wakes(state, now)]
    # Waiting is no suspension: an agent that sends no lease yet looks at the clock as often as one that does.
    times.append(state.seen + state.config.timing.lease_ttl / 3)
    settle = state.config.timing.settle
    ends = [leaving.withdrawal.wakes_at(settle) for leaving in state.leaving.values()]
    times += [end for end in ends if end is not None]
    if state.lost_until > now:
        times.append(state.lost_until)
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
        case KernelChanged():
            return loop.changed(state, now), []
        case PluginConnected(source=source):
            return replace(state, plugins={**state.plugins, source: None}), [Log(event="plugin.connected")]
        case PluginReported(source=source, report=report):
            return _reported(state, source, report)
        case PluginLost(source=source):
            return _lost(state, source), [Log(event="plugin.lost", level="warning")]
        case Reconfigured(config=config):
            return _reconfigured(state, config, now)
        case MaintenanceSet(scope=scope, entry=entry, skip_drain=skip_drain):
            if entry is None:
                return maintenances.end(state, scope)
            return maintenances.put(state, scope, entry, skip_drain=skip_drain, now=now)
        case StopRequested(displaced=True):
            # Another agent has taken over: what this one would withdraw now is the other's.
            return replace(state, exited=True), [Exit(clean=False)]
        case StopRequested():
            if state.stopping_since is not None:
                return state, []
            everything = lease.withdrawal(state, map(prefix_of, state.owned.addresses), now)
            return replace(state, stopping_since=now, stop=everything), [Log(event="agent.stopping")]


def _suspended(state: State, gap: float, now: float) -> Step:
    """The process did not run for longer than its lease lasts (SIGSTOP, a paused machine): it knows nothing any more.

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
        told=None,
        snapshot=None,
        reached=None,
        stale=kernel.busy,
        attempted=None,
        next_read=now,
        counts=(),
        adopted=kernel.adopted if snapshot is None else loop.in_use(snapshot),
    )
    ttl = state.config.timing.lease_ttl
    after = replace(
        state,
        health={target: healths.suspended(health) for target, health in state.health.items()},
        vips=vips,
        proofs=dict.fromkeys(state.proofs, Proof.UNREAD),
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
    return replace(state, plugins=left, lost_until=until)


def _probed(state: State, results: tuple[tuple[Target, healths.Result], ...], now: float) -> Step:
    changed: dict[Target, healths.Health] = {}
    turned: list[tuple[Target, healths.Health, healths.Health]] = []
    effects: list[Effect] = []
    suspected: dict[Target, bool] = {}  # target to whether it would fall, and not rise
    for target, result in results:
        if target not in state.names:
            continue  # no longer configured: the result was under way
        old = changed.get(target) or state.health.get(target, UNDECIDED)
        new = healths.advance(old, result, target.check, now)
        if new is not old:
            changed[target] = new
            if healths.began_to_turn(old, new):
                suspected.update(dict.fromkeys(state.siblings.get(target, ()), old.is_up))
            if is_news(old, new):
                turned.append((target, old, new))
        pause, quiet = healths.pause(new, target.check), healths.settled(new)
        effects.append(ScheduleProbe(target=target, after=pause, quiet=quiet))
    if not changed:
        return state, effects
    after = replace(state, health={**state.health, **changed})
    for target, _ in results:
        suspected.pop(target, None)
    effects += _ask(after, suspected)
    if turned:
        effects.extend(news(state, after, turned, now))
    return after, effects


def _ask(state: State, suspected: Mapping[Target, bool]) -> Iterator[Effect]:
    """What one target begins to show its siblings may show as well: probe them now, not in an interval."""
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
    after = replace(after, kernel=loop.reconfigured(state.kernel, config, now))
    effects: list[Effect] = [SetTargets(targets=frozenset(after.names))]
    if after.maintenance is not state.maintenance:
        effects.append(maintenances.save(after.maintenance))
    return after, [*effects, *_moved(moves)]


def _moved(moves: reload.Carried) -> Iterator[Log]:
    for old, new in moves.scopes.items():
        yield Log(event="maintenance.carried_over", fields={"scope": old, "to": sorted(new)}, level="warning")
    for scope in sorted(moves.orphans):
        yield Log(event="maintenance.orphaned", fields={"scope": scope}, level="warning")


def _settle(before: State, state: State, now: float, *, greet: bool = False) -> Step:
    """Draw every conclusion from what is known now."""
    effects: list[Effect] = []
    state, more = maintenances.expire(state, now)
    effects += more
    state, more = loop.retired(state, now)
    effects += more
    state = want(before, _left(state, now))
    state, more = _move_on(state, now)
    effects += more
    state, more = lease.renewed(state, now, greet=greet)
    effects += more
    state, more = loop.drive(before, state, now)
    effects += more
    if state.owned is not before.owned:
        effects.append(SaveOwned(owned=state.owned))
    state, more = _finish_stop(state, now)
    effects += more
    return state, effects


def _left(state: State, now: float) -> State:
    """An address the configuration dropped goes from the kernel once its route is gone and has been for a while."""
    left: dict[Address, Leaving] = {}
    for address, leaving in state.leaving.items():
        went = followed(leaving.withdrawal, state.announcers, settle=state.config.timing.settle, now=now)
        if went.phase is not Phase.SETTLED:
            left[address] = leaving if went is leaving.withdrawal else replace(leaving, withdrawal=went)
    return state if left == state.leaving else replace(state, leaving=left)


def _move_on(state: State, now: float) -> Step:
    """The stages of maintenance and the verdicts, each of which may change the other."""
    effects: list[Effect] = []
    while True:
        moved, told = maintenances.advance(state, now)
        judged, more = _judge(moved, now)
        effects += [*told, *more]
        if judged is state:
            return judged, effects
        state = judged


def _judge(state: State, now: float) -> Step:
    effects: list[Effect] = []
    vips: dict[str, VipState] = {}
    for vip in state.config.vips:
        known = state.vips[vip.name]
        f = facts(state, vip, now)
        verdict = decide(f)
        turned = (verdict.advertise, verdict.reason) != (known.verdict.advertise, known.verdict.reason)
        if turned:
            fields = {
                "vip": vip.name,
                "advertise": verdict.advertise,
                "reason": verdict.reason,
                "detail": verdict.detail,
            }
            level = "info" if verdict.advertise is Advertise.YES else "warning"
            effects.append(Log(event="vip.verdict_changed", fields=fields, level=level))
        vips[vip.name] = _lived(
            known, f, verdict, since=now if turned else known.since, now=now, turned=turned
        )
    return (state if vips == state.vips else replace(state, vips=vips)), effects


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
    went = followed(state.stop, state.announcers, settle=0.0, now=now)
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
