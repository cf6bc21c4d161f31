"""The send hold timer (RFC 9687), of which ExaBGP has none: a router that is alive and takes nothing keeps no session.

What ExaBGP acknowledges it has handed to the kernel. A router that goes on sending keepalives and reads nothing keeps the
session, and with it every route that was withdrawn since. So the kernel is asked what of these connections waits to be
taken. Where nothing has been taken for the hold time, for which the router should have had no keepalive, the connection
is ended: the router gets a RST, and drops the routes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from anycast.agent.conditions import Conditions
from anycast.core.values.configuration import Bgp
from anycast.core.values.standing import Condition
from anycast.kernel.netlink_codec import Malformed
from anycast.kernel.tcp_codec import Connection, Sending

PERIOD = 0.5  # seconds between two looks
FIND = 5.0  # seconds between two searches, while a session has no connection that is known
_ABOUT = "sessions"
NOTICED = 1.5  # seconds without a byte taken from which on it stands: a lost packet is sent again before that

log = structlog.get_logger()


class Tcp(Protocol):
    """`anycast.kernel.tcp.Tcp`"""

    async def find(self, families: Iterable[int], ports: Iterable[int]) -> list[Sending]: ...
    async def look(self, one: Connection) -> Sending | None: ...
    async def end(self, one: Connection) -> None: ...


@dataclass(slots=True, kw_only=True)
class _Watched:
    """A connection of a neighbor. `since`: from then on bytes have waited and none was taken; None: none waits."""

    neighbor: str
    connection: Connection
    taken: int = -1
    since: float | None = None
    refused: str = ""  # why it cannot be ended

    def seen(self, sending: Sending, now: float) -> None:
        if not sending.waiting:
            self.since = None
        elif self.since is None or sending.taken != self.taken:
            self.since = now
        self.taken = sending.taken

    def for_s(self, now: float) -> float:
        return 0.0 if self.since is None else now - self.since


@dataclass(slots=True, kw_only=True)
class SendHold:
    """`bgp`: the sessions as they are configured now. `up`: the neighbors, as text, whose session is up."""

    bgp: Callable[[], Bgp]
    up: Callable[[], frozenset[str]]
    tcp: Tcp
    conditions: Conditions
    clock: Callable[[], float] = time.monotonic
    _watched: dict[bytes, _Watched] = field(default_factory=dict)
    _find_at: float = 0.0
    _deaf: frozenset[str] = frozenset()

    async def watch(self) -> None:
        """Runs until it is cancelled."""
        while True:
            try:
                await self.look()
            except (OSError, Malformed) as error:
                what = f"what BGP sessions have to send cannot be read ({error}): a router that reads nothing keeps its session"
                self.conditions.begin(Condition.KERNEL_UNWATCHED, what, about=_ABOUT)
                await asyncio.sleep(FIND)
            else:
                self.conditions.end(Condition.KERNEL_UNWATCHED, about=_ABOUT)
            await asyncio.sleep(PERIOD)

    async def look(self) -> None:
        """Once. Raises OSError, Malformed."""
        bgp = self.bgp()
        for cookie, one in list(self._watched.items()):
            sending = await self.tcp.look(one.connection)
            if sending is None:
                del self._watched[cookie]
            else:
                one.seen(sending, self.clock())
        await self._find(bgp)
        for cookie, one in list(self._watched.items()):
            if one.for_s(self.clock()) >= bgp.hold_time and await self._ended(one):
                del self._watched[cookie]
        self._tell(bgp.hold_time)

    async def _find(self, bgp: Bgp) -> None:
        """The connections of sessions of which none is known."""
        now, known = self.clock(), {one.neighbor for one in self._watched.values()}
        lacking = self.up() - known
        if not lacking or now < self._find_at:
            return
        self._find_at = now + FIND
        wanted = {each.address.packed: each for each in bgp.neighbors if str(each.address) in lacking}
        families = {each.address.version for each in wanted.values()}
        ports = {bgp.listen_port, *(each.port for each in wanted.values())}
        for sending in await self.tcp.find(sorted(families), sorted(ports)):
            one = sending.connection
            neighbor = wanted.get(one.remote.packed)
            if neighbor is None or (one.remote_port != neighbor.port and one.local_port != bgp.listen_port):
                continue
            watched = _Watched(neighbor=str(neighbor.address), connection=one)
            watched.seen(sending, now)
            self._watched[one.cookie] = watched

    async def _ended(self, one: _Watched) -> bool:
        seconds = round(one.for_s(self.clock()), 1)
        try:
            await self.tcp.end(one.connection)
        except OSError as error:
            one.refused = error.strerror or str(error)
            return False
        log.error("session.ended", neighbor=one.neighbor, seconds=seconds)
        return True

    def _tell(self, hold_time: float) -> None:
        now = self.clock()
        deaf: Mapping[str, _Watched] = {
            one.neighbor: one for one in self._watched.values() if one.for_s(now) >= NOTICED
        }
        for neighbor, one in deaf.items():
            self.conditions.begin(Condition.ROUTER_DEAF, _words(one, hold_time), about=neighbor)
        for neighbor in self._deaf - deaf.keys():
            self.conditions.end(Condition.ROUTER_DEAF, about=neighbor)
        self._deaf = frozenset(deaf)


def _words(one: _Watched, hold_time: float) -> str:
    what = f"the router {one.neighbor} keeps its session and takes nothing of what it is sent: withdrawn routes stay there"
    if one.refused:
        return f"{what}, and the connection cannot be ended from here ({one.refused}): restart ExaBGP"
    return f"{what}, until its connection is ended, {hold_time:g} s after the last byte that it took"
