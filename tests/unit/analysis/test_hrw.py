"""The kept largest hash, against the plain definition."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numpy")

import numpy as np

from anycast.analysis.hrw import HighestRandomWeight, mixed

NODES = 5
ALL = 2**32
MANY = 40_000  # more than one block


def finalizer(value: int) -> int:
    """MurmurHash3's, as it is published."""
    value ^= value >> 16
    value = value * 0x85EBCA6B % ALL
    value ^= value >> 13
    value = value * 0xC2B2AE35 % ALL
    return value ^ value >> 16


def of_definition(flow: int, up: list[bool]) -> int:
    there = [place for place, one in enumerate(up) if one]
    return max(there, key=lambda place: finalizer(flow ^ finalizer(place + 1)))


# With those of the nodes' keys the hash is 0, which is also what is kept before any node was tried.
EDGES = [0, 1, ALL - 1, *(finalizer(place + 1) for place in range(NODES))]
UPS = st.lists(st.booleans(), min_size=NODES, max_size=NODES).filter(any)


@settings(max_examples=200, deadline=None)
@given(flows=st.lists(st.integers(0, ALL - 1), max_size=50), ups=st.lists(UPS, min_size=1, max_size=6))
def test_whatever_leaves_and_returns_the_node_is_that_of_the_definition(
    flows: list[int], ups: list[list[bool]]
) -> None:
    flows = EDGES + flows
    found = HighestRandomWeight(np.array(flows, dtype=np.uint32), NODES)
    for up in ups:
        assert found.nodes(up).tolist() == [of_definition(flow, up) for flow in flows]


def test_more_flows_than_are_looked_at_together() -> None:
    flows = np.random.default_rng(1).integers(0, ALL, MANY, dtype=np.uint32)
    found = HighestRandomWeight(flows, NODES)
    for up in ([True] * NODES, [True, False, True, True, False], [False, True, True, False, True]):
        assert found.nodes(up).tolist() == [of_definition(int(flow), up) for flow in flows]


def test_the_hash_is_the_published_one() -> None:
    values = [*EDGES, *range(2, 1_000)]
    assert mixed(np.array(values, dtype=np.uint32)).tolist() == [finalizer(value) for value in values]
