"""The scheduling priority of the agent, which nothing that it starts inherits."""

import os
import subprocess
import sys

import pytest

from anycast import priority

_CHILD = "import os; print(os.sched_getscheduler(0) in {os.SCHED_FIFO, os.SCHED_RR})"
_AGENT = f"""
import os, subprocess, sys
from anycast.priority import keep_to_itself
os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
keep_to_itself()
assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR
subprocess.run([sys.executable, "-c", {_CHILD!r}], check=True)
"""


def test_a_program_does_not_inherit_a_real_time_priority() -> None:
    done = subprocess.run([sys.executable, "-c", _AGENT], capture_output=True, text=True, check=False)
    if "PermissionError" in done.stderr:
        pytest.skip("this user may not have a real-time priority")
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


def test_the_usual_priority_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_setscheduler", lambda *_: pytest.fail("it was set"))
    priority.keep_to_itself()


def test_an_agent_that_may_not_set_it_starts_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_getscheduler", lambda _: os.SCHED_RR)
    monkeypatch.setattr(os, "sched_setscheduler", refused)
    priority.keep_to_itself()
