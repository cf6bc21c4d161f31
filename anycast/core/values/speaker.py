"""Who tells the routers of this node's routes: ExaBGP, or a routing daemon that learns a table of the kernel."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Annotated

from anycast.core.values import described as of
from anycast.core.values.described import Doc, setting


class SpeakerType(StrEnum):
    EXABGP = "exabgp"
    KERNEL_TABLE = "kernel-table"


class LearnedBy(StrEnum):
    """The daemon that learns the table."""

    BIRD = "bird"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ospf:
    """OSPF in place of BGP, or beside it: version 2 for IPv4 VIPs, version 3 for IPv6 ones.

    `anycast render bird` writes it. The routers must have the same area and the same times.
    """

    interfaces: Annotated[
        tuple[of.Interface, ...],
        Doc("The interfaces towards the routers.", write="write the interfaces towards the routers"),
    ]
    router_id: of.RouterId | None = setting(
        "An IPv4 address that no other router of the network has. Default: `bgp.router_id`.", None
    )
    area: of.Area = setting("The area, as a number or like an IPv4 address.", IPv4Address(0), shown="0.0.0.0")
    hello: of.OspfTimer = setting("How often a hello is sent. Whole seconds.", 1, shown="1s")
    dead: of.OspfTimer = setting(
        "Without a hello for so long a node is dead to its routers. Whole seconds, more than `hello`.",
        4,
        shown="4s",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """Who announces the routes. The type alone is enough.

    With `kernel-table` the announcer (the unit anycast-table) writes a blackhole route for each VIP into a table of the
    kernel that nothing forwards by, and a routing daemon of this node learns them and tells the routers: by BGP, by OSPF,
    or by both.
    """

    type: SpeakerType = setting(
        "exabgp, or kernel-table: a routing daemon of this node announces what it finds in a table of the kernel.",
        SpeakerType.EXABGP,
    )
    table: of.RouteTable = setting(
        "The number of the table. Nothing else may use it, above all no rule (`ip rule`).", 1179
    )
    daemon: LearnedBy = setting(
        "The daemon that learns the table. bird: BIRD 2 or 3, which the announcer asks what it has learned and which "
        "sessions are up. other: what it does is not known.",
        LearnedBy.BIRD,
    )
    socket: of.SocketPath = setting(
        "The socket at which BIRD is asked. The user of the announcer must be in its group.",
        "/run/bird/bird.ctl",
    )
    user: of.UserName = setting(
        "The user the announcer runs as. It gets the lease, as `node.exabgp_user` does.", "anycast-table"
    )
    ospf: Ospf | None = setting("OSPF, which BIRD speaks. Default: none.", None)

    @property
    def is_table(self) -> bool:
        return self.type is SpeakerType.KERNEL_TABLE

    @property
    def name(self) -> str:
        """Who says what is announced, for people."""
        return f"the kernel's table {self.table}" if self.is_table else "ExaBGP"

    @property
    def unit(self) -> str:
        return "anycast-table" if self.is_table else "anycast-exabgp"
