"""Real servers as rows, made once for a configuration, and their state, worked out anew where it can have changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from anycast.core.dataplane import ipvs
from anycast.core.dataplane.members import service_key
from anycast.core.health.aim import targets_of
from anycast.core.state import State, drained_scopes, kernel_table
from anycast.core.values.configuration import Address, Config, Service, Target, Vip
from anycast.core.values.persistent import changed
from anycast.ops import status
from anycast.ops.servers import Look, Row, Seen, counts_of, rows, seen
from anycast.ops.traffic import Traffic

Key: TypeAlias = tuple[str, str]
"""The names of a VIP and of a service of it."""


@dataclass(frozen=True, slots=True)
class Block:
    """The servers of one service of one VIP."""

    vip: Vip
    service: Service
    rows: tuple[Row, ...]

    @property
    def key(self) -> Key:
        return self.vip.name, self.service.name


@dataclass(slots=True)
class _Index:
    """The blocks of a configuration, and which of them rest on a thing."""

    config: Config
    blocks: dict[Key, Block]
    by_target: dict[Target, list[Key]] = field(default_factory=dict)
    by_service: dict[ipvs.Key, list[Key]] = field(default_factory=dict)
    by_rule: set[Key] = field(default_factory=set)  # those with a check made of others, sessions perhaps

    def __post_init__(self) -> None:
        for key, block in self.blocks.items():
            keys = (service_key(one, block.service) for one in block.vip.addresses)
            for service in dict.fromkeys(keys):
                self.by_service.setdefault(service, []).append(key)
            for row in block.rows:
                if not isinstance(row.check, Target):
                    self.by_rule.add(key)
                for target in targets_of(row.check):
                    at = self.by_target.setdefault(target, [])
                    if not at or at[-1] != key:
                        at.append(key)


class Board:
    """What is seen in one state. A value of `seen` and of `prints` that has not changed is the same object as before."""

    def __init__(
        self,
        state: State,
        blocks: Mapping[Key, Block],
        seen: dict[Key, list[Seen]],
        prints: dict[Key, dict[Address, str | None]],
    ) -> None:
        self.state = state
        self.blocks = blocks
        self.seen = seen  # of each block, in the order of its rows
        self.prints = prints  # the fingerprints of each block's tables; None: it is not in the kernel

    def fingerprint(self, vip: Vip, address: Address, service: Service) -> str | None:
        return self.prints[vip.name, service.name][address]

    def view(self, clock: status.Clock, traffic: Traffic | None = None) -> status.View:
        """For the status."""
        return _View(self, clock, traffic)


class _View:
    def __init__(self, board: Board, clock: status.Clock, traffic: Traffic | None) -> None:
        self._board = board
        self._clock = clock
        self._traffic = traffic

    def servers(self, vip: Vip, service: Service) -> Any:
        key = vip.name, service.name
        pairs = zip(self._board.blocks[key].rows, self._board.seen[key], strict=True)
        whole = status.service_rates(vip, service, self._clock.now, self._traffic)
        return status.servers_status(pairs, whole, self._clock, self._traffic)

    def fingerprint(self, vip: Vip, address: Address, service: Service) -> str | None:
        return self._board.fingerprint(vip, address, service)


class Boards:
    """The newest board. The next one costs what has changed since: rows for another VIP, what is seen for another state."""

    def __init__(self) -> None:
        self._index: _Index | None = None
        self._board: Board | None = None

    def of(self, state: State) -> Board:
        if self._index is None or state.config is not self._index.config:
            self._index = _index(state.config, self._index)
        before, blocks = self._board, self._index.blocks
        if before is not None and before.state is state:
            return before
        if before is None:
            anew: Iterable[Key] = blocks
        elif before.state.config is not state.config:
            # What is the same object as before has the same rows; what else has changed is found as ever.
            same = {key for key, block in blocks.items() if before.blocks.get(key) is block}
            anew = (blocks.keys() - same) | set(_touched(self._index, before.state, state))
        else:
            anew = set(_touched(self._index, before.state, state))
        self._board = _board(state, blocks, anew, before)
        return self._board


def _index(config: Config, before: _Index | None) -> _Index:
    known = {} if before is None else before.blocks
    blocks: dict[Key, Block] = {}
    for vip in config.vips:
        for service in vip.services:
            block = known.get((vip.name, service.name))
            if block is None or block.vip is not vip:
                block = Block(vip, service, rows(vip, service))
            blocks[block.key] = block
    return _Index(config, blocks)


def _touched(index: _Index, old: State, new: State) -> Iterator[Key]:
    """The blocks on which anything that is seen of them rests and has changed."""
    out = drained_scopes(old) ^ drained_scopes(new)
    if out:
        yield from (key for key, block in index.blocks.items() if any(row.scope in out for row in block.rows))
    if old.plugins is not new.plugins:
        yield from index.by_rule
    for target in changed(old.health, new.health):
        yield from index.by_target.get(target, ())
    tables = (
        (old.desired.table, new.desired.table),
        (kernel_table(old), kernel_table(new)),
        (counts_of(old), counts_of(new)),
    )
    for before, after in tables:
        for service in changed(before, after):
            yield from index.by_service.get(service, ())


def _board(state: State, blocks: Mapping[Key, Block], anew: Iterable[Key], before: Board | None) -> Board:
    look = Look(state)
    found: dict[Key, list[Seen]] = {} if before is None else before.seen.copy()
    prints: dict[Key, dict[Address, str | None]] = {} if before is None else before.prints.copy()
    for key in anew:
        block = blocks.get(key)
        if block is None:
            continue
        fresh = [seen(row, look) for row in block.rows]
        if not _same(fresh, found.get(key)):
            found[key] = fresh
        tables = {one: status.fingerprint(state, one, block.service) for one in block.vip.addresses}
        if tables != prints.get(key):
            prints[key] = tables
    if before is not None and before.blocks is not blocks:
        for key in before.blocks.keys() - blocks.keys():
            del found[key], prints[key]
    return Board(state, blocks, found, prints)


def _same(fresh: Sequence[Seen], known: Sequence[Seen] | None) -> bool:
    return known is not None and fresh == known
