"""The conversation with ExaBGP: what it was asked, which answers it owes, and when it counts as stuck. Pure.

ExaBGP answers `done` or `error` by order, and `done` means parsed, not sent. Hence:

- At most WINDOW commands are unanswered, with MOVING prefixes in them and one batch. Answers match by order.
- Questions and `flush` travel alone: nothing is unanswered when they are written, and nothing follows before
  their answer. So the answer to the first question also proves that no earlier command is unanswered, even one of the
  process before us, whose answers ExaBGP hands to its successor.
- After a while without an answer it is asked something cheap, so that an idle ExaBGP is never silent.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from anycast.core.values.route import Route
from anycast.plugin import codec
from anycast.plugin.prefixes import Entry, Kind

WINDOW = 50  # unanswered commands
MOVING = 200  # prefixes in them: so many a withdraw may have to wait for
SILENCE = 5.0  # seconds without an answer until ExaBGP is stuck
OWES = 1.0  # seconds without an answer until the report says so: sooner each question would cost two reports
QUERY = 10.0  # seconds between questions for the neighbors
PING = 1.0  # seconds after its last answer until ExaBGP is asked for its version: it costs it least
QUERY_TRIES = 3  # refused questions in a row until we ask no more
PAUSE = 1.0  # seconds between two ticks that mean we did not run ourselves


@dataclass(frozen=True, slots=True)
class Command:
    """One without its answers. `moves`: the prefixes it is for, each with the attribute set it is about.

    `texts`: what ExaBGP is given, several where neighbors are not sent the same. Each is answered.
    """

    kind: Kind
    texts: tuple[str, ...]
    moves: tuple[tuple[Entry, Route | None], ...] = ()


@dataclass(slots=True)
class _Owed:
    """A command that is not answered in full."""

    command: Command
    answered: int = 0
    refused: str = ""  # the first text that was

    @property
    def text(self) -> str:
        """The one that is answered next."""
        return self.command.texts[self.answered]


class Answer(NamedTuple):
    """A command that ExaBGP has answered in full; None: a question, a part, or nothing of ours.

    `refused`: its first text that was. `stray`: something was refused that is not ours.
    """

    command: Command | None
    refused: str = ""
    stray: bool = False


class Conversation:
    """Commands go out by `write` and `write_alone`, what ExaBGP says comes in by `answer` and `table`."""

    def __init__(self, now: float) -> None:
        self._unanswered: deque[_Owed] = deque()
        self._texts = 0  # in them
        self._moving = 0  # prefixes in the unanswered commands
        self._quiet_since = now  # the last answer, or the first command after a rest
        self._last_tick = now
        self._flush_due = False
        self._version_due = True
        self._ping_due = False  # until anything is answered
        self._mark_of: str | None = None  # the neighbor whose mark is to be asked for
        self._query_at = now
        self._query_answer: codec.NeighborTable | None = None
        self._query_refusals = 0
        self._stray_at: float | None = None
        self._skip = 0  # answers that are not ours
        self.synced = False  # no command of before the first question is unanswered
        self.silent_since: float | None = None  # for the report: ExaBGP has owed an answer for OWES
        self.stuck: str | None = None  # why ExaBGP must be ended
        self.acks = 0
        self.errors = 0
        self.revision = 0  # moves with every change that a report shows

    # Out.

    @property
    def idle(self) -> bool:
        return not self._unanswered

    @property
    def is_alone(self) -> bool:
        """The unanswered command travels alone."""
        return bool(self._unanswered) and not self._unanswered[0].command.moves

    @property
    def has_room(self) -> bool:
        return not self.is_alone and self._texts < WINDOW and self._moving < MOVING

    def alone_is_due(self, now: float) -> bool:
        due = self._flush_due or self._version_due or self._ping_due or now >= self._query_at
        return due or (self.synced and self._mark_of is not None)

    def flush(self) -> None:
        self._flush_due = True

    def ask(self, at: float) -> None:
        """For the neighbors, which may have changed, from that instant on, if it is earlier than otherwise."""
        self._query_at = min(self._query_at, at)

    def ask_mark(self, neighbor: str) -> None:
        """Which file ExaBGP has read, by this neighbor in it."""
        self._mark_of = neighbor

    @property
    def hears_mark(self) -> bool:
        """What ExaBGP says now is the answer to that."""
        return bool(self._unanswered) and self._unanswered[0].command.kind is Kind.MARK

    def write(self, command: Command, now: float) -> tuple[str, ...]:
        if not self._unanswered:
            self._quiet_since = now
        self._unanswered.append(_Owed(command))
        self._texts += len(command.texts)
        self._moving += len(command.moves)
        return command.texts

    def write_alone(self, now: float) -> tuple[str, ...]:
        if now >= self._query_at:
            self._query_at = math.inf
            self._query_answer, self._stray_at = None, None
            return self.write(Command(Kind.QUERY, (codec.SHOW_NEIGHBORS,)), now)
        if self.synced and self._mark_of is not None and not self._version_due:
            text, self._mark_of = codec.show_mark(self._mark_of), None
            return self.write(Command(Kind.MARK, (text,)), now)
        if self._flush_due and not self._version_due:
            self._flush_due = False
            return self.write(Command(Kind.FLUSH, (codec.FLUSH,)), now)
        self._version_due = self._ping_due = False
        return self.write(Command(Kind.VERSION, (codec.VERSION,)), now)

    # In.

    def answer(self, *, refused: bool, now: float) -> Answer:
        self._quiet_since, self._ping_due = now, False
        self._tell_silence(None)
        if self._skip:
            self._skip -= 1
            return Answer(None)
        if not self._unanswered:
            return Answer(None)
        owed = self._unanswered[0]
        if owed.command.kind is Kind.QUERY:
            if self._query_answer is None and not (refused and self.synced):
                # The answer comes ahead of its `done`, so this one belongs to a command before the question: as many
                # of ours are answered as the life before was owed.
                self._stray_at = now
                self.errors += refused
                return Answer(None, stray=refused)
            self._complete_query(now)
            return Answer(None)
        self._texts -= 1
        if refused:
            self.errors += 1
            owed.refused = owed.refused or owed.text
        else:
            self.acks += 1
        owed.answered += 1
        if owed.answered < len(owed.command.texts):
            return Answer(None)
        self._unanswered.popleft()
        self._moving -= len(owed.command.moves)
        return Answer(owed.command, owed.refused)

    def table(self, table: codec.NeighborTable) -> None:
        if self._unanswered and self._unanswered[0].command.kind is Kind.QUERY:
            self._query_answer = table
        else:
            self._skip += 1  # the life before asked for it, and its `done` follows

    def _complete_query(self, now: float) -> None:
        self._stray_at, self.synced = None, True
        answer, self._query_answer = self._query_answer, None
        self._query_refusals = 0 if answer is not None else self._query_refusals + 1
        self._query_at = now + QUERY if self._query_refusals < QUERY_TRIES else math.inf
        if self._unanswered and self._unanswered[0].command.kind is Kind.QUERY:
            self._unanswered.popleft()
            self._texts -= 1
        self.revision += 1

    # Time.

    def tick(self, now: float) -> None:
        if now - self._last_tick > PAUSE:
            # We did not run ourselves (a frozen machine, SIGSTOP), so ExaBGP's silence proves nothing.
            self._quiet_since = min(now, self._quiet_since + now - self._last_tick)
        self._last_tick = now
        if self._stray_at is not None and now - self._stray_at >= SILENCE - 1.0:
            # An ExaBGP that has no answer but `done`.
            self._complete_query(now)
        silence = now - self._quiet_since
        if self.idle and silence >= PING:
            self._ping_due = True
        self._tell_silence(self._quiet_since if self._unanswered and silence >= OWES else None)
        if self._unanswered and silence >= SILENCE:
            self.stick(f"no answer for {SILENCE:g} s to: {self._unanswered[0].text}")

    def stick(self, why: str) -> None:
        if self.stuck is None:
            self.stuck = why

    def _tell_silence(self, since: float | None) -> None:
        if since != self.silent_since:
            self.silent_since = since
            self.revision += 1
