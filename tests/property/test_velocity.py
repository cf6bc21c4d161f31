"""A fleet that fails in any order, with views that are old: the limit holds, and the last one stays."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.core.fleet.believe import Belief, Believed
from anycast.core.fleet.values import Document, VipStanding, VipTold
from anycast.core.fleet.velocity import Own, why_it_stays
from anycast.core.values.fleet import Fleet, Velocity

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
                name=document.node, belief=Belief.HEARD, document=document, since=now
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
