from __future__ import annotations

import itertools
import re
import sys

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from anycast.probes.finding import PeerError
from anycast.probes.sweep.response import BODY_LIMIT, HEAD_LIMIT, Exchange, begun

FRAGMENTS = st.sampled_from(
    [
        *(b"HTTP/1.1 ", b"HTTP/1.0 ", b"HTTP/", b"200", b"200 OK", b"204 No Content", b"304 Same", b"99"),
        *(b"100 Go on\r\n\r\n", b"101 Up", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 103 Hints\r\n"),
        *(b" ", b"\t", b": ", b"\0", b"\x0b", b"\r", b"\r\n", b"\n", b"\r\n\r\n", b"0\r\n\r\n"),
        *(b"Content-Length: 5\r\n", b"content-length: 5, 5\r\n", b"Content-Length: 05\r\n"),
        *(b"Content-Length: x\r\n", b"Content-Length: 4\r\n\r\nbody", b"Transfer-Encoding: gzip\r\n"),
        *(b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Connection: keep-alive\r\n"),
        *(b"X: y\r\n", b"X: y\r\n  folded\r\n", b" leading\r\n", b"Bad Name: y\r\n", b"5\r\nhello\r\n"),
    ]
)
ANYTHING = st.lists(FRAGMENTS | st.binary(max_size=8), max_size=14).map(b"".join)
HEADERS = st.lists(
    st.sampled_from(
        [
            b"X: y",
            b"Content-Length: 4",
            b"Transfer-Encoding: chunked",
            b"Connection: close",
            b"Server:",
            b"A: \xe4",
        ]
    ),
    max_size=4,
)


def cut(data: bytes, cuts: set[int]) -> list[bytes]:
    edges = [0, *sorted(place for place in cuts if 0 < place < len(data)), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def read(
    pieces: list[bytes], *, whole: bool = True, to_head: bool = False, ends: bool = False
) -> tuple[int, bool, bool] | str:
    """The status, whether the connection can be used again, and whether already; or what is wrong."""
    exchange = Exchange(to_head=to_head, whole=whole)
    try:
        for piece in pieces:
            if piece:
                exchange.feed(piece)
        if ends:
            exchange.feed(b"")
    except PeerError as error:
        return str(error)
    return exchange.status, exchange.reusable, exchange.reusable and exchange.ended


def h11_status(data: bytes) -> int | None:
    """The final status as h11 has it; 0: more is needed; None: it is no response."""
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT)
    parser.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    parser.send(h11.EndOfMessage())
    if data:
        parser.receive_data(data)
    try:
        while True:
            event = parser.next_event()
            if isinstance(event, h11.Response):
                return event.status_code
            if event is h11.NEED_DATA:
                return 0
    except h11.RemoteProtocolError:
        return None


@settings(max_examples=400)
@given(data=ANYTHING)
@example(data=b"\r")
@example(data=b"HTTP/1.1 200 OK\r")
@example(data=b"HTTP/1.1 100 Go on\r\n\r\n\xe5HTTP/1.1 103 Hints\r\n")
def test_the_status_is_what_h11_makes_of_the_same_bytes(data: bytes) -> None:
    found, theirs = read([data], whole=False), h11_status(data)
    if not isinstance(found, str):
        assert theirs == found[0]
    elif theirs == 0:  # it waits for a blank line that a server of another protocol never sends
        behind_interim = re.split(rb"\r?\n\r?\n", data)[-1]
        assert not behind_interim.startswith(b"HTTP/")
    else:
        assert theirs is None


@settings(max_examples=300)
@given(
    line=st.sampled_from(
        [
            b"1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK",
            b"1.1 200 OK",
            b"1.1 204 None",
            b"1.1 404 Not Found",
            b"1.0 200 ",
            b"1.1 299",
        ]
    ),
    headers=HEADERS,
    body=st.sampled_from([b"", b"body", b"0\r\n\r\n", b"4\r\nbody\r\n0\r\n\r\n", b"body and more"]),
    cuts=st.sets(st.integers(1, 200)),
    to_head=st.booleans(),
    ends=st.booleans(),
)
def test_however_a_response_is_cut_the_answer_is_the_same(
    line: bytes,
    headers: list[bytes],
    body: bytes,
    cuts: set[int],
    *,
    to_head: bool,
    ends: bool,
) -> None:
    head = b"\r\n".join([b"HTTP/" + line, *headers, b"", b""])
    data = head + body
    whole = read([data], to_head=to_head, ends=ends)
    assert read(cut(data, cuts), to_head=to_head, ends=ends) == whole
    assert read([bytes([byte]) for byte in data], to_head=to_head, ends=ends) == whole


@settings(max_examples=300)
@given(data=ANYTHING, cuts=st.sets(st.integers(1, 100)), ends=st.booleans())
def test_any_bytes_however_cut_give_the_same_status_or_one_kind_of_error(
    data: bytes,
    cuts: set[int],
    ends: bool,  # noqa: FBT001
) -> None:
    whole, pieces = read([data], whole=False, ends=ends), read(cut(data, cuts), whole=False, ends=ends)
    assert isinstance(whole, str) == isinstance(pieces, str)
    if not isinstance(whole, str):
        assert whole == pieces


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", b"body"),
        (b"HTTP/1.1 204 None\r\n\r\n", b""),
        (b"HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\nTransfer-Encoding: Chunked\n\n", b"4;x=y\r\nbody\r\n0\r\nTrailer: a\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive, x\r\nContent-Length: 0\r\n\r\n", b""),
    ],
)
def test_a_connection_whose_response_ended_can_be_used_again(head: bytes, body: bytes) -> None:
    assert read([head, body])[1:] == (True, True)


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody and more",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nmore",
    ],
)
def test_a_connection_is_not_used_again_where_it_is_not_clear_that_the_response_has_ended(
    response: bytes,
) -> None:
    assert read([response])[:2] == (200, False)


def test_what_comes_after_the_end_of_a_response_makes_the_connection_unusable() -> None:
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    assert read([response]) == (200, True, True)
    assert read([response, b"\r\n"])[1] is False
    assert read([response], ends=True)[1] is False


def test_a_response_to_head_has_no_body_whatever_it_says() -> None:
    assert read([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"], to_head=True) == (200, True, True)


def test_nothing_of_a_long_body_is_kept_and_a_body_over_the_limit_ends_the_use() -> None:
    exchange = Exchange(to_head=False, whole=True)
    exchange.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    sent = 0
    while exchange.reusable:
        exchange.feed(b"10\r\n" + b"x" * 16 + b"\r\n")
        sent += 16
        assert held(exchange) < 1000
    assert sent <= 2 * BODY_LIMIT


@pytest.mark.parametrize("piece", [b"X: y\r\n", b"y", b"HTTP/1.1 100 Go on\r\n\r\n"])
def test_a_head_without_end_is_given_up_at_the_limit(piece: bytes) -> None:
    exchange = Exchange(to_head=False, whole=True)
    exchange.feed(b"HTTP/1.1 100 Go on\r\n\r\n" if piece.startswith(b"HTTP") else b"HTTP/1.1 200 ")
    fed = 0
    while fed + len(piece) * 100 < HEAD_LIMIT - 100:
        exchange.feed(piece * 100)
        fed += len(piece) * 100
        assert held(exchange) <= HEAD_LIMIT
    with pytest.raises(PeerError, match="over 64 KiB"):
        exchange.feed(piece * 500)


def held(exchange: Exchange) -> int:
    """Bytes of the peer it has in its hands."""
    slots = [getattr(exchange, name) for name in Exchange.__slots__]
    body = exchange._body
    slots += [] if body is None else [getattr(body, name) for name in type(body).__slots__]
    return sum(sys.getsizeof(value) for value in slots if isinstance(value, bytes))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"SSH-2.0-x\r\n", "not an HTTP response: SSH-2.0-x"),
        (b"\r\n\r\n", "no response line"),
        (b"HTTP/1.1 abc\r\n\r\n", "illegal status line: HTTP/1.1 abc"),
        (b"HTTP/1.1 200 OK\r\nA: b\r\nBad Name: c\r\n\r\n", "illegal header line: Bad Name: c"),
        (b"HTTP/1.1 101 Up\r\n\r\n", "101"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n", "conflicting Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "conflicting Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "bad Content-Length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "Only Transfer-Encoding: chunked"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, what: str) -> None:
    with pytest.raises(PeerError, match=what.replace(".", r"\.")):
        Exchange(to_head=False, whole=False).feed(data)


def test_a_stream_that_ends_early_is_wrong_and_says_where() -> None:
    with pytest.raises(PeerError, match="closed without a response"):
        Exchange(to_head=False, whole=False).feed(b"")
    exchange = Exchange(to_head=False, whole=False)
    exchange.feed(b"HTT")
    with pytest.raises(PeerError, match="closed within the response head"):
        exchange.feed(b"")


@given(data=ANYTHING)
@example(data=b"HTTP/1.1 204 None\r\n\r\n")
@example(data=b"HTTP/1.1 100 Go on\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")
def test_the_short_way_to_a_status_finds_what_the_long_one_does_or_nothing(data: bytes) -> None:
    status = begun(data)
    exchange = Exchange(to_head=False, whole=False)
    try:
        exchange.feed(data)
    except PeerError:
        assert status == 0
    else:
        assert status in {0, exchange.status}


def test_the_short_way_is_taken_where_a_final_head_is_there_as_a_whole() -> None:
    assert begun(b"HTTP/1.1 404 No\r\nServer: x\r\n\r\nbody") == 404
