"""Programs that manage the interfaces of a node, as far as their files tell. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from anycast.core.values.configuration import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkdLink:
    """An interface that systemd-networkd manages, by the .network file that matches it."""

    interface: str
    file: str
    keep: str = ""  # KeepConfiguration=; empty: not said


@dataclass(frozen=True, slots=True, kw_only=True)
class Networkd:
    version: int | None  # of systemd; None: not known
    links: tuple[NetworkdLink, ...] = ()
    # What networkd.conf says of what others have made: ManageForeignRoutes, …RoutingPolicyRules, …NextHops.
    foreign: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredProfile:
    """A connection of NetworkManager on disk, with the addresses that it puts on its interface."""

    file: str
    interface: str
    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkManager:
    managed: frozenset[str] = frozenset()  # interfaces that it has not been told to leave alone
    stored: tuple[StoredProfile, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stanza:
    """An `iface` of /etc/network/interfaces. `purges`: what others have added goes at an ifreload."""

    place: str  # file and line
    interface: str
    purges: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Managers:
    """None: it does not run here, or is not installed. `unread`: files that could not be read."""

    networkd: Networkd | None = None
    network_manager: NetworkManager | None = None
    ifupdown2: tuple[Stanza, ...] | None = None
    unread: tuple[str, ...] = ()
