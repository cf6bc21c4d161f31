from __future__ import annotations

import asyncio
import errno
import resource
import socket
from collections.abc import Iterable, Sequence
from ipaddress import ip_address

import pytest

from anycast.core.dataplane.ipvs import (
    Destination,
    IpvsOp,
    Key,
    MarkKey,
    MoveDestination,
    RemoveDestination,
    RemoveService,
    ServiceEntry,
    ServiceKey,
)
from anycast.core.dataplane.kernel import (
    EXPIRE_NODEST,
    AddAddress,
    ExpireDestinations,
    Failure,
    KernelOp,
    RemoveAddress,
    ReorderDestinations,
    SetSysctl,
)
from anycast.core.dataplane.traffic import Received
from anycast.core.values.configuration import Address, Forwarding, Protocol, Timeouts
from anycast.core.values.persistent import PersistentMap
from anycast.kernel import addresses, sysctl, totals
from anycast.kernel.adapter import Kernel
from anycast.kernel.errors import KernelUnavailable
from anycast.kernel.ipvs import Ipvs, Reading


def test_a_kernel_without_ipvs_is_unavailable_and_the_reason_says_what_to_do() -> None:
    async def story() -> str:
        kernel = Kernel("lo")
        try:
            await kernel.read(())
        except KernelUnavailable as error:
            return error.reason
        finally:
            await kernel.close()
        pytest.skip("this kernel has IPVS")

    reason = asyncio.run(story())
    assert reason.startswith("IPVS: ")
    assert "modprobe -a ip_vs ip_vs_mh" in reason or "CAP_NET_ADMIN" in reason


class Script:
    """In the place of /proc/sys and of IPVS: keeps what was done to them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[object] = []
        monkeypatch.setattr(sysctl, "write", lambda name, value: self.done.append((name, value)))
        monkeypatch.setattr(Ipvs, "play", self._play)

    async def _play(self, ops: Sequence[IpvsOp]) -> tuple[Failure, ...]:
        self.done += ops
        return ()


def test_a_sysctl_is_written_because_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch)
    op = SetSysctl(name="net.ipv4.vs.sloppy_tcp", value="1")
    assert asyncio.run(Kernel("lo").play([op])) == ()
    assert script.done == [("net.ipv4.vs.sloppy_tcp", "1")]


def test_connections_are_ended_by_a_sysctl_only_where_it_may_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = ServiceKey(protocol=Protocol.TCP, address=ip_address("192.0.2.1"), port=80)
    removal = RemoveDestination(service=key, key=(ip_address("10.0.0.1"), 80))
    for may in (True, False):
        script = Script(monkeypatch)
        op = ExpireDestinations(removals=(removal,), write_sysctl=may, seconds=0.0)
        assert asyncio.run(Kernel("lo").play([op])) == ()
        assert script.done == ([(EXPIRE_NODEST, "1"), removal] if may else [removal])


def test_connections_are_kept_while_the_order_changes_by_a_sysctl_that_is_put_back_whatever_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = ServiceKey(protocol=Protocol.TCP, address=ip_address("192.0.2.1"), port=80)
    one = Destination(address=ip_address("10.0.0.1"), port=80, weight=1, forwarding=Forwarding.DR)
    moves = tuple(MoveDestination(service=key, destination=one) for _ in range(2))
    script = Script(monkeypatch)
    for may in (True, False):
        script = Script(monkeypatch)
        op = ReorderDestinations(moves=moves, write_sysctl=may)
        assert asyncio.run(Kernel("lo").play([op])) == ()
        around = [(EXPIRE_NODEST, "0"), *moves, (EXPIRE_NODEST, "1")]
        assert script.done == (around if may else list(moves))

    async def ends(_: Ipvs, __: Sequence[IpvsOp]) -> tuple[Failure, ...]:
        raise asyncio.CancelledError

    monkeypatch.setattr(Ipvs, "play", ends)
    script.done.clear()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Kernel("lo").play([ReorderDestinations(moves=moves)]))
    assert script.done == [(EXPIRE_NODEST, "0"), (EXPIRE_NODEST, "1")]


def test_a_sysctl_that_does_not_exist_is_a_failure_that_names_the_module() -> None:
    op = SetSysctl(name="net.ipv4.no_such_name", value="1")
    (failure,) = asyncio.run(Kernel("lo").play([op]))
    assert "net.ipv4.no_such_name" in failure.text
    assert "modprobe" in failure.text


def test_addresses_that_services_have_or_that_were_there_before_are_expected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, served, now = (ip_address(f"192.0.2.{n}") for n in (1, 2, 3))
    expected: list[set[Address]] = []
    present = [frozenset({before}), frozenset({now})]
    services: dict[Key, ServiceEntry] = {
        ServiceKey(protocol=Protocol.TCP, address=served, port=80): ServiceEntry(scheduler="mh"),
        MarkKey(mark=7, version=4): ServiceEntry(scheduler="mh"),
    }

    async def ipvs(_: Ipvs, only: object, alike: object) -> Reading:
        return Reading(
            PersistentMap(services), Timeouts(), {}, PersistentMap(), PersistentMap(), PersistentMap()
        )

    async def read(_: str, names: Iterable[Address], alike: object) -> addresses.Held:
        expected.append(set(names))
        return addresses.Held(present[len(expected) - 1])

    async def story() -> list[frozenset[Address]]:
        kernel = Kernel("lo")
        try:
            return [(await kernel.read(())).addresses for _ in present]
        finally:
            await kernel.close()

    monkeypatch.setattr(Ipvs, "read", ipvs)
    monkeypatch.setattr(addresses, "read", read)
    assert asyncio.run(story()) == present
    assert expected == [{served}, {served, before}]


def test_what_all_services_received_is_read_before_what_each_did_and_not_beside_what_was_read_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise a sum could be of a round that began after the services were read."""
    done: list[str] = []
    key = ServiceKey(protocol=Protocol.TCP, address=ip_address("192.0.2.1"), port=80)

    async def ipvs(_: Ipvs, only: object, alike: object) -> Reading:
        done.append("services")
        return Reading(PersistentMap(), Timeouts(), {}, PersistentMap(), PersistentMap(), PersistentMap())

    def total() -> Received:
        done.append("total")
        return Received(live=2, counted=1)

    async def read(*_: object) -> addresses.Held:
        return addresses.Held(frozenset())

    async def story() -> list[Received | None]:
        kernel = Kernel("lo")
        try:
            return [(await kernel.read((), only=only)).received for only in (None, [key])]
        finally:
            await kernel.close()

    monkeypatch.setattr(Ipvs, "read", ipvs)
    monkeypatch.setattr(totals, "read", total)
    monkeypatch.setattr(addresses, "read", read)
    assert asyncio.run(story()) == [Received(live=2, counted=1), None]
    assert done == ["total", "services", "services"]


def test_every_sysctl_asked_for_is_answered_without_surplus_space_and_none_where_it_cannot_be_read() -> None:
    names = ("kernel.ostype", "net.ipv4.no_such_name", "net.ipv4.ip_local_port_range")
    found = sysctl.read(names)
    assert set(found) == set(names)
    assert found["kernel.ostype"] == "Linux"
    ports = found["net.ipv4.ip_local_port_range"]
    assert ports is not None
    assert ports.replace(" ", "").isdigit()
    assert found["net.ipv4.no_such_name"] is None


def test_a_slash_in_a_sysctl_is_a_dot_of_an_interface() -> None:
    assert sysctl._path("net.ipv4.conf.eth0/100.rp_filter") == "/proc/sys/net/ipv4/conf/eth0.100/rp_filter"


def test_a_missing_interface_is_named() -> None:
    with pytest.raises(KernelUnavailable, match=r"interface nosuch0 does not exist: create it"):
        addresses.index_of("nosuch0")
    assert addresses.index_of("lo") == socket.if_nametoindex("lo")


def test_without_descriptors_no_interface_is_said_to_be_missing() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limit[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            addresses.index_of("lo")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def test_neighbours_of_a_kind_are_written_together_and_all_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch)
    one, two, three = (ip_address(f"192.0.2.{number}") for number in (1, 2, 3))

    async def add(interface: str, added: Sequence[Address]) -> dict[Address, OSError]:
        script.done.append(("add", interface, *added))
        return {two: OSError(errno.ENOMEM, "no memory")} if two in added else {}

    async def remove(interface: str, removed: Sequence[Address]) -> dict[Address, OSError]:
        script.done.append(("remove", interface, *removed))
        raise KernelUnavailable("interface lo does not exist")

    monkeypatch.setattr(addresses, "add", add)
    monkeypatch.setattr(addresses, "remove", remove)
    key = MarkKey(mark=7, version=4)
    gone = RemoveService(service=key)
    sysctls = [SetSysctl(name=name, value="1") for name in ("a", "b")]
    ops: list[KernelOp] = [
        *sysctls,
        gone,
        AddAddress(address=one),
        AddAddress(address=two),
        RemoveAddress(address=three),
        gone,
    ]
    failures = asyncio.run(Kernel("lo").play(ops))
    assert script.done == [
        ("a", "1"),
        ("b", "1"),
        gone,
        ("add", "lo", one, two),
        ("remove", "lo", three),
        gone,
    ]
    assert failures == (
        ((AddAddress(address=two),), "add address 192.0.2.2 to lo: no memory (ENOMEM)"),
        (
            (RemoveAddress(address=three),),
            "remove address 192.0.2.3 from lo: interface lo does not exist",
        ),
    )
