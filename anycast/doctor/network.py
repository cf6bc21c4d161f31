"""Interfaces, routes and the IPVS table of this network namespace, read over netlink.

Only IPVS asks for a right, CAP_NET_ADMIN.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from ipaddress import ip_address, ip_interface
from itertools import islice
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from anycast.core.values.configuration import Address
from anycast.doctor.facts import Interface, InterfaceAddress, Route
from anycast.kernel import addresses as assigned
from anycast.kernel.ipvs import Ipvs, Reading

_UP, _LOOPBACK, _NO_ARP = 0x1, 0x8, 0x80  # flags of a link
_LOCAL = 2  # type of a route
# Among them the answers of unreachable, prohibit and blackhole routes, and of a kernel without IPv6.
_NO_ROUTE = frozenset(
    {
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.EACCES,
        errno.EINVAL,
        errno.EAFNOSUPPORT,
        errno.EOPNOTSUPP,
    }
)
_LOOKUPS = 256  # over one socket, whose deadline holds for all of them
_DEADLINE = 5.0  # seconds

# Documentation networks (RFC 5737, RFC 3849): on no link, so the way to them is that of clients.
ANYWHERE: Sequence[Address] = (ip_address("198.51.100.1"), ip_address("2001:db8:ffff::1"))


async def read_interfaces() -> tuple[Interface, ...]:
    """Raises OSError, KernelUnavailable."""
    addresses: dict[int, list[InterfaceAddress]] = {}
    for one in await assigned.everywhere():
        addresses.setdefault(one.interface, []).append(ip_interface((one.address, one.prefix)))
    async with _route_socket() as route:
        return tuple([_interface(link, addresses) async for link in await route.link("dump")])


def _interface(link: Any, addresses: dict[int, list[InterfaceAddress]]) -> Interface:
    return Interface(
        name=link.get("ifname"),
        up=bool(link["flags"] & _UP),
        mtu=link.get("mtu") or 0,
        kind=link.get(("linkinfo", "kind")) or "",
        neighbours=not link["flags"] & (_LOOPBACK | _NO_ARP),
        addresses=tuple(addresses.get(link["index"], ())),
    )


async def read_routes(
    addresses: Iterable[Address], interfaces: Sequence[Interface]
) -> dict[Address, Route | None]:
    """How the kernel would send to each; no packet leaves. Raises OSError, KernelUnavailable."""
    mtus = {interface.name: interface.mtu for interface in interfaces}
    rest = iter(addresses)
    found: dict[Address, Route | None] = {}
    while part := list(islice(rest, _LOOKUPS)):
        async with _route_socket() as route:
            for address in part:
                found[address] = await _route(route, address, mtus)
    return found


@contextlib.asynccontextmanager
async def _route_socket() -> AsyncIterator[AsyncIPRoute]:
    """Raises OSError."""
    try:
        async with asyncio.timeout(_DEADLINE), AsyncIPRoute() as route:
            yield route
    except TimeoutError:
        raise OSError(errno.ETIMEDOUT, f"the kernel did not answer within {_DEADLINE:g} s") from None
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from error


async def _route(route: AsyncIPRoute, address: Address, mtus: dict[str, int]) -> Route | None:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        messages = await route.route("get", dst=str(address), family=family)
    except NetlinkError as error:
        if error.code in _NO_ROUTE:
            return None
        raise
    (message,) = messages
    gateway = message.get("gateway")
    interface = socket.if_indextoname(message.get("oif"))
    return Route(
        interface=interface,
        mtu=message.get(("metrics", "mtu")) or mtus.get(interface, 0),
        gateway=ip_address(gateway) if gateway else None,
        local=message["type"] == _LOCAL,
    )


async def read_table() -> Reading:
    """Loads ip_vs where it is not loaded yet: ask first. Raises KernelUnavailable."""
    ipvs = Ipvs()
    try:
        return await ipvs.read()
    finally:
        ipvs.close()
