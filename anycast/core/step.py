"""The fold: `step(state, event, now) -> (state, effects)` decides everything a node does.

Order of acts. Up: kernel first, read back, then the route. Down: route first, then the kernel. Nothing in here
waits: a slow effect answers by a later event.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TypeAlias

from anycast.core.dataplane import ipvs
from anycast.core.dataplane import kernel as kernels
from anycast.core.dataplane.members import composed_uses, keys_of, marks, memberships, siblings, target_names
from anycast.core.dataplane.traffic import Count, counted
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
    Probed,
    ProgramKernel,
    ReadKernel,
    Reconfigured,
    ScheduleProbe,
    SendLease,
    SetTargets,
    StopRequested,
    Tick,
)
from anycast.core.health import phase as healths
from anycast.core.maintenance import progress as drain
from anycast.core.maintenance.progress import LEAVE_PATIENCE, is_withdrawn
from anycast.core.maintenance.stages import FILE, Maintenance
from anycast.core.news import is_news, news
from anycast.core.state import (
    UNDECIDED,
    KernelState,
    LeaseState,
    Leaving,
    Retiring,
    ServerKey,
    State,
    VipState,
    all_service_facts,
    desired_kernel,
    desired_routes,
    difference,
    expiries,
    facts,
    hold_due,
    prefix_of,
    stale_at,
    start_hold,
    wanted_sysctls,
)
from anycast.core.values.configuration import Address, Config, Scheduler, Target
from anycast.core.values.report import Report
from anycast.core.vip.decide import Advertise, Facts, Reason, decide, obstacle
from anycast.core.vip.hold import FREE
from anycast.core.vip.requirements import requirements

RETRY_READ = 0.2  # seconds after a failed reading; doubles up to the reconcile interval
RETRY_PROGRAM = 1.0  # seconds after a program that did not reach what it aimed at
STOP_PATIENCE = 3.0  # seconds a stopping agent waits for the withdraw to be acknowledged

Step: TypeAlias = tuple[State, list[Effect]]


def begin(
    config: Config,
    maintenance: Mapping[str, Maintenance],
    now: float,
    wall: float | None = None,
    *,
    crashes: int = 0,
) -> tuple[State, tuple[Effect, ...]]:
    """The state a node starts in. Maintenance found on disk is in force, its drain is over.

    `wall`: seconds since the epoch at the instant `now`. Without it nothing ends by itself. `crashes`: of the agents
    before, as `hold.started` counts them.
    """
    state = State(
        config=config,
        started_at=now,
        crashes=crashes,
        members=memberships(config),
        requirements=requirements(config),
        composed=composed_uses(config),
        names=target_names(config),
        siblings=siblings(config),
        owned=frozenset(address for vip in config.vips for address in vip.addresses),
        owned_marks=marks(config),
        sync_owned=config.connection_sync is not None,
        vips={vip.name: VipState(since=now) for vip in config.vips},
        kernel=KernelState(next_read=now),
    )
    state = drain.begin(state, maintenance, now=now, wall=wall)
    log = [
        Log(
            event="maintenance.began" if scope == FILE else "maintenance.kept",
            fields=drain.fields_of(scope, entry),
            level="warning",
        )
        for scope, entry in state.maintenance.items()
    ]
    if (seconds := start_hold(state, now)) > 0:
        level = "warning" if crashes > FREE else "info"
        fields = {"seconds": seconds, "crashes": crashes}
        log.append(Log(event="agent.start_held", fields=fields, level=level))
    state, effects = _settle(state, state, now)
    return state, (SetTargets(targets=frozenset(state.names)), *log, *effects)


def step(state: State, event: Event, now: float) -> tuple[State, tuple[Effect, ...]]:
    """The state after `event`, and what is to be done about it."""
    if state.exited:
        return state, ()
    after, effects = _apply(state, event, now)
    if after is state and not isinstance(event, Tick | PluginConnected):
        return state, tuple(effects)
    after, more = _settle(state, after, now, greet=isinstance(event, PluginConnected))
    return after, (*effects, *more)


def next_wake(state: State, now: float) -> float:
    """The instant by which `step` wants a Tick, whatever else happens."""
    # These change a verdict by passing; once past, they have nothing more to say.
    thresholds = [stale_at(state)] if state.kernel.snapshot is not None else []
    thresholds += [retiring.until for retiring in state.retiring.values()]
    times = [instant for instant in thresholds if instant > now]
    times += [*drain.wakes(state, now), _lease_due(state), _kernel_due(state, now)]
    times += [_leave_due(state, leaving) for leaving in state.leaving.values()]
    if state.lost_until > now:
        times.append(state.lost_until)
    if state.stopping_since is not None:
        times.append(state.stopping_since + STOP_PATIENCE)
    return min(times)


def _apply(state: State, event: Event, now: float) -> Step:
    match event:
        case Tick(wall=wall):
            return (state, []) if wall is None else drain.clock(state, wall, now)
        case Probed(results=results):
            return _probed(state, results, now)
        case KernelRead():
            return _kernel_read(state, event, now)
        case KernelFailed(reason=reason):
            return _kernel_failed(state, reason, now)
        case KernelChanged():
            return replace(state, kernel=replace(state.kernel, next_read=now)), []
        case PluginConnected(source=source):
            plugins = {**state.plugins, source: None}
            return replace(state, plugins=plugins), [Log(event="plugin.connected")]
        case PluginReported(source=source, report=report):
            return _reported(state, source, report)
        case PluginLost(source=source):
            return _lost(state, source), [Log(event="plugin.lost", level="warning")]
        case Reconfigured(config=config):
            return _reconfigured(state, config, now)
        case MaintenanceSet(scope=scope, entry=entry, skip_drain=skip_drain):
            if entry is None:
                return drain.end(state, scope)
            return drain.put(state, scope, entry, skip_drain=skip_drain, now=now)
        case StopRequested():
            if state.stopping_since is not None:
                return state, []
            return replace(state, stopping_since=now), [Log(event="agent.stopping")]


def _lost(state: State, source: int) -> State:
    left = {key: report for key, report in state.plugins.items() if key != source}
    report = state.plugins.get(source)
    empty = report is not None and not report.announced and report.seq >= state.lease.changed_seq
    # It withdraws when its lease runs out, or is ended by its watchdog if it hangs.
    until = state.lost_until if empty else max(state.lost_until, state.lease.runs_out + LEAVE_PATIENCE)
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


def _kernel_read(state: State, event: KernelRead, now: float) -> Step:
    kernel = state.kernel
    first = kernel.snapshot is None
    effects: list[Effect] = []
    if kernel.error is not None:
        effects.append(Log(event="kernel.available"))
    problems = tuple(failure.text for failure in event.failures if failure.text)
    if problems and problems != kernel.problems:
        effects.append(Log(event="kernel.program_failed", fields={"problems": problems}, level="error"))
    kernel = replace(
        kernel,
        told=event.snapshot,
        snapshot=_annotated(kernel, event),
        read_at=now,
        error=None,
        failures=0,
        problems=problems,
        busy=False,
        under_way=(),
        next_read=now + drain.read_every(state),
        counts=_counted(kernel, event.snapshot, now),
        adopted=_in_use(event.snapshot) if first else kernel.adopted,
    )
    return replace(state, kernel=kernel), effects


def _counted(kernel: KernelState, snapshot: kernels.Snapshot, now: float) -> tuple[Count, ...]:
    if snapshot.sysctls.get(kernels.ESTIMATION) == "0":
        return ()
    return counted(kernel.counts, Count(at=now, packets=snapshot.packets))


def _annotated(kernel: KernelState, event: KernelRead) -> kernels.Snapshot:
    """The snapshot with the table weights that the kernel does not tell, as far as they were written by us."""
    if kernel.snapshot is None or event.snapshot is kernel.told:
        return kernel.snapshot or event.snapshot
    failed = frozenset(op for failure in event.failures for op in failure.ops)
    table = kernel.snapshot.table
    try:
        table = kernels.play(kernel.snapshot, [op for op in kernel.under_way if op not in failed]).table
    except KeyError:  # another program took away what the operations were for
        table = {}
    return replace(event.snapshot, table=ipvs.known(event.snapshot.table, table))


def _forgotten(kernel: KernelState) -> kernels.Snapshot | None:
    """What was known, without the table weights of which nobody knows whether a lost program changed them."""
    if kernel.snapshot is None or not kernel.under_way:
        return kernel.snapshot
    return replace(kernel.snapshot, table=ipvs.forgotten(kernel.snapshot.table))


def _in_use(snapshot: kernels.Snapshot) -> frozenset[ServerKey]:
    return frozenset(
        (key, destination.key)
        for key, entry in snapshot.table.items()
        for destination in entry.destinations
        if destination.weight > 0
    )


def _kernel_failed(state: State, reason: str, now: float) -> Step:
    kernel = state.kernel
    wait = min(state.config.timing.reconcile, RETRY_READ * 2.0 ** min(kernel.failures, 10))
    effects: list[Effect] = []
    if reason != kernel.error:
        effects.append(Log(event="kernel.unavailable", fields={"reason": reason}, level="error"))
    kernel = replace(
        kernel,
        error=reason,
        failures=kernel.failures + 1,
        busy=False,
        snapshot=_forgotten(kernel),
        under_way=(),
        attempted=None,
        next_read=now + wait,
        retry_at=math.inf,
    )
    return replace(state, kernel=kernel), effects


def _reported(state: State, source: int, report: Report) -> Step:
    old = state.plugins.get(source)
    if source not in state.plugins or report == old:
        return state, []
    effects: list[Effect] = []
    before = frozenset(old.announced) - frozenset(old.pending) if old is not None else frozenset()
    after = frozenset(report.announced) - frozenset(report.pending)
    gone = (frozenset(old.announced) if old is not None else frozenset()) - frozenset(report.announced)
    effects.extend(
        Log(event="route.announced", fields={"prefix": str(p)}) for p in sorted(after - before, key=str)
    )
    effects.extend(Log(event="route.withdrawn", fields={"prefix": str(p)}) for p in sorted(gone, key=str))
    known = {n.address: n.state for n in old.neighbors} if old is not None else {}
    for neighbor in report.neighbors:
        # A router that refuses the session makes it go from connected to down and back for as long as it does.
        if (known.get(neighbor.address) == "up") != (neighbor.state == "up"):
            fields = {"neighbor": neighbor.address, "state": neighbor.state, "reason": neighbor.reason}
            level = "info" if neighbor.state == "up" else "warning"
            effects.append(Log(event="neighbor.changed", fields=fields, level=level))
    was_failing = {f.prefix for f in old.failed} if old is not None else set()
    effects.extend(
        Log(event="route.refused", fields={"prefix": str(f.prefix), "why": f.why}, level="error")
        for f in report.failed
        if f.prefix not in was_failing
    )
    return replace(state, plugins={**state.plugins, source: report}), effects


def _reconfigured(state: State, config: Config, now: float) -> Step:
    old = {address for vip in state.config.vips for address in vip.addresses}
    new = {address for vip in config.vips for address in vip.addresses}
    leaving = {address: entry for address, entry in state.leaving.items() if address not in new}
    for address in old - new:
        leaving[address] = _leave(state, address, now)
    marked = marks(config)
    names = target_names(config)
    vips = {vip.name: state.vips.get(vip.name) or VipState(since=now) for vip in config.vips}
    snapshot = state.kernel.snapshot
    kernel = replace(
        state.kernel,
        # A check that was changed starts anew; what it watches goes on as it is meanwhile.
        adopted=state.kernel.adopted if snapshot is None else _in_use(snapshot),
        next_read=min(state.kernel.next_read, now + config.timing.reconcile),
    )
    after = replace(
        state,
        config=config,
        members=memberships(config),
        requirements=requirements(config),
        composed=composed_uses(config),
        names=names,
        siblings=siblings(config),
        health={target: health for target, health in state.health.items() if target in names},
        vips=vips,
        leaving=leaving,
        owned=state.owned | new,
        owned_marks=state.owned_marks | marked,
        sync_owned=state.sync_owned or config.connection_sync is not None,
        retiring={},
        kernel=kernel,
    )
    return replace(after, retiring=_retire(state, after, now)), [SetTargets(targets=frozenset(names))]


def _retire(before: State, after: State, now: float) -> dict[ServerKey, Retiring]:
    """The real servers of services that stay which `after` has no more, as far as the kernel has them."""
    snapshot = before.kernel.snapshot
    until = now + after.config.timing.server_drain
    retiring: dict[ServerKey, Retiring] = {}
    for key, entry in desired_kernel(after).table.items():
        old = before.desired.table.get(key)
        if old is None or snapshot is None or key not in snapshot.table:
            continue
        present = {one.key for one in snapshot.table[key].destinations}
        staying = {one.key for one in entry.destinations}
        gone = [one for one in old.destinations if one.key in present and one.key not in staying]
        if entry.scheduler == Scheduler.MH and len(staying) + len(gone) > ipvs.MAGLEV_SLOTS:
            continue  # the kernel would leave some of them out of its table
        for one in gone:
            present_retiring = before.retiring.get((key, one.key))
            retiring[key, one.key] = present_retiring or Retiring(destination=one, until=until)
    return retiring


def _leave(state: State, address: Address, now: float) -> Leaving:
    keys = {key for vip in state.config.vips if address in vip.addresses for key in keys_of(vip, address)}
    table = {key: entry for key, entry in state.desired.table.items() if key in keys}
    # Before the first lease of ours the one of the agent before us may still stand.
    runs_out = max(state.lease.runs_out, state.started_at + state.config.timing.lease_ttl, now)
    return Leaving(table=table, runs_out=runs_out, seq=state.lease.seq + 1)


def _settle(before: State, state: State, now: float, *, greet: bool = False) -> Step:
    """Draw every conclusion from what is known now."""
    effects: list[Effect] = []
    state, more = drain.expire(state, now)
    effects += more
    state, more = _finish_retiring(state, now)
    effects += more
    state = _want(before, _finish_leaving(state, now))
    state, more = _move_on(state, now)
    effects += more
    state, more = _renew(state, now, greet=greet)
    effects += more
    state, more = _drive_kernel(before, state, now)
    effects += more
    state, more = _finish_stop(state, now)
    effects += more
    return state, effects


def _move_on(state: State, now: float) -> Step:
    """The stages of maintenance and the verdicts, each of which may change the other."""
    effects: list[Effect] = []
    while True:
        moved, told = drain.advance(state, now)
        judged, more = _judge(moved, now)
        effects += [*told, *more]
        if judged is state:
            return judged, effects
        state = judged


def _finish_retiring(state: State, now: float) -> Step:
    """A real server the configuration dropped goes once its connections are gone, or its time is up."""
    snapshot = state.kernel.snapshot
    if not state.retiring or snapshot is None:
        return state, []
    left: dict[ServerKey, Retiring] = {}
    effects: list[Effect] = []
    for (key, at), retiring in state.retiring.items():
        entry = snapshot.table.get(key)
        found = next((one for one in entry.destinations if one.key == at), None) if entry else None
        if found is not None and (found.weight or found.active) and now < retiring.until:
            left[key, at] = retiring
            continue
        fields = {
            "service": str(key),
            "address": str(at[0]),
            "port": at[1],
            "connections": found.active if found else 0,
        }
        effects.append(Log(event="server.removed", fields=fields))
    return (state if len(left) == len(state.retiring) else replace(state, retiring=left)), effects


def _finish_leaving(state: State, now: float) -> State:
    """An address the configuration dropped goes from the kernel once its route is gone and has been for a while."""
    left: dict[Address, Leaving] = {}
    for address, leaving in state.leaving.items():
        entry = leaving
        if entry.withdrawn_at is None and is_withdrawn(
            state, [prefix_of(address)], seq=entry.seq, runs_out=entry.runs_out, now=now
        ):
            entry = replace(entry, withdrawn_at=now)
        if entry.withdrawn_at is None or now < entry.withdrawn_at + state.config.timing.settle:
            left[address] = entry
    return state if left == state.leaving else replace(state, leaving=left)


def _leave_due(state: State, leaving: Leaving) -> float:
    if leaving.withdrawn_at is not None:
        return leaving.withdrawn_at + state.config.timing.settle
    return leaving.runs_out + LEAVE_PATIENCE


def _want(before: State, state: State) -> State:
    """What the kernel should hold, and how it differs, when either can have changed."""
    if not _same_inputs(before, state):
        state = replace(state, services=all_service_facts(state))
        desired = desired_kernel(state)
        if desired != state.desired:
            state = replace(state, desired=desired)
    elif not _fresh(before, state):
        return state
    differences = {vip.name: difference(state, vip) for vip in state.config.vips}
    apart = frozenset(name for name, each in differences.items() if not each.proven)
    kernel = state.kernel
    # Read after a program that aimed at just this: what differs now, could not be mended.
    tried = _fresh(before, state) and kernel.attempted == state.desired
    final = frozenset(name for name, each in differences.items() if each.final)
    kernel = replace(kernel, failed_vips=apart if tried else (kernel.failed_vips & apart) | final)
    return replace(state, differences=differences, kernel=kernel)


def _same_inputs(before: State, state: State) -> bool:
    return (
        state.config is before.config
        and state.health is before.health
        and state.maintenance is before.maintenance
        and state.leaving is before.leaving
        and state.retiring is before.retiring
        and state.kernel.adopted is before.kernel.adopted
        and (state.plugins is before.plugins or not state.rests_on_sessions)
        and len(state.differences) == len(state.config.vips)
    )


def _fresh(before: State, state: State) -> bool:
    return state.kernel.told is not before.kernel.told


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
        started = known.started or (f.proven and not f.undecided and not f.held)
        vips[vip.name] = VipState(
            verdict=verdict,
            since=now if turned else known.since,
            started=started,
            stable_since=None if started else _stable_since(known, f, now),
            changes=known.changes + turned,
        )
    return (state if vips == state.vips else replace(state, vips=vips)), effects


def _stable_since(known: VipState, f: Facts, now: float) -> float | None:
    """What we write ourselves, or have only just begun to check, is no break; it is waited for all the same."""
    found = obstacle(f)
    if found is None:
        return now if known.stable_since is None else known.stable_since
    return known.stable_since if found is Reason.STARTING and not f.repair_failed else None


def _renew(state: State, now: float, *, greet: bool) -> Step:
    """The lease: the full set of routes, on every change and well within its time to live."""
    if not _lease_open(state, now):
        return state, []
    lease = state.lease
    routes = desired_routes(state)
    changed = routes != lease.routes
    ttl = state.config.timing.lease_ttl
    # By a longer TTL the next renewal would come after the lease of the shorter one has run out.
    if not (changed or greet or ttl != lease.ttl or now >= _lease_due(state)):
        return state, []
    seq = lease.seq + 1
    lease = LeaseState(
        seq=seq,
        sent_at=now,
        ttl=ttl,
        runs_out=max(lease.runs_out, now + ttl),
        routes=routes,
        changed_seq=seq if changed else lease.changed_seq,
    )
    effect = SendLease(
        seq=seq,
        issued=now,
        ttl=ttl,
        routes=routes,
        owned=tuple(prefix_of(address) for address in sorted(state.owned, key=lambda a: (a.version, int(a)))),
    )
    return replace(state, lease=lease), [effect]


def _lease_open(state: State, now: float) -> bool:
    """Whether leases are sent at all.

    An agent that has just started keeps silent while a VIP is still starting: the lease of the one before it
    may stand, and then a quick restart causes no BGP message. After a TTL that lease has run out.
    """
    return (
        state.lease.routes is not None
        or state.stopping_since is not None
        or now >= _lease_due(state)
        or all(vip.verdict.reason is not Reason.STARTING for vip in state.vips.values())
    )


def _lease_due(state: State) -> float:
    ttl = state.config.timing.lease_ttl
    return state.started_at + ttl if state.lease.routes is None else state.lease.sent_at + ttl / 3


def _drive_kernel(before: State, state: State, now: float) -> Step:
    """Program what differs, read back what is due: one at a time, and nothing any more when stopping."""
    kernel = state.kernel
    if kernel.busy or state.stopping_since is not None:
        return state, []
    changed = state.desired is not before.desired
    snapshot = kernel.snapshot
    if changed:
        kernel = replace(kernel, reached=False)
    if snapshot is not None and kernel.error is None:
        fresh = _fresh(before, state)
        if fresh or changed or now >= kernel.retry_at:
            ops = kernels.diff(snapshot, state.desired)
            if not ops:
                kernel = replace(kernel, attempted=None, retry_at=math.inf, reached=True)
                if fresh and (expire := expiries(state, snapshot, now)):
                    return _expire(state, kernel, snapshot, expire, now)
            elif fresh and kernel.attempted == state.desired:
                kernel = replace(kernel, retry_at=now + RETRY_PROGRAM)
            else:
                return _program(state, kernel, ops)
    if now >= min(kernel.next_read, hold_due(state, now)):
        kernel = replace(kernel, busy=True)
        return replace(state, kernel=kernel), [ReadKernel(sysctls=_to_read(state))]
    return replace(state, kernel=kernel), []


def _program(state: State, kernel: KernelState, ops: tuple[kernels.KernelOp, ...]) -> Step:
    """Change the kernel. What it held once and holds no more, somebody else changed."""
    again = kernel.attempted == state.desired  # the same once more, every second
    drifted = kernel.reached
    repairs = dict(kernel.repairs)
    for kind, count in Counter(map(kernels.kind_of, ops)).items() if drifted else ():
        repairs[kind] = repairs.get(kind, 0) + count
    kernel = replace(
        kernel,
        busy=True,
        under_way=ops,
        attempted=state.desired,
        retry_at=math.inf,
        reached=False,
        programs=kernel.programs + 1,
        repairs=repairs,
    )
    effects: list[Effect] = [ProgramKernel(ops=ops, sysctls=_to_read(state))]
    if not again:
        apart = dict.fromkeys(each.text for each in state.differences.values() if each.text)
        fields: dict[str, object] = {"operations": len(ops), "found": "; ".join(apart)}
        if drifted:
            fields["kinds"] = sorted({kernels.kind_of(op) for op in ops})
        event = "kernel.drifted" if drifted else "kernel.programmed"
        effects.insert(0, Log(event=event, fields=fields, level="warning" if drifted else "info"))
    # The hold after a start begins anew where what held was changed by somebody else.
    vips = {
        name: _unstable(known) if drifted and not state.differences[name].proven else known
        for name, known in state.vips.items()
    }
    return replace(state, kernel=kernel, vips=vips), effects


def _unstable(known: VipState) -> VipState:
    return known if known.stable_since is None else replace(known, stable_since=None)


def _expire(
    state: State,
    kernel: KernelState,
    snapshot: kernels.Snapshot,
    expire: kernels.ExpireDestinations,
    now: float,
) -> Step:
    """End connections, and put the servers back to their place in the order."""
    ops = (expire, *kernels.diff(kernels.play(snapshot, (expire,)), state.desired))
    expired = {(op.service, op.key): now for op in expire.removals}
    kernel = replace(kernel, busy=True, under_way=ops, programs=kernel.programs + 1)
    fields = {
        "services": sorted({str(op.service) for op in expire.removals}),
        "servers": sorted({str(op.key[0]) for op in expire.removals}),
    }
    effects: list[Effect] = [
        Log(event="server.connections_expired", fields=fields),
        ProgramKernel(ops=ops, sysctls=_to_read(state)),
    ]
    return replace(state, kernel=kernel, expired={**state.expired, **expired}), effects


def _to_read(state: State) -> tuple[str, ...]:
    return (*wanted_sysctls(state.config), kernels.ESTIMATION)


def _kernel_due(state: State, now: float) -> float:
    if state.kernel.busy or state.stopping_since is not None:
        return math.inf
    return min(state.kernel.next_read, state.kernel.retry_at, hold_due(state, now))


def _finish_stop(state: State, now: float) -> Step:
    """Exit once every plugin has withdrawn, or after a patience. IPVS stays as it is."""
    if state.stopping_since is None:
        return state, []
    withdrawn = all(
        report is not None and report.seq >= state.lease.changed_seq and not report.announced
        for report in state.plugins.values()
    )
    if not withdrawn and now < state.stopping_since + STOP_PATIENCE:
        return state, []
    log = Log(event="agent.stopped", fields={"withdrawn": withdrawn}, level="info" if withdrawn else "error")
    return replace(state, exited=True), [log, Exit(clean=withdrawn)]
