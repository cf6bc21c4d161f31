"""What a node carries: by VIP as IPVS counts, and as a whole as its interfaces do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from anycast.core.dataplane.ipvs import Connections, packed
from anycast.core.dataplane.traffic import RUN_ESTIMATION
from anycast.core.fleet.values import Load
from anycast.core.values.configuration import Local, Protocol
from anycast.core.values.persistent import PersistentMap
from anycast.ops.load import NAMED, STALE, Interfaces, Meter, measured, received
from tests.unit.ops.flows import carry, steady
from tests.unit.ops.node import CONFIG, healthy, vip

DEV = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
"""


class Machine:
    """Its interfaces. `links`: by name what is below /sys/class/net."""

    def __init__(self, root: Path, links: Mapping[str, tuple[str, ...]]) -> None:
        self.root = root
        self.interfaces = Interfaces(root)
        (root / "proc/net").mkdir(parents=True)
        for name, made_of in links.items():
            place = root / "sys/class/net" / name
            place.mkdir(parents=True)
            (place / "type").write_text("772\n" if name == "lo" else "1\n")
            for one in made_of:
                (place / one).mkdir()

    def read(self, now: float, **counters: tuple[int, int]) -> None:
        lines = [
            f"{name:>6}: {one[0]} {one[1]} 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n" for name, one in counters.items()
        ]
        (self.root / "proc/net/dev").write_text(DEV + "".join(lines))
        self.interfaces.take(now)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(
        tmp_path,
        {
            "lo": (),
            "eth0": ("device",),
            "eth1": ("device",),
            "bond0": ("bonding", "lower_eth0", "lower_eth1"),
            "bond0.7": ("lower_bond0",),
        },
    )


def test_what_came_in_by_devices_counts_once(machine: Machine) -> None:
    machine.read(100.0, lo=(5, 5), eth0=(1000, 10), eth1=(0, 0), bond0=(1000, 10))
    machine.read(110.0, lo=(9_000, 900), eth0=(11_000, 110), eth1=(10_000, 100), bond0=(21_000, 210))
    assert machine.interfaces.rates(110.0) == (20.0, 16_000.0)


def test_in_a_container_what_is_at_the_bottom_counts(tmp_path: Path) -> None:
    machine = Machine(tmp_path, {"lo": (), "eth0": (), "br0": ("bridge",), "eth0.7": ("lower_eth0",)})
    for at, count in ((100.0, 0), (110.0, 10_000)):
        machine.read(at, **dict.fromkeys(("lo", "eth0", "br0"), (count, count)), **{"eth0.7": (count, count)})
    assert machine.interfaces.rates(110.0) == (1000.0, 8000.0)


def test_where_sys_is_of_another_namespace_all_but_the_loopback_count(tmp_path: Path) -> None:
    machine = Machine(tmp_path, {})
    for at, count in ((100.0, 0), (110.0, 10_000)):
        machine.read(at, lo=(count, count), up0=(count, count))
    assert machine.interfaces.rates(110.0) == (1000.0, 8000.0)


def test_nothing_is_known_before_two_readings_are_far_enough_apart(machine: Machine) -> None:
    assert machine.interfaces.rates(100.0) is None
    machine.read(100.0, eth0=(0, 0))
    machine.read(102.0, eth0=(1000, 10))
    assert machine.interfaces.rates(102.0) is None
    machine.read(104.0, eth0=(4000, 40))
    assert machine.interfaces.rates(104.0) == (10.0, 8000.0)


def test_a_reading_right_after_another_is_not_made(machine: Machine) -> None:
    machine.read(100.0, eth0=(0, 0))
    machine.read(101.0, eth0=(9999, 99))
    machine.read(104.0, eth0=(4000, 40))
    assert machine.interfaces.rates(104.0) == (10.0, 8000.0)


def test_rates_are_over_the_last_seconds_alone(machine: Machine) -> None:
    for at in range(0, 100, 5):
        machine.read(float(at), eth0=(0, 0))
    machine.read(100.0, eth0=(10_000, 100))
    machine.read(105.0, eth0=(20_000, 200))
    assert machine.interfaces.rates(105.0) == (20.0, 16_000.0)


def test_old_readings_say_nothing(machine: Machine) -> None:
    machine.read(100.0, eth0=(0, 0))
    machine.read(110.0, eth0=(4000, 40))
    assert machine.interfaces.rates(110.0 + STALE) is not None
    assert machine.interfaces.rates(110.1 + STALE) is None


def test_counters_that_begin_anew_are_not_negative(machine: Machine) -> None:
    machine.read(100.0, eth0=(10_000, 100), eth1=(0, 0))
    machine.read(110.0, eth0=(1000, 10), eth1=(0, 0))
    assert machine.interfaces.rates(110.0) == (1.0, 800.0)


def test_an_interface_that_comes_is_not_all_that_it_ever_received(machine: Machine) -> None:
    machine.read(100.0, eth0=(0, 0))
    machine.read(110.0, eth0=(0, 0), eth1=(10**12, 10**9))
    assert machine.interfaces.rates(110.0) == (0.0, 0.0)


def test_what_cannot_be_read_is_not_known(machine: Machine) -> None:
    machine.read(100.0, eth0=(0, 0))
    machine.read(110.0, eth0=(10, 10))
    (machine.root / "proc/net/dev").write_text(DEV + "  eth0: no numbers\n")
    machine.interfaces.take(115.0)
    assert machine.interfaces.rates(115.0) is None


def test_a_name_may_have_a_colon() -> None:
    assert dict(received(DEV + "eth0:1: 7 8 0\n")) == {"eth0:1": (7, 8)}


def test_vips_tell_packets_bits_and_connections(machine: Machine) -> None:
    node = healthy()
    carry(node, steady(10.0))
    (key, entry), *_ = ((key, one) for key, one in node.kernel.table.items() if one.destinations)
    counts = [Connections(active=3, inactive=4), *[Connections()] * (len(entry.destinations) - 1)]
    node.kernel = replace(node.kernel, connections=PersistentMap({key: packed(counts)}))
    carry(node, steady(10.0), steps=1)
    for at, count in ((node.now - 10, 0), (node.now, 50_000)):
        machine.read(at, eth0=(count, count))
    found = measured(node.state, node.traffic, machine.interfaces, node.now)
    # Each connection has 10 packets of 600 bytes; two real servers, four services of web, and one of mail.
    assert found.vips["mail"].new_connections == pytest.approx(20)
    assert found.vips["mail"].packets == pytest.approx(200)
    assert found.vips["mail"].bits == pytest.approx(960_000)
    assert found.vips["web"].packets == pytest.approx(800)
    assert sum(one.connections for one in found.vips.values()) == 7
    whole = sum(one.new_connections for one in found.vips.values())
    assert found.node == Load(packets=5000, bits=40_000, new_connections=whole, connections=7)
    assert found.rest == Load()


def test_the_largest_tell_what_each_carries_and_the_rest_is_a_sum(machine: Machine) -> None:
    many = tuple(vip(f"v{n:03}", f"198.18.0.{n}") for n in range(1, NAMED + 11))
    node = healthy(replace(CONFIG, vips=many))
    small = {ip_address(f"198.18.0.{n}") for n in range(1, 11)}
    carry(
        node,
        lambda key, one, _: (1.0 if getattr(key, "address", None) in small else 2.0) if one.weight else 0,
    )
    found = measured(node.state, node.traffic, machine.interfaces, node.now)
    assert set(found.vips) == {one.name for one in many[10:]}
    assert found.rest is not None
    assert found.rest.new_connections == pytest.approx(20)
    assert found.node is None


def test_where_the_kernel_does_not_count_nothing_is_known(machine: Machine) -> None:
    node = healthy()
    carry(node, steady(10.0))
    node.kernel = replace(node.kernel, sysctls={**node.kernel.sysctls, RUN_ESTIMATION: "0"})
    carry(node, steady(10.0), steps=1)
    found = measured(node.state, node.traffic, machine.interfaces, node.now)
    assert (found.node, found.vips, found.rest) == (None, {}, None)


def test_counters_that_are_not_read_any_more_tell_nothing(machine: Machine) -> None:
    node = healthy()
    carry(node, steady(10.0))
    assert measured(node.state, node.traffic, machine.interfaces, node.now).rest is not None
    later = node.state.kernel.good_until + 1
    assert measured(node.state, node.traffic, machine.interfaces, later).rest is None


def test_it_is_worked_out_once_for_each_reading_of_the_kernel(machine: Machine) -> None:
    node = healthy()
    carry(node, steady(10.0))
    meter = Meter(machine.interfaces)
    assert meter.read(node.state, node.traffic, node.now).node is None
    for at, count in ((node.now - 10, 0), (node.now, 50_000)):
        machine.read(at, eth0=(count, count))
    first = meter.read(node.state, node.traffic, node.now)
    assert first.node is not None
    assert meter.read(node.state, node.traffic, node.now + 1) is first
    later = node.state.kernel.good_until + 1
    assert meter.read(node.state, node.traffic, later).node is None
    carry(node, steady(20.0), steps=1)
    assert meter.read(node.state, node.traffic, node.now).vips["mail"] != first.vips["mail"]


def test_what_a_node_serves_itself_is_what_comes_in_and_is_no_service_of_ipvs(machine: Machine) -> None:
    web, mail = CONFIG.vips
    own = replace(mail, services=(), local=(Local(protocol=Protocol.UDP, port=53),))
    node = healthy(replace(CONFIG, vips=(web, own)))
    carry(node, steady(10.0))
    for at, count in ((node.now - 10, 0), (node.now, 10_000_000)):
        machine.read(at, eth0=(count, count // 1000))
    found = measured(node.state, node.traffic, machine.interfaces, node.now)
    assert found.vips["web"].bits == pytest.approx(3_840_000)
    assert found.vips["mail"].bits == pytest.approx(8_000_000 - 3_840_000)
    assert found.vips["mail"].packets == pytest.approx(1000 - 800)
    unread = Interfaces(machine.root / "nothing")
    assert measured(node.state, node.traffic, unread, node.now).rest is None
