"""Everything the agent does to the node's kernel, behind one class."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias, assert_never

from anycast.core.dataplane.ipvs import IpvsOp, ServiceKey
from anycast.core.dataplane.kernel import (
    EXPIRE_NODEST,
    AddAddress,
    ExpireDestinations,
    Failure,
    KernelOp,
    RemoveAddress,
    SetSysctl,
    SetTimeouts,
    Snapshot,
    StartSync,
    StopSync,
)
from anycast.core.values.configuration import Address
from anycast.kernel import addresses, interface_watch, sysctl
from anycast.kernel.errors import KernelUnavailable
from anycast.kernel.ipvs import Ipvs

# The kernel looks for connections without a real server a jiffy after a removal, in a thread of its own.
EXPIRY = 0.1  # seconds

_Single: TypeAlias = SetSysctl | AddAddress | RemoveAddress | SetTimeouts | StartSync | StopSync


class Kernel:
    """The kernel of this network namespace. `interface` carries the VIP addresses.

    The event loop never stands longer than one batch of IPVS requests takes.
    """

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._ipvs = Ipvs()
        self._addresses: frozenset[Address] = frozenset()  # as last read

    async def read(self, wanted_sysctls: Iterable[str]) -> Snapshot:
        """Raises KernelUnavailable: no IPVS, no right to it, interface missing or down, no answer."""
        # IPVS first: its sysctls are not there before the module is.
        reading = await self._ipvs.read()
        served = {key.address for key in reading.table if isinstance(key, ServiceKey)}
        try:
            self._addresses = await addresses.read(self._interface, self._addresses | served)
        except OSError as error:
            raise KernelUnavailable(
                f"addresses of {self._interface}: {_reason(error, self._interface)}"
            ) from error
        return Snapshot(
            table=reading.table,
            addresses=self._addresses,
            sysctls=sysctl.read(wanted_sysctls),
            timeouts=reading.timeouts,
            sync=reading.sync,
            packets=reading.packets,
            connections=reading.connections,
        )

    async def play(self, ops: Sequence[KernelOp]) -> tuple[Failure, ...]:
        """Carries out `ops` in order. Returns what failed, and in words why and what to do.

        What failed hinders no other operation. After a failure read again.
        """
        failures: list[Failure] = []
        table_ops: list[IpvsOp] = []  # neighbours, for they go out in batches
        for op in ops:
            match op:
                case ExpireDestinations():
                    failures += await self._ipvs.play(table_ops)
                    table_ops = []
                    failures += await self._expire(op)
                case SetSysctl() | AddAddress() | RemoveAddress() | SetTimeouts() | StartSync() | StopSync():
                    failures += await self._ipvs.play(table_ops)
                    table_ops = []
                    failures += await self._perform(op)
                case _:
                    table_ops.append(op)
        failures += await self._ipvs.play(table_ops)
        return tuple(failures)

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Calls `on_change` when the interface or its addresses may have changed, and once when it listens.

        Runs until it is cancelled. The kernel announces no change of IPVS: `read` alone shows it.
        """
        await interface_watch.watch(self._interface, on_change)

    async def close(self) -> None:
        """Leaves the kernel as it is. A later call opens everything again."""
        self._ipvs.close()

    async def _expire(self, op: ExpireDestinations) -> tuple[Failure, ...]:
        # The removals count, whether or not the connections can be ended: those that cannot time out.
        if not op.write_sysctl:
            return await self._ipvs.play(op.removals)
        with _expiring():
            failures = await self._ipvs.play(op.removals)
            await asyncio.sleep(EXPIRY)
        return failures

    async def _perform(self, op: _Single) -> tuple[Failure, ...]:
        try:
            match op:
                case SetSysctl(name=name, value=value):
                    sysctl.write(name, value)
                case AddAddress(address=address):
                    await addresses.add(self._interface, address)
                case RemoveAddress(address=address):
                    await addresses.remove(self._interface, address)
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

    def _what(self, op: _Single) -> str:
        match op:
            case SetSysctl(name=name, value=value):
                return f"set sysctl {name} to {value}"
            case AddAddress(address=address):
                return f"add address {address} to {self._interface}"
            case RemoveAddress(address=address):
                return f"remove address {address} from {self._interface}"
            case SetTimeouts(timeouts=timeouts):
                return f"set timeouts to {timeouts.tcp} {timeouts.tcp_fin} {timeouts.udp} s"
            case StartSync(role=role, sync=sync):
                return f"start connection sync, {role} on {sync.interface}"
            case StopSync(role=role):
                return f"stop connection sync, {role}"
            case _:
                assert_never(op)


@contextlib.contextmanager
def _expiring() -> Iterator[None]:
    with contextlib.suppress(OSError):
        sysctl.write(EXPIRE_NODEST, "1")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            sysctl.write(EXPIRE_NODEST, "0")


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
