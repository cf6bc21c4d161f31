"""The simulator, where the answer can be worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numpy")

import numpy as np

from anycast.analysis.simulate import (
    Act,
    Result,
    Router,
    Scheduler,
    Setup,
    Step,
    levelled,
    parsed,
    simulate,
)

POINTS = 0.01  # 100,000 flows are drawn


def after(setup: Setup, *steps: str) -> list[Result]:
    servers, taken = len(setup.weights), []
    for text in steps:
        taken.append(parsed(text, setup.nodes, servers))
        servers += len(taken[-1].which) if taken[-1].act is Act.ADD else 0
    return simulate(setup, taken)


@pytest.mark.parametrize(
    ("router", "leave", "moved"),
    [
        # Thirds become halves: the survivors' borders move by a sixth, but not that between first and last.
        (Router.THRESHOLD, 1, 1 / 3 + 1 / 6),
        (Router.THRESHOLD, 2, 1 / 3),
        (Router.THRESHOLD, 3, 1 / 3 + 1 / 6),
        # Of six values modulo 3 and modulo 2, two choose the same of those that stay.
        (Router.MODULO, 3, 2 / 3),
        (Router.RESILIENT, 1, 1 / 3),
        (Router.HRW, 2, 1 / 3),
    ],
)
def test_as_many_flows_move_as_the_routers_rule_says(router: Router, leave: int, moved: float) -> None:
    (found,) = after(Setup(router=router), f"leave:{leave}")
    assert found.moved == pytest.approx(moved, abs=POINTS)
    assert found.broken == 0  # equal tables
    assert found.nodes == 2
    assert found.least + found.most == pytest.approx(1)


def test_a_balancer_that_returns_gets_its_part_but_for_a_resilient_router() -> None:
    for router in (Router.THRESHOLD, Router.MODULO, Router.HRW):
        _, back = after(Setup(router=router), "leave:2", "return:2")
        assert back.least == pytest.approx(1 / 3, abs=POINTS)
    _, never = after(Setup(router=Router.RESILIENT), "leave:2", "return:2")
    assert (never.moved, never.least) == (0, 0)
    _, filled = after(Setup(router=Router.RESILIENT, fill_again=True), "leave:2", "return:2")
    assert filled.moved == pytest.approx(1 / 3, abs=POINTS)


@pytest.mark.parametrize("scheduler", [Scheduler.RR, Scheduler.WLC])
def test_where_each_node_chooses_for_itself_who_moves_mostly_breaks(scheduler: Scheduler) -> None:
    (found,) = after(Setup(scheduler=scheduler, weights=(1,) * 4), "leave:2")
    assert found.broken == pytest.approx(1 / 3 * 3 / 4, abs=POINTS)  # one in four finds its real server again
    (synced,) = after(Setup(scheduler=scheduler, sync=True), "leave:2")
    assert synced.broken == 0
    assert synced.moved == pytest.approx(1 / 3, abs=POINTS)


def test_under_wlc_whoever_comes_to_another_node_goes_to_the_server_that_has_fewest() -> None:
    # Five nodes have a sixth each and get a fifth of a sixth, which is fewer than each of their four servers has.
    added, left = after(Setup(scheduler=Scheduler.WLC, nodes=6, router=Router.HRW), "server-add", "leave:1")
    assert (added.broken, added.moved) == (0, 0)
    assert left.broken == pytest.approx(left.moved, abs=POINTS)
    *_, shifted = after(Setup(scheduler=Scheduler.WLC, weights=(2, 1, 1)), "leave:2")
    assert shifted.broken == pytest.approx(shifted.moved * (1 - 3 / 8), abs=POINTS)


@given(
    servers=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), min_size=1, max_size=6),
    more=st.integers(0, 200),
)
def test_connections_come_one_after_another_to_who_has_fewest_for_its_weight(
    servers: list[tuple[int, int]], more: int
) -> None:
    held, weights = ([one[place] for one in servers] for place in (0, 1))
    got = levelled(np.array(held), np.array(weights), more)
    assert got.sum() == more
    ends = [(one + each) / weight for one, each, weight in zip(held, got, weights, strict=True)]
    for (had, weight), each, end in zip(servers, got, ends, strict=True):
        # Nobody has been given one that another would have been lower with.
        assert each == 0 or (had + each - 1) / weight <= min(ends) + 1e-9, end


def test_without_sloppy_tcp_whoever_moves_breaks() -> None:
    (found,) = after(Setup(sloppy=False), "leave:1")
    assert found.broken == found.moved > 0


def test_a_new_real_server_breaks_nothing_before_somebody_moves() -> None:
    added, left = after(Setup(), "server-add", "leave:2")
    assert added.elsewhere == pytest.approx(0.2, abs=POINTS)  # a fifth is the newcomer's
    assert (added.broken, added.moved) == (0, 0)
    assert left.broken == pytest.approx(0.2 / 3, abs=POINTS)
    assert [one.broken for one in after(Setup(sync=True), "server-add", "leave:2")] == [0, 0]


def test_a_real_server_that_dies_takes_its_own_and_no_others() -> None:
    died, back, left = after(Setup(), "server-dies:1", "server-back:1", "leave:3")
    assert died.lost == pytest.approx(0.25, abs=0.03)
    assert (died.broken, died.elsewhere) == (0, 0)
    assert back.broken == 0
    assert back.elsewhere == pytest.approx(died.lost, abs=POINTS)  # who is new goes to it again
    assert left.broken == pytest.approx(left.moved * died.lost, abs=POINTS)  # those it had are elsewhere now


def test_tables_that_differ_break_those_that_come_to_the_other_node() -> None:
    (same,) = after(Setup(weights=(1,) * 100), "leave:1")
    (drifted,) = after(Setup(weights=(1,) * 100, drifted=1), "leave:1")
    assert same.broken == 0
    assert 0 < drifted.broken < 0.05


def test_under_sh_a_new_real_server_changes_nearly_every_choice() -> None:
    (mh,) = after(Setup(weights=(1,) * 10), "server-add")
    (sh,) = after(Setup(weights=(1,) * 10, scheduler=Scheduler.SH), "server-add")
    assert mh.elsewhere < 0.12
    assert sh.elsewhere > 0.8


def test_the_same_seed_draws_the_same() -> None:
    assert (
        after(Setup(seed=3), "leave:1") == after(Setup(seed=3), "leave:1") != after(Setup(seed=4), "leave:1")
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is no step"),
        ("explode:1", "is no step"),
        ("leave", "which of the 3 nodes"),
        ("leave:4", "which of the 3 nodes"),
        ("leave:1,1", "which of the 3 nodes"),
        ("server-dies:0", "which of the 4 real servers"),
        ("leave:1=5", "a weight is written for weight"),
        ("weight:1", "a weight is written for weight"),
        ("weight:1=0", "a weight is from 1 to 65,535"),
    ],
)
def test_what_is_no_step_is_told(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parsed(text, 3, 4)


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        (("leave:1,2,3",), "no node is left"),
        (("leave:1", "leave:1"), "node 1 is gone already"),
        (("return:1",), "node 1 is there already"),
        (("server-dies:1", "server-dies:1"), "real server 1 is gone already"),
        (("server-dies:1,2,3,4",), "no real server is left"),
    ],
)
def test_what_cannot_happen_is_told(steps: tuple[str, ...], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        after(Setup(flows=100), *steps)


NODES = st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=3, unique=True)


@settings(max_examples=50, deadline=None)
@given(
    router=st.sampled_from(Router),
    scheduler=st.sampled_from(Scheduler),
    sync=st.booleans(),
    leaves=st.lists(NODES, min_size=1, max_size=4),
)
def test_only_who_moves_breaks_and_nobody_with_sync(
    router: Router,
    scheduler: Scheduler,
    sync: bool,  # noqa: FBT001 - drawn
    leaves: list[list[int]],
) -> None:
    setup = Setup(flows=500, nodes=4, router=router, scheduler=scheduler, sync=sync, drifted=1)
    steps = [Step(act, tuple(which)) for which in leaves for act in (Act.LEAVE, Act.RETURN)]
    for one in simulate(setup, steps):
        assert 0 <= one.broken <= one.moved <= 1
        assert not (sync and one.broken)
        assert one.least <= 1 / one.nodes <= one.most + 1e-9


def test_round_robin_goes_by_turns_and_not_by_weights() -> None:
    for scheduler, lost in ((Scheduler.RR, 1 / 2), (Scheduler.WLC, 9 / 10)):
        setup = Setup(flows=10_000, weights=(1, 9), scheduler=scheduler)
        (found,) = simulate(setup, [parsed("server-dies:2", 3, 2)])
        assert found.lost == pytest.approx(lost, abs=0.02)
