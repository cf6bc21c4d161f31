"""Fleets in a test's hands: what nodes say of themselves, and what one of them sees."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from anycast.core.fleet.values import (
    Capacity,
    Claim,
    Disagreement,
    Document,
    Load,
    Peer,
    Turn,
    View,
    VipStanding,
    VipTold,
)
from anycast.core.values.fleet import Fleet, PeerAt

NOW = 1000.0
NODES = ("lb1", "lb2", "lb3")
FLEET = Fleet(peers=tuple(PeerAt(name=name, host=f"10.0.0.{name[2:]}") for name in NODES[1:]))
FIVE = Fleet(peers=tuple(PeerAt(name=f"lb{n}", host=f"10.0.0.{n}") for n in range(2, 6)))
VIPS = ("web", "dns")
CAPACITY = Capacity(packets=1e6, bits=1e10)


def vip(standing: VipStanding = VipStanding.ANNOUNCED, **facts: Any) -> VipTold:
    return VipTold(
        standing=standing, **{"reason": "healthy", "since": 60.0, "table": "a1b2c3d4e5f6", **facts}
    )


def told(
    node: str, names: Iterable[str] = VIPS, *, packets: float | None = 300_000.0, **facts: Any
) -> Document:
    """What a node says that is well."""
    load = (
        None
        if packets is None
        else Load(packets=packets, bits=packets * 1000, new_connections=9, connections=99)
    )
    ready: dict[str, Any] = {
        "version": "1.4.0",
        "configuration": "3f2a91bc00000000",
        "fleet": NODES,
        "ready": True,
        "load": load,
        "rest": load,
        "capacity": CAPACITY,
        "hears": tuple(one for one in NODES if one != node),
        "vips": {name: vip() for name in names},
    }
    return Document(node=node, **{**ready, **facts})


def peer(document: Document, *, ago: float = 1.0, **facts: Any) -> Peer:
    return Peer(name=document.node, document=document, **{"heard": NOW - ago, "told": NOW - ago, **facts})


def view(*peers: Peer, problem: str = "") -> View:
    return View(peers={one.name: one for one in peers}, problem=problem)


def well() -> tuple[Document, View]:
    """Three nodes, all well, as the first sees them."""
    return told("lb1"), view(peer(told("lb2")), peer(told("lb3")))


def ill() -> tuple[Document, View]:
    """Of `FIVE`: one is out for maintenance, one waits for its turn and has another table, one is gone, one was never heard."""
    out = told(
        "lb2",
        maintenance="down",
        turn=Turn(claim=Claim.HELD, ago=200.0, number=1, by="root", reason="new kernel"),
        vips={name: vip(VipStanding.WITHDRAWN, reason="node_maintenance", since=120.0) for name in VIPS},
        packets=0.0,
    )
    differs = Disagreement(
        count=2,
        vips=("dns", "web"),
        since=NOW - 30,
        words="udp 192.0.2.2:53: rs1 (10.9.0.1:53) is not on lb3",
    )
    waits = told(
        "lb3",
        configuration="77777777",
        turn=Turn(claim=Claim.ASKED, ago=10.0, number=2, by="anna", reason="disks", forced=True),
        vips={"web": vip(VipStanding.LAST_RESORT, reason="below_quorum"), "dns": vip(table="ffffffffffff")},
    )
    return told("lb1"), view(
        peer(out),
        peer(waits, disagreement=differs),
        peer(told("lb4"), ago=42.0, problem="connection refused", problem_since=NOW - 40),
        Peer(name="lb5", problem="no route to host", problem_since=NOW - 400),
    )
