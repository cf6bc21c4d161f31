"""How a server treats connections that say nothing: what was seen goes in, what to do comes out. Times in seconds."""

from __future__ import annotations

import math

__all__ = ["LONG", "Manner"]

LONG = 600.0  # a connection that lived so long is no nuisance, however it ended
REST = 600.0  # between two tries with a server that leaves no connection open
_ENOUGH = 3  # ends in a row, each followed by a check that went well: it is the server's way
_SHORT = 15.0  # to renew a connection that lives no longer would be work without end
_EARLY = 0.8  # of the usual life: then it is renewed, and an end before that is none of the usual ones
_FORGET = 3600.0  # a server may be configured anew: then one connection is left to live for as long as it may
_MOST = 300.0  # of a pause, before anything is learned
_DOUBLINGS = 12


class Manner:
    """Of one server. Pauses are the longest: whoever waits takes a random part of each.

    `learned`: it ends such connections regularly. `usual`: the shortest life that was seen, while it counts.
    """

    __slots__ = ("_refused", "_streak", "_trial", "_until", "learned", "usual")

    def __init__(self) -> None:
        self.learned = False
        self.usual = math.inf
        self._streak = 0  # harmless ends in a row
        self._refused = 0  # tries in a row that came to nothing
        self._trial = False  # the connection is left to live for as long as it may
        self._until = math.inf  # when the next one is

    @property
    def hopeless(self) -> bool:
        """No connection lives long enough to be of use."""
        return self.learned and self.usual < _SHORT

    @property
    def refuses(self) -> bool:
        """Several tries in a row came to nothing, though the checks go well."""
        return self._refused >= _ENOUGH

    def stands(self, now: float) -> float:
        """There is a connection. Returns for how long it is to live: then `overlived`, or it is renewed."""
        self._refused = 0
        if not self.learned:
            return math.inf
        self._trial = self.hopeless or now >= self._until
        return LONG if self._trial else self.usual * _EARLY

    def overlived(self) -> bool:
        """The life that `stands` gave is over. True: nothing is to be done, for the server leaves it open."""
        if not self._trial:
            return False
        self._forget()
        return True

    def ended(self, age: float, now: float) -> bool:
        """The server has ended a connection. Whether to ask at once; if not, it is only what the server always does."""
        if not self.learned or (age < self.usual * _EARLY and not self.hopeless):
            return True
        if age >= LONG:
            self._forget()
            return True
        self.usual = age if self._trial else min(self.usual, age)
        if self._trial:
            self._until = now + _FORGET
        return False

    def harmless(self, age: float, now: float) -> bool:
        """After an end at that age a check has gone well. True: with this one it is learned."""
        if age >= LONG:
            self._forget()
            return False
        self._streak += 1
        self.usual = min(self.usual, age)
        if self.learned or self._streak < _ENOUGH:
            return False
        self.learned = True
        self._until = now + _FORGET
        return True

    def deadly(self) -> None:
        """After an end a check has failed."""
        if not self.learned:
            self._forget()

    def refused(self) -> None:
        """A connection could not be made."""
        self._refused += 1

    @property
    def pause(self) -> float:
        """Until the next connection."""
        if self.hopeless:
            return REST
        return min(_MOST, 2.0 ** min(_DOUBLINGS, self._streak + self._refused))

    def _forget(self) -> None:
        self.learned = self._trial = False
        self.usual = self._until = math.inf
        self._streak = 0
