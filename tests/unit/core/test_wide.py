"""A prefix that is wider than a host route: its route, its members, and the route that ends the rest of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_network
from unittest.mock import patch

from anycast.core import lease
from anycast.core.dataplane.kernel import AddAddress, AddDiscard, KernelOp, RemoveDiscard
from anycast.core.health.phase import Outcome
from anycast.core.index import indexed
from anycast.core.maintenance.stages import Stage
from anycast.core.values.configuration import Announce, Needs, Quorum, Vip
from anycast.core.values.route import GRACEFUL_SHUTDOWN, Prefix
from anycast.core.vip.decide import Reason
from tests.fakes import DRAIN, SETTLE, Node, addresses, route, vip
from tests.property.worlds import config

NET = ip_network("192.0.2.0/24")


def pair(needs: Needs = Needs.ANY, *prefixes: Prefix) -> tuple[Vip, Vip]:
    announce = tuple(Announce(prefix=one, needs=needs) for one in prefixes or (NET,))
    return (
        replace(vip("a", number=1, servers=(1, 2)), announce=announce),
        replace(vip("b", number=2, servers=(3, 4)), announce=announce),
    )


def up(*vips: Vip) -> Node:
    node = Node(*vips)
    node.checks(Outcome.OK)
    node.acknowledge()
    return node


def draining(node: Node) -> bool:
    assert node.lease is not None
    return GRACEFUL_SHUTDOWN in node.lease.routes[NET].communities


def test_one_route_is_announced_for_all_of_them_once_the_rest_of_it_ends_here() -> None:
    node = Node(*pair())
    assert node.routes == []
    node.checks(Outcome.OK)
    assert node.routes == [NET]
    (first, *_) = node.programs
    assert first.index(AddDiscard(prefix=NET)) < first.index(AddAddress(address=addresses(1)[0]))
    assert node.kernel.discards == frozenset({NET})


def test_with_any_it_goes_with_the_last() -> None:
    node = up(*pair())
    node.checks(Outcome.FAIL, 1, 2)
    assert (node.reason("a"), node.routes) == (Reason.BELOW_QUORUM, [NET])
    node.checks(Outcome.FAIL, 3, 4)
    assert node.routes == []
    node.checks(Outcome.OK, 1, 2)
    assert node.routes == [NET]


def test_with_all_it_goes_with_the_first() -> None:
    node = up(*pair(Needs.ALL))
    node.checks(Outcome.FAIL, 1, 2)
    assert (node.reason("b"), node.routes) == (Reason.HEALTHY, [])
    node.checks(Outcome.OK, 1, 2)
    assert node.routes == [NET]


def test_with_any_a_maintenance_of_one_takes_its_time_and_leaves_the_route_as_it_is() -> None:
    node = up(*pair())
    assert node.lease is not None
    before = node.lease.routes[NET]
    node.maintain("a")
    node.wait(DRAIN)
    node.wait(SETTLE)
    node.wait(SETTLE)
    assert node.stage("a") in (Stage.QUIET, Stage.DOWN), "nobody has to acknowledge what stays"
    assert node.lease.routes[NET] is before
    node.maintain("b")
    assert draining(node)
    node.wait(DRAIN)
    assert node.routes == []
    node.wait(SETTLE)
    assert node.stage("b") is Stage.WITHDRAWN, "this one is waited for"


def test_with_all_a_maintenance_of_one_drains_all() -> None:
    node = up(*pair(Needs.ALL))
    node.maintain("a")
    assert draining(node)
    node.wait(DRAIN)
    assert node.routes == []
    assert node.reason("b") is Reason.HEALTHY


def test_one_that_is_removed_leaves_the_kernel_while_the_route_stays_for_the_other() -> None:
    a, b = pair()
    node = up(a, b)
    node.reload(b)
    assert node.routes == [NET]
    node.wait(5.0)
    assert addresses(1)[0] not in node.kernel.addresses
    assert node.kernel.discards == frozenset({NET})


def test_the_route_that_ends_the_rest_goes_once_the_prefix_is_withdrawn() -> None:
    node = up(*pair(), vip("web", number=9, servers=(1, 2)))
    node.reload(vip("web", number=9, servers=(1, 2)))
    assert node.routes == [route(9)]
    assert node.kernel.discards == frozenset({NET}), "packets are under way"
    node.acknowledge()
    node.wait(SETTLE + 5.0)
    assert node.kernel.discards == frozenset()
    assert RemoveDiscard(prefix=NET) in [op for program in node.programs for op in program]


def test_one_that_somebody_removes_is_put_back_and_the_route_stays() -> None:
    node = up(*pair())
    node.kernel = replace(node.kernel, discards=frozenset())
    node.wait(6.0)
    assert node.kernel.discards == frozenset({NET})
    (drifted,) = node.events("kernel.drifted")
    assert drifted.fields["kinds"] == ["route"]
    assert node.routes == [NET]
    assert node.state.kernel.repairs == {"route": 1}


class Refusing(Node):
    """A kernel that takes no route, while it `refuses`."""

    refuses = True

    def play(self, ops: Iterable[KernelOp]) -> None:
        super().play(op for op in ops if not (self.refuses and isinstance(op, AddDiscard)))


def test_one_that_the_kernel_does_not_take_keeps_the_prefix_from_the_routers() -> None:
    node = Refusing(*pair())
    node.checks(Outcome.OK)
    node.wait(30.0)
    assert (node.reason("a"), node.routes) == (Reason.STARTING, [])
    assert "the unreachable route of 192.0.2.0/24 is missing" in node.state.differences["a"].text
    node.refuses = False
    node.wait(10.0)
    assert node.routes == [NET]
    node.refuses, node.kernel = True, replace(node.kernel, discards=frozenset())
    node.wait(10.0)
    assert (node.reason("a"), node.routes) == (Reason.KERNEL_DIFFERS, [])


def test_from_a_host_route_to_a_wider_one_and_back_by_a_reload() -> None:
    plain = vip("a", number=1, servers=(1, 2))
    wide, _ = pair()
    node = up(plain)
    node.reload(wide)
    assert node.routes == [NET]
    node.reload(plain)
    node.wait(5.0)
    assert node.routes == [route(1)]
    assert node.kernel.discards == frozenset()


def test_which_vips_a_prefix_is_announced_for() -> None:
    a, b = pair()
    index = indexed(config(a, b, vip("web", number=9)))
    assert index.announcing(NET) == ("a", "b")
    assert index.announcing(route(9)) == ("web",)
    assert index.announcing(route(1)) == ()
    assert index.announcing(ip_network("192.0.2.0/25")) == ()
    same = indexed(config(a, b, vip("web", number=9)), index)
    assert same.shared is index.shared


def test_an_event_of_one_of_many_that_share_a_prefix_counts_nothing_anew() -> None:
    wide = ip_network("192.0.2.0/24")
    many = [
        replace(
            vip(f"v{n}", number=n, servers=(n,), quorum=Quorum(low=1, high=1)),
            announce=(Announce(prefix=wide),),
        )
        for n in range(1, 41)
    ]
    node = up(*many)
    with patch.object(lease, "tally_of", side_effect=AssertionError("counted anew")):
        with patch.object(lease, "_holding", wraps=lease._holding) as asked:
            node.checks(Outcome.FAIL, 7)
        assert {call.args[1].name for call in asked.call_args_list} == {"v7"}
    assert node.state.lease.tallies[wide] == (1, 0, 0, 39, 0)


def test_with_all_one_that_is_new_takes_no_route_down_before_its_checks_have_said_something() -> None:
    a, b = pair(Needs.ALL)
    node = up(a)
    node.reload(a, b)
    assert node.routes == [NET]
    node.checks(Outcome.FAIL, 3, 4)
    assert (node.reason("b"), node.routes) == (Reason.BELOW_QUORUM, [])
    node.checks(Outcome.OK, 3, 4)
    assert node.routes == [NET]


def test_with_all_a_route_that_does_not_stand_waits_for_one_that_is_new() -> None:
    a, b = pair(Needs.ALL)
    node = Node(a, b)
    node.checks(Outcome.OK, 1, 2)
    assert node.routes == []
    node.checks(Outcome.OK, 3, 4)
    assert node.routes == [NET]


def test_with_all_an_address_that_a_standing_vip_is_given_takes_no_route_down() -> None:
    a, _ = pair(Needs.ALL)
    node = up(a)
    node.reload(replace(a, addresses=(*a.addresses, NET[9])))
    assert node.routes == [NET]
    node.checks(Outcome.OK)
    assert node.routes == [NET]
