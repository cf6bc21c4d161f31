"""Who gets a place at a socket, and who makes way."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from anycast.agent import door
from anycast.agent.door import Door, Guest, Limits, Room
from anycast.sockets import Peer, bind_unix
from tests.unit.probes.peers import open_descriptors

LIMITS = Limits(process=2, user=3, others=5)


class Ended(Guest):
    ended = False

    def end(self) -> None:
        self.ended = True


def guests(room: Room, *peers: tuple[int, int]) -> list[Ended]:
    """Those who have entered, as (pid, uid), each later than the one before."""
    found = []
    for number, peer in enumerate(peers):
        assert room.admit(Peer(*peer)) == ""
        guest = Ended(Peer(*peer))
        guest.since = number - 1000.0
        room.enter(guest)
        found.append(guest)
    return found


def play(story: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await story()

    asyncio.run(run())


def test_a_process_has_its_places_and_nobody_makes_way_for_more() -> None:
    async def story() -> None:
        room = Room(LIMITS)
        first, second = guests(room, (1, 7), (1, 7))
        assert room.admit(Peer(1, 7)) == "busy: 2 connections of this process (1) are open"
        assert not first.ended
        assert not second.ended
        assert room.admit(Peer(2, 7)) == ""

    play(story)


def test_of_processes_with_as_many_connections_who_has_waited_longest_makes_way() -> None:
    async def story() -> None:
        room = Room(LIMITS)
        busy, longest, last = guests(room, (1, 7), (2, 7), (3, 7))
        busy.waits = False
        assert room.admit(Peer(4, 7)) == ""
        assert (busy.ended, longest.ended, last.ended) == (False, True, False)
        assert len(room) == 2

    play(story)


def test_who_has_just_come_is_heard_first() -> None:
    async def story() -> None:
        room = Room(LIMITS)
        for guest in guests(room, (1, 7), (2, 7), (3, 7)):
            guest.since = asyncio.get_running_loop().time()
        assert room.admit(Peer(4, 7)) == "busy: 3 connections of uid 7 are open"

    play(story)


def test_the_process_with_the_most_connections_makes_way_even_if_all_are_being_answered() -> None:
    async def story() -> None:
        room = Room(LIMITS)
        one, two, commanding = guests(room, (1, 7), (2, 7), (2, 7))
        for guest in (one, two, commanding):
            guest.waits = False
        commanding.is_commanding, commanding.since = True, 0.0
        assert room.admit(Peer(4, 7)) == ""
        assert (one.ended, two.ended, commanding.ended) == (False, True, False)

    play(story)


def test_where_everybody_is_being_answered_it_is_said_whose_they_are() -> None:
    async def story() -> None:
        room = Room(LIMITS)
        for guest in guests(room, (1, 7), (2, 7), (3, 7)):
            guest.waits = False
        assert room.admit(Peer(4, 7)) == "busy: 3 connections of uid 7 are open"

    play(story)


def test_where_users_have_all_places_the_largest_crowd_makes_way() -> None:
    async def story() -> None:
        room = Room(LIMITS)
        crowd = guests(room, (1, 7), (2, 7), (3, 7), (4, 8), (5, 9))
        assert room.admit(Peer(6, 10)) == ""
        assert [one.ended for one in crowd] == [True, False, False, False, False]

    play(story)


def test_root_has_places_of_its_own() -> None:
    async def story() -> None:
        room = Room(LIMITS)
        crowd = guests(room, (1, 7), (2, 7), (3, 7), (4, 8), (5, 8))
        assert [one.ended for one in (*crowd, *guests(room, (6, 0), (7, 0), (8, 0)))] == 8 * [False]

    play(story)


async def _until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0)


def test_few_are_looked_at_in_one_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    turn = 0

    def refusal(_: Peer) -> str:
        looked.append(turn)
        return "no"

    async def story() -> None:
        nonlocal turn
        path = tmp_path / "a.sock"
        entrance = Door(LIMITS, _nobody, farewell=str.encode, refusal=refusal)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(50)]
        listener = bind_unix(path, mode=0o600)
        for client in clients:
            client.connect(str(path))
        entrance.listen(listener)
        while len(looked) < len(clients):
            turn += 1
            await asyncio.sleep(0)
        entrance.leave()
        for client in clients:
            assert client.recv(10) == b"no"
            client.close()

    monkeypatch.setattr(door, "PACE", 0.0)
    monkeypatch.setattr(door, "AT_ONCE", 8)
    play(story)
    assert max(len(list(turns)) for _, turns in itertools.groupby(looked)) == 8


def test_while_many_are_sent_away_one_who_may_enter_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The crowd is told one after the other, and does not stand in the way meanwhile."""
    monkeypatch.setattr(door, "FAREWELL", 3600.0)
    entered = []

    async def enters(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _: Guest) -> None:
        entered.append(await reader.read(1))
        writer.close()

    async def story() -> None:
        path = tmp_path / "a.sock"
        came = itertools.count(1)
        entrance = Door(
            LIMITS, enters, farewell=str.encode, refusal=lambda _: "no" if next(came) <= 200 else ""
        )
        clients = [socket.socket(socket.AF_UNIX) for _ in range(201)]
        entrance.listen(bind_unix(path, mode=0o600))
        for client in clients:
            client.connect(str(path))
        clients[-1].sendall(b"x")
        await _until(lambda: bool(entered))
        entrance.leave()
        assert {client.recv(10) for client in clients[:200]} == {b"no"}
        for client in clients:
            client.close()

    play(story)


def test_a_process_with_many_connections_does_not_make_one_with_few_go() -> None:
    async def story() -> None:
        room = Room(Limits(process=9, user=4, others=9))
        (operator,) = guests(room, (1, 7))
        crowd = guests(room, (2, 7), (2, 7), (2, 7))
        for guest in crowd:
            guest.waits = False
        assert room.admit(Peer(2, 7)) == "busy: 4 connections of uid 7 are open"
        assert not operator.ended

    play(story)


def test_who_is_refused_gets_the_words_although_its_own_are_unread(tmp_path: Path) -> None:
    async def story() -> None:
        path = tmp_path / "a.sock"
        entrance = Door(LIMITS, _nobody, farewell=str.encode, refusal=lambda _: "no")
        listener = bind_unix(path, mode=0o600)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"x" * 10_000)
            entrance.listen(listener)
            heard = b""
            while part := await asyncio.to_thread(client.recv, 100):
                heard += part
            assert heard == b"no"
        entrance.leave()

    play(story)


def test_without_a_descriptor_left_it_waits_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        """A listener whose first accept finds no descriptor."""

        def __init__(self, listener: socket.socket) -> None:
            self._listener, self.tries = listener, 0

        def accept(self) -> object:
            self.tries += 1
            if self.tries == 1:
                raise OSError(24, "Too many open files")
            return self._listener.accept()

        def setblocking(self, flag: bool) -> None:  # noqa: FBT001 - as a socket's
            self._listener.setblocking(flag)

        def fileno(self) -> int:
            return self._listener.fileno()

        def close(self) -> None:
            self._listener.close()

    monkeypatch.setattr(door, "NO_ROOM", 0.0)

    async def story() -> None:
        path = tmp_path / "a.sock"
        entrance = Door(LIMITS, _nobody, farewell=str.encode, refusal=lambda _: "no")
        entrance.listen(Full(bind_unix(path, mode=0o600)))  # type: ignore[arg-type]
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            assert await asyncio.to_thread(client.recv, 100) == b"no"
        entrance.leave()

    with capture_logs() as logs:
        play(story)
    assert [one["event"] for one in logs] == ["socket.unavailable"]


def test_who_makes_way_and_who_is_through_leave_no_descriptor_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "HEARD", 0.0)
    ended: list[str] = []

    async def waits(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, guest: Guest) -> None:
        try:
            await reader.read()
        except asyncio.CancelledError:
            ended.append("made way")
        finally:
            writer.close()
            await asyncio.sleep(0)
            assert guest.peer == (os.getpid(), os.geteuid())

    async def story() -> None:
        path = tmp_path / "a.sock"
        before = open_descriptors()
        entrance = Door(Limits(process=9, user=2, others=9), waits, farewell=str.encode)
        entrance.listen(bind_unix(path, mode=0o600))
        clients = [socket.socket(socket.AF_UNIX) for _ in range(4)]
        for number, client in enumerate(clients):
            client.connect(str(path))
            await _until(lambda number=number: len(entrance.room) + len(ended) > number)  # type: ignore[misc]
        for client in clients:
            client.close()
        await _until(lambda: not entrance.serving)
        entrance.leave()
        await _until(lambda: open_descriptors() <= before)

    play(story)
    assert len(ended) <= 2


async def _nobody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, guest: Guest) -> None:
    raise AssertionError((reader, writer, guest))
