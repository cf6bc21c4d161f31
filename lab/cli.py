"""The lab's command line."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from lab import coming_up, machine, places, publish
from lab.configs import checkout, node_environment, program_environment
from lab.control import What
from lab.errors import LabError
from lab.keeper import Keeper
from lab.machine import Place
from lab.topology import RUN, Topology, topology
from lab.wire import Frame, Kind, encode

if TYPE_CHECKING:
    from lab.control import Lab

_SELF = [sys.executable, "-m", "lab"]
LOGS = Path(os.environ.get("ANYCAST_LAB_LOGS") or checkout() / "build" / "lab")
NEXT = """\
Try:
  lab/lab exec lb1 anycast status
  lab/lab exec lb1 anycast maintenance on --reason "trying it" --wait
  lab/lab exec r1 ip route show 192.0.2.1    # lb1 is in it no more
  lab/lab exec lb1 anycast maintenance off
  lab/lab exec lb1                           # a prompt on the node
  lab/lab kill lb2 agent                     # a crash; the lab starts it again, as systemd does
  lab/lab stop lb3 agent                     # `lab/lab start lb3 agent` brings it back
  make lab-down                              # the end; logs stay in build/lab
"""


def main(argv: list[str] | None = None) -> int:
    """Runs one verb; returns the exit status, for `exec` and `run` the command's own."""
    options = _parser().parse_args(argv)
    try:
        status: int = options.act(options)
        sys.stdout.flush()
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    up = verbs.add_parser("up", help="boot, build the site and leave it running")
    up.set_defaults(act=_up)
    down = verbs.add_parser("down", help="end it; no trace is left")
    down.set_defaults(act=_down)
    status = verbs.add_parser("status", help="what runs, and where the router sends the VIPs")
    status.set_defaults(act=_status)
    run = verbs.add_parser("run", help="one command in a fresh lab kernel; its exit status is ours")
    run.add_argument("--topology", action="store_true", help="build the site first")
    run.add_argument("--timeout", type=float, metavar="SECONDS", help="end everything then, with status 124")
    run.set_defaults(act=_run)
    for verb in (up, run):
        verb.add_argument("--balancers", type=int, default=3, metavar="N")
        verb.add_argument("--servers", type=int, default=4, metavar="N")
        verb.add_argument("--no-daemons", action="store_true", help="no ExaBGP and no agent on the balancers")
    run.add_argument("command", nargs="+", metavar="CMD")

    start = verbs.add_parser("start", help="start a program of a node; of the agent, until it listens")
    stop = verbs.add_parser("stop", help="end a program; it stays so until it is started")
    restart = verbs.add_parser("restart", help="both, one after the other")
    kill = verbs.add_parser(
        "kill",
        help="send a program a signal; on balancers and router what ends is started again, as systemd does",
    )
    for verb in (start, stop, restart, kill):
        verb.add_argument("node", metavar="NODE")
        verb.add_argument("what", choices=get_args(What), metavar="WHAT", help=", ".join(get_args(What)))
        verb.set_defaults(act=_daemon, signal="KILL")
    kill.add_argument("-s", dest="signal", default="KILL", metavar="SIGNAL", help="default: KILL")

    execute = verbs.add_parser("exec", help="a command, or a shell, on a node of the running site")
    execute.add_argument("node", metavar="NODE", help="cl, r1, lb1 …, rs1 …")
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="CMD")
    execute.set_defaults(act=_exec)
    clab = verbs.add_parser("clab", help="the site for containerlab")
    clab.add_argument(
        "--write", action="store_true", help="write the files in lab/; else only say what differs"
    )
    clab.set_defaults(act=_clab)
    which = verbs.add_parser("which", help="which kernel the lab uses here, and why")
    which.set_defaults(act=_which)

    build = verbs.add_parser("_build")  # inside the lab's kernel
    build.add_argument("--balancers", type=int, default=3)
    build.add_argument("--servers", type=int, default=4)
    build.add_argument("--no-daemons", action="store_true")
    build.add_argument("--logs", type=Path, metavar="DIR", help="keep them there, and start again what ends")
    build.set_defaults(act=_build)
    inside = verbs.add_parser("_status")
    inside.set_defaults(act=_status_inside)
    look_after = verbs.add_parser("_supervise")
    look_after.set_defaults(act=_supervise)
    keep = verbs.add_parser("_keep")  # the process that holds the kernel of `up`
    keep.add_argument("--balancers", type=int, default=3)
    keep.set_defaults(act=_keep)
    return parser


def _build_argv(options: argparse.Namespace) -> list[str]:
    size = ["--balancers", str(options.balancers), "--servers", str(options.servers)]
    return [*_SELF, "_build", *size, *(["--no-daemons"] if options.no_daemons else [])]


def _run(options: argparse.Namespace) -> int:
    before = [_build_argv(options)] if options.topology else []
    status = machine.run(options.command, timeout=options.timeout, before=before, env=_environment())
    if options.topology and machine.choose().place is Place.INSIDE:
        _lab().down()
    return status


def _which(_: argparse.Namespace) -> int:
    print(machine.choose().reason)
    return 0


def _up(options: argparse.Namespace) -> int:
    topology(options.balancers, options.servers)
    choice = machine.choose()
    if choice.place is Place.INSIDE:
        return _build(options)
    folder = _folder()
    if _connect() is not None:
        raise LabError("lab: it is up already: `make lab-down` ends it")
    print(choice.reason, flush=True)
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    line = _boot(options, folder)
    site = {"balancers": options.balancers, "servers": options.servers}
    (folder / "site.json").write_text(json.dumps(site))
    argv = [*_build_argv(options), "--logs", str(LOGS)]
    try:
        with line:
            status = machine.attach(line, argv, env=_environment(), stdin=-1)
    except BaseException:
        _down(options)
        raise
    if status:
        print(
            f"lab: it stays as it is, to look at; `make lab-down` ends it. Logs: {_short(LOGS)}",
            file=sys.stderr,
        )
        return status
    print("lab: up. Pages:", flush=True)
    for node, address in _addresses(folder).items():
        print(f"  {address}  {node}")
    print(NEXT, end="", flush=True)
    return 0


def _boot(options: argparse.Namespace, folder: Path) -> socket.socket:
    """Starts the process that holds the lab's kernel; returns a line to it. Raises LabError with what it said."""
    log = LOGS / "kernel.log"
    with log.open("wb") as output:
        keeper = subprocess.Popen(
            [*_SELF, "_keep", "--balancers", str(options.balancers)], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=output, start_new_session=True, env=_environment(),
        )  # fmt: skip
    assert keeper.stdout is not None
    said = keeper.stdout.readline()
    keeper.stdout.close()
    line = _connect()
    if not said or line is None:
        keeper.wait()
        _tidy(folder)
        text = log.read_text("utf-8", "replace").strip()
        raise LabError(f"{text}\nlab: its kernel did not start: read {_short(log)}")
    return line


def _keep(options: argparse.Namespace) -> int:
    folder = _folder()
    nodes = [balancer.name for balancer in topology(options.balancers).balancers]
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with (
            machine.Machine.start(machine.choose(), [str(LOGS)]) as kernel,
            socket.socket(socket.AF_UNIX) as listener,
        ):
            path = folder / "sock"
            path.unlink(missing_ok=True)
            listener.bind(str(path))
            listener.listen(64)
            pages = publish.listeners(nodes)
            (folder / "pages.json").write_text(json.dumps(publish.addresses(pages)))
            publish.serve(pages, _connect)
            os.write(1, b"up\n")
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            try:
                Keeper(kernel.line, listener).serve()
            finally:
                path.unlink(missing_ok=True)
    return 0


def _addresses(folder: Path) -> dict[str, str]:
    """Where the pages of the balancers are on this machine, by node."""
    found: dict[str, str] = json.loads((folder / "pages.json").read_text())
    return found


def _down(_: argparse.Namespace) -> int:
    if machine.choose().place is Place.INSIDE:
        _lab().down()
        return 0
    folder = _folder()
    line = _connect()
    if line is not None:
        with line:
            line.sendall(encode(Frame(0, Kind.POWEROFF)))
            while line.recv(65536):
                pass
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the keeper holds it until the kernel is gone
        _tidy(folder)
    return 0


def _tidy(folder: Path) -> None:
    for name in ("sock", "site.json", "pages.json", "lock"):
        (folder / name).unlink(missing_ok=True)
    folder.rmdir()


def _short(path: Path) -> str:
    """As it is called from here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _exec(options: argparse.Namespace) -> int:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    shell = ["bash", "--norc", "--noprofile", *(["-i"] if terminal else [])]
    here = ["sh", "-c", 'cd "$0" 2>/dev/null; exec "$@"', str(Path.cwd())]
    argv = [*places.enter(options.node), *here, *(command or shell)]
    env = _environment() | node_environment(options.node)
    env |= {"PS1": f"{options.node}# ", "PATH": f"{RUN}/bin:{os.environ.get('PATH', '/usr/bin:/bin')}"}
    inside = machine.choose().place is Place.INSIDE
    line = None if inside else _connect()
    if not inside and line is None:
        raise LabError("lab: it is not up: python -m lab up")
    site = Path(RUN) if inside else _folder()
    names = [node.name for node in topology(**json.loads((site / "site.json").read_text())).nodes]
    if options.node not in names:
        raise LabError(f"lab: no node {options.node!r}: there are {', '.join(names)}")
    if line is None:
        os.execvpe(argv[0], argv, env)  # noqa: S606
    with line:
        return machine.attach(line, argv, env=env, terminal=terminal)


def _daemon(options: argparse.Namespace) -> int:
    if machine.choose().place is Place.INSIDE:
        with _lab() as lab:
            return _daemon_inside(lab, options)
    line = _connect()
    if line is None:
        raise LabError("lab: it is not up: make lab")
    more = ["-s", options.signal] if options.verb == "kill" else []
    with line:
        argv = [*_SELF, options.verb, options.node, options.what, *more]
        return machine.attach(line, argv, env=_environment(), stdin=-1)


def _daemon_inside(lab: Lab, options: argparse.Namespace) -> int:
    from lab import supervisor

    node, what = options.node, options.what
    looked_after = supervisor.supervised(what)
    if options.verb == "kill":
        lab.kill(node, what, signal.Signals[f"SIG{options.signal}"])
        if looked_after and supervisor.ask(do="list") is not None:
            print(
                f"lab: if {what} ends, it is started again, as systemd does; `lab/lab stop {node} {what}` keeps it out"
            )
        return 0
    if options.verb in ("stop", "restart"):
        if looked_after:
            supervisor.ask(do="forget", node=node, what=what)
        lab.stop(node, what)
    if options.verb in ("start", "restart"):
        if not looked_after or supervisor.ask(do="start", node=node, what=what) is None:
            lab.start(node, what)
        if what == "agent":
            return _come_up(lab, lambda: coming_up.listening(lab, node))
    return 0


def _come_up(lab: Lab, look: Callable[[], dict[str, coming_up.Look]]) -> int:
    """Waits; says in a sentence each what has not come up."""
    logs = {balancer.name: lab.log(balancer.name, "agent").parent for balancer in lab.topology.balancers}
    lacking = coming_up.wait(look)
    for node, seen in lacking.items():
        log = logs[node] / f"{seen.log}.log"
        print(f"lab: {node} has not come up: {seen.lack}. Read {_short(log.resolve())}", file=sys.stderr)
    return 1 if lacking else 0


def _status(options: argparse.Namespace) -> int:
    if machine.choose().place is Place.INSIDE:
        return _status_inside(options)
    line = _connect()
    if line is None:
        print("lab: not up")
        return 1
    with line:
        status = machine.attach(line, [*_SELF, "_status"], env=_environment(), stdin=-1)
    for node, address in _addresses(_folder()).items():
        print(f"{node:5} {address}")
    return status


def _status_inside(_: argparse.Namespace) -> int:
    with _lab() as lab:
        for name, daemons in lab.status().items():
            words = [f"{what} {'runs' if alive else 'DOWN'}" for what, alive in daemons.items()]
            print(f"{name:5} {', '.join(words) or '-'}")
        for vip, nodes in lab.router_routes().items():
            print(f"{vip} via {', '.join(nodes) or 'nothing'}")
    return 0


def _build(options: argparse.Namespace) -> int:
    with _lab(topology(options.balancers, options.servers)) as lab:
        if options.no_daemons:
            lab.build(daemons=False)
            return 0
        logs = getattr(options, "logs", None)
        lab.build(daemons=logs is None, logs=logs)
        if logs is not None:
            _start_supervised(lab, logs)
        print("lab: built; waiting until every balancer announces the VIPs", flush=True)
        return _come_up(lab, lambda: coming_up.announcing(lab))


def _start_supervised(lab: Lab, logs: Path) -> None:
    from lab import supervisor

    with (logs / "supervisor.log").open("ab") as output:
        process = subprocess.Popen(
            [*_SELF, "_supervise"], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True, env=_environment(),
        )  # fmt: skip
    while not supervisor.SOCKET.exists():
        if process.poll() is not None:
            raise LabError(f"lab: its supervisor has ended: read {_short(logs / 'supervisor.log')}")
        time.sleep(0.05)
    for balancer in lab.topology.balancers:
        for what in ("exabgp", "agent"):
            supervisor.ask(do="start", node=balancer.name, what=what)


def _supervise(_: argparse.Namespace) -> int:
    from lab import supervisor

    with _lab() as lab:
        supervisor.run(lab)
    return 0


def _clab(options: argparse.Namespace) -> int:
    from lab import clab

    changed = clab.differing()
    for path in changed:
        print(path.relative_to(clab.HERE))
    if options.write:
        clab.write()
        return 0
    return 1 if changed else 0


def _lab(site: Topology | None = None) -> Lab:
    from lab.control import Lab

    return Lab(site)


def _environment() -> dict[str, str]:
    """Ours, with this checkout importable wherever the command is run."""
    return program_environment()


def _folder() -> Path:
    """Where `up` leaves its socket: a directory of this user's alone."""
    folder = Path(tempfile.gettempdir(), f"anycast-lab-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.is_symlink():
        raise LabError(f"lab: {folder} belongs to somebody else: remove it, or set TMPDIR")
    return folder


def _connect() -> socket.socket | None:
    line = socket.socket(socket.AF_UNIX)
    try:
        line.connect(str(_folder() / "sock"))
    except (FileNotFoundError, ConnectionRefusedError):
        line.close()
        return None
    return line
