"""A node with nothing to find, and a configuration it serves. Tests break one thing of them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface

from anycast.config.load import loads
from anycast.core.dataplane.kernel import IPVS_SYSCTLS
from anycast.core.values.configuration import Address, Config, Forwarding, Scheduler, Tunnel
from anycast.doctor.facts import Facts, Interface, Modules, Route, conf
from anycast.doctor.finding import Code, Finding, Severity
from anycast.doctor.findings import findings

CONFIG = """\
node: {name: lb1}
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors: [{address: 10.2.1.254, remote_as: 65000}]
vips:
  web: {address: 192.0.2.1, port: 80, servers: [10.9.2.1, 10.9.2.2]}
"""
ROUTER = ip_address("10.2.1.254")
SERVERS = ip_address("10.9.2.1"), ip_address("10.9.2.2")
QUIET = {
    conf(name, key): "0"
    for name in ("all", "up0", "lan0")
    for key in ("rp_filter", "arp_ignore", "arp_announce")
}
LO = Interface(name="lo", up=True, mtu=65536, neighbours=False, addresses=(ip_interface("127.0.0.1/8"),))
UP0 = Interface(name="up0", up=True, mtu=1500, addresses=(ip_interface("10.2.1.1/24"),))
LAN0 = Interface(name="lan0", up=True, mtu=1500, addresses=(ip_interface("10.9.1.1/16"),))
EVERY_MODULE = frozenset({"ip_vs", "ip_vs_mh", "ip_vs_rr", "ip_vs_wlc"})
GOOD = Facts(
    release="6.1.0-18-amd64",
    root=True,
    capabilities=frozenset(range(41)),
    initial_user_namespace=True,
    memory=16 * 10**9,
    modules=Modules(
        loaded=frozenset({"ip_vs", "ip_vs_mh"}),
        available=EVERY_MODULE,
        by_file=frozenset({"ip_vs", "ip_vs_mh"}),
    ),
    conn_tab_bits=20,
    sysctls={**IPVS_SYSCTLS, **QUIET, "net.ipv4.vs.pmtu_disc": "1"},
    interfaces=(LO, UP0, LAN0),
    routes={
        ROUTER: Route(interface="up0", mtu=1500),
        **{server: Route(interface="lan0", mtu=1500) for server in SERVERS},
    },
    uplinks=frozenset({"up0"}),
    ipvs=frozenset(),
)


def config(text: str = CONFIG) -> Config:
    return loads(text).config


def serving(
    *,
    forwarding: Forwarding = Forwarding.DR,
    scheduler: Scheduler = Scheduler.MH,
    addresses: tuple[Address, ...] | None = None,
    tunnel: Tunnel = Tunnel(),  # noqa: B008
    text: str = CONFIG,
) -> Config:
    """The configuration with its one service changed."""
    one = config(text)
    (vip,) = one.vips
    (service,) = vip.services
    changed = replace(service, forwarding=forwarding, scheduler=scheduler, flags=frozenset(), tunnel=tunnel)
    return replace(one, vips=(replace(vip, services=(changed,), addresses=addresses or vip.addresses),))


def sysctls(**values: str) -> Facts:
    """The good node with other values; two underscores stand for a dot."""
    named = {name.replace("__", "."): value for name, value in values.items()}
    return replace(GOOD, sysctls={**GOOD.sysctls, **named})


def found(
    facts: Facts, code: Code, asked: Config | None = None, *, connections: int | None = None
) -> Finding:
    """The one finding of that code. Fails where there is none, or another."""
    every = findings(facts, asked or config(), connections=connections)
    (one,) = (finding for finding in every if finding.code is code)
    return one


def codes(facts: Facts, asked: Config | None = None) -> set[Code]:
    """What is found beyond the table's size and hints, with the test's configuration."""
    every = findings(facts, asked or config())
    return {one.code for one in every if one.code not in (Code.CONN_TAB, Code.TUNNEL_REAL_SERVERS)}


def above_info(facts: Facts, asked: Config | None) -> list[Code]:
    return [one.code for one in findings(facts, asked) if one.severity is not Severity.INFO]
