"""Configurations of any size, the same text for both builds. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import NamedTuple

FIRST_VIP = IPv4Address("198.18.0.1")
FIRST_SERVER = IPv4Address("10.64.0.1")
LOCAL_AS, ROUTER_AS = 65001, 65000


class Size(NamedTuple):
    """So many VIPs with so many real servers each, none of which has two VIPs."""

    vips: int
    each: int

    @property
    def servers(self) -> int:
        return self.vips * self.each

    def __str__(self) -> str:
        return f"{self.vips:,} × {self.each:,}"

    @classmethod
    def read(cls, text: str) -> Size:
        """`1000x5`. Raises ValueError."""
        vips, _, each = text.partition("x")
        return cls(int(vips), int(each))


class Node(NamedTuple):
    """Where a node's agent keeps its files and listens, and whom it speaks BGP with."""

    directory: str
    name: str = "lb1"
    listen: str = "127.0.0.1:9644"
    address: str = "10.2.1.1"
    router: str = "10.2.1.254"
    ttl: str = "2s"


def vip(number: int) -> IPv4Address:
    return FIRST_VIP + number


def server(size: Size, vip: int, number: int = 0) -> IPv4Address:
    """The real server `number` of a VIP."""
    return FIRST_SERVER + vip * size.each + number


def site(
    size: Size, node: Node, *, strict: bool = False, further: int = 0, checked: Checked | None = None
) -> str:
    """The YAML of a node. `strict`: a VIP needs each of its servers; `further`: servers more in the first VIP."""
    return "\n".join(
        [*_head(node), *_pools(size, further, checked), *_vips(size, further, strict=strict), ""]
    )


class Checked(NamedTuple):
    """A real check of every server, in the place of one that nobody carries out."""

    port: int
    interval: str = "1s"


def _head(node: Node) -> Iterator[str]:
    yield f"""node:
  name: {node.name}
  runtime_dir: {node.directory}
  state_dir: {node.directory}/state
  exabgp_user: root
  listen: "{node.listen}"
bgp:
  local_as: {LOCAL_AS}
  router_id: {node.address}
  hold_time: 30
  neighbors: [{{address: {node.router}, remote_as: {ROUTER_AS}, local_address: {node.address}}}]
timing: {{lease_ttl: {node.ttl}}}"""


def _pools(size: Size, further: int, checked: Checked | None) -> Iterator[str]:
    yield "pools:"
    beat = "interval: 1s, timeout: 1s"
    if checked is not None:
        beat = f"port: {checked.port}, interval: {checked.interval}, timeout: 1s"
    for number in range(size.vips):
        yield f"  p{number}:"
        yield f"    check: {{type: tcp, {beat}, rise: 1, fall: 1}}"
        yield "    servers:"
        for one in range(size.each):
            yield f"      - {{name: s{one}, addresses: [{server(size, number, one)}]}}"
        for one in range(further if number == 0 else 0):
            yield f"      - {{name: further{one}, addresses: [{FIRST_SERVER + size.servers + one}]}}"


def _vips(size: Size, further: int, *, strict: bool) -> Iterator[str]:
    yield "vips:"
    for number in range(size.vips):
        count = size.each + (further if number == 0 else 0)
        quorum = f", quorum: {{low: {count}, high: {count}}}" if strict else ""
        yield f"  v{number}:"
        yield f"    addresses: [{vip(number)}]"
        yield f"    services: [{{port: 80, pool: p{number}, scheduler: wlc{quorum}}}]"
