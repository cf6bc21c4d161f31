"""What a fleet has to carry, with examples computed by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from anycast.analysis.plan import Asked, Plan, Resource, Verdict, added, of_messages, plan, spread
from anycast.config.load import load
from anycast.core.fleet.values import Capacity

EXAMPLES = Path(__file__).parents[3] / "examples"
TEN_GIGABIT = Capacity(bits=10e9, packets=1e6)


def of(found: Plan, code: str) -> float:
    (one,) = (each for each in found.figures if each.code == code)
    return one.number


def test_two_balancers_at_45_percent_do_not_hold_with_one_less() -> None:
    found = plan(None, Asked(nodes=2, busy=0.45))
    assert [(one.nodes, one.share, one.verdict) for one in found.loads] == [
        (2, 0.45, Verdict.OK),
        (1, 0.9, Verdict.ABOVE),
    ]
    assert found.needed == {0: 2, 1: 3, 2: 4}
    assert not found.holds
    assert plan(None, Asked(nodes=3, busy=0.3)).holds


def test_the_busiest_node_counts_and_not_the_mean() -> None:
    # 100 clients at four nodes: one of them has 35 % or so in the worst of 20 cases.
    found = plan(None, Asked(nodes=4, clients=100, bits=24e9, capacity=TEN_GIGABIT))
    (first, *_) = found.loads
    assert first.mean == 6e9
    assert first.busiest > 7e9
    assert first.verdict is Verdict.ABOVE
    assert found.needed[0] is not None
    assert found.needed[0] > 4
    even = plan(None, Asked(nodes=4, bits=24e9, capacity=TEN_GIGABIT))
    assert even.loads[0].verdict is Verdict.OK


def test_a_resource_that_nobody_has_measured_is_asked_for_and_not_judged() -> None:
    found = plan(None, Asked(nodes=2, connections=10_000))
    assert {one.verdict for one in found.loads} == {Verdict.UNKNOWN}
    assert found.needed == {}
    assert found.holds
    assert any("--capacity-connections" in one for one in found.lacking)
    nothing = plan(None, Asked(nodes=2))
    assert nothing.loads == ()
    assert "--busy" in nothing.lacking[0]


def test_connections_that_sync_brings_to_each_node_take_memory_there() -> None:
    config = load(EXAMPLES / "fleet.yaml", node="lb1").config
    assert config.connection_sync is not None
    asked = Asked(nodes=3, connections=300_000)
    assert of(plan(config, asked), "memory") == 300_000 * 342
    assert of(plan(None, asked), "memory") == 150_000 * 342  # of two that are left
    assert of(plan(config, asked), "table") == 17  # 300,000 / 2^17 = 2.3
    assert of(plan(None, Asked(nodes=2, connections=1000)), "table") == 12


def test_connection_sync_tells_of_each_connection_when_it_begins_when_it_ends_and_each_minute() -> None:
    config = load(EXAMPLES / "fleet.yaml", node="lb1").config
    standing = Asked(nodes=3, connections=60_000)
    new = Asked(nodes=3, connections=60_000, new_connections=8_000)
    assert of(plan(config, standing), "sync") == 1_000 * 37 * 8
    assert any("--new-connections" in one for one in plan(config, standing).lacking)
    assert of(plan(config, new), "sync") == (1_000 + 2 * 8_000) * 37 * 8
    assert not any("--new-connections" in one for one in plan(config, new).lacking)


def test_what_the_kernel_is_set_to_is_named_and_who_sets_it() -> None:
    config = load(EXAMPLES / "fleet.yaml", node="lb1").config
    for managed, who in ((True, "the agent sets them"), (False, "somebody has to set them")):
        found = plan(replace(config, manage_sysctls=managed), Asked(nodes=3))
        (one,) = (each for each in found.figures if each.code == "sysctls")
        assert who in one.source
        assert "sync_refresh_period=60" in one.formula
        assert "conn_reuse_mode=3" in one.formula
    assert not [each for each in plan(None, Asked(nodes=3)).figures if each.code == "sysctls"]


def test_an_announcement_of_an_ipv6_connection_is_36_bytes_longer(tmp_path: Path) -> None:
    file = tmp_path / "anycast.yaml"
    file.write_text(
        "connection_sync: {interface: eth1}\n"
        "bgp: {local_as: 65001, local_address: 'fd00::1', router_id: 10.2.1.1, neighbors: [{address: 'fd00::fe', remote_as: 65000}]}\n"
        "vips: {web: {address: '2001:db8::1', port: 80, servers: ['fd00:9::1']}}\n"
    )
    found = plan(load(file).config, Asked(nodes=3, connections=60_000))
    assert of(found, "sync") == 1_000 * 73 * 8


def test_real_servers_are_counted_with_one_to_spare() -> None:
    # 100,000 / (10,000 x 70 %) = 14.3: 15, and one.
    assert of(plan(None, Asked(nodes=2, connections=1e5, server_connections=1e4)), "servers") == 16


def test_what_a_configuration_tells_is_in_it() -> None:
    found = plan(load(EXAMPLES / "fleet.yaml", node="lb1").config, Asked(nodes=3, busy=0.2))
    assert {one.code for one in found.figures} >= {
        "slots",
        "forwarding_dr",
        "bound_agent_dies",
        "bound_node_dies",
    }
    assert of(found, "bound_agent_dies") == pytest.approx(2.25)
    assert all(one.formula and one.source for one in found.figures)


def test_a_node_without_ipvs_has_no_table_of_connections_and_no_real_servers() -> None:
    resolvers = load(EXAMPLES / "resolver.yaml").config
    found = plan(resolvers, Asked(nodes=3, connections=1e5, server_connections=1e4))
    assert {one.code for one in found.figures}.isdisjoint(("memory", "table", "sync", "servers"))


def test_figures_that_cannot_all_be_right_are_told() -> None:
    for asked in (
        Asked(nodes=2, packets=1000, bits=1e9),  # 125,000 bytes in a packet
        Asked(nodes=2, packets=1e6, bits=1e6),  # less than a byte
        Asked(nodes=2, packets=10, new_connections=100),
    ):
        found = plan(None, asked)
        assert len(found.contradictions) == 1
        assert not found.holds


def test_messages_are_packets_and_bits() -> None:
    assert of_messages(1000, 300) == (1000, 1000 * 352 * 8)
    assert of_messages(10, 3000) == (30, 10 * (3000 + 3 * 52) * 8)


def status(name: str, *servers: tuple[int, int], synced: bool = False) -> tuple[str, dict[str, object]]:
    """Of a node with one service; `servers`: active and inactive connections of each."""
    rates = {
        "packets_in_per_s": 90.0,
        "packets_out_per_s": 10.0,
        "bits_in_per_s": 8000,
        "bits_out_per_s": None,
        "connections_per_s": 2.5,
    }
    service = {
        "servers": [{"active": active, "inactive": inactive} for active, inactive in servers],
        "kept": [{"active": 3}],
        "removing": [{"active": 4}],
    }
    kernel = {"connection_sync": {"master": {"interface": "eth1"}} if synced else {}}
    return f"{name}.json", {
        "node": {"name": name},
        "traffic": {"rates": rates},
        "vips": [{"services": [service] if servers else []}],
        "kernel": kernel,
    }


def test_running_nodes_are_added_up() -> None:
    assert added([status("lb1", (10, 20)), status("lb2", (100, 0), (0, 1))]) == {
        "packets": 200,
        "bits": 16_000,
        "new_connections": 5,
        "connections": 30 + 101 + 2 * 7,
    }
    idle = {**status("lb2")[1], "vips": [{"services": [{"servers": [{"active": 0, "inactive": 0}]}]}]}
    assert added([status("lb1", (10, 20)), ("lb2.json", idle)])["connections"] == 37
    for nobody_knows in ([status("lb1")], [status("lb1", (10, 20)), status("lb2")], [("lb2.json", idle)]):
        assert "connections" not in added(nobody_knows), "one serves by itself, or has none"


def test_connections_that_every_node_has_by_sync_are_not_added_up() -> None:
    found = added([status("lb1", (10, 20), synced=True), status("lb2", (10, 22), synced=True)])
    assert found["connections"] == 32 + 7


def test_a_status_that_does_not_count_is_named() -> None:
    with pytest.raises(ValueError, match=r"^lb2.json: this status has no rates"):
        added([status("lb1"), ("lb2.json", {"traffic": {"rates": None}})])
    with pytest.raises(ValueError, match=r"^again.json: this is lb1's status, as lb1.json is"):
        added([status("lb1"), ("again.json", status("lb1")[1])])


def test_more_clients_than_connections_are_no_more_flows_and_that_is_said() -> None:
    few = plan(None, Asked(nodes=2, connections=100))
    more = plan(None, Asked(nodes=2, connections=100, clients=5_000))
    assert of(more, "evenness") == of(few, "evenness") == pytest.approx(0.595, abs=0.01)
    (figure,) = (one for one in more.figures if one.code == "evenness")
    assert figure.formula.startswith("100 connections thrown")
    assert [("5,000" in one, "100" in one) for one in more.warnings] == [(True, True)]
    by_address = plan(None, Asked(nodes=2, connections=100, clients=5_000, by_ports=False))
    assert of(by_address, "evenness") == of(few, "evenness")
    assert plan(None, Asked(nodes=2, connections=5_000, clients=5_000)).warnings == ()


def test_the_status_of_few_nodes_for_the_load_of_many_is_said() -> None:
    for statuses, told in ((0, 0), (1, 1), (3, 0), (4, 0)):
        assert len(plan(None, Asked(nodes=3, packets=1e5, statuses=statuses)).warnings) == told


def test_two_nodes_and_few_clients_are_uneven_as_coins_are() -> None:
    # Of 100 coins 60 or more on the commoner side in 5 % of cases (binomial): 1.18 to 1.20 of the mean.
    assert spread(100, 2) == pytest.approx(1.19, abs=0.02)
    assert spread(5000, 2) == pytest.approx(1 + 1.96 / 5000**0.5, abs=0.004)
    assert spread(None, 16) == spread(7, 1) == 1.0
    assert spread(1, 4) == 4.0


def test_the_busiest_has_less_the_more_flows_there_are() -> None:
    for nodes in (2, 5, 16, 64):
        found = [spread(flows, nodes) for flows in (1, 10, 100, 1000, 100_000)]
        assert found == sorted(found, reverse=True)
        assert all(1 <= one <= nodes for one in found)
    assert {Resource(one.resource) for one in plan(None, Asked(nodes=2, busy=0.1)).loads} == {Resource.BUSY}
