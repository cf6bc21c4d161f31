"""`fleet.velocity`: a route that a node would take back for what others may share stays as the last resort, while it must."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from anycast.core import events as ev
from anycast.core.fleet.values import Document, Peer, VipStanding, VipTold
from anycast.core.health.aim import aim, aimed
from anycast.core.health.phase import Outcome, Result
from anycast.core.planned import planned
from anycast.core.values.checks import (
    BgpSession,
    CarrierCheck,
    CommandCheck,
    FileCheck,
    GatewayCheck,
    TcpCheck,
)
from anycast.core.values.configuration import HERE, Aimed, Check, Leaf, Part, Rule, Vip, WhenUnhealthy
from anycast.core.values.fates import Way
from anycast.core.values.fleet import Fleet, FleetView, PeerAt, Velocity
from anycast.core.values.route import GRACEFUL_SHUTDOWN
from anycast.core.values.standing import Condition
from anycast.core.vip.decide import Advertise, Reason, Verdict
from anycast.core.vip.lifecycle import Life
from anycast.core.vip.requirements import Requirement
from tests.fakes import Node, route, vip
from tests.property.worlds import config

FLEET = Fleet(
    interval=2.0,
    velocity=Velocity(nodes=1),
    peers=(PeerAt(name="lb2", host="10.9.1.2"), PeerAt(name="lb3", host="10.9.1.3")),
)
GATEWAY = Check(kind=GatewayCheck(), rise=1, fall=1)
CARRIER = Check(kind=CarrierCheck(interface="eth0"), rise=1, fall=1)
TOLD = 12.0  # seconds until what others say counts, and has been looked at


def up(*vips: Vip, require: Leaf | None = None, fleet: Fleet = FLEET) -> Node:
    needed = None if require is None else Rule(needed=1, parts=(Part(name="it", check=require),))
    node = Node(*(vips or (vip(),)), fleet=fleet, require=needed)
    node.checks(Outcome.OK)
    node.acknowledge()
    assert node.routes == [route(1)]
    return node


def hears(node: Node, standing: VipStanding, reason: str = "healthy", *names: str) -> None:
    """The others say so now, and nothing more."""
    told = {"web": VipTold(standing=standing, reason=reason)}
    peers = {
        name: Peer(
            name=name, document=Document(node=name, version="1", ready=True, vips=told), heard=node.now
        )
        for name in names or ("lb2", "lb3")
    }
    node.send(ev.FleetHeard(peers=peers))


def all_well(node: Node, seconds: float = TOLD) -> None:
    """The others announce the VIP as usual, and say so every second."""
    for _ in range(int(seconds)):
        hears(node, VipStanding.ANNOUNCED)
        node.wait(1.0)


def here_fails(node: Node) -> None:
    """What the node requires of itself."""
    failed = Result(outcome=Outcome.FAIL)
    results = tuple((target, failed) for target in node.state.targets if target.address == HERE)
    node.send(ev.Probed(results=results))


def verdict(node: Node) -> Verdict:
    return node.state.vips["web"].verdict


def alarms(node: Node) -> list[str]:
    kind = Condition.WITHDRAWALS_LIMITED
    return [one.text for one in node.state.standing.values() if one.kind is kind]


def is_last(node: Node) -> bool:
    assert node.lease is not None
    found = node.lease.routes.get(route(1))
    return found is not None and GRACEFUL_SHUTDOWN in found.communities and verdict(node).limited


def test_a_node_that_fails_alone_is_the_last_resort_at_once_and_takes_it_back_soon() -> None:
    node = up()
    all_well(node)
    node.checks(Outcome.FAIL)
    assert is_last(node), "nobody was asked"
    assert node.weights() == [1, 1, 1]
    assert "the other nodes have not said since how they stand" in verdict(node).detail
    all_well(node)
    assert node.routes == []
    assert verdict(node).advertise is Advertise.NO
    assert not node.state.limited
    node.checks(Outcome.OK)
    node.wait(TOLD)
    assert (node.routes, verdict(node).advertise) == ([route(1)], Advertise.YES)
    assert "withdrawals_limited" not in [log.fields["kind"] for log in node.events("condition.began")]


def test_a_failure_that_all_nodes_share_takes_it_from_nobody_and_is_said() -> None:
    node = up()
    all_well(node)
    node.checks(Outcome.FAIL)
    for _ in range(30):
        hears(node, VipStanding.LAST_RESORT, "below_quorum")
        node.wait(1.0)
    assert is_last(node)
    assert verdict(node).detail.endswith("; no other node says that it announces it as usual")
    (alarm,) = alarms(node)
    assert alarm.startswith("web would be taken back, and stay announced as the last resort: no other node")
    node.checks(Outcome.OK)
    assert verdict(node).advertise is Advertise.YES
    assert not node.state.limited
    assert alarms(node) == []


def test_silence_of_all_means_stay_as_you_are() -> None:
    node = up()
    node.checks(Outcome.FAIL)
    node.wait(600.0)
    assert is_last(node)
    assert verdict(node).detail.endswith("; no other node says how it stands")
    gone = up()
    all_well(gone)
    gone.checks(Outcome.FAIL)
    all_well(gone)
    gone.wait(600.0)
    assert gone.routes == [], "what is taken back stays so"


def test_it_goes_once_the_limit_has_room() -> None:
    node = up()
    node.checks(Outcome.FAIL)
    for _ in range(20):
        hears(node, VipStanding.ANNOUNCED, "healthy", "lb2")
        hears(node, VipStanding.WITHDRAWN, "below_quorum", "lb3")
        node.wait(1.0)
    assert verdict(node).detail.endswith("; lb3 may have taken it back (fleet.velocity: 1 within 60s)")
    all_well(node)
    assert node.routes == []


@pytest.mark.parametrize("require", [GATEWAY, BgpSession()])
def test_what_lies_around_the_node_is_limited(require: Leaf) -> None:
    requirement = Requirement(check=aimed(require), reason=Reason.NODE_CHECK_FAILED)
    assert requirement.beyond(frozenset())
    if isinstance(require, BgpSession):
        return
    node = up(require=require)
    here_fails(node)
    assert is_last(node)
    assert verdict(node).reason is Reason.NODE_CHECK_FAILED
    assert node.state.vips["web"].life is Life.LAST_RESORT
    all_well(node)
    assert node.routes == []


def test_what_is_proven_of_the_node_itself_is_never_limited() -> None:
    node = up(require=CARRIER)
    here_fails(node)
    assert node.routes == []
    broken = up()
    broken.checks(Outcome.FAIL)
    assert is_last(broken)
    broken.kernel_breaks = "no such device"
    broken.wait(60.0)
    assert broken.routes == []
    leaving = up()
    leaving.checks(Outcome.FAIL)
    leaving.maintain("web")
    leaving.wait(60.0)
    assert leaving.routes == []


@pytest.mark.parametrize(
    ("check", "beyond"),
    [
        (aim(GATEWAY), True),
        (BgpSession(), True),
        (aim(Check(kind=TcpCheck(port=53), address=ip_address("10.9.7.1"))), True),
        (aim(CARRIER), False),
        (aim(Check(kind=FileCheck(path="/run/up"))), False),
        (aim(Check(kind=CommandCheck(argv=("/bin/true",)))), False),
        (aim(Check(kind=TcpCheck(port=53), address=ip_address("127.0.0.1"))), False),
        (aim(Check(kind=TcpCheck(port=53), address=ip_address("192.0.2.1"))), False),
        (aimed(Rule(needed=1, parts=(Part(name="a", check=GATEWAY), Part(name="b", check=CARRIER)))), False),
    ],
)
def test_a_check_that_looks_into_the_node_with_any_part_is_the_nodes_own(
    check: Aimed, *, beyond: bool
) -> None:
    vips = frozenset({ip_address("192.0.2.1")})
    assert Requirement(check=check, reason=Reason.NODE_CHECK_FAILED).beyond(vips) == beyond


def test_no_route_comes_up_by_it() -> None:
    node = Node(vip(), fleet=FLEET)
    node.checks(Outcome.FAIL)
    node.wait(TOLD)
    assert node.routes == []


def test_what_stays_on_by_itself_needs_no_limit_and_is_no_alarm() -> None:
    node = up(replace(vip(), when_unhealthy=WhenUnhealthy.LAST_RESORT))
    node.checks(Outcome.FAIL)
    node.wait(600.0)
    assert verdict(node).is_last_resort
    assert not verdict(node).limited
    assert not node.state.limited
    assert alarms(node) == []


@pytest.mark.parametrize("fleet", [replace(FLEET, velocity=None), replace(FLEET, view=FleetView.NONE)])
def test_without_a_limit_or_anybody_who_is_asked_it_is_taken_back_at_once(fleet: Fleet) -> None:
    node = up(fleet=fleet)
    node.checks(Outcome.FAIL)
    assert (node.routes, node.weights()) == ([], [0, 0, 0])


def test_a_reload_that_ends_the_limit_takes_back_what_it_kept_and_says_so_before() -> None:
    node = up()
    node.checks(Outcome.FAIL)
    without = replace(FLEET, velocity=None)
    (one,) = planned(node.state, config(vip(), fleet=without), node.now).routes
    assert (one.way, one.what) == (Way.WITHDRAWN, ("below_quorum",))
    node.reload(vip(), fleet=without)
    assert (node.routes, node.weights()) == ([], [0, 0, 0])
    assert not node.state.limited


def test_a_vip_that_is_removed_or_renamed_meanwhile_is_forgotten() -> None:
    node = up()
    node.checks(Outcome.FAIL)
    node.reload(vip("www"))
    assert set(node.state.limited) == {"www"}
    node.reload(vip("other", number=2))
    node.wait(TOLD)
    assert not node.state.limited


def test_many_words_of_others_touch_no_vip() -> None:
    node = up()
    node.checks(Outcome.FAIL)
    vips = node.state.vips
    for _ in range(100):
        hears(node, VipStanding.ANNOUNCED)
    assert node.state.vips is vips
