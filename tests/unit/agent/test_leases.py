"""The agent's end of the lease protocol, with plugins on a real unix socket."""

from __future__ import annotations

import asyncio
import itertools
import os
import pwd
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import TypeVar

import pytest
from structlog.testing import capture_logs

from anycast.agent import door, leases
from anycast.agent.leases import MAX_REPORT, LeaseServer
from anycast.core.events import Event, PluginConnected, PluginLost, PluginReported, PluginSaw
from anycast.core.values.lease import by_prefix, full_lease, next_lease
from anycast.core.values.route import Prefix, Route
from anycast.core.values.sight import RouterView, ViewChange
from anycast.lease import (
    NO_REPORT,
    Ask,
    Decoder,
    Hello,
    Lease,
    LeaseChange,
    Message,
    Report,
    change_of,
    changes_of,
    encode,
)
from anycast.sockets import Peer, bind_unix

PREFIX = ip_network("192.0.2.1/32")
ISSUED = time.monotonic()
REPORT = Report(seq=3, announced=frozenset({PREFIX}), pid=42)

T = TypeVar("T", bound=Event)


def lease(seq: int, owned: int = 1) -> Lease:
    return full_lease(
        seq=seq,
        issued=ISSUED,
        ttl=300.0,
        routes=(Route(prefix=PREFIX),),
        owned=tuple(ip_network(10 << 24 | number) for number in range(owned)),
    )


def after(before: Lease, *routes: Route, owned: frozenset[Prefix] | None = None) -> Lease:
    return next_lease(
        base=before.seq,
        digest=before.digest,
        before=before.routes,
        owned_before=before.owned,
        seq=before.seq + 1,
        issued=ISSUED,
        ttl=300.0,
        routes=by_prefix(routes),
        owned=before.owned if owned is None else owned,
    )


@pytest.fixture(autouse=True)
def _issued_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the import are over where the tests before took five minutes."""
    monkeypatch.setattr(sys.modules[__name__], "ISSUED", time.monotonic())


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

    async def leases(self) -> list[Lease | LeaseChange]:
        """Those that come next; none when the agent has hung up."""
        while data := await self.reader.read(65536):
            heard = self._decoder.feed(data)
            if found := [message for message in heard if isinstance(message, Lease | LeaseChange)]:
                return found
        return []

    def say(self, *messages: Message) -> None:
        self.writer.write(b"".join(map(encode, messages)))


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


def test_a_plugin_that_answers_no_lease_is_told_of_once_until_it_does(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "MUTE", 0.0)

    async def story(server: Server) -> None:
        async with plugin(server) as still:
            await server.next(PluginConnected)
            for seq in (1, 2):
                server.send(lease(seq))
            assert server.events.empty(), "it has not reported yet: it starts"
            still.say(REPORT)
            assert not (await server.next(PluginReported)).report.mute
            before = time.monotonic()
            for seq in (3, 4, 5):
                server.send(lease(seq))
            mute = (await server.next(PluginReported)).report
            assert mute == replace(REPORT, mute=True, silent_since=mute.silent_since)
            assert mute.silent_since is not None
            assert before <= mute.silent_since <= time.monotonic()
            assert mute.touched == frozenset()
            assert server.events.empty(), "once"
            still.say(replace(REPORT, seq=5))
            assert (await server.next(PluginReported)).report == replace(REPORT, seq=5)

    assert run(directory, story) == []


def test_after_a_time_in_which_the_agent_did_not_run_nobody_counts_as_silent(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "MUTE", 1e-9)

    async def story(server: Server) -> None:
        async with plugin(server) as one:
            await server.next(PluginConnected)
            one.say(REPORT)
            await server.next(PluginReported)
            for seq in range(3, 9):
                server._sent_at = -1e9  # it was late each time
                server.send(lease(seq))
            assert server.events.empty()

    assert run(directory, story) == []


def test_what_routers_have_is_passed_on(directory: Path) -> None:
    change = ViewChange(views=(RouterView(neighbor="10.2.1.254", number=1),), first=True)

    async def story(server: Server) -> None:
        async with plugin(server) as one:
            await server.next(PluginConnected)
            one.say(change)
            assert (await server.next(PluginSaw)).change == change

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


def test_a_plugin_whose_user_is_not_known_yet_gets_in_once_it_is(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent answers others meanwhile, and ends when it is told to."""
    asked, found = threading.Event(), threading.Event()

    def slow(_: str) -> int:
        asked.set()
        found.wait(20)
        return 12345

    monkeypatch.setattr(door, "peer_of", lambda _: Peer(1, 12345))
    monkeypatch.setattr(leases, "ASK_PATIENCE", 0.0)
    monkeypatch.setattr(leases, "ASKED_AGAIN", 0.0)
    monkeypatch.setattr(leases, "_uid_of", slow)

    async def story(server: Server) -> None:
        await asyncio.to_thread(asked.wait, 20)
        async with plugin(server) as early:
            assert await early.leases() == []
        found.set()
        while True:
            async with plugin(server) as late:
                if await late.reader.read(1):
                    await server.next(PluginConnected)
                    return

    assert run(directory, story) == []


def test_strangers_are_turned_away_before_anything_is_done_for_them(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "peer_of", lambda _: Peer(1, 12345))

    async def story(server: Server) -> None:
        for _ in range(50):
            async with plugin(server) as stranger:
                assert await stranger.leases() == []
        assert server.events.empty()

    with capture_logs() as logs:
        assert run(directory, story) == []
    assert [one["event"] for one in logs] == ["plugin.refused"]


def test_a_plugin_keeps_its_place_while_the_silent_make_way(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = itertools.count(1)
    monkeypatch.setattr(door, "HEARD", 0.0)
    monkeypatch.setattr(door, "peer_of", lambda _: Peer(next(pids), os.geteuid()))

    async def story(server: Server) -> None:
        async with plugin(server) as good, AsyncExitStack() as silent:
            await server.next(PluginConnected)
            good.say(REPORT)
            await server.next(PluginReported)
            for _ in range(2 * leases.LIMITS.user):
                await silent.enter_async_context(plugin(server))
            connected = 0
            while connected < 2 * leases.LIMITS.user:
                connected += isinstance(await server.events.get(), PluginConnected)
            server.send(lease(1))
            assert await good.leases() == [lease(1)]

    assert run(directory, story) == []


def test_what_is_no_report_is_passed_over(directory: Path) -> None:
    async def story(server: Server) -> None:
        async with plugin(server) as newer:
            await server.next(PluginConnected)
            newer.writer.write(b'{"type": "from the future"}\n' + encode(lease(1)) + encode(REPORT))
            assert (await server.next(PluginReported)).report == REPORT

    assert run(directory, story) == []


def test_one_who_asks_gets_the_full_set_and_then_what_changes(directory: Path) -> None:
    async def story(server: Server) -> None:
        async with plugin(server) as one:
            await server.next(PluginConnected)
            server.send(first := lease(1))
            assert await one.leases() == [first]
            one.say(Ask(), REPORT)  # it has the full set of this lease
            await server.next(PluginReported)
            server.send(second := after(first, Route(prefix=PREFIX)))
            (renewal,) = await one.leases()
            assert renewal == change_of(second, first.owned)
            assert len(encode(renewal)) < 140
            other = ip_network("192.0.2.2/32")
            server.send(third := after(second, Route(prefix=other), owned=frozenset({other})))
            (change,) = await one.leases()
            assert change == change_of(third, second.owned)
            assert isinstance(change, LeaseChange)
            assert (change.changed, change.gone) == ((Route(prefix=other),), (PREFIX,))
            assert (change.owned, change.disowned) == ((other,), tuple(second.owned))

    assert run(directory, story) == []


def test_a_lease_that_does_not_stand_on_the_one_before_goes_out_in_full(directory: Path) -> None:
    async def story(server: Server) -> None:
        async with plugin(server) as one:
            await server.next(PluginConnected)
            one.say(Ask(), REPORT)
            await server.next(PluginReported)
            server.send(first := lease(1))
            assert await one.leases() == [first]
            server.send(alone := lease(2))
            assert await one.leases() == [alone]
            server.send(astray := after(first))
            assert await one.leases() == [whole_of(astray)]

    assert run(directory, story) == []


def whole_of(one: Lease) -> Lease:
    return replace(one, base=None, changed=(), gone=())


def test_one_who_asks_again_gets_the_full_set_once_for_each_lease(directory: Path) -> None:
    async def story(server: Server) -> None:
        async with plugin(server) as one:
            await server.next(PluginConnected)
            server.send(first := lease(1))
            assert await one.leases() == [first]
            one.say(Ask(), REPORT)
            await server.next(PluginReported)
            server.send(second := after(first, Route(prefix=PREFIX)))
            one.say(*[Ask()] * 50)
            found = await one.leases()
            while len(found) < 2:
                found += await one.leases()
            assert found == [change_of(second, first.owned), whole_of(second)]
            server.send(third := after(second, Route(prefix=PREFIX)))
            assert await one.leases() == [change_of(third, second.owned)]

    assert run(directory, story) == []


def test_a_lease_that_is_over_is_not_handed_out_again(directory: Path) -> None:
    async def story(server: Server) -> None:
        async with plugin(server) as one:
            await server.next(PluginConnected)
            server.send(over := full_lease(seq=1, issued=ISSUED - 9.0, ttl=2.0, routes=()))
            assert await one.leases() == [over]
        await server.next(PluginLost)
        async with plugin(server) as next_one:
            await server.next(PluginConnected)
            next_one.say(Ask(), REPORT)
            await server.next(PluginReported)
            server.send(good := after(over))
            assert await next_one.leases() == [whole_of(good)]

    assert run(directory, story) == []


@pytest.mark.parametrize("knows_changes", [True, False])
def test_one_who_was_behind_gets_the_newest_full_set_and_no_queue(
    directory: Path, *, knows_changes: bool
) -> None:
    async def story(server: Server) -> None:
        async with plugin(server) as good:
            await server.next(PluginConnected)
            with socket.socket(socket.AF_UNIX) as slow:
                slow.connect(str(server.path))
                await server.next(PluginConnected)
                if knows_changes:
                    slow.sendall(encode(Ask()) + encode(REPORT))
                    await server.next(PluginReported)
                newest = lease(1, owned=30_000)
                server.send(newest)
                for _ in range(400):
                    server.send(newest := after(newest, Route(prefix=PREFIX, med=newest.seq)))
                while not any(one.seq == newest.seq for one in await good.leases()):
                    pass
                reader, writer = await asyncio.open_unix_connection(sock=slow)
                behind, found = Plugin(reader, writer), list[Lease | LeaseChange]()
                while not found or found[-1].seq != newest.seq:
                    found += await behind.leases()
                writer.close()
                whole = [one.seq for one in found if isinstance(one, Lease)]
                assert whole == [1, newest.seq]
                assert len(found) < (400 if knows_changes else 3)
                assert found[-1] == whole_of(newest)

    assert run(directory, story) == []


def test_one_who_does_not_read_is_dropped_and_holds_nobody_up(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "STALLED", 0.0)

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


def test_reports_are_put_together_from_what_differs(directory: Path) -> None:
    other = ip_network("192.0.2.2/32")
    second = replace(REPORT, seq=4, announced=frozenset({other}), touched=frozenset({PREFIX, other}))

    async def story(server: Server) -> None:
        async with plugin(server) as one:
            await server.next(PluginConnected)
            one.say(*changes_of(NO_REPORT, REPORT))
            heard = (await server.next(PluginReported)).report
            assert (heard, heard.touched) == (REPORT, frozenset({PREFIX}))
            one.say(*changes_of(REPORT, second))
            heard = (await server.next(PluginReported)).report
            assert (heard, heard.touched) == (second, frozenset({PREFIX, other}))
            one.say(*changes_of(NO_REPORT, REPORT))  # which does not stand on what was said
            await server.next(PluginLost)

    with capture_logs() as logs:
        assert run(directory, story) == []
    assert [one["event"] for one in logs] == ["plugin.refused"]


def test_of_what_comes_together_the_newest_is_heard_with_all_that_has_changed(directory: Path) -> None:
    prefixes = [ip_network(f"192.0.2.{number}/32") for number in range(200)]

    async def story(server: Server) -> None:
        async with plugin(server) as one:
            await server.next(PluginConnected)
            said, stream = NO_REPORT, b""
            for number, prefix in enumerate(prefixes):
                new = Report(seq=number, announced=frozenset({prefix}), pid=1)
                stream += b"".join(map(encode, changes_of(said, new)))
                said = new
            one.writer.write(stream)
            heard = [(await server.next(PluginReported)).report]
            while heard[-1] != said:
                heard.append((await server.next(PluginReported)).report)
            assert len(heard) < len(prefixes) / 10
            assert frozenset[Prefix]().union(*(each.touched or () for each in heard)) == set(prefixes)

    assert run(directory, story) == []


def test_a_plugin_that_floods_the_agent_does_not_keep_the_lease_from_others(directory: Path) -> None:
    async def story(server: Server) -> None:
        async with plugin(server) as loud, plugin(server) as good:
            for _ in range(2):
                await server.next(PluginConnected)
            flood = encode(REPORT) * 20_000
            loud.writer.write(flood)
            await server.next(PluginReported)
            for seq in range(1, 6):
                server.send(lease(seq))
                assert [one.seq for one in await good.leases()] == [seq]
            heard = 1 + server.events.qsize()
            assert heard * leases.READ_SIZE < len(flood), "all of it was read first"

    assert run(directory, story) == []


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
            assert heard.startswith(encode(Hello()) if admitted else b"")
            assert bool(heard) == admitted
            assert server.events.empty()

    assert run(directory, story, user) == []
