"""What another node said last, and by which clock: the same whether it was asked or has written it somewhere. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from anycast.core.fleet import codec
from anycast.core.fleet.codec import Heard, Row
from anycast.fleet.frames import Told

_MOST_WHY = 280


@dataclass(slots=True)
class Memory:
    told: Told
    born: float = 0.0  # by its clock

    @property
    def pieces(self) -> Mapping[str, Mapping[str, Row]]:
        """As they came."""
        return self.told.pieces

    def same(self, now: float) -> bool:
        """It is there, with nothing new. Whether a problem is over by that."""
        over = bool(self.told.problem)
        self.told = replace(self.told, heard=now, problem="", problem_since=None, answers=False)
        return over

    def news(self, heard: Heard, now: float, said: float | None = None) -> None:
        """It has said that. `said`: as of `Told`."""
        told = self.told
        if told.told is None or heard.born != self.born or heard.at < told.at:
            self.born = heard.born
            told = replace(told, told=now, at=heard.at, pieces={})
        same = heard.pieces.keys() == told.pieces.keys()
        self.told = replace(
            told,
            document=codec.later(heard.document, heard.at - told.at),
            pieces=told.pieces if same else heard.pieces,
            heard=now,
            said=said,
            problem="",
            problem_since=None,
            answers=False,
        )

    def failed(self, why: str, now: float, *, answers: bool) -> bool:
        """It has not, and why. Nothing is forgotten: what is gone by is decided by age. Whether that is new."""
        told, why = self.told, " ".join(why.split())[:_MOST_WHY]
        if (told.problem, told.answers) == (why, answers):
            return False
        since = told.problem_since if told.problem and told.answers == answers else now
        self.told = replace(told, problem=why, problem_since=since, answers=answers)
        return True
