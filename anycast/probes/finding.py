"""What the check kinds have in common: the finding, how far a run has come, and the two errors a kind raises itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from anycast.core.health.phase import Fault, Outcome, Result
from anycast.core.values.configuration import Target

__all__ = [
    "OK",
    "Finding",
    "PeerError",
    "Progress",
    "UnusableError",
    "fail",
    "late",
    "one_line",
    "place",
    "reading",
    "unknown",
    "unusable",
    "warn",
]

_LONGEST = 300  # characters of a detail


class Finding(NamedTuple):
    """What one run found out. `detail` is one short line for people; with OK it is a warning, or empty.

    `fault`: of this node's own, with UNKNOWN and only then.
    """

    outcome: Outcome
    detail: str = ""
    fault: Fault | None = None

    def result(self, took: float) -> Result:
        return Result(outcome=self.outcome, detail=self.detail, took=took, fault=self.fault)


OK = Finding(Outcome.OK)


@dataclass(slots=True)
class Progress:
    """How far a run has come: the noun that completes "no ... within 1.0 s", and what is said after it.

    `ours`: this is awaited of the node itself, so that no answer says nothing of the target. `heard`: the peer has
    said something. `tell`: told of every step, when somebody looks on. `to_vip`: what is sent takes the way to the VIP at
    this target.
    """

    missing: str = "answer"
    advice: str = ""
    ours: bool = False
    heard: bool = False
    tell: Callable[[str], None] | None = None
    to_vip: Target | None = None

    def say(self, step: str, *args: object) -> None:
        if self.tell is not None:
            self.tell(one_line(step % args if args else step))

    def aside(self) -> Progress:
        """Of something beside the run, which does not take the way to the VIP."""
        return self if self.to_vip is None else Progress(tell=self.tell)


def warn(detail: str) -> Finding:
    """The target is well, and something about it wants looking after."""
    return Finding(Outcome.OK, one_line(detail))


def place(name: tuple[object, ...]) -> str:
    """A socket's name as people write it."""
    host = str(name[0])
    return f"[{host}]:{name[1]}" if ":" in host else f"{host}:{name[1]}"


def fail(detail: str) -> Finding:
    """The target is at fault."""
    return Finding(Outcome.FAIL, one_line(detail))


def unknown(detail: str, fault: Fault) -> Finding:
    """This node is at fault: nothing is proven about the target."""
    return Finding(Outcome.UNKNOWN, one_line(detail), fault)


def unusable(why: object, fault: Fault = Fault.CONFIGURATION) -> Finding:
    """The check itself could not run."""
    return unknown(f"the check could not run: {why}", fault)


def late(seconds: float) -> Finding:
    """The answer was looked for so long after the timeout that it says nothing of now: the agent did not run."""
    return unknown(f"the agent read the answer {seconds:.1f} s too late", Fault.STALLED)


class PeerError(Exception):
    """The peer's bytes are not what the check takes. The target is at fault; the message says why."""


class UnusableError(Exception):
    """The check cannot run on this node, which proves nothing about the target. The message says why."""

    def __init__(self, why: str, fault: Fault = Fault.CONFIGURATION) -> None:
        super().__init__(why)
        self.fault = fault


@contextmanager
def reading(otherwise: str) -> Iterator[None]:
    """Around a library that reads a peer's bytes: whatever it raises, the bytes are why. Raises PeerError: `otherwise: ...`."""
    try:
        yield
    except (OSError, MemoryError, PeerError):
        raise
    except Exception as error:
        raise PeerError(f"{otherwise}: {str(error) or type(error).__name__}") from error


def one_line(text: str) -> str:
    """`text` safe for a terminal and a log line: printable, on one line, of bounded length."""
    flat = "".join(c if c.isprintable() else " " for c in text[: 2 * _LONGEST]).strip()
    return flat if len(flat) <= _LONGEST else flat[: _LONGEST - 1] + "…"
