"""What the process tells the agent leads to what it knows, in frames of a bounded size."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.events import FleetHeard
from anycast.core.fleet import codec
from anycast.core.fleet.codec import BrokenError, Row
from anycast.core.fleet.values import Document, Load, Peer, Source, VipStanding, VipTold
from anycast.fleet.frames import LENGTH, MOST, Told, differing, is_urgent, packed, summed
from anycast.fleet.memory import Memory
from anycast.fleet.receiving import Receiver

LOAD = Load(bits=3.0)


def frames(old: Told | None, new: Told) -> list[bytes]:
    return [one[LENGTH.size :] for one in packed((*differing(old, new), *summed([new])))]


def taken(receiver: Receiver, some: Iterable[bytes]) -> Peer:
    """Of the frames the last alone is an event."""
    *others, last = [receiver.take(one) for one in some]
    assert others == [None] * len(others)
    assert last is not None
    (peer,) = last.peers.values()
    return peer


def rows(number: int, standing: str = "announced") -> dict[str, Row]:
    return {f"v{n}": (standing, "why", float(-n), "t", ()) for n in range(number)}


def of(loads: dict[str, Load]) -> str:
    return json.dumps({name: [one.packets, one.bits, 0.0, 0.0] for name, one in loads.items()})


def pieces(found: dict[str, Row]) -> dict[str, dict[str, Row]]:
    """As a node sends them."""
    split = [{name: found[name] for name in names} for names in codec.split(sorted(found))]
    return {codec.piece(one).digest: one for one in split}


ROWS = rows(300)
TOLD = Told(
    name="lb2",
    document=Document(node="lb2", version="1", soft=4.0, loads=of({"v1": LOAD})),
    pieces=pieces(ROWS),
    heard=20.0,
    told=10.0,
)


def test_a_node_is_known_as_it_was_told() -> None:
    peer = taken(Receiver(), frames(None, TOLD))
    assert (peer.name, peer.heard, peer.told, peer.source) == ("lb2", 20.0, 10.0, Source.PEERS)
    assert peer.document is not None
    assert (peer.document.soft, len(peer.document.vips)) == (4.0, 300)
    told = VipTold(standing=VipStanding.ANNOUNCED, reason="why", since=1.0, table="t")
    assert peer.document.vips["v1"] == told
    assert codec.loaded(peer.document).vips["v1"] == replace(told, load=LOAD)


def test_only_what_has_changed_is_told_and_the_rest_is_the_same_object() -> None:
    receiver = Receiver()
    first = taken(receiver, frames(None, TOLD))
    other = pieces({**ROWS, "v7": ("withdrawn", "x", 3.0, "t", ())})
    assert TOLD.document is not None
    loads = replace(TOLD.document, loads=of({"v2": LOAD}))
    new = replace(TOLD, pieces=other, document=loads, heard=21.0)
    (told,) = frames(TOLD, new)
    assert [one[0] for one in json.loads(told)] == ["head", "vips", "peers"]
    assert [*json.loads(told)[1][2]] == ["v7"]
    second = taken(receiver, [told])
    assert first.document is not None
    assert second.document is not None
    assert second.document.vips["v9"] is first.document.vips["v9"]
    assert [codec.loaded(second.document).vips[one].load for one in ("v1", "v2")] == [None, LOAD]
    assert second.document.vips["v7"].standing is VipStanding.WITHDRAWN


def test_another_agent_there_has_another_clock_and_says_the_same_by_it() -> None:
    receiver = Receiver()
    taken(receiver, frames(None, TOLD))
    second = taken(receiver, frames(TOLD, replace(TOLD, at=100.0, told=60.0, heard=60.0)))
    assert second.document is not None
    assert second.document.vips["v1"].since == 101.0


def test_a_problem_and_a_sign_of_life_are_small() -> None:
    receiver = Receiver()
    first = taken(receiver, frames(None, TOLD))
    failed = replace(TOLD, problem="refused" * 99, problem_since=22.0, answers=True)
    (one,) = frames(TOLD, failed)
    second = taken(receiver, [one])
    assert second.document is first.document
    assert (len(second.problem), second.problem_since, second.answers) == (300, 22.0, True)
    event = receiver.take(json.dumps([["life", {"lb2": 30.5}]]).encode())
    assert event == FleetHeard(peers={"lb2": replace(second, heard=30.5)})
    assert receiver.take(b'[["view", "it ended"]]') == FleetHeard(problem="it ended")


def test_an_answer_in_etcd_is_told_at_once_and_an_instant_as_it_is() -> None:
    receiver = Receiver()
    known = replace(TOLD, source=Source.ETCD)
    assert taken(receiver, frames(None, known)).said is None
    answered = replace(known, said=19.5)
    assert is_urgent(known, answered)
    assert taken(receiver, frames(known, answered)).said == 19.5


def test_several_nodes_are_one_event() -> None:
    some = [replace(TOLD, name=f"n{number}", pieces={}) for number in range(40)]
    events = [Receiver().take(one[LENGTH.size :]) for one in packed(summed(some))]
    assert [len(event.peers) for event in events if event is not None] == [40]


def test_figures_alone_are_not_urgent() -> None:
    assert TOLD.document is not None
    figures = replace(TOLD, document=replace(TOLD.document, load=LOAD, soft=9.0, loads=""), heard=50.0)
    assert not is_urgent(TOLD, figures)
    assert is_urgent(None, TOLD)
    assert is_urgent(TOLD, replace(TOLD, problem="refused"))
    assert is_urgent(TOLD, replace(TOLD, pieces={**TOLD.pieces}))
    assert is_urgent(TOLD, replace(TOLD, document=replace(TOLD.document, soft=None)))
    assert is_urgent(TOLD, replace(TOLD, document=replace(TOLD.document, maintenance="draining")))


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from([f"v{n}" for n in range(150)]), st.sampled_from(["announced", "withdrawn"])
        ),
        max_size=4,
    )
)
def test_whatever_changes_both_ends_have_the_same(histories: list[dict[str, str]]) -> None:
    receiver, before = Receiver(), None
    for number, one in enumerate(histories):
        new = replace(
            TOLD,
            pieces=pieces({name: (standing, "", 1.0, "", ()) for name, standing in one.items()}),
            heard=float(number),
        )
        some = frames(before, new)
        assert all(len(each) <= MOST for each in some)
        peer = taken(receiver, some)
        assert peer.document is not None
        assert {name: str(vip.standing) for name, vip in peer.document.vips.items()} == one
        before = new


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"{}",
        b"[7]",
        b'[["life", {"nobody": 1}]]',
        b'[["life", {"lb2": "now"}]]',
        b'[["peers", [["lb2", "hearsay", 1, 1, "", null, false]]]]',
        b'[["peers", [["lb2", "peers", true, 1, "", null, false]]]]',
        b'[["peers", [["lb2", "peers", NaN, 1, "", null, false]]]]',
        b'[["peers", [["lb2"]]]]',
        b'[["peers", [["lb2", "etcd", 1, 1, "", null, false, "now"]]]]',
        b'[["peers", [["lb2", "etcd", 1, 1, "", null, false, 1, 1]]]]',
        b'[["vips", "lb2", 7, []]]',
        b'[["head", "lb2", {}]]',
        b'[["head", "lb2", "x"]]',
        b"[" * 50_000,
    ],
)
def test_what_must_not_be_said_is_refused(frame: bytes) -> None:
    with pytest.raises(BrokenError):
        Receiver().take(frame)


def test_of_more_nodes_than_there_can_be_nothing_is_taken() -> None:
    receiver = Receiver()

    def tell(number: int) -> None:
        receiver.take(json.dumps([["peers", [[f"n{number}", "peers", 1, 1, "", None, False]]]]).encode())

    for number in range(256):
        tell(number)
    with pytest.raises(BrokenError, match="more than 256 nodes"):
        tell(256)


LONGEST = [f"{'☃' * 61}{n:02}" for n in range(64)]
ASCII = [f"{chr(34) * 61}{n:02}" for n in range(64)]  # each letter is escaped


@pytest.mark.parametrize("names", [LONGEST, ASCII])
def test_whatever_a_node_says_makes_no_frame_for_which_the_agent_would_kill_the_process(
    names: list[str],
) -> None:
    """One node that lies would take the view of all the others."""
    words = "☃" * 500
    turn = {
        "claim": "asked",
        "since": 1,
        "number": 9 * 10**4298,
        "scope": words,
        "by": words,
        "reason": words,
    }
    head = {"version": words, "configuration": words, "maintenance": words, "turn": turn, "hears": names}
    loads = dict.fromkeys(names, [1 / 3] * 4)
    rows = {name: ["announced", name, 1.5, name, [-(2**31)] * 8] for name in names}
    body = {"node": "lb2", "at": 1, "born": 1, "pieces": ["aa"], "vips": {"aa": rows}, "fleet": names}
    heard = codec.read(json.dumps({**body, **head, "loads": loads}).encode(), {})
    memory = Memory(Told(name="lb2"))
    memory.news(heard, 10.0)
    sent = frames(None, memory.told)
    assert max(map(len, sent)) <= MOST
    assert taken(Receiver(), sent).heard == 10.0
