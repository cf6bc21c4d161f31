"""New clients alone: so many connections a second to the VIPs, each with one request; how long each waited.

Prints two lines of JSON: `{"event": "begun"}` once the first are under way, and at the end `{"event": "ended",
"clients": [[began, connected, answered, error], ...]}`: seconds from the first, None for what never came. A client
gives up after `--patience`, or 5 seconds after it has connected, or when it is told that there is no way (`error`); nobody tries again. The standard
library only, as `lab.client`.
"""

from __future__ import annotations

import argparse
import errno
import itertools
import json
import select
import socket
import time
from typing import NamedTuple

TO_ANSWER = 5.0  # seconds
TICK = 0.01  # seconds between looks at the clock
_IP_BIND_ADDRESS_NO_PORT = 24
_REQUEST = b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n"


class Client:
    """One that came at `began`. Instants of the monotonic clock."""

    __slots__ = ("answered", "began", "connected", "error", "sock")

    def __init__(self, sock: socket.socket, began: float) -> None:
        self.sock = sock
        self.began = began
        self.connected: float | None = None
        self.answered: float | None = None
        self.error = ""


class Rush(NamedTuple):
    """`rate` clients a second for `seconds`, each with `patience` seconds."""

    vips: list[str]
    sources: dict[int, list[str]]
    port: int
    rate: float
    seconds: float
    patience: float

    def run(self) -> list[Client]:
        targets = itertools.cycle(self.vips)
        sources = {family: itertools.cycle(addresses) for family, addresses in self.sources.items()}
        epoll = select.epoll()
        under_way: dict[int, Client] = {}
        clients: list[Client] = []
        begun = False
        start = time.monotonic()
        total = round(self.rate * self.seconds)
        while len(clients) < total or under_way:
            now = time.monotonic()
            while len(clients) < total and start + len(clients) / self.rate <= now:
                vip = next(targets)
                one = _opened(vip, next(sources[6 if ":" in vip else 4]), self.port, now)
                clients.append(one)
                if not one.error:
                    under_way[one.sock.fileno()] = one
                    epoll.register(one.sock, select.EPOLLOUT)
            for fd, event in epoll.poll(TICK, 1024):
                one = under_way[fd]
                if _over(one, event, epoll):
                    del under_way[fd]
                    one.sock.close()
            for fd, one in [(fd, one) for fd, one in under_way.items() if self._gives_up(one, now)]:
                one.error = "gave up"
                del under_way[fd]
                one.sock.close()
            if not begun:
                begun = True
                print(json.dumps({"event": "begun"}), flush=True)
        return clients

    def _gives_up(self, one: Client, now: float) -> bool:
        since, patience = (one.began, self.patience) if one.connected is None else (one.connected, TO_ANSWER)
        return since + patience <= now


def _opened(vip: str, source: str, port: int, now: float) -> Client:
    sock = socket.socket(socket.AF_INET6 if ":" in vip else socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
    sock.bind((source, 0))
    one = Client(sock, now)
    failure = sock.connect_ex((vip, port))
    if failure not in (0, errno.EINPROGRESS):
        one.error = errno.errorcode.get(failure, str(failure))
        sock.close()
    return one


def _over(one: Client, event: int, epoll: select.epoll) -> bool:
    now = time.monotonic()
    try:
        if one.connected is None:
            if failure := one.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                one.error = errno.errorcode.get(failure, str(failure))
                return True
            if event & select.EPOLLOUT:
                one.connected = now
                one.sock.send(_REQUEST)
                epoll.modify(one.sock, select.EPOLLIN)
            return False
        if one.sock.recv(4096):
            one.answered = now
        else:
            one.error = "closed"
    except BlockingIOError:
        return False
    except OSError as error:
        one.error = errno.errorcode.get(error.errno or 0, str(error))
    return True


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.newcomers")
    parser.add_argument("--rate", type=float, default=200.0, help="a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--patience", type=float, default=60.0, help="seconds")
    parser.add_argument("--vip", action="append", required=True)
    parser.add_argument("--port", type=int, default=80)
    parser.add_argument("--source4", default="10.1.0.", help="start of the IPv4 source addresses")
    parser.add_argument("--source6", default="fd00:1::", help="start of the IPv6 source addresses")
    given = parser.parse_args()
    sources = {
        4: [f"{given.source4}{number}" for number in range(1, 201)],
        6: [f"{given.source6}{number:x}" for number in range(1, 61)],
    }
    rush = Rush(given.vip, sources, given.port, given.rate, given.seconds, given.patience)
    clients = rush.run()
    start = clients[0].began
    rows = [
        [round(one.began - start, 4), *(None if at is None else round(at - one.began, 4) for at in (one.connected, one.answered)), one.error]
        for one in clients
    ]  # fmt: skip
    print(json.dumps({"event": "ended", "clients": rows}), flush=True)


if __name__ == "__main__":
    main()
