from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from errno import (
    EACCES,
    EADDRINUSE,
    EADDRNOTAVAIL,
    EAFNOSUPPORT,
    EAGAIN,
    EBADF,
    ECONNREFUSED,
    EHOSTUNREACH,
    EINVAL,
    ELOOP,
    EMFILE,
    ENETDOWN,
    ENETUNREACH,
    ENFILE,
    ENOBUFS,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOTCONN,
    ENOTDIR,
    ENXIO,
    EPERM,
)
from ipaddress import ip_address

import pytest

from anycast.core.health.phase import Fault, Outcome
from anycast.core.values.checks import IcmpCheck
from anycast.core.values.configuration import CommandCheck, HttpCheck, TcpCheck
from anycast.probes import icmp
from anycast.probes import run as tasks
from anycast.probes.finding import OK, Finding, one_line
from anycast.probes.sweep.runs import run_of
from anycast.probes.tcp import connect
from anycast.probes.verdict import judge
from tests.unit.probes import peers
from tests.unit.probes.peers import (
    LONG,
    full_backlog,
    open_descriptors,
    probe,
    probe_at,
    refusing_port,
    run,
    serving,
    silent,
    sweeping,
    target,
    time_waits,
)


@pytest.fixture(scope="module", autouse=True, params=["as a task", "swept"])
def _engine(request: pytest.FixtureRequest) -> Iterator[None]:
    with peers.engine(swept=request.param == "swept"):
        yield


def test_a_completed_handshake_is_ok_and_says_how_long_it_took() -> None:
    result = asyncio.run(probe_at(silent, TcpCheck()))
    assert result.outcome is Outcome.OK
    assert result.detail == ""
    assert 0 < result.took < LONG


def test_tcp_works_over_ipv6() -> None:
    assert asyncio.run(probe_at(silent, TcpCheck(), host="::1")).outcome is Outcome.OK


def test_the_port_of_the_check_goes_before_the_port_of_the_target() -> None:
    async def story() -> Outcome:
        async with serving(silent) as port:
            return (await probe(target(TcpCheck(port=port), 1))).outcome

    assert asyncio.run(story()) is Outcome.OK


def test_a_closed_port_is_a_failure_that_says_so() -> None:
    with refusing_port() as port:
        result = run(TcpCheck(), port)
    assert (result.outcome, result.detail) == (Outcome.FAIL, "connection refused")


def test_silence_is_a_failure_after_the_timeout() -> None:
    with full_backlog() as port:
        result = run(TcpCheck(), port, timeout=0.1)
    assert (result.outcome, result.detail) == (Outcome.FAIL, "no answer within 0.1 s")
    assert result.took >= 0.1


def test_no_check_leaves_a_time_wait() -> None:
    async def story() -> int:
        async with serving(silent) as port:
            others = time_waits(port)
            for _ in range(5):
                await probe(target(TcpCheck(), port))
            return time_waits(port) - others

    assert asyncio.run(story()) <= 0


def test_the_server_takes_the_connection_and_sees_a_reset() -> None:
    async def story() -> list[str]:
        seen: asyncio.Queue[str] = asyncio.Queue()

        async def handler(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            try:
                await reader.read()
                seen.put_nowait("end of file")
            except ConnectionResetError:
                seen.put_nowait("reset")

        async with serving(handler) as port:
            await probe(target(TcpCheck(), port))
            (await connect(ip_address("127.0.0.1"), port)).close()  # as the kinds that are tasks do
            return [await seen.get() for _ in range(2)]

    assert asyncio.run(story()) == ["reset", "reset"]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_server_that_hangs_is_seen_once_its_accept_queue_is_full(host: str) -> None:
    """The kernel completes handshakes for it until then. A handshake without its last packet would never fill the queue."""
    backlog = 3

    async def story(port: int) -> list[Outcome]:
        async with sweeping() as check:  # with sockets that are used again
            again = run_of(target(TcpCheck(), port, address=host, timeout=0.1), None)
            return [(await check(again)).outcome for _ in range(backlog + 2)]

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family, backlog=backlog) as hung:
        found = asyncio.run(story(hung.getsockname()[1]))
    assert found == [Outcome.OK] * (backlog + 1) + [Outcome.FAIL]


def test_a_cancelled_probe_leaves_nothing_behind() -> None:
    async def story(port: int) -> None:
        before = open_descriptors()
        task = asyncio.create_task(probe(target(TcpCheck(), port)))
        await asyncio.sleep(0)
        assert open_descriptors() > before
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert open_descriptors() <= before
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with full_backlog() as port:
        asyncio.run(story(port))


class _LoopThatCanStall(asyncio.SelectorEventLoop):
    stalled_for = 0.0

    def time(self) -> float:
        return super().time() + self.stalled_for


def test_a_timeout_seen_long_after_its_time_says_nothing_about_the_target() -> None:
    async def story(port: int) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _LoopThatCanStall)
        task = asyncio.create_task(probe(target(TcpCheck(), port, timeout=LONG)))
        await asyncio.sleep(0)
        loop.stalled_for = LONG + 5
        result = await task
        assert result.outcome is Outcome.UNKNOWN
        assert "too late" in result.detail

    with full_backlog() as port, asyncio.Runner(loop_factory=_LoopThatCanStall) as runner:
        runner.run(story(port))


def test_an_answer_found_long_after_the_timeout_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def found_late(*_: object) -> Finding:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _LoopThatCanStall)
        loop.stalled_for = LONG + 5
        return OK

    monkeypatch.setattr(icmp, "check", found_late)
    with asyncio.Runner(loop_factory=_LoopThatCanStall) as runner:
        result = runner.run(tasks.probe(target(IcmpCheck())))
    assert (result.outcome, result.fault) == (Outcome.UNKNOWN, Fault.STALLED)


@pytest.mark.parametrize("code", [ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EACCES, ENOTCONN])
def test_what_the_network_answers_is_the_targets_failure(code: int) -> None:
    assert judge(OSError(code, "")).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        *((code, Fault.DESCRIPTORS) for code in (EMFILE, ENFILE, ENOMEM, ENOBUFS)),
        *((code, Fault.PORTS) for code in (EADDRNOTAVAIL, EADDRINUSE)),
        *((code, Fault.LINK) for code in (ENETDOWN, ENODEV, ENXIO)),
        (EAGAIN, Fault.FORK),
        (EPERM, Fault.PERMISSION),
        (EAFNOSUPPORT, Fault.CONFIGURATION),
        *((code, Fault.INTERNAL) for code in (EBADF, EINVAL, 9999)),
    ],
)
def test_what_this_node_lacks_proves_nothing_and_is_named(code: int, fault: Fault) -> None:
    finding = judge(OSError(code, ""))
    assert (finding.outcome, finding.fault) == (Outcome.UNKNOWN, fault)
    assert "the check could not run" in finding.detail


def test_an_error_without_a_number_proves_nothing() -> None:
    finding = judge(OSError("odd"))
    assert (finding.outcome, finding.fault) == (Outcome.UNKNOWN, Fault.INTERNAL)


@pytest.mark.parametrize("code", [EACCES, ENOENT, ENOTDIR, ELOOP])
def test_a_file_of_this_node_that_cannot_be_used_is_no_fault_of_the_target(code: int) -> None:
    finding = judge(OSError(code, "", "/etc/key.pem"))
    assert (finding.outcome, finding.fault) == (Outcome.UNKNOWN, Fault.PERMISSION)
    assert "/etc/key.pem" in finding.detail


def test_an_interface_in_an_address_that_is_not_there_is_a_missing_link() -> None:
    result = run(TcpCheck(), 80, address="fe80::1%absent")
    assert (result.outcome, result.fault) == (Outcome.UNKNOWN, Fault.LINK)
    assert "no interface" in result.detail


def test_a_resolver_that_cannot_be_asked_is_this_nodes_fault() -> None:
    finding = judge(socket.gaierror(socket.EAI_AGAIN, "slow"))
    assert (finding.outcome, finding.fault) == (Outcome.UNKNOWN, Fault.RESOLVER)


def test_a_detail_is_one_printable_line_of_bounded_length() -> None:
    assert one_line("a\r\nb\x1b[31mc\0") == "a  b [31mc"
    assert len(one_line("x" * 10_000)) == 300


_SCARCE = """
import asyncio, os, resource, socket
from tests.unit.probes.peers import target
from anycast.core.values.configuration import CommandCheck, HttpCheck, TcpCheck
from anycast.probes.run import probe

async def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        port = listener.getsockname()[1]
        for kind in (TcpCheck(), HttpCheck(tls=False), CommandCheck(argv=("/bin/true",))):
            for left in range(8):
                held = []
                try:
                    while True:
                        held.append(os.open("/dev/null", os.O_RDONLY))
                except OSError:
                    pass
                for fd in held[:left]:
                    os.close(fd)
                del held[:left]
                # Of HTTP no answer will come; a program has all the time that a busy machine takes.
                timeout = 0.05 if isinstance(kind, HttpCheck) else 30.0
                result = await probe(target(kind, port, timeout=timeout))
                for fd in held:
                    os.close(fd)
                print(type(kind).__name__, left, len(os.listdir("/proc/self/fd")), result.outcome, result.detail)

asyncio.run(main())
"""


def test_without_descriptors_every_kind_says_unknown_and_leaks_none() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _SCARCE], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    rows = [line.split(" ", 4) for line in done.stdout.splitlines()]
    assert len(rows) == 3 * 8
    for kind in (TcpCheck, HttpCheck, CommandCheck):
        outcomes = {int(left): outcome for name, left, _, outcome, _ in rows if name == kind.__name__}
        assert outcomes[0] == "unknown"
        if kind is CommandCheck:  # a lack at any step says unknown, enough of them says ok, nothing says fail
            assert set(outcomes.values()) == {"unknown", "ok"}
    assert all("EMFILE" in row[4] for row in rows if row[3] == "unknown")
    assert len({row[2] for row in rows}) == 1


_ALONE = """
from tests.unit.probes.peers import engine, run
from anycast.core.values.configuration import TcpCheck
for swept in (False, True):
    with engine(swept=swept):
        print(run(TcpCheck(), 40001).outcome)
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs network namespaces",
)
def test_a_dead_service_on_the_loopback_is_not_mistaken_for_a_live_one_when_tcp_meets_itself() -> None:
    setup = "ip link set lo up && echo 40001 40001 > /proc/sys/net/ipv4/ip_local_port_range"
    done = subprocess.run(
        ["unshare", "-rn", "sh", "-c", f'{setup} && exec "$@"', "sh", sys.executable, "-c", _ALONE],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "fail\nfail\n"


def test_a_listener_that_never_accepts_is_still_ok_because_the_kernel_shakes_hands() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        assert run(TcpCheck(), listener.getsockname()[1]).outcome is Outcome.OK


def test_nothing_of_many_probes_stays_open() -> None:
    before = open_descriptors()
    with refusing_port() as port:
        for _ in range(20):
            run(TcpCheck(), port)
    assert open_descriptors() <= before
