"""What others do to a node's kernel: theirs is left alone, ours is mended."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from lab.topology import VIP4, VIPS
from tests.e2e.site import NODES, Site, until

pytestmark = pytest.mark.lab
FOREIGN = "198.51.100.9"
FOREIGN_SERVICE = f"TCP {FOREIGN}:25 rr"


@pytest.fixture
def foreign(site: Site) -> Iterator[None]:
    """Somebody else's service and address on lb1."""
    site.lab.exec("lb1", "ipvsadm", "-A", "-t", f"{FOREIGN}:25", "-s", "rr")
    site.lab.exec("lb1", "ip", "address", "add", f"{FOREIGN}/32", "dev", "lo")
    yield
    site.lab.exec("lb1", "ipvsadm", "-D", "-t", f"{FOREIGN}:25", check=False)
    site.lab.exec("lb1", "ip", "address", "del", f"{FOREIGN}/32", "dev", "lo")


@pytest.mark.usefixtures("foreign")
def test_a_service_and_an_address_of_somebody_else_are_left_alone_unless_told_otherwise(site: Site) -> None:
    # A change that has to be programmed, so that the kernel has been dealt with.
    with site.edit("lb1") as config:
        config["pools"]["web"]["servers"][0]["weight"] = 3
    site.reload("lb1")
    until(lambda: site.weights("lb1", 1) == {3}, "the new weight")
    assert FOREIGN_SERVICE in site.table_of("lb1")
    assert f"{FOREIGN}/32" in site.addresses("lb1")
    until(lambda: site.status("lb1")["kernel"]["foreign_services"] == 1, "it to be counted")
    with site.edit("lb1") as config:
        config["ipvs"] = "exclusive"
    site.reload("lb1")
    until(lambda: FOREIGN_SERVICE not in site.table_of("lb1"), "it to go")
    assert f"{FOREIGN}/32" in site.addresses("lb1"), "exclusive is about IPVS alone"
    assert site.vip("lb1")["announced"]


def test_a_vip_address_deleted_by_hand_is_put_back_without_a_word_to_the_router(site: Site) -> None:
    quiet = site.route_events()
    site.lab.exec("lb1", "ip", "address", "del", VIPS[0], "dev", "lo")
    until(lambda: VIPS[0] in site.addresses("lb1"), "the address to be back")
    until(lambda: site.status("lb1")["kernel"]["proven"], "the kernel to be as it should be")
    assert site.lab.watch().events[quiet:] == []


def test_a_service_deleted_by_hand_is_put_back_at_the_next_reading(site: Site) -> None:
    site.lab.exec("lb1", "ipvsadm", "-D", "-t", f"{VIP4}:80")
    site.holds("lb1", site.table)
    until(lambda: site.status("lb1")["kernel"]["proven"], "the kernel to be as it should be")
    assert site.lab.router_routes() == dict.fromkeys(VIPS, NODES)


def test_everything_deleted_by_hand_is_put_back(site: Site) -> None:
    site.lab.exec("lb3", "ipvsadm", "-C")
    site.lab.exec("lb3", "ip", "address", "flush", "dev", "lo", "to", VIPS[0])
    site.holds("lb3", site.table)
    until(lambda: set(VIPS) <= site.addresses("lb3"), "the addresses to be back")
    site.ready("lb3")
    site.routed(NODES)


def test_real_servers_out_of_order_are_put_in_order(site: Site) -> None:
    service = ("-t", f"{VIP4}:80", "-r", "10.9.2.1:80")
    site.lab.kill("lb2", "agent", signal.SIGSTOP)  # or it mends the one before the other is done
    try:
        site.lab.exec("lb2", "ipvsadm", "-d", *service)
        site.lab.exec("lb2", "ipvsadm", "-a", *service, "-g", "-w", "1")
        assert site.table_of("lb2") != site.table
    finally:
        site.lab.kill("lb2", "agent", signal.SIGCONT)
    site.holds("lb2", site.table)
