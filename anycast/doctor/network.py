"""Interfaces, routes and the IPVS table of this network namespace, read over netlink.

Only IPVS asks for a right, CAP_NET_ADMIN.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_interface
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from anycast.core.values.configuration import Address
from anycast.doctor import route_codec
from anycast.doctor.facts import DefaultRoute, Interface, InterfaceAddress, Route
from anycast.kernel import addresses as assigned
from anycast.kernel import advertised
from anycast.kernel.errors import KernelUnavailable
from anycast.kernel.ipvs import Ipvs, Reading
from anycast.kernel.netlink import Netlink, RefusedError
from anycast.kernel.netlink_codec import Malformed

_UP, _LOOPBACK, _NO_ARP = 0x1, 0x8, 0x80  # flags of a link
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
_DEADLINE = 5.0  # seconds

# Documentation networks (RFC 5737, RFC 3849): on no link, so the way to them is that of clients.
ANYWHERE: Sequence[Address] = (ip_address("198.51.100.1"), ip_address("2001:db8:ffff::1"))


async def read_interfaces() -> tuple[Interface, ...]:
    """Raises OSError, KernelUnavailable."""
    addresses: dict[int, list[InterfaceAddress]] = {}
    for one in await assigned.everywhere():
        addresses.setdefault(one.interface, []).append(ip_interface((one.address, one.prefix)))
    async with _route_socket() as route:
        links = [link async for link in await route.link("dump")]
    names = {link["index"]: link.get("ifname") for link in links}
    return tuple(_interface(link, addresses, names) for link in links)


def _interface(
    link: Any, addresses: Mapping[int, Sequence[InterfaceAddress]], names: Mapping[int, str]
) -> Interface:
    in_vrf = link.get(("linkinfo", "slave_kind")) == "vrf"
    return Interface(
        name=link.get("ifname"),
        up=bool(link["flags"] & _UP),
        mtu=link.get("mtu") or 0,
        kind=link.get(("linkinfo", "kind")) or "",
        neighbours=not link["flags"] & (_LOOPBACK | _NO_ARP),
        addresses=tuple(addresses.get(link["index"], ())),
        vrf=names.get(link.get("master"), "") if in_vrf else "",
    )


async def read_routes(
    addresses: Iterable[Address], interfaces: Sequence[Interface]
) -> dict[Address, Route | None]:
    """How the kernel would send to each, asked once; no packet leaves. Raises OSError, KernelUnavailable."""
    mtus = {interface.name: interface.mtu for interface in interfaces}
    names: dict[int, str] = {}
    netlink = Netlink(socket.NETLINK_ROUTE)
    try:
        return {address: await _route(netlink, address, mtus, names) for address in dict.fromkeys(addresses)}
    except Malformed as error:
        raise KernelUnavailable(f"rtnetlink: {error}") from error
    finally:
        netlink.close()


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


async def _route(
    netlink: Netlink, address: Address, mtus: dict[str, int], names: dict[int, str]
) -> Route | None:
    try:
        way = await netlink.answer(route_codec.question(address), route_codec.parse)
    except RefusedError as error:
        if error.errno in _NO_ROUTE:
            return None
        raise
    if way.interface not in names:
        names[way.interface] = socket.if_indextoname(way.interface)
    interface = names[way.interface]
    return Route(
        interface=interface,
        mtu=way.mtu or mtus.get(interface, 0),
        gateway=way.gateway,
        local=way.local,
        source=way.source or ip_address("0.0.0.0" if address.version == 4 else "::"),
    )


async def read_default_routes6() -> tuple[DefaultRoute, ...]:
    """Raises OSError, KernelUnavailable."""
    return tuple(
        DefaultRoute(interfaces=one.interfaces, metric=one.metric) for one in await advertised.defaults()
    )


async def read_advertised() -> frozenset[str]:
    """The interfaces with a default route from router advertisements. Raises OSError, KernelUnavailable."""
    return frozenset(name for one in await advertised.defaults(advertised=True) for name in one.interfaces)


async def read_table() -> Reading:
    """Loads ip_vs where it is not loaded yet: ask first. Raises KernelUnavailable."""
    ipvs = Ipvs()
    try:
        return await ipvs.read()
    finally:
        ipvs.close()
