"""Two nodes with different pasts and the same present hold the same table: what the kernel chooses by is equal."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from anycast.core import events as ev
from anycast.core.dataplane import ipvs
from anycast.core.health.phase import Outcome
from anycast.core.values.configuration import Scheduler, Timing, Vip
from anycast.core.withdrawal import PATIENCE as LEAVE_PATIENCE
from tests.examples import dear
from tests.fakes import SETTLE, Node, vip
from tests.property.worlds import SORRY, busied, tampered, told

LEASE = Timing(
    lease_ttl=20.0
)  # renewed ten times as seldom as by default: most of what happens while a node waits

NUMBERS = (1, 2, 3, 4, 5)
SCOPES = [f"web/rs{number}" for number in NUMBERS]

vips = st.builds(
    vip,
    servers=st.lists(st.sampled_from(NUMBERS), min_size=2, max_size=5, unique=True).map(tuple),
    weight=st.integers(1, 3),
    scheduler=st.sampled_from([Scheduler.MH, Scheduler.MH, Scheduler.SH, Scheduler.WRR]),
    flags=st.just(frozenset()),
    both_families=st.booleans(),
    expire_failed=st.sampled_from([None, 0.0]),
    sorry=st.sampled_from([None, SORRY]),
)
some = st.lists(st.sampled_from((*NUMBERS, 6, 7)), min_size=1, max_size=6, unique=True)
acts = st.one_of(
    st.tuples(st.just("fail"), some),
    st.tuples(st.just("succeed"), some),
    st.tuples(st.just("drain"), st.sampled_from(SCOPES)),
    st.tuples(st.just("undrain"), st.sampled_from(SCOPES)),
    st.tuples(st.just("reload"), vips),
    st.tuples(st.just("connections"), st.integers(0, 2)),
    st.tuples(st.just("meddle"), st.integers(0, 4)),
    st.tuples(st.just("lose an answer"), vips),
    st.tuples(st.just("restart"), st.none()),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 7.0, 70.0])),
)
histories = st.lists(acts, max_size=10)


def started(one: Vip) -> Node:
    return Node(one, timing=LEASE)


def live(node: Node, history: list[tuple[str, object]]) -> Node:
    for act, what in history:
        match act, what:
            case "fail", list():
                node.checks(Outcome.FAIL, *what)
            case "succeed", list():
                node.checks(Outcome.OK, *what)
            case "drain", str():
                node.maintain(what)
            case "undrain", str():
                node.maintain(what, on=False)
            case "reload", Vip():
                node.reload(what)
            case "connections", int():
                _connections(node, what)
            case "meddle", int():
                _meddle(node, what)
            case "lose an answer", Vip():
                _lose(node, what)
            case "restart", None:
                node = _restarted(node)
            case "wait", float():
                node.wait(what)
            case _:
                raise AssertionError(act)
    return node


def _connections(node: Node, active: int) -> None:
    node.kernel = busied(node.kernel, lambda one, counts: ipvs.Connections(active))
    node.kernel_changed()


def _meddle(node: Node, place: int) -> None:
    """Somebody removes a real server by hand, or gives it another weight."""
    table = dict(node.kernel.table)
    for key, entry in table.items():
        one = entry.destinations[place % len(entry.destinations)] if entry.destinations else None
        if one is not None and place % 2:
            table[key] = replace(entry, destinations=tuple(d for d in entry.destinations if d != one))
        elif one is not None:
            other = replace(one, weight=9, table_weight=9)
            table[key] = replace(
                entry, destinations=tuple(other if d == one else d for d in entry.destinations)
            )
    node.kernel = tampered(node.kernel, table)
    node.kernel_changed()


def _lose(node: Node, wanted: Vip) -> None:
    """A change is carried out, and its answer is lost."""
    node.kernel_is_slow = True
    node.reload(wanted)
    if node.job is not None:
        node.kernel_breaks = "timed out"
        if isinstance(node.job, ev.ProgramKernel):
            node.play(node.job.ops)
        node.kernel_answers()
    node.kernel_breaks, node.kernel_is_slow = None, False
    if node.job is not None:
        node.kernel_answers()
    node.wait(1.0)


def _restarted(node: Node) -> Node:
    (present,) = node.state.config.vips
    again = Node(present, kept=node.saved or {}, found=node.kernel, timing=LEASE)
    again.saved = node.saved
    return again


def settled(node: Node, last: Vip, down: list[int]) -> Node:
    """The configuration and health of everybody, and time enough for what was under way."""
    node.reload(last)
    for scope in SCOPES:
        node.maintain(scope, on=False)
    node.checks(Outcome.OK, *(number for number in (*NUMBERS, 6, 7) if number not in down))
    if down:
        node.checks(Outcome.FAIL, *down, times=3)
    timing = node.state.config.timing
    node.wait(timing.server_drain + SETTLE + timing.lease_ttl + LEAVE_PATIENCE + 60.0)
    return node


def ours(node: Node) -> dict[ipvs.Key, ipvs.ServiceEntry]:
    """The services there should be. An agent that starts knows nothing of those that the one before it left."""
    return {
        key: replace(entry, destinations=tuple(_chosen_by(entry, one) for one in _ordered(entry)))
        for key, entry in node.kernel.table.items()
        if key in node.state.desired.table
    }


def _ordered(entry: ipvs.ServiceEntry) -> list[ipvs.Destination]:
    counts = entry.scheduler in ipvs.ORDER_SENSITIVE
    return list(entry.destinations) if counts else sorted(entry.destinations, key=ipvs.canonical)


def _chosen_by(entry: ipvs.ServiceEntry, one: ipvs.Destination) -> ipvs.Destination:
    """Without the hidden weight where no table is built with it."""
    hidden = one.table_weight if entry.scheduler == Scheduler.MH else 1
    return replace(one, table_weight=hidden)


def by_sorry(node: Node) -> list[bool]:
    return [facts.by_sorry for facts in node.state.services.values()]


def fingerprints(node: Node) -> dict[ipvs.Key, str]:
    snapshot = node.state.kernel.snapshot
    assert snapshot is not None
    return {
        key: ipvs.fingerprint(snapshot.table[key], wanted) for key, wanted in node.state.desired.table.items()
    }


@settings(max_examples=dear(200))
@given(
    one=st.tuples(vips, histories),
    other=st.tuples(vips, histories),
    last=vips,
    down=st.lists(st.sampled_from(NUMBERS), max_size=2, unique=True),
)
def test_any_two_histories_end_in_equal_kernel_tables_once_configuration_and_health_are_equal(
    one: tuple[Vip, list[tuple[str, object]]],
    other: tuple[Vip, list[tuple[str, object]]],
    last: Vip,
    down: list[int],
) -> None:
    left, right = (settled(live(started(first), history), last, down) for first, history in (one, other))
    # Where all the new ones fail, those that they replace go on: `servers_not_replaced`, which has a history.
    assume(not (left.state.kept or right.state.kept))
    fresh = settled(started(last), last, down)
    assert fingerprints(left) == fingerprints(right) == fingerprints(fresh)
    # Between the two marks it has a history too whether the sorry pool serves. The table is the same in either case.
    for node in (right, fresh):
        if by_sorry(node) == by_sorry(left):
            assert ours(left) == ours(node)
    assert left.state.kernel.reported == told(left.kernel, left.asked)


@settings(max_examples=dear(100))
@given(first=vips, history=histories)
def test_a_fingerprint_says_nothing_of_who_is_down(first: Vip, history: list[tuple[str, object]]) -> None:
    well, ill = settled(live(started(first), history), first, []), settled(started(first), first, [1])
    assert fingerprints(well) == fingerprints(ill)
