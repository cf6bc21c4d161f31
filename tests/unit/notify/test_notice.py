from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

import anycast
from anycast.core.hooks import EVENTS, VERDICT
from anycast.notify.notice import SAMPLE, Notice, Words, environment, payload
from anycast.notify.waiting import Waiting

ROOT = Path(__file__).parents[3]
SCHEMA = json.loads(
    Path(anycast.__file__).parent.joinpath("notify", "payload.schema.json").read_text("utf-8")
)
# For the log alone: nobody is there to tell, or the ops process has written it.
LOST = {
    "agent.failed",
    "fleet.etcd_failed",
    "fleet.lease_lost",
    "fleet.no_token",
    "fleet.peer_failed",
    "fleet.unavailable",
    "fleet.unexpected",
    "log.lost",
    "ops.listening",
    "ops.unavailable",
    "ops.unexpected",
}


def verdict(number: int, vip: str = "web", to: str = "no", before: str = "yes") -> Notice:
    return replace(
        SAMPLE,
        id=number,
        vip=vip,
        before=Words(advertise=before, reason="x"),
        verdict=Words(advertise=to, reason="x"),
    )


def other(number: int, event: str = "neighbor.changed") -> Notice:
    return Notice(id=number, time="2026-01-01T00:00:00.000Z", event=event, level="info")


def all_of(waiting: Waiting, now: float, *, hurry: bool = False) -> list[Notice]:
    taken = iter(lambda: waiting.take(now, hurry=hurry), None)
    return [one for one in taken if one is not None]


def test_hooks_can_be_told_of_every_event_but_those_of_hooks() -> None:
    text = ROOT.joinpath("docs", "log-events.md").read_text("utf-8")
    listed = set(re.findall(r"^\| `([a-z_.]+)` \|", text, re.MULTILINE))
    assert set(EVENTS) == {name for name in listed if not name.startswith("hook.")} - LOST


def test_within_the_limit_everything_is_told_in_its_order() -> None:
    waiting = Waiting(3, 60, 0)
    for number in (1, 2, 3):
        assert waiting.put(verdict(number), 0) == 0
    assert [one.id for one in all_of(waiting, 0)] == [1, 2, 3]
    assert waiting.due_in(0) == math.inf


def test_beyond_it_the_newest_of_each_vip_waits_and_says_how_many_it_stands_for() -> None:
    waiting = Waiting(1, 60, 0)
    waiting.put(verdict(1), 0)
    assert [one.id for one in all_of(waiting, 0)] == [1]
    waiting.put(verdict(2, to="yes", before="no"), 1)
    waiting.put(verdict(3, "mail"), 1)
    assert waiting.put(verdict(4, to="no", before="yes"), 2) == 1
    assert waiting.put(verdict(5, to="drain", before="no"), 3) == 1
    assert waiting.take(30) is None
    assert waiting.due_in(30) == pytest.approx(30)
    first, second = waiting.take(60), waiting.take(120)
    assert first is not None
    assert second is not None
    assert (first.id, first.vip, first.suppressed) == (3, "mail", 0)
    assert (second.id, second.suppressed) == (5, 2)
    assert second.before == Words(advertise="no", reason="x")
    assert second.verdict == Words(advertise="drain", reason="x")


def test_in_a_hurry_the_limit_is_none() -> None:
    waiting = Waiting(1, 60, 0)
    for number in range(1, 5):
        waiting.put(verdict(number, f"vip{number}"), 0)
    assert [one.id for one in all_of(waiting, 0, hurry=True)] == [1, 2, 3, 4]


def test_what_could_not_be_told_is_the_next_again() -> None:
    waiting = Waiting(5, 60, 0)
    waiting.put(verdict(1), 0)
    waiting.put(verdict(2, "mail"), 0)
    taken = waiting.take(0)
    assert taken is not None
    assert waiting.give_back(taken) == 0
    assert [one.id for one in all_of(waiting, 0)] == [1, 2]


def test_what_could_not_be_told_gives_way_to_a_newer_one_which_stands_for_it() -> None:
    waiting = Waiting(5, 60, 0)
    waiting.put(verdict(1), 0)
    taken = waiting.take(0)
    assert taken is not None
    waiting.put(verdict(2, to="yes", before="no"), 0)
    assert waiting.give_back(taken) == 1
    (left,) = all_of(waiting, 0)
    assert (left.id, left.suppressed) == (2, 1)
    assert left.before == taken.before


@given(st.lists(st.tuples(st.sampled_from(["web", "mail", "", "take"]), st.floats(0, 30)), max_size=60))
def test_nothing_is_lost_uncounted_and_what_waits_is_bounded(story: list[tuple[str, float]]) -> None:
    limit, now = 3, 0.0
    waiting = Waiting(limit, 60, now)
    taken: list[Notice] = []
    newest: dict[str, int] = {}
    replaced = put = 0
    for number, (what, passed) in enumerate(story, 1):
        now += passed
        if what == "take":
            found = waiting.take(now)
            taken += [] if found is None else [found]
            continue
        notice = other(number) if what == "" else verdict(number, what)
        replaced += waiting.put(notice, now)
        put += 1
        newest[what] = number
        assert len(waiting) <= limit + 3
    taken += all_of(waiting, now, hurry=True)
    assert [one.id for one in taken] == sorted(one.id for one in taken)
    assert sum(1 + one.suppressed for one in taken) == put
    assert sum(one.suppressed for one in taken) == replaced
    for vip, number in newest.items():
        assert [one.id for one in taken if one.vip == vip][-1] == number


@pytest.mark.parametrize(
    "notice", [SAMPLE, other(7), replace(SAMPLE, before=None), replace(SAMPLE, suppressed=3)]
)
def test_what_is_told_fits_its_schema(notice: Notice) -> None:
    told = payload(notice, hook="pager", node="lb1")
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(json.dumps(told)))
    assert set(told) == set(SCHEMA["properties"]) == set(SCHEMA["required"])


def test_a_program_finds_the_same_in_its_environment() -> None:
    around = environment(payload(replace(SAMPLE, suppressed=2), hook="pager", node="lb1", test=True))
    assert around["ANYCAST_EVENT"] == VERDICT
    assert (around["ANYCAST_FROM_ADVERTISE"], around["ANYCAST_ADVERTISE"]) == ("yes", "no")
    assert (around["ANYCAST_VIP"], around["ANYCAST_REASON"]) == ("web", "below_quorum")
    assert (around["ANYCAST_SUPPRESSED"], around["ANYCAST_TEST"], around["ANYCAST_NODE"]) == ("2", "1", "lb1")
    plain = environment(payload(other(7), hook="pager", node="lb1"))
    assert set(plain) == set(around)
    assert (plain["ANYCAST_VIP"], plain["ANYCAST_REASON"], plain["ANYCAST_TEST"]) == ("", "", "0")


def test_no_text_can_break_the_environment() -> None:
    odd = replace(SAMPLE, verdict=Words(advertise="no", reason="x", detail="a\0b"))
    assert environment(payload(odd, hook="h", node="n"))["ANYCAST_DETAIL"] == "a\ufffdb"
