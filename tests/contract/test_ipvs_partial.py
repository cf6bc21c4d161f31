"""Readings that share what has not changed, and those of a few services, while other programs write."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from anycast.core.dataplane import ipvs
from anycast.core.dataplane import kernel as core
from anycast.core.values.configuration import Protocol
from anycast.core.values.persistent import changed
from anycast.kernel import ipvs_codec as codec
from anycast.kernel.adapter import Kernel
from tests.contract.namespaces import closing_kernel, network_namespace, run
from tests.contract.tables import desired, server

pytestmark = pytest.mark.lab

VIPS = [ip_address("192.0.2.0") + number for number in range(1, 41)]


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with network_namespace():
        yield


def key(number: int) -> ipvs.ServiceKey:
    return ipvs.ServiceKey(protocol=Protocol.TCP, address=VIPS[number], port=80)


def entry(*servers: ipvs.Destination) -> ipvs.ServiceEntry:
    return ipvs.ServiceEntry(scheduler="wlc", destinations=servers)


SERVERS = tuple(server(f"10.0.0.{number}") for number in range(1, 4))
WANTED = desired({key(number): entry(*SERVERS) for number in range(len(VIPS))})


async def fill(kernel: Kernel) -> core.Snapshot:
    assert await kernel.play(core.diff(await kernel.read(()), WANTED)) == ()
    return await kernel.read((), alike=WANTED)


def test_a_reading_shares_with_the_one_before_all_that_nobody_changed() -> None:
    async def story() -> None:
        async with closing_kernel() as kernel:
            first = await fill(kernel)
            assert not list(changed(WANTED.table, first.table))  # they are the objects that were written
            assert (await kernel.read(())).table is first.table
            run("ipvsadm", "-e", "-t", "192.0.2.3:80", "-r", "10.0.0.2:80", "-w", "7")
            run("ipvsadm", "-E", "-t", "192.0.2.5:80", "-s", "rr")
            run("ipvsadm", "-D", "-t", "192.0.2.7:80")
            run("ipvsadm", "-A", "-t", "198.51.100.1:80")
            second = await kernel.read(())
            theirs = ipvs.ServiceKey(protocol=Protocol.TCP, address=ip_address("198.51.100.1"), port=80)
            assert set(changed(first.table, second.table)) == {key(2), key(4), key(6), theirs}
            assert [one.weight for one in second.table[key(2)].destinations] == [1, 7, 1]
            assert second.table[key(2)].destinations[0] is first.table[key(2)].destinations[0]
            assert second.table[key(4)] == replace(entry(*SERVERS), scheduler="rr")

    asyncio.run(story())


def test_what_has_not_changed_is_known_by_the_bytes_this_kernel_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        async with closing_kernel() as kernel:
            first = await fill(kernel)
            for name in ("parse_service", "parse_destination", "_decoded"):
                monkeypatch.delattr(codec, name)
            assert (await kernel.read(())).table is first.table

    asyncio.run(story())


def test_our_services_are_never_missing_while_another_program_adds_and_removes_others(tmp_path: Path) -> None:
    lines = [f"{verb} -t 198.51.100.{number}:80" for verb in ("-A", "-D") for number in range(1, 40)]
    batch = tmp_path / "batch"
    batch.write_text("\n".join(lines * 20) + "\n")

    async def story() -> None:
        async with closing_kernel() as kernel:
            await fill(kernel)
            changes = 0
            others: set[ipvs.Key] = set()
            while changes < 20:
                table = (await kernel.read(())).table
                assert WANTED.table.items() <= dict(table).items()
                assert {one.scheduler for one in table.values()} == {"wlc"}
                changes += others != set(table)
                others = set(table)

    program = subprocess.Popen(
        ["sh", "-c", f"while ipvsadm -R <{batch}; do :; done"],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        asyncio.run(story())
        assert program.poll() is None, "the other program has ended by itself"
    finally:
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()


def test_what_is_read_of_some_services_is_of_those_alone() -> None:
    async def story() -> None:
        async with closing_kernel() as kernel:
            first = await fill(kernel)
            run("ipvsadm", "-e", "-t", "192.0.2.3:80", "-r", "10.0.0.2:80", "-w", "7")
            down = replace(SERVERS[0], weight=0)
            ops = (
                ipvs.SetDestination(service=key(0), destination=down),
                ipvs.RemoveService(service=key(1)),
                ipvs.AddService(
                    service=ipvs.MarkKey(mark=7, version=4), settings=ipvs.Settings(scheduler="rr")
                ),
            )
            assert await kernel.play(ops) == ()
            some = await kernel.read((), only=core.touched(ops))
            assert set(changed(first.table, some.table)) == core.touched(ops)
            assert some.table[key(0)].destinations[0].weight == 0
            assert key(1) not in some.table
            assert some.packets.keys() == some.table.keys()
            everything = await kernel.read(())
            assert set(changed(some.table, everything.table)) == {key(2)}

    asyncio.run(story())


def test_services_that_others_removed_or_made_anew_are_read_as_they_are() -> None:
    async def story() -> None:
        async with closing_kernel() as kernel:
            await fill(kernel)
            run("ipvsadm", "-D", "-t", "192.0.2.1:80")
            run("ipvsadm", "-D", "-t", "192.0.2.2:80")
            run("ipvsadm", "-A", "-t", "192.0.2.2:80", "-s", "mh")
            some = await kernel.read((), only=[key(0), key(1)])
            assert key(0) not in some.table
            assert some.table[key(1)] == ipvs.ServiceEntry(scheduler="mh")
            assert len(some.table) == len(VIPS) - 1

    asyncio.run(story())


def test_addresses_are_followed_after_a_program_and_the_others_are_not_lost() -> None:
    async def story() -> None:
        async with closing_kernel() as kernel:
            first = await fill(kernel)
            six = ip_address("2001:db8::1")
            ops = [core.AddAddress(address=one) for one in (*VIPS, six)]
            assert await kernel.play(ops) == ()
            second = await kernel.read((), only=())
            assert second.addresses == first.addresses | {*VIPS, six}
            assert second.table is first.table
            assert await kernel.play([core.RemoveAddress(address=one) for one in (VIPS[0], six)]) == ()
            run("ip", "addr", "add", "203.0.113.1/32", "dev", "lo")
            third = await kernel.read((), only=())
            assert third.addresses == (second.addresses - {VIPS[0], six}) | {ip_address("203.0.113.1")}
            run("ip", "addr", "del", f"{VIPS[1]}/32", "dev", "lo")
            assert (await kernel.read((), only=())).addresses == third.addresses - {VIPS[1]}
            assert (await kernel.read(())).addresses == third.addresses - {VIPS[1]}

    asyncio.run(story())


def test_without_a_reading_before_everything_is_read() -> None:
    async def story() -> None:
        async with closing_kernel() as kernel:
            await fill(kernel)
        async with closing_kernel() as kernel:
            assert (await kernel.read((), only=[key(0)])).table == WANTED.table

    asyncio.run(story())


def test_a_service_with_more_real_servers_than_one_part_of_a_dump_holds_is_whole() -> None:
    many = tuple(server(f"10.1.{number // 250}.{number % 250 + 1}") for number in range(700))
    wanted = desired({key(0): entry(*many)})

    async def story() -> None:
        async with closing_kernel() as kernel:
            assert await kernel.play(core.diff(await kernel.read(()), wanted)) == ()
            first = await kernel.read((), alike=wanted)
            assert first.table[key(0)] is wanted.table[key(0)]
            gone = [ipvs.RemoveDestination(service=key(0), key=many[at].key) for at in (3, 400)]
            assert await kernel.play(gone) == ()
            left = (await kernel.read((), only=[key(0)])).table[key(0)].destinations
            assert left == tuple(one for one in many if one.key not in {op.key for op in gone})

    asyncio.run(story())
