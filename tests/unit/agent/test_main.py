"""`anycast agent` as the process a service manager starts, and what guards its sockets."""

from __future__ import annotations

import asyncio
import fcntl
import grp
import itertools
import json
import os
import pwd
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import structlog

from anycast import listening
from anycast.agent import main
from anycast.agent.conditions import Conditions
from anycast.cli.client import Answer, UnreachableError, ask, command, read
from anycast.core.events import Log
from anycast.core.values.report import NeighborState
from anycast.core.values.sight import RouterView, Sight, ViewChange
from anycast.core.values.standing import Condition
from anycast.core.view import PATIENCE
from anycast.lease import Decoder, Lease, Report, encode
from anycast.ops.hub import Hub
from anycast.sockets import bind_unix
from lab.waiting import until
from tests.replay import replay

ROOT = Path(__file__).parents[3]
# An interface nobody has: wherever this runs, the kernel is read at most, and never changed.
CONFIG = """
node: {{name: lb1, interface: nowhere0, runtime_dir: {run}, state_dir: {state}, listen: "127.0.0.1:{port}"}}
bgp: {{local_as: 65001, router_id: 10.2.1.1, neighbors: [{{address: 10.2.1.254, remote_as: 65000}}]}}
vips:
  web: {{address: 192.0.2.1, port: 80, servers: [127.0.0.1]}}
"""


class Agent:
    """A running agent. Its log is what a test waits for."""

    def __init__(self, process: subprocess.Popen[str], directory: Path, port: int) -> None:
        self.process = process
        self.directory = directory
        self.port = port
        self.events: list[dict[str, Any]] = []

    def until(self, event: str) -> dict[str, Any]:
        """The next line of the log about `event`."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("{"):
                self.events.append(json.loads(line))
                if self.events[-1]["event"] == event:
                    return self.events[-1]
        pytest.fail(f"no {event}, but {self.events}")

    @property
    def control(self) -> Path:
        return self.directory / "run" / "control.sock"

    def read(self, path: str = "/status") -> Answer:
        return read(self.control, path)

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}") as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def end(self, *signals: signal.Signals) -> int:
        for number in signals:
            self.process.send_signal(number)
        assert self.process.stderr is not None
        self.process.stderr.read()
        return self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def configure(directory: Path, text: str = CONFIG, port: int = 1) -> Path:
    file = directory / "anycast.yaml"
    file.write_text(text.format(run=directory / "run", state=directory / "state", port=port))
    return file


@contextmanager
def agent(directory: Path, *options: str, text: str = CONFIG, **environ: str) -> Iterator[Agent]:
    port = free_port()
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "anycast",
            "agent",
            "--config",
            str(configure(directory, text, port=port)),
            *options,
        ],
        cwd=ROOT,
        env={**os.environ, **environ},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Agent(process, directory, port)
        finally:
            process.kill()


def finished(directory: Path, *options: str) -> tuple[int, str]:
    """The exit status and what was said of an agent that is expected to end by itself."""
    done = subprocess.run(
        [sys.executable, "-m", "anycast", "agent", "--config", str(directory / "anycast.yaml"), *options],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """One agent for all tests that leave it as they found it. `events` are those since its start."""
    with agent(tmp_path_factory.mktemp("standing"), SECRET_TOKEN="hush") as node:
        node.until("ops.listening")
        yield node
        assert node.end(signal.SIGTERM) == 0


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_without_a_kernel_it_stays_up_announces_nothing_and_says_why(standing: Agent) -> None:
    why = next(event for event in standing.events if event["event"] == "kernel.unavailable")["reason"]
    code, text = standing.get("/readyz")
    assert code == 503
    assert why in text
    assert standing.get("/livez")[0] == 200
    assert standing.get("/vips/web")[0] == 503


def test_the_service_manager_hears_ready_the_watchdog_what_is_up_and_the_end(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        with agent(tmp_path, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="200000") as node:
            heard = []
            while "READY=1" not in heard:
                heard.append(manager.recv(4096).decode())
            assert node.read().ok  # ready is: a command is answered
            assert (tmp_path / "run" / "lease.sock").is_socket()
            for _ in range(2):
                while (message := manager.recv(4096).decode()) != "WATCHDOG=1":
                    heard.append(message)
            why = "STATUS=no plugin is connected, nothing is announced (web "
            assert any(message.startswith(why) for message in heard)
            node.process.send_signal(signal.SIGTERM)
            while manager.recv(4096) != b"STOPPING=1":
                pass
            assert node.end() == 0


def test_it_is_ready_as_soon_as_it_listens_and_waits_for_no_turn_of_the_engine(tmp_path: Path) -> None:
    """At rest the engine has a turn for each renewal of a lease: here none for many seconds."""
    text = CONFIG.replace("vips:", "timing: {{lease_ttl: 30s, reconcile: 60s}}\nvips:")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        argv = [sys.executable, "-m", "lab.memory_agent", "--unchecked", "agent", "--config"]
        with subprocess.Popen(
            [*argv, str(configure(tmp_path, text, port=free_port()))],
            cwd=ROOT,
            env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")},
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                while manager.recv(4096) != b"READY=1":
                    pass
            finally:
                process.kill()


def test_an_agent_whose_watchdog_ran_out_says_where_it_hung(tmp_path: Path) -> None:
    with agent(tmp_path) as node:
        node.until("ops.listening")
        node.process.send_signal(signal.SIGABRT)
        _, said = node.process.communicate()
        assert node.process.returncode == -signal.SIGABRT
        assert "Fatal Python error: Aborted" in said
        assert "agent/main.py" in said


def test_a_second_sigterm_is_no_more_than_the_first_and_the_ops_process_ends_too(tmp_path: Path) -> None:
    with agent(tmp_path) as node:
        node.until("ops.listening")
        assert node.end(signal.SIGTERM, signal.SIGTERM, signal.SIGINT) == 0
        assert not Path("/proc", str(ops_pid(node))).exists()


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("exabgp_user: nobody", 0o660),
        ("exabgp_user: root, lease_group: daemon", 0o660),
        # No reason to withdraw: who connects is asked by the kernel.
        ("exabgp_user: nobody-here", 0o666),
        ("exabgp_user: root, lease_group: nothing-here", 0o666),
    ],
)
@pytest.mark.skipif(os.geteuid() != 0, reason="gives a socket to another group")
def test_the_sockets_are_for_whom_they_should_be(tmp_path: Path, said: str, wanted: int) -> None:
    with agent(tmp_path, text=CONFIG.replace("name: lb1", f"name: lb1, {said}")) as node:
        node.until("ops.listening")
        run = tmp_path / "run"
        assert mode(run) == 0o755
        assert mode(run / "control.sock") == 0o660
        assert mode(run / "ops.sock") == 0o660
        assert mode(run / "lease.sock") == wanted
        if wanted == 0o660:
            group = "daemon" if "daemon" in said else grp.getgrgid(pwd.getpwnam("nobody").pw_gid).gr_name
            assert (run / "lease.sock").group() == group
        open_to_all = "plugin.group_unavailable" in [one["event"] for one in node.events]
        assert open_to_all is (wanted == 0o666)


def test_a_second_agent_is_refused_and_the_first_goes_on(standing: Agent) -> None:
    code, said = finished(standing.directory)
    assert code == 75
    assert str(standing.directory / "run" / "agent.lock") in said
    assert standing.read().ok


def test_a_second_agent_with_the_same_state_directory_is_refused(standing: Agent) -> None:
    where = standing.directory
    file = where / "anycast.yaml"
    before = file.read_text()
    try:
        file.write_text(before.replace(str(where / "run"), str(where / "other-run")))
        code, said = finished(where)
    finally:
        file.write_text(before)
    assert code == 75
    assert str(where / "state" / "state.lock") in said
    assert "node.state_dir" in said
    assert standing.read().ok


def test_a_state_directory_that_another_agent_has_taken_meanwhile_stands(standing: Agent) -> None:
    other = standing.directory / "other.lock"
    with other.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        other.replace(standing.directory / "state" / "state.lock")
        standing.until("state.shared")
        assert standing.until("condition.began")["kind"] == "state_shared"
    assert standing.until("condition.ended")["kind"] == "state_shared"


def test_an_agent_whose_lock_another_has_taken_leaves(tmp_path: Path) -> None:
    with agent(tmp_path) as node:
        node.until("ops.listening")
        other = tmp_path / "other.lock"
        with other.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            other.replace(tmp_path / "run" / "agent.lock")
            node.until("agent.displaced")
            assert node.end() == 75


def test_without_a_runtime_directory_it_stays_up_and_tells(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the directory should be")
    with agent(tmp_path) as node:
        assert "agent.lock" in node.until("socket.unavailable")["where"]
        node.until("ops.listening")
        assert node.get("/livez")[0] == 200
        assert node.end(signal.SIGTERM) == 0


def test_a_bad_file_is_refused_with_every_problem_in_it(tmp_path: Path) -> None:
    configure(tmp_path, "bgp: {{local_as: x}}\nvips: {{web: {{address: nowhere, port: 0}}}}\n")
    code, said = finished(tmp_path)
    assert code == 78
    for where in ("anycast.yaml:1:", "anycast.yaml:2:"):
        assert where in said
    assert "not started" in said
    assert not (tmp_path / "run").exists()


def test_a_reload_of_a_bad_file_keeps_what_is_in_force(tmp_path: Path) -> None:
    with agent(tmp_path) as node:
        node.until("ops.listening")
        configure(tmp_path, "vips: {{}}\n")
        node.process.send_signal(signal.SIGHUP)
        node.until("config.rejected")
        assert [vip["name"] for vip in node.read().body["vips"]] == ["web"]
        configure(tmp_path, CONFIG + "  mail: {{address: 192.0.2.2, port: 25, servers: [127.0.0.1]}}\n")
        for _ in range(3):
            node.process.send_signal(signal.SIGHUP)
        assert "mail" in " ".join(node.until("config.applied")["changes"])
        assert [vip["name"] for vip in node.read().body["vips"]] == ["web", "mail"]
        assert node.end(signal.SIGHUP, signal.SIGTERM) == 0


def test_events_go_on_over_a_restart(tmp_path: Path) -> None:
    with agent(tmp_path) as node:
        node.until("ops.listening")
        assert node.end(signal.SIGTERM) == 0
    with agent(tmp_path) as node:
        node.until("ops.listening")
        events = node.read("/events").body["events"]
        assert [one["id"] for one in events] == list(range(1, len(events) + 1))
        names = [one["event"] for one in events]
        assert names.count("agent.started") == 2
        assert names.index("agent.stopped") < names.index("agent.started", 1)
        assert node.end(signal.SIGTERM) == 0


def test_a_recording_of_an_agent_can_be_played(tmp_path: Path) -> None:
    path = tmp_path / "recording.jsonl"
    with agent(tmp_path, "--record", str(path)) as node:
        node.until("vip.verdict_changed")
        assert node.end(signal.SIGTERM) == 0
    with path.open() as lines:
        events = [effect for *_, effects in replay(lines) for effect in effects if isinstance(effect, Log)]
    assert [event.fields["reason"] for event in events if event.event == "vip.verdict_changed"][
        -1
    ] == "stopping"


def test_without_a_place_for_the_recording_it_does_not_start(tmp_path: Path) -> None:
    configure(tmp_path)
    code, said = finished(tmp_path, "--record", str(tmp_path / "nowhere" / "recording"))
    assert code == 73
    assert "No such file or directory, not started" in said


def test_it_survives_whoever_reads_its_log(tmp_path: Path) -> None:
    with agent(tmp_path) as node:
        node.until("ops.listening")
        assert node.process.stderr is not None
        node.process.stderr.close()
        os.kill(ops_pid(node), signal.SIGKILL)
        assert node.read("/status").ok
        for on in (True, False):
            body = {"scope": "", "on": on}
            assert ask(tmp_path / "run" / "control.sock", "POST", "/maintenance", body).ok
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait() == 0


def ops_pid(node: Agent) -> int:
    return int(next(event for event in reversed(node.events) if event["event"] == "ops.started")["pid"])


def leases(node: Agent) -> Generator[Lease, None, None]:
    """As a plugin gets them."""
    decoder = Decoder()
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(node.directory / "run" / "lease.sock"))
        while data := line.recv(65536):
            yield from (one for one in decoder.feed(data) if isinstance(one, Lease))


def test_strangers_have_a_process_of_their_own_which_is_named_and_has_no_rights(standing: Agent) -> None:
    ops = Path("/proc") / str(ops_pid(standing))
    assert (ops / "comm").read_text() == "anycast-ops\n"
    assert b"anycast.ops" in (ops / "cmdline").read_bytes()
    assert b"hush" not in (ops / "environ").read_bytes()
    assert b"hush" in Path(f"/proc/{standing.process.pid}/environ").read_bytes()
    status = dict(line.split(":\t", 1) for line in (ops / "status").read_text().splitlines())
    net_bind_service = 1 << 10
    assert int(status["CapEff"], 16) & ~net_bind_service == 0
    assert int(status["CapAmb"], 16) == 0


def test_leases_go_on_while_the_ops_process_is_killed_and_it_comes_back(standing: Agent) -> None:
    with closing(leases(standing)) as plugin:
        first = ops_pid(standing)
        killed = time.monotonic()
        os.kill(first, signal.SIGKILL)
        assert standing.until("ops.ended")["why"] == "killed by SIGKILL"
        assert ask(standing.control, "GET", "/livez").ok
        standing.until("ops.listening")
        assert ops_pid(standing) != first
        assert standing.get("/livez")[0] == 200
        assert standing.read("/status").body["vips"][0]["name"] == "web"
        assert any(lease.issued > killed for lease in plugin)


def test_a_plugin_that_stops_answering_is_told_of_by_the_agent_and_its_ops_process(standing: Agent) -> None:
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(standing.directory / "run" / "lease.sock"))
        line.sendall(encode(Report(seq=1, pid=46, exabgp_pid=47)))
        while (began := standing.until("condition.began"))["kind"] != "exabgp_silent":
            pass
        assert began["text"].startswith("the plugin (pid 46) of ExaBGP (pid 47) does not answer")
        status = standing.read("/status").body
        assert [(one["silent"], one["mute"]) for one in status["plugins"]] == [(True, True)]
        assert "exabgp_silent" in [one["kind"] for one in status["standing"]]
        code, body = standing.get("/readyz")
        assert code == 503
        assert "ExaBGP's plugin has not answered for" in body
        assert 'anycast_standing_condition{kind="exabgp_silent"} 1' in standing.get("/metrics")[1]
        line.sendall(encode(Report(seq=2, pid=46, exabgp_pid=47)))
        while standing.until("condition.ended")["kind"] != "exabgp_silent":
            pass


def test_a_router_that_lacks_a_vip_is_told_of_by_the_agent_its_hooks_and_its_ops_process(
    tmp_path: Path,
) -> None:
    router, prefix, told = "10.2.1.254", ip_network("192.0.2.1/32"), tmp_path / "told"
    hook = f'hooks: {{h: {{argv: [/usr/bin/tee, "{told}"], events: [route.not_received]}}}}\n'
    text = CONFIG.replace("local_as: 65001,", "local_as: 65001, view: true, software: frr,")
    with (
        agent(tmp_path, text=text + hook.replace("{", "{{").replace("}", "}}")) as node,
        socket.socket(socket.AF_UNIX) as line,
    ):
        node.until("ops.listening")
        line.connect(str(node.directory / "run" / "lease.sock"))
        now = time.monotonic()
        session = NeighborState(address=router, state="up", changed=now)
        report = Report(seq=1, pid=46, exabgp_pid=47, announced=frozenset({prefix}), neighbors=(session,))

        def answers() -> None:
            with suppress(OSError):
                while line.recv(65536):
                    line.sendall(encode(report))

        known = RouterView(neighbor=router, number=1, up=True, since=now, complete=now, add_path=(4,))
        sights = ((router, (Sight(prefix=prefix, missing=now, others=1),)),)
        line.sendall(encode(report) + encode(ViewChange(views=(known,), sights=sights, first=True)))
        threading.Thread(target=answers, daemon=True).start()
        found = node.until("route.not_received")
        assert (found["prefix"], found["neighbor"]) == (str(prefix), router)
        assert time.monotonic() - now >= PATIENCE
        while node.until("condition.began")["kind"] != "advertised_but_not_received":
            pass
        status = node.read("/status").body
        (at,) = status["vips"][0]["prefixes"][0]["routers"]
        assert (at["receipt"], at["others"]) == ("not_received", 1)
        assert "advertised_but_not_received" in [one["kind"] for one in status["standing"]]
        name = f'anycast_vip_not_received{{vip="web",peer="{router}"}}'
        assert f"{name} 1.0" in node.get("/metrics")[1]
        until(lambda: told.exists() and str(prefix) in told.read_text(), "the hook has run", 10.0)
        node.end(signal.SIGTERM)


def test_leases_go_on_while_the_ops_process_stands_still(tmp_path: Path) -> None:
    with agent(tmp_path) as node:
        node.until("ops.listening")
        stopped = time.monotonic()
        os.kill(ops_pid(node), signal.SIGSTOP)
        plugin = leases(node)
        assert len([*itertools.islice((lease for lease in plugin if lease.issued > stopped), 3)]) == 3
        assert ask(node.control, "GET", "/livez").ok
        assert command(node.control, "/maintenance", {"scope": "", "on": True}).ok
        os.kill(ops_pid(node), signal.SIGCONT)
        assert node.read("/status").body["maintenance"][0]["scope"] == ""
        plugin.close()
        assert node.end(signal.SIGTERM) == 1  # the plugin has not acknowledged that anything is withdrawn


def test_an_agent_that_is_killed_takes_its_ops_process_along_even_one_that_stands_still(
    tmp_path: Path,
) -> None:
    with agent(tmp_path) as node:
        node.until("ops.listening")
        pid = ops_pid(node)
        end = os.pidfd_open(pid)
        os.kill(pid, signal.SIGSTOP)
        node.process.kill()
        assert select.select([end], [], [], 60)[0]
        os.close(end)


def test_what_is_read_after_a_command_shows_it(standing: Agent) -> None:
    for on in (True, False) * 10:
        assert command(standing.control, "/maintenance", {"scope": "web", "on": on}).ok
        assert [one["scope"] for one in standing.read("/status").body["maintenance"]] == ["web"] * on
        names = [one["event"] for one in standing.read("/events").body["events"]]
        assert names.count("maintenance.began") - names.count("maintenance.ended") == on


def test_a_command_that_was_given_up_is_not_carried_out_later(tmp_path: Path) -> None:
    with agent(tmp_path) as node:
        node.until("ops.listening")
        node.process.send_signal(signal.SIGSTOP)
        body = {"scope": "", "on": True}
        with pytest.raises(UnreachableError, match=r"no answer within 2\.2 s"):
            command(node.control, "/maintenance", body, timeout=2.2)
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(node.control))
            head = f"Host: a\r\nContent-Length: 25\r\nX-Anycast-Deadline: {time.monotonic()}\r\n\r\n"
            line.sendall(f"POST /maintenance HTTP/1.0\r\n{head}".encode() + b'{"scope": "", "on": true}')
            node.process.send_signal(signal.SIGCONT)
            assert line.recv(4096).startswith(b"HTTP/1.1 504 ")
        assert ask(node.control, "GET", "/maintenance").body == {"maintenance": []}
        assert node.end(signal.SIGTERM) == 0
        assert "maintenance.began" not in [event["event"] for event in node.events]
    assert not (tmp_path / "state" / "maintenance.json").exists()


def test_the_agent_needs_nothing_of_what_answers_strangers() -> None:
    code = "import sys, anycast.agent.main; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert not {"aiohttp", "prometheus_client", "markupsafe", "anycast.ops.http"} & set(
        done.stdout.splitlines()
    )


def guarded(path: Path, story: Callable[[asyncio.Queue[socket.socket]], Awaitable[None]]) -> None:
    """Runs a story beside the guard of one socket; the queue gets each listener, the first one being refused."""

    async def play() -> None:
        bound: asyncio.Queue[socket.socket] = asyncio.Queue()
        refuse = True

        async def listen(listener: socket.socket) -> None:
            nonlocal refuse
            if refuse:
                refuse = False
                raise OSError("not now")
            bound.put_nowait(listener)

        guard = asyncio.create_task(listening.keep_bound(path, 0o600, listen))
        try:
            await story(bound)
        finally:
            guard.cancel()
            await asyncio.wait({guard})
            while not bound.empty():
                bound.get_nowait().close()

    asyncio.run(play())


def test_a_socket_that_is_swept_away_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "GUARD_PERIOD", 0.01)
    path = tmp_path / "run" / "lease.sock"

    async def story(bound: asyncio.Queue[socket.socket]) -> None:
        with await bound.get() as first:
            path.unlink()
            path.parent.rmdir()
            with await bound.get() as second:
                assert first.fileno() != second.fileno()
                assert path.is_socket()
                bind_unix(path, mode=0o600).close()  # somebody else's in its place
                with await bound.get():
                    pass

    guarded(path, story)


def test_what_a_defect_ends_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "GUARD_PERIOD", 0.0)
    runs = iter([ZeroDivisionError("a defect"), ZeroDivisionError("another"), None])

    async def task() -> None:
        if (error := next(runs)) is not None:
            raise error

    with structlog.testing.capture_logs() as logs:
        asyncio.run(main._again_and_again(task))
    assert [entry["event"] for entry in logs] == ["agent.task_failed"] * 2
    assert next(runs, "nothing is left") == "nothing is left"


def test_an_address_that_is_taken_is_tried_again_and_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    create, port, tries = socket.create_server, free_port(), itertools.count()

    def taken_at_first(*where: Any, **how: Any) -> socket.socket:
        if next(tries) < 2:
            raise OSError("in use")
        return create(*where, **how)

    monkeypatch.setattr(socket, "create_server", taken_at_first)

    async def play() -> None:
        async def listen(listener: socket.socket) -> None:
            with listener, socket.create_connection(("127.0.0.1", port)):
                pass

        await listening.bind_tcp(f"127.0.0.1:{port}", listen)

    with structlog.testing.capture_logs() as logs:
        asyncio.run(play())
    assert [entry["event"] for entry in logs] == ["ops.unavailable", "ops.listening"]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory away")
def test_a_journal_directory_for_nobody_known_is_an_error_and_no_more(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        conditions = Conditions()
        main.give_journal(tmp_path / "plugin", "no-such-user", conditions)
        main.give_journal(tmp_path / "plugin", "nobody", conditions)
        assert (tmp_path / "plugin").owner() == "nobody"
        (tmp_path / "file").touch()
        main.give_journal(tmp_path / "file" / "plugin", "nobody", conditions)
    assert [entry["event"] for entry in logs] == ["plugin.user_unknown", "plugin.journal_unavailable"]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory away")
def test_where_no_plugin_announces_nobody_misses_its_journal(tmp_path: Path) -> None:
    conditions = Conditions()
    main.give_journal(tmp_path / "plugin", "no-such-user", conditions)
    main.give_journal(tmp_path / "plugin", "no-such-user", conditions, needed=False)
    nothing_stood = conditions.begin(Condition.PLUGIN_JOURNAL, "", about="directory")
    assert nothing_stood, "a table of the kernel is the speaker now"


def test_the_limit_of_descriptors_is_raised_as_far_as_the_hard_one_allows_and_never_lowered() -> None:
    code = """
import resource, sys
from anycast import listening
from anycast.agent import main
limits = tuple(map(int, sys.argv[1:]))
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
main.raise_descriptors()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    for limits, expected in (("64", "2048"), "2048 2048"), (("512", "512"), "512 512"):
        argv = [sys.executable, "-c", code, *limits]
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
        assert done.stdout.strip() == expected


def test_a_defect_ends_the_process_with_its_own_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(main, "serve", broken)
    with structlog.testing.capture_logs() as logs:
        assert main._run(configure(tmp_path), Hub()) == main.EX_SOFTWARE
    assert [entry["event"] for entry in logs] == ["agent.failed"]


def test_a_start_without_an_answer_of_the_reader_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = configure(tmp_path)
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    assert main._run(file, Hub()) == main.EX_SOFTWARE
    said = f"anycast: reading {file} failed: the process for it ended with status -9, not started\n"
    assert capsys.readouterr().err == said
