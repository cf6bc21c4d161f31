"""The ops surface under load: what hostile clients do to the lease, and how long the documents of 5,000 servers take.

`python -m lab.bench_ops`, best with two processors. The real agent, with a kernel in memory, checks 5,000 real servers
(addresses of the loopback), each once a second; this process is its plugin, and hostile clients (`lab.hostile`) and
readers are processes of their own beside it. Prints a table; the same in `build/bench-ops.json`.
`--only sockets`: 1,000 hostile connections at the HTTP port and 1,000 at the agent's sockets at once, and no more.
`--only reloads`: one reload after another of the hostile files of `lab.bench_input`, and no more.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from anycast.cli import client
from lab import configs, hostile_files, loaded_agent, measuring
from lab.figures import Times, percentile, times_table
from lab.loaded_agent import TTL, agent_yaml, ask, target, vips
from lab.measuring import say

SERVERS = 5000
HOSTILE = 1000  # connections
CROWDS = 4  # processes that make those at the agent's sockets: half of them as the operator's user, half as another
STRANGER = 65534  # the other one, which may open the sockets by its group
GAP_GOAL = 1.1  # of the time between two leases, to that without clients
COMMANDS = 100
COMMAND_GOAL = 1.0  # seconds, for each of them
WINDOW = 20.0  # seconds of each measurement
QUESTIONS = 60  # of each document
RELOAD_PATIENCE, REFUSED = 120.0, 422
PROBE_PATIENCE = 2.0  # seconds, of a health check
FIRST = "127.16.0.1"
_SIXTH = TTL / 3

Seconds: TypeAlias = list[float]


class Plugin(loaded_agent.Plugin):
    def gaps(self, seconds: float, meanwhile: Callable[[], None] | None = None) -> Seconds:
        """From one lease to the next, as they were issued."""
        issued = [lease.issued for _, lease in self.leases(seconds, meanwhile)]
        return [after - before for before, after in itertools.pairwise(issued)]

    def lateness(self, seconds: float, meanwhile: Callable[[], None] | None = None) -> Seconds:
        """How much later than due each lease was issued."""
        return [max(0.0, gap - _SIXTH) for gap in self.gaps(seconds, meanwhile)]


def ask_control(path: Path) -> float:
    """Seconds until the control socket has answered."""
    began = time.perf_counter()
    if not client.ask(path, "GET", "/maintenance", timeout=PROBE_PATIENCE).ok:
        raise RuntimeError(f"{path} refuses")
    return time.perf_counter() - began


def carry_out(path: Path) -> float:
    """Seconds until a command, which changes nothing, has been carried out."""
    began = time.perf_counter()
    if not (answer := client.command(path, "/maintenance", {"scope": "", "on": False})).ok:
        raise RuntimeError(f"{path} refuses: {answer.error}")
    return time.perf_counter() - began


def probe(question: Callable[[], float], into: Seconds, failed: list[str]) -> None:
    """As a health check of this node would."""
    try:
        into.append(question())
    except (OSError, http.client.HTTPException, RuntimeError, client.UnreachableError) as error:
        failed.append(repr(error))


def command(socket_path: Path) -> float:
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "anycast", "status", "--socket", str(socket_path)],
        check=True,
        stdout=subprocess.DEVNULL,
        env=configs.program_environment(),
    )
    return time.perf_counter() - began


def own_address() -> str:
    """Of this machine, as others know it; empty: there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        try:
            found.connect(("198.51.100.1", 9))  # nothing is sent
        except OSError:
            return ""
        return str(found.getsockname()[0])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Bench:
    def __init__(self, directory: Path, servers: int, window: float, questions: int, only: str = "") -> None:
        self._directory = directory
        self._servers = servers
        self._window = window
        self._questions = questions
        self._only = only
        self._checked = free_port()
        self._alone = measuring.apart("bench_ops", needed=False)

    def run(self) -> list[Times]:
        with target(self._checked):
            if self._only == "sockets":
                return self._at_once()
            if self._only == "reloads":
                return self._reloaded()
            return [*self._large(), self._small(), *self._at_once(), *self._reloaded()]

    def _large(self) -> list[Times]:
        port = free_port()
        with self._agent("large", self._servers, port) as runtime:
            plugin = Plugin(runtime)
            plugin.until_announced(vips(self._servers))
            plugin.lateness(5.0)
            say(f"{self._servers} servers are up; {self._window:g} s without clients")
            quiet = plugin.lateness(self._window)
            say("documents")
            first = {path: ask(port, path) for path in ("/status", "/metrics")}
            asked: dict[str, Seconds] = {path: [] for path in first}
            for path, times in asked.items():
                left = iter(range(self._questions))

                def question(path: str = path, times: Seconds = times, left: Iterator[int] = left) -> None:
                    if next(left, None) is not None:
                        times.append(ask(port, path))

                plugin.lateness(self._questions * _SIXTH + 1, question)
            say("the command")
            commands: Seconds = []
            plugin.lateness(10.0, lambda: commands.append(command(runtime / "control.sock")))
            control = runtime / "control.sock"
            hostile = self._attacked(plugin, "127.0.0.1", port, "from this node", control)
            if host := own_address():
                hostile += self._attacked(plugin, host, port, "from elsewhere", control)
        return [
            Times(work="lease later than due, no clients", values=quiet),
            *hostile,
            Times(work=f"/status, {self._servers} servers", values=asked["/status"]),
            Times(work=f"/metrics, {self._servers} servers", values=asked["/metrics"]),
            Times(work="/status, the first after the start", values=[first["/status"]]),
            Times(work="/metrics, the first after the start", values=[first["/metrics"]]),
            Times(work=f"anycast status, {self._servers} servers", values=commands),
        ]

    def _at_once(self) -> list[Times]:
        """In turns without and with them, since what else is done on the machine is in both."""
        port = free_port()
        calm, stormy, alone, commands, lost = Seconds(), Seconds(), Seconds(), Seconds(), list[str]()
        with self._agent("sockets", self._servers, port) as runtime:
            plugin = Plugin(runtime)
            plugin.until_announced(vips(self._servers))
            plugin.lateness(5.0)
            control = runtime / "control.sock"

            def operate() -> None:
                if len(commands) + len(lost) < COMMANDS:
                    probe(partial(carry_out, control), commands, lost)

            for turn in range(2):
                say(f"turn {turn + 1}: {self._window:g} s without clients")
                calm += plugin.gaps(self._window)
                plugin.gaps(5.0, lambda: alone.append(carry_out(control)))
                say(f"{HOSTILE} hostile connections over HTTP and {HOSTILE} at the agent's sockets")
                with hostile_clients("127.0.0.1", port), crowds(runtime):
                    plugin.lateness(3.0)
                    stormy += plugin.gaps(self._window)
                    for _ in plugin.leases(COMMANDS * _SIXTH, operate):
                        pass
        for why in lost:
            say(f"a command failed: {why}")
        goals = {share: GAP_GOAL * percentile(calm, share) for share in (0.5, 0.99)}
        return [
            Times(work="lease to lease, no clients", values=calm),
            Times(
                work=f"lease to lease, {HOSTILE} hostile over HTTP, {HOSTILE} at the sockets",
                goals=goals,
                values=stormy,
            ),
            Times(work="  a command, no clients", values=alone),
            Times(
                work=f"  a command meanwhile, {len(lost)} of {len(commands) + len(lost)} failed",
                goals={1.0: COMMAND_GOAL},
                values=commands,
            ),
        ]

    def _reloaded(self) -> list[Times]:
        """In turns without and with them, as above."""
        calm, stormy, answers, odd = Seconds(), Seconds(), Seconds(), list[str]()
        with self._agent("reloads", self._servers, free_port()) as runtime:
            plugin = Plugin(runtime)
            plugin.until_announced(vips(self._servers))
            plugin.lateness(5.0)
            file = runtime / "anycast.yaml"
            right, hostile = file.read_bytes(), itertools.cycle(hostile_files.told())
            for turn in range(2):
                say(
                    f"turn {turn + 1}: {self._window:g} s without reloads, and as long with those of hostile files"
                )
                calm += plugin.gaps(self._window)
                over = threading.Event()
                reloading = threading.Thread(
                    target=_reload_hostile, args=(runtime, hostile, over, answers, odd), daemon=True
                )
                reloading.start()
                stormy += plugin.gaps(self._window)
                over.set()
                reloading.join()
                file.write_bytes(right)
        for what in odd:
            say(what)
        goals = {share: GAP_GOAL * percentile(calm, share) for share in (0.5, 0.99)}
        return [
            Times(work="lease to lease, no reloads", values=calm),
            Times(work="lease to lease, reloads of hostile files", goals=goals, values=stormy),
            Times(work=f"  a reload, {len(odd)} of {len(answers)} not refused", values=answers),
        ]

    def _attacked(self, plugin: Plugin, host: str, port: int, where: str, control: Path) -> list[Times]:
        say(f"{HOSTILE} hostile connections {where}")
        questions = {
            "/livez over TCP": partial(ask, port, "/livez", PROBE_PATIENCE),
            "the control socket": partial(ask_control, control),
        }
        found, lost = {name: Seconds() for name in questions}, {name: list[str]() for name in questions}

        def probes() -> None:
            for name, question in questions.items():
                probe(question, found[name], lost[name])

        with hostile_clients(host, port):
            plugin.lateness(3.0)
            late = plugin.lateness(self._window)
            for _ in plugin.leases(self._window, probes):
                pass
        return [
            Times(work=f"lease, {HOSTILE} hostile connections {where}", goals={0.99: 0.050}, values=late),
            *(
                Times(
                    work=f"  {name} meanwhile, {len(lost[name])} of {len(values) + len(lost[name])} failed",
                    values=values,
                )
                for name, values in found.items()
                if values
            ),
        ]

    def _small(self) -> Times:
        with self._agent("small", 4, free_port()) as runtime:
            Plugin(runtime).until_announced(1)
            times = [command(runtime / "control.sock") for _ in range(20)]
        return Times(work="anycast status, 4 servers", goals={0.5: 0.150}, values=times)

    @contextlib.contextmanager
    def _agent(self, name: str, servers: int, port: int) -> Iterator[Path]:
        say(f"starting the agent with {servers} servers")
        runtime = self._directory / name
        config = agent_yaml(servers, runtime, first=FIRST, checked=self._checked, listen=f"0.0.0.0:{port}")
        with loaded_agent.agent(config, runtime, self._alone):
            yield runtime


def _reload_hostile(
    runtime: Path,
    files: Iterator[tuple[str, bytes]],
    over: threading.Event,
    answers: Seconds,
    odd: list[str],
) -> None:
    """Until it is over. `odd`: files that were not refused as a mistake is."""
    while not over.is_set():
        name, data = next(files)
        (runtime / "anycast.yaml").write_bytes(data)
        began = time.perf_counter()
        try:
            answer = client.command(runtime / "control.sock", "/reload", timeout=RELOAD_PATIENCE)
            if answer.code != REFUSED:
                odd.append(f"{name}: {answer.code}")
        except client.UnreachableError as error:
            odd.append(f"{name}: {error}")
        answers.append(time.perf_counter() - began)


@contextlib.contextmanager
def hostile_clients(host: str, port: int) -> Iterator[None]:
    argv = [sys.executable, "-m", "lab.hostile", "http", host, str(port), str(HOSTILE)]
    with measuring.running(argv, env=configs.program_environment()):
        yield


@contextlib.contextmanager
def crowds(runtime: Path) -> Iterator[None]:
    """At the agent's sockets, in processes of their own."""
    argv = [sys.executable, "-m", "lab.hostile", "sockets", str(runtime), str(HOSTILE // CROWDS)]
    with contextlib.ExitStack() as stack:
        for number in range(CROWDS):
            user = [str(STRANGER)] if number % 2 and os.geteuid() == 0 else []
            stack.enter_context(measuring.running([*argv, *user], env=configs.program_environment()))
        yield


def body(figures: Sequence[Times]) -> dict[str, object]:
    """For JSON."""
    words = {True: "yes", False: "NO", None: "-"}
    return {
        one.work: {
            **one.document(0.5, 0.99, 1.0, digits=5),
            "goal": next(iter(one.goals.values()), None),
            "reached": words[one.reached],
        }
        for one in figures
    }


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = measuring.options("lab.bench_ops", __doc__, "bench-ops.json")
    parser.add_argument("--servers", type=int, default=SERVERS)
    parser.add_argument("--window", type=float, default=WINDOW, help="seconds of each measurement")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="for each document")
    parser.add_argument(
        "--only", choices=["sockets", "reloads"], default="", help="the row of that name alone"
    )
    options = parser.parse_args(argv)
    measuring.ready("bench_ops")
    with tempfile.TemporaryDirectory(prefix="bench-ops-") as name:
        Path(name).chmod(0o755)  # another user is to reach the sockets
        bench = Bench(Path(name), options.servers, options.window, options.questions, options.only)
        measuring.first_in_line()
        figures = bench.run()
    if missing := [one.work for one in figures if not one.values]:
        raise SystemExit(f"nothing was measured of: {', '.join(missing)}")
    found = {"figures": body(figures), "load_average": os.getloadavg()}
    measuring.leave(options.json, found, times_table("what", figures, 0.5, 0.99, 1.0), anew=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
