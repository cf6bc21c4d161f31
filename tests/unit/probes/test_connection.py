"""TCP by hand against a peer that may do anything: what it takes in, what it sends, and that nothing breaks it."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.health.phase import Fault
from anycast.core.values.checks import TcpCheck
from anycast.core.values.configuration import Check, Target, Tunnel
from anycast.probes.finding import PeerError, Progress, UnusableError
from anycast.probes.links import Way
from anycast.probes.wire import packet as of
from anycast.probes.wire.connection import Connection
from anycast.probes.wire.packet import ACK, FIN, PUSH, RST, SYN, Ends, Error, Segment
from anycast.probes.wire.ports import SIZE
from anycast.probes.wire.wire import Wire, of_loop

VIP, OWN, SERVER = (ip_address(text) for text in ("192.0.2.1", "10.9.1.1", "10.9.2.1"))
TARGET = Target(
    address=SERVER,
    port=80,
    check=Check(kind=TcpCheck(), to_vip=True, full_size=False),
    vip=VIP,
    tunnel=Tunnel(),
)
PORT = 61441
THEIRS = 7000


class FakeWire:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sent: list[Segment] = []
        self.plain_sent = 0
        self.calls: list[tuple[float, Callable[[], None]]] = []
        self.carried: dict[object, float] = {}
        self.opened = 0
        self.sendings: dict[object, object] = {}

    def clock(self) -> float:
        return self.now

    def way(self, *_: object) -> Way:
        return Way(interface="lo", number=1, source=OWN, gateway=True, local=False)

    def forget(self, _: object) -> None:
        pass

    def open(self, *_: object) -> int:
        self.opened += 1
        return PORT

    def shut(self, *_: object) -> None:
        self.opened -= 1

    def at(self, when: float, call: Callable[[], None]) -> None:
        self.calls.append((when, call))

    def tunnel(self, *_: object) -> FakeWire:
        return self

    def number(self) -> int:
        return 4_294_967_290  # it wraps

    def sendto(self, packet: bytes, _: object) -> None:
        parts = of.parts_of(packet)
        assert parts is not None
        segment = of.segment_of(packet, parts.at, parts.end)
        assert segment is not None
        self.sent.append(segment)

    def plain(self, *_: object) -> None:
        self.plain_sent += 1

    def settle(self, _: int) -> None:
        pass

    def pass_time(self, until: float) -> None:
        self.now = until
        due = [one for one in self.calls if one[0] <= until]
        self.calls = [one for one in self.calls if one[0] > until]
        for _, call in due:
            call()


class Peer:
    def __init__(self, target: Target = TARGET) -> None:
        self.wire = FakeWire()
        self.events: list[int] = []
        self.connection = Connection(
            cast(Wire, self.wire), target, 80, lambda _, events: self.events.append(events), Progress()
        )
        self.first = self.wire.sent[0].number

    def says(self, flags: int, number: int, acknowledged: int, payload: bytes = b"", **more: Any) -> None:
        packet = Ends(VIP, OWN).tcp((80, PORT), (number, acknowledged), flags, payload, **more)
        parts = of.parts_of(packet)
        assert parts is not None
        self.connection.take(packet, parts)

    def accept(self) -> None:
        self.says(SYN | ACK, THEIRS, self.first + 1 & 0xFFFFFFFF, options=of.mss_option(4))

    def data(self, payload: bytes, at: int = 1, flags: int = ACK | PUSH) -> None:
        self.says(flags, THEIRS + at, self.first + 1 & 0xFFFFFFFF, payload)

    @property
    def last(self) -> Segment:
        return self.wire.sent[-1]


def test_a_handshake_is_completed_before_it_is_reset() -> None:
    peer = Peer()
    peer.accept()
    assert peer.events == [select.EPOLLOUT]
    peer.connection.close()
    assert [one.flags for one in peer.wire.sent] == [SYN, ACK, RST | ACK]
    assert peer.wire.opened == 0


def test_a_request_carries_the_ack_and_what_comes_back_is_read_in_order_and_once() -> None:
    peer = Peer()

    def asks(connection: Connection, _: int) -> None:
        connection.send(b"GET")

    peer.connection._notify = asks
    peer.accept()
    assert [one.flags for one in peer.wire.sent] == [SYN, ACK | PUSH]
    peer.connection._notify = lambda _, events: peer.events.append(events)
    peer.data(b"cd", 3)  # too early: it has to come again
    peer.data(b"ab")
    peer.data(b"ab")
    peer.data(b"bcd", 2)
    peer.data(b"", 5, FIN | ACK)
    assert peer.connection.recv(100) == b"abcd"
    assert peer.connection.recv(100) == b""
    assert peer.events[-1] & select.EPOLLRDHUP
    assert peer.last.acknowledged == THEIRS + 6


def test_what_is_lost_is_sent_again_twice() -> None:
    peer = Peer()
    peer.wire.pass_time(0.3)
    peer.wire.pass_time(0.6)
    peer.wire.pass_time(5.0)
    # And the server itself is asked why, by the tunnel and outside of it.
    assert [one.flags for one in peer.wire.sent] == [SYN] * 4
    assert peer.wire.plain_sent == 1


def test_a_refusal_is_the_servers_and_nothing_is_sent_after_it() -> None:
    peer = Peer()
    peer.says(RST | ACK, 0, peer.first + 1 & 0xFFFFFFFF)
    with pytest.raises(PeerError, match=r"connection refused \(192\.0\.2\.1:80 at 10\.9\.2\.1\)"):
        peer.connection.getsockopt(0, 0)
    peer.connection.close()
    assert len(peer.wire.sent) == 1


@pytest.mark.parametrize("acknowledged", [0, 2, 1000])
def test_an_answer_to_another_syn_is_none(acknowledged: int) -> None:
    peer = Peer()
    peer.says(SYN | ACK, THEIRS, peer.first + acknowledged & 0xFFFFFFFF)
    peer.says(RST | ACK, THEIRS, peer.first + acknowledged & 0xFFFFFFFF)
    assert peer.events == []


def test_a_connection_that_the_server_has_left_from_before_is_reset_so_that_the_next_syn_opens_one() -> None:
    peer = Peer()
    peer.says(ACK, 50, 12345)  # as TCP answers a SYN within one that it has
    assert (peer.last.flags, peer.last.number) == (RST, 12345)
    peer.says(RST | ACK, 50, 12345)
    assert peer.events == []
    assert len(peer.wire.sent) == 2  # a reset is not answered
    peer.wire.pass_time(0.3)
    assert peer.last.flags == SYN
    peer.accept()
    assert peer.events == [select.EPOLLOUT]


def test_a_window_that_is_shut_is_waited_for() -> None:
    peer = Peer()
    peer.accept()
    peer.connection._window = 2
    assert peer.connection.send(b"abc") == 2
    with pytest.raises(BlockingIOError):
        peer.connection.send(b"c")
    peer.events.clear()
    peer.data(b"", flags=ACK)  # it tells of its window, and acknowledges nothing new
    assert peer.events == [select.EPOLLOUT]
    assert peer.connection.send(b"c") == 1
    peer.data(b"", flags=ACK)
    assert peer.events == [select.EPOLLOUT]  # nobody waits for more


def told(kind: str, *, server: bytes = SERVER.packed, mtu: int = 0) -> Error:
    return Error(kind, mtu, SERVER.packed, server, of.TCP, VIP.packed, (PORT, 80))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            told("protocol"),
            "10.9.2.1 does not unwrap ipip (protocol unreachable): is its tunnel interface up?",
        ),
        (told("other"), "10.9.2.1 is unreachable, says 10.9.2.1"),
        (
            told("hops", server=b""),
            "the server sends what is for 192.0.2.1 on to others: is 192.0.2.1 on lo there?",
        ),
    ],
)
def test_an_error_of_icmp_says_what_is_wrong(error: Error, said: str) -> None:
    peer = Peer()
    peer.connection.told(error)
    with pytest.raises(PeerError) as caught:
        peer.connection.recv(1)
    assert str(caught.value) == said


@pytest.mark.parametrize("number", [1, -70000, 1 << 31])
def test_an_error_about_a_segment_that_was_never_sent_is_none(number: int) -> None:
    peer = Peer()
    forged = told("other")._replace(number=(peer.connection._next + number) & 0xFFFFFFFF)
    peer.connection.told(forged)
    with pytest.raises(BlockingIOError):
        peer.connection.recv(1)
    peer.connection.told(forged._replace(number=peer.first))
    with pytest.raises(PeerError):
        peer.connection.recv(1)


actions = st.lists(
    st.tuples(
        st.integers(0, 63),
        st.integers(-3, 70000),
        st.integers(-3, 70000),
        st.binary(max_size=8),
    ),
    max_size=12,
)


@given(actions, st.booleans())
def test_whatever_segments_come_nothing_breaks_and_nothing_is_read_that_was_not_sent(
    script: list[tuple[int, int, int, bytes]],
    accepted: bool,  # noqa: FBT001
) -> None:
    peer = Peer()
    if accepted:
        peer.accept()
    for flags, number, acknowledged, payload in script:
        peer.says(flags, THEIRS + number & 0xFFFFFFFF, peer.first + acknowledged & 0xFFFFFFFF, payload)
    peer.wire.pass_time(2.0)
    try:
        found = peer.connection.recv(1000)
    except (OSError, PeerError):
        found = b""
    assert len(found) <= sum(len(payload) for *_, payload in script)
    peer.connection.close()
    assert peer.wire.opened == 0


def test_a_loop_has_one_wire_that_ends_with_it() -> None:
    async def story() -> None:
        from anycast.probes.wire.wire import _wires

        assert of_loop() is of_loop()
        assert asyncio.get_running_loop() in _wires

    asyncio.run(story())
    from anycast.probes.wire.wire import _wires

    assert all(not loop.is_closed() for loop in _wires)


def test_when_no_port_towards_a_vip_is_left_that_is_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Wire, "_receive", lambda *_: None)  # no packet is to come

    async def story() -> None:
        wire = of_loop()
        endpoint = cast(Any, None)
        ports = {wire.open(80, VIP.packed, of.TCP, endpoint) for _ in range(SIZE - 1)}
        assert len(ports) == SIZE - 1
        with pytest.raises(UnusableError, match="all 1,023 local ports for to: vip are in use") as caught:
            wire.open(80, VIP.packed, of.TCP, endpoint)
        assert caught.value.fault is Fault.PORTS
        assert wire.open(81, VIP.packed, of.TCP, endpoint) in ports

    asyncio.run(story())


def test_what_is_sent_later_has_its_own_time_to_be_acknowledged() -> None:
    peer = Peer()
    peer.wire.pass_time(0.2)
    peer.accept()
    peer.connection.send(b"GET")
    sent = len(peer.wire.sent)
    peer.wire.pass_time(0.3)  # the SYN's time
    assert len(peer.wire.sent) == sent
    peer.wire.pass_time(0.46)
    assert [one.payload for one in peer.wire.sent[sent:]] == [b"GET"]
    peer.wire.pass_time(0.71)
    assert [one.payload for one in peer.wire.sent[sent:]] == [b"GET", b"GET"]
    peer.wire.pass_time(5.0)
    assert len(peer.wire.sent) == sent + 2
    assert peer.wire.calls == []
