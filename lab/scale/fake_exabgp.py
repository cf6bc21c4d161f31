"""In the place of ExaBGP: starts the plugin, says `done` to whatever it asks for, and tells how many routes there are.

`python -P fake_exabgp.py PLUGIN ARGUMENT ...`. Each line of its output is an instant (CLOCK_MONOTONIC, seconds), how
many prefixes are announced then, and how many commands to withdraw there were; the first is the plugin's process id.
A process of its own, for the plugin ends an ExaBGP that hangs.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

_COMMAND = re.compile(r"^(announce|withdraw) route (\S+)")
_PREFIX = re.compile(r"\d+\.\d+\.\d+\.\d+/32")
_NEIGHBORS = json.dumps([{"peer": {"address": "10.2.1.254"}, "state": "up", "duration": 60}])


def answer(line: str, announced: set[str]) -> tuple[str, int]:
    """What ExaBGP says to a command, and how many announced prefixes were withdrawn by it."""
    found = _COMMAND.match(line)
    if found is not None:
        verb, prefix = found.groups()
        if verb == "announce":
            announced.add(prefix)
            return "done\n", 0
        gone = int(prefix in announced)
        announced.discard(prefix)
        return "done\n", gone
    if line.startswith(("announce", "withdraw")):  # many prefixes in one command
        prefixes = set(_PREFIX.findall(line))
        gone = 0 if line.startswith("announce") else len(prefixes & announced)
        announced.symmetric_difference_update(
            prefixes - announced if line.startswith("announce") else prefixes & announced
        )
        return "done\n", gone
    if line == "show neighbor json":
        return f"{_NEIGHBORS}\ndone\n", 0
    if line.startswith("version"):
        return "exabgp 5.0.15\ndone\n", 0
    return "done\n", 0


def main(argv: list[str]) -> int:
    plugin = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    assert plugin.stdin is not None
    assert plugin.stdout is not None
    print(plugin.pid, flush=True)
    announced: set[str] = set()
    withdrawn, rest = 0, b""
    try:
        while data := os.read(plugin.stdout.fileno(), 1 << 16):
            *lines, rest = (rest + data).split(b"\n")
            before, answers = (len(announced), withdrawn), []
            for line in lines:
                said, gone = answer(line.decode("ascii", "replace").strip(), announced)
                answers.append(said)
                withdrawn += gone
            plugin.stdin.write("".join(answers).encode())
            plugin.stdin.flush()
            if (len(announced), withdrawn) != before:
                print(f"{time.monotonic():.6f} {len(announced)} {withdrawn}", flush=True)
    finally:
        plugin.kill()
        plugin.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
