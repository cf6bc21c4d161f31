"""A defect in a check is one bounded line of the log, however often a peer sets it off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest
from structlog.testing import capture_logs

from anycast.agent.defects import Defects
from anycast.core.values.configuration import Check, Target, TcpCheck
from anycast.probes.finding import fail

TARGET = Target(address=ip_address("10.9.2.1"), port=80, check=Check(kind=TcpCheck()))
AGAIN = 600.0


class Odd(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise ValueError


def caught(work: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as found:
        work()
    return found.value


def deep(level: int) -> None:
    deep(level + 1)


def first() -> None:
    raise KeyError("\x1b[31m" + "x" * 10_000)


def second() -> None:
    raise Odd


class Clock:
    now = 5.0

    def __call__(self) -> float:
        return self.now


def told(*errors: Exception, clock: Clock | None = None, handler: Defects | None = None) -> list[Any]:
    handler = handler or Defects(clock or Clock())
    with capture_logs() as lines:
        loop = asyncio.new_event_loop()
        for error in errors:
            handler(loop, {"message": "x", "exception": error, "target": TARGET, "finding": fail("why")})
        loop.close()
    return lines


def test_a_defect_is_told_with_its_target_its_outcome_and_its_place() -> None:
    (line,) = told(caught(first))
    assert (line["event"], line["log_level"]) == ("check.defect", "error")
    assert (line["check"], line["address"], line["port"], line["outcome"]) == ("tcp", "10.9.2.1", 80, "fail")
    assert "test_defects.py:" in line["places"]
    assert line["places"].endswith(" first")


@pytest.mark.parametrize("work", [first, second, lambda: deep(0)])
def test_whatever_it_is_the_line_is_bounded_and_printable(work: Callable[[], object]) -> None:
    (line,) = told(caught(work))
    assert len(str(line)) < 2500
    assert str(line["error"]).isprintable()


def test_a_place_is_told_once_in_ten_minutes_and_the_others_are_counted() -> None:
    clock = Clock()
    handler = Defects(clock)
    assert len(told(*(caught(first) for _ in range(50)), handler=handler)) == 1
    assert len(told(caught(second), handler=handler)) == 1
    clock.now += AGAIN
    (line,) = told(caught(first), handler=handler)
    assert line["times"] == 50


def test_what_is_not_of_a_check_is_left_to_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[object] = []
    loop = asyncio.new_event_loop()
    monkeypatch.setattr(loop, "default_exception_handler", left.append)
    Defects()(loop, {"message": "a task was never waited for"})
    assert left == [{"message": "a task was never waited for"}]
    loop.close()
