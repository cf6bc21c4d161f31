"""The service manager's part for whoever tries the lab: what ends is started again, as its systemd unit says.

Programs on a balancer are ruled by the units of the package; the router's by FRR's own watchfrr, which starts again
what ends. Fault scenarios and tests run without it: they decide themselves what is started again.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lab.control import What
from lab.errors import LabError
from lab.processes import Process
from lab.topology import RUN, Role

if TYPE_CHECKING:
    from lab.control import Lab

PLACE = Path(RUN, "supervisor")
SOCKET = PLACE / "sock"
UNITS = Path(__file__).resolve().parent.parent / "packaging" / "systemd"
_UNITS: dict[What, str] = {"agent": "anycast-agent.service", "exabgp": "anycast-exabgp.service"}
_UNIT_OF_TIME = {"ms": 0.001, "": 1.0, "s": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Whether and when a program that has ended is started again. `delay`: seconds."""

    always: bool
    delay: float
    final: frozenset[int]  # exit statuses it is left with

    def restarts(self, status: int | None) -> bool:
        """`status`: the exit status, negative for a signal, None where it is not known."""
        return status not in self.final and (self.always or status != 0)


WATCHFRR = Policy(always=True, delay=1.0, final=frozenset())


def policy(unit: str) -> Policy:
    """What the text of a systemd unit says about it. Raises ValueError where it is said otherwise than we read it."""
    parser = configparser.RawConfigParser(strict=False, delimiters="=", comment_prefixes="#")
    parser.read_string(unit)
    service = parser["Service"]
    restart = service.get("Restart", "no")
    delay = re.fullmatch(r"([\d.]+)(ms|s|)", service.get("RestartSec", "100ms"))
    if restart not in ("always", "on-failure") or delay is None:
        raise ValueError(f"Restart={restart}, RestartSec={service.get('RestartSec')}: unknown to the lab")
    final = frozenset(int(word) for word in service.get("RestartPreventExitStatus", "").split())
    seconds = float(delay[1]) * _UNIT_OF_TIME[delay[2]]
    return Policy(always=restart == "always", delay=seconds, final=final)


def policies() -> dict[What, Policy]:
    """Of every program that is looked after."""
    units = {what: policy((UNITS / name).read_text()) for what, name in _UNITS.items()}
    return units | dict.fromkeys(("zebra", "bgpd", "bfdd"), WATCHFRR)


@dataclass(slots=True)
class Ward:
    """A program that is to run. `status`: of its last end."""

    process: Process
    starts: int = 1
    status: int | None = None
    ended: bool = False
    due: float | None = None  # monotonic


class Supervisor:
    """Use `serve`. `start` starts a program, and raises LabError when it cannot."""

    def __init__(
        self,
        start: Callable[[str, What], Process],
        policies: Mapping[What, Policy],
        *,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = print,
    ) -> None:
        self._start = start
        self._policies = policies
        self._clock = clock
        self._say = say
        self._selector = selectors.DefaultSelector()
        self._wards: dict[tuple[str, What], Ward] = {}

    def adopt(self, node: str, what: What, process: Process) -> None:
        """Looks after a program that runs already."""
        self._watch(node, what, Ward(process))

    def serve(self, listener: socket.socket) -> None:
        """For ever: answers who connects to `listener`, and starts again what ends."""
        self._selector.register(listener, selectors.EVENT_READ)
        while True:
            self.turn()

    def turn(self) -> None:
        """Waits for the next thing that happens, and deals with it."""
        dues = [ward.due for ward in self._wards.values() if ward.due is not None]
        patience = max(0.0, min(dues) - self._clock()) if dues else None
        for key, _ in self._selector.select(patience):
            if isinstance(key.fileobj, socket.socket):
                self._answer(key.fileobj.accept()[0])
            else:
                self._ended(*key.data)
        for (node, what), ward in list(self._wards.items()):
            if ward.due is not None and ward.due <= self._clock():
                self._again(node, what, ward)

    def _answer(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError, ValueError, KeyError):
            sock.settimeout(5.0)
            with sock.makefile("rw") as stream:
                answer = self.do(json.loads(stream.readline()))
                stream.write(json.dumps(answer) + "\n")

    def do(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Carries out a request: `start` or `forget` a program, or `list` them all."""
        if asked["do"] == "list":
            return {"wards": [_words(*key, ward) for key, ward in self._wards.items()]}
        node, what = asked["node"], asked["what"]
        if asked["do"] == "forget":
            self._forget(node, what)
            return {}
        ward = self._wards.get((node, what))
        if ward is not None and not ward.ended:
            return {"error": f"{what} on {node} runs already"}
        try:
            process = self._start(node, what)
        except (LabError, OSError) as error:
            return {"error": str(error)}
        self._watch(node, what, Ward(process))
        return {}

    def _watch(self, node: str, what: What, ward: Ward) -> None:
        self._wards[node, what] = ward
        try:
            fd = os.pidfd_open(ward.process.pid)
        except ProcessLookupError:
            self._over(node, what, ward)
            return
        self._selector.register(fd, selectors.EVENT_READ, (node, what, ward, fd))

    def _ended(self, node: str, what: What, ward: Ward, fd: int) -> None:
        self._selector.unregister(fd)
        os.close(fd)
        with contextlib.suppress(ChildProcessError):  # not ours: adopted
            pid, status = os.waitpid(ward.process.pid, os.WNOHANG)
            ward.status = os.waitstatus_to_exitcode(status) if pid else None
        self._over(node, what, ward)

    def _over(self, node: str, what: What, ward: Ward) -> None:
        ward.ended = True
        if self._wards.get((node, what)) is not ward:
            return
        rule = self._policies[what]
        how = "ended" if ward.status is None else f"ended {ending(ward.status)}"
        if rule.restarts(ward.status):
            ward.due = self._clock() + rule.delay
            self._say(f"{what} on {node} {how}: started again in {rule.delay:g} s")
        else:
            self._say(f"{what} on {node} {how}: left so, as its unit says")

    def _again(self, node: str, what: What, ward: Ward) -> None:
        try:
            process = self._start(node, what)
        except (LabError, OSError) as error:
            self._say(f"{what} on {node} cannot be started: {error}")
            ward.due = self._clock() + max(1.0, self._policies[what].delay)
            return
        self._watch(node, what, Ward(process, starts=ward.starts + 1, status=ward.status))

    def _forget(self, node: str, what: What) -> None:
        ward = self._wards.pop((node, what), None)
        if ward is not None:
            ward.due = None


def ending(status: int) -> str:
    """An exit status in words."""
    return f"with status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"


def _words(node: str, what: What, ward: Ward) -> dict[str, Any]:
    return {"node": node, "what": what, "starts": ward.starts, "status": ward.status, "ended": ward.ended}


def ask(**request: str) -> dict[str, Any] | None:
    """What the site's supervisor answers; None: it has none. Raises LabError with what it says is wrong."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(SOCKET))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        with sock.makefile("rw") as stream:
            stream.write(json.dumps(request) + "\n")
            stream.flush()
            said: dict[str, Any] = json.loads(
                stream.readline() or '{"error": "the lab\'s supervisor has ended"}'
            )
    if "error" in said:
        raise LabError(said["error"])
    return said


def supervised(what: str) -> bool:
    """Whether a program is looked after where there is a supervisor."""
    return what in (*_UNITS, "zebra", "bgpd", "bfdd")


def run(lab: Lab) -> None:
    """Looks after the site that stands, and after what is started later. Does not return."""
    from anycast.config.problem import ConfigError  # takes a while in the lab's kernel

    def start(node: str, what: What) -> Process:
        if (
            what == "exabgp"
        ):  # ExecStartPre of its unit: with mistakes in the file what was written last counts
            with contextlib.suppress(ConfigError):
                lab.render(node)
        return lab.start(node, what)

    PLACE.mkdir(exist_ok=True)
    (PLACE / "supervisor.pid").write_text(f"{os.getpid()} {Process.of(os.getpid()).started}\n")
    keeper = Supervisor(start, policies(), say=lambda text: print(text, flush=True))
    for node in lab.topology.nodes:
        for what in get_args(What):
            if node.role in (Role.ROUTER, Role.BALANCER) and supervised(what):
                process = lab.process(node.name, what)
                if process is not None and process.alive():
                    keeper.adopt(node.name, what, process)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(SOCKET))
        listener.listen(64)
        keeper.serve(listener)
