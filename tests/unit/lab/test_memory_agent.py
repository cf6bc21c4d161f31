"""The kernel in memory does what the core expects of one."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

from anycast.core.dataplane.kernel import Desired, Snapshot, diff
from anycast.core.health.phase import Outcome, Result
from anycast.core.values.configuration import Check, Target, TcpCheck
from lab import bench
from lab.memory_agent import MemoryKernel, NoChecks


def test_what_was_played_is_read_back_in_objects_of_its_own_and_shared_with_the_next_reading() -> None:
    wanted = Desired(
        table=bench.contents(2, 300),
        addresses=frozenset({ip_address("192.0.2.1")}),
        sysctls={"net.ipv4.vs.sloppy_tcp": "1"},
    )

    async def story() -> tuple[Snapshot, Snapshot]:
        kernel = MemoryKernel("lo")
        await kernel.play(diff(await kernel.read(()), wanted))
        return await kernel.read(wanted.sysctls), await kernel.read(wanted.sysctls)

    first, second = asyncio.run(story())
    assert diff(first, wanted) == ()
    assert first == second
    for key, entry in first.table.items():
        assert entry is second.table[key]
        for one, other in zip(entry.destinations, wanted.table[key].destinations, strict=True):
            assert one is not other
            assert one.address is not other.address


def test_without_checks_every_target_is_well_at_once() -> None:
    told: list[tuple[Target, Result]] = []
    checker = NoChecks(lambda target, result: told.append((target, result)))
    targets = frozenset(
        Target(address=ip_address(f"10.0.0.{n}"), port=80, check=Check(kind=TcpCheck())) for n in (1, 2)
    )
    checker.set_targets(targets)
    checker.schedule(told[0][0], 1.0)
    assert {target for target, _ in told} == targets
    assert {result.outcome for _, result in told} == {Outcome.OK}
