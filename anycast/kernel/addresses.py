"""VIP addresses on one interface.

They are never to be a source address: traffic of the node's own that leaves with a VIP is answered to whichever
node the routers choose. So an IPv4 VIP has the scope of the host, and an IPv6 VIP is deprecated from the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable
from ipaddress import IPv4Address, ip_address

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from anycast.core.values.configuration import Address
from anycast.kernel.errors import KernelUnavailable

DEADLINE = 5.0  # seconds for all requests of one call

_FOREVER = 0xFFFFFFFF
_SCOPE_HOST = 254
_IFA_F_NODAD = 0x02
_IFA_F_DADFAILED = 0x08
_IFF_UP = 0x1


async def read(interface: str) -> frozenset[Address]:
    """The usable addresses of the interface, whatever their prefix length.

    Raises KernelUnavailable where the interface is missing or down: IPv6 addresses are gone then, and IPVS
    takes no real servers while lo is down.
    """
    index = index_of(interface)
    async with route_socket() as route:
        for name in dict.fromkeys((interface, "lo")):
            (link,) = await route.link("get", index=index_of(name))
            if not link["flags"] & _IFF_UP:
                raise KernelUnavailable(f"interface {name} is down: run `ip link set {name} up`")
        return frozenset([address async for address, _ in _addresses(route, index)])


async def add(interface: str, address: Address) -> None:
    """As /32 or /128. An address that is there already is left as it is. Raises OSError, KernelUnavailable."""
    index = index_of(interface)
    async with route_socket() as route:
        wanted: dict[str, object] = {
            "index": index,
            "address": str(address),
            "prefixlen": address.max_prefixlen,
            "family": socket.AF_INET if address.version == 4 else socket.AF_INET6,
        }
        if isinstance(address, IPv4Address):
            wanted |= {"scope": _SCOPE_HOST}
        else:
            wanted |= {"flags": _IFA_F_NODAD, "preferred_lft": 0, "valid_lft": _FOREVER}
        await _ignoring(errno.EEXIST, route.addr("add", **wanted))


async def remove(interface: str, address: Address) -> None:
    """With every prefix length it is there with; none is no error. Raises OSError, KernelUnavailable."""
    index = index_of(interface)
    async with route_socket() as route:
        lengths = [length async for found, length in _addresses(route, index) if found == address]
        for length in lengths:
            await _ignoring(
                errno.EADDRNOTAVAIL, route.addr("del", index=index, address=str(address), prefixlen=length)
            )


def index_of(interface: str) -> int:
    """Raises KernelUnavailable where there is no such interface."""
    try:
        return socket.if_nametoindex(interface)
    except OSError as error:
        raise KernelUnavailable(
            f"interface {interface} does not exist: create it, or name another in node.interface"
        ) from error


async def _addresses(route: AsyncIPRoute, index: int) -> AsyncIterator[tuple[Address, int]]:
    async for message in await route.addr("dump", index=index):
        flags = message.get("flags") or 0
        # IPv4: IFA_LOCAL is the address, IFA_ADDRESS may be that of a peer.
        text = message.get("local") or message.get("address")
        if message["index"] == index and text and not flags & _IFA_F_DADFAILED:
            yield ip_address(text), message["prefixlen"]


@contextlib.asynccontextmanager
async def route_socket() -> AsyncIterator[AsyncIPRoute]:
    """A socket for one call: one that has overflowed once fails for ever. Raises OSError, KernelUnavailable."""
    try:
        async with asyncio.timeout(DEADLINE), AsyncIPRoute() as route:
            yield route
    except TimeoutError:
        raise OSError(errno.ETIMEDOUT, f"the kernel did not answer within {DEADLINE:g} s") from None
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from error


async def _ignoring(code: int, request: Awaitable[object]) -> None:
    try:
        await request
    except NetlinkError as error:
        if error.code != code:
            raise
