"""What went into `step`, written down so that it can be played again: `anycast agent --record FILE`.

The decisions of a node follow from its configuration, the events and their instants alone. A recording has all three,
one JSON object a line: a `Tick` with the wall clock that it had; `replay` puts them through `step` once more, which gives the same verdicts, leases and log.
Passwords and secret headers are not in it: in their place stands a digest, which compares as they do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

from anycast.core import events, hooks
from anycast.core.dataplane import ipvs, kernel
from anycast.core.events import Effect, Event
from anycast.core.health import phase
from anycast.core.maintenance import stages
from anycast.core.maintenance.stages import Maintenance
from anycast.core.state import State
from anycast.core.step import begin, step
from anycast.core.values import checks, configuration, described, report, route
from anycast.core.values.configuration import Config, Target
from anycast.core.vip import decide

VERSION = 1
MAX_BYTES = 512 * 1024 * 1024  # of a recording
MAX_WAITING = 20_000  # events that wait for the disk
PATIENCE = 1.0  # seconds the last events have to be written at the end

_MODULES: tuple[ModuleType, ...] = (
    checks,
    configuration,
    decide,
    described,
    events,
    hooks,
    ipvs,
    kernel,
    phase,
    report,
    route,
    stages,
)
_CLASSES: dict[str, type[Any]] = {
    name: found
    for module in _MODULES
    for name, found in vars(module).items()
    if isinstance(found, type)
    and found.__module__ == module.__name__
    and (dataclasses.is_dataclass(found) or issubclass(found, Enum))
}
_ADDRESSES: dict[str, Callable[[str], object]] = {
    "IPv4Address": ipaddress.IPv4Address,
    "IPv6Address": ipaddress.IPv6Address,
    "IPv4Network": ipaddress.IPv4Network,
    "IPv6Network": ipaddress.IPv6Network,
}


class BadRecordingError(ValueError):
    """It cannot be played. `args[0]` says where and why."""


class _Writer:
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
                return self._object(value)
            case tuple():
                return [self.write(one) for one in value]
            case frozenset():
                # In an order of its own, so that the same events give the same file.
                return {"": "set", "is": sorted((self.write(one) for one in value), key=json.dumps)}
            case Mapping():
                return {"": "map", "is": [[self.write(key), self.write(one)] for key, one in value.items()]}
        if type(value).__name__ in _ADDRESSES:
            return {"": type(value).__name__, "is": str(value)}
        if type(value) is _CLASSES.get(type(value).__name__):
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


class _Reader:
    def __init__(self) -> None:
        self._targets: list[Target] = []
        self._snapshot: kernel.Snapshot | None = None

    def read(self, value: Any) -> Any:
        if isinstance(value, list):
            return tuple(self.read(one) for one in value)
        if not isinstance(value, dict):
            return value
        name = value[""]
        match name:
            case "same target":
                return self._targets[value["is"]]
            case "same snapshot":
                return self._snapshot
            case "set":
                return frozenset(self.read(one) for one in value["is"])
            case "map":
                return {self.read(key): self.read(one) for key, one in value["is"]}
        if name in _ADDRESSES:
            return _ADDRESSES[name](value["is"])
        kind = _CLASSES[name]
        if issubclass(kind, Enum):
            return kind(value["is"])
        made = kind(**{key: self.read(one) for key, one in value.items() if key})
        if isinstance(made, Target):
            self._targets.append(made)
        if isinstance(made, kernel.Snapshot):
            self._snapshot = made
        return made


class Recorder:
    """Writes down what `step` is given. A thread of its own writes; nobody waits for it.

    A recording with a gap would not be one: where the disk is full or too slow it ends, with a line that says so.
    """

    def __init__(self, path: Path, complain: Callable[[str], None], *, limit: int = MAX_BYTES) -> None:
        """`complain` is told, in the thread that writes, why the recording has ended. Raises OSError."""
        self._complain = complain
        self._limit = limit
        self._waiting: deque[dict[str, Any] | tuple[float, Event]] = deque()
        self._changed = threading.Condition()
        self._idle = True
        self._over = False
        self._size = 0
        self._writer = _Writer()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        threading.Thread(target=self._run, name="recording", daemon=True).start()

    def begin(
        self,
        config: Config,
        maintenance: Mapping[str, Maintenance],
        now: float,
        wall: float | None,
        version: str,
        *,
        crashes: int = 0,
    ) -> None:
        """What `begin` is given; `version` is of this program."""
        writer = self._writer
        head = {
            "recording": VERSION,
            "anycast": version,
            "now": now,
            "wall": wall,
            "crashes": crashes,
            "config": writer.write(config),
            "maintenance": writer.write(dict(maintenance)),
        }
        with self._changed:
            self._waiting.append(head)
            self._changed.notify_all()

    def event(self, event: Event, now: float) -> None:
        with self._changed:
            if self._over:
                return
            if len(self._waiting) >= MAX_WAITING:
                self._over = True  # the thread says so
            self._waiting.append((now, event))
            self._changed.notify_all()

    def drain(self, patience: float = PATIENCE) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._idle and not self._waiting, patience)

    def _run(self) -> None:
        why = ""
        while not why:
            with self._changed:
                self._idle = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: bool(self._waiting))
                self._idle = False
                entries = list(self._waiting)
                self._waiting.clear()
                late = self._over
            try:
                self._write(entries)
                if late:
                    why = "the disk is too slow"
                elif self._size > self._limit:
                    why = f"it has reached {self._limit} bytes"
            except (OSError, TypeError) as error:
                why = str(error)
        os.close(self._fd)
        self._complain(why)
        with self._changed:
            self._over = self._idle = True
            self._waiting.clear()
            self._changed.notify_all()

    def _write(self, entries: Iterable[dict[str, Any] | tuple[float, Event]]) -> None:
        lines = []
        for entry in entries:
            if isinstance(entry, tuple):
                now, event = entry
                lines.append(json.dumps([now, self._writer.write(event)], separators=(",", ":")))
            else:
                lines.append(json.dumps(entry, separators=(",", ":")))
        data = "".join(f"{line}\n" for line in lines).encode()
        self._size += len(data)
        while data:
            data = data[os.write(self._fd, data) :]


def replay(lines: Iterable[str]) -> Iterator[tuple[float, Event | None, State, tuple[Effect, ...]]]:
    """Plays a recording: after its beginning (the event is None) and after each event, the state and the effects.

    A last line that is cut is passed over. Raises BadRecordingError.
    """
    reader = _Reader()
    state: State | None = None
    rest = iter(lines)
    for number, line in enumerate(rest, 1):
        try:
            entry = json.loads(line)
            if state is None:
                if entry["recording"] != VERSION:
                    raise BadRecordingError(f"version {entry['recording']!r}, expected {VERSION}")
                now, config = entry["now"], reader.read(entry["config"])
                kept, crashes = reader.read(entry["maintenance"]), entry.get("crashes", 0)
                state, effects = begin(config, kept, now, entry["wall"], crashes=crashes)
                yield now, None, state, effects
                continue
            now, event = entry[0], reader.read(entry[1])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            if state is not None and next(rest, None) is None:
                return
            raise BadRecordingError(f"line {number}: {type(error).__name__}: {error}") from error
        state, effects = step(state, event, now)
        yield now, event, state, effects
