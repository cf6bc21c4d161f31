"""A node of a fleet in a test: what the others say is as it is made here, and its interfaces carry the same all the time."""

from __future__ import annotations

from dataclasses import replace

from anycast.core import events as ev
from anycast.core.fleet.values import Capacity, Document, Load, Peer, VipStanding, VipTold
from anycast.core.in_force import InForce
from anycast.core.values.fleet import Fleet, PeerAt
from anycast.ops.load import Interfaces, Meter
from tests.unit.ops.flows import carry, steady
from tests.unit.ops.node import CONFIG, Node, healthy

OTHERS = ("lb2", "lb3")
TEN = Capacity(bits=10e6)
WEB, MAIL = 3.84e6, 0.96e6  # bits a second that the VIPs carry on each node


class Steady(Interfaces):
    """So many bits a second come in, in packets of 1,000 bytes."""

    def __init__(self, bits: float) -> None:
        super().__init__()
        self._bits = bits

    def rates(self, now: float) -> tuple[float, float]:
        return self._bits / 8000, self._bits


def in_fleet(others: int = 1, capacity: Capacity = TEN) -> Node:
    """lb1 at 48 % of its capacity, and others like it."""
    names = OTHERS[:others]
    fleet = Fleet(peers=tuple(PeerAt(name=name) for name in names), capacity=capacity)
    node = healthy(replace(CONFIG, fleet=fleet))
    carry(node, steady(10.0))
    node.meter = Meter(Steady(WEB + MAIL))
    node.force = InForce(nodes=("lb1", *names))
    node.send(ev.FleetHeard(peers={name: heard(node, name) for name in names}))
    return node


def heard(node: Node, name: str, *, problem: str = "") -> Peer:
    """Just now. With a problem: then, and not since."""
    nodes = node.force.nodes
    vips = {
        vip: VipTold(
            standing=VipStanding.ANNOUNCED, load=Load(bits=bits, packets=bits / 8000), rank=(0, 0, 0, 0)
        )
        for vip, bits in (("web", WEB), ("mail", MAIL))
    }
    whole = Load(bits=WEB + MAIL, packets=(WEB + MAIL) / 8000)
    document = Document(
        node=name,
        version="1",
        fleet=nodes,
        ready=True,
        load=whole,
        rest=Load(),
        capacity=TEN,
        hears=tuple(one for one in nodes if one != name),
        vips=vips,
    )
    since = node.now if problem else None
    return Peer(
        name=name, document=document, heard=node.now, told=node.now, problem=problem, problem_since=since
    )
