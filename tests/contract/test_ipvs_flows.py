"""Real packets through real tables: which real server each flow is sent to, on nodes of different history.

A client in a namespace of its own sends through a balancer in another. The real servers need not exist: IPVS has
chosen, and shows its choice, before the frame goes nowhere.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest

from anycast.core.dataplane import kernel as core
from anycast.core.dataplane.ipvs import (
    COUNTED,
    Counters,
    Destination,
    MoveDestination,
    RemoveDestination,
    ServiceEntry,
    ServiceKey,
    SetDestination,
    Table,
    fingerprint,
    known,
)
from anycast.core.dataplane.traffic import EST_CPULIST, RUN_ESTIMATION, uncounted
from anycast.core.values.configuration import Address, Protocol, Scheduler, SchedulerFlag
from anycast.kernel import sysctl
from tests.contract.namespaces import entered, made_namespace, run
from tests.contract.tables import desired, established, played, read, restore, server, snapshot

pytestmark = pytest.mark.lab

MH = frozenset({SchedulerFlag.MH_PORT, SchedulerFlag.MH_FALLBACK})
_EVERYTHING = 3  # ETH_P_ALL: also what leaves
_SO_RCVBUFFORCE = 33
KEYS = {
    4: ServiceKey(protocol=Protocol.UDP, address=ip_address("192.0.2.1"), port=514),
    6: ServiceKey(protocol=Protocol.UDP, address=ip_address("2001:db8::1"), port=514),
}
KEY = KEYS[4]
FLOWS = range(20000, 22000)  # by their source ports
FEW = range(20000, 20200)
CLIENT, BALANCER = {4: "10.1.0.1", 6: "fd01::1"}, {4: "10.1.0.2", 6: "fd01::2"}
LINKS = """\
addr add 10.1.0.2/24 dev up0
addr add fd01::2/64 dev up0 nodad
addr add 192.0.2.1/32 dev lo
addr add 2001:db8::1/128 dev lo nodad
link add servers0 type dummy
link set servers0 arp on
link set servers0 up
addr add 10.9.255.254/16 dev servers0
addr add fd09::ffff/64 dev servers0 nodad
"""
CLIENTS_LINKS = """\
addr add 10.1.0.1/24 dev up0
addr add fd01::1/64 dev up0 nodad
route add 192.0.2.1 via 10.1.0.2
route add 2001:db8::1 via fd01::2
"""
MOST = 128  # real servers that have a link address
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
Choices = Mapping[int, Address]  # source port: real server


class Node:
    """A balancer, where this thread is while it is `inside`, and a client of its own."""

    def __init__(self, balancer: int, client: int) -> None:
        self._balancer = balancer
        self._client = client
        self.before: Table = {}

    def inside(self) -> contextlib.AbstractContextManager[None]:
        return entered(self._balancer)

    def sender(self) -> contextlib.AbstractContextManager[None]:
        return entered(self._client)

    def become(self, table: Table) -> tuple[core.KernelOp, ...]:
        """As the agent does it: reads, plays the difference, and shows that none is left."""
        with self.inside():
            ops = established(desired(table), self.before)
        self.before = table
        return ops

    def entry(self, key: ServiceKey = KEY) -> ServiceEntry:
        with self.inside():
            return known(read(), self.before)[key]

    def send(self, ports: Sequence[int], key: ServiceKey = KEY, packets: int = 1) -> None:
        """Packets from each of the ports to the service, which the balancer has taken in when this returns."""
        version = key.address.version
        family = FAMILIES[version]
        with self.inside():
            mark = socket.socket(family, socket.SOCK_DGRAM)
        with mark, self.sender():
            mark.settimeout(30)
            mark.bind((BALANCER[version], 9))
            for start in range(0, len(ports), 100):
                for port in ports[start : start + 100]:
                    with socket.socket(family, socket.SOCK_DGRAM) as line:
                        line.bind((CLIENT[version], port))
                        for _ in range(packets):
                            line.sendto(b"x", (str(key.address), key.port))
                # Packets stay in their order: when this one has come, all others have.
                with socket.socket(family, socket.SOCK_DGRAM) as line:
                    line.bind((CLIENT[version], 0))
                    line.sendto(b"mark", (BALANCER[version], 9))
                    mark.recv(16)

    def flows(self) -> dict[int, Address]:
        """The real server of each connection, by its source port."""
        with self.inside(), open("/proc/thread-self/net/ip_vs_conn", encoding="ascii") as file:
            rows = [line.split() for line in file][1:]
        return {int(row[2], 16): _address(row[5]) for row in rows}

    def choices(self, ports: Sequence[int] = FLOWS, key: ServiceKey = KEY) -> dict[int, Address]:
        """Where new flows from the ports go."""
        self.send(ports, key)
        found = self.flows()
        assert set(found) == set(ports)
        return found

    @contextlib.contextmanager
    def listening(self) -> Iterator[Callable[[], list[tuple[int, Address]]]]:
        """Gives what takes the packets that have left for the real servers: source port and real server of each."""
        with self.inside():
            line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERYTHING))
            line.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 25)
            line.bind(("servers0", _EVERYTHING))
        line.setblocking(False)

        def taken() -> list[tuple[int, Address]]:
            found = []
            with contextlib.suppress(BlockingIOError):
                while frame := line.recv(256):
                    if sent := _sent(frame):
                        found.append(sent)
            return found

        with line:
            yield taken


def _address(text: str) -> Address:
    return IPv6Address(text.strip("[]")) if ":" in text else IPv4Address(int(text, 16))


def _link_address(address: Address) -> str:
    return ":".join(f"{byte:02x}" for byte in (2, address.version, *address.packed[-4:]))


def _sent(frame: bytes) -> tuple[int, Address] | None:
    """Of a frame to a real server the UDP source port and, by the link address, the real server."""
    six = frame[12:14] == b"\x86\xdd"
    if frame[0] != 2 or frame[23 if not six else 20] != socket.IPPROTO_UDP:
        return None
    start = 14 + (40 if six else 20)
    address = IPv6Address(b"\xfd\x09" + bytes(10) + frame[2:6]) if six else IPv4Address(frame[2:6])
    return int.from_bytes(frame[start : start + 2], "big"), address


@contextlib.contextmanager
def node() -> Iterator[Node]:
    with made_namespace() as balancer, made_namespace() as client:
        # Few programs, which are dear here.
        cable = f"link add up0 type veth peer name up0 netns /proc/{os.getpid()}/fd/{client}\n"
        up = "link set up0 up\n"
        neighbours = "".join(
            f"neigh replace {one.address} lladdr {_link_address(one.address)} dev servers0 nud permanent\n"
            for version in (4, 6)
            for one in servers(MOST, version)
        )
        for namespace, lines in ((balancer, cable + up + LINKS + neighbours), (client, up + CLIENTS_LINKS)):
            with entered(namespace):
                run("ip", "-batch", "-", stdin=lines)
        yield Node(balancer, client)


def servers(count: int, version: int = 4) -> list[Destination]:
    first = ip_address("10.9.0.1" if version == 4 else "fd09::1")
    return [server(str(first + number), 514) for number in range(count)]


def maglev(*ones: Destination, key: ServiceKey = KEY) -> Table:
    return {key: ServiceEntry(scheduler=Scheduler.MH, flags=MH, destinations=ones)}


def fresh(table: Table, key: ServiceKey = KEY) -> dict[int, Address]:
    """The choices of a node that was never anything else."""
    with node() as one:
        one.become(table)
        return one.choices(key=key)


def differing(left: Choices, right: Choices) -> int:
    assert left.keys() == right.keys()
    return sum(left[port] != right[port] for port in left)


def weighted(count: int, version: int = 4) -> list[Destination]:
    return [
        replace(one, weight=1 + place % 3, table_weight=1 + place % 3)
        for place, one in enumerate(servers(count, version))
    ]


def down(one: Destination) -> Destination:
    return replace(one, weight=0)


def with_one_down(ones: Sequence[Destination], place: int) -> list[Destination]:
    return [down(one) if number == place else one for number, one in enumerate(ones)]


def by_hand(one: Node, lines: str) -> None:
    with one.inside():
        restore(lines)


COUNT = 20


def failed_and_back(one: Node, target: list[Destination], key: ServiceKey) -> None:
    one.become(maglev(*target, key=key))
    one.become(maglev(*with_one_down(target, 7), key=key))


def fewer_and_others(one: Node, target: list[Destination], key: ServiceKey) -> None:
    others = weighted(COUNT + 5, key.address.version)
    one.become(maglev(*others[8:], key=key))
    one.become(maglev(*others[:4], *others[12:22], key=key))


def another_order(one: Node, target: list[Destination], key: ServiceKey) -> None:
    one.become(maglev(*target, key=key))
    name = f"[{key.address}]:514" if key.address.version == 6 else f"{key.address}:514"
    for destination in (target[3], target[11], target[0]):
        text = f"[{destination.address}]:514" if key.address.version == 6 else f"{destination.address}:514"
        by_hand(one, f"-d -u {name} -r {text}\n-a -u {name} -r {text} -g -w {destination.weight}")


def other_weights(one: Node, target: list[Destination], key: ServiceKey) -> None:
    others = [replace(each, weight=5, table_weight=5) for each in target[:9]]
    one.become(maglev(*others, *with_one_down(target[9:], 2), key=key))


def another_scheduler(one: Node, target: list[Destination], key: ServiceKey) -> None:
    one.become({key: ServiceEntry(scheduler=Scheduler.WLC, destinations=tuple(with_one_down(target, 5)))})
    sh = frozenset({SchedulerFlag.SH_PORT})
    one.become({key: ServiceEntry(scheduler=Scheduler.SH, flags=sh, destinations=tuple(target[:12]))})


def all_of_them(one: Node, target: list[Destination], key: ServiceKey) -> None:
    for history in HISTORIES[:-1]:
        history(one, target, key)


HISTORIES = [failed_and_back, fewer_and_others, another_order, other_weights, another_scheduler, all_of_them]


@pytest.fixture(scope="module")
def reference() -> dict[int, tuple[Choices, str]]:
    """The choices and the fingerprint of a fresh node, by family. One of its real servers is down."""
    found: dict[int, tuple[Choices, str]] = {}
    for version, key in KEYS.items():
        table = maglev(*with_one_down(weighted(COUNT, version), 16), key=key)
        with node() as one:
            one.become(table)
            found[version] = one.choices(key=key), fingerprint(one.entry(key), table[key])
    return found


@pytest.mark.parametrize("version", KEYS)
@pytest.mark.parametrize("history", HISTORIES)
def test_nodes_of_different_histories_choose_alike_and_have_equal_fingerprints(
    history: Callable[[Node, list[Destination], ServiceKey], None],
    version: int,
    reference: dict[int, tuple[Choices, str]],
) -> None:
    key = KEYS[version]
    target = with_one_down(weighted(COUNT, version), 16)
    choices, digits = reference[version]
    assert len(set(choices.values())) == COUNT - 1
    with node() as one:
        history(one, target, key)
        assert one.become(maglev(*target, key=key)) != ()
        assert fingerprint(one.entry(key), maglev(*target, key=key)[key]) == digits
        assert differing(one.choices(key=key), choices) == 0


def test_a_wrong_order_chooses_otherwise_until_it_is_repaired(
    reference: dict[int, tuple[Choices, str]],
) -> None:
    """Without this the tests above would prove nothing."""
    target = with_one_down(weighted(COUNT), 16)
    choices, digits = reference[4]
    with node() as one:
        another_order(one, target, KEY)
        assert fingerprint(one.entry(), maglev(*target)[KEY]) != digits
        assert differing(one.choices(), choices) > 0


def test_another_table_weight_chooses_otherwise_and_has_another_fingerprint(
    reference: dict[int, tuple[Choices, str]],
) -> None:
    choices, digits = reference[4]
    table = maglev(
        *(
            replace(each, weight=0, table_weight=9) if not each.weight else each
            for each in with_one_down(weighted(COUNT), 16)
        )
    )
    with node() as one:
        one.become(table)
        assert fingerprint(one.entry(), table[KEY]) != digits
        assert differing(one.choices(), choices) > 0


@pytest.mark.parametrize("version", KEYS)
def test_a_server_of_a_hundred_at_weight_0_moves_no_flow_of_the_others(version: int) -> None:
    key, ones = KEYS[version], servers(100, version)
    before = fresh(maglev(*ones, key=key), key)
    with node() as one:
        one.become(maglev(*ones, key=key))
        one.become(maglev(*with_one_down(ones, 42), key=key))
        after = one.choices(key=key)
    gone = ones[42].address
    assert gone in before.values()
    assert gone not in after.values()
    others = [port for port, address in before.items() if address != gone]
    assert [port for port in others if before[port] != after[port]] == []


@pytest.mark.parametrize("version", KEYS)
def test_a_sorry_server_that_serves_in_an_outage_moves_no_flow_of_another(version: int) -> None:
    """It stands by in the second place of four. At each step only flows whose server has gone, or is back, move."""
    key, ones = KEYS[version], servers(4, version)
    first, sorry, *_ = [each.address for each in ones]

    def table(*weights: int) -> Table:
        some = [replace(each, weight=weight) for each, weight in zip(ones, weights, strict=True)]
        return {key: replace(maglev(*some, key=key)[key], one_packet=True)}

    written: list[set[type]] = []
    with node() as one, one.listening() as taken:

        def choices(*weights: int) -> Choices:
            written.append({type(op) for op in one.become(table(*weights))})
            taken()
            one.send(FLOWS, key)
            found = dict(taken())
            assert set(found) == set(FLOWS)
            return found

        well = choices(1, 0, 1, 1)
        fewer = choices(0, 0, 1, 1)
        outage = choices(0, 1, 0, 0)
        one_back = choices(1, 0, 0, 0)
        again = choices(1, 0, 1, 1)
    assert written[1:] == [{SetDestination}] * 4, "weights alone: nobody enters or leaves the table"
    assert sorry not in {*well.values(), *fewer.values()}
    assert {port for port in FLOWS if fewer[port] != well[port]} == {p for p in FLOWS if well[p] == first}
    assert set(outage.values()) == {sorry}
    assert set(one_back.values()) == {first}
    assert again == well


def test_a_server_that_is_down_from_the_start_and_one_that_failed_later_make_the_same_choices() -> None:
    table = maglev(*with_one_down(weighted(COUNT), 11))
    with node() as one:
        one.become(maglev(*weighted(COUNT)))
        assert {type(op) for op in one.become(table)} == {SetDestination}
        assert differing(one.choices(), fresh(table)) == 0


def test_a_server_inserted_with_weight_0_by_hand_is_put_into_the_table() -> None:
    """The kernel leaves it out, and does not tell: a node that has just started cannot know, so it writes."""
    ones = with_one_down(weighted(COUNT), 11)
    table = maglev(*ones)
    choices = fresh(table)
    lines = ["-A -u 192.0.2.1:514 -s mh -b mh-fallback,mh-port"]
    lines += [f"-a -u 192.0.2.1:514 -r {each.address}:514 -g -w {each.weight}" for each in ones]
    with node() as one, node() as untouched:
        by_hand(one, "\n".join(lines))
        by_hand(untouched, "\n".join(lines))
        assert differing(untouched.choices(), choices) > 0
        assert one.become(table) == (SetDestination(service=KEY, destination=ones[11], rebuild=True),)
        assert differing(one.choices(), choices) == 0


def test_a_table_weight_that_changes_while_a_server_is_down_makes_the_choices_of_a_fresh_node() -> None:
    ones = with_one_down(servers(COUNT), 11)
    changed = [replace(each, table_weight=3) if each.weight == 0 else each for each in ones]
    choices = fresh(maglev(*changed))
    with node() as one, node() as plain:
        for each in (one, plain):
            each.become(maglev(*ones))
        rebuild = SetDestination(service=KEY, destination=changed[11], rebuild=True)
        assert one.become(maglev(*changed)) == (rebuild,)
        assert differing(one.choices(), choices) == 0
        with plain.inside():
            assert played(replace(rebuild, rebuild=False)) == ()
        assert differing(plain.choices(), choices) > 0


def balancing(scheduler: Scheduler, *ones: Destination, one_packet: bool = False) -> Table:
    return {KEY: ServiceEntry(scheduler=scheduler, one_packet=one_packet, destinations=ones)}


def test_one_packet_scheduling_spreads_the_packets_of_one_port_over_all_servers() -> None:
    ones = servers(4)
    with node() as one, one.listening() as taken:
        one.become(balancing(Scheduler.RR, *ones, one_packet=True))
        one.send([20000], packets=40)
        assert Counter(taken()) == {(20000, each.address): 10 for each in ones}
        assert one.flows() == {}


def test_without_one_packet_scheduling_the_packets_of_one_port_stick_to_one_server() -> None:
    with node() as one, one.listening() as taken:
        one.become(balancing(Scheduler.RR, *servers(4)))
        one.send([20000], packets=40)
        (((_, address), count),) = Counter(taken()).items()
        assert (count, one.flows()) == (40, {20000: address})


def carried(one: Node, packets: int) -> tuple[list[Counters], core.Snapshot]:
    """The counters of the service and of its real servers, once the kernel has added up so many packets."""
    rows: list[Counters] = []
    for _ in range(100):
        with one.inside():
            found = snapshot()
        rows = list(map(Counters._make, COUNTED.iter_unpack(found.traffic.get(KEY, b""))))
        if rows and rows[0].packets_in >= packets:
            return rows, found
        time.sleep(0.2)  # it adds up every two seconds, and tells of it in no other way
    raise AssertionError(f"{packets} packets are not counted: {rows}")


def test_what_is_carried_is_read_of_the_service_and_of_each_real_server() -> None:
    with node() as one:
        one.become(balancing(Scheduler.RR, *servers(4), one_packet=True))
        with one.inside():
            assert snapshot().traffic == {}
        one.send([20000], packets=40)
        (whole, *each), found = carried(one, 40)
        assert whole == Counters(connections=40, packets_in=40, bytes_in=40 * (20 + 8 + 1))
        assert each == [Counters(connections=10, packets_in=10, bytes_in=10 * 29)] * 4
        assert found.packets[KEY] == 40
        # Real servers stand in the order of the table.
        one.become(balancing(Scheduler.RR, *servers(4)[:1], one_packet=True))
        one.send([20000], packets=8)
        (whole, only), found = carried(one, 48)
        assert (whole.packets_in, only.packets_in, len(found.table[KEY].destinations)) == (48, 18, 1)


EST_NICE = "net.ipv4.vs.est_nice"


@pytest.mark.parametrize("nice", ["-20", "19"])
def test_the_priority_of_the_counting_changes_nothing_that_a_drain_goes_by(nice: str) -> None:
    """Since 6.2. Beside a program that wants the whole processor: late is all that a service's counter may be.

    The live count of all services has every packet at once; by it a drain knows which of them the counters lack.
    """
    with node() as one, one.inside():
        if sysctl.read([EST_NICE])[EST_NICE] is None:
            pytest.skip("this kernel has no est_nice")
        one.become(balancing(Scheduler.RR, *servers(2), one_packet=True))
        Path("/proc/sys/net/ipv4/vs/est_nice").write_text(nice)
        assert sysctl.read([EST_NICE]) == {EST_NICE: nice}
        hog = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            before = snapshot().received
            one.send([20000], packets=40)
            found = snapshot()
            assert before is not None
            assert found.received is not None
            assert found.received.live - before.live == 40
            assert uncounted(sysctl.read([RUN_ESTIMATION, EST_CPULIST])) is None
            (whole, *_), found = carried(one, 40)
        finally:
            hog.kill()
            hog.wait()
        assert whole.packets_in == 40
        assert found.received is not None
        assert found.received.counted <= found.received.live


def removal_of(address: Address) -> RemoveDestination:
    return RemoveDestination(service=KEY, key=(address, 514))


def test_the_next_packets_of_flows_whose_server_is_expired_go_to_other_servers() -> None:
    ones = servers(4)
    gone = ones[1].address
    with node() as one, one.listening() as taken:
        one.become(maglev(*ones))
        before = one.choices(FEW)
        taken()
        with one.inside():
            assert played(core.ExpireDestinations(removals=(removal_of(gone),))) == ()
            assert sysctl.read([core.EXPIRE_NODEST]) == {core.EXPIRE_NODEST: "1"}
        assert set(one.flows()) == {port for port in FEW if before[port] != gone}
        one.send(FEW)
        after = dict(taken())
        assert one.flows() == after
        assert set(after) == set(FEW)
        assert gone not in after.values()
        kept = [port for port in FEW if before[port] != gone]
        assert 0 < len(kept) < len(FEW)
        assert [port for port in kept if after[port] != before[port]] == []


@pytest.mark.parametrize("expired", [False, True], ids=["removed", "expired without writing the sysctl"])
def test_the_next_packets_of_flows_whose_server_is_only_removed_are_dropped(expired: bool) -> None:  # noqa: FBT001
    ones = servers(4)
    gone = ones[1].address
    removal = removal_of(gone)
    unwritten = core.ExpireDestinations(removals=(removal,), write_sysctl=False)

    with node() as one, one.listening() as taken:
        one.become(maglev(*ones))
        before = one.choices(FEW)
        taken()
        with one.inside():
            assert played(unwritten if expired else removal) == ()
        one.send(FEW)
        assert dict(taken()) == {port: address for port, address in before.items() if address != gone}
        assert one.flows() == before


def test_an_expired_server_that_comes_back_gets_its_new_flows_again() -> None:
    ones = servers(4)
    with node() as one:
        one.become(maglev(*ones))
        with one.inside():
            assert played(core.ExpireDestinations(removals=(removal_of(ones[1].address),))) == ()
        one.become(maglev(*ones))
        assert differing(one.choices(), fresh(maglev(*ones))) == 0


def test_ten_repairs_of_the_order_under_traffic_leave_every_flow_with_its_server() -> None:
    ones = servers(COUNT)
    with node() as one, one.listening() as taken:
        one.become(maglev(*ones))
        before = one.choices(FEW)
        taken()
        with traffic_of(one, FEW) as once_more:
            for _ in range(10):
                with one.inside():
                    moves = [MoveDestination(service=KEY, destination=each) for each in ones]
                    assert played(*moves) == ()
                once_more()
        assert one.flows() == before
        seen = Counter(taken())
        assert set(seen) == set(before.items())
        assert min(seen.values()) >= 10
        one.send(FEW)
        assert dict(taken()) == before
        assert differing(one.choices(), fresh(maglev(*ones))) == 0


@contextlib.contextmanager
def traffic_of(one: Node, ports: Sequence[int]) -> Iterator[Callable[[], None]]:
    """Packets from every port, again and again, in a thread. Gives what waits until all have sent once more."""
    changed, ended = threading.Condition(), threading.Event()
    rounds = 0

    def sending() -> None:
        nonlocal rounds
        while not ended.is_set():
            for line in lines:
                line.send(b"x")
            with changed:
                rounds += 1
                changed.notify()

    def once_more() -> None:
        with changed:
            enough = rounds + 2  # the next may have begun before
            assert changed.wait_for(lambda: rounds >= enough, timeout=30)

    with contextlib.ExitStack() as stack:
        with one.sender():
            lines = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in ports]
        for line, port in zip(lines, ports, strict=True):
            line.bind((CLIENT[4], port))
            line.connect((str(KEY.address), KEY.port))
        thread = threading.Thread(target=sending)
        thread.start()
        try:
            yield once_more
        finally:
            ended.set()
            thread.join()
