"""Prefixes wider than a host route: where what comes for the rest of them goes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from anycast.core.shared import shared_by
from anycast.core.values.configuration import Address, Config
from anycast.core.values.route import Prefix
from anycast.core.values.table import DISCARD_METRIC, DISCARD_PROTOCOL
from anycast.doctor.facts import Facts
from anycast.doctor.finding import Code, Finding, Severity

FORWARDING = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}
"""A node that does not forward drops it."""


def of_the_rest(config: Config) -> Mapping[Prefix, Address]:
    """An address of each wide prefix that is of no VIP; of one that has none, nothing."""
    taken = {address for vip in config.vips for address in vip.addresses}
    found = {}
    for prefix in shared_by(config.vips):
        first, last = int(prefix.network_address) + 1, int(prefix.broadcast_address) - 1
        kind = type(prefix.network_address)
        address = next((one for n in range(last, first - 1, -1) if (one := kind(n)) not in taken), None)
        if address is not None:
            found[prefix] = address
    return found


def rest_of_prefixes(facts: Facts, config: Config | None) -> Iterator[Finding]:
    """As the kernel was asked: what it would forward, and where to."""
    for prefix, address in of_the_rest(config).items() if config is not None else ():
        route = facts.routes.get(address)
        if route is None or route.local or facts.number(FORWARDING[prefix.version]) == 0:
            continue  # it ends here, or was not asked for
        back = (
            ", so it comes back, and goes round until its time to live ends"
            if route.gateway is not None
            else ""
        )
        yield Finding(
            severity=Severity.ERROR,
            code=Code.WIDE_PREFIX,
            text=f"what comes for {prefix} and for no VIP in it ({address} was asked for) leaves by {route.interface}{back}",
            fix=f"the agent makes the route, once it runs (`ip route show proto {DISCARD_PROTOCOL}`); until then `ip route add unreachable "
            f"{prefix} proto {DISCARD_PROTOCOL} metric {DISCARD_METRIC}`. Where it is there, a more specific route or a rule (`ip rule`) goes before it",
        )
