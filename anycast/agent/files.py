"""Files of the agent that are whole, old or new, at every moment, and tell when a bit of them was flipped."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from anycast.config.files import read_regular
from anycast.sealed import UNSEALED, Seal

MOST = 64 * 1024 * 1024  # bytes: 50,000 real servers in 20 services each
_BESIDE = (
    os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
)  # waits for no reader


def read(path: Path) -> bytes:
    """Raises OSError, also where it is a pipe, a device, or larger than any such file can be. It never waits."""
    return read_regular(path, MOST)


def replace(path: Path, text: Iterable[str], *, synced: bool) -> None:
    """Written beside, with a checksum, and renamed; its directory is made. Raises OSError, and then the old one stands.

    `text`: the pieces of one JSON object. `synced`: it outlives a loss of power from here on. Without it nothing but
    such a loss takes it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    try:
        with open(os.open(beside, _BESIDE, 0o666), "wb") as file:
            seal = Seal()
            file.write(UNSEALED)
            file.writelines(seal.pieces(text))
            file.seek(0)
            file.write(seal.head)
            file.flush()
            if synced:
                os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()  # on a full disk it would lie there for good
        raise
    if synced:
        sync(path.parent)


def sync(directory: Path) -> None:
    """What was renamed or removed in it is so for good. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
