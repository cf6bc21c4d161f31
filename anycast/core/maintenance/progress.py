"""Moves maintenance from stage to stage, and ends it when its end has come.

`stages.NEXT` says which stage follows; this module says what each stage waits for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from itertools import chain

from anycast.core import touched
from anycast.core.dataplane import traffic
from anycast.core.events import Effect, Log, SaveMaintenance
from anycast.core.lease import withdrawal
from anycast.core.maintenance.clocks import SLEWED, STEP, End, Expiry, anchored, has_passed, stepped
from anycast.core.maintenance.stages import (
    FILE,
    NEXT,
    NODE,
    NODE_SCOPES,
    STOP,
    Maintenance,
    Progress,
    Signal,
    Stage,
    is_saved,
    is_server,
)
from anycast.core.state import ACTIVE, ClockSet, State
from anycast.core.values.configuration import Address, Vip
from anycast.core.values.moment import iso
from anycast.core.vip.decide import Advertise
from anycast.core.withdrawal import Phase, followed

LIMIT = "the limit has passed"


def vips_of(state: State, scope: str) -> tuple[Vip, ...]:
    """The VIPs that the scope covers."""
    if scope in NODE_SCOPES:
        return state.config.vips
    return (state.index.vips[scope].vip,) if scope in state.index.vips else ()


def awaited(state: State) -> dict[str, tuple[Address, ...]]:
    """The addresses whose last packet a maintenance waits for, and that IPVS does not count."""
    found = {}
    for scope, progress in state.progress.items():
        if progress.stage in (Stage.ACTIVE, Stage.DOWN):
            continue
        addresses = tuple(one for vip in vips_of(state, scope) if _is_here(vip) for one in vip.addresses)
        if addresses:
            found[scope] = addresses
    return found


def _is_here(vip: Vip) -> bool:
    """Whether the node itself serves any of it."""
    return bool(vip.local) or not vip.services


def arriving(state: State, scope: str, since: float = float("-inf")) -> float | None:
    """Packets a second that come in for the VIPs of a maintenance. None: not known."""
    return _arriving(state, scope, since, packets_per_second)


def _arriving(
    state: State, scope: str, since: float, of_ipvs: Callable[[State, list[Vip], float], float | None]
) -> float | None:
    vips = vips_of(state, scope)
    others = [vip for vip in vips if not _is_here(vip)]
    counted = of_ipvs(state, others, since)
    if len(others) == len(vips):
        return counted
    here = traffic.arrived(state.kernel.counts, scope, since=since)
    if not others:
        return here
    return None if here is None or counted is None else here + counted


def vip_packets(state: State, vip: Vip) -> float | None:
    """Packets a second that come in for a VIP. Of what the node itself serves they are counted in its maintenance alone."""
    if not _is_here(vip):
        return packets_per_second(state, [vip])
    return traffic.arrived(state.kernel.counts, vip.name)


def packets_per_second(state: State, vips: Iterable[Vip], since: float = float("-inf")) -> float | None:
    """Packets a second that IPVS receives for the VIPs, from readings at or after `since`. None: not known."""
    keys = (state.index.vips[vip.name].services for vip in vips)
    return traffic.rate(state.kernel.counts, chain.from_iterable(keys), since=since)


def _packets_at_most(state: State, vips: Iterable[Vip], since: float) -> float | None:
    """As `packets_per_second`, but what is proven: packets that came and are not counted yet are not forgotten."""
    keys = (state.index.vips[vip.name].services for vip in vips)
    return traffic.at_most(state.kernel.counts, chain.from_iterable(keys), since=since)


def begin(state: State, kept: Mapping[str, Maintenance], *, now: float, wall: float | None) -> State:
    """The state of an agent that starts in maintenance: its routes are out already, or go without a drain."""
    if wall is not None:
        kept = {
            scope: replace(entry, end=anchored(entry.end, said=entry.since, wall=wall, now=now))
            if entry.end
            else entry
            for scope, entry in kept.items()
        }
    progress = {scope: _entered(state, scope, Stage.WITHDRAWN, now) for scope in kept if not is_server(scope)}
    return replace(
        state,
        maintenance=dict(kept),
        progress=progress,
        wall_offset=None if wall is None else wall - now,
    )


def put(
    state: State, scope: str, entry: Maintenance, *, skip_drain: bool, now: float
) -> tuple[State, list[Effect]]:
    """Begin a maintenance. If it is in force already, the new reason and end replace the old; the drain continues."""
    present = state.maintenance.get(scope)
    if entry.end is not None and entry.end.due is None:
        entry = replace(entry, end=replace(entry.end, due=now + entry.end.at - entry.since))
    if present is None:
        entry = replace(entry, began=now)
    else:
        entry = replace(entry, began=present.began, since=present.since)
    progress = state.progress
    if not is_server(scope):
        progress = {**progress, scope: _said(state, scope, skip_drain=skip_drain, now=now)}
    if (entry, progress) == (present, state.progress):
        return state, [save(state.maintenance)]
    after = replace(
        state,
        maintenance={**state.maintenance, scope: entry},
        progress=progress,
        # The packets are counted from here on.
        kernel=replace(state.kernel, next_read=min(state.kernel.next_read, now)),
    )
    effects: list[Effect] = [] if not is_saved(scope) else [save(after.maintenance)]
    if entry != present:
        effects.append(Log(event="maintenance.began", fields=fields_of(scope, entry), level="warning"))
    return after, effects


def _said(state: State, scope: str, *, skip_drain: bool, now: float) -> Progress:
    progress = state.progress.get(scope, ACTIVE)
    stage = NEXT[progress.stage, Signal.SKIP if skip_drain else Signal.BEGIN]
    moved = progress if stage is progress.stage else _entered(state, scope, stage, now)
    return replace(moved, overdue=False)


def end(state: State, scope: str, *, by: str = "", why: str = "off") -> tuple[State, list[Effect]]:
    """End a maintenance: by command of `by`, or because the file is gone."""
    scopes = [each for each in ((NODE, STOP) if scope == NODE else (scope,)) if each in state.maintenance]
    after, effects = _without(state, scopes, why="the file was removed" if scope == FILE else why, by=by)
    # A repeated command is saved again: saving may have failed the first time.
    return after, [*([save(after.maintenance)] if is_saved(scope) else []), *effects]


def _without(state: State, scopes: Iterable[str], *, why: str, by: str = "") -> tuple[State, list[Effect]]:
    gone = frozenset(scopes)
    if not gone:
        return state, []
    after = replace(
        state,
        maintenance={scope: entry for scope, entry in state.maintenance.items() if scope not in gone},
        progress={scope: progress for scope, progress in state.progress.items() if scope not in gone},
    )
    return after, [
        Log(event="maintenance.ended", fields={"scope": _word(scope), "why": why, "by": by})
        for scope in sorted(gone)
    ]


def clock(state: State, wall: float, now: float) -> tuple[State, list[Effect]]:
    """The wall clock as it is now. Setting it ends no maintenance."""
    offset = wall - now
    known = state.wall_offset
    by = 0.0 if known is None else offset - known
    was_set = abs(by) >= STEP
    effects: list[Effect] = []
    if was_set:
        effects.append(Log(event="clock.stepped", fields={"by_s": round(by, 3)}, level="warning"))
    followed = {
        scope: replace(entry, end=_followed(entry.end, entry.since, was_set=was_set, wall=wall, now=now))
        for scope, entry in state.maintenance.items()
        if entry.end is not None
    }
    after = replace(state, wall_offset=offset, clock_set=_set(state, by, now) if was_set else state.clock_set)
    if any(entry != state.maintenance[scope] for scope, entry in followed.items()):
        after = replace(after, maintenance={**state.maintenance, **followed})
        effects.append(save(after.maintenance))
    return after, effects


def _set(state: State, by: float, now: float) -> ClockSet | None:
    """None: it was set back to what it was."""
    by += 0.0 if state.clock_set is None else state.clock_set.by
    return ClockSet(by=by, at=now) if abs(by) >= STEP else None


def _followed(end: End, said: float, *, was_set: bool, wall: float, now: float) -> End:
    if end.due is None:
        return anchored(end, said=said, wall=wall, now=now)
    apart = abs((wall - now) - (end.at - end.due))
    # A slewed clock drifts slowly; ends follow before the difference gets as large as a step.
    return stepped(end, wall=wall, now=now) if was_set or SLEWED <= apart < STEP else end


def expire(state: State, now: float) -> tuple[State, list[Effect]]:
    """Maintenance that has passed its end is over, or overdue."""
    if state.wall_offset is None or not any(entry.end for entry in state.maintenance.values()):
        return state, []
    wall = now + state.wall_offset
    over = []
    progress = dict(state.progress)
    effects: list[Effect] = []
    for scope, entry in state.maintenance.items():
        if entry.end is None or scope not in progress:
            continue
        passed = has_passed(entry.end, wall=wall, now=now)
        if passed and entry.end.then is Expiry.RESUME:
            over.append(scope)
            continue
        # If the clock was set past the end, it is overdue too: that ends nothing, but it must be visible.
        overdue = passed or (entry.end.due is not None and wall >= entry.end.at + STEP)
        if overdue and not progress[scope].overdue:
            fields = {**fields_of(scope, entry), "on_expiry": str(entry.end.then)}
            effects.append(Log(event="maintenance.overdue", fields=fields, level="error"))
        progress[scope] = replace(progress[scope], overdue=overdue)
    if progress != state.progress:
        state = replace(state, progress=progress)
    state, more = _without(state, over, why="its time is over")
    return state, [*effects, *([save(state.maintenance)] if over else []), *more]


def advance(before: State, state: State, now: float) -> tuple[State, list[Effect]]:
    """Move every scope on whose stage has got what it waits for."""
    progress = dict(state.progress)
    effects: list[Effect] = []
    for scope, known in state.progress.items():
        if not touched.stage(before, state, scope, now):
            continue
        after, why = _done(state, scope, known, now)
        if why is not None:
            stage = NEXT[known.stage, Signal.DONE]
            after = replace(_entered(state, scope, stage, now), overdue=known.overdue)
            effects.append(_stage_changed(state, scope, after, why, now - known.since))
        progress[scope] = after
    return (state if progress == state.progress else replace(state, progress=progress)), effects


def _done(state: State, scope: str, progress: Progress, now: float) -> tuple[Progress, str | None]:
    """The progress of the stage, and why it is over; None: it is not."""
    timing = state.config.timing
    match progress.stage:
        case Stage.DRAINING:
            if now >= progress.since + timing.drain:
                return progress, "drained"
            verdicts = (state.vips[vip.name].verdict for vip in vips_of(state, scope))
            nothing = all(verdict.advertise is Advertise.NO for verdict in verdicts)
            return progress, "nothing is announced" if nothing else None
        case Stage.WITHDRAWN:
            assert progress.withdrawal is not None  # noqa: S101 - entered with it
            went = followed(progress.withdrawal, state.known_plugins, settle=timing.settle, now=now)
            progress = progress if went is progress.withdrawal else replace(progress, withdrawal=went)
            return progress, "withdrawn" if went.phase is Phase.SETTLED else None
        case Stage.QUIET:
            rate = _arriving(state, scope, progress.since, _packets_at_most)
            if rate is not None and rate <= timing.quiet_rate:
                return progress, "quiet"
            blind = rate is None and _blind(state, scope)
            why = "the limit has passed, and packets could not be counted" if blind else LIMIT
            return progress, why if now >= progress.since + timing.quiet_limit else None
        case Stage.ACTIVE | Stage.DOWN:
            return progress, None


def _blind(state: State, scope: str) -> bool:
    """There is no live count of packets to go by."""
    counts = state.kernel.counts
    return any(map(_is_here, vips_of(state, scope))) or not counts or counts[-1].received is None


def _entered(state: State, scope: str, stage: Stage, now: float) -> Progress:
    if stage is not Stage.WITHDRAWN:
        return Progress(stage=stage, since=now)
    names = (vip.name for vip in vips_of(state, scope))
    prefixes = [prefix for name in names for prefix in state.index.vips[name].prefixes.values()]
    return Progress(stage=stage, since=now, withdrawal=withdrawal(state, prefixes, now))


def _stage_changed(state: State, scope: str, new: Progress, why: str, after: float) -> Log:
    rate = arriving(state, scope)
    fields = {
        "scope": _word(scope),
        "stage": str(new.stage),
        "why": why,
        "after_s": round(after, 3),
        "packets_per_s": None if rate is None else round(rate, 1),
    }
    busy = new.stage is Stage.DOWN and why != "quiet"
    return Log(event="maintenance.stage_changed", fields=fields, level="warning" if busy else "info")


def stage_ends(state: State, progress: Progress) -> float | None:
    """The instant at which the stage is over, whatever happens; None: it stays."""
    timing = state.config.timing
    ends = progress.ends_at(timing)
    if ends is None or not progress.waits_for_plugins:
        return ends
    # Routers may keep the routes of an ExaBGP that stands still for longer.
    return max(ends, state.known_plugins.still_until + timing.settle)


def wakes(state: State, now: float) -> list[float]:
    """Future instants at which something changes."""
    instants: list[float | None] = []
    for scope, progress in state.progress.items():
        instants.append(progress.ends_at(state.config.timing))
        if progress.withdrawal is not None:
            instants.append(progress.withdrawal.wakes_at(state.config.timing.settle))
        end = state.maintenance[scope].end
        if end is not None and end.due is not None and state.wall_offset is not None:
            instants.append(max(end.due, end.at - state.wall_offset))
    return [instant for instant in instants if instant is not None and instant > now]


def fields_of(scope: str, entry: Maintenance) -> dict[str, object]:
    return {
        "scope": _word(scope),
        "reason": entry.reason,
        "by": entry.by,
        "ends": _ends(scope, entry.end),
    }


def _ends(scope: str, end: End | None) -> str:
    """When it ends by itself, or what ends it."""
    if scope == FILE:
        return "with the file"
    if scope == STOP:
        return "with the agent"
    return "by command" if end is None else iso(end.at) or "by command"


def _word(scope: str) -> str:
    return "node" if scope in NODE_SCOPES else scope


def save(entries: Mapping[str, Maintenance]) -> SaveMaintenance:
    return SaveMaintenance(entries={scope: entry for scope, entry in entries.items() if is_saved(scope)})
