from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

import pytest

from lab import bench_checks, check_load, check_peers, measuring
from lab.check_figures import Bound, Duel, Reading, Side, document, summary
from lab.check_load import address


def reading(cpu: float, *, checks: int = 1000, failed: int = 0, seconds: float = 1.0) -> Reading:
    return Reading(checks=checks, failed=failed, cpu=cpu, seconds=seconds)


def duel(goal: float, ours: list[float], theirs: list[float]) -> Duel:
    sides = (Side(readings=[reading(cpu) for cpu in side]) for side in (ours, theirs))
    return Duel(work="TCP", peer="haproxy", goal=goal, ours=next(sides), theirs=next(sides))


def test_targets_are_different_addresses_of_the_loopback() -> None:
    all_of_them = {address(number) for number in range(5000)}
    assert len(all_of_them) == 5000
    assert all(one.is_loopback for one in all_of_them)


def test_the_cost_is_that_of_a_thousand_checks_whatever_the_rate() -> None:
    assert reading(0.5, checks=10_000, seconds=2).per_thousand == pytest.approx(0.05)
    assert reading(0.5, checks=10_000, seconds=2).rate == 5000
    assert reading(0.5, checks=0).per_thousand == math.inf


@pytest.mark.parametrize(
    ("checks", "failed", "counts"), [(950, 0, True), (1100, 0, True), (949, 0, False), (1000, 1, False)]
)
def test_a_reading_counts_when_nearly_all_was_done_and_nothing_failed(
    checks: int,
    failed: int,
    counts: bool,  # noqa: FBT001
) -> None:
    assert (not reading(1, checks=checks, failed=failed).void(1000)) is counts


@pytest.mark.parametrize(("goal", "reached"), [(0.5, True), (0.49, False)])
def test_a_goal_is_reached_up_to_and_with_itself(goal: float, reached: bool) -> None:  # noqa: FBT001
    found = duel(goal, [0.1, 9.0, 0.1], [0.2, 0.0, 0.2]).comparison
    assert found is not None
    assert found.reached is reached


def test_the_summary_tells_costs_ratio_and_the_rates_that_were_reached() -> None:
    side = Side(readings=[reading(1.3)])
    bounds = [
        Bound(work="commands", unit="CPU-s", goal=1.4, side=side, values=side.costs),
        Bound(work="memory", unit="MiB", goal=25, side=side, values=[]),
    ]
    text = summary([duel(1.0, [0.03, 0.04, 0.05], [0.05])], bounds)
    assert [" ".join(line.split()) for line in text.splitlines()] == [
        "CPU of 1,000 checks peer ours peer's ratio goal reached checks/s peer's rounds",
        "TCP haproxy 40.0 ms 50.0 ms 0.800 <= 1 yes 1,000 1,000 3 : 1",
        "",
        "ours alone median goal reached checks/s rounds",
        "commands 1.30 CPU-s <= 1.4 CPU-s yes 1,000 1",
        "memory void <= 25 MiB NO 1,000 0",
    ]


def test_a_side_without_a_reading_that_counts_reaches_nothing() -> None:
    void = duel(1.0, [0.1], [])
    assert (
        " ".join(summary([void], []).splitlines()[1].split())
        == "TCP haproxy void void - <= 1 NO 1,000 0 1 : 0"
    )
    (told,) = json.loads(json.dumps(document([void], [])))["comparisons"]
    assert (told["ratio"], told["reached"]) == (None, False)


def test_the_document_holds_every_single_reading() -> None:
    found = json.loads(json.dumps(document([duel(1.0, [0.1, 0.3], [0.4])], [])))
    (comparison,) = found["comparisons"]
    assert [one["cpu"] for one in comparison["ours"]["readings"]] == [0.1, 0.3]
    assert (comparison["ratio"], comparison["reached"], comparison["ours"]["void"]) == (0.5, True, 0)


def test_connections_begun_are_found_by_the_name_of_their_column() -> None:
    text = "Ip: Forwarding\nIp: 1\nTcp: RtoMin MaxConn ActiveOpens PassiveOpens\nTcp: 200 -1 17 4\nUdp: In\n"
    assert measuring.opens(text) == 17


def test_requests_are_the_third_number_nginx_tells() -> None:
    text = "Active connections: 2 \nserver accepts handled requests\n 11 12 13 \nReading: 0 Writing: 1\n"
    assert check_peers.requests(text) == 13


def test_a_server_is_well_by_its_last_check_even_while_the_next_is_under_way() -> None:
    text = (
        "# pxname,svname,status,check_status\nb,s0,UP,L4OK\nb,s1,UP,* L7OK\nb,s2,UP,\nb,s3,UP 2/3,L4TOUT\n"
        "b,s4,DOWN,L4CON\nb,BACKEND,UP,\n"
    )
    assert check_peers.well(text) == 2


def test_haproxy_checks_the_same_targets_in_the_same_way(tmp_path: Path) -> None:
    tcp = check_peers.haproxy_conf("tcp", 3, tmp_path)
    assert [line.strip() for line in tcp.splitlines() if "server s" in line] == [
        "server s0 127.1.0.1:8080 check", "server s1 127.1.0.2:8080 check", "server s2 127.1.0.3:8080 check",
    ]  # fmt: skip
    assert "httpchk" not in tcp
    http = check_peers.haproxy_conf("http", 1, tmp_path)
    assert "expect status 200" in http
    assert "ssl" not in http
    assert f"verify required ca-file {tmp_path}/ca.pem" in check_peers.haproxy_conf("https", 1, tmp_path)


def test_ours_verify_too_and_keep_connections_only_where_that_is_the_work() -> None:
    kinds = {name: check_load.kind(name, "host", "ca") for name in ("http", "kept", "https")}
    assert [getattr(kind, "keep_alive", None) for kind in kinds.values()] == [False, True, False]
    assert getattr(kinds["https"], "verify", None) is True


def test_the_cpu_time_of_a_process_is_what_it_knows_itself() -> None:
    while time.process_time() < 0.01:
        pass
    assert measuring.cpu_time(os.getpid()) == pytest.approx(time.process_time(), abs=0.01)


def test_every_work_is_in_a_table() -> None:
    works = bench_checks.Works(1.0)
    shown = [duel.ours for duel in works.duels] + [bound.side for bound in works.bounds()]
    assert all(any(side is one for one in shown) for side in works.ours.values())
