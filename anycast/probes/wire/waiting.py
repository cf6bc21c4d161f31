"""The same for checks that are tasks: a stream over a connection of ours, and datagrams."""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from errno import EADDRINUSE

from anycast.core.values.configuration import Target
from anycast.probes.finding import OK, Finding, Progress, place
from anycast.probes.wire import packet as of
from anycast.probes.wire.connection import Connection, what_failed
from anycast.probes.wire.packet import Error, Parts
from anycast.probes.wire.sending import Link, Tunnelled, sending
from anycast.probes.wire.wire import Wire, holder, of_loop

__all__ = ["Datagrams", "Wired", "datagrams", "wired"]

_TRIES = 8  # ports, of which another program may have one
_KEPT = 64  # datagrams


class Wired:
    """A connection that is waited for. As `stream.Plain`, without its limit."""

    warning: Finding = OK

    def __init__(self, target: Target, port: int, progress: Progress) -> None:
        """Raises OSError, PeerError, UnusableError."""
        self._changed = asyncio.Event()
        self._ready = False
        wire = of_loop()
        self.connection = Connection(wire, target, port, self._notify, progress)
        wire.settle(1)

    def _notify(self, _: Connection, events: int) -> None:
        self._ready = self._ready or bool(events & (select.EPOLLOUT | select.EPOLLERR))
        self._changed.set()

    async def connected(self) -> None:
        """Raises OSError, PeerError, UnusableError."""
        while not self._ready:
            self._changed.clear()
            await self._changed.wait()
        self.connection.getsockopt(0, 0)

    async def send(self, data: bytes) -> None:
        while data:
            self._changed.clear()
            try:
                data = data[self.connection.send(data) :]
            except BlockingIOError:
                await self._changed.wait()
        of_loop().settle(1)

    async def receive(self, size: int) -> bytes:
        while True:
            self._changed.clear()
            try:
                return self.connection.recv(size)
            except BlockingIOError:
                await self._changed.wait()

    def finish(self) -> None:
        self.connection.finish()
        of_loop().settle(1)


@asynccontextmanager
async def wired(target: Target, port: int, progress: Progress) -> AsyncIterator[Wired]:
    """A connection to the VIP at the target. Raises OSError, PeerError, UnusableError."""
    opening = Wired(target, port, progress)
    try:
        await opening.connected()
        yield opening
    finally:
        opening.connection.close()


class Datagrams:
    """Datagrams to the VIP at one real server and back."""

    def __init__(self, wire: Wire, way: Link | Tunnelled, target: Target, port: int) -> None:
        """Raises OSError, UnusableError."""
        self._wire, self._way, self._vip, self._port = wire, way, way.vip, port
        self._address = target.address
        self._ends = way.ends
        self.source = self._ends.source
        self._came: deque[bytes | Exception] = deque(maxlen=_KEPT)
        self._changed = asyncio.Event()
        self.own = wire.open(port, self._ends.destination, of.UDP, self)

    @property
    def name(self) -> str:
        return place((self._way.source, self.own))

    def send(self, data: bytes) -> None:
        """Raises OSError."""
        self._way.send(self._ends.udp((self.own, self._port), data))
        self._wire.settle(1)

    async def receive(self) -> bytes:
        """Raises OSError, PeerError: what an ICMP error says."""
        while not self._came:
            self._changed.clear()
            await self._changed.wait()
        found = self._came.popleft()
        if isinstance(found, Exception):
            raise found
        return found

    def take(self, packet: bytes, parts: Parts) -> None:
        self._put(packet[parts.at + 8 : parts.end])

    def told(self, error: Error) -> None:
        failure = what_failed(error, self._way, self._vip)
        if failure is not None:
            self._put(failure)

    def _put(self, what: bytes | Exception) -> None:
        self._came.append(what)
        self._changed.set()

    def concerns(self, server: bytes) -> bool:
        return isinstance(self._way, Tunnelled) and self._address.packed == server

    def close(self) -> None:
        self._wire.shut(self.own, self._port, self._ends.destination, of.UDP)


@asynccontextmanager
async def datagrams(target: Target, port: int, progress: Progress) -> AsyncIterator[Datagrams]:
    """Raises OSError, PeerError, UnusableError."""
    wire = of_loop()
    way = sending(wire, target)
    if isinstance(way, Link):
        await way.resolve(progress)
        progress.missing = "answer"
        progress.advice = f": is {target.vip} on lo of the server?"
    else:
        progress.advice = (
            f" from {target.vip} by {way.tunnel.type} to {way.address}: does it unwrap, is the VIP on lo?"
        )
    for tries in range(_TRIES):
        talk = Datagrams(wire, way, target, port)
        try:
            held = holder(way.source, talk.own)
        except OSError as error:
            talk.close()
            if error.errno != EADDRINUSE or tries == _TRIES - 1:
                raise
            continue
        with held:
            try:
                yield talk
            finally:
                talk.close()
        return
