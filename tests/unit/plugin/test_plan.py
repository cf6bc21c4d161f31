"""One rule of the planner per test. `Exchange` is ExaBGP at its simplest: it answers what it is given."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.values.lease import full_lease
from anycast.core.values.report import Report, silent_for
from anycast.core.values.route import Mark, Prefix, Route, Variant, drained
from anycast.plugin import codec, commands
from anycast.plugin.conversation import MOVING, OWES, PING, QUERY, SILENCE
from anycast.plugin.has import Has
from anycast.plugin.journal import Writing
from anycast.plugin.loop import IDLE
from anycast.plugin.plan import BATCH, BATCH_FROM, REASSERT, RELOADED, SETTLE, Planner
from anycast.plugin.prefixes import RETRY_ANNOUNCE, RETRY_WITHDRAW, WITHDRAW_TRIES

A, B = ip_network("192.0.2.1/32"), ip_network("192.0.2.2/32")
NONE: frozenset[Prefix] = frozenset()
ONLY_A, ONLY_B, BOTH = frozenset({A}), frozenset({B}), frozenset({A, B})
ROUTE_A, ROUTE_B = Route(prefix=A, med=100), Route(prefix=B)
TABLE = codec.NeighborTable((codec.NeighborRow("192.0.2.254", True, 60.0),))
UP = codec.NeighborEvent("192.0.2.254", "up", "")


def is_mark(command: str) -> bool:
    return command.startswith("show neighbor ") and command.endswith(" configuration")


class Exchange:
    """A planner, its clock, a journal that takes everything."""

    def __init__(self, *, own: tuple[Prefix, ...] = (A, B), journal: tuple[Route, ...] = ()) -> None:
        self.now = 100.0
        self.plan = Planner(own=own, journal=journal, now=self.now)
        self.journal: tuple[Route, ...] = journal
        self.seq = 0
        self.table = TABLE
        self.mark = "0"
        self.of_paths: Mark | None = None
        self.log: list[str] = []

    def commands(self) -> list[str]:
        content = self.plan.journal(self.now)
        if content is not None:
            self.journal = content.routes if content.whole else (*self.journal, *content.routes)
            self.plan.journaled(content, self.now)
        return self.plan.commands(self.now)

    def done(self, count: int = 1) -> None:
        for _ in range(count):
            self.plan.line(codec.Done(), self.now)

    def settle(self, refuse: str = "\0") -> list[str]:
        """Answer until nothing is asked; refuse what contains `refuse`. Returns the commands, without those for the mark."""
        written = []
        while batch := self.commands():
            for command in batch:
                if command == codec.SHOW_NEIGHBORS:
                    self.plan.line(self.table, self.now)
                elif is_mark(command):
                    self.plan.line(codec.Mark(self.mark), self.now)
                self.plan.line(codec.Refused() if refuse in command else codec.Done(), self.now)
            written += [command for command in batch if not is_mark(command)]
        return written

    def lease(self, *routes: Route, owned: tuple[Prefix, ...] = (A, B), ttl: float = 300.0) -> None:
        self.seq += 1
        lease = full_lease(
            seq=self.seq, issued=self.now, ttl=ttl, routes=routes, owned=owned, mark=self.of_paths
        )
        self.plan.lease([lease], self.now)

    def wait(self, seconds: float) -> None:
        """Time goes by, and the plugin runs all the while."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.25)
            self.plan.tick(self.now)

    def started(self) -> Exchange:
        """The start is over, the settling after it too."""
        self.settle()
        self.wait(SETTLE)
        self.settle()
        return self

    def report(self) -> Report:
        return self.plan.report(pid=1, exabgp_pid=2)


def test_the_first_output_withdraws_everything_owned_whatever_the_lease_says() -> None:
    x = Exchange()
    x.lease(ROUTE_A, ROUTE_B)
    assert x.commands() == ["withdraw route 192.0.2.1/32", "withdraw route 192.0.2.2/32"]


def test_what_the_journal_holds_is_withdrawn_with_its_attributes_each_set_in_turn() -> None:
    x = Exchange(own=(), journal=(ROUTE_A, drained(ROUTE_A)))
    first = x.commands()
    assert len(first) == 1
    x.done()
    assert {*first, *x.commands()} == {codec.withdraw(ROUTE_A), codec.withdraw(drained(ROUTE_A))}


def test_nothing_is_announced_before_a_question_is_answered() -> None:
    x = Exchange()
    x.lease(ROUTE_A)
    x.commands()
    x.done(2)
    assert x.commands() == [codec.SHOW_NEIGHBORS]
    x.done()  # the answer stands before its `done`: this one was owed to the life before
    assert x.commands() == []
    assert not x.plan.ready
    x.plan.line(TABLE, x.now)
    x.done()
    assert x.plan.ready
    assert codec.announce(ROUTE_A) in x.settle()


def test_until_that_answer_everything_owned_may_be_announced() -> None:
    x = Exchange()
    x.commands()
    x.done(2)
    assert x.report().announced == {A, B}
    x.settle()
    assert x.report().announced == set()


def test_a_route_is_reported_as_announced_from_the_moment_its_announce_is_written() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A)
    assert (x.report().seq, x.report().announced, x.report().pending) == (1, NONE, ONLY_A)
    assert x.commands() == [codec.announce(ROUTE_A)]
    assert (x.report().seq, x.report().announced, x.report().pending) == (1, ONLY_A, ONLY_A)
    x.done()
    assert (x.report().seq, x.report().announced, x.report().pending) == (1, ONLY_A, NONE)


def test_a_lease_is_reported_at_once_with_everything_that_is_not_yet_proven_withdrawn() -> None:
    x = Exchange()
    x.lease(ROUTE_A)
    assert (x.report().seq, x.report().announced) == (1, BOTH)


def test_a_refused_route_delays_no_acknowledgement_of_another() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A, ROUTE_B)
    x.settle(refuse="announce route 192.0.2.2")
    x.lease(ROUTE_B)
    x.settle(refuse="announce route 192.0.2.2")
    assert (x.report().seq, x.report().announced) == (2, NONE)
    assert [failed.prefix for failed in x.report().failed] == [B]


def test_a_withdraw_that_is_refused_delays_no_acknowledgement_of_another() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A, ROUTE_B)
    x.settle()
    x.lease()
    x.settle(refuse="withdraw route 192.0.2.2")
    assert (x.report().seq, x.report().announced) == (2, ONLY_B)


def test_a_refused_announce_counts_as_announced_until_the_withdraw_after_it_is_acknowledged() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A)
    assert x.commands() == [codec.announce(ROUTE_A)]
    x.plan.line(codec.Refused(), x.now)
    assert (x.report().announced, x.report().pending) == (ONLY_A, ONLY_A)
    x.settle()
    assert (x.report().announced, x.report().pending) == (NONE, NONE)


def test_what_was_refused_before_the_first_question_is_answered_is_withdrawn_again() -> None:
    x = Exchange()
    x.commands()
    x.done()  # owed to the life before
    x.plan.line(codec.Refused(), x.now)  # of the first withdraw, and taken for the second's
    x.wait(RETRY_WITHDRAW)
    x.done()
    x.done(len(x.commands()))  # the second withdraw once more
    assert x.commands() == [codec.SHOW_NEIGHBORS]
    x.plan.line(TABLE, x.now)
    x.done()
    assert x.plan.ready
    assert x.report().announced == {A, B}
    assert [c for c in x.settle() if "route" in c] == [
        "withdraw route 192.0.2.1/32",
        "withdraw route 192.0.2.2/32",
    ]
    assert x.report().announced == set()


def test_a_refusal_that_comes_late_is_not_taken_for_the_answer_to_the_first_question() -> None:
    x = Exchange()
    x.commands()
    x.done(2)  # the first was owed to the life before
    assert x.commands() == [codec.SHOW_NEIGHBORS]
    x.plan.line(codec.Refused(), x.now)  # of the second withdraw
    assert not x.plan.ready
    x.plan.line(TABLE, x.now)
    x.done()
    assert x.report().announced == {A, B}


def test_a_new_connection_starts_the_sequence_numbers_again() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A)
    x.settle()
    x.plan.connected()
    assert x.report().seq == 0


def test_renewing_a_lease_says_nothing_to_exabgp() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A)
    x.settle()
    x.lease(ROUTE_A)
    assert x.commands() == []
    assert x.report().seq == 2


def test_new_attributes_are_announced_over_the_old_without_a_withdraw() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A)
    x.settle()
    x.lease(drained(ROUTE_A))
    assert x.settle() == [codec.announce(drained(ROUTE_A))]


def test_after_a_reload_of_exabgp_everything_is_said_again_and_once_more_when_that_is_sent() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A)
    x.settle()
    for _ in range(3):  # once for each neighbor
        x.plan.line(codec.Reloading(), x.now)
    again = ["withdraw route 192.0.2.2/32", codec.FLUSH, codec.announce(ROUTE_A)]
    for seconds in (RELOADED, SETTLE):
        assert x.settle() == []
        x.wait(seconds)
        assert [one for one in x.settle() if one != codec.SHOW_NEIGHBORS] == again
    x.wait(3 * SETTLE)
    assert codec.announce(ROUTE_A) not in x.settle()
    assert [text for text in x.plan.log if "its configuration" in text] == [
        "ExaBGP is told to read its configuration again: everything is said once more"
    ]


def test_after_a_reload_of_exabgp_it_is_asked_soon_how_it_has_the_sessions() -> None:
    x = Exchange().started()
    assert x.report().setups == ()
    x.plan.line(codec.Reloading(), x.now)
    x.settle()
    revision = x.plan.revision
    x.wait(SETTLE)
    while codec.SHOW_NEIGHBORS not in x.commands():
        x.done()
    setup = "192.0.2.254 65000 65001 10.2.1.1 192.0.2.1 3 4"
    x.plan.line(codec.NeighborTable((codec.NeighborRow("192.0.2.254", True, 60.0, setup),)), x.now)
    x.done()
    assert x.report().setups == (setup,)
    assert x.plan.revision > revision


def test_a_reload_counts_once_exabgp_shows_another_file_and_not_when_it_is_told_to_read_one() -> None:
    x = Exchange().started()
    assert x.plan.has(2) == Has(exabgp=2, mark="0")
    x.plan.line(codec.Reloading(), x.now)
    x.settle()  # it was dropped
    assert (x.report().loaded, x.plan.has(2).mark) == (None, "0")
    x.now += 2
    x.plan.line(codec.Reloading(), x.now)
    x.mark = "a1"
    revision = x.plan.revision
    x.settle()
    assert (x.report().loaded, x.plan.has(2).mark) == (x.now, "a1")
    assert x.plan.revision > revision


def test_a_neighbor_that_a_reload_removed_tells_no_mark_so_another_is_asked() -> None:
    x = Exchange()
    x.table = codec.NeighborTable(
        (codec.NeighborRow("192.0.2.254", True, 60.0), codec.NeighborRow("192.0.2.3", True, 60.0))
    )
    x.started()
    x.plan.line(codec.Reloading(), x.now)
    assert x.commands() == [codec.show_mark("192.0.2.254")]
    x.done()
    x.table = codec.NeighborTable(x.table.rows[1:])
    x.mark = "a1"
    x.wait(SETTLE)
    asked = list(x.commands())
    while codec.show_mark("192.0.2.3") not in asked:
        if codec.SHOW_NEIGHBORS in asked:
            x.plan.line(x.table, x.now)
        x.done(len(asked))
        asked = x.commands()
        assert asked
    x.plan.line(codec.Mark("a1"), x.now)
    assert x.report().loaded == x.now


def test_a_mark_that_was_not_asked_for_is_that_of_the_life_before() -> None:
    x = Exchange().started()
    x.plan.line(codec.Mark("ff"), x.now)
    assert x.plan.has(2).mark == "0"


def test_what_is_down_is_withdrawn_again_from_sessions_that_are_up_alone() -> None:
    """ExaBGP takes no reload while something waits for a session."""
    x = Exchange()
    away = codec.NeighborRow("192.0.2.3", False, 60.0)
    x.table = codec.NeighborTable((*TABLE.rows, away))
    x.started()
    x.lease(ROUTE_A)
    x.settle()
    x.wait(REASSERT)
    to = ["192.0.2.254"]
    assert codec.withdraw_bare(B, to) in x.settle()
    x.lease()
    assert codec.withdraw(ROUTE_A) in x.settle()  # what was announced goes from all
    x.wait(REASSERT)
    assert {codec.withdraw(ROUTE_A, to), codec.withdraw_bare(B, to)} <= {*x.settle()}
    x.plan.line(codec.NeighborEvent("192.0.2.3", "up", ""), x.now)
    assert codec.withdraw_bare(B) in x.settle()


def test_after_a_reload_of_exabgp_too_though_its_neighbors_are_in_doubt() -> None:
    x = Exchange()
    away = codec.NeighborRow("192.0.2.3", False, 60.0)
    x.table = codec.NeighborTable((*TABLE.rows, away))
    x.started()
    mine = Variant(neighbors=("192.0.2.254",), route=ROUTE_A)
    x.lease(replace(ROUTE_A, variants=(mine,)))
    x.settle()
    x.plan.line(codec.Reloading(), x.now)
    x.wait(RELOADED)
    assert [one for one in x.settle() if "withdraw" in one] == [codec.withdraw_bare(B, ["192.0.2.254"])]


def test_where_no_session_is_up_nothing_is_withdrawn_again() -> None:
    x = Exchange()
    x.table = codec.NeighborTable((codec.NeighborRow("192.0.2.254", False, 60.0),))
    x.started()
    x.wait(REASSERT)
    assert not [one for one in x.settle() if "withdraw" in one]
    x.plan.line(UP, x.now)
    assert "withdraw route 192.0.2.2/32" in x.settle()


def test_what_is_announced_again_is_announced_all_the_while() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A)
    x.settle()
    x.plan.line(codec.Reloading(), x.now)
    x.wait(RELOADED)
    said: list[str] = []
    while batch := x.commands():
        said += batch
        assert x.report().announced >= ONLY_A
        if codec.SHOW_NEIGHBORS in batch:
            x.plan.line(x.table, x.now)
        x.done(len(batch))
    assert codec.announce(ROUTE_A) in said
    assert x.plan.settled


def test_a_withdraw_waits_for_the_answer_to_the_announce_before_it() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A)
    x.commands()
    x.lease()
    assert x.commands() == []
    x.done()
    assert x.commands() == [codec.withdraw(ROUTE_A)]
    assert x.report().announced == {A}
    x.done()
    assert x.report().announced == set()


def many(count: int, version: int = 4, **attributes: Any) -> tuple[Route, ...]:
    base = "10.0.{}.{}/32" if version == 4 else "2001:db8::{:x}:{:x}/128"
    prefixes = (ip_network(base.format(n // 256, n % 256)) for n in range(count))
    return tuple(Route(prefix=prefix, **attributes) for prefix in prefixes)


def prefixes_of(routes: tuple[Route, ...]) -> tuple[Prefix, ...]:
    return tuple(route.prefix for route in routes)


def test_withdraws_overtake_announces_that_wait_for_room() -> None:
    routes = many(MOVING * 2)
    owned = (A, *prefixes_of(routes))
    x = Exchange(own=owned).started()
    x.lease(ROUTE_A, owned=owned)
    x.settle()
    x.lease(ROUTE_A, *routes, owned=owned)
    assert len(x.commands()) == MOVING / BATCH
    x.lease(*routes, owned=owned)
    assert x.commands() == []
    x.done()
    assert x.commands()[0] == codec.withdraw(ROUTE_A)


def test_many_with_the_same_attributes_go_together_and_each_family_by_itself() -> None:
    four, six = many(BATCH_FROM), many(BATCH_FROM, 6)
    other = many(2 * BATCH_FROM, med=7)[BATCH_FROM:]
    routes = (*four, *other, *six)
    x = Exchange(own=prefixes_of(routes))
    withdraws = [one for one in x.settle() if one.startswith("withdraw")]
    assert withdraws == [
        codec.withdraw_all_bare(prefixes_of((*four, *other))),
        codec.withdraw_all_bare(prefixes_of(six)),
    ]
    x = Exchange(own=prefixes_of(routes)).started()
    x.lease(*routes, owned=prefixes_of(routes))
    assert x.settle() == [codec.announce_all(four), codec.announce_all(other), codec.announce_all(six)]
    assert x.report().announced == frozenset(prefixes_of(routes))
    x.lease(*other, owned=prefixes_of(routes))
    assert x.settle() == [codec.withdraw_all(four), codec.withdraw_all(six)]
    assert x.report().announced == frozenset(prefixes_of(other))


def test_of_a_command_for_several_that_is_refused_each_is_tried_alone() -> None:
    routes = many(BATCH_FROM)
    bad = routes[3]
    x = Exchange(own=prefixes_of(routes)).started()
    x.lease(*routes, owned=prefixes_of(routes))
    commands = x.settle(refuse=f"{bad.prefix}")
    assert commands[0] == codec.announce_all(routes)
    for route in set(routes) - {bad}:  # ExaBGP may have taken it
        assert commands.index(codec.withdraw(route)) < commands.index(codec.announce(route))
    assert x.report().announced >= frozenset(prefixes_of(routes)) - {bad.prefix}
    x.wait(RETRY_ANNOUNCE)
    x.settle()
    assert x.report().announced == frozenset(prefixes_of(routes))
    x.lease(owned=prefixes_of(routes))
    assert x.settle() == [codec.withdraw_all(routes)]


def test_a_session_that_comes_up_gets_the_withdraws_again_and_then_the_rest_twice() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A, ROUTE_B)
    x.settle()
    x.lease(ROUTE_A)
    x.settle()
    x.plan.line(UP, x.now)
    again = [codec.withdraw(ROUTE_B), codec.FLUSH]
    assert x.settle() == again
    x.wait(SETTLE)
    assert x.settle() == again


def test_a_session_up_that_only_the_table_tells_of_counts_too() -> None:
    x = Exchange().started()
    x.plan.line(codec.NeighborEvent("192.0.2.254", "down", "closed"), x.now)
    x.wait(QUERY)
    assert codec.FLUSH in x.settle()


def test_what_is_down_is_withdrawn_again_every_minute() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A)
    x.settle()
    written = []
    for _ in range(int(REASSERT) + 1):
        x.wait(1.0)
        written += x.settle()
    assert [c for c in written if "route" in c] == ["withdraw route 192.0.2.2/32"]


def test_what_is_down_and_refused_with_its_attributes_is_withdrawn_again_without_them() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A)
    x.settle()
    x.lease()
    x.settle()
    x.wait(REASSERT)
    said = [one for one in x.settle(refuse=codec.withdraw(ROUTE_A)) if "192.0.2.1/32" in one]
    assert said == [codec.withdraw(ROUTE_A), "withdraw route 192.0.2.1/32"]


def test_of_many_that_are_down_and_refused_together_each_is_withdrawn_again_alone() -> None:
    x = Exchange().started()
    routes = many(2 * BATCH_FROM)
    owned = prefixes_of(routes)
    x.lease(*routes, owned=owned)
    x.settle()
    x.lease(owned=owned)
    x.settle()
    x.wait(REASSERT)
    assert {*map(codec.withdraw, routes)} <= {*x.settle(refuse=" nlri ")}


def test_a_lease_that_runs_out_takes_everything_with_it_and_a_new_one_brings_it_back() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A, ttl=2.0)
    x.settle()
    x.wait(1.75)
    assert x.settle() == [codec.VERSION]
    x.wait(0.25)
    assert x.settle()[0] == codec.withdraw(ROUTE_A)
    assert x.report().lease_expired
    x.lease(ROUTE_A)
    assert x.settle() == [codec.announce(ROUTE_A)]
    assert not x.report().lease_expired


def test_a_lease_that_lay_in_a_buffer_until_it_was_over_changes_nothing_and_is_logged_once_and_counted() -> (
    None
):
    x = Exchange().started()
    x.lease(ROUTE_B)
    x.settle()
    x.plan.log.clear()
    for seq in (2, 3):
        late = full_lease(seq=seq, issued=x.now - 3.0, ttl=2.0, routes=(ROUTE_A,), owned=(A, B))
        x.plan.lease([late], x.now)
    assert x.settle() == []
    assert (x.report().seq, x.report().announced, x.report().late_leases) == (1, ONLY_B, 2)
    assert x.report().followed == x.now
    assert x.plan.log == [
        "a lease arrived 1.0 s after it had run out and was ignored: is the node overloaded?"
    ]


def test_each_streak_of_late_leases_is_logged() -> None:
    x = Exchange().started()
    late = full_lease(seq=9, issued=x.now - 3.0, ttl=2.0, routes=())
    for _ in range(2):
        x.plan.lease([late], x.now)
        x.lease()
    assert sum("after it had run out" in text for text in x.plan.log) == 2


def test_a_refused_announce_is_failed_and_tried_again_later() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A, ROUTE_B)
    x.settle(refuse="announce route 192.0.2.2")
    report = x.report()
    assert report.announced == {A}
    assert [failed.prefix for failed in report.failed] == [B]
    assert (report.errors, report.seq) == (1, 1)
    x.wait(RETRY_ANNOUNCE - 1.0)
    assert codec.announce(ROUTE_B) not in x.settle()
    x.wait(1.0)
    assert codec.announce(ROUTE_B) in x.settle()
    assert x.report().failed == ()
    assert x.report().announced == {A, B}


def test_a_refused_announce_is_tried_again_when_a_session_comes_up() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A)
    x.settle(refuse="announce")
    x.plan.line(UP, x.now)
    assert codec.announce(ROUTE_A) in x.settle()


def test_new_attributes_that_are_refused_leave_the_old_announcement() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A)
    x.settle()
    x.lease(drained(ROUTE_A))
    assert x.settle(refuse="65535:0") == [codec.announce(drained(ROUTE_A))]
    assert x.report().announced == {A}
    x.lease()
    assert x.settle() == [codec.withdraw(ROUTE_A)]


def test_a_route_that_cannot_be_said_is_failed_and_the_others_are_announced() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A, Route(prefix=B, communities=("graceful-shutdown",)))
    assert x.settle() == [codec.announce(ROUTE_A)]
    assert "graceful-shutdown" in x.report().failed[0].why


def test_a_route_that_cannot_be_said_is_never_said_whatever_becomes_of_the_withdraw_before_it() -> None:
    x = Exchange(own=(), journal=(ROUTE_B,))
    x.lease(Route(prefix=B, communities=("graceful-shutdown",)))
    x.settle(refuse="next-hop")
    x.wait(RETRY_WITHDRAW)
    assert "withdraw route 192.0.2.2/32" in x.settle(refuse="next-hop")
    assert x.report().announced == set()
    assert "graceful-shutdown" in x.report().failed[0].why
    assert not any("announce" in command for command in x.settle())
    assert x.plan.journal(x.now) is None  # it is not written over and over


def test_a_withdraw_refused_over_and_over_means_exabgp_is_stuck() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A)
    x.settle()
    x.lease()
    for _ in range(WITHDRAW_TRIES):
        assert x.plan.stuck is None
        x.settle(refuse="withdraw")
        x.wait(RETRY_WITHDRAW)
    assert "refused" in str(x.plan.stuck)


def test_a_withdraw_refused_with_its_attributes_is_tried_without() -> None:
    x = Exchange(own=(), journal=(ROUTE_A,))
    x.settle(refuse="next-hop")
    x.wait(RETRY_WITHDRAW)
    assert x.settle(refuse="next-hop")[0] == "withdraw route 192.0.2.1/32"
    assert x.report().announced == set()


def test_an_exabgp_that_refuses_to_withdraw_what_was_never_announced_is_left_alive() -> None:
    x = Exchange()
    for _ in range(WITHDRAW_TRIES * 2):
        x.settle(refuse="route")
        x.wait(RETRY_WITHDRAW)
    assert x.plan.stuck is None


def test_silence_with_a_command_unanswered_means_exabgp_is_stuck() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A)
    x.commands()
    x.wait(SILENCE - 0.25)
    assert x.plan.stuck is None
    x.wait(0.25)
    assert "no answer" in str(x.plan.stuck)


def test_an_exabgp_at_rest_is_asked_every_second_and_the_cheapest_question() -> None:
    x = Exchange().started()
    asked = []
    for _ in range(8):
        x.wait(PING / 4)
        asked += x.settle()
    assert asked == [codec.VERSION, codec.VERSION]


def test_the_report_says_since_when_exabgp_has_not_answered_until_it_answers() -> None:
    x = Exchange().started()
    x.wait(PING)
    assert x.commands() == [codec.VERSION]
    asked, before = x.now, x.plan.revision
    x.wait(OWES - 0.25)
    assert (x.report().silent_since, x.plan.revision) == (None, before)  # at rest nothing new is reported
    x.wait(0.25)
    assert (x.report().silent_since, x.plan.revision) == (asked, before + 1)
    x.wait(1.0)
    assert (x.report().silent_since, x.plan.revision) == (asked, before + 1)
    x.done()
    assert x.report().silent_since is None
    assert x.plan.revision > before + 1


def test_an_exabgp_that_stands_still_is_known_within_the_shortest_hold_time() -> None:
    """From its last answer on. The plugin passes each IDLE, so question and report may each be so late."""
    x = Exchange().started()
    stood = x.now
    while silent_for(x.report(), x.now) is None:
        x.wait(IDLE)
        x.commands()
        assert x.now + IDLE - stood <= 3.0
    assert x.plan.stuck is None


def test_a_question_is_asked_only_where_nothing_else_was_answered() -> None:
    x = Exchange().started()
    for number in range(1, 21):
        x.lease(replace(ROUTE_A, med=number))
        assert codec.VERSION not in x.settle()
        x.wait(PING / 2)


def test_time_in_which_we_did_not_run_ourselves_is_no_silence_of_exabgp() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A)
    x.commands()
    x.now += 60.0
    x.plan.tick(x.now)
    assert x.report().silent_since is None


def test_silence_with_nothing_unanswered_is_peace() -> None:
    x = Exchange().started()
    x.wait(SILENCE * 1.5)
    assert x.plan.stuck is None


def test_time_in_which_we_did_not_run_ourselves_is_not_held_against_exabgp() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A)
    x.commands()
    x.now += 60.0
    x.plan.tick(x.now)
    assert x.plan.stuck is None
    x.wait(SILENCE)
    assert x.plan.stuck is not None


def test_a_route_is_announced_only_after_the_journal_holds_it() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A)
    assert x.plan.commands(x.now) == []
    assert x.plan.journal(x.now) == Writing((ROUTE_A,), whole=True)
    x.plan.journaled(Writing((ROUTE_A,), whole=True), x.now)
    assert x.plan.commands(x.now) == [codec.announce(ROUTE_A)]


def test_while_attributes_change_the_journal_holds_both_sets() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A)
    x.settle()
    x.lease(drained(ROUTE_A))
    x.commands()
    assert set(x.journal) == {ROUTE_A, drained(ROUTE_A)}
    x.done()
    x.settle()
    assert x.journal == (drained(ROUTE_A),)


def test_without_a_journal_only_what_the_command_line_owns_is_announced() -> None:
    x = Exchange(own=(A,)).started()
    x.plan.journal_failed("read-only", x.now)
    x.lease(ROUTE_A, ROUTE_B)
    assert x.plan.commands(x.now) == ["withdraw route 192.0.2.2/32", codec.announce(ROUTE_A)]
    x.done(2)
    assert x.plan.commands(x.now) == []
    assert "read-only" in x.report().failed[0].why
    x.wait(5.0)
    assert codec.announce(ROUTE_B) in x.settle()


def test_a_prefix_that_is_no_longer_owned_is_withdrawn_once_and_then_left_alone() -> None:
    x = Exchange(own=()).started()
    x.lease(ROUTE_A, ROUTE_B)
    x.settle()
    x.lease(ROUTE_A, owned=(A,))
    assert x.settle() == [codec.withdraw(ROUTE_B)]
    x.plan.line(UP, x.now)
    assert x.settle() == [codec.FLUSH]


def test_a_prefix_of_the_command_line_that_the_lease_owns_no_more_is_left_alone_until_it_is_owned_again() -> (
    None
):
    x = Exchange(own=(A, B)).started()
    x.lease(ROUTE_A, ROUTE_B)
    x.settle()
    x.lease(ROUTE_A, owned=(A,))
    assert x.settle() == [codec.withdraw(ROUTE_B)]
    x.plan.line(UP, x.now)
    assert x.settle() == [codec.FLUSH]
    x.lease(ROUTE_A, ROUTE_B)
    assert x.settle() == ["withdraw route 192.0.2.2/32", codec.announce(ROUTE_B)]


def test_stopping_withdraws_and_no_lease_changes_that() -> None:
    x = Exchange().started()
    x.lease(ROUTE_A)
    x.settle()
    x.plan.stop(x.now)
    assert not x.plan.all_down
    x.lease(ROUTE_A)
    assert x.settle() == [codec.withdraw(ROUTE_A)]
    assert x.plan.all_down


def test_neighbors_are_learned_from_the_table_and_followed_by_events() -> None:
    x = Exchange().started()
    (neighbor,) = x.report().neighbors
    assert (neighbor.address, neighbor.state, neighbor.changed) == ("192.0.2.254", "up", 40.0)
    x.plan.line(codec.NeighborEvent("192.0.2.254", "down", "hold timer"), x.now)
    (neighbor,) = x.report().neighbors
    assert (neighbor.state, neighbor.reason, neighbor.changed) == ("down", "hold timer", x.now)


def test_an_event_of_a_neighbor_that_exabgp_does_not_have_moves_no_route_and_is_gone_with_its_next_answer() -> (
    None
):
    x = Exchange().started()
    x.lease(ROUTE_A)
    x.settle()
    before = x.report()
    x.plan.line(codec.NeighborEvent("203.0.113.66", "up", ""), x.now)
    assert [one.address for one in x.report().neighbors] == ["192.0.2.254", "203.0.113.66"]
    written = x.settle()
    assert codec.SHOW_NEIGHBORS in written
    assert not any("announce" in command or codec.withdraw(ROUTE_A) in command for command in written)
    after = x.report()
    assert (after.neighbors, after.announced) == (before.neighbors, before.announced)


def test_what_a_router_says_of_too_many_prefixes_is_kept_until_the_session_is_up() -> None:
    x = Exchange().started()
    for state, reason in (
        ("down", "notification received (6,1)"),
        ("connected", ""),
        ("down", "closing connection"),
    ):
        x.plan.line(codec.NeighborEvent("192.0.2.254", state, reason), x.now)
        (neighbor,) = x.report().neighbors
        assert neighbor.state == state
        assert neighbor.reason.startswith(
            "notification received (6,1): the router has had more prefixes than"
        )
    assert sum("raise its maximum-prefix" in line for line in x.plan.log) == 3
    x.plan.line(codec.NeighborEvent("192.0.2.254", "up", ""), x.now)
    x.plan.line(codec.NeighborEvent("192.0.2.254", "down", "closing connection"), x.now)
    (neighbor,) = x.report().neighbors
    assert neighbor.reason == "closing connection"


def test_an_outage_keeps_its_beginning_and_what_the_router_said_until_the_session_is_up() -> None:
    x = Exchange().started()
    x.plan.line(codec.Notification("192.0.2.254", "notification received (6,2)", "moving racks"), x.now)
    began = x.now
    for state, reason in (
        ("down", "notification received (6,2)"),
        ("connected", ""),
        ("down", "closing connection"),
        ("down", "notification received (6,2)"),
    ):
        x.plan.line(codec.NeighborEvent("192.0.2.254", state, reason), x.now)
        (neighbor,) = x.report().neighbors
        assert (neighbor.state, neighbor.changed) == (state, began)
        assert neighbor.reason == "notification received (6,2): moving racks"
        x.wait(1.0)
    x.plan.line(codec.NeighborEvent("192.0.2.254", "down", "notification received (2,2)"), x.now)
    (neighbor,) = x.report().neighbors
    assert neighbor.reason == "notification received (6,2): moving racks; later notification received (2,2)"
    x.plan.line(UP, x.now)
    (neighbor,) = x.report().neighbors
    assert (neighbor.state, neighbor.changed, neighbor.reason) == ("up", x.now, "")


def test_what_a_router_said_of_another_connection_is_no_reason_for_the_end_of_this_one() -> None:
    x = Exchange().started()
    x.plan.line(codec.Notification("192.0.2.254", "notification received (6,7)", ""), x.now)
    x.wait(30.0)
    x.plan.line(codec.NeighborEvent("192.0.2.254", "down", "notification sent (4,0)"), x.now)
    (neighbor,) = x.report().neighbors
    assert neighbor.reason == "notification sent (4,0)"


def test_a_router_that_holds_the_session_of_before_a_reset_is_explained() -> None:
    x = Exchange().started()
    x.plan.line(codec.NeighborEvent("192.0.2.254", "down", "notification received (6,7)"), x.now)
    (neighbor,) = x.report().neighbors
    assert neighbor.reason.startswith(
        "notification received (6,7): the router still holds a session of before"
    )


def test_a_router_whose_bfd_is_down_is_explained_also_while_it_closes_every_try() -> None:
    x = Exchange().started()
    for reason in ("notification received (6,10)", "closing connection", "closing connection"):
        x.plan.line(codec.NeighborEvent("192.0.2.254", "down", reason), x.now)
    (neighbor,) = x.report().neighbors
    assert neighbor.reason.startswith(
        "notification received (6,10): the router has ended the session because BFD"
    )
    assert "bfdd" in neighbor.reason
    assert any("bfdd" in line for line in x.plan.log)


def test_a_reason_that_says_nothing_makes_room_for_the_first_that_does() -> None:
    x = Exchange().started()
    x.plan.line(codec.NeighborEvent("192.0.2.254", "down", "closing connection"), x.now)
    x.plan.line(codec.NeighborEvent("192.0.2.254", "down", "notification received (2,2)"), x.now)
    x.plan.line(codec.NeighborEvent("192.0.2.254", "down", "closing connection"), x.now)
    (neighbor,) = x.report().neighbors
    assert neighbor.reason == "notification received (2,2)"


def test_a_report_tells_what_exabgp_was_started_with_and_that_the_journal_cannot_be_written() -> None:
    x = Exchange().started()
    assert x.plan.report(pid=1, exabgp_pid=2, rendered="ab").rendered == "ab"
    before = x.plan.revision
    x.plan.journal_failed("disk full", x.now)
    assert x.plan.revision > before
    assert x.report().journal_error == "disk full"
    x.plan.journaled(Writing((), whole=True), x.now)
    assert x.report().journal_error == ""


def heard_version(version: str) -> Exchange:
    """After the first questions of an ExaBGP that knows the table."""
    x = Exchange()
    x.commands()
    x.done(2)
    assert x.commands() == [codec.SHOW_NEIGHBORS]
    x.plan.line(TABLE, x.now)
    x.done()
    assert x.commands() == [codec.VERSION]
    x.plan.line(codec.Version(version), x.now)
    x.done()
    return x


def test_an_exabgp_4_is_given_no_route_and_the_report_says_why() -> None:
    x = heard_version("4.2.25")
    x.lease(ROUTE_A)
    assert codec.announce(ROUTE_A) not in x.settle()
    assert not x.report().announced
    (failed,) = x.report().failed
    assert failed.prefix == A
    assert failed.why == "ExaBGP 4.2.25 is not supported: install 5.0.13 or newer"
    assert failed.why in x.plan.log


def test_an_exabgp_that_a_peer_can_write_through_is_used_and_its_version_reported() -> None:
    x = heard_version("5.0.12")
    x.lease(ROUTE_A)
    x.settle()
    assert x.report().announced == {A}
    assert x.report().exabgp_version == "5.0.12"
    assert not [line for line in x.plan.log if "5.0.12" in line]  # the agent says it


@pytest.mark.parametrize("version", ["5.0.13", "5.1", "6.0.0", "5.0.15-3", "main", ""])
def test_a_newer_exabgp_or_one_of_unknown_age_is_used(version: str) -> None:
    x = heard_version(version)
    x.lease(ROUTE_A)
    x.settle()
    assert x.report().announced == {A}
    assert not [line for line in x.plan.log if "install" in line]


def test_the_table_the_life_before_asked_for_is_no_answer_to_us() -> None:
    x = Exchange()
    x.commands()
    x.plan.line(TABLE, x.now)
    x.done()
    assert x.report().pending == {A, B}
    x.done(2)
    assert x.commands() == [codec.SHOW_NEIGHBORS]


@pytest.mark.parametrize("line", [codec.Done(), codec.Refused(), codec.Other("?"), codec.Version("5")])
def test_a_line_nobody_asked_for_does_no_harm(line: codec.Line) -> None:
    x = Exchange().started()
    x.plan.line(line, x.now)
    x.lease(ROUTE_A)
    x.settle()
    x.wait(QUERY)
    x.settle()
    assert x.report().announced == {A}
    assert x.plan.stuck is None


# Routers that are not sent the same.

FIRST, SECOND = "192.0.2.254", "2001:db8::fe"
TWO = codec.NeighborTable((codec.NeighborRow(FIRST, True, 60.0), codec.NeighborRow(SECOND, True, 60.0)))
WORSE_A = Route(prefix=A, med=100, as_path=(65001, 65001))
APART = replace(
    ROUTE_A,
    variants=(Variant(neighbors=(FIRST,), route=ROUTE_A), Variant(neighbors=(SECOND,), route=WORSE_A)),
)
ONLY_FIRST = replace(ROUTE_A, variants=APART.variants[:1])
ONLY_SECOND = replace(ROUTE_A, variants=APART.variants[1:])
SOLE = codec.announce(WORSE_A, [SECOND])


def between_two() -> Exchange:
    x = Exchange()
    x.table = TWO
    return x.started()


@given(
    st.permutations((FIRST, SECOND, "192.0.2.253")), st.sets(st.sampled_from((FIRST, SECOND, "192.0.2.253")))
)
def test_what_a_router_is_sent_is_what_is_withdrawn_from_it(names: list[str], known: set[str]) -> None:
    first, *others = names
    route = replace(
        ROUTE_A,
        variants=(
            Variant(neighbors=(first,), route=WORSE_A),
            Variant(neighbors=tuple(others), route=ROUTE_A),
        ),
    )
    said = commands.announce([route], (), known)
    if known:
        assert commands.withdraw([route], known) == tuple(one.replace("announce", "withdraw") for one in said)
        assert sum(one.count("neighbor ") for one in said) == len(known)
    else:  # nobody to send it to: nothing is announced
        assert said == commands.withdraw([route], known) == ("withdraw route 192.0.2.1/32",)


def test_each_router_is_sent_its_own_and_loses_its_own() -> None:
    x = between_two()
    x.lease(APART)
    assert x.settle() == [codec.announce(ROUTE_A, [FIRST]), codec.announce(WORSE_A, [SECOND])]
    assert x.report().announced == {A}
    x.lease()
    assert x.settle() == [codec.withdraw(ROUTE_A, [FIRST]), codec.withdraw(WORSE_A, [SECOND])]
    assert x.report().announced == NONE


def test_it_is_announced_once_every_router_has_it() -> None:
    x = between_two()
    x.lease(APART)
    assert len(x.commands()) == 2
    x.done()
    assert (x.report().announced, x.report().pending) == (ONLY_A, ONLY_A)
    x.lease()
    assert x.commands() == []  # one change of a prefix at a time
    x.done()
    assert x.commands() == [codec.withdraw(ROUTE_A, [FIRST]), codec.withdraw(WORSE_A, [SECOND])]


def test_a_router_that_loses_a_vip_is_sent_the_withdraw_of_what_it_had() -> None:
    x = between_two()
    x.lease(ROUTE_A)
    assert x.settle() == [codec.announce(ROUTE_A)]
    x.lease(ONLY_SECOND)
    assert x.settle() == [codec.announce(WORSE_A, [SECOND]), codec.withdraw(ROUTE_A, [FIRST])]
    x.lease(ROUTE_A)
    assert x.settle() == [codec.announce(ROUTE_A)]


def test_a_router_that_does_not_get_a_vip_is_told_so_again_when_sessions_come_up() -> None:
    x = between_two()
    x.lease(ONLY_SECOND)
    x.settle()
    x.plan.line(UP, x.now)
    assert codec.withdraw(ROUTE_A, [FIRST]) in x.settle()
    assert x.report().announced == {A}


def test_a_router_that_a_reload_adds_loses_what_it_was_sent_with_the_others_before_it_was_known() -> None:
    x = Exchange().started()  # it knows the first alone
    x.lease(ROUTE_A)
    x.settle()
    x.plan.line(codec.Reloading(), x.now)
    x.lease(ONLY_FIRST)
    assert x.settle() == []
    x.table = TWO
    x.wait(RELOADED)
    assert x.settle()[-2:] == [codec.announce(ROUTE_A, [FIRST]), codec.withdraw(ROUTE_A, [SECOND])]


def test_routes_that_go_alike_go_into_one_command_for_each_router() -> None:
    x = between_two()
    alike = [
        replace(
            APART,
            prefix=prefix,
            variants=tuple(replace(one, route=replace(one.route, prefix=prefix)) for one in APART.variants),
        )
        for prefix in (ip_network(f"198.51.100.{n}/32") for n in range(2 * BATCH_FROM))
    ]
    x.lease(*alike, owned=tuple(route.prefix for route in alike))
    firsts, seconds = ([route.variants[n].route for route in alike] for n in (0, 1))
    said = [one for one in x.settle() if "announce" in one]
    assert said[:2] == [
        codec.announce_all(firsts[:BATCH], [FIRST]),
        codec.announce_all(seconds[:BATCH], [SECOND]),
    ]


def test_a_router_that_exabgp_does_not_know_keeps_nothing_from_the_others() -> None:
    x = Exchange().started()  # it knows the first alone
    x.lease(APART)
    assert x.settle() == [codec.announce(ROUTE_A, [FIRST])]
    assert x.report().announced == {A}
    x.table = TWO  # ExaBGP has read its configuration again
    x.wait(QUERY)
    assert codec.announce(WORSE_A, [SECOND]) in x.settle()


def test_what_one_router_cannot_be_sent_stays_with_the_others() -> None:
    """A router that is gone since ExaBGP was asked: the rest of the route is not withdrawn for it."""
    x = between_two()
    x.lease(APART)
    said = x.settle(refuse="2001:db8::fe")
    assert not any("withdraw" in one for one in said)
    assert codec.SHOW_NEIGHBORS in said
    assert x.report().announced == {A}
    assert [one.prefix for one in x.report().failed] == [A]
    x.table = TABLE
    x.wait(RETRY_WITHDRAW)
    x.settle()
    x.wait(QUERY)
    x.settle()
    assert x.report().failed == ()


def test_a_withdraw_that_one_router_refuses_goes_to_all_at_once() -> None:
    x = between_two()
    x.lease(APART)
    x.settle()
    x.lease()
    assert x.settle(refuse="2001:db8::fe")[-1] == "withdraw route 192.0.2.1/32"
    assert x.report().announced == NONE


def test_what_was_refused_counts_as_refused_when_it_is_wanted_again_after_another_refusal() -> None:
    """Another one that was refused meanwhile proves nothing of it."""
    x = between_two()
    x.lease(ONLY_SECOND)
    x.settle(refuse="192.0.2.1/32")
    assert not x.plan.settled
    x.lease(ROUTE_A)
    x.settle(refuse="192.0.2.1/32")
    x.lease(ONLY_SECOND)
    assert (x.plan.settled, x.report().pending) == (False, ONLY_A)
    assert SOLE in x.settle(refuse="192.0.2.1/32")
    assert [one.prefix for one in x.report().failed] == [A]
    x.wait(RETRY_ANNOUNCE)
    assert SOLE in x.settle()
    assert (x.plan.settled, x.report().failed) == (True, ())


def test_a_route_that_comes_back_while_its_withdraw_is_refused_is_announced_again() -> None:
    """One router may have lost it."""
    x = between_two()
    x.lease(APART)
    x.settle()
    x.lease()
    x.commands()
    x.lease(APART)
    x.done()
    x.plan.line(codec.Refused(), x.now)
    assert not x.plan.settled
    assert x.settle()[:2] == [codec.announce(ROUTE_A, [FIRST]), SOLE]
    assert (x.plan.settled, x.report().failed) == (True, ())


def test_routes_that_come_back_while_their_withdraw_together_is_refused_are_announced_again() -> None:
    """ExaBGP may have taken it of any of them."""
    x = Exchange().started()
    routes = many(2 * BATCH_FROM)
    owned = prefixes_of(routes)
    x.lease(*routes, owned=owned)
    x.settle()
    x.lease(owned=owned)
    withdraws = x.commands()
    x.lease(*routes, owned=owned)
    for _ in withdraws:
        x.plan.line(codec.Refused(), x.now)
    assert not x.plan.settled
    assert {*map(codec.announce, routes)} <= {*x.settle()}
    assert x.plan.settled


@pytest.mark.parametrize("news", ["neighbor", "reload"])
def test_what_becomes_of_exabgp_while_a_withdraw_waits_counts_for_a_route_that_comes_back(news: str) -> None:
    """A router that is new has not been sent it, and a reload may have changed it."""
    x = Exchange().started()  # it knows the first alone
    x.lease(APART)
    x.settle()
    x.wait(QUERY)
    assert x.commands() == [codec.SHOW_NEIGHBORS]  # travels alone
    x.lease()
    if news == "neighbor":
        x.table = TWO
    else:
        x.plan.line(codec.Reloading(), x.now)
        x.wait(RELOADED)
    x.plan.line(x.table, x.now)
    assert x.commands() == []
    x.lease(APART)
    x.done()
    said = [one for one in x.settle() if "announce" in one]
    assert said == [codec.announce(ROUTE_A, [FIRST]), *([SOLE] if news == "neighbor" else [])]
