"""Runs on the sweep, against real servers in this same loop. What kinds of answers mean is tested with test_http."""

from __future__ import annotations

import asyncio
import gc
import math
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.health.phase import Fault, Outcome, Result
from anycast.core.values.configuration import HttpCheck, TcpCheck
from anycast.probes.finding import OK, Finding
from anycast.probes.sweep import runs as kinds
from anycast.probes.sweep import sweep as sweeps
from anycast.probes.sweep.runs import Run, run_of
from anycast.probes.sweep.sweep import Room, Sweep
from anycast.probes.tls import SESSION_LIFE
from tests.unit.probes.peers import (
    LONG,
    Certificate,
    Handler,
    answering,
    full_backlog,
    make,
    open_descriptors,
    refusing_port,
    serving,
    silent,
    sweeping,
    target,
    time_waits,
)

PLAIN = HttpCheck(tls=False)
KEPT = HttpCheck(tls=False, keep_alive=True)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
WELL = Result(outcome=Outcome.OK)


class _Loop(asyncio.SelectorEventLoop):
    """A loop whose clock can be put forward, and that may take longer with every look at it."""

    ahead = 0.0
    each = 0.0

    def time(self) -> float:
        self.ahead += self.each
        return super().time() + self.ahead


def run_in(story: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(story)


def loop() -> _Loop:
    running = asyncio.get_running_loop()
    assert isinstance(running, _Loop)
    return running


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1_000_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise TimeoutError


def plain(result: Result) -> Result:
    return replace(result, took=0.0)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make(tmp_path_factory.mktemp("valid"))


class Keeper:
    """A server that keeps connections: what it has seen."""

    def __init__(self, *, requests: int = 1_000_000) -> None:
        """`requests` a connection may bring before it is closed."""
        self._most = requests
        self.connections = self.requests = 0
        self.closed = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        for _ in range(self._most):
            await reader.readuntil(b"\r\n\r\n")
            self.requests += 1
            writer.write(ANSWER)
        writer.write_eof()
        await writer.drain()
        self.closed.set()
        await asyncio.Event().wait()


def test_a_connection_that_is_kept_serves_one_run_after_another() -> None:
    async def story() -> None:
        keeper = Keeper()
        async with serving(keeper) as port, sweeping() as check:
            run = run_of(target(KEPT, port), None)
            for _ in range(5):
                assert plain(await check(run)) == WELL
        assert (keeper.connections, keeper.requests) == (1, 5)

    run_in(story())


def test_without_keep_alive_every_run_has_a_connection_of_its_own() -> None:
    async def story() -> None:
        keeper = Keeper()
        async with serving(keeper) as port, sweeping() as check:
            run = run_of(target(HttpCheck(tls=False), port), None)
            for _ in range(3):
                assert plain(await check(run)) == WELL
        assert (keeper.connections, keeper.requests) == (3, 3)

    run_in(story())


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    ("pieces", "outcome"),
    [
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n", b"x" * 50000], Outcome.OK),
        ([b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 50000], Outcome.FAIL),
    ],
)
def test_between_two_runs_nothing_is_held_of_what_the_server_sent(
    certificate: Certificate,
    pieces: list[bytes],
    outcome: Outcome,
    tls: bool,  # noqa: FBT001
) -> None:
    def held(run: Run[None]) -> int:
        """Bytes of all buffers that the run leads to; a connection's TLS counts as one."""
        seen, left, total = set[int](), list[object]([run]), 0
        while left:
            one = left.pop()
            if id(one) in seen or isinstance(one, type | ModuleType | FunctionType | ssl.SSLContext):
                continue
            seen.add(id(one))
            if isinstance(one, bytes | bytearray):
                total += len(one)
            total += isinstance(one, ssl.SSLObject) * 10_000
            left += gc.get_referents(one)
        return total

    async def story() -> None:
        kind = HttpCheck(tls=tls, verify=False, body="x")
        context = certificate.server() if tls else None
        async with serving(answering(*pieces), tls=context) as port, sweeping() as check:
            run = run_of(target(kind, port), None)
            assert (await check(run)).outcome is outcome
            assert held(run) < 5_000

    run_in(story())


def test_a_kept_connection_that_the_server_closed_between_two_runs_is_no_failure() -> None:
    async def story() -> None:
        keeper = Keeper(requests=1)
        async with serving(keeper) as port, sweeping() as check:
            run = run_of(target(KEPT, port), None)
            for number in range(1, 4):
                assert plain(await check(run)) == WELL
                assert keeper.connections == number
                await keeper.closed.wait()
                keeper.closed.clear()

    run_in(story())


@pytest.mark.parametrize("parting", [b"", b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"])
def test_a_kept_connection_that_is_closed_on_the_next_request_is_no_failure(parting: bytes) -> None:
    connections = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(parting)
        await writer.drain()

    async def story() -> None:
        async with serving(handler) as port, sweeping() as check:
            run = run_of(target(KEPT, port), None)
            assert [plain(await check(run)) for _ in range(3)] == [WELL] * 3

    run_in(story())
    assert connections == 3


def test_a_server_that_closes_a_kept_connection_within_an_answer_fails() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 2")
        await writer.drain()

    async def story() -> None:
        async with serving(handler) as port, sweeping() as check:
            run = run_of(target(KEPT, port), None)
            assert plain(await check(run)) == WELL
            assert (await check(run)).detail == "closed within the response head"

    run_in(story())


def test_a_server_that_is_gone_when_a_kept_connection_has_gone_fails() -> None:
    async def story() -> None:
        async with sweeping() as check:
            async with serving(Keeper()) as port:
                run = run_of(target(KEPT, port), None)
                assert plain(await check(run)) == WELL
            result = await check(run)
            assert (result.outcome, result.detail) == (Outcome.FAIL, "connection refused")

    run_in(story())


def test_a_body_that_comes_after_the_verdict_is_read_so_that_the_connection_can_stay() -> None:
    late = asyncio.Event()
    connections = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ANSWER[:-1])
            await late.wait()
            writer.write(ANSWER[-1:])

    async def story() -> None:
        async with serving(handler) as port, sweeping() as check:
            run = run_of(target(KEPT, port), None)
            assert plain(await check(run)) == WELL  # by its head
            late.set()
            await until(lambda: run._exchange.ended)  # type: ignore[attr-defined]
            assert plain(await check(run)) == WELL

    run_in(story())
    assert connections == 1


def test_a_kept_connection_is_renewed_after_a_minute() -> None:
    async def story() -> None:
        keeper = Keeper()
        async with serving(keeper) as port, sweeping() as check:
            run = run_of(target(KEPT, port), None)
            await check(run)
            loop().ahead += 61
            assert plain(await check(run)) == WELL
            assert keeper.connections == 2

    run_in(story())


def test_connections_are_kept_only_as_far_as_there_are_descriptors() -> None:
    async def story() -> None:
        keeper = Keeper()
        found: asyncio.Queue[Finding] = asyncio.Queue()
        async with serving(keeper) as port:
            sweep: Sweep[None] = Sweep(lambda _run, finding, _took: found.put_nowait(finding))
            sweep._room = Room(running=8, kept=1, idle=2, wires=0)
            runs = [run_of(target(replace(KEPT, path=path), port), None) for path in ("/a", "/b", "/c")]
            for _ in range(2):
                for run in runs:
                    sweep.start(run)
                    sweep.settle(1)
                    assert await found.get() == OK
            assert sum(run.sock is not None for run in runs) == 1
            sweep.close()

    run_in(story())


def tls_server(certificate: Certificate, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = certificate.server()
    context.minimum_version = context.maximum_version = version
    return context


class Handshakes:
    """A server that answers, and whether each of its handshakes resumed a session."""

    def __init__(self) -> None:
        self.resumed: list[bool] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.resumed.append(writer.get_extra_info("ssl_object").session_reused)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        await asyncio.Event().wait()


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_is_resumed_until_it_is_time_to_prove_the_certificate_anew(
    certificate: Certificate, version: ssl.TLSVersion
) -> None:
    async def story() -> None:
        server = Handshakes()
        kind = HttpCheck(tls=True, ca=str(certificate.certificate))
        async with serving(server, tls=tls_server(certificate, version)) as port, sweeping() as check:
            run = run_of(target(kind, port), None)
            for _ in range(3):
                assert plain(await check(run)) == WELL
            loop().ahead += SESSION_LIFE
            for _ in range(2):
                assert plain(await check(run)) == WELL
        assert server.resumed == [False, True, True, False, True]

    run_in(story())


@pytest.mark.parametrize("version", VERSIONS)
def test_the_warning_before_expiry_stands_while_sessions_are_resumed(
    certificate: Certificate, version: ssl.TLSVersion
) -> None:
    async def story() -> None:
        server = Handshakes()
        kind = HttpCheck(tls=True, verify=False, expiry_warning=14 * 86400.0)
        async with serving(server, tls=tls_server(certificate, version)) as port, sweeping() as check:
            run = run_of(target(kind, port), None)
            for _ in range(3):
                result = await check(run)
                assert (result.outcome, result.detail) == (Outcome.OK, "certificate expires in 2 days")
        assert server.resumed == [False, True, True]

    run_in(story())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_that_no_longer_knows_the_session_is_no_failure(
    certificate: Certificate, version: ssl.TLSVersion
) -> None:
    async def story() -> None:
        async with sweeping() as check:
            kind = HttpCheck(tls=True, verify=False)
            run: Run[None] | None = None
            for _ in range(2):
                server = Handshakes()
                async with serving(server, tls=tls_server(certificate, version)) as port:
                    run = run or run_of(target(kind, port), None)
                    run.peer = ("127.0.0.1", port)  # the same server, begun anew
                    assert plain(await check(run)) == WELL
                    assert server.resumed == [False]

    run_in(story())


def test_a_server_that_cannot_resume_is_asked_for_a_whole_handshake_before_it_is_blamed(
    certificate: Certificate,
) -> None:
    async def story() -> None:
        server = Handshakes()
        hellos: list[bytes] = []

        async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            hellos.append(await reader.read(1))
            writer.write(b"no TLS today\r\n")
            await writer.drain()

        async with sweeping() as check:
            kind = HttpCheck(tls=True, verify=False)
            async with serving(server, tls=certificate.server()) as port:
                run = run_of(target(kind, port), None)
                assert plain(await check(run)) == WELL
            async with serving(garbage) as port:
                run.peer = ("127.0.0.1", port)
                result = await check(run)
                assert (result.outcome, result.detail) == (Outcome.FAIL, "no TLS on this port")
        assert len(hellos) == 2

    run_in(story())


def test_a_replaced_certificate_authority_counts_at_once_and_no_session_outlives_it(
    certificate: Certificate, tmp_path: Path
) -> None:
    async def story() -> None:
        authority = tmp_path / "ca.pem"
        authority.write_bytes(certificate.certificate.read_bytes())
        kind = HttpCheck(tls=True, ca=str(authority))
        async with serving(Handshakes(), tls=certificate.server()) as port, sweeping() as check:
            run = run_of(target(kind, port), None)
            assert plain(await check(run)) == WELL
            other = tmp_path / "other"
            other.mkdir()
            authority.write_bytes(make(other).certificate.read_bytes())
            assert (await check(run)).detail.startswith("certificate not valid")

    run_in(story())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_kept_connection_behind_tls_serves_one_run_after_another(
    certificate: Certificate, version: ssl.TLSVersion
) -> None:
    async def story() -> None:
        keeper = Keeper()
        kind = HttpCheck(tls=True, verify=False, keep_alive=True)
        async with serving(keeper, tls=tls_server(certificate, version)) as port, sweeping() as check:
            run = run_of(target(kind, port), None)
            for _ in range(4):
                assert plain(await check(run)) == WELL
        assert (keeper.connections, keeper.requests) == (1, 4)

    run_in(story())


def test_an_event_of_a_socket_is_not_taken_for_one_of_its_next_use_in_the_same_breath() -> None:
    async def story(nobody: int, refusing: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            found: asyncio.Queue[tuple[object, Finding]] = asyncio.Queue()

            def finished(run: Run[str], finding: Finding, _took: float) -> None:
                if run is first:
                    used = second.sock
                    sweep.cancel(second)  # its event is in the same poll
                    sweep.start(third)
                    assert third.sock is used
                found.put_nowait((run.owner, finding))

            sweep = Sweep(finished)
            first = run_of(target(TcpCheck(), refusing), "first")
            second = run_of(target(TcpCheck(), port), "second")
            third = run_of(target(TcpCheck(), nobody, timeout=0.2), "third")
            sweep.start(first)
            sweep.start(second)
            sweep.settle(2)
            owner, finding = await found.get()
            assert (owner, finding.detail) == ("first", "connection refused")
            owner, finding = await found.get()
            assert (owner, finding.detail) == ("third", "no answer within 0.2 s")
            sweep.close()

    with full_backlog() as nobody, refusing_port() as refusing:
        run_in(story(nobody, refusing))


def test_what_one_look_has_found_well_is_told_together_and_nothing_of_what_is_cancelled_meanwhile() -> None:
    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            lots: list[list[str]] = []
            told = asyncio.Event()

            def well(found: Iterator[Run[str]], _now: float) -> None:
                lot: list[str] = []
                for run in found:
                    lot.append(run.owner)
                    sweep.cancel(runs[2])
                lots.append(lot)
                told.set()

            sweep: Sweep[str] = Sweep(lambda *_: pytest.fail("one by one"), well)
            runs = [run_of(target(TcpCheck(), listener.getsockname()[1]), name) for name in "abc"]
            for run in runs:
                sweep.start(run)
            sweep.settle(3)
            await told.wait()
            assert lots == [["a", "b"]]
            assert (sweep.running, [run.busy for run in runs]) == (0, [False] * 3)
            sweep.close()

    run_in(story())


def test_many_at_once_all_come_to_an_end_leave_no_time_wait_and_nothing_open() -> None:
    async def story() -> None:
        before = open_descriptors()
        async with serving(silent) as port:
            others = time_waits(port)
            async with sweeping() as check:
                runs = [run_of(target(TcpCheck(), port), None) for _ in range(200)]
                for _ in range(3):
                    results = await asyncio.gather(*map(check, runs))
                    assert {plain(result) for result in results} == {WELL}
            assert time_waits(port) <= others
        assert open_descriptors() <= before

    run_in(story())


def test_a_look_ends_after_its_turn_and_the_rest_is_seen_to_in_the_next() -> None:
    async def story() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
            ended: list[Finding] = []
            all_ended = asyncio.Event()

            def finished(_run: Run[None], finding: Finding, _took: float) -> None:
                ended.append(finding)
                if len(ended) == len(runs):
                    all_ended.set()

            sweep = Sweep(finished)
            runs = [run_of(target(TcpCheck(), listener.getsockname()[1]), None) for _ in range(100)]
            for run in runs:
                sweep.start(run)
            loop().each = sweeps.TURN / 3
            sweep.settle(len(runs))
            assert 0 < len(ended) < len(runs)
            await all_ended.wait()
            assert ended == [OK] * len(runs)
            sweep.close()

    run_in(story())


def test_runs_that_expire_together_end_in_turns() -> None:
    async def story(nobody: int) -> None:
        ended: list[str] = []
        at_once: list[int] = []
        all_ended = asyncio.Event()

        def finished(_run: Run[None], finding: Finding, _took: float) -> None:
            ended.append(finding.detail)
            if len(ended) == len(runs):
                all_ended.set()

        sweep = Sweep(finished)
        runs = [run_of(target(TcpCheck(), nobody), None) for _ in range(60)]
        for run in runs:
            sweep.start(run)
        sweep.settle(len(runs))
        loop().ahead += LONG
        loop().each = sweeps.TURN / 10
        while not all_ended.is_set():
            before = len(ended)
            await asyncio.sleep(0)
            at_once.append(len(ended) - before)
        assert max(at_once) < len(runs)
        assert set(ended) == {f"no answer within {LONG} s"}
        sweep.close()

    with full_backlog() as nobody:
        run_in(story(nobody))


def test_nothing_ticks_when_nothing_is_under_way() -> None:
    async def story() -> None:
        async with serving(Keeper()) as port:
            found: asyncio.Queue[Finding] = asyncio.Queue()
            sweep: Sweep[None] = Sweep(lambda _run, finding, _took: found.put_nowait(finding))
            for kind in (TcpCheck(), KEPT):
                sweep.start(run_of(target(kind, port), None))
                sweep.settle(1)
                assert await found.get() == OK
            loop().ahead += LONG
            await until(lambda: sweep._expiry.at == math.inf)
            assert [handle for handle in loop()._scheduled if not handle.cancelled()] == []  # type: ignore[attr-defined]
            sweep.close()

    run_in(story())


def test_a_shorter_timeout_is_not_kept_waiting_by_a_longer_one() -> None:
    async def story(nobody: int) -> None:
        async with sweeping() as check:
            long = asyncio.ensure_future(check(run_of(target(TcpCheck(), nobody), None)))
            await asyncio.sleep(0)
            result = await check(run_of(target(TcpCheck(), nobody, timeout=0.05), None))
            assert result.detail == "no answer within 0.05 s"
            assert not long.done()
            long.cancel()

    with full_backlog() as nobody:
        run_in(story(nobody))


def after_a_stall(handler: Handler | None, late: float, kind: TcpCheck | HttpCheck = PLAIN) -> Finding:
    """Of a run whose agent was stopped right after its start until `late` seconds past the timeout."""
    results: list[Finding] = []

    async def story(port: int) -> None:
        found: asyncio.Queue[Finding] = asyncio.Queue()
        sweep: Sweep[None] = Sweep(lambda _run, finding, _took: found.put_nowait(finding))
        sweep.start(run_of(target(kind, port), None))
        loop().ahead += LONG + late
        sweep.settle(1)
        results.append(await found.get())
        sweep.close()

    async def with_server(handler: Handler) -> None:
        async with serving(handler) as port:
            await story(port)

    if handler is not None:
        run_in(with_server(handler))
    else:
        with full_backlog() as nobody:
            run_in(story(nobody))
    return results[0]


def test_an_agent_that_was_stopped_blames_nobody() -> None:
    result = after_a_stall(None, 1.5)
    assert (result.outcome, result.fault) == (Outcome.UNKNOWN, Fault.STALLED)
    assert "too late" in result.detail


def test_an_agent_that_found_the_first_of_several_steps_too_late_blames_nobody() -> None:
    result = after_a_stall(answering(ANSWER), 0.5)
    assert (result.outcome, result.fault) == (Outcome.UNKNOWN, Fault.STALLED)
    assert "too late" in result.detail


def test_an_answer_that_has_lain_there_while_the_agent_was_stopped_proves_nothing() -> None:
    result = after_a_stall(silent, 1.5, TcpCheck())
    assert (result.outcome, result.fault) == (Outcome.UNKNOWN, Fault.STALLED)
    assert after_a_stall(silent, 0.5, TcpCheck()) == OK


def test_silence_seen_a_little_late_is_a_failure_all_the_same() -> None:
    assert after_a_stall(None, 0.5).outcome is Outcome.FAIL


def test_a_cancelled_run_is_never_heard_of_again_and_leaves_nothing_open() -> None:
    asked = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await asyncio.Event().wait()

    async def story() -> None:
        before = open_descriptors()
        found: list[Finding] = []
        async with serving(handler) as port:
            sweep: Sweep[None] = Sweep(lambda _run, finding, _took: found.append(finding))
            run = run_of(target(HttpCheck(tls=False), port), None)
            sweep.start(run)
            sweep.settle(1)
            await asked.wait()
            sweep.cancel(run)
            sweep.cancel(run)
            assert sweep.running == 0
            loop().ahead += LONG
            await until(lambda: sweep._expiry.at == math.inf)
            sweep.close()
        assert found == []
        await until(lambda: open_descriptors() <= before)  # the server's end too

    run_in(story())


def test_a_defect_in_what_is_made_of_one_finding_does_not_end_the_others() -> None:
    async def story() -> None:
        shown: list[dict[str, Any]] = []
        loop().set_exception_handler(lambda _, context: shown.append(context))
        ended: list[str] = []
        both = asyncio.Event()

        def finished(run: Run[str], _finding: Finding, _took: float) -> None:
            ended.append(run.owner)
            if len(ended) == 2:
                both.set()
            if len(ended) == 1:
                raise RuntimeError("a defect")

        async with serving(silent) as port:
            sweep = Sweep(finished)
            for name in ("a", "b"):
                sweep.start(run_of(target(TcpCheck(), port), name))
            sweep.settle(2)
            await both.wait()
            sweep.close()
        assert isinstance(shown[0]["exception"], RuntimeError)

    run_in(story())


@given(st.integers(0, 1_000_000))
def test_the_room_never_exceeds_the_descriptors_and_leaves_some_for_others(descriptors: int) -> None:
    found = sweeps.room(descriptors)
    assert min(found) >= 10
    if descriptors >= 512:
        assert sum(found) <= descriptors - 256


_SCARCE_PORTS = """
import asyncio, socket
from anycast.core.values.configuration import TcpCheck
from anycast.probes.sweep.runs import run_of
from tests.unit.probes.peers import sweeping, target

async def main():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:
            file.write("40001 40001")
        with socket.create_connection(("127.0.0.1", port)):
            async with sweeping() as check:
                result = await check(run_of(target(TcpCheck(), port), None))
                print(result.outcome, result.detail)

asyncio.run(main())
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs network namespaces",
)
def test_without_a_free_local_port_nothing_is_proven() -> None:
    done = subprocess.run(
        [
            "unshare",
            "-rn",
            "sh",
            "-c",
            'ip link set lo up && exec "$@"',
            "sh",
            sys.executable,
            "-c",
            _SCARCE_PORTS,
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.startswith(
        "unknown the check could not run: cannot assign requested address (EADDRNOTAVAIL"
    )


def test_a_long_answer_is_read_in_several_turns_of_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a body in chunks of one byte, 64 KiB at once would take a tenth of a second."""
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 8000
    turns: list[int] = []
    turn = 0
    read = kinds._HttpRun._read

    def noted(run: kinds._HttpRun[None], sock: socket.socket, data: bytes | None, *, ending: bool) -> None:
        turns.append(turn)
        read(run, sock, data, ending=ending)

    monkeypatch.setattr(kinds._HttpRun, "_read", noted)

    async def count() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    async def story() -> None:
        counting = asyncio.create_task(count())
        with socket.create_server(("127.0.0.1", 0)) as listener:
            kind = HttpCheck(tls=False, body="y")
            async with sweeping() as check:
                found = asyncio.ensure_future(check(run_of(target(kind, listener.getsockname()[1]), None)))
                await asyncio.sleep(0)
                with listener.accept()[0] as peer:
                    peer.sendall(answer + b"0\r\n\r\n")
                    result = await found
        counting.cancel()
        assert result.detail.startswith("the body does not hold 'y'")

    run_in(story())
    assert len(turns) >= len(answer) // 8192
    assert len(set(turns)) == len(turns)
