"""Moving over under load, there and back, each in a site of its own: what must break nothing, and what does break."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest

from lab.migrate.play import play

pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not os.environ.get("ANYCAST_LAB_GUEST"), reason="runs inside the lab"),
    pytest.mark.skipif(
        shutil.which("keepalived") is None, reason="no keepalived: lab/install bench brings it"
    ),
]
LONG = bool(os.environ.get("ANYCAST_LONG"))
CONNECTIONS = 600 if LONG else 240
# Which break nothing at any step. `lab.migrate` plays these and others for docs/migrate.md.
HARMLESS = ["sync", "healthcheck", *(["sync-wlc", "mh-before"] if LONG else [])]


def _lost(found: dict[str, Any]) -> dict[str, int]:
    """Of each step at which connections broke."""
    return {step["title"]: step["broken"] for step in found["steps"] if step["broken"]}


@pytest.mark.parametrize("way", HARMLESS)
def test_no_connection_breaks_at_any_step_there_and_back(way: str) -> None:
    found = play(way, CONNECTIONS)
    assert _lost(found) == {}
    assert not [step["title"] for step in found["steps"] if step["new_failed"]]
    text = "\n".join(found["lines"])
    assert "echo the same\nthe same" in text, "a table that is taken over is as it was"


@pytest.mark.skipif(
    not LONG, reason="ANYCAST_LONG=1: it takes minutes, and shows that breaking would be seen"
)
def test_without_sync_and_with_other_schedulers_connections_break_at_the_router_and_not_before() -> None:
    found = play("mh-late", CONNECTIONS)
    first = next(iter(_lost(found)))
    assert first.startswith("6. The router")
    assert _lost(found)[first] > CONNECTIONS // 6
