"""What hostile configurations cost `anycast check`: processor time and memory, the dearest first.

Each file is checked in a process of its own, beside a small right one: what that takes is what the program takes to
begin. `--rows N` shows so many, `--only WORD` those with the word in their name.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab import hostile_files

CPU, MEMORY, TEXT = 2.0, 200, 100_000  # seconds, MiB, bytes: the goals
RIGHT = "a small right file"


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one file. `fault`: what is not as it should be, if anything."""

    name: str
    cpu: float
    memory: float
    said: int
    status: int
    fault: str


def measure(name: str, data: bytes, folder: Path) -> Cost:
    file, out = folder / "anycast.yaml", folder / "out"
    file.write_bytes(data)
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-P", "-m", "anycast", "check", str(file)],
        {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 1, str(out), os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )
    _, status, usage = os.wait4(pid, 0)
    said = out.read_bytes()
    cpu, memory = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    code = os.waitstatus_to_exitcode(status)
    faults = [
        words
        for words, wrong in (
            (f"status {code}", code not in {0, 78}),
            ("a trace", b"Traceback" in said),
            ("slow", cpu > CPU),
            ("large", memory > MEMORY),
            ("much text", len(said) > TEXT),
        )
        if wrong
    ]
    return Cost(name, cpu, memory, len(said), code, ", ".join(faults))


def files() -> Iterator[tuple[str, bytes]]:
    yield RIGHT, hostile_files.RIGHT.encode()
    yield from itertools.chain(
        hostile_files.told(),
        hostile_files.large(),
        hostile_files.large(2_000_000, 30_000),
        hostile_files.small(),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=15)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        costs = [measure(name, data, Path(folder)) for name, data in files() if args.only in name]
    print(f"{'FILE':40} {'CPU s':>6} {'MiB':>5} {'SAID':>8} {'STATUS':>6}")
    shown = sorted(costs, key=lambda one: (not one.fault, one.name != RIGHT, -one.cpu))
    for one in shown[: args.rows]:
        print(
            f"{one.name:40} {one.cpu:6.2f} {one.memory:5.0f} {one.said:8,} {one.status:6} {one.fault}".rstrip()
        )
    faults = sum(bool(one.fault) for one in costs)
    print(
        f"{len(costs)} files: at most {max(one.cpu for one in costs):.2f} s of processor time (goal {CPU:g}), "
        f"{max(one.memory for one in costs):.0f} MiB (goal {MEMORY}), {max(one.said for one in costs):,} bytes of text; "
        f"{faults} beyond a goal"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
