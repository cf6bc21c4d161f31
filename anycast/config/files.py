"""Files that people name, read so that nothing they name can do harm: no waiting, no more than a limit.

A path may lead to a pipe that nobody writes to, to a device without an end, or to a file that grows while it is read.
Standard library only.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_KINDS = (
    (stat.S_ISDIR, errno.EISDIR, "a directory"),
    (stat.S_ISFIFO, errno.EINVAL, "a pipe (FIFO)"),
    (stat.S_ISSOCK, errno.EINVAL, "a socket"),
    (stat.S_ISCHR, errno.EINVAL, "a device"),
    (stat.S_ISBLK, errno.EINVAL, "a device"),
)
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_CHUNK = 1 << 20


class NotRegularError(OSError):
    """The path leads to something that is no regular file. `strerror` says to what."""


class TooLargeError(OSError):
    """The file holds more than was asked for. `strerror` says how much may be in it."""


def read_regular(path: Path, limit: int) -> bytes:
    """The bytes of a regular file, `limit` of them at most. Links are followed. It never waits for a writer.

    Raises OSError: NotRegularError, TooLargeError, or what the system says; `strerror` is for people. A path that
    holds a null character is an OSError too.
    """
    try:
        # Before it is opened: opening alone sets some devices going.
        _regular(os.stat(path))
        descriptor = os.open(path, _FLAGS)
    except ValueError:  # a null character
        raise OSError(errno.EINVAL, "no path holds a null character") from None
    try:
        found = os.fstat(descriptor)
        _regular(found)
        if found.st_size > limit:
            raise _too_large(limit)
        return _read(descriptor, limit)
    finally:
        os.close(descriptor)


def _regular(found: os.stat_result) -> None:
    if stat.S_ISREG(found.st_mode):
        return
    for is_kind, number, words in _KINDS:
        if is_kind(found.st_mode):
            raise NotRegularError(number, f"it is {words}, not a file")
    raise NotRegularError(errno.EINVAL, "it is not a file")


def _read(descriptor: int, limit: int) -> bytes:
    """What `stat` said may be out of date, and of files in /proc it says nothing: one byte more tells."""
    data = bytearray()
    while len(data) <= limit and (more := os.read(descriptor, min(_CHUNK, limit + 1 - len(data)))):
        data += more
    if len(data) > limit:
        raise _too_large(limit)
    return bytes(data)


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(errno.EFBIG, f"it is larger than {size(limit)}")


def size(number: int) -> str:
    """`16 MiB`, `64 KiB`, `100 bytes`."""
    for unit, words in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if number >= unit and number % unit == 0:
            return f"{number // unit} {words}"
    return f"{number} bytes"
