"""Asking an agent of a fleet whether its node may leave, as `anycast maintenance on` does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from anycast.cli.client import Answer

ASKED = 202  # the others are being asked
AGAIN = 0.1  # seconds between two questions
Command: TypeAlias = Callable[[dict[str, Any]], Answer]  # `POST /maintenance`


def may_leave(command: Command) -> bool:
    """Whether nothing is in the way now. It no longer asks afterwards."""
    first = command({"scope": "", "on": True})
    if first.code != ASKED:
        return False
    command({"scope": "", "on": False, "turn": first.body["turn"]["number"]})
    return True


def leave(command: Command, more: Mapping[str, Any] | None = None) -> Answer:
    """The answer that is no longer "not yet"."""
    body = {"scope": "", "on": True, **(more or {})}
    began = time.monotonic()
    answer = command(body)
    while answer.code == ASKED:
        time.sleep(AGAIN)
        asked = {
            "turn": answer.body["turn"]["number"],
            "asked_for_s": round(time.monotonic() - began, 3),
        }
        answer = command({**body, **asked})
    return answer
