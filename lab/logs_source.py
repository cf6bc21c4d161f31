"""What machines have to log, numbered: into the sockets of their rsyslog, as datagrams, and by HTTPS posts.

Every message is `numbered NAME NUMBER SECONDS`, the last when it was made. A datagram has a socket of its own, as one
of `logger` has. A poster is a good client: it keeps its connection, posts in order, and posts what was not
acknowledged again, at once at first and then less often, until it is.

Speaks JSON lines: each line on standard input, `{"do": "sent"}`, gets one line back with the last number of each name
and how often a post was tried again. Ends with its standard input.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import ssl
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import aiohttp

GOLDEN = 0.6180339887498949  # of an interval from one sender to the next: any number of them is spread evenly
TRY = aiohttp.ClientTimeout(total=5.0, connect=2.0)  # seconds of one post
PAUSES = (0.0, 0.2, 0.5, 1.0)  # seconds before the next try; the last one for ever
PORT = 514


class Source:
    """What all senders have sent so far."""

    def __init__(self) -> None:
        self.last: Counter[str] = Counter()
        self.retries = 0

    def message(self, name: str) -> bytes:
        self.last[name] += 1
        return f"numbered {name} {self.last[name]} {time.time():.6f}".encode()

    async def log(self, name: str, path: str) -> Callable[[], Awaitable[None]]:
        """As `logger -u`, into the socket of a machine's rsyslog."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.setblocking(False)

        async def send() -> None:
            # Full for as long as rsyslog does not read, and nobody's while it starts again: the machine's programs wait.
            message = b"<13>Jan  1 00:00:00 log: " + self.message(name)
            while True:
                try:
                    sock.send(message)
                except BlockingIOError:
                    await asyncio.sleep(0.01)
                except OSError:
                    await asyncio.sleep(0.05)
                    with contextlib.suppress(OSError):
                        sock.connect(path)
                else:
                    return

        return send

    async def datagram(self, name: str, vip: str) -> Callable[[], Awaitable[None]]:
        family = socket.AF_INET6 if ":" in vip else socket.AF_INET

        async def send() -> None:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                message = b"<13>1 - %s log - - - " % name.encode() + self.message(name)
                with contextlib.suppress(OSError):  # what is not sent is lost, and counted as such
                    sock.sendto(message, (vip, PORT))

        return send

    async def post(self, name: str, url: str, context: ssl.SSLContext) -> Callable[[], Awaitable[None]]:
        session = aiohttp.ClientSession(
            timeout=TRY, connector=aiohttp.TCPConnector(limit=1, ssl=context, keepalive_timeout=60.0)
        )

        async def send() -> None:
            message, tries = self.message(name), 0
            while not await self._taken(session, url, message):
                await asyncio.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
                tries += 1
                self.retries += 1

        return send

    async def _taken(self, session: aiohttp.ClientSession, url: str, message: bytes) -> bool:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with session.post(url, data=message) as answer:
                return answer.status < 300
        return False


async def _beat(send: Callable[[], Awaitable[None]], interval: float, number: int) -> None:
    """Every `interval` seconds, each sender at a moment of its own; what it was too late for is made up for."""
    due = time.monotonic() + number * GOLDEN % 1.0 * interval
    while True:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await send()
        due += interval


async def _answer(source: Source) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while await reader.readline():
        print(json.dumps({"sent": source.last, "retries": source.retries}), flush=True)


async def run(options: argparse.Namespace) -> None:
    source = Source()
    context = ssl.create_default_context(cafile=options.ca) if options.post else None
    sends = []
    for given in options.log:
        name, _, path = given.partition("=")
        sends.append((await source.log(name, path), options.log_interval))
    for given in options.datagram:
        name, _, vip = given.partition("=")
        sends.append((await source.datagram(name, vip), options.datagram_interval))
    for given in options.post:
        name, _, url = given.partition("=")
        assert context is not None
        sends.append((await source.post(name, url, context), options.post_interval))
    beats = [asyncio.create_task(_beat(send, every, n)) for n, (send, every) in enumerate(sends)]
    answering = asyncio.create_task(_answer(source))
    done, _ = await asyncio.wait([answering, *beats], return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()  # a sender that has ended is a defect


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.logs_source", description=__doc__)
    for kind in ("log", "datagram", "post"):
        parser.add_argument(f"--{kind}", action="append", default=[], metavar="NAME=WHERE")
        parser.add_argument(
            f"--{kind}-interval", type=float, default=0.25, help="seconds between two of one sender"
        )
    parser.add_argument("--ca", help="file of the authority that the posters trust")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
