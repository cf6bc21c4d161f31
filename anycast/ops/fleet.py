"""What this node says of itself to the others of its fleet: made from what has changed since it was asked last."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import anycast
from anycast.core.dataplane import ipvs
from anycast.core.fleet import asking, codec
from anycast.core.fleet.believe import believe
from anycast.core.fleet.values import Document, VipStanding, VipTold
from anycast.core.fleet.velocity import SOFT
from anycast.core.lease import held_to
from anycast.core.maintenance.stages import NODE_SCOPES
from anycast.core.preference import rank
from anycast.core.shared import NOBODY, Holding, Shared, Tally, holding
from anycast.core.state import State, VipState, kernel_table
from anycast.core.values.persistent import PersistentMap, changed
from anycast.core.values.route import Prefix, Route
from anycast.core.vip.decide import Advertise, Verdict
from anycast.core.vip.facts import furthest
from anycast.ops import status
from anycast.ops.source import Source

FRESH = 0.5  # seconds for which an answer is good, however many ask
READY_FRESH = 3.0  # seconds for which it is good whether the node is ready
MEMORY = 3600.0  # seconds for which a withdrawal is told of
_DIGEST = 6  # bytes of the fingerprint of a VIP's tables

_STANDING = {
    Advertise.YES: VipStanding.ANNOUNCED,
    Advertise.DRAIN: VipStanding.DRAINING,
    Advertise.NO: VipStanding.WITHDRAWN,
}

_BY_PREFIX = {
    Holding.NO: VipStanding.WITHDRAWN,
    Holding.LAST_RESORT: VipStanding.LAST_RESORT,
    Holding.DRAIN: VipStanding.DRAINING,
}


def standing_of(state: State, name: str) -> VipStanding:
    """A VIP is no better off for the other nodes than the prefix that it shares, whatever its own verdict."""
    own = standing(state.vips[name].verdict)
    held = held_to(state, name) if name in state.index.vips else Holding.YES
    return _BY_PREFIX.get(held, own) if own is VipStanding.ANNOUNCED or held is Holding.NO else own


def standing(verdict: Verdict) -> VipStanding:
    return VipStanding.LAST_RESORT if verdict.is_last_resort else _STANDING[verdict.advertise]


def document(source: Source, now: float) -> Document:
    """Of the whole node; of its VIPs those that tell their load. `Told` knows the rest of them."""
    state, force = source.facts.state, source.facts.force
    fleet = state.config.fleet
    carried = source.meter.read(state, source.traffic, now)
    believed = {} if fleet is None else believe(state.fleet, fleet, now)
    return Document(
        node=state.config.node.name,
        version=anycast.__version__,
        configuration=force.fingerprint,
        fleet=force.nodes,
        ready=_READY.of(state, now),
        maintenance=str(furthest(state, NODE_SCOPES).stage),
        turn=asking.turn(state, now),
        soft=_soft(state, now),
        load=carried.node,
        rest=carried.rest,
        capacity=None if fleet is None else fleet.capacity,
        weight=state.config.bgp.weight,
        synced=state.config.connection_sync is not None,
        hears=tuple(sorted(name for name, one in believed.items() if one.counts)),
        vips={
            name: VipTold(standing=standing_of(state, name), load=load)
            for name, load in carried.vips.items()
            if name in state.vips
        },
    )


def _soft(state: State, now: float) -> float | None:
    """Seconds since the last VIP was taken back for such a reason, of those that have not come back."""
    ago = now - _SINCE.of(state)
    return ago if ago < MEMORY else None


class _Since:
    """The instant at which a VIP was taken back last, of those that are; looked for again once a VIP has changed."""

    def __init__(self) -> None:
        self._of: tuple[object, float] = (None, -math.inf)

    def of(self, state: State) -> float:
        if self._of[0] is not state.vips:
            since = [
                one.since
                for one in state.vips.values()
                if one.verdict.advertise is Advertise.NO and one.verdict.reason in SOFT
            ]
            self._of = state.vips, max(since, default=-math.inf)
        return self._of[1]


class _Ready:
    """Whether the node is ready, which is worked out for all VIPs: good for a moment."""

    def __init__(self) -> None:
        self._of: tuple[str, float, bool] = ("", -math.inf, False)

    def of(self, state: State, now: float) -> bool:
        node, at, ready = self._of
        if node != state.config.node.name or not at <= now < at + READY_FRESH:
            ready = not status.readiness(state, now)
            self._of = state.config.node.name, now, ready
        return ready


_SINCE, _READY = _Since(), _Ready()


def _says(shared: Shared, tally: Tally | None) -> Holding:
    return holding(shared.needs, tally or NOBODY, stands=True)


def _shared(before: State, state: State) -> set[str]:
    """The VIPs of whose prefix another says something else."""
    nothing: PersistentMap[Prefix, Route] = PersistentMap()
    old, new = before.lease.routes or nothing, state.lease.routes or nothing
    was, now = before.lease.tallies, state.lease.tallies
    if not state.index.shared or (old is new and was is now):
        return set()
    shared = state.index.shared
    said = {
        one
        for one in changed(was, now)
        if one in shared and _says(shared[one], was.get(one)) is not _says(shared[one], now.get(one))
    }
    prefixes = said | {one for one in changed(old, new) if one in shared}
    return {name for one in prefixes for name in state.index.announcing(one)}


@dataclass(frozen=True, slots=True)
class Answer:
    """`tag`: of what it says; another one once that has changed."""

    head: Mapping[str, Any]
    pieces: tuple[codec.Piece, ...]
    tag: str
    at: float

    def body(self, known: Iterable[str]) -> bytes:
        """With the pieces that whoever asks does not know yet."""
        return codec.answer(self.head, self.pieces, known, self.at)


class Told:
    """The newest answer. The next one costs what has changed."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._state: State | None = None
        self._rows: dict[str, codec.Row] = {}
        self._prints: dict[ipvs.Key, str] = {}
        self._names: list[tuple[str, ...]] = []  # of each piece
        self._place: dict[str, int] = {}  # of a VIP: its piece
        self._pieces: list[codec.Piece] = []
        self._answer: Answer | None = None

    def answer(self, now: float | None = None) -> Answer:
        now = time.monotonic() if now is None else now
        known = self._answer
        if known is not None and known.at <= now < known.at + FRESH:
            return known
        state = self._source.facts.state
        self._follow(state)
        head = codec.head(document(self._source, now), born=state.started_at, at=now)
        pieces = tuple(self._pieces)
        self._answer = Answer(head, pieces, codec.tag(head, pieces), now)
        return self._answer

    def whole(self, now: float) -> Document:
        """What this node says of itself, as a value with all of its VIPs."""
        self.answer(now)
        known = document(self._source, now)
        loads = {name: one.load for name, one in known.vips.items()}
        names = self._source.facts.state.index.vips  # in their order
        rows = ((name, self._rows[name]) for name in names if name in self._rows)
        return replace(known, vips={name: codec.told(row, now, loads.get(name)) for name, row in rows})

    def _follow(self, state: State) -> None:
        before, self._state = self._state, state
        if before is state:
            return
        if before is None or before.index is not state.index:
            self._sorted(state)
            touched: set[str] = set(state.vips)
            self._prints = {}
            tables = {key for vip in state.index.vips.values() for key in vip.services}
        else:
            touched = set(changed(before.vips, state.vips)) | _shared(before, state)
            tables = {
                *changed(kernel_table(before), kernel_table(state)),
                *changed(before.desired.table, state.desired.table),
            }
        touched |= self._printed(state, tables)
        written = set()
        for name in touched:
            if (known := state.vips.get(name)) is not None and name in self._place:
                row = self._row(state, name, known)
                if self._rows.get(name) != row:
                    self._rows[name] = row
                    written.add(self._place[name])
        for place in written:
            self._pieces[place] = codec.piece({name: self._rows[name] for name in self._names[place]})

    def _sorted(self, state: State) -> None:
        names = sorted(name for name in state.vips if name in state.index.vips)
        self._names = [tuple(some) for some in codec.split(names)]
        self._place = {name: place for place, some in enumerate(self._names) for name in some}
        self._rows = {}
        self._pieces = [codec.piece({})] * len(self._names)

    def _printed(self, state: State, keys: Iterable[ipvs.Key]) -> set[str]:
        """The VIPs of which a table is another one now."""
        actual, desired, found = kernel_table(state), state.desired.table, set()
        for key in keys:
            one = state.index.services.get(key)
            if one is None:
                continue
            there, wanted = actual.get(key), desired.get(key)
            known = "" if there is None or wanted is None else ipvs.fingerprint(there, wanted)
            if self._prints.get(key, "") != known:
                self._prints[key] = known
                found.add(one.vip)
        return found

    def _row(self, state: State, name: str, known: VipState) -> codec.Row:
        services = state.index.vips[name].services
        lines = [f"{key} {self._prints.get(key, '')}" for key in services]
        whole = all(self._prints.get(key) for key in services)
        text = "\n".join(sorted(lines)).encode()
        table = hashlib.blake2b(text, digest_size=_DIGEST).hexdigest() if whole and services else ""
        told = VipTold(
            standing=standing_of(state, name),
            reason=str(known.verdict.reason),
            table=table,
            rank=rank(state.index.vips[name].vip, state.config.bgp),
        )
        return codec.row(told, known.since)
