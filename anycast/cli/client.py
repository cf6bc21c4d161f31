"""HTTP over the agent's unix socket. Standard library only."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT = 10.0  # seconds
STREAM_TIMEOUT = 40.0  # seconds; the agent says something at least every 15


class UnreachableError(Exception):
    """No agent answered. The text says what was tried, why it failed and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    code: int  # HTTP status
    body: dict[str, Any]

    @property
    def ok(self) -> bool:
        return 200 <= self.code < 300

    @property
    def error(self) -> str:
        return str(self.body.get("error") or f"the agent answered {self.code}")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(
    path: Path,
    method: str,
    target: str,
    body: dict[str, Any] | None = None,
    *,
    timeout: float = TIMEOUT,
) -> Answer:
    """One request to the agent that listens at `path`. Raises UnreachableError."""
    connection = _UnixConnection(path, timeout)
    try:
        data = json.dumps(body) if body is not None else None
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, target, body=data, headers=headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UnreachableError(f"no agent answers at {path}: {_why(error, timeout)}") from error
    finally:
        connection.close()
    if not isinstance(answer, dict):
        raise UnreachableError(f"no agent answers at {path}: {_NOT_OURS}")
    return Answer(code=response.status, body=answer)


def stream(path: Path, target: str) -> Iterator[dict[str, Any]]:
    """The server-sent events of `target`, until the agent ends them. Raises UnreachableError."""
    connection = _UnixConnection(path, STREAM_TIMEOUT)
    try:
        connection.request("GET", target, headers={"Accept": "text/event-stream"})
        response = connection.getresponse()
        if response.status != 200:
            raise UnreachableError(
                f"the agent at {path} refuses to stream: {response.read(4096).decode(errors='replace')}"
            )
        for line in response:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UnreachableError(f"no agent answers at {path}: {_why(error, STREAM_TIMEOUT)}") from error
    finally:
        connection.close()


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
        case ConnectionError() | http.client.RemoteDisconnected():
            return "it closed the connection (it is stopping, perhaps; see its log)"
        case OSError():
            return f"{error.strerror or error} (check --socket)"
        case _:
            return _NOT_OURS
