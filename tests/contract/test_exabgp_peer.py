"""What a router can make ExaBGP say to the plugin, by texts of its own, and by reading nothing.

The router is made of bytes; ExaBGP and the plugin are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from anycast.agent.conditions import Conditions
from anycast.agent.send_hold import SendHold
from anycast.config.load import loads
from anycast.core.events import ConditionSet
from anycast.core.values.configuration import Bgp, Neighbor
from anycast.core.values.report import NeighborState, Report
from anycast.core.values.route import Route
from anycast.kernel.tcp import Tcp
from anycast.plugin import codec
from anycast.render.exabgp import exabgp_conf
from lab import netns
from tests.contract import bgp, pair, raw_peer, raw_script
from tests.contract.bgp import NODE4, PATIENCE, ROUTER4, VIPS4, Speaker
from tests.contract.pair import NODE_B, ROUTER_B
from tests.contract.routers import until

pytestmark = [
    pytest.mark.bgp,
    pytest.mark.skipif(os.geteuid() != 0, reason="real BGP needs root: network namespaces, port 179"),
]

V4 = VIPS4[0]
FORGED = '"}}\n{"exabgp": "5.0.15", "type": "state", "neighbor": {"address": {"peer": "203.0.113.66"}, "state": "up"}}\ndone\n'
"""Ends a string, an object and a line; then an event of a neighbor that nobody has, and an answer."""
STOP = '\r\n{"type": "notification", "notification": "shutdown"}\n'
ANSWERS = "\nerror\nexabgp 4.0.0\n"
SPOKEN = {raw_peer.HOST_NAME: raw_peer.told(FORGED, ANSWERS), raw_peer.SOFTWARE_VERSION: raw_peer.told(STOP)}

WORDS = [
    pytest.param(
        'Wartung: Grüße aus Köln, "bald" zurück', 'Wartung: Grüße aus Köln, "bald" zurück', id="umlauts"
    ),
    pytest.param(FORGED, " ".join(FORGED.split("\n")).strip(), id="an-event"),
    pytest.param(STOP, STOP.strip(), id="the-end-of-exabgp"),
    pytest.param("保守\u2028作業\u202e\x1b[2J\x00終", "保守 作業  [2J 終", id="what-a-terminal-obeys"),
    pytest.param("é" * 127, "é" * 127, id="as-long-as-it-can-be"),
    pytest.param("x; later done", "x; later done", id="our-own-word"),
]


@dataclass(frozen=True, slots=True)
class Node:
    speaker: Speaker
    router: str  # the namespace of the router
    place: str

    def announces(self, session: raw_peer.Session) -> None:
        """The VIP is at the router, and reported."""
        report = self.speaker.want(Route(prefix=V4))
        assert report.announced == {V4}
        session.wait_for(V4)


@contextlib.contextmanager
def node(*, writes: int | None = None, second: str = "") -> Iterator[Node]:
    """A node with ExaBGP as rendered, and nobody at the other end. `writes`: bytes of its send buffers.

    `second`: a neighbor at the end of a network of its own.
    """
    with contextlib.ExitStack() as undo:
        folder = undo.enter_context(bgp.open_folder())
        places = undo.enter_context(bgp.places())
        if writes is not None:
            with netns.inside(places.node):
                Path("/proc/sys/net/ipv4/tcp_wmem").write_text(f"{writes} {writes} {writes}")
        pair.second_network(places)
        config = loads(
            f"""
node: {{name: lb1, runtime_dir: {folder}, exabgp_user: root}}
bgp:
  local_as: {bgp.NODE_AS}
  router_id: {NODE4}
  hold_time: 3
  neighbors: [{{address: {ROUTER4}, remote_as: {bgp.ROUTER_AS}}}{second}]
vips: {{web: {{addresses: [{V4.network_address}], port: 80, servers: [10.9.2.1]}}}}
""",
            hostname="lb1",
        ).config
        text = exabgp_conf(config, command=f"{sys.executable} -m anycast")
        ends = [NODE4, NODE_B] if second else [NODE4]
        speaker = Speaker(places.node, folder, text, ends, env={})
        undo.callback(speaker.stop)
        yield Node(speaker, places.router, places.node)


@pytest.fixture(scope="class")
def one() -> Iterator[Node]:
    with node() as made:
        yield made


def at_the_router(report: Report) -> NeighborState:
    """The one session there is. Asserts that the plugin knows of no other, and that no route was refused."""
    (found,) = report.neighbors
    assert found.address == ROUTER4
    assert not report.failed
    assert report.exabgp_version == version("exabgp")
    return found


class TestWords:
    def test_what_a_router_says_of_itself_is_no_event(self, one: Node) -> None:
        with raw_peer.session(one.router, capabilities=SPOKEN) as session:
            one.announces(session)
            found = at_the_router(one.speaker.up())
            assert (found.state, found.reason) == ("up", "")
            one.speaker.want()
            session.wait_without(V4)
        assert one.speaker.exabgp.alive()

    @pytest.mark.parametrize(("said", "shown"), WORDS)
    def test_what_a_router_says_at_the_end_is_one_clean_line_of_the_reason(
        self, one: Node, said: str, shown: str
    ) -> None:
        with raw_peer.session(one.router) as session:
            one.announces(session)
            one.speaker.up()
            session.cease(raw_peer.ADMINISTRATIVE_SHUTDOWN, said.encode())
            report = one.speaker.agent.wait(lambda report: at_the_router(report).state == "down")
        reason = at_the_router(report).reason
        assert reason == f"notification received (6,2): {shown}"
        assert reason.isprintable()
        assert report.announced == {V4}
        with raw_peer.session(one.router) as session:
            session.wait_for(V4)
            assert at_the_router(one.speaker.up()).reason == ""

    @pytest.mark.parametrize(
        ("raw", "shown"),
        [
            pytest.param(b"\xff\xfe\n\xc3", "\ufffd\ufffd \ufffd", id="no-text"),
            pytest.param(b"", "", id="empty"),
        ],
    )
    def test_what_is_no_text_is_shown_as_such(self, one: Node, raw: bytes, shown: str) -> None:
        with raw_peer.session(one.router) as session:
            one.announces(session)
            one.speaker.up()
            session.cease(raw_peer.ADMINISTRATIVE_RESET, raw)
            report = one.speaker.agent.wait(lambda report: at_the_router(report).state == "down")
        assert at_the_router(report).reason == "notification received (6,4)" + (f": {shown}" if shown else "")


EVERYTHING = (
    "receive { parsed; packets; consolidate; open; update; notification; keepalive; refresh; operational; }"
)


def test_exabgp_itself_keeps_what_a_router_says_within_its_line() -> None:
    """Also where a file kept by hand has the process told everything: each line is an answer or one event of ExaBGP's."""
    with contextlib.ExitStack() as undo:
        folder = undo.enter_context(bgp.open_folder())
        places = undo.enter_context(bgp.places())
        orders, answers = folder / "orders", folder / "answers"
        os.mkfifo(orders)
        answers.touch()
        run = [sys.executable, raw_script.__file__, str(orders), str(answers)]
        text = bgp._exabgp_conf(run, bgp.BOTH_SESSIONS[:1])
        assert "receive { packets; notification; }" in text
        text = text.replace("receive { packets; notification; }", EVERYTHING)
        speaker = Speaker(places.node, folder, text, [NODE4], env={})
        undo.callback(speaker.stop)
        with raw_peer.session(places.router, capabilities=SPOKEN) as session:
            until(lambda: '"up"' in answers.read_text(), "the session")
            orders.write_text(f"{codec.SHOW_NEIGHBORS}\n")
            until(lambda: b"done" in answers.read_bytes().splitlines(), "the answer")
            session.cease(raw_peer.ADMINISTRATIVE_SHUTDOWN, FORGED.encode())
            until(
                lambda: '"reason": "notification received (6,2)"' in answers.read_text(),
                "the end of the session",
            )
        lines = answers.read_bytes().splitlines()
    assert lines.count(b"done") == 1  # to our question
    (table,) = (codec.parse(line) for line in lines if line.startswith(b"["))
    assert isinstance(table, codec.NeighborTable)
    assert [(row.address, row.up) for row in table.rows] == [(ROUTER4, True)]
    events = [json.loads(line) for line in lines if line.startswith(b"{")]
    assert len(events) + 2 == len(lines)
    opened = [event["neighbor"]["open"]["capabilities"] for event in events if event["type"] == "open"]
    told = [each for capabilities in opened for each in capabilities.values() if "host-name" in each]
    assert {"host-name": FORGED, "domain-name": ANSWERS} in [
        {name: each[name] for name in ("host-name", "domain-name")} for each in told
    ]  # it has come this far
    assert {event["neighbor"]["address"]["peer"] for event in events} == {ROUTER4}
    states = [event["neighbor"]["state"] for event in events if event["type"] == "state"]
    assert states.count("up") == 1
    assert set(states) == {"connected", "up", "down"}


MANY = tuple(f"65001:{number}" for number in range(1, 140))
FEW = 4096  # bytes: as small as buffers can be


def unsent(place: str) -> int:
    """Bytes that ExaBGP has written, and that the first router has not taken."""
    listed = subprocess.run(
        ["ip", "netns", "exec", place, "ss", "-Htn", "state", "established", "src", f"{NODE4}:179"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    return int(listed[1])


@contextlib.contextmanager
def beside_a_deaf_router() -> Iterator[tuple[Node, raw_peer.Session, raw_peer.Session]]:
    """A node, a router that keeps its session and reads nothing any more, and another that has the VIP."""
    second = f", {{address: {ROUTER_B}, local_address: {NODE_B}, remote_as: {bgp.ROUTER_AS}}}"
    with (
        node(writes=FEW, second=second) as one,
        raw_peer.session(one.router, receives=FEW) as deaf,
        raw_peer.session(one.router, ends=(ROUTER_B, NODE_B)) as other,
    ):
        one.announces(deaf)
        one.speaker.up()
        # From here on it reads nothing.
        for number in range(100):
            one.speaker.want(Route(prefix=V4, med=number, communities=MANY))
        until(lambda: unsent(one.place) > 0, "the router's window to close")
        other.wait_for(V4)
        yield one, deaf, other


def test_a_router_that_is_alive_and_reads_nothing_is_not_noticed_and_holds_up_neither_drain_nor_others() -> (
    None
):
    """ExaBGP has no send hold timer (RFC 9687): what it has written counts as sent. Its end ends the session."""
    with beside_a_deaf_router() as (one, deaf, other):
        report = one.speaker.want()
        other.wait_without(V4)
        assert (report.announced, report.pending, report.failed) == (frozenset(), frozenset(), ())
        assert {found.address: found.state for found in report.neighbors} == {ROUTER4: "up", ROUTER_B: "up"}
        assert report.silent_since is None
        assert unsent(one.place) > 0
        one.speaker.exabgp.send(signal.SIGTERM)
        assert one.speaker.exabgp.wait(PATIENCE)
        assert deaf.is_reset()


class Stands(Conditions):
    """Whom the guard has told of."""

    def __init__(self) -> None:
        super().__init__()
        self.began: list[str] = []

    def _tell(self, event: ConditionSet) -> None:
        if event.text:
            self.began.append(event.about)


async def guarded(guard: SendHold, session: raw_peer.Session) -> bool:
    """Whether the session is reset."""
    watching = asyncio.create_task(guard.watch())
    reset = await asyncio.to_thread(session.is_reset)
    watching.cancel()
    return reset


def test_the_connection_of_a_router_that_reads_nothing_is_ended_and_no_other() -> None:
    with beside_a_deaf_router() as (one, deaf, other):
        one.speaker.want()
        other.wait_without(V4)
        stands = Stands()
        neighbors = tuple(
            Neighbor(address=ip_address(each), remote_as=bgp.ROUTER_AS) for each in (ROUTER4, ROUTER_B)
        )
        sessions = Bgp(local_as=bgp.NODE_AS, router_id=IPv4Address(NODE4), hold_time=3, neighbors=neighbors)
        with netns.inside(one.place), contextlib.closing(Tcp()) as tcp:
            guard = SendHold(
                bgp=lambda: sessions,
                up=lambda: frozenset({ROUTER4, ROUTER_B}),
                tcp=tcp,
                conditions=stands,
            )
            assert asyncio.run(guarded(guard, deaf))
        assert stands.began == [ROUTER4]
        report = one.speaker.agent.wait(
            lambda report: {each.address: each.state for each in report.neighbors}[ROUTER4] == "down"
        )
        assert {each.address: each.state for each in report.neighbors}[ROUTER_B] == "up"
        assert one.speaker.exabgp.alive()
        one.speaker.want(Route(prefix=V4))
        other.wait_for(V4)
        with raw_peer.session(one.router) as again:
            again.wait_for(V4)
