"""A site with nothing wrong: clients are served, every node computes the same, every surface answers."""

from __future__ import annotations

import json
import subprocess

import pytest

from lab import configs
from lab.topology import VIP4, VIP6, VIPS
from tests.e2e.site import NODES, Site
from tests.scrape import samples

pytestmark = pytest.mark.lab


def test_every_balancer_announces_both_vips(site: Site) -> None:
    assert site.lab.router_routes() == dict.fromkeys(VIPS, NODES)
    for node in NODES:
        assert site.status(node)["ready"] == {"ready": True, "reasons": []}
        assert (site.vip(node)["advertise"], site.vip(node)["reason"]) == ("yes", "healthy")


def test_http_and_udp_through_the_vips_are_answered_by_the_real_servers(site: Site) -> None:
    servers = {server.name for server in site.lab.topology.servers}
    for vip in (VIP4, VIP6):
        for ask in (site.http_server, site.udp_server):
            found = {ask(vip) for _ in range(24)}
            assert found <= servers
            assert len(found) > 1, found


def test_three_kernels_hold_the_same_table_in_the_same_order(site: Site) -> None:
    tables = [site.table_of(node) for node in NODES]
    services = {" ".join(service.split()[:3]) for service in tables[0]}
    assert services == {
        f"{protocol} {vip}:{port} mh"
        for vip in (VIP4, f"[{VIP6}]")
        for protocol, port in (("TCP", 80), ("UDP", 514))
    }
    assert [len(servers) for servers in tables[0].values()] == [4] * 4
    assert tables == [tables[0]] * 3
    with_flags = [site.lab.ipvs(node) for node in NODES]
    assert with_flags[0].count("-s mh -b mh-fallback,mh-port\n") == 2
    assert with_flags[0].count("-s mh -o -b mh-fallback,mh-port\n") == 2
    assert with_flags == [with_flags[0]] * 3


def test_a_node_answers_over_http_for_machines(site: Site) -> None:
    assert site.http("lb1", "/livez") == (200, "ok\n")
    assert site.http("lb1", "/readyz") == (200, "ok\n")
    assert site.http("lb1", "/vips/web") == (200, "acknowledged by ExaBGP: healthy\n")
    code, body = site.http("lb1", "/vips/wob")
    assert (code, json.loads(body)) == (
        404,
        {"error": "there is no VIP 'wob' (did you mean web? configured: web)"},
    )
    code, body = site.http("lb1", "/status")
    assert (code, json.loads(body)["node"]["name"]) == (200, "lb1")
    code, body = site.http("lb1", "/metrics")
    assert code == 200
    expected = {
        'anycast_vip_announced{vip="web"}': 1.0,
        'anycast_vip_verdict{reason="healthy",vip="web"}': 1.0,
        'anycast_service_usable{family="ipv6",service="udp/514",vip="web"}': 4.0,
        'anycast_peer_established{peer="10.2.1.254"}': 1.0,
        "anycast_ready": 1.0,
    }
    found = samples(body)
    assert {name: found.get(name) for name in expected} == expected


def test_the_http_surface_changes_nothing_over_tcp(site: Site) -> None:
    assert site.http("lb1", "/maintenance")[0] == 404
    assert site.http("lb1", "/reload")[0] == 404


def test_status_is_for_people_and_as_json_for_programs(site: Site) -> None:
    shown = site.lab.node_cli("lb2", "status")
    assert shown.returncode == 0
    assert "lb2: anycast" in shown.stdout
    for word in (VIP4, VIP6, "healthy", "[fd00:9::2:4]:514", "10.2.2.254"):
        assert word in shown.stdout
    told = site.lab.node_cli("lb2", "status", "--json")
    assert told.returncode == 0
    assert json.loads(told.stdout)["vips"][0]["announced"] is True


def test_check_and_render_need_neither_a_capability_nor_a_network(site: Site) -> None:
    bare = ["unshare", "--net", "setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    file = str(site.lab.config("lb1"))
    for arguments, said in (
        (("check", file), "ok: 1 VIP, 2 services, 4 real servers, 2 neighbors"),
        (("render", "exabgp", "--config", file), "neighbor 10.2.1.254"),
    ):
        done = subprocess.run(
            [*bare, *configs.program(*arguments)],
            env=configs.program_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
