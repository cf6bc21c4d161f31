from __future__ import annotations

from dataclasses import replace

import pytest

from anycast.core.dataplane.proof import Proof
from anycast.core.health.phase import Phase
from anycast.core.maintenance.stages import OUT, Stage
from anycast.core.values.configuration import Quorum
from anycast.core.vip.decide import Advertise, Facts, Reason, RequirementFacts, ServiceFacts, decide, signal
from anycast.core.vip.lifecycle import Life, Signal


def service(usable: int, unheard: int = 0, low: int = 1, high: int = 2, **counts: int) -> ServiceFacts:
    quorum = Quorum(low=low, high=high)
    return ServiceFacts(
        name="tcp/80 IPv4",
        usable=usable,
        unheard=unheard,
        total=4,
        quorum=quorum,
        fault="no descriptors",
        **counts,  # type: ignore[arg-type]
    )


def failed(reason: Reason) -> RequirementFacts:
    return RequirementFacts(reason=reason, phase=Phase.DOWN, detail="link: eth0 has no carrier")


GOOD = Facts(
    stopping=False,
    node_maintenance=Stage.ACTIVE,
    vip_maintenance=Stage.ACTIVE,
    kernel_error=None,
    life=Life.WITHDRAWN,
    proof=Proof.PROVEN,
    missing_address=None,
    difference="",
    services=(service(4),),
)

# Each fact alone, in the order of the policy: with all from one on, the first must win.
OBSTACLES: list[tuple[Reason, dict[str, object]]] = [
    (Reason.STOPPING, {"stopping": True}),
    (Reason.NODE_MAINTENANCE, {"node_maintenance": Stage.WITHDRAWN}),
    (Reason.VIP_MAINTENANCE, {"vip_maintenance": Stage.WITHDRAWN}),
    (Reason.KERNEL_UNAVAILABLE, {"kernel_error": "no ip_vs"}),
    (Reason.STARTING, {"life": Life.NEW, "proof": Proof.UNREAD}),
    (Reason.ADDRESS_MISSING, {"proof": Proof.FAILED, "missing_address": "192.0.2.1 on lo"}),
    (
        Reason.KERNEL_DIFFERS,
        {"proof": Proof.FAILED, "difference": "tcp 192.0.2.1:80 is not in IPVS"},
    ),
    (Reason.BELOW_QUORUM, {"services": (service(0), service(0, unproven=4))}),
    (Reason.UNPROVEN, {"services": (service(0, unproven=4),)}),
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
    assert decide(replace(edge, life=Life.ANNOUNCED)).reason is Reason.HEALTHY


def test_a_server_that_was_just_configured_does_not_take_a_standing_route_down() -> None:
    new = replace(GOOD, services=(service(0, unheard=2),), life=Life.ANNOUNCED)
    assert decide(new).reason is Reason.HEALTHY


def test_a_requirement_that_was_just_configured_does_not_take_a_standing_route_down_nor_bring_one_up() -> (
    None
):
    new = replace(
        GOOD,
        requirements=(
            RequirementFacts(reason=Reason.NODE_CHECK_FAILED, phase=Phase.UNDECIDED, unheard=True),
        ),
    )
    assert decide(replace(new, life=Life.ANNOUNCED)).reason is Reason.HEALTHY
    waiting = decide(new)
    assert (waiting.reason, waiting.detail) == (Reason.NODE_CHECK_FAILED, "no result yet")
    assert decide(replace(new, life=Life.NEW)).reason is Reason.STARTING


def test_a_requirement_that_failed_is_told_with_its_detail() -> None:
    verdict = decide(replace(GOOD, requirements=(failed(Reason.VIP_CHECK_FAILED),), life=Life.ANNOUNCED))
    assert (verdict.advertise, verdict.detail) == (Advertise.NO, "link: eth0 has no carrier")


def test_a_route_that_does_not_stand_waits_for_the_kernel_to_be_read_back() -> None:
    waiting = replace(GOOD, proof=Proof.PENDING, difference="x")
    assert decide(waiting).reason is Reason.KERNEL_DIFFERS
    assert decide(replace(waiting, missing_address="y")).reason is Reason.ADDRESS_MISSING


def test_a_dead_service_is_not_blamed_on_the_kernel_that_is_being_changed_for_it() -> None:
    dead = replace(GOOD, proof=Proof.PENDING, difference="x", services=(service(0),))
    assert decide(dead).reason is Reason.BELOW_QUORUM


def test_a_standing_route_is_kept_while_the_kernel_is_being_changed() -> None:
    changing = replace(GOOD, proof=Proof.PENDING, difference="x", life=Life.ANNOUNCED)
    assert decide(changing).reason is Reason.HEALTHY
    assert decide(replace(changing, proof=Proof.FAILED)).reason is Reason.KERNEL_DIFFERS


def test_draining_keeps_a_healthy_route_as_the_last_resort() -> None:
    draining = replace(GOOD, node_maintenance=Stage.DRAINING, life=Life.ANNOUNCED)
    assert decide(draining).advertise is Advertise.DRAIN


@pytest.mark.parametrize("out", sorted(OUT))
def test_where_the_one_maintenance_is_past_its_drain_the_other_does_not_keep_the_route(out: Stage) -> None:
    for node, vip in ((Stage.DRAINING, out), (out, Stage.DRAINING)):
        facts = replace(GOOD, life=Life.ANNOUNCED, node_maintenance=node, vip_maintenance=vip)
        assert decide(facts).advertise is Advertise.NO


def test_draining_never_brings_a_route_up_nor_keeps_an_unhealthy_one() -> None:
    draining = replace(GOOD, node_maintenance=Stage.DRAINING)
    assert decide(draining).advertise is Advertise.NO
    sick = replace(draining, life=Life.ANNOUNCED, services=(service(0),))
    assert decide(sick).advertise is Advertise.NO


def test_what_cannot_be_checked_is_told_apart_from_what_is_dead() -> None:
    for facts in (
        replace(GOOD, services=(service(1, unproven=1),)),
        replace(GOOD, services=(service(1, untested=1),)),
    ):
        verdict = decide(facts)
        assert verdict.reason is Reason.UNPROVEN
        assert verdict.detail == "tcp/80 IPv4: 1 of 4 usable, 2 needed, 1 cannot be checked (no descriptors)"
    assert decide(replace(GOOD, services=(service(0, unproven=1),))).reason is Reason.BELOW_QUORUM


def test_a_standing_route_goes_once_the_last_proof_has_expired_and_not_before() -> None:
    standing = replace(GOOD, life=Life.ANNOUNCED)
    assert decide(replace(standing, services=(service(0, untested=4),))).reason is Reason.HEALTHY
    assert decide(replace(standing, services=(service(0, unproven=4),))).reason is Reason.UNPROVEN


def test_a_requirement_that_cannot_be_checked_is_unproven() -> None:
    lost = RequirementFacts(reason=Reason.NODE_CHECK_FAILED, phase=Phase.UNPROVEN, detail="no descriptors")
    never = replace(lost, phase=Phase.UNDECIDED)
    assert decide(replace(GOOD, requirements=(lost,), life=Life.ANNOUNCED)).reason is Reason.UNPROVEN
    assert decide(replace(GOOD, requirements=(never,))).reason is Reason.UNPROVEN
    assert decide(replace(GOOD, requirements=(never,), life=Life.ANNOUNCED)).reason is Reason.HEALTHY


def test_a_server_that_could_not_be_checked_holds_no_vip_back_whose_quorum_is_met() -> None:
    facts = replace(GOOD, life=Life.NEW, services=(service(2, untested=1),))
    assert decide(facts).reason is Reason.HEALTHY


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, Signal.ANNOUNCE),
        ({"node_maintenance": Stage.DRAINING, "life": Life.ANNOUNCED}, Signal.DRAIN),
        ({"services": (service(0),)}, Signal.PROVE),
        ({"node_maintenance": Stage.DOWN}, Signal.PROVE),
        ({"held": "0 of 2 s"}, Signal.HOLD),
        ({"life": Life.NEW, "services": (service(0, unheard=2),)}, Signal.WAIT),
        ({"life": Life.NEW, "proof": Proof.PENDING}, Signal.WAIT),
        ({"life": Life.NEW, "services": (service(0, untested=4),)}, Signal.WAIT),
        ({"life": Life.NEW, "services": (service(0, unproven=4),)}, Signal.PROVE),
        ({"life": Life.NEW, "proof": Proof.FAILED}, Signal.BREAK),
        ({"held": "0 of 2 s", "services": (service(0),)}, Signal.BREAK),
        ({"kernel_error": "no ip_vs", "proof": Proof.UNREAD}, Signal.BREAK),
    ],
)
def test_the_facts_move_the_life_of_a_vip(change: dict[str, object], expected: Signal) -> None:
    facts = replace(GOOD, **change)  # type: ignore[arg-type]
    assert signal(facts, decide(facts)) is expected
