"""The conversation with BIRD at its control socket: one question at a time, and what its answers come to. Pure.

It may look and change nothing: `restrict` is the first thing that is said.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from ipaddress import ip_address, ip_network

from anycast.announcer.view import View
from anycast.core.values.report import NeighborState
from anycast.core.values.route import Prefix

ASK = 1.0  # seconds between two questions for the sessions
LEARNED = 5.0  # seconds between two questions for the routes, where nothing has changed
SOON = 0.3  # seconds after a change of the table until it is asked for the routes
OWES = 1.0  # seconds without an answer until it counts as silent
AGAIN = 1.0  # seconds between two tries to connect
MAX_LINE = 4096  # bytes
MOST_SESSIONS = 256
MAX_REASON = 200  # characters
TABLES = {4: "anycast4", 6: "anycast6"}
"""BIRD's tables of learned routes, in what `anycast render bird` writes."""
RENDERED = "anycast_rendered"
"""The constant there that has the digest of what was rendered."""

_network = lru_cache(maxsize=2**14)(ip_network)  # the same ones come every few seconds
_CODE = re.compile(rb"([0-9]{4})([ -])(.*)\Z", re.DOTALL)
_GREETING = re.compile(r"(BIRD \S+) ready")
_ROUTE = re.compile(r"([0-9A-Fa-f.:]+/[0-9]{1,3})\s")


class Lines:
    """What comes, as lines with their codes and whether the answer ends with them."""

    def __init__(self) -> None:
        self._rest = b""
        self._code = 0

    def feed(self, data: bytes) -> list[tuple[int, str, bool]]:
        """Raises ValueError for what BIRD does not say."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            raise ValueError("a line without an end")
        return [self._line(line) for line in lines]

    def _line(self, line: bytes) -> tuple[int, str, bool]:
        match = _CODE.match(line)
        if match is None:
            if line[:1] not in (b" ", b"+", b""):
                raise ValueError("it is no answer of BIRD")
            return self._code, line[1:].decode("utf-8", "replace"), False
        self._code = int(match[1])
        ends = match[2] == b" " and self._code // 1000 in (0, 8, 9)
        return self._code, match[3].decode("utf-8", "replace"), ends


class Bird:
    """`socket`: its path, for people. `versions`: the families of the VIPs are asked for alike."""

    def __init__(self, socket: str, now: float) -> None:
        self._socket = socket
        self.view = View(error="BIRD has not answered yet")
        self._lines = Lines()
        self._waiting: deque[str] = deque()
        self._question = ""
        self._answer: list[tuple[int, str]] = []
        self._asked = now  # the question
        self._ask_at = now
        self._routes_at = now
        self._routes_since = now  # when the question for the routes was put
        self._learned: set[Prefix] | None = set()
        self._found: dict[str, NeighborState] = {}
        self._complete = False  # the sessions are

    # Connection

    def connected(self, now: float) -> None:
        self._lines, self._answer = Lines(), []
        self._waiting.clear()
        self._question, self._asked = "greeting", now
        self._ask_at = self._routes_at = now

    def lost(self, now: float, why: str, *, runs: bool | None) -> None:
        """There is no connection. `runs`: whether it is there at all; None: that is not known."""
        self._question = ""
        self._waiting.clear()
        if runs is None:
            self.view = View(error=why)
        elif not runs:
            sessions = tuple(
                one
                if one.state == "down"
                else replace(one, state="down", changed=now, reason="BIRD does not run")
                for one in self.view.sessions
            )
            down = f"BIRD does not run ({self._socket}: {why})"
            self.view = View(daemon=self.view.daemon, down=down, sessions=sessions, asked_at=now)

    def feed(self, data: bytes, now: float) -> None:
        """Raises ValueError for what BIRD does not say."""
        for code, text, ends in self._lines.feed(data):
            self._answer.append((code, text))
            if ends:
                answer, self._answer = self._answer, []
                self._heard(answer, now)

    # Out

    def changed(self, now: float) -> None:
        """The table has."""
        self._routes_at = min(self._routes_at, now + SOON)

    def next(self, now: float) -> str | None:
        """The question that is due; it counts as put."""
        if self._question:
            return None
        if not self._waiting:
            if now >= self._ask_at:
                self._ask_at = now + ASK
                self._waiting += [f"eval {RENDERED}", "show protocols all"]
            elif now >= self._routes_at:
                self._routes_at = now + LEARNED
                self._waiting += [f"show route table {name}" for name in TABLES.values()]
            else:
                return None
        self._question, self._asked = self._waiting.popleft(), now
        if self._question == f"show route table {TABLES[4]}":
            self._learned, self._routes_since = set(), now
        return self._question

    def tick(self, now: float) -> None:
        owes = self._question and now - self._asked >= OWES
        since = self._asked if owes else None
        if since != self.view.silent_since:
            self.view = replace(self.view, silent_since=since)

    # In

    def _heard(self, answer: list[tuple[int, str]], now: float) -> None:
        question, self._question = self._question, ""
        texts = [text for _, text in answer]
        good = answer[-1][0] // 1000 == 0
        if question == "greeting":
            found = _GREETING.search(texts[0])
            self.view = replace(
                self.view, daemon=found[1] if found else "BIRD", down="", error="", silent_since=None
            )
            self._waiting.append("restrict")
        elif question.startswith("eval "):
            self.view = replace(self.view, rendered=texts[-1].strip()[:64] if good else "")
        elif question == "show protocols all":
            self._found = {}
            ospf = self._protocols(answer, now)
            self._waiting.extend(f"show ospf neighbors {name}" for name in ospf)
            self._sessions()
        elif question.startswith("show ospf"):
            self._neighbors(texts, now)
            self._sessions()
        elif question.startswith("show route"):
            self._routes(question, texts, good=good)

    def _sessions(self) -> None:
        """Once nothing more of them is asked."""
        if not any(one.startswith("show ospf") for one in self._waiting):
            self.view = replace(self.view, sessions=tuple(self._found.values()))

    def _routes(self, question: str, texts: list[str], *, good: bool) -> None:
        if not good:
            self._learned = None
        if self._learned is not None:
            self._learned.update(_prefixes(texts))
        if question.endswith(TABLES[6]):
            learned = None if self._learned is None else frozenset(self._learned)
            self.view = replace(self.view, learned=learned, asked_at=self._routes_since)

    def _protocols(self, answer: list[tuple[int, str]], now: float) -> list[str]:
        """The BGP sessions. Returns the names of the protocols of OSPF that run."""
        ospf = []
        for words, details in _blocks(answer):
            name, kind, info = words[0], words[1], " ".join(words[5:])
            if kind == "OSPF" and words[3] == "up":
                ospf.append(name)
            elif kind == "BGP" and (address := details.get("Neighbor address")):
                up = details.get("BGP state") == "Established"
                reason = "" if up else (details.get("Last error") or info or words[3])
                self._session(address.partition("%")[0], up=up, reason=reason, now=now)
        return ospf

    def _neighbors(self, texts: list[str], now: float) -> None:
        """Of one protocol of OSPF."""
        for text in texts:
            words = text.split()
            if len(words) >= 6 and _is_address(words[0]) and _is_address(words[-1]):
                state = words[2].partition("/")[0]
                self._session(
                    f"{words[-1]}%{words[-2]}", up=state == "Full", reason=f"OSPF {words[2]}", now=now
                )

    def _session(self, address: str, *, up: bool, reason: str, now: float) -> None:
        if len(self._found) >= MOST_SESSIONS:
            return
        state, reason = ("up", "") if up else ("down", _clean(reason))
        known = next((one for one in self.view.sessions if one.address == address), None)
        changed = known.changed if known is not None and known.state == state else now
        self._found[address] = NeighborState(address=address, state=state, changed=changed, reason=reason)


def _clean(text: str) -> str:
    """On one line, without what a terminal obeys, and not too long: a router has a hand in it."""
    return "".join(one if one.isprintable() else " " for one in text[:MAX_REASON]).strip()


def _blocks(answer: list[tuple[int, str]]) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Of each protocol its line, and what is said of it below."""
    words: list[str] = []
    details: dict[str, str] = {}
    for code, text in answer:
        if code == 1002:
            if words:
                yield words, details
            words, details = text.split(), {}
            words += [""] * (5 - len(words))
        elif code == 1006:
            name, colon, value = text.strip().partition(":")
            if colon:
                details.setdefault(name, value.strip())
    if words:
        yield words, details


def _prefixes(texts: list[str]) -> Iterator[Prefix]:
    for text in texts:
        if match := _ROUTE.match(text):
            try:
                yield _network(match[1])
            except ValueError:
                continue


def _is_address(text: str) -> bool:
    try:
        ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True
