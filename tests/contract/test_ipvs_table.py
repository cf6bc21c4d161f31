"""What the kernel holds after our writes, by the word of ipvsadm; and what ipvsadm wrote, as we read it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from anycast.core.dataplane import kernel as core
from anycast.core.dataplane.ipvs import (
    AddDestination,
    AddService,
    Destination,
    MoveDestination,
    Persistent,
    RemoveDestination,
    RemoveService,
    ServiceEntry,
    ServiceKey,
    SetDestination,
    Settings,
    Table,
    forgotten,
)
from anycast.core.values.configuration import Forwarding, Protocol, Scheduler, SchedulerFlag
from anycast.kernel import ipvs_codec
from anycast.kernel.errors import KernelUnavailable
from tests.contract.namespaces import closing_kernel, network_namespace, run
from tests.contract.tables import desired, established, ipvsadm, played, read, restore, server

pytestmark = pytest.mark.lab

MH = frozenset({SchedulerFlag.MH_PORT, SchedulerFlag.MH_FALLBACK})
V4, V6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")
WEB = ServiceKey(protocol=Protocol.TCP, address=V4, port=80)
SOMEBODY_ELSES = """\
-A -f 7 -s wlc -p 300
-a -f 7 -r 10.9.0.1 -g -w 5
-A --sctp-service 192.0.2.77:80 -s rr
-a --sctp-service 192.0.2.77:80 -r 10.9.0.1:80 -g -w 5
-A -t 192.0.2.77:5060 -s wrr -p 360 -M 255.255.255.0
-a -t 192.0.2.77:5060 -r 10.9.0.1:5060 -m -w 5 -x 100 -y 50
-A -u 192.0.2.77:53 -s wrr -o
-A -t [2001:db8::77]:443 -s sh -b sh-port
"""


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with network_namespace():
        yield


def entry(*servers: Destination, scheduler: str = "mh", flags: frozenset[SchedulerFlag] = MH) -> ServiceEntry:
    return ServiceEntry(
        scheduler=scheduler, flags=flags if scheduler == "mh" else frozenset(), destinations=servers
    )


def newest_first() -> list[str]:
    """Addresses in the order of the kernel's list."""
    lines = Path("/proc/net/ip_vs").read_text("ascii").splitlines()
    return [line.split()[1] for line in lines[3:] if line.strip().startswith("->")]


@pytest.mark.parametrize(
    ("key", "wanted", "lines"),
    [
        (
            WEB,
            entry(server("10.0.0.1"), server("10.0.0.2", weight=0)),
            [
                "-A -t 192.0.2.1:80 -s mh -b mh-fallback,mh-port",
                "-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 1",
                "-a -t 192.0.2.1:80 -r 10.0.0.2:80 -g -w 0",
            ],
        ),
        (
            WEB,
            entry(server("10.0.0.1", 8080, 7, Forwarding.NAT), scheduler="wrr"),
            ["-A -t 192.0.2.1:80 -s wrr", "-a -t 192.0.2.1:80 -r 10.0.0.1:8080 -m -w 7"],
        ),
        (
            ServiceKey(protocol=Protocol.UDP, address=V6, port=514),
            entry(server("fd00::1", 514, forwarding=Forwarding.TUNNEL), scheduler="rr"),
            [
                "-A -u [2001:db8::1]:514 -s rr",
                "-a -u [2001:db8::1]:514 -r [fd00::1]:514 -i -w 1 --tun-type ipip",
            ],
        ),
        (
            ServiceKey(protocol=Protocol.TCP, address=V6, port=80),
            entry(server("fd00::1"), server("fd00::2", forwarding=Forwarding.NAT)),
            [
                "-A -t [2001:db8::1]:80 -s mh -b mh-fallback,mh-port",
                "-a -t [2001:db8::1]:80 -r [fd00::1]:80 -g -w 1",
                "-a -t [2001:db8::1]:80 -r [fd00::2]:80 -m -w 1",
            ],
        ),
        (
            ServiceKey(protocol=Protocol.UDP, address=V4, port=53),
            ServiceEntry(scheduler="sh", flags=frozenset({SchedulerFlag.SH_PORT})),
            ["-A -u 192.0.2.1:53 -s sh -b sh-port"],
        ),
        (
            WEB,
            entry(server("fd00::1", forwarding=Forwarding.TUNNEL)),
            [
                "-A -t 192.0.2.1:80 -s mh -b mh-fallback,mh-port",
                "-a -t 192.0.2.1:80 -r [fd00::1]:80 -i -w 1 --tun-type ipip",
            ],
        ),
    ],
)
def test_what_we_write_is_what_ipvsadm_sees(key: ServiceKey, wanted: ServiceEntry, lines: list[str]) -> None:
    established(desired({key: wanted}))
    assert ipvsadm() == lines


@pytest.mark.parametrize("scheduler", Scheduler)
def test_every_scheduler_we_offer_is_one_the_kernel_has(scheduler: Scheduler) -> None:
    established(desired({WEB: entry(server("10.0.0.1"), scheduler=scheduler)}))
    assert f"-s {scheduler}" in ipvsadm()[0]


def test_what_is_already_as_wanted_is_not_written_again() -> None:
    table: Table = {WEB: entry(server("10.0.0.1"), server("10.0.0.2", weight=0))}
    assert established(desired(table)) != ()
    assert established(desired(table), table) == ()


def test_a_table_weight_that_nobody_knows_is_written_once_more() -> None:
    down = server("10.0.0.2", weight=0, table_weight=3)
    table: Table = {WEB: entry(server("10.0.0.1"), down)}
    established(desired(table))
    expected = ipvsadm()
    assert established(desired(table)) == (SetDestination(service=WEB, destination=down, rebuild=True),)
    assert ipvsadm() == expected


def test_this_kernel_writes_destinations_in_the_layout_of_the_fast_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(ipvs_codec, "parse_destination")
    six = ServiceKey(protocol=Protocol.UDP, address=V6, port=53)
    table: Table = {WEB: entry(server("10.0.0.1")), six: entry(server("fd00::1", 53), scheduler="rr")}
    established(desired(table))
    assert read() == table


def test_the_order_of_insertion_is_read_and_is_the_reverse_of_the_kernels_list() -> None:
    for number in (3, 1, 2):
        line = f"-a -t 192.0.2.1:80 -r 10.0.0.{number}:80 -g -w 1"
        restore("-A -t 192.0.2.1:80 -s mh -b mh-fallback,mh-port\n" + line if number == 3 else line)
    assert newest_first() == ["0A000002:0050", "0A000001:0050", "0A000003:0050"]
    assert [str(one.address) for one in read()[WEB].destinations] == ["10.0.0.3", "10.0.0.1", "10.0.0.2"]


def test_a_wrong_order_is_repaired_in_place() -> None:
    table: Table = {WEB: entry(*(server(f"10.0.0.{number}") for number in range(1, 5)))}
    shuffled = [f"-a -t 192.0.2.1:80 -r 10.0.0.{number}:80 -g -w 1" for number in (1, 4, 3, 2)]
    restore("\n".join(["-A -t 192.0.2.1:80 -s mh -b mh-fallback,mh-port", *shuffled]))
    ops = established(desired(table))
    assert {type(op) for op in ops} == {core.ReorderDestinations}
    assert newest_first() == ["0A000004:0050", "0A000003:0050", "0A000002:0050", "0A000001:0050"]


def test_a_table_of_thousands_of_real_servers_is_written_and_read_whole() -> None:
    first = ip_address("10.1.0.0")
    servers = [server(str(first + number), weight=number % 3) for number in range(2000)]
    table: Table = {WEB: entry(*servers, scheduler="wrr")}
    established(desired(table))
    assert read() == forgotten(table)
    assert len(ipvsadm()) == 2001


def test_what_is_somebody_elses_stays_as_it_is() -> None:
    theirs = restore(SOMEBODY_ELSES)
    assert len(theirs) == 8
    ours: Table = {WEB: entry(server("10.0.0.1"))}
    established(desired(ours, owned=frozenset({V4, V6})))
    established(desired({}, owned=frozenset({V4, V6})))
    assert ipvsadm() == theirs


def test_what_is_somebody_elses_is_read_in_full() -> None:
    restore(SOMEBODY_ELSES)
    assert {str(key): one.settings for key, one in read().items()} == {
        "mark 7 IPv4": Settings(scheduler="wlc", persistent=Persistent(timeout=300, prefix=32)),
        "sctp 192.0.2.77:80": Settings(scheduler="rr"),
        "tcp 192.0.2.77:5060": Settings(scheduler="wrr", persistent=Persistent(timeout=360, prefix=24)),
        "udp 192.0.2.77:53": Settings(scheduler="wrr", one_packet=True),
        "tcp [2001:db8::77]:443": Settings(scheduler="sh", flags=frozenset({SchedulerFlag.SH_PORT})),
    }
    assert {str(key): one.destinations for key, one in read().items() if one.destinations} == {
        "mark 7 IPv4": (server("10.9.0.1", 0, 5),),
        "sctp 192.0.2.77:80": (server("10.9.0.1", 80, 5),),
        "tcp 192.0.2.77:5060": (server("10.9.0.1", 5060, 5, Forwarding.NAT, upper=100, lower=50),),
    }


@pytest.mark.parametrize(
    "by_hand",
    [
        "-E -t 192.0.2.1:80 -s mh -b mh-fallback,mh-port -p 300",
        "-E -t 192.0.2.1:80 -s mh -b mh-port",
        "-E -t 192.0.2.1:80 -s sh -b sh-fallback,sh-port",
        "-e -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 1 -x 100 -y 50",
        "-e -t 192.0.2.1:80 -r 10.0.0.1:80 -i --tun-type gue --tun-port 5555",
        "-e -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 9",
        "-d -t 192.0.2.1:80 -r 10.0.0.1:80",
        "-a -t 192.0.2.1:80 -r 10.0.0.9:80 -g -w 1",
        "-D -t 192.0.2.1:80",
    ],
)
def test_what_is_changed_by_hand_in_a_service_of_ours_is_repaired(by_hand: str) -> None:
    table: Table = {WEB: entry(server("10.0.0.1"), server("10.0.0.2"))}
    established(desired(table))
    expected = run("ipvsadm", "-Ln", "--thresholds"), ipvsadm()
    run("ipvsadm", *by_hand.split())
    assert established(desired(table)) != ()
    assert (run("ipvsadm", "-Ln", "--thresholds"), ipvsadm()) == expected


def test_a_service_that_is_removed_goes_with_its_real_servers() -> None:
    established(desired({WEB: entry(server("10.0.0.1"))}))
    assert established(desired({}, owned=frozenset({V4}))) == (RemoveService(service=WEB),)
    assert ipvsadm() == []


def test_operations_that_lost_a_race_are_told_one_by_one_and_hinder_no_other() -> None:
    present, absent = server("10.0.0.1"), server("10.0.0.2")
    other = replace(WEB, port=81)
    add = AddService(service=WEB, settings=Settings(scheduler="rr"))
    failures = played(
        add,
        add,
        AddDestination(service=WEB, destination=present),
        AddDestination(service=WEB, destination=present),
        SetDestination(service=WEB, destination=absent),
        RemoveDestination(service=WEB, key=absent.key),
        MoveDestination(service=WEB, destination=absent),
        RemoveService(service=other),
        AddDestination(service=WEB, destination=server("10.0.0.3")),
    )
    assert [(text.split(":")[0], text.rpartition("(")[2]) for _, text in failures] == [
        ("add service tcp 192.0.2.1", "EEXIST)"),
        ("add real server 10.0.0.1", "EEXIST)"),
        ("change real server 10.0.0.2", "ENOENT)"),
        ("remove real server 10.0.0.2", "ENOENT)"),
        ("remove service tcp 192.0.2.1", "ESRCH)"),
    ]
    assert [str(one.address) for one in read()[WEB].destinations] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


def test_operations_of_all_kinds_are_carried_out_in_the_order_given() -> None:
    gone = RemoveService(service=WEB)
    bad = core.SetSysctl(name="net.ipv4.vs.no_such_name", value="1")
    verbs = [text.split()[0] for _, text in played(gone, bad, gone, gone, bad)]
    assert verbs == ["remove", "set", "remove", "remove", "set"]


def test_a_scheduler_this_kernel_lacks_is_told_once_with_the_module_to_load() -> None:
    ops = (
        AddService(service=WEB, settings=Settings(scheduler="nosuch")),
        AddDestination(service=WEB, destination=server("10.0.0.1")),
        AddDestination(service=WEB, destination=server("10.0.0.2")),
    )
    told, *silent = played(*ops)
    assert "run `modprobe ip_vs_nosuch` (ENOENT)" in told.text
    assert silent == [((op,), "") for op in ops[1:]]


def test_sysctls_of_ipvs_are_set_and_read_back() -> None:
    async def story() -> None:
        async with closing_kernel() as kernel:
            wanted = core.IPVS_SYSCTLS
            before = await kernel.read((*wanted, "net.ipv4.vs.no_such_name"))
            assert set(before.sysctls) == {*wanted, "net.ipv4.vs.no_such_name"}
            assert before.sysctls["net.ipv4.vs.no_such_name"] is None
            assert before.sysctls["net.ipv4.vs.sloppy_tcp"] == "0"
            ops = [core.SetSysctl(name=name, value=value) for name, value in wanted.items()]
            assert await kernel.play(ops) == ()
            assert (await kernel.read(wanted)).sysctls == wanted

    asyncio.run(story())


def test_a_process_without_the_capability_is_told_so() -> None:
    heard, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(65534)
            read()
        except KernelUnavailable as error:
            os.write(told, error.reason.encode())
        finally:
            os._exit(0)
    os.close(told)
    with open(heard, encoding="utf-8") as reason:
        assert "needs CAP_NET_ADMIN" in reason.read()
    os.waitpid(child, 0)


def test_a_namespace_whose_loopback_is_down_is_told_so() -> None:
    with network_namespace(loopback=False):
        (failure,) = played(
            AddService(service=WEB, settings=Settings(scheduler="rr")),
            AddDestination(service=WEB, destination=server("10.0.0.1")),
        )
        assert "ip link set lo up" in failure.text


def test_long_work_lets_the_event_loop_breathe() -> None:
    """Another task runs many times while a Maglev table is rebuilt again and again."""

    async def story() -> int:
        async with closing_kernel() as kernel:
            servers = [server(f"10.0.0.{number}") for number in range(1, 101)]
            await kernel.play(core.diff(await kernel.read(()), desired({WEB: entry(*servers)})))
            changes = [SetDestination(service=WEB, destination=replace(one, weight=0)) for one in servers]
            rounds = 0

            async def count() -> None:
                nonlocal rounds
                while True:
                    rounds += 1
                    await asyncio.sleep(0)

            counting = asyncio.create_task(count())
            await asyncio.sleep(0)
            start = rounds
            assert await kernel.play(changes) == ()
            counting.cancel()
            return rounds - start

    assert asyncio.run(story()) >= 100 // 16
