"""The gate, with real sockets and the real HTTP behind it. Limits are made small; nothing waits for a clock in vain."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import web

from anycast.ops.gate import LOCAL, Door, Gate, Limits, peer_of
from anycast.ops.http import control_app, read_app
from tests.unit.ops.node import Node, Operator, healthy
from tests.unit.ops.scenes import large

SMALL = Limits(
    connections=4,
    reserved=2,
    per_peer=2,
    grace=0.0,
    streams=1,
    head=1024,
    head_time=0.05,
    body_time=0.05,
    idle_time=0.05,
    write_time=0.1,
)
PATIENT = replace(SMALL, head_time=60, body_time=60, idle_time=60, write_time=60)
GET = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


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


class Watched(Gate):
    """Tells of every connection that has gone."""

    def __init__(self, serve: Callable[[], asyncio.Protocol], limits: Limits) -> None:
        super().__init__(serve, limits)
        self.gone: asyncio.Queue[Door] = asyncio.Queue()
        self.widened: asyncio.Queue[bool] = asyncio.Queue()

    def forget(self, door: Door) -> None:
        super().forget(door)
        self.gone.put_nowait(door)

    def may_widen(self, door: Door) -> bool:
        answer = super().may_widen(door)
        self.widened.put_nowait(answer)
        return answer


class Site:
    def __init__(self, gate: Watched, port: int, node: Node) -> None:
        self.gate = gate
        self.port = port
        self.node = node
        self._clients: list[Client] = []

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
async def serving(limits: Limits, *, control: bool = False, node: Node | None = None) -> AsyncIterator[Site]:
    node = node or healthy(now=time.monotonic())
    app = control_app(node, Operator(node)) if control else read_app(node)
    runner = web.AppRunner(app, access_log=None, lingering_time=0.05, shutdown_timeout=1)
    await runner.setup()
    assert runner.server is not None
    gate = Watched(runner.server, limits)
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    gate.listen(listener)
    site = Site(gate, listener.getsockname()[1], node)
    try:
        yield site
    finally:
        site.end()
        gate.leave()
        await runner.cleanup()
        await gate.close()


def play(
    story: Callable[[Site], Awaitable[None]], limits: Limits = PATIENT, *, control: bool = False
) -> None:
    complaints: list[dict[str, object]] = []

    async def whole() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with serving(limits, control=control) as site:
            await story(site)

    asyncio.run(whole())
    assert not complaints


def as_strangers(monkeypatch: pytest.MonkeyPatch, *peers: str) -> None:
    """The next connections come from these, and all others from this node."""
    left = list(peers)
    monkeypatch.setattr("anycast.ops.gate.peer_of", lambda _: left.pop(0) if left else LOCAL)


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


def test_empty_lines_before_a_request_are_passed_over() -> None:
    async def story(site: Site) -> None:
        client = await site.connect(b"\r\n\r\n" + GET + b"\r\n" + LAST)
        assert await client.answer() == (200, b"ok\n")
        assert await client.answer() == (200, b"ok\n")

    play(story)


def test_a_client_that_has_said_all_it_will_gets_its_answer_and_the_end() -> None:
    async def story(site: Site) -> None:
        client = await site.connect(GET + GET)
        client.writer.write_eof()
        assert await client.answer() == (200, b"ok\n")
        assert await client.answer() == (200, b"ok\n")
        assert await client.rest() == b""

    play(story)


@pytest.mark.parametrize("said", [b"", b"GET /livez HTTP/1.1\r\nHost:", b"\r\n"])
def test_a_head_that_does_not_come_in_time_ends_the_connection(said: bytes) -> None:
    async def story(site: Site) -> None:
        client = await site.connect(said)
        text = await client.rest()
        assert text.startswith(b"HTTP/1.1 408 ") if said.strip() else text == b""
        assert not site.gate.connections

    play(story, replace(PATIENT, head_time=0.05))


def test_dripping_bytes_does_not_give_a_head_more_time() -> None:
    async def story(site: Site) -> None:
        client = await site.connect(b"GET /livez HTTP/1.1\r\n")
        answer = asyncio.create_task(client.rest())
        while not answer.done():
            client.writer.write(b"X: y\r\n")
            await asyncio.wait({answer}, timeout=0.01)
        assert answer.result().startswith(b"HTTP/1.1 408 ")

    play(story, replace(PATIENT, head_time=0.05, head=10**6))


def test_a_connection_that_asks_nothing_more_is_ended() -> None:
    async def story(site: Site) -> None:
        client = await site.connect(GET)
        assert await client.answer() == (200, b"ok\n")
        assert await client.rest() == b""

    play(story, replace(PATIENT, idle_time=0.05))


@pytest.mark.parametrize("ending", [b"", b"\r\n\r\n"])
def test_a_head_that_is_too_large_is_refused(ending: bytes) -> None:
    async def story(site: Site) -> None:
        client = await site.connect(b"GET /livez HTTP/1.1\r\nX: " + b"y" * 2000 + ending)
        code, body = await client.answer()
        assert (code, json.loads(body)) == (431, {"error": "the head of a request ends within 1024 bytes"})

    play(story)


@pytest.mark.parametrize(
    "said",
    [b"nonsense\r\n\r\n", b"GET /livez HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\r\n\r\n", b"GET / HTTP/1.1\n\n"],
)
def test_what_is_no_http_is_refused_and_closed(said: bytes) -> None:
    async def story(site: Site) -> None:
        client = await site.connect(said + GET)
        assert (await client.rest()).startswith((b"HTTP/1.0 400 ", b"HTTP/1.1 400 "))

    play(story)


@pytest.mark.parametrize(
    ("head", "body", "code"),
    [
        (b"Content-Length: 2", b"{}", 400),  # fields are missing
        (b"Content-Length: 5000", b"x" * 5000, 413),
        (b"Transfer-Encoding: chunked", b"2\r\n{}\r\n0\r\n\r\n", 400),
        (b"Transfer-Encoding: chunked", b"1388\r\n" + b"x" * 5000 + b"\r\n0\r\n\r\n", 413),
    ],
)
def test_a_body_is_read_within_its_bounds(head: bytes, body: bytes, code: int) -> None:
    async def story(site: Site) -> None:
        post = b"POST /maintenance HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n\r\n"
        client = await site.connect(post + body)
        assert (await client.answer())[0] == code
        assert not site.node.state.maintenance

    play(story, control=True)


def test_a_request_may_follow_one_with_a_body() -> None:
    async def story(site: Site) -> None:
        body = b'{"scope": "web", "on": true}'
        post = b"POST /maintenance HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
        client = await site.connect(post + body + GET)
        assert (await client.answer())[0] == 200
        assert await client.answer() == (200, b"ok\n")
        assert "web" in site.node.state.maintenance

    play(story, control=True)


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def story(site: Site) -> None:
        post = b"POST /maintenance HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{"
        client = await site.connect(post)
        assert await client.rest() == b""
        assert not site.gate.connections

    play(story, replace(PATIENT, body_time=0.05), control=True)


def test_the_kernel_takes_a_large_answer_whole_for_a_few_at_a_time() -> None:
    async def story() -> None:
        limits = replace(PATIENT, connections=12, reserved=6, per_peer=6)
        async with serving(limits, node=large(2000)) as site:
            gate, ask = site.gate, b"GET /status HTTP/1.1\r\nHost: a\r\n\r\n"
            deaf = []
            for _ in range(4):
                deaf.append(await site.connect(ask, small=4096))
                assert await gate.widened.get() is True
            reader = await site.connect(ask)
            assert await gate.widened.get() is False
            code, body = await reader.answer()
            assert (code, len(body) > 500_000) == (200, True)
            assert sorted(door.unread > 400_000 for door in gate._doors) == [False, True, True, True, True]
            # Closed behind its answer, nobody's is taken whole: the kernel would have it for long.
            last = await site.connect(ask.replace(b"a\r", b"a\r\nConnection: close\r"))
            assert (await last.answer())[0] == 200
            assert gate.widened.empty()
            eager = await site.connect(ask * 2)
            assert (await eager.answer())[0] == 200
            assert (await eager.answer())[0] == 200
            assert await gate.widened.get() is False  # of the second: nothing was waiting behind it
            assert gate.widened.empty()
            assert (await deaf[0].answer())[0] == 200
            while True:  # until the kernel has heard that it was read
                assert (await (await reader.send(ask)).answer())[0] == 200
                if await gate.widened.get():
                    break

    asyncio.run(story())


def test_who_asks_and_does_not_read_is_ended() -> None:
    async def story(site: Site) -> None:
        client = await site.connect(b"GET /status HTTP/1.1\r\nHost: a\r\n\r\n" * 2000, small=4096)
        await site.gate.gone.get()
        assert not site.gate.connections
        client.writer.transport.abort()

    play(story, replace(PATIENT, write_time=0.05, connections=1))


def test_the_most_silent_connection_makes_room_for_the_next() -> None:
    async def story(site: Site) -> None:
        silent = [await site.connect() for _ in range(4)]
        assert await (await silent[0].send(GET)).answer() == (200, b"ok\n")
        probe = await site.connect(LAST)
        assert await probe.answer() == (200, b"ok\n")
        assert await silent[1].rest() == b""  # the first has spoken since
        assert await (await silent[0].send(GET)).answer() == (200, b"ok\n")

    play(story)


def test_connections_that_are_all_at_work_are_not_given_up_for_more() -> None:
    async def story(site: Site) -> None:
        stream = await site.connect(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
        await stream.reader.readuntil(b"\n\n")
        late = await site.connect()
        code, body = await late.answer()
        assert (code, json.loads(body)) == (503, {"error": "too many connections"})
        assert site.gate.refused == 1

    play(story, replace(PATIENT, connections=1))


def test_who_floods_makes_room_for_who_was_never_answered() -> None:
    async def story(site: Site) -> None:
        flood = [await site.connect(GET * 500) for _ in range(4)]
        for one in flood:
            assert await one.answer() == (200, b"ok\n")
        probe = await site.connect(LAST)
        assert await probe.answer() == (200, b"ok\n")
        assert site.gate.refused == 0
        assert await flood[-1].answer() == (200, b"ok\n")

    play(story)


def test_strangers_leave_room_for_this_nodes_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(site: Site) -> None:
        as_strangers(monkeypatch, "198.51.100.1", "198.51.100.2", "198.51.100.3")
        strangers = []
        for _ in range(3):
            strangers.append(await site.connect(GET))
            assert await strangers[-1].answer() == (200, b"ok\n")
        assert (
            await strangers[0].rest() == b""
        )  # of the other two strangers' places one was taken for the third
        mine = [await site.connect(GET) for _ in range(2)]
        assert [await one.answer() for one in mine] == [(200, b"ok\n")] * 2
        assert await (await strangers[1].send(GET)).answer() == (200, b"ok\n")

    play(story)


def test_one_peer_cannot_take_the_place_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(site: Site) -> None:
        as_strangers(monkeypatch, "198.51.100.2", *["198.51.100.1"] * 6)
        other = await site.connect(GET)
        assert await other.answer() == (200, b"ok\n")
        flood = []
        for _ in range(6):
            flood.append(await site.connect(GET))
            assert await flood[-1].answer() == (200, b"ok\n")
        assert [await one.rest() for one in flood[:4]] == [b""] * 4
        assert await (await other.send(GET)).answer() == (200, b"ok\n")
        assert site.gate.connections == 3

    play(story, replace(PATIENT, connections=8))


def test_a_stranger_is_safe_from_the_next_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(site: Site) -> None:
        as_strangers(monkeypatch, *["198.51.100.1"] * 3)
        first = [await site.connect() for _ in range(2)]
        third = await site.connect()
        assert (await third.answer())[0] == 503
        assert [await (await one.send(GET)).answer() for one in first] == [(200, b"ok\n")] * 2

    play(story, replace(PATIENT, grace=60.0))


def test_streams_are_counted_and_a_place_comes_free() -> None:
    async def story(site: Site) -> None:
        events = b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n"
        stream = await site.connect(events)
        await stream.reader.readuntil(b"\n\n")
        other = await site.connect(events)
        code, body = await other.answer()
        assert (code, json.loads(body)) == (503, {"error": "too many streams are open"})
        assert site.gate.gone.empty()
        stream.writer.close()
        await site.gate.gone.get()
        third = await site.connect(events)
        assert (await third.reader.readuntil(b"\n\n")).startswith(b"HTTP/1.1 200 OK")

    play(story)


def test_a_listener_that_was_left_takes_nobody_in() -> None:
    async def story(site: Site) -> None:
        client = await site.connect(GET)
        assert await client.answer() == (200, b"ok\n")
        site.gate.leave()
        with pytest.raises(ConnectionRefusedError):
            await site.connect()
        assert await (await client.send(GET)).answer() == (200, b"ok\n")

    play(story)


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("127.0.0.1", LOCAL),
        ("127.9.9.9", LOCAL),
        ("::1", LOCAL),
        ("::ffff:127.0.0.1", LOCAL),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "20010db800010002::/64"),
    ],
)
def test_a_peer_is_an_address_or_a_network_of_one_host(address: str, peer: str) -> None:
    class Connection:
        family = socket.AF_INET6

        def getpeername(self) -> tuple[str, int]:
            return address, 1

    assert peer_of(Connection()) == peer  # type: ignore[arg-type]
