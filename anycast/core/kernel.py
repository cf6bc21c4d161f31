"""All that the core wants of the node's kernel besides IPVS: VIP addresses and sysctls, and the whole diff."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from anycast.core import ipvs
from anycast.core.model import Address

# facts: IPVS creates connections from packets in mid-flow (sloppy_tcp), finds the flow an ICMP error belongs
# to on a node that never saw the flow (schedule_icmp), and keeps a flow whose real server is being re-inserted
# (expire_nodest_conn=0).
IPVS_SYSCTLS: Mapping[str, str] = {
    "net.ipv4.vs.sloppy_tcp": "1",
    "net.ipv4.vs.schedule_icmp": "1",
    "net.ipv4.vs.expire_nodest_conn": "0",
    "net.ipv4.vs.conn_reuse_mode": "1",
}
# The answers of masqueraded connections are routed back through this node.
NAT_SYSCTLS: Mapping[int, Mapping[str, str]] = {
    4: {"net.ipv4.ip_forward": "1"},
    6: {"net.ipv6.conf.all.forwarding": "1"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What was read from the kernel. `sysctls` holds the wanted names; a missing one could not be read."""

    table: ipvs.Table
    addresses: frozenset[Address]  # on the VIP interface
    sysctls: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What the kernel should hold.

    `owned`: addresses that are ours to take away, with their services, when they are not desired.
    `exclusive`: every IPVS service that is not desired goes.
    """

    table: ipvs.Table
    addresses: frozenset[Address]
    sysctls: Mapping[str, str]
    owned: frozenset[Address] = frozenset()
    exclusive: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSysctl:
    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AddAddress:
    """As /32 or /128 on the VIP interface."""

    address: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveAddress:
    address: Address


KernelOp: TypeAlias = SetSysctl | AddAddress | RemoveAddress | ipvs.IpvsOp


def diff(actual: Snapshot, desired: Desired) -> tuple[KernelOp, ...]:
    """Operations that turn `actual` into `desired`, in an order that is safe to stop at.

    Sysctls and services first, then the addresses that make packets reach them; an address goes before its
    services do.
    """
    in_order = sorted(desired.addresses - actual.addresses, key=_address_order)
    gone = sorted((actual.addresses & desired.owned) - desired.addresses, key=_address_order)
    ours = (key for key in actual.table if desired.exclusive or key.address in desired.owned)
    table_ops = ipvs.diff(actual.table, desired.table, ours=ours)
    removals = tuple(op for op in table_ops if isinstance(op, ipvs.RemoveService))
    return (
        *(
            SetSysctl(name=name, value=value)
            for name, value in desired.sysctls.items()
            if actual.sysctls.get(name) != value
        ),
        *(op for op in table_ops if not isinstance(op, ipvs.RemoveService)),
        *(AddAddress(address=address) for address in in_order),
        *(RemoveAddress(address=address) for address in gone),
        *removals,
    )


def _address_order(address: Address) -> tuple[int, int]:
    return address.version, int(address)


def play(actual: Snapshot, ops: Iterable[KernelOp]) -> Snapshot:
    """The kernel after `ops`. The model that tests and dry runs share."""
    sysctls = dict(actual.sysctls)
    addresses = set(actual.addresses)
    table = dict(actual.table)
    for op in ops:
        match op:
            case SetSysctl(name=name, value=value):
                sysctls[name] = value
            case AddAddress(address=address):
                addresses.add(address)
            case RemoveAddress(address=address):
                addresses.discard(address)
            case _:
                table = ipvs.play(table, (op,))
    return Snapshot(table=table, addresses=frozenset(addresses), sysctls=sysctls)
