"""HTTP over the agent's unix socket. As little of it as it takes: the library for it takes longer to load than the
agent to answer.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

TIMEOUT = 10.0  # seconds
STREAM_TIMEOUT = 40.0  # seconds; the agent says something at least every 15


class UnreachableError(Exception):
    """No agent answered. The text says what was tried, why it failed and what to do."""


class Answer(NamedTuple):
    code: int  # HTTP status
    body: dict[str, Any]

    @property
    def ok(self) -> bool:
        return 200 <= self.code < 300

    @property
    def error(self) -> str:
        return str(self.body.get("error") or f"the agent answered {self.code}")


def _connect(path: Path, timeout: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection


def _request(method: str, target: str, kind: str, body: bytes | None = None) -> bytes:
    # HTTP/1.0: one answer, neither chunked nor kept alive, whose end is the end of the connection.
    lines = [f"{method} {target} HTTP/1.0", "Host: localhost", f"Accept: {kind}"]
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
) -> Answer:
    """One request to the agent that listens at `path`. Raises UnreachableError."""
    data = json.dumps(body).encode() if body is not None else None
    try:
        with _connect(path, timeout) as connection:
            connection.sendall(_request(method, target, "application/json", data))
            with connection.makefile("rb") as file:
                text = file.read()
        if not text:
            raise ConnectionResetError
        head, _, rest = text.partition(b"\r\n\r\n")
        code, answer = _code(head.partition(b"\r\n")[0]), json.loads(rest)
    except (OSError, ValueError) as error:
        raise UnreachableError(f"no agent answers at {path}: {_why(error, timeout)}") from error
    if not isinstance(answer, dict):
        raise UnreachableError(f"no agent answers at {path}: {_NOT_OURS}")
    return Answer(code=code, body=answer)


def stream(path: Path, target: str) -> Iterator[dict[str, Any]]:
    """The server-sent events of `target`, until the agent ends them. Raises UnreachableError."""
    try:
        with _connect(path, STREAM_TIMEOUT) as connection:
            connection.sendall(_request("GET", target, "text/event-stream"))
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


def _why(error: Exception, timeout: float) -> str:
    match error:
        case FileNotFoundError():
            return "no such socket (start the agent, or name its socket with --socket or --config)"
        case ConnectionRefusedError():
            return "nothing listens there any more (the agent has ended; start it again)"
        case PermissionError():
            return "permission denied (run this as root, or as a member of the socket's group)"
        case TimeoutError():
            return f"silence for {timeout:g} s (the agent hangs or is stopped; see its log)"
        case ConnectionError():
            return "it closed the connection (it is stopping, perhaps; see its log)"
        case OSError():
            return f"{error.strerror or error} (check --socket)"
        case _:
            return _NOT_OURS
