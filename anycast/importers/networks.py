"""A prefix that is announced whole, in whose file nothing says which address of it the service listens at."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

from anycast.importers.model import Place
from anycast.importers.report import Report

Network: TypeAlias = IPv4Network | IPv6Network


def address_in(network: Network, option: str, place: Place, report: Report) -> str:
    """The one that is written. `option`: as the report is to call it."""
    address = str(network.network_address + 1 if network.num_addresses > 2 else network.network_address)
    report.to_write(
        place,
        f"{option}: the prefix is announced (announce), and its first address is written for the VIP: write the one that the service "
        "listens at; of several, a VIP for each, with the same announce",
    )
    report.different(
        place,
        f"{option}: the whole prefix was on lo, and the node answered at every address of it; here at those of VIPs alone, and the rest is "
        "unreachable",
    )
    return address
