"""What is no request of ours, byte for byte at the socket: told as JSON, and never in the words of the library."""

from __future__ import annotations

import asyncio
import json
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.ops.connections import Limits
from tests.unit.ops.test_connections import Site, play

H = b"Host: localhost\r\n"
CHUNKED = b"GET /livez HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: %s\r\n"
ROOMY = Limits(connections=64, reserved=32, idle_time=60)


class Answer(NamedTuple):
    code: int
    head: str
    body: bytes


def answers(data: bytes) -> list[Answer]:
    """What an HTTP client makes of it."""
    found = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        text = head.decode("ascii")
        sizes = [line[16:] for line in text.lower().split("\r\n") if line.startswith("content-length: ")]
        code = int(text.split()[1])
        size = int(sizes[0]) if sizes else 0
        found.append(Answer(code, text, rest[:size]))
        data = rest[size:]
    return found


def exchange(*pieces: bytes) -> list[Answer]:
    """All that is answered to the pieces, each sent when the one before has been read."""
    heard: list[bytes] = []

    async def story(site: Site) -> None:
        client = await site.connect()
        try:
            for piece in pieces:
                await client.send(piece)
                for _ in range(10):
                    await asyncio.sleep(0)
            client.writer.write_eof()
        except OSError:
            pass  # it has been ended: what was answered is there
        heard.append(await client.rest())

    play(story, ROOMY)
    return answers(heard[0])


def is_refusal(answer: Answer) -> bool:
    """As the documents promise it."""
    lines = answer.head.lower().split("\r\n")
    error = json.loads(answer.body)["error"]
    return (
        "server: anycast" in lines
        and "content-type: application/json; charset=utf-8" in lines
        and 0 < len(error) <= 400
        and "\n" not in error
        and not any(word in answer.head + error for word in ("aiohttp", "Python", "bytearray"))
    )


@pytest.mark.parametrize(
    ("code", "pieces"),
    [
        (400, [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 100 + b"\r\n\r\n"]),
        (400, [b"\x00\xff\xfe\r\n\r\n"]),
        (400, [b"get / HTTP/1.1\r\n" + H + b"\r\n"]),
        (400, [b"FOO / HTTP/1.1\r\n" + H + b"\r\n"]),
        (400, [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]),
        (400, [b"GET / HTTP/9.9\r\n" + H + b"\r\n"]),
        (400, [b"GET  HTTP/1.1\r\n" + H + b"\r\n"]),
        (400, [b"GET /\xff HTTP/1.1\r\n" + H + b"\r\n"]),
        (400, [b"GET http://[::1/ HTTP/1.1\r\n" + H + b"\r\n"]),
        (505, [b"GET /\r\n\r\n"]),
        (404, [b"OPTIONS * HTTP/1.1\r\n" + H + b"\r\n"]),
        (404, [b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\n" + H + b"\r\n"]),
        (405, [b"CONNECT localhost:80 HTTP/1.1\r\n" + H + b"\r\n"]),
        (405, [b"TRACE / HTTP/1.1\r\n" + H + b"\r\n"]),
        (405, [b"POST /livez HTTP/1.1\r\n" + H + b"Content-Length: 2\r\n\r\nab"]),
        (405, [b"POST /livez HTTP/1.1\r\n" + H + b"Content-Length: 100000000\r\n\r\nab"]),
        (414, [b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + H + b"\r\n"]),
        (414, [b"GET /" + b"a" * 9000]),
        (414, [b"GET /" + b"a" * 3000, b"a" * 3000 + b" HTTP/1.1\r\n" + H + b"\r\n"]),
        (414, [b"GET /" + b"a" * 500_000 + b" HTTP/1.1\r\n" + H + b"\r\n"]),
        (431, [b"GET /livez HTTP/1.1\r\n" + H + b"X: " + b"a" * 9000 + b"\r\n\r\n"]),
        (431, [b"GET /livez HTTP/1.1\r\n" + H + b"X" + b"a" * 9000 + b": 1\r\n\r\n"]),
        (431, [b"GET /livez HTTP/1.1\r\n" + H + b"X: y\r\n" * 65 + b"\r\n"]),
        (431, [b"GET /livez HTTP/1.1\r\n" + H + b"X: y\r\n" * 5000 + b"\r\n"]),
        (400, [b"GET /livez HTTP/1.1\r\n\r\n"]),
        (400, [b"GET /livez HTTP/1.1\r\n" + H + H + b"\r\n"]),
        (400, [b"GET /livez HTTP/1.1\r\n" + H + b"X: a\x00b\r\n\r\n"]),
        (400, [b"GET /livez HTTP/1.1\r\n" + H + b"X : a\r\n\r\n"]),
        (400, [b"GET /livez HTTP/1.1\r\n" + H + b"Xa\r\n\r\n"]),
        (400, [b"GET /livez HTTP/1.1\r\n" + H + b"X: a\r\n b\r\n\r\n"]),
        (400, [b"GET /livez HTTP/1.1\r\n" + H + b"Content-Length: -1\r\n\r\n"]),
        (400, [b"GET /livez HTTP/1.1\r\n" + H + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\na"]),
        (400, [b"GET /livez HTTP/1.1\r\n" + H + b"Content-Length: 9999999999999999999999\r\n\r\n"]),
        (400, [b"GET /livez HTTP/1.1\r\n" + H + b"Transfer-Encoding: foo\r\n\r\n"]),
        (400, [CHUNKED + b"ZZ\r\n\r\n"]),
        (400, [CHUNKED, b"ZZ\r\n\r\n"]),
        (400, [CHUNKED + b"1\r\na\r\n", b"ZZ\r\n\r\n"]),
        (400, [CHUNKED + b"1\r\nabc\r\n0\r\n\r\n"]),
        (400, [CHUNKED + b"5\r\na"]),
        (400, [CHUNKED + b"1\r\na\r\n0\r\n\r\n"]),
        (400, [CHUNKED + b"0\r\nfoo bar\x00\r\n\r\n"]),
        (400, [b"GET /livez HTTP/1.1\r\n" + H + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde"]),
        (400, [b"GET /livez HTTP/1.1\r\n" + H + b"Content-Length: 100\r\n\r\nabcde"]),
        (400, [b"GET /livez HTTP/1.1\r\n" + H + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\nab"]),
        (417, [b"GET /livez HTTP/1.1\r\n" + H + b"Expect: foo\r\n\r\n"]),
        (417, [b"GET /nothing HTTP/1.1\r\n" + H + b"Expect: foo\r\n\r\n"]),
        (400, [b"GET /livez HTTP/1.1\r\n" + H + b"Sec-WebSocket-Key1: a\r\n\r\n"]),
        (421, [b"GET /livez HTTP/1.1\r\nHost: evil.example\r\n\r\n"]),
        (421, [b"GET http://evil.example/livez HTTP/1.1\r\n" + H + b"\r\n"]),
        (421, [b"GET /livez HTTP/1.1\r\nHost:\r\n\r\n"]),
        (421, [b"GET /livez HTTP/1.0\r\nHost: evil.example\r\n\r\n"]),
    ],
)
def test_what_cannot_be_answered_is_refused_as_json(code: int, pieces: list[bytes]) -> None:
    found = exchange(*pieces)
    assert [answer.code for answer in found] == [code]
    assert is_refusal(found[0])


@pytest.mark.parametrize("to", [b"websocket", b"h2c", b"TLS/1.2"])
def test_nobody_is_upgraded(to: bytes) -> None:
    found = exchange(b"GET /livez HTTP/1.1\r\n" + H + UPGRADE % to + b"\r\n")
    assert [answer.code for answer in found] == [200]


def test_a_mistake_behind_a_question_leaves_its_answer() -> None:
    found = exchange(b"GET /livez HTTP/1.1\r\n" + H + b"\r\n", b"NONSENSE\r\n\r\n")
    assert [answer.code for answer in found] == [200, 400]
    assert is_refusal(found[1])


def test_a_head_does_not_get_a_body_with_its_refusal() -> None:
    (answer,) = exchange(b"HEAD /nothing HTTP/1.1\r\n" + H + b"\r\n")
    assert (answer.code, answer.body) == (404, b"")


_LINES = st.sampled_from(
    [
        b"GET /livez HTTP/1.1\r\n",
        b"GET /status?x=%00 HTTP/1.1\r\n",
        b"GET / HTTP/1.0\r\n",
        b"POST /livez HTTP/1.1\r\n",
        b"GET http://a:b@[::1]:9/ HTTP/1.1\r\n",
        H,
        b"Host: [::1\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
        UPGRADE % b"websocket",
        b"Content-Encoding: br\r\n",
        b"Accept: application/json\r\n",
        b"X-Anycast-Revision: \xff\r\n",
        b'Cookie: a="\\\r\n',
        b"\r\n",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
    ]
)


@given(pieces=st.lists(st.one_of(_LINES, st.binary(max_size=20)), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_whatever_comes_the_answers_are_http_and_the_library_is_not_named(pieces: list[bytes]) -> None:
    for answer in exchange(b"".join(pieces[:6]), b"".join(pieces[6:])):
        text = answer.head.lower()
        assert "aiohttp" not in text
        assert "python" not in text
        if answer.code >= 400 and answer.body and "application/json" in text:
            assert json.loads(answer.body)["error"]
        else:
            assert answer.code in (100, 200)
