"""CPU time of checks by a tunnel against that of the same checks sent directly, in turns, at the same rate.

`python -m lab.bench_tunnel`. Needs root and two processors, and nothing of the kernel: the real servers, 1,000
addresses in a network namespace, unwrap GUE by a process of theirs. In the lab (`python -m lab run -- python -m
lab.bench_tunnel --kernel`) the kernel unwraps IP in IP; there all is on one processor, and what the real servers' kernel
does within a send is counted too. Only the ratios of one run say anything.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import selectors
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

from anycast.agent.checker import Checker
from anycast.core.health.phase import Outcome, Result
from anycast.core.values.checks import TcpCheck
from anycast.core.values.configuration import Check, CheckKind, HttpCheck, Target, Tunnel, TunnelType
from lab.measuring import say

_VIP, _VIPS = (
    int(IPv4Address("192.0.2.0")),
    16,
)  # so that no two servers of the one host meet at one port of ours
_FIRST = int(IPv4Address("10.78.0.1"))
_PORT, _GUE_PORT = 8080, 6080
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 1, 0x1000
_KINDS: dict[str, CheckKind] = {
    "tcp": TcpCheck(),
    "http": HttpCheck(tls=False),
    "kept": HttpCheck(tls=False, keep_alive=True),
}


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _write(name: str, value: str) -> None:
    Path("/proc/sys/net", name).write_text(value, encoding="ascii")


def _servers(kernel: bool, processor: int, ready: int) -> None:  # noqa: FBT001
    """The real servers: a process that never returns."""
    os.sched_setaffinity(0, {processor})
    _ip("link", "set", "lo", "up")
    selector = selectors.DefaultSelector()
    _ip("addr", "add", "10.9.2.1/24", "dev", "lan")
    _ip("link", "set", "lan", "up")
    for address in ("10.78.0.0/20", "192.0.2.0/28"):
        _ip("route", "add", "local", address, "dev", "lo")
    for device in ("all", "default"):
        _write(f"ipv4/conf/{device}/rp_filter", "0")
    if kernel:
        _ip("link", "set", "tunl0", "up")
        _write("ipv4/conf/tunl0/rp_filter", "0")
    else:
        tun = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH14x", b"tun0", _IFF_TUN | _IFF_NO_PI))
        _ip("link", "set", "tun0", "up")
        _write("ipv4/conf/tun0/rp_filter", "0")
        gue = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        gue.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)
        gue.bind(("", _GUE_PORT))
        gue.setblocking(False)

        def unwrap() -> None:
            try:
                while True:
                    os.write(tun, gue.recv(2048)[4:])
            except BlockingIOError:
                pass

        selector.register(gue, selectors.EVENT_READ, unwrap)
    listener = socket.create_server(("", _PORT), backlog=4096)
    listener.setblocking(False)

    def answer(connection: socket.socket) -> None:
        try:
            data = connection.recv(4096)
            if data:
                connection.send(
                    _ANSWER if b"close" in data else _ANSWER.replace(b"Connection: close\r\n", b"")
                )
                if b"close" not in data:
                    return
        except BlockingIOError:
            return
        except OSError:
            pass
        selector.unregister(connection)
        connection.close()

    def accept() -> None:
        try:
            while True:
                connection, _ = listener.accept()
                connection.setblocking(False)
                selector.register(connection, selectors.EVENT_READ, partial(answer, connection))
        except BlockingIOError:
            pass
        except OSError:
            pass

    selector.register(listener, selectors.EVENT_READ, accept)
    os.write(ready, b"x")
    while True:
        for key, _ in selector.select():
            call: Callable[[], None] = key.data
            call()


@contextmanager
def _site(*, kernel: bool) -> Iterator[None]:
    """This process is in a namespace with the real servers on its link."""
    processors = sorted(os.sched_getaffinity(0))
    _unshare()
    ours, theirs = os.pipe()
    go, told = os.pipe()
    child = os.fork()
    if not child:
        _unshare()
        os.write(theirs, b"x")
        os.read(go, 1)
        _servers(kernel, processors[-1], theirs)
    os.read(ours, 1)
    os.sched_setaffinity(0, {processors[0]})
    try:
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "lan", "type", "veth", "peer", "name", "lan", "netns", str(child))
        _ip("addr", "add", "10.9.2.254/24", "dev", "lan")
        _ip("link", "set", "lan", "up")
        os.write(told, b"x")
        os.read(ours, 1)
        _ip("route", "add", "10.78.0.0/20", "via", "10.9.2.1")
        for number in range(_VIPS):
            _ip("addr", "add", f"{IPv4Address(_VIP + number)}/32", "dev", "lo", "scope", "host")
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _unshare() -> None:
    import ctypes

    if ctypes.CDLL(None).unshare(0x40000000):
        raise OSError("unshare")


def _vip(number: int, tunnel: Tunnel | None) -> IPv4Address | None:
    return None if tunnel is None else IPv4Address(_VIP + number % _VIPS)


async def _window(kind: CheckKind, tunnel: Tunnel | None, count: int, seconds: float) -> tuple[float, float]:
    """CPU seconds for 1,000 checks, and checks a second. Raises RuntimeError: one failed."""
    seen: set[Target] = set()
    failed: list[str] = []
    runs = [0]
    every = asyncio.Event()

    def report(target: Target, result: Result) -> None:
        seen.add(target)
        if len(seen) == count:
            every.set()
        if result.outcome is not Outcome.OK:
            failed.append(result.detail)
        checker.schedule(target, 1.0, quiet=True)

    checker = Checker(report)
    check = Check(kind=kind, interval=1.0, timeout=1.0, to_vip=tunnel is not None)
    checker.set_targets(
        frozenset(
            Target(
                address=IPv4Address(_FIRST + number),
                port=_PORT,
                check=check,
                vip=_vip(number, tunnel),
                tunnel=tunnel,
            )
            for number in range(count)
        )
    )
    await every.wait()
    await asyncio.sleep(1.5)
    failed.clear()
    tally = checker.probes[kind.type]
    before, began, cpu = sum(tally.outcomes.values()), time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    cpu, ended, runs[0] = time.process_time() - cpu, time.monotonic(), sum(tally.outcomes.values()) - before
    await checker.close()
    if failed:
        raise RuntimeError(f"{len(failed)} checks failed: {failed[0]}")
    return cpu / runs[0] * 1000, runs[0] / (ended - began)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.bench_tunnel", description=__doc__)
    parser.add_argument("--kernel", action="store_true", help="the real servers' kernel unwraps IP in IP")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=1000, help="checks a second")
    parser.add_argument("--window", type=float, default=4.0, help="seconds of each reading")
    parser.add_argument("--only", choices=sorted(_KINDS))
    options = parser.parse_args()
    tunnel = Tunnel() if options.kernel else Tunnel(type=TunnelType.GUE, port=_GUE_PORT)
    if options.kernel:
        subprocess.run(["modprobe", "ipip"], check=True)
    found: dict[str, dict[str, list[float]]] = {}
    with _site(kernel=options.kernel):
        for number in range(options.rounds):
            for name, kind in _KINDS.items():
                if options.only not in (None, name):
                    continue
                sides = [("direct", None), (str(tunnel.type), tunnel)]
                for side, way in sides if number % 2 == 0 else reversed(sides):
                    cost, rate = asyncio.run(_window(kind, way, options.count, options.window))
                    found.setdefault(name, {}).setdefault(side, []).append(cost)
                    say(
                        f"round {number + 1}: {name} {side}: {cost * 1000:.1f} ms CPU for 1,000 checks, {rate:,.0f}/s"
                    )
    for name, by_side in found.items():
        direct, wrapped = (statistics.median(one) for one in by_side.values())
        if next(iter(by_side)) != "direct":
            direct, wrapped = wrapped, direct
        say(f"{name}: {wrapped / direct:.2f} x direct ({wrapped * 1000:.1f} ms to {direct * 1000:.1f} ms)")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
