from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from anycast.core.health.aim import aimed
from anycast.core.health.compose import compose, leaves
from anycast.core.health.phase import Health, Phase
from anycast.core.values.configuration import Check, Leaf, Part, Rule, TcpCheck, Tree

LEAVES = tuple(Check(kind=TcpCheck(port=port)) for port in range(1, 6))


def rule(needed: int, *trees: Tree, weights: tuple[int, ...] = ()) -> Rule[Leaf]:
    weights = weights or (1,) * len(trees)
    named = enumerate(zip(trees, weights, strict=True))
    parts: tuple[Part[Leaf], ...] = tuple(
        Part(name="abcde"[n], check=tree, weight=weight) for n, (tree, weight) in named
    )
    return Rule(needed=needed, parts=parts)


def health(tree: Rule[Leaf], *known: Health) -> Health:
    table = dict(zip(LEAVES, known, strict=False))

    def look(leaf: Leaf) -> Health:
        return table.get(leaf, Health()) if isinstance(leaf, Check) else Health()

    return compose(tree, look)


def up(since: float = 0.0, detail: str = "") -> Health:
    return Health(phase=Phase.UP, since=since, detail=detail)


def down(since: float = 0.0, detail: str = "refused") -> Health:
    return Health(phase=Phase.DOWN, since=since, detail=detail)


A, B, C, D, _ = LEAVES


def test_all_holds_while_every_part_does() -> None:
    both = rule(2, A, B)
    assert health(both, up(), up()) == Health(phase=Phase.UP)
    assert health(both, up(), down()).phase is Phase.DOWN
    assert health(both, up()).phase is Phase.UNDECIDED
    assert health(both, down()).phase is Phase.DOWN


def test_any_holds_while_one_part_does_and_tells_of_the_other_as_a_warning() -> None:
    either = rule(1, A, B)
    found = health(either, down(), up())
    assert (found.phase, found.detail, found.warned) == (Phase.UP, "a: refused", True)
    assert health(either, down()).phase is Phase.UNDECIDED
    assert health(either, down(), down()).detail == "a: refused; b: refused"


def test_weights_are_summed() -> None:
    heavy = rule(3, A, B, C, weights=(2, 1, 1))
    assert health(heavy, up(), down(), up()).phase is Phase.UP
    assert health(heavy, down(), up(), up()).phase is Phase.DOWN


def test_falling_still_counts_as_up_and_rising_as_down() -> None:
    falling, rising = Health(phase=Phase.FALLING, detail="x"), Health(phase=Phase.RISING)
    assert health(rule(1, A), falling).phase is Phase.UP
    assert health(rule(1, A), rising).phase is Phase.DOWN


def test_rules_nest() -> None:
    nested = rule(2, A, rule(1, B, C))
    assert health(nested, up(), down(), up()).phase is Phase.UP
    assert health(nested, up(), down(), down()).detail == "b: a: refused; b: refused"
    assert list(leaves(nested)) == [A, B, C]


def test_a_part_that_could_not_be_checked_is_told_and_changes_nothing() -> None:
    found = health(rule(2, A, B), up(), Health(phase=Phase.UP, unknown_since=3.0, detail="no descriptors"))
    assert (found.phase, found.unknown, found.detail) == (Phase.UP, True, "b: no descriptors")


def test_since_is_when_the_rule_came_to_hold_or_ceased_to() -> None:
    two = rule(2, A, B, C)
    assert health(two, up(1), up(5), up(9)).since == 5
    assert health(two, down(1), down(5), up(9)).since == 5
    assert health(rule(1, A, B), up(1), down(9)).since == 1


def test_many_parts_that_are_down_are_not_all_told() -> None:
    tree = Rule(needed=8, parts=tuple(Part(name=str(n), check=LEAVES[0]) for n in range(8)))
    assert health(tree, down()).detail.endswith("4: refused; and 3 more")


@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([up(), down(), Health()])), min_size=1, max_size=5),
    st.data(),
)
def test_a_rule_is_decided_exactly_when_no_undecided_part_could_turn_it(
    parts: list[tuple[int, Health]], data: st.DataObject
) -> None:
    total = sum(weight for weight, _ in parts)
    needed = data.draw(st.integers(1, total))
    tree = rule(needed, *LEAVES[: len(parts)], weights=tuple(weight for weight, _ in parts))
    found = health(tree, *(one for _, one in parts))
    best = sum(weight for weight, one in parts if one.phase is not Phase.DOWN)
    worst = sum(weight for weight, one in parts if one.phase is Phase.UP)
    if worst >= needed:
        assert found.phase is Phase.UP
    elif best < needed:
        assert found.phase is Phase.DOWN
    else:
        assert found.phase is Phase.UNDECIDED


def test_a_rule_that_is_in_it_many_times_is_looked_at_once() -> None:
    """Ten levels of three times the next are 59,049 checks, and one."""
    looked: list[Leaf] = []

    def look(leaf: Leaf) -> Health:
        looked.append(leaf)
        return up()

    deep = rule(1, A)
    for _ in range(10):
        deep = rule(3, deep, deep, deep)
    assert compose(deep, look).phase is Phase.UP
    assert looked == [A]


def test_a_rule_that_is_in_it_many_times_is_aimed_once() -> None:
    deep = rule(1, A)
    for _ in range(10):
        deep = rule(3, deep, deep, deep)
    there = aimed(deep, IPv4Address("10.0.0.1"), 80)
    assert isinstance(there, Rule)
    assert there.parts[0].check is there.parts[2].check


def test_the_detail_of_rules_in_rules_stays_short() -> None:
    deep = rule(1, A)
    for _ in range(6):
        deep = rule(5, deep, deep, deep, deep, deep)
    assert len(health(deep, down(detail="no answer within 500 ms")).detail) == 500
