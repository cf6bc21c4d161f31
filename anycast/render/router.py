"""The other end of the sessions: what a router must know of the nodes, whatever software it runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, TypeAlias

from anycast.analysis.budget import ROUTER_DIALS
from anycast.analysis.routers import GOBGP_RANGE_PASSWORD, Weights, sent, some, unfit, without_bfd
from anycast.core.preference import export_of
from anycast.core.prefixes import prefixes_of
from anycast.core.values.configuration import BGP_PORT, Role, distance
from anycast.core.values.route import Prefix
from anycast.core.values.software import OLDEST_TRIED, Daemon, Software, Version, spelt

if TYPE_CHECKING:
    from anycast.core.values.configuration import Address, Bfd, Bgp, Config, Neighbor, Vip

CONNECT_RETRY = round(ROUTER_DIALS)  # seconds between two attempts of the router to reach a node
MAX_PATHS = 64  # next hops of one route, if no more sessions carry it
MOST_PATHS = 128  # FRR's documentation promises no more
VIEW_PATHS = 64  # of one prefix, that GoBGP sends back
_PREFIXES = 1000  # of a family from a node; more end the session, whatever the filters would do with them
Network: TypeAlias = Prefix
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One BGP session, as the router sees it. `remote` is the node's end, `local` the router's.

    Or those of all nodes in a range of addresses: then `remote` is that, and `count` of them are known.
    """

    local: Address
    remote: Address | Network
    remote_as: int | None  # None: of nodes in a range, any
    external: bool  # eBGP
    hold_time: int
    families: tuple[int, ...]
    password: str | None = field(default=None, repr=False)
    bfd: Bfd | None = None
    view: bool = False  # the node is sent back what the router has of its VIPs
    without_bfd: str = ""  # why this router has none, whatever the node has
    multihop: int = 0  # hops; 0: the node is on a link of the router's
    ttl_security: int = 0  # hops; 0: none
    port: int = BGP_PORT  # the router's
    remote_port: int = BGP_PORT
    interface: str = ""  # the router's, where the addresses are link-local
    extended_next_hop: bool = False  # IPv4 routes with an IPv6 next hop
    reflects: bool = False  # the node is a client of this route reflector
    group: str = ""  # of a range
    count: int = 1
    waits: bool = False  # the node does not dial

    @property
    def distance(self) -> int:
        """Hops to the node; 0: it is on a link of the router's."""
        return distance(self.multihop, self.ttl_security)

    @property
    def least_ttl(self) -> int:
        """0: none."""
        return least_ttl(self) if self.ttl_security else 0

    @property
    def range(self) -> Network | None:
        """Where nodes are taken without a line of their own; None: this is one node."""
        return None if isinstance(self.remote, IPv4Address | IPv6Address) else self.remote

    @property
    def peer(self) -> str:
        """What the session is called where those of a range have a name in common."""
        return self.group or str(self.remote)

    @property
    def with_link(self) -> str:
        """The node's address; of a link-local one with the interface."""
        return f"{self.remote}%{self.interface}" if self.interface else str(self.remote)

    @property
    def local_with_link(self) -> str:
        return f"{self.local}%{self.interface}" if self.interface else str(self.local)

    @property
    def keepalive(self) -> int:
        return max(1, self.hold_time // 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node, the prefixes it may announce, by family, and its sessions with this router."""

    name: str
    vips: dict[int, tuple[Prefix, ...]]
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
    members: frozenset[tuple[Address, Address]] = (
        frozenset()
    )  # both ends of every session, those of ranges too

    @property
    def port(self) -> int:
        """The one that it listens at."""
        return next((one.port for one in self.sessions), BGP_PORT)

    def since(self, *version: int) -> bool:
        """Its software is known to be of this version or newer."""
        return self.software is not None and self.software.since(*version)

    def paths(self, family: int) -> int:
        """Of one VIP: each session has its own, also two of one node, which FRR counts twice from 10.3 on."""
        return sum(session.count for session in self.sessions if family in session.families)

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
    ranges: Sequence[Network] = (),
) -> Router:
    """The router that these nodes have as a neighbor. `only`: the addresses of it, where they have several routers.

    `ranges`: where it takes every node, as these are; those have no line of their own. Raises ValueError where that is not one router, or two of the nodes cannot be told apart.
    """
    nodes = [_node(config, only, software) for config in configs]
    pairs = [
        (config, neighbor)
        for config in configs
        for neighbor in config.bgp.neighbors
        if _wanted(neighbor, only)
    ]
    if strange := [str(one) for one in only if one not in {neighbor.address for _, neighbor in pairs}]:
        raise ValueError(f"no node has the neighbor {', '.join(strange)}")
    if not pairs:
        raise ValueError(
            "no neighbor is configured: routers that speak OSPF alone are configured by hand, with the area and the times of "
            "speaker.ospf"
        )
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
    if len(ports := {neighbor.port for _, neighbor in pairs}) > 1:
        raise ValueError(
            f"a router listens at one port, and this one is said to do so at {', '.join(map(str, sorted(ports)))}"
        )
    if unnamed := [str(n.address) for _, n in pairs if n.address.is_link_local and not n.remote_interface]:
        raise ValueError(
            f"{unnamed[0]} is link-local: write remote_interface, the router's interface towards the node"
        )
    first = next((n.address for _, n in pairs if isinstance(n.address, IPv4Address)), None)
    return Router(
        asn=numbers.pop(),
        router_id=router_id or first,
        nodes=tuple(_with_ranges(nodes, ranges, software)) if ranges else tuple(nodes),
        software=software,
        members=frozenset((n.address, local_address(config.bgp, n)) for config, n in pairs),
    )


# 8.4 does not hand the group's TTL on to its members; the source of August 2026 does.
_RANGE_BFD = "with ttl_security FRR speaks BFD of one hop or of several with nodes in a range, by its version"
_ALIKE = (
    "local",
    "hold_time",
    "families",
    "password",
    "bfd",
    "without_bfd",
    "multihop",
    "ttl_security",
    "reflects",
    "external",
    "extended_next_hop",
    "view",
)


def _with_ranges(
    nodes: Sequence[Node], ranges: Sequence[Network], software: Software | None
) -> Iterator[Node]:
    """Nodes with what is in no range, then a node for each range, which may announce what any of its nodes may.

    Raises ValueError where the nodes of a range are not alike, or there is none.
    """
    inside: dict[Network, list[tuple[Node, Session]]] = {one: [] for one in ranges}
    for node in nodes:
        rest = []
        for session in node.sessions:
            found = next((one for one in ranges if session.remote in one), None)
            if found is None:
                rest.append(session)
            else:
                inside[found].append((node, session))
        if rest:
            yield replace(node, sessions=tuple(rest))
    for number, (network, members) in enumerate(inside.items(), 1):
        if not members:
            raise ValueError(
                f"no node has an address in the range {network}: it is written as one of its nodes is"
            )
        yield _range(f"range{number}", network, members, software)


def _range(
    name: str, network: Network, members: Sequence[tuple[Node, Session]], software: Software | None
) -> Node:
    sessions = [session for _, session in members]
    first = sessions[0]
    for what in _ALIKE:
        if any(getattr(one, what) != getattr(first, what) for one in sessions):
            raise ValueError(
                f"the nodes in the range {network} are not alike ({what.replace('_', ' ')}): they are written as one"
            )
    if passive := [node.name for node, one in members if one.waits]:
        raise ValueError(
            f"{passive[0]} waits for the router (passive), and the router dials nobody in a range"
        )
    numbers = {one.remote_as for one in sessions}
    number = first.remote_as if len(numbers) == 1 else None
    vips = {
        family: tuple(sorted({prefix for node, _ in members for prefix in node.vips[family]}))
        for family in (4, 6)
    }
    one = replace(first, remote=network, remote_as=number, group=f"ANYCAST-{name}", count=len(members))
    frr = software is not None and software.daemon is Daemon.FRR
    if frr and one.ttl_security and one.external and not one.distance:
        one = replace(one, without_bfd=_RANGE_BFD)
    return Node(name=name, vips=vips, sessions=(one,))


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
    if runs.version is not None and runs.version < (oldest := OLDEST_TRIED[runs.daemon]):
        yield f"{runs} was not tried: {spelt(oldest)} is the oldest that was"
    for config in configs:
        here = _here(config, router)
        only_here = replace(config, bgp=replace(config.bgp, neighbors=tuple(here)))
        others = {
            str(one.software) for one in here if one.software and one.software.daemon is not runs.daemon
        }
        if others:
            yield f"{config.node.name}: its configuration says that this router runs {', '.join(sorted(others))}"
        for place, what, do in unfit(only_here, lambda _: runs):
            yield f"{config.node.name}: {place[-1]}: {what} ({do})"
    yield from _among(configs, router, runs)
    secret = [str(one.range) for one in router.sessions if one.range is not None and one.password is not None]
    if runs.daemon is Daemon.GOBGP and secret and not runs.since(*GOBGP_RANGE_PASSWORD):
        yield f"GoBGP before 3.36 (3.10 was tried) takes no connection with a password from a range, as {secret[0]}"
    for session in router.sessions:
        if session.bfd is not None and session.without_bfd is _RANGE_BFD:
            yield f"{session.range}: bfd: {_RANGE_BFD}: none is written (leave out --range, or ttl_security)"
    for family in sorted(router.families):
        if runs.daemon is Daemon.FRR and router.paths(family) > MOST_PATHS:
            yield (
                f"{router.paths(family)} sessions carry IPv{family}, and FRR may use {MOST_PATHS} paths of a route: some "
                "nodes get no clients (have one session of a family with each node)"
            )


def _here(config: Config, router: Router) -> list[Neighbor]:
    """The node's neighbors that are this router."""
    neighbors = config.bgp.neighbors
    return [one for one in neighbors if (one.address, local_address(config.bgp, one)) in router.members]


def _among(configs: Sequence[Config], router: Router, runs: Software) -> Iterator[str]:
    """What the nodes are to each other at this router."""
    weights = Weights()
    vips: dict[Prefix, list[Vip]] = {}
    for config in configs:
        here = _here(config, router)
        weights.add(config, here)
        for prefix, vip, _ in sent(config, here):
            vips.setdefault(prefix, []).append(vip)
    for _, what, do in weights.told(runs):
        yield f"{what} ({do})"
    if len(configs) > 1:
        yield from _without_primary(vips.values())
        yield from _views(configs, router, runs)


def _without_primary(vips: Iterable[Sequence[Vip]]) -> Iterator[str]:
    lost = dict.fromkeys(
        of_prefix[0].name for of_prefix in vips if all(vip.role is Role.BACKUP for vip in of_prefix)
    )
    if lost:
        yield (
            f"{some(list(lost))}: role: backup on every node of these that announces it, so nobody is preferred (write role: "
            "primary on one, or render the primary's file too)"
        )


def _views(configs: Sequence[Config], router: Router, runs: Software) -> Iterator[str]:
    """Whose path it is that the router sends back, every node must say."""
    if not router.sends_back:
        return
    configs = [config for config in configs if _here(config, router)]
    if unmarked := [config.node.name for config in configs if config.bgp.sign is None]:
        yield (
            f"{some(unmarked)} {'has' if len(unmarked) == 1 else 'have'} no bgp.view, and others do: whose path it is that the "
            "router sends back is then not known (write it on all nodes)"
        )
    marks = sorted({config.bgp.view_mark for config in configs if config.bgp.sign is not None})
    if len(marks) > 1:
        yield f"the nodes have bgp.view_mark {', '.join(map(str, marks))}: they do not know each other's paths (write one number)"
    numbers = [config.bgp.local_as for config in configs]
    if runs.daemon is Daemon.GOBGP and len(set(numbers)) < len(numbers):
        yield "GoBGP sends nothing back to nodes of one AS, so bgp.view tells nothing (give each node an AS of its own)"


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


def _node(config: Config, only: Collection[Address], software: Software | None) -> Node:
    exports = [one.export for one in config.bgp.neighbors if _wanted(one, only)]
    prefixes = {
        prefix
        for vip in config.vips
        if any(export_of(export, vip.name) is not None for export in exports)
        for prefix in prefixes_of(vip)
    }
    return Node(
        name=word(config.node.name),
        vips={family: tuple(sorted(one for one in prefixes if one.version == family)) for family in (4, 6)},
        sessions=tuple(_sessions(config, only, software)),
    )


def _sessions(config: Config, only: Collection[Address], software: Software | None) -> Iterator[Session]:
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
                without_bfd=without_bfd(config, neighbor, software),
                multihop=neighbor.multihop,
                ttl_security=neighbor.ttl_security,
                port=neighbor.port,
                remote_port=config.bgp.listen_port,
                interface=neighbor.remote_interface,
                extended_next_hop=neighbor.extended_next_hop,
                reflects=neighbor.route_reflector,
                waits=neighbor.passive,
            )


def least_ttl(one: Neighbor | Session) -> int:
    """A packet that comes with less was sent from further away than `ttl_security` hops."""
    return 256 - one.ttl_security


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
