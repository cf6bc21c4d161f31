"""The log's way out: a stream that neither blocks nor fails, whatever becomes of the reader of stderr."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import TextIO, TypeAlias, cast

import structlog
from structlog.typing import EventDict

Publish: TypeAlias = Callable[[str, str, Mapping[str, object]], None]
"""Takes the name of an event, its level and its fields; from any thread, without waiting."""

LIMIT = 10_000  # writes that wait; more are lost, and counted


class Sink(io.TextIOBase):
    """Text goes into a bounded queue, a thread of its own writes it to a file descriptor.

    A reader that stands still must not hold up the lease, and one that is gone must not end the agent.
    """

    def __init__(self, fd: int, *, limit: int = LIMIT) -> None:
        super().__init__()
        self._fd = fd
        self._limit = limit
        self._waiting: deque[str] = deque()
        self._lost = 0
        self._idle = True
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self._changed:
            if len(self._waiting) < self._limit:
                self._waiting.append(text)
                self._changed.notify_all()
            else:
                self._lost += 1
        return len(text)

    def flush(self) -> None:
        """Nothing: who must know that all is written calls `drain`."""

    def drain(self, patience: float) -> bool:
        """Waits up to `patience` seconds until all is written; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._idle and not self._waiting, patience)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._idle = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: bool(self._waiting))
                self._idle = False
                text = "".join(self._waiting)
                self._waiting.clear()
                if self._lost:
                    text += json.dumps({"event": "log.lost", "level": "error", "lines": self._lost}) + "\n"
                    self._lost = 0
            self._write_out(text.encode("utf-8", "backslashreplace"))

    def _write_out(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            pass  # nobody is there to be told


def _first_things_first(_: object, __: str, fields: EventDict) -> EventDict:
    """A line is read from its beginning: when, how bad, what."""
    ahead = {name: fields.pop(name) for name in ("timestamp", "level", "event") if name in fields}
    return {**ahead, **fields}


def _published_by(publish: Publish) -> structlog.typing.Processor:
    """What stands in the log is an event for others too: this is where it is told."""

    def process(_: object, __: str, fields: EventDict) -> EventDict:
        rest = {name: value for name, value in fields.items() if name not in ("event", "level", "timestamp")}
        publish(str(fields["event"]), str(fields["level"]), rest)
        return fields

    return process


def set_up_logging(publish: Publish) -> Sink:
    """One line per event on stderr: for people on a terminal, JSON otherwise. Drain what is returned at the end.

    Every event is handed to `publish` as well.
    """
    terminal = sys.stderr.isatty()
    sink = Sink(sys.stderr.fileno())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(default=str)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _published_by(publish),
            _first_things_first,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, sink)),
        cache_logger_on_first_use=True,
    )
    # aiohttp's and asyncio's own words: only what is wrong.
    logging.basicConfig(
        level=logging.ERROR, stream=cast(TextIO, sink), format="%(name)s: %(message)s", force=True
    )
    return sink
