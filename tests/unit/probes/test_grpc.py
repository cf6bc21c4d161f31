from __future__ import annotations

import asyncio
import contextlib
import tracemalloc

import pytest
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.core.health.phase import Outcome, Result
from anycast.core.values.checks import GrpcCheck
from anycast.probes.finding import PeerError
from anycast.probes.grpc import Call, serving_status
from tests.unit.probes.peers import Handler, blurting, probe_at, silent

SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"
OK_HEAD = [(":status", "200"), ("content-type", "application/grpc")]
OK_END = [("grpc-status", "0")]


def message(body: bytes) -> bytes:
    return b"\0" + len(body).to_bytes(4, "big") + body


class Server:
    """The other side of a call, over bytes."""

    def __init__(self) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.headers: dict[str, str] = {}
        self.body = b""

    def hear(self, data: bytes) -> bool:
        """Whether the request is complete."""
        ended = False
        for event in self.h2.receive_data(data):
            match event:
                case events.RequestReceived():
                    self.headers = {str(name): str(value) for name, value in event.headers or []}
                case events.DataReceived():
                    self.body += event.data or b""
                case events.StreamEnded():
                    ended = True
        return ended

    def answer(
        self,
        body: bytes | None,
        head: list[tuple[str, str]] = OK_HEAD,
        end: list[tuple[str, str]] | None = OK_END,
    ) -> bytes:
        self.h2.send_headers(1, head, end_stream=body is None and end is None)
        if body is not None:
            self.h2.send_data(1, body, end_stream=end is None)
        if end is not None:
            self.h2.send_headers(1, end, end_stream=True)
        return self.h2.data_to_send()


def serving(*answer: object, server: Server | None = None) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        one = server or Server()
        while not one.hear(await reader.read(1000)):
            pass
        writer.write(one.answer(*answer))  # type: ignore[arg-type]
        await reader.read()

    return handler


def check(handler: Handler, kind: GrpcCheck = GrpcCheck(), *, timeout: float = 30.0) -> Result:  # noqa: B008
    return asyncio.run(probe_at(handler, kind, timeout=timeout))


def test_a_service_that_serves_is_ok_and_is_asked_as_the_protocol_wants_it() -> None:
    server = Server()
    assert (
        check(serving(message(SERVING), server=server), GrpcCheck(service="shop.Orders")).outcome
        is Outcome.OK
    )
    assert server.headers[":path"] == "/grpc.health.v1.Health/Check"
    assert server.headers["content-type"] == "application/grpc"
    assert server.headers["te"] == "trailers"
    assert server.headers[":authority"].startswith("127.0.0.1:")
    assert server.body == message(b"\x0a\x0bshop.Orders")


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        ((message(NOT_SERVING),), "NOT_SERVING, expected SERVING"),
        ((message(b""),), "UNKNOWN, expected SERVING"),
        ((message(b"\x08\x63"),), "99, expected SERVING"),
        (
            (None, [*OK_HEAD, ("grpc-status", "5"), ("grpc-message", "unknown%20service")], None),
            "gRPC status 5 NOT_FOUND: unknown service",
        ),
        ((None, OK_HEAD, [("grpc-status", "12")]), "gRPC status 12 UNIMPLEMENTED"),
        ((None, OK_HEAD, [("grpc-status", "x")]), "gRPC status x"),
        ((None, [(":status", "404")], None), "HTTP status 404, expected 200"),
        ((None, OK_HEAD, None), "gRPC status None"),
        ((b"\1" + message(SERVING)[1:],), "the answer holds no message that could be read"),
        ((message(SERVING)[:-1],), "the answer holds no message that could be read"),
        ((message(b"\x08"),), "the answer is cut short"),
        ((message(b"\x0f"),), "the answer is no HealthCheckResponse"),
        ((b"x" * 5000,), "an answer of more than 4096 bytes"),
    ],
)
def test_another_answer_fails_and_says_why(answer: tuple[object, ...], detail: str) -> None:
    result = check(serving(*answer))
    assert (result.outcome, result.detail) == (Outcome.FAIL, detail)


def test_a_server_of_another_protocol_fails() -> None:
    assert check(blurting(b"HTTP/1.1 400 Bad Request\r\n\r\n")).detail.startswith("not HTTP/2: ")
    assert check(blurting()).detail == "closed before the answer"
    assert check(silent, timeout=0.1).detail == "no answer to the call within 0.1 s"


@pytest.mark.parametrize("act", ["reset_stream", "close_connection"])
def test_a_server_that_gives_up_fails(act: str) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = Server()
        while not server.hear(await reader.read(1000)):
            pass
        if act == "reset_stream":
            server.h2.reset_stream(1, 7)
        else:
            server.h2.close_connection(2)
        writer.write(server.h2.data_to_send())
        await reader.read()

    assert check(handler).detail.startswith("the server ")


def test_a_large_answer_in_unknown_fields_is_passed_over() -> None:
    fields = b"\x12\x03abc" + b"\x19" + b"x" * 8 + b"\x25" + b"y" * 4 + b"\x18\xff\x01"
    assert serving_status(fields + SERVING + fields) == 1


@given(st.binary(max_size=40))
def test_any_bytes_are_a_status_or_explained(data: bytes) -> None:
    with contextlib.suppress(PeerError):
        assert serving_status(data) >= 0


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_bytes_of_a_server_are_an_answer_or_explained(data: st.DataObject) -> None:
    server, call = Server(), Call("", "x", tls=False)
    server.hear(call.request())
    wire = bytearray(server.answer(message(SERVING)))
    kind = data.draw(st.sampled_from(["noise", "damaged", "cut"]))
    if kind == "noise":
        wire = bytearray(data.draw(st.binary(max_size=100)))
    elif kind == "damaged":
        for place in data.draw(st.sets(st.integers(0, len(wire) - 1), max_size=5)):
            wire[place] = data.draw(st.integers(0, 255))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(wire)), max_size=5)))
    with contextlib.suppress(PeerError):
        for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
            call.feed(bytes(wire[start:end]))
        if call.ended:
            call.result()


@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(st.binary(max_size=30), max_size=5))
def test_whatever_a_server_sends_there_is_a_failure(pieces: list[bytes]) -> None:
    assert check(blurting(*pieces)).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    "frame",
    [
        b"\0\0\x08\x06\0\0\0\0\0" + b"p" * 8,  # PING
        b"\0\0\0\x04\0\0\0\0\0",  # SETTINGS
        b"\0\x03\xe8\xff\0\0\0\0\0" + b"u" * 1000,  # of an unknown type
        b"\0\0\x04\x08\0\0\0\0\0\0\0\0\x01",  # WINDOW_UPDATE
    ],
)
def test_frames_without_end_are_not_kept(frame: bytes) -> None:
    server, call = Server(), Call("", "x", tls=False)
    server.hear(call.request())
    call.feed(server.h2.data_to_send())
    tracemalloc.start()
    try:
        with contextlib.suppress(PeerError):
            for _ in range(64 * 1024 // len(frame)):
                call.feed(frame)
        assert tracemalloc.get_traced_memory()[0] < 300_000
    finally:
        tracemalloc.stop()
