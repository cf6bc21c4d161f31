from __future__ import annotations

import pytest

from anycast.agent import engine, planning, start
from tests.unit.agent.reading import HereReading


@pytest.fixture
def reads_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an engine or a start in this process reads is read in it. Of the other process are test_apart.py, and
    the tests that start agents.
    """
    for module in (engine, planning, start):
        monkeypatch.setattr(module, "Reading", HereReading)
