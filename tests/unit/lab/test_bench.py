from __future__ import annotations

import json
from ipaddress import IPv4Address

import pytest

from anycast.core.dataplane.ipvs import AddDestination, AddService
from anycast.core.dataplane.kernel import Snapshot, play
from anycast.core.values.configuration import Scheduler
from lab import bench
from lab.figures import Comparison, document, stall, summary


def compared(goal: float | None, ours: list[float], theirs: list[float]) -> Comparison:
    return Comparison(work="fill", peer="peer", goal=goal, ours=ours, theirs=theirs)


def test_the_ratio_is_that_of_the_medians_so_that_one_slow_round_says_nothing() -> None:
    assert compared(1, [0.1, 9.0, 0.2], [2.0, 0.5, 70.0]).ratio == pytest.approx(0.1)


@pytest.mark.parametrize(("goal", "reached"), [(0.5, True), (0.49, False), (None, None)])
def test_a_goal_is_reached_up_to_and_with_itself(goal: float | None, reached: bool | None) -> None:  # noqa: FBT001
    assert compared(goal, [0.1], [0.2]).reached is reached


@pytest.mark.parametrize(("longest", "reached"), [([0.001, 0.02], True), ([0.001, 0.001, 0.021], False)])
def test_one_stall_that_is_too_long_is_one_too_many(longest: list[float], reached: bool) -> None:  # noqa: FBT001
    assert stall("fill", *longest).reached is reached


def test_the_summary_is_one_line_per_work_with_medians_in_milliseconds() -> None:
    text = summary(
        [compared(0.1, [0.05, 0.07, 0.06], [0.5]), compared(None, [0.05], [0.01])],
        [stall("read", 0.03, 0.004, 0.005)],
    )
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines == [
        "work peer ours peer's ratio goal reached",
        "fill peer 60.0 ms 500.0 ms 0.120 <= 0.1 NO",
        "fill peer 50.0 ms 10.0 ms 5.000 - -",
        "",
        "event loop stood still during times median max goal reached",
        "read 3 5.0 ms 30.0 ms max <= 20.0 ms NO",
    ]


def test_the_document_holds_every_single_time() -> None:
    found = json.loads(json.dumps(document([compared(0.1, [1.0, 2.0], [4.0])], [stall("x", 1.0)])))
    (comparison,), (stood,) = found["comparisons"], found["stalls"]
    assert comparison == {
        "work": "fill", "peer": "peer", "goal": 0.1, "ours": [1.0, 2.0], "theirs": [4.0],
        "ratio": 0.375, "reached": False,
    }  # fmt: skip
    assert stood == {"work": "x", "longest": [1.0], "goal": 0.02, "reached": False}


def test_no_two_real_servers_of_a_table_are_alike() -> None:
    wanted = bench.contents(50, 100)
    assert bench.count(wanted) == 5000
    assert len({one.key for entry in wanted.values() for one in entry.destinations}) == 5000


def test_every_peer_is_told_the_same_table() -> None:
    wanted = bench.contents(2, 2, weight=3)
    assert bench.fill_text(wanted).splitlines() == [
        "-A -t 192.0.2.1:8000 -s wlc",
        "-a -t 192.0.2.1:8000 -r 10.16.0.0:8000 -g -w 3",
        "-a -t 192.0.2.1:8000 -r 10.16.0.1:8000 -g -w 3",
        "-A -t 192.0.2.1:8001 -s wlc",
        "-a -t 192.0.2.1:8001 -r 10.16.0.2:8001 -g -w 3",
        "-a -t 192.0.2.1:8001 -r 10.16.0.3:8001 -g -w 3",
    ]
    assert bench.changes_text(wanted).splitlines() == [
        line.replace("-a ", "-e ", 1)
        for line in bench.fill_text(wanted).splitlines()
        if line.startswith("-a")
    ]
    conf = bench.keepalived_conf(wanted)
    assert conf.count("virtual_server ") == 2
    assert conf.count("real_server ") == conf.count("weight 3") == 4
    assert conf.count("{") == conf.count("}")


def test_the_naive_way_ends_in_the_same_table_with_the_scheduler_at_work_from_the_start() -> None:
    wanted = bench.contents(1, 3, scheduler=Scheduler.MH)
    ops = bench.naive(wanted)
    assert [type(op) for op in ops] == [AddService, *[AddDestination] * 3]
    empty = Snapshot(table={}, addresses=frozenset[IPv4Address](), sysctls={})
    assert play(empty, ops).table == wanted
