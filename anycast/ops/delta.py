"""What has changed from one immutable value to the next, small enough to be sent several times a second. Pure.

Values share the parts that have not changed, so the comparison is by identity wherever it can be: two states cost what
they differ in. A change is plain data, a path and what happens at its end:

    ("=", value)               it is another value
    ("-", keys)                a mapping loses these keys
    ("~", start, stop, items)  a tuple has these items in the place of those from `start` to before `stop`
    ("+", more, gone)          a frozenset gets and loses these

A path has fields by number, items of a tuple by place, and values of a mapping by key. Changes hold in their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import NoneType, UnionType
from typing import Any, NamedTuple, TypeAlias, Union, get_args, get_origin, get_type_hints

from anycast.core.values.persistent import PersistentMap, changed

Path: TypeAlias = tuple[Any, ...]
Change: TypeAlias = tuple[Path, tuple[Any, ...]]

PIECE = 200  # values that are sent together, about: a millisecond or two of work
_BETWEEN = 64  # entries of a plain mapping that are looked at between two turns
_ABSENT: Any = object()
_ATOMS = (NoneType, bool, int, float, str, Enum, IPv4Address, IPv6Address, IPv4Network, IPv6Network)


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind) if field.init)


def names(kind: Any) -> tuple[str, ...]:
    """The fields that make a value of a dataclass; others follow from them."""
    return _names(kind)


def pieces(old: object, new: object) -> Iterator[tuple[Change, ...] | None]:
    """The changes from `old` to `new`, in groups of a bounded size as far as their parts are.

    None now and then: nothing to send yet, but others may have a turn. Only one group is in memory at a time.
    """
    group: list[Change] = []
    weight = 0
    for found in _changes(old, new, ()):
        if found is None:
            yield None
            continue
        heavy, change = found
        group.append(change)
        weight += heavy
        if weight >= PIECE:
            yield tuple(group)
            group, weight = [], 0
    if group:
        yield tuple(group)


_Changes: TypeAlias = Iterator[tuple[int, Change] | None]
"""With the weight of each."""


def _changes(old: Any, new: Any, path: Path) -> _Changes:
    if old is new:
        return
    if isinstance(new, dict | PersistentMap) and type(old) is type(new):
        yield from _mapping(old, new, path)
    elif type(new) is tuple and type(old) is tuple:
        yield from _tuple(old, new, path)
    elif isinstance(new, frozenset) and isinstance(old, frozenset):
        if old != new:
            more, gone = tuple(new - old), tuple(old - new)
            yield 1 + len(more) + len(gone), (path, ("+", more, gone))
    elif type(new) is type(old) and is_dataclass(new) and not is_little(type(new)):
        yield from _fields(old, new, path)
    elif type(old) is not type(new) or old != new:
        yield from _whole(new, path)


def _fields(old: Any, new: Any, path: Path) -> _Changes:
    for place, name in enumerate(names(type(new))):
        before, after = getattr(old, name), getattr(new, name)
        if before is not after:
            yield from _changes(before, after, (*path, place))
    yield None


def _mapping(old: Mapping[Any, Any], new: Mapping[Any, Any], path: Path) -> _Changes:
    gone = []
    for key in _differing(old, new):
        if key is _ABSENT:
            yield None
        elif key not in new:
            gone.append(key)
        elif key in old:
            yield from _changes(old[key], new[key], (*path, key))
        else:
            yield from _whole(new[key], (*path, key))
    for first in range(0, len(gone), PIECE):
        keys = tuple(gone[first : first + PIECE])
        yield len(keys), (path, ("-", keys))


def _differing(old: Mapping[Any, Any], new: Mapping[Any, Any]) -> Iterator[Any]:
    """The keys whose values are not the same object, or that only one has; `_ABSENT` between for a turn of others."""
    if isinstance(old, PersistentMap) and isinstance(new, PersistentMap) and _alike(old, new):
        for place, key in enumerate(changed(old, new)):
            yield key
            if place % _BETWEEN == 0:
                yield _ABSENT
        return
    for place, (key, value) in enumerate(new.items()):
        if old.get(key, _ABSENT) is not value:
            yield key
        if place % _BETWEEN == 0:
            yield _ABSENT
    for place, key in enumerate(old):
        if key not in new:
            yield key
        if place % _BETWEEN == 0:
            yield _ABSENT


def _alike(old: PersistentMap[Any, Any], new: PersistentMap[Any, Any]) -> bool:
    """Whether they can be compared shard by shard."""
    return len(old.shards) == len(new.shards)


def _tuple(old: tuple[Any, ...], new: tuple[Any, ...], path: Path) -> _Changes:
    if len(old) == len(new):
        for place, (before, after) in enumerate(zip(old, new, strict=True)):
            if before is after:
                continue
            if not _same(before, after):
                yield from _changes(before, after, (*path, place))
            yield None
        return
    start, least = 0, min(len(old), len(new))
    while start < least and _same(old[start], new[start]):
        start += 1
        yield None
    end = 0
    while end < least - start and _same(old[-1 - end], new[-1 - end]):
        end += 1
        yield None
    yield from _spliced(start, len(old) - end, new[start : len(new) - end], path)


def _same(one: Any, other: Any) -> bool:
    """Whether they are surely the same. What was read anew and has not changed is equal, which is cheaper to ask."""
    return one is other or (type(one) is type(other) and _kind(type(one)).exact and bool(one == other))


def _spliced(start: int, stop: int, items: tuple[Any, ...], path: Path) -> _Changes:
    """These items in that place: some at a time, and a heavy one empty at first."""
    some: list[Any] = []
    weight, at = 0, start
    for item in items:
        heavy = _weight(item)
        weight += heavy
        some.append(hollow(item) if heavy >= PIECE else item)
        if weight >= PIECE:
            yield weight, (path, ("~", at, stop, tuple(some)))
            at += len(some)
            stop = at
            some, weight = [], 0
            if heavy >= PIECE:
                yield from _changes(hollow(item), item, (*path, at - 1))
    if some or stop > at:
        yield weight + 1, (path, ("~", at, stop, tuple(some)))


def _whole(value: Any, path: Path) -> _Changes:
    """Another value; a heavy one empty at first, and then what it is made of."""
    weight = _weight(value)
    if weight < PIECE:
        yield weight, (path, ("=", value))
        return
    empty = hollow(value)
    yield 1, (path, ("=", empty))
    yield from _changes(empty, value, path)


class _Kind(NamedTuple):
    """What is known of values by their type."""

    heavy: bool  # a dataclass whose values have any number of parts
    exact: bool  # `==` looks at all that they are made of


_kinds: dict[type, _Kind] = {}


def _kind(kind: Any) -> _Kind:
    found = _kinds.get(kind)
    if found is None:
        heavy = is_dataclass(kind) and not all(map(_is_bounded, _hints(kind)))
        found = _kinds[kind] = _Kind(heavy=heavy, exact=_is_exact(kind, set()))
    return found


def is_little(kind: Any) -> bool:
    """Whether values of this dataclass have a bounded number of parts, all of which `==` looks at: by its fields' types."""
    found = _kind(kind)
    return found.exact and not found.heavy


def _hints(kind: Any) -> list[Any]:
    try:
        hints = get_type_hints(kind)
    except NameError:  # of a type that is imported for the type checker alone
        return [Any]
    return [hints[name] for name in names(kind)]


def _is_bounded(hint: Any) -> bool:
    if arguments := get_args(hint):
        return get_origin(hint) in (Union, UnionType) and all(map(_is_bounded, arguments))
    if not isinstance(hint, type):
        return False
    return issubclass(hint, _ATOMS) or (is_dataclass(hint) and all(map(_is_bounded, _hints(hint))))


def _is_exact(hint: Any, seen: set[Any]) -> bool:
    kind = get_origin(hint) or hint
    if kind in seen:
        return True
    seen.add(kind)
    if not all(_is_exact(one, seen) for one in get_args(hint)):
        return False
    if not is_dataclass(kind):
        return hint is not Any and hint is not object
    return all(one.compare for one in fields(kind) if one.init) and all(
        _is_exact(one, seen) for one in _hints(kind)
    )


def hollow(value: Any) -> Any:
    """With its mappings and tuples emptied, down to where they begin: what is then found missing fills them."""
    if isinstance(value, dict):
        return {}
    if isinstance(value, PersistentMap):
        return PersistentMap()
    if type(value) is tuple:
        return ()
    if isinstance(value, frozenset):
        return frozenset()
    if not is_dataclass(value) or is_little(type(value)):
        return value
    made: Any = type(value)
    return made(**{name: hollow(getattr(value, name)) for name in names(made)})


def _weight(value: Any) -> int:
    """How many values it is made of, or any number from `PIECE` on."""
    weight, left = 0, [value]
    while left and weight < PIECE:
        one = left.pop()
        weight += 1
        kind = type(one)
        if kind is tuple or kind is frozenset or kind is dict or kind is PersistentMap:
            if len(one) >= PIECE:
                return len(one)
            left += one if kind is tuple or kind is frozenset else one.values()
        elif _kind(kind).heavy:
            left += [getattr(one, name) for name in names(kind)]
    return weight


class _Node:
    """A place where something changes, and those below it."""

    __slots__ = ("below", "here")

    def __init__(self) -> None:
        self.here: list[tuple[Any, ...]] = []
        self.below: dict[Any, _Node] = {}


def apply(old: Any, changes: Iterable[Change]) -> Any:
    """The value that the changes lead to. What lies between is made once, however many changes are below it."""
    top = _Node()
    for path, change in changes:
        node = top
        for place in path:
            below = node.below.get(place)
            if below is None:
                below = node.below[place] = _Node()
            node = below
        node.here.append(change)
    return _led(old, top)


def _led(value: Any, node: _Node) -> Any:
    for change in node.here:
        value = _changed(value, change)
    below = node.below
    if not below:
        return value
    if isinstance(value, dict | PersistentMap):
        fresh = {key: _led(value.get(key), one) for key, one in below.items()}
        return value.updated(fresh) if isinstance(value, PersistentMap) else {**value, **fresh}
    if type(value) is tuple:
        items = list(value)
        for place, one in below.items():
            items[place] = _led(items[place], one)
        return tuple(items)
    which = names(type(value))
    parts = {name: getattr(value, name) for name in which}
    for place, one in below.items():
        parts[which[place]] = _led(parts[which[place]], one)
    return type(value)(**parts)


def _changed(value: Any, change: tuple[Any, ...]) -> Any:
    match change:
        case ("=", other):
            return other
        case ("-", keys) if isinstance(value, PersistentMap):
            return value.updated({}, keys)
        case ("-", keys):
            lost = set(keys)
            return {key: one for key, one in value.items() if key not in lost}
        case ("~", start, stop, items):
            return (*value[:start], *items, *value[stop:])
        case ("+", more, gone):
            return (value - frozenset(gone)) | frozenset(more)
        case _:
            raise ValueError(change)
