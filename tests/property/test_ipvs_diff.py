"""Properties of the difference between two IPVS tables."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from anycast.core.dataplane.ipvs import (
    ORDER_SENSITIVE,
    Key,
    Table,
    diff,
    forgotten,
    known,
    persistent,
    play,
    same,
)
from anycast.core.values.persistent import changed
from tests.property.worlds import KEYS, tables


def _equal(left: Table, right: Table) -> bool:
    return set(left) == set(right) and all(same(left[key], right[key]) for key in left)


@given(tables(), tables())
def test_playing_the_difference_reaches_what_is_desired(actual: Table, desired: Table) -> None:
    reached = play(actual, diff(actual, desired, ours=actual))
    assert _equal(reached, desired)


@given(tables())
def test_there_is_no_difference_between_equals(table: Table) -> None:
    assert diff(table, table, ours=table) == ()


@given(tables(), tables())
def test_somebody_elses_services_are_not_touched(actual: Table, desired: Table) -> None:
    reached = play(actual, diff(actual, desired))
    for key in actual:
        if key not in desired:
            assert reached[key] == actual[key]


@given(tables(), tables())
def test_stopping_anywhere_leaves_a_table_from_which_the_desired_one_is_reached(
    actual: Table, desired: Table
) -> None:
    ops = diff(actual, desired, ours=actual)
    for length in range(len(ops) + 1):
        halfway = play(actual, ops[:length])
        assert _equal(play(halfway, diff(halfway, desired, ours=actual)), desired)


@given(tables(), tables())
def test_stopping_half_way_never_leaves_fewer_destinations_than_either_table(
    actual: Table, desired: Table
) -> None:
    ops = diff(actual, desired, ours=actual)
    for length in range(len(ops) + 1):
        halfway = play(actual, ops[:length])
        for key in set(actual) & set(desired):
            have = {d.key for d in halfway[key].destinations}
            both = {d.key for d in actual[key].destinations} & {d.key for d in desired[key].destinations}
            assert both <= have


@given(tables(), tables())
def test_every_history_ends_in_the_same_order_where_the_scheduler_looks_at_it(
    one: Table, desired: Table
) -> None:
    from_nothing = play({}, diff({}, desired))
    from_one = play(one, diff(one, desired, ours=one))
    for key, entry in desired.items():
        if entry.scheduler in ORDER_SENSITIVE:
            assert _order(from_nothing, key) == _order(from_one, key)


def _order(table: Table, key: Key) -> list[object]:
    return [d.key for d in table[key].destinations]


@given(tables(), tables(), st.sets(st.sampled_from(KEYS)))
def test_a_difference_of_some_services_changes_those_and_no_others(
    actual: Table, desired: Table, only: set[Key]
) -> None:
    reached = play(actual, diff(actual, desired, ours=actual, only=only))
    for key in {*actual, *desired}:
        if key not in only:
            assert reached.get(key) is actual.get(key)
        elif key in desired:
            assert same(reached[key], desired[key])
        else:
            assert key not in reached


@given(tables(), tables())
def test_a_difference_of_all_services_in_an_order_is_the_difference(actual: Table, desired: Table) -> None:
    every = [*desired, *(key for key in actual if key not in desired)]
    assert diff(actual, desired, ours=actual, only=every) == diff(actual, desired, ours=actual)


@given(tables(), tables())
def test_what_is_played_leaves_everything_else_the_same_object(actual: Table, desired: Table) -> None:
    before = persistent(actual)
    ops = diff(before, desired, ours=actual)
    assert set(changed(before, play(before, ops))) <= {op.service for op in ops}
    assert before == actual


@given(tables(), tables())
def test_hidden_weights_are_known_again_where_only_some_services_are_looked_at(
    before: Table, after: Table
) -> None:
    """As a reading shares with the one before all services that nobody changed."""
    old = persistent(before)
    told = forgotten(old)
    new = forgotten(persistent(after))
    shared = told.updated(
        {key: entry for key, entry in new.items() if told.get(key) != entry},
        [key for key in told if key not in new],
    )
    whole = known(shared, old)
    assert known(shared, old, changed(told, shared)) == whole
    for key in set(before) & set(after):
        if told[key] is shared[key]:
            assert whole[key] is old[key]


@given(tables(), st.sets(st.sampled_from(KEYS)))
def test_weights_are_forgotten_of_the_services_that_are_named(table: Table, only: set[Key]) -> None:
    everything, some = forgotten(table), forgotten(table, only)
    assert {key: some[key] for key in table} == {
        key: everything[key] if key in only else table[key] for key in table
    }
