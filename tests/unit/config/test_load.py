from __future__ import annotations

import os
import socket
import subprocess
import sys
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from anycast.config.load import load, loads
from anycast.config.problem import ConfigError
from anycast.core.model import (
    Check,
    CommandCheck,
    Forwarding,
    HttpCheck,
    Neighbor,
    Node,
    Pool,
    Protocol,
    Quorum,
    RealServer,
    Scheduler,
    SchedulerFlag,
    Service,
    TcpCheck,
    Timing,
    Vip,
)

EXAMPLES = Path(__file__).parents[3] / "examples"

MAIN = """\
bgp: {local_as: 65001, router_id: 10.2.1.1, neighbors: [{address: 10.2.1.254, remote_as: 65000}]}
checks:
  web: {type: http}
"""
PART = """\
pools: {web: {check: web, servers: [10.9.2.1]}}
vips: {web: {address: 192.0.2.1, port: 80, pool: web}}
"""


def check_of(service: Service) -> Check:
    assert isinstance(service.pool.check, Check)
    return service.pool.check


def write(folder: Path, **parts: str) -> Path:
    """The main file and `conf.d`: keys are names with _ for the dot."""
    main = folder / "anycast.yaml"
    main.write_text(parts.pop("main", MAIN), encoding="utf-8")
    if parts:
        (folder / "conf.d").mkdir()
    for name, text in parts.items():
        (folder / "conf.d" / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return main


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, hostname="lb1")
    return [str(problem).replace(f"{path.parent}{os.sep}", "") for problem in caught.value.problems]


def vip(text: str) -> Vip:
    """The VIP `x` of a configuration that holds little else."""
    return loads(MAIN + "vips:\n  x: " + text, hostname="lb1").config.vips[0]


def test_the_smallest_file_has_safe_defaults() -> None:
    config = load(EXAMPLES / "minimal.yaml", hostname="lb1.example.net").config
    assert config.node == Node(name="lb1")
    assert config.timing == Timing()
    assert not config.ipvs_exclusive
    assert config.manage_sysctls
    assert config.bgp.hold_time == 9
    assert config.bgp.neighbors == (
        Neighbor(
            address=IPv4Address("10.2.1.254"),
            remote_as=65000,
            local_address=IPv4Address("10.2.1.1"),
            families=frozenset({4}),
        ),
    )
    assert config.vips == (
        Vip(
            name="web",
            addresses=(IPv4Address("192.0.2.1"),),
            services=(
                Service(
                    protocol=Protocol.TCP,
                    port=80,
                    pool=Pool(
                        name="web",
                        servers=tuple(
                            RealServer(name=f"10.9.2.{n}", addresses=(IPv4Address(f"10.9.2.{n}"),))
                            for n in range(1, 5)
                        ),
                        check=Check(kind=TcpCheck()),
                    ),
                    scheduler=Scheduler.MH,
                    flags=frozenset({SchedulerFlag.MH_PORT, SchedulerFlag.MH_FALLBACK}),
                    forwarding=Forwarding.DR,
                    quorum=Quorum(low=1, high=1),
                ),
            ),
        ),
    )


def test_everything_that_can_be_written_arrives() -> None:
    config = load(EXAMPLES / "full.yaml", hostname="other").config
    assert config.node.name == "lb1"
    first, second = config.bgp.neighbors
    assert (first.password, first.families) == ("change-me", frozenset({4}))
    assert (second.local_address, second.families) == (IPv6Address("fd00:2:1::1"), frozenset({6}))
    assert (config.bgp.next_hop_v4, config.bgp.next_hop_v6) == (
        IPv4Address("10.2.1.1"),
        IPv6Address("fd00:2:1::1"),
    )
    web, syslog, metrics = config.vips
    assert (web.med, web.communities, web.large_communities) == (100, ("65000:100",), ("65000:1:100",))
    http, https = web.services
    assert http.pool.check == Check(
        kind=HttpCheck(tls=False, path="/health"),
        interval=1.0,
        fast_interval=0.2,
        timeout=1.0,
        rise=2,
        fall=3,
    )
    assert http.quorum == Quorum(low=1, high=1)  # half of the two servers with IPv6, the smaller family
    assert http.pool.servers[1] == RealServer(
        name="rs2", addresses=(IPv4Address("10.9.2.2"), IPv6Address("fd00:9:2::2")), weight=2
    )
    assert https.pool.name == http.pool.name
    assert https.pool.servers == http.pool.servers
    assert check_of(https).kind == HttpCheck(tls=True, verify=False, host="www.example.net")
    assert syslog.services[0].protocol is Protocol.UDP
    assert syslog.services[0].pool.check == Check(
        kind=CommandCheck(argv=("/usr/local/lib/anycast/check-syslog", "--quick")), timeout=3.0
    )
    assert [service.name for service in metrics.services] == ["tcp/80", "tcp/9090"]
    assert metrics.services[0].flags == frozenset()
    assert metrics.services[0].forwarding is Forwarding.NAT
    assert [(server.port, server.weight) for server in metrics.services[0].pool.servers] == [
        (8080, 1),
        (8080, 0),
    ]
    kind = check_of(metrics.services[0]).kind
    assert isinstance(kind, HttpCheck)
    assert kind.expect == frozenset({*range(200, 300), 301})


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("2s", 2.0), ("500ms", 0.5), ("0.05m", 3.0), ("2", 2.0), ("1.5", 1.5), ("'0.75s'", 0.75)],
)
def test_a_time_has_a_unit_or_is_in_seconds(written: str, seconds: float) -> None:
    assert loads(MAIN + f"timing: {{lease_ttl: {written}}}").config.timing.lease_ttl == seconds


@pytest.mark.parametrize(
    ("written", "quorum"),
    [
        ("{}", Quorum(low=1, high=1)),
        ("{low: 2}", Quorum(low=2, high=2)),
        ("{high: 2}", Quorum(low=1, high=2)),
        ('{low: "50%", high: "51%"}', Quorum(low=2, high=3)),
        ('{low: "1%", high: "100%"}', Quorum(low=1, high=4)),
    ],
)
def test_a_quorum_counts_servers_or_is_a_share_rounded_up(written: str, quorum: Quorum) -> None:
    text = f"{{address: 192.0.2.1, port: 80, servers: [10.9.2.1, 10.9.2.2, 10.9.2.3, 10.9.2.4], quorum: {written}}}"
    assert vip(text).services[0].quorum == quorum


def test_a_check_that_is_faster_than_the_default_fast_interval_stays_as_fast() -> None:
    text = "{address: 192.0.2.1, port: 80, servers: [10.9.2.1], check: {type: tcp, interval: 100ms}}"
    check = check_of(vip(text).services[0])
    assert (check.interval, check.fast_interval) == (0.1, 0.1)


def test_a_services_check_overrides_the_pools() -> None:
    text = "{address: 192.0.2.1, port: 80, pool: p, check: web}\npools: {p: {servers: [10.9.2.1], check: {type: tcp}}}"
    assert check_of(vip(text).services[0]).kind == HttpCheck(tls=False)


def test_communities_need_no_quotes_and_lose_leading_zeros() -> None:
    text = '{address: 192.0.2.1, port: 80, servers: [10.9.2.1], communities: [65000:100, "065000:0100", 1:2]}'
    assert vip(text).communities == ("65000:100", "1:2")


def test_the_router_id_is_the_first_ipv4_local_address() -> None:
    text = """
bgp:
  local_as: 65001
  neighbors:
    - {address: "fd00::fe", remote_as: 65000, local_address: "fd00::1"}
    - {address: 10.2.1.254, remote_as: 65000, local_address: 10.2.1.1}
    - {address: 10.2.2.254, remote_as: 65000, local_address: 10.2.2.1}
"""
    assert loads(text).config.bgp.router_id == IPv4Address("10.2.1.1")


def test_unused_pools_and_checks_are_no_mistake() -> None:
    loads(MAIN + "pools: {spare: {servers: [10.9.2.1]}}")


def test_without_a_name_the_node_is_called_as_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "lb7.example.net")
    assert loads(MAIN).config.node.name == "lb7"


def test_files_in_conf_d_are_read_in_order(tmp_path: Path) -> None:
    more = "vips: {b: {address: 192.0.2.2, port: 80, pool: web}}"
    path = write(
        tmp_path,
        **{"20-b_yaml": more, "10-a_yaml": PART, "_hidden_yaml": ":", "old_yaml~": ":", "README": ":"},
    )
    loaded = load(path, hostname="lb1")
    assert [vip.name for vip in loaded.config.vips] == ["web", "b"]
    assert [os.path.relpath(file, tmp_path) for file in loaded.files] == [
        "anycast.yaml",
        "conf.d/10-a.yaml",
        "conf.d/20-b.yaml",
    ]


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    path = write(tmp_path, a_yaml=PART)
    before = load(path, hostname="lb1").digest
    assert load(path, hostname="lb2").digest == before
    (tmp_path / "conf.d" / "a.yaml").write_text(PART + "# more\n", encoding="utf-8")
    assert load(path, hostname="lb1").digest != before


def test_a_name_in_two_files_names_both_places(tmp_path: Path) -> None:
    path = write(tmp_path, a_yaml=PART, b_yaml="\n" + PART)
    with pytest.raises(ConfigError) as caught:
        load(path)
    first, second = caught.value.problems
    part = tmp_path / "conf.d"
    assert str(first) == (
        f"{part}/b.yaml:2:9: pools.web: there is a pool of this name already, at {part}/a.yaml:1:9 (rename one of them)"
    )
    assert str(second).startswith(
        f"{part}/b.yaml:3:8: vips.web: there is a vip of this name already, at {part}/a.yaml"
    )


def test_a_part_holds_only_what_parts_may(tmp_path: Path) -> None:
    found = problems(write(tmp_path, a_yaml="bgp: {local_as: x}\npools: []\nvips: {}\n", b_yaml="- x"))
    assert [line.partition(" (")[0] for line in found] == [
        "conf.d/a.yaml:1:1: bgp: a file in conf.d cannot hold this",
        "conf.d/a.yaml:2:8: pools: this is not a mapping",
        "conf.d/b.yaml:1:1: the file holds no mapping at its top",
    ]


def test_problems_come_from_all_files_in_their_order(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        main=MAIN.replace("65001", "x"),
        b_yaml="vips: {b: {address: 192.0.2.1, port: 80, pool: wbe}}",
        a_yaml=PART.replace("port: 80", "port: 0"),
    )
    assert [line.split(": ")[0] for line in problems(path)] == [
        "anycast.yaml:1:17",
        "conf.d/a.yaml:2:40",
        "conf.d/b.yaml:1:21",
        "conf.d/b.yaml:1:48",
    ]


def test_a_file_that_is_no_yaml_hides_no_other_and_makes_no_name_unknown(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        main=MAIN.replace("65001", "x"),
        a_yaml="pools: {p: [",
        b_yaml=PART.replace("check: web", "check: z"),
    )
    found = problems(path)
    assert [line.split(": ")[0] for line in found] == ["anycast.yaml:1:17", "conf.d/a.yaml:1:13"]


def test_a_part_ending_in_yml_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    assert problems(write(tmp_path, a_yml=PART)) == [
        "conf.d/a.yml: files that end in .yml are not read here (rename it to .yaml)"
    ]


def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    assert problems(tmp_path / "none.yaml") == [
        "none.yaml: the file cannot be read: No such file or directory (check its path and permissions)"
    ]
    path = write(tmp_path)
    (tmp_path / "conf.d" / "a.yaml").mkdir(parents=True)
    assert problems(path) == [
        "conf.d/a.yaml: the file cannot be read: Is a directory (check its path and permissions)"
    ]


def test_reading_and_comparing_need_no_pydantic() -> None:
    code = "import sys, anycast.config.changes, anycast.config.problem, anycast.config.reader; sys.exit('pydantic' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=EXAMPLES.parent)
