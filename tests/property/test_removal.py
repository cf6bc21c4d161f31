"""The guard against removals, for any two configurations."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from anycast.core.removal import Census, suspicions
from anycast.core.values.described import Percent

NAMES = st.frozensets(st.sampled_from([f"192.0.2.{n}" for n in range(12)]))
CENSUSES = st.builds(
    Census,
    vips=NAMES,
    servers=NAMES,
    parts=st.integers(0, 3),
    unended=st.frozensets(st.sampled_from(["anycast.yaml", "web.yaml"])),
    max_removed=st.integers(1, 100).map(Percent),
)


@given(CENSUSES)
def test_the_same_is_never_suspicious(one: Census) -> None:
    assert suspicions(one, one) == ()


@given(CENSUSES, NAMES, NAMES)
def test_what_only_adds_is_never_suspicious(
    one: Census, vips: frozenset[str], servers: frozenset[str]
) -> None:
    assert suspicions(one, replace(one, vips=one.vips | vips, servers=one.servers | servers)) == ()


@given(CENSUSES, CENSUSES)
def test_a_node_that_announces_something_never_ends_with_nothing_in_silence(
    one: Census, other: Census
) -> None:
    if one.vips and not other.vips:
        assert any("no VIP would be left" in said for said in suspicions(one, other))


@given(CENSUSES, CENSUSES, NAMES)
def test_who_removes_still_more_is_never_let_through_for_it(
    one: Census, other: Census, less: frozenset[str]
) -> None:
    if suspicions(one, other):
        worse = replace(other, vips=other.vips - less, servers=other.servers - less)
        assert suspicions(one, worse)


@given(CENSUSES, CENSUSES)
def test_what_goes_without_a_word_is_one_or_within_the_share(one: Census, other: Census) -> None:
    if suspicions(one, other):
        return
    for before, after in ((one.vips, other.vips), (one.servers, other.servers)):
        gone = len(before - after)
        assert gone <= 1 or gone * 100 <= len(before) * one.max_removed.value
