"""Two nodes that take over from each other, with four kinds of router, each with what `anycast render` writes.

The first node is the primary of one VIP and the backup of another, the second the other way round.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_network

import pytest

from anycast.config.load import loads
from anycast.core.preference import Routers
from anycast.core.values.configuration import Config, Role
from anycast.core.values.route import Prefix, Route
from anycast.render.exabgp import exabgp_conf
from anycast.render.router import router
from anycast.render.routers import ROUTERS
from tests.contract import bgp
from tests.contract.bgp import NODE4, PATIENCE, ROUTER4, Speaker
from tests.contract.pair import NODE_B, ROUTER_B, V4, Pair, pair, second_network, second_node
from tests.contract.routers import SOFTWARE, Bird, Frr, Software, until

pytestmark = [pytest.mark.bgp, pytest.mark.skipif(bool(bgp.missing()), reason=bgp.missing() or "")]

W4 = ip_network("10.99.0.2/32")
VIPS = f"{V4.network_address}, {W4.network_address}"


class Sent:
    """What a node of this AS sends, made of a configuration as the agent makes it."""

    def __init__(self, one: Pair, local_as: int) -> None:
        self._bgp = replace(one.config.bgp, local_as=local_as)
        self._vip = one.config.vips[0]

    def __call__(
        self, prefix: Prefix, role: Role = Role.PRIMARY, *, drain: bool = False, unwell: bool = False
    ) -> Route:
        vip = replace(self._vip, role=role)
        found = Routers(self._bgp).route(vip, prefix, drain=drain or unwell, unwell=unwell)
        assert found is not None
        return found


@pytest.mark.parametrize("software", SOFTWARE, ids=lambda one: one.id())
@pytest.mark.parametrize("sessions", ["ebgp", "ibgp"])
def test_two_nodes_take_over_from_each_other(software: type[Software], sessions: str) -> None:
    if software.missing():
        pytest.skip(f"no {software.program} here")
    internal = sessions == "ibgp"
    numbers = (65000, 65000) if internal else (65001, 65002)
    with (
        pair(software, ibgp=internal, vips=VIPS) as one,
        second_node(one, local_as=numbers[1], vips=VIPS) as other,
    ):
        first, second = (Sent(one, number) for number in numbers)
        primary, backup = Role.PRIMARY, Role.BACKUP
        mine = [first(V4, primary), first(W4, backup)]
        # The backup comes first: it must not stay for having been there.
        other.want(second(V4, backup), second(W4, primary))
        until(lambda: one.router.best(V4) == NODE_B, "the backup alone")
        one.node.want(*mine)
        for prefix, node in ((V4, NODE4), (W4, NODE_B)):
            # First: until the second path is there the other is chosen for being alone.
            until(lambda at=prefix: len(one.router.paths(at)) == 2, "both paths, the other is kept")  # type: ignore[misc]
            chosen(one, prefix, node)
        forwards(one, NODE4)
        before = len(one.table.events)

        # A planned change: the primary drains, goes, and comes back.
        one.node.want(first(V4, primary, drain=True), first(W4, backup, drain=True))
        chosen(one, V4, NODE_B)
        forwards(one, NODE_B)
        one.node.want()
        until(lambda: len(one.router.paths(V4)) == 1, "one path")
        assert one.router.best(V4) == NODE_B
        one.node.want(*mine)
        chosen(one, V4, NODE4)
        until(lambda: len(one.router.paths(W4)) == 2, "the backup's path again")
        chosen(one, W4, NODE_B)
        forwards(one, NODE4)

        # The other one drains: of its own VIP, and of the one that it is a backup for.
        other.want(second(V4, backup, drain=True), second(W4, primary, drain=True))
        chosen(one, W4, NODE4)
        chosen(one, V4, NODE4)
        other.want(second(V4, backup), second(W4, primary))
        chosen(one, W4, NODE_B)
        assert all(holes(one, before)), "the router's kernel was without a route"

        # And one that is killed.
        one.node.exabgp.end(grace=0.0)
        chosen(one, V4, NODE_B)
        chosen(one, W4, NODE_B)
        forwards(one, NODE_B)


def chosen(one: Pair, prefix: Prefix, node: str) -> None:
    try:
        until(lambda: one.router.best(prefix) == node, f"{node} for {prefix}")
    except TimeoutError as error:
        raise AssertionError(f"{error}: the router has {one.router.paths(prefix)}") from None


def forwards(one: Pair, node: str) -> None:
    """The router's kernel sends the first VIP to this node alone; the other two kinds of router write no kernel."""
    if isinstance(one.router, Frr | Bird):
        one.table.wait(str(V4), [node], PATIENCE)


def holes(one: Pair, since: int) -> Iterator[bool]:
    return (bool(event.next_hops) for event in one.table.events[since:] if event.prefix == str(V4))


@pytest.mark.parametrize("software", SOFTWARE, ids=lambda one: one.id())
def test_several_primaries_share_the_flows_and_several_backups_do_when_those_are_gone(
    software: type[Software],
) -> None:
    """Both nodes with the same role: what makes a backup is the same everywhere, so backups are as good as each other."""
    if software not in (Frr, Bird):
        pytest.skip("it spreads no flows by itself")
    with pair(software, vips=VIPS) as one, second_node(one, vips=VIPS) as other:
        first, second = Sent(one, 65001), Sent(one, 65002)
        for role in (Role.PRIMARY, Role.BACKUP):
            one.node.want(first(V4, role))
            other.want(second(V4, role))
            one.table.wait(str(V4), [NODE4, NODE_B], PATIENCE)


@pytest.mark.parametrize("software", SOFTWARE, ids=lambda one: one.id())
@pytest.mark.parametrize("sessions", ["ebgp", "ibgp"])
def test_a_last_resort_is_worse_than_anything_else_and_where_all_are_that_they_serve(
    software: type[Software], sessions: str
) -> None:
    """`when_unhealthy: last_resort`."""
    if software.missing():
        pytest.skip(f"no {software.program} here")
    internal = sessions == "ibgp"
    numbers = (65000, 65000) if internal else (65001, 65002)
    with (
        pair(software, ibgp=internal, vips=VIPS) as one,
        second_node(one, local_as=numbers[1], vips=VIPS) as other,
    ):
        first, second = (Sent(one, number) for number in numbers)

        def decided(mine: Route, others: Route, node: str) -> None:
            # It comes second, so that it is not chosen for its age.
            for better, worse in ((one.node.want, other.want), (other.want, one.node.want)):
                better(), worse()
                until(lambda: not one.router.paths(V4), "no path")
                (other.want if node == NODE4 else one.node.want)(others if node == NODE4 else mine)
                until(lambda: len(one.router.paths(V4)) == 1, "the worse path")
                (one.node.want if node == NODE4 else other.want)(mine if node == NODE4 else others)
                until(lambda: len(one.router.paths(V4)) == 2, "both paths")
                chosen(one, V4, node)
                forwards(one, node)

        # One alone cannot serve: whoever is healthy is preferred, a backup too, and one that drains.
        decided(first(V4, unwell=True), second(V4), NODE_B)
        decided(first(V4), second(V4, unwell=True), NODE4)
        decided(first(V4, unwell=True), second(V4, Role.BACKUP), NODE_B)
        decided(first(V4, unwell=True), second(V4, drain=True), NODE_B)
        # Nobody can: primaries before backups.
        decided(first(V4, unwell=True), second(V4, Role.BACKUP, unwell=True), NODE4)
        decided(first(V4, Role.BACKUP, unwell=True), second(V4, unwell=True), NODE_B)

        # All alike: nobody's route goes, and where flows are spread they are spread again.
        one.node.want(first(V4))
        other.want(second(V4))
        shared(one, internal=internal)
        before = len(one.table.events)
        one.node.want(first(V4, unwell=True))
        chosen(one, V4, NODE_B)
        other.want(second(V4, unwell=True))
        shared(one, internal=internal)
        other.want(second(V4))
        chosen(one, V4, NODE_B)
        assert all(holes(one, before)), "the router's kernel was without a route"


def shared(one: Pair, *, internal: bool) -> None:
    """Both nodes' paths are there and used alike, by the kinds of router that spread flows."""
    until(lambda: len(one.router.paths(V4)) == 2, "both paths")
    until(lambda: one.router.best(V4) in {NODE4, NODE_B}, "one of them chosen")
    if isinstance(one.router, Frr | Bird) and not internal:
        one.table.wait(str(V4), [NODE4, NODE_B], PATIENCE)


def test_every_attribute_arrives() -> None:
    with pair(Frr, vips=VIPS) as one:
        frr = one.router
        assert isinstance(frr, Frr)
        route = Route(
            prefix=V4,
            as_path=(65001, 65001),
            local_preference=7,
            extended_communities=("target:65001:100", "origin:4200000001:7"),
        )
        one.node.want(route)
        found = until(lambda: frr.told(V4), f"{V4} at the router")
        assert found["aspath"]["string"] == "65001 65001"
        assert found["extendedCommunity"]["string"] == "RT:65001:100 SoO:4200000001:7"
        assert "locPrf" not in found, "between two AS it is not sent"


@contextlib.contextmanager
def two_sessions(software: type[Software]) -> Iterator[tuple[Software, Speaker, Callable[[str], Config]]]:
    """A node with two IPv4 sessions to one router, as if to two; and its configuration with these exports."""
    with contextlib.ExitStack() as undo:
        folder = undo.enter_context(bgp.open_folder())
        places = undo.enter_context(bgp.places())
        second_network(places)

        def config(more: str) -> Config:
            text = f"""
node: {{name: lb1, runtime_dir: {folder}, exabgp_user: root}}
bgp:
  local_as: 65001
  router_id: {NODE4}
  hold_time: 3
  neighbors:
    - {{address: {ROUTER4}, remote_as: 65000}}
    - {{address: {ROUTER_B}, local_address: {NODE_B}, remote_as: 65000{more}}}
vips:
  web: {{address: {V4.network_address}, port: 80, servers: [10.9.2.1], communities: ["65000:1"]}}
  mail: {{address: {W4.network_address}, port: 25, servers: [10.9.2.1], communities: ["65000:1"]}}
"""
            return loads(text, hostname="lb1").config

        plain = config("")
        files = folder / "router"
        files.mkdir()
        conf = folder / "rendered.conf"
        conf.write_text(ROUTERS[software.name](router([plain])))
        conf.chmod(0o600)
        other = software(places.router, files)
        undo.callback(other.stop)
        other.start(conf)
        text = exabgp_conf(plain, command=f"{sys.executable} -m anycast")
        node = Speaker(places.node, folder, text, [NODE4, NODE_B], env={})
        undo.callback(node.stop)
        until(node.up, "both sessions up")
        yield other, node, config


def leased(config: Config, *, drain: bool = False) -> list[Route]:
    found = []
    routers = Routers(config.bgp)
    for vip in config.vips:
        for address in vip.addresses:
            one = routers.route(vip, ip_network(f"{address}/32"), drain=drain)
            found += [one] if one is not None else []
    return found


@pytest.mark.parametrize("software", SOFTWARE, ids=lambda one: one.id())
def test_each_router_gets_its_own_and_nothing_else(software: type[Software]) -> None:
    if software.missing():
        pytest.skip(f"no {software.program} here")
    with two_sessions(software) as (there, node, config):

        def has(prefix: Prefix, *communities: set[str]) -> None:
            def found() -> bool:
                seen = sorted(sorted(one.communities) for one in there.paths(prefix))
                return seen == sorted(map(sorted, communities))

            until(found, f"{prefix} with {communities}")

        node.want(*leased(config("")))
        has(V4, {"65000:1"}, {"65000:1"})
        has(W4, {"65000:1"}, {"65000:1"})

        # The second router loses one VIP, and gets the other with communities of its own.
        own = ', export: [{vips: "m*", communities: ["65000:2"], as_path_prepend: 2}]'
        report = node.want(*leased(config(own)))
        assert not report.failed
        has(V4, {"65000:1"})
        has(W4, {"65000:1"}, {"65000:2"})

        node.want(*leased(config(own), drain=True))
        has(V4, {"65000:1", "65535:0"})
        has(W4, {"65000:1", "65535:0"}, {"65000:2", "65535:0"})

        # A session that comes back gets what is its own again.
        node.exabgp.end(grace=0.0)
        has(V4)
        node.start()
        node.want(*leased(config(own)))
        has(V4, {"65000:1"})
        has(W4, {"65000:1"}, {"65000:2"})

        node.want()
        has(V4)
        has(W4)


def test_thousands_of_vips_that_two_routers_get_differently_are_at_both_in_seconds() -> None:
    """As many commands for each as it has routers that are not alike, and many VIPs in one."""
    with two_sessions(Frr) as (there, node, config):
        own = ', export: [{vips: "*", med: 7}]'
        (route, *_) = leased(config(own))
        prefixes = [ip_network(f"10.99.{n // 250}.{n % 250 + 1}/32") for n in range(1000)]
        many = [
            replace(
                route,
                prefix=prefix,
                variants=tuple(
                    replace(one, route=replace(one.route, prefix=prefix)) for one in route.variants
                ),
            )
            for prefix in prefixes
        ]
        began = time.monotonic()
        report = node.want(*many)
        took = time.monotonic() - began
        assert report.announced == frozenset(prefixes)
        assert report.acks < 1000, "several VIPs in one command"
        began = time.monotonic()
        node.want()
        print(
            f"1,000 VIPs to two routers: announced in {took:.2f} s, withdrawn in {time.monotonic() - began:.2f} s"
        )
        until(lambda: not there.paths(V4), "no route at the router")
