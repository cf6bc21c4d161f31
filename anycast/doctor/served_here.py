"""What this node itself serves of its VIPs: which sockets there are for it, and what clients would get of them."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from anycast.core.values.configuration import Address, Config, Protocol
from anycast.doctor.finding import Code, Finding, Severity, some

if TYPE_CHECKING:
    from anycast.doctor.facts import Facts

_ANY = {4: IPv4Address(0), 6: IPv6Address(0)}


def udp_ports(config: Config) -> dict[tuple[Address, int], str]:
    """By address and port: what is served there, as in `dns udp/53`."""
    return {
        (address, one.port): f"{vip.name} {one.name}"
        for vip in config.vips
        for one in vip.local
        if one.protocol is Protocol.UDP
        for address in vip.addresses
    }


def served_here(facts: Facts, config: Config) -> Iterator[Finding]:
    """Many daemons on the wildcard answer a datagram from the node's own address, which its client takes no notice of."""
    if facts.bound is None:
        return
    places = [
        what
        for (address, port), what in udp_ports(config).items()
        if (address, port) not in facts.bound
        and ((_ANY[address.version], port) in facts.bound or (_ANY[6], port) in facts.bound)
    ]
    if places:
        yield Finding(
            severity=Severity.INFO,
            code=Code.LOCAL_WILDCARD,
            text=f"the socket that serves {some(list(dict.fromkeys(places)))} is bound to no address: unbound, nsd and "
            "knot-resolver then answer clients from the node's own address, and no check on the node sees it",
            fix="let it listen at the VIP (unbound: `interface: VIP` and `ip-freebind: yes`), or ask from another machine",
        )
