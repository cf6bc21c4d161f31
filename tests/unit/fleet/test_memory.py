"""What another node said last: counted by our clock from one instant on, however its own stands."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from anycast.core.fleet import codec
from anycast.core.fleet.codec import Heard, Row
from anycast.core.fleet.values import Claim, Document, Peer, Turn
from anycast.fleet.frames import Told
from anycast.fleet.memory import Memory

DOCUMENT = Document(node="lb2", version="1", soft=4.0, turn=Turn(claim=Claim.ASKED, ago=2.0, number=1))
ROW: Row = ("announced", "healthy", 90.0, "t", (1, 2))


def heard(at: float, born: float = 1.0, *, pieces: dict[str, dict[str, Row]] | None = None) -> Heard:
    return Heard(DOCUMENT, {"a": {"web": ROW}} if pieces is None else pieces, born, at)


def peer(memory: Memory) -> Peer:
    told = memory.told
    return Peer(name=told.name, document=told.document, heard=told.heard, told=told.told)


def rows(memory: Memory) -> dict[str, Row]:
    return {name: row for some in memory.told.pieces.values() for name, row in some.items()}


def age(memory: Memory, name: str, now: float) -> float:
    return peer(memory).ago(codec.told(rows(memory)[name], memory.told.at).since, now)


@given(st.floats(-1e6, 1e6), st.lists(st.floats(0.1, 50.0), max_size=5))
def test_ages_are_right_whatever_the_other_clock_shows(offset: float, pauses: list[float]) -> None:
    memory, now, known = Memory(Told(name="lb2")), 1000.0, {"web": 990.0}
    for number, pause in enumerate([0.0, *pauses]):
        now += pause
        known[f"v{number}"] = now - 1.0
        said: dict[str, Row] = {
            name: ("announced", "", since + offset, "", ()) for name, since in known.items()
        }
        memory.news(heard(now + offset, pieces={f"d{number}": said}), now)
        for name, since in known.items():
            assert abs(age(memory, name, now + 7.0) - (now + 7.0 - since)) < 0.2
        document = memory.told.document
        assert document is not None
        assert document.soft is not None
        assert document.turn is not None
        assert abs(peer(memory).ago(document.soft, now) - 4.0) < 0.01
        assert abs(peer(memory).ago(document.turn.ago, now) - 2.0) < 0.01


def test_pieces_stay_the_same_object_until_one_is_another() -> None:
    memory = Memory(Told(name="lb2"))
    memory.news(heard(100.0), 5.0)
    before = memory.told.pieces
    memory.news(heard(102.0), 7.0)
    assert memory.told.pieces is before
    assert memory.told.told == 5.0
    memory.news(heard(104.0, pieces={"a": {"web": ROW}, "b": {"mail": ROW}}), 9.0)
    assert set(rows(memory)) == {"web", "mail"}


def test_another_agent_there_has_another_clock() -> None:
    memory = Memory(Told(name="lb2"))
    memory.news(heard(100.0), 5.0)
    memory.news(heard(3.0, born=2.0, pieces={"a": {"web": ("announced", "", 1.0, "", ())}}), 60.0)
    assert memory.told.told == 60.0
    assert age(memory, "web", 60.0) == 2.0
    memory.news(heard(5.0, born=3.0, pieces={}), 70.0)
    assert rows(memory) == {}


def test_a_problem_is_told_once_and_forgets_nothing() -> None:
    memory = Memory(Told(name="lb2"))
    memory.news(heard(100.0), 5.0)
    assert memory.failed("refused", 6.0, answers=False)
    assert not memory.failed("refused", 7.0, answers=False)
    assert memory.failed("no  answer\n", 8.0, answers=False)
    assert (memory.told.problem, memory.told.problem_since, memory.told.heard) == ("no answer", 6.0, 5.0)
    assert memory.failed("401", 9.0, answers=True)
    assert memory.told.problem_since == 9.0
    assert memory.same(10.0)
    assert not memory.same(11.0)
    assert memory.told == replace(memory.told, problem="", heard=11.0, answers=False)
