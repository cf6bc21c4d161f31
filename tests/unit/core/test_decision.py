from __future__ import annotations

from dataclasses import replace

import pytest

from anycast.core.maintenance.stages import OUT, Stage
from anycast.core.values.configuration import Quorum
from anycast.core.vip.decide import Advertise, Facts, Reason, RequirementFacts, ServiceFacts, decide


def service(usable: int, undecided: int = 0, low: int = 1, high: int = 2) -> ServiceFacts:
    return ServiceFacts(
        name="tcp/80 IPv4", usable=usable, undecided=undecided, total=4, quorum=Quorum(low=low, high=high)
    )


def failed(reason: Reason) -> RequirementFacts:
    return RequirementFacts(reason=reason, holds=False, detail="link: eth0 has no carrier")


GOOD = Facts(
    stopping=False,
    node_maintenance=Stage.ACTIVE,
    vip_maintenance=Stage.ACTIVE,
    kernel_error=None,
    started=True,
    proven=True,
    repair_failed=False,
    missing_address=None,
    difference="",
    services=(service(4),),
    advertised=False,
)

# Each fact alone, in the order of the policy: with all from one on, the first must win.
OBSTACLES: list[tuple[Reason, dict[str, object]]] = [
    (Reason.STOPPING, {"stopping": True}),
    (Reason.NODE_MAINTENANCE, {"node_maintenance": Stage.WITHDRAWN}),
    (Reason.VIP_MAINTENANCE, {"vip_maintenance": Stage.WITHDRAWN}),
    (Reason.KERNEL_UNAVAILABLE, {"kernel_error": "no ip_vs"}),
    (Reason.STARTING, {"started": False, "proven": False}),
    (Reason.ADDRESS_MISSING, {"proven": False, "repair_failed": True, "missing_address": "192.0.2.1 on lo"}),
    (
        Reason.KERNEL_DIFFERS,
        {"proven": False, "repair_failed": True, "difference": "tcp 192.0.2.1:80 is not in IPVS"},
    ),
    (Reason.BELOW_QUORUM, {"services": (service(0),)}),
    (
        Reason.NODE_CHECK_FAILED,
        {"requirements": (failed(Reason.NODE_CHECK_FAILED), failed(Reason.VIP_CHECK_FAILED))},
    ),
    (Reason.VIP_CHECK_FAILED, {"requirements": (failed(Reason.VIP_CHECK_FAILED),)}),
]


@pytest.mark.parametrize("index", range(len(OBSTACLES)))
def test_the_first_rule_that_applies_wins(index: int) -> None:
    everything: dict[str, object] = {}
    for _, facts in reversed(OBSTACLES[index:]):
        everything |= facts
    verdict = decide(replace(GOOD, **everything))  # type: ignore[arg-type]
    assert (verdict.advertise, verdict.reason) == (Advertise.NO, OBSTACLES[index][0])


def test_all_good_is_announced() -> None:
    assert decide(GOOD).advertise is Advertise.YES


def test_it_takes_the_high_mark_to_come_up_and_the_low_mark_to_stay() -> None:
    edge = replace(GOOD, services=(service(1),))
    assert decide(edge).reason is Reason.BELOW_QUORUM
    assert decide(replace(edge, advertised=True)).reason is Reason.HEALTHY


def test_a_server_that_was_just_configured_does_not_take_a_standing_route_down() -> None:
    new = replace(GOOD, services=(service(0, undecided=2),), advertised=True)
    assert decide(new).reason is Reason.HEALTHY


def test_a_requirement_that_was_just_configured_does_not_take_a_standing_route_down_nor_bring_one_up() -> (
    None
):
    new = replace(GOOD, requirements=(RequirementFacts(reason=Reason.NODE_CHECK_FAILED, holds=None),))
    assert decide(replace(new, advertised=True)).reason is Reason.HEALTHY
    waiting = decide(new)
    assert (waiting.reason, waiting.detail) == (Reason.NODE_CHECK_FAILED, "no outcome yet")
    assert decide(replace(new, started=False)).reason is Reason.STARTING


def test_a_requirement_that_failed_is_told_with_its_detail() -> None:
    verdict = decide(replace(GOOD, requirements=(failed(Reason.VIP_CHECK_FAILED),), advertised=True))
    assert (verdict.advertise, verdict.detail) == (Advertise.NO, "link: eth0 has no carrier")


def test_a_route_that_does_not_stand_waits_for_the_kernel_to_be_read_back() -> None:
    waiting = replace(GOOD, proven=False, difference="x")
    assert decide(waiting).reason is Reason.KERNEL_DIFFERS
    assert decide(replace(waiting, missing_address="y")).reason is Reason.ADDRESS_MISSING


def test_a_dead_service_is_not_blamed_on_the_kernel_that_is_being_changed_for_it() -> None:
    dead = replace(GOOD, proven=False, difference="x", services=(service(0),))
    assert decide(dead).reason is Reason.BELOW_QUORUM


def test_a_standing_route_is_kept_while_the_kernel_is_being_changed() -> None:
    changing = replace(GOOD, proven=False, difference="x", advertised=True)
    assert decide(changing).reason is Reason.HEALTHY
    assert decide(replace(changing, repair_failed=True)).reason is Reason.KERNEL_DIFFERS


def test_draining_keeps_a_healthy_route_as_the_last_resort() -> None:
    draining = replace(GOOD, node_maintenance=Stage.DRAINING, advertised=True)
    assert decide(draining).advertise is Advertise.DRAIN


@pytest.mark.parametrize("out", sorted(OUT))
def test_where_the_one_maintenance_is_past_its_drain_the_other_does_not_keep_the_route(out: Stage) -> None:
    for node, vip in ((Stage.DRAINING, out), (out, Stage.DRAINING)):
        facts = replace(GOOD, advertised=True, node_maintenance=node, vip_maintenance=vip)
        assert decide(facts).advertise is Advertise.NO


def test_draining_never_brings_a_route_up_nor_keeps_an_unhealthy_one() -> None:
    draining = replace(GOOD, node_maintenance=Stage.DRAINING)
    assert decide(draining).advertise is Advertise.NO
    sick = replace(draining, advertised=True, services=(service(0),))
    assert decide(sick).advertise is Advertise.NO
