"""The tcp check: a completed handshake. Also the connection the HTTP check rests on."""

from __future__ import annotations

import asyncio
import socket
import struct
from errno import ECONNREFUSED

from anycast.core.values.checks import TcpCheck
from anycast.core.values.configuration import Address
from anycast.probes.finding import OK, Finding, Progress

__all__ = ["check", "connect"]

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


async def check(_kind: TcpCheck, address: Address, port: int, progress: Progress) -> Finding:
    """OK once the handshake is complete. Raises OSError."""
    with await connect(address, port):
        progress.say("handshake complete")
        return OK


async def connect(address: Address, port: int) -> socket.socket:
    """A connected, non-blocking socket; the caller closes it. Raises OSError.

    Closing it sends RST. A FIN would leave the connection in TIME_WAIT for 60 s, and 500 probes a second
    would use up the local ports.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        await asyncio.get_running_loop().sock_connect(sock, (str(address), port))
        # With nobody listening, TCP may pick the target's own port as the local one and shake hands with itself.
        if address.is_loopback and sock.getsockname()[:2] == (str(address), port):
            raise ConnectionRefusedError(ECONNREFUSED, "connected to itself")
    except BaseException:
        sock.close()
        raise
    return sock
