"""Our IPVS work against the tools people use: how long it takes, and how long our event loop stands meanwhile.

Runs inside the lab's kernel: `python -m lab run -- python -m lab.bench`. Prints progress, then two tables; the same
as JSON in `build/bench.json`. Every measurement has a fresh network namespace and is followed by a look at what the
kernel then holds. In User-Mode-Linux system calls are dear: only the ratios of one run say anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple, Self, TypeVar, cast

from anycast.core.dataplane import ipvs
from anycast.core.dataplane.kernel import Desired, KernelOp, Snapshot, diff
from anycast.core.values.configuration import Forwarding, Protocol, Scheduler, SchedulerFlag
from anycast.kernel import ipvs_codec as codec
from anycast.kernel import netlink_codec
from anycast.kernel.adapter import Kernel
from lab import measuring, netns
from lab.figures import Comparison, Times, document, milliseconds, stall, summary
from lab.measuring import say

ROUNDS = 5
MH_FLAGS = frozenset({SchedulerFlag.MH_PORT, SchedulerFlag.MH_FALLBACK})
MH_SERVERS = 4000  # the kernel's Maglev table has 4,093 places
SHAPES = {"1 × 5,000": (1, 5000), "50 × 100": (50, 100)}
EMPTY = Snapshot(table={}, addresses=frozenset(), sysctls={})
BATCH = 256  # messages per send, where they are packed beforehand
POLL = 0.05  # seconds between two looks at what keepalived has done; a look costs about 10 ms
PATIENCE = 60.0  # seconds for keepalived
QUIET = 0.3  # seconds for the kernel to clear away a namespace
_KERNEL = "the kernel alone"
_NETLINK_GENERIC = 16

Contents = dict[ipvs.Key, ipvs.ServiceEntry]
T = TypeVar("T")


def contents(
    services: int, servers: int, *, scheduler: Scheduler = Scheduler.WLC, weight: int = 1
) -> Contents:
    """A table of `services` with `servers` real servers each, no two alike."""
    flags = MH_FLAGS if scheduler is Scheduler.MH else frozenset[SchedulerFlag]()
    first = int(IPv4Address("10.16.0.0"))
    return {
        ipvs.ServiceKey(protocol=Protocol.TCP, address=IPv4Address("192.0.2.1"), port=8000 + number): (
            ipvs.ServiceEntry(
                scheduler=scheduler,
                flags=flags,
                destinations=tuple(
                    ipvs.Destination(
                        address=IPv4Address(first + number * servers + place),
                        port=8000 + number,
                        weight=weight,
                        table_weight=weight,
                        forwarding=Forwarding.DR,
                    )
                    for place in range(servers)
                ),
            )
        )
        for number in range(services)
    }


def _vip(key: ipvs.Key) -> tuple[str, int]:
    assert isinstance(key, ipvs.ServiceKey)
    return str(key.address), key.port


def fill_text(wanted: Contents) -> str:
    """For `ipvsadm --restore`, as `ipvsadm -Sn` writes it."""
    lines = []
    for key, entry in wanted.items():
        address, port = _vip(key)
        lines.append(f"-A -t {address}:{port} -s {entry.scheduler}")
        lines += [f"-a {server}" for server in _servers_text(key, entry)]
    return "\n".join([*lines, ""])


def changes_text(wanted: Contents) -> str:
    """For `ipvsadm --restore`: every real server changed to what is wanted."""
    lines = [f"-e {server}" for key, entry in wanted.items() for server in _servers_text(key, entry)]
    return "\n".join([*lines, ""])


def _servers_text(key: ipvs.Key, entry: ipvs.ServiceEntry) -> Iterator[str]:
    address, port = _vip(key)
    for one in entry.destinations:
        yield f"-t {address}:{port} -r {one.address}:{one.port} -g -w {one.weight}"


def keepalived_conf(wanted: Contents) -> str:
    """Real servers without checks: they are in use from the start."""
    lines = ["global_defs {", "    router_id bench", "}"]
    for key, entry in wanted.items():
        address, port = _vip(key)
        lines += [f"virtual_server {address} {port} {{", f"    lb_algo {entry.scheduler}"]
        lines += ["    lb_kind DR", "    protocol TCP"]
        for one in entry.destinations:
            lines += [f"    real_server {one.address} {one.port} {{", f"        weight {one.weight}", "    }"]
        lines.append("}")
    return "\n".join([*lines, ""])


def naive(wanted: Contents) -> tuple[KernelOp, ...]:
    """The services as they shall be first, then each real server: the scheduler works at every one."""
    ops: list[KernelOp] = []
    for key, entry in wanted.items():
        ops.append(ipvs.AddService(service=key, settings=entry.settings))
        ops += [ipvs.AddDestination(service=key, destination=one) for one in entry.destinations]
    return tuple(ops)


class Loop:
    """The longest time between two turns of the running event loop, over the block."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._on = True

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        await asyncio.sleep(0)
        self._last = time.perf_counter()
        self._loop.call_soon(self._turn)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._look()
        self._on = False

    def _turn(self) -> None:
        self._look()
        if self._on:
            self._loop.call_soon(self._turn)

    def _look(self) -> None:
        now = time.perf_counter()
        self.longest = max(self.longest, now - self._last)
        self._last = now


def desired(wanted: Contents) -> Desired:
    return Desired(table=wanted, addresses=frozenset(), sysctls={}, exclusive=True)


def in_kernel(story: Callable[[Kernel], Awaitable[T]]) -> T:
    """What the story tells of the kernel of the namespace that this is called in."""

    async def told() -> T:
        kernel = Kernel("lo")
        try:
            return await story(kernel)
        finally:
            await kernel.close()

    return asyncio.run(told())


async def bring(kernel: Kernel, actual: Snapshot, wanted: Contents) -> None:
    """The difference, played: what the agent does when it programs the kernel."""
    ops = diff(actual, desired(wanted))
    await asyncio.sleep(0)  # as there: what plays is a task of its own
    if failures := await kernel.play(ops):
        raise RuntimeError(failures[0].text)


async def proven(kernel: Kernel, wanted: Contents) -> Snapshot:
    """What the agent does to see that there is nothing to do. Raises RuntimeError when there is."""
    actual = await kernel.read(())
    if left := diff(actual, desired(wanted)):
        raise RuntimeError(f"the kernel does not hold what was wanted: {left[:2]}")
    return actual


async def filled(kernel: Kernel, wanted: Contents) -> Snapshot:
    await bring(kernel, await kernel.read(()), wanted)
    return await proven(kernel, wanted)


@contextlib.contextmanager
def namespace() -> Iterator[None]:
    """A fresh one. What clears it away has ended before the next measurement."""
    with netns.fresh():
        yield
        ipvsadm("-C")
    time.sleep(QUIET)


def ipvsadm(*arguments: str, stdin: str = "") -> float:
    """How long it took."""
    began = time.perf_counter()
    subprocess.run(["ipvsadm", *arguments], input=stdin, text=True, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def listed() -> int:
    """Real servers in the kernel's list in /proc."""
    return Path("/proc/thread-self/net/ip_vs").read_bytes().count(b"\n  ->") - 1


def count(wanted: Contents) -> int:
    return sum(len(entry.destinations) for entry in wanted.values())


def expect(wanted: Contents) -> None:
    if listed() != count(wanted):
        raise RuntimeError(f"{listed()} real servers in the kernel, not {count(wanted)}")


def timed(
    before: Contents | None, act: Callable[[Kernel, Snapshot], Awaitable[object]], after: Contents
) -> float:
    """How long `act` takes from one table that was read, or None, to the other, which is then proven."""

    async def story(kernel: Kernel) -> float:
        actual = EMPTY if before is None else await filled(kernel, before)
        began = time.perf_counter()
        await act(kernel, actual)
        took = time.perf_counter() - began
        await proven(kernel, after)
        return took

    with namespace():
        return in_kernel(story)


def our_fill(wanted: Contents) -> float:
    """From a kernel that was never read to the whole table."""

    async def fill(kernel: Kernel, _: Snapshot) -> None:
        await bring(kernel, await kernel.read(()), wanted)

    return timed(None, fill, wanted)


def ipvsadm_fill(wanted: Contents) -> float:
    text = fill_text(wanted)
    with namespace():
        took = ipvsadm("--restore", stdin=text)
        expect(wanted)
        return took


def naive_fill(wanted: Contents) -> float:
    return timed({}, lambda kernel, _: kernel.play(naive(wanted)), wanted)


def keepalived_start(wanted: Contents) -> float:
    """From the start of the program until the list in /proc is whole."""
    conf = Path("/run/bench-keepalived.conf")
    conf.write_text(keepalived_conf(wanted))
    argv = ["keepalived", "--dont-fork", "--check", "--log-console", f"--use-file={conf}"]
    argv += ["--pid=/run/bench-keepalived.pid", "--checkers_pid=/run/bench-checkers.pid"]
    with namespace():
        began = time.perf_counter()
        daemon = subprocess.Popen(
            argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            while listed() != count(wanted):
                if daemon.poll() is not None or time.perf_counter() - began > PATIENCE:
                    raise RuntimeError(f"keepalived: {listed()} of {count(wanted)}, {daemon.returncode}")
                time.sleep(POLL)
            return time.perf_counter() - began
        finally:
            end(daemon)


def end(daemon: subprocess.Popen[bytes]) -> None:
    # Asked to end, it would take out every server first, for seconds.
    os.killpg(daemon.pid, signal.SIGKILL)
    daemon.wait()
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.killpg(daemon.pid, 0)
            time.sleep(0.01)


def packed(ops: Sequence[KernelOp]) -> float:
    """What the kernel itself takes for `ops`: the same messages, packed beforehand and sent without a pause."""
    requests = [request for op in ops for request in codec.requests(cast("ipvs.IpvsOp", op))]
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_GENERIC) as line:
        line.send(codec.family_frame(1))
        answer = line.recv(65536)
        family = codec.parse_family(answer, next(netlink_codec.messages(answer)))
        parts = [requests[at : at + BATCH] for at in range(0, len(requests), BATCH)]
        frames = [codec.frame(part, family=family, sequence=2 + at * BATCH) for at, part in enumerate(parts)]
        began = time.perf_counter()
        for frame in frames:
            line.send(frame)
            line.recv(65536)
        return time.perf_counter() - began


def packed_fill(wanted: Contents) -> float:
    ops = diff(EMPTY, desired(wanted))
    with namespace():
        took = packed(ops)
        expect(wanted)
        return took


def packed_changes(before: Contents, after: Contents) -> float:
    return peer_changes(before, lambda actual: packed(diff(actual, desired(after))), after)


def ipvsadm_changes(before: Contents, after: Contents) -> float:
    text = changes_text(after)
    return peer_changes(before, lambda _: ipvsadm("--restore", stdin=text), after)


def peer_changes(before: Contents, act: Callable[[Snapshot], float], after: Contents) -> float:
    with namespace():
        took = act(in_kernel(lambda kernel: filled(kernel, before)))
        in_kernel(lambda kernel: proven(kernel, after))
        return took


def our_changes(before: Contents, after: Contents) -> float:
    return timed(before, lambda kernel, actual: bring(kernel, actual, after), after)


def our_reconcile(wanted: Contents) -> float:
    return timed(wanted, lambda kernel, _: proven(kernel, wanted), wanted)


def ipvsadm_list(wanted: Contents) -> float:
    with namespace():
        in_kernel(lambda kernel: filled(kernel, wanted))
        return ipvsadm("-Sn")


def stood(before: Contents, after: Contents) -> float:
    """While one table, known from a read, becomes the other and is read back."""

    async def story(kernel: Kernel) -> float:
        actual = await filled(kernel, before)
        async with Loop() as loop:
            await bring(kernel, actual, after)
            await proven(kernel, after)
        return loop.longest

    with namespace():
        return in_kernel(story)


def idle_stall() -> float:
    """While nothing is done: what the machine itself adds."""

    async def story() -> float:
        async with Loop() as loop:
            await asyncio.sleep(0.3)
        return loop.longest

    return asyncio.run(story())


class Work(NamedTuple):
    result: Comparison
    ours: Callable[[], float]
    theirs: Callable[[], float]


def works() -> list[Work]:
    """All of the first table."""
    found = []

    def work(
        name: str,
        peer: str,
        goal: float | None,
        ours: Callable[..., float],
        theirs: Callable[..., float],
        *tables: Contents,
    ) -> None:
        result = Comparison(work=name, peer=peer, goal=goal)
        found.append(Work(result, partial(ours, *tables), partial(theirs, *tables)))

    for shape, size in SHAPES.items():
        wanted, heavier = contents(*size), contents(*size, weight=2)
        fill, change = f"fill, {shape}", f"change all weights, {shape}"
        work(fill, "ipvsadm --restore", 0.1, our_fill, ipvsadm_fill, wanted)
        work(fill, "start of keepalived", 0.5, our_fill, keepalived_start, wanted)
        work(fill, _KERNEL, None, our_fill, packed_fill, wanted)
        work(change, "ipvsadm --restore", 0.1, our_changes, ipvsadm_changes, wanted, heavier)
        work(change, _KERNEL, None, our_changes, packed_changes, wanted, heavier)
        work(f"read, nothing to do, {shape}", "ipvsadm -Sn", 1, our_reconcile, ipvsadm_list, wanted)
    maglev = contents(1, MH_SERVERS, scheduler=Scheduler.MH)
    work(f"fill, mh, 1 × {MH_SERVERS:,}", "one by one under mh", 0.2, our_fill, naive_fill, maglev)
    return found


def stalls() -> list[tuple[Times, Callable[[], float]]]:
    """All of the second table."""
    found: list[tuple[Times, Callable[[], float]]] = [(stall("nothing"), idle_stall)]
    for shape, size in SHAPES.items():
        wanted, heavier = contents(*size), contents(*size, weight=2)
        found += [
            (stall(f"fill, {shape}"), partial(stood, {}, wanted)),
            (stall(f"change all weights, {shape}"), partial(stood, wanted, heavier)),
            (stall(f"read, nothing to do, {shape}"), partial(stood, wanted, wanted)),
            (stall(f"remove, {shape}"), partial(stood, wanted, {})),
        ]
    maglev, heavier = (contents(1, MH_SERVERS, scheduler=Scheduler.MH, weight=weight) for weight in (1, 2))
    found += [
        (stall(f"fill, mh, 1 × {MH_SERVERS:,}"), partial(stood, {}, maglev)),
        (stall(f"change all weights, mh, 1 × {MH_SERVERS:,}"), partial(stood, maglev, heavier)),
    ]
    return found


def main(argv: list[str] | None = None) -> int:
    parser = measuring.options("lab.bench", __doc__, "bench.json")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(argv)
    compared, watched = works(), stalls()
    for scheduler in Scheduler.WLC, Scheduler.RR, Scheduler.MH:
        our_fill(contents(1, 1, scheduler=scheduler))  # the kernel loads its module
    gc.collect()
    gc.freeze()  # the tables of all the works, which no agent would have
    for number in range(options.rounds):
        for work in compared:
            sides = [(work.result.ours, work.ours), (work.result.theirs, work.theirs)]
            # Who begins changes with the round.
            for times, measure in sides if number % 2 == 0 else reversed(sides):
                times.append(measure())
            result = work.result
            ours, theirs = milliseconds(result.ours[-1]), milliseconds(result.theirs[-1])
            say(f"round {number + 1}: {result.work}: {ours}; {result.peer}: {theirs}")
        for gap, watch in watched:
            gap.values.append(watch())
            say(f"round {number + 1}: {gap.work}: event loop stood {milliseconds(gap.values[-1])}")
    comparisons = [work.result for work in compared]
    gaps = [gap for gap, _ in watched]
    measuring.leave(options.json, document(comparisons, gaps), summary(comparisons, gaps), anew=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
