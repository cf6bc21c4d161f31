from __future__ import annotations

import functools
import re
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.cli.main import main
from anycast.config.load import load
from anycast.core.dataplane.passage import Flow, passage
from anycast.core.values.configuration import Config, Forwarding, Protocol, Service, Vip
from anycast.render.iptables import iptables_rules
from anycast.render.nftables import nftables_accept, nftables_conf

FULL = Path(__file__).parents[3] / "examples" / "full.yaml"
GOLDEN = Path(__file__).parent / "golden"


@functools.cache
def config() -> Config:
    return load(FULL, hostname="lb1").config


def with_services(*services: Service, addresses: tuple[str, ...] = ("192.0.2.1",)) -> Config:
    vip = Vip(name="v", addresses=tuple(map(ip_address, addresses)), services=services)
    return replace(config(), vips=(vip,))


def service(protocol: Protocol = Protocol.TCP, port: int = 80, **changes: object) -> Service:
    pool = config().vips[0].services[0].pool
    return Service(pool=pool, protocol=protocol, port=port, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "golden"),
    [
        (["nftables"], "nftables.conf"),
        (["nftables", "--accept", "input"], "nftables-input.conf"),
        (["iptables", "--accept"], "iptables.rules"),
    ],
)
def test_the_rules_of_the_full_example(
    options: list[str], golden: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", *options, "--config", str(FULL)]) == 0
    assert capsys.readouterr().out == (GOLDEN / golden).read_text(encoding="ascii")


def test_masqueraded_services_stay_tracked_and_are_said_to_need_a_sysctl() -> None:
    one = with_services(service(forwarding=Forwarding.NAT))
    for text in (nftables_conf(one), iptables_rules(one)):
        assert "notrack" not in text
        assert "net.ipv4.vs.conntrack=1" in text
    assert "conntrack=1" not in nftables_conf(with_services(service()))
    assert "tcp dport { 192.0.2.1 . 80 } accept" in nftables_accept(one, "input")
    assert "ct state established,related accept" in nftables_accept(one, "forward")


def test_a_mark_takes_the_whole_vip_but_for_its_masqueraded_services() -> None:
    one = with_services(service(port=0, mark=7), service(port=81, forwarding=Forwarding.NAT))
    rules = [line.strip() for line in nftables_conf(one).splitlines()]
    exempt = rules.index("ip daddr . tcp dport @nat_tcp4 accept")
    (whole,) = [at for at, line in enumerate(rules) if line.startswith("ip daddr @marked4 notrack")]
    assert exempt < whole
    lines = iptables_rules(one).splitlines()
    exempt = lines.index("-4 -A ANYCAST-PREROUTING -d 192.0.2.1/32 -p tcp -m multiport --dports 81 -j RETURN")
    assert lines[exempt + 1] == "-4 -A ANYCAST-PREROUTING -d 192.0.2.1/32 -j CT --notrack"


def test_an_update_has_the_same_rules_and_no_jumps() -> None:
    def rules(*, update: bool) -> list[str]:
        text = iptables_rules(config(), accept=True, update=update)
        return [line for line in text.splitlines() if not line.startswith("#")]

    jumps = [line for line in rules(update=False) if line.startswith("-I")]
    assert len(jumps) == 5
    assert [line for line in rules(update=False) if line not in jumps] == rules(update=True)


def test_a_flow_of_two_services_or_two_vips_is_there_once() -> None:
    one = with_services(service(), service(), service(Protocol.UDP, 53))
    vip = one.vips[0]
    ways = passage(replace(one, vips=(vip, replace(vip, name="again"))))
    address = IPv4Address("192.0.2.1")
    assert ways.direct == (
        Flow(address=address, protocol=Protocol.TCP, port=80),
        Flow(address=address, protocol=Protocol.UDP, port=53),
    )


_RULE = re.compile(
    r"-4 -A ANYCAST-PREROUTING -d (\S+) -p (tcp|udp|sctp) -m multiport --dports (\S+) -j CT --notrack"
)


@given(
    st.dictionaries(
        st.integers(0, 40).map(lambda number: f"192.0.2.{number}"),
        st.sets(st.tuples(st.sampled_from(list(Protocol)), st.integers(1, 60).map(lambda n: 8000 + n))),
        max_size=12,
    )
)
def test_the_rules_of_iptables_are_about_these_flows_and_no_others(
    flows: dict[str, set[tuple[Protocol, int]]],
) -> None:
    vips = tuple(
        Vip(name=text, addresses=(ip_address(text),), services=tuple(service(*one) for one in sorted(some)))
        for text, some in flows.items()
    )
    covered = set()
    for network, protocol, ports in _RULE.findall(iptables_rules(replace(config(), vips=vips))):
        assert sum(2 if ":" in one else 1 for one in ports.split(",")) <= 15
        for one in ports.split(","):
            low, _, high = one.partition(":")
            for port in range(int(low), int(high or low) + 1):
                covered |= {(str(address), Protocol(protocol), port) for address in ip_network(network)}
    assert covered == {(text, *one) for text, some in flows.items() for one in some}
