"""Everything the agent does to the node's kernel, behind one class."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from typing import assert_never

from anycast.core.ipvs import IpvsOp
from anycast.core.kernel import AddAddress, KernelOp, RemoveAddress, SetSysctl, Snapshot
from anycast.kernel import addresses, events, sysctl
from anycast.kernel.errors import KernelUnavailable
from anycast.kernel.ipvs import Ipvs


class Kernel:
    """The kernel of this network namespace. `interface` carries the VIP addresses.

    With `sysctls_managed` false sysctls are read and never written. The event loop never stands longer than
    one batch of IPVS requests takes.
    """

    def __init__(self, interface: str, sysctls_managed: bool) -> None:  # noqa: FBT001 - named by every caller
        self._interface = interface
        self._sysctls_managed = sysctls_managed
        self._ipvs = Ipvs()

    async def read(self, wanted_sysctls: Iterable[str]) -> Snapshot:
        """Raises KernelUnavailable: no IPVS, no right to it, interface missing or down, no answer."""
        # IPVS first: its sysctls are not there before the module is.
        reading = await self._ipvs.read()
        try:
            present = await addresses.read(self._interface)
        except OSError as error:
            raise KernelUnavailable(
                f"addresses of {self._interface}: {_reason(error, self._interface)}"
            ) from error
        return Snapshot(table=reading.table, addresses=present, sysctls=sysctl.read(wanted_sysctls))

    async def play(self, ops: Sequence[KernelOp]) -> tuple[str, ...]:
        """Carries out `ops` in order. Returns one text per operation that failed: which, why, what to do.

        What failed hinders no other operation. After a failure read again.
        """
        failures: list[str] = []
        table_ops: list[IpvsOp] = []  # neighbours, for they go out in batches
        for op in ops:
            match op:
                case SetSysctl() | AddAddress() | RemoveAddress():
                    failures += await self._ipvs.play(table_ops)
                    table_ops = []
                    failures += await self._perform(op)
                case _:
                    table_ops.append(op)
        failures += await self._ipvs.play(table_ops)
        return tuple(failures)

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Calls `on_change` when the interface or its addresses may have changed, and once when it listens.

        Runs until it is cancelled. IPVS changes are not told by the kernel; they are seen by `read` only.
        """
        await events.watch(self._interface, on_change)

    async def close(self) -> None:
        """Leaves the kernel as it is. A later call opens everything again."""
        self._ipvs.close()

    async def _perform(self, op: SetSysctl | AddAddress | RemoveAddress) -> tuple[str, ...]:
        try:
            match op:
                case SetSysctl(name=name, value=value) if not self._sysctls_managed:
                    return (f"{self._what(op)}: manage_sysctls is off: run `sysctl -w {name}={value}`",)
                case SetSysctl(name=name, value=value):
                    sysctl.write(name, value)
                case AddAddress(address=address):
                    await addresses.add(self._interface, address)
                case RemoveAddress(address=address):
                    await addresses.remove(self._interface, address)
                case _:
                    assert_never(op)
        except OSError as error:
            return (f"{self._what(op)}: {_reason(error, self._interface)}",)
        except KernelUnavailable as error:
            return (f"{self._what(op)}: {error.reason}",)
        return ()

    def _what(self, op: SetSysctl | AddAddress | RemoveAddress) -> str:
        match op:
            case SetSysctl(name=name, value=value):
                return f"set sysctl {name} to {value}"
            case AddAddress(address=address):
                return f"add address {address} to {self._interface}"
            case RemoveAddress(address=address):
                return f"remove address {address} from {self._interface}"
            case _:
                assert_never(op)


def _reason(error: OSError, interface: str) -> str:
    match error.errno:
        case errno.ENOENT:
            why = "this kernel does not have it (is the module loaded? `modprobe -a ip_vs ip_vs_mh`)"
        case errno.EROFS:
            why = "/proc/sys is read-only here: set it from outside, and manage_sysctls to false"
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
