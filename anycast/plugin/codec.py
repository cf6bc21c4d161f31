"""ExaBGP's text API: routes to commands, and ExaBGP's answers to values. Pure; any bytes are a value.

ExaBGP finds commands by substring, so a word too many can shut it down. Commands are therefore built from
checked numbers and addresses only, never from names or text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

from anycast.core.values.report import VIEW
from anycast.core.values.route import GRACEFUL_SHUTDOWN, Origin, Prefix, Route, extended_community

FLUSH = "flush adj-rib out"
SHOW_NEIGHBORS = "show neighbor json"
VERSION = "version"
_MARK = re.compile(r'description "(?:anycast ([0-9a-f]{1,64}))?')

_NOTIFICATION = 3  # the type of the message
MOST_HOPS = 100  # of an AS path
_RELOADS = {"SIGUSR1", "SIGUSR2", "SIGALRM"}
_WITH_WORDS = {(6, 2), (6, 4)}  # an administrator's shutdown and reset
MAX_LINE = 8 * 1024 * 1024  # bytes; the table of a thousand neighbors is far below
MAX_REASON = 255  # characters; a router has 255 bytes for its words
_STATES = {"connected", "up", "down"}
_DRAINING = [int(part) for part in GRACEFUL_SHUTDOWN.split(":")]
_FAMILIES = {"ipv4 unicast": 4, "ipv6 unicast": 6}
# What a router sends comes parsed too, where that is wanted: its bytes are of no use.
_BYTES_OF_UPDATE, _HEAD = b'"message": { "category": 2,', 1024


@dataclass(frozen=True, slots=True)
class Done:
    """The oldest unanswered command was parsed and queued. It says nothing about the router."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The oldest unanswered command was refused."""


@dataclass(frozen=True, slots=True)
class NeighborEvent:
    """A session changed. `state` is ExaBGP's word: connected, up, down."""

    address: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Notification:
    """A router ends a session, ahead of the NeighborEvent. `words`: its own; `reason`: what ExaBGP will say."""

    address: str
    reason: str
    words: str


@dataclass(frozen=True, slots=True)
class NeighborRow:
    """A session as the table has it. `seconds` it has been up or down; None: not told."""

    address: str
    up: bool
    seconds: float | None
    setup: str = ""  # as `core.values.report.SETUP`; empty: not told


@dataclass(frozen=True, slots=True)
class NeighborTable:
    """The answer to SHOW_NEIGHBORS, ahead of its Done."""

    rows: tuple[NeighborRow, ...]


@dataclass(frozen=True, slots=True)
class Stopping:
    """ExaBGP is on its way out; its sessions are closed."""


@dataclass(frozen=True, slots=True)
class Reloading:
    """ExaBGP is about to read its configuration again: a route that stands in it is announced anew."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Which file ExaBGP has read, in the answer to `show_mark`; empty: one without a mark."""

    text: str


@dataclass(frozen=True, slots=True)
class Version:
    """The answer to VERSION, ahead of its Done."""

    version: str


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What a session that is about to come up carries. `add_path`: families of which the router sends every path."""

    address: str
    families: tuple[int, ...]
    add_path: tuple[int, ...]


Path: TypeAlias = tuple[str, str]
"""A prefix as ExaBGP writes it, and the path identifier; empty: there is none."""


@dataclass(frozen=True, slots=True)
class Update:
    """What a router has and has no more. `marks`: large communities. `last_resort`: the paths are draining.

    `end`: all of this family has come (End-of-RIB); None: it is not said.
    """

    address: str
    announced: tuple[Path, ...] = ()
    withdrawn: tuple[Path, ...] = ()
    marks: tuple[tuple[int, int, int], ...] = ()
    last_resort: bool = False
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Other:
    """A line we have no use for. `event`: it is an event, so no part of an answer."""

    text: str
    event: bool = False


Line: TypeAlias = (
    Done
    | Refused
    | NeighborEvent
    | Notification
    | NeighborTable
    | Negotiated
    | Update
    | Stopping
    | Reloading
    | Mark
    | Version
    | Other
)


def announce(route: Route, to: Sequence[str] = ()) -> str:
    """The command that announces `route`, variants aside. Raises ValueError where a value is out of range.

    `to`: these neighbors alone; ExaBGP refuses it if it knows none of them.
    """
    return f"{_to(to)}announce route {_prefix(route.prefix)}{_attributes(route)}"


def withdraw(route: Route, to: Sequence[str] = ()) -> str:
    """The command that withdraws `route`, attributes repeated. Raises ValueError as `announce` does.

    Without the attributes ExaBGP 5 keeps an announce that is still to be sent beside the withdraw.
    """
    return f"{_to(to)}withdraw route {_prefix(route.prefix)}{_attributes(route)}"


def check(route: Route) -> None:
    """Raises ValueError or TypeError where a value is out of range, in the route or one of its variants."""
    announce(route)
    for variant in route.variants:
        announce(variant.route, variant.neighbors)


def show_mark(neighbor: str) -> str:
    """The question for how this neighbor stands in the file that ExaBGP has read. Passwords are in the answer."""
    return f"show neighbor {_neighbor(neighbor)} configuration"


def withdraw_bare(prefix: Prefix, to: Sequence[str] = ()) -> str:
    """The command that withdraws a prefix of unknown attributes. Raises ValueError for a scoped address."""
    return f"{_to(to)}withdraw route {_prefix(prefix)}"


def announce_all(routes: Sequence[Route], to: Sequence[str] = ()) -> str:
    """The command that announces routes with the same attributes, of one family. Raises ValueError as `announce` does.

    With both families in it ExaBGP 5 announces one of them, and says `done`.
    """
    return f"{_to(to)}announce attributes{_attributes(routes[0])} nlri {_prefixes(routes)}"


def withdraw_all(routes: Sequence[Route], to: Sequence[str] = ()) -> str:
    """As `announce_all`, attributes repeated."""
    return f"{_to(to)}withdraw attributes{_attributes(routes[0])} nlri {_prefixes(routes)}"


def withdraw_all_bare(prefixes: Sequence[Prefix], to: Sequence[str] = ()) -> str:
    """The command that withdraws prefixes of one family and of unknown attributes."""
    return f"{_to(to)}withdraw attributes nlri {' '.join(map(_prefix, prefixes))}"


def _to(neighbors: Sequence[str]) -> str:
    return f"{' , '.join(f'neighbor {_neighbor(one)}' for one in neighbors)} " if neighbors else ""


@lru_cache(maxsize=1024)
def _neighbor(text: str) -> str:
    if str(ip_address(text)) != text or "%" in text:
        raise ValueError(f"neighbor {text!r}: expected an address in its usual form, without a zone")
    return text


def _prefixes(routes: Sequence[Route]) -> str:
    return " ".join(_prefix(route.prefix) for route in routes)


def _prefix(prefix: Prefix) -> str:
    if not isinstance(prefix, IPv4Network | IPv6Network):
        raise TypeError(f"prefix: expected a network, found {type(prefix).__name__}")
    text = str(prefix)
    if "%" in text:
        raise ValueError(f"{text}: a prefix cannot have a zone")
    return text


def _attributes(route: Route) -> str:
    words = [f" next-hop {_next_hop(route)}"]
    if route.med is not None:
        words.append(f" med {_number(route, 'med', route.med, 32)}")
    if route.communities:
        words.append(f" community [ {_communities(route, route.communities, (16, 16))} ]")
    if route.large_communities:
        words.append(f" large-community [ {_communities(route, route.large_communities, (32, 32, 32))} ]")
    if len(route.as_path) > MOST_HOPS:
        raise ValueError(
            f"{route.prefix}: AS path: expected {MOST_HOPS} numbers at most, found {len(route.as_path)}"
        )
    if route.as_path:
        numbers = (str(_number(route, "AS number", each, 32)) for each in route.as_path)
        words.append(f" as-path [ {' '.join(numbers)} ]")
    if route.local_preference is not None:
        words.append(f" local-preference {_number(route, 'local preference', route.local_preference, 32)}")
    if route.extended_communities:
        digits = (_extended(route, text) for text in route.extended_communities)
        words.append(f" extended-community [ {' '.join(digits)} ]")
    if route.origin is not None:
        words.append(f" origin {_origin(route)}")
    return "".join(words)


def _next_hop(route: Route) -> str:
    hop = route.next_hop
    if hop is None:
        return "self"
    if not isinstance(hop, IPv4Address | IPv6Address):
        raise TypeError(f"{route.prefix}: next hop: expected an address, found {type(hop).__name__}")
    if (hop.version, route.prefix.version) == (4, 6):  # the other way round is RFC 8950
        raise ValueError(f"{route.prefix}: next hop {hop} is of the other address family")
    if hop.is_unspecified or hop.is_multicast or "%" in str(hop):
        raise ValueError(f"{route.prefix}: next hop {hop}: expected a unicast address without a zone")
    return str(hop)


def _origin(route: Route) -> str:
    if route.origin not in set(Origin):
        raise ValueError(f"{route.prefix}: origin: expected {', '.join(Origin)}, found {route.origin!r}")
    return str(route.origin)


def _number(route: Route, name: str, value: int, bits: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**bits:
        raise ValueError(f"{route.prefix}: {name}: expected 0 to {2**bits - 1}, found {value!r}")
    return value


def _communities(route: Route, texts: tuple[str, ...], widths: tuple[int, ...]) -> str:
    """Numeric communities: ExaBGP takes 65000:70000 and silently sends another one."""
    words = []
    for text in texts:
        parts = text.split(":") if isinstance(text, str) else []
        if len(parts) != len(widths) or not all(_is_number(part) for part in parts):
            shape = ":".join("N" * len(widths))
            raise ValueError(f"{route.prefix}: community {text!r}: expected {shape}, numbers only")
        fields = zip(parts, widths, strict=True)
        words.append(":".join(str(_number(route, f"community {text}", int(part), w)) for part, w in fields))
    return " ".join(words)


def _extended(route: Route, text: str) -> str:
    """Its eight bytes in digits: ExaBGP's own words take an AS of four bytes for an IPv4 address."""
    if isinstance(text, str) and (found := extended_community(text)) is not None:
        return f"0x{found.hex()}"
    what = "expected target:N:N, origin:N:N or 0x and 16 digits"
    raise ValueError(f"{route.prefix}: extended community {text!r}: {what}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10


def parse(line: bytes) -> Line:
    """What one line from ExaBGP says. Never raises."""
    if line.find(_BYTES_OF_UPDATE, 0, _HEAD) >= 0:
        return Other("", event=True)
    text = line.decode("utf-8", "replace").strip()
    if text == "done":
        return Done()
    if text == "error":
        return Refused()
    if text.startswith("exabgp "):
        return Version(text.removeprefix("exabgp ").strip())
    if (mark := _MARK.match(text)) is not None:
        return Mark(mark[1] or "")
    if text[:1] not in {"{", "["}:
        return Other(text)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return Other(text)
    if isinstance(value, list):
        rows = [_row(item) for item in value]
        known = tuple(row for row in rows if row is not None)
        return NeighborTable(known) if len(known) == len(rows) else Other(text)
    return _event(value, text)


def _event(value: object, text: str) -> Line:
    if _get(value, "type") == "notification" and _get(value, "notification") == "shutdown":
        return Stopping()
    neighbor = _get(value, "neighbor")
    if _get(value, "type") == "signal" and _get(neighbor, "name") in _RELOADS:
        return Reloading()
    address, state = _get(neighbor, "address", "peer"), _get(neighbor, "state")
    if _get(value, "type") == "state" and isinstance(address, str) and isinstance(state, str):
        if state not in _STATES:
            return Other(text, event=True)
        reason = _get(neighbor, "reason")
        return NeighborEvent(address, state, _clean(reason) if isinstance(reason, str) else "")
    if _get(value, "type") == "update" and isinstance(address, str):
        return _update(address, _get(neighbor, "message"))
    if _get(value, "type") == "negotiated" and isinstance(address, str):
        told = _get(neighbor, "negotiated")
        return Negotiated(
            address, _families(_get(told, "families")), _families(_get(told, "add_path", "receive"))
        )
    return _notification(neighbor, address) or Other(text, event=True)


def _families(names: object) -> tuple[int, ...]:
    known = names if isinstance(names, list) else []
    return tuple(sorted({_FAMILIES[name] for name in known if isinstance(name, str) and name in _FAMILIES}))


def _update(address: str, message: object) -> Update:
    """What cannot be read is left out. Other families than the two are passed over."""
    if (end := _get(message, "eor")) is not None:
        return Update(address, end=_FAMILIES.get(f"{_get(end, 'afi')} {_get(end, 'safi')}"))
    update = _get(message, "update")
    announced: list[Path] = []
    withdrawn: list[Path] = []
    for family in _FAMILIES:
        hops = _get(update, "announce", family)
        for paths in hops.values() if isinstance(hops, dict) else ():
            announced += _paths(paths)
        withdrawn += _paths(_get(update, "withdraw", family))
    communities = _get(update, "attribute", "community")
    last = isinstance(communities, list) and _DRAINING in communities
    marks = _marks(_get(update, "attribute", "large-community"))
    return Update(address, tuple(announced), tuple(withdrawn), marks, last)


def _paths(values: object) -> list[Path]:
    found = []
    for one in values if isinstance(values, list) else ():
        prefix, number = _get(one, "nlri"), _get(one, "path-information")
        if isinstance(prefix, str):
            found.append((prefix, number if isinstance(number, str) else ""))
    return found


def _marks(values: object) -> tuple[tuple[int, int, int], ...]:
    return tuple(
        (one[0], one[1], one[2])
        for one in (values if isinstance(values, list) else ())
        if isinstance(one, list) and len(one) == 3 and all(type(part) is int for part in one)
    )


def _notification(neighbor: object, address: object) -> Notification | None:
    """One that the router sent. ExaBGP gives it in hexadecimal: nothing in it can end the line."""
    body = _get(neighbor, "message", "body")
    if _get(neighbor, "message", "category") != _NOTIFICATION or _get(neighbor, "direction") == "send":
        return None
    if not isinstance(address, str) or not isinstance(body, str):
        return None
    try:
        code, subcode, *data = bytes.fromhex(body.removeprefix("0x"))
    except ValueError:
        return None
    words = _words(bytes(data)) if (code, subcode) in _WITH_WORDS else ""
    return Notification(address, f"notification received ({code},{subcode})", words)


def _words(data: bytes) -> str:
    """The shutdown communication (RFC 9003): a length and so many bytes; empty: there is none."""
    return _clean(data[1 : 1 + data[0]].decode("utf-8", "replace")) if data else ""


def _clean(text: str) -> str:
    """On one line, without what a terminal obeys, and not too long: a router has a hand in it."""
    return "".join(one if one.isprintable() else " " for one in text[:MAX_REASON]).strip()


def _row(item: object) -> NeighborRow | None:
    address, state = _get(item, "peer", "address"), _get(item, "state")
    if not isinstance(address, str) or not isinstance(state, str):
        return None
    # A session in its first second has the duration 0 and with it the state "down": `fsm` knows better.
    up = state == "up" or _get(item, "fsm") == "ESTABLISHED"
    seconds = _get(item, "duration")
    told = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds < 1e10
    since = float(seconds) if told and isinstance(seconds, int | float) else None
    return NeighborRow(address, up, since, _setup(item))


def _setup(item: object) -> str:
    """Empty: it does not say all."""
    families = _get(item, "local", "families")
    found = [
        _get(item, "peer", "as"),
        _get(item, "local", "as"),
        _get(item, "local", "id"),
        _get(item, "local", "address"),
        _get(item, "local", "hold"),
    ]
    if not isinstance(families, dict) or not all(isinstance(one, int | str) for one in found):
        return ""
    carried = [str(version) for version in (4, 6) if families.get(f"ipv{version} unicast")]
    try:
        at, local = (str(ip_address(str(one))) for one in (_get(item, "peer", "address"), found[3]))
    except ValueError:
        return ""
    found[3] = local
    words = [at, *map(str, found), ",".join(carried)]
    if _get(item, "local", "capabilities", "add-path") is True:
        words.append(VIEW)
    return " ".join(words) if all(words) and not any(" " in word for word in words) else ""


def _get(value: object, *path: str) -> object:
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


class Lines:
    """Bytes in, whole lines out. A line longer than MAX_LINE is dropped."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._dropping = False

    def feed(self, data: bytes) -> list[Line]:
        self._rest += data
        if b"\n" not in data:
            if len(self._rest) > MAX_LINE:
                self._rest.clear()
                self._dropping = True
            return []
        *lines, self._rest = self._rest.split(b"\n")
        if self._dropping:
            del lines[0]
            self._dropping = False
        return [parse(bytes(line)) for line in lines if line.strip()]
