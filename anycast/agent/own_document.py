"""What this node says of itself to others, as its ops process tells it. That one measures what the node carries."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from pathlib import Path

from anycast.core.fleet import codec
from anycast.core.fleet.values import Document
from anycast.ops.main import SOCKET

PATIENCE = 1.0  # seconds: whoever asks for a maintenance waits
_CHUNK = 64 * 1024  # bytes
_REQUEST = f"GET {codec.PATH} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode()


class UnknownError(Exception):
    """The ops process has not told it. `args[0]`: why, in words."""


def told(runtime_dir: Path, patience: float = PATIENCE) -> Document:
    """As of now. Blocks: for a thread. Raises UnknownError."""
    until = time.monotonic() + patience
    try:
        answer = _asked(runtime_dir / SOCKET, until)
        head, _, body = answer.partition(b"\r\n\r\n")
        status = head.split(None, 2)
        if len(status) < 2 or status[1] != b"200":
            raise UnknownError("the ops process does not tell it")
        heard = codec.read(body, {})
    except TimeoutError:
        raise UnknownError(f"the ops process has not answered within {patience:g} s") from None
    except OSError as error:
        raise UnknownError(f"the ops process does not answer: {error.strerror or error}") from None
    except codec.BrokenError as error:
        raise UnknownError(f"what the ops process tells cannot be used: {error}") from None
    rows = {name: row for piece in heard.pieces.values() for name, row in piece.items()}
    vips = {name: codec.told(row, heard.at, heard.loads.get(name)) for name, row in rows.items()}
    return replace(heard.document, vips=vips)


def _asked(path: Path, until: float) -> bytes:
    """Raises OSError, and TimeoutError at the instant `until`."""
    found = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(_left(until))
        line.connect(str(path))
        line.sendall(_REQUEST)
        while len(found) <= codec.MOST_BYTES:
            line.settimeout(_left(until))
            if not (more := line.recv(_CHUNK)):
                break
            found += more
    return bytes(found)


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
