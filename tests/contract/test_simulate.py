"""What the simulator says of routers, against Linux: the share of flows that come to another next hop."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

pytest.importorskip("numpy")

from anycast.analysis.simulate import Router, Setup, parsed, simulate
from tests.contract.namespaces import network_namespace, run

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="a router of its own needs root: a network namespace"
)

FLOWS = 12_000
TOLERANCE = 0.02
PREFIX = {4: "203.0.113.0/24", 6: "2001:db8:7::/64"}
VIP = {4: "203.0.113.1", 6: "2001:db8:7::1"}
CLIENT = {4: "198.51.100.7", 6: "2001:db8:9::7"}
HOP = {4: "10.0.0.{}", 6: "fd00::{:x}"}


@pytest.fixture(autouse=True)
def _router() -> Iterator[None]:
    with network_namespace():
        lines = (
            *(
                line
                for name in ("nodes", "clients")
                for line in (
                    f"link add {name} type veth peer name {name}-end",
                    f"link set {name} up",
                    f"link set {name}-end up",
                )
            ),
            "addr add 10.0.0.254/24 dev nodes",
            "addr add fd00::fffe/64 dev nodes nodad",
            "addr add 198.51.100.254/24 dev clients",
            "addr add 2001:db8:9::fffe/64 dev clients nodad",
        )
        run("ip", "-batch", "-", stdin="\n".join(lines) + "\n")
        for name in (
            "ipv4/ip_forward",
            "ipv6/conf/all/forwarding",
            "ipv4/fib_multipath_hash_policy",
            "ipv6/fib_multipath_hash_policy",
        ):
            Path("/proc/sys/net", name).write_text("1")
        yield


def routed(version: int) -> list[str]:
    """The next hop of each flow, by the client's port."""
    lines = (
        f"route get {VIP[version]} from {CLIENT[version]} iif clients ipproto tcp sport {port} dport 443"
        for port in range(10_000, 10_000 + FLOWS)
    )
    found = subprocess.run(
        ["ip", f"-{version}", "-oneline", "-batch", "-"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    hops = re.findall(r" via (\S+)", found)
    assert len(hops) == FLOWS
    return hops


def put(version: int, hops: Sequence[int], weights: Sequence[int]) -> None:
    words = ["route", "replace", PREFIX[version]]
    for hop in hops:
        words += ["nexthop", "via", HOP[version].format(hop), "dev", "nodes", "weight", str(weights[hop - 1])]
    run("ip", f"-{version}", *words)


def measured(version: int, weights: Sequence[int], leave: Sequence[int]) -> float:
    every = range(1, len(weights) + 1)
    put(version, every, weights)
    before = routed(version)
    put(version, [hop for hop in every if hop not in leave], weights)
    after = routed(version)
    return sum(one != other for one, other in zip(before, after, strict=True)) / FLOWS


def simulated(setup: Setup, *steps: str) -> list[float]:
    taken = [parsed(step, setup.nodes, len(setup.weights)) for step in steps]
    return [one.moved for one in simulate(setup, taken)]


@pytest.mark.parametrize(
    ("version", "weights", "leave"),
    [
        pytest.param(4, (1, 1, 1), (1,), id="the-first-of-3"),
        pytest.param(4, (1, 1, 1), (2,), id="the-middle-of-3"),
        pytest.param(4, (1, 1, 1), (3,), id="the-last-of-3"),
        pytest.param(6, (1, 1, 1), (1,), id="ipv6"),
        pytest.param(4, (1,) * 10, (1,), id="the-first-of-10"),
        pytest.param(4, (1,) * 10, (5,), id="the-fifth-of-10"),
        pytest.param(4, (1,) * 10, (10,), id="the-last-of-10"),
        pytest.param(4, (1,) * 16, (3, 12), id="two-of-16"),
        pytest.param(4, (3, 1, 2), (1,), id="the-heaviest"),
        pytest.param(4, (3, 1, 2), (3,), id="weights"),
        pytest.param(4, (1, 1), (1,), id="one-of-2"),
    ],
)
def test_a_linux_router_moves_as_many_flows_as_are_simulated(
    version: int, weights: tuple[int, ...], leave: tuple[int, ...]
) -> None:
    setup = Setup(nodes=len(weights), node_weights=weights)
    (expected,) = simulated(setup, f"leave:{','.join(map(str, leave))}")
    assert measured(version, weights, leave) == pytest.approx(expected, abs=TOLERANCE)


def group(hops: Sequence[int]) -> None:
    words = ["nexthop", "replace", "id", "100", "group", "/".join(map(str, hops))]
    run("ip", *words, "type", "resilient", "buckets", "128", "idle_timer", "120", "unbalanced_timer", "0")


def test_a_resilient_group_moves_the_flows_of_the_one_that_leaves_and_none_when_it_returns() -> None:
    for hop in (1, 2, 3):
        run("ip", "nexthop", "add", "id", str(hop), "via", HOP[4].format(hop), "dev", "nodes")
    group([1, 2, 3])
    run("ip", "route", "add", PREFIX[4], "nhid", "100")
    first = routed(4)
    run("ip", "nexthop", "del", "id", "2")
    second = routed(4)
    left, *_ = simulated(Setup(router=Router.RESILIENT, buckets=128), "leave:2", "return:2")
    moved = sum(one != other for one, other in zip(first, second, strict=True)) / FLOWS
    assert moved == pytest.approx(left, abs=TOLERANCE)
    assert {one for one, other in zip(first, second, strict=True) if one != other} == {HOP[4].format(2)}
