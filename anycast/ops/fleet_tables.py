"""The tables of one VIP as they are compared with those of other nodes: what a fingerprint is of, in full."""

from __future__ import annotations

from collections.abc import Mapping

from anycast.core.dataplane import ipvs
from anycast.core.fleet.agreement import Served, Server
from anycast.core.state import State, kernel_table
from anycast.core.values.configuration import Address


def tables(state: State, name: str) -> dict[str, Served] | None:
    """By service; one that is not in the kernel is left out. None: there is no such VIP."""
    vip = state.index.vips.get(name)
    if vip is None:
        return None
    actual, desired = kernel_table(state), state.desired.table
    return {
        str(key): _served(ipvs.counted(there, wanted), one.servers)
        for key, one in vip.services.items()
        if (there := actual.get(key)) is not None and (wanted := desired.get(key)) is not None
    }


def _served(found: ipvs.Counted, names: Mapping[ipvs.DestinationKey, str]) -> Served:
    words = [found.scheduler, *found.flags]
    words += ["one packet"] if found.one_packet else []
    words += [found.foreign] if found.foreign else []
    servers = (
        Server(_at(address, port), weight, names.get((address, port), "").rpartition("/")[2])
        for address, port, weight in found.servers
    )
    return Served(", ".join(words), tuple(servers), found.scheduler in ipvs.ORDER_SENSITIVE)


def _at(address: Address, port: int) -> str:
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
