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
from anycast.render.firewall import doubts
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


NODE = """\
node: {name: lb1}
bgp: {local_as: 65001, router_id: 10.2.1.1, neighbors: [{address: 10.2.1.254, remote_as: 65000}]}
vips:
"""
DIRECT = NODE + "  web: {address: 192.0.2.1, port: 80, servers: [10.9.2.1], check: tcp}\n"
NAT = DIRECT.replace("check", "forwarding: nat, check")
NOTHING = NODE.replace("vips:", "vips: {}")


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (DIRECT, ["nftables"], ""),
        (DIRECT, ["iptables", "--accept"], ""),
        (DIRECT, ["nftables", "--accept", "output"], ""),
        (
            DIRECT,
            ["nftables", "--accept", "forward"],
            "no rule was written: only answers of `forwarding: nat`",
        ),
        (NAT, ["nftables"], "no rule was written: every service has `forwarding: nat`, and stays tracked"),
        (NAT, ["iptables"], "no rule was written: every service has `forwarding: nat`"),
        (NAT, ["iptables", "--update"], "no rule was written: every service has"),
        (NAT, ["iptables", "--accept"], ""),
        (NAT, ["nftables", "--accept", "forward"], ""),
        (NAT, ["nftables", "--accept", "output"], ""),
        (NOTHING, ["nftables"], "no rule was written: no VIP has a service"),
        (NOTHING, ["nftables", "--accept", "input"], "no rule was written: no VIP has a service"),
        (NOTHING, ["iptables", "--accept"], "no rule was written: no VIP has a service"),
    ],
)
def test_a_file_without_rules_says_why_and_so_does_the_program(
    text: str, options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "anycast.yaml").write_text(text)
    assert main(["render", *options, "--config", str(file)]) == 0
    done = capsys.readouterr()
    assert done.err.startswith(f"warning: {said}" if said else "")
    assert len(done.err.splitlines()) == bool(said)
    assert ("# There is no rule" in done.out) == bool(said)
    wanted = r" accept| -j ACCEPT" if "--accept" in options else r"notrack"
    rules = [line for line in done.out.splitlines() if not line.lstrip().startswith("#")]
    assert bool([line for line in rules if re.search(wanted, line)]) == (not said)


@pytest.mark.parametrize(
    ("others", "said"),
    [
        (
            {"port": 80},
            "the packets of tcp/80 are notrack, also those that somebody marks for mark/7 with `forwarding: nat`",
        ),
        (
            {"port": 0, "mark": 8},
            "every packet to it is notrack for the sake of mark/8, those of mark/7 with `forwarding: nat` too",
        ),
        ({"port": 80, "forwarding": Forwarding.NAT}, ""),
    ],
)
def test_a_vip_with_a_masqueraded_mark_and_direct_services_is_told_of(
    others: dict[str, object], said: str
) -> None:
    one = with_services(service(port=0, mark=7, forwarding=Forwarding.NAT), service(**others))  # type: ignore[arg-type]
    found = list(doubts(one))
    assert len(found) == bool(said)
    for text in found:
        assert text.startswith("vips.v: ")
        assert said in text
        assert "a VIP of" in text
    # As it is told, so it is done.
    whole = "ip daddr @marked4 notrack" in nftables_conf(one)
    assert whole == ("every packet" in said)
    assert ("ip daddr . tcp dport @tcp4 notrack" in nftables_conf(one)) == ("the packets of" in said)


def test_the_program_tells_of_such_a_vip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    services = "services: [{port: 80}, {mark: 7, forwarding: nat, check: {type: tcp, port: 80}}]"
    (file := tmp_path / "anycast.yaml").write_text(DIRECT.replace("port: 80", services))
    for options in (["nftables"], ["iptables"], ["nftables", "--accept", "forward"]):
        assert main(["render", *options, "--config", str(file)]) == 0
        assert capsys.readouterr().err.startswith("warning: vips.web: the packets of tcp/80 are notrack")


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
