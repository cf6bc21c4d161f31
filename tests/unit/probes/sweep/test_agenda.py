from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from anycast.probes.sweep.agenda import Agenda

INSTANTS = st.integers(0, 20).map(float)
ACTS = st.lists(st.tuples(st.just("add"), INSTANTS) | st.tuples(st.just("take"), INSTANTS), max_size=60)


@given(ACTS)
def test_items_come_out_in_the_order_of_their_instants_and_not_before_them(
    acts: list[tuple[str, float]],
) -> None:
    agenda: Agenda[tuple[float, int]] = Agenda()
    model: list[tuple[float, int]] = []
    for number, (act, instant) in enumerate(acts):
        if act == "add":
            agenda.add(instant, (instant, number))
            model.append((instant, number))
        else:
            first = agenda.first()
            found = agenda.take(instant)
            least = min((at for at, _ in model), default=None)
            if least is None or least > instant:
                assert found is None
            else:
                assert found is not None
                assert found[0] == least
                assert first == (least, found)
                model.remove(found)
        assert len(agenda) == len(model)


def test_those_of_one_instant_that_are_added_in_order_come_out_in_order() -> None:
    agenda: Agenda[str] = Agenda()
    for name in "abc":
        agenda.add(1.0, name)
    assert [agenda.take(1.0) for _ in range(4)] == ["a", "b", "c", None]


def test_an_empty_agenda_has_no_first() -> None:
    agenda: Agenda[str] = Agenda()
    assert agenda.first() is None
    assert agenda.take(1e9) is None
