"""How many entries the kernel's table has: by its status, or by counting lines, and how often."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.dataplane.limit import NO_LIMIT, entries, limit_of
from anycast.entries import Entries, kernel_limit
from lab.waiting import until


def proc(where: Path, *, status: str | None = None, lines: int = 0) -> Path:
    (where / "net").mkdir()
    if status is not None:
        (where / "net/ip_vs_status").write_text(status)
    (where / "net/ip_vs_conn").write_text("Pro FromIP   FPrt\n" + "TCP C0000201 0050\n" * lines)
    return where


def test_the_status_tells_and_where_it_may_not_be_read_the_connections_are_counted(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "other").mkdir()
    assert Entries(proc(tmp_path / "root", status="Conns:\t7\nConn buckets:\t0\n", lines=3)).count() == 7
    # To whoever is not root the kernel refuses the file; as root nothing is refused.
    other = proc(tmp_path / "other", lines=100_000)
    assert Entries(other).count() == 100_000
    (other / "net/ip_vs_conn").write_text("")
    assert Entries(other).count() == 0


def test_a_number_holds_for_a_second_and_for_twenty_times_what_it_took(tmp_path: Path) -> None:
    now = [0.0]
    took = [0.0]

    def clock() -> float:
        now[0] += took[0] / 2
        return now[0]

    status = proc(tmp_path, status="Conns:\t1\n") / "net/ip_vs_status"
    counted = Entries(tmp_path, clock)
    assert counted.count() == 1
    status.write_text("Conns:\t2\n")
    now[0] = 0.9
    assert counted.count() == 1
    took[0] = 2.0
    now[0] = 1.0
    assert counted.count() == 2  # it took a second
    status.write_text("Conns:\t3\n")
    now[0] = 20.0
    assert counted.count() == 2
    now[0] = 24.0
    assert counted.count() == 3


def test_the_latest_number_is_told_at_once_and_counted_in_a_thread(tmp_path: Path) -> None:
    counted = Entries(proc(tmp_path, status="Conns:\t1\n"))
    before = threading.current_thread()
    assert counted.latest() in (None, 1)
    until(lambda: counted.latest() == 1, "counted", 30)
    assert threading.current_thread() is before


def test_what_cannot_be_counted_is_not_known_and_is_tried_again(tmp_path: Path) -> None:
    counted = Entries(tmp_path)
    with pytest.raises(FileNotFoundError):
        counted.count()
    assert counted.latest() is None
    (tmp_path / "other").mkdir()
    odd = Entries(proc(tmp_path / "other", status="nothing\n"))
    with pytest.raises(ValueError, match="does not say"):
        odd.count()


@pytest.mark.parametrize(
    ("text", "limit"),
    [("100\n", 100), ("0\n", 0), (f"{NO_LIMIT - 1}", NO_LIMIT - 1), (f"{NO_LIMIT}\n", None), ("²", None), ("", None)],
)  # fmt: skip
def test_a_limit_that_memory_cannot_reach_is_none(text: str, limit: int | None) -> None:
    assert limit_of(text) == limit


def test_before_it_came_there_is_no_limit(tmp_path: Path) -> None:
    assert kernel_limit(tmp_path) is None


@given(st.text())
def test_any_status_is_read(text: str) -> None:
    assert entries(text) is None or "Conns:" in text
