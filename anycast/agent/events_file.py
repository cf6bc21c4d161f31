"""The events on disk, so that a restart does not lose them. A thread of its own writes: a slow disk, or a full one,
costs the node nothing but these lines.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from anycast.background_writer import BackgroundWriter
from anycast.ops.hub import KEPT, Event, event_of

MAX_WAITING = 10_000  # events that wait for the disk; more are not written
MAX_BYTES = 4 * 1024 * 1024  # of one file, give or take one writing
RETRY = 5.0  # seconds until what the disk refused is written again
PATIENCE = 1.0  # seconds the last events have to be written at the end
_AT_ONCE = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY  # a pipe in its place keeps nobody waiting


def _before(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def load(path: Path, *, kept: int = KEPT) -> list[Event]:
    """The newest events that were written, the oldest first. Damaged lines are passed over, and a missing file is none."""
    found: list[Event] = []
    for file in (_before(path), path):
        for line in _lines(file):
            event = event_of(line)
            if event is not None and (not found or event.id > found[-1].id):
                found.append(event)
    return found[-kept:]


def _lines(path: Path) -> list[str]:
    try:
        with open(os.open(path, os.O_RDONLY | _AT_ONCE), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                return []
            # Only the agent writes it, and never much more; but another program may have written to it.
            file.seek(max(0, found.st_size - 2 * MAX_BYTES))
            return file.read(2 * MAX_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return []


class EventsFile:
    """Appends events to `path`. Once it holds as many as are kept, it becomes the file before, and a new one begins."""

    def __init__(
        self,
        path: Path,
        complain: Callable[[str], None],
        recovered: Callable[[], None] = lambda: None,
        *,
        kept: int = KEPT,
        retry: float = RETRY,
    ) -> None:
        """`complain` is called, in the thread that writes, when the disk begins to refuse; `recovered` when it takes them."""
        self._path = path
        self._kept = kept
        self._lines: int | None = None  # in the file; None: not known
        self._writer = BackgroundWriter(
            "events", self._write, complain, limit=MAX_WAITING, recovered=recovered, retry=retry
        )
        self.put = self._writer.put

    def drain(self, patience: float = PATIENCE) -> bool:
        """Waits until all is written, or refused; whether it was that soon."""
        return self._writer.drain(patience)

    def _write(self, events: list[Event], _: int) -> None:
        lines, self._lines = self._lines, None
        if lines is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lines = len(_lines(self._path))
        while events:
            if lines >= self._kept:
                self._path.replace(_before(self._path))
                lines = 0
            some, events = events[: self._kept - lines], events[self._kept - lines :]
            size = self._append("".join(f"{event.text}\n" for event in some).encode())
            lines = lines + len(some) if size < MAX_BYTES else self._kept
        self._lines = lines

    def _append(self, data: bytes) -> int:
        """Returns the size of the file."""
        # Opened each time: somebody may have taken the file away.
        file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | _AT_ONCE, 0o640)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OSError(errno.EINVAL, "it is not a file")
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":
                data = b"\n" + data  # a line that was cut must not spoil the next
            while data:
                data = data[os.write(file, data) :]
            return os.fstat(file).st_size
        finally:
            os.close(file)
