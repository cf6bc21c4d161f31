"""What is served of thousands of real servers, kept from one reading to the next.

A state is immutable: it is read over many turns of the event loop, in slices, so that nobody waits long for a turn.
What has not changed since the reading before is not written anew.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from anycast.core.dataplane import ipvs
from anycast.core.dataplane.members import service_key
from anycast.core.state import State, kernel_table
from anycast.core.values.configuration import Address, Config, Service, Vip
from anycast.ops import status
from anycast.ops.servers import Look, Row, Seen, rows, seen
from anycast.ops.source import Source

SLICE = 0.004  # seconds of work until others have a turn
FRESH = 0.1  # seconds a document of the same state is good for, however many ask
WALL_STEP = 0.5  # seconds the wall clock may move against the monotonic one before instants are written anew
_EACH = 64  # servers between two looks at the clock

_Pair: TypeAlias = tuple[ipvs.ServiceEntry | None, ipvs.ServiceEntry | None]
Clock = Callable[[], float]


class Breath:
    """Gives others a turn where the work so far has lasted for a slice."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    async def __call__(self) -> None:
        if time.perf_counter() - self._began > SLICE:
            await asyncio.sleep(0)
            self._began = time.perf_counter()


@dataclass(slots=True, frozen=True)
class _Inputs:
    """What the rows of a block are seen by. It is told from another by identity: a state shares what has not changed."""

    health: object
    maintenance: object
    plugins: object
    tables: dict[ipvs.Key, _Pair]  # as wanted, as held

    def same(self, other: _Inputs, *, held: bool) -> bool:
        """`held`: in the kernel too."""
        return (
            self.health is other.health
            and self.maintenance is other.maintenance
            and self.plugins is other.plugins
            and all(
                one[0] is pair[0] and (one[1] is pair[1] or not held)
                for one, pair in zip(self.tables.values(), other.tables.values(), strict=True)
            )
        )


@dataclass(slots=True)
class Block:
    """The servers of one service of one VIP, and what is written of them."""

    vip: Vip
    service: Service
    rows: tuple[Row, ...]
    seen: list[Seen | None]
    version: int = 0  # goes up with every change of `seen`
    inputs: _Inputs | None = None
    aligned: bool = False  # every destination stood where its row says, in the tables of `inputs`
    # Of the status. What `texts` say of each row, and those up to the weights, then these, then up to `since_s`.
    told: list[Seen | None] = field(default_factory=list)
    texts: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    held: set[int] = field(default_factory=set)  # places whose text tells how long yet it is held down
    written: int = -1  # the version that `heads` say
    heads: list[bytes] = field(
        default_factory=list
    )  # of each row what stands before the seconds since `since`
    since: list[float | None] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)  # of the metrics
    samples: dict[str, tuple[int, str]] = field(default_factory=dict)  # by metric: version, text
    ill: tuple[int, Sequence[int]] = (-1, ())  # of the page: version, places of those that want looking after


@dataclass(slots=True)
class _Fingerprint:
    actual: ipvs.ServiceEntry | None
    wanted: ipvs.ServiceEntry | None
    value: str | None


class Board:
    """Blocks and fingerprints of the configuration in force. One reading at a time: `refresh` under `lock`."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.blocks: dict[tuple[str, str], Block] = {}
        self.fingerprints: dict[ipvs.Key, _Fingerprint] = {}
        self._config: Config | None = None

    def fingerprint(self, address: Address, service: Service) -> str | None:
        """Of the table as the kernel was read before the last `refresh`; None: it is not there."""
        found = self.fingerprints.get(service_key(address, service))
        return None if found is None else found.value

    async def refresh(self, state: State, breath: Breath) -> None:
        """Bring everything to what `state` says."""
        if state.config is not self._config:
            self.fingerprints = {}
            # A thread, as for the fingerprints: of one service with thousands of servers it takes longer than a slice.
            self.blocks = await asyncio.to_thread(_laid_out, state.config)
            self._config = state.config
        look = Look(state)
        for block in self.blocks.values():
            await _refresh(block, look, breath)
            await breath()
        await self._refresh_fingerprints(state, breath)

    async def _refresh_fingerprints(self, state: State, breath: Breath) -> None:
        stale: list[tuple[ipvs.Key, _Fingerprint]] = []
        actual, wanted = kernel_table(state), state.desired.table
        for vip in state.config.vips:
            for service in vip.services:
                for address in vip.addresses:
                    key = service_key(address, service)
                    found = self.fingerprints.get(key)
                    now = actual.get(key), wanted.get(key)
                    if (
                        found is not None
                        and _chooses_alike(found.actual, now[0])
                        and _chooses_alike(found.wanted, now[1])
                    ):
                        found.actual, found.wanted = now
                    else:
                        stale.append((key, _Fingerprint(now[0], now[1], None)))
                    await breath()
        if stale:
            self.fingerprints.update(await asyncio.to_thread(_taken, stale))


def _chooses_alike(one: ipvs.ServiceEntry | None, other: ipvs.ServiceEntry | None) -> bool:
    """Whether nothing that a fingerprint is made of differs: to look is cheaper than to make one."""
    if one is other:
        return True
    if one is None or other is None or len(one.destinations) != len(other.destinations):
        return False
    return one.settings == other.settings and all(
        old is new
        or (
            old.table_weight == new.table_weight
            and (not old.weight) == (not new.weight)
            and old.port == new.port
            and old.address == new.address
        )
        for old, new in zip(one.destinations, other.destinations, strict=True)
    )


def _laid_out(config: Config) -> dict[tuple[str, str], Block]:
    blocks = {}
    for vip in config.vips:
        for service in vip.services:
            found = rows(vip, service)
            blocks[vip.name, service.name] = Block(vip, service, found, [None] * len(found))
    return blocks


def _taken(stale: list[tuple[ipvs.Key, _Fingerprint]]) -> list[tuple[ipvs.Key, _Fingerprint]]:
    for _, one in stale:
        if one.actual is not None and one.wanted is not None:
            one.value = ipvs.fingerprint(one.actual, one.wanted)
    return stale


async def _refresh(block: Block, look: Look, breath: Breath) -> None:
    state, before = look.state, block.inputs
    keys = (
        tuple({key: None for row in block.rows for key in row.services}) if before is None else before.tables
    )
    wanted, held = state.desired.table, kernel_table(state)
    inputs = _Inputs(
        health=state.health,
        maintenance=state.maintenance,
        plugins=state.plugins if state.rests_on_sessions else None,
        tables={key: (wanted.get(key), held.get(key)) for key in keys},
    )
    if before is not None and before.same(inputs, held=True):
        return
    places: Sequence[int] | None = None
    if before is not None and block.aligned and before.same(inputs, held=False):
        # The kernel was read, that is all: most of the time it holds what it held.
        places = _moved(block, before, inputs)
    for number, place in enumerate(range(len(block.rows)) if places is None else places):
        found = seen(block.rows[place], look)
        if found != block.seen[place]:
            block.seen[place] = found
            block.version += 1  # at once: whoever asked may be gone at the next turn
        if number % _EACH == 0:
            await breath()
    if places is None:
        block.aligned = not any(look.is_out_of_order(one) for pair in inputs.tables.values() for one in pair)
    block.inputs = inputs


def _moved(block: Block, before: _Inputs, after: _Inputs) -> Sequence[int] | None:
    """The rows of which the kernel tells another thing than before; None: it has other destinations."""
    places: set[tuple[ipvs.Key, int]] = set()
    for key, (_, new) in after.tables.items():
        old = before.tables[key][1]
        if old is new:
            continue
        if old is None or new is None or len(old.destinations) != len(new.destinations):
            return None
        for place, (one, other) in enumerate(zip(old.destinations, new.destinations, strict=True)):
            if one.port != other.port or one.address != other.address:
                return None
            if one.weight != other.weight or one.active != other.active or one.inactive != other.inactive:
                places.add((key, place))
    if not places:
        return ()
    return [
        number
        for number, row in enumerate(block.rows)
        if any((key, row.place) in places for key in row.services)
    ]


class StatusText:
    """The status document as bytes. What `status.document` says, in the same words."""

    def __init__(
        self,
        source: Source,
        board: Board,
        *,
        version: str,
        pid: int,
        clock: Clock = time.monotonic,
        wall: Clock = time.time,
    ) -> None:
        self._source = source
        self._board = board
        self._version = version
        self._pid = pid
        self._clock = clock
        self._wall = wall
        self._epoch: float | None = None
        self._made: tuple[State, bool, float, bytes] | None = None

    async def read(self) -> bytes:
        """Of the state as it is now, or was while the document was being written."""
        async with self._board.lock:
            state, reload_ok, now = self._source.state, self._source.reload_ok, self._clock()
            made = self._made
            if made is None or made[0] is not state or made[1] is not reload_ok or now > made[2] + FRESH:
                made = self._made = (state, reload_ok, now, await self._write(state, reload_ok=reload_ok))
            return made[3]

    async def _write(self, state: State, *, reload_ok: bool) -> bytes:
        breath = Breath()
        await self._board.refresh(state, breath)
        now, wall = self._clock(), self._wall()
        if self._epoch is None or abs(wall - now - self._epoch) > WALL_STEP:
            self._epoch = wall - now
            for block in self._board.blocks.values():
                block.told = []
        clock = status.Clock(now=now, wall=now + self._epoch)
        view = _Holes(self._board)
        routes = status.routing(state, now)
        frame = status.frame(
            state, view.hole(), now=now, wall=wall, version=self._version, pid=self._pid, reload_ok=reload_ok
        )
        before, after = json.dumps(frame, allow_nan=False).encode().split(view.mark)
        pieces = [before, b"["]
        for place, vip in enumerate(state.config.vips):
            body = status.vip_status(state, vip, now=now, wall=wall, routes=routes, view=view)
            parts = json.dumps(body, allow_nan=False).encode().split(view.mark)
            pieces += [b", " if place else b"", parts[0]]
            for service, part in zip(vip.services, parts[1:], strict=True):
                block = self._board.blocks[vip.name, service.name]
                await _write_rows(block, clock, breath)
                pieces += [b"[", *_rows(block, now), b"]", part]
            await breath()
        pieces += [b"]", after, b"\n"]
        return b"".join(pieces)


class _Holes:
    """Leaves room where the servers go."""

    def __init__(self, board: Board) -> None:
        # Nobody who has a word in the document can know it.
        self._word = f"hole {secrets.token_hex(16)}"
        self._board = board
        self.mark = f'"{self._word}"'.encode()

    def hole(self) -> str:
        return self._word

    def servers(self, _vip: Vip, _service: Service) -> Any:
        return self._word

    def fingerprint(self, address: Address, service: Service) -> str | None:
        return self._board.fingerprint(address, service)


def _rows(block: Block, now: float) -> list[bytes]:
    if not block.heads:
        return []
    pieces = [b""] * (2 * len(block.heads))
    pieces[::2] = block.heads
    # A form with holes for all of them would be read byte by byte.
    pieces[1::2] = [b"null" if began is None else b"%.3f" % (now - began) for began in block.since]
    return [*pieces, b"}"]


async def _write_rows(block: Block, clock: status.Clock, breath: Breath) -> None:
    """Bring `heads` to what is seen. What a row says changes by its numbers most of the time: the rest is kept."""
    if not block.told:
        block.told = [None] * len(block.rows)
        block.texts = [(b"", b"", b"")] * len(block.rows)
    elif block.written == block.version and not block.held:
        return
    for place, (found, before) in enumerate(zip(block.seen, block.told, strict=True)):
        held = place in block.held
        if found is None or (found is before and not held):
            continue
        if before is None or held or not _says_the_same(before, found):
            block.texts[place] = _text(block.rows[place], found, clock)
            block.held.discard(place)
            if status.held_down(found.health, clock.now):
                block.held.add(place)
        else:
            first, _, last = block.texts[place]
            block.texts[place] = first, _numbers(found), last
        block.told[place] = found
        if place % _EACH == 0:
            await breath()
    block.since = [None if found is None else status.since_of(found) for found in block.seen]
    block.heads = [(b"}, " if place else b"") + b"".join(texts) for place, texts in enumerate(block.texts)]
    block.written = block.version


def _says_the_same(one: Seen, other: Seen) -> bool:
    """All but the numbers."""
    return one.drained == other.drained and (one.health is other.health or one.health == other.health)


def _text(row: Row, found: Seen, clock: status.Clock) -> tuple[bytes, bytes, bytes]:
    whole = json.dumps(status.server_status(row, found, clock), allow_nan=False).encode()
    # A quotation mark within a text has a backslash before it: these are the keys.
    first, last = whole.index(b', "weight": '), whole.index(b', "since": ')
    return whole[:first], whole[first:last], whole[last:-1] + b', "since_s": '


def _numbers(found: Seen) -> bytes:
    weight = "null" if found.weight is None else found.weight
    kernel_weight = "null" if found.kernel_weight is None else found.kernel_weight
    return (
        f', "weight": {weight}, "kernel_weight": {kernel_weight}, '
        f'"active": {found.active}, "inactive": {found.inactive}'
    ).encode()
