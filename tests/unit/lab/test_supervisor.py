from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import supervisor
from lab.errors import LabError
from lab.processes import Process
from lab.supervisor import UNITS, Policy, Supervisor, policy
from tests.unit.lab.programs import program

AGENT = Policy(always=True, delay=0.0, final=frozenset({78}))


_started: list[Process] = []


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    yield
    while _started:
        process = _started.pop()
        with contextlib.suppress(ProcessLookupError):
            process.send(signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, 0)


class Site:
    """One supervisor whose programs are commands of ours, one after the other."""

    def __init__(self, *commands: str) -> None:
        self.commands = list(commands)
        self.started = 0
        self.processes: list[Process] = []
        self.said: list[str] = []
        self.now = 0.0
        self.supervisor = Supervisor(
            self._start, {"agent": AGENT}, clock=lambda: self.now, say=self.said.append
        )

    def _start(self, node: str, what: str) -> Process:
        if not self.commands:
            raise LabError("no more")
        self.started += 1
        self.processes.append(program(self.commands.pop(0)))
        _started.append(self.processes[-1])
        return self.processes[-1]

    def do(self, what: str) -> dict[str, Any]:
        return self.supervisor.do({"do": what, "node": "lb1", "what": "agent"})

    def ward(self) -> dict[str, Any]:
        (ward,) = self.do("list")["wards"]
        return dict(ward)


def test_the_units_of_the_package_are_understood() -> None:
    agent = policy((UNITS / "anycast-agent.service").read_text())
    assert agent == Policy(always=True, delay=0.2, final=frozenset({78}))
    exabgp = policy((UNITS / "anycast-exabgp.service").read_text())
    assert exabgp == Policy(always=True, delay=1.0, final=frozenset({78}))


def test_a_unit_that_says_what_the_lab_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="Restart=on-watchdog"):
        policy("[Service]\nRestart=on-watchdog\n")


@pytest.mark.parametrize(
    ("rule", "status", "again"),
    [
        (AGENT, 0, True),
        (AGENT, -9, True),
        (AGENT, None, True),
        (AGENT, 78, False),
        (Policy(always=False, delay=1, final=frozenset()), 0, False),
        (Policy(always=False, delay=1, final=frozenset()), 1, True),
    ],
)
def test_what_ends_is_started_again_as_its_unit_says(
    rule: Policy, status: int | None, *, again: bool
) -> None:
    assert rule.restarts(status) is again


def test_a_program_that_ends_is_started_again() -> None:
    site = Site("kill -9 $$", "exec sleep 1000")
    site.do("start")
    site.supervisor.turn()
    assert site.started == 2
    assert site.ward() == {"node": "lb1", "what": "agent", "starts": 2, "status": -9, "ended": False}
    assert site.said == ["agent on lb1 ended by SIGKILL: started again in 0 s"]


def test_a_status_the_unit_names_is_final_and_told() -> None:
    site = Site("exit 78", "exec sleep 1000")
    site.do("start")
    site.supervisor.turn()
    assert (site.started, site.ward()["status"], site.ward()["ended"]) == (1, 78, True)
    assert site.said == ["agent on lb1 ended with status 78: left so, as its unit says"]
    assert site.do("start") == {}


def test_a_program_that_was_stopped_stays_so() -> None:
    site = Site("exec sleep 1000", "exec sleep 1000")
    site.do("start")
    site.do("forget")
    site.processes[0].send(signal.SIGTERM)
    site.supervisor.turn()
    assert (site.started, site.do("list")) == (1, {"wards": []})


def test_a_program_that_runs_is_not_started_twice() -> None:
    site = Site("exec sleep 1000", "exec sleep 1000")
    site.do("start")
    assert site.do("start") == {"error": "agent on lb1 runs already"}


def test_one_that_cannot_be_started_is_tried_again_and_told() -> None:
    site = Site("exit 1")
    site.do("start")
    site.supervisor.turn()
    assert site.said[-1] == "agent on lb1 cannot be started: no more"
    site.commands.append("exec sleep 1000")
    site.now = 1.0
    site.supervisor.turn()
    assert site.started == 2


def test_without_a_supervisor_nobody_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(supervisor, "SOCKET", tmp_path / "sock")
    assert supervisor.ask(do="list") is None
