"""In `make test` a test that is skipped for the lack of a program fails: it would pass unseen."""

from __future__ import annotations

import pytest

from tests.conftest import judged


def skipped(reason: str) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid="test",
        location=("", 0, ""),
        keywords={},
        outcome="skipped",
        longrepr=("", 1, reason),
        when="call",
    )


@pytest.mark.parametrize(
    "reason",
    [
        "Skipped: no BIRD here: apt install bird2",
        "Skipped: there is no etcd here",
        "Skipped: keepalived is not installed",
        "Skipped: could not import 'numpy': No module named 'numpy'",
        "Skipped: no nginx, unbound here: run lab/install",
        "Skipped: no promtool: lab/install brings it",
    ],
)
def test_a_missing_program_fails_in_make_test(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    monkeypatch.setenv("ANYCAST_WHOLE", "1")
    assert judged(skipped(reason)).outcome == "failed"
    monkeypatch.delenv("ANYCAST_WHOLE")
    assert judged(skipped(reason)).outcome == "skipped"


@pytest.mark.parametrize(
    "reason",
    [
        "Skipped: there is no build/hosts/sid: `python -m lab.hosts sid`",
        "Skipped: no Debian unstable in build/debian (make routers)",
        "Skipped: this kernel has no est_nice",
        "Skipped: runs inside the lab",
        "Skipped: no /dev/full here",
    ],
)
def test_what_this_machine_cannot_have_is_skipped(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    monkeypatch.setenv("ANYCAST_WHOLE", "1")
    assert judged(skipped(reason)).outcome == "skipped"
