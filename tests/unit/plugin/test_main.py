"""The real process on real pipes; the test is ExaBGP on one side and the agent on the other."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from pathlib import Path

import pytest

from anycast.core.values.lease import full_lease
from anycast.core.values.report import Report
from anycast.core.values.route import Route
from anycast.lease import Decoder, encode, route_body
from anycast.plugin import codec, main

A = ip_network("192.0.2.1/32")
ROUTE = Route(prefix=A, med=100)
TABLE = '[{"state": "up", "duration": 5, "fsm": "ESTABLISHED", "peer": {"address": "192.0.2.254"}}]'
PATIENCE = 20.0  # seconds until a test that waits in vain fails
RUN = "import sys; from anycast.plugin.main import main; sys.exit(main(sys.argv[1:]))"


class Rig:
    """Starts the plugin, speaks for ExaBGP and for the agent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = path / "made" / "journal"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.settimeout(PATIENCE)
        self.listener.bind(str(path / "lease.sock"))
        self.listener.listen()
        self.agent: socket.socket | None = None
        self.decoder = Decoder()
        self.seq = 0
        self.buffer = b""
        self.process: subprocess.Popen[bytes] | None = None

    def start(
        self, *arguments: str, program: Sequence[str] = ("-c", RUN), **environment: str
    ) -> subprocess.Popen[bytes]:
        options = ["--socket", str(self.path / "lease.sock"), "--journal", str(self.journal)]
        self.process = subprocess.Popen(
            [sys.executable, *program, *(arguments or (*options, "--own", str(A)))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.getcwd(), **environment},
        )
        return self.process

    def command(self) -> str | None:
        """The next command; None at the end."""
        assert self.process is not None
        assert self.process.stdout is not None
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
            assert ready, "no command"
            data = self.process.stdout.read(65536)
            if not data:
                return None
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode("ascii")

    def say(self, *lines: str) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{line}\n" for line in lines).encode())

    def answer(self, command: str) -> None:
        self.say(*([TABLE] if command == codec.SHOW_NEIGHBORS else []), "done")

    def until(self, wanted: str) -> list[str]:
        """Answer commands until `wanted` comes, which is answered too. Returns all of them."""
        commands: list[str] = []
        while wanted not in commands:
            command = self.command()
            assert command is not None, f"ended before: {wanted}"
            self.answer(command)
            commands.append(command)
        return commands

    def accept(self) -> None:
        self.agent, _ = self.listener.accept()
        self.agent.settimeout(PATIENCE)
        self.decoder = Decoder()

    def lease(self, *routes: Route, ttl: float = 60.0) -> None:
        assert self.agent is not None
        self.seq += 1
        lease = full_lease(seq=self.seq, issued=time.monotonic(), ttl=ttl, routes=routes, owned=(A,))
        self.agent.sendall(encode(lease))

    def report(self, seq: int) -> Report:
        """The first report that has carried out lease `seq`."""
        assert self.agent is not None
        while True:
            data = self.agent.recv(65536)
            assert data, "the plugin closed the connection"
            for message in self.decoder.feed(data):
                if isinstance(message, Report) and message.seq == seq and not message.pending:
                    return message

    def stderr(self) -> str:
        """All of it, once the process has ended."""
        assert self.process is not None
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
                if pipe is not None:
                    pipe.close()
        self.process, self.buffer = None, b""

    def close(self) -> None:
        self.kill()
        if self.agent is not None:
            self.agent.close()
        self.listener.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


def test_a_lease_is_announced_reported_and_withdrawn(rig: Rig) -> None:
    process = rig.start()
    assert rig.command() == "withdraw route 192.0.2.1/32"
    rig.say("done")
    rig.accept()
    rig.lease(ROUTE)
    rig.until(codec.announce(ROUTE))
    report = rig.report(1)
    assert report.announced == {A}
    assert (report.pid, report.exabgp_pid) == (process.pid, os.getpid())
    assert [neighbor.state for neighbor in report.neighbors] == ["up"]
    rig.lease()
    rig.until(codec.withdraw(ROUTE))
    assert rig.report(2).announced == set()


def test_the_lease_that_runs_out_is_withdrawn_without_any_word_from_the_agent(rig: Rig) -> None:
    rig.start()
    rig.accept()
    rig.lease(ROUTE, ttl=1.0)
    rig.until(codec.announce(ROUTE))
    rig.until(codec.withdraw(ROUTE))


def test_an_agent_that_comes_back_within_the_lease_changes_nothing(rig: Rig) -> None:
    rig.start()
    rig.accept()
    rig.lease(ROUTE)
    rig.until(codec.announce(ROUTE))
    rig.report(1)
    assert rig.agent is not None
    rig.agent.close()
    rig.accept()
    rig.lease(ROUTE)
    # Whatever else is asked meanwhile is answered on the way to the one command that is wanted.
    rig.report(2)
    rig.lease()
    commands = rig.until(codec.withdraw(ROUTE))
    assert not [c for c in commands[:-1] if "192.0.2.1" in c]


def test_an_agent_that_speaks_nonsense_is_cut_off_and_may_come_again(rig: Rig) -> None:
    rig.start()
    rig.accept()
    assert rig.agent is not None
    rig.agent.sendall(b"GET / HTTP/1.1\r\n")
    while rig.agent.recv(65536):
        pass
    rig.agent.close()
    rig.accept()


def test_the_journal_is_written_ahead_of_the_announce_and_serves_the_next_life(rig: Rig) -> None:
    rig.start()
    rig.accept()
    rig.lease(ROUTE)
    while (command := rig.command()) != codec.announce(ROUTE):
        rig.answer(str(command))
    assert json.loads(rig.journal.read_text())["routes"] == [json.loads(json.dumps(route_body(ROUTE)))]
    assert rig.journal.stat().st_mode & 0o777 == 0o644
    rig.kill()
    rig.start("--socket", "/nonexistent/socket", "--journal", str(rig.journal))
    assert rig.command() == codec.withdraw(ROUTE)


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"routes": [1]}', '{"routes": [{"prefix": "x"}]}', "\x00\xff"]
)
def test_a_damaged_journal_leaves_what_the_command_line_owns(rig: Rig, damage: str) -> None:
    rig.journal.parent.mkdir()
    rig.journal.write_text(damage)
    rig.start()
    assert rig.command() == "withdraw route 192.0.2.1/32"


def test_a_stray_print_is_no_command(rig: Rig) -> None:
    noisy = (
        "import sys, anycast.plugin.main as m; run = m.Plugin.run\n"
        "def loud(self): print('announce route 198.51.100.1/32 next-hop self', flush=True); return run(self)\n"
        "m.Plugin.run = loud; sys.exit(m.main(sys.argv[1:]))"
    )
    process = rig.start(program=("-c", noisy))
    assert rig.command() == "withdraw route 192.0.2.1/32"
    assert process.stdin is not None
    process.stdin.close()
    assert rig.wait() == 0
    assert "198.51.100.1" in rig.stderr()


def test_it_ends_when_exabgp_closes_the_pipe(rig: Rig) -> None:
    process = rig.start()
    rig.command()
    assert process.stdin is not None
    process.stdin.close()
    assert rig.wait() == 0


def test_it_ends_when_exabgp_says_that_it_ends(rig: Rig) -> None:
    rig.start()
    rig.command()
    rig.say('{ "exabgp": "5.0.0", "type": "notification", "notification": "shutdown" }')
    assert rig.wait() == 0


def test_sigterm_withdraws_and_waits_for_the_acknowledgement(rig: Rig) -> None:
    process = rig.start()
    rig.accept()
    rig.lease(ROUTE)
    rig.until(codec.announce(ROUTE))
    rig.report(1)
    process.send_signal(signal.SIGTERM)
    rig.until(codec.withdraw(ROUTE))
    assert rig.wait() == 0


def test_sigterm_does_not_wait_for_ever(rig: Rig) -> None:
    process = rig.start()
    rig.command()
    process.send_signal(signal.SIGTERM)
    assert rig.wait() == 0


def test_a_flood_of_answers_is_always_read(rig: Rig) -> None:
    rig.start()
    rig.command()
    for _ in range(20):
        rig.say(*["done"] * 5_000)
    rig.accept()
    rig.lease(ROUTE)
    rig.until(codec.announce(ROUTE))


# A parent that neither answers nor dies of SIGTERM, and leaves with the exit status of its child.
SILENT_PARENT = (
    "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "sys.exit(subprocess.Popen([sys.executable, '-c', *sys.argv[1:]],"
    " stdin=subprocess.PIPE, stdout=subprocess.PIPE).wait())"
)
ALONE = ("--socket", "/nonexistent/socket", "--own", str(A))


def silent_parent(rig: Rig, name: str) -> str:
    script = rig.path / name
    script.write_text(SILENT_PARENT)
    return str(script)


def test_a_silent_exabgp_is_ended_though_it_ignores_sigterm(rig: Rig) -> None:
    rig.start(RUN, *ALONE, program=[silent_parent(rig, "exabgp")])
    assert rig.wait() == -signal.SIGKILL


def test_a_silent_parent_that_only_mentions_exabgp_is_left_alive(rig: Rig) -> None:
    rig.start(RUN, *ALONE, program=[silent_parent(rig, "check-exabgp")])
    assert rig.wait() == 1
    assert "stuck" in rig.stderr()


def test_the_service_manager_hears_ready_after_the_first_answers_and_then_the_watchdog(rig: Rig) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(rig.path / "notify"))
        manager.settimeout(PATIENCE)
        rig.start(NOTIFY_SOCKET=str(rig.path / "notify"), WATCHDOG_USEC="200000")
        heard = [manager.recv(64)]
        assert heard == [b"WATCHDOG=1"]
        rig.until(codec.SHOW_NEIGHBORS)
        while b"READY=1" not in heard:
            heard.append(manager.recv(64))
        while heard[-1] != b"WATCHDOG=1":
            heard.append(manager.recv(64))
        assert heard.count(b"READY=1") == 1


def test_a_wrong_command_line_withdraws_what_it_can_read_and_says_what_is_wrong(rig: Rig) -> None:
    process = rig.start("--own", str(A), "--own", "192.0.2.1/24", "--socket", "/nonexistent/socket")
    assert rig.command() == "withdraw route 192.0.2.1/32"
    assert process.stderr is not None
    assert b"192.0.2.1/24" in process.stderr.read(4096)
    assert process.poll() is None  # a plugin that dies at once is soon given up


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["--socket", "/s"], main.Options(socket="/s")),
        (
            ["--own=192.0.2.1/32", "--socket=/s", "--journal", "/j", "--hang-limit", "0", "--own", "::1/128"],
            main.Options(socket="/s", journal="/j", own=(A, ip_network("::1/128")), hang_limit=0.0),
        ),
        (["--socket", "/s", "--view", "65001:1179:7"], main.Options(socket="/s", view=(65001, 1179, 7))),
        (
            ["--socket", "/s", "--view", "65001:7", "--own", str(A)],
            main.Options(
                socket="/s",
                own=(A,),
                error="--view: expected three numbers as in 65001:1179:1, found 65001:7",
            ),
        ),
        (["--own", str(A)], main.Options(own=(A,), error="--socket PATH is missing")),
        (["--socket"], main.Options(error="--socket: a value is missing")),
        (
            ["stray", "--own", str(A), "--socket", "/s"],
            main.Options(socket="/s", own=(A,), error="stray: not an option of anycast announce"),
        ),
        (
            ["--socket", "/s", "--hang-limit", "soon", "--own", str(A)],
            main.Options(
                socket="/s",
                own=(A,),
                error="--hang-limit: could not convert string to float: 'soon'",
            ),
        ),
    ],
)
def test_whatever_is_wrong_with_the_command_line_what_is_owned_is_known(
    words: list[str], options: main.Options
) -> None:
    assert main.parse_options(words) == options


def test_started_by_hand_it_says_who_starts_it() -> None:
    master, slave = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", RUN],
            stdin=slave,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )
    finally:
        os.close(master)
        os.close(slave)
    assert done.returncode == 2
    assert "ExaBGP runs this" in done.stderr
    assert done.stdout == ""


def test_it_imports_nothing_heavy() -> None:
    heavy = "{'asyncio', 'logging', 'subprocess', 'threading', 'exabgp', 'pydantic', 'yaml'}"
    code = f"import sys, anycast.plugin.main; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
