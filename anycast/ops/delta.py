"""What has changed from one immutable value to the next, small enough to be sent several times a second. Pure.

States share the parts that have not changed, so most of the comparison is by identity. A delta is plain data:

    None                         nothing
    ("=", value)                 another value
    ("+", {place: delta})        a dataclass, a mapping or a tuple with changed parts: fields, values or items by place
    ("&", items)                 a tuple that got these items behind those it has
    ("*", gone, {place: delta}, more)
                                 a mapping that lost the places `gone`, then changed, then got the items `more`

Places instead of keys: a key may be large, and both ends hold mappings in the same order. A PersistentMap has none: there
the places are the keys.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeAlias

from anycast.core.values.persistent import PersistentMap
from anycast.core.values.persistent import changed as changed_keys

Delta: TypeAlias = tuple[Any, ...] | None
Comparison: TypeAlias = Generator[None, None, Delta]
"""Yields now and then, so that others have their turn; returns the delta."""

_PIECE = 1500  # values that are sent together
_HERE = "here"
_BETWEEN = 32  # parts that are compared between two yields


def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind) if field.init)


names: Callable[[Any], tuple[str, ...]] = cache(_names)
"""The fields that make a value of a dataclass; others follow from them."""


def compare(old: object, new: object) -> Comparison:
    """The delta from `old` to `new`."""
    if old is new:
        return None
    if type(old) is type(new):
        if type(old) is tuple and type(new) is tuple:
            if len(old) == len(new):
                return (yield from _parts(old, new))
            if len(old) < len(new) and all(map(operator.is_, old, new)):
                return ("&", new[len(old) :])
        elif isinstance(old, dict) and isinstance(new, dict):
            return (yield from _mapping(old, new))
        elif isinstance(old, PersistentMap) and isinstance(new, PersistentMap):
            return (yield from _persistent(old, new))
        elif is_dataclass(new) and not isinstance(new, type):
            # Of thousands that were read anew and have not changed, equality is cheaper than a look at each part.
            if _is_small(new) and old == new:
                return None
            which = names(type(new))
            return (
                yield from _parts(
                    [getattr(old, name) for name in which], [getattr(new, name) for name in which]
                )
            )
        elif old == new:
            return None
    return ("=", new)


def _parts(old: Sequence[object], new: Sequence[object]) -> Comparison:
    changed = {}
    for place, (before, after) in enumerate(zip(old, new, strict=True)):
        if before is not after and (delta := (yield from compare(before, after))) is not None:
            changed[place] = delta
        if place % _BETWEEN == _BETWEEN - 1:
            yield
    return ("+", changed) if changed else None


def _mapping(old: Mapping[Any, object], new: Mapping[Any, object]) -> Comparison:
    if len(old) == len(new) and all(one is other for one, other in zip(old, new, strict=True)):
        return (yield from _parts(list(old.values()), list(new.values())))
    gone = [place for place, key in enumerate(old) if key not in new]
    kept = [key for key in old if key in new]
    more = list(new.items())[len(kept) :]
    if kept != list(new)[: len(kept)]:
        return ("=", new)
    delta = yield from _parts([old[key] for key in kept], [new[key] for key in kept])
    if not gone and not more:
        return delta
    return ("*", gone, {} if delta is None else delta[1], more)


def _persistent(old: PersistentMap[Any, object], new: PersistentMap[Any, object]) -> Comparison:
    parts: dict[Any, Delta] = {}
    gone, more = [], []
    for number, key in enumerate(changed_keys(old, new)):
        if key not in new:
            gone.append(key)
        elif key not in old:
            more.append((key, new[key]))
        elif (delta := (yield from compare(old[key], new[key]))) is not None:
            parts[key] = delta
        if number % _BETWEEN == _BETWEEN - 1:
            yield
    if gone or more:
        return ("*", gone, parts, more)
    return ("+", parts) if parts else None


_SMALL: dict[type, bool] = {}


def _is_small(value: object) -> bool:
    """Whether its kind has no parts with parts, as far as the first one seen tells."""
    kind = type(value)
    if kind not in _SMALL:
        parts = [getattr(value, name) for name in names(kind)]
        _SMALL[kind] = not any(
            isinstance(one, tuple | dict | frozenset) or is_dataclass(one) for one in parts
        )
    return _SMALL[kind]


def hollow(value: Any) -> Any:
    """With its mappings and tuples of values emptied, down to where they begin: what `compare` finds missing fills them."""
    if isinstance(value, dict | PersistentMap):
        return type(value)()
    if type(value) is tuple and value and is_dataclass(value[0]):
        return ()
    if not is_dataclass(value) or _is_small(value):
        return value
    made: Any = type(value)
    return made(**{name: hollow(getattr(value, name)) for name in names(made)})


def pieces(delta: Delta) -> Iterator[Delta]:
    """Deltas that lead to the same one after the other, each of a bounded size as far as its parts are.

    A large one is dear to pickle: all that is made on the way stays in memory to its end.
    """
    group: dict[Any, Any] = {}
    weight = 0
    for path, leaf in _leaves(delta, ()):
        _put(group, path, leaf)
        weight += _weight(leaf)
        if weight >= _PIECE:
            yield _built(group)
            group, weight = {}, 0
    if group:
        yield _built(group)


def _leaves(delta: Delta, path: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[Any, ...]]]:
    """What is not made of others, and the places that lead to it."""
    match delta:
        case ("+", changed):
            for place, inner in changed.items():
                yield from _leaves(inner, (*path, place))
        case ("*", gone, changed, more):
            if gone or changed:
                yield path, ("*", gone, changed, [])
            yield from ((path, ("*", (), {}, [item])) for item in more)
        case ("&", items):
            yield from ((path, ("&", (item,))) for item in items)
        case tuple():
            yield path, delta


def _put(group: dict[Any, Any], path: tuple[int, ...], leaf: tuple[Any, ...]) -> None:
    """Into nested dicts by place; leaves of one path are joined."""
    for place in path:
        group = group.setdefault(place, {})
    before = group.get(_HERE)
    if before is None:
        group[_HERE] = leaf
    elif leaf[0] == "&":
        group[_HERE] = ("&", before[1] + leaf[1])
    else:
        before[3].extend(leaf[3])


def _built(group: dict[Any, Any]) -> Delta:
    leaf: Delta = group.get(_HERE)
    return leaf if leaf is not None else ("+", {place: _built(inner) for place, inner in group.items()})


def _weight(value: object) -> int:
    """How many values it is made of, or any number from `_PIECE` on."""
    weight, left = 0, [value]
    while left and weight < _PIECE:
        one = left.pop()
        weight += 1
        if isinstance(one, tuple | list):
            left += one
        elif isinstance(one, dict):
            left += one.values()
        elif is_dataclass(one) and not _is_small(one):
            left += [getattr(one, name) for name in names(type(one))]
    return weight


def apply(old: Any, delta: Delta) -> Any:
    """The value that `delta` leads to."""
    match delta:
        case None:
            return old
        case ("=", value):
            return value
        case ("&", items):
            return (*old, *items)
        case ("+", changed) if isinstance(old, PersistentMap):
            return old.updated({key: apply(old[key], delta) for key, delta in changed.items()})
        case ("*", gone, changed, more) if isinstance(old, PersistentMap):
            others = {key: apply(old[key], delta) for key, delta in changed.items()}
            return old.updated({**others, **dict(more)}, gone)
        case ("+", changed) if isinstance(old, tuple):
            return tuple(_changed(old, changed))
        case ("+", changed) if isinstance(old, dict):
            return dict(zip(old, _changed(old.values(), changed), strict=True))
        case ("+", changed):
            which = names(type(old))
            parts = _changed([getattr(old, name) for name in which], changed)
            return type(old)(**dict(zip(which, parts, strict=True)))
        case ("*", gone, changed, more):
            lost = set(gone)
            kept = [item for place, item in enumerate(old.items()) if place not in lost]
            values = _changed([value for _, value in kept], changed)
            return {**dict(zip((key for key, _ in kept), values, strict=True)), **dict(more)}
        case _:
            raise ValueError(delta)


def _changed(old: Any, changed: Mapping[int, Delta]) -> list[Any]:
    parts = list(old)
    for place, delta in changed.items():
        parts[place] = apply(parts[place], delta)
    return parts
