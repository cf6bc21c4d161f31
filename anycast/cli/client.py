"""HTTP over the agent's unix sockets. As little of it as it takes: the library for it takes longer to load than the
agent to answer.

Commands go to the agent itself, at `control.sock`; documents come from its ops process, at `ops.sock` beside it.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

TIMEOUT = 10.0  # seconds
SPARE = 2.0  # seconds of it that are left for the answer when a command may no longer be carried out
OPS_SOCKET = "ops.sock"
BUSY_PAUSE = 0.05  # seconds until the next try, where there is no room for one more
OPS_TIME = 5.0  # seconds an ops process that has just been started has to listen
STREAM_TIMEOUT = 40.0  # seconds; the agent says something at least every 15


class UnreachableError(Exception):
    """No agent answered. The text says what was tried, why it failed and what to do."""


class Answer(NamedTuple):
    code: int  # HTTP status
    body: dict[str, Any]
    busy: bool = False  # it was not let in, and may be another time

    @property
    def ok(self) -> bool:
        return 200 <= self.code < 300

    @property
    def error(self) -> str:
        return str(self.body.get("error") or f"the agent answered {self.code}")


def _connect(path: Path, timeout: float) -> socket.socket:
    """Raises OSError. Where too many wait to be let in, it waits too."""
    until = time.monotonic() + timeout
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(str(path))
        except BlockingIOError as error:
            connection.close()
            if time.monotonic() >= until:
                raise TimeoutError from error
            time.sleep(BUSY_PAUSE)
        except BaseException:
            connection.close()
            raise
        else:
            return connection


def _request(method: str, target: str, kind: str, headers: Iterable[str], body: bytes | None = None) -> bytes:
    # HTTP/1.0: one answer, neither chunked nor kept alive, whose end is the end of the connection.
    lines = [f"{method} {target} HTTP/1.0", "Host: localhost", f"Accept: {kind}", *headers]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def _code(line: bytes) -> int:
    """Of a status line. Raises ValueError: it is none."""
    version, code, *_ = line.split(None, 2)
    if not version.startswith(b"HTTP/"):
        raise ValueError(line)
    return int(code)


def ask(
    path: Path,
    method: str,
    target: str,
    body: dict[str, Any] | None = None,
    *,
    timeout: float = TIMEOUT,
    headers: Iterable[str] = (),
) -> Answer:
    """One request to whoever listens at `path`, which is asked again as long as it is busy. Raises UnreachableError."""
    until = time.monotonic() + timeout
    try:
        while True:
            answer = _ask(path, method, target, body, timeout=timeout, headers=headers)
            if not answer.busy or time.monotonic() >= until - SPARE:
                return answer
            time.sleep(BUSY_PAUSE)
    except (OSError, ValueError) as error:
        raise UnreachableError(f"no agent answers at {path}: {_why(error, timeout)}") from error


def command(
    path: Path, target: str, body: dict[str, Any] | None = None, *, timeout: float = TIMEOUT
) -> Answer:
    """A command to the agent, which is not carried out once this has given up. Raises UnreachableError."""
    deadline = time.monotonic() + timeout - SPARE
    return ask(path, "POST", target, body, timeout=timeout, headers=[f"X-Anycast-Deadline: {deadline:.3f}"])


def read(path: Path, target: str) -> Answer:
    """A document as of now, from the ops process of the agent whose control socket is at `path`.

    Raises UnreachableError, with what the agent says meanwhile.
    """
    now = ask(path, "GET", "/summary")
    if not now.ok or "revision" not in now.body:
        raise UnreachableError(f"no agent answers at {path}: {_NOT_OURS}")
    ops = path.with_name(OPS_SOCKET)
    headers = [f"X-Anycast-Revision: {now.body['revision']}"]
    until = time.monotonic() + OPS_TIME
    while True:
        try:
            answer = _ask(ops, "GET", target, timeout=TIMEOUT, headers=headers)
            if not answer.busy or time.monotonic() >= until:
                return answer
            time.sleep(BUSY_PAUSE)
        except (OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError | ConnectionError) and time.monotonic() < until:
                time.sleep(0.1)  # the agent lives, and starts another
                continue
            why = f"the ops process does not answer at {ops}: {_why(error, TIMEOUT, _OPS)}"
            raise UnreachableError(f"{why}; the agent says: {now.body.get('summary')}") from error


def _ask(
    path: Path,
    method: str,
    target: str,
    body: dict[str, Any] | None = None,
    *,
    timeout: float,
    headers: Iterable[str],
) -> Answer:
    """Raises OSError, ValueError: what answers is not ours."""
    data = json.dumps(body).encode() if body is not None else None
    with _connect(path, timeout) as connection:
        with contextlib.suppress(BrokenPipeError):  # it has answered already
            connection.sendall(_request(method, target, "application/json", headers, data))
        text = _whole(connection)
    if not text:
        raise ConnectionResetError
    head, _, rest = text.partition(b"\r\n\r\n")
    code, answer = _code(head.partition(b"\r\n")[0]), json.loads(rest)
    if not isinstance(answer, dict):
        raise ValueError(rest)  # noqa: TRY004 - as no JSON is
    return Answer(code=code, body=answer, busy=code == 503 and b"\r\nRetry-After:" in head)


def _whole(connection: socket.socket) -> bytes:
    """What is said until the end, or until it hangs up."""
    text = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(256 * 1024):
            text += part
    return text


def stream(path: Path, target: str) -> Iterator[dict[str, Any]]:
    """The server-sent events of `target`, until the ops process of the agent ends them. Raises UnreachableError."""
    path = path.with_name(OPS_SOCKET)
    try:
        with _connect(path, STREAM_TIMEOUT) as connection:
            connection.sendall(_request("GET", target, "text/event-stream", ()))
            with connection.makefile("rb") as lines:
                code = _code(lines.readline())
                if code != 200:
                    raise UnreachableError(f"the agent at {path} refuses to stream: it answers {code}")
                for line in lines:
                    if line.startswith(b"data: "):
                        yield json.loads(line[6:])
    except (OSError, ValueError) as error:
        raise UnreachableError(f"no agent answers at {path}: {_why(error, STREAM_TIMEOUT)}") from error


_NOT_OURS = "what answers there is not an agent of this version (check --socket)"


_AGENT = {
    FileNotFoundError: "no such socket (start the agent, or name its socket with --socket or --config)",
    ConnectionRefusedError: "nothing listens there any more (the agent has ended; start it again)",
}
_OPS = {
    FileNotFoundError: "no such socket (the agent restarts it; the agent's log says what is wrong)",
    ConnectionRefusedError: "nothing listens there any more (the agent restarts it; the agent's log says what is wrong)",
}


def _why(error: Exception, timeout: float, words: Mapping[type[OSError], str] = _AGENT) -> str:
    match error:
        case FileNotFoundError() | ConnectionRefusedError():
            return words[type(error)]
        case PermissionError():
            return "permission denied (run this as root, or as a member of the socket's group)"
        case TimeoutError():
            return f"no answer within {timeout:g} s (it hangs or is stopped; see the log of the agent)"
        case ConnectionError():
            return "it closed the connection (it may be stopping; see the log of the agent)"
        case OSError():
            return f"{error.strerror or error} (check --socket)"
        case _:
            return _NOT_OURS
