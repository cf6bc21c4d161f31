"""Daemons that a failed test has left end with the run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from lab import hosts
from lab.hosts import Host, host
from tests.contract.bgp import MARK


def _ip(*words: str) -> list[str]:
    done = subprocess.run(["ip", "netns", *words], capture_output=True, text=True, check=False)
    return done.stdout.split()


@pytest.fixture(scope="session", autouse=True)
def nothing_left() -> Iterator[None]:
    """All that runs in namespaces of this run, which carry its mark in their names, is ended, and they are removed."""
    yield
    left = [name for name in _ip("list") if name.startswith(MARK)]
    for name in left:
        for pid in _ip("pids", name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        _ip("del", name)


@pytest.fixture(params=hosts.SUITES)
def machine(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A Debian with the programs that manage interfaces, for each suite that `make hosts` has made."""
    if not hosts.there(request.param):
        pytest.skip(f"there is no build/hosts/{request.param}: `python -m lab.hosts {request.param}`")
    with host(request.param) as one:
        yield one
