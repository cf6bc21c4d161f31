"""What the kernel of a node says about IPVS and TCP, read in its namespace. No program is started: that is dear."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from ipaddress import ip_address
from pathlib import Path

from lab import netns

Table = dict[str, list[str]]  # `TCP 192.0.2.1:80 mh`: [`10.9.2.4:80 Route 1`, …] in the kernel's order
Flow = tuple[str, int]  # address and port of the client's end
_NET = Path("/proc/thread-self/net")


def table_of(node: str) -> Table:
    """The node's IPVS table with the order of real servers. `ipvsadm -S` sorts them, and has the flags."""
    table: Table = {}
    service = ""
    with netns.inside(node):
        lines = (_NET / "ip_vs").read_text().splitlines()[3:]
    for line in lines:
        first, where, *words = line.split()
        if first == "->":
            table[service].append(" ".join((_endpoint(where), *words[:2])))
        else:
            service = " ".join((first, _endpoint(where), *words))
            table.setdefault(service, [])  # a mark of both families is two services of one name
    return table


def weights(node: str, addresses: Collection[str]) -> set[int]:
    """The weights of the real server with these addresses behind every service; empty: it is nowhere."""
    lines = (line for lines in table_of(node).values() for line in lines)
    return {int(line.rpartition(" ")[2]) for line in lines if _host(line) in addresses}


def live(client: str) -> set[Flow]:
    """The client's ends of every TCP connection that is established."""
    return {_client(own) for own, state in _sockets(client) if state == "01"}


def listening(node: str) -> set[int]:
    """The TCP ports that somebody listens at."""
    return {_client(own)[1] for own, state in _sockets(node) if state == "0A"}


def _sockets(node: str) -> list[tuple[str, str]]:
    """Own end and state of every TCP socket."""
    with netns.inside(node):
        lines = [
            line.split() for name in ("tcp", "tcp6") for line in (_NET / name).read_text().splitlines()[1:]
        ]
    return [(line[1], line[3]) for line in lines]


def known(node: str) -> set[Flow]:
    """The client's ends of the TCP connections that the node's kernel has."""
    with netns.inside(node):
        lines = (_NET / "ip_vs_conn").read_text().splitlines()[1:]
    words = [line.split() for line in lines]
    return {(_ip(line[1]), int(line[2], 16)) for line in words if line[0] == "TCP"}


def knows(node: str, flows: set[Flow]) -> bool:
    """Whether the node's kernel has all of these TCP connections."""
    return flows <= known(node)


class Counter:
    """Packets IPVS has taken in on a node. Per CPU: the kernel adds the total up every two seconds only."""

    def __init__(self, node: str) -> None:
        with netns.inside(node):
            self._fd = os.open(_NET / "ip_vs_stats_percpu", os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> int:
        lines = os.pread(self._fd, 65536, 0).decode().splitlines()[2:]
        rows = (line.split() for line in lines)
        return sum(int(row[2], 16) for row in rows if len(row) == 6 and row[0] != "~")

    def close(self) -> None:
        os.close(self._fd)


def _client(text: str) -> Flow:
    """`0100010A:C350` of /proc/net/tcp, its words in the byte order of the machine."""
    host, _, port = text.partition(":")
    words = [bytes.fromhex(host[n : n + 8]) for n in range(0, len(host), 8)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    return str(ip_address(packed)), int(port, 16)


def _ip(text: str) -> str:
    """`0A010001` and `fd00:0001:…` of /proc/net/ip_vs_conn."""
    return str(ip_address(text if ":" in text else int(text, 16)))


def _endpoint(text: str) -> str:
    """`C0000201:0050`, `[2001:0db8:…]:0050` and a mark, `00000007`, as people write them."""
    host, _, port = text.rpartition(":")
    if not host:
        return str(int(port, 16))
    if host.startswith("["):
        return f"[{ip_address(host[1:-1])}]:{int(port, 16)}"
    return f"{ip_address(int(host, 16))}:{int(port, 16)}"


def _host(line: str) -> str:
    """`fd00:9::2:4` of `[fd00:9::2:4]:80 Route 1`."""
    return line.partition(" ")[0].rpartition(":")[0].strip("[]")
