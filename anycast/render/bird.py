"""BIRD on the node itself, which learns the announcer's table and tells the routers. And the announcer's environment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anycast.core.preference import is_internal, sent
from anycast.core.prefixes import is_host_route, prefixes_of
from anycast.core.rendering import listed, table_digest
from anycast.core.values.configuration import Role
from anycast.core.values.route import (
    WORST_MED,
    Origin,
    Prefix,
    Route,
    attributes,
    extended_community,
    link_bandwidth,
)
from anycast.core.values.speaker import LearnedBy
from anycast.core.values.table import LAST_RESORT, PROTOCOL
from anycast.render.router import families, local_address
from anycast.render.template import render

if TYPE_CHECKING:
    from anycast.core.values.configuration import Config, Neighbor

OSPF_COST, OSPF_BACKUP, OSPF_LAST_RESORT = 10, 1000, 16_000_000
"""The cost of a route. The first is of type 1: the distance is added, and it counts for less than any of type 2."""
DIALS = 2  # seconds between two attempts to reach a router


@dataclass(frozen=True, slots=True)
class Group:
    """Prefixes of which the same is said. No statement: a router does not get them."""

    prefixes: tuple[Prefix, ...]
    statements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Channel:
    """What one router gets of a family."""

    family: int
    groups: tuple[Group, ...]
    next_hop: object  # None: the node's own address


@dataclass(frozen=True, slots=True)
class Session:
    number: int
    neighbor: Neighbor
    local: object
    internal: bool
    channels: tuple[Channel, ...]

    @property
    def distance(self) -> int:
        """Hops to the router; 0: it is on a link of this node's."""
        return self.neighbor.distance


def bird_conf(config: Config) -> str:
    """A file to include in bird.conf. Tried with BIRD 2.0.12, 2.17 and 3.4, which take the same.

    The file holds the neighbors' passwords. Raises ValueError where BIRD does not announce for this node.
    """
    speaker = config.speaker
    if not speaker.is_table or speaker.daemon is not LearnedBy.BIRD:
        raise ValueError(
            "BIRD does not announce for this node: write speaker: {type: kernel-table}, with daemon: bird"
        )
    routes = list(listed(config))
    backups = list(
        dict.fromkeys(prefix for vip in config.vips if vip.role is Role.BACKUP for prefix in prefixes_of(vip))
    )
    return render(
        "bird.conf",
        bgp=config.bgp,
        speaker=speaker,
        digest=table_digest(config),
        protocol=PROTOCOL,
        last=LAST_RESORT,
        worst_med=WORST_MED,
        dials=DIALS,
        listed={
            version: [one.prefix for one in routes if one.prefix.version == version] for version in (4, 6)
        },
        backups={version: [str(one) for one in backups if one.version == version] for version in (4, 6)},
        wide={
            version: sorted(
                {
                    prefix
                    for vip in config.vips
                    for prefix in prefixes_of(vip)
                    if prefix.version == version and not is_host_route(prefix)
                }
            )
            for version in (4, 6)
        },
        costs=(OSPF_COST, OSPF_BACKUP, OSPF_LAST_RESORT),
        sessions=list(_sessions(config, routes)),
        weight=""
        if config.bgp.weight is None
        else _extended(link_bandwidth(config.bgp.local_as, config.bgp.weight)),
    )


def table_env(config: Config) -> str:
    """The environment of the announcer, as systemd's EnvironmentFile takes it. No table: ExaBGP announces for this node."""
    speaker = config.speaker
    return render(
        "table.env",
        table=speaker.table if speaker.is_table else "",
        lease=f"{config.node.runtime_dir.rstrip('/')}/lease.sock",
        bird=speaker.socket if speaker.daemon is LearnedBy.BIRD else "",
    )


def _sessions(config: Config, routes: Sequence[Route]) -> Iterator[Session]:
    bgp = config.bgp
    for number, neighbor in enumerate(bgp.neighbors, 1):
        internal = is_internal(bgp, neighbor)
        channels = tuple(
            Channel(
                family,
                _groups(
                    [one for one in routes if one.prefix.version == family],
                    str(neighbor.address),
                    internal=internal,
                ),
                bgp.next_hop_v6 if family == 6 or neighbor.extended_next_hop else bgp.next_hop_v4,
            )
            for family in families(neighbor)
        )
        yield Session(number, neighbor, local_address(bgp, neighbor), internal, channels)


def _groups(routes: Sequence[Route], neighbor: str, *, internal: bool) -> tuple[Group, ...]:
    """Those that this router gets otherwise than a route without attributes, or not at all."""
    found: dict[object, tuple[Route | None, list[Prefix]]] = {}
    for route in routes:
        own = sent(route, neighbor)
        key = None if own is None else attributes(own)
        found.setdefault(key, (own, []))[1].append(route.prefix)
    return tuple(
        Group(
            tuple(prefixes), () if own is None else tuple(_statements(own, internal=internal)) or ("accept",)
        )
        for own, prefixes in found.values()
    )


def _statements(route: Route, *, internal: bool) -> Iterator[str]:
    if route.origin is not None and route.origin is not Origin.IGP:
        yield f"bgp_origin = ORIGIN_{route.origin.upper()}"
    if route.med is not None:
        yield f"bgp_med = {route.med}"
    if route.local_preference is not None and internal:
        yield f"bgp_local_pref = {route.local_preference}"
    for asn in route.as_path[1:]:  # BIRD itself puts in the first
        yield f"bgp_path.prepend({asn})"
    for text in route.communities:
        yield f"bgp_community.add(({text.replace(':', ', ')}))"
    for text in route.large_communities:
        yield f"bgp_large_community.add(({text.replace(':', ', ')}))"
    yield from map(_extended, route.extended_communities)


def _extended(text: str) -> str:
    """Raises ValueError for what is no extended community."""
    if (value := extended_community(text)) is None:
        raise ValueError(f"{text!r} is not an extended community")
    high, low = (int.from_bytes(part, "big") for part in (value[:4], value[4:]))
    return f"bgp_ext_community.add((generic, {high:#x}, {low:#x}))"
