"""The verbs that talk to the agent, as processes of their own against a real control socket."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import sys
import tempfile
import threading
import time
import traceback
import warnings
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import NoReturn

import pytest

from anycast.agent.answers import PlanAnswer, ReloadAnswer, ReloadWish
from anycast.agent.control import Control
from anycast.cli import client, rules
from anycast.cli.main import main
from anycast.config.kept import contents
from anycast.config.load import load
from anycast.core import events as ev
from anycast.core.dataplane.ipvs import ServiceKey
from anycast.core.planned import Plan, RouteChange, ServerChange, ServiceChange, Waits
from anycast.core.rendering import RELOAD, Session
from anycast.core.values.configuration import Protocol
from anycast.core.values.fates import Fate, Way
from anycast.ops.main import surface
from anycast.sockets import bind_unix
from tests.unit.ops.node import CONFIG, REFUSED, Node, Operator, healthy


@dataclass(frozen=True, slots=True)
class Done:
    code: int
    out: str
    err: str


Run = Callable[..., Awaitable[Done]]


async def cli(*argv: str) -> Done:
    """The command in a fork of this process: a new one would take a third of a second of imports each time."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, warnings.catch_warnings():
        # From Python 3.12 on, of threads in the process that forks: those here wait for work, and hold no lock.
        warnings.simplefilter("ignore", DeprecationWarning)
        if (pid := os.fork()) == 0:
            _command(argv, out.fileno(), err.fileno())
        ended = asyncio.Event()
        watched = os.pidfd_open(pid)
        asyncio.get_running_loop().add_reader(watched, ended.set)
        try:
            await ended.wait()
        finally:
            asyncio.get_running_loop().remove_reader(watched)
            os.close(watched)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])  # noqa: ASYNC222 - it has ended
        out.seek(0)
        err.seek(0)
        return Done(code, out.read().decode(), err.read().decode())


def _command(argv: Sequence[str], out: int, err: int) -> NoReturn:
    """In the fork: as `python -m anycast` does it. Whatever comes of it, the test's process is not gone on with."""
    code: int | str | None = 70
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        os.environ["COLUMNS"] = "200"
        try:
            code = main(list(argv))
        except SystemExit as error:
            code = error.code
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


@contextlib.asynccontextmanager
async def serving(operator: Operator, path: Path, *, behind: bool = False) -> AsyncIterator[None]:
    """The control socket as the agent serves it, and the documents beside it as its ops process does.

    `behind`: what the agent knows does not come.
    """
    control = Control(operator, itertools.count(1).__next__)

    async def reached(_: int, __: float) -> bool:
        return not behind

    async with surface(operator.node, reached) as (local, _):
        await local.listen(bind_unix(path.with_name("ops.sock"), mode=0o660))
        await control.listen(bind_unix(path, mode=0o660))
        try:
            yield
        finally:
            await control.close()


def against(operator: Operator, path: Path, *commands: tuple[str, ...]) -> list[Done]:
    """Run the commands one after the other against an agent."""

    async def run() -> list[Done]:
        async with serving(operator, path):
            return [await cli(*command, "--socket", str(path)) for command in commands]

    return asyncio.run(run())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def node() -> Node:
    return healthy(now=time.monotonic())


def test_the_status_is_tables_for_people(node: Node, path: Path) -> None:
    node.probe("10.9.2.1")
    (done,) = against(Operator(node), path, ("status",))
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith("lb1: anycast ")
    assert lines[0].endswith(", ready")
    rows = [line.split() for line in lines]
    assert ["mail", "192.0.2.2", "yes", "acknowledged", "healthy", "0s"] in rows
    assert [
        "web",
        "tcp/80",
        "rs1",
        "10.9.2.1:80",
        "down",
        "0",
        "0",
        "0",
        "-",
        "-",
        "-",
        "0s",
        "refused",
    ] in rows
    assert ["web", "tcp/80", "rs1", "[fd00:9:2::1]:80", "up", "1", "1", "0", "-", "-", "-", "0s"] in rows
    assert ["10.2.1.254", "up", "0s"] in rows
    assert ["1", "5.0.15", "4711", str(node.state.lease.seq), "0", "valid"] in rows
    assert "\x1b" not in done.out
    assert "MAINTENANCE" not in done.out


def test_the_status_of_a_node_in_trouble_says_what_is_wrong_and_is_an_answer(node: Node, path: Path) -> None:
    node.send(ev.PluginLost(source=1))
    (done,) = against(Operator(node), path, ("status",))
    assert done.code == 0
    assert "not ready\n  no plugin is connected" in done.out
    assert "no plugin connected\n" in done.out
    row = next(line for line in done.out.splitlines() if line.startswith("mail "))
    assert "no plugin is connected" in row


def test_the_status_for_programs_is_the_document(node: Node, path: Path) -> None:
    (done,) = against(Operator(node), path, ("status", "--json"))
    assert json.loads(done.out)["vips"][0]["name"] == "web"


def test_maintenance_on_and_off_say_what_happens_now(path: Path) -> None:
    # The commands are over long before the drain is.
    config = replace(CONFIG, timing=replace(CONFIG.timing, drain=600.0))
    on, again, listed, other, off, nothing = against(
        Operator(healthy(config, now=time.monotonic())),
        path,
        ("maintenance", "on", "--vip", "web", "--reason", "new disks"),
        ("maintenance", "on", "--vip", "web", "--reason", "new disks"),
        ("maintenance", "status"),
        ("maintenance", "status", "--vip", "mail"),
        ("maintenance", "off", "--vip", "web"),
        ("maintenance", "status"),
    )
    assert [done.code for done in (on, again, listed, other, off, nothing)] == [0] * 6
    assert on.out == (
        "VIP web: maintenance on\n"
        "draining: announced as the last resort for 600 s, then withdrawn\n"
        "  web: advertise drain, vip_maintenance\n"
        "saved: it survives a restart of the agent\n"
    )
    first, already, *_ = again.out.splitlines()
    assert first == "VIP web: maintenance already on"
    assert already.startswith("it was so already, by ")
    assert already.endswith(" ago, “new disks”: reason and end are those of now")
    assert listed.out.splitlines()[1].split()[:3] == ["VIP", "web", "draining"]
    assert listed.out.rstrip().endswith("new disks")
    assert other.out == "mail: no maintenance\n"
    assert off.out == "VIP web: maintenance off\n  web: advertise yes, healthy\n"
    assert nothing.out == "no maintenance\n"


def test_ending_one_maintenance_names_those_that_go_on(node: Node, path: Path) -> None:
    _, whole, _ = against(
        Operator(node),
        path,
        ("maintenance", "on", "--vip", "web"),
        ("maintenance", "off"),
        ("maintenance", "off", "--vip", "web"),
    )
    assert whole.out.startswith("node: maintenance already off\n")
    assert "still in maintenance: VIP web (it ends by `anycast maintenance off --vip web`)\n" in whole.out


def test_the_maintenance_of_a_vip_that_is_not_there_is_no_answer(node: Node, path: Path) -> None:
    (done,) = against(Operator(node), path, ("maintenance", "status", "--vip", "wbe"))
    assert (done.code, done.out) == (1, "")
    assert "there is no VIP 'wbe' (did you mean web? configured: web, mail)" in done.err


def test_words_too_many_are_named_with_a_hint(node: Node, path: Path) -> None:
    (done,) = against(Operator(node), path, ("maintenance", "on", "web"))
    assert done.code == 2
    assert (
        "anycast maintenance on: error: unrecognized arguments: web (a VIP is named with --vip)" in done.err
    )
    assert not node.state.maintenance


def test_a_refused_configuration_stands_in_the_status(node: Node, path: Path) -> None:
    node.force = REFUSED
    (done,) = against(Operator(node), path, ("status",))
    assert "the changed configuration was refused, the previous one is in force" in done.out


def test_maintenance_of_the_node_takes_every_vip(node: Node, path: Path) -> None:
    (done,) = against(Operator(node), path, ("maintenance", "on", "--json"))
    answer = json.loads(done.out)
    assert (answer["scope"], [vip["name"] for vip in answer["vips"]]) == ("", ["web", "mail"])


def test_what_was_not_announced_does_not_drain(path: Path) -> None:
    (done,) = against(Operator(Node(now=time.monotonic())), path, ("maintenance", "on"))
    assert "draining" not in done.out
    assert "  web: advertise no, node_maintenance\n" in done.out


def test_maintenance_that_was_not_saved_is_a_negative_answer(node: Node, path: Path) -> None:
    operator = Operator(node)
    operator.save_error = "No space left on device"
    on, off = against(operator, path, ("maintenance", "on"), ("maintenance", "off"))
    assert (on.code, off.code) == (1, 1)
    assert on.err == "not saved: No space left on device (it is in force, but not after a restart)\n"
    assert off.err == "not saved: No space left on device (it has ended, but a restart may bring it back)\n"
    assert "saved:" not in on.out + off.out


def test_an_unknown_vip_is_a_negative_answer_with_the_known_names(node: Node, path: Path) -> None:
    (done,) = against(Operator(node), path, ("maintenance", "on", "--vip", "wbe"))
    assert (done.code, done.out) == (1, "")
    assert done.err == "anycast: there is no VIP 'wbe' (did you mean web? configured: web, mail)\n"


def test_a_reason_the_agent_does_not_take_is_wrong_usage(node: Node, path: Path) -> None:
    (done,) = against(Operator(node), path, ("maintenance", "on", "--reason", "a\nb"))
    assert done.code == 2
    assert "expected one printable line" in done.err


def test_a_reload_prints_its_changes_or_its_problems(node: Node, path: Path) -> None:
    operator = Operator(node)
    (done,) = against(operator, path, ("reload",))
    assert (done.code, done.out) == (0, "vip web: med 100 -> 200\n")
    operator.answer = ReloadAnswer(ok=True, warnings=("anycast.yaml:9:1: pools.web: uneven",))
    (done,) = against(operator, path, ("reload",))
    assert (done.code, done.out) == (0, "nothing has changed\n")
    assert done.err == "warning: anycast.yaml:9:1: pools.web: uneven\n"
    operator.answer = ReloadAnswer(ok=False, problems=("anycast.yaml:4:19: vips.web: wrong (mend it)",))
    (done,) = against(operator, path, ("reload",))
    assert (done.code, done.out) == (78, "")
    assert done.err.splitlines() == [
        "anycast.yaml:4:19: vips.web: wrong (mend it)",
        "not applied: the previous configuration stays in force",
    ]


def test_a_dry_run_shows_routes_services_real_servers_and_sessions(node: Node, path: Path) -> None:
    operator = Operator(node)
    key = ServiceKey(protocol=Protocol.TCP, address=ip_address("192.0.2.1"), port=80)
    servers = (
        ServerChange(server="web/rs1", at=(ip_address("10.9.2.1"), 80), fate=Fate.DRAINS, connections=120),
        ServerChange(server="web/rs5", at=(ip_address("fd00::5"), 80), fate=Fate.ADDED),
    )
    operator.planned = PlanAnswer(
        ok=True,
        changes=("pool web: server rs1 removed", "bgp: neighbor 10.2.1.9 added: ..."),
        warnings=("a warning",),
        plan=Plan(
            routes=(
                RouteChange(
                    prefix=ip_network("192.0.2.9"),
                    vip="old",
                    way=Way.WITHDRAWN,
                    what=("its address is removed",),
                ),
            ),
            services=(
                ServiceChange(
                    key=key, vip="web", service="tcp/80", change="changed", servers=servers, connections=300
                ),
            ),
            sessions=(Session(neighbor="10.2.1.9", change="added"),),
            waits=Waits(who="ExaBGP", how=RELOAD),
        ),
    )
    done, as_json = against(operator, path, ("reload", "--dry-run"), ("reload", "--dry-run", "--json"))
    assert (done.code, done.err) == (10, "warning: a warning\n")
    rows = [" ".join(line.split()) for line in done.out.splitlines()]
    assert rows == [
        "pool web: server rs1 removed",
        "bgp: neighbor 10.2.1.9 added: ...",
        "",
        "ROUTE VIP WOULD BE WHY",
        "192.0.2.9/32 old withdrawn its address is removed",
        "",
        "SERVICE VIP NAME WOULD BE CONNECTIONS",
        "tcp 192.0.2.1:80 web tcp/80 changed 300",
        "",
        "REAL SERVER ADDRESS SERVICE CONNECTIONS WOULD BE",
        "web/rs1 10.9.2.1:80 tcp 192.0.2.1:80 120 drains, and is removed then",
        "web/rs5 [fd00::5]:80 tcp 192.0.2.1:80 0 added: clients once its check is good",
        "",
        "routes: 1 withdrawn, 0 changed, 0 to come",
        "services: 0 removed, 0 added, 1 changed",
        "real servers: 1 go, with 120 established connections; 0 kept until they are replaced, 1 added",
        f"sessions that wait for ExaBGP: neighbor 10.2.1.9 added: {RELOAD}",
    ]
    assert as_json.code == 10
    assert json.loads(as_json.out)["plan"]["counts"]["servers_drains"] == 1


@pytest.mark.parametrize(
    ("sessions", "line"),
    [
        (
            (Session(neighbor="10.2.1.9", change="added"),),
            "sessions that wait for BIRD: neighbor 10.2.1.9 added: it",
        ),
        ((), "BIRD waits for its configuration: it"),
    ],
)
def test_a_dry_run_says_what_bird_waits_for(
    node: Node, path: Path, sessions: tuple[Session, ...], line: str
) -> None:
    operator = Operator(node)
    waits = Waits(who="BIRD", how="it")
    operator.planned = PlanAnswer(ok=True, changes=("a change",), plan=Plan(sessions=sessions, waits=waits))
    done, as_json = against(operator, path, ("reload", "--dry-run"), ("reload", "--dry-run", "--json"))
    assert (done.code, done.out.splitlines()[-1]) == (10, line)
    assert json.loads(as_json.out)["plan"]["waits"] == {"who": "BIRD", "how": "it"}


def test_a_dry_run_says_that_nothing_would_change_and_why_it_would_be_refused(node: Node, path: Path) -> None:
    operator = Operator(node)
    (done,) = against(operator, path, ("reload", "--dry-run", "--allow-removal"))
    assert (done.code, done.out, done.err) == (0, "nothing would change\n", "")
    assert operator.plans[-1].allow_removal
    operator.planned = PlanAnswer(ok=False, problems=("a.yaml:1:1: wrong",))
    (done,) = against(operator, path, ("reload", "--dry-run"))
    assert (done.code, done.out) == (78, "")
    assert done.err == "a.yaml:1:1: wrong\na reload would be refused: nothing would change\n"


def test_what_the_check_has_warned_of_is_not_said_again_by_the_agent(
    node: Node, path: Path, tmp_path: Path
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "bgp: {local_as: 65001, router_id: 10.2.1.1, neighbors: [{address: 10.2.1.254, remote_as: 65000}]}\n"
        "vips: {web: {address: 192.0.2.1, port: 80, check: tcp, servers: [10.9.2.1], local_preference: 50}}\n"
    )
    (warning,) = map(str, load(file).warnings)
    operator = Operator(node)
    operator.planned = PlanAnswer(ok=True, plan=Plan(), warnings=(warning, "another one"))
    (done,) = against(operator, path, ("check", "--against-running", str(file)))
    assert done.err.count("no router is of this node's own AS") == 1
    assert done.err.endswith("warning: another one\n")


@pytest.mark.parametrize("stdin", [False, True])
def test_a_file_is_checked_here_and_compared_with_what_runs(
    node: Node, path: Path, tmp_path: Path, *, stdin: bool
) -> None:
    operator = Operator(node)
    example = Path(__file__).parents[3] / "examples" / "minimal.yaml"
    words = f"{sys.executable} -m anycast check --against-running --socket {path} --json -"
    command = ("sh", "-c", f"{words} <{example}") if stdin else (*words.split()[:-1], str(example))

    async def run() -> tuple[int | None, str]:
        async with serving(operator, path):
            process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            out, _ = await process.communicate()
            return process.returncode, out.decode()

    code, out = asyncio.run(run())
    told = json.loads(out)
    assert (code, told["ok"], told["reload"]["ok"], told["vips"]) == (0, True, True, 1)
    (wish,) = operator.plans
    assert wish.texts is not None
    kept = tmp_path / "kept"
    kept.write_bytes(zlib.decompress(wish.texts))
    assert [data for _, data in contents(kept)] == [example.read_bytes()]


def test_a_reload_says_what_it_wishes_and_what_is_on_trial(node: Node, path: Path) -> None:
    operator = Operator(node)
    plain, allowed, tried = against(
        operator,
        path,
        ("reload",),
        ("reload", "--allow-removal"),
        ("reload", "--confirm-within", "5m", "--allow-removal"),
    )
    assert operator.wishes == [
        ReloadWish(),
        ReloadWish(allow_removal=True),
        ReloadWish(allow_removal=True, confirm_within=300.0),
    ]
    assert (plain.err, allowed.err) == ("", "")
    assert (tried.code, tried.out) == (0, "vip web: med 100 -> 200\n")
    assert tried.err.startswith("on trial: `anycast reload --confirm` within 5m00s keeps it")


@pytest.mark.parametrize(
    ("words", "changes", "warns"),
    [
        ((), ["vip web: service udp/53 added"], True),
        (("--confirm-within", "5m"), ["vip web: service udp/53 added"], True),
        ((), [], False),
        (("--undo",), ["vip web: service udp/53 removed"], False),  # the file has it still
        (("--confirm",), [], False),
    ],
)
def test_a_reload_that_changes_something_asks_whether_the_rules_know_it(
    words: tuple[str, ...],
    changes: list[str],
    warns: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    body = {"ok": True, "changes": changes, "warnings": [], "problems": [], "confirm_s": None}
    monkeypatch.setattr(client, "command", lambda *_, **__: client.Answer(code=200, body=body))
    monkeypatch.setattr(
        rules, "outdated", lambda file, node: iter([f"{file}: render the firewall rules again{node or ''}"])
    )
    monkeypatch.setenv("ANYCAST_CONFIG", "/nowhere.yaml")
    assert main(["reload", *words]) == 0
    said = "warning: /nowhere.yaml: render the firewall rules again\n"
    assert (said in capsys.readouterr().err) == warns


def test_a_trial_is_confirmed_or_undone_once(node: Node, path: Path) -> None:
    operator = Operator(node)
    operator.on_trial = True
    first, again = against(operator, path, ("reload", "--confirm"), ("reload", "--confirm"))
    assert (first.code, first.out) == (0, "confirmed: the configuration stays\n")
    assert (again.code, again.err) == (1, "anycast: there is nothing to confirm\n")
    operator.on_trial = True
    first, again = against(operator, path, ("reload", "--undo"), ("reload", "--undo"))
    assert (first.code, first.out) == (0, "vip web: med 100 -> 200\n")
    assert "undone: the file still has what was undone" in first.err
    assert (again.code, again.err) == (1, "anycast: there is no configuration to go back to\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--confirm", "--undo"), "not allowed with argument"),
        (("--confirm", "--allow-removal"), "--allow-removal goes with a reload"),
        (("--confirm-within", "0"), "confirm-within"),
        (("--confirm-within", "2d"), "expected from one second to 24 hours"),
    ],
)
def test_a_wish_that_means_nothing_is_wrong_usage(
    node: Node, path: Path, words: tuple[str, ...], said: str
) -> None:
    operator = Operator(node)
    (done,) = against(operator, path, ("reload", *words))
    assert (done.code, operator.wishes) == (2, [])
    assert said in done.err


def test_the_socket_is_found_through_the_configuration(node: Node, tmp_path: Path) -> None:
    file = tmp_path / "anycast.yaml"
    file.write_text(
        f"node: {{runtime_dir: {tmp_path}}}\n"
        "bgp: {local_as: 65001, router_id: 10.2.1.1, neighbors: [{address: 10.2.1.254, remote_as: 65000}]}\n"
        "vips: {web: {address: 192.0.2.1, port: 80, servers: [10.9.2.1]}}\n"
    )

    async def run() -> Done:
        async with serving(Operator(node), tmp_path / "control.sock"):
            return await cli("status", "--config", str(file))

    assert asyncio.run(run()).code == 0


def unreachable(path: Path, *, timeout: float = 5.0) -> str:
    with pytest.raises(client.UnreachableError) as error:
        client.ask(path, "GET", "/status", timeout=timeout)
    return str(error.value)


def test_no_socket_is_said_with_what_to_do(path: Path) -> None:
    done = asyncio.run(cli("status", "--socket", str(path)))
    assert (done.code, done.out) == (3, "")
    assert done.err == (
        f"anycast: no agent answers at {path}: "
        "no such socket (start the agent, or name its socket with --socket or --config)\n"
    )


def test_a_socket_nobody_listens_at_is_said(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert "nothing listens there any more" in unreachable(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to be refused")
def test_a_socket_of_others_is_said(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        path.chmod(0o600)
        os.seteuid(65534)
        try:
            assert "permission denied (run this as root" in unreachable(path)
        finally:
            os.seteuid(0)


def test_an_agent_that_hangs_is_said(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()  # connects through the backlog, never answered
        assert "no answer within 0.05 s" in unreachable(path, timeout=0.05)


def test_a_busy_agent_is_asked_again(path: Path) -> None:
    """It says so before it has read the question, and hangs up."""
    body = b'{"error": "busy; try again"}\n'
    busy = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )
    asked: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        for answer in (busy, busy, b'HTTP/1.0 200 OK\r\n\r\n{"ok": true}'):
            connection, _ = listener.accept()
            with connection:
                connection.sendall(answer)
                if b"200" in answer:
                    asked.append(connection.recv(1000))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        answer = client.command(path, "/reload", {"text": "x" * 300_000})
        thread.join()
    assert answer.body == {"ok": True}
    assert asked


def test_who_finds_the_queue_full_waits_for_a_place(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(path))
            assert "no answer within 0.1 s" in unreachable(path, timeout=0.1)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "it closed the connection"),
        (b"HELLO\r\n", "not an agent of this version"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "not an agent of this version"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "not an agent of this version"),
    ],
)
def test_what_does_not_speak_as_an_agent_is_said(said: bytes, why: str, path: Path) -> None:
    async def run() -> str:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_unix_server(answer, str(path)):
            return await asyncio.to_thread(unreachable, path)

    assert why in asyncio.run(run())


def test_a_path_too_long_for_a_socket_is_said(tmp_path: Path) -> None:
    assert "too long" in unreachable(tmp_path / ("x" * 120))


def test_without_an_ops_process_the_agent_itself_says_how_it_is(
    node: Node, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "OPS_TIME", 0.0)

    async def run() -> str:
        control = Control(Operator(node), lambda: 1)
        await control.listen(bind_unix(path, mode=0o600))
        try:
            with pytest.raises(client.UnreachableError) as unreachable:
                await asyncio.to_thread(client.read, path, "/status")
        finally:
            await control.close()
        return str(unreachable.value)

    said = asyncio.run(run())
    assert said.startswith(f"the ops process does not answer at {path.with_name('ops.sock')}: no such socket")
    assert said.endswith("; the agent says: announcing 2 of 2 VIPs")


def test_what_is_asked_for_and_does_not_come_is_told(node: Node, path: Path) -> None:
    async def run() -> Done:
        async with serving(Operator(node), path, behind=True):
            return await cli("status", "--socket", str(path))

    done = asyncio.run(run())
    assert (done.code, done.out) == (1, "")
    assert "the agent's newest facts have not come within 5 s" in done.err
