"""One mistake in a file that is otherwise right gives one problem: its place, what is wrong, what to do."""

from __future__ import annotations

import pytest

from anycast.config.load import loads
from anycast.config.problem import ConfigError

RIGHT = """\
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors:
    - {address: 10.2.1.254, remote_as: 65000}
    - {address: "fd00:2:1::fe", remote_as: 65000, local_address: "fd00:2:1::1"}
checks:
  web: {type: http, path: /health}
pools:
  web:
    check: web
    servers:
      - {name: rs1, addresses: [10.9.2.1, "fd00:9:2::1"]}
      - {name: rs2, addresses: [10.9.2.2, "fd00:9:2::2"]}
vips:
  web:
    addresses: [192.0.2.1, "2001:db8::1"]
    services:
      - {port: 80, pool: web}
  one:
    address: 192.0.2.9
    port: 53
    servers: [10.9.3.1, 10.9.3.2]
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loads(text, "f", hostname="lb1")
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return [str(problem) for problem in caught.value.problems]


def change(right: str, wrong: str) -> str:
    assert right in RIGHT, right
    return RIGHT.replace(right, wrong, 1)


def test_the_file_without_a_mistake_loads() -> None:
    assert [vip.name for vip in loads(RIGHT, hostname="lb1").config.vips] == ["web", "one"]


VALUES = [
    # speaker
    (
        "bgp:\n",
        "speaker: bird\nbgp:\n",
        "f:1:10: speaker: 'bird' is not a choice here (write exabgp or kernel-table)",
    ),
    (
        "bgp:\n",
        "speaker: {type: kernel-table, table: 254}\nbgp:\n",
        "f:1:38: speaker.table: 254 is the kernel's table `main`, by which this node forwards (write a number",
    ),
    (
        "bgp:\n",
        "speaker: {type: kernel-table, table: 0}\nbgp:\n",
        "f:1:38: speaker.table: 0 is not a number of a table (write a whole number from 1 to",
    ),
    (
        "bgp:\n",
        "speaker: {ospf: {interfaces: eth1}}\nbgp:\n",
        "f:1:17: speaker.ospf: ExaBGP speaks no OSPF (write type: kernel-table, or remove ospf)",
    ),
    (
        "bgp:\n",
        "speaker: {type: kernel-table, daemon: other, ospf: {interfaces: eth1}}\nbgp:\n",
        "f:1:52: speaker.ospf: it is written for BIRD alone (write daemon: bird, or remove ospf)",
    ),
    (
        "bgp:\n",
        "speaker: {type: kernel-table, ospf: {area: x, interfaces: eth1}}\nbgp:\n",
        "f:1:44: speaker.ospf.area: 'x' is not an OSPF area (write a number, or one as in 0.0.0.1)",
    ),
    (
        "bgp:\n",
        "speaker: {type: kernel-table, ospf: {interfaces: eth1, dead: 1s}}\nbgp:\n",
        "f:1:62: speaker.ospf.dead: 1 s without a hello, which is sent every 1 s (write four times hello, or more)",
    ),
    (
        "bgp:\n",
        "speaker: {type: kernel-table, ospf: {}}\nbgp:\n",
        "f:1:31: speaker.ospf.interfaces: it is missing (write the interfaces towards the routers)",
    ),
    # top level
    ("bgp:\n", "version: 2\nbgp:\n", "f:1:10: version: 2 is not a version of the format this program reads"),
    ("bgp:\n", "vip: {}\nbgp:\n", "f:1:1: vip: there is no such key (did you mean vips?)"),
    ("bgp:\n", "zzz: {}\nbgp:\n", "f:1:1: zzz: there is no such key (examples/full.yaml has"),
    (
        "bgp:\n",
        "ipvs: share\nbgp:\n",
        "f:1:7: ipvs: 'share' is not a choice here (did you mean shared? write",
    ),
    ("bgp:\n", "sysctls: off\nbgp:\n", "f:1:10: sysctls: 'off' is not a choice here (write manage or check)"),
    ("bgp:\n", "node: []\nbgp:\n", "f:1:7: node: a list is not a node (write its name, or a mapping such as"),
    ("bgp:\n", "node:\nbgp:\n", "f:1:6: node: there is no value (give one, or remove the line)"),
    # node
    ("bgp:\n", "node: {name: -x}\nbgp:\n", "f:1:14: node.name: '-x' is not a name (write letters, digits,"),
    (
        "bgp:\n",
        "node: {runtime_dir: run}\nbgp:\n",
        "f:1:21: node.runtime_dir: 'run' is not a directory that can",
    ),
    ("bgp:\n", 'node: {runtime_dir: "/a b"}\nbgp:\n', "f:1:21: node.runtime_dir: '/a b' is not a directory"),
    ("bgp:\n", "node: {listen: 9644}\nbgp:\n", "f:1:16: node.listen: 9644 is not an address and port (write"),
    (
        "bgp:\n",
        'node: {listen: "::1:80"}\nbgp:\n',
        "f:1:16: node.listen: '::1:80' is not an address and port",
    ),
    (
        "bgp:\n",
        'node: {listen: "127.0.0.1:0"}\nbgp:\n',
        "f:1:16: node.listen: '127.0.0.1:0' is not an address",
    ),
    (
        "bgp:\n",
        'node: {interface: "a b"}\nbgp:\n',
        "f:1:19: node.interface: 'a b' is not an interface's name",
    ),
    ("bgp:\n", 'node: {exabgp_user: "x;"}\nbgp:\n', "f:1:21: node.exabgp_user: 'x;' is not a user's name"),
    # timing
    (
        "bgp:\n",
        "timing: {lease_ttl: 400ms}\nbgp:\n",
        "f:1:21: timing.lease_ttl: '400ms' is not a time that can be",
    ),
    (
        "bgp:\n",
        "timing: {lease_ttl: 31}\nbgp:\n",
        "f:1:21: timing.lease_ttl: 31 is not a time that can be used",
    ),
    ("bgp:\n", "timing: {drain: 2 x}\nbgp:\n", "f:1:17: timing.drain: '2 x' is not a time"),
    (
        "bgp:\n",
        "timing: {quiet_rate: 10s}\nbgp:\n",
        "f:1:22: timing.quiet_rate: '10s' is not a number of packets a second",
    ),
    (
        "bgp:\n",
        "timing: {quiet_limit: 11m}\nbgp:\n",
        "f:1:23: timing.quiet_limit: '11m' is not a time that can be used here",
    ),
    ("bgp:\n", "timing: {drain: true}\nbgp:\n", "f:1:17: timing.drain: true is not a time"),
    # bgp
    (
        "65001\n",
        "65001\n  next_hop: {ipv4: 0.0.0.0}\n",
        "f:3:20: bgp.next_hop.ipv4: 0.0.0.0 is the unspecified address of no one host",
    ),
    (
        "65001\n",
        "65001\n  next_hop: {ipv4: 224.0.0.1}\n",
        "f:3:20: bgp.next_hop.ipv4: 224.0.0.1 is the multicast address of no one host",
    ),
    (
        "65001",
        "two",
        "f:2:13: bgp.local_as: 'two' is not an AS number (write a whole number from 1 to 4294967295)",
    ),
    ("65001", "0", "f:2:13: bgp.local_as: 0 is not an AS number"),
    ("65001", "4294967296", "f:2:13: bgp.local_as: 4294967296 is not an AS number"),
    ("65001", "1.5", "f:2:13: bgp.local_as: 1.5 is a decimal number"),
    ("65001", "true", "f:2:13: bgp.local_as: true is not an AS number"),
    ("10.2.1.1\n", '"fd00::1"\n', "f:3:14: bgp.router_id: fd00::1 is not an IPv4 address"),
    (
        "65001\n",
        "65001\n  hold_time: 0\n",
        "f:3:14: bgp.hold_time: with a hold time of 0 a dead node's routes",
    ),
    ("65001\n", "65001\n  hold_time: 2\n", "f:3:14: bgp.hold_time: 2 is not a hold time"),
    (
        "65001\n",
        "65001\n  bfd: fast\n",
        "f:3:8: bgp.bfd: 'fast' is not a way to speak BFD (write true, false, or",
    ),
    (
        "65001\n",
        "65001\n  bfd: {interval: 20ms}\n",
        "f:3:19: bgp.bfd.interval: '20ms' is not a time that can be used here (write a time from 50ms to 60s",
    ),
    (
        "65001\n",
        "65001\n  bfd: {interval: 100.5ms}\n",
        "f:3:19: bgp.bfd.interval: '100.5ms' is no whole number of milliseconds (write one, as in 100ms)",
    ),
    (
        "65001\n",
        "65001\n  bfd: {multiplier: 1}\n",
        "f:3:21: bgp.bfd.multiplier: 1 is not a BFD multiplier (write a whole number from 2 to 255)",
    ),
    (
        "10.2.1.254",
        "10.2.1.0/24",
        "f:5:17: bgp.neighbors[0].address: '10.2.1.0/24' is a prefix (write the address",
    ),
    (
        "10.2.1.254",
        "router",
        "f:5:17: bgp.neighbors[0].address: 'router' is not an IP address (write one, as in",
    ),
    (
        "10.2.1.254",
        "0.0.0.0",
        "f:5:17: bgp.neighbors[0].address: 0.0.0.0 is the unspecified address of no one host",
    ),
    (
        '"fd00:2:1::fe"',
        '"fe80::1%eth0"',
        "f:6:17: bgp.neighbors[1].address: 'fe80::1%eth0' names an interface",
    ),
    (
        "10.2.1.254,",
        "10.2.1.254, multihop: 1,",
        "f:5:39: bgp.neighbors[0].multihop: 1 is not a number of hops (write a whole number from 2",
    ),
    (
        "10.2.1.254,",
        "10.2.1.254, ttl_security: 255,",
        "f:5:43: bgp.neighbors[0].ttl_security: 255 is not a distance (write true, or how many hops",
    ),
    (
        "10.2.1.254,",
        '"fe80::1", local_address: "fe80::2", interface: eth0, families: [ipv4, ipv6], extended_next_hop: true, ttl_security: 2,',
        "f:5:134: bgp.neighbors[0].ttl_security: fe80::1 is link-local: it is on this node's link (write true",
    ),
    (
        "10.2.1.254,",
        "10.2.1.254, port: 0,",
        "f:5:35: bgp.neighbors[0].port: 0 is not ",
    ),
    (
        "remote_as: 65000}\n",
        "remote_as: 64512.10}\n",
        "f:5:40: bgp.neighbors[0].remote_as: 64512.1 is a decimal number, and zeros at its end are lost (write it in quotes",
    ),
    (
        "remote_as: 65000}\n",
        'remote_as: "64512.65536"}\n',
        "f:5:40: bgp.neighbors[0].remote_as: '64512.65536' is not an AS number",
    ),
    (
        "router_id: 10.2.1.1",
        "router_id: 10.2.1.1\n  weight: 0",
        "f:4:11: bgp.weight: 0 would be taken for a small weight by some routers",
    ),
    (
        "router_id: 10.2.1.1",
        "router_id: 10.2.1.1\n  weight: 1001",
        "f:4:11: bgp.weight: 1001 is not a weight of a node (write a whole number from 1 to 1000)",
    ),
    (
        "local_as: 65001",
        "local_as: 23456",
        "f:2:13: bgp.local_as: 23456 is what an AS number of four bytes looks like",
    ),
    (
        "local_as: 65001",
        'local_as: "65535.65535"',
        "f:2:13: bgp.local_as: '65535.65535' is reserved",
    ),
    (
        "65000}",
        "65000, passive: ja}",
        "f:5:56: bgp.neighbors[0].passive: 'ja' is not a truth value (write true",
    ),
    (
        "65000}",
        "65000, families: both}",
        "f:5:57: bgp.neighbors[0].families: 'both' is not a choice here (write",
    ),
    (
        "65000}",
        "65000, families: [ipx]}",
        "f:5:58: bgp.neighbors[0].families[0]: 'ipx' is not a choice here",
    ),
    # checks
    (
        "type: http,",
        "type: htpp,",
        "f:8:15: checks.web.type: 'htpp' is not a type of check (did you mean http?)",
    ),
    (
        "type: http, ",
        "",
        "f:8:8: checks.web: this is no check (write a mapping with type)",
    ),
    ("/health", "'a b'", "f:8:27: checks.web.path: 'a b' is not a path (write one that begins with /"),
    ("/health", "/, timeout: 0", "f:8:39: checks.web.timeout: 0 is not a time that can be used here"),
    ("/health", "/, timeout: -1s", "f:8:39: checks.web.timeout: '-1s' is not a time that can be used here"),
    ("/health", "/, rise: 0", "f:8:36: checks.web.rise: 0 is not a number of outcomes"),
    (
        "/health",
        "/, expect: [99]",
        "f:8:39: checks.web.expect[0]: 99 is not a final HTTP status (write a number",
    ),
    ("/health", "/, verify: true", "f:8:30: checks.web.verify: there is no such key"),
    (
        "check: web",
        "check: [web]",
        "f:11:12: pools.web.check: this is no check (write the name of one, a type",
    ),
    # servers
    (
        "rs2, ",
        "rs2, weight: 65536, ",
        "f:14:29: pools.web.servers[1].weight: 65536 is not a weight (write a whole",
    ),
    (
        "rs2, ",
        'rs2, port: "8o", ',
        "f:14:27: pools.web.servers[1].port: '8o' is not a port (write a whole number",
    ),
    ("10.9.2.2", "10.9.2", "f:14:33: pools.web.servers[1].addresses[0]: '10.9.2' is not an IP address"),
    (
        "[10.9.3.1, ",
        "[10, ",
        "f:23:15: vips.one.servers[0]: 10 is not a server (write its address, or a mapping",
    ),
    ("[10.9.3.1, ", "[10.9.3, ", "f:23:15: vips.one.servers[0]: '10.9.3' is not an IP address"),
    # vips
    (
        "192.0.2.1,",
        "239.0.0.1,",
        "f:17:17: vips.web.addresses[0]: 239.0.0.1 is the multicast address of no one host",
    ),
    (
        '"2001:db8::1"',
        '"::ffff:192.0.2.5"',
        "f:17:28: vips.web.addresses[1]: '::ffff:192.0.2.5' is IPv4 in the shape",
    ),
    ("port: 53", "port: 53\n    med: -1", "f:23:10: vips.one.med: -1 is not a MED"),
    (
        "port: 53",
        "port: 53\n    communities: [65000:70000]",
        "f:23:19: vips.one.communities[0]: '65000:70000' is",
    ),
    (
        "port: 53",
        "port: 53\n    communities: [no-exports]",
        "f:23:19: vips.one.communities[0]: 'no-exports' is not a",
    ),
    (
        "port: 53",
        "port: 53\n    large_communities: [1:2]",
        "f:23:25: vips.one.large_communities[0]: '1:2' is not a",
    ),
    (
        "port: 53",
        "port: 53\n    extended_communities: [target:65000]",
        "f:23:28: vips.one.extended_communities[0]: 'target:65000' is not an extended community",
    ),
    (
        "port: 53",
        "port: 53\n    extended_communities: [target:70000:70000]",
        "f:23:28: vips.one.extended_communities[0]: 'target:70000:70000' is not an extended",
    ),
    (
        "port: 53",
        "port: 53\n    extended_communities: [rt:a:1]",
        "f:23:28: vips.one.extended_communities[0]: 'rt:a:1' is not an extended community",
    ),
    (
        "port: 53",
        "port: 53\n    as_path_prepend: 17",
        "f:23:22: vips.one.as_path_prepend: 17 is not a number of times (write a whole number from 0 to 16",
    ),
    (
        "port: 53",
        "port: 53\n    local_preference: 4294967296",
        "f:23:23: vips.one.local_preference: 4294967296 is not a local preference",
    ),
    ("port: 53", "port: 53\n    origin: ebgp", "f:23:13: vips.one.origin: 'ebgp' is not a choice here"),
    (
        "port: 53",
        "port: 53\n    when_unhealthy: keep",
        "f:23:21: vips.one.when_unhealthy: 'keep' is not a choice here (write withdraw or last_resort)",
    ),
    (
        "port: 53",
        "port: 53\n    when_unhealthy: lastresort",
        "f:23:21: vips.one.when_unhealthy: 'lastresort' is not a choice here (did you mean last_resort?",
    ),
    (
        "port: 53",
        "port: 53\n    when_unhealthy: yes",
        "f:23:21: vips.one.when_unhealthy: 'yes' is not a choice here",
    ),
    (
        "port: 53",
        "services: [{port: 53, when_unhealthy: last_resort}]",
        "f:22:27: vips.one.services[0].when_unhealthy: there is no such key (a route belongs to the VIP",
    ),
    (
        "port: 53",
        "port: 53\n    panic_threshold: 50",
        "f:23:5: vips.one.panic_threshold: there is no such key (did you mean when_unhealthy?)",
    ),
    ("port: 53", "port: 53\n    role: backups", "f:23:11: vips.one.role: 'backups' is not a choice here"),
    (
        "port: 53",
        "port: 53\n    role: backup\n    as_path_prepend: 0",
        "f:24:22: vips.one.as_path_prepend: to routers of another AS a backup without a longer AS path",
    ),
    (
        "port: 53",
        "port: 53\n    scheduler: best",
        "f:23:16: vips.one.scheduler: 'best' is not a choice here",
    ),
    (
        "port: 53",
        'port: 53\n    quorum: {low: "0%"}',
        "f:23:19: vips.one.quorum.low: '0%' is not a number of servers",
    ),
    # the kernel's timeouts, connection sync, real servers that go
    (
        "bgp:\n",
        "timing: {server_drain: 25h}\nbgp:\n",
        "f:1:24: timing.server_drain: '25h' is not a time that can be used here (write a time from 0s to 24h,",
    ),
    (
        "bgp:\n",
        "timeouts: {tcp: 1500ms}\nbgp:\n",
        "f:1:17: timeouts.tcp: '1500ms' is no whole number of seconds (write one, as in 30s or 5m)",
    ),
    (
        "bgp:\n",
        "timeouts: {tcp_fin: 0}\nbgp:\n",
        "f:1:21: timeouts.tcp_fin: 0 is not a time that can be used here (write a time from 1s to 24d",
    ),
    ("bgp:\n", "timeouts: {udp: 577h}\nbgp:\n", "f:1:17: timeouts.udp: '577h' is not a time that can be"),
    ("bgp:\n", "timeouts: {tcp: never}\nbgp:\n", "f:1:17: timeouts.tcp: 'never' is not a time that can be"),
    (
        "bgp:\n",
        "timeouts: {sctp: 1m}\nbgp:\n",
        "f:1:12: timeouts.sctp: there is no such key (write tcp, tcp_fin or udp)",
    ),
    ("bgp:\n", "timeouts: 5m\nbgp:\n", "f:1:11: timeouts: this is not a mapping"),
    (
        "bgp:\n",
        "connection_sync: {interface: e, id: 0}\nbgp:\n",
        "f:1:37: connection_sync.id: 0 is not a sync id (write a whole number from 1 to 255)",
    ),
    (
        "bgp:\n",
        "connection_sync: {interface: e, group: 10.0.0.1}\nbgp:\n",
        "f:1:40: connection_sync.group: '10.0.0.1' is not a multicast address (write one, as in 224.0.0.81 or",
    ),
    (
        "bgp:\n",
        "connection_sync: {interface: e, ttl: 256}\nbgp:\n",
        "f:1:38: connection_sync.ttl: 256 is not a TTL (write",
    ),
    # services
    (
        "port: 53",
        "mark: 0",
        "f:22:11: vips.one.mark: 0 is not a firewall mark (write a whole number from 1 to",
    ),
    ("port: 53", "mark: 4294967296", "f:22:11: vips.one.mark: 4294967296 is not a firewall mark"),
    ("port: 53", "mark: web", "f:22:11: vips.one.mark: 'web' is not a firewall mark"),
    (
        "port: 53",
        "port: 53\n    protocol: icmp",
        "f:23:15: vips.one.protocol: 'icmp' is not a choice here (write tcp, udp or sctp)",
    ),
    ("port: 53", "port: 53\n    one_packet: 1", "f:23:17: vips.one.one_packet: 1 is not a truth value"),
    (
        "port: 53",
        "port: 53\n    persistence: 25h",
        "f:23:18: vips.one.persistence: '25h' is not a time that can be used here (write a time from 1s to 24h",
    ),
    (
        "port: 53",
        "port: 53\n    persistence: 500ms",
        "f:23:18: vips.one.persistence: '500ms' is not a time that can be used here",
    ),
    (
        "port: 53",
        "port: 53\n    persistence: {timeout: 1.5}",
        "f:23:28: vips.one.persistence.timeout: 1.5 is no whole number of seconds",
    ),
    (
        "port: 53",
        "port: 53\n    persistence: {ipv4_prefix: 33}",
        "f:23:32: vips.one.persistence.ipv4_prefix: 33 is not a prefix length (write a whole number from 1 to 32)",
    ),
    (
        "port: 53",
        "port: 53\n    persistence: {ipv6_prefix: 0}",
        "f:23:32: vips.one.persistence.ipv6_prefix: 0 is not a prefix length (write a whole number from 1 to 128)",
    ),
    (
        "port: 53",
        "port: 53\n    persistence: {netmask: 24}",
        "f:23:19: vips.one.persistence.netmask: there is no such key (write timeout, ipv4_prefix or ipv6_",
    ),
    (
        "port: 53",
        "port: 53\n    forwarding: tunnel\n    tunnel: vxlan",
        "f:24:13: vips.one.tunnel: 'vxlan' is not a choice here (write ipip, gue or gre)",
    ),
    (
        "port: 53",
        "port: 53\n    forwarding: tunnel\n    tunnel: {type: gue, port: 0}",
        "f:24:31: vips.one.tunnel.port: 0 is not a port",
    ),
    (
        "port: 53",
        "port: 53\n    forwarding: tunnel\n    tunnel: {type: gre, checksum: full}",
        "f:24:35: vips.one.tunnel.checksum: 'full' is not a choice here (write nocsum, csum or remcsum)",
    ),
    (
        "port: 53",
        "port: 53\n    expire_failed: 25h",
        "f:23:20: vips.one.expire_failed: '25h' is not a time that can be used here",
    ),
    (
        "port: 53",
        "port: 53\n    expire_failed: no",
        "f:23:20: vips.one.expire_failed: 'no' is not a time (write one, as in 60s or 5m, or never)",
    ),
    (
        "port: 53",
        "port: 53\n    server_capacity: {bits: 1G, limit: 120%}",
        "f:23:40: vips.one.server_capacity.limit: '120%' is not a share",
    ),
    # thresholds
    (
        "rs2, ",
        "rs2, upper_threshold: -1, ",
        "f:14:38: pools.web.servers[1].upper_threshold: -1 is not a number of connections (write a whole number fr",
    ),
    (
        "rs2, ",
        "rs2, lower_threshold: 2147483648, ",
        "f:14:38: pools.web.servers[1].lower_threshold: 2147483648 is not a number of connections",
    ),
    ("port: 80", "port: 0123", "f:19:16: vips.web.services[0].port: a number that begins with 0 is octal"),
]

TOGETHER = [
    ("  local_as: 65001\n", "", "f:1:1: bgp.local_as: it is missing (write this node's AS number)"),
    (
        "  router_id: 10.2.1.1\n",
        "",
        "f:1:1: bgp.router_id: it is missing, and there is no IPv4 local_address to take it from (write an",
    ),
    (
        ", remote_as: 65000}",
        "}",
        "f:5:7: bgp.neighbors[0].remote_as: it is missing (write the router's AS number,",
    ),
    (
        "address: 10.2.1.254, ",
        "",
        "f:5:7: bgp.neighbors[0].address: it is missing (write the router's address)",
    ),
    (
        ', local_address: "fd00:2:1::1"',
        "",
        "f:6:7: bgp.neighbors[1].local_address: it is missing, and with IPv6 there is no default (write this",
    ),
    (
        "    - {address: 10.2.1.254,",
        "    - {address: 10.2.1.254, remote_as: 1}\n    - {address: 10.2.1.254,",
        "f:6:17: bgp.neighbors[1].address: 10.2.1.254 is at bgp.neighbors[0] already (write each router once)",
    ),
    (
        '"fd00:2:1::1"}',
        "10.2.1.1}",
        "f:6:66: bgp.neighbors[1].local_address: 10.2.1.1 is not of the family of the neighbor's address fd00:2:1::fe",
    ),
    (
        "10.2.1.254",
        "10.2.1.1",
        "f:5:17: bgp.neighbors[0].address: 10.2.1.1 is this node's own address (write",
    ),
    (
        '"fd00:2:1::fe", remote_as: 65000, local_address: "fd00:2:1::1"',
        'fe80::1, remote_as: 65000, local_address: "fe80::2"',
        "f:6:7: bgp.neighbors[1].interface: it is missing, and fe80::1 is link-local (write this node",
    ),
    (
        '"fd00:2:1::fe", remote_as: 65000,',
        "fe80::1, interface: eth0, remote_as: 65000,",
        "f:6:76: bgp.neighbors[1].local_address: fd00:2:1::1 is not link-local, and the router",
    ),
    (
        'local_address: "fd00:2:1::1"',
        'local_address: "fe80::1"',
        "f:6:66: bgp.neighbors[1].local_address: fe80::1 is link-local, and the router",
    ),
    (
        "10.2.1.254,",
        "169.254.1.1,",
        "f:5:17: bgp.neighbors[0].address: 169.254.1.1 is link-local (write another address",
    ),
    (
        '"fd00:2:1::fe", remote_as: 65000, local_address: "fd00:2:1::1"',
        'fe80::1, interface: e, passive: true, remote_as: 65000, local_address: "fe80::2"',
        "f:6:40: bgp.neighbors[1].passive: nobody would open the session: ExaBGP does not listen",
    ),
    (
        '"fd00:2:1::fe", remote_as: 65000, local_address: "fd00:2:1::1"',
        'fe80::1, interface: e, multihop: 2, remote_as: 65000, local_address: "fe80::2"',
        "f:6:40: bgp.neighbors[1].multihop: fe80::1 is link-local",
    ),
    (
        "10.2.1.254,",
        "10.2.1.254, interface: eth0,",
        "f:5:29: bgp.neighbors[0].interface: 10.2.1.254 is not link-local, so the routes of this",
    ),
    (
        "10.2.1.254,",
        "10.2.1.254, remote_interface: eth0,",
        "f:5:29: bgp.neighbors[0].remote_interface: 10.2.1.254 is not link-local",
    ),
    (
        "10.2.1.254,",
        "10.2.1.254, multihop: 3, ttl_security: true,",
        "f:5:42: bgp.neighbors[0].ttl_security: multihop is written too: one allows",
    ),
    (
        "10.2.1.254,",
        "10.2.1.254, extended_next_hop: true,",
        "f:5:29: bgp.neighbors[0].extended_next_hop: the session with 10.2.1.254 is over IPv4",
    ),
    (
        '"fd00:2:1::1"}',
        '"fd00:2:1::1", extended_next_hop: true}',
        "f:6:81: bgp.neighbors[1].extended_next_hop: the session carries no IPv4 routes (write families",
    ),
    (
        "10.2.1.254,",
        "10.2.1.254, route_reflector: true,",
        "f:5:29: bgp.neighbors[0].route_reflector: the router is of the AS 65000, this node of 65001",
    ),
    (
        "65000}",
        "65000, families: [ipv4, ipv6]}",
        "f:5:64: bgp.neighbors[0].families[1]: a session over IPv4 has no next hop for ipv6 routes (write bgp.next",
    ),
    ("65000}", "65000, families: []}", "f:5:57: bgp.neighbors[0].families: no family is carried (write ipv4"),
    (
        "checks:\n",
        "  next_hop: {ipv4: 10.2.1.254}\nchecks:\n",
        "f:7:20: bgp.next_hop.ipv4: 10.2.1.254 is a neighbor's address (write an address of this node in the net",
    ),
    (
        "checks:\n",
        '  next_hop: {ipv6: "2001:db8::1"}\nchecks:\n',
        "f:7:20: bgp.next_hop.ipv6: 2001:db8::1 is an address of the VIP web (write an address of this node",
    ),
    (
        "checks:\n",
        "  next_hop: {ipv4: 192.0.2.9}\nchecks:\n",
        "f:7:20: bgp.next_hop.ipv4: 192.0.2.9 is an address of the VIP one",
    ),
    (
        "checks:\n",
        "  next_hop: {ipv4: 127.0.0.1}\nchecks:\n",
        "f:7:20: bgp.next_hop.ipv4: 127.0.0.1 is a loopback address",
    ),
    (
        "checks:\n",
        '  next_hop: {ipv6: "fe80::1"}\nchecks:\n',
        "f:7:20: bgp.next_hop.ipv6: fe80::1 is a link-local address",
    ),
    (
        "checks:\n",
        "  next_hop: {ipv4: 240.0.0.1}\nchecks:\n",
        "f:7:20: bgp.next_hop.ipv4: 240.0.0.1 is a reserved address",
    ),
    (
        "check: web",
        "check: wbe",
        "f:11:12: pools.web.check: there is no check named 'wbe' (did you mean web?)",
    ),
    (
        "check: web",
        "check: zzz",
        "f:11:12: pools.web.check: there is no check named 'zzz' (add it under checks, or",
    ),
    (
        "pool: web",
        "pool: wbe",
        "f:19:26: vips.web.services[0].pool: there is no pool named 'wbe' (did you mean web?)",
    ),
    (", pool: web", "", "f:19:9: vips.web.services[0].pool: it is missing (write servers, or the name of"),
    ("port: 80, ", "", "f:19:9: vips.web.services[0].port: it is missing (write the port that is served)"),
    ("    port: 53\n", "", "f:20:3: vips.one.port: it is missing (write the port that is served)"),
    (
        "    servers: [10.9.3.1, 10.9.3.2]\n",
        "",
        "f:20:3: vips.one.servers: it is missing (write the real servers, or",
    ),
    ("    address: 192.0.2.9\n", "", "f:21:5: vips.one: there is no address (write address or addresses)"),
    (
        "192.0.2.9",
        "192.0.2.1",
        "f:21:14: vips.one.address: 192.0.2.1 is at vips.web.addresses[0] already (an address",
    ),
    (
        "192.0.2.9",
        "10.9.2.1",
        "f:21:14: vips.one.address: 10.9.2.1 is the address of the real server rs1 (a VIP",
    ),
    (
        "192.0.2.9",
        "10.9.3.2",
        "f:21:14: vips.one.address: 10.9.3.2 is the address of the real server 10.9.3.2",
    ),
    ("192.0.2.9", "10.2.1.254", "f:21:14: vips.one.address: 10.2.1.254 is a neighbor's address (a VIP needs"),
    (
        "192.0.2.9",
        "127.0.0.1",
        "f:21:14: vips.one.address: 127.0.0.1 is a loopback address, which no router carries",
    ),
    (
        "192.0.2.9",
        "169.254.0.1",
        "f:21:14: vips.one.address: 169.254.0.1 is a link-local address, which no router",
    ),
    (
        "192.0.2.9",
        "255.255.255.255",
        "f:21:14: vips.one.address: 255.255.255.255 is a reserved address, which no",
    ),
    (
        "port: 80, pool: web}",
        "port: 80, pool: web}\n      - {port: 80, pool: web}",
        "f:20:16: vips.web.services[1].port: tcp/80 is at vips.web.services[0].port already (write each service",
    ),
    ("port: 53", "ports: [53, 53]", "f:22:17: vips.one.ports[1]: tcp/53 is at vips.one.ports[0] already"),
    (
        "port: 53",
        "port: 53\n    ports: [54]",
        "f:22:5: vips.one.port: both port and ports are written (keep one",
    ),
    (
        "port: 53",
        "port: 53\n    pool: web",
        "f:23:5: vips.one.pool: both pool and servers are written (keep one",
    ),
    (
        "port: 53",
        "port: 53\n    addresses: [192.0.2.8]",
        "f:21:5: vips.one.address: both address and addresses are written (keep one of them)",
    ),
    (
        "    services:\n",
        "    port: 81\n    services:\n",
        "f:18:5: vips.web.port: this belongs to a service, and the VIP has a list of services (move it into",
    ),
    (
        "  one:\n",
        "  nothing: {address: 192.0.2.8}\n  one:\n",
        "f:20:3: vips.nothing: nothing is served (write port and servers, port and pool, or services)",
    ),
    (
        "      - {port: 80, pool: web}\n",
        "      []\n",
        "f:19:7: vips.web.services: nothing is served (write the ports, as in",
    ),
    (
        "10.9.3.2]",
        "10.9.3.1]",
        "f:23:25: vips.one.servers[1].address: 10.9.3.1 is at vips.one.servers[0] already",
    ),
    (
        "10.9.3.2]",
        "{name: other, address: 10.9.3.1}]",
        "f:23:48: vips.one.servers[1].address: 10.9.3.1 is at vips.one.servers[0] already (write each real server on",
    ),
    (
        '"fd00:9:2::2"',
        '"fd00:9:2::1"',
        "f:14:43: pools.web.servers[1].addresses[1]: fd00:9:2::1 is at pools.web.servers[0] already",
    ),
    (
        "10.9.3.2]",
        "{address: 10.9.3.1, port: 53, name: other}]",
        "f:23:25: vips.one.servers[1]: 10.9.3.1 with port 53 is at vips.one.servers[0] already (vips.one serves 53:",
    ),
    (
        "port: 53\n    servers: [10.9.3.1, 10.9.3.2]",
        "port: 53\n    forwarding: nat\n    servers: [10.9.3.1, {address: 10.9.3.1, port: 54}]",
        "f:24:25: vips.one.servers[1]: '10.9.3.1' is the name of vips.one.servers[0] already (give each server a",
    ),
    (
        "[10.9.3.1, 10.9.3.2]",
        "[{name: 10.9.3.2, address: 10.9.3.1}, 10.9.3.2]",
        "f:23:52: vips.one.servers[1]: '10.9.3.2' is the name of vips.one.servers[0] already",
    ),
    (
        "rs2, ",
        "rs2, upper_threshold: 5, lower_threshold: 6, ",
        "f:14:58: pools.web.servers[1].lower_threshold: 6 is more than the upper_threshold 5 (write 5 or less)",
    ),
    (
        "rs2, ",
        "rs2, lower_threshold: 6, ",
        "f:14:38: pools.web.servers[1].lower_threshold: it has no meaning without an upper_threshold (write upper_",
    ),
    (
        "bgp:\n",
        "connection_sync: {id: 1}\nbgp:\n",
        "f:1:1: connection_sync.interface: it is missing (write the interface between the balancers)",
    ),
    (
        "port: 53",
        "mark: 7\n    port: 53\n    check: {type: tcp, port: 53}",
        "f:23:5: vips.one.port: a firewall mark is served, whatever the protocol and port of the packets (remove",
    ),
    (
        "port: 53",
        "mark: 7\n    ports: [53]\n    check: {type: tcp, port: 53}",
        "f:23:5: vips.one.ports: a firewall mark is served, whatever the protocol and port of the packets",
    ),
    (
        "port: 53",
        "mark: 7\n    protocol: tcp\n    check: {type: tcp, port: 53}",
        "f:23:5: vips.one.protocol: a firewall mark is served, whatever the protocol and port of the packets",
    ),
    (
        "port: 80, pool: web}",
        "port: 80, mark: 7, pool: web, check: {type: tcp, port: 80}}",
        "f:19:10: vips.web.services[0].port: a firewall mark is served, whatever the protocol",
    ),
    (
        "port: 53",
        "mark: 7",
        "f:22:11: vips.one.mark: packets with a mark arrive at any port, and the check has no port of its own (write a",
    ),
    (
        "port: 53",
        "mark: 7\n    check: {type: https}",
        "f:22:11: vips.one.mark: packets with a mark arrive at any port, and the check has no port of its own",
    ),
    (
        "port: 80, pool: web}",
        "mark: 7, pool: web}",
        "f:19:16: vips.web.services[0].mark: packets with a mark arrive at any port, and the check has no port of its own",
    ),
    (
        "port: 53\n    servers: [10.9.3.1, 10.9.3.2]",
        "mark: 7\n    check: {type: tcp, port: 1}\n    servers: [10.9.3.1, {address: 10.9.3.2, port: 8080}]",
        "f:24:51: vips.one.servers[1].port: 10.9.3.2 listens on 8080, and vips.one serves mark 7 with forwarding: dr",
    ),
    (
        "port: 80, pool: web}",
        "mark: 7, pool: web, check: {type: tcp, port: 1}}\n      - {mark: 7, pool: web, check: {type: tcp, port: 2}}",
        "f:20:16: vips.web.services[1].mark: mark 7 is at vips.web.services[0].mark already, and the VIPs share an",
    ),
    (
        "port: 53",
        "port: 53\n    protocol: sctp",
        "f:23:15: vips.one.protocol: the default check, a TCP handshake, proves nothing about SCTP (write a check: icmp, tcp",
    ),
    (
        "port: 53",
        "port: 53\n    one_packet: true",
        "f:23:17: vips.one.one_packet: a packet of tcp cannot be served by itself (remove this)",
    ),
    (
        "port: 53",
        "port: 53\n    one_packet: true\n    protocol: sctp\n    check: {type: tcp}",
        "f:23:17: vips.one.one_packet: a packet of sctp cannot be served by itself (remove this)",
    ),
    (
        "port: 53",
        "port: 53\n    one_packet: true\n    protocol: udp\n    check: {type: tcp}\n    forwarding: nat",
        "f:23:17: vips.one.one_packet: with forwarding: nat the answers could not be translated back (remove this,",
    ),
    (
        "port: 53",
        "port: 53\n    tunnel: ipip\n    forwarding: dr",
        "f:23:5: vips.one.tunnel: nothing is tunnelled with forwarding: dr (write forwarding: tunnel, or remove",
    ),
    (
        "port: 53",
        "port: 53\n    forwarding: nat\n    tunnel: {type: gre}",
        "f:24:5: vips.one.tunnel: nothing is tunnelled with forwarding: nat (write forwarding: tunnel, or remove",
    ),
    (
        "port: 53",
        "port: 53\n    forwarding: tunnel\n    tunnel: {type: gre, port: 6080}",
        "f:24:31: vips.one.tunnel.port: gre has no port (remove it, or write type: gue)",
    ),
    (
        "port: 53",
        "port: 53\n    forwarding: tunnel\n    tunnel: {port: 6080}",
        "f:24:20: vips.one.tunnel.port: ipip has no port (remove it, or write type: gue)",
    ),
    (
        "port: 53",
        "port: 53\n    forwarding: tunnel\n    tunnel: {checksum: csum}",
        "f:24:24: vips.one.tunnel.checksum: ipip has no checksum (remove it, or write type: gue or gre)",
    ),
    (
        "port: 53",
        "port: 53\n    forwarding: tunnel\n    tunnel: {type: gre, checksum: remcsum}",
        "f:24:35: vips.one.tunnel.checksum: gre has no remote checksum offload (write csum or nocsum, or type: gue)",
    ),
    (
        "name: rs2",
        "name: rs1",
        "f:14:16: pools.web.servers[1].name: 'rs1' is the name of pools.web.servers[0] already",
    ),
    (
        '10.9.2.2, "fd00:9:2::2"',
        '10.9.2.2, "fd00:9:2::2", 10.9.2.3',
        "f:14:32: pools.web.servers[1].addresses: a server has 2 IPv4 addresses (write one of each family;",
    ),
    (
        "    servers: [10.9.3.1, 10.9.3.2]\n",
        "    servers: []\n",
        "f:23:14: vips.one.servers: there is no server (write",
    ),
    (
        "  one:\n    address: 192.0.2.9",
        '  one:\n    addresses: [192.0.2.9, "2001:db8::9"]',
        "f:21:28: vips.one.addresses[1]: no server at vips.one has an IPv6 address to serve 2001:db8::9 (give the",
    ),
    (
        "rs2, ",
        "rs2, port: 8080, ",
        "f:14:27: pools.web.servers[1].port: rs2 listens on 8080, and vips.web.services[0] ser",
    ),
    (
        "port: 53",
        "port: 53\n    quorum: {high: 3}",
        "f:23:20: vips.one.quorum.high: 3 usable servers can never be reached, for vips.one has 2 of a family (write 2 or",
    ),
    (
        "port: 53",
        'port: 53\n    quorum: {low: "100%", high: 1}',
        "f:23:19: vips.one.quorum.low: low is 2 servers, more than the 1 of high",
    ),
    (
        "port: 53",
        "port: 53\n    flags: [mh-port]",
        "f:23:12: vips.one.flags: with mh and without mh-fallback, the new clients of a server that is down or drained",
    ),
    (
        "port: 53",
        "port: 53\n    scheduler: sh\n    flags: [sh-port]",
        "f:24:12: vips.one.flags: with sh and without sh-fallback, the new clients of a server that is down or drained",
    ),
    (
        "port: 53",
        "port: 53\n    scheduler: dh",
        "f:23:16: vips.one.scheduler: dh chooses by the VIP's address: all clients get the same one of 2 servers, and",
    ),
    (
        "port: 53",
        "port: 53\n    scheduler: wlc\n    flags: [mh-port]",
        "f:24:13: vips.one.flags[0]: mh-port is not a flag of the scheduler wlc (remove it, or write scheduler: mh)",
    ),
    (
        "port: 53",
        "port: 53\n    flags: [mh-fallback, sh-port]",
        "f:23:26: vips.one.flags[1]: sh-port is not a flag of the scheduler mh (remove it, or write scheduler: sh)",
    ),
    (
        "port: 53",
        "port: 53\n    protocol: udp",
        "f:23:15: vips.one.protocol: UDP has no handshake to check, and no check is written (write a check: udp",
    ),
    (
        "port: 53",
        "port: 53\n    check: {type: command, argv: [true-or-not]}",
        "f:23:35: vips.one.check.argv[0]: 'true-or-not' is not an absolute path (write its full path",
    ),
    (
        "port: 53",
        "port: 53\n    check: {type: command, argv: []}",
        "f:23:34: vips.one.check.argv: there is no program (write [/path/of/program, argument])",
    ),
    (
        "  one:\n",
        "  -one:\n",
        "f:20:3: vips.-one: '-one' is not a name (write one: letters, digits, _ . and - only, 63",
    ),
    (
        "  web:\n    check",
        "  one: {servers: [10.9.4.1]}\n  web:\n    check",
        "f:24:5: vips.one.servers: these servers make a pool named one, and pools has one of that name (write pool:",
    ),
]


@pytest.mark.parametrize(("right", "wrong", "problem"), [*VALUES, *TOGETHER], ids=lambda text: text[:40])
def test_one_mistake_is_one_problem_at_its_place(right: str, wrong: str, problem: str) -> None:
    found = problems(change(right, wrong))
    assert len(found) == 1, found
    assert found[0].startswith(problem), found[0]


@pytest.mark.parametrize("forwarding", ["dr", "tunnel"])
def test_a_port_of_its_own_needs_nat(forwarding: str) -> None:
    text = change("[10.9.3.1, 10.9.3.2]", "[10.9.3.1, {address: 10.9.3.2, port: 5353}]")
    (problem,) = problems(text.replace("port: 53\n", f"port: 53\n    forwarding: {forwarding}\n"))
    assert problem.startswith(
        "f:24:51: vips.one.servers[1].port: 10.9.3.2 listens on 5353, and vips.one serves 53 with"
    )
    loads(text.replace("port: 53\n", "port: 53\n    forwarding: nat\n"), hostname="lb1")
    loads(
        text.replace("5353", "53").replace("port: 53\n", f"port: 53\n    forwarding: {forwarding}\n"),
        hostname="lb1",
    )


def test_no_neighbor_for_a_family_is_said_at_each_address_of_it() -> None:
    line = '    - {address: "fd00:2:1::fe", remote_as: 65000, local_address: "fd00:2:1::1"}\n'
    (problem,) = problems(change(line, ""))
    assert problem.startswith(
        "f:16:28: vips.web.addresses[1]: no neighbor carries IPv6 routes (add a neighbor"
    )


def test_no_neighbor_at_all_is_one_problem() -> None:
    text = RIGHT[: RIGHT.index("  neighbors:")] + "  neighbors: []\n" + RIGHT[RIGHT.index("checks:") :]
    assert problems(text) == [
        "f:4:14: bgp.neighbors: there is no neighbor (write the routers to announce to)"
    ]


def test_no_bgp_section_is_one_problem() -> None:
    found = problems(RIGHT[RIGHT.index("checks:") :])
    assert found == ["f:1:1: bgp: the section is missing (write local_as and neighbors in it)"]


def test_more_servers_than_the_kernels_table_has_slots_are_refused_with_mh() -> None:
    servers = ", ".join(f"10.10.{n // 250}.{n % 250 + 1}" for n in range(4094))
    text = change("[10.9.3.1, 10.9.3.2]", f"[{servers}]")
    (problem,) = problems(text)
    assert problem.startswith(
        "f:23:14: vips.one.servers: 4094 servers, and the kernel's mh table has 4093 slots (use fe"
    )
    loads(text.replace("port: 53", "port: 53\n    scheduler: rr"), hostname="lb1")


def test_source_hashing_has_256_slots_and_destination_hashing_one_server() -> None:
    servers = ", ".join(f"10.10.{n // 250}.{n % 250 + 1}" for n in range(257))
    text = change("[10.9.3.1, 10.9.3.2]", f"[{servers}]").replace("port: 53", "port: 53\n    scheduler: sh")
    (problem,) = problems(text)
    assert "vips.one.servers: 257 servers, and the kernel's sh table has 256 slots" in problem
    loads(text.replace("10.10.0.1, ", ""), hostname="lb1")
    one = change("[10.9.3.1, 10.9.3.2]", "[10.9.3.1]").replace("port: 53", "port: 53\n    scheduler: dh")
    loads(one, hostname="lb1")


def test_with_a_tunnel_the_servers_of_the_other_family_take_slots_too() -> None:
    servers = ", ".join(
        [f"10.10.{n // 250}.{n % 250 + 1}" for n in range(4000)]
        + [f'{{address: "fd00:9::{n:x}"}}' for n in range(1, 95)]
    )
    text = change("[10.9.3.1, 10.9.3.2]", f"[{servers}]")
    loads(text, hostname="lb1")
    (problem,) = problems(text.replace("port: 53", "port: 53\n    forwarding: tunnel"))
    assert "vips.one.servers: 4094 servers, and the kernel's mh table has 4093 slots" in problem


MARKED = """\
bgp: {local_as: 65001, router_id: 10.2.1.1, neighbors: [{address: 10.2.1.254, remote_as: 65000}]}
pools:
  p: {servers: [10.9.2.1], check: {type: tcp, port: 80}}
vips:
  a: {address: 192.0.2.1, mark: 7, pool: p}
  b: {address: 192.0.2.2, services: [{port: 80, pool: p}, {mark: 7, pool: p}]}
  c: {address: 192.0.2.3, mark: 8, pool: p}
"""


def test_a_mark_that_two_vips_of_a_family_share_is_said_with_both_places() -> None:
    (problem,) = problems(MARKED)
    assert problem == (
        "f:6:66: vips.b.services[1].mark: mark 7 is at vips.a.mark already, and the VIPs share an address family "
        "(give each service a mark of its own)"
    )


SYNCED = RIGHT.replace(
    """port: 53\n    servers: [10.9.3.1, 10.9.3.2]""",
    "port: 53\n    forwarding: tunnel\n    servers: [10.9.3.1, {name: other, address: 'fd00:9:3::2'}]",
)


def test_servers_of_another_family_are_refused_with_connection_sync() -> None:
    loads(SYNCED, hostname="lb1")
    (problem,) = problems(SYNCED + "connection_sync: {interface: eth1}\n")
    assert problem == (
        "f:24:25: vips.one.servers[1]: it has no IPv4 address, and the kernel refuses real servers of another family "
        "than 192.0.2.9 with connection_sync (give it one, or remove connection_sync)"
    )


def test_a_family_that_no_server_has_is_one_mistake_with_connection_sync() -> None:
    text = SYNCED.replace("address: 192.0.2.9", 'addresses: [192.0.2.9, "2001:db8::9"]')
    text = text.replace("'fd00:9:3::2'", "10.9.3.2")
    loads(text, hostname="lb1")
    (problem,) = problems(text + "connection_sync: {interface: eth1}\n")
    assert problem == (
        "f:21:28: vips.one.addresses[1]: no server at vips.one has an IPv6 address, and the kernel refuses real servers "
        "of another family than 2001:db8::9 with connection_sync (give the servers one, or remove connection_sync)"
    )


def test_what_several_services_of_a_pool_complain_of_is_one_problem() -> None:
    text = change("port: 53", "ports: [53, 54, 55]\n    forwarding: tunnel")
    text = text.replace(
        "10.9.3.2]", "{name: b, address: 'fd00:9:3::2'}, {name: c, address: 10.9.3.1, port: 54}]"
    )
    found = problems(
        text.replace("ports: [53, 54, 55]", "ports: [54, 53]") + "connection_sync: {interface: eth1}\n"
    )
    assert [line.split(": ")[1] for line in found] == [
        "vips.one.servers[1]",  # its family
        "vips.one.servers[2]",  # it is there with this port already
        "vips.one.servers[2].port",  # a tunnel does not change ports
    ]


def test_a_host_name_that_cannot_name_the_node_is_a_problem() -> None:
    with pytest.raises(
        ConfigError, match=r"f:1:1: node.name: this machine's host name '' cannot be the node's name"
    ):
        loads(RIGHT, "f", hostname=".example.net")


@pytest.mark.parametrize(
    "password", ["a b", 'a"b', "a'b", "a;b", "a\\b", "pässword", "x" * 81, "", "[hunter2, x]", "12345"]
)
def test_a_password_is_refused_without_being_shown(password: str) -> None:
    quoted = password if password.startswith(("[", "1")) else "'" + password.replace("'", "''") + "'"
    found = problems(change("65000}", f"65000, password: {quoted}}}"))
    assert len(found) == 1
    assert found[0].startswith("f:5:57: bgp.neighbors[0].password: the password ")
    assert not password or password not in found[0]
    assert "hunter2" not in found[0]


MANY = """\
version: 2
node: {name: lb1, listen: 9644}
timing: {lease_ttl: 1m}
bgp:
  local_as: 0
  hold_time: 1
  neighbours: []
  neighbors:
    - {address: 10.2.1.254, remote_as: 65000, local_address: 10.2.1.1, passive: nein}
    - {address: 10.2.1.254, remote_as: 65000}
checks:
  web: {type: http, path: x y}
pools:
  web:
    check: wbe
    servers: [10.9.2.1, 10.9.2.1, 10.9.2.3]
  web: {}
vips:
  web:
    addresses: [192.0.2.1, "2001:db8::1"]
    communities: [65000:65536]
    services:
      - {port: 80, pool: wbe}
      - {port: 80, pool: web, forwarding: bridge}
      - {port: 0443, pool: web, flags: [mh-port]}
      - {port: 444, pool: web, quorum: {low: 2, high: 1}}
  two: {address: 192.0.2.1, port: 80, servers: [10.9.9.1], check: *base}
"""


def test_more_than_twenty_mistakes_of_every_kind_are_as_many_problems_at_once() -> None:
    found = problems(MANY)
    assert [line.split(": ")[1] for line in found] == [
        "version",
        "node.listen",
        "timing.lease_ttl",
        "bgp.local_as",
        "bgp.hold_time",
        "bgp.neighbours",
        "bgp.neighbors[0].passive",
        "bgp.neighbors[1].address",
        "checks.web.path",
        "pools.web.check",
        "pools.web.servers[1].address",
        "pools.web",
        "vips.web.addresses[1]",  # no server has IPv6
        "vips.web.addresses[1]",  # nor has a neighbor
        "vips.web.communities[0]",
        "vips.web.services[0].pool",
        "vips.web.services[1].port",
        "vips.web.services[1].forwarding",
        "vips.web.services[2].port",
        "vips.web.services[2].flags",
        "vips.web.services[3].quorum.low",
        "vips.two.address",
        "vips.two.check",
    ]


@pytest.mark.parametrize(
    ("right", "wrong", "consequence"),
    [
        ("check: web\n    servers:", "check: web\n    servers: x\n    other:", "no server"),
        ("  web: {type: http, path: /health}", "  web: {type: htpp}", "no check named"),
        ("router_id: 10.2.1.1", "router_id: 10.2.1", "router_id: it is missing"),
        ("local_address: ", "local_adress: ", "it is missing"),
        ("remote_as: 65000, local", "remote_as: x, local", "no neighbor carries"),
        ('address: "fd00:2:1::fe"', "address: x", "no neighbor carries"),
        ("address: 192.0.2.9", "adress: 192.0.2.9", "there is no address"),
        ("servers: [10.9.3.1, 10.9.3.2]", "<<: *servers", "servers: it is missing"),
        ("addresses: [10.9.2.2, ", "addresses: [x, ", "there is no address"),
        ("port: 53", "mark: x", "port: it is missing"),
        ("port: 80, pool", "mrak: 7, pool", "port: it is missing"),
        ("port: 53", "mark: 7\n    check: {type: tcp, port: x}", "no port of its own"),
        ("port: 53", "mark: 7\n    check: wbe", "no port of its own"),
        ("port: 53", "mark: 7\n    chekc: {type: tcp, port: 53}", "no port of its own"),
        ("port: 53", "port: 53\n    one_packet: true\n    protocol: upd", "cannot be served"),
        ("port: 53", "port: 53\n    protocol: sctp\n    check: x", "proves nothing"),
        ("port: 53", "port: 53\n    tunnel: {type: gue, port: x}\n    forwarding: tunnel", "gue needs"),
        ("port: 53", "port: 53\n    tunnel: {type: geu, port: 1}\n    forwarding: tunnel", "has no port"),
        ("port: 53", "port: 53\n    tunnel: gre\n    forwarding: tunel", "nothing is tunnelled"),
        ("rs2, ", "rs2, upper_threshold: x, lower_threshold: 5, ", "no meaning"),
        ("bgp:\n", "connection_sync: {interfcae: eth1}\nbgp:\n", "interface: it is missing"),
    ],
)
def test_the_consequence_of_a_mistake_is_not_told_as_another(
    right: str, wrong: str, consequence: str
) -> None:
    found = problems(change(right, wrong))
    assert not [line for line in found if consequence in line], found


def test_a_link_bandwidth_beside_a_weight_is_two_of_them() -> None:
    text = change("router_id: 10.2.1.1", "router_id: 10.2.1.1\n  weight: 3").replace(
        "  one:\n", "  one:\n    extended_communities: 0x4004fde949742400\n"
    )
    (found,) = problems(text)
    assert (
        ".extended_communities: there is a link bandwidth among them, and bgp.weight sends one with" in found
    )
    line = "export: {vips: '*', extended_communities: '0x0004fde949742400'}, remote_as"
    (found,) = problems(
        change("router_id: 10.2.1.1", "router_id: 10.2.1.1\n  weight: 3").replace(
            "10.2.1.254, remote_as", f"10.2.1.254, {line}"
        )
    )
    assert "bgp.neighbors[0].export.extended_communities: there is a link bandwidth" in found
