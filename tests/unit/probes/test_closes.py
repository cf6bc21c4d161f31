"""Who closes a connection before the check does has failed: what the tcp and syslog checks see of it."""

from __future__ import annotations

import asyncio
import select
import socket

import pytest

from anycast.core.health.phase import Outcome
from anycast.core.values.checks import SyslogCheck, TcpQuietCheck
from anycast.core.values.configuration import CheckKind, TcpCheck
from anycast.probes.closes import CLOSED, closed_within, to_its_end
from anycast.probes.finding import OK, PeerError, Progress, fail
from anycast.probes.stream import Plain
from anycast.probes.sweep.runs import run_of
from tests.unit.probes.peers import probe_at, refusing_port, run, silent, target

QUIET: list[CheckKind] = [TcpQuietCheck(quiet=10.0), SyslogCheck(quiet=10.0)]
BRIEF = 0.01


async def full(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Closes, as rsyslog does with a session too many."""
    writer.close()


async def refusing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"421 too many\r\n")
    writer.close()


async def talking(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * 4096)
        await writer.drain()


@pytest.mark.parametrize("kind", QUIET)
@pytest.mark.parametrize("server", [full, refusing])
def test_a_server_that_closes_at_once_fails_and_the_detail_says_so(kind: CheckKind, server: object) -> None:
    result = asyncio.run(probe_at(server, kind))  # type: ignore[arg-type]
    assert (result.outcome, result.detail) == (Outcome.FAIL, CLOSED)


@pytest.mark.parametrize("server", [silent, talking])
def test_a_server_that_leaves_the_connection_open_is_ok_whatever_it_says(server: object) -> None:
    result = asyncio.run(probe_at(server, TcpQuietCheck(quiet=BRIEF)))  # type: ignore[arg-type]
    assert (result.outcome, result.detail) == (Outcome.OK, "")
    assert result.took >= (BRIEF if server is silent else 0.0)


def test_a_closed_port_is_told_as_by_tcp_without_quiet() -> None:
    with refusing_port() as port:
        assert run(TcpQuietCheck(quiet=BRIEF), port).detail == "connection refused"


@pytest.mark.parametrize(
    ("events", "found"),
    [
        (select.EPOLLOUT, OK),
        (select.EPOLLOUT | select.EPOLLIN, OK),  # a greeting
        (select.EPOLLOUT | select.EPOLLIN | select.EPOLLRDHUP, fail(CLOSED)),
    ],
)
def test_a_close_that_is_there_with_the_handshake_fails_a_check_without_quiet(
    events: int, found: object
) -> None:
    with socket.socket() as sock:
        assert run_of(target(TcpCheck()), None).proceed(sock, events) == found


def test_an_agent_that_looks_late_sees_the_close_that_came_in_time() -> None:
    """The close and the end of the wait are found in the same turn of the event loop."""

    async def story() -> bool:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            async with to_its_end(Plain(ours, 100, Progress())) as end:
                await asyncio.sleep(0)
                await asyncio.sleep(0)  # it waits at the socket
                theirs.close()
                return await closed_within(end, 0.0)

    assert asyncio.run(story())


def test_what_the_reader_meets_is_raised_where_it_is_waited_for_and_nowhere_else() -> None:
    async def story(*, look: bool) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            async with to_its_end(Plain(ours, 0, Progress())) as end:
                if look:
                    await closed_within(end, 10.0)

    with pytest.raises(PeerError):
        asyncio.run(story(look=True))
    asyncio.run(story(look=False))
