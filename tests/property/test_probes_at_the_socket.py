"""Every kind of check meets hostile peers at a real socket. Whatever they do, it is ok or a failure, within bounds.

Never unknown, never an exception that nobody thought of, never more read than the kind's limit, and the run ends
although the peer goes on. ANYCAST_FUZZ is the number of examples of each kind (default 12).
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import math
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anycast.core.health.phase import Outcome, Result
from anycast.core.values.checks import (
    KINDS,
    AimedKind,
    BannerCheck,
    DnsCheck,
    Expect,
    GrpcCheck,
    IdleCheck,
    RelpCheck,
    Send,
    SyslogCanaryCheck,
    SyslogCheck,
    TcpQuietCheck,
    Tls,
    UdpCheck,
)
from anycast.core.values.configuration import CheckKind, HttpCheck, TcpCheck
from anycast.probes import run as tasks
from anycast.probes.run import probe
from anycast.probes.sweep import sweep
from anycast.probes.sweep.runs import run_of, sweepable
from anycast.probes.tls import context_for
from tests.property.hostile import Datagrams, Ending, Peer, Script, peer
from tests.unit.probes import peers
from tests.unit.probes.peers import Certificate, sweeping, target

# The hostile peer's: a connection that is reset while Python wraps it leaves a socket that nobody can close.
pytestmark = pytest.mark.filterwarnings("ignore:.*ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")

EXAMPLES = int(os.environ.get("ANYCAST_FUZZ", "12"))
SECONDS = 0.05  # the timeout of a check whose peer says no more
MOST = 16 * 1024 * 1024  # bytes a peer gets rid of: what a check reads, and the buffers of the kernel
MEMORY = 8 * 1024 * 1024  # bytes
PRINTED = 300  # characters of a detail

UNVERIFIED = Tls(verify=False)
DIALOGUE = (Expect("^220"), Send(b"x"), Expect("y"))
STREAMS: dict[str, CheckKind] = {
    "tcp": TcpCheck(),
    "tcp quiet": TcpQuietCheck(quiet=0.01),
    "http": HttpCheck(tls=False),
    "http kept": HttpCheck(tls=False, keep_alive=True),
    "http body": HttpCheck(tls=False, body="x"),
    "banner": BannerCheck(steps=DIALOGUE),
    "syslog": SyslogCheck(quiet=0.01),
    "relp": RelpCheck(),
    "dns": DnsCheck(name="a.example.", transport="tcp"),
    "grpc": GrpcCheck(),
}
SECURE: dict[str, CheckKind] = {
    "https": HttpCheck(tls=True, verify=False, expiry_warning=86400.0),
    "https kept": HttpCheck(tls=True, verify=False, keep_alive=True),
    "https body": HttpCheck(tls=True, verify=False, body="x"),
    "banner": BannerCheck(steps=DIALOGUE, tls=UNVERIFIED),
    "syslog": SyslogCheck(tls=UNVERIFIED, quiet=0.01),
    "relp": RelpCheck(tls=UNVERIFIED),
    "grpc": GrpcCheck(tls=UNVERIFIED),
}
DATAGRAMS: dict[str, CheckKind] = {
    "udp": UdpCheck(send=b"x", expect="^a"),
    "udp prefix": UdpCheck(send=b"x", prefix=b"ab"),
    "udp quiet": UdpCheck(send=b"x", quiet=0.01),
    "dns": DnsCheck(name="a.example."),
}
EVERY = {**STREAMS, **{f"{name} in tls": kind for name, kind in SECURE.items()}}

OK_HEAD = b"HTTP/1.1 200 OK\r\n"
PREFACE = b"\0\0\0\x04\0\0\0\0\0"  # empty SETTINGS


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    """Of HTTP/2."""
    return struct.pack("!I", len(body))[1:] + struct.pack("!BBI", kind, flags, stream) + body


FRAGMENTS = st.sampled_from(
    [
        *(OK_HEAD, b"HTTP/1.1 101 x\r\n", b"HTTP/1.1 100 Go on\r\n\r\n", b"\r\n", b"\r\n\r\n", b"\n"),
        *(b"Content-Length: \xb2\r\n", b"Content-Length: " + b"9" * 5000 + b"\r\n", b"Content-Length: 4\r\n"),
        *(
            b"Transfer-Encoding: chunked\r\n",
            b"f" * 16 + b"\r\n",
            b"f" * 22 + b"\r\n",
            b"0\r\n\r\n",
            b"4\r\n",
        ),
        *(b"220 ready\r\n", b"y\r\n", b"\xff\xfe\n", b"250-" + b"x" * 5000),
        *(
            b"1 rsp 6 200 OK\n",
            b"2 rsp 0\n",
            b"0 serverclose 0\n",
            b"999999999 rsp 999999999 x",
            b"1 rsp 3 \n",
        ),
        *(b"\x16\x03\x03\x00\x04", b"\x15\x03\x03\x00\x02\x02\x28", b"\x14\x03\x03\x00\x01\x01"),
        *(b"\x16\x03\x01\xff\xff", b"\x17\x03\x03\x40\x00", b"\x15\x03\x03\x00\x02\x01\x00"),
        *(
            PREFACE,
            frame(4, 1, 0),
            frame(1, 4, 1, b"\x88"),
            frame(1, 5, 1, b"\x88"),
            frame(7, 0, 0, bytes(8)),
        ),
        *(frame(0, 1, 1, b"\0\0\0\0\2\x08\1"), frame(3, 0, 1, bytes(4)), frame(8, 0, 1, b"\x7f\xff\xff\xff")),
        *(b"\0\x0c", b"\xff\xff", b"\0\0", b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\1\2\3\4", b"\xc0\x00"),
    ]
)
PIECES = st.lists(FRAGMENTS | st.binary(max_size=40), max_size=8).map(tuple)
ENDINGS = st.sampled_from(
    [*Ending, Ending.CLOSE, Ending.RESET, Ending.HALF_CLOSE]
)  # the quick ones more often
SCRIPTS = st.builds(
    Script,
    pieces=PIECES,
    ending=ENDINGS,
    listens=st.booleans(),
    more=st.binary(min_size=1, max_size=20) | FRAGMENTS,
)
QUICK = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True, scope="module")
def _never_late() -> Iterator[None]:
    """A machine that is busy must not turn a timeout into an outcome of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (tasks, sweep):
            patch.setattr(module, "_LATE", math.inf)
        patch.setattr(sweep, "_LATE_MOVE", math.inf)
        yield


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return peers.make(tmp_path_factory.mktemp("valid"))


@pytest.fixture(scope="module")
def plain() -> Iterator[Peer]:
    with peer() as made:
        yield made


@pytest.fixture(scope="module")
def secure(certificate: Certificate) -> Iterator[Peer]:
    context = certificate.server()
    context.set_alpn_protocols(["h2"])
    with peer(context) as made:
        yield made


@pytest.fixture(scope="module")
def servers(plain: Peer, secure: Peer) -> dict[bool, Peer]:
    """By whether they speak TLS."""
    return {False: plain, True: secure}


@pytest.fixture(scope="module")
def datagrams() -> Iterator[Datagrams]:
    made = Datagrams()
    yield made
    made.close()


def met(runner: asyncio.Runner, kind: CheckKind, port: int, timeout: float = SECONDS) -> list[Result]:
    """What two runs of the check find, the second one with what the first has left, where kinds leave something."""
    defects: list[Any] = []

    async def story() -> list[Result]:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: defects.append(context))
        aim = target(kind, port, timeout=timeout)
        if not sweepable(aim):
            return [await probe(aim)]
        async with sweeping() as check:
            run = run_of(aim, None)
            return [await check(run) for _ in range(2)]

    results = runner.run(story())
    assert defects == []
    for result in results:
        assert (result.outcome, result.fault) in {(Outcome.OK, None), (Outcome.FAIL, None)}, result
        assert len(result.detail) <= PRINTED
        assert result.detail.isprintable()
        assert bool(result.detail) or result.outcome is Outcome.OK
    return results


def test_every_kind_that_a_peer_can_answer_is_here() -> None:
    """Not here: the way to the VIP (`to: vip`: test_connection), kinds without a port, and idle, which by itself is tcp quiet."""
    met_here = {type(kind) for kinds in (STREAMS, SECURE, DATAGRAMS) for kind in kinds.values()}
    aimed = {kind for kind in KINDS if issubclass(kind, AimedKind)}
    assert aimed - met_here == {SyslogCanaryCheck, IdleCheck}  # the first has a test of its own below


@pytest.mark.parametrize("name", STREAMS)
@QUICK
@given(script=SCRIPTS)
def test_whatever_a_stream_carries_the_answer_is_the_peers(
    runner: asyncio.Runner, plain: Peer, name: str, script: Script
) -> None:
    plain.follow(script)
    met(runner, STREAMS[name], plain.port)


@pytest.mark.parametrize("name", SECURE)
@QUICK
@given(script=SCRIPTS)
def test_whatever_stands_in_place_of_tls_the_answer_is_the_peers(
    runner: asyncio.Runner, plain: Peer, name: str, script: Script
) -> None:
    plain.follow(script)
    assert {one.outcome for one in met(runner, SECURE[name], plain.port)} == {Outcome.FAIL}


@pytest.mark.parametrize("name", SECURE)
@QUICK
@given(script=SCRIPTS)
def test_whatever_a_stream_carries_inside_tls_the_answer_is_the_peers(
    runner: asyncio.Runner, secure: Peer, name: str, script: Script
) -> None:
    secure.follow(script)
    met(runner, SECURE[name], secure.port)


@pytest.mark.parametrize("name", DATAGRAMS)
@QUICK
@given(
    pieces=st.lists(FRAGMENTS | st.binary(max_size=80), max_size=4).map(tuple),
    echoes=st.sampled_from([0, 2, 2, 12, 500]),
)
def test_whatever_a_datagram_holds_the_answer_is_the_peers(
    runner: asyncio.Runner, datagrams: Datagrams, name: str, pieces: tuple[bytes, ...], echoes: int
) -> None:
    """`echoes`: each begins as the question did, so that it is taken for its answer."""
    datagrams.pieces, datagrams.echoes = pieces, echoes
    met(runner, DATAGRAMS[name], datagrams.port)


@QUICK
@given(script=SCRIPTS)
def test_whatever_a_proof_port_sends_the_answer_is_the_peers(
    runner: asyncio.Runner, plain: Peer, datagrams: Datagrams, script: Script
) -> None:
    plain.follow(script)
    met(runner, SyslogCanaryCheck(proof_port=plain.port), datagrams.port)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    "more",
    [b"x", b"\0", OK_HEAD, b"HTTP/1.1 100 x\r\n\r\n", b"220 x\r\n", PREFACE, b"\xff\xff" + bytes(600)],
)
def test_a_flood_is_read_to_a_limit_and_kept_within_bounds(
    runner: asyncio.Runner, servers: dict[bool, Peer], name: str, more: bytes
) -> None:
    server = servers[name.endswith("tls")]
    server.follow(Script(ending=Ending.FLOOD, more=more))
    tracemalloc.start(1)
    met(runner, EVERY[name], server.port, timeout=1.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert server.sent <= MOST
    assert peak <= MEMORY


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("ending", [Ending.SILENCE, Ending.DRIP])
def test_who_says_nothing_or_a_byte_at_a_time_is_given_up(
    runner: asyncio.Runner, servers: dict[bool, Peer], name: str, ending: Ending
) -> None:
    kind, server = EVERY[name], servers[name.endswith("tls")]
    server.follow(Script(ending=ending, more=b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000))
    found = met(runner, kind, server.port)
    # With syslog the peer's own goodbye is awaited, and this one says it.
    polite = isinstance(kind, TcpCheck | TcpQuietCheck | SyslogCheck)
    assert {one.outcome for one in found} <= ({Outcome.OK, Outcome.FAIL} if polite else {Outcome.FAIL})


PATIENT: dict[str, CheckKind] = {  # they wait for as long as a server takes to close
    "tcp quiet": TcpQuietCheck(quiet=10.0),
    "syslog": SyslogCheck(quiet=10.0),
    "syslog in tls": SyslogCheck(tls=UNVERIFIED, quiet=10.0),
}


@pytest.mark.parametrize("name", [name for name in EVERY if name != "tcp"])
@pytest.mark.parametrize("ending", [Ending.CLOSE, Ending.RESET, Ending.HALF_CLOSE])
@pytest.mark.parametrize("pieces", [(), (b"421 too many connections\r\n",)])
def test_who_takes_a_connection_and_closes_it_at_once_has_failed(
    runner: asyncio.Runner, servers: dict[bool, Peer], name: str, ending: Ending, pieces: tuple[bytes, ...]
) -> None:
    """Not here: tcp, which looks only once, when the handshake is over (test_closes)."""
    server = servers[name.endswith("tls")]
    server.follow(Script(pieces, ending))
    found = met(runner, PATIENT.get(name, EVERY[name]), server.port, timeout=20.0)
    assert {one.outcome for one in found} == {Outcome.FAIL}


BOMB = gzip.compress(bytes(20_000_000))
HTTP_SHAPES = {
    "a header of a megabyte": Script((OK_HEAD + b"X: " + b"y" * 2**20 + b"\r\n\r\n",)),
    "a hundred thousand headers": Script((OK_HEAD + b"X: y\r\n" * 100_000 + b"\r\n",)),
    "folded for ever": Script((OK_HEAD + b"X: y\r\n",), Ending.FLOOD, more=b" z\r\n"),
    "a status line without end": Script((b"HTTP/1.1 200 ",), Ending.FLOOD, more=b"O"),
    "go on, for ever": Script((), Ending.FLOOD, more=b"HTTP/1.1 100 Go on\r\n\r\n"),
    "a chunk of 16 exbibytes": Script(
        (OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",), Ending.FLOOD
    ),
    "a size of a chunk without end": Script(
        (OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n",), Ending.FLOOD, more=b"0"
    ),
    "an extension of a chunk without end": Script(
        (OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;",), Ending.FLOOD, more=b"x"
    ),
    "trailers without end": Script(
        (OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n",), Ending.FLOOD, more=b"X: y\r\n"
    ),
    "a body of an exabyte": Script((OK_HEAD + b"Content-Length: 1000000000000000000\r\n\r\n",), Ending.FLOOD),
    "a length below zero": Script((OK_HEAD + b"Content-Length: -1\r\n\r\nx",)),
    "two lengths": Script((OK_HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",)),
    "a gzip bomb": Script(
        (OK_HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB,)
    ),
    "HTTP/2 for HTTP/1": Script((PREFACE + frame(1, 5, 1, b"\x88"),)),
    "an upgrade": Script((b"HTTP/1.1 101 x\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n" + PREFACE,)),
    "another response behind it": Script((OK_HEAD + b"Content-Length: 0\r\n\r\n" + OK_HEAD * 3,)),
}


@pytest.mark.parametrize("shape", HTTP_SHAPES)
@pytest.mark.parametrize("name", [name for name in EVERY if name.startswith("http")])
def test_hostile_http(runner: asyncio.Runner, servers: dict[bool, Peer], name: str, shape: str) -> None:
    server = servers[name.endswith("tls")]
    server.follow(HTTP_SHAPES[shape])
    met(runner, EVERY[name], server.port)
    assert server.sent <= MOST


def test_a_redirect_is_an_answer_and_not_followed(runner: asyncio.Runner, plain: Peer) -> None:
    where = f"Location: http://127.0.0.1:{plain.port}/\r\n".encode()
    plain.follow(Script((b"HTTP/1.1 301 x\r\n" + where + b"Content-Length: 0\r\n\r\n",), Ending.SILENCE))
    found = met(runner, STREAMS["http"], plain.port, 10.0)
    assert [one.detail for one in found] == ["status 301, expected 2xx"] * 2
    assert plain.connections == 2


GRPC_SHAPES = {
    "SETTINGS for ever": Script((), Ending.FLOOD, more=PREFACE),
    "big SETTINGS for ever": Script(
        (), Ending.FLOOD, more=frame(4, 0, 0, struct.pack("!HI", 4, 65535) * 2000)
    ),
    "PING for ever": Script((PREFACE,), Ending.FLOOD, more=frame(6, 0, 0, bytes(8))),
    "a frame of 16 MiB": Script((PREFACE + b"\xff\xff\xff\0\0\0\0\0\1",), Ending.FLOOD),
    "CONTINUATION for ever": Script(
        (PREFACE + frame(1, 0, 1, b"\x88"),), Ending.FLOOD, more=frame(9, 0, 1, b"\x40\1x\1y")
    ),
    "HPACK: the largest table": Script((PREFACE + frame(1, 4, 1, b"\x3f\xff\xff\xff\xff\x07\x88"),)),
    "HPACK: a number without end": Script((PREFACE + frame(1, 4, 1, b"\x3f" + b"\xff" * 4000),)),
    "HPACK: one entry again and again": Script(
        (PREFACE + frame(1, 4, 1, b"\x88\x40\x01a\x7f\xe1\x1e" + b"y" * 4000 + b"\xbe" * 12_000),)
    ),
    "HPACK: an index that is not there": Script((PREFACE + frame(1, 4, 1, b"\xff\xff\x7f"),)),
    "HPACK: a string longer than the frame": Script((PREFACE + frame(1, 4, 1, b"\x88\x40\x7f\xff\xff\x7f"),)),
    "no text": Script((PREFACE + frame(1, 5, 1, b"\x88\x40\x02\xff\xfe\x02\xff\xfe"),)),
    "a status that is no number": Script((PREFACE + frame(1, 5, 1, b"\x48\x03abc"),)),
    "a window beyond its limit": Script((PREFACE + frame(8, 0, 0, b"\x7f\xff\xff\xff") * 2,)),
    "data on no stream": Script((PREFACE + frame(0, 0, 0, b"x"),)),
    "a push": Script((PREFACE + frame(5, 4, 1, b"\0\0\0\2\x88"),)),
    "a goodbye": Script((PREFACE + frame(7, 0, 0, bytes(4) + b"\0\0\0\x0bcalm down"),)),
    "resets for ever": Script((PREFACE,), Ending.FLOOD, more=frame(3, 0, 1, bytes(4))),
    "a message that says it is 4 GiB": Script(
        (PREFACE + frame(1, 4, 1, b"\x88") + frame(0, 1, 1, b"\0\xff\xff\xff\xffx"),)
    ),
    "HTTP/1": Script((b"HTTP/1.1 400 Bad Request\r\n\r\n",)),
}


@pytest.mark.parametrize("shape", GRPC_SHAPES)
@pytest.mark.parametrize("name", ["grpc", "grpc in tls"])
def test_hostile_http_2(runner: asyncio.Runner, servers: dict[bool, Peer], name: str, shape: str) -> None:
    server = servers[name.endswith("tls")]
    server.follow(GRPC_SHAPES[shape])
    assert [one.outcome for one in met(runner, EVERY[name], server.port)] == [Outcome.FAIL]
    assert server.sent <= MOST


def dns_answer(counts: tuple[int, int, int, int], body: bytes, flags: int = 0x8180) -> bytes:
    """Without its number, which is echoed."""
    return struct.pack("!5H", flags, *counts) + body


QUESTION = b"\1a\7example\0\0\1\0\1"
RECORD = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\1\2\3\4"
DNS_SHAPES = {
    "a pointer to itself": dns_answer((1, 0, 0, 0), b"\xc0\x0c\0\1\0\1"),
    "pointers in a circle": dns_answer((1, 1, 0, 0), b"\xc0\x0e\xc0\x0c\0\1\0\1"),
    "a pointer ahead": dns_answer((1, 1, 0, 0), QUESTION + b"\xc0\xff\0\1\0\1\0\0\0\0\0\4\1\2\3\4"),
    "a chain of pointers": dns_answer(
        (1, 200, 0, 0), QUESTION + b"".join(b"\xc0" + bytes([30 + n]) for n in range(200))
    ),
    "a name without end": dns_answer((1, 0, 0, 0), b"\x3f" + b"x" * 63 + (b"\x3f" + b"x" * 63) * 900),
    "65,535 answers, and none is there": dns_answer((1, 65535, 65535, 65535), QUESTION),
    "3,000 answers": dns_answer((1, 3000, 0, 0), QUESTION + RECORD * 3000),
    "a record longer than the message": dns_answer((1, 1, 0, 0), QUESTION + RECORD[:-6] + b"\xff\xff"),
    "a record of another length": dns_answer((1, 1, 0, 0), QUESTION + RECORD[:-6] + b"\0\1\1"),
    "a label of no kind": dns_answer((1, 0, 0, 0), b"\x80\x80\0\1\0\1"),
    "EDNS twice": dns_answer((1, 0, 0, 2), QUESTION + (b"\0\0\x29\x10\0\0\0\0\0\0\0") * 2),
    "an extended rcode": dns_answer((1, 0, 0, 1), QUESTION + b"\0\0\x29\x10\0\xff\0\0\0\0\0", 0x818F),
    "a signature that is none": dns_answer((1, 0, 0, 1), QUESTION + b"\0\0\xfa\0\xff\0\0\0\0\0\0"),
    "a question": dns_answer((1, 0, 0, 0), QUESTION, 0x0100),
    "an update": dns_answer((1, 0, 0, 0), QUESTION, 0xA800),
    "truncated": dns_answer((1, 0, 0, 0), QUESTION, 0x8380),
    "nothing": b"",
}


@pytest.mark.parametrize("shape", DNS_SHAPES)
def test_hostile_dns_over_udp(runner: asyncio.Runner, datagrams: Datagrams, shape: str) -> None:
    datagrams.pieces, datagrams.echoes = (DNS_SHAPES[shape],), 2
    met(runner, DnsCheck(name="a.example.", answer=("192.0.2.1",)), datagrams.port)


def test_strangers_do_not_keep_a_dns_check_beyond_its_timeout(
    runner: asyncio.Runner, datagrams: Datagrams
) -> None:
    datagrams.pieces, datagrams.echoes = (b"\0" * 12,) * 500, 0
    (found,) = met(runner, DATAGRAMS["dns"], datagrams.port)
    assert found.outcome is Outcome.FAIL


@pytest.mark.parametrize("ending", [Ending.DRIP, Ending.FLOOD])
def test_a_dns_message_of_64_kib_that_never_comes_whole(
    runner: asyncio.Runner, plain: Peer, ending: Ending
) -> None:
    plain.follow(Script((b"\xff\xff",), ending, more=b"\0"))
    (found,) = met(runner, STREAMS["dns"], plain.port)
    assert found.outcome is Outcome.FAIL


@pytest.mark.parametrize("name", SECURE)
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(Script(echoes=True), id="our own words"),
        pytest.param(Script((b"\x15\x03\x03\x00\x02\x02\x28",), listens=True), id="handshake failure"),
        pytest.param(Script((b"\x15\x03\x03\x00\x02\x01\x70",), listens=True), id="a warning alert"),
        pytest.param(
            Script((), Ending.FLOOD, more=b"\x15\x03\x03\x00\x02\x01\x70", listens=True),
            id="warnings for ever",
        ),
        pytest.param(Script((b"\x16\x03\x03\x40\x00" + bytes(2**14),), listens=True), id="a record of zeros"),
        pytest.param(
            Script((b"\x16\x03\x03\x40\x00\x02\xff\xff\xff",), Ending.FLOOD, listens=True),
            id="a hello of 16 MiB",
        ),
        pytest.param(
            Script((), Ending.FLOOD, more=b"\x14\x03\x03\x00\x01\x01"), id="changed ciphers for ever"
        ),
        pytest.param(
            Script((b"\x16\x03\x03\0\0",), Ending.FLOOD, more=b"\x16\x03\x03\0\0"), id="empty records"
        ),
        pytest.param(Script((b"HTTP/1.1 400 Bad Request\r\n\r\n",), listens=True), id="plain HTTP"),
        pytest.param(Script((b"220 ready\r\n",), Ending.RESET), id="plain SMTP"),
    ],
)
def test_hostile_tls(runner: asyncio.Runner, plain: Peer, name: str, script: Script) -> None:
    plain.follow(script)
    assert {one.outcome for one in met(runner, SECURE[name], plain.port)} == {Outcome.FAIL}
    assert plain.sent <= MOST


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("status", [b"200", b"500"])
def test_a_very_large_certificate_does_not_hide_the_answer(
    runner: asyncio.Runner, tmp_path: Any, version: ssl.TLSVersion, status: bytes
) -> None:
    large = peers.make(tmp_path, names=[f"name-{n:05}.example.net" for n in range(3500)])
    context = large.server()
    context.maximum_version = version
    with peer(context) as server:
        for kind in ("https", "https kept", "https body"):
            answer = b"HTTP/1.1 " + status + b" x\r\nContent-Length: 1\r\n\r\nx"
            server.follow(Script((answer,), Ending.HALF_CLOSE, listens=True))
            wanted = Outcome.OK if status == b"200" else Outcome.FAIL
            assert {one.outcome for one in met(runner, SECURE[kind], server.port, 30.0)} == {wanted}


@pytest.mark.parametrize("verify", [True, False])
def test_no_key_exchange_is_offered_whose_cost_the_server_chooses(verify: bool) -> None:  # noqa: FBT001
    """Diffie-Hellman over a modulus of 10,000 bits takes nearly a second of the event loop."""
    offered = {one["kea"] for one in context_for(Tls(verify=verify)).get_ciphers()}
    assert "kx-ecdhe" in offered
    assert not {name for name in offered if "dhe" in name and "ecdhe" not in name}


def test_a_thousand_session_tickets(runner: asyncio.Runner, certificate: Certificate) -> None:
    context = certificate.server()
    context.num_tickets = 1000
    with peer(context) as server:
        server.follow(Script((OK_HEAD + b"Content-Length: 0\r\n\r\n",), Ending.SILENCE, listens=True))
        for kind in SECURE.values():
            met(runner, kind, server.port, 0.3)


def test_a_server_that_negotiates_anew_is_a_failure_like_any_other(
    runner: asyncio.Runner, certificate: Certificate
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = ["openssl", "s_server", "-tls1_2", "-accept", str(port)]
    argv += ["-cert", str(certificate.certificate), "-key", str(certificate.key)]
    listens = threading.Event()
    anew: list[bytes] = []
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
    ) as server:
        stdin, stdout = server.stdin, server.stdout
        assert stdin is not None
        assert stdout is not None

        def negotiate() -> None:
            with contextlib.suppress(OSError):
                for line in stdout:
                    if line.startswith(b"ACCEPT"):
                        listens.set()
                    elif line.startswith(b"Secure Renegotiation"):  # the first handshake is done
                        stdin.write(b"r\n")
                    elif line.startswith(b"SSL_do_handshake"):
                        anew.append(line)

        thread = threading.Thread(target=negotiate)
        thread.start()
        try:
            assert listens.wait(20)
            for kind in SECURE.values():
                met(runner, kind, port, 0.2)
        finally:
            server.kill()
            thread.join()
    assert anew


_ICMP = """
import asyncio, socket, struct, sys, threading
from anycast.core.values.checks import DnsCheck, UdpCheck
from anycast.core.values.configuration import HttpCheck, TcpCheck
from tests.unit.probes.peers import probe, target

KINDS = [UdpCheck(send=b"x", expect="a"), UdpCheck(send=b"x", quiet=0.01), DnsCheck(name="a."), TcpCheck(), HttpCheck(tls=False)]
MESSAGES = {
    4: [(3, code) for code in range(16)] + [(4, 0), (5, 1), (11, 0), (11, 1), (12, 0)],
    6: [(1, code) for code in range(8)] + [(2, 0), (3, 0), (3, 1), (4, 0), (4, 1), (4, 2)],
}
PORT = 7


def answer(version, say):
    loopback = "127.0.0.1" if version == 4 else "::1"
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    out = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_RAW, protocol)
    seen = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800 if version == 4 else 0x86DD))
    seen.bind(("lo", 0x0800 if version == 4 else 0x86DD))

    def serve():
        while True:
            packet, where = seen.recvfrom(2048)
            start = 20 if version == 4 else 40
            if where[2] == socket.PACKET_OUTGOING or packet[9 if version == 4 else 6] not in (6, 17):
                continue
            if struct.unpack_from("!H", packet, start + 2)[0] != PORT:
                continue
            kind, code = say[0]
            body = struct.pack("!I", 1280 if (version, kind, code) in ((4, 3, 4), (6, 2, 0)) else 0) + packet[:576]
            head = struct.pack("!BBH", kind, code, 0)
            if version == 4:
                data = head + body + bytes(len(body) % 2)
                total = sum(struct.unpack(f"!{len(data) // 2}H", data))
                while total >> 16:
                    total = (total & 0xFFFF) + (total >> 16)
                head = struct.pack("!BBH", kind, code, ~total & 0xFFFF)
            out.sendto(head + body, (loopback, 0))

    threading.Thread(target=serve, daemon=True).start()


def held(version):
    # Ports that swallow what comes: a socket without a reader, and a full queue.
    family, loopback = (socket.AF_INET, "127.0.0.1") if version == 4 else (socket.AF_INET6, "::1")
    sink = socket.socket(family, socket.SOCK_DGRAM)
    sink.bind((loopback, PORT))
    listener = socket.socket(family)
    listener.bind((loopback, PORT))
    listener.listen(0)
    fillers = [socket.socket(family) for _ in range(3)]
    for one in fillers:
        one.setblocking(False)
        one.connect_ex((loopback, PORT))
    return sink, listener, fillers


for version in (4, 6):
    kept = held(version)
    say = [MESSAGES[version][0]]
    answer(version, say)
    for message in MESSAGES[version]:
        say[0] = message
        for kind in KINDS:
            aim = target(kind, PORT, address="127.0.0.1" if version == 4 else "::1", timeout=0.03)
            result = asyncio.run(probe(aim))
            print(version, *message, type(kind).__name__, result.outcome, result.detail, sep="|")
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs network namespaces",
)
def test_whatever_icmp_says_is_no_fault_of_this_node() -> None:
    done = subprocess.run(
        ["unshare", "-rn", "sh", "-ec", 'ip link set lo up; exec "$@"', "sh", sys.executable, "-c", _ICMP],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stderr == ""
    rows = [line.split("|") for line in done.stdout.splitlines()]
    assert len(rows) == 5 * (21 + 14)
    assert [row for row in rows if row[4] not in {"ok", "fail"}] == []
    details = {row[5] for row in rows}
    assert {"connection refused", "no route to host"} <= details  # it is heard of
