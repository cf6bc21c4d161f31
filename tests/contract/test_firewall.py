"""The rendered rules in the kernel's packet filter: taken by nft and by both kinds of iptables, and what packets meet then.

No IPVS is needed: a packet's state is settled before it gets there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from anycast.config.load import load
from anycast.core.values.configuration import Config
from anycast.render.firewall import Hook
from anycast.render.iptables import iptables_rules
from anycast.render.nftables import nftables_accept, nftables_conf
from tests.contract.namespaces import entered, made_namespace, network_namespace, run

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
RESTORES = [f"{family}tables-{backend}-restore" for backend in ("legacy", "nft") for family in ("ip", "ip6")]
SITE = """
node: {name: lb1}
bgp:
  local_as: 65001
  router_id: 10.1.0.2
  next_hop: {ipv6: "fd01::2"}
  neighbors: [{address: 10.1.0.1, remote_as: 65000, families: [ipv4, ipv6]}]
vips:
  direct:
    address: [192.0.2.1, "2001:db8::1"]
    servers: {a: [10.9.0.1, "fd09::1"]}
    check: tcp
    services: [{port: 80}, {port: 53, protocol: udp}, {port: 3868, protocol: sctp}, {ports: [8000-8040]}]
  ipip:
    address: [192.0.2.2, "2001:db8::2"]
    servers: {a: [10.9.0.2, "fd09::2"]}
    check: tcp
    forwarding: tunnel
    port: 80
  gue:
    address: [192.0.2.3, "2001:db8::3"]
    servers: {a: [10.9.0.3, "fd09::3"]}
    check: tcp
    forwarding: tunnel
    tunnel: gue
    port: 80
  gre:
    address: [192.0.2.4, "2001:db8::4"]
    servers: {a: [10.9.0.4, "fd09::4"]}
    check: tcp
    forwarding: tunnel
    tunnel: gre
    port: 80
  nat:
    address: [192.0.2.5, "2001:db8::5"]
    servers: {a: [10.9.0.5, "fd09::5"]}
    check: tcp
    forwarding: nat
    port: 80
  marked:
    address: [192.0.2.6, "2001:db8::6"]
    servers: {a: [10.9.0.6, "fd09::6"]}
    services:
      - {mark: 7, check: {type: tcp, port: 80}}
      - {port: 81, forwarding: nat, check: tcp}
"""
SYN, FIN, RST = 0x02, 0x11, 0x04

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="no nft: lab/install brings it"),
]


@pytest.fixture
def site(tmp_path: Path) -> Config:
    file = tmp_path / "site.yaml"
    file.write_text(SITE)
    return load(file, hostname="lb1").config


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: one.stem)
def test_nft_takes_what_is_rendered_of_every_example(example: Path, tmp_path: Path) -> None:
    one = load(example, hostname="lb1").config
    with network_namespace():
        run("nft", "-c", "-f", "-", stdin=nftables_conf(one))
        for hook in ("input", "forward", "output"):
            run("nft", "-c", "-f", "-", stdin=_including(one, hook, tmp_path))


def _including(config: Config, hook: Hook, folder: Path) -> str:
    """A chain of somebody's own, which includes our rules as the file says."""
    file = folder / f"{hook}.nft"
    file.write_text(nftables_accept(config, hook))
    return (
        "table inet own {\n"
        f" chain {hook} {{\n"
        f"  type filter hook {hook} priority filter; policy drop;\n"
        f'  include "{file}"\n'
        "  ct state invalid drop\n"
        " }\n"
        "}\n"
    )


@pytest.mark.parametrize("restore", RESTORES)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: one.stem)
def test_every_iptables_takes_the_same_file(example: Path, restore: str) -> None:
    one = load(example, hostname="lb1").config
    with network_namespace():
        for accept in (False, True):
            run(restore, "--test", "--noflush", stdin=iptables_rules(one, accept=accept))
        with pytest.raises(AssertionError, match="line"):
            run(restore, "--test", "--noflush", stdin=iptables_rules(one).replace("COMMIT", "COMIT"))


def test_the_table_takes_the_place_of_the_one_before_and_touches_no_other(site: Config) -> None:
    with network_namespace():
        run(
            "nft",
            "-f",
            "-",
            stdin="table inet own { chain input { type filter hook input priority 0; ct state invalid drop; }; }",
        )
        before = run("nft", "list", "table", "inet", "own")
        run("nft", "-f", "-", stdin=nftables_conf(site))
        first = run("nft", "-s", "list", "table", "inet", "anycast")
        run("nft", "-f", "-", stdin=nftables_conf(site))
        assert run("nft", "-s", "list", "table", "inet", "anycast") == first
        assert run("nft", "list", "table", "inet", "own") == before
        # One that is refused leaves the one before as it was.
        with pytest.raises(AssertionError):
            run("nft", "-f", "-", stdin=nftables_conf(site).replace("notrack", "no_track"))
        assert run("nft", "-s", "list", "table", "inet", "anycast") == first


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_an_update_of_the_chains_leaves_the_rules_of_others_and_one_jump(site: Config, backend: str) -> None:
    restore, save = f"iptables-{backend}-restore", f"iptables-{backend}-save"
    with network_namespace():
        run(restore, stdin="*filter\n-A INPUT -m conntrack --ctstate INVALID -j DROP\nCOMMIT\n")
        run(restore, "--noflush", stdin=iptables_rules(site, accept=True))
        first = _rules(run(save))
        assert "-A INPUT -m conntrack --ctstate INVALID -j DROP" in first
        assert first.index("-A INPUT -j ANYCAST-INPUT") < first.index(
            "-A INPUT -m conntrack --ctstate INVALID -j DROP"
        )
        run(restore, "--noflush", stdin=iptables_rules(site, accept=True, update=True))
        assert _rules(run(save)) == first


def _rules(saved: str) -> list[str]:
    return [line for line in saved.splitlines() if line.startswith("-A")]


# What packets meet.

COUNTING = """
table inet counted {
    counter untracked { }
    counter tracked { }
    chain input {
        type filter hook input priority 10; policy accept;
        meta l4proto icmpv6 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld2-listener-report } accept
        iifname "lo" accept
        ct state untracked counter name untracked accept
        counter name tracked
    }
    chain output {
        type filter hook output priority 10; policy accept;
        oifname "servers0" meta l4proto { 4, 41, 47, 17 } ct state untracked counter name untracked accept
        oifname "servers0" meta l4proto { 4, 41, 47, 17 } counter name tracked
    }
}
"""
LINKS = """\
addr add 10.1.0.2/24 dev up0
addr add fd01::2/64 dev up0 nodad
link add servers0 type veth peer name nobody0
link set nobody0 up
link set servers0 arp off
link set servers0 up
addr add 10.9.255.254/16 dev servers0
addr add fd09::ffff/64 dev servers0 nodad
"""


@contextlib.contextmanager
def _balancer_and_client() -> Iterator[tuple[int, int]]:
    with made_namespace() as balancer, made_namespace() as client:
        with entered(balancer):
            run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "cl0")
            run("ip", "link", "set", "cl0", "netns", f"/proc/{os.getpid()}/fd/{client}")
            run("ip", "link", "set", "up0", "up")
            vips = [
                f"addr add 192.0.2.{n}/32 dev lo\naddr add 2001:db8::{n}/128 dev lo nodad\n"
                for n in range(1, 7)
            ]
            run("ip", "-batch", "-", stdin=LINKS + "".join(vips))
        with entered(client):
            run("ip", "link", "set", "cl0", "up")
            run(
                "ip", "-batch", "-",
                stdin="addr add 10.1.0.1/24 dev cl0\naddr add fd01::1/64 dev cl0 nodad\n"
                "route add 192.0.2.0/24 via 10.1.0.2\nroute add 2001:db8::/64 via fd01::2\n",
            )  # fmt: skip
        yield balancer, client


def _nft(config: Config) -> None:
    run("nft", "-f", "-", stdin=nftables_conf(config))


def _iptables(backend: str, config: Config) -> None:
    for family in ("ip", "ip6"):
        run(f"{family}tables-{backend}-restore", "--noflush", stdin=iptables_rules(config))


KINDS = {
    "nft": _nft,
    "iptables-legacy": partial(_iptables, "legacy"),
    "iptables-nft": partial(_iptables, "nft"),
}


@pytest.mark.parametrize("load_rules", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("version", [4, 6])
def test_what_ipvs_passes_on_is_untracked_and_nothing_else(
    version: int, load_rules: Callable[[Config], None], site: Config
) -> None:
    with _balancer_and_client() as (balancer, client):
        with entered(balancer):
            run("nft", "-f", "-", stdin=COUNTING)
            load_rules(site)
        seen = partial(_seen, (balancer, client), version)
        direct, ipip, gue, gre, nat, marked = (_vip(version, number) for number in range(1, 7))
        for flags in (SYN, FIN, RST):
            for vip in (direct, ipip, gue, gre, marked):
                assert seen(vip, 6, _tcp(80, flags)) == "untracked", (vip, flags)
            assert seen(direct, 6, _tcp(8040, flags)) == "untracked"
            assert seen(direct, 6, _tcp(8041, flags)) == "tracked"
            assert seen(nat, 6, _tcp(80, flags)) == "tracked"
            assert seen(marked, 6, _tcp(81, flags)) == "tracked"
        assert seen(direct, 17, _udp(53)) == "untracked"
        assert seen(direct, 17, _udp(54)) == "tracked"
        assert seen(marked, 17, _udp(1000)) == "untracked"
        assert seen(direct, 132, struct.pack("!HHII", 1000, 3868, 1, 0) + bytes(16)) == "untracked"
        # Path MTU: about an answer that a real server sent with the VIP as its source, and about a wrapped packet.
        icmp = 1 if version == 4 else 58
        for vip in (direct, ipip, gue, gre):
            assert seen(vip, icmp, _too_big(version, 6, _tcp(2000, 0))) == "untracked"
        assert seen(nat, icmp, _too_big(version, 6, _tcp(2000, 0))) == "tracked"
        own = "10.1.0.2" if version == 4 else "fd01::2"
        inside = 4 if version == 4 else 41
        assert seen(own, icmp, _too_big(version, inside, bytes(8))) == "untracked"
        assert seen(own, icmp, _too_big(version, 47, bytes(8))) == "untracked"
        assert seen(own, icmp, _too_big(version, 17, _udp(6080))) == "untracked"
        assert seen(own, icmp, _too_big(version, 17, _udp(6081))) == "tracked"
        assert seen(own, icmp, _too_big(version, 6, _tcp(80, 0))) == "tracked"
        # Wrapped packets, as they leave for the real servers.
        leaves = partial(_seen, (balancer, balancer), version)
        servers = [f"10.9.0.{n}" if version == 4 else f"fd09::{n}" for n in range(1, 6)]
        assert leaves(servers[1], inside, bytes(20)) == "untracked"
        assert leaves(servers[2], 17, _udp(6080)) == "untracked"
        assert leaves(servers[3], 47, bytes(8)) == "untracked"
        assert leaves(servers[4], inside, bytes(20)) == "tracked"
        assert leaves(servers[4], 17, _udp(6080)) == "tracked"


def _vip(version: int, number: int) -> str:
    return f"192.0.2.{number}" if version == 4 else f"2001:db8::{number}"


def _seen(ends: tuple[int, int], version: int, to: str, protocol: int, payload: bytes) -> str:
    """The name of the counter that one packet has moved. `ends`: the namespaces of the balancer and the sender."""
    balancer, sender = ends
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with entered(balancer):
        before = _counters()
    with entered(sender), socket.socket(family, socket.SOCK_RAW, protocol) as line:
        line.sendto(payload, (to, 0))
    with entered(balancer):
        for _ in range(1000):  # a packet over a veth is there at once, or after a turn of its queue
            after = _counters()
            if moved := [name for name in after if after[name] > before[name]]:
                (name,) = moved
                return name
    raise AssertionError(f"no packet of protocol {protocol} to {to} has come")


def _counters() -> dict[str, int]:
    listed = json.loads(run("nft", "-j", "list", "counters", "table", "inet", "counted"))["nftables"]
    return {one["counter"]["name"]: one["counter"]["packets"] for one in listed if "counter" in one}


def _tcp(port: int, flags: int) -> bytes:
    return struct.pack("!HHIIBBHHH", 40000, port, 1, 1, 5 << 4, flags, 1000, 0, 0)


def _udp(port: int) -> bytes:
    return struct.pack("!HHHH", 40000, port, 8, 0)


def _too_big(version: int, protocol: int, quoted: bytes) -> bytes:
    """ICMP about a packet from the VIP or the balancer of that protocol; with its checksum, without which it is dropped."""
    if version == 6:  # the kernel writes the checksum
        ends = ip_address("2001:db8::1").packed + ip_address("fd09::1").packed
        inner = struct.pack("!IHBB", 6 << 28, len(quoted), protocol, 64) + ends + quoted
        return struct.pack("!BBHI", 2, 0, 0, 1280) + inner
    ends = IPv4Address("192.0.2.1").packed + IPv4Address("10.9.0.1").packed
    inner = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(quoted), 1, 0x4000, 64, protocol, 0) + ends + quoted
    body = struct.pack("!BBHHH", 3, 4, 0, 0, 1280) + inner
    body += bytes(len(body) % 2)
    total = sum(struct.unpack(f"!{len(body) // 2}H", body))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:]
