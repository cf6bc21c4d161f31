"""Limits of the ops process, with real sockets. They are made small; nothing waits for a clock in vain."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from anycast.ops import http
from anycast.ops.connections import Limits, Listening, _is_local
from anycast.ops.main import surface
from tests.unit.ops.node import Node, healthy
from tests.unit.ops.scenes import large

PATIENT = Limits(connections=4, reserved=2, idle_time=60)
HASTY = Limits(connections=4, reserved=2, idle_time=0.05)
GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> Client:
        self.writer.write(data)
        await self.writer.drain()
        return self

    async def answer(self) -> tuple[int, bytes]:
        """The next answer of a known length."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(line[16:]) for line in head.split("\r\n") if line.lower().startswith("content-length: ")
        )
        return int(head.split()[1]), await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """Everything until the other end closes, or ends it at once."""
        found = b""
        try:
            while data := await self.reader.read(65536):
                found += data
        except ConnectionResetError:
            pass
        return found


class Site:
    def __init__(self, listening: Listening, port: int, node: Node) -> None:
        self._listening = listening
        self.port = port
        self.node = node
        self._clients: list[Client] = []

    @property
    def connections(self) -> int:
        return len(self._listening._connections)

    async def until(self, connections: int) -> None:
        while self.connections != connections:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)

    async def connect(self, data: bytes = b"", **options: int) -> Client:
        made = socket.socket()
        for option in options.values():
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, option)
        made.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", self.port))
        except OSError:
            made.close()
            raise
        client = Client(*await asyncio.open_connection(sock=made))
        self._clients.append(client)
        return await client.send(data)

    def end(self) -> None:
        for client in self._clients:
            client.writer.transport.abort()


@asynccontextmanager
async def serving(limits: Limits, node: Node) -> AsyncIterator[Site]:
    async with surface(node, limits=limits) as (_, tcp):
        listener = socket.create_server(("127.0.0.1", 0))
        await tcp.listen(listener)
        site = Site(tcp, listener.getsockname()[1], node)
        try:
            yield site
        finally:
            site.end()


def play(
    story: Callable[[Site], Awaitable[None]], limits: Limits = PATIENT, node: Node | None = None
) -> None:
    complaints: list[dict[str, object]] = []

    async def whole() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with serving(limits, node or healthy(now=time.monotonic())) as site:
            await story(site)

    asyncio.run(whole())
    assert not complaints


def test_requests_that_came_together_are_answered_in_their_order() -> None:
    async def story(site: Site) -> None:
        client = await site.connect(GET * 20 + GET.replace(b"livez", b"nothing") + LAST)
        codes = [(await client.answer())[0] for _ in range(22)]
        assert codes == [200] * 20 + [404, 200]
        assert await client.rest() == b""

    play(story)


def test_a_request_may_come_byte_by_byte() -> None:
    async def story(site: Site) -> None:
        client = await site.connect()
        for place in range(len(LAST)):
            await client.send(LAST[place : place + 1])
        assert await client.answer() == (200, b"ok\n")

    play(story)


def test_http_1_0_is_answered_and_closed() -> None:
    async def story(site: Site) -> None:
        client = await site.connect(b"GET /livez HTTP/1.0\r\n\r\n")
        text = await client.rest()
        assert text.startswith(b"HTTP/1.0 200 OK\r\n")
        assert text.endswith(b"\r\n\r\nok\n")
        kept = await site.connect(b"GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert await kept.answer() == (200, b"ok\n")
        assert await (await kept.send(LAST)).answer() == (200, b"ok\n")

    play(story)


def test_a_client_that_has_said_all_it_will_gets_its_answer_and_the_end() -> None:
    async def story(site: Site) -> None:
        client = await site.connect(GET)
        client.writer.write_eof()
        assert await client.answer() == (200, b"ok\n")
        assert await client.rest() == b""

    play(story)


@pytest.mark.parametrize("said", [b"", b"GET /livez HTTP/1.1\r\nHost:", b"\r\n"])
def test_a_head_that_does_not_come_in_time_ends_the_connection(said: bytes) -> None:
    async def story(site: Site) -> None:
        client = await site.connect(said)
        assert await client.rest() == b""
        assert not site.connections

    play(story, HASTY)


def test_dripping_bytes_does_not_give_a_head_more_time() -> None:
    async def story(site: Site) -> None:
        client = await site.connect(b"GET /livez HTTP/1.1\r\n")
        answer = asyncio.create_task(client.rest())
        while not answer.done():
            client.writer.write(b"X: y\r\n")
            await asyncio.wait({answer}, timeout=0.01)

    play(story, HASTY)


def test_a_connection_that_asks_nothing_more_is_ended() -> None:
    async def story(site: Site) -> None:
        client = await site.connect(GET)
        assert await client.answer() == (200, b"ok\n")
        assert await client.rest() == b""

    play(story, HASTY)


@pytest.mark.parametrize(
    ("said", "codes"),
    [
        (b"nonsense\r\n\r\n", {400}),
        (b"GET /livez HTTP/9.9\r\n\r\n", {400}),
        (b"\x16\x03\x01\x02\r\n\r\n", {400}),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", {400, 431}),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 500 + b"\r\n", {400, 431}),
        (b"POST /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", {405}),
        (b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", {404}),
    ],
)
def test_what_is_refused_is_refused_in_json_by_the_same_name(said: bytes, codes: set[int]) -> None:
    async def story(site: Site) -> None:
        head, _, body = (await (await site.connect(said)).rest()).partition(b"\r\n\r\n")
        assert int(head.split()[1]) in codes
        assert b"\r\nServer: anycast\r\n" in head + b"\r\n"
        assert b"\r\nContent-Type: application/json; charset=utf-8\r\n" in head + b"\r\n"
        assert list(json.loads(body)) == ["error"]

    play(story)


def test_who_asks_and_does_not_read_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "WRITE_TIME", 0.05)

    async def story(site: Site) -> None:
        client = await site.connect(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50, small=4096)
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await site.until(1)
        await site.until(0)

    play(story, node=large(2000))


def test_the_connection_that_has_been_idle_longest_makes_room_for_the_next() -> None:
    async def story(site: Site) -> None:
        silent = [await site.connect() for _ in range(4)]
        assert await (await silent[0].send(GET)).answer() == (200, b"ok\n")
        probe = await site.connect(LAST)
        assert await probe.answer() == (200, b"ok\n")
        assert await silent[1].rest() == b""
        assert await (await silent[0].send(GET)).answer() == (200, b"ok\n")

    play(story)


def test_connections_that_are_all_at_work_are_not_given_up_for_more() -> None:
    async def story(site: Site) -> None:
        streams = [await site.connect(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n") for _ in range(4)]
        for one in streams:
            await one.reader.readuntil(b"retry: 2000\n\n")
        code, body = await (await site.connect(GET)).answer()
        assert (code, json.loads(body)) == (503, {"error": "too many connections"})
        streams[0].writer.close()
        await site.until(3)
        assert await (await site.connect(LAST)).answer() == (200, b"ok\n")

    play(story)


def test_streams_are_counted_and_a_place_comes_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_STREAMS", 1)
    ask = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"

    async def story(site: Site) -> None:
        stream = await site.connect(ask)
        await stream.reader.readuntil(b"retry: 2000\n\n")
        code, body = await (await site.connect(ask)).answer()
        assert (code, json.loads(body)) == (503, {"error": "too many streams are open"})
        stream.writer.close()
        await site.until(1)
        again = await site.connect(ask)
        await again.reader.readuntil(b"retry: 2000\n\n")

    play(story)


def test_strangers_leave_room_for_this_nodes_own(monkeypatch: pytest.MonkeyPatch) -> None:
    strange = iter([True] * 3 + [False] * 9)
    monkeypatch.setattr("anycast.ops.connections._is_local", lambda _: not next(strange))

    async def story(site: Site) -> None:
        strangers = [await site.connect() for _ in range(3)]
        assert await strangers[0].rest() == b""
        assert site.connections == 2
        own = [await site.connect() for _ in range(2)]
        assert await (await own[0].send(GET)).answer() == (200, b"ok\n")
        assert await (await strangers[2].send(GET)).answer() == (200, b"ok\n")

    play(story)


def test_who_does_not_read_makes_room_too() -> None:
    async def story(site: Site) -> None:
        deaf = [
            await site.connect(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50, small=4096)
            for _ in range(4)
        ]
        for one in deaf:
            one.reader._transport.pause_reading()  # type: ignore[attr-defined]
        while len(site._listening._idle) < 4:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        assert await (await site.connect(LAST)).answer() == (200, b"ok\n")

    play(story, node=large(2000))


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("", True),
        (("127.0.0.1", 1), True),
        (("::1", 1, 0, 0), True),
        (("::ffff:127.0.0.1", 1, 0, 0), True),
        (("192.0.2.1", 1), False),
        (("fe80::1%eth0", 1, 0, 2), False),
    ],
)
def test_who_is_on_this_node_is_known(peer: object, *, local: bool) -> None:
    assert _is_local(peer) is local
