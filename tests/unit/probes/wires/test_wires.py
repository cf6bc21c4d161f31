"""Tripwires at real sockets of the loopback, with a clock that does not wait."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import pytest

from anycast.core.health.phase import Fault, Outcome
from anycast.core.values.checks import DnsCheck, HttpCheck, IdleCheck, UdpCheck
from anycast.core.values.configuration import Check, CheckKind, Target, TcpCheck
from anycast.probes.finding import OK, Finding
from anycast.probes.wires.wires import State, Tripwire, Wires, is_wanted
from tests.unit.clock import now, run_with_clock, until
from tests.unit.probes.peers import full_backlog, open_descriptors, refusing_port

RESET = struct.pack("ii", 1, 0)


def target(port: int, kind: CheckKind | None = None, **settings: float) -> Target:
    check = Check(kind=kind or TcpCheck(), tripwire=not isinstance(kind, IdleCheck), **settings)  # type: ignore[arg-type]
    return Target(address=ip_address("127.0.0.1"), port=port, check=check)


@dataclass
class Watch:
    """Who is told."""

    trips: list[tuple[str, bool]] = field(default_factory=list)
    answers: list[tuple[str, Finding]] = field(default_factory=list)
    lines: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def wires(self) -> Wires[str]:
        return Wires(
            lambda owner, at_once: self.trips.append((owner, at_once)),
            lambda owner, finding, _: self.answers.append((owner, finding)),
            lambda event, fields: self.lines.append((event, fields)),
        )


@contextlib.contextmanager
def listener(backlog: int = 128) -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(backlog)
        sock.setblocking(False)
        yield sock


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


async def reached(wire: Tripwire[str], state: State) -> None:
    """A connection that stands has also been left open for a moment."""
    await until(lambda: wire.state is state and (wire.settled or state is not State.STANDING))


async def standing(wires: Wires[str], sock: socket.socket) -> Tripwire[str]:
    """A tripwire of the listener whose check has gone well, once its connection stands."""
    wire = wires.join(target(port_of(sock)), "a")
    wires.heard(wire, ok=True)
    await reached(wire, State.STANDING)
    return wire


async def accepted(sock: socket.socket) -> socket.socket:
    return (await asyncio.get_running_loop().sock_accept(sock))[0]


async def moments() -> None:
    """What is under way comes to its end."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (TcpCheck(), True),
        (HttpCheck(tls=True), True),
        (DnsCheck(name="a.example", transport="tcp"), True),
        (DnsCheck(name="a.example"), False),
        (UdpCheck(), False),
        (IdleCheck(), True),
    ],
)
def test_only_what_goes_over_tcp_to_the_server_has_a_wire(kind: CheckKind, *, wanted: bool) -> None:
    assert is_wanted(target(80, kind)) is wanted
    without = Target(address=ip_address("127.0.0.1"), port=80, check=Check(kind=TcpCheck()))
    assert not is_wanted(without)


def test_nothing_is_opened_before_a_check_has_gone_well() -> None:
    async def story() -> None:
        with listener() as sock:
            wires = Watch().wires()
            wire = wires.join(target(port_of(sock)), "a")
            wires.heard(wire, ok=False)
            await asyncio.sleep(100)
            assert wire.state is State.OFF
            wires.heard(wire, ok=True)
            await reached(wire, State.STANDING)
            assert wires.counts == {**dict.fromkeys(State, 0), State.STANDING: 1}
            wires.close()

    run_with_clock(story())


def test_one_counts_as_standing_once_the_server_has_left_it_open_for_a_moment() -> None:
    async def story() -> None:
        with listener() as sock:
            wires = Watch().wires()
            wire = wires.join(target(port_of(sock)), "a")
            wires.heard(wire, ok=True)
            await until(lambda: wire.state is State.STANDING)
            assert not wire.settled
            assert wires.counts == {**dict.fromkeys(State, 0), State.CONNECTING: 1}
            await reached(wire, State.STANDING)
            assert wires.counts == {**dict.fromkeys(State, 0), State.STANDING: 1}
            wires.leave(wire, "a", proof=False)
            assert wires.counts == dict.fromkeys(State, 0)
            wires.close()

    run_with_clock(story())


@pytest.mark.parametrize("how", ["fin", "rst", "listener"])
def test_an_end_is_told_at_once_to_all_who_share_the_connection(how: str) -> None:
    async def story() -> None:
        with listener() as sock:
            watch = Watch()
            wires = watch.wires()
            wire = wires.join(target(port_of(sock)), "a")
            assert wires.join(target(port_of(sock), HttpCheck(tls=False)), "b") is wire
            wires.heard(wire, ok=True)
            await reached(wire, State.STANDING)
            began = now()
            if how == "listener":  # the process has ended without ever accepting it
                sock.close()
            else:
                other = await accepted(sock)
                if how == "rst":
                    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                other.close()
            await until(lambda: bool(watch.trips), 0)
            assert watch.trips == [("a", True), ("b", True)]
            assert now() == began
            assert wire.state is State.OFF
            wires.close()

    run_with_clock(story())


def test_after_an_end_it_is_laid_again_once_a_check_has_gone_well() -> None:
    async def story() -> None:
        with listener() as sock:
            watch = Watch()
            wires = watch.wires()
            wire = await standing(wires, sock)
            (await accepted(sock)).close()
            await until(lambda: bool(watch.trips), 0)
            wires.heard(wire, ok=False)
            await asyncio.sleep(1000)
            assert wire.state is State.OFF
            wires.heard(wire, ok=True)
            await reached(wire, State.STANDING)
            assert wires.ends == {"harmless": 0, "deadly": 1, "usual": 0}
            wires.close()

    run_with_clock(story())


def test_a_server_that_resets_at_once_for_ever_costs_no_check_and_is_told_of_once() -> None:
    async def story() -> None:
        with listener() as sock:
            watch = Watch()
            wires = watch.wires()
            wire = wires.join(target(port_of(sock)), "a")
            served = 0

            async def serve() -> None:
                nonlocal served
                while True:
                    other = await accepted(sock)
                    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    other.close()
                    served += 1

            serving = asyncio.create_task(serve())
            for _ in range(3600):  # an hour of checks that go well, each second
                wires.heard(wire, ok=True)
                await asyncio.sleep(1)
            assert watch.trips == []
            assert served <= 8 + 3600 / 150
            place, what = f"127.0.0.1:{port_of(sock)}", "no tripwire: connection reset by peer"
            assert watch.lines == [("tripwire.learned", {"server": place, "detail": what, "more": 0})]
            assert dict(wires.notes) == {place: what}
            serving.cancel()
            wires.close()

    run_with_clock(story())


def test_a_server_that_closes_after_a_second_is_learned_and_tried_every_ten_minutes() -> None:
    async def story() -> None:
        with listener() as sock:
            watch = Watch()
            wires = watch.wires()
            wire = wires.join(target(port_of(sock)), "a")
            served = 0

            def accept() -> None:
                nonlocal served
                served += 1
                loop.call_later(1, sock.accept()[0].close)

            loop = asyncio.get_running_loop()
            loop.add_reader(sock, accept)
            for _ in range(3600):  # an hour of checks that go well, each second
                wires.heard(wire, ok=True)
                await asyncio.sleep(1)
            loop.remove_reader(sock)
            assert watch.trips.count(("a", True)) == 3  # checks that it costs
            assert served <= 20
            ((event, fields),) = watch.lines
            assert event == "tripwire.learned"
            assert "tried again every 10 minutes" in str(fields["detail"])
            assert dict(wires.notes) == {f"127.0.0.1:{port_of(sock)}": fields["detail"]}
            await asyncio.sleep(2)
            wires.close()

    run_with_clock(story())


def test_a_server_that_closes_after_a_minute_is_learned_and_the_wire_renewed_before_that() -> None:
    async def story() -> None:
        with listener() as sock:
            watch = Watch()
            wires = watch.wires()
            wire = wires.join(target(port_of(sock)), "a")
            closed = 0
            others: list[socket.socket] = []

            def end(other: socket.socket) -> None:
                nonlocal closed
                with contextlib.suppress(BlockingIOError):
                    if other.recv(1) == b"":
                        return  # renewed in time
                closed += 1
                other.close()

            def accept() -> None:
                others.append(sock.accept()[0])
                others[-1].setblocking(False)
                loop.call_later(60, end, others[-1])

            loop = asyncio.get_running_loop()
            loop.add_reader(sock, accept)
            for _ in range(1800):
                wires.heard(wire, ok=True)
                await asyncio.sleep(1)
            assert closed == 3
            assert watch.trips == 3 * [("a", True)]
            assert wires.ends == {"harmless": 3, "deadly": 0, "usual": 0}
            assert len(others) < 1800 / 43 + 5
            loop.remove_reader(sock)
            for one in others:
                one.close()
            wires.close()

    run_with_clock(story())


def test_a_server_that_takes_none_is_tried_less_and_less_and_costs_no_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        with refusing_port() as port:
            watch = Watch()
            wires = watch.wires()
            wire = wires.join(target(port), "a")
            tries = 0
            connect = wires._connect

            def counted(one: Tripwire[str]) -> None:
                nonlocal tries
                tries += 1
                connect(one)

            monkeypatch.setattr(wires, "_connect", counted)
            for _ in range(3600):
                wires.heard(wire, ok=True)
                await asyncio.sleep(1)
            assert tries < 8 + 3600 / 150
            assert watch.trips == []
            assert wires.notes[f"127.0.0.1:{port}"] == "no tripwire: connection refused"
            wires.close()

    run_with_clock(story())


def test_one_that_the_kernel_refuses_at_once_is_laid_again_after_a_check_went_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        with listener() as sock:
            wires = Watch().wires()
            wire = wires.join(target(port_of(sock)), "a")
            with monkeypatch.context() as patch:
                patch.setattr(socket.socket, "connect_ex", lambda *_: errno.ENETUNREACH)
                wires.heard(wire, ok=True)
                await until(lambda: wire.manner is not None)
            assert wire.state is State.OFF
            wires.heard(wire, ok=True)
            await reached(wire, State.STANDING)
            wires.close()

    run_with_clock(story())


def test_one_that_nobody_answers_is_given_up_for_now() -> None:
    async def story() -> None:
        with full_backlog() as port:
            wires = Watch().wires()
            wire = wires.join(target(port), "a")
            wires.heard(wire, ok=True)
            await reached(wire, State.CONNECTING)
            await reached(wire, State.OFF)
            assert wire.due > now()
            wires.close()

    run_with_clock(story())


def test_what_a_server_sends_unasked_is_dropped_and_after_16_kilobytes_left_unread_for_a_minute() -> None:
    async def story() -> None:
        with listener() as sock:
            watch = Watch()
            wires = watch.wires()
            wire = await standing(wires, sock)
            other = await accepted(sock)
            sent = 0
            for _ in range(100):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sent += other.send(bytes(65536))
                await moments()
            assert wire.paused
            assert wire.state is State.STANDING
            assert watch.trips == []
            reads = wire.read
            await moments()
            assert wire.read == reads
            await asyncio.sleep(61)
            assert not wire.paused or wire.read > 0  # it has read on
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            other.close()
            await until(lambda: bool(watch.trips), 0)  # an RST overtakes what is unread
            wires.close()

    run_with_clock(story())


def test_a_greeting_costs_nothing_and_the_end_behind_it_is_seen() -> None:
    async def story() -> None:
        with listener() as sock:
            watch = Watch()
            wires = watch.wires()
            wire = await standing(wires, sock)
            other = await accepted(sock)
            other.send(b"220 mail.example.net ESMTP\r\n")
            await moments()
            assert not wire.paused
            other.close()
            await until(lambda: bool(watch.trips), 0)
            wires.close()

    run_with_clock(story())


def test_thousands_that_end_in_one_instant_are_seen_to_in_many_turns() -> None:
    many = 300

    async def story() -> None:
        with contextlib.ExitStack() as stack:
            watch = Watch()
            wires = watch.wires()
            listeners = [stack.enter_context(listener()) for _ in range(many)]
            for n, sock in enumerate(listeners):
                wires.heard(wires.join(target(port_of(sock)), f"{n}"), ok=True)
            await until(lambda: wires.counts[State.STANDING] >= many)
            await asyncio.sleep(1)  # they have been left open for a moment
            for sock in listeners:
                sock.close()
            most = before = 0
            while len(watch.trips) < many:
                await asyncio.sleep(0)
                most, before = max(most, len(watch.trips) - before), len(watch.trips)
            assert most <= 64
            wires.close()

    run_with_clock(story())


def test_without_descriptors_tripwires_go_first_and_come_back_after_the_shortage() -> None:
    async def story() -> None:
        with contextlib.ExitStack() as stack:
            watch = Watch()
            wires = watch.wires()
            listeners = [stack.enter_context(listener()) for _ in range(80)]
            for n, sock in enumerate(listeners):
                wires.heard(wires.join(target(port_of(sock)), f"{n}"), ok=True)
            proof = wires.join(target(port_of(listeners[0]), IdleCheck()), "proof")
            await until(lambda: wires.counts[State.STANDING] >= 80)
            before = open_descriptors()
            wires.give_up()
            await moments()
            assert open_descriptors() <= before - 64
            assert wires.counts[State.GIVEN_UP] == 64
            assert proof.state is State.STANDING  # that it stands is a check
            assert watch.trips == []
            assert watch.lines == [("tripwire.given_up", {"number": 64, "seconds": 60})]
            await asyncio.sleep(59)
            assert wires.counts[State.GIVEN_UP] == 64
            await asyncio.sleep(70)
            assert wires.counts[State.STANDING] == 80
            wires.close()

    run_with_clock(story())


def test_a_wire_that_finds_no_descriptor_itself_lays_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        with listener() as sock:
            watch = Watch()
            wires = watch.wires()
            wire = wires.join(target(port_of(sock)), "a")

            def none_left(*_: object) -> socket.socket:
                raise OSError(errno.EMFILE, "")

            with monkeypatch.context() as patch:
                patch.setattr(socket, "socket", none_left)
                wires.heard(wire, ok=True)
                await reached(wire, State.GIVEN_UP)
            assert wires.notes == {}  # the server is not at fault
            await reached(wire, State.STANDING)
            wires.close()

    run_with_clock(story())


def test_no_more_of_them_than_there_is_room_for() -> None:
    async def story() -> None:
        with listener() as first, listener() as second:
            wires = Watch().wires()
            wires._most = 1
            for sock in (first, second):
                wires.heard(wires.join(target(port_of(sock)), "a"), ok=True)
            await asyncio.sleep(5)
            assert wires.counts[State.STANDING] == wires.counts[State.GIVEN_UP] == 1
            wires.close()

    run_with_clock(story())


def test_whoever_leaves_last_ends_the_connection() -> None:
    async def story() -> None:
        with listener() as sock:
            watch = Watch()
            wires = watch.wires()
            before = open_descriptors()
            wire = wires.join(target(port_of(sock)), "a")
            wires.join(target(port_of(sock)), "b")
            wires.heard(wire, ok=True)
            await reached(wire, State.STANDING)
            other = await accepted(sock)
            wires.leave(wire, "a", proof=False)
            assert wire.state is State.STANDING
            wires.leave(wire, "b", proof=False)
            assert await asyncio.get_running_loop().sock_recv(other, 1) == b""
            other.close()
            assert sum(wires.counts.values()) == 0
            wires.close()
            assert open_descriptors() == before

    run_with_clock(story())


# The idle check: that it stands is the proof.


def test_an_idle_check_opens_a_connection_and_then_only_looks() -> None:
    async def story() -> None:
        with listener() as sock:
            watch = Watch()
            wires = watch.wires()
            wire = wires.join(target(port_of(sock), IdleCheck()), "a")
            assert wires.ask(wire, "a", 1.0, anew=False) is None
            await until(lambda: bool(watch.answers))
            assert watch.answers == [("a", OK)]
            assert wires.ask(wire, "a", 1.0, anew=False) is OK
            old = wire.sock
            assert wires.ask(wire, "a", 1.0, anew=True) is None  # the clock has jumped
            await until(lambda: len(watch.answers) >= 2)
            assert watch.answers[1] == ("a", OK)
            assert wire.sock is not old
            wires.close()

    run_with_clock(story())


def test_an_idle_check_fails_at_a_server_that_closes_at_once_or_takes_nothing() -> None:
    async def story() -> None:
        with listener() as sock, refusing_port() as refusing, full_backlog() as full:
            watch = Watch()
            wires = watch.wires()
            for name, port in (("closes", port_of(sock)), ("refuses", refusing), ("silent", full)):
                wire = wires.join(target(port, IdleCheck()), name)
                wires.ask(wire, name, 1.0, anew=False)
            (await accepted(sock)).close()
            await until(lambda: len(watch.answers) >= 3)
            assert {finding.outcome for _, finding in watch.answers} == {Outcome.FAIL}
            details = dict(watch.answers)
            assert "closed the connection" in details["closes"].detail
            assert details["refuses"].detail == "connection refused"
            assert details["silent"].detail == "no answer within 1 s"
            wires.close()

    run_with_clock(story())


def test_each_who_asks_has_a_time_of_its_own() -> None:
    async def story() -> None:
        with full_backlog() as port:
            watch = Watch()
            wires = watch.wires()
            wire = wires.join(target(port, IdleCheck()), "slow")
            wires.join(target(port, IdleCheck(), interval=5.0), "quick")
            wires.ask(wire, "slow", 3.0, anew=False)
            wires.ask(wire, "quick", 1.0, anew=False)
            await asyncio.sleep(2)
            assert [one for one, _ in watch.answers] == ["quick"]
            await asyncio.sleep(2)
            assert [one for one, _ in watch.answers] == ["quick", "slow"]
            wires.close()

    run_with_clock(story())


def test_an_idle_check_without_a_descriptor_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        watch = Watch()
        wires = watch.wires()
        wire = wires.join(target(9, IdleCheck()), "a")

        def none_left(*_: object) -> socket.socket:
            raise OSError(errno.EMFILE, "")

        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", none_left)
            wires.ask(wire, "a", 1.0, anew=False)
        ((_, finding),) = watch.answers
        assert (finding.outcome, finding.fault) == (Outcome.UNKNOWN, Fault.DESCRIPTORS)
        wires.close()

    run_with_clock(story())


@pytest.mark.parametrize(("code", "learned"), [(errno.EADDRNOTAVAIL, False), (errno.ECONNREFUSED, True)])
def test_what_this_node_cannot_do_is_not_learned_as_the_way_of_a_server(
    code: int, monkeypatch: pytest.MonkeyPatch, *, learned: bool
) -> None:
    async def story() -> None:
        watch = Watch()
        wires = watch.wires()
        wire = wires.join(target(9), "a")

        def refused(*_: object) -> int:
            return code

        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "connect_ex", refused)
            for _ in range(20):
                wires.heard(wire, ok=True)
                await asyncio.sleep(100)
        assert bool(wires.notes) is bool(watch.lines) is learned
        with listener() as sock:
            wire.port = port_of(sock)
            wires.heard(wire, ok=True)
            await reached(wire, State.STANDING)
        wires.close()

    run_with_clock(story())


def test_silence_is_found_by_the_kernel() -> None:
    """A peer that is gone without a word: keepalive and TCP_USER_TIMEOUT, by the interval of an idle check."""

    async def story() -> None:
        with listener() as sock:
            wires = Watch().wires()
            wire = await standing(wires, sock)
            assert wire.sock is not None
            assert wire.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert wire.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
            assert wire.sock.getsockopt(socket.IPPROTO_TCP, 18) == 60_000
            wires.join(target(port_of(sock), IdleCheck(), interval=2.0), "b")
            assert wire.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 2
            assert wire.sock.getsockopt(socket.IPPROTO_TCP, 18) == 5_000
            wires.close()

    run_with_clock(story())


def test_a_defect_with_one_ends_no_other_and_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        with listener() as sock, listener() as other:
            shown: list[dict[str, object]] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: shown.append(context))
            watch = Watch()
            wires = watch.wires()
            ill = wires.join(target(port_of(sock), IdleCheck()), "ill")
            well = wires.join(target(port_of(other), IdleCheck()), "well")
            connected = wires._connected

            def defect(wire: Tripwire[str], *more: Any) -> None:
                if wire is ill:
                    raise ZeroDivisionError
                connected(wire, *more)

            monkeypatch.setattr(wires, "_connected", defect)
            for name, wire in (("ill", ill), ("well", well)):
                wires.ask(wire, name, 1.0, anew=False)
            await until(lambda: len(watch.answers) == 2)
            found = dict(watch.answers)
            assert found["well"] is OK
            assert (found["ill"].outcome, found["ill"].fault) == (Outcome.UNKNOWN, Fault.INTERNAL)
            assert len(shown) == 1
            wires.close()

    run_with_clock(story())
