"""Settings for every test."""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import threading
from collections.abc import Generator
from typing import TypeVar

import pytest
from hypothesis import Phase, settings

from anycast.config import steady
from lab import launcher

# No shrinking of state machines: it takes minutes, and a sequence of forty rules can be read as it was found.
# In CI the same examples every time; elsewhere new ones, which is how new faults are found.
settings.register_profile(
    "anycast",
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("anycast")

# Nobody writes to a test's files while they are read, unless the test is about that.
steady.SETTLED = 0.0

# Programs are interrupted as a terminal does it. A shell's background job ignores that, and so would all it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionstart() -> None:
    if os.environ.get("ANYCAST_LAB_GUEST") and launcher.is_dear():
        launcher.install()


def pytest_collection_finish() -> None:
    """Thousands of tests stay until the end: no collection of garbage is to look at them again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """The run ends here, whatever a failed test has left: the interpreter would wait for ever for a thread of its."""
    left = [one for one in threading.enumerate() if not one.daemon and one is not threading.main_thread()]
    if left:
        names = ", ".join(sorted(one.name for one in left))
        print(f"tests: left behind by a test, and not waited for: {names}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_status.get(config, pytest.ExitCode.INTERNAL_ERROR) or pytest.ExitCode.TESTS_FAILED)


_status: dict[pytest.Config, int] = {}


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    _status[session.config] = int(exitstatus)


# In `make test` all is there that tests are skipped without: one that is skipped all the same would pass unseen.
_LACKS = re.compile(
    r"\binstall|could not import|\bno (?!/)\S.* here\b|there is no (etcd|groff|systemd-analyze)|no systemd-analyze"
)
Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def judged(report: Report) -> Report:
    """A failure, if it was skipped for the lack of a program and `make test` runs."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
    if os.environ.get("ANYCAST_WHOLE") and report.outcome == "skipped" and _LACKS.search(reason):
        report.outcome = "failed"
        report.longrepr = f"{reason}: `make test` must install it (lab/install, pyproject.toml)"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return judged((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return judged((yield))
