"""Read the kernel, write what differs, read it back: one job at a time, and none once the agent is stopping."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from heapq import heapify, heappop
from itertools import chain
from typing import TypeAlias

from anycast.core import kept, touched
from anycast.core.dataplane import ipvs
from anycast.core.dataplane import kernel as kernels
from anycast.core.dataplane.desired import EXPIRE_AGAIN, GONE, aim, expiries
from anycast.core.dataplane.traffic import EST_CPULIST, RUN_ESTIMATION, WINDOW, Count, counted, uncounted
from anycast.core.events import Effect, KernelRead, Log, ProgramKernel, ReadKernel
from anycast.core.maintenance.progress import awaited
from anycast.core.maintenance.stages import Stage
from anycast.core.owned import rid
from anycast.core.state import (
    CONTEST_ENDS,
    CONTESTED,
    DISCARDS,
    REST,
    SYNC,
    Contest,
    KernelState,
    Order,
    Piece,
    Reading,
    Retiring,
    ServerKey,
    State,
    VipState,
    lived,
    pieces_of,
    retiring,
)
from anycast.core.values.configuration import Address, Timing
from anycast.core.values.persistent import changed as differing
from anycast.core.vip.facts import hold_due, is_holding
from anycast.core.vip.lifecycle import NEXT, Signal

RETRY_READ = 0.2  # seconds after a failed reading; doubles up to the reconcile interval
RETRY_PROGRAM = 1.0  # seconds after a program that did not reach what it aimed at
READ_EVERY = 1.0  # seconds between two readings while something is on its way out
CHANGED_EVERY = 0.5  # seconds between two readings, however often the interface changes
GOOD_FOR = 3  # reconcile intervals for which a reading counts
# Operations of one program, about: what there is more comes in the next. What was written is read back in between,
# so VIPs come up one after another, and what is urgent waits for one program at most.
PROGRAM = 100
TOLD = 5  # differences that are named in the log

Step: TypeAlias = tuple[State, list[Effect]]


def good_until(read_at: float, timing: Timing) -> float:
    return read_at + GOOD_FOR * timing.reconcile


def reconfigured(state: State, now: float) -> KernelState:
    """The next reading follows the new interval. The last one, taken under the old interval, stays valid until then."""
    kernel, config = state.kernel, state.config
    snapshot = kernel.snapshot
    unread = snapshot is not None and (
        not state.index.sysctls.keys() <= snapshot.sysctls.keys()
        or (snapshot.discards is None and _looks_for_discards(state))
    )
    return replace(
        kernel,
        # A check that was changed starts again; until its first result its real server keeps its weight.
        adopted=kernel.adopted if snapshot is None else snapshot.table,
        next_read=min(kernel.next_read, now if unread else now + config.timing.reconcile),
        good_until=min(kernel.good_until, good_until(now, config.timing)),
    )


def changed(state: State, lost: frozenset[Address], now: float) -> State:
    """The interface changed: the last reading proves nothing any more. Readings still keep their own pace.

    Addresses that are wanted and went (`lost`) wait for none: they are put back at once.
    """
    kernel, snapshot = state.kernel, state.kernel.snapshot
    at = max(now, kernel.read_at + CHANGED_EVERY) if snapshot is not None else now
    # What was refused may be taken now: such programs switch IPv6 of the interface off and on, too.
    retry_at = min(kernel.retry_at, at) if kernel.stuck else kernel.retry_at
    kernel = replace(kernel, next_read=min(kernel.next_read, at), retry_at=retry_at)
    lost &= state.index.addresses  # one of a VIP that leaves is not put back
    if kernel.busy:
        written = pieces_of(kernel.under_way)
        lost = frozenset(one for one in lost if one not in written)
        kernel = replace(kernel, lost=kernel.lost | lost, overtaken=True)
    elif lost and snapshot is not None and kernel.error is None:
        next_read = max(kernel.next_read, now + CHANGED_EVERY)
        kernel = replace(kernel, snapshot=_without(snapshot, lost), next_read=next_read)
    return replace(state, kernel=kernel)


def _without(snapshot: kernels.Snapshot, lost: frozenset[Address]) -> kernels.Snapshot:
    if lost.isdisjoint(snapshot.addresses):
        return snapshot
    return replace(snapshot, addresses=snapshot.addresses - lost, plain=snapshot.plain - lost)


def read(state: State, event: KernelRead, now: float) -> Step:
    kernel = state.kernel
    if kernel.stale:
        return replace(state, kernel=_idle(kernel)), []
    first = kernel.snapshot is None
    effects: list[Effect] = []
    if kernel.error is not None:
        effects.append(Log(event="kernel.available"))
    problems = tuple(failure.text for failure in event.failures if failure.text)
    if not problems and kernel.stuck:
        problems = kernel.problems  # another program went well; what these are about is tried again
    if problems and problems != kernel.problems:
        effects.append(Log(event="kernel.program_failed", fields={"problems": problems}, level="error"))
    lost, overtaken = kernel.lost, kernel.overtaken
    kernel = replace(
        _idle(kernel),
        reported=event.snapshot,
        snapshot=_without(_annotated(kernel, event), lost),
        error=None,
        failures=0,
        problems=problems,
        refused=bool(event.failures),
        partial=event.partial,
    )
    if event.partial:
        return replace(state, kernel=kernel), effects
    kernel = replace(
        kernel,
        read_at=now,
        good_until=good_until(now, state.config.timing),
        next_read=now + (min(CHANGED_EVERY, read_every(state)) if overtaken else read_every(state)),
        contests=_left_alone(kernel.contests, now),
        counts=_counted(kernel, event.snapshot, now),
        readings=_readings(kernel, now),
        adopted=event.snapshot.table if first else kernel.adopted,
    )
    state = replace(state, kernel=kernel)
    if first and (after := kept.read(state, now)) is not state:
        state = replace(after, owned=kept.owned(state, after, after.owned))
    if state.owned is not state.configured:
        stands = state.lease.runs_out > now + state.configured.lease_ttl  # a lease by a longer TTL
        lease_ttl = (state.owned if stands else state.configured).lease_ttl
        owned = rid(
            state.owned,
            state.configured,
            event.snapshot,
            state.leaving,
            lease_ttl=lease_ttl,
            keeping=state.kept.keys(),
        )
        state = state if owned == state.owned else replace(state, owned=owned)
    return state, effects


def _idle(kernel: KernelState) -> KernelState:
    return replace(
        kernel, busy=False, stale=False, under_way=(), coming=None, lost=frozenset(), overtaken=False
    )


def _left_alone(contests: Mapping[Address, Contest], now: float) -> Mapping[Address, Contest]:
    """Those that are not over."""
    if not contests or now < min(one.last for one in contests.values()) + CONTEST_ENDS:
        return contests
    return {address: one for address, one in contests.items() if now < one.last + CONTEST_ENDS}


def _is_contested(contests: Mapping[Address, Contest], piece: Piece) -> bool:
    if isinstance(piece, str | ipvs.ServiceKey | ipvs.MarkKey):
        return False
    return piece in contests and contests[piece].times > CONTESTED


def _contested(
    contests: Mapping[Address, Contest], drifted: Iterable[Piece], now: float
) -> Mapping[Address, Contest]:
    """With those that somebody else has changed just now."""
    found = {}
    for piece in drifted:
        if not isinstance(piece, str | ipvs.ServiceKey | ipvs.MarkKey):
            before = contests.get(piece)
            times = before.times if before is not None and now < before.last + CONTEST_ENDS else 0
            found[piece] = Contest(times + 1, now)
    return {**contests, **found} if found else contests


def _counted(kernel: KernelState, snapshot: kernels.Snapshot, now: float) -> tuple[Count, ...]:
    if uncounted(snapshot.sysctls) is not None:
        return ()
    new = Count(at=now, packets=snapshot.packets, received=snapshot.received, arrived=snapshot.arrived)
    return counted(kernel.counts, new)


def _readings(kernel: KernelState, now: float) -> tuple[Reading, ...]:
    """With the newest one, and as far back as a rate needs. Nothing is copied."""
    snapshot = kernel.snapshot
    if snapshot is None or uncounted(snapshot.sysctls) is not None:
        return ()
    known = kernel.readings
    old = [one for one in known if one.at <= now - WINDOW]
    return (*old[-1:], *known[len(old) :], Reading(now, snapshot.table, snapshot.traffic))


def _annotated(kernel: KernelState, event: KernelRead) -> kernels.Snapshot:
    """The snapshot with the table weights that the kernel does not report, as far as we wrote them."""
    if kernel.snapshot is None or kernel.reported is None or event.snapshot is kernel.reported:
        return kernel.snapshot or event.snapshot
    table = event.snapshot.table
    look = {key for op in kernel.under_way for key in kernels.keys_of(op)}
    look.update(differing(kernel.reported.table, table))
    expected = kernel.snapshot.table
    if event.failures:
        failed = frozenset(op for failure in event.failures for op in failure.ops)
        done = [op for op in kernel.under_way if op not in failed]
        try:
            expected = kernels.play(kernel.snapshot, done).table
        except KeyError:  # another program removed what the operations were for
            expected = ipvs.forgotten(expected, only=look)
    elif kernel.coming is not None:
        expected = kernel.coming.table
    return replace(event.snapshot, table=ipvs.known(table, expected, only=look))


def _forgotten(kernel: KernelState) -> kernels.Snapshot | None:
    """What is known, without the table weights that a program without an answer may have changed."""
    if kernel.snapshot is None or not kernel.under_way:
        return kernel.snapshot
    written = {key for op in kernel.under_way for key in kernels.keys_of(op)}
    return replace(kernel.snapshot, table=ipvs.forgotten(kernel.snapshot.table, only=written))


def failed(state: State, reason: str, now: float) -> Step:
    kernel = state.kernel
    wait = min(state.config.timing.reconcile, RETRY_READ * 2.0 ** min(kernel.failures, 10))
    effects: list[Effect] = []
    if reason != kernel.error:
        effects.append(Log(event="kernel.unavailable", fields={"reason": reason}, level="error"))
    kernel = replace(
        _idle(kernel),
        error=reason,
        # What was under way may be there or not: what is found next is not somebody else's work.
        settled=False,
        failures=kernel.failures + 1,
        snapshot=_forgotten(kernel),
        attempted={},
        stuck=frozenset(),
        vain={},
        next_read=now + wait,
        retry_at=math.inf,
    )
    return replace(state, kernel=kernel), effects


def retired(before: State, state: State, now: float) -> Step:
    """A real server the configuration dropped goes once its connections are gone, or its time is up."""
    kernel = state.kernel
    if not state.retiring or kernel.snapshot is None or kernel.error is not None:
        return state, []
    if not touched.retiring(before, state, now):
        return state, []
    # A program under way may be adding it, or giving it clients.
    looks = [kernel.snapshot] if kernel.coming is None else [kernel.snapshot, kernel.coming]
    left: dict[ServerKey, Retiring] = {}
    effects: list[Effect] = []
    for (key, at), each in state.retiring.items():
        present = [
            (one.weight, look.connections_of(key).get(at, ipvs.NO_CONNECTIONS).active)
            for look in looks
            if key in look.table
            for one in look.table[key].destinations
            if one.key == at
        ]
        if not present:
            continue  # another program was faster, or it never was in the kernel
        if any(map(any, present)) and now < each.until:
            left[key, at] = each
            continue
        fields = {
            "service": str(key),
            "address": str(at[0]),
            "port": at[1],
            "connections": present[0][1],
        }
        effects.append(Log(event="server.removed", fields=fields))
    if len(left) != len(state.retiring):
        state = retiring(state, left)
    return (replace(state, retiring_is_new=False) if state.retiring_is_new else state), effects


def drive(before: State, state: State, now: float) -> Step:
    """Program what differs, read back what is due."""
    kernel = state.kernel
    if kernel.busy or state.stopping_since is not None:
        return state, []
    due = now >= min(kernel.next_read, hold_due(state, now))
    snapshot = kernel.snapshot
    if snapshot is not None and kernel.error is None:
        fresh = kernel.reported is not before.kernel.reported
        news = fresh or state.apart is not before.apart or state.desired is not before.desired
        if now >= kernel.retry_at:
            news, kernel = True, replace(kernel, stuck=frozenset(), retry_at=math.inf)
        # However much is to be written: all of it is read back as often as ever.
        if news and not (due and kernel.partial) and (pieces := _next_pieces(state, snapshot, kernel.stuck)):
            return _program(state, kernel, snapshot, pieces, now)
        if kernel.stuck:
            # Readings may come more often than that; they do not postpone it. What was written and not refused was
            # changed by somebody who is still at it.
            wait = RETRY_PROGRAM if kernel.problems else CHANGED_EVERY
            kernel = replace(kernel, retry_at=min(kernel.retry_at, now + wait))
        elif not state.apart and kernel.retry_at != math.inf:
            kernel = replace(kernel, retry_at=math.inf)
        if fresh and not kernel.partial and (lost := expiries(state, snapshot, now)):
            return _expire(state, kernel, snapshot, lost, now)
    if due:
        kernel = replace(kernel, busy=True)
        return replace(state, kernel=kernel), [
            ReadKernel(
                sysctls=_to_read(state),
                ipvs=_ipvs(state),
                arriving=awaited(state),
                discards=_looks_for_discards(state),
            )
        ]
    return (state if kernel is state.kernel else replace(state, kernel=kernel)), []


def _next_pieces(state: State, snapshot: kernels.Snapshot, stuck: frozenset[Piece]) -> list[Piece]:
    """What the next program writes, in order: what there is, then new VIPs one after another with their addresses.

    An address comes with the last of its services; a service leaves with its address, or after it.
    """
    apart = state.apart
    taken: dict[Piece, None] = {}
    size = 0
    for piece in _in_order(apart):
        if size >= PROGRAM:
            break
        if piece in taken or piece in stuck:
            continue
        if not isinstance(piece, ipvs.ServiceKey | ipvs.MarkKey):
            if (
                isinstance(piece, str)
                or piece not in state.desired.addresses
                or not any(key in apart and key not in taken for key in _keys_at(state, piece))
            ):
                taken[piece] = None
            size += piece in taken
            continue
        if piece in state.desired.table:
            taken[piece] = None
            size += _size(state, snapshot, piece)
            for address in _addresses_with(state, piece):
                if (
                    address in apart
                    and address not in stuck
                    and all(key not in apart or key in taken for key in _keys_at(state, address))
                ):
                    taken[address] = None
                    size += 1
        else:
            for address in (
                snapshot.addresses & state.desired.owned
                if isinstance(piece, ipvs.MarkKey)
                else {piece.address}
            ):
                if address in apart and address not in state.desired.addresses:
                    taken[address] = None
            taken[piece] = None
            size += 1
    return list(taken)


def _in_order(apart: Mapping[Piece, Order]) -> Iterator[Piece]:
    """One after the other: of thousands the first are found without sorting all."""
    heap = [(order, place, piece) for place, (piece, order) in enumerate(apart.items())]
    heapify(heap)
    while heap:
        yield heappop(heap)[2]


def _size(state: State, snapshot: kernels.Snapshot, key: ipvs.Key) -> int:
    """Operations that the service takes, about."""
    wanted, present = state.desired.table[key].destinations, snapshot.table.get(key)
    if present is None:
        return 2 + len(wanted)
    differing = sum(
        there is not one and there != one for there, one in zip(present.destinations, wanted, strict=False)
    )
    return 1 + differing + abs(len(present.destinations) - len(wanted))


def _keys_at(state: State, address: Address) -> tuple[ipvs.Key, ...]:
    name = state.index.vip_at.get(address)
    return () if name is None else state.index.vips[name].keys[address]


def _addresses_with(state: State, key: ipvs.Key) -> tuple[Address, ...]:
    if isinstance(key, ipvs.ServiceKey):
        return (key.address,)
    one = state.index.services.get(key)
    return () if one is None else tuple(state.index.vips[one.vip].keys)


def _ops(state: State, snapshot: kernels.Snapshot, pieces: Iterable[Piece]) -> tuple[kernels.KernelOp, ...]:
    keys: list[ipvs.Key] = []
    addresses: list[Address] = []
    rest = sync = discards = False
    for piece in pieces:
        if piece == SYNC:
            sync = True
        elif piece == DISCARDS:
            discards = True
        elif isinstance(piece, str):
            rest = True
        elif isinstance(piece, ipvs.ServiceKey | ipvs.MarkKey):
            keys.append(piece)
        else:
            addresses.append(piece)
    return kernels.diff_of(
        snapshot,
        state.desired,
        keys=keys,
        addresses=addresses,
        rest=rest,
        sync=sync,
        discards=discards,
    )


def _program(
    state: State,
    kernel: KernelState,
    snapshot: kernels.Snapshot,
    pieces: list[Piece],
    now: float,
) -> Step:
    """Change the kernel. If it had what is wanted now and no longer does, somebody else changed it."""
    ops = _ops(state, snapshot, pieces)
    aims = {piece: aim(state, piece) for piece in pieces}
    again = all(piece in kernel.attempted and kernel.attempted[piece] == aims[piece] for piece in pieces)
    drifted = [
        piece
        for piece in pieces
        if _has_drifted(kernel, piece, aims[piece]) and not _is_unread(state, snapshot, piece)
    ]
    kinds = Counter(map(kernels.kind_of, _ops(state, snapshot, drifted))) if drifted else Counter[str]()
    repairs = {**kernel.repairs, **{kind: kernel.repairs.get(kind, 0) + n for kind, n in kinds.items()}}
    kernel = replace(
        kernel,
        busy=True,
        under_way=ops,
        coming=kernels.play(snapshot, ops),
        attempted={**kernel.attempted, **aims},
        reached=kernel.reached.updated({}, pieces),
        programs=kernel.programs + 1,
        repairs=repairs,
        contests=_contested(kernel.contests, drifted, now),
    )
    effects: list[Effect] = [_program_of(state, ops)]
    # What is changed again and again stands as a condition, with how often; it does not fill the log.
    said = drifted and all(_is_contested(kernel.contests, piece) for piece in drifted)
    if not again and not said:
        names = _vips_at(state, pieces)
        apart = list(
            dict.fromkeys(state.differences[name].text for name in names if state.differences[name].text)
        )
        apart += _plain(state, ops)
        more = f"; and {len(apart) - TOLD} more" if len(apart) > TOLD else ""
        fields: dict[str, object] = {"operations": len(ops), "found": "; ".join(apart[:TOLD]) + more}
        if drifted:
            fields["kinds"] = sorted(kinds)
        event = "kernel.drifted" if drifted else "kernel.programmed"
        effects.insert(0, Log(event=event, fields=fields, level="warning" if drifted else "info"))
    # The hold after a start begins again if somebody else changed what was as wanted.
    broken: dict[str, VipState] = {}
    for name in _vips_at(state, drifted) if state.unstarted else ():
        known = state.vips[name]
        if not state.differences[name].proven and known.stable_since is not None:
            broken[name] = replace(known, life=NEXT[known.life, Signal.BREAK], stable_since=None)
    return lived(replace(state, kernel=kernel), broken), effects


_NEVER = object()


def _has_drifted(kernel: KernelState, piece: Piece, wanted: object) -> bool:
    before = kernel.reached.get(piece, _NEVER)
    if before is _NEVER:  # it was not there when all was as wanted
        return kernel.settled and wanted == GONE and piece not in kernel.attempted
    return bool(before == wanted)


def _is_unread(state: State, snapshot: kernels.Snapshot, piece: Piece) -> bool:
    """The reading was asked for before these sysctls were wanted, as where all VIPs had no IPVS until just now."""
    return piece == REST and not state.desired.sysctls.keys() <= snapshot.sysctls.keys()


def _plain(state: State, ops: Iterable[kernels.KernelOp]) -> Iterator[str]:
    for op in ops:
        if isinstance(op, kernels.CorrectAddress):
            where = f"{op.address} on {state.config.node.interface}"
            lacks = (
                "is not a single host of scope host"
                if op.address.version == 4
                else "has not the preferred lifetime 0"
            )
            yield f"{where} {lacks}, for ever: the node's own traffic may leave with it"


def _vips_at(state: State, pieces: Iterable[Piece]) -> list[str]:
    index = state.index
    names: set[str] = set()
    for piece in pieces:
        if piece == DISCARDS:
            names.update(chain.from_iterable(one.vips for one in index.shared.values()))
            continue
        if isinstance(piece, str):
            return list(index.vips)
        if isinstance(piece, ipvs.ServiceKey | ipvs.MarkKey):
            names.add(index.services[piece].vip if piece in index.services else "")
        else:
            names.add(index.vip_at.get(piece, ""))
    return index.in_order(names)


def _expire(
    state: State,
    kernel: KernelState,
    snapshot: kernels.Snapshot,
    lost: tuple[ipvs.RemoveDestination, ...],
    now: float,
) -> Step:
    """End connections, and put the servers back to their place in the order. Of many, as many as one program takes."""
    some, ended = _as_many_as_fit(snapshot, lost)
    if len(some) < len(lost):
        kernel = replace(kernel, next_read=now)  # the others go with the next reading
    expire = kernels.ExpireDestinations(
        removals=some, write_sysctl=state.config.manage_sysctls, seconds=kernels.seconds_to_end(ended)
    )
    after = kernels.play(snapshot, (expire,))
    keys = dict.fromkeys(op.service for op in expire.removals)
    ops = (expire, *kernels.diff_of(after, state.desired, keys=keys, rest=False, sync=False, discards=False))
    # Of too many the rest goes with the next reading.
    expired = {(op.service, op.key): now for op in some} if ended <= kernels.MOST_ENDED else {}
    coming = kernels.play(snapshot, ops)
    kernel = replace(
        kernel,
        busy=True,
        under_way=ops,
        coming=coming,
        reached=kernel.reached.updated({}, keys),
        programs=kernel.programs + 1,
    )
    fields = {
        "services": sorted({str(op.service) for op in expire.removals}),
        "servers": sorted({str(op.key[0]) for op in expire.removals}),
    }
    effects: list[Effect] = [
        Log(event="server.connections_expired", fields=fields),
        _program_of(state, ops),
    ]
    recent = {server: at for server, at in state.expired.items() if now < at + EXPIRE_AGAIN}
    return replace(state, kernel=kernel, expired={**recent, **expired}), effects


def _as_many_as_fit(
    snapshot: kernels.Snapshot, lost: tuple[ipvs.RemoveDestination, ...]
) -> tuple[tuple[ipvs.RemoveDestination, ...], int]:
    """With the number of their connections. Whole services: to put one real server back to its place may move all of it."""
    held: dict[ipvs.Key, Mapping[ipvs.DestinationKey, ipvs.Connections]] = {}
    size = ended = 0
    for one in lost:
        if one.service not in held:
            if size >= PROGRAM or ended >= kernels.MOST_ENDED:
                break
            held[one.service] = snapshot.connections_of(one.service)
            size += len(snapshot.table[one.service].destinations)
        ended += sum(held[one.service].get(one.key, ipvs.NO_CONNECTIONS))
    return tuple(one for one in lost if one.service in held), ended


def _program_of(state: State, ops: tuple[kernels.KernelOp, ...]) -> ProgramKernel:
    return ProgramKernel(
        ops=ops,
        sysctls=_to_read(state),
        ipvs=_ipvs(state),
        arriving=awaited(state),
        discards=_looks_for_discards(state),
    )


def _looks_for_discards(state: State) -> bool:
    """Where none is wanted the first reading alone looks, for what was left behind, and then until that is gone."""
    snapshot = state.kernel.snapshot
    return bool(state.index.shared or state.owned.wide or snapshot is None or snapshot.discards)


def _ipvs(state: State) -> kernels.IpvsNeed:
    if state.index.needs_ipvs:
        return kernels.IpvsNeed.NEEDED
    left = state.owned.services or state.owned.sync
    return kernels.IpvsNeed.LEFT if left else kernels.IpvsNeed.NONE


def _to_read(state: State) -> tuple[str, ...]:
    if not state.index.needs_ipvs:
        return ()
    return (*state.index.sysctls, RUN_ESTIMATION, EST_CPULIST)


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
    if state.retire_at > now:
        yield state.retire_at
