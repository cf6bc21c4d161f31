"""Properties of the difference between two IPVS tables."""

from __future__ import annotations

from hypothesis import given

from anycast.core.dataplane.ipvs import ORDER_SENSITIVE, Key, Table, diff, play, same
from tests.property.worlds import tables


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
