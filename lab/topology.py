"""The lab's site as values: what exists, how it is wired, how it is addressed. No I/O.

Everything that builds the site (network namespaces, containerlab) or talks about it (configurations, load,
watchers) reads this one description.

              cl ── r1 ──┬── lb1 ──┐
                    │    ├── lb2 ──┤ lan (bridge) ── rs1 … rs4
                    │    └── lb3 ──┘       │
                    └─────────────────────-┘  the real servers' way back (direct routing)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

VIP4 = "192.0.2.1"
VIP6 = "2001:db8:99::1"
VIPS = (f"{VIP4}/32", f"{VIP6}/128")
HTTP_PORT = 80
SYSLOG_PORT = 514
OPS_PORT = 9644
ROUTER_AS = 65000
CLIENTS4 = 200
CLIENTS6 = 60
LAN = "lan"
MOST_BALANCERS = 32
RUN = "/run/anycast-lab"

_FORWARD = {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"}
_COMMON = {
    # Asymmetric by design: requests come in by one interface, answers leave by another.
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv6.conf.all.accept_dad": "0",
    "net.ipv6.conf.default.accept_dad": "0",
    "net.ipv6.conf.default.accept_ra": "0",
}
# A real server holds the VIP and must not answer for it on the link: that is the balancers' business.
_QUIET = {"net.ipv4.conf.all.arp_ignore": "1", "net.ipv4.conf.all.arp_announce": "2"}
_HASH = {"net.ipv4.fib_multipath_hash_policy": "1", "net.ipv6.fib_multipath_hash_policy": "1"}


class Role(StrEnum):
    CLIENT = "client"
    ROUTER = "router"
    BALANCER = "balancer"
    SERVER = "server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine of the site. `interfaces` maps a name to its addresses with prefix length."""

    name: str
    role: Role
    index: int = 0  # lb1 has 1
    interfaces: dict[str, tuple[str, ...]]
    gateways: tuple[str, ...] = ()  # default route, one per family
    sysctls: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Balancer:
    """What is particular to a balancer: its BGP side."""

    name: str
    index: int
    asn: int
    router4: str
    router6: str
    node4: str
    node6: str


@dataclass(frozen=True)
class Topology:
    """Build it with `topology()`."""

    nodes: tuple[Node, ...]
    links: tuple[tuple[tuple[str, str], tuple[str, str]], ...]  # ends as (node or LAN, interface)
    balancers: tuple[Balancer, ...]
    servers: tuple[Node, ...]

    def node(self, name: str) -> Node:
        """Raises KeyError with the names there are."""
        try:
            return self._by_name[name]
        except KeyError:
            raise KeyError(f"no node {name!r} in the lab: there are {', '.join(self._by_name)}") from None

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def node_of_next_hop(self) -> dict[str, str]:
        """Next hop address, as the kernel writes it, to balancer name."""
        return {hop: b.name for b in self.balancers for hop in (b.node4, b.node6)}


def topology(balancers: int = 3, servers: int = 4) -> Topology:
    """The site with `balancers` (1 to 32) balancers and `servers` (1 to 99) real servers."""
    if not (1 <= balancers <= MOST_BALANCERS and 1 <= servers <= 99):
        raise ValueError(
            f"the lab takes 1 to {MOST_BALANCERS} balancers and 1 to 99 servers, not {balancers} and {servers}"
        )
    lbs = tuple(_balancer(i) for i in range(1, balancers + 1))
    router = Node(
        name="r1",
        role=Role.ROUTER,
        interfaces={
            "cl0": ("10.1.255.254/16", "fd00:1::fffe/64"),
            "lan0": ("10.9.0.254/16", "fd00:9::fe/64"),
            **{b.name: (f"{b.router4}/24", f"{b.router6}/64") for b in lbs},
        },
        sysctls=_COMMON | _FORWARD | _HASH,
    )
    client = Node(
        name="cl",
        role=Role.CLIENT,
        interfaces={
            "cl0": (
                *(f"10.1.0.{i}/16" for i in range(1, CLIENTS4 + 1)),
                *(f"fd00:1::{i:x}/64" for i in range(1, CLIENTS6 + 1)),
            )
        },
        gateways=("10.1.255.254", "fd00:1::fffe"),
        sysctls=_COMMON,
    )
    balancer_nodes = tuple(_balancer_node(b) for b in lbs)
    server_nodes = tuple(_server(j) for j in range(1, servers + 1))
    links = [(("cl", "cl0"), ("r1", "cl0")), (("r1", "lan0"), (LAN, "r1"))]
    links += [(("r1", b.name), (b.name, "up0")) for b in lbs]
    links += [((node.name, "lan0"), (LAN, node.name)) for node in (*balancer_nodes, *server_nodes)]
    return Topology(
        nodes=(client, router, *balancer_nodes, *server_nodes),
        links=tuple(links),
        balancers=lbs,
        servers=server_nodes,
    )


def _balancer(i: int) -> Balancer:
    return Balancer(
        name=f"lb{i}",
        index=i,
        asn=65000 + i,
        router4=f"10.2.{i}.254",
        router6=f"fd00:2:{i}::fe",
        node4=f"10.2.{i}.1",
        node6=f"fd00:2:{i}::1",
    )


def _balancer_node(b: Balancer) -> Node:
    return Node(
        name=b.name,
        role=Role.BALANCER,
        index=b.index,
        interfaces={
            "up0": (f"{b.node4}/24", f"{b.node6}/64"),
            "lan0": (f"10.9.1.{b.index}/16", f"fd00:9::1:{b.index}/64"),
        },
        gateways=(b.router4, b.router6),
        sysctls=_COMMON | _FORWARD,
    )


def _server(j: int) -> Node:
    return Node(
        name=f"rs{j}",
        role=Role.SERVER,
        index=j,
        interfaces={
            "lan0": (f"10.9.2.{j}/16", f"fd00:9::2:{j:x}/64"),
            "lo": VIPS,
        },
        gateways=("10.9.0.254", "fd00:9::fe"),
        sysctls=_COMMON | _QUIET,
    )
