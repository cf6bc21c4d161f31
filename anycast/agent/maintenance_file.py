"""Maintenance on disk: it survives a restart and a reboot, and a damaged file means maintenance."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from anycast.core.maintenance import NODE, Maintenance


class DamagedError(Exception):
    """The file is there and cannot be understood. `args[0]` says where and what to do."""


def load(path: Path) -> dict[str, Maintenance]:
    """Scope to maintenance. No file: none. Raises DamagedError for anything that cannot be read whole."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedError(f"{path}: {error}") from error
    try:
        body = json.loads(text)
        if body["version"] != 1:
            raise ValueError(f"version {body['version']!r}, expected 1")
        return {scope: _entry(scope, value) for scope, value in body["maintenance"].items()}
    # OverflowError and RecursionError: what json takes for a number or nests is not bounded by it.
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise DamagedError(f"{path}: {type(error).__name__}: {error}") from error


def _entry(scope: str, value: object) -> Maintenance:
    match value:
        case {"reason": str(reason), "by": str(by), "since": int() | float() as since}:
            if math.isfinite(since):
                return Maintenance(reason=reason, by=by, since=float(since))
    raise ValueError(f"the entry of {scope!r} is not a reason, a user and a time")


def after_damage(error: DamagedError, since: float) -> dict[str, Maintenance]:
    """The whole node in maintenance: nobody knows what the file said, and withdrawn is the safe side."""
    reason = f"the maintenance file is damaged ({error}); check why, then `anycast maintenance off`"
    return {NODE: Maintenance(reason=reason, by="anycast", since=since)}


def save(path: Path, entries: Mapping[str, Maintenance]) -> None:
    """Replaces the file at once and for good: written beside, synced, renamed. Raises OSError."""
    body = {
        "version": 1,
        "maintenance": {
            scope: {"reason": entry.reason, "by": entry.by, "since": entry.since}
            for scope, entry in entries.items()
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    with beside.open("w", encoding="utf-8") as file:
        json.dump(body, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
