"""Load: long-lived TCP connections to the VIPs from many source addresses, in one epoll loop.

Each connection asks every `interval` seconds, on a beat of its own, and remembers which real server answers. It is
broken when it is refused, reset, closed by the other side or silent for `deadline` seconds, and moved when another real
server answers than at first (which a connection that lives cannot be). On top of them, `probes` new
connections a second, one request each.

Speaks JSON lines. On stdout first `{"event": "ready", ...}`, when every connection has had an answer or is
broken. Each line on stdin gets one line back: `{"do": "mark"}` starts a new count, `{"do": "stats"}` reports
since the last mark (see `Load.stats`), `{"do": "answered"}` reports as soon as every connection has asked and
been answered since the mark or is broken, and every new connection under way has come to its end, `{"do": "fill"}` replaces broken connections and reports as at the start
(`ready`), `{"do": "stop"}` or end of file ends.
"""

from __future__ import annotations

import argparse
import errno
import heapq
import itertools
import json
import os
import select
import socket
import time
from collections import Counter, deque
from typing import Any

DEADLINE = 6.0  # seconds without an answer, by default
TICK = 0.02  # seconds between looks at the clock: sends are bundled, for a system call is dear in the lab
_CONNECTING_AT_ONCE = 60  # per tick
_GOLDEN = 0.6180339887498949  # of an interval from one beat to the next: any number of them is spread evenly
_IP_BIND_ADDRESS_NO_PORT = 24
_REQUEST = b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n"


class Connection:
    """One TCP connection; `asked` is when the answer under way was asked for (0: none is)."""

    __slots__ = (
        "answered", "asked", "beat", "error", "family", "fd", "moved", "pause", "probe", "server", "sock",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, family: int, now: float, *, probe: bool) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.family = family  # 4 or 6
        self.probe = probe
        self.asked = now
        self.answered = False  # a question of after the mark
        self.server = ""
        self.moved = False
        self.pause = 0.0  # longest wait for an answer since the mark
        self.error = ""
        self.beat = 0.0  # seconds into each interval at which it asks


class Load:
    """The connections and their counts. Drive it with `step`."""

    def __init__(
        self,
        vips: list[str],
        sources: dict[int, list[str]],
        *,
        interval: float,
        probes: float = 0.0,
        deadline: float = DEADLINE,
        port: int = 80,
    ) -> None:
        self._targets = itertools.cycle([(6 if ":" in vip else 4, vip) for vip in vips])
        self._sources = {family: itertools.cycle(addresses) for family, addresses in sources.items()}
        self._interval = interval
        self._deadline = deadline
        self._port = port
        self._probe_gap = 1 / probes if probes else 0.0
        self._next_probe = 0.0
        self._epoll = select.epoll()
        self._open: dict[int, Connection] = {}
        self._idle: list[tuple[float, int, Connection]] = []  # a heap, by time of the next question
        self._asked = itertools.count()
        self._waiting: deque[tuple[float, Connection]] = deque()  # by deadline
        self._to_open = 0
        self.connections: list[Connection] = []
        self.probes: Counter[str] = Counter()
        self.probe_families: Counter[int] = Counter()  # of those that were served
        self.probe_pause = 0.0
        self._awaited = 0.0
        self._already_broken: set[Connection] = set()
        self._marked = 0.0

    @property
    def alive(self) -> int:
        return sum(not c.error for c in self.connections)

    @property
    def answered(self) -> bool:
        """Every connection has asked and been answered since the mark, or is broken; no probe is left from before
        `await_answers`.
        """
        under_way = any(c.probe and c.asked <= self._awaited for c in self._open.values())
        return not under_way and all(c.answered or c.error for c in self.connections)

    def await_answers(self) -> None:
        self._awaited = time.monotonic()

    def open(self, count: int) -> None:
        self._to_open += count

    @property
    def settled(self) -> bool:
        """Every connection has had an answer or is broken."""
        return not self._to_open and all(c.server or c.error for c in self.connections)

    def close(self) -> None:
        for connection in list(self._open.values()):
            connection.sock.close()
        self._epoll.close()

    def watch(self, fd: int) -> None:
        self._epoll.register(fd, select.EPOLLIN)

    def step(self) -> list[int]:
        """Waits up to a tick, does what is due; returns watched descriptors that are readable."""
        others = []
        events = self._epoll.poll(TICK, 1024)
        now = time.monotonic()
        for fd, event in events:
            connection = self._open.get(fd)
            if connection is None:
                others.append(fd)
            elif event & select.EPOLLOUT and not event & (select.EPOLLERR | select.EPOLLHUP):
                self._epoll.modify(fd, select.EPOLLIN)
                self._ask(connection, now, first=True)
            else:
                self._answer(connection, now)
        self._due(now)
        return others

    def _due(self, now: float) -> None:
        for _ in range(min(self._to_open, _CONNECTING_AT_ONCE)):
            self._to_open -= 1
            connection = self._connect(now, probe=False)
            connection.beat = len(self.connections) * _GOLDEN % 1.0 * self._interval
            self.connections.append(connection)
        while self._idle and self._idle[0][0] <= now:
            connection = heapq.heappop(self._idle)[2]
            if not connection.error:
                self._ask(connection, now)
        while self._waiting and self._waiting[0][0] <= now:
            deadline, connection = self._waiting.popleft()
            if not connection.error and connection.asked and connection.asked + self._deadline <= deadline:
                self._break(connection, "silent" if connection.server else "no answer", now)
        while self._probe_gap and now >= self._next_probe and not self._to_open:
            # What a busy tick was too late for is made up for, but not what a stopped machine was.
            self._next_probe = max(self._next_probe + self._probe_gap, now - TICK)
            self._connect(now, probe=True)

    def _connect(self, now: float, *, probe: bool) -> Connection:
        family, vip = next(self._targets)
        sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        connection = Connection(sock, family, now, probe=probe)
        sock.bind((next(self._sources[family]), 0))
        failure = sock.connect_ex((vip, self._port))
        self._open[connection.fd] = connection
        self._epoll.register(sock, select.EPOLLOUT)
        self._waiting.append((now + self._deadline, connection))
        if failure != errno.EINPROGRESS and failure:
            self._break(connection, errno.errorcode.get(failure, str(failure)), now)
        return connection

    def _ask(self, connection: Connection, now: float, *, first: bool = False) -> None:
        try:
            connection.sock.send(_REQUEST)
        except OSError as error:
            self._break(connection, _word(error), now)
            return
        if not first:  # the first answer's time runs from the connect
            connection.asked = now
            self._waiting.append((now + self._deadline, connection))

    def _answer(self, connection: Connection, now: float) -> None:
        try:
            data = connection.sock.recv(4096)
        except BlockingIOError:
            return
        except OSError as error:
            self._break(connection, _word(error), now)
            return
        if not data:
            self._break(connection, "closed", now)
            return
        server = data.rpartition(b"\r\n\r\n")[2].decode().strip()
        connection.answered = connection.answered or connection.asked >= self._marked
        pause, connection.asked = now - connection.asked, 0.0
        if connection.probe:
            self.probes["ok"] += 1
            self.probe_families[connection.family] += 1
            self.probe_pause = max(self.probe_pause, pause)
            self._close(connection)
            return
        if not connection.server:
            connection.server = server
        elif server != connection.server:
            connection.moved = True
        connection.pause = max(connection.pause, pause)
        # On its beat again, at once after a pause: thousands that were answered together would go on together.
        wait = self._interval - (now - connection.beat) % self._interval
        heapq.heappush(self._idle, (now + wait, next(self._asked), connection))

    def _break(self, connection: Connection, error: str, now: float) -> None:
        connection.error = error
        connection.pause = max(connection.pause, now - connection.asked if connection.asked else 0.0)
        if connection.probe:
            self.probes[error] += 1
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        connection.error = connection.error or ("done" if connection.probe else "")
        self._open.pop(connection.fd, None)
        connection.sock.close()

    def mark(self) -> None:
        """Starts a new count. Connections broken before it are left out of every later one."""
        self._already_broken = {c for c in self.connections if c.error}
        for connection in self.connections:
            connection.pause = 0.0
            connection.moved = connection.answered = False
        self._marked = time.monotonic()
        self.probes.clear()
        self.probe_families.clear()
        self.probe_pause = 0.0

    def stats(self) -> dict[str, Any]:
        """Since the mark. Seconds; `longest_pause` counts a question still unanswered too."""
        now = time.monotonic()
        counted = [c for c in self.connections if c not in self._already_broken]
        result = _summary(counted, now)
        result["by_family"] = {
            str(family): _summary([c for c in counted if c.family == family], now) for family in (4, 6)
        }
        failed = {kind: n for kind, n in self.probes.items() if kind != "ok"}
        result["probes"] = {
            "ok": self.probes["ok"],
            "failed": sum(failed.values()),
            "errors": failed,
            "by_family": {str(family): self.probe_families[family] for family in (4, 6)},
            "longest": round(self.probe_pause, 4),
        }
        unanswered = (now - c.asked for c in counted if c.asked and not c.error)
        result["waiting"] = round(max(unanswered, default=0.0), 4)  # longest question without an answer yet
        result["cpu_seconds"] = round(time.process_time(), 3)
        return result


def _summary(connections: list[Connection], now: float) -> dict[str, Any]:
    broken = [c for c in connections if c.error]
    pauses = sorted(max(c.pause, now - c.asked if c.asked and not c.error else 0.0) for c in connections)
    return {
        "connections": len(connections),
        "broken": len(broken),
        "errors": dict(Counter(c.error for c in broken)),
        "lost_by_server": dict(Counter(c.server or "none" for c in broken)),
        "moved": sum(c.moved for c in connections),
        "servers": dict(sorted(Counter(c.server for c in connections if not c.error).items())),
        "longest_pause": round(pauses[-1], 4) if pauses else 0.0,
        "median_pause": round(pauses[len(pauses) // 2], 4) if pauses else 0.0,
    }


def _word(error: OSError) -> str:
    words = {errno.ECONNRESET: "reset", errno.ECONNREFUSED: "refused", errno.ETIMEDOUT: "timeout"}
    number = error.errno or 0
    return words.get(number) or errno.errorcode.get(number, str(error))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lab.client")
    parser.add_argument("--connections", type=int, default=600)
    parser.add_argument(
        "--interval", type=float, default=0.5, help="seconds between two questions of a connection"
    )
    parser.add_argument("--probes", type=float, default=0.0, help="new connections a second")
    parser.add_argument("--deadline", type=float, default=DEADLINE, help="seconds of silence that break one")
    parser.add_argument("--vip", action="append", required=True, help="address; give it once per VIP address")
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--source4", default="10.1.0.", help="start of the IPv4 source addresses")
    parser.add_argument("--source6", default="fd00:1::", help="start of the IPv6 source addresses")
    parser.add_argument("--sources4", type=int, default=200)
    parser.add_argument("--sources6", type=int, default=60)
    return parser.parse_args(argv)


def _say(document: dict[str, Any]) -> None:
    print(json.dumps(document), flush=True)


def main(argv: list[str] | None = None) -> None:
    options = _parse(argv)
    sources = {
        4: [f"{options.source4}{i}" for i in range(1, options.sources4 + 1)],
        6: [f"{options.source6}{i:x}" for i in range(1, options.sources6 + 1)],
    }
    load = Load(
        options.vip,
        sources,
        interval=options.interval,
        probes=options.probes,
        deadline=options.deadline,
        port=options.port,
    )
    load.open(options.connections)
    load.watch(0)
    ready = False
    awaited = False  # somebody waits for `answered`
    rest = b""
    while True:
        if load.step():
            data = os.read(0, 4096)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                match json.loads(line)["do"]:
                    case "mark":
                        load.mark()
                        _say({"event": "marked"})
                    case "stats":
                        _say({"event": "stats", **load.stats()})
                    case "answered":
                        awaited = True
                        load.await_answers()
                    case "fill":
                        load.open(options.connections - load.alive)
                        ready = False
                    case "stop":
                        return
                    case other:
                        _say({"event": "error", "error": f"no such command: {other}"})
        if awaited and load.answered:
            awaited = False
            _say({"event": "answered", **load.stats()})
        if not ready and load.settled:
            ready = True
            _say({"event": "ready", **load.stats()})


if __name__ == "__main__":
    main()
