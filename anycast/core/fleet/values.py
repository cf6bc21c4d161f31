"""What the balancers of a fleet tell one another, and what one of them knows of the others.

No clock is shared. A document says how long ago something was, never when; whoever receives it counts from the instant it
came, on its own monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

FORMAT = 1
"""Of the documents. A node understands every format up to its own, and of a newer one what it knows."""


class VipStanding(StrEnum):
    """How a VIP stands on a node. Stable words."""

    ANNOUNCED = "announced"
    LAST_RESORT = "last_resort"  # announced with 65535:0: not while any other is healthy
    DRAINING = "draining"  # the same, on its way out for a maintenance
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What comes in: packets and bits a second, new connections a second, connections that there are."""

    packets: float = 0.0
    bits: float = 0.0
    new_connections: float = 0.0
    connections: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a node carries, in the units of `Load`; None: nobody has said. `limit`: the share that is not to be exceeded."""

    packets: float | None = None
    bits: float | None = None
    new_connections: float | None = None
    connections: float | None = None
    limit: float = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class VipTold:
    """One VIP of a document. `reason`: the word of the verdict. `since`: seconds for which it has stood so.

    `table`: the fingerprint of its services and real servers with their weights, as the kernel has them; empty: not known.
    `load`: None: it is among the small ones, whose sum is in `Document.rest`.
    """

    standing: VipStanding
    reason: str = ""
    since: float = 0.0
    table: str = ""
    load: Load | None = None


class Claim(StrEnum):
    """How far a node has come on its way out. Stable words."""

    ASKED = "asked"  # it waits for its turn
    HELD = "held"  # it is out, or on its way


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A node that wants to leave, or has left. `ago`: seconds since it asked. `number`: drawn at random, for ties."""

    claim: Claim
    ago: float
    number: int
    by: str = ""
    reason: str = ""
    forced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a node says of itself. Absent VIPs are not in its configuration.

    `fleet`: the nodes that its configuration names. `maintenance`: the stage of the whole node. `soft`: seconds since it
    last took a route back for a reason that others may share (checks of real servers, requirements); None: not within the
    last hour. `hears`: the nodes that it has heard within its patience. `rest`: the load of VIPs that name none.
    """

    node: str
    version: str
    format: int = FORMAT
    configuration: str = ""
    fleet: tuple[str, ...] = ()
    ready: bool = False
    maintenance: str = "active"
    turn: Turn | None = None
    soft: float | None = None
    load: Load | None = None
    rest: Load | None = None
    capacity: Capacity | None = None
    hears: tuple[str, ...] = ()
    vips: Mapping[str, VipTold] = field(default_factory=dict)


class Source(StrEnum):
    """Where what is known of a node comes from. Stable words."""

    PEERS = "peers"  # it was asked itself
    ETCD = "etcd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One other node. `heard`: the instant its newest document came (monotonic, here); None: never.

    `problem`: why nothing newer comes; empty: all is well. `problem_since`: monotonic.
    """

    name: str
    source: Source = Source.PEERS
    document: Document | None = None
    heard: float | None = None
    problem: str = ""
    problem_since: float | None = None

    def age(self, now: float) -> float | None:
        """Seconds; None: it was never heard."""
        return None if self.heard is None else max(0.0, now - self.heard)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All other nodes of the fleet, by name. `problem`: of the view as a whole (its process, etcd)."""

    peers: Mapping[str, Peer] = field(default_factory=dict)
    problem: str = ""
