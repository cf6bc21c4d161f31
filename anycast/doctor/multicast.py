"""Listens for a moment to what other balancers announce by connection sync. Sends nothing."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Collection

from anycast.core.values.configuration import ConnectionSync
from anycast.doctor.facts import Heard
from anycast.doctor.sync import hear

MOMENT = 2.5  # seconds: a master sends what it has after two
_LARGEST = 65536  # bytes of a datagram
_SOCKET_BUFFER = 1 << 20  # bytes


async def listen(sync: ConnectionSync, own: Collection[str], moment: float = MOMENT) -> Heard:
    """`own`: this node's addresses, whose messages are its own. Raises OSError: it cannot listen there."""
    heard = Heard()
    loop = asyncio.get_running_loop()
    with _joined(sync) as line:
        try:
            async with asyncio.timeout(moment):
                while True:
                    datagram, origin = await loop.sock_recvfrom(line, _LARGEST)
                    sender = origin[0].partition("%")[0]
                    if sender not in own:
                        heard = hear(heard, datagram, sender, sync)
        except TimeoutError:
            return heard


def _joined(sync: ConnectionSync) -> socket.socket:
    """The kernel's daemon hears the same group, and both get every message."""
    index = socket.if_nametoindex(sync.interface)
    family = socket.AF_INET6 if sync.group.version == 6 else socket.AF_INET
    line = socket.socket(family, socket.SOCK_DGRAM)
    try:
        line.setblocking(False)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER)
        if family == socket.AF_INET6:
            line.bind((str(sync.group), sync.port, 0, index))
            join = sync.group.packed + struct.pack("@I", index)
            line.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, join)
        else:
            line.bind((str(sync.group), sync.port))
            join = sync.group.packed + socket.inet_aton("0.0.0.0") + struct.pack("@i", index)
            line.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, join)
    except OSError:
        line.close()
        raise
    return line
