from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics import parser as openmetrics

from anycast.core import events as ev
from anycast.core.dataplane import ipvs
from anycast.core.dataplane.traffic import RUN_ESTIMATION
from anycast.core.health.phase import Outcome
from anycast.core.hooks import Ending, Tally
from anycast.core.maintenance.clocks import End, Expiry
from anycast.core.maintenance.stages import FILE, NODE, Maintenance, Stage
from anycast.core.values.configuration import Forwarding, Protocol
from anycast.core.values.report import FailedRoute, NeighborState
from anycast.core.vip.decide import Reason
from anycast.entries import GROWS
from anycast.ops import metrics
from anycast.ops.board import Boards
from anycast.ops.exposition import Body, Chunk
from anycast.ops.metrics import MetricsText
from anycast.ops.source import Probes
from lab.waiting import until
from tests import scrape as scraping
from tests.unit.ops import flows
from tests.unit.ops.node import CONFIG, ROUTER, ROUTER6, Node, healthy, vip

WALL = 1_800_000_000.0
ON = Maintenance(reason="new kernel", by="root", since=WALL)


def plain(body: Body) -> bytes:
    """Its text, which is the same as one stream of gzip."""
    text = b"".join(body.plain())
    packed = b"".join(body.packed())
    assert (gzip.decompress(packed), len(packed), len(text)) == (text, body.packed_length, body.length)
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)  # takes one stream alone
    assert (unpacker.decompress(packed), unpacker.unused_data) == (text, b"")
    return text


def scrape(node: Node, accept: str = "") -> str:
    metrics = MetricsText(node, version="1.2.3", clock=lambda: node.now, wall=lambda: WALL)
    return plain(metrics.read(Boards().of(node.state), *choose_encoder(accept))).decode()


def samples(node: Node) -> dict[str, float]:
    return scraping.samples(scrape(node))


def test_a_healthy_node_scrapes() -> None:
    node = healthy()
    node.send(ev.Tick(), after=0.25)
    found = samples(node)
    assert found['anycast_vip_announced{vip="web"}'] == 1
    assert found['anycast_vip_verdict{reason="healthy",vip="web"}'] == 1
    assert found['anycast_vip_last_change_timestamp_seconds{vip="web"}'] == WALL - 0.25
    assert found[f'anycast_peer_established{{peer="{ROUTER}"}}'] == 1
    assert found['anycast_service_usable{family="ipv4",service="tcp/80",vip="web"}'] == 2
    assert found['anycast_service_servers{family="ipv6",service="tcp/443",vip="web"}'] == 2
    assert found['anycast_server_up{address="10.9.2.1",server="rs1",service="tcp/80",vip="web"}'] == 1
    assert found["anycast_config_last_reload_successful"] == 1
    assert found["anycast_config_last_reload_success_timestamp_seconds"] == node.reloaded_at
    assert found["anycast_exabgp_errors_total"] == 0
    assert found["anycast_kernel_available"] == 1
    assert found["anycast_kernel_programs_total"] == node.state.kernel.programs > 0
    assert found["anycast_lease_seq"] == node.state.lease.seq > 0
    assert found["anycast_lease_age_seconds"] == pytest.approx(0.25)
    assert found["anycast_engine_lag_seconds"] == 0.25
    assert found["anycast_ready"] == 1
    assert found["anycast_plugins"] == 1
    assert found["anycast_table_routes"] == found["anycast_lease_followed_age_seconds"] == 0


def test_a_hold_after_crashes_is_counted_down() -> None:
    node = Node(crashes=3)
    node.probe()
    node.send(ev.KernelChanged(), after=1.5)
    held = 'anycast_vip_start_hold_seconds{vip="web"}'
    assert (samples(node)["anycast_agent_recent_crashes"], samples(node)[held]) == (3, 2.5)
    node.send(ev.Tick(), after=2.5)
    assert samples(node)[held] == 0


def test_the_build_info_names_the_versions() -> None:
    assert any(
        name.startswith("anycast_build_info{") and 'exabgp="5.0.15"' in name and 'version="1.2.3"' in name
        for name in samples(healthy())
    )


def test_a_vip_has_one_reason_and_the_others_are_0() -> None:
    node = healthy()
    node.send(ev.MaintenanceSet(scope="web", entry=ON))
    found = samples(node)
    values = {reason: found[f'anycast_vip_verdict{{reason="{reason}",vip="web"}}'] for reason in Reason}
    assert [reason for reason, value in values.items() if value] == [Reason.VIP_MAINTENANCE]


def test_what_is_not_there_is_0_and_not_absent() -> None:
    started, good = samples(Node()), samples(healthy())

    def names(found: dict[str, float]) -> set[str]:
        return {name for name in found if not name.startswith("anycast_build_info")}

    assert names(started) == names(good)
    assert started['anycast_vip_announced{vip="web"}'] == 0
    assert started[f'anycast_peer_established{{peer="{ROUTER}"}}'] == 0
    assert started["anycast_ready"] == 0


def test_a_server_a_session_and_a_kernel_that_fail_are_0() -> None:
    node = healthy()
    node.probe("10.9.2.1")
    node.report(errors=2, neighbors=(NeighborState(address=ROUTER6, state="down", changed=node.now),))
    node.send(ev.KernelFailed(reason="EPERM"))
    found = samples(node)
    assert found['anycast_server_up{address="10.9.2.1",server="rs1",service="tcp/80",vip="web"}'] == 0
    assert found['anycast_service_usable{family="ipv4",service="tcp/80",vip="web"}'] == 1
    assert found[f'anycast_peer_established{{peer="{ROUTER6}"}}'] == 0
    assert found["anycast_exabgp_errors_total"] == 2
    assert found["anycast_kernel_available"] == 0


def test_an_announcer_is_counted_apart_from_exabgp() -> None:
    node = healthy()
    node.report(errors=2)
    node.report(2, errors=3, speaker="table 1179", followed=node.now - 1.5)
    found = samples(node)
    assert found["anycast_exabgp_errors_total"] == 2
    assert found["anycast_table_writes_refused_total"] == 3
    assert found["anycast_table_routes"] == len(node.state.lease.routes or ()) > 0
    assert found["anycast_lease_followed_age_seconds"] == 1.5


def test_maintenance_of_the_node_is_not_that_of_a_vip_called_node() -> None:
    node = Node(replace(CONFIG, vips=(vip("node", "192.0.2.1"),)))
    node.send(ev.MaintenanceSet(scope=NODE, entry=ON))
    found = samples(node)
    assert found['anycast_maintenance_active{scope="node",vip=""}'] == 1
    assert found['anycast_maintenance_active{scope="vip",vip="node"}'] == 0
    node.send(ev.MaintenanceSet(scope="node", entry=ON))
    assert samples(node)['anycast_maintenance_active{scope="vip",vip="node"}'] == 1


def test_the_stages_and_the_end_of_maintenance_are_numbers() -> None:
    node = healthy()
    end = End(at=WALL + 90.0, then=Expiry.HOLD)
    node.send(ev.MaintenanceSet(scope=NODE, entry=replace(ON, end=end)))
    node.send(ev.Tick(wall=WALL + 0.5), after=0.5)
    labels = 'scope="node",vip=""'
    found = samples(node)
    stages = {
        stage: found[f'anycast_maintenance_stage{{scope="node",stage="{stage}",vip=""}}'] for stage in Stage
    }
    assert [stage for stage, value in stages.items() if value] == [Stage.DRAINING]
    assert found[f"anycast_maintenance_stage_since_timestamp_seconds{{{labels}}}"] == WALL - 0.5
    assert found[f"anycast_maintenance_stage_left_seconds{{{labels}}}"] == 1.5
    assert found[f"anycast_maintenance_ends_timestamp_seconds{{{labels}}}"] == WALL + 90.0
    assert found[f"anycast_maintenance_overdue{{{labels}}}"] == 0
    assert found['anycast_maintenance_stage{scope="vip",stage="active",vip="web"}'] == 1
    node.send(ev.Tick(wall=WALL + 100.0), after=99.5)
    assert samples(node)[f"anycast_maintenance_overdue{{{labels}}}"] == 1


def test_a_node_with_the_file_is_in_maintenance_whatever_was_commanded_and_has_no_end() -> None:
    node = healthy()
    node.send(ev.MaintenanceSet(scope=FILE, entry=ON))
    labels = 'scope="node",vip=""'
    assert samples(node)[f"anycast_maintenance_active{{{labels}}}"] == 1
    node.send(ev.MaintenanceSet(scope=NODE, entry=replace(ON, end=End(at=WALL + 90.0))))
    assert samples(node)[f"anycast_maintenance_ends_timestamp_seconds{{{labels}}}"] == 0


def test_a_scrape_reads_the_state_of_that_moment() -> None:
    node = healthy()

    boards = Boards()
    metrics = MetricsText(node, version="1.2.3", clock=lambda: node.now, wall=lambda: WALL)
    before = plain(metrics.read(boards.of(node.state), *choose_encoder("")))
    node.report(announced=())
    node.probe("10.9.2.1")
    after = plain(metrics.read(boards.of(node.state), *choose_encoder("")))
    for line in (
        b'anycast_vip_announced{vip="web"} ',
        b'anycast_server_up{vip="web",service="tcp/80",server="rs1",address="10.9.2.1"} ',
    ):
        assert line + b"1.0" in before
        assert line + b"0.0" in after


def test_openmetrics_is_what_its_parser_takes() -> None:
    text = scrape(healthy(), "application/openmetrics-text; version=1.0.0")
    names = {family.name for family in openmetrics.text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]
    assert {"anycast_vip_announced", "anycast_server_connections", "anycast_kernel_programs"} <= names


def test_names_with_anything_in_them_are_escaped() -> None:
    odd = vip('a"b\\c', "192.0.2.1")
    found = samples(Node(replace(CONFIG, vips=(odd,))))
    assert 'anycast_vip_announced{vip="a"b\\c"}' in found


def test_a_hook_has_all_its_figures_from_the_start() -> None:
    node = healthy()
    node.hooks = {
        "pager": Tally(),
        "log": Tally(seconds=1.5, suppressed=3, dropped=2, failing=True, waiting=4),
    }
    node.hooks["log"].runs[Ending.TIMEOUT] = 2
    found = samples(node)
    for ending in Ending:
        assert found[f'anycast_hook_runs_total{{hook="pager",result="{ending}"}}'] == 0
    assert found['anycast_hook_runs_total{hook="log",result="timeout"}'] == 2
    assert found['anycast_hook_duration_seconds_count{hook="log"}'] == 2
    assert found['anycast_hook_duration_seconds_sum{hook="log"}'] == 1.5
    assert found['anycast_hook_suppressed_total{hook="log"}'] == 3
    assert found['anycast_hook_dropped_total{hook="log"}'] == 2
    assert found['anycast_hook_failing{hook="log"}'] == 1
    assert found['anycast_hook_waiting{hook="log"}'] == 4
    assert found['anycast_hook_failing{hook="pager"}'] == 0


def test_runs_of_checks_are_counted_by_kind_outcome_and_time() -> None:
    node = healthy()
    probes = Probes()
    for outcome, took in ((Outcome.OK, 0.002), (Outcome.OK, 0.3), (Outcome.FAIL, 60.0)):
        probes.count(outcome, took)
    node.probes = {"https": probes.runs}
    found = samples(node)
    assert found['anycast_probes_total{outcome="ok",type="https"}'] == 2
    assert found['anycast_probes_total{outcome="fail",type="https"}'] == 1
    assert found['anycast_probes_total{outcome="unknown",type="https"}'] == 0
    name = "anycast_probe_duration_seconds"
    assert [
        found[f'{name}_bucket{{le="{end}",type="https"}}'] for end in ("0.001", "0.005", "0.5", "+Inf")
    ] == [
        0,
        1,
        2,
        3,
    ]
    assert found[f'{name}_sum{{type="https"}}'] == pytest.approx(60.302)


def test_what_the_verdict_wants_and_what_is_left_until_it_turns() -> None:
    node = healthy()
    found = samples(node)
    assert found['anycast_vip_wanted{vip="web"}'] == 1
    assert found['anycast_vip_backup{vip="web"}'] == 0
    assert found['anycast_service_quorum{family="ipv4",service="tcp/80",vip="web"}'] == 1
    assert found['anycast_service_headroom_ratio{family="ipv4",service="tcp/80",vip="web"}'] == 0.5
    assert found['anycast_service_total_weight{family="ipv4",service="tcp/80",vip="web"}'] == 2
    assert found['anycast_service_usable_weight{family="ipv4",service="tcp/80",vip="web"}'] == 2
    node.send(ev.MaintenanceSet(scope="web", entry=ON, skip_drain=True))
    assert samples(node)['anycast_vip_wanted{vip="web"}'] == 0


def test_what_exabgp_owes_and_refuses_is_shown() -> None:
    node = healthy()
    prefix = ip_network("192.0.2.1/32")
    assert (
        samples(node)["anycast_routes_pending"] == samples(node)["anycast_exabgp_oldest_command_seconds"] == 0
    )
    report = next(one for one in node.state.plugins.values() if one is not None)
    late = replace(
        report,
        pending=frozenset({prefix}),
        silent_since=node.now - 4.5,
        failed=(FailedRoute(prefix=prefix, why="no next hop"),),
    )
    node.send(ev.PluginReported(source=next(iter(node.state.plugins)), report=late))
    found = samples(node)
    assert found["anycast_routes_pending"] == found["anycast_routes_refused"] == 1
    assert found["anycast_exabgp_oldest_command_seconds"] == 4.5


def test_commands_for_routes_are_counted_for_the_vip_of_the_prefix() -> None:
    node = healthy()
    for prefix in ("192.0.2.1/32", "2001:db8:99::1/128", "192.0.2.2/32", "198.51.100.1/32"):
        node.work = node.work.route(prefix, "announce")
    found = samples(node)
    assert found['anycast_route_commands_total{action="announce",vip="web"}'] == 2
    assert found['anycast_route_commands_total{action="withdraw",vip="web"}'] == 0
    assert found['anycast_route_commands_total{action="announce",vip="mail"}'] == 1


def test_the_connection_table_and_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bits = tmp_path / "bits"
    monkeypatch.setattr(metrics, "TABLE_BITS", bits)
    node = healthy()
    found = samples(node)
    assert found["anycast_ipvs_table_rows"] == found["anycast_ipvs_connections"] == 0
    assert found["anycast_ipvs_table_places"] == 0
    bits.write_text("12\n")
    assert samples(node)["anycast_ipvs_table_rows"] == 4096


def test_a_masqueraded_connection_takes_two_places_of_a_table_that_grows(tmp_path: Path) -> None:
    """Since Linux 7.1; before it takes one."""
    web, mail = CONFIG.vips
    services = tuple(replace(each, forwarding=Forwarding.NAT) for each in web.services)
    node = healthy(replace(CONFIG, vips=(replace(web, services=services), mail)))
    each = ipvs.Connections(3, 4)
    node.kernel = replace(
        node.kernel,
        connections={
            key: ipvs.packed([each for _ in entry.destinations]) for key, entry in node.kernel.table.items()
        },
    )
    node.send(ev.Tick(), after=5.0)
    ways = [one.forwarding for entry in node.kernel.table.values() for one in entry.destinations]
    everyone, by_nat = 7 * len(ways), 7 * ways.count(Forwarding.NAT)
    assert 0 < by_nat < everyone
    collector = metrics.StateCollector(
        node, version="1", clock=lambda: node.now, wall=lambda: WALL, proc=tmp_path
    )

    def told() -> tuple[float, float]:
        found = {one.name: one.samples[0].value for one in collector.collect() if one.samples}
        return found["anycast_ipvs_connections"], found["anycast_ipvs_table_places"]

    assert told() == (everyone, everyone)
    (tmp_path / GROWS).parent.mkdir(parents=True)
    (tmp_path / GROWS).write_text("-4\n")
    assert told() == (everyone, everyone + by_nat)


def test_the_limit_of_connections_and_how_much_of_it_is_taken(tmp_path: Path) -> None:
    node = healthy()
    collector = metrics.StateCollector(
        node, version="1", clock=lambda: node.now, wall=lambda: WALL, proc=tmp_path
    )

    def told() -> tuple[float, float]:
        found = {one.name: one.samples[0].value for one in collector.collect() if one.samples}
        return found["anycast_ipvs_entries"], found["anycast_ipvs_entries_limit"]

    limit, status = tmp_path / "sys/net/ipv4/vs/conn_max", tmp_path / "net/ip_vs_status"
    assert told() == (0, math.inf)  # before Linux 7.2
    limit.parent.mkdir(parents=True)
    status.parent.mkdir()
    status.write_text("Conns:\t77\nConn buckets:\t4096 (12 bits, lfactor 0)\n")
    limit.write_text(f"{2**30}\n")
    assert told() == (0, math.inf)
    limit.write_text("100\n")
    assert told()[1] == 100
    until(lambda: told() == (77, 100), "counted", 30)
    limit.write_text("0\n")
    assert told() == (77, 0)


def test_of_real_servers_there_is_nothing_where_nobody_asks_for_it() -> None:
    node = healthy()
    metrics = MetricsText(node, version="1.2.3", clock=lambda: node.now, wall=lambda: WALL)
    board = Boards().of(node.state)
    whole = set(plain(metrics.read(board, *choose_encoder(""))).decode().splitlines())
    less = set(plain(metrics.read(board, *choose_encoder(""), servers=False)).decode().splitlines())
    # What a process takes is another thing at each scrape.
    differ = [line for line in whole - less if "process_" not in line]
    assert all(line.startswith(("anycast_server_", "anycast_ipvs_server_", "# ")) for line in differ)
    assert not any("anycast_server_" in line for line in less)
    assert any(line.startswith("anycast_service_usable{") for line in less)


def test_how_late_leases_were_is_a_histogram_beside_their_time_to_live() -> None:
    node = healthy()
    strain = node.work.strain
    for late in (0.0, 0.3, 0.3, 60.0):
        strain = strain.sent(late)
    strain = strain.took("a reload", 1.0, ttl=2.0, now=node.now)
    node.work = replace(node.work, strain=strain)
    found = samples(node)
    name = "anycast_lease_lateness_seconds"
    assert found[f'{name}_bucket{{le="0.25"}}'] == 1
    assert found[f'{name}_bucket{{le="0.5"}}'] == 3
    assert found[f'{name}_bucket{{le="+Inf"}}'] == found[f"{name}_count"] == 4
    assert found[f"{name}_sum"] == 60.6
    assert found["anycast_lease_ttl_seconds"] == 2.0
    assert found["anycast_overloads_total"] == 1


def test_what_services_and_real_servers_carry_is_counted_and_never_goes_back() -> None:
    node = healthy()
    web = '{address="10.9.2.1",server="rs1",service="tcp/80",vip="web"}'
    assert samples(node)["anycast_ipvs_server_connections_total" + web] == 0
    flows.carry(node, flows.steady(2.0), steps=3)
    found = samples(node)
    assert found["anycast_ipvs_counted"] == 1
    assert found["anycast_ipvs_server_connections_total" + web] == 30
    assert found['anycast_ipvs_server_packets_total{address="10.9.2.1",direction="in",server="rs1",service="tcp/80",vip="web"}'] == 300  # fmt: skip
    of = 'family="ipv4",service="tcp/80",vip="web"}'
    assert found["anycast_ipvs_service_connections_total{" + of] == 60
    assert found['anycast_ipvs_service_bytes_total{direction="in",' + of] == 60 * 6000
    # With direct routing answers pass by: 0 would say that there were none.
    assert not any('direction="out"' in name for name in found)
    # One of the two services is written anew: what is told goes on.
    node.kernel = replace(node.kernel, traffic={})
    flows.carry(node, flows.steady(1.0), steps=1)
    assert samples(node)["anycast_ipvs_service_connections_total{" + of] == 70


def test_a_service_of_sctp_beside_one_of_tcp_has_series_of_its_own() -> None:
    """node_exporter writes its real servers under another service."""
    one = vip("web", "192.0.2.1", ports=(3868, 3868))
    tcp, sctp = one.services
    services = (tcp, replace(sctp, protocol=Protocol.SCTP))
    node = healthy(replace(CONFIG, vips=(replace(one, services=services),)))
    flows.carry(node, lambda key, _, __: 3.0 if "sctp" in str(key) else 1.0, steps=1)
    found = samples(node)
    for service, each in (("tcp/3868", 5), ("sctp/3868", 15)):
        of = f'service="{service}",vip="web"}}'
        assert found['anycast_ipvs_server_connections_total{address="10.9.2.1",server="rs1",' + of] == each
        assert found['anycast_ipvs_service_connections_total{family="ipv4",' + of] == 2 * each


def test_answers_are_counted_where_they_come_back_through_the_node() -> None:
    one = vip("web", "192.0.2.1")
    services = tuple(replace(each, forwarding=Forwarding.NAT) for each in one.services)
    node = healthy(replace(CONFIG, vips=(replace(one, services=services),)))
    flows.carry(node, flows.steady(2.0), steps=2)
    found = samples(node)
    of = 'direction="out",family="ipv4",service="tcp/80",vip="web"}'
    assert found["anycast_ipvs_service_bytes_total{" + of] == 40 * 40_000
    assert found["anycast_ipvs_service_packets_total{" + of] == 40 * 12


def test_where_the_kernel_does_not_count_there_are_no_counters_that_stand_still() -> None:
    node = healthy()
    flows.carry(node, flows.steady(2.0), steps=1)
    node.kernel = replace(node.kernel, sysctls={**node.kernel.sysctls, RUN_ESTIMATION: "0"})
    node.send(ev.Tick(), after=5.0)
    found = samples(node)
    assert found["anycast_ipvs_counted"] == 0
    assert not [name for name in found if name.startswith(("anycast_ipvs_service", "anycast_ipvs_server"))]


def test_only_what_has_carried_something_is_written_anew() -> None:
    node = healthy()
    text, boards = MetricsText(node, version="1", clock=lambda: node.now, wall=lambda: WALL), Boards()
    flows.carry(node, flows.steady(2.0), steps=1)

    def chunks() -> dict[str, Chunk]:
        body = text.read(boards.of(node.state), *choose_encoder(""))
        return {one.text.decode().split("{")[0]: one for one in body.chunks[1:]}

    first = chunks()
    flows.carry(node, flows.steady(0.0), steps=1)
    assert chunks()["anycast_ipvs_server_bytes_total"] is first["anycast_ipvs_server_bytes_total"]
    flows.carry(node, flows.steady(1.0), steps=1)
    assert chunks()["anycast_ipvs_server_bytes_total"] is not first["anycast_ipvs_server_bytes_total"]
