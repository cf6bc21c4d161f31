"""`nodes`: one file for a fleet. What a node's part says goes over the rest, before anything is judged.

A mapping goes into a mapping; any other value takes the place of what stands there. So what comes of it is the file of
one node, and nothing behind this module knows of fleets. Every value keeps its place in the files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from anycast.config.problem import MOST, Path, Problem, TooManyError, shown
from anycast.config.schema.advice import for_key, lines_for
from anycast.config.schema.file import File, FleetNode, FleetOwn, FleetVip, Vip
from anycast.config.schema.file import Fleet as FleetSection
from anycast.config.schema.scalars import NAME, NAME_ADVICE
from anycast.config.validate import Holes, Source, Whereabouts
from anycast.core.names import listed, nearest

if TYPE_CHECKING:
    from anycast.config.reader import Value

KEY = "nodes"
MOST_NODES = 64
NAMED = 8  # nodes that are listed where one of them is meant

_ALONE: Mapping[Path, str] = {
    ("node",): "name",
    ("connection_sync",): "interface",
    ("speaker",): "type",
    ("fleet",): "view",
}
"""Sections of which one word stands for a mapping with this key."""

_INSTEAD: Mapping[Path, tuple[str, ...]] = {("bgp",): ("password", "password_file", "password_env")}
"""Keys of which one takes the place of all."""

_SECRETS = frozenset({"password", "headers", "url"})
_OF_NAMES = frozenset({KEY, "hooks", "checks", "pools", "vips"})  # sections whose keys are names
_SHOWN = 16  # hexadecimal digits of a fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Which node a file is read for: the one that is `given`, else the one that the file names, else the host."""

    hostname: str
    given: str | None = None


def fingerprint(source: Source) -> str:
    """Of what all files together say, however it is written down: comments, order and the number of files do not count.

    Which node reads it does not count either (`node.name`, `include`), nor do secrets: it is shown to everybody.
    """
    tree: dict[str, Any] = {
        key: value for key, value in source.tree.items() if key not in ("include", "version")
    }
    node = tree.pop("node", None)
    if isinstance(node, dict) and (rest := {key: value for key, value in node.items() if key != "name"}):
        tree["node"] = rest
    text = json.dumps(_public(tree), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_SHOWN]


def _public(value: Any, *, names: bool = False) -> Any:
    """`names`: the keys of the value are names."""
    if isinstance(value, dict):
        return {
            key: (key in _SECRETS and not names) or _public(one, names=key in _OF_NAMES and not names)
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [_public(one) for one in value]
    return True if isinstance(value, str) and "://" in value else value  # a URL alone is a hook


class Fleet:
    """The nodes that the files name. `source` is of all files together."""

    def __init__(self, source: Source, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._source = source
        self._whereabouts = tuple(map(self._where, names))

    def find(self, who: Who, problems: list[Problem]) -> str | None:
        """The node's name in this file; None: it is not there, which is said."""
        if who.given is not None:
            return self._known(who.given, (KEY,), problems, "is not among the nodes (--node)")
        if (written := _written_name(self._source)) is not None:
            name, place = written
            return self._known(name, place, problems, "is not among the nodes")
        short = who.hostname.partition(".")[0]
        for one in (who.hostname, short):
            for name in self.names:
                if name.lower() == one.lower():
                    return name
        what = f"this machine's host name {shown(who.hostname)} is none of the nodes"
        do = f"{self._meant(short)}; --node names one, or node.name in a file that includes this one"
        _add(problems, Problem(self._source.mark((KEY,), key=True), (KEY,), what, do))
        return None

    def _known(self, name: str, place: Path, problems: list[Problem], what: str) -> str | None:
        if name in self.names:
            return name
        mark = self._source.mark(place, key=place == (KEY,))
        _add(problems, Problem(mark, place, f"{shown(name)} {what}", self._meant(name)))
        return None

    def _meant(self, name: str) -> str:
        return _meant(name, self.names)

    def part(self, name: str, problems: list[Problem]) -> Source | None:
        """The files as they are for this node; None: its part cannot be used, which is said. Raises TooManyError."""
        here: Path = (KEY, name)
        if here in self._source.holes:
            return None  # the reader has said it
        overlay = _Overlay(self._source, name)
        part = self._source.tree[KEY][name]  # type: ignore[index,call-overload]  # a mapping that has it
        found = self._sections(part, here, problems)
        overlay.roles()
        for key, value, origin in found:
            overlay.put(overlay.tree, key, value, (key,), origin)
        if isinstance(overlay.tree.setdefault("node", {}), dict | str):
            overlay.put(overlay.tree, "node", {"name": name}, ("node",), here)
        return replace(overlay.source(), nodes=self._whereabouts)

    def _where(self, name: str) -> Whereabouts:
        """Of what its part says of its own addresses: what is wrong in it is said when its part is judged."""
        part = self._source.tree[KEY][name]  # type: ignore[index,call-overload]  # a mapping that has it
        if isinstance(part, str):
            return Whereabouts(name, address=part)
        bgp, own = (part.get(key) if isinstance(part, dict) else None for key in ("bgp", "fleet"))
        listen = own.get("listen") if isinstance(own, dict) else None
        return Whereabouts(
            name,
            listen=listen if isinstance(listen, str) else None,
            address=next(_addresses_of(bgp), None) if isinstance(bgp, dict) else None,
        )

    def _sections(self, part: Value, here: Path, problems: list[Problem]) -> list[tuple[str, Value, Path]]:
        """What of a node's part can be used, with its place."""

        def say(place: Path, what: str, do: str, *, key: bool = False, lines: str = "") -> None:
            _add(problems, Problem(self._source.mark(place, key=key), place, what, do, lines))

        if isinstance(part, str):  # the address alone is the router id
            return [("bgp", {"router_id": part}, here)]
        if not isinstance(part, dict):
            do = "write its router id, or a mapping with what is different there; {} if nothing is"
            say(here, "this is not a node", do, lines=lines_for((KEY,)))
            return []
        found: list[tuple[str, Value, Path]] = []
        for key, value in part.items():
            place: Path = (*here, key)
            if place in self._source.holes:
                continue
            if key not in FleetNode.model_fields:
                self._no_key(place, value, "all nodes have the same", FleetNode.model_fields, say)
            elif isinstance(value, str) and key in ("connection_sync", "speaker"):
                found.append((key, value, place))
            elif isinstance(value, str) and key == "node":
                say(place, "the node's name stands above already", "remove it")
            elif not isinstance(value, dict):
                say(place, "this is not a mapping", "write `key: value` lines below it")
            elif key == "node" and "name" in value:
                say((*place, "name"), "the node's name stands above already", "remove it", key=True)
            elif key == "fleet":
                found.append((key, self._own(value, place, say), place))
            elif key == "vips":
                found.append((key, self._vips(value, place, say), place))
            else:
                found.append((key, value, place))
        return found

    def _own(self, part: dict[str, Value], here: Path, say: Any) -> dict[str, Value]:
        """What of `fleet` may be different on a node."""
        known = FleetOwn.model_fields
        for key, value in part.items():
            if key not in known and (*here, key) not in self._source.holes:
                self._no_key((*here, key), value, "all nodes have the same", known, say)
        return {key: value for key, value in part.items() if key in known}

    def _vips(self, part: dict[str, Value], here: Path, say: Any) -> dict[str, Value]:
        vips = self._source.tree.get("vips")
        known = vips if isinstance(vips, dict) else {}
        found: dict[str, Value] = {}
        for name, value in part.items():
            place: Path = (*here, name)
            if place in self._source.holes:
                continue
            if name not in known:
                if self._source.complete and self._source.intact(("vips", name)):
                    near = nearest(name, known)
                    do = (
                        f"did you mean {near}?"
                        if near
                        else "write it under vips: all nodes have the same VIPs"
                    )
                    say(place, f"there is no VIP named {shown(name)}", do, key=True)
                continue
            if not isinstance(value, dict):
                say(place, "this is not a mapping", "write {role: backup}, for one")
                continue
            vip = known[name]
            roles = vip.get("role") if isinstance(vip, dict) else None
            for key, one in value.items():
                if key not in FleetVip.model_fields:
                    self._no_key(
                        (*place, key), one, "a VIP has on every node the same", FleetVip.model_fields, say
                    )
                elif key == "role" and isinstance(roles, dict) and here[1] in roles:
                    where = self._source.keys[("vips", name, "role", here[1])]
                    say((*place, key), f"this is written already, at {where}", "keep one of them", key=True)
            found[name] = {key: one for key, one in value.items() if key in FleetVip.model_fields}
        return found

    def _no_key(self, place: Path, value: Value, same: str, known: Iterable[str], say: Any) -> None:
        key = str(place[-1])
        sections = {"vips": Vip.model_fields, "fleet": FleetSection.model_fields}
        elsewhere = (
            sections.get(str(place[2]), File.model_fields)
            if len(place) > len((KEY, "", ""))
            else File.model_fields
        )
        if key in elsewhere:
            do = f"write it once, outside of nodes; here can stand {listed([*known])}"
            say(place, f"{same} {key}", do, key=True)
            return
        advice, _ = for_key(key, value, known, place)
        say(place, "there is no such key", advice.do, key=True, lines=advice.lines)


def _add(problems: list[Problem], problem: Problem) -> None:
    """Raises TooManyError."""
    problems.append(problem)
    if len(problems) > MOST:
        raise TooManyError


def _meant(name: str, names: Sequence[str]) -> str:
    near = nearest(name, names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    there = f"there are {', '.join(names[:NAMED])}{more}"
    return f"did you mean {near}? {there}" if near else there


def _addresses_of(bgp: dict[str, Value]) -> Iterator[str]:
    """This node's own, in the order in which they make its router id."""
    neighbors = bgp.get("neighbors")
    if isinstance(one := bgp.get("router_id"), str):
        yield one
    for each in neighbors if isinstance(neighbors, list) else ():
        if isinstance(each, dict) and isinstance(one := each.get("local_address"), str):
            yield one
    local = bgp.get("local_address")
    yield from (one for one in (local if isinstance(local, list) else [local]) if isinstance(one, str))


def _written_name(source: Source) -> tuple[str, Path] | None:
    node = source.tree.get("node")
    if isinstance(node, str) and ("node",) not in source.holes:
        return node, ("node",)
    name = node.get("name") if isinstance(node, dict) else None
    return (name, ("node", "name")) if isinstance(name, str) else None


def fleet_of(source: Source, problems: list[Problem]) -> Fleet | None:
    """None: the files name no nodes, or in a way that cannot be used. What is wrong with the names is said.

    Raises TooManyError.
    """
    if KEY not in source.tree:
        for path, _ in _roles(source):
            do = "write primary or backup; by node where the file has `nodes`"
            _add(problems, Problem(source.mark(path), path, "the file names no nodes", do))
            source.holes.add(path)
        return None
    nodes, here = source.tree[KEY], (KEY,)
    if here in source.holes:
        return None
    if not isinstance(nodes, dict) or not nodes:
        empty = nodes is None or nodes in ({}, [])
        what = "no node is named" if empty else "this is not a mapping"
        do = "write each node with what is different there, or remove the line"
        _add(problems, Problem(source.mark(here, key=True), here, what, do, lines_for(here)))
        return None
    if len(nodes) > MOST_NODES:
        what = f"there are {len(nodes):,} nodes"
        _add(problems, Problem(source.mark(here, key=True), here, what, f"write {MOST_NODES} at most"))
        return None
    _names(source, list(nodes), problems)
    fleet = Fleet(source, list(nodes))
    _roles_of_nobody(source, fleet.names, problems)
    return fleet


def _names(source: Source, names: list[str], problems: list[Problem]) -> None:
    before: dict[str, str] = {}
    for name in names:
        place = (KEY, name)
        if not NAME.match(name):
            what, do = f"{shown(name)} is not a name", f"use {NAME_ADVICE}"
        elif (first := before.setdefault(name.lower(), name)) != name:
            what, do = f"this is {first} again, in other letters", "rename one: host names have no case"
        else:
            continue
        _add(problems, Problem(source.mark(place, key=True), place, what, do))


def _roles(source: Source) -> Iterator[tuple[tuple[str, str, str], dict[str, Value]]]:
    """The places of roles that are written by node."""
    vips = source.tree.get("vips")
    for name, vip in vips.items() if isinstance(vips, dict) else ():
        role = vip.get("role") if isinstance(vip, dict) else None
        if isinstance(role, dict):
            yield ("vips", name, "role"), role


def _roles_of_nobody(source: Source, names: Sequence[str], problems: list[Problem]) -> None:
    for path, role in _roles(source):
        for name in role:
            if name not in names:
                place = (*path, name)
                what = f"there is no node named {shown(name)}"
                _add(problems, Problem(source.mark(place, key=True), place, what, _meant(name, names)))


class _Overlay:
    """What comes of the files for one node. What is not touched is shared with them."""

    def __init__(self, base: Source, name: str) -> None:
        self._base, self._name = base, name
        self._values, self._keys = base.values.copy(), base.keys.copy()
        self._holes = {path for path in base.holes.paths() if path[:1] != (KEY,)}
        self._origins: dict[Path, Path] = {}
        self.tree = {key: value for key, value in base.tree.items() if key != KEY}

    def source(self) -> Source:
        mine = (KEY, self._name)
        own = {path[2:] for path in self._base.holes.paths() if path[:2] == mine}
        return replace(
            self._base,
            tree=self.tree,
            values=self._values,
            keys=self._keys,
            holes=Holes(self._holes | own),
            kept={},
            origins=self._origins,
        )

    def roles(self) -> None:
        """Roles that are written by node: this one's, or none."""
        found = list(_roles(self._base))
        if not found:
            return
        vips: dict[str, Any] = dict(self.tree["vips"])  # type: ignore[arg-type]  # a mapping, for it has some
        self.tree["vips"] = vips
        for path, by_node in found:
            vip = vips[path[1]] = dict(vips[path[1]])
            mine = (*path, self._name)
            hole = mine in self._base.holes
            self._drop(path, vip.pop("role"))
            if self._name in by_node:
                self._set(vip, "role", by_node[self._name], path, mine)
                if hole:
                    self._holes.add(path)

    def put(self, into: dict[str, Value], key: str, value: Value, here: Path, origin: Path) -> None:
        """`here`: where it goes; `origin`: where it stands. `into` is this node's own."""
        if isinstance(value, dict) and (old := self._mapping(into, key, here)) is not None:
            own = dict(old)
            into[key] = own
            instead = _INSTEAD.get(here, ())
            if any(one in value for one in instead):
                for one in instead:
                    if one in own:
                        self._drop((*here, one), own.pop(one))
            for name, below in value.items():
                place = (*origin, name)
                # What stands for a mapping has no places below it.
                self.put(own, name, below, (*here, name), place if place in self._base.values else origin)
            return
        if isinstance(value, str) and here in _ALONE and self._mapping(into, key, here) is not None:
            self.put(into, key, {_ALONE[here]: value}, here, origin)
            return
        if key in into:
            self._drop(here, into[key])
        self._set(into, key, value, here, origin)

    def _mapping(self, into: dict[str, Value], key: str, here: Path) -> dict[str, Value] | None:
        """What stands there as a mapping; None: it is none."""
        old = into.get(key)
        if isinstance(old, str) and here in _ALONE:
            below = (*here, _ALONE[here])
            self._values.at[below] = self._values.at[here]
            return {_ALONE[here]: old}
        return old if isinstance(old, dict) else None

    def _set(self, into: dict[str, Value], key: str, value: Value, here: Path, origin: Path) -> None:
        into[key] = value
        self._origins[here] = origin
        self._take(here, origin, value)

    def _take(self, here: Path, origin: Path, value: Value) -> None:
        values, keys = self._base.values.at, self._base.keys.at
        if origin in values:
            self._values.at[here] = values[origin]
        if origin in keys:
            self._keys.at[here] = keys[origin]
        for part, one in _parts(value):
            self._take((*here, part), (*origin, part), one)

    def _drop(self, here: Path, value: Value) -> None:
        """What is replaced has no place any more, and what is wrong in it does not count."""
        self._values.at.pop(here, None)
        self._keys.at.pop(here, None)
        if self._holes:
            self._holes = {path for path in self._holes if path[: len(here)] != here}
        for part, one in _parts(value):
            self._forget((*here, part), one)

    def _forget(self, here: Path, value: Value) -> None:
        self._values.at.pop(here, None)
        self._keys.at.pop(here, None)
        for part, one in _parts(value):
            self._forget((*here, part), one)


def _parts(value: Value) -> Iterable[tuple[str | int, Value]]:
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


def as_mapping(source: Source, section: str) -> None:
    """A section of which one word stands for a mapping, as that mapping: others may have more to say of it."""
    word, key = source.tree.get(section), _ALONE.get((section,))
    if key is not None and isinstance(word, str):
        source.tree[section] = {key: word}
        for places in (source.values, source.keys):
            places.at[(section, key)] = source.values.at[(section,)]
