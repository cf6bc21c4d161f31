"""Prefixes that are wider than a host route: what cannot be meant, and what is rarely meant. Of the other nodes nothing is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from anycast.core.preference import export_of
from anycast.core.prefixes import is_host_route, prefix_of
from anycast.core.shared import Shared, shared_by
from anycast.core.values.configuration import ROUTE_ATTRIBUTES, Bgp, Config, Needs, Vip
from anycast.core.values.route import Address, Prefix

_Told = tuple[tuple[str | int, ...], str, str]
"""Place in the configuration, what it is, what to do."""

_INTERNET = {4: 24, 6: 48}  # the longest prefixes that networks of others take
_ALIKE = ("role", *ROUTE_ATTRIBUTES)


class _Around:
    """Which of some prefixes an address, or a prefix, is in. Asking costs as much as there are lengths."""

    def __init__(self, prefixes: Iterable[Prefix]) -> None:
        self._known = {(one.version, one.prefixlen, int(one.network_address)): one for one in prefixes}
        self._lengths = sorted({key[:2] for key in self._known}, reverse=True)

    def address(self, address: Address) -> Iterator[Prefix]:
        """The longest first."""
        yield from self._at(address.version, int(address), address.max_prefixlen, address.max_prefixlen)

    def prefix(self, prefix: Prefix) -> Iterator[Prefix]:
        """Those that are wider."""
        number = int(prefix.network_address)
        yield from self._at(prefix.version, number, prefix.max_prefixlen, prefix.prefixlen - 1)

    def _at(self, version: int, number: int, bits: int, most: int) -> Iterator[Prefix]:
        for one, length in self._lengths:
            if one == version and length <= most:
                masked = number >> (bits - length) << (bits - length)
                if (found := self._known.get((version, length, masked))) is not None:
                    yield found


def contradictions(bgp: Bgp, vips: tuple[Vip, ...]) -> Iterator[_Told]:
    """What cannot be meant."""
    shared = shared_by(vips)
    if not shared:
        return
    by_name = {vip.name: vip for vip in vips}
    for prefix, one in shared.items():
        yield from _unlike(prefix, one, by_name, bgp)
    around = _Around(shared)
    for address, what in _of_node(bgp):
        for prefix in around.address(address):
            yield (
                _place(shared[prefix]),
                f"{address}, {what}, is in {prefix}, so packets to it would be drawn to whichever node is the nearest",
                "announce a prefix that has nothing but VIPs in it",
            )


def _unlike(prefix: Prefix, shared: Shared, vips: Mapping[str, Vip], bgp: Bgp) -> Iterator[_Told]:
    """One route has one set of attributes."""
    first, *others = shared.vips
    for name in others:
        if differs := list(_differs(prefix, vips[first], vips[name], bgp)):
            told = f"{' and '.join(differs)} {'is' if len(differs) == 1 else 'are'}"
            what = f"{first} announces {prefix} too, which is one route, and {told} another there"
            yield ("vips", name, "announce"), what, "write the same at both"


def _differs(prefix: Prefix, one: Vip, other: Vip, bgp: Bgp) -> Iterator[str]:
    if _needs(prefix, one) is not _needs(prefix, other):
        yield "needs"
    for name in _ALIKE:
        if getattr(one, name) != getattr(other, name):
            yield name
    for neighbor in (each for each in bgp.neighbors if each.export is not None):
        if export_of(neighbor.export, one.name) != export_of(neighbor.export, other.name):
            yield f"what the neighbor {neighbor.address} gets (export)"
            return


def _needs(prefix: Prefix, vip: Vip) -> Needs:
    return next(one.needs for one in vip.announce if one.prefix == prefix)


def _of_node(bgp: Bgp) -> Iterator[tuple[Address, str]]:
    found: dict[Address, str] = {}
    for neighbor in bgp.neighbors:
        found.setdefault(neighbor.address, "a neighbor")
        own = neighbor.local_address or (bgp.router_id if neighbor.address.version == 4 else None)
        if own is not None:
            found.setdefault(own, "this node's own address")
    for hop in (bgp.next_hop_v4, bgp.next_hop_v6):
        if hop is not None:
            found.setdefault(hop, "the next hop")
    yield from found.items()


def doubtful(config: Config) -> Iterator[_Told]:
    """What is allowed and rarely meant. Of each kind once for a prefix."""
    shared = shared_by(config.vips)
    if not shared:
        return
    around = _Around(shared)
    told: set[tuple[Prefix, str]] = set()
    for prefix, kind, what, do in (*_inside(config, around), *_overlapping(shared, around), *_long(shared)):
        if (prefix, kind) not in told:
            told.add((prefix, kind))
            yield _place(shared[prefix]), what, do


def _inside(config: Config, around: _Around) -> Iterator[tuple[Prefix, str, str, str]]:
    for vip in config.vips:
        for address in vip.addresses:
            own = prefix_of(vip, address)
            # A prefix of its own that overlaps is told of as that.
            for prefix in around.address(address) if is_host_route(own) else ():
                if prefix != own:
                    what = (
                        f"{address} of {vip.name} is in {prefix} and announces {own}: while that is withdrawn its packets "
                        f"come by {prefix} all the same"
                    )
                    yield (
                        prefix,
                        "vip",
                        what,
                        f"write announce: {prefix} there too, or announce another prefix",
                    )
    servers = {
        (server.name, address): None
        for vip in config.vips
        for service in vip.services
        for pool in service.pools
        for server in pool.servers
        for address in server.addresses
    }
    for name, address in servers:
        named = name if name == str(address) else f"{name} ({address})"
        for prefix in around.address(address):
            what = (
                f"the real server {named} is in {prefix}: packets to it from elsewhere are drawn to whichever node is "
                "the nearest, and end there if that has no more specific route to it"
            )
            yield prefix, "server", what, "give it an address outside, or announce another prefix"


def _overlapping(shared: Mapping[Prefix, Shared], around: _Around) -> Iterator[tuple[Prefix, str, str, str]]:
    for prefix in shared:
        for wider in around.prefix(prefix):
            what = (
                f"it is a part of {wider}, which {shared[wider].vips[0]} announces: while it is withdrawn its packets come by "
                f"{wider} all the same"
            )
            yield prefix, "overlap", what, "announce prefixes that have nothing in common"


def _long(shared: Mapping[Prefix, Shared]) -> Iterator[tuple[Prefix, str, str, str]]:
    for prefix in shared:
        longest = _INTERNET[prefix.version]
        if prefix.prefixlen > longest and prefix.is_global:
            what = f"other networks of the Internet take nothing longer than /{longest}: {prefix} is for your own alone"
            yield prefix, "long", what, f"write the /{longest} if it is for the Internet"


def _place(shared: Shared) -> tuple[str | int, ...]:
    return ("vips", shared.members[0].vip, "announce")
