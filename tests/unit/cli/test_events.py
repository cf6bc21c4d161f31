"""`anycast events` and `anycast why`, as processes against a real control socket."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from pathlib import Path

import pytest

from anycast.cli.parser import parser
from anycast.core import events as ev
from anycast.core.maintenance.stages import Maintenance
from tests.unit.cli.test_node import against, serving
from tests.unit.ops.node import Node, Operator, healthy

ON = Maintenance(reason="disks\x1b[2J", by="alice", since=1.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def node() -> Node:
    return healthy(now=time.monotonic())


def test_events_are_lines_for_people_and_objects_for_programs(node: Node, path: Path) -> None:
    node.send(ev.MaintenanceSet(scope="web", entry=ON))
    people, programs, mail, late, nobody = against(
        Operator(node),
        path,
        ("events",),
        ("events", "--json"),
        ("events", "--vip", "mail", "--json"),
        ("events", "--since", "2099-01-01"),
        ("events", "--vip", "nobody"),
    )
    assert people.code == 0
    (line,) = [line for line in people.out.splitlines() if "maintenance.began" in line]
    assert "warning  maintenance.began  scope=web  reason=disks\\x1b[2J  by=alice" in line
    bodies = [json.loads(line) for line in programs.out.splitlines()]
    assert [body["id"] for body in bodies] == list(range(1, node.events.newest + 1))
    assert {body["fields"].get("vip") for body in map(json.loads, mail.out.splitlines())} <= {"mail", None}
    assert mail.out
    assert (late.code, late.out) == (0, "")
    assert (nobody.code, nobody.out) == (1, "")
    assert "there is no VIP 'nobody'" in nobody.err


def test_followed_events_come_and_go_on_over_a_restart_of_the_agent(node: Node, path: Path) -> None:
    async def run() -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "anycast", "events", "--follow", "--json", "--socket", str(path)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None

        async def read() -> str:
            assert process.stdout is not None
            return str(json.loads(await process.stdout.readline())["event"])

        past = node.events.newest
        for _ in range(past):
            await read()
        node.send(ev.MaintenanceSet(scope="web", entry=ON))
        assert await read() == "maintenance.began"
        restarted.set()
        assert b"waiting for it" in await process.stderr.readline()
        node.send(ev.MaintenanceSet(scope="web", entry=None))
        again.set()
        found = [await read() for _ in range(node.events.newest - past - 1)]
        assert "maintenance.ended" in found
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130

    restarted, again = asyncio.Event(), asyncio.Event()

    async def agents() -> None:
        async with serving(Operator(node), path):
            story = asyncio.create_task(run())
            await asyncio.wait({story, asyncio.create_task(restarted.wait())}, return_when="FIRST_COMPLETED")
        await asyncio.wait({story, asyncio.create_task(again.wait())}, return_when="FIRST_COMPLETED")
        async with serving(Operator(node), path):
            await story

    asyncio.run(agents())


def test_why_is_answered_by_words_and_by_the_exit_status(node: Node, path: Path) -> None:
    (well,) = against(Operator(node), path, ("why", "web"))
    assert well.code == 0
    assert well.out.startswith("web is announced (acknowledged by ExaBGP): everything it needs is in place\n")
    node.probe("10.9.2.1", "10.9.2.2")
    node.report()
    ill, body, nobody = against(
        Operator(node), path, ("why", "web"), ("why", "web", "--json"), ("why", "nobody")
    )
    assert ill.code == 1
    assert "what would change it\n  - tcp/80 IPv4: 0 of 2 real servers usable, 2 needed: " in ill.out
    assert "\x1b" not in ill.out
    assert json.loads(body.out)["reason"] == "below_quorum"
    assert (nobody.code, nobody.out) == (1, "")


@pytest.mark.parametrize(("text", "ago"), [("30s", 30), ("5m", 300), ("2h", 7200)])
def test_a_time_may_be_as_long_ago(text: str, ago: float) -> None:
    before = time.time()
    since = parser().parse_args(["events", "--since", text]).since
    assert before - ago <= since <= time.time() - ago


def test_a_time_may_be_a_moment() -> None:
    for text in ("2027-01-15T08:00", "2027-01-15T08:00:00Z", "2027-01-15 09:00+01:00"):
        assert parser().parse_args(["events", "--since", text]).since == 1_800_000_000
    with pytest.raises(SystemExit):
        parser().parse_args(["events", "--since", "yesterday"])
