"""The rows that need a whole node on the loopback: agent, plugin and what stands in for ExaBGP."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab import measuring, netns
from lab.agent_figures import Memory, rollup
from lab.loaded_agent import ask, target
from lab.measuring import cpu_time, say
from lab.scale import nodes
from lab.scale.bench import Bench
from lab.scale.builds import Build
from lab.scale.figures import NEVER, Figure, Goal, shown
from lab.scale.nodes import NeverError, Node
from lab.scale.sites import Checked, Size, server, site, vip
from lab.scale.sites import Node as Place
from lab.waiting import until

OPS_PORT = 9644
CHECKED_PORT = 8080
CALM = 3.0  # seconds after everything is announced
QUIET = 15.0  # seconds of a window in which nothing happens: three readings of the kernel
_SERVERS = "10.64.0.0/10"  # all of it is the loopback
_MIB = 2**20

Found = dict[str, list[float]]


def vips(size: Size) -> list[str]:
    return [str(vip(number)) for number in range(size.vips)]


@contextlib.contextmanager
def announced(
    bench: Bench,
    build: Build,
    size: Size,
    *,
    strict: bool = False,
    checked: Checked | None = None,
    before: Sequence[str] = (),
    patience: float = nodes.PATIENCE,
) -> Iterator[Node]:
    """A node that announces all its VIPs. Raises NeverError: it does not come so far."""
    folder = bench.folder(build.name)
    yaml = site(size, Place(str(folder)), strict=strict, checked=checked)
    started = nodes.node(build, folder, yaml, vips(size), checked=checked is not None, before=before)
    with started as node:
        node.routes.wait(size.vips, patience)
        time.sleep(CALM)
        yield node


def standing(bench: Bench) -> list[Figure]:
    """At rest, then a check of every VIP fails at once. A VIP needs all its servers, so each verdict changes."""
    size = bench.size(Size(1000, 5), Size(50, 5))
    rest: Found = {}
    ops: Found = {}
    reading: Found = {}
    burst: Found = {}
    gone: Found = {}
    for build in bench.turns(3):
        with announced(bench, build, size, strict=True) as node:
            node.ask("mark")
            begun, helped = cpu_time(node.agent), cpu_time(node.ops) if node.ops else 0.0
            time.sleep(QUIET)
            rest.setdefault(build.name, []).append((cpu_time(node.agent) - begun) / QUIET * 100)
            if node.ops:
                ops.setdefault(build.name, []).append((cpu_time(node.ops) - helped) / QUIET * 100)
            reading.setdefault(build.name, []).append(node.ask("read")["longest"] * 1e3)
            node.ask("mark")
            at = node.ask(f"fail {server(size, 0)} {size.each} {size.vips}")["at"]
            with contextlib.suppress(NeverError):
                node.routes.wait(0, 60.0, since=at)
            time.sleep(CALM)  # what follows from it is part of it: the kernel is programmed and read back
            burst.setdefault(build.name, []).append(node.ask("read")["longest"] * 1e3)
            when = [one[0] for one in node.routes.history if one[1] == 0 and one[0] >= at]
            gone.setdefault(build.name, []).append(when[0] - at if when else NEVER)
        say(
            f"{size}, {build.name}: at rest {rest[build.name][-1]:.1f} %, the loop stood {reading[build.name][-1]:.0f} ms; "
            f"all down: {burst[build.name][-1]:.0f} ms, {gone[build.name][-1]:.2f} s"
        )
    stands = "longest turn of the loop"
    return [
        *bench.figure("burst", f"a check of every VIP fails, {size}: {stands}", "CPU ms", burst, Goal(most=20), worst=True),
        *bench.figure("burst", f"the same: until the last route is withdrawn, {size}", "s", gone, Goal(most=1), worst=True),
        *bench.figure("reading", f"at rest, kernel read every 5 s, {size}: {stands}", "CPU ms", reading, Goal(most=20), worst=True),
        *bench.figure("rest", f"the agent at rest, {size}, checks off", "% CPU", rest, Goal(most=2)),
        *bench.figure("rest", f"its ops process, {size}", "% CPU", ops, note="the base has none: its agent answers HTTP"),
    ]  # fmt: skip


def reloading(bench: Bench) -> list[Figure]:
    """One real server more, twice, in the file and by SIGHUP."""
    size = bench.size(Size(1000, 50), Size(50, 5))
    cpu: Found = {}
    stands: Found = {}
    for build in bench.builds:
        with announced(bench, build, size, patience=600.0) as node:
            for further in (1, 2):
                place = Place(str(node.directory))
                (node.directory / "anycast.yaml").write_text(site(size, place, further=further))
                node.ask("mark")
                begun = nodes.cpu_with_children(node.agent)
                os.kill(node.agent, signal.SIGHUP)
                done = lambda node=node, count=further: len(node.log("config.applied")) == count  # noqa: E731
                until(done, "the configuration to be applied", 300.0)
                time.sleep(CALM)
                cpu.setdefault(build.name, []).append(nodes.cpu_with_children(node.agent) - begun)
                stands.setdefault(build.name, []).append(node.ask("read")["longest"] * 1e3)
                say(
                    f"reload, {size}, {build.name}: {cpu[build.name][-1]:.1f} s of CPU, "
                    f"the loop stood {stands[build.name][-1]:.0f} ms"
                )
    work = f"a reload adds one server to {size.servers:,}"
    return [
        *bench.figure("reload", f"{work}: agent and reader, until {CALM:g} s later", "CPU s", cpu, Goal(ratio=0.2)),
        *bench.figure("reload", f"{work}: longest turn of the loop", "CPU ms", stands, Goal(most=20), worst=True),
    ]  # fmt: skip


def starting(bench: Bench) -> list[Figure]:
    """From the exec of the agent until somebody who waits for it has its first lease."""
    figures = []
    for size, rounds in ((Size(1, 5), 5), (bench.size(Size(1000, 5), Size(50, 5)), 3)):
        wall: Found = {}
        cpu: Found = {}
        for build in bench.turns(rounds):
            took, used = _first_lease(bench, build, size)
            wall.setdefault(build.name, []).append(took)
            cpu.setdefault(build.name, []).append(used)
            say(f"start, {size}, {build.name}: {took:.2f} s, {used:.2f} s of CPU")
        work = f"exec of the agent → first lease, {size}"
        figures += bench.figure("start", work, "s", wall, Goal(ratio=0.5))
        figures += bench.figure(
            "start", f"{work}: with the processes it waited for", "CPU s", cpu, Goal(ratio=0.5)
        )
    return figures


def _first_lease(bench: Bench, build: Build, size: Size) -> tuple[float, float]:
    folder = bench.folder("start")
    folder.mkdir()
    config = folder / "anycast.yaml"
    config.write_text(site(size, Place(str(folder))))
    argv = build.program("watched_agent.py", str(folder / "watch.sock"), "agent", "--config", str(config))
    with (folder / "agent.log").open("wb") as log:
        began = time.monotonic()
        with measuring.running(argv, env=build.environment(), stdout=log, stderr=log) as agent:
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(60.0)
                until(
                    lambda: _connected(line, folder / "lease.sock"), "the lease's socket", 60.0, pause=0.003
                )
                line.recv(1)
                took = time.monotonic() - began
            used = nodes.cpu_with_children(agent.pid)
            agent.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                agent.wait(5.0)
    return took, used


def _connected(line: socket.socket, place: Path) -> bool:
    try:
        line.connect(str(place))
    except OSError:
        return False
    return True


@contextlib.contextmanager
def loopback() -> Iterator[None]:
    """A namespace in which every real server is the loopback, and answers checks."""
    with netns.fresh():
        subprocess.run(["ip", "route", "add", "local", _SERVERS, "dev", "lo"], check=True)
        with target(CHECKED_PORT):
            yield


def memory(bench: Bench) -> list[Figure]:
    """With real checks; once before anybody has asked for anything, once after."""
    size = bench.size(Size(10, 500), Size(2, 50))
    agent: Found = {}
    asked: Found = {}
    together: Found = {}
    with loopback():
        for build in bench.turns(2):
            with announced(bench, build, size, checked=Checked(CHECKED_PORT), patience=60.0) as node:
                time.sleep(2 * CALM)
                agent.setdefault(build.name, []).append(_memory(node.agent).rss / _MIB)
                for path in ("/status", "/metrics"):
                    ask(OPS_PORT, path)
                asked.setdefault(build.name, []).append(_memory(node.agent).rss / _MIB)
                all_of_it = [_memory(pid).pss for pid in (node.agent, node.ops) if pid]
                together.setdefault(build.name, []).append(sum(all_of_it) / _MIB)
                say(
                    f"memory, {size}, {build.name}: {agent[build.name][-1]:.1f} MiB, asked "
                    f"{asked[build.name][-1]:.1f}, all {together[build.name][-1]:.1f}"
                )
    work = f"RSS of the agent, {size} servers with checks"
    return [
        *bench.figure("memory", work, "MiB", agent, Goal(ratio=0.6)),
        *bench.figure("memory", f"{work}, after /status and /metrics", "MiB", asked, Goal(ratio=0.65)),
        *bench.figure(
            "memory", f"PSS of agent and ops process, {size}, after both", "MiB", together, Goal(ratio=0.65)
        ),
    ]


def further(bench: Bench) -> list[Figure]:
    """What one more real server with a check takes: memory at two sizes, over their difference."""
    small, large = (
        bench.size(Size(10, 500), Size(2, 50)),
        bench.size(Size(10, 1500), Size(2, 150)),
    )
    found: Found = {}
    with loopback():
        for build in bench.turns(1):
            held = []
            for size in (small, large):
                checked = Checked(CHECKED_PORT, "5s")
                with announced(bench, build, size, checked=checked, patience=60.0) as node:
                    time.sleep(2 * 5.0)
                    held.append(_memory(node.agent).rss)
            found.setdefault(build.name, []).append(
                (held[1] - held[0]) / (large.servers - small.servers) / 1024
            )
            say(f"further, {build.name}: {found[build.name][-1]:.2f} KiB")
    work = f"RSS of the agent, each server more from {small} to {large}"
    return bench.figure("further", work, "KiB", found, Goal(most=1.5))


def _memory(pid: int) -> Memory:
    return rollup(Path(f"/proc/{pid}/smaps_rollup").read_text())


def leases(bench: Bench) -> list[Figure]:
    """A server dies every ten seconds, `/metrics` every five, one page open, for as long as the long rows last."""
    figures = []
    alone = measuring.apart("bench_scale", needed=False)
    for size in (
        bench.size(Size(2000, 5), Size(50, 5)),
        bench.size(Size(100, 500), Size(10, 50)),
    ):
        pauses: Found = {}
        lost: Found = {}
        for build in bench.builds:
            longest, withdrawn = _leases(bench, build, size, alone)
            pauses.setdefault(build.name, []).append(longest)
            lost.setdefault(build.name, []).append(float(withdrawn))
            say(f"leases, {size}, {build.name}: {shown(longest)} s between two, {withdrawn} withdrawals")
        work = f"longest time between two leases in {bench.seconds:g} s, {size}"
        figures += bench.figure("leases", work, "s", pauses, Goal(most=0.8), worst=True)
        figures += bench.figure(
            "leases", f"routes withdrawn meanwhile, with nothing wrong, {size}", "", lost, Goal(most=0), worst=True
        )  # fmt: skip
    return figures


def _leases(bench: Bench, build: Build, size: Size, before: Sequence[str]) -> tuple[float, int]:
    try:
        with announced(bench, build, size, before=before, patience=120.0) as node, _page():
            began, withdrawn, number = time.monotonic(), node.routes.now[1], 0
            with _asked("/metrics", 5.0):
                while time.monotonic() < began + bench.seconds:
                    dead = server(size, number * 7 % size.vips)
                    node.ask(f"fail {dead} 1 1")
                    time.sleep(5.0)
                    node.ask(f"heal {dead} 1 1")
                    time.sleep(5.0)
                    number += 1
            pauses = node.tap.pauses(began, time.monotonic())
            return max(pauses, default=NEVER), node.routes.now[1] - withdrawn
    except NeverError as error:
        say(f"leases, {size}, {build.name}: {error}")
        return NEVER, size.vips


@contextlib.contextmanager
def _asked(path: str, every: float) -> Iterator[None]:
    """That document is asked for again and again meanwhile."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(every):
            with contextlib.suppress(OSError, RuntimeError, http.client.HTTPException):
                ask(OPS_PORT, path, 30.0)

    # A thread is in the network namespace of the one that begins it.
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def _page() -> Iterator[None]:
    """As a browser has it open: the document once, then its stream of events."""
    until(_is_listening, "HTTP is answered", 60.0)
    with contextlib.suppress(OSError, RuntimeError, http.client.HTTPException):
        ask(OPS_PORT, "/", 30.0)
    over = threading.Event()
    with socket.create_connection(("127.0.0.1", OPS_PORT), 30.0) as stream:
        stream.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        stream.settimeout(0.5)

        def read() -> None:
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    if not stream.recv(1 << 16):
                        return

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield
        finally:
            over.set()
            reader.join()


def _is_listening() -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", OPS_PORT), 1.0):
        return True
    return False


def fifth(bench: Bench) -> list[Figure]:
    """The agent and its processes in a cgroup that has a fifth of one processor, at the usual priority."""
    size = bench.size(Size(1000, 5), Size(50, 5))
    ready: Found = {}
    late: Found = {}
    try:
        with _quota(0.2) as procs:
            for build in bench.builds:
                took, count = _fifth(bench, build, size, procs)
                ready.setdefault(build.name, []).append(took)
                late.setdefault(build.name, []).append(count)
                say(
                    f"a fifth of a core, {size}, {build.name}: all announced after {shown(took)} s, {count:g} late"
                )
    except OSError as error:
        note = f"not measurable: no cgroup with a quota can be made here ({error})"
        return bench.figure("fifth", f"a fifth of one core, {size}", "s", {}, Goal(most=30), note=note)
    work = f"a fifth of one core, {size}"
    return [
        *bench.figure("fifth", f"{work}: exec → all announced", "s", ready, Goal(most=30), worst=True),
        *bench.figure(
            "fifth", f"{work}: leases late over 1 s in {bench.seconds:g} s", "", late, Goal(most=0), worst=True
        ),
    ]  # fmt: skip


def _fifth(bench: Bench, build: Build, size: Size, procs: Path) -> tuple[float, float]:
    before = ["sh", "-c", f'echo $$ > {procs} && exec "$@"', "sh"]
    folder = bench.folder("fifth")
    yaml = site(size, Place(str(folder)))
    with nodes.node(build, folder, yaml, vips(size), before=before) as node:
        try:
            took = node.routes.wait(size.vips, nodes.PATIENCE) - node.started
        except NeverError:
            took = NEVER
        began = time.monotonic()
        time.sleep(bench.seconds)
        late = [pause for pause in node.tap.pauses(began, time.monotonic()) if pause > 2.0 / 3 + 1.0]
        return took, float(len(late))


@contextlib.contextmanager
def _quota(share: float) -> Iterator[Path]:
    """The file that a process id is written to. Raises OSError: not allowed here."""
    period = 100_000
    quota = round(share * period)
    old = Path("/sys/fs/cgroup/cpu")
    name = f"bench-scale-{os.getpid()}"
    if old.is_dir():
        group = old / name
        group.mkdir()
        settings = {"cpu.cfs_period_us": f"{period}", "cpu.cfs_quota_us": f"{quota}"}
    else:
        group = Path("/sys/fs/cgroup", name)
        group.mkdir()
        settings = {"cpu.max": f"{quota} {period}"}
    try:
        for file, text in settings.items():
            (group / file).write_text(text)
        yield group / "cgroup.procs"
    finally:
        with contextlib.suppress(TimeoutError):
            until(lambda: not (group / "cgroup.procs").read_text().strip(), "an empty cgroup", 10.0)
        group.rmdir()
