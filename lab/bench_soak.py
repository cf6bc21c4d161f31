"""A long time under load: does the agent, or its ops process, take more and more?

`python -m lab.bench_soak --minutes 20`: the real agent with a kernel in memory, 5,000 real servers checked once a second,
50 `/status` a second and 100 streams of events. Every few seconds the memory, the descriptors and the files of both
processes are read. After the warm-up, a quarter of the time, the slope of their memory must not exceed 1 MiB an hour,
as far as so short a time can tell; the table names the time. The same in `build/bench-soak.json`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import linear_regression
from typing import NamedTuple

from anycast.cli.table import table
from lab import configs, loaded_agent, measuring
from lab.agent_figures import rollup
from lab.bench_ops import FIRST, free_port
from lab.loaded_agent import PATIENCE, Plugin, agent_yaml, target, vips
from lab.measuring import say
from lab.waiting import until

MINUTES, SERVERS, ASKED, STREAMS = 20.0, 5000, 50, 100
EVERY = 5.0  # seconds between two samples
WARM_UP = 0.25  # of the time
SLOPE_GOAL = 1.0  # MiB an hour
JOURNAL_GOAL = 4.0  # MiB
_MIB = 1024 * 1024


class Sample(NamedTuple):
    at: float  # seconds since the beginning
    rss: tuple[int, ...]  # bytes, of the agent and of its ops process
    descriptors: tuple[int, ...]
    journal: int  # bytes of the files of events
    asked: int  # answers so far


async def _ask(port: int, each: float, counted: Callable[[], None]) -> None:
    """One `/status` after the other on one connection, `each` seconds from the beginning of one to that of the next."""
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, StopIteration):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while True:
                began = time.monotonic()
                writer.write(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
                size = next(int(line[16:]) for line in head if line.startswith("content-length: "))
                await reader.readexactly(size)
                counted()
                await asyncio.sleep(max(0.0, began + each - time.monotonic()))
        await asyncio.sleep(0.1)


async def _follow(port: int) -> None:
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while await reader.read(65536):
                pass
            writer.close()
        await asyncio.sleep(0.5)


def clients(port: int, asked: int, streams: int) -> int:
    """Writes a dot for each answer to stdout."""

    async def all_of_them() -> None:
        askers = 10
        await asyncio.gather(
            *(_ask(port, askers / asked, lambda: void(os.write(1, b"."))) for _ in range(askers)),
            *(_follow(port) for _ in range(streams)),
        )

    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    asyncio.run(all_of_them())
    return 0


def void(_: object) -> None:
    pass


def ops_of(pid: int) -> int:
    """The ops process; 0: it is not there yet."""
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = place.read_text().partition(" (")[2].rpartition(") ")
            if name == "anycast-ops" and int(rest.split()[1]) == pid:
                return int(place.parent.name)
    return 0


def sample(began: float, processes: Sequence[int], state: Path, asked: int) -> Sample:
    return Sample(
        at=time.monotonic() - began,
        rss=tuple(rollup(Path(f"/proc/{pid}/smaps_rollup").read_text()).rss for pid in processes),
        descriptors=tuple(len(os.listdir(f"/proc/{pid}/fd")) for pid in processes),
        journal=sum(file.stat().st_size for file in state.glob("events.jsonl*")),
        asked=asked,
    )


class Row(NamedTuple):
    what: str
    value: str
    goal: str
    reached: bool | None


def rows(samples: Sequence[Sample]) -> list[Row]:
    """Of the samples after the warm-up."""
    steady = [one for one in samples if one.at >= WARM_UP * samples[-1].at]
    span = steady[-1].at - steady[0].at
    found = []
    for place, name in enumerate(("agent", "ops process")):
        sizes = [one.rss[place] / _MIB for one in steady]
        slope = linear_regression([one.at / 3600 for one in steady], sizes).slope
        found.append(
            Row(
                f"RSS of the {name}: slope over {span / 60:.1f} min, first and last",
                f"{slope:+.2f} MiB/h, {sizes[0]:.1f} and {sizes[-1]:.1f} MiB",
                f"<= {SLOPE_GOAL:g} MiB/h",
                slope <= SLOPE_GOAL,
            )
        )
        counts = [one.descriptors[place] for one in steady]
        half = len(counts) // 2
        found.append(
            Row(
                f"descriptors of the {name}, least and most of both halves",
                f"{min(counts[:half])} to {max(counts[:half])}, {min(counts[half:])} to {max(counts[half:])}",
                "no more in the second",
                max(counts[half:]) <= max(counts[:half]) + 8,
            )
        )
    journal = max(one.journal for one in steady) / _MIB
    found.append(
        Row(
            "files of events, at most",
            f"{journal:.2f} MiB",
            f"<= {JOURNAL_GOAL:g} MiB",
            journal <= JOURNAL_GOAL,
        )
    )
    rate = (steady[-1].asked - steady[0].asked) / span
    found.append(Row("/status answered", f"{rate:.1f} a second", f">= {0.9 * ASKED:g}", rate >= 0.9 * ASKED))
    return found


@contextlib.contextmanager
def _clients(port: int) -> Iterator[Callable[[], int]]:
    """How many answers there have been."""
    argv = [sys.executable, "-m", "lab.bench_soak", "--clients", str(port)]
    count = 0
    with measuring.running(argv, env=configs.program_environment(), stdout=-1) as process:
        assert process.stdout is not None

        def read() -> None:
            nonlocal count
            assert process.stdout is not None
            while dots := os.read(process.stdout.fileno(), 65536):
                count += len(dots)

        threading.Thread(target=read, daemon=True).start()
        yield lambda: count


def soak(directory: Path, minutes: float, servers: int) -> list[Sample]:
    alone = measuring.apart("bench_soak", needed=False)
    checked, port, runtime = free_port(), free_port(), directory / "soak"
    config = agent_yaml(servers, runtime, first=FIRST, checked=checked, listen=f"127.0.0.1:{port}")
    samples: list[Sample] = []
    with target(checked), loaded_agent.agent(config, runtime, alone) as pid:
        plugin = Plugin(runtime)
        plugin.until_announced(vips(servers))
        until(lambda: bool(ops_of(pid)), "the agent's ops process", PATIENCE)
        processes = (pid, ops_of(pid))
        with _clients(port) as asked:
            began, due = time.monotonic(), 0.0

            def look() -> None:
                nonlocal due
                if time.monotonic() - began >= due:
                    samples.append(sample(began, processes, runtime / "state", asked()))
                    due += EVERY

            say(f"{minutes:g} min")
            for _ in plugin.leases(60 * minutes, look):
                pass
    return samples


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    match argv:
        case ["--clients", port]:
            return clients(int(port), ASKED, STREAMS)
    parser = measuring.options("lab.bench_soak", __doc__, "bench-soak.json")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--servers", type=int, default=SERVERS)
    options = parser.parse_args(argv)
    measuring.ready("bench_soak")
    with tempfile.TemporaryDirectory(prefix="bench-soak-") as name:
        measuring.first_in_line()
        samples = soak(Path(name), options.minutes, options.servers)
    found = rows(samples)
    words = {True: "yes", False: "NO", None: "-"}
    told = table(
        ("what", "found", "goal", "reached"),
        [(one.what, one.value, one.goal, words[one.reached]) for one in found],
        colour=False,
    )
    document = {"rows": [one._asdict() for one in found], "samples": [one._asdict() for one in samples]}
    measuring.leave(options.json, document, told, anew=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
