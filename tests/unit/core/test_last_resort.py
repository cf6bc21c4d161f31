"""`when_unhealthy: last_resort`: what all nodes may lose at once takes a route from nobody; what is this node's own does."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from anycast.core import events as ev
from anycast.core.dataplane.ipvs import ServiceKey
from anycast.core.dataplane.proof import Proof
from anycast.core.health.aim import aim, aimed
from anycast.core.health.phase import Fault, Outcome, Phase, Result
from anycast.core.maintenance.stages import Stage
from anycast.core.planned import planned
from anycast.core.preference import LAST_RESORT_PREPEND
from anycast.core.values.checks import BgpSession, CommandCheck
from anycast.core.values.configuration import (
    Aimed,
    Check,
    Leaf,
    Part,
    Quorum,
    Rule,
    TcpCheck,
    Vip,
    WhenUnhealthy,
)
from anycast.core.values.fates import Fate, Way
from anycast.core.values.route import GRACEFUL_SHUTDOWN, WORST_MED, Route
from anycast.core.values.speaker import Speaker, SpeakerType
from anycast.core.values.table import Metric, metric
from anycast.core.vip.decide import (
    BLAME,
    Advertise,
    Blame,
    Facts,
    Reason,
    ServiceFacts,
    Verdict,
    decide,
    signal,
)
from anycast.core.vip.lifecycle import Life, Signal
from anycast.core.vip.requirements import Requirement
from tests.fakes import Node, up, vip
from tests.fakes import route as prefix
from tests.property.worlds import CHECK, LINK, config
from tests.unit.core.test_decision import GOOD, OBSTACLES, failed

LAST = WhenUnhealthy.LAST_RESORT
BACK = CHECK.interval + 2 * CHECK.timeout  # until each has been asked again
FAR = Check(kind=TcpCheck(port=5432), address=ip_address("10.9.7.1"), rise=1, fall=1)


def staying(one: Vip | None = None) -> Vip:
    return replace(one or vip(), when_unhealthy=LAST)


def requires(one: Vip, leaf: Leaf) -> Vip:
    return replace(one, require=Rule(needed=1, parts=(Part(name="it", check=leaf),)))


def verdict(node: Node, name: str = "web") -> Verdict:
    return node.state.vips[name].verdict


def route(node: Node) -> Route:
    assert node.lease is not None
    return node.lease.routes[prefix(1)]


def is_last(node: Node) -> bool:
    found = route(node)
    return GRACEFUL_SHUTDOWN in found.communities and len(found.as_path) == 1 + LAST_RESORT_PREPEND


# The decision.

STAYING = replace(GOOD, when_unhealthy=LAST)


def test_every_reason_has_its_blame() -> None:
    assert set(BLAME) == set(Reason)


@pytest.mark.parametrize(("reason", "facts"), OBSTACLES)
def test_a_route_stays_for_the_reasons_of_the_table_and_for_no_other(
    reason: Reason, facts: dict[str, object]
) -> None:
    lacking = {"services": (service(0, spare=4),)} if reason is Reason.BELOW_QUORUM else facts
    found = decide(replace(STAYING, **{**facts, **lacking, **_shared(reason)}))  # type: ignore[arg-type]
    assert found.reason is reason
    assert found.is_last_resort == (BLAME[reason] is Blame.SHARED)
    assert (found.advertise is Advertise.DRAIN) == found.is_last_resort


def service(usable: int, low: int = 1, high: int = 2, **counts: int) -> ServiceFacts:
    quorum = Quorum(low=low, high=high)
    return ServiceFacts(name="tcp/80 IPv4", usable=usable, total=4, quorum=quorum, fault="stalled", **counts)  # type: ignore[arg-type]


def _shared(reason: Reason) -> dict[str, object]:
    """What makes the fact one that others see too."""
    match reason:
        case Reason.UNPROVEN:
            return {"services": (service(0, unproven=4, spare=4),)}
        case Reason.VIP_CHECK_FAILED:
            return {"requirements": (replace(failed(reason), of_node=False),)}
        case _:
            return {}


DEAD = {"services": (service(0, spare=4),)}


@pytest.mark.parametrize(("reason", "facts"), OBSTACLES)
def test_what_is_the_nodes_own_counts_before_what_is_shared(reason: Reason, facts: dict[str, object]) -> None:
    if BLAME[reason] is Blame.SHARED:
        return
    both = replace(STAYING, **{**DEAD, **facts})  # type: ignore[arg-type]
    assert (decide(both).advertise, decide(both).reason) == (Advertise.NO, reason)


def test_without_a_server_to_send_to_there_is_no_last_resort() -> None:
    """All drained, or none reached yet."""
    assert decide(replace(STAYING, services=(service(0),))) == Verdict(
        advertise=Advertise.NO,
        reason=Reason.BELOW_QUORUM,
        detail="tcp/80 IPv4: 0 of 4 usable, 2 needed",
    )
    both = replace(STAYING, services=(service(0, spare=1), service(0)))
    assert decide(both).advertise is Advertise.NO
    assert decide(replace(STAYING, services=(service(0, spare=1), service(1)))).is_last_resort
    new = replace(STAYING, services=(service(0, spare=1), service(0, unheard=2)))
    assert decide(new).advertise is Advertise.NO
    assert decide(replace(new, life=Life.LAST_RESORT)).is_last_resort, "it was only just configured"


def test_a_requirement_that_looks_at_this_node_withdraws_and_so_does_one_that_nothing_is_known_of() -> None:
    far = replace(failed(Reason.VIP_CHECK_FAILED), of_node=False)
    assert decide(replace(STAYING, requirements=(replace(far, of_node=True),))).advertise is Advertise.NO
    for phase in (Phase.DOWN, Phase.RISING, Phase.UNPROVEN):
        assert decide(replace(STAYING, requirements=(replace(far, phase=phase),))).is_last_resort
    new = replace(STAYING, requirements=(replace(far, phase=Phase.UNDECIDED, unheard=True),))
    assert decide(new).advertise is Advertise.NO
    assert decide(replace(new, life=Life.LAST_RESORT)).is_last_resort, "it does not end a route that stands"
    assert decide(replace(new, life=Life.ANNOUNCED)).advertise is Advertise.YES
    node = replace(failed(Reason.NODE_CHECK_FAILED), phase=Phase.UNPROVEN)
    assert decide(replace(STAYING, requirements=(node,))).advertise is Advertise.NO


def test_from_the_last_resort_it_takes_the_high_mark_to_come_back() -> None:
    edge = replace(STAYING, life=Life.LAST_RESORT, services=(service(1, spare=3),))
    assert decide(edge).is_last_resort
    assert decide(replace(edge, life=Life.ANNOUNCED)).advertise is Advertise.YES
    assert decide(replace(edge, services=(service(2, spare=2),))).advertise is Advertise.YES


def test_the_last_resort_stays_while_the_kernel_is_changed_and_comes_up_once_it_is_read_back() -> None:
    changing = replace(STAYING, **DEAD, proof=Proof.PENDING, difference="x")  # type: ignore[arg-type]
    assert decide(changing).reason is Reason.KERNEL_DIFFERS
    for life in (Life.LAST_RESORT, Life.ANNOUNCED):
        assert decide(replace(changing, life=life)).is_last_resort
        assert decide(replace(changing, life=life, proof=Proof.FAILED)).advertise is Advertise.NO


def test_a_drain_keeps_no_last_resort() -> None:
    for life in (Life.LAST_RESORT, Life.ANNOUNCED):
        draining = replace(STAYING, **DEAD, life=life, node_maintenance=Stage.DRAINING)  # type: ignore[arg-type]
        assert decide(draining).advertise is Advertise.NO


@pytest.mark.parametrize("facts", [STAYING, replace(STAYING, **DEAD)])  # type: ignore[arg-type]
def test_the_hold_after_a_start_runs_for_a_last_resort_too(facts: Facts) -> None:
    held = replace(facts, life=Life.NEW, held="1 of 2 s")
    assert (decide(held).advertise, decide(held).reason) == (Advertise.NO, Reason.STARTING)
    assert signal(held, decide(held)) is Signal.HOLD


@pytest.mark.parametrize(
    ("check", "here"),
    [
        (aim(LINK), True),
        (aim(Check(kind=CommandCheck(argv=("/bin/true",)), address=None)), True),
        (aim(replace(FAR, address=ip_address("127.0.0.1"))), True),
        (aim(FAR), False),
        (aim(replace(FAR, address=ip_address("192.0.2.1"))), True),
        (BgpSession(), True),
        (aimed(Rule(needed=1, parts=tuple(Part(name="it", check=one) for one in (FAR, LINK)))), True),
        (aimed(Rule(needed=1, parts=(Part(name="it", check=FAR),))), False),
    ],
)
def test_a_check_that_looks_at_this_node_with_any_part_is_the_nodes_own(check: Aimed, *, here: bool) -> None:
    vips = frozenset({ip_address("192.0.2.1")})
    assert Requirement(check=check, reason=Reason.VIP_CHECK_FAILED, vip="web").of_node(vips) == here
    assert Requirement(check=check, reason=Reason.NODE_CHECK_FAILED).of_node(vips)


# The node.


def test_a_shared_failure_leaves_the_route_as_the_last_resort_and_all_servers_with_clients() -> None:
    node = up(staying())
    node.checks(Outcome.FAIL, 1)
    assert node.weights() == [0, 1, 1]
    node.checks(Outcome.FAIL, 2)
    assert node.weights() == [0, 0, 1], "whoever is up gets all of them"
    assert not is_last(node)
    seqs = len(node.programs)
    node.checks(Outcome.FAIL, 3)
    assert node.weights() == [1, 1, 1], "as if nobody were down"
    assert is_last(node)
    assert (route(node).med, node.reason()) == (WORST_MED, Reason.BELOW_QUORUM)
    assert len(node.programs) == seqs + 1
    (event,) = [log for log in node.events("vip.verdict_changed") if log.fields["advertise"] == "drain"]
    assert event.fields["reason"] == "below_quorum"

    node.checks(Outcome.OK, 1)
    node.wait(BACK)
    assert node.weights() == [1, 0, 0]
    assert is_last(node), "one is up and two are needed to come up"
    node.checks(Outcome.OK, 2)
    assert node.weights() == [1, 1, 0]
    assert (verdict(node).advertise, len(route(node).as_path)) == (Advertise.YES, 0)


def test_whoever_fails_together_with_all_others_keeps_its_clients_from_first_to_last() -> None:
    """Else a connection that another node has just handed over would break."""
    node = up(staying())
    node.checks(Outcome.FAIL, times=1)
    programs = len(node.programs)
    for number in (1, 2, 3):
        node.checks(Outcome.FAIL, number, times=1)
        assert node.weights() == [1, 1, 1]
    assert is_last(node)
    node.checks(Outcome.OK, times=1)
    for number in (1, 2, 3):
        node.checks(Outcome.OK, number, times=1)
        assert node.weights() == [1, 1, 1]
    assert len(node.programs) == programs, "the kernel was not touched"
    assert verdict(node).advertise is Advertise.YES


def test_whoever_failed_alone_has_no_clients_once_another_is_well_without_doubt() -> None:
    node = up(staying())
    node.checks(Outcome.FAIL, times=1)
    node.checks(Outcome.FAIL, 1, times=1)
    assert node.weights() == [1, 1, 1]
    node.checks(Outcome.OK, 2, times=1)
    assert node.weights() == [0, 1, 1]
    node.checks(Outcome.FAIL, 2, times=1)
    assert node.weights() == [0, 1, 1], "a dead one gets none for somebody else's hiccup"
    node.checks(Outcome.FAIL, 2, 3)
    assert node.weights() == [1, 1, 1]
    node.checks(Outcome.OK, 1)
    node.wait(BACK - 0.1)
    node.checks(Outcome.OK, 2, times=1)
    node.wait(0.1)
    assert node.weights() == [1, 1, 0], "who rises keeps what it has"
    node.checks(Outcome.FAIL, 2, times=1)
    assert node.weights() == [1, 0, 0]


def test_who_does_not_come_back_first_keeps_its_clients_until_it_has_been_asked_again() -> None:
    """A check that hangs tells of the moment in which it began."""
    node = up(staying())
    node.checks(Outcome.FAIL)
    programs = len(node.programs)
    node.checks(Outcome.OK, 1)
    node.checks(Outcome.FAIL, 2, 3, times=1)
    node.wait(BACK - 0.1)
    node.checks(Outcome.OK, 2, 3)
    node.wait(0.2)
    assert len(node.programs) == programs, "the kernel was not touched"
    node.checks(Outcome.FAIL, 3)
    assert node.weights() == [1, 1, 0], "one alone: at once"


def test_all_fail_again_before_they_have_been_asked_again() -> None:
    node = up(staying())
    node.checks(Outcome.FAIL)
    node.checks(Outcome.OK, 1)
    node.checks(Outcome.FAIL, 1)
    node.wait(BACK + 1.0)
    assert node.weights() == [1, 1, 1]
    node.checks(Outcome.OK, 1)
    node.wait(BACK - 0.1)
    assert node.weights() == [1, 1, 1]
    node.wait(0.1)
    assert node.weights() == [1, 0, 0]


def test_a_server_that_an_agent_finds_down_at_its_start_gets_nobody_for_that() -> None:
    node = Node(staying())
    node.checks(Outcome.FAIL, 1, times=1)
    node.checks(Outcome.OK, 2, 3, times=1)
    assert node.weights() == [0, 1, 1]


def test_by_default_it_withdraws_and_nobody_gets_clients() -> None:
    node = up(vip())
    node.checks(Outcome.FAIL)
    assert (node.routes, node.weights()) == ([], [0, 0, 0])


def test_the_tables_of_nodes_that_see_it_alike_and_of_those_that_see_nothing_are_the_same() -> None:
    ill, well = up(staying()), up(staying())
    for number in (3, 1, 2):
        ill.checks(Outcome.FAIL, number)
    assert ill.kernel.table == well.kernel.table
    back = up(staying())
    back.checks(Outcome.FAIL)
    back.checks(Outcome.OK)
    assert back.kernel.table == well.kernel.table


def test_below_the_quorum_only_those_that_are_up_get_clients() -> None:
    node = up(staying(vip(quorum=Quorum(low=2, high=2))))
    node.checks(Outcome.FAIL, 1, 2)
    assert is_last(node)
    assert node.weights() == [0, 0, 1]


def test_what_was_drained_stays_out_and_without_anybody_else_there_is_no_route() -> None:
    node = up(staying(vip(drained=(4,))))
    node.maintain("web/rs1")
    node.checks(Outcome.FAIL)
    assert is_last(node)
    assert node.weights() == [0, 1, 1, 0]
    for number in (2, 3):
        node.maintain(f"web/rs{number}")
    assert (node.routes, node.reason()) == ([], Reason.BELOW_QUORUM)
    assert node.weights() == [0, 0, 0, 0]
    node.maintain("web/rs2", on=False)
    assert is_last(node)
    assert node.weights() == [0, 1, 0, 0]


def faulty(node: Node, fault: Fault) -> None:
    """Until the last proof has expired."""
    result = Result(outcome=Outcome.UNKNOWN, detail="it cannot run", fault=fault)
    for _ in range(5):
        node.wait(10.0)
        node.send(ev.Probed(results=tuple((target, result) for target in node.state.targets)))


def test_checks_that_cannot_run_take_the_route_from_nobody_unless_the_link_is_down() -> None:
    node = up(staying())
    faulty(node, Fault.RESOLVER)
    assert (node.reason(), is_last(node), node.weights()) == (Reason.UNPROVEN, True, [1, 1, 1])
    cut = up(staying())
    faulty(cut, Fault.LINK)
    assert (cut.reason(), cut.routes, cut.weights()) == (Reason.UNPROVEN, [], [0, 0, 0])
    node.checks(Outcome.FAIL)
    assert is_last(node)
    faulty(node, Fault.LINK)
    assert (node.reason(), node.routes) == (Reason.BELOW_QUORUM, []), "and the link after that"


def test_a_kernel_that_cannot_be_read_or_is_not_as_wanted_withdraws() -> None:
    node = up(staying())
    node.checks(Outcome.FAIL)
    node.refused = set(node.kernel.addresses)
    node.kernel = replace(node.kernel, addresses=frozenset())
    node.wait(60.0)
    assert (node.routes, node.reason()) == ([], Reason.ADDRESS_MISSING)
    node.refused = set()
    node.wait(60.0)
    assert is_last(node)
    node.kernel_breaks = "no ip_vs"
    node.wait(60.0)
    assert (node.routes, node.reason()) == ([], Reason.KERNEL_UNAVAILABLE)


def test_what_the_node_requires_withdraws_whatever_else_there_is() -> None:
    rule: Rule[Leaf] = Rule(needed=1, parts=(Part(name="link", check=LINK),))
    node = up()
    node = Node(staying(), require=rule)
    node.checks(Outcome.OK)
    node.checks(Outcome.FAIL, 1, 2, 3)
    assert is_last(node)
    node.checks(Outcome.FAIL)
    assert (node.routes, node.reason()) == ([], Reason.NODE_CHECK_FAILED)


def test_what_a_vip_requires_elsewhere_is_shared() -> None:
    node = Node(requires(staying(), FAR))
    node.checks(Outcome.OK)
    assert verdict(node).advertise is Advertise.YES
    far = [target for target in node.state.targets if target.address == FAR.address]
    node.send(ev.Probed(results=tuple((one, Result(outcome=Outcome.FAIL)) for one in far)))
    assert (node.reason(), is_last(node), node.weights()) == (Reason.VIP_CHECK_FAILED, True, [1, 1, 1])
    here = Node(requires(staying(), LINK))
    here.checks(Outcome.OK)
    assert here.routes
    here.send(
        ev.Probed(
            results=tuple(
                (one, Result(outcome=Outcome.FAIL))
                for _ in range(2)
                for one in here.state.targets
                if one.address not in {ip_address(f"10.9.2.{n}") for n in (1, 2, 3)}
            )
        )
    )
    assert (here.routes, here.reason()) == ([], Reason.VIP_CHECK_FAILED)


def test_a_node_that_starts_attracts_nobody_before_each_check_has_a_result_and_stays_on_after() -> None:
    """All nodes start again while the failure goes on: the route is back with the first results."""
    node = Node(staying())
    node.wait(5.0)
    assert (node.routes, node.reason()) == ([], Reason.STARTING)
    node.checks(Outcome.FAIL, 1, 2)
    assert (node.routes, node.reason()) == ([], Reason.STARTING)
    node.checks(Outcome.FAIL, 3)
    assert is_last(node)
    assert node.weights() == [1, 1, 1]
    assert node.state.vips["web"].life is Life.LAST_RESORT


def test_checks_that_never_ran_bring_no_route_up_before_their_time() -> None:
    node = Node(staying())
    result = Result(outcome=Outcome.UNKNOWN, detail="no resolver", fault=Fault.RESOLVER)
    node.send(ev.Probed(results=tuple((target, result) for target in node.state.targets)))
    assert (node.routes, node.reason()) == ([], Reason.UNPROVEN)
    assert node.weights() == [0, 0, 0]
    faulty(node, Fault.RESOLVER)
    assert (is_last(node), node.weights()) == (True, [1, 1, 1])


def test_an_agent_that_comes_back_in_time_sends_the_same_route() -> None:
    old = up(staying())
    old.checks(Outcome.FAIL)
    assert is_last(old)
    assert old.owned is not None
    new = Node(staying(), found=old.kernel, left=old.owned, now=old.now + 0.5)
    assert new.lease is None, "the old lease stands meanwhile"
    new.checks(Outcome.FAIL)
    assert route(new) == route(old)
    assert new.weights() == [1, 1, 1]


def test_a_table_of_the_kernel_tells_it_by_its_metric_alone() -> None:
    """With attributes of its own the daemon would have to know them for each VIP, and not announce it otherwise."""
    node = Node(staying(), speaker=Speaker(type=SpeakerType.KERNEL_TABLE))
    node.checks(Outcome.OK)
    node.checks(Outcome.FAIL)
    assert verdict(node).is_last_resort
    assert metric(route(node)) is Metric.LAST_RESORT
    node.reload(staying(), speaker=Speaker())
    assert is_last(node)


def test_crashes_hold_a_last_resort_back_as_any_route() -> None:
    node = Node(staying(), crashes=3)
    node.checks(Outcome.FAIL)
    assert (node.routes, node.reason()) == ([], Reason.STARTING)
    node.wait(30.0)
    assert is_last(node)


def test_maintenance_takes_a_last_resort_down_as_any_route_and_back() -> None:
    node = up(staying())
    node.checks(Outcome.FAIL)
    node.acknowledge()
    node.maintain()
    assert node.routes == []
    assert node.stage() is Stage.WITHDRAWN
    node.acknowledge()
    node.wait(60.0)
    assert node.stage() is Stage.DOWN
    assert node.weights() == [1, 1, 1], "what still comes is served"
    node.maintain(on=False)
    assert is_last(node)


def test_an_agent_that_stops_withdraws_it() -> None:
    node = up(staying())
    node.checks(Outcome.FAIL)
    node.send(ev.StopRequested())
    assert node.routes == []


def test_a_server_that_is_added_meanwhile_takes_nothing_from_the_others() -> None:
    node = up(staying())
    node.checks(Outcome.FAIL)
    node.reload(staying(vip(servers=(1, 2, 3, 4))))
    assert node.weights() == [1, 1, 1, 0]
    assert is_last(node)
    node.checks(Outcome.FAIL, 4)
    assert node.weights() == [1, 1, 1, 1]


def test_servers_that_are_replaced_meanwhile_have_clients_until_the_new_ones_have_an_answer() -> None:
    node = up(staying())
    node.checks(Outcome.FAIL)
    node.reload(staying(vip(servers=(4, 5))))
    assert node.weights() == [1, 1, 1, 0, 0]
    assert is_last(node)
    node.maintain("web/rs4")
    node.checks(Outcome.FAIL, 4, 5)
    assert node.weights()[3:] == [0, 1]
    assert is_last(node)


def test_an_address_that_is_added_meanwhile_is_announced_as_the_last_resort() -> None:
    node = up(staying())
    node.checks(Outcome.FAIL)
    node.reload(staying(vip(both_families=True)))
    node.checks(Outcome.FAIL)
    assert len(node.routes) == 2
    assert node.lease is not None
    assert all(GRACEFUL_SHUTDOWN in one.communities for one in node.lease.routes.values())


def test_connections_of_failed_servers_are_not_ended_while_they_get_clients() -> None:
    expiring = vip(expire_failed=60.0)
    node = up(staying(expiring))
    node.checks(Outcome.FAIL)
    node.wait(120.0)
    assert node.weights() == [1, 1, 1]
    assert node.events("server.connections_expired") == []


def test_a_reload_says_what_a_change_of_it_does() -> None:
    node = up(staying())
    node.checks(Outcome.FAIL)
    plan = planned(node.state, config(vip()), node.now)
    assert [(one.way, one.what) for one in plan.routes] == [(Way.WITHDRAWN, ("below_quorum",))]
    assert {server.fate for one in plan.services for server in one.servers} == {Fate.IDLE}
    node.reload(vip())
    assert (node.routes, node.weights()) == ([], [0, 0, 0])
    plan = planned(node.state, config(staying()), node.now)
    assert {server.fate for one in plan.services for server in one.servers} == {Fate.RESUMES}
    node.reload(staying())
    assert (is_last(node), node.weights()) == (True, [1, 1, 1])
    assert isinstance(next(iter(node.kernel.table)), ServiceKey)
    healthy = up()
    assert planned(healthy.state, config(staying()), healthy.now).routes == ()
