"""Load of a resolver: DNS questions over UDP to the VIPs at a steady rate, from many addresses and ports, in one epoll loop.

Each is asked once and never again: one without an answer within `deadline` seconds is lost. The answer is the address that
the name has at the resolver that was asked, so it says which node that was.

Speaks JSON lines: `{"event": "ready"}` once each family has had an answer; then each line on stdin gets one back.
`{"do": "mark"}` starts a new count, `{"do": "stats", "least": N}` waits until N have been asked since the mark and every one
of them is answered or lost, and reports. End of file ends.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import struct
import time
from collections import Counter
from typing import Any

DEADLINE = 10.0  # seconds: on a busy machine one that waits in a buffer is late, and not lost
_BUFFER = 4 << 20  # bytes
_SO_RCVBUFFORCE = 33
TICK = 0.002  # seconds between two bundles of questions
_NAME = b"\x03www\x07example\x03net\x00"
_ASKED = struct.Struct("!HHHHHH")
_IDS = 1 << 16


def question(number: int) -> bytes:
    """For the A record of www.example.net."""
    return _ASKED.pack(number, 0x0100, 1, 0, 0, 0) + _NAME + struct.pack("!HH", 1, 1)


def answer(data: bytes) -> tuple[int, str] | None:
    """Its number and the address that it ends with; None: it is no answer with one."""
    if len(data) < _ASKED.size + len(_NAME) + 4 + 16:
        return None
    number, flags, _, answers, _, _ = _ASKED.unpack_from(data)
    if not flags & 0x8000 or flags & 0xF or not answers:
        return None
    return number, socket.inet_ntoa(data[-4:])


class Queries:
    """Sockets in turn, each question with the next number of its socket."""

    def __init__(self, sockets: list[socket.socket], rate: float) -> None:
        self.sockets = sockets
        self.rate = rate
        self.poll = select.epoll()
        self.by_fd = {one.fileno(): n for n, one in enumerate(sockets)}
        for fd in self.by_fd:
            self.poll.register(fd, select.EPOLLIN)
        self.numbers = [0] * len(sockets)
        self.waiting: dict[tuple[int, int], float] = {}  # in the order in which they were asked
        self.turn = 0
        self.due = time.monotonic()
        self.mark()

    def mark(self) -> None:
        """A new count. What waits by now belongs to it."""
        self.began = time.monotonic()
        self.sent, self.lost, self.refused = len(self.waiting), 0, 0
        self.slowest = 0.0
        self.by: Counter[str] = Counter()

    def ask(self, now: float) -> None:
        """All that are due."""
        while self.due <= now:
            self.due += 1 / self.rate
            at = self.turn = (self.turn + 1) % len(self.sockets)
            number = self.numbers[at] = (self.numbers[at] + 1) % _IDS
            self.waiting[at, number] = now
            self.sent += 1
            try:
                self.sockets[at].send(question(number))
            except OSError:  # what ICMP said of one before: the question is not sent, and counts as lost
                self.refused += 1

    def take(self, seconds: float) -> None:
        for fd, _ in self.poll.poll(seconds):
            at = self.by_fd.get(fd)
            if at is None:
                continue
            while True:
                try:
                    data = self.sockets[at].recv(512)
                except BlockingIOError:
                    break
                except OSError:
                    self.refused += 1
                    continue
                found = answer(data)
                if found is None:
                    continue
                asked = self.waiting.pop((at, found[0]), None)
                if asked is not None:
                    self.by[found[1]] += 1
                    self.slowest = max(self.slowest, time.monotonic() - asked)

    def give_up(self, now: float, deadline: float) -> None:
        """What has waited for too long is lost; the first are the oldest."""
        for key, asked in list(self.waiting.items()):
            if now - asked < deadline:
                return
            del self.waiting[key]
            self.lost += 1

    def stats(self) -> dict[str, Any]:
        seconds = time.monotonic() - self.began
        return {
            "event": "stats",
            "seconds": round(seconds, 3),
            "sent": self.sent,
            "rate": round(self.sent / seconds, 1),
            "answered": sum(self.by.values()),
            "lost": self.lost,
            "refused": self.refused,
            "waiting": len(self.waiting),
            "slowest": round(self.slowest, 4),
            "by": dict(self.by),
        }


def _sockets(servers: list[str], number: int) -> list[socket.socket]:
    found = []
    for n in range(number):
        server = servers[n % len(servers)]
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        one = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        one.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        if family == socket.AF_INET:
            one.bind((f"10.1.0.{n % 200 + 1}", 0))
        one.connect((server, 53))
        found.append(one)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", action="append", required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--sockets", type=int, default=200)
    parser.add_argument("--deadline", type=float, default=DEADLINE)
    args = parser.parse_args()
    queries = Queries(_sockets(args.server, args.sockets), args.rate)
    queries.poll.register(0, select.EPOLLIN)
    os.set_blocking(0, False)
    ready, rest, closing = False, b"", 0.0
    least: int | None = None
    while True:
        now = time.monotonic()
        if not closing:
            queries.ask(now)
        queries.take(TICK)
        queries.give_up(now, args.deadline)
        if not ready and len(queries.by) > 0:
            ready = True
            queries.mark()
            print(json.dumps({"event": "ready"}), flush=True)
        if least is not None and queries.sent >= least:
            least, closing = None, now + args.deadline + 1.0
        if closing and (not queries.waiting or now > closing):
            print(json.dumps(queries.stats()), flush=True)
            closing, queries.due = 0.0, time.monotonic()
        try:
            data = os.read(0, 4096)
        except BlockingIOError:
            continue
        if not data:
            return
        rest += data
        while b"\n" in rest:
            line, _, rest = rest.partition(b"\n")
            asked = json.loads(line)
            if asked["do"] == "mark":
                queries.mark()
                print(json.dumps({"event": "marked"}), flush=True)
            else:
                least = asked.get("least", 0)


if __name__ == "__main__":
    main()
