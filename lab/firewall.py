"""A stateful firewall on the lab's balancers, as people write them, and the counting of what it must let through.

In iptables' legacy tables, for the lab's kernels have no nftables of the families ip, ip6 and inet. The rules in front of
it are those of `anycast render iptables`.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lab.control import Lab
from lab.topology import HTTP_PORT, SYSLOG_PORT, VIP4, VIP6

_FAMILIES = {"iptables": ("icmp", VIP4), "ip6tables": ("ipv6-icmp", VIP6)}
# Ports: BGP; BFD and connection sync.
_STATEFUL = f"""\
*filter
:INPUT DROP
:FORWARD DROP
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A INPUT -i lo -j ACCEPT
-A INPUT -p {{icmp}} -j ACCEPT
-A INPUT -p tcp -m multiport --dports {HTTP_PORT},179 -j ACCEPT
-A INPUT -p udp -m multiport --dports {SYSLOG_PORT},3784,8848 -j ACCEPT
COMMIT
"""
_COUNTING = """\
*filter
-A {chain} -d {vip} -p tcp --dport {port} --tcp-flags FIN FIN
-A {chain} -d {vip} -p tcp --dport {port} --tcp-flags RST RST
COMMIT
"""
_COUNTED = re.compile(r"\[(\d+):\d+\] -A .* --tcp-flags (FIN|RST) ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Closes:
    """Segments to the VIPs."""

    fin: int
    rst: int

    def __str__(self) -> str:
        return f"{self.fin:,} and {self.rst:,}"


def has_legacy_tables() -> bool:
    """Whether this kernel has them: User-Mode-Linux 7.2 of Debian unstable has not."""
    return subprocess.run(["modprobe", "--quiet", "--dry-run", "ip_tables"], check=False).returncode == 0


def put_up(lab: Lab, node: str, *, rendered: bool = True) -> None:
    """Until `take_down` the balancer has a stateful firewall; `rendered`: with the rules that it needs before it."""
    rules = lab.node_cli(node, "render", "iptables", check=True, timeout=100.0).stdout if rendered else ""
    for program, (icmp, _) in _FAMILIES.items():
        _restore(lab, node, program, _STATEFUL.format(icmp=icmp))
        _restore(lab, node, program, rules, "--noflush")


def take_down(lab: Lab, node: str) -> None:
    empty = "*raw\nCOMMIT\n*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\nCOMMIT\n"
    for program in _FAMILIES:
        _restore(lab, node, program, empty)


@contextlib.contextmanager
def checks_dropped(lab: Lab, nodes: Sequence[str]) -> Iterator[None]:
    """The balancers' own packets to real servers, in one moment on all. Those of clients have the clients' addresses."""

    def rules(action: str) -> None:
        each = [
            (
                node,
                f"{program}-legacy",
                action,
                "OUTPUT",
                "-s",
                own,
                "-p",
                "tcp",
                "--dport",
                "80",
                "-j",
                "DROP",
            )
            for node in nodes
            for program, address in zip(_FAMILIES, lab.topology.node(node).interfaces["lan0"], strict=True)
            for own in [address.partition("/")[0]]
        ]
        with ThreadPoolExecutor(len(each)) as pool:
            list(pool.map(lambda words: lab.exec(*words), each))

    rules("-A")
    try:
        yield
    finally:
        rules("-D")


class Counter:
    """Counts what ends connections to the VIPs: where clients send it, and where it arrives."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._servers = [server.name for server in lab.topology.servers]
        for node in ("cl", *self._servers):
            chain = "OUTPUT" if node == "cl" else "INPUT"
            for program, (_, vip) in _FAMILIES.items():
                _restore(lab, node, program, _COUNTING.format(chain=chain, vip=vip, port=HTTP_PORT))

    def sent(self) -> Closes:
        return self._sum(["cl"])

    def arrived(self) -> Closes:
        """At the real servers. Only what was sent before this is asked may be missing."""
        return self._sum(self._servers)

    def close(self) -> None:
        for node in ("cl", *self._servers):
            take_down(self._lab, node)

    def _sum(self, nodes: Sequence[str]) -> Closes:
        found = {"FIN": 0, "RST": 0}
        for node in nodes:
            for program in _FAMILIES:
                saved = self._lab.exec(node, f"{program}-legacy-save", "-c", "-t", "filter").stdout
                for packets, flag in _COUNTED.findall(saved):
                    found[flag] += int(packets)
        return Closes(fin=found["FIN"], rst=found["RST"])


def _restore(lab: Lab, node: str, program: str, text: str, *options: str) -> None:
    script = f'printf %s "$1" | {program}-legacy-restore {" ".join(options)}'
    lab.exec(node, "sh", "-ec", script, "sh", text)
