"""The banner check: a dialogue of lines, as SMTP, IMAP, FTP or Redis speak."""

from __future__ import annotations

from collections import deque
from contextlib import AbstractAsyncContextManager

from anycast.core.values.checks import BannerCheck, Expect, Send
from anycast.core.values.configuration import Address
from anycast.probes.finding import Finding, Progress, fail
from anycast.probes.stream import Stream, opened
from anycast.regex import compiled

__all__ = ["Dialogue", "check"]

_LIMIT = 16 * 1024  # bytes of the whole dialogue
_LINE = 4096  # bytes; a longer line counts as several
_SHOWN = 80


class Dialogue:
    """The steps against what arrives. Pure: bytes in, bytes to send out."""

    def __init__(self, steps: tuple[Expect | Send, ...]) -> None:
        """Raises RegexError."""
        self._steps = deque(steps)
        for step in steps:
            if isinstance(step, Expect):
                compiled(step.pattern)
        self._lines: deque[bytes] = deque()
        self._rest = bytearray()
        self._last = b""

    @property
    def awaited(self) -> str | None:
        """The expression that is waited for; None at the end of the dialogue."""
        step = self._steps[0] if self._steps else None
        return step.pattern if isinstance(step, Expect) else None

    @property
    def last_line(self) -> str:
        """The last line that was passed over; empty if none was."""
        return self._last[:_SHOWN].decode(errors="replace")

    def feed(self, data: bytes) -> None:
        self._rest += data
        while (end := self._rest.find(b"\n", 0, _LINE + 1)) >= 0 or len(self._rest) > _LINE:
            taken = end + 1 if end >= 0 else _LINE
            self._lines.append(bytes(self._rest[:taken]).rstrip(b"\r\n"))
            del self._rest[:taken]

    def end(self) -> None:
        """Nothing more will come: what stands without a line's end is a line too."""
        if self._rest:
            self._lines.append(bytes(self._rest))
            self._rest.clear()

    def proceed(self) -> bytes:
        """Take the steps that can be taken now. What is to be sent meanwhile."""
        out = b""
        while self._steps:
            step = self._steps[0]
            if isinstance(step, Send):
                out += step.data
            elif not self._passes(step):
                break
            self._steps.popleft()
        return out

    def _passes(self, step: Expect) -> bool:
        while self._lines:
            line = self._lines.popleft()
            if compiled(step.pattern).search(line):
                self._last = b""
                return True
            self._last = line
        return False


async def check(kind: BannerCheck, address: Address, port: int, progress: Progress) -> Finding:
    """OK once every step is done. What it raises is judged by `verdict`, as of every kind."""
    dialogue = Dialogue(kind.steps)
    opening = opened(address, port, progress, tls=kind.tls, limit=_LIMIT)
    return await _talk(opening, dialogue, progress)


async def _talk(
    opening: AbstractAsyncContextManager[Stream], dialogue: Dialogue, progress: Progress
) -> Finding:
    async with opening as stream:
        while True:
            if out := dialogue.proceed():
                progress.say("sending %d bytes", len(out))
                await stream.send(out)
            if dialogue.awaited is None:
                return stream.warning
            progress.missing = f"line with {dialogue.awaited!r}"
            if dialogue.last_line:
                progress.missing += f", but {dialogue.last_line!r},"
            data = await stream.receive()
            progress.say("received %r", data[:_SHOWN])
            dialogue.feed(data)
            if not data:
                dialogue.end()
                dialogue.proceed()
                return stream.warning if dialogue.awaited is None else fail(_ended(dialogue))


def _ended(dialogue: Dialogue) -> str:
    after = f" after {dialogue.last_line!r}" if dialogue.last_line else ""
    return f"closed{after}, expected a line with {dialogue.awaited!r}"
