"""Whether the nodes of a fleet have the same tables: a moment is no alarm, and the first difference is told in words."""

from __future__ import annotations

from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.fleet import agreement
from anycast.core.fleet.agreement import LONGEST, NAMED, PATIENCE, Agreement, Served, Server

INTERVAL = 2.0  # seconds between two questions to a node, as configured where nothing is said
OWN = 1.0  # and to the own agent, at most


Prints: TypeAlias = dict[str, str]


def both(mine: Prints, other: Prints, *, until: float, start: float = 0.0) -> Agreement:
    """Each told again and again, every half second."""
    found = Agreement()
    for step in range(int((until - start) * 2) + 1):
        found = agreement.of_own(found, mine, start + step / 2)
        found = agreement.heard(found, "lb2", other, start + step / 2)
    return found


def counting(found: Agreement) -> set[str]:
    """The VIPs that count as different."""
    return set(found.differing.get("lb2", {}))


def test_the_same_tables_agree() -> None:
    assert counting(both({"web": "a1"}, {"web": "a1"}, until=60)) == set()


def test_another_table_counts_once_both_have_stood_for_the_patience() -> None:
    mine, other = {"web": "a1", "dns": "b"}, {"web": "a2", "dns": "b"}
    assert counting(both(mine, other, until=PATIENCE - 0.5)) == set()
    found = both(mine, other, until=PATIENCE)
    assert found.differing == {"lb2": {"web": 0.0}}


@pytest.mark.parametrize(("mine", "other"), [({"web": ""}, {"web": "a"}), ({"web": "a"}, {"web": ""})])
def test_a_table_that_is_not_known_is_not_compared(mine: dict[str, str], other: dict[str, str]) -> None:
    assert counting(both(mine, other, until=60)) == set()


def test_a_vip_that_only_one_has_is_a_matter_of_configurations() -> None:
    assert counting(both({"web": "a"}, {"web": "a", "dns": "b"}, until=60)) == set()


def test_it_is_over_with_the_first_equal_table() -> None:
    found = both({"web": "a"}, {"web": "b"}, until=10)
    assert "lb2" in found.differing
    assert agreement.disagreement(agreement.heard(found, "lb2", {"web": "a"}, 10.1), "lb2") is None


def test_a_difference_that_becomes_another_goes_on() -> None:
    found = both({"web": "a"}, {"web": "b"}, until=10)
    found = agreement.heard(found, "lb2", {"web": "c"}, 10.1)
    assert found.differing == {"lb2": {"web": 0.0}}


def test_a_node_that_is_not_believed_proves_nothing() -> None:
    found = both({"web": "a"}, {"web": "b"}, until=10)
    assert agreement.forgotten(found, "lb3") is found
    assert agreement.forgotten(found, "lb2").differing == {}
    assert agreement.disagreement(agreement.forgotten(found, "lb2"), "lb2") is None


def test_a_node_that_says_nothing_new_does_not_become_wrong_by_that() -> None:
    """It was last heard before this node's table changed: whether it has changed too is not known."""
    found = both({"web": "a"}, {"web": "a"}, until=5)
    for second in range(6, 60):
        found = agreement.of_own(found, {"web": "b"}, float(second))
    assert counting(found) == set()


def test_of_many_that_differ_the_first_are_named() -> None:
    names = [f"v{number}" for number in range(9)]
    found = both(dict.fromkeys(names, "a"), dict.fromkeys(names, "b"), until=5)
    told = agreement.disagreement(found, "lb2", "x" * 9999)
    assert told is not None
    assert (told.count, told.vips) == (9, tuple(names[:NAMED]))
    assert len(told.words) == LONGEST


@given(
    first=st.floats(0, 1),
    asked=st.floats(0, INTERVAL),
    own=st.floats(0, OWN),
    who=st.sampled_from(["this", "other"]),
)
def test_what_changes_everywhere_within_a_second_is_no_alarm(
    first: float, asked: float, own: float, who: str
) -> None:
    here, there = (100.0, 100.0 + first) if who == "this" else (100.0 + first, 100.0)
    assert not any(counting(found) for _, found in told_over_time(here, there, asked, own))


@given(asked=st.floats(0, INTERVAL), own=st.floats(0, OWN), who=st.sampled_from(["this", "other"]))
def test_what_changes_on_one_node_alone_is_told_within_5_seconds(asked: float, own: float, who: str) -> None:
    here, there = (100.0, 1e9) if who == "this" else (1e9, 100.0)
    when = [at for at, found in told_over_time(here, there, asked, own) if counting(found)]
    assert when
    assert when[0] <= 105.0


def told_over_time(here: float, there: float, asked: float, own: float) -> list[tuple[float, Agreement]]:
    """Two nodes that change their table at these instants; one asks the other, and itself, in turns."""
    looks = sorted(
        [
            *((90 + asked + INTERVAL * turn, "lb2") for turn in range(20)),
            *((90 + own + OWN * turn, "") for turn in range(40)),
        ]
    )
    found = Agreement()
    seen: list[tuple[float, Agreement]] = []
    for at, node in looks:
        table = "new" if at >= (there if node else here) else "old"
        if node and seen and seen[-1][0] < 95:  # it says the same again, and is asked for that alone
            found = agreement.alive(agreement.heard(found, node, {"web": table}, at), node, at)
        elif node:
            found = agreement.heard(found, node, {"web": table}, at)
        else:
            found = agreement.of_own(found, {"web": table}, at)
        seen.append((at, found))
    return seen


TABLE = {
    "tcp 192.0.2.1:80": Served(
        "mh", (Server("10.9.0.1:80", 1, "rs1"), Server("10.9.0.2:80", 10, "rs2")), ordered=True
    )
}
[SERVICE] = TABLE
RS1, RS2 = TABLE[SERVICE].servers


@pytest.mark.parametrize(
    ("there", "told"),
    [
        (TABLE, ""),
        ({}, "lb2 has no tcp 192.0.2.1:80"),
        ({**TABLE, "udp 192.0.2.1:53": Served("mh", ())}, "lb2 has udp 192.0.2.1:53, this node has not"),
        (
            {SERVICE: TABLE[SERVICE]._replace(settings="wrr")},
            f"{SERVICE}: the scheduler is mh here and wrr on lb2",
        ),
        (
            {SERVICE: TABLE[SERVICE]._replace(servers=(RS1, RS2._replace(weight=1)))},
            f"{SERVICE}: rs2 (10.9.0.2:80) has weight 10 here and 1 on lb2",
        ),
        (
            {SERVICE: TABLE[SERVICE]._replace(servers=(RS1,))},
            f"{SERVICE}: rs2 (10.9.0.2:80) is not on lb2",
        ),
        (
            {SERVICE: TABLE[SERVICE]._replace(servers=(RS1, RS2, Server("10.9.0.3:80", 1)))},
            f"{SERVICE}: 10.9.0.3:80 is on lb2 and not here",
        ),
        (
            {SERVICE: TABLE[SERVICE]._replace(servers=(RS2, RS1))},
            f"{SERVICE}: the order of real servers differs: rs1 (10.9.0.1:80) is number 1 here, and rs2 (10.9.0.2:80) on lb2",
        ),
    ],
)
def test_the_first_difference_is_told_in_words(there: dict[str, Served], told: str) -> None:
    assert agreement.first_difference("lb2", TABLE, there) == told


def test_the_order_counts_only_where_the_scheduler_looks_at_it() -> None:
    one = replace_order(TABLE, ordered=False)
    other = {SERVICE: one[SERVICE]._replace(servers=(RS2, RS1))}
    assert agreement.first_difference("lb2", one, other) == ""


def replace_order(table: dict[str, Served], *, ordered: bool) -> dict[str, Served]:
    return {name: one._replace(ordered=ordered) for name, one in table.items()}


def test_of_a_name_that_is_too_long_the_beginning_is_told() -> None:
    long = {"x" * 9999: Served("mh", ())}
    assert len(agreement.first_difference("lb2", long, {})) <= LONGEST


def test_a_sign_of_life_makes_a_difference_count() -> None:
    """A node that says nothing new is not compared anew, and its word is as new as if it had said it again."""
    found = agreement.of_own(Agreement(), {"web": "a"}, 0.0)
    found = agreement.heard(found, "lb2", {"web": "b"}, 0.0)
    found = agreement.own_alive(found, 3.0)
    assert agreement.disagreement(found, "lb2") is None
    told = agreement.disagreement(agreement.alive(found, "lb2", 3.0), "lb2")
    assert told is not None
    assert told.since == 0.0
    assert agreement.alive(found, "lb9", 3.0) is found
    nothing = Agreement()
    assert agreement.own_alive(nothing, 3.0) is nothing


def test_what_is_told_again_is_the_same_object() -> None:
    found = agreement.of_own(Agreement(), {"web": "a"}, 0.0)
    assert found.own is not None
    again = agreement.of_own(found, {"web": "a", "dns": ""}, 1.0)
    assert again.own is not None
    assert again.own.prints is found.own.prints
