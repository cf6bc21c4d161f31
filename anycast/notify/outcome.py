"""The outcome of a run."""

from __future__ import annotations

from dataclasses import dataclass

from anycast.core.hooks import Ending


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`why`: in words, without a secret. `again`: it may go better, after `after` seconds if the other end says so."""

    ending: Ending
    why: str
    again: bool = False
    after: float = 0.0

    @property
    def ok(self) -> bool:
        return self.ending is Ending.OK
