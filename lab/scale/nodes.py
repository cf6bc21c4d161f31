"""A node of one build that runs on the loopback: the agent, the plugin, and what stands in for ExaBGP."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.measuring import cpu_time
from lab.scale.builds import Build

PATIENCE = 240.0  # seconds until an agent announces everything; longer counts as never
_TICK = os.sysconf("SC_CLK_TCK")


class NeverError(Exception):
    """What was waited for did not come about in the time there was."""


@dataclass
class Tap:
    """Between the plugin and the agent: passes on what they say, and when each lease came.

    It knows of the protocol only that a message is a line, so it is the same for every build.
    """

    agent: Path
    place: Path
    leases: list[tuple[float, int]] = field(default_factory=list)  # instant, bytes

    def __post_init__(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.place))
        self._listener.listen()
        self._stopped, self._stopper = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stopper.send(b".")
        self._thread.join()
        for one in (self._listener, self._stopped, self._stopper):
            one.close()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as sockets:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._stopped, selectors.EVENT_READ)
            peers: dict[socket.socket, tuple[socket.socket, bytearray | None]] = {}
            while True:
                for key, _ in selector.select():
                    one = key.fileobj
                    assert isinstance(one, socket.socket)
                    if one is self._stopped:
                        return
                    if one is self._listener:
                        plugin, agent = one.accept()[0], socket.socket(socket.AF_UNIX)
                        sockets.enter_context(plugin)
                        sockets.enter_context(agent)
                        try:
                            agent.connect(str(self.agent))
                        except OSError:
                            plugin.close()
                            continue
                        peers[plugin], peers[agent] = (agent, None), (plugin, bytearray())
                        selector.register(plugin, selectors.EVENT_READ)
                        selector.register(agent, selectors.EVENT_READ)
                    elif one in peers and not self._pass(one, *peers[one]):
                        other = peers.pop(one)[0]
                        peers.pop(other, None)
                        for end in (one, other):
                            with contextlib.suppress(KeyError, ValueError):
                                selector.unregister(end)
                            end.close()

    def _pass(self, one: socket.socket, other: socket.socket, line: bytearray | None) -> bool:
        """False: the connection is over."""
        try:
            data = one.recv(1 << 20)
            other.sendall(data)
        except OSError:
            return False
        if line is not None:
            arrived = time.monotonic()
            *whole, rest = (bytes(line) + data).split(b"\n")
            line[:] = rest
            self.leases += [(arrived, len(text)) for text in whole if b'"lease' in text[:200]]
        return bool(data)

    def pauses(self, since: float, until: float) -> list[float]:
        """Seconds between two leases of this span of time; its end counts as one."""
        times = [*(arrived for arrived, _ in self.leases if since <= arrived <= until), until]
        return [after - before for before, after in itertools.pairwise(times)]


class Routes:
    """What the stand-in for ExaBGP tells."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.plugin = int(process.stdout.readline())
        self.history: list[tuple[float, int, int]] = []  # instant, announced, withdrawn so far
        self._lines = process.stdout
        self._changed = threading.Condition()
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        for line in self._lines:
            at, count, withdrawn = line.split()
            with self._changed:
                self.history.append((float(at), int(count), int(withdrawn)))
                self._changed.notify_all()

    @property
    def now(self) -> tuple[int, int]:
        """Announced, and withdrawn so far."""
        return self.history[-1][1:] if self.history else (0, 0)

    def wait(self, count: int, patience: float, since: float = 0.0) -> float:
        """The instant, not before `since`, from which on `count` routes are announced. Raises NeverError."""

        def found() -> float | None:
            return next((at for at, now, _ in self.history if at >= since and now == count), None)

        with self._changed:
            at = self._changed.wait_for(found, patience)
        if at is None:
            raise NeverError(f"{self.now[0]} and not {count} routes are announced after {patience:g} s")
        return at


@dataclass
class Node:
    """While it runs. `agent`: its process id."""

    build: Build
    directory: Path
    agent: int
    started: float  # the instant of the exec
    tap: Tap
    routes: Routes

    def ask(self, line: str) -> dict[str, Any]:
        return asked(self.directory / "watch.sock", line)

    def log(self, event: str) -> list[dict[str, Any]]:
        """What the agent has logged of one kind."""
        return logged(self.directory / "agent.log", event)

    @property
    def ops(self) -> int | None:
        """The process that answers HTTP, where it is not the agent itself."""
        return next((pid for pid in children(self.agent) if _name(pid) == "anycast-ops"), None)


def asked(place: Path, line: str) -> dict[str, Any]:
    """What the program says that watches an agent from within."""
    with socket.socket(socket.AF_UNIX) as end:
        end.connect(str(place))
        with end.makefile("rw") as file:
            file.write(line + "\n")
            file.flush()
            found = json.loads(file.readline())
    assert isinstance(found, dict)
    return found


def logged(path: Path, event: str) -> list[dict[str, Any]]:
    lines = path.read_text("utf-8", "replace").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{") and f'"{event}"' in line]


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def ended_children(pid: int) -> float:
    """CPU seconds of the processes it has had and waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / _TICK


def cpu_with_children(pid: int) -> float:
    return cpu_time(pid) + ended_children(pid)


@contextlib.contextmanager
def node(
    build: Build,
    directory: Path,
    yaml: str,
    vips: Sequence[str],
    *,
    checked: bool = False,
    before: Sequence[str] = (),
) -> Iterator[Node]:
    """Agent, plugin and the stand-in for ExaBGP. `before`: the words the agent is started with."""
    directory.mkdir(parents=True)
    config = directory / "anycast.yaml"
    config.write_text(yaml)
    env = build.environment()
    argv = [*before, *build.program("watched_agent.py", str(directory / "watch.sock"))]
    argv += [*(["--checked"] if checked else []), "agent", "--config", str(config)]
    with contextlib.ExitStack() as stack:
        tap = Tap(directory / "lease.sock", directory / "tap.sock")
        stack.callback(tap.close)
        own = [word for vip in vips for word in ("--own", f"{vip}/32")]
        plugin = build.anycast(
            "announce", "--socket", str(tap.place), "--journal", str(directory / "journal"), *own
        )
        fake = [sys.executable, "-I", "-S", str(Path(__file__).with_name("fake_exabgp.py")), *plugin]
        log = stack.enter_context((directory / "agent.log").open("wb"))
        errors = stack.enter_context((directory / "plugin.log").open("wb"))
        exabgp = subprocess.Popen(
            fake, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        stack.callback(_end, exabgp)
        routes = Routes(exabgp)
        started = time.monotonic()
        agent = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        stack.callback(_end, agent)
        yield Node(build=build, directory=directory, agent=agent.pid, started=started, tap=tap, routes=routes)


def _end(process: subprocess.Popen[Any]) -> None:
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5.0)
    process.kill()
    process.wait()
