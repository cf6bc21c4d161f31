"""The log must never hold up or end what it tells of."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import TextIO

import pytest

from anycast.agent.logs import Sink


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for fd in (reading, writing):
        try:
            os.close(fd)
        except OSError:
            continue


def reader(fd: int) -> TextIO:
    return os.fdopen(os.dup(fd), encoding="utf-8")


def test_what_is_written_arrives_in_its_order(pipe: tuple[int, int]) -> None:
    sink = Sink(pipe[1])
    for number in range(100):
        sink.write(f"{number}\n")
    with reader(pipe[0]) as lines:
        assert [next(lines) for _ in range(100)] == [f"{number}\n" for number in range(100)]
    assert sink.drain(patience=60)


def test_nobody_reads_and_nobody_waits_and_what_is_lost_is_counted(pipe: tuple[int, int]) -> None:
    sink = Sink(pipe[1], limit=3)
    line = "x" * 4000 + "\n"
    written = 1000  # far more than a pipe holds
    for _ in range(written):
        sink.write(line)
    assert not sink.drain(patience=0)
    with reader(pipe[0]) as lines:
        arrived = 0
        while (found := next(lines)) == line:
            arrived += 1
    assert json.loads(found) == {"event": "log.lost", "level": "error", "lines": written - arrived}


def test_a_reader_that_has_gone_is_no_error(pipe: tuple[int, int]) -> None:
    sink = Sink(pipe[1])
    os.close(pipe[0])
    sink.write("nobody hears this\n")
    assert sink.drain(patience=60)
    sink.write("nor this\n")
    assert sink.drain(patience=60)


def test_text_that_no_encoding_knows_is_written_nevertheless(pipe: tuple[int, int]) -> None:
    sink = Sink(pipe[1])
    sink.write("\ud800\n")
    with reader(pipe[0]) as lines:
        assert next(lines) == "\\ud800\n"
    assert sink.drain(patience=60)
