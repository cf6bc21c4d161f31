"""What the tests of the kernel share: playing, reading, and the word of ipvsadm. All in this thread's namespace."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address

from anycast.core.dataplane import kernel as core
from anycast.core.dataplane.ipvs import Destination, MarkKey, Table, known
from anycast.core.values.configuration import Address, ConnectionSync, Forwarding, Timeouts, Tunnel
from tests.contract.namespaces import closing_kernel, run


def server(
    text: str,
    port: int = 80,
    weight: int = 1,
    forwarding: Forwarding = Forwarding.DR,
    *,
    table_weight: int = 1,
    tunnel: Tunnel | None = None,
    upper: int = 0,
    lower: int = 0,
) -> Destination:
    return Destination(
        address=ip_address(text),
        port=port,
        weight=weight,
        forwarding=Forwarding.TUNNEL if tunnel else forwarding,
        table_weight=weight or table_weight,
        tunnel=tunnel or Tunnel(),
        upper=upper,
        lower=lower,
    )


def desired(
    table: Table,
    *,
    owned: frozenset[Address] = frozenset(),
    owned_marks: frozenset[MarkKey] = frozenset(),
    timeouts: Timeouts | None = None,
    sync: ConnectionSync | None = None,
    sync_owned: bool = False,
) -> core.Desired:
    return core.Desired(
        table=table,
        addresses=frozenset(),
        sysctls={},
        owned=owned,
        owned_marks=owned_marks,
        timeouts=timeouts,
        sync=sync,
        sync_owned=sync_owned,
    )


def established(want: core.Desired, before: Table | None = None) -> tuple[core.KernelOp, ...]:
    """Reads, plays the difference, and shows that none is left. Returns what was played.

    `before`: what was written earlier, for the table weights that the kernel does not tell.
    """

    async def story() -> tuple[core.KernelOp, ...]:
        async with closing_kernel() as kernel:
            start = await kernel.read(want.sysctls)
            start = replace(start, table=known(start.table, before or {}))
            ops = core.diff(start, want)
            assert await kernel.play(ops) == ()
            end = await kernel.read(want.sysctls)
            end = replace(end, table=known(end.table, core.play(start, ops).table))
            assert core.diff(end, want) == ()
            return ops

    return asyncio.run(story())


def settled(want: core.Desired) -> tuple[core.KernelOp, ...]:
    """As `established`, and shows that a second time nothing is written."""
    ops = established(want)
    assert established(want, want.table) == ()
    return ops


def played(*ops: core.KernelOp, interface: str = "lo") -> tuple[core.Failure, ...]:
    async def story() -> tuple[core.Failure, ...]:
        async with closing_kernel(interface) as kernel:
            return await kernel.play(ops)

    return asyncio.run(story())


def snapshot(interface: str = "lo") -> core.Snapshot:
    async def story() -> core.Snapshot:
        async with closing_kernel(interface) as kernel:
            return await kernel.read(())

    return asyncio.run(story())


def read() -> Table:
    return snapshot().table


def ipvsadm(*argv: str) -> list[str]:
    """The lines of `ipvsadm -Sn`, or of `argv`."""
    text = run("ipvsadm", *(argv or ("-Sn",)))
    return [line.strip() for line in text.splitlines() if line.strip()]


def restore(lines: str) -> list[str]:
    """What ipvsadm says of the lines once the kernel has them."""
    before = ipvsadm()
    run("ipvsadm", "-R", stdin=lines)
    return [line for line in ipvsadm() if line not in before]
