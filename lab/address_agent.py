"""`anycast agent` with IPVS in memory and addresses in the real kernel: how it gets on with the programs that manage
interfaces, on machines without IPVS. All else is the agent's own; every target is well once and for all.

`python -m lab.address_agent agent --config PATH`, the rest as `anycast` takes it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from anycast.agent import engine, main
from anycast.core.dataplane import ipvs
from anycast.core.dataplane import kernel as kernels
from anycast.core.values.configuration import ConnectionSync, Timeouts
from anycast.core.values.persistent import PersistentMap
from anycast.kernel import adapter, sysctl
from anycast.kernel.ipvs import Reading
from lab.memory_agent import NoChecks

OF_IPVS = "net.ipv4.vs."


class MemoryIpvs:
    """In the place of `anycast.kernel.ipvs.Ipvs`."""

    def __init__(self) -> None:
        self._table: ipvs.Table = PersistentMap()
        self._timeouts = Timeouts()
        self._sync: dict[kernels.SyncRole, ConnectionSync] = {}

    def close(self) -> None:
        pass

    async def read(self, only: Iterable[ipvs.Key] | None = None, alike: ipvs.Table | None = None) -> Reading:
        del only, alike
        table = ipvs.persistent(ipvs.forgotten(self._table))
        return Reading(table, self._timeouts, self._sync, {}, PersistentMap(), PersistentMap())

    async def play(self, ops: Sequence[ipvs.IpvsOp]) -> tuple[kernels.Failure, ...]:
        self._table = ipvs.play(self._table, ops)
        return ()

    async def configure(self, op: kernels.SetTimeouts | kernels.StartSync | kernels.StopSync) -> None:
        match op:
            case kernels.SetTimeouts(timeouts=timeouts):
                self._timeouts = timeouts
            case kernels.StartSync(role=role, sync=sync):
                self._sync[role] = sync
            case kernels.StopSync(role=role):
                self._sync.pop(role, None)


class Sysctls:
    """In the place of `anycast.kernel.sysctl`: those of IPVS in memory, the others of the kernel."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def read(self, names: Iterable[str]) -> dict[str, str | None]:
        asked = list(names)
        found = sysctl.read(name for name in asked if not name.startswith(OF_IPVS))
        return {name: self._values.get(name) if name.startswith(OF_IPVS) else found[name] for name in asked}

    def write(self, name: str, value: str) -> None:
        if name.startswith(OF_IPVS):
            self._values[name] = value
        else:
            sysctl.write(name, value)


def run(argv: list[str]) -> int:
    from anycast.cli.main import main as anycast

    setattr(adapter, "Ipvs", MemoryIpvs)  # noqa: B010
    setattr(adapter, "sysctl", Sysctls())  # noqa: B010
    setattr(engine, "Checker", NoChecks)  # noqa: B010
    setattr(main, "Kernel", adapter.Kernel)  # noqa: B010
    return anycast(argv)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
