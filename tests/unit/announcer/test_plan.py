"""One rule of the announcer's plan per test. `Kernel` is a table at its simplest: it has what it is given."""

from __future__ import annotations

import errno
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.announcer.codec import Found, Move
from anycast.announcer.plan import LEARNS, MOST_MOVES, RETRY, Plan
from anycast.announcer.view import View
from anycast.core.values.lease import full_lease
from anycast.core.values.report import NeighborState
from anycast.core.values.route import Prefix, Route, Variant, drained
from anycast.core.values.table import LAST_RESORT, Metric, metric

A, B, C = (ip_network(f"192.0.2.{n}/32") for n in (1, 2, 3))
ROUTE_A, ROUTE_B = Route(prefix=A), Route(prefix=B)
TTL = 2.0
OURS = frozenset[tuple[Prefix, int]]


class Kernel:
    """A plan, its clock, and a table. `refuses`: an errno for what the table does not take."""

    def __init__(self, *there: tuple[Prefix, int]) -> None:
        self.now = 100.0
        self.plan = Plan(1179)
        self.table = set(there)
        self.refuses: dict[Move, int] = {}
        self.history: list[OURS] = []
        self.seq = 0

    def read(self) -> None:
        self.plan.found(frozenset(self.table), self.now)

    def run(self) -> list[Move]:
        done: list[Move] = []
        while moves := self.plan.moves(self.now):
            errors = []
            for move in moves:
                code = self.refuses.get(move, 0)
                if not code:
                    (self.table.add if move.add else self.table.discard)((move.prefix, move.metric))
                    self.history.append(frozenset(self.table))
                errors.append(code)
            self.plan.wrote(moves, errors, self.now)
            done += moves
        return done

    def lease(self, *routes: Route) -> None:
        self.seq += 1
        lease = full_lease(seq=self.seq, issued=self.now, ttl=TTL, routes=routes, owned=(A, B, C))
        self.plan.lease([lease], self.now)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.plan.tick(self.now)


def started(*there: tuple[Prefix, int]) -> Kernel:
    kernel = Kernel(*there)
    kernel.read()
    kernel.run()
    kernel.plan.connected()
    return kernel


def test_what_a_life_before_has_left_is_removed_before_anything_is_heard() -> None:
    kernel = Kernel((A, 10), (B, 20))
    assert kernel.plan.moves(kernel.now) == []  # it is not known what is there
    assert not kernel.plan.ready
    kernel.read()
    assert not kernel.plan.ready
    assert kernel.plan.report(pid=1).announced == {A, B}
    assert set(kernel.run()) == {Move(False, A, 10), Move(False, B, 20)}
    assert kernel.plan.ready
    assert kernel.plan.report(pid=1).announced == frozenset()
    assert kernel.plan.log == ["2 routes of before are in the table 1179: they are removed"]


def test_a_leased_route_is_made_and_reported_once_it_is_there() -> None:
    kernel = started()
    kernel.lease(ROUTE_A)
    report = kernel.plan.report(pid=1)
    assert (set(report.announced), set(report.pending)) == (set(), {A})
    assert kernel.run() == [Move(True, A, Metric.PLAIN)]
    report = kernel.plan.report(pid=1)
    assert (set(report.announced), set(report.pending), report.seq) == ({A}, set(), 1)
    assert report.speaker == "table 1179"
    issued = kernel.now
    kernel.wait(TTL + 1)
    report = kernel.plan.report(pid=1)
    assert (report.lease_expired, report.followed) == (True, issued)  # so its age tells how long it is over


def test_a_drained_route_is_there_with_the_other_metric_before_the_first_is_removed() -> None:
    kernel = started()
    kernel.lease(ROUTE_A)
    kernel.run()
    kernel.history.clear()
    kernel.lease(drained(ROUTE_A))
    assert kernel.run() == [Move(True, A, Metric.LAST_RESORT), Move(False, A, Metric.PLAIN)]
    assert all(any(prefix == A for prefix, _ in table) for table in kernel.history)
    assert kernel.table == {(A, 20)}


def test_a_drain_that_the_kernel_refuses_takes_no_route_away() -> None:
    kernel = started()
    kernel.lease(ROUTE_A)
    kernel.run()
    kernel.refuses[Move(True, A, 20)] = errno.ENOMEM
    kernel.lease(drained(ROUTE_A))
    kernel.run()
    assert kernel.table == {(A, 10)}
    (failed,) = kernel.plan.report(pid=1).failed
    assert "Cannot allocate memory" in failed.why
    kernel.refuses.clear()
    kernel.wait(RETRY)
    kernel.run()
    assert kernel.table == {(A, 20)}
    assert kernel.plan.report(pid=1).failed == ()


def test_what_is_not_wanted_any_more_goes_before_anything_is_made() -> None:
    kernel = started()
    kernel.lease(ROUTE_A)
    kernel.run()
    kernel.lease(ROUTE_B)
    assert kernel.run() == [Move(False, A, 10), Move(True, B, 10)]


def test_everything_goes_when_the_lease_runs_out_and_comes_back_with_the_next() -> None:
    kernel = started()
    kernel.lease(ROUTE_A, ROUTE_B)
    kernel.run()
    kernel.wait(TTL - 0.01)
    assert kernel.run() == []
    assert kernel.plan.next_at is not None
    kernel.wait(0.01)
    kernel.run()
    assert kernel.table == set()
    assert kernel.plan.report(pid=1).lease_expired
    kernel.lease(ROUTE_A)
    kernel.run()
    assert kernel.table == {(A, 10)}


def test_a_stop_removes_everything_and_takes_no_lease_after_it() -> None:
    kernel = started()
    kernel.lease(ROUTE_A)
    kernel.run()
    kernel.plan.stop(kernel.now)
    kernel.run()
    kernel.lease(ROUTE_B)
    kernel.run()
    assert kernel.table == set()
    assert kernel.plan.all_down


def test_what_somebody_removes_is_made_again_and_said() -> None:
    kernel = started()
    kernel.lease(ROUTE_A)
    kernel.run()
    kernel.plan.log.clear()
    kernel.table.clear()
    kernel.read()
    assert kernel.run() == [Move(True, A, 10)]
    assert kernel.plan.log == ["somebody has removed 192.0.2.1/32 from the table 1179: made again"]


def test_what_somebody_adds_in_our_name_is_removed() -> None:
    kernel = started()
    kernel.lease(ROUTE_A)
    kernel.run()
    kernel.table |= {(A, 5), (C, 10)}
    kernel.read()
    kernel.run()
    assert kernel.table == {(A, 10)}


def test_a_route_of_somebody_else_in_its_place_is_named_and_left_alone() -> None:
    kernel = started()
    kernel.refuses[Move(True, A, 10)] = errno.EEXIST
    kernel.lease(ROUTE_A, ROUTE_B)
    kernel.run()
    report = kernel.plan.report(pid=1)
    assert report.announced == {B}
    (failed,) = report.failed
    assert failed.prefix == A
    assert "is not ours: it is left alone" in failed.why
    kernel.wait(RETRY / 2)
    assert kernel.run() == []  # it is not tried at every pass


def test_routes_of_others_are_named_and_bounded() -> None:
    plan = Plan(1179)
    others = [Found(ip_network(f"198.51.100.{n}/32"), 0, 4, True) for n in range(20)]
    plan.foreign(others)
    text = plan.report(pid=1).trouble
    assert "198.51.100.0/32 metric 0 proto static" in text
    assert text.endswith("and 15 more")
    plan.foreign([])
    assert plan.report(pid=1).trouble == ""


def test_a_table_that_cannot_be_read_is_said() -> None:
    kernel = started()
    kernel.plan.unread("the table cannot be read: x")
    assert kernel.plan.report(pid=1).trouble == "the table cannot be read: x"
    kernel.read()
    assert kernel.plan.report(pid=1).trouble == ""


def test_so_many_at_once() -> None:
    kernel = started()
    routes = [Route(prefix=ip_network(f"10.0.{n >> 8}.{n & 255}/32")) for n in range(1000)]
    kernel.lease(*routes)
    assert len(kernel.plan.moves(kernel.now)) == MOST_MOVES
    kernel.run()
    assert len(kernel.table) == 1000


def test_what_bird_has_not_learned_within_its_time_is_a_failure_and_stays_in_the_table() -> None:
    kernel = started()
    kernel.lease(ROUTE_A)
    kernel.run()
    view = View(daemon="BIRD 2.0.12", learned=frozenset(), asked_at=kernel.now + LEARNS - 0.1)
    kernel.plan.seen(view)
    assert kernel.plan.report(pid=1).failed == ()
    kernel.plan.seen(View(daemon="BIRD 2.0.12", learned=frozenset(), asked_at=kernel.now + LEARNS))
    report = kernel.plan.report(pid=1)
    assert report.announced == {A}
    assert "BIRD has not learned it from the table 1179" in report.failed[0].why
    kernel.plan.seen(View(daemon="BIRD 2.0.12", learned=frozenset({A}), asked_at=kernel.now + LEARNS))
    assert kernel.plan.report(pid=1).failed == ()


@pytest.mark.parametrize(
    "view",
    [View(error="no permission", asked_at=999.0), View(learned=None, asked_at=999.0)],
    ids=["not asked", "does not say"],
)
def test_what_is_not_known_is_no_failure(view: View) -> None:
    kernel = started()
    kernel.lease(ROUTE_A)
    kernel.run()
    kernel.plan.seen(view)
    assert kernel.plan.report(pid=1).failed == ()


def test_a_bird_that_does_not_run_fails_every_route() -> None:
    kernel = started()
    kernel.lease(ROUTE_A)
    kernel.run()
    kernel.plan.seen(View(down="BIRD does not run (x)", asked_at=kernel.now + LEARNS))
    assert kernel.plan.report(pid=1).failed[0].why == "BIRD does not run (x)"


def test_a_session_that_changes_is_in_the_log() -> None:
    kernel = started()
    session = NeighborState(address="10.0.0.1", state="up", changed=1.0)
    kernel.plan.seen(View(sessions=(session,)))
    assert kernel.plan.log == ["neighbor 10.0.0.1 is up"]
    assert kernel.plan.report(pid=1).neighbors == (session,)


@pytest.mark.parametrize(
    ("route", "plain"),
    [
        (ROUTE_A, True),
        (Route(prefix=A, next_hop=A.network_address), True),
        (Route(prefix=A, med=1), False),
        (Route(prefix=A, communities=("65000:1",)), False),
        (Route(prefix=A, as_path=(65001, 65001)), False),
        (Route(prefix=A, variants=(Variant(neighbors=("10.0.0.1",), route=ROUTE_A),)), False),
    ],
)
def test_the_metric_tells_what_the_daemon_must_know_of(route: Route, *, plain: bool) -> None:
    assert metric(route) == (Metric.PLAIN if plain else Metric.LISTED)
    assert metric(drained(route)) >= LAST_RESORT


def test_a_drained_route_that_had_a_med_alone_may_be_announced_by_a_daemon_that_lists_it_not() -> None:
    assert metric(drained(Route(prefix=A, med=1))) is Metric.LAST_RESORT
    assert metric(drained(Route(prefix=A, communities=("65000:1",)))) is Metric.LISTED_LAST_RESORT


@given(st.data())
def test_whatever_happens_the_table_is_what_is_leased_and_never_without_what_stays(
    data: st.DataObject,
) -> None:
    """Leases, refusals, other hands in the table, time: once all is quiet the table is what the lease asks for."""
    kernel = started(*data.draw(st.sets(st.tuples(st.sampled_from([A, B, C]), st.sampled_from([10, 20, 7])))))
    choices = st.sets(st.sampled_from([A, B, C]))
    wanted: dict[Prefix, Route] = {}
    for _ in range(data.draw(st.integers(1, 8))):
        before = set(wanted)
        match data.draw(st.sampled_from(["lease", "refuse", "meddle", "wait"])):
            case "lease":
                wanted = {
                    prefix: drained(Route(prefix=prefix))
                    if data.draw(st.booleans())
                    else Route(prefix=prefix)
                    for prefix in data.draw(choices)
                }
                kernel.lease(*wanted.values())
            case "refuse":
                prefix = data.draw(st.sampled_from([A, B, C]))
                kernel.refuses = {
                    Move(data.draw(st.booleans()), prefix, data.draw(st.sampled_from([10, 20]))): 1
                }
            case "meddle":
                kernel.table ^= data.draw(
                    st.sets(st.tuples(st.sampled_from([A, B, C]), st.sampled_from([10, 20])))
                )
                kernel.read()
                kernel.run()
                continue
            case "wait":
                kernel.wait(0.3)
                if kernel.plan.report(pid=1).lease_expired:
                    wanted = {}
        there = {prefix for prefix, _ in kernel.table}
        kernel.history.clear()
        kernel.run()
        stays = before & set(wanted) & there
        assert all(stays <= {prefix for prefix, _ in table} for table in kernel.history)
    kernel.refuses.clear()
    kernel.lease(*wanted.values())
    kernel.now += RETRY
    kernel.read()
    kernel.run()
    assert kernel.table == {(prefix, int(metric(route))) for prefix, route in wanted.items()}
    assert kernel.plan.settled
    assert kernel.plan.report(pid=1).announced == set(wanted)


def test_what_is_read_again_as_it_was_is_no_news_unless_something_was_written_since() -> None:
    kernel = started()
    kernel.lease(ROUTE_A)
    kernel.run()
    read = frozenset(kernel.table)
    kernel.plan.found(read, kernel.now)
    kernel.plan.found(read, kernel.now)
    assert kernel.plan.settled
    kernel.lease(ROUTE_A, ROUTE_B)
    kernel.run()
    kernel.table.discard((B, Metric.PLAIN))  # by somebody, so that it is as it was when it was read
    kernel.plan.found(read, kernel.now)
    assert kernel.run() == [Move(True, B, Metric.PLAIN)]
