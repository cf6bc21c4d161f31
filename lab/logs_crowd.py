"""Thousands of senders in one process: connections from as many addresses, half syslog over TCP and half RELP.

Each sends a numbered message every `interval` seconds, at a moment of its own, and keeps its connection. One that is
closed or refused connects again a second later. A RELP sender sends again what was not answered; one over TCP cannot
know what that is.

Speaks JSON lines: each on standard input gets one back. `{"do": "sent"}`: the last number of each sender, how many are
connected, how many connections were lost so far (`retries`). `{"do": "every", "seconds": 20}`: the interval from here
on; before it nothing is sent. The standard library only.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import os
import re
import select
import socket
import time
from ipaddress import ip_address

PORTS = {"tcp": 514, "relp": 2514}
AGAIN = 1.0  # seconds until the next try to connect
AT_ONCE = 50  # connections begun in a turn
TICK = 0.05  # seconds
_GOLDEN = 0.6180339887498949
_HEAD = re.compile(rb"(\d+) rsp (\d+)[ \n]")
_OFFER = b"relp_version=0\nrelp_software=lab\ncommands=syslog"


class Sender:
    """One machine. `pending`: RELP's messages that were not answered, by their number in the session."""

    __slots__ = (
        "address",
        "asked",
        "begun",
        "kind",
        "last",
        "name",
        "out",
        "pending",
        "sock",
        "unread",
        "up",
    )

    def __init__(self, name: str, kind: str, address: str) -> None:
        self.name, self.kind, self.address = name, kind, address
        self.sock: socket.socket | None = None
        self.up = False
        self.last = 0
        self.asked = 0  # of RELP: the last number of the session
        self.out: list[bytes] = []  # whole frames
        self.begun = 0  # bytes of the first that were sent
        self.unread = b""
        self.pending: dict[int, bytes] = {}

    def message(self) -> bytes:
        self.last += 1
        text = f"numbered {self.name} {self.last} {time.time():.6f}"
        return f"<13>1 - {self.name} log - - - {text}".encode()

    def framed(self, message: bytes) -> bytes:
        if self.kind == "tcp":
            return b"%d %s" % (len(message), message)
        self.asked += 1
        self.pending[self.asked] = message
        return b"%d syslog %d %s\n" % (self.asked, len(message), message)

    def opened(self) -> None:
        """What a connection begins with: with RELP also what was not answered over the last one."""
        self.begun, self.unread, self.up = 0, b"", True
        if self.kind == "relp":
            left, self.pending, self.asked = list(self.pending.values()), {}, 1
            self.out = [b"1 open %d %s\n" % (len(_OFFER), _OFFER), *map(self.framed, left)]

    def answered(self, data: bytes) -> None:
        """Bytes of answers: `2 rsp 6 200 OK` and a line feed."""
        self.unread += data
        while (found := _answer(self.unread)) is not None:
            number, self.unread = found
            self.pending.pop(number, None)


def _answer(data: bytes) -> tuple[int, bytes] | None:
    """The number of the first whole answer, and what follows it."""
    head = _HEAD.match(data)
    if head is None:
        return None
    length = int(head[2])
    end = head.end() + length + bool(length)  # without text the head ends with the line
    return (int(head[1]), data[end:]) if len(data) >= end else None


class Crowd:
    def __init__(self, vip: str, count: int, first: str) -> None:
        kinds = itertools.cycle(PORTS)
        start = int(ip_address(first))
        self.senders = [Sender(f"c{n}", next(kinds), str(ip_address(start + n))) for n in range(count)]
        self.lost = 0
        self._vip = vip
        self._epoll = select.epoll()
        self._by_fd: dict[int, Sender] = {}
        self._order = itertools.count()
        self._connect = [(0.0, next(self._order), one) for one in self.senders]
        self._due: list[tuple[float, int, Sender]] = []
        self._every = 0.0

    def close(self) -> None:
        for sock in (one.sock for one in self.senders):
            if sock is not None:
                sock.close()
        self._epoll.close()

    def watch(self, fd: int) -> None:
        self._epoll.register(fd, select.EPOLLIN)

    def every(self, seconds: float) -> None:
        now, self._every = time.monotonic(), seconds
        self._due = [
            (now + n * _GOLDEN % 1.0 * seconds, next(self._order), one) for n, one in enumerate(self.senders)
        ]
        heapq.heapify(self._due)

    def step(self) -> bool:
        """Waits up to a tick, does what is due. Whether what is watched is readable."""
        asked = False
        for fd, event in self._epoll.poll(TICK, 1024):
            sender = self._by_fd.get(fd)
            if sender is None:
                asked = True
            elif (
                not sender.up and event & select.EPOLLOUT and not event & (select.EPOLLERR | select.EPOLLHUP)
            ):
                sender.opened()
                self._flush(sender)
            elif event & (select.EPOLLIN | select.EPOLLERR | select.EPOLLHUP):
                self._read(sender)
            else:
                self._flush(sender)
        now = time.monotonic()
        for _ in range(AT_ONCE):
            if not self._connect or self._connect[0][0] > now:
                break
            self._open(heapq.heappop(self._connect)[2])
        while self._due and self._due[0][0] <= now:
            due, _, sender = self._due[0]
            heapq.heapreplace(self._due, (due + self._every, next(self._order), sender))
            self._say(sender)
        return asked

    def _say(self, sender: Sender) -> None:
        framed = sender.framed(sender.message())
        # What is made while there is no connection waits, as in a queue; RELP's among what was not answered.
        if sender.up or sender.kind == "tcp":
            sender.out.append(framed)
        if sender.up:
            self._flush(sender)

    def _open(self, sender: Sender) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((sender.address, 0))
        sender.sock = sock
        self._by_fd[sock.fileno()] = sender
        self._epoll.register(sock, select.EPOLLOUT)
        sock.connect_ex((self._vip, PORTS[sender.kind]))

    def _flush(self, sender: Sender) -> None:
        assert sender.sock is not None
        while sender.out:
            left = sender.out[0][sender.begun :]
            try:
                sent = sender.sock.send(left)
            except BlockingIOError:
                break
            except OSError:
                self._closed(sender)
                return
            sender.begun += sent
            if sent == len(left):
                del sender.out[0]
                sender.begun = 0
        self._epoll.modify(sender.sock, select.EPOLLIN | (select.EPOLLOUT if sender.out else 0))

    def _read(self, sender: Sender) -> None:
        assert sender.sock is not None
        try:
            data = sender.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._closed(sender)
        elif sender.kind == "relp":
            sender.answered(data)

    def _closed(self, sender: Sender) -> None:
        assert sender.sock is not None
        self.lost += sender.up
        del self._by_fd[sender.sock.fileno()]
        sender.sock.close()
        sender.sock, sender.up = None, False
        heapq.heappush(self._connect, (time.monotonic() + AGAIN, next(self._order), sender))

    def stats(self) -> dict[str, object]:
        return {
            "sent": {one.name: one.last for one in self.senders},
            "open": sum(one.up for one in self.senders),
            "retries": self.lost,
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.logs_crowd", description=__doc__)
    parser.add_argument("--vip", required=True)
    parser.add_argument("--senders", type=int, default=5000)
    parser.add_argument("--first", required=True, help="the first of their addresses")
    given = parser.parse_args()
    crowd = Crowd(given.vip, given.senders, given.first)
    crowd.watch(0)
    rest = b""
    while True:
        if not crowd.step():
            continue
        data = os.read(0, 4096)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            asked = json.loads(line)
            if asked["do"] == "every":
                crowd.every(asked["seconds"])
            print(json.dumps(crowd.stats()), flush=True)


if __name__ == "__main__":
    main()
