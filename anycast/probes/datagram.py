"""Datagrams with a target, by a socket or by the way of clients' packets, and the udp check."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from errno import ECONNREFUSED
from typing import Protocol

from anycast.core.values.checks import UdpCheck
from anycast.core.values.configuration import Address
from anycast.probes.finding import OK, Finding, Progress, fail, place
from anycast.probes.udp import connected
from anycast.probes.wire.waiting import datagrams
from anycast.regex import compiled

__all__ = ["LARGEST", "UNREACHABLE", "check", "talking"]

LARGEST = 65535  # bytes of a datagram
UNREACHABLE = "port unreachable (ICMP)"
_SHOWN = 60  # bytes of a reply


class Talk(Protocol):
    """Datagrams with the target alone."""

    def send(self, data: bytes) -> None: ...

    async def receive(self) -> bytes:
        """Raises OSError: ECONNREFUSED is the ICMP error "port unreachable"."""
        ...

    @property
    def name(self) -> str:
        """Our end of it."""
        ...


class _Socket:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    @property
    def name(self) -> str:
        return place(self.sock.getsockname())

    def send(self, data: bytes) -> None:
        self.sock.send(data)

    async def receive(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.sock, LARGEST)


@asynccontextmanager
async def talking(address: Address, port: int, progress: Progress) -> AsyncIterator[Talk]:
    """With `progress.to_vip` by the way of clients' packets. Raises OSError, PeerError, UnusableError."""
    if progress.to_vip is not None:
        async with datagrams(progress.to_vip, port, progress) as talk:
            yield talk
        return
    with connected(address, port) as sock:
        yield _Socket(sock)


async def check(kind: UdpCheck, address: Address, port: int, progress: Progress) -> Finding:
    """OK if the reply is as expected, or nobody says that the port is closed. Raises OSError, RegexError."""
    pattern = compiled(kind.expect) if kind.expect is not None else None
    async with talking(address, port, progress) as talk:
        try:
            progress.missing = "reply"
            talk.send(kind.send)
            progress.say("sent %d bytes from %s", len(kind.send), talk.name)
            reply = await (talk.receive() if kind.wants_reply else _within(talk, kind.quiet))
        except ConnectionRefusedError:
            return fail(UNREACHABLE)
    progress.heard = reply is not None
    if reply is None:
        progress.say("no ICMP error within %g s", kind.quiet)
        return OK
    progress.say("reply of %d bytes: %r", len(reply), reply[:_SHOWN])
    if not reply.startswith(kind.prefix):
        return fail(f"the reply begins {reply[:_SHOWN].hex()}, expected {kind.prefix.hex()}")
    if pattern is not None and not pattern.search(reply):
        shown = reply[:_SHOWN].decode(errors="replace")
        return fail(f"the reply does not hold {kind.expect!r}, it begins {shown!r}")
    return OK


async def _within(talk: Talk, seconds: float) -> bytes | None:
    """The reply, if one comes in time. Raises OSError: ECONNREFUSED is the ICMP error."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await talk.receive()
    except TimeoutError:
        if not limit.expired():
            raise  # the kernel's ETIMEDOUT
    # An agent that looks late finds the timer expired and the error waiting.
    if isinstance(talk, _Socket) and (code := talk.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
        raise ConnectionRefusedError(code, "") if code == ECONNREFUSED else OSError(code, "")
    return None
