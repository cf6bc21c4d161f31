"""Plays what `anycast agent --record FILE` wrote down."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any

from anycast.agent.recording import ADDRESSES, CLASSES, VERSION
from anycast.core.dataplane import kernel
from anycast.core.events import Effect, Event
from anycast.core.state import State
from anycast.core.step import begin, step
from anycast.core.values.configuration import Target


class BadRecordingError(ValueError):
    """It cannot be played. `args[0]` says where and why."""


class Reader:
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
            case "bytes":
                return bytes.fromhex(value["is"])
            case "set":
                return frozenset(self.read(one) for one in value["is"])
            case "map":
                return {self.read(key): self.read(one) for key, one in value["is"]}
        if name in ADDRESSES:
            return ADDRESSES[name](value["is"])
        kind = CLASSES[name]
        if issubclass(kind, Enum):
            return kind(value["is"])
        made = kind(**{key: self.read(one) for key, one in value.items() if key})
        if isinstance(made, Target):
            self._targets.append(made)
        if isinstance(made, kernel.Snapshot):
            self._snapshot = made
        return made


def replay(lines: Iterable[str]) -> Iterator[tuple[float, Event | None, State, tuple[Effect, ...]]]:
    """Plays a recording: after its beginning (the event is None) and after each event, the state and the effects.

    A last line that is cut is passed over. Raises BadRecordingError.
    """
    reader = Reader()
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
                left = reader.read(entry["left"])
                before = reader.read(entry["before"]) if "before" in entry else None
                state, effects = begin(
                    config, kept, now, entry["wall"], crashes=crashes, left=left, before=before
                )
                yield now, None, state, effects
                continue
            now, event = entry[0], reader.read(entry[1])
        except (ValueError, KeyError, TypeError, IndexError) as error:
            if state is not None and next(rest, None) is None:
                return
            raise BadRecordingError(f"line {number}: {type(error).__name__}: {error}") from error
        state, effects = step(state, event, now)
        yield now, event, state, effects
