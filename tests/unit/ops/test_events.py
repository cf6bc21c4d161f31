"""Events in memory, as a stream, and on disk."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path

import pytest
from aiohttp import ClientResponse

from anycast.agent.events_file import EventsFile, load
from anycast.core import events as ev
from anycast.core.maintenance.stages import NODE, Maintenance
from anycast.ops import http
from anycast.ops.http import read_app
from anycast.ops.hub import Event, Hub, LaggedError, event_of, interest
from tests.unit.ops.node import CONFIG
from tests.unit.ops.test_connections import Site, play
from tests.unit.ops.test_http import JSON, Client, ask, running

ON = Maintenance(reason="disks", by="alice", since=1.0)


def published(count: int, *, kept: int = 1000) -> Hub:
    hub = Hub(kept=kept, wall=lambda: 1_800_000_000.25)
    for number in range(1, count + 1):
        hub.publish("server.up", "info", {"server": f"rs{number}"})
    return hub


def numbers(events: tuple[Event, ...] | list[Event]) -> list[int]:
    return [event.id for event in events]


def test_events_are_numbered_and_the_newest_are_kept() -> None:
    hub = published(12, kept=10)
    assert numbers(hub.after(0)) == list(range(3, 13))
    assert numbers(hub.after(10)) == [11, 12]
    assert hub.after(12) == ()
    assert hub.newest == 12


def test_a_number_of_another_history_begins_anew() -> None:
    assert numbers(published(3).after(500)) == [1, 2, 3]


def test_an_event_survives_its_own_line() -> None:
    (event,) = published(1).after(0)
    assert event_of(event.text) == event
    assert json.loads(event.text) == {
        "id": 1,
        "time": "2027-01-15T08:00:00.250Z",
        "event": "server.up",
        "level": "info",
        "fields": {"server": "rs1"},
    }


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "[]",
        "null",
        '{"id": 1}',
        "[" * 100_000,
        '{"id": "1", "time": "2027-01-15T08:00:00Z", "event": "a", "level": "info", "fields": {}}',
        '{"id": -1, "time": "2027-01-15T08:00:00Z", "event": "a", "level": "info", "fields": {}}',
        '{"id": 1, "time": "yesterday", "event": "a", "level": "info", "fields": {}}',
        '{"id": 1, "time": "2027-01-15T08:00:00Z", "event": "a", "level": "info", "fields": []}',
    ],
)
def test_a_line_that_is_no_event_is_none(line: str) -> None:
    assert event_of(line) is None


def test_a_stream_gives_what_was_and_then_what_comes() -> None:
    async def story() -> None:
        hub = published(3)
        with hub.follow(1) as stream:
            assert numbers(await stream.next(60)) == [2, 3]
            waiting = asyncio.create_task(stream.next(60))
            await asyncio.sleep(0)
            threading.Thread(target=hub.publish, args=("server.down", "warning", {})).start()
            assert numbers(await waiting) == [4]
            assert await stream.next(0) == ()

    asyncio.run(story())


def test_a_stream_begins_with_the_next_event_when_nothing_is_said() -> None:
    async def story() -> None:
        hub = published(3)
        with hub.follow() as stream:
            hub.publish("server.down", "warning", {})
            assert numbers(await stream.next(60)) == [4]

    asyncio.run(story())


def test_a_reader_for_whom_events_were_forgotten_is_told_so() -> None:
    async def story() -> None:
        hub = published(10, kept=10)
        with hub.follow(5) as stream:
            for _ in range(6):
                hub.publish("server.down", "warning", {})
            with pytest.raises(LaggedError):
                await stream.next(60)
        with hub.follow(0) as late:  # what was gone before it came is not its fault
            assert numbers(await late.next(60)) == list(range(7, 17))

    asyncio.run(story())


def test_events_go_on_after_those_of_the_agent_before() -> None:
    hub = published(2)
    kept: list[Event] = []
    hub.adopt([Event(id=41, time=1.0, name="agent.stopped", level="info", fields={})], kept.append)
    hub.publish("agent.started", "info", {})
    assert numbers(hub.after(0)) == [41, 42, 43, 44]
    assert numbers(kept) == [42, 43, 44]


@pytest.mark.parametrize(
    ("event", "fields", "about"),
    [
        ("vip.verdict_changed", {"vip": "web"}, {"web"}),
        ("server.down", {"services": ("web tcp/80", "mail tcp/80")}, {"web", "mail"}),
        ("server.down", {"services": ("webs tcp/80",)}, set()),
        ("check.down", {"services": ("vip mail",)}, {"mail"}),
        ("check.down", {"services": ("node",)}, {"web", "mail"}),
        ("requirement.failed", {"scope": "vip web tcp/80"}, {"web"}),
        ("maintenance.began", {"scope": "node"}, {"web", "mail"}),
        ("maintenance.began", {"scope": "mail"}, {"mail"}),
        ("maintenance.began", {"scope": "web/rs1"}, {"web"}),
        ("route.announced", {"prefix": "192.0.2.2/32"}, {"mail"}),
        ("server.removed", {"service": "tcp 192.0.2.1:443"}, {"web"}),
        ("server.connections_expired", {"services": ["tcp 192.0.2.1:443"]}, {"web"}),
        ("neighbor.changed", {"neighbor": "10.2.1.254"}, set()),
    ],
)
def test_what_is_about_a_vip_is_found(event: str, fields: dict[str, object], about: set[str]) -> None:
    one = Event(id=1, time=1.0, name=event, level="info", fields=fields)
    assert {vip.name for vip in CONFIG.vips if interest(CONFIG, vip).takes(one)} == about


# Over HTTP.


async def frame(response: ClientResponse) -> dict[str, str]:
    found: dict[str, str] = {}
    while (line := (await response.content.readline()).decode().rstrip("\n")) or not found:
        name, _, value = line.partition(": ")
        found[name] = value
    return found


async def event_from(response: ClientResponse) -> tuple[int, str]:
    while "data" not in (found := await frame(response)):
        pass
    body = json.loads(found["data"])
    assert body["id"] == int(found["id"])
    return body["id"], body["event"]


def test_events_come_as_they_happen_and_go_on_from_the_last_one_seen() -> None:
    node = running()

    async def questions(client: Client) -> None:
        async with client.get("/events") as response:
            assert response.headers["Content-Type"] == "text/event-stream"
            assert "retry" in await frame(response)
            node.send(ev.MaintenanceSet(scope=NODE, entry=ON))
            number, name = await event_from(response)
            assert (number, name) == (node.events.newest - 2, "maintenance.began")
        async with client.get("/events", headers={"Last-Event-ID": str(number)}) as response:
            assert await event_from(response) == (number + 1, "vip.verdict_changed")
            assert await event_from(response) == (number + 2, "vip.verdict_changed")
            node.send(ev.MaintenanceSet(scope=NODE, entry=None))
            assert await event_from(response) == (number + 3, "maintenance.ended")

    ask(read_app(node), questions)


def test_a_stream_may_be_about_one_vip() -> None:
    node = running()

    async def questions(client: Client) -> None:
        async with client.get("/events?vip=mail") as response:
            node.send(ev.MaintenanceSet(scope="web", entry=ON))
            node.send(ev.MaintenanceSet(scope="mail", entry=ON))
            assert (await event_from(response))[1] == "maintenance.began"
            number, name = await event_from(response)
            assert name == "vip.verdict_changed"
            assert number == node.events.newest

    ask(read_app(node), questions)


def test_a_silent_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "KEEP_ALIVE", 0.01)

    async def questions(client: Client) -> None:
        async with client.get("/events") as response:
            await frame(response)
            assert "" in await frame(response)  # a comment: its name is empty

    ask(read_app(running()), questions)


def test_events_are_json_for_who_asks_for_it() -> None:
    node = running()
    hub = node.events

    async def questions(client: Client) -> None:
        async with client.get("/events", headers=JSON) as response:
            body = await response.json()
        assert [one["id"] for one in body["events"]] == list(range(1, hub.newest + 1))
        assert body["newest"] == hub.newest
        async with client.get(f"/events?after={hub.newest - 1}", headers=JSON) as response:
            assert [one["id"] for one in (await response.json())["events"]] == [hub.newest]
        async with client.get("/events?since=99999999999", headers=JSON) as response:
            assert (await response.json())["events"] == []

    ask(read_app(node), questions)


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("after=x", "after: expected the number of an event, found 'x'"),
        ("after=-1", "after: expected the number of an event, found '-1'"),
        ("after=" + "9" * 30, "after: expected the number of an event, found '" + "9" * 30 + "'"),
        ("since=nan", "since: expected seconds since the epoch, found 'nan'"),
        ("sinec=1", "unknown parameter 'sinec' (known: after, since, vip)"),
        ("vip=web&vip=mail", "parameter 'vip' stands there twice"),
    ],
)
def test_a_wrong_question_is_refused(query: str, complaint: str) -> None:
    async def questions(client: Client) -> None:
        async with client.get(f"/events?{query}") as response:
            assert (response.status, await response.json()) == (400, {"error": complaint})

    ask(read_app(running()), questions)


def test_a_stream_of_a_vip_that_is_not_there_is_refused() -> None:
    async def questions(client: Client) -> None:
        async with client.get("/events?vip=nobody") as response:
            assert response.status == 404

    ask(read_app(running()), questions)


def test_a_reader_that_is_too_slow_is_disconnected_and_can_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "WRITE_TIME", 0.1)

    async def story(site: Site) -> None:
        slow = await site.connect(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n", small=4096)
        await slow.reader.readuntil(b"retry: 2000\n\n")
        hub = site.node.events
        while site.connections:
            hub.publish("server.down", "warning", {"detail": "x" * 1000})
            await asyncio.sleep(0)
        text = await slow.rest()
        seen = max(
            int(line[4:]) for line in text.splitlines() if line.startswith(b"id: ") and line[4:].isdigit()
        )
        assert 0 < seen < hub.newest
        again = await site.connect(
            b"GET /events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: %d\r\n\r\n" % (hub.newest - 1)
        )
        assert b"id: %d\n" % hub.newest in await again.reader.readuntil(b"data: ")

    play(story)


def test_events_with_their_numbers_are_taken_and_what_is_missing_between_is_forgotten() -> None:
    async def story() -> None:
        theirs, ours = published(20, kept=20), Hub(kept=20)
        ours.take(theirs.after(0)[:5])
        with ours.follow(3) as stream:
            ours.take(theirs.after(5)[:2])
            assert numbers(await stream.next(60)) == [4, 5, 6, 7]
            ours.take(theirs.after(15))
            with pytest.raises(LaggedError):
                await stream.next(60)
        assert numbers(ours.after(0)) == [16, 17, 18, 19, 20]

    asyncio.run(story())


# On disk.


def test_events_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state" / "events.jsonl"
    hub = Hub()
    journal = EventsFile(path, pytest.fail)
    hub.adopt(load(path), journal.put)
    hub.publish("agent.started", "info", {"pid": 1})
    hub.publish("agent.stopped", "info", {})
    assert journal.drain(60)
    again = Hub()
    again.adopt(load(path), journal.put)
    again.publish("agent.started", "info", {"pid": 2})
    assert [(one.id, one.name) for one in again.after(0)] == [
        (1, "agent.started"),
        (2, "agent.stopped"),
        (3, "agent.started"),
    ]


def test_damaged_and_cut_lines_are_passed_over_and_spoil_no_other(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    lines = [one.text for one in published(4).after(0)]
    path.write_bytes(f"{lines[0]}\n{lines[1][:20]}\n\xff\xfe\n{lines[2]}\n{lines[3][:-5]}".encode("latin-1"))
    assert numbers(load(path)) == [1, 3]
    journal = EventsFile(path, pytest.fail)
    hub = Hub()
    hub.adopt(load(path), journal.put)
    hub.publish("agent.started", "info", {})
    assert journal.drain(60)
    assert numbers(load(path)) == [1, 3, 4]


def test_the_files_stay_small_and_hold_as_many_as_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    journal = EventsFile(path, pytest.fail, kept=10)
    for event in published(57).after(0):
        journal.put(event)
    assert journal.drain(60)
    assert numbers(load(path, kept=10)) == list(range(48, 58))
    assert sum(len(file.read_text().splitlines()) for file in tmp_path.iterdir()) <= 20


def test_a_file_that_was_taken_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    journal = EventsFile(path, pytest.fail)
    first, second = published(2).after(0)
    journal.put(first)
    assert journal.drain(60)
    path.unlink()
    journal.put(second)
    assert journal.drain(60)
    assert numbers(load(path)) == [2]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_file_that_cannot_be_written_is_told_once_and_costs_nothing_else(tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "events.jsonl"
    path.symlink_to("/dev/full")
    told, over = threading.Event(), threading.Event()

    def complain(why: str) -> None:
        said.append(why)
        told.set()

    journal = EventsFile(path, complain, over.set, retry=0.01)
    hub = Hub()
    hub.adopt([], journal.put)
    for _ in range(3):
        hub.publish("agent.started", "info", {})
        assert told.wait(60)
    assert numbers(hub.after(0)) == [1, 2, 3]
    assert len(said) == 1
    assert "it is not a file" in said[0]
    path.unlink()
    hub.publish("agent.stopped", "info", {})
    assert over.wait(60)
    assert journal.drain(60)
    assert numbers(load(path)) == [1, 2, 3, 4]
