"""Every document the surface gives is as its schema says, and every key of it is explained there."""

from __future__ import annotations

import copy
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from prometheus_client.exposition import choose_encoder

from anycast.core import events as ev
from anycast.core.dataplane.ipvs import Connections, Destination
from anycast.core.dataplane.kernel import Snapshot
from anycast.core.maintenance.clocks import End, Expiry
from anycast.core.maintenance.stages import FILE, NODE, STOP, Maintenance, Stage
from anycast.core.prefixes import host_route
from anycast.core.values.configuration import Check, Config, HoldDown, Local, Protocol, TcpCheck, Vip
from anycast.core.values.persistent import PersistentMap
from anycast.core.values.report import FailedRoute, NeighborState
from anycast.core.vip.decide import Advertise, Reason
from anycast.ops import delta, feed, status, why
from anycast.ops.board import Boards
from anycast.ops.hub import Hub
from anycast.ops.metrics import MetricsText
from anycast.ops.mirror import Mirror
from anycast.ops.paths import CONTROL, READ, Operation, openapi, schema
from anycast.ops.source import Facts, Tally
from anycast.ops.traffic import keys_of
from tests.examples import dear
from tests.property.worlds import BOTH, EITHER, busied, requiring, tampered
from tests.property.worlds import told as worlds_told
from tests.unit.ops import flows, scenes
from tests.unit.ops.node import CONFIG, ROUTER, Node, healthy, vip

Destinations: TypeAlias = tuple[Destination, ...]

WALL = 1_800_000_000.0
EPOCH = WALL - 1000 + 0.05  # of the monotonic clock; nothing happens just when a second is full
ON = Maintenance(reason="new kernel", by="alice", since=WALL - 60)


def holding(one: Vip) -> Vip:
    """Held down for a while with the first fall."""
    rule = HoldDown(suppress=1.0, reuse=0.5, half_life=3.0, max_hold=3.0)
    check = Check(kind=TcpCheck(), rise=2, fall=1, hold_down=rule)
    services = tuple(replace(service, pool=replace(service.pool, check=check)) for service in one.services)
    return replace(one, services=services)


RICH = replace(
    CONFIG,
    vips=(
        requiring(holding(CONFIG.vips[0]), BOTH),
        vip("mail", "192.0.2.2"),
        vip("empty", "192.0.2.3", ports=()),
        replace(
            vip("dns", "192.0.2.4", "2001:db8:99::4", ports=()),
            local=(
                Local(protocol=Protocol.UDP, port=53, check=Check(kind=TcpCheck(), fall=1)),
                Local(port=53),
            ),
        ),
    ),
    require=EITHER,
)


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(schema(name))


def drained(node: Node) -> None:
    node.send(ev.MaintenanceSet(scope="web/rs1", entry=ON))


def in_maintenance(node: Node) -> None:
    node.send(ev.MaintenanceSet(scope=NODE, entry=ON))


def failing(node: Node) -> None:
    node.probe("10.9.2.1", "10.9.2.2", "192.0.2.4")


def unknown(node: Node) -> None:
    node.probe("10.9.2.1", unknown=True)


def unread(node: Node) -> None:
    node.kernel_error = "EPERM"
    node.send(ev.KernelFailed(reason="EPERM"))


def refused(node: Node) -> None:
    prefix = host_route(CONFIG.vips[0].addresses[0])
    node.report(announced=(), failed=(FailedRoute(prefix=prefix, why="no next hop"),), errors=2)


def silent(node: Node) -> None:
    node.send(ev.PluginConnected(source=2))
    node.report(neighbors=(NeighborState(address=ROUTER, state="down", changed=node.now),))


def without_plugin(node: Node) -> None:
    for source in tuple(node.state.plugins):
        node.send(ev.PluginLost(source=source))


def changed(node: Node) -> None:
    node.send(ev.Reconfigured(config=replace(RICH, vips=RICH.vips[1:])))


def stopping(node: Node) -> None:
    node.send(ev.StopRequested())


def passing(node: Node) -> None:
    node.send(ev.Tick(wall=EPOCH + node.now + 1.5), after=1.5)


def clock_set(node: Node) -> None:
    node.send(ev.Tick(wall=EPOCH + node.now + 100))


def ending(node: Node) -> None:
    wall = EPOCH + node.now
    entry = replace(ON, since=wall, end=End(at=wall + 2.5, lasts=True))
    node.send(ev.MaintenanceSet(scope="web", entry=entry))


def held(node: Node) -> None:
    wall = EPOCH + node.now
    entry = replace(ON, since=wall, end=End(at=wall + 2.5, then=Expiry.HOLD))
    node.send(ev.MaintenanceSet(scope="mail", entry=entry, skip_drain=True))


def touched(node: Node) -> None:
    node.send(ev.MaintenanceSet(scope=FILE, entry=replace(ON, by="file")))


def leaving(node: Node) -> None:
    node.send(ev.MaintenanceSet(scope=STOP, entry=ON))


def back(node: Node) -> None:
    for scope in (NODE, FILE, "web", "mail"):
        node.send(ev.MaintenanceSet(scope=scope, entry=None))


def _tells(node: Node, change: Callable[[Destinations], Destinations], *, deaf: bool = True) -> None:
    """Another program has been at the kernel's table. `deaf`: and ours cannot change it back."""
    table = {
        key: replace(entry, destinations=change(entry.destinations))
        for key, entry in node.kernel.table.items()
    }
    node.kernel, node.kernel_is_deaf = tampered(node.kernel, table), deaf
    node.send(ev.KernelRead(snapshot=worlds_told(node.kernel, node.asked)))


def _counts(node: Node, change: Callable[[Connections], Connections]) -> None:
    node.kernel = busied(node.kernel, lambda one, counts: change(counts))
    node.send(ev.KernelRead(snapshot=worlds_told(node.kernel, node.asked)))


def read_again(node: Node) -> None:
    _tells(node, lambda found: tuple(map(replace, found)), deaf=False)


def counted(node: Node) -> None:
    _counts(node, lambda counts: counts._replace(active=counts.active + 1))


def counted_idle(node: Node) -> None:
    _counts(node, lambda counts: counts._replace(inactive=counts.inactive + 3))


def weighed(node: Node) -> None:
    _tells(node, lambda found: (*found[:1], *(replace(one, weight=7) for one in found[1:])))


def turned_round(node: Node) -> None:
    _tells(node, lambda found: found[::-1])


def robbed(node: Node) -> None:
    _tells(node, lambda found: found[1:])


def carrying(node: Node) -> None:
    if node.kernel_error is None:
        flows.carry(node, flows.steady(3.0), steps=2)


HAPPENINGS: tuple[Callable[[Node], None], ...] = (
    drained,
    in_maintenance,
    failing,
    unknown,
    unread,
    refused,
    silent,
    without_plugin,
    changed,
    stopping,
    passing,
    clock_set,
    ending,
    held,
    touched,
    leaving,
    back,
    read_again,
    counted,
    counted_idle,
    weighed,
    turned_round,
    robbed,
    Node.probe,
    Node.report,
    carrying,
)


@settings(max_examples=60)
@given(st.sampled_from([healthy, Node]), st.lists(st.sampled_from(HAPPENINGS), max_size=8))
def test_whatever_happens_every_document_is_as_its_schema_says(
    begin: Callable[[Config], Node], happenings: list[Any]
) -> None:
    node = begin(RICH)
    for happening in happenings:
        happening(node)
    whole = status.document(node.state, now=node.now, wall=WALL, version="1", pid=2, traffic=node.traffic)
    validator("status").validate(json.loads(json.dumps(whole)))
    for one in node.state.config.vips:
        body = why.document(node.state, one, node.tallies, now=node.now, wall=WALL)
        validator("why").validate(json.loads(json.dumps(body)))
    for event in node.events.after(0):
        validator("event").validate(json.loads(event.text))


@settings(max_examples=dear(60))
@given(
    st.sampled_from([healthy, Node]), st.lists(st.lists(st.sampled_from(HAPPENINGS), max_size=3), max_size=5)
)
def test_whatever_happens_the_ops_process_knows_what_the_agent_knows(
    begin: Callable[[Config], Node], steps: list[list[Any]]
) -> None:
    node, boards = begin(RICH), Boards()
    told = Told(node)
    scraped = MetricsText(told.mirror, version="1", clock=lambda: node.now, wall=lambda: EPOCH + node.now)
    for step in [[], *steps]:
        for happening in step:
            happening(node)
        told.tell()
        mirror = told.mirror
        assert mirror.facts == shown(node.facts)
        assert mirror.events.newest == node.events.newest
        assert [one.text for one in mirror.events.after(0)] == [one.text for one in node.events.after(0)]
        document = functools.partial(status.document, now=node.now, wall=EPOCH + node.now, version="1", pid=2)
        clock = status.Clock(now=node.now, wall=EPOCH + node.now)
        view = boards.of(mirror.facts.state).view(clock)
        assert document(mirror.facts.state, view=view) == document(node.state)
        anew = MetricsText(mirror, version="1", clock=lambda: node.now, wall=lambda: EPOCH + node.now)
        assert series(scraped, boards) == series(anew, Boards())
        for one in node.state.config.vips:
            assert document_of(mirror, one, node.now) == document_of(node, one, node.now)


def series(metrics: MetricsText, boards: Boards) -> list[bytes]:
    """All but those of processes, which are others each time."""
    state = metrics._source.facts.state
    body = metrics.read(boards.of(state), *choose_encoder(""))
    return [line for line in b"".join(body.plain()).splitlines() if b"process_" not in line]


def shown(facts: Facts) -> Facts:
    """What an ops process needs of them."""
    return feed.whole(feed.bare(facts), feed.derived(facts.state.config))


def document_of(source: Mirror | Node, one: Vip, now: float) -> dict[str, Any]:
    return why.document(source.facts.state, one, source.facts.tallies, now=now, wall=WALL)


class Told:
    """A node and what an ops process makes of it; every message is as small as it can be."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.mirror = Mirror()
        self._sent: Facts | None = None
        self._seen = 0

    def tell(self) -> list[bytes]:
        """The messages, once more without their length."""
        node = self.node
        facts = feed.bare(node.facts)
        sent = delta.hollow(facts) if self._sent is None else self._sent
        events = node.events.after(self._seen)
        number = self.mirror.revision + 1
        messages = [feed.Message(revision=number, facts=sent, more=True)] if self._sent is None else []
        changes = filter(None, delta.pieces(sent, facts))
        messages += [feed.Message(revision=number, changes=piece, more=True) for piece in changes]
        messages.append(feed.Message(revision=number, events=tuple(one.text for one in events), pid=4711))
        self._seen = node.events.newest
        self._sent = facts
        told = [feed.encode(message)[feed.LENGTH.size :] for message in messages]
        for data in told:
            self.mirror.take(feed.decode(data))
        return told


def test_what_has_not_changed_is_not_told_again() -> None:
    node = scenes.large(2000)
    told = Told(node)
    whole = told.tell()
    node.probe()
    node.send(ev.KernelRead(snapshot=told_again(node)))
    again = told.tell()
    assert sum(map(len, again)) < 5000 < sum(map(len, whole)) / 10
    assert len(whole) > 10
    down = node.state.config.vips[0].services[0].pool.servers[0].addresses[0]
    node.probe(str(down))
    assert sum(map(len, told.tell())) < 10_000


def test_traffic_is_told_of_where_there_was_some_and_the_ops_process_makes_the_rates() -> None:
    node = scenes.large(400, pool=2, load=flows.steady(0.0))
    told = Told(node)
    told.tell()
    one = node.state.config.vips[7]
    load: flows.Load = lambda key, _, __: 30.0 * (getattr(key, "address", None) in one.addresses)  # noqa: E731
    sizes = []
    for _ in range(3):
        flows.carry(node, load, steps=1)
        sizes.append(sum(map(len, told.tell())))
    assert max(sizes) < 4000
    keys = keys_of(one, one.services[0])
    rates = told.mirror.traffic.rates(keys, node.now)
    assert rates == node.traffic.rates(keys, node.now)
    assert rates is not None
    assert rates.connections == 60.0
    row = Boards().of(node.state).blocks[one.name, one.services[0].name].rows[0]
    assert told.mirror.traffic.of_server(row, node.now) == node.traffic.of_server(row, node.now)


def told_again(node: Node) -> Snapshot:
    """A reading, all of it made anew."""
    return copy.deepcopy(worlds_told(node.kernel, node.asked))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({1: "a", 2: "b"}, {1: "a", 2: "c"}),
        ({1: "a", 2: "b", 3: "c"}, {1: "a", 3: "d", 4: "e"}),
        ({1: "a", 2: "b"}, {2: "b", 1: "a"}),
        ({}, {1: {2: 3}}),
        ({1: (1, 2)}, {1: (1, 3)}),
        ((1, 2), (1, 2, 3)),
        ((1, 2, 3), (1, 2)),
        ((1, 2, 3), (1, 3)),
        ((1, 3), (0, 1, 2, 3)),
        ({1: "a"}, PersistentMap({1: "a"})),
        (PersistentMap({1: "a", 2: "b"}), PersistentMap({2: "c", 3: "d"})),
        (PersistentMap(), PersistentMap({number: Tally(number, 0) for number in range(2000)})),
        (PersistentMap({number: number for number in range(2000)}), PersistentMap({5: 6})),
        (frozenset(range(5000)), frozenset(range(1, 5001))),
        ((), ()),
        (1, True),
        (None, 0),
        (Tally(1, 2), Tally(1, 3)),
        (frozenset({1}), frozenset({2})),
    ],
)
def test_a_delta_leads_from_the_one_to_the_other(old: object, new: object) -> None:
    led = followed(old, new)
    assert led == new
    assert type(led) is type(new)


def followed(old: Any, new: Any) -> Any:
    """What somebody has who had `old` and is told what has changed, in pieces."""
    return functools.reduce(delta.apply, filter(None, delta.pieces(old, new)), old)


def test_what_both_ends_work_out_is_what_the_agent_has() -> None:
    state = healthy(RICH).state
    assert feed.derived(RICH) == state.index


def test_a_target_keeps_its_place_in_a_process_of_another_hash() -> None:
    node = healthy(RICH)
    facts = node.facts
    message = feed.Message(revision=1, facts=facts, pid=1)
    code = """
import sys
from anycast.ops import feed
facts = feed.decode(sys.stdin.buffer.read()).facts
whole = feed.whole(facts, feed.derived(facts.state.config)).state
print(len(whole.index.targets), sum(one in whole.index.targets for one in whole.health))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=feed.encode(message)[feed.LENGTH.size :],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    names = str(len(node.state.index.targets)).encode()
    assert done.stdout.split() == [names, names]


def objects(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        if value.get("type") == "object" or "properties" in value:
            yield path, value
        for name, one in value.items():
            yield from objects(one, f"{path}/{name}")


@pytest.mark.parametrize("name", ["status", "why", "event"])
def test_every_key_is_explained_and_no_other_is_allowed(name: str) -> None:
    Draft202012Validator.check_schema(schema(name))
    for path, found in objects(schema(name)):
        if "properties" not in found:
            assert found["description"], path
            continue
        assert found["additionalProperties"] is False, path
        assert set(found["required"]) <= set(found["properties"]), path
        for key, one in found["properties"].items():
            assert one.get("description") or "$ref" in one, f"{path}: {key}"


def test_an_undocumented_key_is_found() -> None:
    node = healthy()
    whole = status.document(node.state, now=node.now, wall=WALL, version="1", pid=2)
    whole["vips"][0]["services"][0]["servers"][0]["surprise"] = 1
    assert [error.message for error in validator("status").iter_errors(whole)]


def test_the_words_of_the_schema_are_those_of_the_program() -> None:
    found = schema("status")["$defs"]["vip"]["properties"]
    assert found["reason"]["enum"] == list(Reason)
    assert found["advertise"]["enum"] == list(Advertise)
    assert found["stage"]["enum"] == list(Stage)


@pytest.mark.parametrize("operations", [READ, CONTROL])
def test_a_document_of_the_paths_has_every_one_of_them(operations: tuple[Operation, ...]) -> None:
    found = openapi(operations, version="1")
    assert {(path, method.upper()) for path, one in found["paths"].items() for method in one} == {
        (one.path, one.method) for one in operations
    }
    names = set(found["components"]["schemas"])
    refs = {
        word.removeprefix("#/components/schemas/")
        for word in json.dumps(found).replace('"', " ").split()
        if word.startswith("#/")
    }
    assert refs <= names, f"nowhere: {sorted(refs - names)}"


def test_events_of_a_hub_are_events() -> None:
    hub = Hub()
    hub.publish(
        "vip.verdict_changed", "info", {"vip": "web", "odd": {1, 2}, "long": "x" * 5000, "nan": float("nan")}
    )
    (event,) = hub.after(0)
    validator("event").validate(json.loads(event.text))
    assert len(event.text) < 2000
