"""Clients that mean no good, at the HTTP port and at the agent's own sockets.

`python -m lab.hostile http HOST PORT COUNT`, or `python -m lab.hostile sockets DIRECTORY COUNT [UID]`: as that user, who
keeps the group of this process, and with it the right to open the sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

Ends: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect: TypeAlias = Callable[[], Awaitable[Ends]]
Act: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _hostile(connect: Connect, act: Act) -> None:
    """One connection that is held open, whatever it takes: when it is closed, the next begins."""
    while True:
        try:
            reader, writer = await connect()
        except OSError:
            await asyncio.sleep(0.1)
            continue
        try:
            await act(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
        await asyncio.sleep(0.05)


async def _silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read(1)


async def _dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET /status HTTP/1.1\r\nHost: localhost\r\n")
    closed = asyncio.ensure_future(reader.read())
    while not closed.done():
        writer.write(b"X-Slow: yes\r\n")
        await asyncio.wait({closed}, timeout=1.0)
    closed.result()


async def _greedy(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Asks for much, again and again, and reads nothing."""
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    while True:
        writer.write(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
        await asyncio.wait_for(writer.drain(), 30)
        await asyncio.sleep(1.0)


async def _flooding(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As many small requests as it can get in."""
    while True:
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200)
        await writer.drain()
        if not await reader.read(65536):
            return


async def _asking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """For the full lease, again and again."""
    while True:
        writer.write(b'{"type": "ask"}\n' * 200)
        await writer.drain()
        if not await reader.read(65536):
            return


async def _babbling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\xff{}" * 5000 + b"\n")
    await writer.drain()
    await reader.read()


HTTP: tuple[Act, ...] = (_silent, _dripping, _greedy, _flooding)
LEASE: tuple[Act, ...] = (_silent, _asking, _babbling)


async def http(host: str, port: int, count: int) -> None:
    async def connect() -> Ends:
        return await asyncio.open_connection(host, port)

    await asyncio.gather(*(_hostile(connect, HTTP[number % len(HTTP)]) for number in range(count)))


async def sockets(directory: Path, count: int) -> None:
    """Half of them at `control.sock`, half at `lease.sock`."""

    async def control() -> Ends:
        return await asyncio.open_unix_connection(directory / "control.sock")

    async def lease() -> Ends:
        return await asyncio.open_unix_connection(directory / "lease.sock")

    await asyncio.gather(
        *(_hostile(control, HTTP[number % len(HTTP)]) for number in range(count // 2)),
        *(_hostile(lease, LEASE[number % len(LEASE)]) for number in range(count // 2)),
    )


def main(argv: list[str]) -> int:
    with contextlib.suppress(PermissionError):
        # What measures is ahead of others, and they are not: it would wait for them and not for the agent.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    match argv:
        case ["http", host, port, count]:
            asyncio.run(http(host, int(port), int(count)))
        case ["sockets", directory, count, *uid]:
            if uid:
                os.setuid(int(uid[0]))
            asyncio.run(sockets(Path(directory), int(count)))
        case _:
            raise SystemExit(__doc__)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
