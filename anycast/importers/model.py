"""What a foreign configuration means, in our words, whatever program it was written for. Pure.

Values are hashable, so that what is alike is found: places and comments do not count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TypeAlias


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A line of a file. Line 0: the file as a whole."""

    file: str
    line: int = 0


NOWHERE = Place("")


@dataclass(frozen=True, slots=True)
class Keys:
    """A mapping as our YAML writes it, in its order."""

    items: tuple[tuple[str, Value], ...] = ()

    def get(self, key: str) -> Value | None:
        return next((value for name, value in self.items if name == key), None)

    def with_(self, **more: Value) -> Keys:
        kept = tuple((key, value) for key, value in self.items if key not in more)
        return Keys((*kept, *more.items()))

    def without(self, *names: str) -> Keys:
        return Keys(tuple((key, value) for key, value in self.items if key not in names))


Value: TypeAlias = str | int | float | bool | Keys | tuple["Value", ...]


def keys(**items: Value | None) -> Keys:
    """Without what is None."""
    return Keys(tuple((key, value) for key, value in items.items() if value is not None))


def check(kind: str, **settings: Value | None) -> Keys:
    return keys(type=kind, **settings)


def together(checks: Iterable[Keys]) -> Keys | None:
    """All of them. None: there is none."""
    found = tuple(dict.fromkeys(checks))
    return found[0] if len(found) == 1 else check("all", of=found) if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A real server. `port` None: the service's, or with a mark that of the packet."""

    address: str
    port: int | None = None
    weight: int = 1
    upper: int = 0
    lower: int = 0
    name: str = ""
    comment: str = field(default="", compare=False)
    place: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sorry:
    """Who serves while the quorum of a service is lost. `check` None: our default."""

    server: Server
    check: Value | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A port of a VIP, or a mark. `check` None: our default. `flags` None: those that are usual with the scheduler.

    `quorum`: as our YAML has it. `settings`: whatever else it says. `lines`: all that it was made of.
    """

    port: int = 0
    mark: int = 0
    protocol: str = "tcp"
    scheduler: str = "mh"
    flags: tuple[str, ...] | None = None
    forwarding: str = "dr"
    tunnel: Keys | None = None
    one_packet: bool | None = None
    persistence: Value | None = None
    quorum: Value | None = None
    sorry: Sorry | None = None
    check: Value | None = None
    servers: tuple[Server, ...] = ()
    place: Place = field(default=NOWHERE, compare=False)
    lines: tuple[Place, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vip:
    """`settings`: whatever else it says, such as `med` and `require`. `backups`: nodes that are backups of it."""

    name: str
    addresses: tuple[str, ...]
    services: tuple[Service, ...] = ()
    settings: Keys = Keys()
    backups: tuple[str, ...] = ()
    comment: str = field(default="", compare=False)
    place: Place = field(default=NOWHERE, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """All of it. `bgp` None: the source knows nothing of it. `nodes`: names, each with its router id, what it says itself, or nothing."""

    vips: tuple[Vip, ...]
    bgp: Keys | None = None
    nodes: tuple[tuple[str, Value], ...] = ()
    settings: Keys = Keys()

    def without(self, names: Iterable[str]) -> Setup:
        gone = frozenset(names)
        return replace(self, vips=tuple(vip for vip in self.vips if vip.name not in gone))
