from __future__ import annotations

import asyncio
import subprocess
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.agent.beats import BATCH, offset
from anycast.agent.checker import Checker
from anycast.agent.run_log import MAX_RUNS, RunLog
from anycast.core.health.phase import Fault, Outcome, Result
from anycast.core.values.checks import IcmpCheck
from anycast.core.values.configuration import Check, CommandCheck, HttpCheck, Target, TcpCheck
from anycast.probes.finding import OK as FINE
from tests.unit.clock import Loop, now, run_with_clock
from tests.unit.probes.peers import full_backlog, open_descriptors, serving, silent
from tests.unit.probes.peers import target as aimed

OK = Result(outcome=Outcome.OK)


def target(number: int, *, interval: float = 2.0) -> Target:
    check = Check(kind=IcmpCheck(), interval=interval)  # of a kind that is a task
    return Target(address=IPv4Address("192.0.2.0") + number, port=80, check=check)


def targets(count: int, *, interval: float = 2.0) -> frozenset[Target]:
    return frozenset(target(number, interval=interval) for number in range(count))


A, B, C = target(1), target(2), target(3)


@dataclass
class Bench:
    """Runs take `takes` seconds of the loop's time, and `ending` more to clean up when cancelled."""

    takes: float = 0.1
    ending: float = 0.0
    limit: int = 512
    starts: list[tuple[float, Target]] = field(default_factory=list)
    reports: list[tuple[float, Target]] = field(default_factory=list)
    running: Counter[Target] = field(default_factory=Counter)
    most: int = 0
    most_of_one: int = 0
    schedule: Mapping[Target, float] = field(default_factory=dict)  # asked for inside the report
    quiet: bool = False
    result: Result = OK

    def checker(self) -> Checker:
        self._checker = Checker(self._report, self._run, limit=self.limit)
        return self._checker

    async def _run(self, target: Target) -> Result:
        self.starts.append((now(), target))
        self.running[target] += 1
        self.most = max(self.most, self.running.total())
        self.most_of_one = max(self.most_of_one, self.running[target])
        try:
            await asyncio.sleep(self.takes)
        except asyncio.CancelledError:
            await asyncio.sleep(self.ending)
            raise
        finally:
            self.running[target] -= 1
        return self.result

    def _report(self, target: Target, result: Result) -> None:
        assert result == self.result
        self.reports.append((now(), target))
        if target in self.schedule:
            self._checker.schedule(target, self.schedule[target], quiet=self.quiet)


def test_a_new_target_runs_at_once_and_is_reported() -> None:
    async def story() -> None:
        bench = Bench()
        checker = bench.checker()
        checker.set_targets(frozenset({A}))
        await asyncio.sleep(1)
        assert bench.starts == [(0.0, A)]
        assert bench.reports == [(0.1, A)]
        await checker.close()

    run_with_clock(story())


def test_a_target_rests_until_it_is_scheduled_and_then_until_the_next_beat_from_its_last_run() -> None:
    async def story() -> None:
        bench = Bench()
        checker = bench.checker()
        checker.set_targets(frozenset({A}))
        await asyncio.sleep(10)
        assert len(bench.starts) == 1
        checker.schedule(A, 3.0)
        await asyncio.sleep(10)
        assert bench.starts == [(0.0, A), (12.0, A)]
        await checker.close()

    run_with_clock(story())


def test_a_schedule_counts_from_when_the_run_was_due_so_that_nothing_drifts() -> None:
    async def story() -> None:
        bench = Bench(schedule={A: 0.4})
        checker = bench.checker()
        checker.set_targets(frozenset({A}))
        await asyncio.sleep(1.0)
        assert bench.starts == [(0.0, A), (0.4, A), (0.8, A)]
        await checker.close()

    run_with_clock(story())


def test_schedules_are_carried_out_in_the_order_of_their_times() -> None:
    async def story() -> None:
        bench = Bench()
        checker = bench.checker()
        checker.set_targets(frozenset({A, B, C}))
        await asyncio.sleep(1)
        bench.starts.clear()
        checker.schedule(A, 3.0)
        checker.schedule(B, 1.5)
        checker.schedule(C, 2.5)
        await asyncio.sleep(3)
        assert [target for _, target in bench.starts] == [B, C, A]
        await checker.close()

    run_with_clock(story())


def test_the_last_schedule_replaces_the_ones_before() -> None:
    async def story() -> None:
        bench = Bench()
        checker = bench.checker()
        checker.set_targets(frozenset({A}))
        await asyncio.sleep(1)
        checker.schedule(A, 0.5)
        checker.schedule(A, 5.0)
        checker.schedule(A, 3.0)
        await asyncio.sleep(10)
        assert bench.starts == [(0.0, A), (3.0, A)]
        await checker.close()

    run_with_clock(story())


def test_a_schedule_during_a_run_waits_for_its_end() -> None:
    async def story() -> None:
        bench = Bench(takes=1.0)
        checker = bench.checker()
        checker.set_targets(frozenset({A}))
        await asyncio.sleep(0.5)
        checker.schedule(A, 0.0)
        await asyncio.sleep(10)
        assert bench.starts == [(0.0, A), (1.0, A)]
        assert bench.most_of_one == 1
        await checker.close()

    run_with_clock(story())


def test_a_few_targets_all_begin_within_a_moment() -> None:
    async def story() -> None:
        bench = Bench()
        checker = bench.checker()
        checker.set_targets(targets(50))
        await asyncio.sleep(1)
        assert max(at for at, _ in bench.starts) < 0.06
        await checker.close()

    run_with_clock(story())


def test_many_targets_begin_spread_over_their_interval() -> None:
    async def story() -> None:
        bench = Bench(takes=0.001)
        checker = bench.checker()
        checker.set_targets(targets(5000, interval=2.0))
        await asyncio.sleep(2.05)
        assert {target for _, target in bench.starts} == targets(5000, interval=2.0)
        tenths = Counter(int(at * 10) for at, _ in bench.starts)
        assert max(tenths.values()) <= 300
        await checker.close()

    run_with_clock(story())


def test_what_stays_a_target_is_left_as_it_is() -> None:
    async def story() -> None:
        bench = Bench(takes=1.0)
        checker = bench.checker()
        checker.set_targets(frozenset({A, B}))
        await asyncio.sleep(0.5)
        checker.set_targets(frozenset({A, C}))
        await asyncio.sleep(5)
        assert Counter(target for _, target in bench.starts) == {A: 1, B: 1, C: 1}
        assert {target for _, target in bench.reports} == {A, C}
        await checker.close()

    run_with_clock(story())


def test_a_removed_target_is_cancelled_and_never_reported_again() -> None:
    async def story() -> None:
        bench = Bench(takes=1.0, schedule={A: 0.0, B: 0.5})
        checker = bench.checker()
        checker.set_targets(frozenset({A, B}))
        await asyncio.sleep(1.2)
        assert bench.running[A] == 1
        before = len(bench.reports)
        checker.set_targets(frozenset())
        begun = len(bench.starts)
        checker.schedule(A, 0.0)
        await asyncio.sleep(10)
        assert bench.running.total() == 0
        assert len(bench.reports) == before
        assert len(bench.starts) == begun
        await checker.close()

    run_with_clock(story())


def test_a_run_that_ends_in_the_same_breath_as_its_removal_is_not_reported() -> None:
    async def story() -> None:
        reports: list[Target] = []
        finish: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        async def stubborn(_: Target) -> Result:
            try:
                return await finish
            except asyncio.CancelledError:
                return OK

        checker = Checker(lambda target, _: reports.append(target), stubborn)
        checker.set_targets(frozenset({A}))
        await asyncio.sleep(0.1)
        finish.set_result(OK)
        checker.set_targets(frozenset())
        await checker.close()
        assert reports == []

    run_with_clock(story())


def test_a_target_that_comes_back_waits_until_its_cancelled_run_has_ended() -> None:
    async def story() -> None:
        bench = Bench(takes=1.0, ending=3.0)
        checker = bench.checker()
        checker.set_targets(frozenset({A}))
        await asyncio.sleep(0.5)
        for _ in range(3):
            checker.set_targets(frozenset())
            checker.set_targets(frozenset({A}))
        await asyncio.sleep(10)
        assert bench.starts == [(0.0, A), (3.5, A)]
        assert bench.reports == [(4.5, A)]
        assert bench.most_of_one == 1
        await checker.close()

    run_with_clock(story())


def test_a_target_that_comes_back_later_runs_like_a_new_one() -> None:
    async def story() -> None:
        bench = Bench(takes=1.0, ending=1.0)
        checker = bench.checker()
        checker.set_targets(frozenset({A}))
        await asyncio.sleep(0.5)
        checker.set_targets(frozenset())
        await asyncio.sleep(5)
        checker.set_targets(frozenset({A}))
        await asyncio.sleep(5)
        assert bench.starts == [(0.0, A), (5.5, A)]
        await checker.close()

    run_with_clock(story())


def test_a_schedule_for_a_target_that_queues_adds_no_second_run() -> None:
    async def story() -> None:
        bench = Bench(takes=1.0, limit=1)
        checker = bench.checker()
        checker.set_targets(frozenset({A}))
        await asyncio.sleep(0.1)
        checker.set_targets(frozenset({A, B}))
        await asyncio.sleep(0.1)
        assert checker.queued == 1
        checker.schedule(B, 0.0)
        checker.schedule(B, 3.0)
        await asyncio.sleep(10)
        assert bench.starts == [(0.0, A), (1.0, B)]
        await checker.close()

    run_with_clock(story())


def test_no_more_runs_than_the_limit_and_everyone_has_a_turn() -> None:
    async def story() -> None:
        everyone = targets(20)
        bench = Bench(takes=1.0, limit=3, schedule=dict.fromkeys(everyone, 0.0))
        checker = bench.checker()
        checker.set_targets(everyone)
        await asyncio.sleep(0.9)
        assert (checker.running, checker.queued) == (3, 17)
        await asyncio.sleep(30)
        assert bench.most == 3
        turns = Counter(target for _, target in bench.starts)
        assert len(turns) == 20
        assert max(turns.values()) - min(turns.values()) <= 1
        await checker.close()
        assert (checker.running, checker.queued) == (0, 0)

    run_with_clock(story())


def test_a_target_removed_while_it_queues_never_runs() -> None:
    async def story() -> None:
        bench = Bench(takes=1.0, limit=1)
        checker = bench.checker()
        checker.set_targets(frozenset({A}))
        await asyncio.sleep(0.1)
        checker.set_targets(frozenset({A, B}))
        await asyncio.sleep(0.1)
        assert checker.queued == 1
        checker.set_targets(frozenset({A}))
        assert checker.queued == 0
        await asyncio.sleep(5)
        assert bench.starts == [(0.0, A)]
        await checker.close()

    run_with_clock(story())


def test_close_returns_only_when_the_last_run_has_cleaned_up() -> None:
    async def story() -> None:
        bench = Bench(takes=10.0, ending=2.0)
        checker = bench.checker()
        checker.set_targets(frozenset({A, B}))
        await asyncio.sleep(1)
        await checker.close()
        assert now() == 3.0
        assert bench.running.total() == 0
        assert bench.reports == []
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await checker.close()

    run_with_clock(story())


def test_a_defect_in_a_check_is_reported_as_unknown_and_shown_and_does_not_end_the_checking() -> None:
    async def story() -> None:
        shown: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: shown.append(context))
        reports: list[Result] = []

        async def defective(_: Target) -> Result:
            raise ValueError("a defect")

        def report(target: Target, result: Result) -> None:
            reports.append(result)
            checker.schedule(target, 1.0)

        checker = Checker(report, defective)
        checker.set_targets(frozenset({A}))
        await asyncio.sleep(1.5)
        assert [(result.outcome, result.fault) for result in reports] == [
            (Outcome.UNKNOWN, Fault.INTERNAL)
        ] * 2
        assert "ValueError: a defect" in reports[0].detail
        assert isinstance(shown[0]["exception"], ValueError)
        await checker.close()

    run_with_clock(story())


def test_an_error_in_the_report_is_shown_and_the_others_go_on() -> None:
    async def story() -> None:
        shown: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: shown.append(context))
        bench = Bench(schedule={B: 0.5})

        def report(target: Target, result: Result) -> None:
            if target == A:
                raise RuntimeError("a defect")
            bench._report(target, result)

        bench._checker = checker = Checker(report, bench._run)
        checker.set_targets(frozenset({A, B}))
        await asyncio.sleep(3)
        assert isinstance(shown[0]["exception"], RuntimeError)
        assert len(bench.reports) > 3
        await checker.close()

    run_with_clock(story())


def test_the_same_address_with_another_check_is_another_target() -> None:
    async def story() -> None:
        bench = Bench()
        checker = bench.checker()
        checker.set_targets(frozenset({A}))
        await asyncio.sleep(1)
        changed = replace(A, check=replace(A.check, timeout=0.2))
        checker.set_targets(frozenset({changed}))
        await asyncio.sleep(1)
        assert [target for _, target in bench.starts] == [A, changed]
        await checker.close()

    run_with_clock(story())


def test_beats_stay_spread_while_nothing_is_reported() -> None:
    async def story() -> None:
        everyone = targets(1000, interval=2.0)
        bench = Bench(takes=0.001, schedule=dict.fromkeys(everyone, 2.0), quiet=True)
        checker = bench.checker()
        checker.set_targets(everyone)
        await asyncio.sleep(20)
        assert len(bench.reports) == 1000
        assert {count for _, count in Counter(target for _, target in bench.starts).items()} <= {10, 11}
        tenths = Counter(int(at * 10) for at, _ in bench.starts if at > 2)
        assert max(tenths.values()) <= 150  # 1,000 begin within the first second of two
        await checker.close()

    run_with_clock(story())


def test_after_haste_a_target_goes_back_to_its_own_beat() -> None:
    async def story() -> None:
        bench = Bench(takes=0.001)
        checker = bench.checker()
        checker.set_targets(frozenset({A, B}))
        await asyncio.sleep(1)
        checker.schedule(B, 0.3)
        await asyncio.sleep(0.5)
        starts = [at for at, target in bench.starts if target == B]
        for _ in range(3):
            checker.schedule(B, B.check.interval)
            await asyncio.sleep(B.check.interval)
        beats = [at for at, target in bench.starts if target == B][len(starts) :]
        assert beats == pytest.approx([offset(1, 2.0) + 2.0 * n for n in range(1, 4)], abs=BATCH)
        await checker.close()

    run_with_clock(story())


def test_a_quiet_target_runs_on_its_beat_and_is_reported_when_it_says_something_else() -> None:
    async def story() -> None:
        bench = Bench(schedule={A: 1.0}, quiet=True)
        checker = bench.checker()
        checker.set_targets(frozenset({A}))
        await asyncio.sleep(4.5)
        assert [at for at, _ in bench.starts] == [0.0, 1.0, 2.0, 3.0, 4.0]
        assert bench.reports == [(0.1, A)]
        bench.result = Result(outcome=Outcome.OK, detail="a warning")
        await asyncio.sleep(2)
        assert bench.reports == [(0.1, A), (5.1, A), (6.1, A)]
        await checker.close()

    run_with_clock(story())


def test_a_run_longer_than_its_interval_leaves_beats_out_and_never_meets_itself() -> None:
    async def story() -> None:
        bench = Bench(takes=1.5, schedule={A: 1.0}, quiet=True)
        checker = bench.checker()
        checker.set_targets(frozenset({A}))
        await asyncio.sleep(6.5)
        assert [at for at, _ in bench.starts] == [0.0, 2.0, 4.0, 6.0]
        assert bench.most_of_one == 1
        await checker.close()

    run_with_clock(story())


def test_after_a_pause_of_the_agent_everyone_runs_once_in_turns_and_the_beats_are_as_before() -> None:
    async def story() -> None:
        everyone = targets(500, interval=2.0)
        bench = Bench(takes=0.001, schedule=dict.fromkeys(everyone, 2.0), quiet=True)
        checker = bench.checker()
        checker.set_targets(everyone)
        await asyncio.sleep(3.9)
        before = {target: at for at, target in bench.starts}
        bench.starts.clear()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        loop._clock.now += 100  # stopped
        resumed = loop.time()
        await asyncio.sleep(1.9)
        assert max(Counter(at for at, _ in bench.starts).values()) <= 100
        assert Counter(target for _, target in bench.starts).keys() == everyone
        await asyncio.sleep(2.1)
        bench.starts = [(at, target) for at, target in bench.starts if at > resumed + 2]
        await asyncio.sleep(4)
        for at, target in bench.starts:
            assert (at - before[target] + 0.1) % 2 < 0.2
        await checker.close()

    run_with_clock(story())


def test_probed_anew_no_run_of_before_is_reported_and_everyone_runs_and_is_reported_again() -> None:
    async def story() -> None:
        everyone = targets(500, interval=2.0)
        bench = Bench(takes=0.5, ending=0.2, schedule=dict.fromkeys(everyone, 2.0), quiet=True)
        checker = bench.checker()
        checker.set_targets(everyone)
        await asyncio.sleep(6.1)
        assert Counter(target for _, target in bench.reports) == dict.fromkeys(everyone, 1)  # quiet since
        assert checker.running > 50
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        loop._clock.now += 100  # stopped
        checker.probe_anew()
        anew = loop.time()
        bench.reports.clear()
        bench.starts.clear()
        await asyncio.sleep(3)
        assert min(at for at, _ in bench.reports) >= anew + bench.takes
        assert Counter(target for _, target in bench.reports) == dict.fromkeys(everyone, 1)
        assert max(Counter(at for at, _ in bench.starts).values()) <= 100
        assert bench.most_of_one == 1
        await checker.close()

    run_with_clock(story())


def test_probed_anew_an_answer_that_comes_over_an_old_connection_proves_nothing() -> None:
    answers: asyncio.Queue[bytes] = asyncio.Queue()
    requests: asyncio.Queue[None] = asyncio.Queue()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        requests.put_nowait(None)
        writer.write(await answers.get())
        await writer.drain()

    async def story() -> None:
        before = open_descriptors()
        async with serving(handler) as port:
            swept = Swept()
            swept.checker.set_targets(frozenset({aimed(HttpCheck(tls=False), port)}))
            await requests.get()
            answers.put_nowait(b"HTTP/1.1 200 OK\r\n\r\n")  # it lies in the buffer when the agent goes on
            swept.checker.probe_anew()
            assert swept.checker.running == 0
            await requests.get()
            answers.put_nowait(b"HTTP/1.1 503 Busy\r\n\r\n")
            assert (await swept.reports.get())[1].detail == "status 503, expected 2xx"
            await swept.checker.close()
        for _ in range(100):
            await asyncio.sleep(0)
        assert open_descriptors() <= before

    asyncio.run(story())


def test_many_checks_of_one_address_all_keep_their_pace() -> None:
    async def story() -> None:
        everyone = frozenset(replace(A, port=port) for port in range(1, 1501))
        bench = Bench(takes=0.001, schedule=dict.fromkeys(everyone, 2.0), quiet=True)
        checker = bench.checker()
        checker.set_targets(everyone)
        await asyncio.sleep(20)
        assert set(Counter(target for _, target in bench.starts).values()) <= {9, 10, 11}
        await checker.close()

    run_with_clock(story())


def test_a_cancelled_run_of_a_target_that_stays_is_reported_as_unknown() -> None:
    async def story() -> None:
        reports: list[Result] = []

        async def cancelled(_: Target) -> Result:
            raise asyncio.CancelledError

        checker = Checker(lambda _, result: reports.append(result), cancelled)
        checker.set_targets(frozenset({A}))
        await asyncio.sleep(1)
        assert [(result.outcome, result.fault) for result in reports] == [(Outcome.UNKNOWN, Fault.INTERNAL)]
        await checker.close()

    run_with_clock(story())


class Swept:
    """A checker with a sweep, and what it reports."""

    def __init__(self, *, after: float | None = None, quiet: bool = False) -> None:
        self.reports: asyncio.Queue[tuple[Target, Result]] = asyncio.Queue()
        self._after, self._quiet = after, quiet
        self.checker = Checker(self._report)

    def _report(self, target: Target, result: Result) -> None:
        self.reports.put_nowait((target, result))
        if self._after is not None:
            self.checker.schedule(target, self._after, quiet=self._quiet)


def test_a_swept_target_that_is_well_is_reported_once_goes_on_and_is_heard_of_when_it_fails() -> None:
    answer = b"HTTP/1.1 200 OK\r\n\r\n"
    requests = 0
    enough = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await reader.readuntil(b"\r\n\r\n")
        requests += 1
        if requests == 5:
            enough.set()
        writer.write(answer)

    async def story() -> None:
        nonlocal answer
        async with serving(handler) as port:
            swept = Swept(after=0.05, quiet=True)
            swept.checker.set_targets(frozenset({aimed(HttpCheck(tls=False), port)}))
            assert (await swept.reports.get())[1].outcome is Outcome.OK
            await enough.wait()
            assert swept.reports.empty()
            answer = b"HTTP/1.1 503 Busy\r\n\r\n"
            result = (await swept.reports.get())[1]
            assert (result.outcome, result.detail) == (Outcome.FAIL, "status 503, expected 2xx")
            await swept.checker.close()

    asyncio.run(story())


def test_a_swept_target_that_is_removed_is_never_reported_and_leaves_nothing_open() -> None:
    async def story() -> None:
        asked = asyncio.Event()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            await asyncio.Event().wait()

        before = open_descriptors()
        async with serving(handler) as port:
            swept = Swept()
            swept.checker.set_targets(frozenset({aimed(HttpCheck(tls=False), port)}))
            await asked.wait()
            swept.checker.set_targets(frozenset())
            assert swept.checker.running == 0
            await swept.checker.close()
            assert swept.reports.empty()
        for _ in range(100):
            await asyncio.sleep(0)
        assert open_descriptors() <= before

    asyncio.run(story())


def test_a_schedule_during_a_swept_run_waits_for_its_end() -> None:
    async def story() -> None:
        with full_backlog() as port:
            swept = Swept()
            one = aimed(TcpCheck(), port, timeout=0.05)
            swept.checker.set_targets(frozenset({one}))
            for _ in range(10_000):  # the alarm is due at once
                if swept.checker.running:
                    break
                await asyncio.sleep(0)
            assert swept.checker.running == 1
            swept.checker.schedule(one, 0.0)
            for _ in range(2):
                assert (await swept.reports.get())[1].detail == "no answer within 0.05 s"
            await swept.checker.close()

    asyncio.run(story())


def test_swept_and_other_kinds_run_side_by_side() -> None:
    async def story() -> None:
        async with serving(silent) as port:
            swept = Swept()
            both = frozenset({aimed(TcpCheck(), port), aimed(CommandCheck(argv=("/bin/true",)), port)})
            swept.checker.set_targets(both)
            found = dict([await swept.reports.get(), await swept.reports.get()])
            assert {target: result.outcome for target, result in found.items()} == dict.fromkeys(
                both, Outcome.OK
            )
            await swept.checker.close()

    asyncio.run(story())


_SCARCE = """
import asyncio, os, resource, socket
from anycast.agent.checker import Checker
from anycast.core.values.configuration import HttpCheck, TcpCheck
from tests.unit.probes.peers import target

async def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        results = asyncio.Queue()
        checker = Checker(lambda target, result: results.put_nowait(result))
        one = target(TcpCheck(), port)
        for left in range(5):
            held = []
            try:
                while True:
                    held.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass
            for fd in held[:left]:
                os.close(fd)
            checker.set_targets(frozenset({one}))
            checker.schedule(one, 0.0)
            result = await results.get()
            print(left, result.outcome, result.fault, result.detail)
            for fd in held[left:]:
                os.close(fd)
        await checker.close()

asyncio.run(main())
"""


def test_without_descriptors_a_swept_target_is_unknown_and_well_again_as_soon_as_there_are_some() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _SCARCE], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    rows = [line.split(" ", 3) for line in done.stdout.splitlines()]
    assert [row[1] for row in rows] == ["unknown", "unknown", "ok", "ok", "ok"]
    assert all(row[2] == "descriptors" and "EMFILE" in row[3] for row in rows[:2])


ACTS = st.lists(
    st.tuples(
        st.just("set"), st.frozensets(st.sampled_from([A, B, C])), st.sampled_from([0.0, 0.05, 0.3, 2.0])
    )
    | st.tuples(st.just("schedule"), st.sampled_from([A, B, C]), st.sampled_from([0.0, 0.05, 0.3, 2.0]))
    | st.tuples(st.just("anew"), st.none(), st.sampled_from([0.0, 0.05, 0.3, 2.0])),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(
    acts=ACTS,
    limit=st.integers(1, 3),
    takes=st.sampled_from([0.0, 0.1, 0.5]),
    ending=st.sampled_from([0.0, 0.2]),
)
def test_whatever_is_asked_no_target_runs_twice_at_once_and_none_is_forgotten(
    acts: list[tuple[str, Any, float]], limit: int, takes: float, ending: float
) -> None:
    async def story() -> None:
        bench = Bench(takes=takes, ending=ending, limit=limit)
        checker = bench.checker()
        current: frozenset[Target] = frozenset()
        for act, value, seconds in acts:
            if act == "set":
                current = value
                checker.set_targets(current)
                reported = len(bench.reports)
                await asyncio.sleep(seconds)
                assert {target for _, target in bench.reports[reported:]} <= current
            elif act == "anew":
                checker.probe_anew()
                anew, reported = now(), len(bench.reports)
                await asyncio.sleep(seconds)
                assert all(at >= round(anew + takes, 6) for at, _ in bench.reports[reported:])
            else:
                checker.schedule(value, seconds)
        await asyncio.sleep(30)
        begun = len(bench.reports)
        for target in current:
            checker.schedule(target, 0.0)
        await asyncio.sleep(30)
        assert Counter(target for _, target in bench.reports[begun:]) == dict.fromkeys(current, 1)
        assert bench.most_of_one <= 1
        assert bench.most <= limit
        await checker.close()
        assert (checker.running, checker.queued) == (0, 0)

    run_with_clock(story())


def test_the_durations_of_runs_wait_to_be_told_and_failures_are_negative() -> None:
    async def story() -> None:
        bench = Bench(takes=0.1, schedule={A: 1.0}, result=Result(outcome=Outcome.OK, took=0.25))
        checker = bench.checker()
        checker.set_targets(frozenset({A}))
        (number,) = checker.runs.numbers
        assert checker.runs.numbers == {number: A}
        await asyncio.sleep(0.5)
        assert told(checker) == [(number, 0.25)]
        assert told(checker) == []
        bench.result = Result(outcome=Outcome.UNKNOWN, took=9.0)
        await asyncio.sleep(1.0)
        bench.result = Result(outcome=Outcome.FAIL, took=0.5)
        await asyncio.sleep(1.0)
        assert told(checker) == [(number, -0.5)]
        await checker.close()
        assert checker.runs.numbers == {}

    run_with_clock(story())


def told(checker: Checker) -> list[tuple[int, float]]:
    ran, took = checker.runs.take()
    return list(zip(array("I", ran), array("f", took), strict=True))


def test_durations_that_nobody_is_told_are_forgotten_at_some_time() -> None:
    log = RunLog()
    for _ in range(MAX_RUNS + 10):
        log.add(1, 0.5)
    assert len(log.take()[0]) == 10 * array("I").itemsize


def many(number: int, *, first: int = 0, port: int = 80) -> frozenset[Target]:
    check = Check(kind=IcmpCheck(), interval=1000.0)
    return frozenset(
        Target(address=IPv4Address("10.0.0.0") + first + each, port=port, check=check)
        for each in range(number)
    )


def turns_until(done: Callable[[], bool]) -> Coroutine[Any, Any, int]:
    async def wait() -> int:
        turns = 0
        while not done():
            turns += 1
            await asyncio.sleep(0)
        return turns

    return wait()


def test_thousands_of_targets_are_taken_up_and_given_up_in_turns_of_the_loop() -> None:
    forgotten: list[Target] = []

    async def story() -> None:
        checker = Checker(lambda *_: None, Bench(takes=0.0)._run, forgotten=forgotten.append)
        first, second = many(10_000), many(10_000, first=5_000)
        checker.set_targets(first)
        assert len(checker.runs.numbers) < 500
        assert await turns_until(lambda: len(checker.runs.numbers) == 10_000) >= 30
        numbers = {target: number for number, target in checker.runs.numbers.items()}
        checker.set_targets(second)
        assert await turns_until(lambda: set(checker.runs.numbers.values()) == second) >= 15
        assert set(forgotten) == first - second
        assert len(forgotten) == 5_000
        kept = {target: number for number, target in checker.runs.numbers.items() if target in first}
        assert kept.items() <= numbers.items(), "what stays is left as it is"
        await checker.close()
        assert not checker.runs.numbers
        assert len(forgotten) == 15_000

    run_with_clock(story())


def test_targets_that_are_set_while_others_are_being_taken_up_take_their_place() -> None:
    async def story() -> None:
        checker = Checker(lambda *_: None, Bench(takes=0.0)._run)
        checker.set_targets(many(10_000))
        await asyncio.sleep(0)
        few = many(3, first=9_000)
        checker.set_targets(few)
        await turns_until(lambda: set(checker.runs.numbers.values()) == few)
        for _ in range(100):
            await asyncio.sleep(0)
        assert set(checker.runs.numbers.values()) == few
        await checker.close()

    run_with_clock(story())


def test_of_thousands_neighbors_lie_as_far_apart_as_of_few() -> None:
    """Whatever turn they were taken up in: places go by the order of all of them."""

    async def story() -> None:
        checker = Checker(lambda *_: None, Bench(takes=0.0)._run)
        checker.set_targets(many(3_000))
        await turns_until(lambda: len(checker.runs.numbers) == 3_000)
        order = [target.address for _, target in sorted(checker.runs.numbers.items())]
        assert order == sorted(order)
        await checker.close()

    run_with_clock(story())


class Starts:
    """Programs under a clock of the test: when each was begun, and with which others."""

    takes = 0.0

    def __init__(self, finished: Callable[[Any, Any, float], None]) -> None:
        self._finished = finished
        self._lot: list[Target] = []
        self.running = 0
        self.full = False
        self.lots: list[tuple[float, list[Target]]] = []

    def start(self, run: Any) -> None:
        self._lot.append(run.target)
        run.started = asyncio.get_running_loop().time()
        asyncio.get_running_loop().call_later(self.takes, self._finished, run, FINE, self.takes)

    def settle(self) -> None:
        self.lots.append((now(), self._lot))
        self._lot = []

    def cancel(self, run: Any) -> None:
        """They have ended."""

    async def close(self) -> None:
        """Nothing is open."""


def program(number: int, *, interval: float = 2.0) -> Target:
    check = Check(kind=CommandCheck(argv=("/bin/check",)), interval=interval)
    return Target(address=IPv4Address("192.0.2.0") + number, port=80, check=check)


def test_programs_that_are_due_within_a_tenth_of_a_second_begin_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        monkeypatch.setattr("anycast.agent.checker.Programs", Starts)
        some = frozenset(program(number) for number in range(100))
        checker = Checker(lambda one, _: checker.schedule(one, 2.0, quiet=True))
        checker.set_targets(some)
        starts = checker._programs
        assert isinstance(starts, Starts)
        await asyncio.sleep(3)
        starts.lots.clear()
        await asyncio.sleep(4)
        begun = Counter(one for _, lot in starts.lots for one in lot)
        assert set(begun) == some
        assert set(begun.values()) == {2}
        assert len(starts.lots) <= 41
        assert all(round(at * 10, 3) % 1 == 0 for at, _ in starts.lots)
        await checker.close()

    run_with_clock(story())


def test_no_more_programs_begin_in_one_turn_than_are_looked_at_though_there_is_no_forker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        monkeypatch.setattr("anycast.agent.checker.Programs", Starts)
        checker = Checker(lambda *_: None)
        starts = checker._programs
        assert isinstance(starts, Starts)
        starts.full = True
        checker.set_targets(frozenset(program(number) for number in range(1_500)))
        await asyncio.sleep(3)
        assert checker.queued == 1_500
        starts.full = False  # each ends at once, so there is always room
        checker._start_programs()
        assert len(starts.lots[-1][1]) == 512
        await checker.close()

    run_with_clock(story())


def test_a_program_that_is_asked_for_at_once_does_not_wait_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        monkeypatch.setattr("anycast.agent.checker.Programs", Starts)
        one = program(1)
        checker = Checker(lambda *_: None)
        starts = checker._programs
        assert isinstance(starts, Starts)
        checker.set_targets(frozenset({one}))
        await asyncio.sleep(1.03)
        checker.schedule(one, 0.0)
        await asyncio.sleep(0.01)
        assert [at for at, _ in starts.lots] == [0.0, 1.03]
        checker.schedule(one, 0.5)
        await asyncio.sleep(1)
        assert starts.lots[-1][0] == 1.53
        await checker.close()

    run_with_clock(story())


def test_a_program_that_takes_as_long_as_its_interval_keeps_its_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        monkeypatch.setattr("anycast.agent.checker.Programs", Starts)
        monkeypatch.setattr(Starts, "takes", 1.0)
        some = frozenset(program(number, interval=1.0) for number in range(20))
        checker = Checker(lambda one, _: checker.schedule(one, 1.0))
        checker.set_targets(some)
        await asyncio.sleep(11.5)
        starts = checker._programs
        assert isinstance(starts, Starts)
        begun = Counter(one for _, lot in starts.lots for one in lot)
        assert min(begun[one] for one in some) >= 10
        await checker.close()

    run_with_clock(story())


def test_what_is_due_now_does_not_wait_for_a_large_lot() -> None:
    async def story() -> None:
        checker = Checker(lambda *_: None)
        checker.set_targets(frozenset({A}))
        await asyncio.sleep(0)
        slot = checker._slots[A]
        slot.is_urgent = False
        checker._wait(slot, checker._clock() + 1.5)
        assert (len(checker._agenda), len(checker._urgent)) == (1, 1)  # the first run was urgent
        checker._wait(slot, checker._clock())
        assert (len(checker._agenda), len(checker._urgent)) == (1, 2)
        await checker.close()

    run_with_clock(story())
