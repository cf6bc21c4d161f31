"""What docs/behaviours.md says of IPVS: persistence, IPv6 addresses that fold, ports used again, ICMP errors, fragments.

Packets are made by hand, so that a node sees what routers send it in the middle of a flow. What leaves for a real
server is read off the link, where the link address names the server.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest

from anycast.config.load import loads
from anycast.core.dataplane.ipvs import MarkKey, MoveDestination, Persistent, ServiceEntry, ServiceKey
from anycast.core.dataplane.kernel import (
    EXPIRE_NODEST,
    IPVS_SYSCTLS,
    SYNC_SYSCTLS,
    ReorderDestinations,
    StartSync,
    SyncRole,
)
from anycast.core.dataplane.limit import entries
from anycast.core.health.phase import Outcome, Result
from anycast.core.values.checks import IpvsConnectionsCheck
from anycast.core.values.configuration import (
    HERE,
    Address,
    ConnectionSync,
    Forwarding,
    Protocol,
    Scheduler,
    SchedulerFlag,
    Service,
    Tunnel,
    TunnelType,
)
from anycast.kernel import sysctl
from tests.contract.namespaces import run
from tests.contract.tables import played
from tests.contract.test_ipvs_flows import BALANCER, CLIENT, FAMILIES, MH, Node, node, servers
from tests.unit.probes import peers

pytestmark = pytest.mark.lab

VIP = {4: ip_address("192.0.2.1"), 6: ip_address("2001:db8::1")}
ROUTER = {4: ip_address("10.1.0.77"), 6: ip_address("fd01::77")}  # one on the way to the client
FALLBACK = frozenset({SchedulerFlag.MH_FALLBACK})
FIN, SYN, RST, ACK = 1, 2, 4, 16
_EVERYTHING = 3  # ETH_P_ALL: also what leaves
CONN_MAX = Path("/proc/sys/net/ipv4/vs/conn_max")
_SO_RCVBUFFORCE = 33
_ICMP = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
Flow = tuple[Address, int]  # address and port of a client


@dataclass(frozen=True, slots=True)
class Sent:
    """A frame to a real server. `flow`: whose it is, None of a fragment without ports; `datagram`: its identification."""

    flow: Flow | None
    server: Address
    datagram: int
    fragment: bool


def packet(source: Address, target: Address, protocol: int, content: bytes) -> bytes:
    if source.version == 4:
        size = 20 + len(content)
        # The kernel fills in the checksum.
        return (
            struct.pack("!BBHHHBBH", 0x45, 0, size, 0, 0x4000, 64, protocol, 0)
            + source.packed
            + target.packed
            + content
        )
    return struct.pack("!IHBB", 6 << 28, len(content), protocol, 64) + source.packed + target.packed + content


def checksum(content: bytes) -> int:
    padded = content + bytes(len(content) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _pseudo(source: Address, target: Address, protocol: int, length: int) -> bytes:
    return source.packed + target.packed + struct.pack("!II", length, protocol)


def segment(client: Flow, port: int, flags: int) -> bytes:
    """A TCP packet of a client to the VIP's port."""
    address, source = client
    target = VIP[address.version]
    head = struct.pack("!HHIIBBHHH", source, port, 1000, 2000, 0x50, flags, 8192, 0, 0)
    total = checksum(_pseudo(address, target, socket.IPPROTO_TCP, len(head)) + head)
    return packet(address, target, socket.IPPROTO_TCP, head[:16] + struct.pack("!H", total) + head[18:])


def too_big(client: Flow, port: int, protocol: int) -> bytes:
    """A router says that the VIP's packet to the client does not fit: it comes to the VIP, from the router."""
    address, target_port = client
    version = address.version
    inner = packet(
        VIP[version], address, protocol, struct.pack("!HHHHI", port, target_port, 28, 0, 0) + bytes(8)
    )
    if version == 4:
        body = struct.pack("!BBHHH", 3, 4, 0, 0, 1400) + inner
        return packet(ROUTER[4], VIP[4], _ICMP[4], body[:2] + struct.pack("!H", checksum(body)) + body[4:])
    body = struct.pack("!BBHI", 2, 0, 0, 1400) + inner
    total = checksum(_pseudo(ROUTER[6], VIP[6], _ICMP[6], len(body)) + body)
    return packet(ROUTER[6], VIP[6], _ICMP[6], body[:2] + struct.pack("!H", total) + body[4:])


def sent(frame: bytes) -> Sent | None:
    six = frame[12:14] == b"\x86\xdd"
    if frame[0] != 2 or not (six or frame[12:14] == b"\x08\x00"):
        return None
    server: Address = IPv4Address(frame[2:6])
    if six:
        server = IPv6Address(b"\xfd\x09" + bytes(10) + frame[2:6])
        source: Address = IPv6Address(frame[22:38])
        protocol, start, offset, datagram = frame[20], 54, 0, 0
        more = False
        if protocol == socket.IPPROTO_FRAGMENT:
            protocol, place, datagram = frame[54], *struct.unpack("!HI", frame[56:62])
            offset, more, start = place & ~7, bool(place & 1), 62
    else:
        source, protocol, start = IPv4Address(frame[26:30]), frame[23], 34
        datagram, place = struct.unpack("!HH", frame[18:22])
        offset, more = (place & 0x1FFF) * 8, bool(place & 0x2000)
    flow = None
    if protocol in _ICMP.values():
        head = start + 8 + (40 if six else 20)
        whose = frame[head - (16 if six else 4) : head]
        flow = (ip_address(whose), int.from_bytes(frame[head + 2 : head + 4], "big"))
    elif not offset:
        flow = (source, int.from_bytes(frame[start : start + 2], "big"))
    return Sent(flow, server, datagram, fragment=more or bool(offset))


class Seen:
    """A node, and what left it for real servers since it was last asked."""

    def __init__(self, one: Node, line: socket.socket) -> None:
        self.node = one
        self._line = line

    def gets(self, packets: Iterable[bytes], version: int = 4) -> list[Sent]:
        """What leaves for the packets of clients, in any order."""
        with (
            self.node.sender(),
            socket.socket(FAMILIES[version], socket.SOCK_RAW, socket.IPPROTO_RAW) as line,
        ):
            for one in packets:
                line.sendto(one, (str(VIP[version]), 0))
        return self.taken(version)

    def taken(self, version: int = 4) -> list[Sent]:
        with self.node.inside():
            mark = socket.socket(FAMILIES[version], socket.SOCK_DGRAM)
        with mark, self.node.sender(), socket.socket(FAMILIES[version], socket.SOCK_DGRAM) as line:
            mark.settimeout(30)
            mark.bind((BALANCER[version], 9))
            line.sendto(b"mark", (BALANCER[version], 9))
            # Packets stay in their order: when this one has come, all others have.
            mark.recv(16)
        found = []
        with contextlib.suppress(BlockingIOError):
            while frame := self._line.recv(256):
                if known := sent(frame):
                    found.append(known)
        return found


@contextlib.contextmanager
def nodes(key: ServiceKey, entry: ServiceEntry, count: int = 2) -> Iterator[list[Seen]]:
    """Nodes with the table and the agent's sysctls."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            one = stack.enter_context(node())
            one.become({key: entry})
            with one.inside():
                for name, value in IPVS_SYSCTLS.items():
                    sysctl.write(name, value)
                line = stack.enter_context(
                    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERYTHING))
                )
                line.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 25)
                line.bind(("servers0", _EVERYTHING))
            line.setblocking(False)
            found.append(Seen(one, line))
        yield found


def service(version: int, protocol: Protocol = Protocol.TCP, port: int = 80) -> ServiceKey:
    return ServiceKey(protocol=protocol, address=VIP[version], port=port)


def table(key: ServiceKey, count: int = 10, flags: frozenset[SchedulerFlag] = MH) -> ServiceEntry:
    ones = tuple(replace(one, port=key.port) for one in servers(count, key.address.version))
    return ServiceEntry(scheduler=Scheduler.MH, flags=flags, destinations=ones)


def owners(found: Iterable[Sent]) -> dict[Flow, Address]:
    return {one.flow: one.server for one in found if one.flow is not None}


def differing(left: Mapping[Flow, Address], right: Mapping[Flow, Address]) -> int:
    assert left.keys() == right.keys()
    assert left
    return sum(left[flow] != right[flow] for flow in left)


def configured(more: str) -> Service:
    text = f"""\
bgp: {{local_as: 65001, router_id: 10.2.1.1, neighbors: [{{address: 10.2.1.254, remote_as: 65000}}]}}
vips: {{web: {{address: 192.0.2.1, port: 80, servers: [10.9.0.1], {more}}}}}
"""
    return loads(text, hostname="lb1").config.vips[0].services[0]


BUSY = 100  # connections
CLIENTS_OF: Mapping[int, Address] = {4: ip_address("10.77.0.1"), 6: ip_address("fd77::1")}
CLIENTS = [IPv4Address("10.77.0.0") + 3 * number for number in range(1, 101)]


def moved(entry: ServiceEntry, clients: list[IPv4Address], later: list[IPv4Address]) -> tuple[int, int]:
    """Of established connections, and of new ones, those that come to another server after the loss of their node.

    `later`: the clients in the order in which they come to the other node.
    """
    key = service(4)
    with nodes(key, entry) as (first, second):
        first.gets(
            segment((one, 3000), 80, SYN) for one in clients
        )  # earlier: now the clients are remembered
        before = owners(first.gets(segment((one, 4000), 80, SYN) for one in clients))
        assert owners(first.gets(segment((one, 4000), 80, ACK) for one in clients)) == before
        after = owners(second.gets(segment((one, 4000), 80, ACK) for one in later))
        anew = owners(second.gets(segment((one, 5000), 80, SYN) for one in later))
    old, new = differing(before, after), sum(anew[one, 5000] != before[one, 4000] for one in clients)
    return old, new


def remembering(flags: frozenset[SchedulerFlag], prefix: int = 32) -> ServiceEntry:
    return replace(table(service(4), flags=flags), persistent=Persistent(timeout=300, prefix=prefix))


def test_persistence_as_it_is_configured_breaks_nothing_when_a_node_is_lost() -> None:
    flags = configured("persistence: 5m").flags
    assert moved(remembering(flags), CLIENTS, CLIENTS) == (0, 0)


def test_persistence_with_mh_port_breaks_most_connections_when_a_node_is_lost() -> None:
    established, new = moved(remembering(MH), CLIENTS, CLIENTS)
    assert established > 70
    assert new > 70


def test_persistence_of_networks_goes_by_the_client_that_comes_first_to_a_node() -> None:
    key = service(4)
    alike = [IPv4Address("10.77.0.0") + number for number in range(1, 101)]
    with nodes(key, table(key, flags=FALLBACK), 1) as (one,):
        each = owners(one.gets(segment((client, 4000), 80, SYN) for client in alike))
    first, *_, last = sorted(alike, key=lambda client: (each[client, 4000] != each[alike[0], 4000], client))
    rest = [client for client in alike if client not in (first, last)]
    entry = remembering(FALLBACK, 24)
    assert moved(entry, [first, *rest, last], [first, *rest, last]) == (0, 0)
    assert moved(entry, [first, *rest, last], [last, *rest, first]) == (100, 100)


@pytest.mark.parametrize("scheduler", [Scheduler.MH, Scheduler.SH])
@pytest.mark.parametrize("ports", [False, True], ids=["addresses alone", "ports too"])
def test_ipv6_clients_with_equal_words_come_to_one_server_unless_ports_count(
    scheduler: Scheduler,
    ports: bool,  # noqa: FBT001
) -> None:
    by_port = {Scheduler.MH: SchedulerFlag.MH_PORT, Scheduler.SH: SchedulerFlag.SH_PORT}[scheduler]
    key = service(6)
    entry = replace(table(key, 4, frozenset({by_port}) if ports else frozenset()), scheduler=scheduler)
    clients = [IPv6Address(f"2001:db8:0:{number:x}::{number:x}") for number in range(1, 201)]
    others = [IPv6Address(f"2001:db8::{number:x}") for number in range(1, 201)]
    with nodes(key, entry, 1) as (one,):
        folded = owners(one.gets((segment((each, 4000 + n), 80, SYN) for n, each in enumerate(clients)), 6))
        spread = owners(one.gets((segment((each, 4000 + n), 80, SYN) for n, each in enumerate(others)), 6))
    assert len(folded) == len(spread) == 200
    assert len(set(folded.values())) == (4 if ports else 1)
    assert len(set(spread.values())) == 4


def reached(scheduler: Scheduler, flags: frozenset[SchedulerFlag]) -> tuple[int, int]:
    """How many of the clients come to a server while all four are up, and while one that had clients is down."""
    key = service(4)
    entry = replace(table(key, 4, flags), scheduler=scheduler)
    with nodes(key, entry, 1) as (one,):
        up = owners(one.gets(segment((client, 4000), 80, SYN) for client in CLIENTS))
        down = Counter(up.values()).most_common(1)[0][0]
        weightless = (replace(each, weight=0 if each.address == down else 1) for each in entry.destinations)
        one.node.become({key: replace(entry, destinations=tuple(weightless))})
        left = owners(one.gets(segment((client, 5000), 80, SYN) for client in CLIENTS))
    assert down not in left.values()
    return len(up), len(left)


@pytest.mark.parametrize(
    "more",
    [
        "",
        "persistence: 5m",
        "scheduler: sh",
        "scheduler: sh, persistence: 5m",
        "scheduler: wlc",
        "scheduler: rr",
    ],
)
def test_as_it_is_configured_every_client_has_a_server_while_one_is_up(more: str) -> None:
    written = configured(more)
    assert reached(written.scheduler, written.flags) == (len(CLIENTS), len(CLIENTS))


@pytest.mark.parametrize(("scheduler", "most"), [(Scheduler.MH, 90), (Scheduler.SH, 90), (Scheduler.DH, 0)])
def test_what_check_refuses_leaves_clients_without_a_server(scheduler: Scheduler, most: int) -> None:
    up, left = reached(scheduler, frozenset())
    assert up == len(CLIENTS)
    assert left <= most


def datagram(client: Flow, port: int) -> bytes:
    """Of a client over IPv4, without a checksum."""
    return packet(client[0], VIP[4], socket.IPPROTO_UDP, struct.pack("!HHHH", client[1], port, 8, 0))


def test_a_client_of_two_ports_comes_to_two_servers_and_with_a_mark_to_one() -> None:
    """Under mh without mh-port. Port 443 of TCP and of UDP is one table."""
    web, secure, quic = service(4), service(4, port=443), service(4, Protocol.UDP, 443)
    mark = MarkKey(mark=7, version=4)
    with nodes(web, table(web, 4, FALLBACK), 1) as (one,):

        def chosen(port: int, source: int, protocol: Protocol = Protocol.TCP) -> list[Address]:
            flows: list[Flow] = [(client, source) for client in CLIENTS]
            packets = (
                segment(flow, port, SYN) if protocol is Protocol.TCP else datagram(flow, port)
                for flow in flows
            )
            found = owners(one.gets(packets))
            return [found[flow] for flow in flows]

        one.node.become({key: table(key, 4, FALLBACK) for key in (web, secure, quic)})
        at_80, at_443 = chosen(80, 4000), chosen(443, 4000)
        assert sum(left == right for left, right in zip(at_80, at_443, strict=True)) < len(CLIENTS) // 2
        assert chosen(443, 4000, Protocol.UDP) == at_443

        marked = table(web, 4, FALLBACK)
        ones = tuple(replace(each, port=0) for each in marked.destinations)
        one.node.become({mark: replace(marked, destinations=ones)})
        with one.node.inside():
            run("tc", "qdisc", "add", "dev", "up0", "clsact")
            # Not what the test itself sends to the balancer.
            rule = "protocol ip u32 match ip dst 192.0.2.1/32 action skbedit mark 7"
            run("tc", "filter", "add", "dev", "up0", "ingress", *rule.split())
        at_80 = chosen(80, 5000)
        assert chosen(443, 5000) == at_80
        assert chosen(443, 5000, Protocol.UDP) == at_80
        assert len(set(at_80)) == 4


def test_one_packet_with_persistence_keeps_a_client_and_no_connections() -> None:
    key = service(4, Protocol.UDP, 53)
    entry = replace(
        table(key, flags=FALLBACK),
        scheduler=Scheduler.RR,
        flags=frozenset(),
        one_packet=True,
        persistent=Persistent(timeout=300, prefix=32),
    )
    with nodes(key, entry, 1) as (one,):
        with one.node.sender():
            for port in range(4000, 4050):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
                    line.bind((CLIENT[4], port))
                    line.sendto(b"x", ("192.0.2.1", 53))
        found = owners(one.taken())
        assert len(found) == 50
        assert len(set(found.values())) == 1
        assert set(one.node.flows()) == {0}  # of the client, whatever its port


def test_connections_that_move_to_a_node_where_their_server_is_full_go_to_another() -> None:
    key = service(4)
    entry = table(key, 4)
    limited = replace(entry.destinations[0], upper=10)
    entry = replace(entry, destinations=(limited, *entry.destinations[1:]))
    with nodes(key, entry) as (first, second):
        there = owners(first.gets(segment((one, 4000), 80, SYN) for one in CLIENTS))
        here = owners(second.gets(segment((one, 5000), 80, SYN) for one in CLIENTS))
        own = [flow for flow, where in there.items() if where == limited.address]
        assert [len(there), len(here)] == [
            len(CLIENTS)
        ] * 2  # with mh-fallback nobody is left without a server
        assert len(own) == list(here.values()).count(limited.address) == 10
        moved_on = owners(second.gets(segment(flow, 80, ACK) for flow in own))
    assert len(moved_on) == 10
    assert limited.address not in moved_on.values()


@pytest.mark.skipif(not CONN_MAX.exists(), reason="since Linux 7.2")
def test_at_the_kernels_limit_connections_are_dropped_and_the_check_has_failed_before() -> None:
    key = service(4)
    kind = IpvsConnectionsCheck(max=1000)
    with nodes(key, table(key, 4), 1) as (one,):

        def opened(first: int, number: int) -> int:
            return len(owners(one.gets(segment((CLIENTS[0], first + n), 80, SYN) for n in range(number))))

        def checked() -> Result:
            with one.node.inside():
                return peers.run(kind, address=str(HERE))

        with one.node.inside():
            sysctl.write("net.ipv4.vs.conn_max", "100")
        assert opened(4000, 90) == 90
        assert checked().outcome is Outcome.OK
        assert opened(5000, 5) == 5
        found = checked()
        assert found.outcome is Outcome.FAIL
        assert found.detail.startswith("95 of 100 that net.ipv4.vs.conn_max allows")
        # Whoever is not root counts by the lines of the connections.
        with one.node.inside():
            status = Path("/proc/net/ip_vs_status").read_text()
            assert entries(status) == len(Path("/proc/net/ip_vs_conn").read_text().splitlines()) - 1 == 95
        assert opened(6000, 50) == 5
        with one.node.inside():
            sysctl.write("net.ipv4.vs.conn_max", "0")
        assert opened(7000, 50) == 0
        assert checked().detail.startswith("net.ipv4.vs.conn_max is 0: the kernel takes no connection")


def test_a_client_that_uses_a_port_again_leaves_a_drained_server() -> None:
    key = service(4)
    entry = table(key, 4)
    client = (CLIENTS[0], 4000)
    with nodes(key, entry, 1) as (one,):
        ((_, drained),) = owners(one.gets([segment(client, 80, SYN), segment(client, 80, ACK)])).items()
        assert owners(one.gets([segment(client, 80, ACK | FIN)])) == {client: drained}
        weightless = tuple(
            replace(each, weight=0) if each.address == drained else each for each in entry.destinations
        )
        one.node.become({key: replace(entry, destinations=weightless)})
        assert owners(one.gets([segment(client, 80, ACK)])) == {client: drained}
        assert owners(one.gets([segment(client, 80, SYN)]))[client] != drained


@pytest.mark.parametrize("version", [4, 6])
def test_a_client_that_met_a_server_as_it_died_is_served_at_its_next_retransmission(version: int) -> None:
    """Its established connections stay; with 0 every retransmission goes to the dead server."""
    key = service(version)
    entry = table(key, 4)
    clients: list[Flow] = [(CLIENTS_OF[version], 4000 + number) for number in range(40)]
    with nodes(key, entry, 1) as (one,):
        old = owners(one.gets((segment(each, 80, ACK) for each in clients[:20]), version))
        new = owners(one.gets((segment(each, 80, SYN) for each in clients[20:]), version))
        dead = Counter(new.values()).most_common(1)[0][0]
        down = tuple(replace(each, weight=0) if each.address == dead else each for each in entry.destinations)
        one.node.become({key: replace(entry, destinations=down)})
        with one.node.inside():
            sysctl.write(EXPIRE_NODEST, "0")
        waiting = [flow for flow, where in new.items() if where == dead]
        assert set(owners(one.gets((segment(each, 80, SYN) for each in waiting), version)).values()) == {dead}
        with one.node.inside():
            sysctl.write(EXPIRE_NODEST, "1")
        again = owners(one.gets((segment(each, 80, SYN) for each in waiting), version))
        assert again.keys() == set(waiting)
        assert dead not in again.values()
        assert owners(one.gets((segment(each, 80, ACK) for each in clients[:20]), version)) == old


def test_repairs_of_the_order_end_no_connection_although_the_sysctl_ends_those_of_deleted_servers() -> None:
    key = service(4)
    entry = table(key, 4)
    flows: list[Flow] = [(one, 4000) for one in CLIENTS]
    with nodes(key, entry, 1) as (one,):
        before = owners(one.gets(segment(each, 80, ACK) for each in flows))
        for repair in range(10):
            moves = tuple(MoveDestination(service=key, destination=each) for each in entry.destinations)
            with one.node.inside():
                assert played(ReorderDestinations(moves=moves)) == ()
                assert sysctl.read([EXPIRE_NODEST]) == {EXPIRE_NODEST: "1"}, repair
            assert set(one.node.flows()) == {4000}
            assert owners(one.gets(segment(each, 80, ACK) for each in flows)) == before


def announcements(
    one: Seen, sysctls: Mapping[str, str], flows: Iterable[Flow], packets: Iterable[int]
) -> Counter[int]:
    """How often each flow, by its port, is told to the other nodes while its packets, with these flags, come at once."""
    last: Flow = (CLIENTS_OF[4], 1)  # when it is told of, all others have been
    sync = ConnectionSync(interface="servers0", id=5)
    with one.node.inside():
        for name, value in sysctls.items():
            sysctl.write(name, value)
        assert played(StartSync(role=SyncRole.MASTER, sync=sync)) == ()
        line = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_EVERYTHING))
        line.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 26)
        line.bind(("servers0", _EVERYTHING))
        line.settimeout(60)
    known = list(flows)
    found: Counter[int] = Counter()
    with line:
        for flags in packets:
            one.gets(segment(each, 80, flags) for each in known)
        for _ in range(3):
            one.gets([segment(last, 80, ACK)])
        while not found[last[1]]:
            found.update(told(line.recv(2048), sync.port))
    return found


def told(datagram: bytes, port: int) -> list[int]:
    """The clients' ports of the connections in a message of the sync daemon."""
    if datagram[9] != socket.IPPROTO_UDP or datagram[22:24] != port.to_bytes(2, "big"):
        return []
    message, ports = datagram[28:], []
    place = 8
    for _ in range(message[4]):
        ports.append(int.from_bytes(message[place + 10 : place + 12], "big"))
        size = int.from_bytes(message[place + 2 : place + 4], "big") & 0xFFF
        place += size + -size % 4
    return ports


@pytest.mark.parametrize(
    ("sysctls", "packets", "times"),
    [
        ({"net.ipv4.vs.sync_threshold": "3 10", "net.ipv4.vs.sync_refresh_period": "0"}, [ACK] * 50, 5),
        (SYNC_SYSCTLS, [ACK] * 50, 1),
        (SYNC_SYSCTLS, [SYN, ACK, ACK, FIN | ACK, ACK], 2),
        (SYNC_SYSCTLS, [SYN, ACK, ACK, RST], 2),
    ],
    ids=["by packets", "by time", "from SYN to FIN", "from SYN to RST"],
)
def test_a_connection_is_told_to_the_others_by_time_and_at_its_end_and_not_by_its_packets(
    sysctls: Mapping[str, str], packets: list[int], times: int
) -> None:
    key = service(4)
    flows: list[Flow] = [(CLIENTS_OF[4], 10000 + number) for number in range(BUSY)]
    with nodes(key, table(key, 4), 1) as (one,):
        found = announcements(one, sysctls, flows, packets)
    del found[1]
    assert found == {port: times for _, port in flows}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_a_path_mtu_message_reaches_the_flows_server_through_any_node(
    version: int, protocol: Protocol
) -> None:
    key = service(version, protocol)
    entry = replace(table(key), one_packet=protocol is Protocol.UDP)
    flows: list[Flow] = [(ip_address(CLIENT[version]), port) for port in range(4000, 4040)]
    number = socket.IPPROTO_TCP if protocol is Protocol.TCP else socket.IPPROTO_UDP
    with nodes(key, entry, 3) as (first, *others):
        if protocol is Protocol.TCP:
            own = owners(first.gets((segment(flow, 80, SYN) for flow in flows), version))
        else:
            first.node.send([port for _, port in flows], key)
            own = owners(first.taken(version))
        assert set(own) == set(flows)
        for other in others:
            assert owners(other.gets((too_big(flow, 80, number) for flow in flows), version)) == own


@pytest.mark.parametrize("version", [4, 6])
def test_fragmented_and_whole_datagrams_of_a_flow_have_one_server_on_every_node(version: int) -> None:
    key = service(version, Protocol.UDP, 514)
    ports = range(4000, 4040)
    with nodes(key, replace(table(key), one_packet=True), 3) as (first, second, third):
        own = owners(datagrams(first, version, ports, 20))
        assert len(own) == len(ports)
        for other, size in ((second, 3000), (third, 3000), (third, 20)):
            found = datagrams(other, version, ports, size)
            assert any(one.fragment for one in found) == (size > 1500)
            assert owners(found) == own
            pieces: dict[int, set[Address]] = {}
            for one in found:
                if one.fragment:
                    pieces.setdefault(one.datagram, set()).add(one.server)
            assert all(len(where) == 1 for where in pieces.values())


def datagrams(one: Seen, version: int, ports: Iterable[int], size: int) -> list[Sent]:
    """What leaves for one datagram of each port, in fragments where it is too long."""
    with one.node.sender():
        for port in ports:
            with socket.socket(FAMILIES[version], socket.SOCK_DGRAM) as line:
                line.bind((CLIENT[version], port))
                line.sendto(bytes(size), (str(VIP[version]), 514))
    return one.taken(version)


IN_IP = int.from_bytes(
    b"\x45\x00", "big"
)  # where ports would be, an IP header begins: of a packet in a packet


def test_a_connection_keeps_the_forwarding_it_began_with_and_follows_its_tunnel_to_another_type() -> None:
    """The record of a real server that is written anew is for what comes then; a tunnel's type is read at each packet."""
    key = service(4)
    entry = table(key, 4)
    old: list[Flow] = [(one, 4000) for one in CLIENTS[:40]]
    new: list[Flow] = [(one, 5000) for one in CLIENTS[:40]]

    def reached(**way: object) -> ServiceEntry:
        return replace(entry, destinations=tuple(replace(one, **way) for one in entry.destinations))  # type: ignore[arg-type]

    with nodes(key, entry, 1) as (one,):
        before = owners(one.gets(segment(each, 80, ACK) for each in old))
        assert before.keys() == set(old)
        one.node.become({key: reached(forwarding=Forwarding.TUNNEL)})
        assert owners(one.gets(segment(each, 80, ACK) for each in old)) == before
        inside = one.gets(segment(each, 80, ACK) for each in new)
        assert [each.flow is not None and each.flow[1] for each in inside] == [IN_IP] * len(new)
        gue = Tunnel(type=TunnelType.GUE, port=5555)
        one.node.become({key: reached(forwarding=Forwarding.TUNNEL, tunnel=gue)})
        assert owners(one.gets(segment(each, 80, ACK) for each in old)) == before
        inside = one.gets(segment(each, 80, ACK) for each in new)
        assert len(inside) == len(new)
        assert all(each.flow is not None and each.flow[1] != IN_IP for each in inside)


@pytest.mark.parametrize("first", [Forwarding.DR, Forwarding.TUNNEL])
def test_a_record_has_one_route_and_who_sends_first_after_a_change_to_a_tunnel_decides_it(
    first: Forwarding,
) -> None:
    """By a tunnel's route packets with direct routing go to nobody: the kernel asks for the link address of the VIP."""
    key = service(4)
    entry = table(key, 4)
    old: list[Flow] = [(one, 4000) for one in CLIENTS[:40]]
    new = [segment((one, 5000), 80, ACK) for one in CLIENTS[:40]]
    tunnels = tuple(replace(one, forwarding=Forwarding.TUNNEL) for one in entry.destinations)
    with nodes(key, entry, 1) as (one,):
        before = owners(one.gets(segment(each, 80, ACK) for each in old))
        assert before.keys() == set(old)
        one.node.become({key: replace(entry, destinations=tunnels)})
        if first is Forwarding.TUNNEL:
            assert len(one.gets(new)) == len(new)
        after = owners(one.gets(segment(each, 80, ACK) for each in old))
        assert after == (before if first is Forwarding.DR else {})
        assert len(one.gets(new)) == len(new)
