"""The other end of the sessions: what a router must know of the nodes, whatever software it runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from anycast.analysis.budget import ROUTER_DIALS
from anycast.analysis.routers import unfit
from anycast.core.preference import export_of
from anycast.core.values.software import Daemon, Software, Version

if TYPE_CHECKING:
    from anycast.core.values.configuration import Address, Bfd, Bgp, Config, Neighbor

CONNECT_RETRY = round(ROUTER_DIALS)  # seconds between two attempts of the router to reach a node
MAX_PATHS = 64  # next hops of one route, if no more sessions carry it
MOST_PATHS = 128  # FRR's documentation promises no more
VIEW_PATHS = 64  # of one prefix, that GoBGP sends back
_PREFIXES = 1000  # of a family from a node; more end the session, whatever the filters would do with them
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One BGP session, as the router sees it. `remote` is the node's end, `local` the router's."""

    local: Address
    remote: Address
    remote_as: int
    external: bool  # eBGP
    hold_time: int
    families: tuple[int, ...]
    password: str | None = field(default=None, repr=False)
    bfd: Bfd | None = None
    view: bool = False  # the node is sent back what the router has of its VIPs

    @property
    def keepalive(self) -> int:
        return max(1, self.hold_time // 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node, the addresses it may announce, by family, and its sessions with this router."""

    name: str
    vips: dict[int, tuple[Address, ...]]
    sessions: tuple[Session, ...]

    @property
    def families(self) -> tuple[int, ...]:
        return tuple(sorted({family for session in self.sessions for family in session.families}))

    @property
    def seen(self) -> tuple[int, ...]:
        """The families of which a session sends something back."""
        carried = {family for session in self.sessions if session.view for family in session.families}
        return tuple(sorted(family for family in carried if self.vips[family]))

    def most(self, *families: int) -> int:
        """More prefixes of these families are taken for a mistake."""
        return sum(max(_PREFIXES, 2 * len(self.vips[family])) for family in families)


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    asn: int
    router_id: IPv4Address | None  # None: its own affair
    nodes: tuple[Node, ...]
    software: Software | None = None  # None: nothing is known of it

    def since(self, *version: int) -> bool:
        """Its software is known to be of this version or newer."""
        return self.software is not None and self.software.since(*version)

    def paths(self, family: int) -> int:
        """Of one VIP: each session has its own, also two of one node, which FRR counts twice from 10.3 on."""
        return sum(family in session.families for session in self.sessions)

    def max_paths(self, family: int) -> int:
        """For `maximum-paths`: a path beyond it gets no clients."""
        return min(max(MAX_PATHS, self.paths(family)), MOST_PATHS)

    @property
    def sends_back(self) -> bool:
        """Some node is sent what this router has of its VIPs."""
        return any(node.seen for node in self.nodes)

    @property
    def sessions(self) -> tuple[Session, ...]:
        return tuple(session for node in self.nodes for session in node.sessions)

    @property
    def addresses(self) -> str:
        return ", ".join(dict.fromkeys(str(session.local) for session in self.sessions))

    @property
    def families(self) -> frozenset[int]:
        return frozenset(family for node in self.nodes for family in node.families)


def router(
    configs: Sequence[Config],
    *,
    only: Collection[Address] = (),
    router_id: IPv4Address | None = None,
    software: Software | None = None,
) -> Router:
    """The router that these nodes have as a neighbor. `only`: the addresses of it, where they have several routers.

    Raises ValueError where that is not one router, or two of the nodes cannot be told apart.
    """
    nodes = [_node(config, only) for config in configs]
    pairs = [
        (config, neighbor)
        for config in configs
        for neighbor in config.bgp.neighbors
        if _wanted(neighbor, only)
    ]
    if strange := [str(one) for one in only if one not in {neighbor.address for _, neighbor in pairs}]:
        raise ValueError(f"no node has the neighbor {', '.join(strange)}")
    numbers = {neighbor.remote_as for _, neighbor in pairs}
    if len(numbers) != 1:
        spelt = ", ".join(map(str, sorted(numbers)))
        raise ValueError(
            f"these neighbors are not one router, for they have the AS numbers {spelt}: name those of one with --neighbor"
        )
    for what, seen in (
        ("the node's name", [node.name for node in nodes]),
        ("the address", [str(session.remote) for node in nodes for session in node.sessions]),
    ):
        if twice := sorted({one for one in seen if seen.count(one) > 1}):
            raise ValueError(
                f"{what} {twice[0]} is there twice: write --neighbor if these are several routers"
            )
    first = next((n.address for _, n in pairs if isinstance(n.address, IPv4Address)), None)
    return Router(asn=numbers.pop(), router_id=router_id or first, nodes=tuple(nodes), software=software)


def software(
    configs: Sequence[Config],
    daemon: Daemon,
    *,
    only: Collection[Address] = (),
    version: Version | None = None,
) -> Software:
    """What this router runs: `version`, or else what the nodes say of it; the oldest, where they do not agree."""
    if version is None:
        told = {
            neighbor.software.version
            for config in configs
            for neighbor in config.bgp.neighbors
            if _wanted(neighbor, only) and neighbor.software is not None
            if neighbor.software.daemon is daemon
        }
        version = min((one for one in told if one is not None), default=None) if None not in told else None
    return Software(daemon=daemon, version=version)


def doubts(configs: Sequence[Config], router: Router) -> Iterator[str]:
    """What the nodes are configured for and this router does not do. `router.software` is what it runs."""
    runs = router.software
    if runs is None:
        return
    ours = {(session.local, session.remote) for session in router.sessions}
    for config in configs:
        here = [one for one in config.bgp.neighbors if (one.address, local_address(config.bgp, one)) in ours]
        only_here = replace(config, bgp=replace(config.bgp, neighbors=tuple(here)))
        others = {
            str(one.software) for one in here if one.software and one.software.daemon is not runs.daemon
        }
        if others:
            yield f"{config.node.name}: its configuration says that this router runs {', '.join(sorted(others))}"
        for place, what, do in unfit(only_here, lambda _: runs):
            yield f"{config.node.name}: {place[-1]}: {what} ({do})"
    for family in sorted(router.families):
        if runs.daemon is Daemon.FRR and router.paths(family) > MOST_PATHS:
            yield (
                f"{router.paths(family)} sessions carry IPv{family}, and FRR may use {MOST_PATHS} paths of a route: some "
                "nodes get no clients (have one session of a family with each node)"
            )


def local_address(bgp: Bgp, neighbor: Neighbor) -> Address:
    """This node's end of the session. Raises ValueError where it cannot be known."""
    if neighbor.local_address is not None:
        return neighbor.local_address
    if neighbor.address.version == 4:
        return bgp.router_id
    raise ValueError(
        f"neighbor {neighbor.address} has no local address: IPv6 has no default, write local_address"
    )


def families(neighbor: Neighbor) -> tuple[int, ...]:
    """What the session carries: by default the family that it runs over."""
    return tuple(sorted(neighbor.families)) or (neighbor.address.version,)


def _wanted(neighbor: Neighbor, only: Collection[Address]) -> bool:
    return not only or neighbor.address in only


def _node(config: Config, only: Collection[Address]) -> Node:
    exports = [one.export for one in config.bgp.neighbors if _wanted(one, only)]
    addresses = sorted(
        {
            address
            for vip in config.vips
            if any(export_of(export, vip.name) is not None for export in exports)
            for address in vip.addresses
        },
        key=lambda a: (a.version, a.packed),
    )
    return Node(
        name=word(config.node.name),
        vips={family: tuple(a for a in addresses if a.version == family) for family in (4, 6)},
        sessions=tuple(_sessions(config, only)),
    )


def _sessions(config: Config, only: Collection[Address]) -> Iterator[Session]:
    for neighbor in config.bgp.neighbors:
        if _wanted(neighbor, only):
            yield Session(
                local=neighbor.address,
                remote=local_address(config.bgp, neighbor),
                remote_as=config.bgp.local_as,
                external=config.bgp.local_as != neighbor.remote_as,
                hold_time=config.bgp.hold_time,
                families=families(neighbor),
                password=neighbor.password,
                bfd=neighbor.bfd,
                view=neighbor.view,
            )


def word(name: str) -> str:
    """The name, which every one of the languages takes for one word. Raises ValueError."""
    if not _WORD.match(name):
        raise ValueError(f"{name!r} cannot stand in a router's configuration: use letters, digits and _ . -")
    return name


def short(name: str, length: int = 40) -> str:
    """The name, or where it is longer the beginning of it and a digest: some daemons limit their names."""
    if len(name) <= length:
        return name
    return f"{name[: length - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
