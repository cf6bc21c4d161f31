"""Read the kernel, write what differs, read it back: one job at a time, and none once the agent is stopping."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeAlias

from anycast.core.dataplane import ipvs
from anycast.core.dataplane import kernel as kernels
from anycast.core.dataplane.desired import EXPIRE_AGAIN, expiries, wanted_sysctls
from anycast.core.dataplane.traffic import Count, counted
from anycast.core.events import Effect, KernelRead, Log, ProgramKernel, ReadKernel
from anycast.core.maintenance.stages import Stage
from anycast.core.owned import rid
from anycast.core.state import KernelState, Retiring, ServerKey, State
from anycast.core.values.configuration import Config, Timing
from anycast.core.vip.facts import hold_due, is_holding
from anycast.core.vip.lifecycle import NEXT, Signal

RETRY_READ = 0.2  # seconds after a failed reading; doubles up to the reconcile interval
RETRY_PROGRAM = 1.0  # seconds after a program that did not reach what it aimed at
READ_EVERY = 1.0  # seconds between two readings while something is on its way out
CHANGED_EVERY = 0.5  # seconds between two readings, however often the interface changes
GOOD_FOR = 3  # reconcile intervals for which a reading counts

Step: TypeAlias = tuple[State, list[Effect]]


def good_until(read_at: float, timing: Timing) -> float:
    return read_at + GOOD_FOR * timing.reconcile


def reconfigured(kernel: KernelState, config: Config, now: float) -> KernelState:
    """The next reading follows the new interval. The last one, taken under the old interval, stays valid until then."""
    snapshot = kernel.snapshot
    unread = snapshot is not None and not wanted_sysctls(config).keys() <= snapshot.sysctls.keys()
    return replace(
        kernel,
        # A check that was changed starts again; until its first result its real server keeps its weight.
        adopted=kernel.adopted if snapshot is None else in_use(snapshot),
        next_read=min(kernel.next_read, now if unread else now + config.timing.reconcile),
        good_until=min(kernel.good_until, good_until(now, config.timing)),
    )


def changed(state: State, now: float) -> State:
    """The interface changed: the last reading proves nothing any more. Readings still keep their own pace."""
    kernel = state.kernel
    at = max(now, kernel.read_at + CHANGED_EVERY) if kernel.snapshot is not None else now
    return replace(state, kernel=replace(kernel, next_read=min(kernel.next_read, at)))


def read(state: State, event: KernelRead, now: float) -> Step:
    kernel = state.kernel
    if kernel.stale:
        return replace(state, kernel=_idle(kernel)), []
    first = kernel.snapshot is None
    effects: list[Effect] = []
    if kernel.error is not None:
        effects.append(Log(event="kernel.available"))
    problems = tuple(failure.text for failure in event.failures if failure.text)
    if problems and problems != kernel.problems:
        effects.append(Log(event="kernel.program_failed", fields={"problems": problems}, level="error"))
    kernel = replace(
        _idle(kernel),
        reported=event.snapshot,
        snapshot=_annotated(kernel, event),
        read_at=kernel.read_at if event.partial else now,
        good_until=kernel.good_until if event.partial else good_until(now, state.config.timing),
        error=None,
        failures=0,
        problems=problems,
        next_read=kernel.next_read if event.partial else now + read_every(state),
        counts=kernel.counts if event.partial else _counted(kernel, event.snapshot, now),
        adopted=in_use(event.snapshot) if first else kernel.adopted,
    )
    state = replace(state, kernel=kernel)
    if state.owned is not state.configured:
        stands = state.lease.runs_out > now + state.configured.lease_ttl  # a lease by a longer TTL
        lease_ttl = (state.owned if stands else state.configured).lease_ttl
        owned = rid(state.owned, state.configured, event.snapshot, state.leaving, lease_ttl=lease_ttl)
        state = state if owned == state.owned else replace(state, owned=owned)
    return state, effects


def _idle(kernel: KernelState) -> KernelState:
    return replace(kernel, busy=False, stale=False, under_way=(), coming=None)


def _counted(kernel: KernelState, snapshot: kernels.Snapshot, now: float) -> tuple[Count, ...]:
    if snapshot.sysctls.get(kernels.ESTIMATION) == "0":
        return ()
    return counted(kernel.counts, Count(at=now, packets=snapshot.packets))


def _annotated(kernel: KernelState, event: KernelRead) -> kernels.Snapshot:
    """The snapshot with the table weights that the kernel does not report, as far as we wrote them."""
    if kernel.snapshot is None or event.snapshot is kernel.reported:
        return kernel.snapshot or event.snapshot
    failed = frozenset(op for failure in event.failures for op in failure.ops)
    table = kernel.snapshot.table
    try:
        table = kernels.play(kernel.snapshot, [op for op in kernel.under_way if op not in failed]).table
    except KeyError:  # another program removed what the operations were for
        table = {}
    return replace(event.snapshot, table=ipvs.known(event.snapshot.table, table))


def _forgotten(kernel: KernelState) -> kernels.Snapshot | None:
    """What is known, without the table weights that a program without an answer may have changed."""
    if kernel.snapshot is None or not kernel.under_way:
        return kernel.snapshot
    return replace(kernel.snapshot, table=ipvs.forgotten(kernel.snapshot.table))


def in_use(snapshot: kernels.Snapshot) -> frozenset[ServerKey]:
    return frozenset(
        (key, destination.key)
        for key, entry in snapshot.table.items()
        for destination in entry.destinations
        if destination.weight > 0
    )


def failed(state: State, reason: str, now: float) -> Step:
    kernel = state.kernel
    wait = min(state.config.timing.reconcile, RETRY_READ * 2.0 ** min(kernel.failures, 10))
    effects: list[Effect] = []
    if reason != kernel.error:
        effects.append(Log(event="kernel.unavailable", fields={"reason": reason}, level="error"))
    kernel = replace(
        _idle(kernel),
        error=reason,
        failures=kernel.failures + 1,
        snapshot=_forgotten(kernel),
        attempted=None,
        next_read=now + wait,
        retry_at=math.inf,
    )
    return replace(state, kernel=kernel), effects


def retired(state: State, now: float) -> Step:
    """A real server the configuration dropped goes once its connections are gone, or its time is up."""
    kernel = state.kernel
    if not state.retiring or kernel.snapshot is None or kernel.error is not None:
        return state, []
    # A program under way may be adding it, or giving it clients.
    looks = [kernel.snapshot] if kernel.coming is None else [kernel.snapshot, kernel.coming]
    left: dict[ServerKey, Retiring] = {}
    effects: list[Effect] = []
    for (key, at), retiring in state.retiring.items():
        present = [
            (each.weight, look.connections_of(key).get(at, ipvs.NO_CONNECTIONS).active)
            for look in looks
            if key in look.table
            for each in look.table[key].destinations
            if each.key == at
        ]
        if not present:
            continue  # another program was faster, or it never was in the kernel
        if any(map(any, present)) and now < retiring.until:
            left[key, at] = retiring
            continue
        fields = {
            "service": str(key),
            "address": str(at[0]),
            "port": at[1],
            "connections": present[0][1],
        }
        effects.append(Log(event="server.removed", fields=fields))
    return (state if len(left) == len(state.retiring) else replace(state, retiring=left)), effects


def drive(before: State, state: State, now: float) -> Step:
    """Program what differs, read back what is due."""
    kernel = state.kernel
    if kernel.busy or state.stopping_since is not None:
        return state, []
    snapshot = kernel.snapshot
    if snapshot is not None and kernel.error is None:
        fresh = kernel.reported is not before.kernel.reported
        changed = state.desired is not before.desired
        if fresh or changed or now >= kernel.retry_at:
            ops = kernels.diff(snapshot, state.desired)
            if not ops:
                kernel = replace(kernel, attempted=None, retry_at=math.inf, reached=state.desired)
                if fresh and (expire := expiries(state, snapshot, now)):
                    return _expire(state, kernel, snapshot, expire, now)
            elif fresh and kernel.attempted == state.desired and now < kernel.retry_at:
                # Readings may come more often than that; they do not postpone it.
                kernel = replace(kernel, retry_at=min(kernel.retry_at, now + RETRY_PROGRAM))
            else:
                return _program(state, kernel, snapshot, ops)
    if now >= min(kernel.next_read, hold_due(state, now)):
        kernel = replace(kernel, busy=True)
        return replace(state, kernel=kernel), [ReadKernel(sysctls=_to_read(state))]
    return (state if kernel is state.kernel else replace(state, kernel=kernel)), []


def _program(
    state: State, kernel: KernelState, snapshot: kernels.Snapshot, ops: tuple[kernels.KernelOp, ...]
) -> Step:
    """Change the kernel. If it had what is wanted now and no longer does, somebody else changed it."""
    again = kernel.attempted == state.desired  # the same once more, every second
    drifted = kernel.reached == state.desired
    repairs = dict(kernel.repairs)
    for kind, count in Counter(map(kernels.kind_of, ops)).items() if drifted else ():
        repairs[kind] = repairs.get(kind, 0) + count
    kernel = replace(
        kernel,
        busy=True,
        under_way=ops,
        coming=kernels.play(snapshot, ops),
        attempted=state.desired,
        retry_at=math.inf,
        reached=None,
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
    vips = dict(state.vips)
    # The hold after a start begins again if somebody else changed what was as wanted.
    for name, known in state.vips.items() if drifted else ():
        if not state.differences[name].proven and known.stable_since is not None:
            vips[name] = replace(known, life=NEXT[known.life, Signal.BREAK], stable_since=None)
    return replace(state, kernel=kernel, vips=vips), effects


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
    coming = kernels.play(snapshot, ops)
    kernel = replace(
        kernel, busy=True, under_way=ops, coming=coming, reached=None, programs=kernel.programs + 1
    )
    fields = {
        "services": sorted({str(op.service) for op in expire.removals}),
        "servers": sorted({str(op.key[0]) for op in expire.removals}),
    }
    effects: list[Effect] = [
        Log(event="server.connections_expired", fields=fields),
        ProgramKernel(ops=ops, sysctls=_to_read(state)),
    ]
    recent = {server: at for server, at in state.expired.items() if now < at + EXPIRE_AGAIN}
    return replace(state, kernel=kernel, expired={**recent, **expired}), effects


def _to_read(state: State) -> tuple[str, ...]:
    return (*wanted_sysctls(state.config), kernels.ESTIMATION)


def read_every(state: State) -> float:
    """Seconds between two readings of the kernel when nothing else happens."""
    leaving = any(each.stage not in {Stage.ACTIVE, Stage.DOWN} for each in state.progress.values())
    often = leaving or is_holding(state)
    return min(READ_EVERY, state.config.timing.reconcile) if often else state.config.timing.reconcile


def wakes(state: State, now: float) -> Iterable[float]:
    """Future instants at which something changes."""
    kernel = state.kernel
    if not kernel.busy and state.stopping_since is None:
        yield min(kernel.next_read, kernel.retry_at, hold_due(state, now))
    if kernel.snapshot is not None and kernel.good_until > now:
        yield kernel.good_until
    yield from (retiring.until for retiring in state.retiring.values() if retiring.until > now)
