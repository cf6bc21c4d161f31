"""What the kernel tells by itself: links and addresses. IPVS tells nothing; its table has to be read."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Iterator

_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
_GROUPS = _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR
_NEWLINK, _DELLINK, _NEWADDR, _DELADDR = 16, 17, 20, 21
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 1 << 20
_RECEIVE = 65536
# struct ifinfomsg and struct ifaddrmsg both have the interface's index 4 bytes in.
_HEADER_AND_INDEX = struct.Struct("=IHHII4xI")


async def watch(interface: str, on_change: Callable[[], None]) -> None:
    """Calls `on_change` when the interface or its addresses may have changed. Runs until it is cancelled.

    The first call comes as soon as it listens: what happened before may have been missed. The same holds when
    the kernel had more to tell than the socket could hold. Many changes at once may be one call. Raises OSError.
    """
    while True:
        with contextlib.closing(_open()) as line:
            on_change()
            try:
                await _listen(line, interface, on_change)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise


async def _listen(line: socket.socket, interface: str, on_change: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    index = _index(interface)
    while True:
        data = await loop.sock_recv(line, _RECEIVE)
        before, index = index, _index(interface)  # made anew, an interface has another index
        if before != index or index in changed(data):
            on_change()
        await asyncio.sleep(0)


def changed(data: bytes) -> frozenset[int]:
    """The indexes of the interfaces that the messages of one datagram speak of."""
    return frozenset(_indexes(data))


def _indexes(data: bytes) -> Iterator[int]:
    offset = 0
    while len(data) - offset >= _HEADER_AND_INDEX.size:
        length, kind, _, _, _, index = _HEADER_AND_INDEX.unpack_from(data, offset)
        if kind in (_NEWLINK, _DELLINK, _NEWADDR, _DELADDR):
            yield index
        offset += max((length + 3) & ~3, 16)


def _index(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0


def _open() -> socket.socket:
    line = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        line.setblocking(False)
        with contextlib.suppress(PermissionError):
            line.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        line.bind((0, _GROUPS))
    except BaseException:
        line.close()
        raise
    return line
