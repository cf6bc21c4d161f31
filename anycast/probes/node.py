"""Checks of this node itself: link, gateway, load, memory, files, IPVS. They ask /proc and the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import struct
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

from anycast.core.dataplane.limit import CONN_MAX
from anycast.core.health.phase import Fault
from anycast.core.values.checks import (
    CarrierCheck,
    FileCheck,
    GatewayCheck,
    IcmpCheck,
    IpvsConnectionsCheck,
    LoadCheck,
    MemoryCheck,
    NodeKind,
)
from anycast.core.values.configuration import Address
from anycast.core.values.described import Percent, amount
from anycast.entries import TABLE_BITS, Entries, kernel_limit, table_grows
from anycast.memory import meminfo
from anycast.probes import icmp, neighbor
from anycast.probes.finding import OK, Finding, Progress, fail, unusable
from anycast.probes.links import fault, index_of
from anycast.probes.offload import HangingError, offload

__all__ = ["check", "default_gateway", "ipvs_connections"]

PROC = Path("/proc")
ENTRIES = Entries()

_ALIVE = frozenset({"reachable", "delay", "probe", "noarp", "permanent"})
_SETTLING = frozenset({"none", "incomplete"})


async def check(kind: NodeKind, _address: Address, _port: int, progress: Progress) -> Finding:
    """OK if the node has what is asked for. Raises OSError."""
    match kind:
        case CarrierCheck():
            return _carrier(kind, progress)
        case GatewayCheck():
            return await _gateway(kind, progress)
        case LoadCheck():
            return _load(kind, progress)
        case MemoryCheck():
            return _memory(kind, progress)
        case FileCheck():
            return await _file(kind, progress)
        case IpvsConnectionsCheck():
            return await _ipvs(kind, progress)
        case _:
            raise TypeError(kind)  # a kind of its own module names that


def _carrier(kind: CarrierCheck, progress: Progress) -> Finding:
    wrong = fault(kind.interface)
    progress.say("%s %s", kind.interface, wrong or "is up and has a carrier")
    return OK if wrong is None else fail(f"{kind.interface} {wrong}")


async def _gateway(kind: GatewayCheck, progress: Progress) -> Finding:
    address: Address
    if kind.address is not None:
        address, interface = kind.address, kind.interface
    else:
        found = default_gateway(PROC, kind.family)
        if found is None:
            return fail(f"there is no default route with a gateway for IPv{kind.family}")
        address, interface = found
    progress.say("gateway %s on %s", address, interface or "its interface")
    if kind.by == "ping":
        finding = await icmp.check(IcmpCheck(), address, 0, progress)
        return finding if finding is OK else finding._replace(detail=f"{address}: {finding.detail}")
    if interface is None:
        return unusable("it needs the gateway's interface")
    return await _neighbor(address, interface, progress)


async def _neighbor(address: Address, interface: str, progress: Progress) -> Finding:
    """A packet makes the kernel look after the entry; what the entry then says is the answer."""
    neighbor.provoke(address)
    progress.missing = f"entry of {address} in the neighbor table"
    index = index_of(interface)
    state = (await neighbor.entry(address, index)).state
    while state in _SETTLING:
        await asyncio.sleep(neighbor.LOOK_AGAIN)
        state = (await neighbor.entry(address, index)).state
    progress.say("%s is %s in the neighbor table", address, state)
    return OK if state in _ALIVE else fail(f"{address} is {state} in the neighbor table of {interface}")


def default_gateway(proc: Path, family: int) -> tuple[Address, str] | None:
    """The next hop and the interface of the default route with the lowest metric. None: there is none."""
    found = _gateways_v4(proc) if family == 4 else _gateways_v6(proc)
    return min(found)[1:] if found else None


def _gateways_v4(proc: Path) -> list[tuple[int, Address, str]]:
    gateways: list[tuple[int, Address, str]] = []
    for line in (proc / "net/route").read_text().splitlines()[1:]:
        interface, destination, gateway, flags, _, _, metric, mask, *_ = line.split()
        if (destination, mask) == ("00000000", "00000000") and int(flags, 16) & 0x3 == 0x3:  # up, gateway
            address = IPv4Address(struct.unpack("=I", struct.pack("!I", int(gateway, 16)))[0])
            gateways.append((int(metric), address, interface))
    return gateways


def _gateways_v6(proc: Path) -> list[tuple[int, Address, str]]:
    gateways: list[tuple[int, Address, str]] = []
    try:
        lines = (proc / "net/ipv6_route").read_text().splitlines()
    except FileNotFoundError:  # IPv6 is off
        return []
    for line in lines:
        destination, length, _, _, gateway, metric, _, _, flags, interface = line.split()
        if int(destination, 16) == 0 and length == "00" and int(flags, 16) & 0x3 == 0x3:
            address = IPv6Address(int(gateway, 16))
            if address.is_link_local:
                address = IPv6Address(f"{address}%{interface}")
            gateways.append((int(metric, 16), address, interface))
    return gateways


def _load(kind: LoadCheck, progress: Progress) -> Finding:
    average = dict(zip((1, 5, 15), os.getloadavg(), strict=True))[kind.minutes]
    each = average / (os.cpu_count() or 1)
    progress.say("load average of %d min: %.2f, %.2f per processor", kind.minutes, average, each)
    return OK if each <= kind.max else fail(f"load {each:.2f} per processor, at most {kind.max:g} is fine")


def _memory(kind: MemoryCheck, progress: Progress) -> Finding:
    try:
        available, total = meminfo(PROC)
    except ValueError as error:
        return unusable(error)
    progress.say("%d of %d MiB available", available >> 20, total >> 20)
    needed = amount(kind.min_free, total)
    if available >= needed:
        return OK
    return fail(f"{available >> 20} MiB of memory available, {needed >> 20} MiB needed")


async def _file(kind: FileCheck, progress: Progress) -> Finding:
    progress.missing = f"answer about {kind.path}"
    try:
        # As with `test -e`: what cannot be looked at is not there, but a loop or a denial is said.
        found = await offload(("file", kind.path), lambda: _look(kind.path))
    except HangingError:
        return fail(f"an earlier look at {kind.path} hangs: is it on a dead mount?")
    except PermissionError:
        return unusable(f"no right to look at {kind.path}", Fault.PERMISSION)
    progress.say("%s is %s", kind.path, "there" if found else "not there")
    if found == kind.present:
        return OK
    return fail(f"{kind.path} is there" if found else f"{kind.path} is not there")


def _look(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


class Held(NamedTuple):
    """What the table of connections holds of all services."""

    connections: int
    twice: int  # of them, those that take two places
    rows: int | None  # that it may have; None: not known


def ipvs_connections(proc: Path, bits: Path) -> Held:
    """Without connections of persistence. Raises OSError, ValueError."""
    text = (proc / "net/ip_vs").read_text()
    size = re.search(r"size=([0-9]+)", text.split("\n", 1)[0])
    if size is None:
        raise ValueError("/proc/net/ip_vs does not say the table's size")
    grows = table_grows(proc)
    # Of a table that grows that is the size of now, and it grows up to this one.
    rows = None if grows else int(size[1])
    with contextlib.suppress(OSError, ValueError):
        rows = 2 ** int(bits.read_text())
    servers = re.findall(r"^  -> \S+ +(\S+) .* ([0-9]+) +([0-9]+) *$", text, re.MULTILINE)
    held = [(way, int(active) + int(inactive)) for way, active, inactive in servers]
    twice = sum(each for way, each in held if way == "Masq") if grows else 0
    return Held(sum(each for _, each in held), twice, rows)


def _full(proc: Path, bits: Path, entries: Entries) -> tuple[Held, int | None]:
    """What the table holds, and the kernel's limit; None: there is none in reach. Raises OSError, ValueError."""
    held = ipvs_connections(proc, bits)
    limit = kernel_limit(proc)
    # The entries may have been counted some time ago; without those of persistence there are at least so many now.
    return held if limit is None else held._replace(connections=max(held.connections, entries.count())), limit


async def _ipvs(kind: IpvsConnectionsCheck, progress: Progress) -> Finding:
    progress.missing = "answer about the table of connections"
    try:
        held, limit = await offload(("ipvs_connections",), lambda: _full(PROC, TABLE_BITS, ENTRIES))
    except HangingError:
        return unusable("an earlier look at the table of connections has not come back", Fault.STALLED)
    except FileNotFoundError:
        return unusable("this kernel has no IPVS (modprobe ip_vs)")
    except ValueError as error:
        return unusable(error)
    connections, twice, rows = held
    progress.say("%d connections, %s rows in the table", connections, "unknown" if rows is None else rows)
    if limit is not None:
        progress.say("%s allows %d", CONN_MAX, limit)
        if not limit:
            return fail(f"{CONN_MAX} is 0: the kernel takes no connection at all")
        if connections > amount(kind.limit, limit):
            return fail(f"{connections} of {limit} that {CONN_MAX} allows, {kind.limit} of them are fine")
    if not isinstance(kind.max, Percent):
        most = kind.max
        return OK if connections <= most else fail(f"{connections} connections, at most {most} are fine")
    if rows is None:
        return unusable(f"{TABLE_BITS} does not say how far the table may grow: give `max` as a number")
    most = amount(kind.max, rows)
    if connections + twice <= most:
        return OK
    if not twice:
        return fail(f"{connections} connections, at most {most} are fine")
    return fail(
        f"{connections + twice} places in the table ({twice} masqueraded connections take two each), at most {most} are fine"
    )
