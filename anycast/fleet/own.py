"""What this node says of itself, asked of its own ops process as any other node asks it. Light: the agent asks so too."""

from __future__ import annotations

import asyncio
from pathlib import Path

from anycast.core.fleet import codec
from anycast.core.fleet.codec import BrokenError, Heard

SOCKET = "ops.sock"  # in the runtime directory
TIMEOUT = 2.0  # seconds


async def own(runtime: Path) -> Heard:
    """Raises OSError, TimeoutError, BrokenError."""
    body = await asked(runtime, codec.PATH, codec.MOST_BYTES)
    # A thread: of a thousand VIPs it takes a few milliseconds.
    return await asyncio.to_thread(codec.read, body, {})


async def asked(runtime: Path, path: str, most: int) -> bytes:
    """The answer of this node's ops process, of so many bytes at most. Raises OSError, TimeoutError, BrokenError."""
    async with asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_unix_connection(str(runtime / SOCKET))
        try:
            # HTTP/1.0: one answer, whose end is the end of the connection.
            writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            data = await reader.read(most)
            while part := await reader.read(most):
                data += part
                if len(data) > most:
                    raise BrokenError(f"it is larger than {most >> 10} KiB")
        finally:
            writer.close()
    head, _, body = data.partition(b"\r\n\r\n")
    if head.split(b" ", 2)[1:2] != [b"200"]:
        raise BrokenError("the ops process does not say what this node is")
    return body
