"""The model of the core against the kernel itself: whatever is played, both hold the same."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.core import kernel as core
from anycast.core.ipvs import (
    AddDestination,
    AddService,
    Destination,
    IpvsOp,
    MoveDestination,
    RemoveDestination,
    RemoveService,
    ServiceEntry,
    ServiceKey,
    SetDestination,
    SetService,
    Table,
    play,
)
from anycast.core.model import Address, Forwarding, Protocol, SchedulerFlag
from tests.contract.namespaces import closing_kernel, network_namespace

pytestmark = pytest.mark.lab

MH, SH = (
    (SchedulerFlag.MH_PORT, SchedulerFlag.MH_FALLBACK),
    (SchedulerFlag.SH_PORT, SchedulerFlag.SH_FALLBACK),
)
VIPS = tuple(ip_address(text) for text in ("192.0.2.1", "192.0.2.2", "2001:db8::1"))
SERVERS = {
    4: tuple(ip_address(f"10.0.0.{number}") for number in range(1, 6)),
    6: tuple(ip_address(f"fd00::{number}") for number in range(1, 6)),
}
KEYS = st.builds(
    ServiceKey, protocol=st.sampled_from(Protocol), address=st.sampled_from(VIPS), port=st.just(80)
)
SCHEDULING = st.one_of(
    st.tuples(st.just("mh"), st.frozensets(st.sampled_from(MH))),
    st.tuples(st.just("sh"), st.frozensets(st.sampled_from(SH))),
    st.tuples(st.sampled_from(["rr", "wrr", "wlc"]), st.just(frozenset[SchedulerFlag]())),
)
SYSCTLS = {"net.ipv4.vs.sloppy_tcp": "1", "net.ipv4.vs.schedule_icmp": "1"}
FEW = settings(max_examples=20, deadline=None)


def destinations(key: ServiceKey) -> st.SearchStrategy[Destination]:
    def of(family: int, forwardings: tuple[Forwarding, ...]) -> st.SearchStrategy[Destination]:
        return st.builds(
            Destination,
            address=st.sampled_from(SERVERS[family]),
            port=st.sampled_from([80, 8080]),
            weight=st.integers(0, 3),
            forwarding=st.sampled_from(forwardings),
            table_weight=st.integers(1, 3),
        )

    own = key.address.version
    return of(own, tuple(Forwarding)) | of(10 - own, (Forwarding.TUNNEL,))


@st.composite
def tables(draw: st.DrawFn) -> Table:
    table = {}
    for key in draw(st.lists(KEYS, unique=True, max_size=4)):
        scheduler, flags = draw(SCHEDULING)
        servers = draw(st.lists(destinations(key), unique_by=lambda one: one.key, max_size=6))
        table[key] = ServiceEntry(scheduler=scheduler, flags=flags, destinations=tuple(servers))
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


def _possible(table: Table, key: ServiceKey) -> st.SearchStrategy[IpvsOp]:
    if key not in table:
        return SCHEDULING.map(lambda both: AddService(service=key, scheduler=both[0], flags=both[1]))
    present = table[key].destinations
    taken = {one.key for one in present}
    choices: list[st.SearchStrategy[IpvsOp]] = [
        SCHEDULING.map(lambda both: SetService(service=key, scheduler=both[0], flags=both[1])),
        st.just(RemoveService(service=key)),
    ]
    fresh = destinations(key).filter(lambda one: one.key not in taken)
    choices += [fresh.map(lambda one: AddDestination(service=key, destination=one))] * 4
    if present:
        known = destinations(key).filter(lambda one: one.key in taken)
        choices += [
            known.map(lambda one: SetDestination(service=key, destination=one)),
            known.map(lambda one: MoveDestination(service=key, destination=one)),
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
            assert await kernel.read(SYSCTLS) == core.play(before, ops)

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
            for table, addresses in wanted:
                desired = core.Desired(
                    table=table, addresses=addresses, sysctls=SYSCTLS, owned=frozenset(VIPS)
                )
                before = await kernel.read(SYSCTLS)
                ops = core.diff(before, desired)
                assert await kernel.play(ops) == ()
                after = await kernel.read(SYSCTLS)
                assert after == core.play(before, ops)
                assert core.diff(after, desired) == ()

    with network_namespace():
        asyncio.run(story())
