from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

from anycast.core.values.lease import full_lease, next_lease
from anycast.core.values.route import Route
from anycast.lease import LeaseChange, change_of
from anycast.plugin.mirror import Mirror

A, B = ip_network("192.0.2.1/32"), ip_network("192.0.2.2/32")
ROUTE_A, ROUTE_B = Route(prefix=A, med=100), Route(prefix=B)
WHOLE = full_lease(seq=1, issued=1.0, ttl=2.0, routes=(ROUTE_A,), owned=(A, B))
NEXT = next_lease(
    base=1,
    digest=WHOLE.digest,
    before=WHOLE.routes,
    owned_before=WHOLE.owned,
    seq=2,
    issued=1.5,
    ttl=2.0,
    routes={B: ROUTE_B},
    owned=frozenset({B}),
)
CHANGE = change_of(NEXT, WHOLE.owned)


def mirror() -> Mirror:
    one = Mirror()
    one.connected()
    assert one.asks
    assert one.take(WHOLE)
    assert not one.asks
    one.touched()
    return one


def test_a_difference_that_is_proven_is_taken_and_names_what_it_touches() -> None:
    one = mirror()
    assert one.take(CHANGE)
    assert (one.routes, one.owned, one.seq, one.issued) == ({B: ROUTE_B}, {B}, 2, 1.5)
    assert one.touched() == {A, B}
    assert one.touched() == set()


@pytest.mark.parametrize(
    "wrong",
    [
        replace(CHANGE, base=0),
        replace(CHANGE, digest=CHANGE.digest ^ 1),
        replace(CHANGE, gone=(A, A)),
        replace(CHANGE, gone=(ip_network("192.0.2.3/32"),)),
        replace(CHANGE, changed=(ROUTE_B, ROUTE_B)),
        replace(CHANGE, changed=(ROUTE_B, ROUTE_A)),
        replace(CHANGE, owned=(B,)),
        replace(CHANGE, disowned=(A, A)),
    ],
    ids=[
        "base",
        "digest",
        "twice gone",
        "not there",
        "twice changed",
        "both",
        "owned before",
        "disowned twice",
    ],
)
def test_one_that_proves_nothing_changes_nothing_and_the_full_set_is_asked_for(wrong: LeaseChange) -> None:
    one = mirror()
    assert not one.take(wrong)
    assert one.asks
    assert (one.routes, one.owned, one.seq, one.issued) == ({A: ROUTE_A}, {A, B}, 1, 1.0)
    assert one.touched() == set()
    assert one.take(replace(NEXT, base=None, changed=(), gone=()))
    assert one.routes == {B: ROUTE_B}
    assert one.touched() is None


def test_the_set_of_an_agent_that_counts_otherwise_is_followed_and_nothing_stands_on_it() -> None:
    one = Mirror()
    one.connected()
    assert one.take(replace(WHOLE, digest=WHOLE.digest + 1))
    assert one.routes == {A: ROUTE_A}
    assert not one.asks
    assert not one.take(replace(CHANGE, digest=CHANGE.digest + 1))
    assert one.asks


def test_nothing_of_a_new_connection_stands_on_the_one_before() -> None:
    one = mirror()
    one.connected()
    assert not one.take(CHANGE)
    assert one.routes == {A: ROUTE_A}
