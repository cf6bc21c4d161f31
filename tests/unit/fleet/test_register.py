"""What is written to etcd, and when; what is made of what stands there. A store in memory stands for etcd."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anycast.core.fleet import codec
from anycast.core.fleet.codec import BrokenError, Heard, Row
from anycast.core.fleet.values import Document, Load, Source
from anycast.core.fleet.velocity import known_after
from anycast.core.values.fleet import Etcd, Fleet, FleetView, PeerAt, Velocity
from anycast.fleet import register as registers
from anycast.fleet.etcd import Entry, Is
from anycast.fleet.frames import Task, Told, differing, packed
from anycast.fleet.register import ASK, FIGURES, GONE, LIFE, REFRESH, Register

FLEET = Fleet(view=FleetView.ETCD, etcd=Etcd(endpoints=("http://10.0.0.1:2379",), prefix="/a/"))
ROWS: dict[str, Row] = {f"v{n:03}": ("announced", "healthy", float(n), "t", ()) for n in range(130)}


class Store:
    """As far as it is asked. `lives`: the leases that there are."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.lives: set[int] = set()
        self.revision = 0
        self.leases = 0
        self.kept = 0
        self.writes: list[list[str]] = []

    async def below(self, prefix: str) -> list[Entry]:
        return [one for key, one in self.entries.items() if key.startswith(prefix)]

    async def grant(self, _: int) -> int:
        self.leases += 1
        self.lives.add(self.leases)
        return self.leases

    async def keep_alive(self, lease: int) -> bool:
        self.kept += 1
        return lease in self.lives

    def lose(self, lease: int) -> None:
        self.lives.discard(lease)
        self.entries = {key: one for key, one in self.entries.items() if one.lease != lease}

    async def transact(self, compare: Sequence[Is], *, then: Sequence[dict[str, Any]]) -> bool:
        for one in compare:
            there = self.entries.get(one.key)
            assert one.target == "MOD"
            if (0 if there is None else there.modified) != one.revision:
                return False
        self.revision += 1
        self.writes.append([])
        for part in then:
            ((kind, what),) = part.items()
            key = base64.b64decode(what["key"]).decode()
            self.writes[-1].append(key)
            if kind == "requestPut":
                assert int(what["lease"]) in self.lives
                value = base64.b64decode(what["value"])
                self.entries[key] = Entry(
                    key=key, value=value, created=1, modified=self.revision, lease=int(what["lease"])
                )
            else:
                self.entries.pop(key, None)
        return True


class Node:
    """One node, with what its ops process says of it."""

    def __init__(
        self, name: str, store: Store, monkeypatch: pytest.MonkeyPatch, fleet: Fleet = FLEET
    ) -> None:
        self.name = name
        self.document = Document(node=name, version="1", load=Load(bits=1e9))
        self.rows = ROWS
        self.hangs = False
        self.heard: list[Told] = []
        self.alive: list[str] = []
        self._patch = monkeypatch
        task = Task(node=name, fleet=fleet, runtime_dir="/run")
        self.register = Register(task, store, self.heard.append, lambda name, _: self.alive.append(name))  # type: ignore[arg-type]

    def beat(self, now: float) -> None:
        async def own(_: Path) -> Heard:
            if self.hangs:
                raise BrokenError("503")
            pieces = [
                codec.piece({one: self.rows[one] for one in some}) for some in codec.split(sorted(self.rows))
            ]
            body = codec.answer(codec.head(self.document, born=1.0, at=now), pieces, (), now)
            return codec.read(body, {})

        self._patch.setattr(registers, "own", own)
        asyncio.run(self.register.beat(now))


def rows(told: Told) -> dict[str, Row]:
    return {name: row for some in told.pieces.values() for name, row in some.items()}


def two(monkeypatch: pytest.MonkeyPatch, fleet: Fleet = FLEET) -> tuple[Store, Node, Node]:
    store = Store()
    one, other = (Node(name, store, monkeypatch, fleet) for name in ("lb1", "lb2"))
    one.beat(1000.0)
    other.beat(1001.0)
    one.beat(1002.0)
    return store, one, other


def test_two_nodes_know_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    _, one, other = two(monkeypatch)
    for node, name in ((one, "lb2"), (other, "lb1")):
        told = node.heard[-1]
        assert (told.name, told.source, len(rows(told)), told.problem) == (name, Source.ETCD, 130, "")
    one.beat(1003.0)
    assert one.alive == ["lb2"]


LIMITED = replace(FLEET, velocity=Velocity(nodes=1))
KNOWN = known_after(LIMITED)


def loses(node: Node, at: float) -> None:
    """A VIP, for what others may share."""
    node.rows = {**ROWS, "v001": ("last_resort", "below_quorum", at, "t", ())}


def test_a_node_that_keeps_a_route_asks_and_the_others_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    store, one, other = two(monkeypatch, LIMITED)
    loses(one, 1003.0)
    one.beat(1003.0)
    other.beat(1004.0)
    one.beat(1005.0)
    assert one.heard[-1].said is None, "nobody was asked, for nothing could be known yet"
    before = len(store.writes)
    at = 1003.0 + KNOWN
    one.beat(at)
    other.beat(at + 1)  # it reads the question
    assert (len(store.writes), one.heard[-1].said) == (before + 1, None)
    one.beat(at + 2)
    other.beat(at + 3)
    one.beat(at + 4)
    assert one.heard[-1].said == at, "the instant of the question, by the clock of who asked"
    assert len(store.writes) == before + 2
    for beat in range(5, int(ASK), 2):  # nothing goes to and fro
        one.beat(at + beat)
        other.beat(at + beat + 1)
    assert len(store.writes) == before + 2
    one.beat(at + ASK + 3)
    assert len(store.writes) == before + 3, "it asks again"


def test_a_dead_node_answers_nothing_however_long_its_key_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    _, one, _ = two(monkeypatch, LIMITED)
    loses(one, 1003.0)
    for beat in range(60):
        one.beat(1003.0 + beat)
    assert one.alive, "the key stands, and nothing else is known"
    assert all(told.said is None for told in one.heard)


def test_an_answer_to_another_process_or_to_nobody_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    store, one, _ = two(monkeypatch, LIMITED)
    for found in (1000.0, 10**400, "now", None, [1]):
        store.revision += 1
        entry = store.entries["/a/nodes/lb2"]
        value = json.dumps({**json.loads(entry.value), "asks": found, "answers": {"lb1": found}}).encode()
        store.entries[entry.key] = replace(entry, value=value, modified=store.revision)
        one.beat(1003.0)
        assert one.heard[-1].said is None
        assert one.heard[-1].problem == ""


def test_without_a_limit_nobody_asks_and_what_stands_for_long_is_asked_for_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for fleet, most in ((FLEET, 0), (LIMITED, 20)):
        store, one, _ = two(monkeypatch, fleet)
        loses(one, 1003.0)
        asked = set()
        for beat in range(0, 3600, 10):
            one.beat(1003.0 + beat)
            asked.add(json.loads(store.entries["/a/nodes/lb1"].value)["asks"])
        asked.discard(None)
        assert bool(asked) == bool(most)
        assert len(asked) <= most


def test_a_question_whose_write_failed_is_written_by_the_next_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    store, one, _ = two(monkeypatch, LIMITED)
    loses(one, 1003.0)
    one.beat(1003.0)
    whole = store.transact

    async def late(compare: Sequence[Is], *, then: Sequence[dict[str, Any]]) -> bool:
        return False

    monkeypatch.setattr(store, "transact", late)
    at = 1003.0 + KNOWN
    one.beat(at)
    monkeypatch.setattr(store, "transact", whole)
    one.beat(at + 2)
    assert json.loads(store.entries["/a/nodes/lb1"].value)["asks"] == at


def test_a_key_of_a_node_that_the_file_does_not_name_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    store, one, _ = two(monkeypatch, replace(FLEET, peers=(PeerAt(name="lb2"),)))
    stray = Entry(key="/a/nodes/lb3", value=b"?", created=1, modified=99)
    store.entries["/a/nodes/lb3"] = stray
    one.beat(1003.0)
    del store.entries["/a/nodes/lb3"]
    one.beat(1004.0)
    assert {told.name for told in one.heard} == {"lb2"}


def test_it_is_written_when_something_has_changed_and_else_once_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, one, _ = two(monkeypatch)
    before = len(store.writes)
    one.beat(1003.0)
    one.document = replace(one.document, load=Load(bits=1.05e9))  # a little
    one.beat(1000.0 + FIGURES + 1)
    assert len(store.writes) == before
    one.document = replace(one.document, load=Load(bits=2e9))
    one.beat(1000.0 + FIGURES + 2)
    assert store.writes[before:] == [["/a/nodes/lb1"]]
    one.document = replace(one.document, load=Load(bits=4e9))
    one.beat(1000.0 + FIGURES + 3)  # too soon for figures alone
    assert len(store.writes) == before + 1
    one.document = replace(one.document, maintenance="draining")
    one.beat(1000.0 + FIGURES + 4)
    assert len(store.writes) == before + 2
    one.beat(1000.0 + FIGURES + 5 + REFRESH)
    assert len(store.writes) == before + 3


def test_a_vip_changes_one_piece_and_the_old_one_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    store, one, other = two(monkeypatch)
    before = len(store.writes)
    one.rows = {**ROWS, "v001": ("withdrawn", "below_quorum", 1000.0, "t", ())}
    one.beat(1003.0)
    (put,), (head, *gone) = store.writes[before:]
    assert put.startswith("/a/vips/lb1/")
    assert head == "/a/nodes/lb1"
    assert len(gone) == 1
    assert len([key for key in store.entries if key.startswith("/a/vips/lb1/")]) == 3
    known = rows(other.heard[-1])
    other.beat(1004.0)
    assert rows(other.heard[-1])["v001"][0] == "withdrawn"
    assert rows(other.heard[-1])["v129"] is known["v129"]


def test_who_loses_its_lease_takes_another_and_a_vanished_key_is_no_more_than_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, one, other = two(monkeypatch)
    for lease in list(store.lives):
        store.lose(lease)
    other.beat(1003.0)
    assert other.heard[-1].problem == GONE
    assert len(rows(other.heard[-1])) == 130  # nothing is forgotten
    one.beat(1004.0)
    other.beat(1005.0)
    assert other.heard[-1].problem == ""
    assert {entry.lease for entry in store.entries.values()} == store.lives


def test_a_node_whose_agent_hangs_keeps_its_lease_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    store, one, _ = two(monkeypatch)
    one.hangs = True
    kept = store.kept
    one.beat(1003.0)
    assert store.kept == kept + 1  # its ops process may only be starting again
    one.beat(1002.0 + LIFE + 1)
    assert store.kept == kept + 1
    one.hangs = False
    one.beat(1004.0 + LIFE)
    assert store.kept == kept + 2


def test_what_was_carried_out_late_is_written_over_by_the_next_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    store, one, _ = two(monkeypatch)
    key = "/a/nodes/lb1"
    late = store.entries[key]
    one.document = replace(one.document, maintenance="draining")
    one.beat(1003.0)
    store.revision += 1
    store.entries[key] = replace(late, modified=store.revision)
    one.beat(1004.0)
    assert json.loads(store.entries[key].value)["maintenance"] == "draining"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"\xff", "it is no document"),
        (b"[]", "it is no document"),
        (b'{"pieces": ["x"], "at": 1, "born": 1, "node": "lb3"}', "some of its VIPs are missing"),
        (b'{"pieces": [], "at": 1, "born": 1, "node": "lb1"}', "lb1 has written it"),
    ],
)
def test_what_cannot_be_read_says_why(monkeypatch: pytest.MonkeyPatch, value: bytes, why: str) -> None:
    store, one, _ = two(monkeypatch)
    store.entries["/a/nodes/lb3"] = Entry(key="/a/nodes/lb3", value=value, created=1, modified=99)
    one.beat(1003.0)
    told = one.heard[-1]
    assert (told.name, told.answers) == ("lb3", True)
    assert why in told.problem


ODD: tuple[Any, ...] = (10**400, "x", None, True, [], {}, [[]], {"a": []}, [{}], float("nan"), float("inf"))


def test_whatever_stands_in_a_key_of_a_node_the_next_beat_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    store, one, _ = two(monkeypatch)
    entry = store.entries["/a/nodes/lb2"]
    head = json.loads(entry.value)
    for key in [*head, "turn.claim", "turn.number", "vips"]:
        for odd in ODD:
            first, _, second = key.partition(".")
            turn = {"claim": "held", "since": 1.0, "number": 1}
            said = {**head, first: {**turn, second: odd} if second else odd}
            store.revision += 1
            store.entries[entry.key] = replace(
                entry, value=json.dumps(said).encode(), modified=store.revision
            )
            one.beat(1003.0)
            assert one.heard[-1].name == "lb2"
            list(packed(differing(None, one.heard[-1])))
