"""Nodes that ask one another whether they may leave: documents that are late, lost and overtaken, and clocks hours apart."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from anycast.core.fleet.turn import (
    LAG,
    Answer,
    Seat,
    Signal,
    Stage,
    Wish,
    decide,
    drawn,
    hindrances,
    looked,
    moved,
    round_of,
    settle_of,
    too_many,
)
from anycast.core.fleet.values import Document, Peer, View, VipStanding, VipTold
from anycast.core.values.fleet import Fleet, PeerAt

INTERVAL = 2.0
AGAIN = 0.5  # seconds between two questions of an operator
FAR = 3600.0  # seconds between the clocks of two nodes


@dataclass
class Node:
    """The machine of one node, driven as the agent drives it: a look whenever its operator asks again."""

    name: str
    clock: float  # of its clock less the true time
    fleet: Fleet
    names: tuple[str, ...]
    seat: Seat = field(default_factory=Seat)
    peers: dict[str, Peer] = field(default_factory=dict)
    said: list[tuple[float, Seat]] = field(default_factory=list)  # what it was, by the true time
    out: bool = False
    gave_way: bool = False

    def note(self, at: float) -> None:
        self.said.append((at, self.seat))

    def document(self, at: float, lag: float) -> Document:
        """As it was `lag` seconds before."""
        seat = next((seat for when, seat in reversed(self.said) if when <= at - lag), Seat())
        held = seat.stage is Stage.HELD
        standing = VipStanding.DRAINING if held else VipStanding.ANNOUNCED
        return Document(
            node=self.name,
            version="1",
            ready=True,
            maintenance="draining" if held else "active",
            turn=seat.told(at - lag + self.clock),
            hears=self.names,
            vips={"web": VipTold(standing=standing, table="t")},
        )

    @property
    def view(self) -> View:
        return View(peers=dict(self.peers))

    def ask(self, at: float, random: Random) -> None:
        now = at + self.clock
        wish = Wish(node=self.name, number=drawn(self.view, random.random()), said=now)
        self.seat = Seat(stage=moved(self.seat.stage, Signal.ASK), wish=wish, asked=now)
        self.note(at)

    def look(self, at: float) -> None:
        now = at + self.clock
        if self.seat.stage is Stage.HELD:
            own = self.seat.told(now)
            assert own is not None
            if too_many(self.view, own, self.seat.wish, self.fleet, now=now).give_way:
                self.seat = replace(self.seat, stage=moved(self.seat.stage, Signal.LOST))
                self.gave_way = True
                self.out = False
                self.note(at)
            return
        mine, view, wish = self.document(at, 0.0), self.view, self.seat.wish
        hindered = hindrances(mine, view, wish, self.fleet, now=now)
        decision = decide(view, wish, self.fleet, hindered, now=now)
        before = self.seat
        self.seat = looked(self.seat, decision, waits=True, now=now)
        self.out = decision.answer is Answer.GRANTED
        if self.seat.stage is not before.stage:
            self.note(at)


def fleet_of(name: str, names: tuple[str, ...], max_out: int) -> Fleet:
    others = tuple(PeerAt(name=other) for other in names if other != name)
    return Fleet(max_out=max_out, interval=INTERVAL, peers=others)


class World:
    """`lag`: seconds from what is so to what is served; `way`: of a document; `lost`: the share that never comes."""

    def __init__(
        self, seed: int, nodes: int, *, max_out: int = 1, lag: float, way: float, lost: float = 0.0, asks: int
    ) -> None:
        self.random = Random(seed)  # noqa: S311
        names = tuple(f"lb{number}" for number in range(1, nodes + 1))
        self.nodes = [
            Node(name, self.random.uniform(-FAR, FAR), fleet_of(name, names, max_out), names)
            for name in names
        ]
        self.lag, self.way, self.lost = lag, way, lost
        self.askers = self.random.sample(self.nodes, asks)
        self.most = 0
        self.first: float | None = None
        self._count = itertools.count()
        self._due: list[tuple[float, int, Callable[[float], None]]] = []

    def at(self, when: float, act: Callable[[float], None]) -> None:
        heapq.heappush(self._due, (when, next(self._count), act))

    def run(self, until: float, *, spread: float) -> None:
        for one, other in itertools.permutations(self.nodes, 2):
            self.at(self.random.uniform(0, INTERVAL), lambda t, a=one, b=other: self._poll(a, b, t))  # type: ignore[misc]
        for node in self.askers:
            self.at(10.0 + self.random.uniform(0, spread), lambda t, n=node: self._ask(n, t))  # type: ignore[misc]
        while self._due and self._due[0][0] < until:
            when, _, act = heapq.heappop(self._due)
            act(when)
            out = sum(node.out for node in self.nodes)
            self.most = max(self.most, out)
            if out and self.first is None:
                self.first = when

    def _poll(self, one: Node, other: Node, at: float) -> None:
        self.at(at + INTERVAL, lambda t: self._poll(one, other, t))
        if self.random.random() < self.lost:
            return
        made = at + self.random.uniform(0, self.way / 2)
        came = made + self.random.uniform(0, self.way / 2)
        document = other.document(made, self.random.uniform(0, self.lag))
        self.at(came, lambda t: self._come(one, other, document, t))

    def _come(self, one: Node, other: Node, document: Document, at: float) -> None:
        one.peers[other.name] = Peer(name=other.name, document=document, heard=at + one.clock)
        if one.seat.stage is Stage.HELD:
            one.look(at)

    def _ask(self, node: Node, at: float) -> None:
        node.ask(at, self.random)
        self._again(node, at)

    def _again(self, node: Node, at: float) -> None:
        if node.seat.stage in (Stage.SAYING, Stage.QUEUED):
            node.look(at)
            self.at(at + AGAIN, lambda t: self._again(node, t))


@given(
    seed=st.integers(0, 2**32),
    nodes=st.integers(2, 5),
    max_out=st.integers(1, 2),
    spread=st.sampled_from([0.0, 0.01, 0.5, 3.0, 8.0]),
    lost=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_no_more_leave_than_may_while_documents_come_in_time(
    seed: int, nodes: int, max_out: int, spread: float, lost: float
) -> None:
    """Whether any are lost or not: a lost one is waited for. Two to four ask."""
    asks = min(2 + seed % 3, nodes)
    world = World(seed, nodes, max_out=max_out, lag=LAG / 2, way=LAG / 2, lost=lost, asks=asks)
    world.run(60.0, spread=spread)
    assert world.most <= max_out
    assert not any(node.gave_way for node in world.nodes)


@given(seed=st.integers(0, 2**32), nodes=st.integers(3, 5), asks=st.integers(1, 3))
def test_one_of_those_who_ask_leaves_within_a_few_rounds(seed: int, nodes: int, asks: int) -> None:
    world = World(seed, nodes, lag=0.4, way=0.3, asks=asks)
    world.run(60.0, spread=0.0)
    fleet = world.nodes[0].fleet
    assert world.most == 1
    assert world.first is not None
    assert world.first - 10.0 <= settle_of(fleet) + round_of(fleet) + AGAIN


@given(seed=st.integers(0, 2**32), nodes=st.integers(3, 5), asks=st.integers(2, 3))
def test_when_documents_come_too_late_and_two_leave_one_of_them_gives_way(
    seed: int, nodes: int, asks: int
) -> None:
    """While it is still draining: so that in the end no more are out than may be."""
    world = World(seed, nodes, lag=8 * LAG, way=2 * LAG, asks=asks)
    world.run(120.0, spread=4.0)
    assert sum(node.out for node in world.nodes) <= 1
