"""Configuration texts of the site: FRR on the router, anycast and ExaBGP on the balancers."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lab.topology import HTTP_PORT, OPS_PORT, ROUTER_AS, RUN, SYSLOG_PORT, VIP4, VIP6, VIPS

if TYPE_CHECKING:
    from lab.topology import Balancer, Topology

ROUTER_ID = "10.1.255.254"


def zebra_conf() -> str:
    return """\
frr defaults traditional
hostname r1
! With next-hop objects FRR 8.4 keeps a one-way route in the kernel after a link flap and believes in two ways.
no zebra nexthop kernel enable
"""


def bfdd_conf() -> str:
    """No sessions of its own: bgpd asks for those it wants."""
    return "frr defaults traditional\nhostname r1\n"


def bgpd_conf(topology: Topology) -> str:
    """Sessions per family and node. A node that drains with 65535:0 is moved to local preference 0 by FRR itself."""
    families = ((4, "ipv4", "NODES4"), (6, "ipv6", "NODES6"))
    lines = [
        "frr defaults traditional",
        "hostname r1",
        f"ip prefix-list VIP4 seq 5 permit {VIPS[0]}",
        f"ipv6 prefix-list VIP6 seq 5 permit {VIPS[1]}",
        "route-map VIP4-IN permit 10",
        " match ip address prefix-list VIP4",
        "exit",
        "route-map VIP6-IN permit 10",
        " match ipv6 address prefix-list VIP6",
        " ! BIRD tells its link-local address too, by which nobody here knows a node.",
        " set ipv6 next-hop prefer-global",
        "exit",
        "! Without it every node would be told the VIPs of the others.",
        "route-map NOTHING deny 10",
        "exit",
        f"router bgp {ROUTER_AS}",
        f" bgp router-id {ROUTER_ID}",
        " no bgp default ipv4-unicast",
        " bgp bestpath as-path multipath-relax",
        " bgp graceful-restart-disable",
        " timers bgp 1 3",
    ]
    for _, _, group in families:
        lines += [
            f" neighbor {group} peer-group",
            f" neighbor {group} timers connect 1",
            f" neighbor {group} advertisement-interval 0",
        ]
    for b in topology.balancers:
        for address, group in ((b.node4, "NODES4"), (b.node6, "NODES6")):
            lines += [f" neighbor {address} remote-as {b.asn}", f" neighbor {address} peer-group {group}"]
    for version, family, group in families:
        lines += [
            f" address-family {family} unicast",
            "  maximum-paths 64",
            f"  neighbor {group} activate",
            f"  neighbor {group} route-map VIP{version}-IN in",
            f"  neighbor {group} route-map NOTHING out",
            f"  neighbor {group} maximum-prefix 1000",
            " exit-address-family",
        ]
    return "\n".join([*lines, "exit", ""])


def frr_conf(topology: Topology) -> str:
    """Both daemons' configuration in the one file that vtysh loads."""
    return zebra_conf() + "service integrated-vtysh-config\n" + bgpd_conf(topology).split("\n", 2)[2]


def anycast_yaml(
    topology: Topology,
    balancer: Balancer,
    *,
    runtime_dir: str | None = None,
    state_dir: str | None = None,
    listen: str = f"127.0.0.1:{OPS_PORT}",
) -> str:
    """The node's configuration. Directories default to the lab's own, one per node."""
    runtime = runtime_dir or f"{RUN}/{balancer.name}"
    servers = "\n".join(
        f'      - {{name: {node.name}, addresses: [{_bare(node.interfaces["lan0"][0])}, "{_bare(node.interfaces["lan0"][1])}"]}}'
        for node in topology.servers
    )
    return f"""\
node:
  name: {balancer.name}
  runtime_dir: {runtime}
  state_dir: {state_dir or f"{runtime}/state"}
  exabgp_user: root
  listen: "{listen}"
bgp:
  local_as: {balancer.asn}
  router_id: {balancer.node4}
  hold_time: 3
  neighbors:
    - {{address: {balancer.router4}, remote_as: {ROUTER_AS}, local_address: {balancer.node4}}}
    - {{address: "{balancer.router6}", remote_as: {ROUTER_AS}, local_address: "{balancer.node6}"}}
pools:
  web:
    check: {{type: http, path: /health, interval: 1s, timeout: 1s, rise: 2, fall: 3, fast_interval: 200ms}}
    servers:
{servers}
vips:
  web:
    addresses: [{VIP4}, "{VIP6}"]
    services:
      - {{port: {HTTP_PORT}, pool: web}}
      - {{port: {SYSLOG_PORT}, protocol: udp, pool: web, check: {{type: http, port: {HTTP_PORT}, path: /health}}}}
"""


def _bare(interface: str) -> str:
    return interface.partition("/")[0]


def render_exabgp(config: Path) -> tuple[str, dict[str, str]]:
    """ExaBGP's configuration and environment for a node, as `anycast render exabgp` writes them.

    In this process: starting the program twice per node would be most of the time it takes to build the lab.
    """
    from anycast.config.load import load
    from anycast.render.exabgp import exabgp_conf, exabgp_env

    node = load(config).config
    lines = [line for line in exabgp_env(node).splitlines() if line and not line.startswith("#")]
    text = exabgp_conf(node, command=f"{sys.executable} -m anycast")
    return text, dict(line.split("=", 1) for line in lines)


def render_bird(config: Path) -> tuple[str, str]:
    """What BIRD on a node includes, and the announcer's environment, as `anycast render` writes them."""
    from anycast.config.load import load
    from anycast.render.bird import bird_conf, table_env

    node = load(config).config
    return bird_conf(node), table_env(node)


def lines(file: Path) -> dict[str, str]:
    """The variables of an environment file."""
    text = file.read_text().splitlines()
    return dict(line.split("=", 1) for line in text if line and not line.startswith("#"))


def checkout() -> Path:
    return Path(__file__).resolve().parent.parent


def program_environment() -> dict[str, str]:
    """The environment of this checkout's programs, wherever they are started."""
    return {**os.environ, "PYTHONPATH": f"{checkout() / 'lab' / 'bare'}:{checkout()}"}


def node_environment(node: str) -> dict[str, str]:
    """What makes `anycast` on a node speak of that node: all nodes share one file system."""
    folder = f"{RUN}/{node}"
    return {"ANYCAST_CONFIG": f"{folder}/anycast.yaml", "ANYCAST_SOCKET": f"{folder}/control.sock"}


def program(*arguments: str) -> list[str]:
    """The argv of `anycast …` from this checkout."""
    return [sys.executable, "-m", "anycast", *arguments]
