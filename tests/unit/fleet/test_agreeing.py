"""The process that hears the others, against two nodes as they are served: a weight that differs is named within seconds."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import structlog.testing

from anycast.core import events as ev
from anycast.core.fleet.codec import BrokenError
from anycast.core.fleet.values import Disagreement, Peer, Source, View
from anycast.core.hooks import Secret
from anycast.core.values.configuration import Config
from anycast.core.values.fleet import Fleet, PeerAt
from anycast.fleet import agreeing, frames
from anycast.fleet.frames import LENGTH, Task
from anycast.fleet.main import serve
from anycast.fleet.own import SOCKET
from anycast.fleet.receiving import Receiver
from anycast.ops.fleet import Told
from anycast.ops.fleet_door import Door
from anycast.ops.main import surface
from tests.unit.ops.node import CONFIG, Node, healthy

PATIENCE = 60.0  # seconds, of the test


def weighted(config: Config, weight: int) -> Config:
    """With this weight of the first real server of the first VIP."""
    vip = config.vips[0]
    pool = vip.services[0].pool
    first, *rest = pool.servers
    fresh = replace(pool, servers=(replace(first, weight=weight), *rest))
    services = tuple(replace(one, pool=fresh) for one in vip.services)
    return replace(config, vips=(replace(vip, services=services), *config.vips[1:]))


def reload(node: Node, weight: int) -> None:
    node.send(ev.Reconfigured(config=weighted(node.state.config, weight)))
    node.probe()


class Heard:
    """What the agent is told, put together as it does that."""

    def __init__(self) -> None:
        self.view = View()
        self._changed = asyncio.Event()

    async def follow(self, line: socket.socket, task: Task) -> None:
        reader, writer = await asyncio.open_connection(sock=line)
        try:
            data = pickle.dumps(task)
            writer.write(LENGTH.pack(len(data)) + data)
            receiver = Receiver()
            while True:
                (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                event = receiver.take(await reader.readexactly(size))
                if event is not None:
                    self.view = View(peers={**self.view.peers, **event.peers})
                    self._changed.set()
        finally:
            writer.close()

    async def until(self, what: Callable[[Peer | None], bool]) -> Peer | None:
        async with asyncio.timeout(PATIENCE):
            while not what(self.view.peers.get("lb2")):
                self._changed.clear()
                await self._changed.wait()
        return self.view.peers.get("lb2")


@contextlib.asynccontextmanager
async def served(own: Node, folder: Path) -> AsyncIterator[None]:
    """This node's ops process, as far as it is asked here."""
    async with surface(own, told=Told(own)) as (local, _):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / SOCKET))
        listener.listen()
        await local.listen(listener)
        yield


@contextlib.asynccontextmanager
async def two(folder: Path) -> AsyncIterator[tuple[Node, Node, Heard]]:
    """lb1, which hears lb2: both as they are served, and the process between them."""
    token = folder / "token"
    token.write_text("one-word\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    secret = Secret(file=str(token))
    asks = Fleet(interval=0.5, peers=(PeerAt(name="lb2", host="127.0.0.1", port=port),), token=secret)
    answers = Fleet(listen=f"127.0.0.1:{port}", peers=(PeerAt(name="lb1"),), token=secret)
    other_config = replace(CONFIG, node=replace(CONFIG.node, name="lb2"), fleet=answers)
    own = healthy(replace(CONFIG, fleet=asks), now=time.monotonic())
    other = healthy(other_config, now=time.monotonic())
    own.last_step += PATIENCE  # as one that turns all the time
    ours, theirs = socket.socketpair()
    heard = Heard()
    task = Task(node="lb1", fleet=asks, runtime_dir=str(folder))
    async with served(own, folder):
        door = asyncio.create_task(
            Door(other, Told(other), lambda *_: None, clock=lambda: other.last_step).keep()
        )
        process = asyncio.create_task(serve(theirs))
        following = asyncio.create_task(heard.follow(ours, task))
        try:
            yield own, other, heard
        finally:
            for one in (following, process, door):
                one.cancel()
            await asyncio.gather(following, process, door, return_exceptions=True)


def differs(peer: Peer | None) -> Disagreement | None:
    return None if peer is None else peer.disagreement


def test_a_weight_that_one_node_has_alone_is_named_and_it_is_over_once_both_have_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with two(tmp_path) as (own, other, heard):
            await heard.until(lambda peer: peer is not None and peer.document is not None)
            reload(other, 7)
            found = differs(await heard.until(lambda peer: differs(peer) is not None))
            assert found is not None
            assert (found.count, found.vips) == (1, ("web",))
            assert found.words == "tcp 192.0.2.1:80: rs1 (10.9.2.1:80) has weight 1 here and 7 on lb2"
            reload(own, 7)
            await heard.until(lambda peer: differs(peer) is None)

    asyncio.run(story())


class Compared:
    """What lb1 tells of others that have another table of its first VIP. The first that is asked refuses, and none answers."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.told: asyncio.Queue[tuple[str, Disagreement | None]] = asyncio.Queue()
        self._one = agreeing.Agreeing(str(folder), self._ask, lambda *found: self.told.put_nowait(found))
        self._folder = folder
        self._asked = 0
        self._names = names

    async def _ask(self, node: str, path: str) -> bytes:
        self._asked += 1
        if self._asked > 1:
            await asyncio.Event().wait()
        raise ConnectionRefusedError

    @contextlib.asynccontextmanager
    async def compared(self) -> AsyncIterator[None]:
        peers = tuple(PeerAt(name=name, host="127.0.0.1") for name in self._names)
        own = healthy(replace(CONFIG, fleet=Fleet(peers=peers)), now=time.monotonic())
        own.last_step += PATIENCE
        async with served(own, self._folder), asyncio.timeout(PATIENCE):
            running = asyncio.create_task(self._one.run())
            try:
                for name in self._names:
                    row = ("announced", "", 0.0, "another-table", ())
                    now = asyncio.get_running_loop().time()
                    self._one.hear(frames.Told(name=name, heard=now, pieces={"digest": {"web": row}}))
                yield
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    async def says_so(self) -> tuple[str, Disagreement | None]:
        """What is told next, while the others say that nothing is new."""
        while True:
            for name in self._names:
                self._one.alive(name, asyncio.get_running_loop().time())
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(self.told.get(), 0.1)


def test_what_was_not_heard_for_a_while_and_is_as_it_was_still_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that did not run for some seconds hears from all that nothing is new: no word of a table comes again."""
    monkeypatch.setattr(agreeing, "PATIENCE", {Source.PEERS: 0.5})

    async def story() -> None:
        lb1 = Compared(tmp_path, "lb2")
        async with lb1.compared():
            assert (await lb1.says_so())[1] is not None
            assert await lb1.told.get() == ("lb2", None)
            assert (await lb1.says_so())[1] is not None

    asyncio.run(story())


def test_of_several_that_do_not_answer_each_is_named(tmp_path: Path) -> None:
    async def story() -> None:
        lb1 = Compared(tmp_path, "lb2", "lb3")
        with structlog.testing.capture_logs() as logs:
            async with lb1.compared():
                assert {(await lb1.says_so())[0], (await lb1.says_so())[0]} == {"lb2", "lb3"}
        assert logs == []

    asyncio.run(story())


async def connected(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Once the door is open."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(host, port)
            await asyncio.sleep(0.05)


def test_without_the_token_there_are_no_tables(tmp_path: Path) -> None:
    async def story() -> None:
        async with two(tmp_path) as (_, other, _heard):
            fleet = other.state.config.fleet
            assert fleet is not None
            host, _, port = fleet.listen.rpartition(":")
            for token, status in (("", 401), ("Authorization: Bearer one-word\r\n", 200)):
                reader, writer = await connected(host, int(port))
                writer.write(f"GET /fleet/vips/web HTTP/1.0\r\nHost: lb2\r\n{token}\r\n".encode())
                answer = await reader.read()
                writer.close()
                assert f" {status} ".encode() in answer.splitlines()[0]
                assert (b"10.9.2.1:80" in answer) is (status == 200)

    asyncio.run(story())


def test_a_disagreement_goes_over_the_line_and_stays_until_it_is_over() -> None:
    receiver = Receiver()
    peer = b'[["peers", [["lb2", "peers", 1.0, 1.0, "", null, false]]]]'
    assert receiver.take(b'[["differs", "lb2", 2, ["web"], "words", 5.0]]') is None  # nobody knows it yet
    receiver.take(peer)
    event = receiver.take(b'[["differs", "lb2", 2, ["web"], "words", 5.0]]')
    assert event is not None
    found = Disagreement(count=2, vips=("web",), since=5.0, words="words")
    assert event.peers["lb2"].disagreement == found
    again = receiver.take(peer)
    assert again is not None
    assert again.peers["lb2"].disagreement == found
    over = receiver.take(b'[["differs", "lb2", 0, [], "", 0.0]]')
    assert over is not None
    assert over.peers["lb2"].disagreement is None
    with pytest.raises(BrokenError):
        receiver.take(b'[["differs", "lb2", "two", ["web"], "", 5.0]]')
