"""One question after the other over a connection that is kept, whatever the other end does with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from anycast.fleet.line import Answer, EndedError, Line, NoHttpError, TooLargeError

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nETag: "a"\r\n\r\nhi'


class Server:
    """Answers each question with the next of `answers`. None, and no more of them: it ends the connection."""

    def __init__(self, answers: list[bytes | None]) -> None:
        self.answers = answers
        self.connections = 0
        self.asked: list[bytes] = []
        self.ended = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                await self._answer(reader, writer)
        finally:
            writer.close()
            self.ended.set()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            answer = self.answers.pop(0) if self.answers else None
            if answer is None:
                return
            writer.write(answer)
            if self.answers[:1] == [None]:
                self.answers.pop(0)
                return
            if b"Connection: close" in answer:
                return


@contextlib.asynccontextmanager
async def asking(
    *answers: bytes | None, most: int = 1000, ended: Callable[[], None] = lambda: None
) -> AsyncIterator[tuple[Server, Line]]:
    server = Server([*answers])
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]

    async def connect(
        protocol: Callable[[], asyncio.Protocol],
    ) -> tuple[asyncio.BaseTransport, asyncio.Protocol]:
        return await asyncio.get_running_loop().create_connection(protocol, "127.0.0.1", port)

    line = Line(connect, most=most, ended=ended)
    try:
        async with asyncio.timeout(30):
            yield server, line
    finally:
        line.close()
        listening.close()
        for one in server.tasks:
            one.cancel()
        await asyncio.gather(*server.tasks, return_exceptions=True)


async def get(line: Line) -> Answer:
    return await line.get("/fleet", [("Host", "lb2")])


def test_questions_share_a_connection() -> None:
    async def story() -> None:
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        early = b"HTTP/1.1 103 Early Hints\r\n\r\n"
        async with asking(OK, b"HTTP/1.1 304 Not Modified\r\n\r\n", early + chunked) as (server, line):
            assert await get(line) == Answer(200, {b"content-length": b"2", b"etag": b'"a"'}, b"hi")
            assert (await get(line)).status == 304
            assert (await get(line)).body == b"abc"
            assert server.connections == 1
            assert server.asked[0] == b"GET /fleet HTTP/1.1\r\nHost: lb2\r\n\r\n"

    asyncio.run(story())


def test_one_that_was_ended_meanwhile_is_made_anew_and_that_is_told() -> None:
    async def story() -> None:
        told = asyncio.Event()
        async with asking(OK, None, OK, ended=told.set) as (server, line):
            await get(line)
            await told.wait()
            assert not line.is_open
            assert (await get(line)).body == b"hi"
            assert server.connections == 2

    asyncio.run(story())


def test_one_that_is_ended_while_it_is_asked_is_asked_once_more() -> None:
    async def story() -> None:
        async with asking(OK, OK) as (server, line):
            await get(line)
            server.answers.insert(0, None)
            assert (await get(line)).body == b"hi"
            server.answers[:] = [None, None]
            with pytest.raises(EndedError) as ended:
                await get(line)
            assert ended.value.fresh
            assert server.connections == 3

    asyncio.run(story())


def test_an_answer_that_ends_with_its_connection_is_one() -> None:
    async def story() -> None:
        close = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall of it"
        async with asking(close, close) as (server, line):
            assert [(await get(line)).body for _ in range(2)] == [b"all of it"] * 2
            assert server.connections == 2

    asyncio.run(story())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"\x00\xff garbage\r\n\r\n", NoHttpError),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000, NoHttpError),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\nshort", NoHttpError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001, TooLargeError),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", NoHttpError),
    ],
)
def test_what_cannot_be_taken_ends_the_connection(answer: bytes, error: type[Exception]) -> None:
    async def story() -> None:
        async with asking(answer, OK) as (server, line):
            with pytest.raises(error):
                await get(line)
            assert not line.is_open
            if server.answers:
                assert (await get(line)).body == b"hi"

    asyncio.run(story())


def test_what_nobody_asked_for_ends_the_connection() -> None:
    async def story() -> None:
        async with asking(OK + OK, OK) as (server, line):
            assert (await get(line)).body == b"hi"
            assert not line.is_open
            assert (await get(line)).body == b"hi"
            assert server.connections == 2

    asyncio.run(story())


def test_who_gives_up_ends_the_connection() -> None:
    """What came later would be taken for the answer to the next question."""

    async def story() -> None:
        async with asking(b"HTTP/1.1 200 OK\r\n", OK) as (server, line):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await get(line)
            assert not line.is_open
            await server.ended.wait()
            assert (await get(line)).body == b"hi"

    asyncio.run(story())
