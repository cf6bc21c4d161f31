"""A fleet that fails in any order, with views that are old: the limit holds, and the last one stays."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

from hypothesis import example, given, settings
from hypothesis import strategies as st

from anycast.core.fleet import codec
from anycast.core.fleet.believe import Belief, Believed, believe
from anycast.core.fleet.codec import Heard
from anycast.core.fleet.values import Document, Peer, Source, View, VipStanding, VipTold
from anycast.core.fleet.velocity import Own, known_after, why_it_stays
from anycast.core.values.fleet import Etcd, Fleet, FleetView, Velocity
from anycast.fleet import register as registers
from anycast.fleet.frames import Task, Told
from anycast.fleet.register import Register
from tests.unit.fleet.test_register import Store

VIP = "web"
TICK = 0.5
LAST = 40.0  # seconds


@dataclass
class Node:
    """`fails_at`, `well_at`: of its own checks. `asks_at`: when it asks the others, in each interval."""

    name: str
    fails_at: float
    well_at: float
    asks_at: float
    standing: VipStanding = VipStanding.ANNOUNCED
    since: float = 0.0
    heard: dict[str, Believed] = field(default_factory=dict)

    def document(self) -> Document:
        reason = "healthy" if self.standing is VipStanding.ANNOUNCED else "below_quorum"
        return Document(
            node=self.name,
            version="1",
            ready=True,
            vips={VIP: VipTold(standing=self.standing, reason=reason)},
        )

    def judge(self, fleet: Fleet, now: float) -> None:
        failing = self.fails_at <= now < self.well_at
        if not failing:
            self.become(VipStanding.ANNOUNCED, now)
        elif self.standing is VipStanding.ANNOUNCED:
            self.become(VipStanding.LAST_RESORT, now)
        elif self.standing is VipStanding.LAST_RESORT:
            own = Own(node=self.name, vip=VIP, since=self.since)
            if not why_it_stays(own, self.heard, {}, fleet, now):
                self.become(VipStanding.WITHDRAWN, now)

    def become(self, standing: VipStanding, now: float) -> None:
        if standing is not self.standing:
            self.standing, self.since = standing, now


@st.composite
def fleets(draw: st.DrawFn) -> list[Node]:
    instants = st.integers(0, 30).map(lambda n: n * TICK)
    return [
        Node(
            name=f"lb{n}",
            fails_at=draw(instants | st.just(LAST)),
            well_at=draw(instants | st.just(LAST)),
            asks_at=draw(st.sampled_from([0.0, 0.5, 1.0, 1.5])),
        )
        for n in range(draw(st.integers(1, 6)))
    ]


@settings(max_examples=300, deadline=None)
@given(
    nodes=fleets(),
    most=st.integers(1, 3),
    delay=st.sampled_from([0.0, 0.5, 1.0]),
    cut=st.sets(st.integers(0, 5), max_size=2),
)
def test_never_more_than_the_limit_are_out_and_somebody_always_announces(
    nodes: list[Node], most: int, delay: float, cut: set[int]
) -> None:
    """`delay`: seconds until an answer is there. `cut`: nodes that hear nobody, and whom nobody hears."""
    fleet = Fleet(interval=2.0, velocity=Velocity(nodes=most))
    on_the_way: list[tuple[float, Node, Document]] = []
    now = 0.0
    for node in nodes:
        others = (other.name for other in nodes if other is not node)
        node.heard = {name: Believed(name=name, belief=Belief.UNKNOWN) for name in others}
    while now < LAST:
        for at, asker, document in [one for one in on_the_way if one[0] <= now]:
            on_the_way.remove((at, asker, document))
            asker.heard[document.node] = Believed(
                name=document.node, belief=Belief.HEARD, document=document, since=now, said=now
            )
        for node in nodes:
            node.judge(fleet, now)
        out = [node.name for node in nodes if node.standing is VipStanding.WITHDRAWN]
        assert len(out) <= most, (now, out)
        assert len(out) < len(nodes), "nobody announces it"
        for number, asker in enumerate(nodes):
            if number not in cut and now % 2.0 == asker.asks_at:
                on_the_way += [
                    (now + delay, asker, other.document())
                    for place, other in enumerate(nodes)
                    if other is not asker and place not in cut
                ]
        now += TICK
    failing = [node for node in nodes if node.standing is not VipStanding.ANNOUNCED]
    if len(failing) == 1 and failing[0].since < LAST / 2 and len(nodes) > 1 and not cut:
        assert failing[0].standing is VipStanding.WITHDRAWN, "who fails alone takes it back"


ETCD = Fleet(
    interval=2.0,
    view=FleetView.ETCD,
    etcd=Etcd(endpoints=("http://10.0.0.1:2379",), prefix="/a/"),
    velocity=Velocity(nodes=1),
)


class Registered:
    """A node that registers in etcd. It dies at an instant, and its key stands for ever: a new leader prolongs every lease."""

    def __init__(self, node: Node, dies_at: float, store: Store) -> None:
        self.node, self.dies_at, self.store = node, dies_at, store
        self.peers: dict[str, Peer] = {}
        task = Task(node=node.name, fleet=ETCD, runtime_dir=node.name)
        self.register = Register(task, store, self.hear, self.alive)  # type: ignore[arg-type]

    def hear(self, told: Told) -> None:
        vips = {name: codec.told(row, told.at) for rows in told.pieces.values() for name, row in rows.items()}
        assert told.document is not None
        self.peers[told.name] = Peer(
            name=told.name,
            source=Source.ETCD,
            document=replace(told.document, vips=vips),
            heard=told.heard,
            said=told.said,
        )

    def alive(self, name: str, at: float) -> None:
        self.peers[name] = replace(self.peers[name], heard=at)

    def says(self, now: float) -> Heard:
        row = codec.row(self.node.document().vips[VIP], self.node.since)
        head = codec.head(self.node.document(), born=0.0, at=now)
        return codec.read(codec.answer(head, [codec.piece({VIP: row})], (), now), {})


def two_of_which_one_fails() -> list[Node]:
    return [Node("lb0", 8.0, LAST, 0.0), Node("lb1", LAST, LAST, 0.5)]


@settings(max_examples=30, deadline=None)
@example(nodes=two_of_which_one_fails(), dies_at=[2 * LAST, 2 * LAST])
@example(nodes=two_of_which_one_fails(), dies_at=[2 * LAST, 6.0])
@given(
    nodes=fleets(),
    dies_at=st.lists(st.integers(0, 40).map(float) | st.just(2 * LAST), min_size=6, max_size=6),
)
def test_with_etcd_no_dead_node_is_counted_on(nodes: list[Node], dies_at: list[float]) -> None:
    store = Store()
    of = {node.name: Registered(node, dies_at[n], store) for n, node in enumerate(nodes)}
    asyncio.run(_played(of))


async def _played(of: dict[str, Registered]) -> None:
    now = 0.0

    async def own(runtime: Path) -> Heard:
        return of[runtime.name].says(now)

    with patch.object(registers, "own", own):
        while now < LAST:
            living = [one for one in of.values() if now < one.dies_at]
            for one in living:
                before, since = one.node.standing, one.node.since
                one.node.heard = believe(View(peers=one.peers), ETCD, now)
                one.node.judge(ETCD, now)
                if one.node.standing is VipStanding.WITHDRAWN and before is not one.node.standing:
                    others = [other for other in of.values() if other is not one]
                    assert any(other.dies_at > since + known_after(ETCD) for other in others), now
            out = [one for one in living if one.node.standing is VipStanding.WITHDRAWN]
            assert len(out) <= 1, (now, [one.node.name for one in out])
            for one in living:
                if now % 2.0 == one.node.asks_at:
                    await one.register.beat(now)
            now += TICK
    failing = [one for one in of.values() if one.node.standing is not VipStanding.ANNOUNCED]
    all_live = all(one.dies_at > LAST for one in of.values())
    if len(failing) == 1 and failing[0].node.since < 10.0 and len(of) > 1 and all_live:
        assert failing[0].node.standing is VipStanding.WITHDRAWN, "who fails alone takes it back"
