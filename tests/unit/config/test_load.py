from __future__ import annotations

import os
import socket
import subprocess
import sys
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from anycast.config.load import load, loads
from anycast.config.loaded import Loaded
from anycast.config.problem import ConfigError
from anycast.core.fleet.values import Capacity
from anycast.core.values.configuration import (
    Bfd,
    Check,
    CommandCheck,
    ConnectionSync,
    Forwarding,
    HttpCheck,
    Neighbor,
    Node,
    Persistence,
    Pool,
    Protocol,
    Quorum,
    RealServer,
    Scheduler,
    SchedulerFlag,
    Service,
    TcpCheck,
    Timeouts,
    Timing,
    Tunnel,
    TunnelChecksum,
    TunnelType,
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
    return loaded(text).config.vips[0]


def loaded(text: str) -> Loaded:
    return loads(MAIN + "vips:\n  x: " + text, hostname="lb1")


def test_the_smallest_file_has_safe_defaults() -> None:
    config = load(EXAMPLES / "minimal.yaml", hostname="lb1.example.net").config
    assert config.node == Node(name="lb1")
    assert config.timing == Timing()
    assert not config.ipvs_exclusive
    assert config.manage_sysctls
    assert config.timeouts is None
    assert config.connection_sync is None
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
                    one_packet=False,
                    persistence=None,
                    expire_failed=60.0,
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
    web, syslog, dns, metrics = config.vips
    assert (web.med, web.communities, web.large_communities) == (100, ("65000:100",), ("65000:1:100",))
    http, https, own, marked = web.services
    assert (own.pool.name, own.pool.servers[0].name) == ("web-8443", "api1")
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
        name="rs2", addresses=(IPv4Address("10.9.2.2"), IPv6Address("fd00:9:2::2"))
    )
    assert https.pool.name == http.pool.name
    assert https.pool.servers == http.pool.servers
    assert check_of(https).kind == HttpCheck(tls=True, verify=False, host="www.example.net")
    assert marked.name == "mark/7"
    assert (marked.port, marked.mark, marked.forwarding) == (0, 7, Forwarding.TUNNEL)
    assert marked.tunnel == Tunnel(type=TunnelType.GUE, port=6080, checksum=TunnelChecksum.FULL)
    assert marked.persistence == Persistence(timeout=300, ipv4_prefix=24, ipv6_prefix=64)
    assert (marked.one_packet, marked.expire_failed) == (False, 60.0)
    assert syslog.services[0].protocol is Protocol.UDP
    assert (syslog.services[0].one_packet, syslog.services[0].expire_failed) == (True, 0.0)
    assert syslog.services[0].pool.check == Check(
        kind=CommandCheck(argv=("/usr/local/lib/anycast/check-syslog", "--quick")), timeout=3.0
    )
    assert [service.name for service in metrics.services] == ["tcp/80", "tcp/9090"]
    assert [one.name for one in dns.local] == ["udp/53", "tcp/53"]
    assert metrics.services[0].flags == frozenset()
    assert metrics.services[0].forwarding is Forwarding.NAT
    assert [(server.port, server.weight) for server in metrics.services[0].pool.servers] == [
        (8080, 2),
        (8080, 0),
    ]
    first_server = metrics.services[0].pool.servers[0]
    assert (first_server.upper, first_server.lower) == (1000, 800)
    assert config.timing.server_drain == 60
    assert config.timeouts == Timeouts(tcp=900, tcp_fin=120, udp=300)
    assert config.connection_sync == ConnectionSync(
        interface="eth1", id=1, group=IPv4Address("224.0.0.81"), port=8848, ttl=1
    )
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
    ("written", "seconds"), [("90s", 90), ("1.5m", 90), ("90.0", 90), ("1", 1), ("576h", 2073600)]
)
def test_a_time_of_the_kernel_is_a_whole_number_of_seconds(written: str, seconds: int) -> None:
    timeouts = loads(MAIN + f"timeouts: {{udp: {written}}}").config.timeouts
    assert timeouts == Timeouts(tcp=900, tcp_fin=120, udp=seconds)
    assert isinstance(timeouts.udp, int)


def test_an_empty_section_of_timeouts_sets_the_kernels_own() -> None:
    assert loads(MAIN + "timeouts: {}").config.timeouts == Timeouts()


def test_connection_sync_needs_an_interface_alone() -> None:
    sync = loads(MAIN + "connection_sync: {interface: eth1}").config.connection_sync
    assert sync == ConnectionSync(interface="eth1", id=1)
    text = "connection_sync: {interface: eth1, id: 255, group: 'ff02::81', port: 1, ttl: 2}"
    assert loads(MAIN + text).config.connection_sync == ConnectionSync(
        interface="eth1", id=255, group=IPv6Address("ff02::81"), port=1, ttl=2
    )


SERVED = "{address: 192.0.2.1, servers: [10.9.2.1], check: {type: tcp, port: 80}, "


@pytest.mark.parametrize(
    ("written", "one_packet"),
    [
        ("port: 80}", False),
        ("port: 80, protocol: sctp}", False),
        ("port: 80, protocol: udp}", True),
        ("port: 80, protocol: udp, forwarding: tunnel}", True),
        ("port: 80, protocol: udp, forwarding: nat}", False),
        ("port: 80, protocol: udp, persistence: 5m}", False),
        ("port: 80, protocol: udp, one_packet: false}", False),
        ("port: 80, protocol: udp, one_packet: true}", True),
        ("port: 80, protocol: udp, one_packet: true, persistence: 5m}", True),
        ("mark: 1}", False),
        ("mark: 1, one_packet: true}", True),
    ],
)
def test_udp_is_served_packet_by_packet_where_that_works(written: str, one_packet: bool) -> None:  # noqa: FBT001
    assert vip(SERVED + written).services[0].one_packet is one_packet


def test_what_a_vip_says_of_its_servers_capacity_holds_for_services_that_say_nothing_else() -> None:
    found = vip(
        SERVED + "server_capacity: {bits: 1G}, services: [80, {port: 443, server_capacity: {packets: 1k}}]}"
    )
    assert [one.server_capacity for one in found.services] == [Capacity(bits=1e9), Capacity(packets=1000.0)]


@pytest.mark.parametrize(
    ("written", "expire_failed"),
    [
        ("port: 80}", 60.0),
        ("port: 80, protocol: sctp}", 60.0),
        ("port: 80, protocol: udp}", 0.0),
        ("mark: 1}", 60.0),
        ("port: 80, expire_failed: never}", None),
        ("port: 80, protocol: udp, expire_failed: never}", None),
        ("port: 80, expire_failed: 0}", 0.0),
        ("port: 80, expire_failed: 24h}", 86400.0),
    ],
)
def test_connections_to_a_failed_server_end_after_a_time_or_never(
    written: str, expire_failed: float | None
) -> None:
    assert vip(SERVED + written).services[0].expire_failed == expire_failed


@pytest.mark.parametrize(
    ("written", "persistence"),
    [
        ("5m", Persistence(timeout=300)),
        ("90", Persistence(timeout=90)),
        ("{}", Persistence(timeout=300)),
        ("{ipv4_prefix: 24}", Persistence(timeout=300, ipv4_prefix=24)),
        ("{timeout: 24h, ipv6_prefix: 64}", Persistence(timeout=86400, ipv6_prefix=64)),
    ],
)
def test_persistence_is_a_time_or_says_more(written: str, persistence: Persistence) -> None:
    assert vip(SERVED + f"port: 80, persistence: {written}}}").services[0].persistence == persistence


@pytest.mark.parametrize(
    ("written", "flags"),
    [
        ("port: 80}", {SchedulerFlag.MH_PORT, SchedulerFlag.MH_FALLBACK}),
        ("port: 80, persistence: 5m}", {SchedulerFlag.MH_FALLBACK}),
        ("mark: 7, persistence: 5m}", {SchedulerFlag.MH_FALLBACK}),
        (
            "port: 80, persistence: 5m, flags: [mh-port, mh-fallback]}",
            {SchedulerFlag.MH_PORT, SchedulerFlag.MH_FALLBACK},
        ),
        ("port: 80, persistence: 5m, scheduler: wlc}", set()),
        ("port: 80, scheduler: sh}", {SchedulerFlag.SH_FALLBACK}),
        ("port: 80, scheduler: sh, persistence: 5m}", {SchedulerFlag.SH_FALLBACK}),
    ],
)
def test_whoever_hashes_to_nobody_gets_another_and_with_persistence_the_address_alone_decides(
    written: str, flags: set[SchedulerFlag]
) -> None:
    assert vip(SERVED + written).services[0].flags == flags


@pytest.mark.parametrize(
    ("written", "tunnel"),
    [
        ("ipip", Tunnel()),
        ("gre", Tunnel(type=TunnelType.GRE)),
        ("{type: gre, checksum: csum}", Tunnel(type=TunnelType.GRE, checksum=TunnelChecksum.FULL)),
        ("{type: ipip, checksum: nocsum}", Tunnel()),
        ("{type: gue, port: 6080}", Tunnel(type=TunnelType.GUE, port=6080)),
        (
            "{type: gue, port: 1, checksum: remcsum}",
            Tunnel(type=TunnelType.GUE, port=1, checksum=TunnelChecksum.REMOTE),
        ),
    ],
)
def test_a_tunnel_is_a_type_or_says_more(written: str, tunnel: Tunnel) -> None:
    text = SERVED + f"port: 80, forwarding: tunnel, tunnel: {written}}}"
    assert vip(text).services[0].tunnel == tunnel


def test_a_mark_stands_in_the_place_of_port_and_protocol() -> None:
    (service,) = vip(SERVED + "mark: 4294967295}").services
    assert (service.name, service.mark, service.port, service.protocol) == (
        "mark/4294967295",
        4294967295,
        0,
        Protocol.TCP,
    )
    text = "{address: 192.0.2.1, services: [{mark: 0x10, pool: p}, {port: 80, pool: p}]}\n"
    pools = "pools: {p: {servers: [10.9.2.1], check: {type: command, argv: [/bin/true]}}}"
    assert [service.name for service in vip(text + pools).services] == ["mark/16", "tcp/80"]


def test_vips_of_different_families_can_share_a_mark() -> None:
    text = """{address: 192.0.2.1, mark: 7, pool: p}
  y: {address: "2001:db8::1", mark: 7, pool: p}
pools: {p: {servers: [{name: a, addresses: [10.9.2.1, "fd00::1"]}], check: {type: tcp, port: 80}}}
"""
    main = MAIN.replace("]}", ', {address: "fd00:2::fe", remote_as: 65000, local_address: "fd00:2::1"}]}', 1)
    vips = loads(main + "vips:\n  x: " + text, hostname="lb1").config.vips
    assert [one.services[0].mark for one in vips] == [7, 7]


def test_a_real_server_with_a_port_of_its_own_can_serve_a_mark_and_is_checked_there() -> None:
    text = "{address: 192.0.2.1, mark: 7, forwarding: nat, servers: [{address: 10.9.2.1, port: 8080}]}"
    assert vip(text).services[0].pool.servers[0].port == 8080


def test_with_a_tunnel_the_other_address_of_a_server_counts() -> None:
    text = """{address: "2001:db8::1", port: 80, forwarding: FORWARDING, quorum: {low: 3},
    servers: [10.9.2.1, {address: "fd00::2"}, {name: c, addresses: [10.9.2.3, "fd00::3"]}]}"""
    main = MAIN.replace("]}", ', {address: "fd00:2::fe", remote_as: 65000, local_address: "fd00:2::1"}]}', 1)
    found = loads(main + "vips:\n  x: " + text.replace("FORWARDING", "tunnel"), hostname="lb1").config
    assert found.vips[0].services[0].quorum.low == 3
    with pytest.raises(
        ConfigError, match=r"3 usable servers can never be reached, for vips\.x has 2 of a family"
    ):
        loads(main + "vips:\n  x: " + text.replace("FORWARDING", "dr"), hostname="lb1")


def test_two_ports_of_an_address_are_two_real_servers() -> None:
    text = "{address: 192.0.2.1, port: 80, forwarding: nat, servers: [{name: a, address: 10.9.2.1, port: 8080}, {name: b, address: 10.9.2.1, port: 8081}]}"
    assert [server.port for server in vip(text).services[0].pool.servers] == [8080, 8081]


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


NOT_READ = (
    "a.yaml~",
    ".a.yaml.swp",
    ".a.yaml",
    "#a.yaml#",
    "#a.yaml",
    ".#a.yaml",
    "a.yaml.dpkg-new",
    "a.yaml.dpkg-old",
    "a.yaml.rpmsave",
    "a.yaml.bak",
    "a.yaml.orig",
    "a.yaml.tmp",
    "4913",
)


def test_what_editors_and_package_managers_leave_in_conf_d_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "conf.d"
    folder.mkdir()
    (tmp_path / "anycast.yaml").write_text(MAIN)
    for name in NOT_READ:
        (folder / name).write_text("vips: {: no configuration at all")
    loaded = load(tmp_path / "anycast.yaml")
    assert loaded.files == (str(tmp_path / "anycast.yaml"),)
    (folder / "a.yaml").touch()
    with pytest.raises(ConfigError, match="the file holds nothing"):
        load(tmp_path / "anycast.yaml")


def test_a_node_without_vips_is_warned_of(tmp_path: Path) -> None:
    file = tmp_path / "anycast.yaml"
    for text in (MAIN, MAIN + "vips: {}\n"):
        file.write_text(text)
        (warning,) = load(file).warnings
        assert "there is no VIP: the node announces nothing" in str(warning)


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
        "conf.d/b.yaml:1:1: the file is not a mapping at its top level",
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
        "conf.d/a.yaml: the file cannot be read: it is a directory, not a file (check its path and permissions)"
    ]


def test_reading_and_comparing_need_no_pydantic() -> None:
    code = "import sys, anycast.config.changes, anycast.config.problem, anycast.config.reader; sys.exit('pydantic' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=EXAMPLES.parent)


BFD = [
    ("", "", None),
    ("bfd: true", "", Bfd(interval=0.1, multiplier=3)),
    ("bfd: {interval: 200ms}", "", Bfd(interval=0.2, multiplier=3)),
    ("bfd: {interval: 200ms, multiplier: 4}", ", bfd: {interval: 50ms}", Bfd(interval=0.05, multiplier=4)),
    ("bfd: {interval: 200ms}", ", bfd: true", Bfd(interval=0.2, multiplier=3)),
    ("bfd: {interval: 200ms}", ", bfd: false", None),
    ("bfd: false", ", bfd: {multiplier: 5}", Bfd(interval=0.1, multiplier=5)),
    ("bfd: {enabled: false, interval: 1s}", "", None),
    ("bfd: {enabled: false, interval: 1s}", ", bfd: true", Bfd(interval=1.0, multiplier=3)),
    ("", ", bfd: {enabled: false}", None),
]


@pytest.mark.parametrize(("shared", "own", "wanted"), BFD)
def test_a_neighbor_has_its_own_bfd_then_that_of_all_then_the_default(
    shared: str, own: str, wanted: Bfd | None
) -> None:
    text = f"""
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  {shared}
  neighbors: [{{address: 10.2.1.254, remote_as: 65000{own}}}]
vips: {{web: {{address: 192.0.2.1, port: 80, servers: [10.9.2.1]}}}}
"""
    (neighbor,) = loads(text, hostname="lb1").config.bgp.neighbors
    assert neighbor.bfd == wanted
