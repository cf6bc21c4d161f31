"""`anycast maintenance` and `anycast drain` as processes of their own, against a real control socket."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anycast.agent.answers import MaintenanceAnswer, TurnAnswer, TurnWish
from anycast.cli.maintenance import Progress
from anycast.core import events as ev
from anycast.core.fleet.values import Claim, Document, Peer, Turn
from anycast.core.maintenance.clocks import End, Expiry
from anycast.core.maintenance.stages import FILE, NODE, STOP, Maintenance
from anycast.core.values.configuration import Timing
from anycast.core.values.fleet import Fleet, PeerAt
from tests.unit.cli.test_node import Done, against, cli, serving
from tests.unit.ops.node import CONFIG, Node, Operator, healthy

QUICK = replace(CONFIG, timing=Timing(drain=0.2, settle=0.1, quiet_limit=0.3))
BEAT = 0.02  # seconds


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def node() -> Node:
    return healthy(now=time.monotonic())


class Telling(Operator):
    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.commanded = asyncio.Event()

    async def set_maintenance(self, scope: str, **said: Any) -> MaintenanceAnswer:
        answer = await super().set_maintenance(scope, **said)
        self.commanded.set()
        return answer


@contextlib.asynccontextmanager
async def living(operator: Operator, path: Path) -> AsyncIterator[Node]:
    """An agent whose time goes on, with a plugin that does as it is told."""
    node = operator.node

    async def live() -> None:
        while True:
            node.now = time.monotonic()
            node.send(ev.Tick(wall=time.time()))
            node.report()
            await asyncio.sleep(BEAT)

    async with serving(operator, path):
        task = asyncio.create_task(live())
        try:
            yield node
        finally:
            task.cancel()
            await asyncio.wait({task})


def against_living(path: Path, *commands: tuple[str, ...], timing: Timing = QUICK.timing) -> list[Done]:
    async def run() -> list[Done]:
        operator = Operator(healthy(replace(QUICK, timing=timing), now=time.monotonic()))
        async with living(operator, path):
            return [await cli(*command, "--socket", str(path)) for command in commands]

    return asyncio.run(run())


def test_it_returns_once_it_is_down_and_tells_each_stage_on_a_line(path: Path) -> None:
    on, status = against_living(path, ("maintenance", "on", "--wait"), ("status",))
    assert on.code == 0
    stages = [line.split()[1].rstrip(",") for line in on.err.splitlines()]
    assert stages == sorted(set(stages), key=["draining", "withdrawn", "quiet", "down"].index)
    assert on.err.splitlines()[-1].startswith("node: down after ")
    assert on.err.endswith(": it may be rebooted\n")
    assert "draining: announced as the last resort for 0.2 s" in on.out
    assert "down" in status.out.partition("MAINTENANCE")[2]


def test_for_programs_it_is_one_document_of_the_end(path: Path) -> None:
    (done,) = against_living(path, ("maintenance", "on", "--vip", "web", "--wait", "--json"))
    answer = json.loads(done.out)
    assert (done.code, answer["stage"], answer["scope"]) == (0, "down", "web")
    assert answer["waited_s"] > 0
    assert "rebooted" not in done.err


def test_it_gives_up_after_the_timeout_and_the_drain_goes_on(path: Path) -> None:
    done, listed = against_living(
        path,
        ("maintenance", "on", "--wait", "--timeout", "1"),
        ("maintenance", "status"),
        timing=Timing(drain=600.0),
    )
    assert done.code == 1
    assert done.err.splitlines()[-1] == "node: still draining after 1 s; the maintenance goes on"
    assert listed.out.splitlines()[1].split()[:2] == ["node", "draining"]


@pytest.mark.parametrize(
    ("words", "scope", "end"),
    [
        (("maintenance", "on", "--vip", "web"), "web", "anycast maintenance off --vip web"),
        (("drain",), STOP, "anycast maintenance off"),
    ],
)
def test_interrupted_it_says_that_the_drain_goes_on(
    path: Path, words: tuple[str, ...], scope: str, end: str
) -> None:
    async def run() -> tuple[int | None, str, bool]:
        operator = Operator(healthy(replace(QUICK, timing=Timing(drain=600.0)), now=time.monotonic()))
        async with living(operator, path) as node:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "anycast", *words, "--wait", "--socket", str(path)),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            assert process.stderr is not None
            assert b"draining" in await process.stderr.readline()
            process.send_signal(signal.SIGINT)
            said = (await process.stderr.read()).decode()
            return await process.wait(), said, scope in node.state.maintenance

    code, said, still = asyncio.run(run())
    assert (code, still) == (130, True)
    assert "interrupted: the maintenance goes on" in said
    assert f"`{end}`" in said
    assert "Traceback" not in said


def test_somebody_else_ends_it_while_it_waits(path: Path) -> None:
    async def run() -> Done:
        operator = Telling(healthy(replace(QUICK, timing=Timing(drain=600.0)), now=time.monotonic()))
        async with living(operator, path) as node:
            waiting = asyncio.create_task(cli("maintenance", "on", "--wait", "--socket", str(path)))
            await operator.commanded.wait()
            node.send(ev.MaintenanceSet(scope=NODE, entry=None, by="ada"))
            return await waiting

    done = asyncio.run(run())
    assert done.code == 1
    assert re.fullmatch(
        r"node: ada has ended the maintenance at \d{4}-\d\d-\d\dT[\d:]{8}Z", done.err.splitlines()[-1]
    )


def test_an_agent_that_ends_while_it_waits_is_not_reached(path: Path) -> None:
    async def run() -> Done:
        operator = Telling(healthy(replace(QUICK, timing=Timing(drain=600.0)), now=time.monotonic()))
        async with living(operator, path):
            waiting = asyncio.create_task(cli("maintenance", "on", "--wait", "--socket", str(path)))
            await operator.commanded.wait()
        return await waiting

    done = asyncio.run(run())
    assert done.code == 3
    assert "no agent answers" in done.err


def test_an_end_is_said_and_shown(node: Node, path: Path) -> None:
    on, status, again = against(
        Operator(node),
        path,
        ("maintenance", "on", "--for", "2h", "--on-expiry", "hold", "--reason", "disks"),
        ("maintenance", "status"),
        ("maintenance", "on", "--until", "2199-01-01"),
    )
    assert on.code == 0
    assert "in 2h00m: then it stays in maintenance, overdue\n" in on.out or "in 1h59m: " in on.out
    row = status.out.splitlines()[1]
    assert "by command, overdue in 1h59m" in row or "by command, overdue in 2h00m" in row
    end = node.state.maintenance[NODE].end
    assert end is not None
    assert (end.then, end.lasts) == (Expiry.HOLD, True)
    assert end.at == pytest.approx(time.time() + 7200, abs=120)
    assert again.code == 2
    assert "more than 366 days from now" in again.err


def test_what_is_overdue_is_told(node: Node, path: Path) -> None:
    entry = Maintenance(reason="", by="op", since=time.time())
    node.send(ev.Tick(wall=time.time()))
    end = End(at=time.time() - 300.0, then=Expiry.HOLD, due=node.now - 300.0)
    node.send(ev.MaintenanceSet(scope=NODE, entry=replace(entry, end=end)))
    assert node.state.progress[NODE].overdue
    (status,) = against(Operator(node), path, ("maintenance", "status"))
    assert "overdue for 5m" in status.out


def test_off_while_the_file_is_there_says_to_remove_it(node: Node, path: Path) -> None:
    for scope in (FILE, NODE):
        node.send(ev.MaintenanceSet(scope=scope, entry=Maintenance(reason="", by="x", since=time.time())))
    off, other = against(Operator(node), path, ("maintenance", "off"), ("maintenance", "off", "--vip", "web"))
    assert (off.code, NODE in node.state.maintenance) == (1, False)
    assert off.err == (
        "anycast: still in maintenance: node, for as long as there is a file /run/anycast/maintenance (remove it)\n"
    )
    assert other.code == 0, "it has done what it was told"
    assert "/run/anycast/maintenance (remove it)" in other.out


def test_a_drain_before_a_stop_is_ended_like_any_maintenance_of_the_node(node: Node, path: Path) -> None:
    drain, status, off = against(
        Operator(node), path, ("drain", "--reason", "stop"), ("maintenance", "status"), ("maintenance", "off")
    )
    assert (drain.code, status.code, off.code) == (0, 0, 0)
    assert drain.out.endswith("not saved: it ends with this agent\n")
    assert "with the agent" in status.out
    assert off.out.startswith("node: maintenance off\n")
    assert not node.state.maintenance


def test_now_means_without_a_drain(node: Node, path: Path) -> None:
    (done,) = against(Operator(node), path, ("maintenance", "on", "--now"))
    assert "draining" not in done.out
    assert "  web: advertise no, node_maintenance\n" in done.out


# From Python 3.14 on, argparse takes -2h for a negative number, and no more for an option.
NEGATIVE = "'-2h' is not a time" if sys.version_info >= (3, 14) else "expected one argument"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--for", "-2h"), NEGATIVE),
        (("--for=-2h",), "'-2h' is not a time (write 30s, 5m, 2h or 1h30m)"),
        (("--for", "0s"), "'0s' is not from one second to 366 days"),
        (("--for", "9999d"), "'9999d' is not from one second to 366 days"),
        (("--until", "2020-01-01T00:00Z"), "'2020-01-01T00:00Z' has passed"),
        (("--until", "soon"), "'soon' is not a time (write 18:30"),
        (("--for", "2h", "--until", "18:30"), "not allowed with argument"),
        (("--on-expiry", "hold"), "--on-expiry needs --for or --until"),
        (("--for", "2h", "--on-expiry", "reboot"), "there is no 'reboot'"),
        (("--timeout", "5s"), "--timeout needs --wait"),
        (("--wait-turn", "--force"), "--wait-turn asks the other nodes, and --force does not"),
    ],
)
def test_what_makes_no_sense_is_wrong_usage_and_nothing_is_asked(
    path: Path, words: tuple[str, ...], complaint: str
) -> None:
    done = asyncio.run(cli("maintenance", "on", *words, "--socket", str(path)))
    assert done.code == 2, "no agent was looked for: that would be 3"
    assert complaint in done.err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_one_line_is_written_anew() -> None:
    out = Terminal()
    progress = Progress(out)
    for left in (2, 1):
        progress.tell("draining", f"node: draining, {left}s left")
    progress.tell("quiet", "node: \x1b[2J quiet")
    progress.end("node: down")
    assert out.getvalue() == (
        "\rnode: draining, 2s left\x1b[K\rnode: draining, 1s left\x1b[K\rnode: \\x1b[2J quiet\x1b[K"
        "\r\x1b[Knode: down\n"
    )


def test_elsewhere_each_stage_is_one_line() -> None:
    out = io.StringIO()
    progress = Progress(out)
    for stage, left in (("draining", 2), ("draining", 1), ("quiet", 9)):
        progress.tell(stage, f"node: {stage}, {left}s left")
    progress.end("node: down")
    assert out.getvalue() == "node: draining, 2s left\nnode: quiet, 9s left\nnode: down\n"


FLEET = Fleet(peers=(PeerAt(name="lb2"),))
OUT = Turn(claim=Claim.HELD, ago=60.0, number=1, by="ada", reason="new disks")


def hear(node: Node, *, out: bool) -> None:
    """What lb2 says."""
    document = Document(
        node="lb2",
        version="1",
        ready=True,
        maintenance="down" if out else "active",
        turn=OUT if out else None,
        hears=("lb1",),
    )
    peer = Peer(name="lb2", document=document, heard=time.monotonic(), told=time.monotonic())
    node.send(ev.FleetHeard(peers={"lb2": peer}))


class InFleet(Operator):
    """lb2 is out at first, and for so many questions of the operator."""

    def __init__(self, *, out_for: int) -> None:
        super().__init__(healthy(replace(QUICK, fleet=FLEET), now=time.monotonic()))
        self.left = out_for
        self.asked: list[TurnWish] = []
        self.queued = asyncio.Event()

    async def leave(self, scope: str, wish: TurnWish, **said: Any) -> MaintenanceAnswer | TurnAnswer:
        self.asked.append(wish)
        hear(self.node, out=self.left > 0)
        self.left -= 1
        answer = await super().leave(scope, wish, **said)
        self.queued.set()
        return answer


def in_fleet(path: Path, operator: Operator, *words: str) -> Done:
    async def run() -> Done:
        async with living(operator, path):
            return await cli(*words, "--socket", str(path))

    return asyncio.run(run())


def test_another_that_is_out_is_why_it_does_not_leave(path: Path) -> None:
    operator = InFleet(out_for=99)
    done = in_fleet(path, operator, "maintenance", "on")
    assert done.code == 1
    assert done.err == (
        "anycast: this node may not leave now: lb2 is out for a maintenance (down) (ada, 60 s ago, “new disks”)\n"
        "anycast: --wait-turn queues; --force leaves without asking the other nodes\n"
    )
    assert not operator.state.maintenance


def test_it_says_that_it_asks_and_leaves_when_all_have_been_heard(path: Path) -> None:
    operator = InFleet(out_for=0)
    done = in_fleet(path, operator, "maintenance", "on")
    assert (done.code, NODE in operator.state.maintenance) == (0, True)
    assert done.err == "node: asking the other nodes: to hear from lb2\nnode: it has the turn\n"
    assert done.out.startswith("node: maintenance on\n")
    numbers = {wish.number for wish in operator.asked[1:]}
    assert numbers == {operator.state.seat.wish.number}, "the place is kept by its number"


def test_in_the_queue_it_says_behind_whom_and_waits_until_it_is_down(path: Path) -> None:
    operator = InFleet(out_for=2)
    done = in_fleet(path, operator, "maintenance", "on", "--wait", "--wait-turn")
    assert done.code == 0
    queued, *_, down = done.err.splitlines()
    assert queued == (
        "node: in the queue for 0s, place 1, behind lb2: lb2 is out for a maintenance (down) (ada, 60 s ago, “new disks”)"
    )
    assert down.endswith("it may be rebooted")


def test_it_gives_its_place_up_after_the_timeout(path: Path) -> None:
    operator = InFleet(out_for=99)
    done = in_fleet(path, operator, "maintenance", "on", "--wait-turn", "--timeout", "1s")
    assert (done.code, done.err.splitlines()[-1]) == (1, "node: no turn after 1 s")
    assert not operator.state.seat.is_asking
    assert not operator.state.maintenance


def test_interrupted_it_gives_its_place_up(path: Path) -> None:
    async def run() -> tuple[int | None, str]:
        operator = InFleet(out_for=99)
        async with living(operator, path):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "anycast", "maintenance", "on", "--wait-turn", "--socket", str(path)),
                stderr=asyncio.subprocess.PIPE,
            )
            assert process.stderr is not None
            assert b"in the queue" in await process.stderr.readline()
            process.send_signal(signal.SIGINT)
            said = (await process.stderr.read()).decode()
            code = await process.wait()
            assert not operator.state.seat.is_asking
            return code, said

    assert asyncio.run(run()) == (130, "interrupted: node no longer asks\n")


def test_the_place_outlives_an_agent(path: Path) -> None:
    """The next one is told the number, and for how long it has been asked for."""

    async def run() -> tuple[Done, InFleet, InFleet]:
        one, other = InFleet(out_for=99), InFleet(out_for=1)
        async with living(one, path):
            waiting = asyncio.create_task(cli("maintenance", "on", "--wait-turn", "--socket", str(path)))
            await one.queued.wait()
        async with living(other, path):
            return await waiting, one, other

    done, one, other = asyncio.run(run())
    assert done.code == 0
    assert other.asked[0].number == one.state.seat.wish.number
    assert other.asked[0].ago > 0


def test_an_emergency_is_not_asked_whatever_is_known_of_the_others(path: Path) -> None:
    operator = InFleet(out_for=99)
    done = in_fleet(path, operator, "maintenance", "on", "--now", "--force")
    assert (done.code, NODE in operator.state.maintenance, operator.asked) == (0, True, [])
    stop = InFleet(out_for=99)
    assert in_fleet(path, stop, "drain").code == 0
    assert (STOP in stop.state.maintenance, stop.asked) == (True, [])
