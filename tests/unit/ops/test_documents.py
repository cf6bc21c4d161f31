"""Every document the surface gives is as its schema says, and every key of it is explained there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from anycast.core import events as ev
from anycast.core.dataplane.ipvs import Destination
from anycast.core.maintenance.stages import FILE, NODE, STOP, End, Expiry, Maintenance, Stage
from anycast.core.state import prefix_of
from anycast.core.values.configuration import Check, Config, HoldDown, TcpCheck, Vip
from anycast.core.values.report import FailedRoute, NeighborState
from anycast.core.vip.decide import Advertise, Reason
from anycast.ops import status, why
from anycast.ops.board import Board, StatusText
from anycast.ops.hub import Hub
from anycast.ops.paths import CONTROL, READ, openapi, schema
from tests.property.worlds import BOTH, EITHER, requiring, told
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
    node.probe("10.9.2.1", "10.9.2.2")


def unknown(node: Node) -> None:
    node.probe("10.9.2.1", unknown=True)


def unread(node: Node) -> None:
    node.kernel_error = "EPERM"
    node.send(ev.KernelFailed(reason="EPERM"))


def refused(node: Node) -> None:
    prefix = prefix_of(CONFIG.vips[0].addresses[0])
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
    node.kernel, node.kernel_is_deaf = replace(node.kernel, table=table), deaf
    node.send(ev.KernelRead(snapshot=told(node.kernel)))


def read_again(node: Node) -> None:
    _tells(node, lambda found: tuple(map(replace, found)), deaf=False)


def counted(node: Node) -> None:
    _tells(
        node,
        lambda found: (*(replace(one, active=one.active + 1) for one in found[:1]), *found[1:]),
        deaf=False,
    )


def counted_idle(node: Node) -> None:
    _tells(node, lambda found: tuple(replace(one, inactive=one.inactive + 3) for one in found))


def weighed(node: Node) -> None:
    _tells(node, lambda found: (*found[:1], *(replace(one, weight=7) for one in found[1:])))


def turned_round(node: Node) -> None:
    _tells(node, lambda found: found[::-1])


def robbed(node: Node) -> None:
    _tells(node, lambda found: found[1:])


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
)


@settings(max_examples=60)
@given(st.sampled_from([healthy, Node]), st.lists(st.sampled_from(HAPPENINGS), max_size=8))
def test_whatever_happens_every_document_is_as_its_schema_says(
    begin: Callable[[Config], Node], happenings: list[Any]
) -> None:
    node = begin(RICH)
    for happening in happenings:
        happening(node)
    whole = status.document(node.state, now=node.now, wall=WALL, version="1", pid=2)
    validator("status").validate(json.loads(json.dumps(whole)))
    for one in node.state.config.vips:
        body = why.document(node.state, one, node.tallies, now=node.now, wall=WALL)
        validator("why").validate(json.loads(json.dumps(body)))
    for event in node.events.after(0):
        validator("event").validate(json.loads(event.text))


@settings(max_examples=60)
@given(st.lists(st.lists(st.sampled_from(HAPPENINGS), max_size=3), max_size=5))
def test_what_is_kept_between_two_readings_says_what_a_fresh_document_says(steps: list[list[Any]]) -> None:
    node = healthy(RICH)
    text = StatusText(
        node, Board(), version="1", pid=2, clock=lambda: node.now, wall=lambda: EPOCH + node.now
    )

    async def read() -> None:
        for step in [[], *steps]:
            for happening in step:
                happening(node)
            node.now += 0.2
            fresh = status.document(
                node.state,
                now=node.now,
                wall=EPOCH + node.now,
                version="1",
                pid=2,
                reload_ok=node.reload_ok,
            )
            assert json.loads(await text.read()) == fresh

    asyncio.run(read())


def test_what_is_held_down_is_written_anew_while_nothing_but_time_changes() -> None:
    node = healthy(replace(CONFIG, vips=(holding(CONFIG.vips[0]),)))
    node.probe("10.9.2.1")
    text = StatusText(node, Board(), version="1", pid=2, clock=lambda: node.now, wall=lambda: WALL)

    async def read() -> list[tuple[float, str]]:
        found = []
        for seconds in (0.0, 1.0, 1.5, 1.0):
            node.now += seconds
            server = json.loads(await text.read())["vips"][0]["services"][0]["servers"][0]
            found.append((server["held_down_s"], server["detail"]))
        return found

    assert asyncio.run(read()) == [
        (3.0, "held down, it flapped: reusable in 3 s; refused"),
        (2.0, "held down, it flapped: reusable in 2 s; refused"),
        (0.5, "held down, it flapped: reusable in 0 s; refused"),
        (0.0, "refused"),
    ]


def test_a_clock_that_was_set_moves_every_instant() -> None:
    node = healthy()
    wall = WALL

    async def read() -> list[Any]:
        text = StatusText(node, Board(), version="1", pid=2, clock=lambda: node.now, wall=lambda: wall)
        return [json.loads(await text.read())["vips"][0]["services"][0]["servers"][0]["since"]]

    first = asyncio.run(read())
    wall += 3600
    assert first != asyncio.run(read())


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


def test_the_document_of_the_routes_has_every_one_of_them() -> None:
    found = openapi((*READ, *CONTROL), version="1")
    assert {(path, method.upper()) for path, one in found["paths"].items() for method in one} == {
        (route.path, route.method) for route in (*READ, *CONTROL)
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
