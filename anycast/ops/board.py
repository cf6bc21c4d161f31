"""Real servers as rows, made once for a configuration, and their state, computed once for a state of the node."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from anycast.core.state import State
from anycast.core.values.configuration import Address, Config, Service, Vip
from anycast.ops import status
from anycast.ops.servers import Look, Row, Seen, rows, seen

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


class Board:
    """What is seen in one state."""

    def __init__(self, state: State, blocks: Iterable[Block]) -> None:
        self.state = state
        self.blocks = {block.key: block for block in blocks}

    @cached_property
    def seen(self) -> dict[Key, list[Seen]]:
        """Of each block, in the order of its rows."""
        look = Look(self.state)
        return {key: [seen(row, look) for row in block.rows] for key, block in self.blocks.items()}

    @cached_property
    def fingerprints(self) -> dict[tuple[Address, str], str | None]:
        """By address and service; None: it is not in the kernel."""
        return {
            (address, block.service.name): status.fingerprint(self.state, address, block.service)
            for block in self.blocks.values()
            for address in block.vip.addresses
        }

    def view(self, clock: status.Clock) -> status.View:
        """For the status."""
        return _View(self, clock)


class _View:
    def __init__(self, board: Board, clock: status.Clock) -> None:
        self._board = board
        self._clock = clock

    def servers(self, vip: Vip, service: Service) -> Any:
        key = vip.name, service.name
        pairs = zip(self._board.blocks[key].rows, self._board.seen[key], strict=True)
        return [status.server_status(row, one, self._clock) for row, one in pairs]

    def fingerprint(self, address: Address, service: Service) -> str | None:
        return self._board.fingerprints[address, service.name]


class Boards:
    """The newest board: made anew for another state, its rows for another configuration."""

    def __init__(self) -> None:
        self._config: Config | None = None
        self._blocks: tuple[Block, ...] = ()
        self._board: Board | None = None

    def of(self, state: State) -> Board:
        if state.config is not self._config:
            self._config = state.config
            self._blocks = tuple(
                Block(vip, service, rows(vip, service))
                for vip in state.config.vips
                for service in vip.services
            )
        if self._board is None or self._board.state is not state:
            self._board = Board(state, self._blocks)
        return self._board
