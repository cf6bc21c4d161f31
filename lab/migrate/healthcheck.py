"""From ExaBGP's healthcheck in front of an IPVS table that somebody else fills to anycast, one node after the other."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab.control import Lab
from lab.migrate.story import Story
from lab.peer_healthcheck import process_section
from lab.topology import HTTP_PORT, ROUTER_AS, VIP4, VIP6, VIPS, Balancer, topology
from lab.trial import PATIENCE

SERVERS = 4
DISABLE = "/etc/exabgp/disabled"
CHECK = "/etc/exabgp/check"
PROGRAM = "exabgp-healthcheck"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """The one that there is."""

    name: str
    words: str


WAYS = {"healthcheck": Way(name="healthcheck", words="one node after the other")}


def exabgp_conf(balancer: Balancer, program: str) -> str:
    """As people have it: a process that runs healthcheck, and a neighbor for each family."""
    head = process_section(program, CHECK, DISABLE).replace("process anycast", "process watch")
    neighbors = "".join(
        f"neighbor {router} {{\n    router-id {balancer.node4};\n    local-address {own};\n    local-as {balancer.asn};\n"
        f"    peer-as {ROUTER_AS};\n    hold-time 3;\n    family {{\n        {family} unicast;\n    }}\n"
        "    api {\n        processes [ watch ];\n    }\n}\n"
        for router, own, family in (
            (balancer.router4, balancer.node4, "ipv4"),
            (balancer.router6, balancer.node6, "ipv6"),
        )
    )
    return head + neighbors


def table() -> str:
    """For `ipvsadm -R`."""
    lines = []
    for place, vip in enumerate((VIP4, VIP6)):
        service = f"[{vip}]:{HTTP_PORT}" if ":" in vip else f"{vip}:{HTTP_PORT}"
        lines.append(f"-A -t {service} -s mh -b mh-fallback,mh-port")
        for server in topology(servers=SERVERS).servers:
            address = server.interfaces["lan0"][place].partition("/")[0]
            real = f"[{address}]:{HTTP_PORT}" if ":" in address else f"{address}:{HTTP_PORT}"
            lines.append(f"-a -t {service} -r {real} -g -w 1")
    return "\n".join([*lines, ""])


def build(lab: Lab, _: Way) -> None:
    """The site, with healthcheck at work on every node."""
    lab.build(daemons=False)
    lab.watch()
    program = lab.run / "bin" / PROGRAM
    program.symlink_to(Path(sys.executable).with_name(PROGRAM))
    server = topology().servers[0].interfaces["lan0"][0].partition("/")[0]
    for balancer in lab.topology.balancers:
        node, folder = balancer.name, lab.run / balancer.name
        lab.render(node)  # for ExaBGP's environment
        (folder / "exabgp.conf").write_text(exabgp_conf(balancer, str(program)))
        (folder / "table").write_text(table())
        (folder / "check").write_text(f"#!/bin/bash\nexec 3<>/dev/tcp/{server}/{HTTP_PORT}\n")
        script = [
            f"install -Dm755 {folder}/check {CHECK}",
            f"install -m644 {folder}/exabgp.conf /etc/exabgp/exabgp.conf",
            *(f"ip address add {vip} dev lo" for vip in VIPS),
            f"ipvsadm -R < {folder}/table",
            "sysctl -qw net.ipv4.vs.sloppy_tcp=1",
        ]
        lab.exec(node, "sh", "-ec", "\n".join(script))
        lab.start(node, "exabgp")
    for vip in VIPS:
        lab.wait_route(vip, [one.name for one in lab.topology.balancers], PATIENCE)


def merged(node: str, neighbors: str, table: str) -> str:
    """Sessions and MED of the one import, VIPs of the other, and the check that the table cannot tell of."""
    sessions: dict[str, Any] = yaml.safe_load(neighbors)
    served: dict[str, Any] = yaml.safe_load(table)
    metrics = {vip["address"]: vip["med"] for vip in sessions["vips"].values()}
    for vip in served["vips"].values():
        vip["med"] = metrics[vip["address"]]
        vip["check"] = {"type": "http", "path": "/health"}
    return yaml.safe_dump(
        {"node": {"name": node, "exabgp_user": "root"}, **served, "bgp": sessions["bgp"]}, sort_keys=False
    )


class Move:
    """The steps, in their order."""

    def __init__(self, story: Story, _: Way) -> None:
        self.story = story
        self.lab = story.lab
        self.nodes = [one.name for one in story.lab.topology.balancers]

    def there(self) -> None:
        self.before()
        for number, node in enumerate(self.nodes, 1):
            self.over(number, node)

    def back(self) -> None:
        for number, node in enumerate(self.nodes, len(self.nodes) + 1):
            self.home(number, node)

    def before(self) -> None:
        story, node = self.story, self.nodes[0]
        with story.step("0. The nodes as they are"):
            story.type(node, "cat /etc/exabgp/exabgp.conf")
            story.type(node, "ipvsadm -Sn")
            story.type(node, "sysctl net.ipv4.vs.sloppy_tcp")
            story.router(f"show ip route {VIPS[0]}")

    def over(self, number: int, node: str) -> None:
        story = self.story
        with story.step(f"{number}. {node}: out of the routers, taken over, in again"):
            self._imported(node, shown=node == self.nodes[0])
            story.type(node, "anycast check")
            story.type(node, "ipvsadm -Sn > /run/before")
            story.type(node, f"touch {DISABLE}")
            self._routed([other for other in self.nodes if other != node])
            self.lab.stop(node, "exabgp", PATIENCE)
            story.note(f"{node}: once the router sends it nothing more: systemctl disable --now exabgp")
            self.lab.render(node)
            self.lab.start(node, "exabgp")
            self.lab.start(node, "agent")
            story.note(
                f"{node}: systemctl start anycast-exabgp anycast-agent, which the lab does without systemd"
            )
            self._routed(self.nodes)
            story.type(node, "ipvsadm -Sn | diff /run/before - && echo the same", fails=True)
            story.router(f"show ip route {VIPS[0]}")

    def _imported(self, node: str, *, shown: bool) -> None:
        story, folder = self.story, self.lab.run / node
        story.type(
            node,
            "cd /etc/anycast; anycast import exabgp /etc/exabgp/exabgp.conf -o neighbors.yaml",
            quiet=not shown,
        )
        story.type(node, "cd /etc/anycast; anycast import ipvs -o table.yaml", quiet=not shown)
        texts = ((folder / f"{name}.yaml").read_text() for name in ("neighbors", "table"))
        self.lab.config(node).write_text(merged(node, *texts))
        story.note(
            "anycast.yaml is made of both: bgp and med of the first, the rest of the second, with a check"
        )
        if shown:
            story.type(node, "cat /etc/anycast/anycast.yaml", most=80)

    def home(self, number: int, node: str) -> None:
        """Maintenance, for then the route is gone before anything of the node ends."""
        story = self.story
        with story.step(f"{number}. Back: {node}"):
            story.type(node, "anycast maintenance on --reason 'back to healthcheck' --wait", quiet=True)
            self.lab.stop(node, "agent", PATIENCE)
            self.lab.stop(node, "exabgp", PATIENCE)
            story.note(f"{node}: systemctl disable --now anycast-agent anycast-exabgp")
            balancer = next(one for one in self.lab.topology.balancers if one.name == node)
            program = str(self.lab.run / "bin" / PROGRAM)
            (self.lab.run / node / "exabgp.conf").write_text(exabgp_conf(balancer, program))
            story.type(node, f"rm {DISABLE}")
            self.lab.start(node, "exabgp")
            story.note(f"{node}: systemctl enable --now exabgp")
            self._routed(self.nodes)

    def _routed(self, nodes: list[str]) -> None:
        for vip in VIPS:
            self.lab.wait_route(vip, nodes, PATIENCE)
