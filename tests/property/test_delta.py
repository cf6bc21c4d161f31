"""Whoever is told what has changed ends with the same, whatever it was and however small the pieces are."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import reduce
from random import Random
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from anycast.core.values.persistent import PersistentMap
from anycast.ops import delta


@dataclass(frozen=True, slots=True)
class Leaf:
    name: str
    number: int
    unseen: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Branch:
    parts: tuple[Any, ...] = ()
    leaf: Leaf | None = None
    more: Any = None


ATOMS = st.one_of(st.none(), st.booleans(), st.integers(0, 3), st.sampled_from(["a", "b"]))
LEAVES = st.builds(Leaf, st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 2))


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    maps = st.dictionaries(st.integers(0, 200), inner, max_size=6)
    return st.one_of(
        st.lists(inner, max_size=6).map(tuple),
        maps,
        maps.map(PersistentMap),
        st.frozensets(st.integers(0, 20), max_size=6),
        st.builds(Branch, st.lists(inner, max_size=3).map(tuple), st.none() | LEAVES, inner),
    )


VALUES = st.recursive(ATOMS | LEAVES, nested, max_leaves=20)


def seen(value: Any) -> Any:
    """All that it is made of: `==` leaves some out, and takes 1 for True."""
    match value:
        case Leaf():
            return value.name, value.number, value.unseen
        case Branch():
            return "branch", seen(value.parts), seen(value.leaf), seen(value.more)
        case tuple():
            return tuple, [seen(one) for one in value]
        case dict() | PersistentMap():
            return type(value), {key: seen(one) for key, one in value.items()}
        case _:
            return type(value), value


@given(st.lists(VALUES, min_size=2, max_size=5), st.integers(1, 12))
@example([(Leaf("a", 1, 0),), (Leaf("a", 1, 2),)], 5)
@example([(1, 0), (True, 0)], 5)
def test_any_sequence_of_values_ends_in_the_same(values: list[Any], piece: int) -> None:
    whole, delta.PIECE = delta.PIECE, piece
    try:
        told = delta.hollow(values[0])
        before = told
        for value in values:
            told = reduce(delta.apply, filter(None, delta.pieces(before, value)), told)
            assert seen(told) == seen(value)
            before = value
    finally:
        delta.PIECE = whole


@given(st.integers(), st.integers(300, 400), st.integers(0, 5000), LEAVES)
def test_a_change_costs_what_has_changed(seed: int, count: int, key: int, leaf: Leaf) -> None:
    some = Random(seed)  # noqa: S311 - no secret
    entries = {
        n: Leaf(some.choice("ab"), some.randrange(3), some.randrange(3))
        for n in some.sample(range(5001), count)
    }
    before = Branch(more=PersistentMap(entries))
    after = Branch(more=before.more.updated({key: leaf}))
    told = [change for piece in delta.pieces(before, after) if piece for change in piece]
    assert len(told) <= 3  # a leaf that is not compared whole has three fields
    assert all(path[:2] == (2, key) for path, _ in told)
