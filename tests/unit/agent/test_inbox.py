from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from anycast.agent.inbox import SLICE, Inbox
from anycast.core import events as ev
from anycast.core.health.phase import Outcome, Result
from anycast.core.maintenance.stages import NODE
from anycast.core.values.configuration import Check, Target, TcpCheck

CHECK = Check(kind=TcpCheck())
OK = Result(outcome=Outcome.OK)
FAIL = Result(outcome=Outcome.FAIL)
COMMAND = ev.MaintenanceSet(scope=NODE, entry=None)
READING = ev.KernelChanged()


def target(number: int) -> Target:
    return Target(address=IPv4Address(number), port=80, check=CHECK)


def inbox() -> Inbox:
    return Inbox(lambda _: True)


def everything(inbox: Inbox, *, cost: float = 0.0) -> list[ev.Event]:
    """All that comes out; a result costs so many seconds."""
    found = []
    while (event := inbox.take()) is not None:
        found.append(event)
        if isinstance(event, ev.Probed):
            inbox.took(event, cost * len(event.results))
    return found


def slices(events: list[ev.Event]) -> list[int]:
    return [len(event.results) for event in events if isinstance(event, ev.Probed)]


def results(events: list[ev.Event]) -> list[tuple[Target, Result]]:
    return [one for event in events if isinstance(event, ev.Probed) for one in event.results]


def test_an_empty_inbox_has_nothing() -> None:
    assert inbox().take() is None
    assert not inbox()


def test_down_goes_before_commands_and_up_and_readings() -> None:
    full = inbox()
    full.put(READING)
    full.report(target(1), OK)
    full.put(COMMAND)
    full.report(target(2), FAIL)
    assert everything(full) == [
        ev.Probed(results=((target(2), FAIL),)),
        COMMAND,
        ev.Probed(results=((target(1), OK),)),
        READING,
    ]


def test_a_failure_of_what_is_down_already_has_no_precedence() -> None:
    full = Inbox(lambda one: one == target(2))
    for number in (1, 2):
        full.report(target(number), FAIL)
    assert results(everything(full)) == [(target(2), FAIL), (target(1), FAIL)]


def test_what_a_target_said_before_it_failed_goes_ahead_with_the_failure() -> None:
    full = inbox()
    full.report(target(1), OK)
    full.report(target(2), OK)
    full.report(target(2), FAIL)
    full.report(target(2), OK)
    assert results(everything(full)) == [
        (target(2), OK),
        (target(2), FAIL),
        (target(2), OK),
        (target(1), OK),
    ]


def test_slices_are_as_large_as_what_was_measured_allows() -> None:
    full = inbox()
    for number in range(1000):
        full.report(target(number), FAIL)
    found = slices(everything(full, cost=SLICE / 50))
    assert found[:3] == [16, 32, 50]
    assert set(found[2:-1]) == {50}
    assert sum(found) == 1000


def test_a_slice_has_some_results_however_much_they_cost() -> None:
    full = inbox()
    for number in range(20):
        full.report(target(number), FAIL)
    assert slices(everything(full, cost=2 * SLICE)) == [16, 4]


def test_few_results_say_nothing_of_how_many_could_come_together() -> None:
    full = inbox()
    for number in range(1000):
        full.report(target(number), FAIL)
        full.took(full.take() or READING, SLICE / 2)
    for number in range(100):
        full.report(target(number), FAIL)
    assert slices(everything(full))[0] == 16


def test_after_a_dear_slice_the_next_are_small_though_they_are_cheap() -> None:
    full = inbox()
    for number in range(1000):
        full.report(target(number), FAIL)
    sizes = []
    for cost in (0.0, 0.0, SLICE / 10, 0.0, 0.0, 0.0, 0.0):
        event = full.take()
        assert isinstance(event, ev.Probed)
        sizes.append(len(event.results))
        full.took(event, cost * len(event.results))
    assert sizes == [16, 32, 64, 16, 16, 16, 16]


def test_what_costs_nothing_does_not_grow_without_end() -> None:
    full = inbox()
    for number in range(20000):
        full.report(target(number), OK)
    assert max(slices(everything(full))) == 64


def test_while_a_rack_dies_commands_and_readings_have_their_turn() -> None:
    full = inbox()
    for number in range(1000):
        full.report(target(number), FAIL)
    full.put(READING)
    full.put(COMMAND)
    found = everything(full, cost=SLICE)
    assert found.index(COMMAND) == 2
    assert found.index(READING) == 8


def test_a_flood_of_commands_leaves_the_failures_every_other_turn() -> None:
    full = inbox()
    for number in range(100):
        full.report(target(number), FAIL)
    for _ in range(200):
        full.put(COMMAND)
    found = everything(full, cost=SLICE)
    last = max(place for place, event in enumerate(found) if isinstance(event, ev.Probed))
    assert last < 2 * len(slices(found))


def test_results_that_prove_nothing_any_more_are_forgotten() -> None:
    full = inbox()
    full.report(target(1), OK)
    full.report(target(2), FAIL)
    full.put(COMMAND)
    full.forget_results()
    assert everything(full) == [COMMAND]


ARRIVALS = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 5), st.sampled_from([OK, FAIL])),
        st.builds(ev.PluginLost, source=st.integers(0, 3)),
        st.builds(ev.MaintenanceSet, scope=st.sampled_from(["a", "b"]), entry=st.none()),
        st.none(),
    ),
    max_size=60,
)


@given(ARRIVALS)
def test_nothing_is_lost_and_what_belongs_together_keeps_its_order(arrivals: list[object]) -> None:
    """None: something is taken out."""
    full, put, taken = inbox(), list[object](), list[ev.Event]()
    for arrival in arrivals:
        match arrival:
            case (int(number), Result() as result):
                full.report(target(number), result)
                put.append((target(number), result))
            case ev.PluginLost() | ev.MaintenanceSet():
                full.put(arrival)
                put.append(arrival)
            case _:
                event = full.take()
                if event is not None:
                    taken.append(event)
    taken += everything(full)
    for number in range(6):
        mine = target(number)
        said = [one for one in put if isinstance(one, tuple) and one[0] == mine]
        assert [one for one in results(taken) if one[0] == mine] == said
    for kind in (ev.PluginLost, ev.MaintenanceSet):
        assert [one for one in taken if isinstance(one, kind)] == [
            one for one in put if isinstance(one, kind)
        ]


def test_of_many_those_of_one_service_go_together() -> None:
    services = {target(number): [target(each) for each in range(number % 3, 60, 3)] for number in range(60)}
    inbox = Inbox(lambda _: False, services.__getitem__)
    for number in range(60):
        inbox.report(target(number), Result(outcome=Outcome.OK))
    seen: list[Target] = []
    while (event := inbox.take()) is not None:
        assert isinstance(event, ev.Probed)
        seen += [one for one, _ in event.results]
    assert seen[:16] == services[target(0)][:16]
    assert len(seen) == len(set(seen)) == 60
