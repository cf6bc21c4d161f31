from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import yaml

from anycast.config.load import loads
from lab import bench_failover, configs, loaded_agent, measuring
from lab.agent_figures import AgentRun, Memory, agent_document, agent_table, rollup
from lab.bench_failover import Change
from lab.figures import delay, delays_document, delays_table, percentile
from lab.topology import VIPS, topology


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1.0), (0.5, 10.0), (0.95, 19.0), (0.951, 20.0), (1.0, 20.0)]
)
def test_a_percentile_is_a_value_that_was_seen(share: float, value: float) -> None:
    assert percentile([float(n) for n in range(20, 0, -1)], share) == value


@pytest.mark.parametrize(
    ("median_goal", "p95_goal", "reached"),
    [(0.2, 0.3, True), (0.19, 0.3, False), (0.2, 0.29, False), (None, 0.3, True), (None, None, None)],
)
def test_a_delay_reaches_every_goal_it_has(
    median_goal: float | None,
    p95_goal: float | None,
    reached: bool | None,  # noqa: FBT001
) -> None:
    goals = {name: goal for name, goal in (("median", median_goal), ("p95", p95_goal)) if goal is not None}
    assert delay("x", [0.1, 0.2, 0.3], **goals).reached is reached


def test_delays_are_told_for_people_and_in_full() -> None:
    delays = [
        delay("gone", [0.5, 0.7], median=0.6, p95=1.1),
        delay("back", [1.0]),
    ]
    lines = [" ".join(line.split()) for line in delays_table(delays).splitlines()]
    assert lines == [
        "seconds times median p95 max goal reached",
        "gone 2 0.600 0.700 0.700 median <= 0.600 p95 <= 1.100 yes",
        "back 1 1.000 1.000 1.000 - -",
    ]
    first, second = json.loads(json.dumps(delays_document(delays)))
    assert first == {
        "work": "gone", "median": 0.6, "p95": 0.7, "max": 0.7, "median_goal": 0.6, "p95_goal": 1.1,
        "reached": True, "values": [0.5, 0.7],
    }  # fmt: skip
    assert (second["median_goal"], second["p95_goal"], second["reached"]) == (None, None, None)


def test_a_lease_is_late_by_what_it_came_after_a_third_of_the_ttl() -> None:
    # Arrived, issued, ttl. The third was brought on by a change, and the fourth counts from it.
    leases = [(10.0, 10.0, 3.0), (11.25, 11.0, 3.0), (11.5, 11.5, 3.0), (12.5, 12.5, 3.0)]
    assert loaded_agent.lateness(leases) == pytest.approx([0.25, 0.0])


def test_memory_is_read_from_what_the_kernel_sums_up() -> None:
    text = "55d-7ff ---p 00000000 00:00 0    [rollup]\nRss:    2048 kB\nPss:     1024 kB\nPss_Dirty:  7 kB\n"
    assert rollup(text) == Memory(rss=2 * 2**20, pss=2**20)


def run(name: str, rss: int) -> AgentRun:
    memory = Memory(rss=rss * 2**20, pss=rss * 2**20)
    return AgentRun(
        name=name,
        servers=5000,
        checks_per_second=4999.6,
        cpu=0.2,
        lateness=[0.001, 0.002, 0.06],
        memory=memory,
        ops=memory,
        asked={"/status": 0.2},
    )


def test_the_checks_part_of_the_memory_is_the_difference_of_both_runs() -> None:
    runs = [run("with checks", 70), run("without checks", 40)]
    lines = [" ".join(line.split()) for line in agent_table(runs).splitlines()]
    assert "leases, with checks 3 2.0 ms 60.0 ms 60.0 ms <= 50 ms NO 5,000 20%" in lines
    assert "RSS, with checks 70.0 MiB <= 80 MiB yes" in lines
    assert "RSS, the checks' part 30.0 MiB <= 25 MiB NO" in lines
    assert "/status 200 ms" in lines
    assert json.loads(json.dumps(agent_document(runs)))[1]["memory"]["rss"] == 40 * 2**20


def test_what_others_measured_stays_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "build" / "bench.json"
    measuring.leave(file, {"ours": 1}, "")
    measuring.leave(file, {"others": 2}, "")
    measuring.leave(file, {"ours": 3}, "")
    assert json.loads(file.read_text()) == {"ours": 3, "others": 2}
    measuring.leave(file, {"ours": 4}, "", anew=True)
    assert json.loads(file.read_text()) == {"ours": 4}


def test_the_agent_has_every_real_server_once_and_needs_all_of_them(tmp_path: Path) -> None:
    text = loaded_agent.agent_yaml(1020, tmp_path, first="10.16.1.0", checked=8080, listen="127.0.0.1:9644")
    config = loads(text).config
    services = [service for vip in config.vips for service in vip.services]
    addresses = {a for s in services for server in s.pool.servers for a in server.addresses}
    assert len(addresses) == 1020
    assert [service.quorum.high for service in services] == [100] * 10 + [20]
    assert len(config.vips) == loaded_agent.vips(1020) == 3


def test_deaths_are_spread_evenly_over_the_interval_in_no_order() -> None:
    found = bench_failover.phases(20, 2.0, random.Random(7))  # noqa: S311
    assert sorted(int(phase / 0.1) for phase in found) == list(range(20))
    assert found != sorted(found)


@pytest.mark.parametrize(("scenario", "version"), [(0, 4), (1, 6)])
def test_a_node_has_one_address_and_its_own_real_servers(scenario: int, version: int) -> None:
    one = bench_failover.SCENARIOS[scenario]
    site = topology(balancers=2, servers=5)
    balancer = next(b for b in site.balancers if b.name == one.node)
    text = bench_failover.node_yaml(configs.anycast_yaml(site, balancer), one.prefix, one.servers)
    config = loads(text).config
    (vip,) = config.vips
    (service,) = vip.services
    assert [f"{a}/{a.max_prefixlen}" for a in vip.addresses] == [one.prefix]
    assert [server.name for server in service.pool.servers] == list(one.servers)
    assert {a.version for server in service.pool.servers for a in server.addresses} == {version}
    assert {neighbor.address.version for neighbor in config.bgp.neighbors} == {version}
    assert yaml.safe_load(text)["pools"]["web"]["check"]["fall"] == 3


def test_no_two_nodes_share_an_address_or_a_real_server() -> None:
    assert [one.prefix for one in bench_failover.SCENARIOS] == list(VIPS)
    servers = [server for one in bench_failover.SCENARIOS for server in one.servers]
    assert len(servers) == len(set(servers))


def test_the_verdict_that_counts_is_the_last_before_the_route_went() -> None:
    changes = [Change(began=10.0, routed=11.0), Change(began=20.0, routed=20.5)]
    minds = [(9.0, "yes"), (10.75, "no"), (15.0, "yes"), (20.25, "no"), (30.0, "no")]
    assert bench_failover.after_verdict(changes, minds, "no") == [0.25, 0.25]


def test_verdicts_are_found_among_the_lines_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    log.write_text(
        '{"timestamp": "1970-01-01T00:00:02.500000Z", "event": "vip.verdict_changed", "advertise": "no"}\n'
        '{"timestamp": "1970-01-01T00:00:03Z", "event": "route.withdrawn", "prefix": "192.0.2.1/32"}\n'
        "not of the agent\n"
    )
    assert bench_failover.verdicts(log) == [(2.5, "no")]
