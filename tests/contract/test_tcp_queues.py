"""What TCP connections have to send, and their end, by the real kernel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from anycast.kernel.tcp import Tcp
from anycast.kernel.tcp_codec import Sending
from tests.contract.namespaces import network_namespace
from tests.contract.namespaces import run as command

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="a network namespace and the end of a connection need root"
)


@dataclass
class Pair:
    port: int
    ours: socket.socket
    theirs: socket.socket

    def fill(self) -> int:
        """Writes until nothing more is taken. Returns how many bytes."""
        written = 0
        self.ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                written += self.ours.send(bytes(65536))
        return written


@pytest.fixture(params=["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with (
        network_namespace(),
        contextlib.closing(socket.socket(family)) as listener,
        contextlib.closing(socket.socket(family)) as ours,
    ):
        listener.bind((request.param, 0))
        listener.listen()
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
        with contextlib.closing(theirs):
            yield Pair(listener.getsockname()[1], ours, theirs)


async def both(tcp: Tcp, pair: Pair) -> tuple[Sending, Sending]:
    """Of both ends."""
    found = await tcp.find([4, 6], [pair.port])
    assert len(found) == 2
    (ours,) = (one for one in found if one.connection.remote_port == pair.port)
    (theirs,) = (one for one in found if one.connection.local_port == pair.port)
    return ours, theirs


def test_what_waits_and_what_was_taken_is_told_of_this_connection(pair: Pair) -> None:
    async def run(tcp: Tcp) -> None:
        ours, theirs = await both(tcp, pair)
        assert ours.waiting == theirs.waiting == 0
        written = pair.fill()
        full = await tcp.look(ours.connection)
        assert full is not None
        assert full.connection == ours.connection
        assert full.waiting > 0
        assert full.waiting + full.taken - ours.taken == written
        again = await tcp.look(ours.connection)
        assert again == full
        pair.theirs.setblocking(True)
        read = 0
        while read < written:
            read += len(pair.theirs.recv(1 << 20))
        taken = await tcp.look(ours.connection)
        assert taken is not None
        assert (taken.waiting, taken.taken - ours.taken) == (0, written)

    with contextlib.closing(Tcp()) as tcp:
        asyncio.run(run(tcp))


def test_a_connection_is_ended_though_its_queue_is_full_and_the_other_end_is_reset(pair: Pair) -> None:
    async def run(tcp: Tcp) -> None:
        ours, theirs = await both(tcp, pair)
        pair.fill()
        await tcp.end(ours.connection)
        assert await tcp.look(ours.connection) is None
        assert await tcp.look(theirs.connection) is None
        await tcp.end(ours.connection)  # it has ended already
        assert await tcp.find([4, 6], [pair.port]) == []

    with contextlib.closing(Tcp()) as tcp:
        asyncio.run(run(tcp))
    with pytest.raises(ConnectionAbortedError):
        pair.ours.send(b"more")
    with pytest.raises(ConnectionResetError):
        pair.theirs.send(b"more")


def test_another_connection_with_the_same_ends_is_another(pair: Pair) -> None:
    async def run(tcp: Tcp) -> None:
        ours, _ = await both(tcp, pair)
        other = ours.connection._replace(cookie=bytes(8))
        assert await tcp.look(other) is None
        await tcp.end(other)
        assert await tcp.look(ours.connection) is not None

    with contextlib.closing(Tcp()) as tcp:
        asyncio.run(run(tcp))


def test_a_connection_that_has_been_closed_is_none_though_the_kernel_remembers_it(pair: Pair) -> None:
    async def run(tcp: Tcp) -> None:
        ours, _ = await both(tcp, pair)
        pair.ours.close()
        pair.theirs.close()  # ours goes through TIME_WAIT
        assert "TIME-WAIT" in command("ss", "-Htan")
        assert await tcp.look(ours.connection) is None
        assert await tcp.find([4, 6], [pair.port]) == []

    with contextlib.closing(Tcp()) as tcp:
        asyncio.run(run(tcp))
