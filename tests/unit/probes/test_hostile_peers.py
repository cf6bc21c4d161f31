"""A peer's bytes prove something about the peer, whatever they are: every kind says ok or fail, and never raises."""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
import struct
from collections.abc import Iterator

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.core.health.phase import Fault, Outcome, Result
from anycast.core.values.checks import (
    BannerCheck,
    DnsCheck,
    Expect,
    GrpcCheck,
    RelpCheck,
    Send,
    SyslogCanaryCheck,
    SyslogCheck,
    Tls,
    UdpCheck,
)
from anycast.core.values.configuration import CheckKind, HttpCheck, TcpCheck
from anycast.probes import run as tasks
from anycast.probes.stream import Plain
from anycast.probes.sweep import sweep
from anycast.probes.sweep.response import Exchange
from anycast.probes.sweep.runs import run_of
from anycast.probes.sweep.sockets import Sockets
from tests.unit.probes import peers
from tests.unit.probes.peers import LONG, Certificate, Handler, probe, serving, silent, sweeping, target

ENGINES = ["as a task", "swept"]
UNVERIFIED = Tls(verify=False)
DIALOGUE = (Expect("^220"), Send(b"x"), Expect("y"))
STREAMS: dict[str, CheckKind] = {
    "tcp": TcpCheck(),
    "http": HttpCheck(tls=False),
    "http kept": HttpCheck(tls=False, keep_alive=True),
    "http body": HttpCheck(tls=False, body="x"),
    "https": HttpCheck(tls=True, verify=False, expiry_warning=86400.0),
    "banner": BannerCheck(steps=DIALOGUE),
    "banner tls": BannerCheck(steps=DIALOGUE, tls=UNVERIFIED),
    "syslog": SyslogCheck(),
    "syslog tls": SyslogCheck(tls=UNVERIFIED),
    "relp": RelpCheck(),
    "dns": DnsCheck(name="a.example.", transport="tcp"),
    "grpc": GrpcCheck(),
    "grpc tls": GrpcCheck(tls=UNVERIFIED),
}
SECURE = [name for name in STREAMS if name.endswith(("tls", "https"))]
DATAGRAMS: dict[str, CheckKind] = {
    "udp": UdpCheck(send=b"x", expect="^a"),
    "udp prefix": UdpCheck(send=b"x", prefix=b"ab"),
    "dns": DnsCheck(name="a.example."),
}
SECONDS = 0.1  # a peer that says no more is waited for

FRAGMENTS = st.sampled_from(
    [
        *(
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 101 x\r\n",
            b"Content-Length: " + b"9" * 5000 + b"\r\n",
            b"\r\n",
        ),
        *(b"Content-Length: \xb2\r\n", b"Transfer-Encoding: chunked\r\n", b"ffffffffffffffffffffff\r\n"),
        *(b"220 ready\r\n", b"1 rsp 6 200 OK\n", b"0 serverclose 0\n", b"999999999 rsp 999999999 x"),
        *(b"\x16\x03\x03\x00\x04", b"\x15\x03\x03\x00\x02\x02\x28", b"\x14\x03\x03\x00\x01\x01"),
        *(b"\0\0\0\x04\0\0\0\0\0", b"\0\0\x04\x01\x04\0\0\0\x01\x88\xff\xff\xff", b"\0\x0c"),
    ]
)
PIECES = st.lists(FRAGMENTS | st.binary(max_size=40), max_size=8)


@pytest.fixture(scope="module", params=ENGINES)
def _engine(request: pytest.FixtureRequest) -> Iterator[None]:
    with peers.engine(swept=request.param == "swept"):
        yield


@pytest.fixture(autouse=True)
def _never_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy must not turn a timeout into an outcome of its own."""
    for module in (tasks, sweep):
        monkeypatch.setattr(module, "_LATE", math.inf)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return peers.make(tmp_path_factory.mktemp("valid"))


@pytest.fixture(scope="module")
def long_certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """One with so many names that OpenSSL cannot write down a session with it."""
    return peers.make(tmp_path_factory.mktemp("long"), names=[f"n{n}.example.net" for n in range(4000)])


def hostile(pieces: list[bytes], *, waits: bool, resets: bool) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if waits:
            await reader.read(1)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if resets:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        if writer.can_write_eof():
            writer.write_eof()
        await reader.read()  # whoever closes first and is not reset leaves a TIME_WAIT that other tests see

    return handler


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize("name", STREAMS)
@settings(max_examples=40, deadline=None)
@given(pieces=PIECES, waits=st.booleans(), resets=st.booleans())
def test_whatever_a_stream_carries_the_answer_is_the_peers(
    name: str,
    pieces: list[bytes],
    waits: bool,  # noqa: FBT001
    resets: bool,  # noqa: FBT001
) -> None:
    result = met(STREAMS[name], hostile(pieces, waits=waits, resets=resets), timeout=SECONDS)
    assert (result.outcome, result.fault) in {(Outcome.OK, None), (Outcome.FAIL, None)}, result


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize("name", SECURE)
@settings(max_examples=20, deadline=None)
@given(pieces=PIECES)
def test_whatever_a_stream_carries_inside_tls_the_answer_is_the_peers(
    name: str, certificate: Certificate, pieces: list[bytes]
) -> None:
    server = certificate.server()
    server.set_alpn_protocols(["h2"])
    result = met(STREAMS[name], hostile(pieces, waits=False, resets=False), server, SECONDS)
    assert (result.outcome, result.fault) in {(Outcome.OK, None), (Outcome.FAIL, None)}, result


@pytest.mark.parametrize("name", DATAGRAMS)
@settings(max_examples=40, deadline=None)
@given(pieces=st.lists(st.binary(max_size=80), min_size=1, max_size=3), echoes=st.booleans())
def test_whatever_a_datagram_holds_the_answer_is_the_peers(
    name: str,
    pieces: list[bytes],
    echoes: bool,  # noqa: FBT001
) -> None:
    """`echoes`: each begins as the question did, so that it is taken for its answer."""

    async def story() -> Result:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            peer.setblocking(False)

            def answer() -> None:
                question, sender = peer.recvfrom(4096)
                for piece in pieces:
                    peer.sendto((question[:2] if echoes else b"") + piece, sender)

            loop.add_reader(peer, answer)
            try:
                return await probe(target(DATAGRAMS[name], peer.getsockname()[1], timeout=SECONDS))
            finally:
                loop.remove_reader(peer)

    result = asyncio.run(story())
    assert (result.outcome, result.fault) in {(Outcome.OK, None), (Outcome.FAIL, None)}, result


@settings(max_examples=20, deadline=None)
@given(pieces=PIECES, resets=st.booleans())
def test_whatever_a_proof_port_sends_the_answer_is_the_peers(
    pieces: list[bytes],
    resets: bool,  # noqa: FBT001
) -> None:
    async def story() -> Result:
        async with serving(hostile(pieces, waits=False, resets=resets)) as proof:
            return await probe(target(SyslogCanaryCheck(proof_port=proof), 9, timeout=SECONDS))

    assert asyncio.run(story()).outcome is Outcome.FAIL


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_that_cannot_be_handed_out_is_not_resumed_and_the_answer_decides(
    long_certificate: Certificate, version: ssl.TLSVersion
) -> None:
    server = long_certificate.server()
    server.maximum_version = version
    for status, outcome in ((b"200", Outcome.OK), (b"503", Outcome.FAIL)):
        answer = peers.answering(b"HTTP/1.1 %s x\r\nContent-Length: 0\r\n\r\n" % status)
        assert met(STREAMS["https"], answer, server).outcome is outcome


def test_a_server_whose_session_cannot_be_handed_out_is_checked_again_and_again(
    long_certificate: Certificate,
) -> None:
    async def story() -> list[Outcome]:
        answer = peers.answering(b"HTTP/1.1 200 x\r\nContent-Length: 0\r\n\r\n")
        async with serving(answer, tls=long_certificate.server()) as port, sweeping() as check:
            run = run_of(target(STREAMS["https"], port), None)
            return [(await check(run)).outcome for _ in range(3)]

    assert asyncio.run(story()) == [Outcome.OK] * 3


def broken(*_: object, **__: object) -> object:
    raise KeyError("of a parser")


@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize(
    ("kind", "parser", "method"),
    [("http", Exchange, "feed"), ("http body", h11.Connection, "next_event")],
)
def test_an_exception_nobody_thought_of_is_the_peers_once_it_has_spoken(
    monkeypatch: pytest.MonkeyPatch, kind: str, parser: type, method: str
) -> None:
    monkeypatch.setattr(parser, method, broken)
    result = met(STREAMS[kind], peers.answering(b"HTTP/1.1 200 OK\r\n\r\n"))
    assert (result.outcome, result.detail) == (
        Outcome.FAIL,
        "its answer cannot be read: 'of a parser'",
    )


def test_an_exception_before_the_peer_has_spoken_is_a_defect_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[object] = []
    monkeypatch.setattr(asyncio.BaseEventLoop, "call_exception_handler", lambda _, it: shown.append(it))
    monkeypatch.setattr(Sockets, "take", broken)
    with peers.engine(swept=True):
        result = met(TcpCheck(), silent)
    assert (result.outcome, result.fault, len(shown)) == (Outcome.UNKNOWN, Fault.INTERNAL, 1)
    monkeypatch.setattr(Plain, "send", broken)
    with pytest.raises(KeyError):  # the checker says it of every task
        met(STREAMS["relp"], silent)


def met(
    kind: CheckKind,
    handler: Handler,
    tls: ssl.SSLContext | None = None,
    timeout: float = LONG,
) -> Result:
    async def story() -> Result:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the peer's own errors
        async with serving(handler, tls=tls) as port:
            return await probe(target(kind, port, timeout=timeout))

    return asyncio.run(story())
