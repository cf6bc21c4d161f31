"""The kernel's announcements of links, addresses, and forwarding for all interfaces.

It announces nothing of IPVS: its table and sysctls have to be read.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Iterator
from typing import TypeAlias

from anycast.core.values.configuration import Address
from anycast.kernel.address_codec import changed, lost
from anycast.kernel.netconf_codec import everywhere
from anycast.kernel.netlink import RECEIVE, open_socket

BURST = 0.1  # seconds: after a change, what follows within them is one change

_NETLINK_ROUTE = 0
_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
_RTMGRP_IPV4_NETCONF, _RTMGRP_IPV6_NETCONF = 0x800000, 0x1000000
_GROUPS = (
    _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR | _RTMGRP_IPV4_NETCONF | _RTMGRP_IPV6_NETCONF
)
_AT_ONCE = 1000  # datagrams in one turn of the event loop


OnChange: TypeAlias = Callable[[frozenset[Address]], None]
"""Is told which addresses went, as far as the kernel has announced it."""


async def watch(interface: str, on_change: OnChange) -> None:
    """Calls `on_change` when the interface, its addresses or a setting for all interfaces (`ip_forward`) may have changed.

    Runs until it is cancelled. The first call comes as soon as it listens: what happened before may have been missed. The same holds when
    the kernel had more to announce than the socket could hold. A change is told at once, a burst of them by one
    call more at its end, or each BURST while it lasts. Raises OSError.
    """
    while True:
        with contextlib.closing(open_socket(_NETLINK_ROUTE, groups=_GROUPS)) as line:
            on_change(frozenset())
            try:
                await _listen(line, interface, on_change)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise


async def _listen(line: socket.socket, interface: str, on_change: OnChange) -> None:
    loop = asyncio.get_running_loop()
    index = _index(interface)
    while True:
        datagrams = [await loop.sock_recv(line, RECEIVE), *_waiting(line)]
        indexes = {each for data in datagrams for each in changed(data)}
        settings = any(map(everywhere, datagrams))
        before, index = index, _index(interface)  # made anew, an interface has another index
        if before != index or index in indexes or settings:
            on_change(lost(index, datagrams) if index in indexes else frozenset())
            await asyncio.sleep(BURST)
        await asyncio.sleep(0)


def _waiting(line: socket.socket) -> Iterator[bytes]:
    """The datagrams that have come already."""
    with contextlib.suppress(BlockingIOError):
        for _ in range(_AT_ONCE):
            yield line.recv(RECEIVE)


def _index(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0
