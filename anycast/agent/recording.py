"""A recording of everything that went into `step`, to be replayed: `anycast agent --record FILE`.

The decisions of a node follow from its configuration, the events and their instants alone. A recording has all three,
one JSON object a line: a `Tick` with the wall clock that it had. `tests/replay.py` puts them through `step` once more,
which gives the same verdicts, leases and log.
Passwords and secret headers are not in it: in their place stands a digest, which compares as they do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import json
import os
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from anycast.background_writer import BackgroundWriter
from anycast.core import events, hooks, owned
from anycast.core.dataplane import ipvs, kernel, traffic
from anycast.core.events import Event
from anycast.core.fleet import values as of_fleet
from anycast.core.health import phase
from anycast.core.maintenance import clocks, stages
from anycast.core.maintenance.stages import Maintenance
from anycast.core.owned import NOTHING, Owned
from anycast.core.values import (
    checks,
    configuration,
    described,
    fleet,
    report,
    route,
    sight,
    software,
    standing,
)
from anycast.core.values.configuration import Config, Target
from anycast.core.vip import decide

VERSION = 3
MAX_BYTES = 512 * 1024 * 1024  # of a recording
MAX_WAITING = 20_000  # events that wait for the disk
PATIENCE = 1.0  # seconds the last events have to be written at the end

_MODULES: tuple[ModuleType, ...] = (
    checks,
    clocks,
    configuration,
    decide,
    described,
    events,
    fleet,
    hooks,
    ipvs,
    kernel,
    of_fleet,
    owned,
    phase,
    report,
    route,
    sight,
    software,
    stages,
    standing,
    traffic,
)
CLASSES: dict[str, type[Any]] = {
    name: found
    for module in _MODULES
    for name, found in vars(module).items()
    if isinstance(found, type)
    and found.__module__ == module.__name__
    and (dataclasses.is_dataclass(found) or issubclass(found, Enum) or hasattr(found, "_fields"))
}
ADDRESSES: dict[str, Callable[[str], object]] = {
    "IPv4Address": ipaddress.IPv4Address,
    "IPv6Address": ipaddress.IPv6Address,
    "IPv4Network": ipaddress.IPv4Network,
    "IPv6Network": ipaddress.IPv6Network,
}


class Writer:
    """Values as JSON. What comes again and again is written once and then named by its number."""

    def __init__(self) -> None:
        self._targets: dict[Target, int] = {}
        self._snapshot: kernel.Snapshot | None = None

    def write(self, value: object) -> Any:
        match value:
            case None | bool() | int() | float():
                return value
            case Enum():
                return {"": type(value).__name__, "is": value.value}
            case str():
                return value
            case bytes():
                return {"": "bytes", "is": value.hex()}
            case Target():
                number = self._targets.get(value)
                if number is not None:
                    return {"": "same target", "is": number}
                self._targets[value] = len(self._targets)
                return self._object(value)
            case kernel.Snapshot():
                # `step` asks whether it is the same object.
                if value is self._snapshot:
                    return {"": "same snapshot"}
                self._snapshot = value
                # What was carried decides nothing, and would be most of the file.
                return self._object(dataclasses.replace(value, traffic={}))
            case tuple() if type(value) is CLASSES.get(type(value).__name__):
                names: tuple[str, ...] = getattr(value, "_fields")  # noqa: B009 - of which no type knows
                return {"": type(value).__name__, **dict(zip(names, map(self.write, value), strict=True))}
            case tuple():
                return [self.write(one) for one in value]
            case frozenset():
                # In an order of its own, so that the same events give the same file.
                return {"": "set", "is": sorted((self.write(one) for one in value), key=json.dumps)}
            case Mapping():
                return {"": "map", "is": [[self.write(key), self.write(one)] for key, one in value.items()]}
        if type(value).__name__ in ADDRESSES:
            return {"": type(value).__name__, "is": str(value)}
        if type(value) is CLASSES.get(type(value).__name__):
            return self._object(value)
        raise TypeError(f"a {type(value).__name__} cannot be recorded")

    def _object(self, value: Any) -> dict[str, Any]:
        body: dict[str, Any] = {"": type(value).__name__}
        for one in dataclasses.fields(value):
            found = getattr(value, one.name)
            if not one.init or found == one.default:
                continue
            # What is not to be shown may be a secret.
            body[one.name] = self.write(found if one.repr else _digest(found))
        return body


def _digest(value: object) -> object:
    """The same shape with every text replaced by one that nobody can read, equal for equal texts."""
    if isinstance(value, str):
        return "sha256:" + hashlib.sha256(value.encode()).hexdigest()[:16]
    return tuple(_digest(one) for one in value) if isinstance(value, tuple) else value


_Entry: TypeAlias = dict[str, Any] | tuple[float, Event]
"""The head, or an event with its instant."""


class Recorder:
    """Writes down what `step` is given. A thread of its own writes; nobody waits for it.

    A recording with a gap would not be one: where the disk is full or too slow it ends, with a line that says so.
    """

    def __init__(self, path: Path, complain: Callable[[str], None], *, limit: int = MAX_BYTES) -> None:
        """`complain` is called, in the thread that writes, with why the recording has ended. Raises OSError."""
        self._limit = limit
        self._over = False
        self._size = 0
        self._values = Writer()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._writer = BackgroundWriter("recording", self._write, complain, limit=MAX_WAITING)

    def begin(
        self,
        config: Config,
        maintenance: Mapping[str, Maintenance],
        now: float,
        wall: float | None,
        version: str,
        *,
        crashes: int = 0,
        left: Owned = NOTHING,
        before: Config | None = None,
    ) -> None:
        """What `begin` is given; `version` is of this program."""
        values = self._values
        head = {
            "recording": VERSION,
            "anycast": version,
            "now": now,
            "wall": wall,
            "crashes": crashes,
            "config": values.write(config),
            "maintenance": values.write(dict(maintenance)),
            "left": values.write(left),
            **({} if before is None else {"before": values.write(before)}),
        }
        self._writer.put(head)

    def event(self, event: Event, now: float) -> None:
        if not self._over:
            self._writer.put((now, event))

    def drain(self, patience: float = PATIENCE) -> bool:
        return self._writer.drain(patience)

    def _write(self, entries: list[_Entry], dropped: int) -> None:
        if self._over:
            return
        try:
            lines = []
            for entry in entries:
                if isinstance(entry, tuple):
                    now, event = entry
                    lines.append(json.dumps([now, self._values.write(event)], separators=(",", ":")))
                else:
                    lines.append(json.dumps(entry, separators=(",", ":")))
            data = "".join(f"{line}\n" for line in lines).encode()
            self._size += len(data)
            while data:
                data = data[os.write(self._fd, data) :]
            if dropped:
                raise OSError("the disk is too slow")
            if self._size > self._limit:
                raise OSError(f"it has reached {self._limit} bytes")
        except (OSError, TypeError):
            self._over = True
            os.close(self._fd)
            raise
