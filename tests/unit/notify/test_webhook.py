"""Webhooks against real servers on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from anycast.core.hooks import Ending, Hook, Secret, Webhook
from anycast.notify.notice import SAMPLE, payload
from anycast.notify.outcome import Outcome
from anycast.notify.run import run

TOLD = payload(SAMPLE, hook="h", node="lb1")
LONG = 30.0  # seconds; nothing here waits for so long
TOKEN = "s3cret-t0ken"

Serve = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def server(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    handlers: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await serve(head + await reader.readexactly(length), writer)
        writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.create_task(handle(reader, writer)))

    listening = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for handler in handlers:
            handler.cancel()
        if handlers:
            await asyncio.wait(handlers)


def answering(answer: bytes, got: list[bytes] | None = None) -> Serve:
    async def serve(request: bytes, writer: asyncio.StreamWriter) -> None:
        if got is not None:
            got.append(request)
        writer.write(answer)
        await writer.drain()

    return serve


def hook(port: int, scheme: str = "http", **more: Any) -> Hook:
    host = f"localhost:{port}"
    action = Webhook(url=f"{scheme}://{host}/hidden-path?key=hidden-key", host=host)
    timeout = more.pop("timeout", LONG)
    return Hook(name="h", action=replace(action, **more), timeout=timeout)


def post(serve: Serve, **more: Any) -> Outcome:
    async def story() -> Outcome:
        async with server(serve) as port:
            return await run(hook(port, **more), TOLD, agent="anycast/1.2.3")

    return asyncio.run(story())


def head_of(request: bytes) -> dict[str, str]:
    head = request.split(b"\r\n\r\n")[0].decode()
    return {
        name.lower(): value.strip()
        for name, _, value in (one.partition(":") for one in head.splitlines()[1:])
    }


def test_the_payload_is_posted_with_token_and_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    monkeypatch.setenv("HOOK_KEY", "k3y")
    got: list[bytes] = []
    outcome = post(
        answering(b"HTTP/1.1 204 No Content\r\n\r\n", got),
        token=Secret(file=str(file)),
        signature=Secret(variable="HOOK_KEY"),
        headers=(("X-Team", "edge"),),
    )
    assert outcome == Outcome(ending=Ending.OK, why="status 204")
    (request,) = got
    head, body = head_of(request), request.split(b"\r\n\r\n", 1)[1]
    assert request.startswith(b"POST /hidden-path?key=hidden-key HTTP/1.1\r\n")
    assert json.loads(body) == TOLD
    assert head["authorization"] == f"Bearer {TOKEN}"
    assert head["x-anycast-signature"] == "sha256=" + hmac.new(b"k3y", body, hashlib.sha256).hexdigest()
    assert (head["content-type"], head["user-agent"]) == ("application/json", "anycast/1.2.3")
    assert (head["x-team"], head["x-anycast-id"]) == ("edge", "lb1/1")


@pytest.mark.parametrize(
    ("answer", "why", "again"),
    [
        ("404 Not Found", "status 404", False),
        ("401 Unauthorized", "status 401", False),
        ("302 Found\r\nLocation: http://127.0.0.1:9/", "status 302: a redirect is not followed", False),
        ("500 Oh", "status 500", True),
        ("429 Slowly\r\nRetry-After: 7", "status 429", True),
    ],
)
def test_the_status_decides_and_what_may_go_better_is_tried_again(
    answer: str,
    why: str,
    again: bool,  # noqa: FBT001
) -> None:
    outcome = post(answering(f"HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n".encode()))
    assert outcome.ending is Ending.FAILED
    assert outcome.why.startswith(why)
    assert outcome.again is again
    assert outcome.after == (7 if "Retry-After" in answer else 0)


def test_a_body_without_an_end_is_not_read() -> None:
    async def endless(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    assert post(endless).ok


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nX-Slow: "])
def test_a_server_that_never_answers_has_its_time(begun: bytes) -> None:
    async def silent(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(begun)
        await writer.drain()
        await asyncio.Event().wait()

    outcome = post(silent, timeout=0.3)
    assert outcome == Outcome(ending=Ending.TIMEOUT, why="no answer within 0.3 s", again=True)


@pytest.mark.parametrize(
    ("answer", "why"),
    [(b"", "without an answer"), (b"SSH-2.0-OpenSSH\r\n\r\n", "is not HTTP"), (b"\0" * 99, "HTTP")],
)
def test_what_is_no_answer_is_said_without_the_url(answer: bytes, why: str) -> None:
    outcome = post(answering(answer))
    assert why in outcome.why
    assert "hidden" not in outcome.why
    assert outcome.again


def test_nobody_listens() -> None:
    outcome = asyncio.run(run(hook(9), TOLD, agent="a"))
    assert outcome.why == "no connection to localhost:9: Connection refused"
    assert outcome.again


def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, context = certificate(tmp_path, "localhost")

    def both(_: str, port: int, **__: Any) -> list[Any]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, port)) for host in ("127.0.0.2", "127.0.0.1")
        ]

    async def story() -> Outcome:
        async with server(answering(b"HTTP/1.1 200 OK\r\n\r\n"), context) as port:
            with socket.create_server(("127.0.0.2", port)):  # takes the connection, and says nothing
                monkeypatch.setattr(socket, "getaddrinfo", both)
                return await run(hook(port, "https", ca=str(file), timeout=6.0), TOLD, agent="a")

    assert asyncio.run(story()).ok


def certificate(folder: Path, name: str) -> tuple[Path, ssl.SSLContext]:
    """A certificate that signs itself, and a server's context with it."""
    file, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", key, "-out", file, "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key)
    return file, context


@pytest.mark.parametrize(
    ("name", "trusted", "why"),
    [
        ("localhost", True, "status 200"),
        ("localhost", False, "the certificate of localhost:PORT is not trusted"),
        ("other.example", True, "the certificate of localhost:PORT is not trusted"),
    ],
)
def test_tls_is_verified(tmp_path: Path, name: str, trusted: bool, why: str) -> None:  # noqa: FBT001
    file, context = certificate(tmp_path, name)
    got: list[bytes] = []
    serve = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", got)

    async def story() -> tuple[Outcome, int]:
        async with server(serve, context) as port:
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server's own words
            return await run(hook(port, "https", ca=str(file) if trusted else None), TOLD, agent="a"), port

    outcome, port = asyncio.run(story())
    assert outcome.why.startswith(why.replace("PORT", str(port)))
    assert bool(got) is outcome.ok


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is empty"),
        (b"x" * 5000, "is empty, or larger"),
        (b"two words", "is not one word of printable ASCII"),
        (b"s3cret\r\nX-Evil: 1", "is not one word of printable ASCII"),
    ],
)
def test_a_token_that_cannot_be_used_is_said_and_not_shown(
    tmp_path: Path, content: bytes | None, why: str
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    outcome = asyncio.run(run(hook(9, token=Secret(file=str(file))), TOLD, agent="a"))
    assert why in outcome.why
    assert "s3cret" not in outcome.why
    assert outcome.again


def test_a_pipe_in_the_place_of_a_token_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token")
    outcome = asyncio.run(run(hook(9, token=Secret(file=str(tmp_path / "token"))), TOLD, agent="a"))
    assert outcome.why == f"{tmp_path}/token is not a file"


def test_a_url_and_headers_are_read_where_they_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[bytes] = []
    monkeypatch.setenv("HOOK_HEADERS", "X-Team: edge\nX-Key: k3y")

    async def story() -> Outcome:
        async with server(answering(b"HTTP/1.1 204 No Content\r\n\r\n", got)) as port:
            (tmp_path / "url").write_text(f"http://localhost:{port}/kept-path\n", encoding="utf-8")
            kept: dict[str, Any] = {"url": "", "host": "kept", "url_from": Secret(file=str(tmp_path / "url"))}
            hooked = hook(port, headers_from=Secret(variable="HOOK_HEADERS"), **kept)
            assert "kept-path" not in repr(hooked)
            return await run(hooked, TOLD, agent="anycast/1.2.3")

    assert asyncio.run(story()) == Outcome(ending=Ending.OK, why="status 204")
    (request,) = got
    assert request.startswith(b"POST /kept-path HTTP/1.1\r\n")
    head = head_of(request)
    assert (head["x-team"], head["x-key"]) == ("edge", "k3y")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://hidden.example/x", "the scheme of the URL is neither https nor http"),
        ("https://", "the URL names no host"),
        ("http://hidden.example/x", "everybody on the network could read the token"),
    ],
)
def test_a_url_that_cannot_be_used_is_told_without_it(tmp_path: Path, url: str, why: str) -> None:
    (tmp_path / "url").write_text(url, encoding="utf-8")
    (tmp_path / "token").write_text("t", encoding="utf-8")
    action: dict[str, Any] = {
        "url_from": Secret(file=str(tmp_path / "url")),
        "token": Secret(file=str(tmp_path / "token")),
    }
    outcome = asyncio.run(run(hook(1, url="", **action), TOLD, agent="a"))
    assert outcome.ending is Ending.FAILED
    assert why in outcome.why
    assert "hidden" not in outcome.why
