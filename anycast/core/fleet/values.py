"""What the balancers of a fleet tell one another, and what one of them knows of the others.

No clock is shared. A document says how long ago something was, never when; whoever receives it counts from the instant it
came, on its own monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from anycast.core.values import described as of
from anycast.core.values.described import setting

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
    """What this node carries, each as in 50k, 1M or 10G. What nobody has said is not looked at."""

    packets: of.Amount | None = setting("Packets a second that come in.", None)
    bits: of.Amount | None = setting("Bits a second that come in.", None)
    new_connections: of.Amount | None = setting("New connections a second.", None)
    connections: of.Amount | None = setting("Connections that there are at once.", None)
    limit: of.Limit = setting(
        "The share of it that should not be exceeded, with one node less either. 1% to 100%.",
        0.7,
        shown="70%",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class VipTold:
    """One VIP of a document. `reason`: the word of the verdict. `since`: seconds for which it has stood so.

    `table`: the fingerprint of its services and real servers with their weights, as the kernel has them; empty: not known.
    `load`: None: it is among the small ones, whose sum is in `Document.rest`. `rank`: what routers compare, the best is the
    smallest: local preference (negative), prepends, origin, MED.
    """

    standing: VipStanding
    reason: str = ""
    since: float = 0.0
    table: str = ""
    load: Load | None = None
    rank: tuple[int, ...] = ()


class Claim(StrEnum):
    """How far a node has come on its way out. Stable words."""

    ASKED = "asked"  # it waits for its turn
    HELD = "held"  # it is out, or on its way


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A node that wants to leave, or has left. `ago`: seconds since it asked. `number`: who has less goes first.

    `scope`: the VIP that it wants to take out; empty: the whole node.
    """

    claim: Claim
    ago: float
    number: int
    scope: str = ""
    by: str = ""
    reason: str = ""
    forced: bool = False

    @property
    def is_of_node(self) -> bool:
        return not self.scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a node says of itself. Absent VIPs are not in its configuration.

    `fleet`: the nodes that its configuration names. `maintenance`: the stage of the whole node. `soft`: seconds since it
    last took a route back for a reason that others may share (checks of real servers, requirements); None: not within the
    last hour. `hears`: the nodes that it has heard within its patience. `load`: of the whole node. `rest`: the load of VIPs
    that name none. `loads`: what `vips` tell of their loads, of a node that was heard, as text: it is another one with each
    reading of its counters, and only who works out figures takes it apart (`codec.loaded`). `weight`: of its paths at routers that weigh. `synced`: its table has the connections of others, too.
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
    loads: str = ""
    capacity: Capacity | None = None
    weight: int | None = None
    synced: bool = False
    hears: tuple[str, ...] = ()
    vips: Mapping[str, VipTold] = field(default_factory=dict)


class Source(StrEnum):
    """Where what is known of a node comes from. Stable words."""

    PEERS = "peers"  # it was asked itself
    ETCD = "etcd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """Of the tables of another node with this node's. `count`: VIPs that differ, of which `vips` names the first.

    `words`: the first difference in the first of them, once it is known. `since`: monotonic.
    """

    count: int
    vips: tuple[str, ...]
    since: float
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One other node. `heard`: the instant at which it was heard last (monotonic, here); None: never.

    `told`: the instant at which `document` came, from which its ages count: it is not sent again while nothing in it has
    changed. `said`: with etcd, an instant after which the node itself wrote `document`, as an answer to this one; None: it
    has answered nothing. A key stands for a while whatever became of its node. `problem`: why nothing newer comes; empty: all is well. `problem_since`: monotonic. `answers`: with a problem, it
    is there all the same: what it says cannot be used. `disagreement`: None: its tables are this node's, as far as both are
    known.
    """

    name: str
    source: Source = Source.PEERS
    document: Document | None = None
    heard: float | None = None
    told: float | None = None
    said: float | None = None
    problem: str = ""
    problem_since: float | None = None
    answers: bool = False
    disagreement: Disagreement | None = None

    def age(self, now: float) -> float | None:
        """Seconds since it was heard; None: it never was."""
        return None if self.heard is None else max(0.0, now - self.heard)

    def ago(self, seconds: float, now: float) -> float:
        """How long ago something was, of which the document said that it was `seconds` ago."""
        told = self.heard if self.told is None else self.told
        return seconds if told is None else seconds + max(0.0, now - told)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who has a turn in etcd, or waits there. `ends_in`: seconds until its key goes unless it is kept; None: not known.

    `ago` is by the clock of the one who wrote it: for people alone.
    """

    node: str
    number: int = 0
    by: str = ""
    reason: str = ""
    ago: float = 0.0
    ends_in: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """The turns as etcd has them. `mine`: the number for which this node has one. `holders`, `queue`: in order.

    `heard`: the instant of the last reading (monotonic). `problem`: why there is none since; empty: all is well.
    """

    mine: int | None = None
    holders: tuple[Holder, ...] = ()
    queue: tuple[Holder, ...] = ()
    heard: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All other nodes of the fleet, by name. `problem`: of the view as a whole (its process, etcd).

    `register`: None: the turns are not in etcd.
    """

    peers: Mapping[str, Peer] = field(default_factory=dict)
    problem: str = ""
    register: Register | None = None
