"""Which share of the flows a node gets by `bgp.weight`: what routers install, and what their kernel does with it."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from dataclasses import replace

import pytest

from anycast.core.preference import Routers
from anycast.core.values.route import Route
from tests.contract import bgp
from tests.contract.bgp import NODE4, PATIENCE
from tests.contract.pair import NODE_B, V4, Pair, pair, second_node
from tests.contract.routers import Bird, Frr, Software, every, until

pytestmark = [pytest.mark.bgp, pytest.mark.skipif(bool(bgp.missing()), reason=bgp.missing() or "")]

FLOWS = 4000
NEAR = 0.05 * 0.75  # five deviations of a count of so many


def weighed(one: Pair, local_as: int, weight: int | None) -> Route:
    sending = Routers(replace(one.config.bgp, local_as=local_as, weight=weight))
    route = sending.route(one.config.vips[0], V4, drain=False)
    assert route is not None
    return route


def installed(one: Pair) -> dict[str, int]:
    """The weights of the next hops in the router's kernel."""
    argv = ["ip", "-n", one.places.router, "-json", "route", "show", str(V4)]
    (route,) = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout) or [{}]
    return {hop["gateway"]: hop["weight"] for hop in route.get("nexthops", [])}


def shares(one: Pair) -> dict[str, float]:
    """Where the router's kernel sends flows that differ in their port."""
    place = one.places.router
    inside = ["ip", "netns", "exec", place]
    subprocess.run([*inside, "sysctl", "-qw", "net.ipv4.fib_multipath_hash_policy=1"], check=True)
    asked = f"route get {V4.network_address} ipproto tcp dport 80 sport"
    lines = "".join(f"{asked} {port}\n" for port in range(10_000, 10_000 + FLOWS))
    argv = ["ip", "-n", place, "-json", "-batch", "-"]
    done = subprocess.run(argv, input=lines, check=True, capture_output=True, text=True)
    decoder, text, hops = json.JSONDecoder(), done.stdout.strip(), Counter[str]()
    while text:
        (found,), end = decoder.raw_decode(text)
        hops[found["gateway"]] += 1
        text = text[end:].lstrip()
    return {hop: count / FLOWS for hop, count in hops.items()}


@pytest.mark.parametrize("software", every((Frr, Bird)), ids=lambda one: one.id())
def test_flows_are_shared_by_the_nodes_weights_where_a_router_weighs(software: type[Software]) -> None:
    """FRR does, once every node has one; BIRD does not."""
    if software.missing():
        pytest.skip(f"no {software.program} here")
    with pair(software) as one, second_node(one) as other:
        for mine, second, wanted in ((300, 100, 0.75), (300, None, 0.5)):
            one.node.want(weighed(one, 65001, mine))
            other.want(weighed(one, 65002, second))
            one.table.wait(str(V4), [NODE4, NODE_B], PATIENCE)
            share = wanted if software.name == "frr" else 0.5

            def at_rest(share: float = share) -> bool:
                there = installed(one)
                return bool(there) and abs(there[NODE4] / sum(there.values()) - share) < 0.01

            until(at_rest, f"a share of {share}")
            assert shares(one)[NODE4] == pytest.approx(share, abs=NEAR)
