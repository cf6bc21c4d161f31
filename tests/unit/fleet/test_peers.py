"""Asking the other nodes: on a beat, and at once where a connection ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from anycast.core.fleet import codec
from anycast.core.fleet.values import Document
from anycast.core.values.fleet import Fleet, PeerAt
from anycast.fleet.frames import Told
from anycast.fleet.peers import Peers, first_beats

RARELY = 1e7  # seconds: within a test nobody's turn comes twice


def answered() -> bytes:
    body = codec.answer(codec.head(Document(node="lb2", version="1"), born=1.0, at=2.0), [], (), 2.0)
    return b'HTTP/1.1 200 OK\r\nETag: "a"\r\nContent-Length: %d\r\n\r\n%s' % (len(body), body)


class Node:
    """Another node, of whose connections a test ends what it likes."""

    def __init__(self) -> None:
        self.asked = 0
        self.lines: list[asyncio.StreamWriter] = []
        self.told: list[Told] = []
        self.news = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.lines.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                self.asked += 1
                writer.write(answered())
        writer.close()

    def hear(self, told: Told) -> None:
        self.told.append(told)
        self.news.set()

    async def until(self, what: Callable[[Told], bool]) -> Told:
        while not (self.told and what(self.told[-1])):
            self.news.clear()
            await self.news.wait()
        return self.told[-1]


def play(story: Callable[[Node, asyncio.Server], Awaitable[None]]) -> None:
    async def run() -> None:
        node = Node()
        server = await asyncio.start_server(node.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        fleet = Fleet(interval=RARELY, peers=(PeerAt(name="lb2", host="127.0.0.1", port=port),))
        asking = asyncio.create_task(Peers(fleet, node.hear, lambda *_: node.news.set()).run())
        try:
            async with asyncio.timeout(60):
                await node.until(lambda told: told.document is not None)
                await story(node, server)
        finally:
            server.close()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            for one in node.lines:
                one.close()
                with contextlib.suppress(ConnectionError):
                    await one.wait_closed()

    asyncio.run(run())


def test_a_node_that_ends_is_known_to_have_ended_before_its_turn_comes() -> None:
    async def story(node: Node, server: asyncio.Server) -> None:
        server.close()
        node.lines[0].close()
        told = await node.until(lambda told: bool(told.problem))
        assert "refuses the connection" in told.problem
        assert told.document is not None, "and nothing that it said is forgotten"

    play(story)


def test_a_node_that_only_ends_its_connection_is_asked_at_once_and_is_there() -> None:
    async def story(node: Node, server: asyncio.Server) -> None:
        assert server.is_serving()
        node.news.clear()
        node.lines[0].close()
        await node.news.wait()
        assert not node.told[-1].problem
        assert (node.asked, len(node.lines)) == (2, 2)

    play(story)


def fleet_of(*names: str) -> Fleet:
    return Fleet(interval=2.0, peers=tuple(PeerAt(name=name, host="127.0.0.1", port=1) for name in names))


def test_all_nodes_ask_a_node_at_the_same_instant() -> None:
    wall = 1_790_000_000.7
    one = first_beats(fleet_of("lb2", "lb3", "lb4"), 5000.3, wall)
    other = first_beats(fleet_of("lb1", "lb3", "lb4"), 71.9, wall + 0.6)  # by its own clocks, and later
    for name in ("lb3", "lb4"):
        apart = (one[name] - 5000.3 + wall) - (other[name] - 71.9 + wall + 0.6)
        assert min(apart % 2.0, -apart % 2.0) < 1e-6


def test_nodes_are_asked_in_groups_a_second_apart() -> None:
    beats = first_beats(fleet_of(*(f"lb{n}" for n in range(32))), 100.0, 1_790_000_000.7)
    assert len({round(beat, 6) for beat in beats.values()}) == 2
