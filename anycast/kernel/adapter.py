"""Everything the agent does to the node's kernel, behind one class."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias, assert_never

from anycast.core.dataplane.ipvs import Key, ServiceKey
from anycast.core.dataplane.kernel import (
    EXPIRE_NODEST,
    AddAddress,
    AddDiscard,
    CorrectAddress,
    Desired,
    ExpireDestinations,
    Failure,
    IpvsNeed,
    KernelOp,
    RemoveAddress,
    RemoveDiscard,
    ReorderDestinations,
    SetSysctl,
    SetTimeouts,
    Snapshot,
    StartSync,
    StopSync,
    SyncRole,
)
from anycast.core.values.configuration import Address
from anycast.core.values.route import Prefix
from anycast.core.values.table import DISCARD_METRIC
from anycast.kernel import addresses, advertised, interface_watch, multicast, sysctl, totals
from anycast.kernel import discards as routes
from anycast.kernel.arrivals import Arrivals
from anycast.kernel.errors import KernelUnavailable
from anycast.kernel.ipvs import NOTHING, Ipvs
from anycast.kernel.netlink_codec import Malformed

# The kernel looks for connections without a real server a jiffy after a removal, in a thread of its own.
_AT_ONCE = 1024  # operations that are looked at in one turn of the event loop

_Single: TypeAlias = SetSysctl | SetTimeouts | StartSync | StopSync
_Addresses: TypeAlias = AddAddress | CorrectAddress | RemoveAddress
_Discards: TypeAlias = AddDiscard | RemoveDiscard


class Kernel:
    """The kernel of this network namespace. `interface` carries the VIP addresses.

    The event loop never stands longer than one batch of requests takes.
    """

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._ipvs = Ipvs()
        self._arrivals = Arrivals()
        self._news = addresses.News(interface)
        self._held = addresses.Held(frozenset())  # as last read
        self._written: dict[Address, None] = {}  # since then
        self._removed: set[Address] = set()  # since then
        self._discards: frozenset[Prefix] = frozenset()  # as last read

    async def read(
        self,
        wanted_sysctls: Iterable[str],
        *,
        only: Iterable[Key] | None = None,
        alike: Desired | None = None,
        need: IpvsNeed = IpvsNeed.NEEDED,
        arriving: Mapping[str, tuple[Address, ...]] = MappingProxyType({}),
        discards: bool = False,
    ) -> Snapshot:
        """What the kernel holds. What has not changed is the same object as in the reading before.

        `only`: of the services these are read, and the others are as last read; everything else is read as always.
        Where there was no reading, or it failed, all are read. `alike`: objects are taken from there where they equal
        what is read, for the memory. Where IPVS is not looked at (`need`), nothing is in it. `arriving`: sets of addresses for which
        packets are counted, by name. `discards`: whether to look for the routes of wide prefixes. Raises KernelUnavailable: no
        IPVS where it is needed, no right to it, interface missing or down, no answer.
        """
        # IPVS first: its sysctls are not there before the module is.
        looked = need is IpvsNeed.NEEDED or (need is IpvsNeed.LEFT and totals.read() is not None)
        # Before the services: a sum of a round that begins while they are read says nothing of what was read already. Of
        # services that are as last read it says nothing either.
        received = totals.read() if looked and only is None else None
        reading = await self._ipvs.read(only, None if alike is None else alike.table) if looked else None
        if reading is None:
            self._ipvs.forget()
            reading = NOTHING
        try:
            known = None if only is None else await self._followed()
            if known is None:
                served = {key.address for key in reading.table if isinstance(key, ServiceKey)}
                known = await self._listed(
                    served | self._held.addresses, () if alike is None else alike.addresses
                )
        except BaseException as error:
            self._news.close()  # what was taken from it is lost
            if not isinstance(error, OSError):
                raise
            raise KernelUnavailable(
                f"addresses of {self._interface}: {_reason(error, self._interface)}"
            ) from error
        self._held = self._held if known == self._held else known
        there = await self._read_discards() if discards else None
        self._written.clear()
        self._removed.clear()
        return Snapshot(
            table=reading.table,
            addresses=self._held.addresses,
            plain=self._held.plain,
            discards=there,
            sysctls=sysctl.read(wanted_sysctls),
            timeouts=reading.timeouts if looked else None,
            sync=reading.sync,
            sync_lost=SyncRole.BACKUP in reading.sync
            and not multicast.is_joined(reading.sync[SyncRole.BACKUP]),
            packets=reading.packets,
            received=received,
            arrived=self._arrivals.read(arriving),
            connections=reading.connections,
            traffic=reading.traffic,
        )

    async def _read_discards(self) -> frozenset[Prefix]:
        try:
            found = await routes.read()
        except (OSError, Malformed) as error:
            raise KernelUnavailable(f"routes of wide prefixes: {error}") from error
        self._discards = self._discards if found == self._discards else found
        return self._discards

    async def _listed(self, expected: Iterable[Address], alike: Iterable[Address]) -> addresses.Held:
        # What is announced from here on may be in the list already, and does not harm.
        self._news.begin()
        return await addresses.read(self._interface, expected, alike)

    async def _followed(self) -> addresses.Held | None:
        """By what the kernel announced since the last reading. None: that does not tell."""
        addresses.must_be_up(self._interface)
        # IPv6 addresses are announced some time after they were added: those can be asked for.
        asked = [one for one in self._written if one.version == 6]
        known = await self._news.after(self._held, self._removed)
        if known is None or not asked:
            return known
        left, now = frozenset(asked), await addresses.usable_of(self._interface, asked)
        return addresses.Held((known.addresses - left) | now.addresses, (known.plain - left) | now.plain)

    async def play(self, ops: Sequence[KernelOp]) -> tuple[Failure, ...]:
        """Carries out `ops` in order. Returns what failed, and in words why and what to do.

        What failed hinders no other operation. After a failure read everything again.
        """
        failures: list[Failure] = []
        for begin in range(0, len(ops), _AT_ONCE):
            # Neighbours of a kind go out in batches.
            for kind, together in itertools.groupby(ops[begin : begin + _AT_ONCE], _kind):
                failures += await self._play(kind, list(together))
        return tuple(failures)

    async def _play(self, kind: type | None, ops: list[Any]) -> Sequence[Failure]:
        if kind is None:
            return await self._ipvs.play(ops)
        if kind in (AddAddress, CorrectAddress, RemoveAddress):
            return await self._write_addresses(ops)
        if kind in (AddDiscard, RemoveDiscard):
            return await self._write_discards(ops)
        failures: list[Failure] = []
        for op in ops:
            match op:
                case ExpireDestinations():
                    failures += await self._expire(op)
                case ReorderDestinations():
                    failures += await self._reorder(op)
                case _:
                    failures += await self._perform(op)
        return failures

    async def watch(self, on_change: interface_watch.OnChange) -> None:
        """Calls `on_change` when the interface or its addresses may have changed, and once when it listens.

        Runs until it is cancelled. The kernel announces no change of IPVS: `read` alone shows it.
        """
        await interface_watch.watch(self._interface, on_change)

    async def close(self) -> None:
        """Leaves the kernel as it is. A later call opens everything again."""
        self._ipvs.close()
        self._arrivals.close()
        self._news.close()

    async def _expire(self, op: ExpireDestinations) -> tuple[Failure, ...]:
        # The removals count, whether or not the connections can be ended: those that cannot time out.
        if op.write_sysctl:
            _try_to_write(EXPIRE_NODEST, "1")
        failures = await self._ipvs.play(op.removals)
        await asyncio.sleep(op.seconds)
        return failures

    async def _reorder(self, op: ReorderDestinations) -> tuple[Failure, ...]:
        if not op.write_sysctl:
            return await self._ipvs.play(op.moves)
        _try_to_write(EXPIRE_NODEST, "0")
        try:
            return await self._ipvs.play(op.moves)
        finally:
            _try_to_write(EXPIRE_NODEST, "1")

    async def _perform(self, op: _Single) -> tuple[Failure, ...]:
        try:
            match op:
                case SetSysctl(name=advertised.FORWARDING, value="1"):
                    await _forward_ipv6()
                case SetSysctl(name=name, value=value):
                    sysctl.write(name, value)
                case SetTimeouts() | StartSync() | StopSync():
                    await self._ipvs.configure(op)
                case _:
                    assert_never(op)
        except OSError as error:
            why = _why(op, error) or _reason(error, self._interface)
            return (Failure((op,), f"{self._what(op)}: {why}"),)
        except KernelUnavailable as error:
            return (Failure((op,), f"{self._what(op)}: {error.reason}"),)
        return ()

    async def _write_addresses(self, ops: Sequence[_Addresses]) -> list[Failure]:
        """All of one kind."""
        named = {op.address: op for op in ops}
        self._written |= dict.fromkeys(named)
        if isinstance(ops[0], RemoveAddress):
            self._removed.update(named)
        try:
            match ops[0]:
                case AddAddress():
                    failed = await addresses.add(self._interface, list(named))
                case CorrectAddress():
                    failed = await addresses.correct(self._interface, list(named))
                case RemoveAddress():
                    failed = await addresses.remove(self._interface, list(named))
                case _:
                    assert_never(ops[0])
        except OSError as error:
            failed = dict.fromkeys(named, error)
        except KernelUnavailable as error:
            return [Failure((op,), f"{self._what(op)}: {error.reason}") for op in ops]
        return [
            Failure((named[address],), f"{self._what(named[address])}: {_reason(error, self._interface)}")
            for address, error in failed.items()
        ]

    async def _write_discards(self, ops: Sequence[_Discards]) -> list[Failure]:
        """All of one kind."""
        named = {op.prefix: op for op in ops}
        try:
            failed = await routes.write(list(named), add=isinstance(ops[0], AddDiscard))
        except (OSError, Malformed) as error:
            failed = dict.fromkeys(named, error if isinstance(error, OSError) else OSError(str(error)))
        return [
            Failure((named[prefix],), f"{self._what(named[prefix])}: {_why_no_route(error)}")
            for prefix, error in failed.items()
        ]

    def _what(self, op: _Single | _Addresses | _Discards) -> str:
        match op:
            case SetSysctl(name=name, value=value):
                return f"set sysctl {name} to {value}"
            case AddAddress(address=address):
                return f"add address {address} to {self._interface}"
            case CorrectAddress(address=address):
                return f"keep address {address} on {self._interface} from being a source address"
            case RemoveAddress(address=address):
                return f"remove address {address} from {self._interface}"
            case AddDiscard(prefix=prefix):
                return f"add the unreachable route of {prefix}"
            case RemoveDiscard(prefix=prefix):
                return f"remove the unreachable route of {prefix}"
            case SetTimeouts(timeouts=timeouts):
                return f"set timeouts to {timeouts.tcp} {timeouts.tcp_fin} {timeouts.udp} s"
            case StartSync(role=role, sync=sync):
                return f"start connection sync, {role} on {sync.interface}"
            case StopSync(role=role):
                return f"stop connection sync, {role}"
            case _:
                assert_never(op)


def _kind(op: KernelOp) -> type | None:
    """None: of IPVS."""
    match op:
        case AddAddress() | CorrectAddress() | RemoveAddress() | AddDiscard() | RemoveDiscard():
            return type(op)
        case (
            ExpireDestinations()
            | ReorderDestinations()
            | SetSysctl()
            | SetTimeouts()
            | StartSync()
            | StopSync()
        ):
            return object
        case _:
            return None


async def _forward_ipv6() -> None:
    """Not before the default routes that it would delete are safe from it. Raises OSError, KernelUnavailable."""
    for interface in await advertised.cut_by_forwarding():
        name = advertised.accept_ra(interface)
        try:
            sysctl.write(name, "2")
        except OSError as error:
            raise KernelUnavailable(
                f"not done, for it would delete the IPv6 default route of {interface}, which comes from router "
                f"advertisements: set {name}=2 first ({error.strerror})"
            ) from error
    sysctl.write(advertised.FORWARDING, "1")


def _try_to_write(name: str, value: str) -> None:
    """If it cannot be written, the next reading says so."""
    with contextlib.suppress(OSError):
        sysctl.write(name, value)


def _why(op: _Single, error: OSError) -> str | None:
    """None: for the reasons that every operation may have."""
    code = errno.errorcode.get(error.errno or 0, error.errno)
    match op, error.errno:
        case StartSync(sync=sync), errno.ENODEV:
            return f"there is no interface {sync.interface}: name another in connection_sync ({code})"
        case StartSync(sync=sync), errno.EINVAL:
            return (
                "refused: no service may have a real server of the other address family, "
                f"and {sync.group} must be a multicast group ({code})"
            )
        case StartSync(sync=sync), errno.EADDRNOTAVAIL:
            return f"{sync.interface} has no address of the family of {sync.group} ({code})"
        case StartSync(sync=sync), errno.ENETUNREACH:
            return f"interface {sync.interface} is down: run `ip link set {sync.interface} up` ({code})"
        case StartSync(), errno.EEXIST:
            return f"it runs already: another program started it ({code})"
        case SetTimeouts(), errno.EINVAL:
            return f"refused: longer than this kernel can count ({code})"
        case _:
            return None


def _why_no_route(error: OSError) -> str:
    if error.errno == errno.EEXIST:
        return f"another route of it with the metric {DISCARD_METRIC} is there: remove that (EEXIST)"
    return _reason(error, "all")


def _reason(error: OSError, interface: str) -> str:
    match error.errno:
        case errno.ENOENT:
            why = "this kernel does not have it (is the module loaded? `modprobe -a ip_vs ip_vs_mh`)"
        case errno.EROFS:
            why = "/proc/sys is read-only here: set it from outside, and write `sysctls: check`"
        case errno.EPERM:
            why = "not allowed: this process needs CAP_NET_ADMIN"
        case errno.EACCES:
            why = (
                "refused: CAP_NET_ADMIN is missing, or IPv6 is off "
                f"(`sysctl -w net.ipv6.conf.{interface}.disable_ipv6=0`)"
            )
        case _:
            why = error.strerror or str(error)
    return f"{why} ({errno.errorcode.get(error.errno or 0, error.errno)})"
