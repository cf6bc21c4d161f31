"""What has changed from one immutable value to the next, small enough to be sent several times a second. Pure.

States share the parts that have not changed, so most of the comparison is by identity. A delta is plain data:

    None                         nothing
    ("=", value)                 another value
    ("+", {place: delta})        a dataclass, a mapping or a tuple with changed parts: fields, values or items by place
    ("*", gone, {place: delta}, more)
                                 a mapping that lost the places `gone`, then changed, then got the items `more`

Places instead of keys: a key may be large, and both ends hold mappings in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeAlias

Delta: TypeAlias = tuple[Any, ...] | None
Comparison: TypeAlias = Generator[None, None, Delta]
"""Yields now and then, so that others have their turn; returns the delta."""

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
        elif isinstance(old, dict) and isinstance(new, dict):
            return (yield from _mapping(old, new))
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


def apply(old: Any, delta: Delta) -> Any:
    """The value that `delta` leads to."""
    match delta:
        case None:
            return old
        case ("=", value):
            return value
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
            return {**{key: value for (key, _), value in zip(kept, values, strict=True)}, **dict(more)}
        case _:
            raise ValueError(delta)


def _changed(old: Any, changed: Mapping[int, Delta]) -> list[Any]:
    parts = list(old)
    for place, delta in changed.items():
        parts[place] = apply(parts[place], delta)
    return parts
