"""`local: true`: what the node itself serves, as written and as the core has it."""

from __future__ import annotations

import pytest

from anycast.config.load import loads
from anycast.config.problem import ConfigError
from anycast.core.values.checks import DnsCheck, TcpCheck
from anycast.core.values.configuration import Check, Config, Protocol

HEAD = "bgp: {local_as: 65001, router_id: 10.2.1.1, neighbors: [{address: 10.2.1.254, remote_as: 65000}]}\nvips:\n  dns:\n    address: 192.0.2.53\n"
DNS = "{type: dns, name: www.example.net.}"


def config(*lines: str) -> Config:
    return loads(HEAD + "".join(f"    {line}\n" for line in lines)).config


def problems(*lines: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config(*lines)
    return [f"{'.'.join(map(str, one.path[2:]))}: {one.what} ({one.do})" for one in caught.value.problems]


def test_a_port_is_checked_by_a_handshake_at_the_vip() -> None:
    found = config("local: true", "port: 8053")
    (vip,) = found.vips
    (local,) = vip.local
    assert vip.services == ()
    assert not found.needs_ipvs
    assert (local.name, local.check) == ("tcp/8053", Check(kind=TcpCheck()))


def test_both_protocols_of_a_port_have_the_check_of_the_vip_each_in_its_way() -> None:
    (vip,) = config("local: true", "ports: [53/udp, 53/tcp]", f"check: {DNS}").vips
    udp, tcp = vip.local
    assert (udp.name, tcp.name) == ("udp/53", "tcp/53")
    kinds = [one.check.kind for one in (udp, tcp) if isinstance(one.check, Check)]
    assert [kind.transport for kind in kinds if isinstance(kind, DnsCheck)] == [None, "tcp"]


def test_of_a_vip_some_services_may_be_of_ipvs_and_some_local() -> None:
    found = config(
        "servers: [10.9.2.1]",
        "quorum: 1",
        "services:",
        "  - port: 443",
        "  - {port: 8080, local: true, check: {type: http, path: /up}}",
    )
    (vip,) = found.vips
    assert [one.name for one in vip.services] == ["tcp/443"]
    assert [one.name for one in vip.local] == ["tcp/8080"]
    assert found.needs_ipvs
    (mixed,) = config(
        "local: true",
        "services: [8080, {port: 443, local: false, servers: [10.9.2.1]}]",
    ).vips
    assert [[one.name for one in mixed.services], [one.name for one in mixed.local]] == [
        ["tcp/443"],
        ["tcp/8080"],
    ]


def test_a_check_of_the_vip_is_that_of_a_local_service_though_the_vip_has_servers() -> None:
    (vip,) = config("servers: [10.9.2.1]", "check: http", "services: [80, {port: 81, local: true}]").vips
    assert isinstance(vip.local[0].check, Check)
    assert vip.local[0].check.kind.type == "http"


def test_what_is_required_may_take_the_place_of_port_and_check() -> None:
    require = "require: [{type: file, path: /run/serving}]"
    (vip,) = config("local: true", require).vips
    assert (vip.services, vip.local) == ((), ())
    assert vip.require is not None
    (vip,) = config("local: true", "port: 53/udp", require).vips
    (local,) = vip.local
    assert (local.protocol, local.check) == (Protocol.UDP, None)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["local: true"], "port: nothing says whether this node serves it (write the port, as in 53/udp, or require)"),
        (["local: true", "port: 53/udp"], "protocol: UDP has no handshake to check, and no check is written"),
        (
            ["local: true", "port: 80", "servers: [10.9.2.1]"],
            "servers: with local: true this node itself serves, and there is nothing to choose from (remove this line, or local)",
        ),
        (["local: true", "port: 80", "quorum: 1"], "quorum: with local: true this node itself serves"),
        (["local: true", "mark: 7"], "mark: with local: true"),
        (["local: true", "check: tcp", "require: [{type: load, max: 9}]"], "check: there is no port to check"),
        (["local: true", "port: 80", "check: {type: tcp, to: vip}"], "check: a check with to: vip needs a real server"),
        (["local: true", "services: [80, 80]"], "services.1.port: tcp/80 is at"),
        (["servers: [10.9.2.1]", "services: [80, {port: 80, local: true}]"], "services.1.port: tcp/80 is at"),
        (["local: true", "port: 80", "check: nothing"], "check: there is no check"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_told(lines: list[str], said: str) -> None:
    found = problems(*lines)
    assert any(one.startswith(said) for one in found), found
