"""The model of the core against the kernel itself: whatever is played, both hold the same."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.core.dataplane import kernel as core
from anycast.core.dataplane.ipvs import (
    AddDestination,
    AddService,
    Destination,
    IpvsOp,
    Key,
    MarkKey,
    MoveDestination,
    Persistent,
    RemoveDestination,
    RemoveService,
    ServiceEntry,
    ServiceKey,
    SetDestination,
    SetService,
    Settings,
    Table,
    forgotten,
    known,
    play,
    version_of,
)
from anycast.core.values.configuration import (
    Address,
    Forwarding,
    Protocol,
    Scheduler,
    SchedulerFlag,
    Tunnel,
    TunnelChecksum,
    TunnelType,
)
from tests.contract.namespaces import closing_kernel, network_namespace

pytestmark = pytest.mark.lab

MH, SH = (
    (SchedulerFlag.MH_PORT, SchedulerFlag.MH_FALLBACK),
    (SchedulerFlag.SH_PORT, SchedulerFlag.SH_FALLBACK),
)
VIPS = tuple(ip_address(text) for text in ("192.0.2.1", "192.0.2.2", "2001:db8::1"))
MARKS = frozenset(MarkKey(mark=mark, version=version) for mark in (1, 2) for version in (4, 6))
SERVERS = {
    4: tuple(ip_address(f"10.0.0.{number}") for number in range(1, 6)),
    6: tuple(ip_address(f"fd00::{number}") for number in range(1, 6)),
}
KEYS: st.SearchStrategy[Key] = st.one_of(
    st.builds(
        ServiceKey, protocol=st.sampled_from(Protocol), address=st.sampled_from(VIPS), port=st.just(80)
    ),
    st.builds(MarkKey, mark=st.integers(1, 2), version=st.sampled_from([4, 6])),
)
SCHEDULING = st.one_of(
    st.tuples(st.just("mh"), st.frozensets(st.sampled_from(MH))),
    st.tuples(st.just("sh"), st.frozensets(st.sampled_from(SH))),
    st.tuples(
        st.sampled_from([one.value for one in Scheduler if one not in ("mh", "sh")]),
        st.just(frozenset[SchedulerFlag]()),
    ),
)
TUNNELS = st.one_of(
    st.just(Tunnel()),
    st.builds(
        Tunnel,
        type=st.just(TunnelType.GUE),
        port=st.integers(1, 65535),
        checksum=st.sampled_from(TunnelChecksum),
    ),
    st.builds(
        Tunnel,
        type=st.just(TunnelType.GRE),
        checksum=st.sampled_from([TunnelChecksum.NONE, TunnelChecksum.FULL]),
    ),
)
SYSCTLS = {"net.ipv4.vs.sloppy_tcp": "1", "net.ipv4.vs.schedule_icmp": "1"}
FEW = settings(max_examples=40, deadline=None)


def settings_of(key: Key) -> st.SearchStrategy[Settings]:
    longest = 32 if version_of(key) == 4 else 128
    persistent = st.builds(Persistent, timeout=st.integers(1, 86400), prefix=st.integers(1, longest))
    return st.builds(
        lambda scheduling, one_packet, persistent: Settings(
            scheduler=scheduling[0], flags=scheduling[1], one_packet=one_packet, persistent=persistent
        ),
        SCHEDULING,
        st.booleans(),
        st.none() | persistent,
    )


def destinations(key: Key) -> st.SearchStrategy[Destination]:
    def of(
        family: int, forwardings: list[Forwarding], tunnels: st.SearchStrategy[Tunnel]
    ) -> st.SearchStrategy[Destination]:
        return st.builds(
            lambda weight, table_weight, limits, **fields: Destination(
                weight=weight, table_weight=weight or table_weight, upper=limits[1], lower=limits[0], **fields
            ),
            weight=st.integers(0, 3),
            table_weight=st.integers(1, 3),
            limits=st.tuples(st.integers(0, 9), st.integers(0, 9)).map(sorted),
            address=st.sampled_from(SERVERS[family]),
            port=st.just(0) if isinstance(key, MarkKey) else st.sampled_from([80, 8080]),
            forwarding=st.sampled_from(forwardings),
            tunnel=tunnels,
        )

    own = version_of(key)
    return st.one_of(
        of(own, [Forwarding.DR, Forwarding.NAT], st.just(Tunnel())),
        of(own, [Forwarding.TUNNEL], TUNNELS),
        of(10 - own, [Forwarding.TUNNEL], TUNNELS),
    )


@st.composite
def tables(draw: st.DrawFn) -> Table:
    table = {}
    for key in draw(st.lists(KEYS, unique=True, max_size=4)):
        one = draw(settings_of(key))
        servers = draw(st.lists(destinations(key), unique_by=lambda one: one.key, max_size=6))
        table[key] = ServiceEntry(
            scheduler=one.scheduler,
            flags=one.flags,
            one_packet=one.one_packet,
            persistent=one.persistent,
            destinations=tuple(servers),
        )
    return table


@st.composite
def programmes(draw: st.DrawFn) -> list[IpvsOp]:
    """Operations each of which is possible after those before it."""
    table: Table = {}
    ops: list[IpvsOp] = []
    for _ in range(draw(st.integers(1, 25))):
        op = draw(_possible(table, draw(KEYS)))
        ops.append(op)
        table = play(table, [op])
    return ops


def _possible(table: Table, key: Key) -> st.SearchStrategy[IpvsOp]:
    if key not in table:
        return settings_of(key).map(lambda one: AddService(service=key, settings=one))
    present = table[key].destinations
    taken = {one.key for one in present}
    choices: list[st.SearchStrategy[IpvsOp]] = [
        settings_of(key).map(lambda one: SetService(service=key, settings=one)),
        st.just(RemoveService(service=key)),
    ]
    fresh = destinations(key).filter(lambda one: one.key not in taken)
    choices += [fresh.map(lambda one: AddDestination(service=key, destination=one))] * 4
    if present:
        held = destinations(key).filter(lambda one: one.key in taken)
        choices += [
            st.builds(
                lambda one, rebuild: SetDestination(service=key, destination=one, rebuild=rebuild),
                held,
                st.booleans(),
            ),
            held.map(lambda one: MoveDestination(service=key, destination=one)),
            st.sampled_from(sorted(taken, key=str)).map(
                lambda gone: RemoveDestination(service=key, key=gone)
            ),
        ]
    return st.one_of(choices)


@FEW
@given(ops=programmes())
def test_the_kernel_after_any_operations_is_what_the_model_says(ops: list[IpvsOp]) -> None:
    async def story() -> None:
        async with closing_kernel() as kernel:
            before = await kernel.read(SYSCTLS)
            assert await kernel.play(ops) == ()
            after = core.play(before, ops)
            assert await kernel.read(SYSCTLS) == replace(after, table=forgotten(after.table))

    with network_namespace():
        asyncio.run(story())


@FEW
@given(
    wanted=st.lists(st.tuples(tables(), st.frozensets(st.sampled_from(VIPS))), min_size=1, max_size=3),
)
def test_playing_the_difference_makes_the_kernel_what_is_desired(
    wanted: list[tuple[Table, frozenset[Address]]],
) -> None:
    async def story() -> None:
        async with closing_kernel() as kernel:
            written: Table = {}
            for table, addresses in wanted:
                desired = core.Desired(
                    table=table,
                    addresses=addresses,
                    sysctls=SYSCTLS,
                    owned=frozenset(VIPS),
                    owned_marks=MARKS,
                )
                read = await kernel.read(SYSCTLS)
                before = replace(read, table=known(read.table, written))
                ops = core.diff(before, desired)
                assert await kernel.play(ops) == ()
                after, expected = await kernel.read(SYSCTLS), core.play(before, ops)
                assert after == replace(expected, table=forgotten(expected.table))
                written = expected.table
                assert core.diff(replace(after, table=known(after.table, written)), desired) == ()

    with network_namespace():
        asyncio.run(story())
