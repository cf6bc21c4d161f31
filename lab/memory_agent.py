"""`anycast agent` with a kernel in memory: for measurements on machines without IPVS. All else is the agent's own.

`python -m lab.memory_agent [--unchecked] agent --config PATH`, the rest as `anycast` takes it. With `--unchecked`
every target is well once and for all: what is left is the agent without its checks.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from types import MappingProxyType

from anycast.agent import engine, main
from anycast.agent.run_log import RunLog
from anycast.core.dataplane import ipvs
from anycast.core.dataplane import kernel as kernels
from anycast.core.health.phase import Outcome, Result
from anycast.core.values.configuration import Address, Target
from anycast.core.values.persistent import PersistentMap, changed
from anycast.ops.source import Probes, Tripwires

EMPTY: PersistentMap[ipvs.Key, ipvs.ServiceEntry] = PersistentMap()
TURN = 256  # real servers that are read in one turn of the event loop


class MemoryKernel:
    """Does as it is told. A reading is made of objects of its own, and shares with the one before it what has not changed,
    as what is read over netlink does.
    """

    def __init__(self, interface: str) -> None:
        del interface
        self._held = kernels.Snapshot(table=EMPTY, addresses=frozenset(), sysctls={})
        self._read = self._table = EMPTY  # as held at the last reading, and what was told then

    async def read(
        self,
        wanted_sysctls: Iterable[str],
        *,
        only: Iterable[ipvs.Key] | None = None,
        alike: kernels.Desired | None = None,
        need: kernels.IpvsNeed = kernels.IpvsNeed.NEEDED,
        arriving: Mapping[str, tuple[Address, ...]] = MappingProxyType({}),
        discards: bool = False,
    ) -> kernels.Snapshot:
        del only, alike, need, arriving, discards
        held = self._held
        table = ipvs.persistent(held.table)
        changes: dict[ipvs.Key, ipvs.ServiceEntry] = {}
        keys = list(changed(self._read, table))
        for key in keys:
            if key not in table:
                continue
            servers: list[ipvs.Destination] = []
            for at in range(0, len(table[key].destinations), TURN):
                servers += [_told(one) for one in table[key].destinations[at : at + TURN]]
                await asyncio.sleep(0)
            changes[key] = replace(table[key], destinations=tuple(servers))
        self._read = table
        self._table = self._table.updated(changes, [key for key in keys if key not in table])
        sysctls = {name: held.sysctls.get(name) for name in wanted_sysctls}
        return replace(held, table=self._table, sysctls=sysctls)

    async def play(self, ops: Sequence[kernels.KernelOp]) -> tuple[kernels.Failure, ...]:
        self._held = kernels.play(self._held, ops)
        return ()

    async def watch(self, on_change: Callable[[frozenset[Address]], None]) -> None:
        del on_change
        await asyncio.Event().wait()

    async def close(self) -> None:
        pass


def _told(one: ipvs.Destination) -> ipvs.Destination:
    """The kernel keeps the table weight of a server at weight 0 to itself."""
    address = type(one.address)(int(one.address))
    return replace(one, address=address, table_weight=one.table_weight if one.weight else 0)


class NoChecks:
    """In the place of the checker: each target is reported well, once."""

    def __init__(
        self,
        report: Callable[[Target, Result], None],
        *,
        forgotten: Callable[[Target], None] = lambda _: None,
        told: Callable[[str, dict[str, object]], None] = lambda *_: None,
    ) -> None:
        del forgotten, told
        self._report = report
        self.probes: dict[str, Probes] = {}
        self.runs = RunLog()
        self.tripwires = Tripwires()

    def set_targets(self, targets: AbstractSet[Target]) -> None:
        for target in targets:
            self._report(target, Result(outcome=Outcome.OK))

    def schedule(self, target: Target, after: float, *, quiet: bool = False) -> None:
        pass

    def probe_anew(self) -> None:
        pass

    def spare(self) -> None:
        pass

    async def close(self) -> None:
        pass


def run(argv: list[str]) -> int:
    from anycast.cli.main import main as anycast

    unchecked = argv[:1] == ["--unchecked"]
    setattr(main, "Kernel", MemoryKernel)  # noqa: B010
    if unchecked:
        setattr(engine, "Checker", NoChecks)  # noqa: B010
    return anycast(argv[unchecked:])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
