"""The route watcher against a kernel, in a namespace of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from lab.routewatch import RouteTable, RouteWatch

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

PLACE = f"labrw{os.getpid()}"
VIPS = ("192.0.2.1/32", "2001:db8:99::1/128")
NAMES = {"10.2.1.1": "lb1", "10.2.2.1": "lb2", "fd00:2:1::1": "lb1", "fd00:2:2::1": "lb2"}


def ip(*words: str) -> None:
    subprocess.run(["ip", "-n", PLACE, *words], check=True, capture_output=True)


@pytest.fixture
def watch() -> Iterator[RouteWatch]:
    subprocess.run(["ip", "netns", "add", PLACE], check=True)
    try:
        for i in "12":
            ip("link", "add", f"lb{i}", "type", "veth", "peer", "name", f"far{i}")
            ip("link", "set", f"far{i}", "up")
            ip("link", "set", f"lb{i}", "up")
            ip("addr", "add", f"10.2.{i}.254/24", "dev", f"lb{i}")
            ip("addr", "add", f"fd00:2:{i}::fe/64", "dev", f"lb{i}", "nodad")
        ip("route", "add", VIPS[0], "via", "10.2.1.1")
        watch = RouteWatch(RouteTable(VIPS, NAMES, PLACE))
        yield watch
        watch.close()
    finally:
        subprocess.run(["ip", "netns", "del", PLACE], check=True)


def test_what_stands_already_is_told_first(watch: RouteWatch) -> None:
    watch.wait(VIPS[1], [], timeout=10)
    assert watch.wait(VIPS[0], ["lb1"], timeout=10).next_hops == ("lb1",)


@pytest.mark.parametrize(
    ("prefix", "hops"), [(VIPS[0], ("10.2.1.1", "10.2.2.1")), (VIPS[1], ("fd00:2:1::1", "fd00:2:2::1"))]
)
def test_next_hops_that_come_and_go_are_told_by_node(
    watch: RouteWatch, prefix: str, hops: tuple[str, str]
) -> None:
    both = [word for hop in hops for word in ("nexthop", "via", hop)]
    ip("route", "replace", prefix, *both)
    first = watch.wait(prefix, ["lb1", "lb2"], timeout=10)
    ip("route", "replace", prefix, "via", hops[1])
    second = watch.wait(prefix, ["lb2"], timeout=10)
    ip("route", "del", prefix)
    third = watch.wait(prefix, [], timeout=10)
    assert first.monotonic < second.monotonic < third.monotonic


def test_a_link_that_goes_down_takes_its_next_hop_out(watch: RouteWatch) -> None:
    ip("route", "replace", VIPS[0], "nexthop", "via", "10.2.1.1", "nexthop", "via", "10.2.2.1")
    watch.wait(VIPS[0], ["lb1", "lb2"], timeout=10)
    ip("link", "set", "lb2", "down")
    watch.wait(VIPS[0], ["lb1"], timeout=10)


def test_waiting_for_what_does_not_come_says_what_is_there(watch: RouteWatch) -> None:
    watch.wait(VIPS[0], ["lb1"], timeout=10)
    with pytest.raises(TimeoutError, match=r"is routed to \('lb1',\), not to \('lb7',\)"):
        watch.wait(VIPS[0], ["lb7"], timeout=0.1)
