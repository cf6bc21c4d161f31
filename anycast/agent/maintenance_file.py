"""Maintenance on disk: it survives a restart and a reboot, and a damaged file means maintenance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from anycast.agent import files
from anycast.core.maintenance.clocks import End, Expiry
from anycast.core.maintenance.stages import NODE, Maintenance
from anycast.sealed import opened

_KEYS = ("version", "boot", "maintenance")
NAMED = 5  # scopes
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class DamagedError(Exception):
    """The file is there and cannot be understood. `args[0]` says where and what to do."""


def boot_id() -> str:
    """Names this boot, within which monotonic instants mean the same to every process. Empty: not known."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return ""


def load(path: Path, boot: str = "") -> dict[str, Maintenance]:
    """Scope to maintenance. No file: none. Raises DamagedError for anything that cannot be read whole.

    `boot`: of this boot. Monotonic instants of another are left out.
    """
    try:
        data = files.read(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DamagedError(f"{path}: {error}") from error
    try:
        body = opened(data, _KEYS)
        if body["version"] != 1:
            raise ValueError(f"version {body['version']!r}, expected 1")
        same_boot = bool(boot) and body.get("boot") == boot
        return {
            scope: _entry(scope, value, same_boot=same_boot) for scope, value in body["maintenance"].items()
        }
    # OverflowError: what json takes for a number is not bounded by it.
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise DamagedError(f"{path}: {type(error).__name__}: {error}{_named(data)}") from error


def _named(data: bytes) -> str:
    """What a damaged file names, as far as it can be read: an operator may know what should be out of service."""
    try:
        names = [str(name) or "the node" for name in json.loads(data)["maintenance"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
    told = ", ".join(repr(name[:60]) for name in names[:NAMED])
    return (
        f"; it names {told}{f' and {len(names) - NAMED} more' if len(names) > NAMED else ''}" if names else ""
    )


def _entry(scope: str, value: object, *, same_boot: bool) -> Maintenance:
    match value:
        case {"reason": str(reason), "by": str(by), "since": int() | float() as since, **rest}:
            if math.isfinite(since):
                end = _end(scope, rest.get("end"), same_boot=same_boot)
                return Maintenance(reason=reason, by=by, since=float(since), end=end)
    raise ValueError(f"the entry of {scope!r} is not a reason, a user and a time")


def _end(scope: str, value: object, *, same_boot: bool) -> End | None:
    """Files from before there were ends have none."""
    match value:
        case None:
            return None
        case {"at": int() | float() as at, "then": str(then), "lasts": bool(lasts), "due": due}:
            if math.isfinite(at) and (due is None or (isinstance(due, int | float) and math.isfinite(due))):
                known = None if due is None or not same_boot else float(due)
                return End(at=float(at), then=Expiry(then), lasts=lasts, due=known)
    raise ValueError(f"the end of {scope!r} is not a time and what then")


def after_damage(error: DamagedError, since: float) -> dict[str, Maintenance]:
    """The whole node in maintenance: what the file said is lost, and withdrawn is the safe side."""
    reason = f"the maintenance file is damaged ({error}); check why, then `anycast maintenance off`"
    return {NODE: Maintenance(reason=reason, by="anycast", since=since)}


def save(path: Path, entries: Mapping[str, Maintenance], boot: str = "") -> None:
    """Replaces the file at once and for good: written beside, synced, renamed. Raises OSError."""
    body = {
        "version": 1,
        "boot": boot,
        "maintenance": {scope: _written(entry) for scope, entry in entries.items()},
    }
    files.replace(path, (json.dumps(body, indent=1), "\n"), synced=True)


def _written(entry: Maintenance) -> dict[str, object]:
    written: dict[str, object] = {"reason": entry.reason, "by": entry.by, "since": entry.since}
    if entry.end is not None:
        end = entry.end
        written["end"] = {"at": end.at, "then": str(end.then), "lasts": end.lasts, "due": end.due}
    return written
