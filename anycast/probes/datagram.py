"""A connected UDP socket, and the udp check.

Connected, the socket hears of ICMP errors and of nobody but the target.
"""

from __future__ import annotations

import asyncio
import socket
from errno import ECONNREFUSED

from anycast.core.values.checks import UdpCheck
from anycast.core.values.configuration import Address
from anycast.probes.finding import OK, Finding, Progress, fail, place
from anycast.regex import compiled

__all__ = ["LARGEST", "UNREACHABLE", "check", "connected"]

LARGEST = 65535  # bytes of a datagram
UNREACHABLE = "port unreachable (ICMP)"
_SHOWN = 60  # bytes of a reply


def connected(address: Address, port: int) -> socket.socket:
    """A non-blocking socket that speaks with the target alone; the caller closes it. Raises OSError."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.connect((str(address), port))
    except BaseException:
        sock.close()
        raise
    return sock


async def check(kind: UdpCheck, address: Address, port: int, progress: Progress) -> Finding:
    """OK if the reply is as expected, or nobody says that the port is closed. Raises OSError, RegexError."""
    pattern = compiled(kind.expect) if kind.expect is not None else None
    loop = asyncio.get_running_loop()
    with connected(address, port) as sock:
        try:
            progress.missing = "reply"
            await loop.sock_sendall(sock, kind.send)
            progress.say("sent %d bytes from %s", len(kind.send), place(sock.getsockname()))
            reply = await (loop.sock_recv(sock, LARGEST) if kind.wants_reply else _within(sock, kind.quiet))
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


async def _within(sock: socket.socket, seconds: float) -> bytes | None:
    """The reply, if one comes in time. Raises OSError: ECONNREFUSED is the ICMP error."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await asyncio.get_running_loop().sock_recv(sock, LARGEST)
    except TimeoutError:
        if not limit.expired():
            raise  # the kernel's ETIMEDOUT
    # An agent that looks late finds the timer expired and the error waiting.
    if (code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) == ECONNREFUSED:
        raise ConnectionRefusedError(code, "")
    if code:
        raise OSError(code, "")
    return None
