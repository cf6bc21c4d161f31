"""Real peers on the loopback for the probes to meet, and what a test asks about the process afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_address
from typing import TypeAlias

from anycast.core.health import Result
from anycast.core.model import Check, CheckKind, Target
from anycast.probes.run import probe

Handler: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

LONG = 30.0  # seconds: a test that waits this long is red


def target(kind: CheckKind, port: int = 1, *, address: str = "127.0.0.1", timeout: float = LONG) -> Target:
    return Target(address=ip_address(address), port=port, check=Check(kind=kind, timeout=timeout))


def run(kind: CheckKind, port: int = 1, *, address: str = "127.0.0.1", timeout: float = LONG) -> Result:
    """One probe in an event loop of its own."""
    return asyncio.run(probe(target(kind, port, address=address, timeout=timeout)))


@asynccontextmanager
async def serving(
    handler: Handler, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A server at a free port, which is the value. Its connections end with it."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await handler(reader, writer)
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(serve, host, 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await server.wait_closed()


def answering(*pieces: bytes, hold: bool = False) -> Handler:
    """Read a request, send the pieces one by one, then close, or with `hold` keep the connection open."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await _send(writer, pieces)
        if hold:
            await asyncio.Event().wait()

    return handler


def blurting(*pieces: bytes) -> Handler:
    """Send the pieces without reading anything, then close."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _send(writer, pieces)
        writer.write_eof()
        await reader.read()

    return handler


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def _send(writer: asyncio.StreamWriter, pieces: tuple[bytes, ...]) -> None:
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        for _ in range(3):  # let the client, in this same loop, read the piece by itself
            await asyncio.sleep(0)


async def probe_at(
    handler: Handler,
    kind: CheckKind,
    *,
    timeout: float = LONG,  # noqa: ASYNC109 - a field of the check
    host: str = "127.0.0.1",
) -> Result:
    async with serving(handler, host=host) as port:
        return await probe(target(kind, port, address=host, timeout=timeout))


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port that is bound, so nobody else gets it, and not listening."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextmanager
def full_backlog() -> Iterator[int]:
    """A listener that accepts no more: the kernel drops further SYNs, like a host that has gone away."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def has_children() -> bool:
    """Children running or unreaped, subreaped strangers apart."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
