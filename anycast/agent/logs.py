"""The output of the log: a stream that neither blocks nor fails, even if nobody reads stderr."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import TextIO, TypeAlias, cast

import structlog
from structlog.typing import EventDict

from anycast.background_writer import BackgroundWriter

Publish: TypeAlias = Callable[[str, str, Mapping[str, object]], None]
"""Takes the name of an event, its level and its fields; from any thread, without waiting."""

LIMIT = 10_000  # writes that wait; more are lost, and counted


class Sink(io.TextIOBase):
    """Text is written to a file descriptor in the background.

    A reader that stands still must not hold up the lease, and one that is gone must not end the agent.
    """

    def __init__(self, fd: int, *, limit: int = LIMIT) -> None:
        super().__init__()
        self._fd = fd
        # A log that cannot be written has nowhere to say so.
        self._writer = BackgroundWriter("log", self._write_out, lambda _: None, limit=limit)
        self.drain = self._writer.drain

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._writer.put(text)
        return len(text)

    def flush(self) -> None:
        """Nothing: who must know that all is written calls `drain`."""

    def _write_out(self, texts: list[str], lost: int) -> None:
        if lost:
            texts.append(json.dumps({"event": "log.lost", "level": "error", "lines": lost}) + "\n")
        data = "".join(texts).encode("utf-8", "backslashreplace")
        while data:
            data = data[os.write(self._fd, data) :]


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
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, sink)),
        cache_logger_on_first_use=True,
    )
    # aiohttp's and asyncio's own words: only what is wrong.
    logging.basicConfig(
        level=logging.ERROR, stream=cast(TextIO, sink), format="%(name)s: %(message)s", force=True
    )
    return sink
