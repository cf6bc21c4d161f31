"""How often previous agents crashed, on disk: it decides the hold after a start."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import structlog

from anycast.agent import files
from anycast.agent.conditions import Conditions
from anycast.agent.latest import RETRY
from anycast.core.values.standing import Condition
from anycast.core.vip import hold
from anycast.core.vip.hold import Starts
from anycast.sealed import opened

VERSION = 1
_KEYS = ("version", "boot", "running", "crashes")
FOREVER = 1e12  # seconds

log = structlog.get_logger()


class StartsFile:
    """Marked at the start, cleared by a clean stop. That it cannot be written stops nobody."""

    def __init__(self, path: Path, *, boot: str, conditions: Conditions | None = None) -> None:
        self._conditions = Conditions() if conditions is None else conditions
        self._path = path
        self._boot = boot
        self._starts = Starts(boot=boot, running=True)
        self.saved = False

    def begin(self, now: float) -> int:
        """The crashes that count at the start of an agent, which is marked as running."""
        try:
            self._starts = hold.started(load(self._path), boot=self._boot, now=now)
        except (OSError, ValueError) as error:
            self._starts = hold.after_damage(boot=self._boot, now=now)
            log.error("starts.damaged", path=str(self._path), error=str(error), crashes=self._starts.count)
        self._save()
        return self._starts.count

    async def keep(self) -> None:
        """Until what `begin` has to write is written."""
        while not self.saved:
            await asyncio.sleep(RETRY)
            await asyncio.to_thread(self._save)

    def end(self) -> None:
        """A clean stop."""
        self._starts = hold.stopped(self._starts)
        self._save()

    def _save(self) -> None:
        try:
            save(self._path, self._starts)
        except OSError as error:
            self.saved = False
            why = (
                f"{self._path} cannot be written ({error.strerror or error}): further crashes are not counted"
            )
            if self._conditions.begin(Condition.STARTS_NOT_SAVED, why):
                log.error("starts.not_saved", path=str(self._path), error=str(error))
        else:
            self.saved = True
            self._conditions.end(Condition.STARTS_NOT_SAVED)


def load(path: Path) -> Starts | None:
    """None: there is no file. Raises OSError, and ValueError for anything that cannot be understood whole."""
    try:
        data = files.read(path)
    except FileNotFoundError:
        return None
    match opened(data, _KEYS):
        case {"version": 1, "boot": str(boot), "running": bool(running), "crashes": [*crashes]}:
            if all(type(at) in (int, float) and 0 <= at <= FOREVER for at in crashes):
                return Starts(boot=boot, running=running, crashes=tuple(map(float, crashes[-hold.KEPT :])))
    raise ValueError("expected version 1 with a boot, whether an agent runs, and instants of crashes")


def save(path: Path, starts: Starts) -> None:
    """Replaces the file at once. No fsync: a crash of the agent takes nothing from the kernel's cache."""
    body = {
        "version": VERSION,
        "boot": starts.boot,
        "running": starts.running,
        "crashes": starts.crashes,
    }
    files.replace(path, (json.dumps(body), "\n"), synced=False)
