"""Checks whose servers have a tripwire: the end of a connection means to ask at once, and nothing more."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from anycast.agent.checker import Checker
from anycast.core.health.phase import Fault, Outcome, Result
from anycast.core.values.checks import BannerCheck, Expect, IdleCheck
from anycast.core.values.configuration import Check, CheckKind, Target, TcpCheck
from anycast.probes.run import probe
from anycast.probes.wires.wires import State
from tests.unit.clock import Loop, now, run_with_clock, until

INTERVAL, FAST = 10.0, 0.5


def target(port: int, kind: CheckKind | None = None) -> Target:
    kind = kind or TcpCheck()
    check = Check(
        kind=kind,
        interval=INTERVAL,
        fast_interval=FAST,
        timeout=1.0,
        tripwire=not isinstance(kind, IdleCheck),
    )
    return Target(address=ip_address("127.0.0.1"), port=port, check=check)


@dataclass
class Core:
    """What the core would do: go on quietly while all is well, and soon after a failure."""

    reports: list[tuple[float, Target, Result]] = field(default_factory=list)

    def checker(self, run: Callable[[Target], Awaitable[Result]] = probe) -> Checker:
        self._checker = Checker(self._report, run)
        return self._checker

    def _report(self, target: Target, result: Result) -> None:
        self.reports.append((now(), target, result))
        ok = result.outcome is Outcome.OK
        asyncio.get_running_loop().call_soon(self._schedule, target, ok)

    def _schedule(self, target: Target, ok: bool) -> None:  # noqa: FBT001 - a callback
        self._checker.schedule(target, INTERVAL if ok else FAST, quiet=ok)

    async def heard(self, number: int) -> None:
        await until(lambda: len(self.reports) >= number, 0.001)

    def runs(self) -> int:
        return sum(sum(kind.outcomes.values()) for kind in self._checker.probes.values())


@contextlib.contextmanager
def server(port: int = 0) -> Iterator[socket.socket]:
    """Its connections are in its queue and end with it."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen(64)
        yield sock


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


async def standing(checker: Checker, number: int = 1) -> None:
    await until(lambda: checker.tripwires.counts[State.STANDING] >= number)


def test_the_death_of_a_process_is_asked_about_at_once_and_then_at_the_fast_interval() -> None:
    async def story() -> None:
        core = Core()
        checker = core.checker()
        with server() as sock:
            checker.set_targets(frozenset({target(port_of(sock))}))
            await standing(checker)
            await asyncio.sleep(3)
            assert len(core.reports) == 1
            died = now()
        await core.heard(4)
        failed = [at for at, _, result in core.reports if result.outcome is Outcome.FAIL]
        assert failed[0] - died <= 0.05
        assert failed[2] - failed[0] <= 2 * FAST + 0.05
        assert checker.tripwires.ends == {"harmless": 0, "deadly": 1, "usual": 0}
        await checker.close()

    run_with_clock(story())


def test_an_end_with_nothing_wrong_costs_a_check_and_is_not_told() -> None:
    async def story() -> None:
        core = Core()
        checker = core.checker()
        with server() as sock:
            one = target(port_of(sock))
            checker.set_targets(frozenset({one}))
            await standing(checker)
            await asyncio.sleep(3)
            base = checker._slots[one].base
            runs = core.runs()
            while True:  # all that waits to be accepted, the connection among it
                sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    sock.accept()[0].close()
                    continue
                break
            began = now()
            await until(lambda: bool(checker.tripwires.ends["harmless"]), 0.001)
            assert now() - began <= 0.1
            await asyncio.sleep(1)
            assert core.runs() == runs + 1
            assert len(core.reports) == 1
            # Its beat is what it was: else all who are asked together would stay together.
            assert ((checker._slots[one].due - base) / INTERVAL).is_integer()
            await checker.close()

    run_with_clock(story())


def test_a_run_that_began_before_the_end_is_not_its_answer() -> None:
    async def story() -> None:
        core = Core()
        began: list[float] = []
        lasts = 0.0

        async def run(_: Target) -> Result:
            began.append(now())
            await asyncio.sleep(lasts)
            return Result(outcome=Outcome.OK)

        checker = core.checker(run)
        with server() as sock:
            one = target(port_of(sock), BannerCheck(steps=(Expect("^220 "),)))
            checker.set_targets(frozenset({one}))
            await standing(checker)
            lasts = 3.0
            await until(lambda: len(began) >= 2)
            sock.accept()[0].close()
            await until(lambda: bool(checker._slots[one].again))
            await until(lambda: len(began) >= 3)
            assert began[2] - began[1] <= 3.1
            assert checker.tripwires.ends["harmless"] == 0
            await asyncio.sleep(3.1)
            assert checker.tripwires.ends["harmless"] == 1
            await checker.close()

    run_with_clock(story())


def test_an_idle_check_runs_no_more_while_its_connection_stands() -> None:
    async def story() -> None:
        core = Core()
        checker = core.checker()
        with server() as sock:
            checker.set_targets(frozenset({target(port_of(sock), IdleCheck())}))
            await core.heard(1)
            await asyncio.sleep(1000)
            assert core.runs() <= 2
            assert len(checker._agenda) <= 2
            died = now()
        await core.heard(2)
        at, _, result = core.reports[-1]
        assert result.outcome is Outcome.FAIL
        assert at - died <= 0.05
        await core.heard(4)
        assert core.reports[-1][0] - at <= 2 * FAST + 0.1
        await checker.close()

    run_with_clock(story())


def test_an_idle_check_comes_back_and_proves_anew_after_the_clock_has_jumped() -> None:
    async def story() -> None:
        core = Core()
        checker = core.checker()
        with server() as sock:
            port = port_of(sock)
            checker.set_targets(frozenset({target(port, IdleCheck())}))
            await core.heard(1)
        await core.heard(2)
        with server(port):
            await until(lambda: core.reports[-1][2].outcome is Outcome.OK)
            await asyncio.sleep(100)
            number = len(core.reports)
            loop = asyncio.get_running_loop()
            assert isinstance(loop, Loop)
            checker.probe_anew()
            await core.heard(number + 1)
            assert core.reports[-1][2].outcome is Outcome.OK
        await checker.close()

    run_with_clock(story())


def test_thousands_of_idle_checks_that_end_together_are_asked_in_turns_and_lose_no_beat() -> None:
    many = 200

    async def story() -> None:
        core = Core()
        checker = core.checker()
        with contextlib.ExitStack() as stack:
            ports = [port_of(stack.enter_context(server())) for _ in range(many)]
            checker.set_targets(frozenset(target(port, IdleCheck()) for port in ports))
            await core.heard(many)
            await standing(checker, many)
        await core.heard(2 * many)
        assert {result.outcome for _, _, result in core.reports[many:]} == {Outcome.FAIL}
        await checker.close()

    run_with_clock(story())


def test_a_check_that_finds_no_descriptor_gets_those_of_the_tripwires() -> None:
    async def story() -> None:
        core = Core()
        checker = core.checker()
        with server() as sock:
            one = target(port_of(sock))
            checker.set_targets(frozenset({one}))
            await standing(checker)
            lack = Result(outcome=Outcome.UNKNOWN, detail="too many open files", fault=Fault.DESCRIPTORS)
            checker._tell(checker._slots[one], lack)
            await asyncio.sleep(0.01)
            assert checker.tripwires.counts[State.GIVEN_UP] == 1
            await checker.close()

    run_with_clock(story())


def test_what_else_lacks_a_descriptor_gets_those_of_the_tripwires(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        core = Core()
        checker = core.checker()
        with server() as sock:
            checker.set_targets(frozenset({target(port_of(sock))}))
            await standing(checker)
            checker.spare()
            assert checker.tripwires.counts[State.STANDING] == 1  # it was for another reason

            def none_left(_: int) -> int:
                raise OSError(errno.EMFILE, "")

            with monkeypatch.context() as patch:
                patch.setattr(os, "dup", none_left)
                checker.spare()
            assert checker.tripwires.counts[State.GIVEN_UP] == 1
            await checker.close()

    run_with_clock(story())


def test_who_is_no_longer_checked_has_no_connection() -> None:
    async def story() -> None:
        core = Core()
        checker = core.checker()
        with server() as sock, server() as other:
            checker.set_targets(frozenset({target(port_of(sock)), target(port_of(other), IdleCheck())}))
            await standing(checker, 2)
            checker.set_targets(frozenset())
            assert checker.tripwires.wanted == 0
            await checker.close()

    run_with_clock(story())
