"""What is served of thousands of real servers, kept from one reading to the next.

A state is immutable: it is read over many turns of the event loop, in slices, so that nobody waits long for a turn.
What has not changed since the reading before is not written anew.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from anycast.core import ipvs
from anycast.core.members import service_key
from anycast.core.model import Address, Config, Service, Vip
from anycast.core.state import State, kernel_table
from anycast.ops import status
from anycast.ops.servers import Look, Row, Seen, rows, seen
from anycast.ops.source import Source

SLICE = 0.004  # seconds of work until others have a turn
FRESH = 0.1  # seconds a document of the same state is good for, however many ask
WALL_STEP = 0.5  # seconds the wall clock may move against the monotonic one before instants are written anew
_EACH = 64  # servers between two looks at the clock

Clock = Callable[[], float]


class Breath:
    """Gives others a turn where the work so far has lasted for a slice."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    async def __call__(self) -> None:
        if time.perf_counter() - self._began > SLICE:
            await asyncio.sleep(0)
            self._began = time.perf_counter()


@dataclass(slots=True)
class Block:
    """The servers of one service of one VIP, and what is written of them."""

    vip: Vip
    service: Service
    rows: tuple[Row, ...]
    seen: list[Seen | None]
    version: int = 0  # goes up with every change of `seen`
    inputs: tuple[object, ...] = ()
    heads: list[str] = field(
        default_factory=list
    )  # of the status, up to the value of `since_s`; empty: to be written
    since: list[float | None] = field(default_factory=list)
    held: set[int] = field(default_factory=set)  # places whose head tells how long yet it is held down
    written: int = -1  # the version that `heads` say
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
    state = look.state
    keys = {key for row in block.rows for key in row.services} if not block.inputs else None
    table = kernel_table(state)
    services = block.inputs[0] if keys is None else tuple(keys)
    assert isinstance(services, tuple)  # noqa: S101 - for the type checker
    inputs: tuple[object, ...] = (
        services,
        state.health,
        state.maintenance,
        state.announcers if state.rests_on_sessions else None,
        *(table.get(key) for key in services),
        *(state.desired.table.get(key) for key in services),
    )
    if len(inputs) == len(block.inputs) and all(map(_same, inputs, block.inputs)):
        return
    changed = False
    for place, row in enumerate(block.rows):
        found = seen(row, look)
        if found != block.seen[place]:
            block.seen[place] = found
            if block.heads:
                block.heads[place] = ""
            changed = True
        if place % _EACH == 0:
            await breath()
    block.inputs = inputs
    block.version += changed


def _same(one: object, other: object) -> bool:
    return one is other


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
                block.heads = []
        clock = status.Clock(now=now, wall=now + self._epoch)
        view = _Holes(self._board)
        routes = status.routing(state)
        frame = status.frame(
            state, view.hole(), now=now, wall=wall, version=self._version, pid=self._pid, reload_ok=reload_ok
        )
        before, after = json.dumps(frame, allow_nan=False).split(view.mark)
        pieces = [before, "["]
        for place, vip in enumerate(state.config.vips):
            body = status.vip_status(state, vip, now=now, wall=wall, routes=routes, view=view)
            parts = json.dumps(body, allow_nan=False).split(view.mark)
            pieces += [", " if place else "", parts[0]]
            for service, part in zip(vip.services, parts[1:], strict=True):
                block = self._board.blocks[vip.name, service.name]
                pieces.append("[")
                await _write_heads(block, clock, breath)
                for piece in _servers(block, clock):
                    pieces.append(piece)
                    await breath()
                pieces += ["]", part]
            await breath()
        pieces += ["]", after, "\n"]
        return "".join(pieces).encode()


class _Holes:
    """Leaves room where the servers go."""

    def __init__(self, board: Board) -> None:
        # Nobody who has a word in the document can know it.
        self._word = f"hole {secrets.token_hex(16)}"
        self._board = board
        self.mark = f'"{self._word}"'

    def hole(self) -> str:
        return self._word

    def servers(self, _vip: Vip, _service: Service) -> Any:
        return self._word

    def fingerprint(self, address: Address, service: Service) -> str | None:
        return self._board.fingerprint(address, service)


def _servers(block: Block, clock: status.Clock) -> Iterator[str]:
    """The rows of a service, some at a time, so that others can have a turn between."""
    now, heads, since = clock.now, block.heads, block.since
    for first in range(0, len(heads), _EACH):
        last = first + _EACH
        texts = [
            f"{head}null}}" if began is None else f"{head}{now - began:.3f}}}"
            for head, began in zip(heads[first:last], since[first:last], strict=True)
        ]
        yield (", " if first else "") + ", ".join(texts)


async def _write_heads(block: Block, clock: status.Clock, breath: Breath) -> None:
    if not block.heads:
        block.heads = [""] * len(block.rows)
        block.since = [None] * len(block.rows)
    elif block.written == block.version and not block.held:
        return
    for place in block.held:
        block.heads[place] = ""
    block.held.clear()
    for place, (row, found) in enumerate(zip(block.rows, block.seen, strict=True)):
        if found is not None and not block.heads[place]:
            body = status.server_status(row, found, clock)
            block.heads[place] = json.dumps(body, allow_nan=False)[:-1] + ', "since_s": '
            block.since[place] = status.since_of(found)
            if status.held_down(found.health, clock.now):
                block.held.add(place)
            await breath()
    block.written = block.version
