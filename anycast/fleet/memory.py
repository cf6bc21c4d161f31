"""What another node said last, and by which clock: the same whether it was asked or has written it somewhere. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from anycast.core.fleet import codec
from anycast.core.fleet.codec import Heard, Row
from anycast.fleet.frames import Told

_MOST_WHY = 280


@dataclass(slots=True)
class Memory:
    """`pieces`: as they came; `based`: with instants counted from the one at which `told.told` of ours was."""

    told: Told
    pieces: Mapping[str, Mapping[str, Row]] = field(default_factory=dict)
    based: Mapping[str, Mapping[str, Row]] = field(default_factory=dict)
    at: float = 0.0  # by its clock
    born: float = 0.0

    def same(self, now: float) -> bool:
        """It is there, with nothing new. Whether a problem is over by that."""
        over = bool(self.told.problem)
        self.told = replace(self.told, heard=now, problem="", problem_since=None, answers=False)
        return over

    def news(self, heard: Heard, now: float) -> None:
        """It has said that."""
        told = self.told
        since, rows = told.told, told.rows
        if since is None or heard.born != self.born or heard.at < self.at:
            self.at, self.born, self.based, since, rows = heard.at, heard.born, {}, now, {}
        based = {
            digest: self.based[digest] if digest in self.based else self._based(rows)
            for digest, rows in heard.pieces.items()
        }
        if based.keys() != self.based.keys():
            rows = {name: row for some in based.values() for name, row in some.items()}
        self.based, self.pieces = based, heard.pieces
        self.told = replace(
            told,
            document=codec.later(heard.document, heard.at - self.at),
            loads=heard.loads,
            rows=rows,
            heard=now,
            told=since,
            problem="",
            problem_since=None,
            answers=False,
        )

    def _based(self, rows: Mapping[str, Row]) -> dict[str, Row]:
        return {
            name: (one, why, round(at - self.at, 1), table, rank)
            for name, (one, why, at, table, rank) in rows.items()
        }

    def failed(self, why: str, now: float, *, answers: bool) -> bool:
        """It has not, and why. Nothing is forgotten: what is gone by is decided by age. Whether that is new."""
        told, why = self.told, " ".join(why.split())[:_MOST_WHY]
        if (told.problem, told.answers) == (why, answers):
            return False
        since = told.problem_since if told.problem and told.answers == answers else now
        self.told = replace(told, problem=why, problem_since=since, answers=answers)
        return True
