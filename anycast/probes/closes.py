"""Whether a server leaves a connection open: who closes before the check does has failed. And the tcp check with `quiet`.

A daemon that is full, or does not want us, often takes a connection and closes it at once. The handshake looks well
then, and so does an orderly close, while clients lose everything they send.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anycast.core.values.checks import TcpQuietCheck
from anycast.core.values.configuration import Address
from anycast.probes.finding import OK, Finding, Progress, fail
from anycast.probes.stream import Stream, TooMuchError, opened

__all__ = ["CLOSED", "check", "closed_within", "to_its_end"]

CLOSED = "the server closed the connection before the check did: does it take no more?"
_LIMIT = 16 * 1024  # bytes of a server that talks: then it is not closing


async def check(kind: TcpQuietCheck, address: Address, port: int, progress: Progress) -> Finding:
    """OK if the server leaves the connection open for `quiet` seconds. Raises OSError."""
    opening = opened(address, port, progress, tls=None, limit=_LIMIT)
    async with opening as stream, to_its_end(stream) as end:
        try:
            if await closed_within(end, kind.quiet):
                return fail(CLOSED)
        except TooMuchError:
            progress.say("it goes on talking")
        progress.say("left open for %g s", kind.quiet)
        return OK


@asynccontextmanager
async def to_its_end(stream: Stream) -> AsyncIterator[asyncio.Task[None]]:
    """A task that reads until the peer has closed. It ends with the block; what it raises, its reader raises."""
    task = asyncio.create_task(_read(stream))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # looked at: nobody else may


async def _read(stream: Stream) -> None:
    while await stream.receive():
        pass


async def closed_within(end: asyncio.Task[None], seconds: float) -> bool:
    """Whether the stream has ended in time. Raises OSError, PeerError.

    The task is waited for and not cancelled: an agent that looks late finds the close and its timer together, and
    then the close counts.
    """
    await asyncio.wait({end}, timeout=seconds)
    if not end.done():
        return False
    end.result()
    return True
