"""What became of each line of a source. Values of lines are not repeated here where they may be secrets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from anycast.config.problem import named
from anycast.importers.model import Place

MOST_NOTES = 1000  # different things that are said; the lines of each are counted on
_LINES = 8  # of one thing that are named
_LONGEST = 600  # characters of a text
_LONGEST_WORD = 40


class Fate(StrEnum):
    """Of a line, in the order of a report."""

    TO_WRITE = "to write by you"
    IMPOSSIBLE = "cannot be"
    DIFFERENT = "different"
    NO_EFFECT = "without effect before, and left out"
    CARRIED = "carried over"


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that is said of one or more lines."""

    fate: Fate
    text: str
    places: tuple[Place, ...]


class Report:
    """Collects notes. The same text of several lines is one note."""

    def __init__(self) -> None:
        self._notes: dict[tuple[Fate, str], dict[Place, None]] = {}
        self.unseen = 0  # lines of which nothing is kept, for there were too many different things

    def say(self, fate: Fate, place: Place, text: str) -> None:
        known = self._notes.get((fate, text))
        if known is None:
            text = text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
            if len(self._notes) >= MOST_NOTES and fate is not Fate.IMPOSSIBLE:
                self.unseen += 1
                return
            known = self._notes.setdefault((fate, text[:_LONGEST]), {})
        known[place] = None

    def take(self, other: Report) -> None:
        """What another one holds."""
        for (fate, text), found in other._notes.items():
            self._notes.setdefault((fate, text), {}).update(found)
        self.unseen += other.unseen

    def forget(self, texts: Iterable[str]) -> None:
        """What is not so after all."""
        for text in texts:
            for fate in Fate:
                self._notes.pop((fate, text), None)

    def not_carried(self, place: Place, text: str) -> None:
        """This line was not carried over after all."""
        key = Fate.CARRIED, text
        if (known := self._notes.get(key)) is not None:
            known.pop(place, None)
            if not known:
                del self._notes[key]

    def left_out(self, lines: Iterable[Place] | None, text: str) -> None:
        """What was said to be carried over of these lines, as it is or different, is not. None: of all lines."""
        wanted = None if lines is None else set(lines)
        gone: dict[Place, None] = {}
        for key, known in list(self._notes.items()):
            if key[0] not in (Fate.CARRIED, Fate.DIFFERENT):
                continue
            here = [place for place in known if wanted is None or place in wanted]
            gone.update(dict.fromkeys(here))
            for place in here:
                del known[place]
            if not known:
                del self._notes[key]
        others = {place for known in self._notes.values() for place in known}
        for place in sorted(gone.keys() - others):
            self.impossible(place, text)

    def carried_lines(self) -> set[Place]:
        return {place for (fate, _), known in self._notes.items() if fate is Fate.CARRIED for place in known}

    def instead_of_carried(self, text: str) -> Report:
        """The same where what was carried over, as it is or different, is not: `text` is said of its lines."""
        found = Report()
        found.unseen = self.unseen
        lines = [(place, fate, known) for (fate, known), places in self._notes.items() for place in places]
        for place, fate, known in sorted(lines):
            if fate in (Fate.CARRIED, Fate.DIFFERENT):
                found.impossible(place, text)
            else:
                found.say(fate, place, known)
        return found

    def carried(self, place: Place, text: str) -> None:
        self.say(Fate.CARRIED, place, text)

    def different(self, place: Place, text: str) -> None:
        self.say(Fate.DIFFERENT, place, text)

    def impossible(self, place: Place, text: str) -> None:
        self.say(Fate.IMPOSSIBLE, place, text)

    def no_effect(self, place: Place, text: str) -> None:
        self.say(Fate.NO_EFFECT, place, text)

    def to_write(self, place: Place, text: str) -> None:
        self.say(Fate.TO_WRITE, place, text)

    def notes(self) -> Iterator[Note]:
        """In the order of fates, then of the first line."""
        order = list(Fate)
        found = [Note(fate, text, tuple(places)) for (fate, text), places in self._notes.items()]
        yield from sorted(found, key=lambda one: (order.index(one.fate), one.places[0]))

    def count(self, fate: Fate) -> int:
        """Of lines."""
        return len({place for (of, _), places in self._notes.items() if of is fate for place in places})


def places(found: Sequence[Place]) -> str:
    """`keepalived.conf:3, 7, 12 and 40 more`."""
    words: list[str] = []
    last = None
    for place in found[:_LINES]:
        words.append(str(place.line) if place.file == last and place.line else spelt(place))
        last = place.file
    more = f" and {len(found) - _LINES:,} more" if len(found) > _LINES else ""
    return ", ".join(words) + more


def spelt(place: Place) -> str:
    return f"{named(place.file)}:{place.line}" if place.line else named(place.file)


def shown(word: str) -> str:
    """A word of a source: short, and nothing that a terminal obeys."""
    text = word if len(word) <= _LONGEST_WORD else f"{word[: _LONGEST_WORD - 3]}..."
    return "".join(char if char.isprintable() else "?" for char in text)
