"""A PersistentMap against a plain dict: whatever is changed, the same entries; and successors share what is left."""

from __future__ import annotations

import pickle

from hypothesis import given
from hypothesis import strategies as st

from anycast.core.values.persistent import PersistentMap, changed

KEYS = st.integers(0, 400)
STEPS = st.lists(
    st.tuples(st.dictionaries(KEYS, st.integers(), max_size=60), st.lists(KEYS, max_size=60)), max_size=12
)


@given(first=st.dictionaries(KEYS, st.integers(), max_size=300), steps=STEPS)
def test_it_is_what_a_dict_would_be(
    first: dict[int, int], steps: list[tuple[dict[int, int], list[int]]]
) -> None:
    plain, persistent = dict(first), PersistentMap(first)
    for changes, gone in steps:
        before, kept = persistent, dict(plain)
        for key in gone:
            plain.pop(key, None)
        plain.update(changes)
        persistent = persistent.updated(changes, gone)
        assert dict(persistent) == plain
        assert len(persistent) == len(plain)
        assert persistent == plain
        assert persistent == PersistentMap(plain)
        assert (persistent == before) == (plain == kept)
        assert dict(before) == kept  # what was handed out stays
        assert all(persistent[key] == value and key in persistent for key, value in plain.items())
        assert all(persistent.get(key) == plain.get(key) for key in range(400))
        assert pickle.loads(pickle.dumps(persistent)) == plain  # noqa: S301 - our own bytes


@given(
    first=st.dictionaries(KEYS, st.integers(0, 3).map(lambda n: (n,)), max_size=300),
    changes=st.dictionaries(KEYS, st.integers(0, 3).map(lambda n: (n,)), max_size=300),
    gone=st.lists(KEYS, max_size=300),
)
def test_what_differs_is_found(
    first: dict[int, tuple[int]], changes: dict[int, tuple[int]], gone: list[int]
) -> None:
    old = PersistentMap(first)
    new = old.updated(changes, gone)
    none = object()
    wanted = {key for key in {*first, *changes} if old.get(key, none) is not new.get(key, none)}
    assert set(changed(old, new)) == wanted
    assert set(changed(dict(old), new)) == wanted
    assert (new is old) == (not wanted)


def test_a_successor_shares_all_but_one_shard() -> None:
    old = PersistentMap({number: (number,) for number in range(10_000)})
    new = old.updated({77: (0,)})
    assert sum(one is not two for one, two in zip(old.shards, new.shards, strict=True)) == 1
