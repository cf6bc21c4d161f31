"""When a change is told, and how often. The kernel here is one end of a socket pair."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest

from anycast.kernel import address_codec as codec
from anycast.kernel import interface_watch


def notice(index: int) -> bytes:
    return struct.pack("=IHHII", 24, codec.NEW_ADDRESS, 0, 0, 0) + struct.pack("=4xI", index)


def test_what_comes_in_one_burst_is_told_once_and_what_comes_later_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    monkeypatch.setattr(interface_watch, "open_socket", lambda protocol, groups: ours)
    monkeypatch.setattr(interface_watch, "_index", lambda _: 7)
    told: asyncio.Queue[None] = asyncio.Queue()

    async def story() -> None:
        for _ in range(50):
            theirs.send(notice(7))
        watching = asyncio.create_task(interface_watch.watch("lo", lambda _: told.put_nowait(None)))
        await told.get()  # it listens
        await told.get()  # the burst
        with pytest.raises(BlockingIOError):
            ours.recv(1, socket.MSG_PEEK)  # all of it
        theirs.send(notice(8))  # another interface's
        theirs.send(notice(7))
        await told.get()
        assert told.empty()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    with theirs:
        asyncio.run(story())
