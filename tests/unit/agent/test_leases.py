"""The agent's end of the lease protocol, with plugins on a real unix socket."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import TypeVar

import pytest
from structlog.testing import capture_logs

from anycast.agent import leases
from anycast.agent.leases import MAX_REPORT, LeaseServer
from anycast.core.events import Event, PluginConnected, PluginLost, PluginReported
from anycast.core.values.lease import full_lease
from anycast.core.values.route import Route
from anycast.lease import Decoder, Lease, Report, encode
from anycast.sockets import bind_unix

PREFIX = ip_network("192.0.2.1/32")
REPORT = Report(seq=3, announced=frozenset({PREFIX}), pid=42)

T = TypeVar("T", bound=Event)


def lease(seq: int, owned: int = 1) -> Lease:
    return full_lease(
        seq=seq,
        issued=1.0,
        ttl=2.0,
        routes=(Route(prefix=PREFIX),),
        owned=tuple(ip_network(10 << 24 | number) for number in range(owned)),
    )


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that every user may enter."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


class Server(LeaseServer):
    """Listens at `path`; what it posts is in `events`."""

    def __init__(self, path: Path, user: str) -> None:
        self.path = path
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        super().__init__(self.events.put_nowait, user=user)

    async def next(self, kind: type[T]) -> T:
        event = await self.events.get()
        assert isinstance(event, kind)
        return event


class Plugin:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._decoder = Decoder()

    async def leases(self) -> list[Lease]:
        """Those that come next; none when the agent has hung up."""
        while data := await self.reader.read(65536):
            if found := [message for message in self._decoder.feed(data) if isinstance(message, Lease)]:
                return found
        return []


@asynccontextmanager
async def plugin(server: Server) -> AsyncIterator[Plugin]:
    reader, writer = await asyncio.open_unix_connection(str(server.path))
    yield Plugin(reader, writer)
    writer.close()


def run(
    directory: Path, story: Callable[[Server], Awaitable[None]], user: str = "nobody"
) -> list[dict[str, object]]:
    """Returns what the loop's exception handler was told: nothing, if all is well."""
    complaints: list[dict[str, object]] = []

    async def play() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        server = Server(directory / "lease.sock", user)
        await server.listen(bind_unix(server.path, mode=0o666))
        try:
            await story(server)
        finally:
            await server.close()

    asyncio.run(play())
    return complaints


def test_every_plugin_gets_every_lease_and_is_heard_under_its_own_number(directory: Path) -> None:
    async def story(server: Server) -> None:
        async with plugin(server) as one, plugin(server) as two:
            numbers = {(await server.next(PluginConnected)).source for _ in range(2)}
            server.send(lease(1))
            assert await one.leases() == await two.leases() == [lease(1)]
            two.writer.write(encode(REPORT))
            heard = await server.next(PluginReported)
            assert heard.report == REPORT
            two.writer.close()
            assert (await server.next(PluginLost)).source == heard.source
            server.send(lease(2))
            assert await one.leases() == [lease(2)]
        assert {heard.source, (await server.next(PluginLost)).source} == numbers

    assert run(directory, story) == []


def test_one_who_says_nothing_gets_its_leases_all_the_same(directory: Path) -> None:
    async def story(server: Server) -> None:
        async with plugin(server) as silent:
            await server.next(PluginConnected)
            for seq in (1, 2):
                server.send(lease(seq))
                assert await silent.leases() == [lease(seq)]
        await server.next(PluginLost)

    assert run(directory, story) == []


def test_a_report_is_heard_however_it_is_cut(directory: Path) -> None:
    async def story(server: Server) -> None:
        async with plugin(server) as slow:
            await server.next(PluginConnected)
            for byte in encode(REPORT):
                slow.writer.write(bytes([byte]))
                await slow.writer.drain()
            assert (await server.next(PluginReported)).report == REPORT

    assert run(directory, story) == []


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n",
        b"\xff\xfe\n",
        b"{}\n",
        b'{"type": "report"}\n',
        b"[" * 9999 + b"\n",
        b"x" * (MAX_REPORT + 1),
    ],
    ids=["http", "binary", "empty", "incomplete", "nested", "endless"],
)
def test_garbage_ends_its_connection_and_no_other(directory: Path, garbage: bytes) -> None:
    async def story(server: Server) -> None:
        async with plugin(server) as good, plugin(server) as bad:
            for _ in range(2):
                await server.next(PluginConnected)
            bad.writer.write(garbage)
            await server.next(PluginLost)
            server.send(lease(1))
            assert await bad.leases() == []
            assert await good.leases() == [lease(1)]

    assert run(directory, story) == []


def test_a_plugin_that_speaks_nonsense_over_and_over_is_logged_until_one_speaks_well_once(
    directory: Path,
) -> None:
    async def story(server: Server) -> None:
        for said in (b"GET /\n", b"PUT /\n", encode(REPORT), b"GET /\n"):
            async with plugin(server) as one:
                await server.next(PluginConnected)
                one.writer.write(said)
                if said[:1] == b"{":
                    await server.next(PluginReported)
                else:
                    await server.next(PluginLost)
                    continue
            await server.next(PluginLost)

    with capture_logs() as logs:
        assert run(directory, story) == []
    assert [one["event"] for one in logs] == ["plugin.refused"] * 2


def test_a_plugin_whose_user_is_looked_up_while_the_agent_ends_is_not_let_in(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, found = threading.Event(), threading.Event()

    def slow(_: str) -> int:
        asked.set()
        found.wait(20)
        return 12345

    monkeypatch.setattr(leases, "peer_uid", lambda _: 12345)
    monkeypatch.setattr(leases, "_uid_of", slow)
    monkeypatch.setattr(leases, "CLOSE_PATIENCE", 0.0)

    async def story(server: Server) -> None:
        async with plugin(server):
            await asyncio.to_thread(asked.wait, 20)
            closing = asyncio.create_task(server.close())
            await asyncio.sleep(0.05)  # the patience is over
            found.set()
            await asyncio.wait_for(closing, 10)
            assert server.events.empty()

    assert run(directory, story) == []


def test_what_is_no_report_is_passed_over(directory: Path) -> None:
    async def story(server: Server) -> None:
        async with plugin(server) as newer:
            await server.next(PluginConnected)
            newer.writer.write(b'{"type": "from the future"}\n' + encode(lease(1)) + encode(REPORT))
            assert (await server.next(PluginReported)).report == REPORT

    assert run(directory, story) == []


def test_one_who_does_not_read_is_dropped_and_holds_nobody_up(directory: Path) -> None:
    async def story(server: Server) -> None:
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.connect(str(server.path))
            gone = await server.next(PluginConnected)
            async with plugin(server) as good:
                await server.next(PluginConnected)
                seq = 0
                while server.events.empty():
                    seq += 1
                    server.send(lease(seq, owned=5000))
                    assert [found.seq for found in await good.leases()] == [seq]
                assert (await server.next(PluginLost)).source == gone.source
                server.send(lease(seq + 1))
                assert [found.seq for found in await good.leases()] == [seq + 1]

    with capture_logs() as logs:
        assert run(directory, story) == []
    assert [one["event"] for one in logs] == ["plugin.dropped"]


def test_a_new_socket_takes_new_plugins_and_those_that_stand_stay(directory: Path) -> None:
    async def story(server: Server) -> None:
        async with plugin(server) as old:
            await server.next(PluginConnected)
            server.path.unlink()
            await server.listen(bind_unix(server.path, mode=0o666))
            async with plugin(server) as new:
                await server.next(PluginConnected)
                server.send(lease(1))
                assert await old.leases() == await new.leases() == [lease(1)]

    assert run(directory, story) == []


def test_at_the_end_everybody_is_told_so_and_gets_what_was_sent_before(directory: Path) -> None:
    async def story(server: Server) -> None:
        async with plugin(server) as one:
            await server.next(PluginConnected)
            server.send(lease(9))
            await server.close()
            assert await one.leases() == [lease(9)]
            assert await one.leases() == []

    assert run(directory, story) == []


def connect_as(user: str, path: Path) -> socket.socket:
    """The kernel keeps whose the process was at that moment."""
    client = socket.socket(socket.AF_UNIX)
    os.seteuid(pwd.getpwnam(user).pw_uid)
    try:
        client.connect(str(path))
    finally:
        os.seteuid(0)
    client.setblocking(False)
    return client


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's place")
@pytest.mark.parametrize(("user", "admitted"), [("nobody", True), ("daemon", False), ("no-such-user", False)])
def test_only_the_plugins_user_is_let_in(directory: Path, user: str, *, admitted: bool) -> None:
    async def story(server: Server) -> None:
        with connect_as("nobody", server.path) as client:
            if admitted:
                await server.next(PluginConnected)
                server.send(lease(1))
            heard = await asyncio.get_running_loop().sock_recv(client, 65536)
            assert heard == (encode(lease(1)) if admitted else b"")
            assert server.events.empty()

    assert run(directory, story, user) == []
