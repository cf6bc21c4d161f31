"""How a node takes part in a fleet, as the configuration says it. What nodes tell one another is in `core.fleet.values`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from anycast.core.fleet.values import Capacity
from anycast.core.hooks import Secret
from anycast.core.values import described as of
from anycast.core.values.described import setting

PORT = 9645
"""At which the other nodes ask, where nothing else is written."""


class FleetView(StrEnum):
    """Where a node knows the others from."""

    PEERS = "peers"
    ETCD = "etcd"
    NONE = "none"


class OnDisagreement(StrEnum):
    """What follows where another node serves a VIP by another table than this one. No route does, so far."""

    ALARM = "alarm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """Certificates, each a PEM file. Read again when they are replaced."""

    certificate: of.FileName | None = setting(
        "This node's certificate, with those between it and the authority. It is shown to whoever asks, and when this node "
        "asks: it needs both usages, serverAuth and clientAuth.",
        None,
    )
    key: of.FileName | None = setting("Its private key.", None)
    ca: of.FileName | None = setting("The authority that has signed the certificates of all nodes.", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Etcd:
    """etcd 3.4 or later, spoken to by its HTTP gateway. The endpoints alone are enough."""

    endpoints: tuple[of.Endpoint, ...] = setting(
        "Its members, as in https://10.0.0.1:2379. One that does not answer is left for the next.", ()
    )
    prefix: of.KeyPrefix = setting(
        "What the fleet's keys begin with; each fleet has one of its own.", "/anycast/"
    )
    user: of.EtcdUser | None = setting("The user, where etcd asks for one.", None)
    tls: Certificates | None = setting(
        "For https: `ca`, that has signed etcd's certificates (default: the system's), and `certificate` and `key` where etcd asks "
        "for them.",
        None,
    )
    password: Secret | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Velocity:
    """How many nodes may take back routes within a while for reasons that others may share. A number alone is `nodes`."""

    nodes: of.Nodes | None = setting("So many nodes. Default: 1, without `percent`.", None)
    percent: of.Share | None = setting("Or so much of the capacity of all nodes, 1% to 100%.", None)
    window: of.Window = setting("Within this time.", 60.0, shown="1m")

    def __str__(self) -> str:
        return f"{self.percent or self.nodes} within {self.window:g}s"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAt:
    """Another node, and where it is asked. `host` empty: nobody has said, and nobody needs to know."""

    name: str
    host: str = ""
    port: int = PORT

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.name} at {host}:{self.port}" if host else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What this node knows of the other nodes, and what it does about it. The view alone is enough.

    No route of this node ever waits for what it knows of others.
    """

    view: FleetView = setting(
        "peers: the other nodes of `nodes` are asked themselves. etcd: all nodes register there. none: nobody is asked.",
        FleetView.PEERS,
    )
    interval: of.AskInterval = setting(
        "How often each node is asked, in groups a second apart. 500ms to 1m.", 2.0
    )
    etcd: Etcd | None = setting(
        "Where it is. Who may leave for a maintenance is decided there, strictly; with `view: etcd` the nodes register there, too.",
        None,
    )
    max_out: of.Nodes = setting("Nodes that may be out for maintenance at once.", 1)
    min_announcing: of.OtherNodes = setting(
        "Other nodes that must announce a VIP before this one may leave it.", 1
    )
    velocity: Velocity | None = setting(
        "How many nodes may take back routes within a while for reasons that others may share, such as checks of real servers; "
        "the rest keep them as the last resort. Default: no limit.",
        None,
    )
    on_disagreement: OnDisagreement = setting(
        "Where another node has other tables than this one. alarm: it is told; no route follows from it.",
        OnDisagreement.ALARM,
    )
    listen: str = ""  # ADDRESS:PORT, IPv6 in brackets; empty: nobody asks here
    peers: tuple[PeerAt, ...] = ()  # the other nodes that the configuration names
    token: Secret | None = None
    tls: Certificates | None = None
    capacity: Capacity = Capacity()

    @property
    def is_strict(self) -> bool:
        """Whether etcd decides who may leave for a maintenance."""
        return self.asks and self.etcd is not None

    @property
    def asks(self) -> bool:
        """Whether anybody is asked, so that there is a view."""
        return self.view is not FleetView.NONE

    @property
    def limits(self) -> bool:
        """Whether routes are kept by a limit of the fleet."""
        return self.velocity is not None and self.asks
