"""What to write instead: the lines that would be right, and the keys that other programs have for the same.

`LINES` is looked up by the end of a path; the longest that fits is taken. `*` is a name or a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from anycast.config.problem import Path
from anycast.core.names import listed, nearest

FEW = 12  # keys or words that are listed whole

_SECTIONS = ("nodes", "hooks", "checks", "pools", "vips")

LINES: Mapping[tuple[str, ...], str] = {
    ("bgp",): """\
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors: [{address: 10.2.1.254, remote_as: 65000}]""",
    ("bgp", "neighbors"): """\
neighbors:
  - {address: 10.2.1.254, remote_as: 65000}""",
    ("bgp", "neighbors", "*"): "- {address: 10.2.1.254, remote_as: 65000}",
    ("next_hop",): 'next_hop: {ipv4: 10.2.1.1, ipv6: "fd00:2:1::1"}',
    ("families",): "families: [ipv4, ipv6]",
    ("bfd",): "bfd: {interval: 100ms, multiplier: 3}",
    ("node",): "node: {name: lb1, interface: lo}",
    ("timing",): "timing: {drain: 2s}",
    ("timeouts",): "timeouts: {tcp: 15m, tcp_fin: 2m, udp: 5m}",
    ("connection_sync",): "connection_sync: {interface: eth1, id: 1}",
    ("nodes",): """\
nodes:
  lb1: {bgp: {router_id: 10.2.1.1}}
  lb2: {bgp: {router_id: 10.2.1.2}}""",
    ("fleet",): "fleet: {view: peers, token_file: /etc/anycast/fleet.token}",
    ("etcd",): "etcd: {endpoints: [https://10.0.0.1:2379], prefix: /anycast/}",
    ("velocity",): "velocity: {nodes: 1, window: 1m}",
    ("capacity",): "capacity: {packets: 1M, bits: 10G, limit: 70%}",
    ("fleet", "tls"): """\
tls: {certificate: /etc/anycast/node.pem, key: /etc/anycast/node.key, ca: /etc/anycast/fleet.pem}""",
    ("include",): "include: [vips.d/*.yaml]",
    ("hooks",): """\
hooks:
  pager: {url: https://pager.example.net/v1, token_file: /etc/anycast/pager.token}""",
    ("hooks", "*"): "pager: {url: https://pager.example.net/v1, token_file: /etc/anycast/pager.token}",
    ("checks",): """\
checks:
  web: {type: http, path: /health}""",
    ("checks", "*"): "web: {type: http, path: /health}",
    ("check",): "check: {type: http, path: /health}",
    ("require",): "require: [{type: carrier, interface: eth0}]",
    ("of",): "of: [one-check, {type: tcp, port: 22}]",
    ("headers",): "headers: {X-Check: anycast}",
    ("expect",): 'expect: [200, "3xx"]',
    ("steps",): """\
steps:
  - expect: "^220 "
  - send: "QUIT\"""",
    ("argv",): "argv: [/usr/local/bin/check-it, --quick]",
    ("answer",): "answer: [192.0.2.80]",
    ("hold_down",): "hold_down: {half_life: 60s}",
    ("pools",): """\
pools:
  web: {servers: [10.9.2.1, 10.9.2.2]}""",
    ("pools", "*"): "web: {servers: [10.9.2.1, 10.9.2.2]}",
    ("servers",): "servers: [10.9.2.1, 10.9.2.2]",
    ("servers", "*"): "- {name: web1, address: 10.9.2.1, weight: 1}",
    ("vips",): """\
vips:
  web: {address: 192.0.2.1, port: 80, servers: [10.9.2.1, 10.9.2.2]}""",
    ("vips", "*"): "web: {address: 192.0.2.1, port: 80, servers: [10.9.2.1, 10.9.2.2]}",
    ("addresses",): 'addresses: [192.0.2.1, "2001:db8:99::1"]',
    ("vips", "*", "address"): "address: 192.0.2.1",
    ("announce",): "announce: 192.0.2.0/24",
    ("announce", "prefix"): "prefix: 192.0.2.0/24",
    ("announce", "*", "prefix"): "prefix: 192.0.2.0/24",
    ("port",): "port: 443",
    ("ports",): "ports: [80, 443]",
    ("services",): """\
services:
  - {port: 80, check: http}
  - {port: 443, check: https}""",
    ("services", "*"): "- {port: 443, check: https}",
    ("protocol",): "protocol: udp",
    ("forwarding",): "forwarding: nat",
    ("tunnel",): """\
forwarding: tunnel
tunnel: {type: gue, port: 6080}""",
    ("persistence",): "persistence: {timeout: 5m}",
    ("quorum",): 'quorum: {low: 1, high: "50%"}',
    ("flags",): "flags: [mh-port, mh-fallback]",
    ("communities",): 'communities: ["65000:100"]',
    ("large_communities",): 'large_communities: ["65000:1:100"]',
    ("extended_communities",): 'extended_communities: ["target:65000:100"]',
    ("as_path_prepend",): "as_path_prepend: 2",
    ("local_preference",): "local_preference: 50",
    ("role",): "role: backup",
    ("when_unhealthy",): "when_unhealthy: last_resort",
}


def lines_for(path: Path) -> str:
    """The lines that would be right at this place; empty if there are none to show."""
    words = tuple("*" if _is_name(path, n) else str(part) for n, part in enumerate(path))
    ends = (LINES.get(words[start:]) for start in range(len(words)))
    return next((lines for lines in ends if lines), "")


def _is_name(path: Path, n: int) -> bool:
    return isinstance(path[n], int) or (n == 1 and path[0] in _SECTIONS)


def lines_of_word(key: str, value: object) -> str:
    """Where a word belongs that is wrong here; empty if that is not known."""
    if key == "forwarding" and isinstance(value, str) and value.lower() in ("ipip", "gre", "gue"):
        return f"forwarding: tunnel\ntunnel: {value.lower()}"
    return ""


class Advice(NamedTuple):
    """What to do, and the lines that would be right."""

    do: str
    lines: str = ""


_MEANT: Mapping[str, tuple[str, ...]] = {
    "algorithm": ("scheduler",),
    "as": ("local_as", "remote_as"),
    "asn": ("local_as", "remote_as"),
    "auth": ("token_file",),
    "backends": ("servers",),
    "balance": ("scheduler",),
    "ca_cert": ("ca",),
    "ca_file": ("ca",),
    "cacert": ("ca",),
    "cafile": ("ca",),
    "cert": ("certificate",),
    "cert_file": ("certificate",),
    "client_cert": ("certificate",),
    "cmd": ("argv",),
    "code": ("expect",),
    "command": ("argv",),
    "domain": ("name", "host"),
    "encapsulation": ("tunnel",),
    "exec": ("argv",),
    "expected": ("expect",),
    "health_check": ("check",),
    "healthcheck": ("check",),
    "hostname": ("host", "name"),
    "insecure": ("verify",),
    "ip": ("address",),
    "ipv4": ("addresses",),
    "ipv6": ("addresses",),
    "key_file": ("key",),
    "lb_algo": ("scheduler",),
    "lb_kind": ("forwarding",),
    "local_pref": ("local_preference",),
    "localpref": ("local_preference",),
    "lvs_method": ("forwarding",),
    "lvs_sched": ("scheduler",),
    "md5": ("password",),
    "members": ("servers",),
    "mode": ("forwarding",),
    "neighbor_as": ("remote_as",),
    "neighbour": ("neighbors",),
    "neighbours": ("neighbors",),
    "ext_communities": ("extended_communities",),
    "extcommunities": ("extended_communities",),
    "peer_as": ("remote_as",),
    "peer_asn": ("remote_as",),
    "network": ("announce",),
    "peers": ("neighbors",),
    "prefix": ("announce",),
    "panic_threshold": ("when_unhealthy",),
    "prepend": ("as_path_prepend",),
    "qname": ("name",),
    "query": ("name",),
    "real_servers": ("servers",),
    "retries": ("fall",),
    "source": ("local_address",),
    "source_address": ("local_address",),
    "state": ("role",),
    "status": ("expect",),
    "sync": ("connection_sync",),
    "targets": ("servers",),
    "tcp_md5": ("password",),
    "uri": ("path", "url"),
    "virtual_ips": ("vips",),
}
"""Keys by what other programs, or people, call the same. Only one that is known at the place is proposed."""

_SORRY = Advice(
    "servers that stand in are a pool, and sorry is its name (examples/sorry.yaml)",
    "sorry: page",
)
_NO_BACKUP = Advice(
    "a server that stands in is in a pool, which sorry of the VIP names (examples/sorry.yaml); for a node that only "
    "takes over write role: backup beside the VIP's address (examples/primary-backup.yaml)",
    "role: backup",
)
_OF_A_VIP = "a route belongs to the VIP: write {} there, beside address"
_EXPLAINED: Mapping[str, Advice] = {
    "as_path_prepend": Advice(_OF_A_VIP.format("as_path_prepend"), "as_path_prepend: 2"),
    "backup": _NO_BACKUP,
    "local_preference": Advice(_OF_A_VIP.format("local_preference"), "local_preference: 50"),
    "priority": Advice(
        "there is no election between nodes: the routers choose, by the role of each", "role: backup"
    ),
    "role": Advice(_OF_A_VIP.format("role"), "role: backup"),
    "maintenance": Advice(
        "a maintenance is a command: `anycast maintenance on`; how long a drain takes stands in timing",
        "timing: {drain: 5s, server_drain: 5m}",
    ),
    "when_unhealthy": Advice(_OF_A_VIP.format("when_unhealthy"), "when_unhealthy: last_resort"),
    "med": Advice(_OF_A_VIP.format("med"), "med: 200"),
    "fallback": _SORRY,
    "sorry_server": _SORRY,
    "tripwire": Advice(
        "remove it: an idle check is a tripwire by itself, and without TCP there is no connection that could stay open; "
        "or write a check over TCP",
        "check: {type: tcp, tripwire: true}",
    ),
    "token": Advice(
        "a token does not stand in this file: name the file that holds it, or a variable of the agent's environment",
        "token_file: /etc/anycast/pager.token",
    ),
    "secret": Advice(
        "a key does not stand in this file: name the file that holds it, or a variable of the agent's environment",
        "secret_file: /etc/anycast/pager.key",
    ),
    "export": Advice(
        "what a router gets stands with the router: write export there, beside its address",
        'export: [web, "dns-*"]',
    ),
    "view": Advice("what the routers send back belongs to bgp, or to one neighbor", "bgp: {view: true}"),
    "weight": Advice(
        "a weight belongs to a real server; the node's own, for routers that weigh, to bgp",
        "bgp: {weight: 3}",
    ),
    "weights": Advice(
        "a weight belongs to a server",
        """\
servers:
  - {address: 10.9.2.1, weight: 2}
  - {address: 10.9.2.2, weight: 1}""",
    ),
    "pools": Advice(
        "a service has one pool; for shares write weights in it (examples/ab.yaml)",
        """\
servers:
  - {name: a1, address: 10.9.2.1, weight: 9}
  - {name: b1, address: 10.9.2.2, weight: 1}""",
    ),
    "tls": Advice(
        "https always speaks TLS: its settings stand beside path",
        "check: {type: https, host: www.example.net, path: /health, ca: /etc/anycast/ca.pem}",
    ),
    "url": Advice(
        "a check goes to each real server: write what is asked there",
        "check: {type: https, host: www.example.net, path: /health}",
    ),
}
_ENDS = {"services": ("services",), "neighbors": ("bgp", "neighbors")}
_AIMED = Advice(
    "remove it: only a check that asks something at a port can go to the VIP, and an idle check asks nothing; or write tcp",
    "check: {type: tcp, to: vip}",
)
_OF_TLS = ("verify", "ca", "sni", "certificate", "key", "expiry_warning")


def for_key(key: str, value: object, known: Iterable[str], place: Path) -> tuple[Advice, str | None]:
    """What to do about a key that is not known there, and the one that was probably meant."""
    known = tuple(known)
    for several in ("services", "neighbors"):
        if isinstance(value, dict) and place[-2:-1] == (several,):
            return Advice(
                f"{several} have no names: write a line with - for each", LINES[_ENDS[several]]
            ), None
    for meant in _MEANT.get(key.lower(), ()):
        if meant in known:
            return Advice(f"did you mean {meant}?", lines_for((*place[:-1], meant))), meant
    if (advice := _explained(key.lower(), known, place)) is not None:
        return advice, None
    if near := nearest(key, known):
        return Advice(f"did you mean {near}?"), near
    if not known:
        return Advice("remove it"), None
    if len(known) <= FEW:
        return Advice(f"write {listed(known)}"), None
    return Advice("examples/full.yaml has every key there is"), None


def _explained(key: str, known: tuple[str, ...], place: Path) -> Advice | None:
    if key in _OF_TLS and {"path", "host"} <= {*known}:
        return Advice("there is no TLS with type: http", "type: https")
    if key in {"to", "full_size"} and "fall" in known:
        return _AIMED
    if key == "expect" and "steps" in known:
        return Advice("what is expected is a step", LINES["steps",])
    if key in {"forwarding", "scheduler", "port", "protocol"} and place[0] == "pools":
        if key == "port":
            return Advice(
                "a port belongs to a server, or to the VIP", "servers: [10.9.2.1:8080, 10.9.2.2:8080]"
            )
        return Advice("this belongs to the VIP or its service", f"{LINES[key,]}" if (key,) in LINES else "")
    if key == "tls" and "host" not in known:
        return None
    return _EXPLAINED.get(key)
