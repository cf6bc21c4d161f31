"""A mapping whose successors share what has not changed: what the state of a node with thousands of VIPs is made of.

A successor costs one shard, whatever the size, and what two of them differ in is found by looking at the shards that
are not the same object. So nobody has to say what was changed, and nobody can forget to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)

_SHARD = 64  # entries of a shard, about: the price of a successor is a copy of one
_ABSENT: Any = object()


class PersistentMap(Mapping[K, V_co], Generic[K, V_co]):
    """Never changes. No order is promised: keys are spread by their hash."""

    __slots__ = ("_count", "shards")

    def __init__(self, items: Mapping[K, V_co] | Iterable[tuple[K, V_co]] = ()) -> None:
        entries: dict[K, V_co] = dict(items)
        self._count = len(entries)
        self.shards = _spread(entries)

    def __getitem__(self, key: K) -> V_co:
        shards = self.shards
        return shards[hash(key) & (len(shards) - 1)][key]

    def get(self, key: K, default: Any = None) -> Any:
        shards = self.shards
        return shards[hash(key) & (len(shards) - 1)].get(key, default)

    def __contains__(self, key: object) -> bool:
        shards = self.shards
        return key in shards[hash(key) & (len(shards) - 1)]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[K]:
        return chain.from_iterable(self.shards)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Mapping) or len(self) != len(other):
            return False
        if isinstance(other, PersistentMap) and len(other.shards) == len(self.shards):
            return all(one is two or one == two for one, two in zip(self.shards, other.shards, strict=True))
        return all(other.get(key, _ABSENT) == value for key, value in self.items())

    def __hash__(self) -> int:
        return hash(self._count)  # equal ones have as many

    def __repr__(self) -> str:
        return f"PersistentMap({dict(self)!r})"

    def __reduce__(self) -> tuple[type[PersistentMap[K, V_co]], tuple[dict[K, V_co]]]:
        # Texts have another hash in another process.
        return PersistentMap, (dict(self),)

    def updated(self, changes: Mapping[K, V_co], gone: Iterable[K] = ()) -> PersistentMap[K, V_co]:
        """The successor with these entries, and without those in `gone`. The same object when nothing differs."""
        if not self._count and changes:
            return PersistentMap(changes)
        mask = len(self.shards) - 1
        fresh: dict[int, dict[K, V_co]] = {}

        def own(place: int) -> dict[K, V_co]:
            if place not in fresh:
                fresh[place] = self.shards[place].copy()
            return fresh[place]

        count = self._count
        for key in gone:
            place = hash(key) & mask
            if key in fresh.get(place, self.shards[place]):
                del own(place)[key]
                count -= 1
        for key, value in changes.items():
            place = hash(key) & mask
            before = fresh.get(place, self.shards[place]).get(key, _ABSENT)
            if before is not value:
                own(place)[key] = value
                count += before is _ABSENT
        if not fresh:
            return self
        shards = list(self.shards)
        for place, shard in fresh.items():
            shards[place] = shard
        after: PersistentMap[K, V_co] = PersistentMap.__new__(PersistentMap)
        after._count = count
        crowded = count > 2 * _SHARD * len(shards)
        sparse = len(shards) > 1 and count < _SHARD * len(shards) // 8
        after.shards = (
            _spread(dict(chain.from_iterable(map(dict.items, shards))))
            if crowded or sparse
            else tuple(shards)
        )
        return after


def _spread(entries: dict[K, V]) -> tuple[dict[K, V], ...]:
    """In shards, as many as a power of two."""
    size = 1
    while size * _SHARD < len(entries):
        size *= 2
    if size == 1:
        return (entries,)
    shards: list[dict[K, V]] = [{} for _ in range(size)]
    mask = size - 1
    for key, value in entries.items():
        shards[hash(key) & mask][key] = value
    return tuple(shards)


def changed(old: Mapping[K, V], new: Mapping[K, V]) -> Iterator[K]:
    """The keys whose values are not the same object in both, or that only one of them has."""
    if old is new:
        return
    if isinstance(old, PersistentMap) and isinstance(new, PersistentMap):
        before, after = old.shards, new.shards
        if len(before) == len(after):
            for one, two in zip(before, after, strict=True):
                if one is not two:
                    yield from _changed(one, two)
            return
    yield from _changed(old, new)


def _changed(old: Mapping[K, V], new: Mapping[K, V]) -> Iterator[K]:
    for key, value in new.items():
        if old.get(key, _ABSENT) is not value:
            yield key
    for key in old:
        if key not in new:
            yield key
