"""The prefix that an address of a VIP is announced by: what it says itself, and otherwise its host route.

Nothing else knows that there are two kinds.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_network
from typing import TYPE_CHECKING

from anycast.core.values.route import Address, Prefix

if TYPE_CHECKING:
    from anycast.core.values.configuration import Announce, Vip

_HOSTS = 32_768  # that are kept: the same ones are asked for again and again


@lru_cache(maxsize=_HOSTS)
def host_route(address: Address) -> Prefix:
    """The /32 or /128."""
    return ip_network(address)


def is_host_route(prefix: Prefix) -> bool:
    return prefix.prefixlen == prefix.max_prefixlen


def announce_of(vip: Vip, address: Address) -> Announce | None:
    """What the VIP says of this address. None: nothing."""
    return next((one for one in vip.announce if address in one.prefix), None)


def prefix_of(vip: Vip, address: Address) -> Prefix:
    said = announce_of(vip, address) if vip.announce else None
    return host_route(address) if said is None else said.prefix


def prefixes_of(vip: Vip) -> tuple[Prefix, ...]:
    """Each once, in the order of the addresses."""
    if not vip.announce:
        return tuple(map(host_route, vip.addresses))
    return tuple(dict.fromkeys(prefix_of(vip, address) for address in vip.addresses))
