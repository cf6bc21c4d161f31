"""5,000 senders: what their connections cost balancers and receivers, and whether a balancer that goes loses any.
`make logs-many`, or `python -m lab.logs_many --help`; what comes of it: docs/syslog.md.

Boots the lab. The senders are one process (`lab.logs_crowd`), each with an address of its own, half over TCP and half
over RELP; beside them some machines with a real rsyslogd. Leaves its figures in `build/logs-many.json`. Exit status 1: a
promise was not kept; 2: wrong options.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from anycast.analysis.connections import DEFAULT_BITS, MOST_BITS, bits_for
from anycast.cli.table import table
from lab import kernel_view
from lab.chaos import in_lab
from lab.conn_table import chains
from lab.control import Lab
from lab.logs import site
from lab.logs_figures import document, logs_table
from lab.logs_plan import options
from lab.logs_site import Collectors, LogSite
from lab.logs_trial import LogFaults, LogTrial, Sending, Sends, of_machines
from lab.measuring import leave, say
from lab.sampler import Sampler
from lab.topology import VIP4
from lab.waiting import until

BUILD = Path(__file__).resolve().parent.parent / "build"
FIRST, RANGE = "10.1.64.0", "10.1.64.0/18"  # the senders' addresses
CLIENT = "10.1.0.1"
PATIENCE = 300.0  # seconds for all to be connected
SPAN = 20.0  # seconds of one reading of the processor
SEEDS = range(1, 11)
FAULTS = "drain,exabgp-kill"


def load_with(bits: int) -> None:
    """IPVS anew, with another table."""
    for module in ("ip_vs_mh", "ip_vs_rr", "ip_vs"):
        subprocess.run(["modprobe", "-r", module], check=False)
    subprocess.run(["modprobe", "ip_vs", f"conn_tab_bits={bits}"], check=True)
    subprocess.run(["modprobe", "-a", "ip_vs_mh", "ip_vs_rr"], check=True)


def entry_size() -> int:
    """Bytes that a connection of IPVS takes; 0 where the kernel does not tell."""
    with contextlib.suppress(OSError, ValueError):
        return int(Path("/sys/kernel/slab/ip_vs_conn/slab_size").read_text("ascii"))
    return 0


def resident(pid: int) -> int:
    """KiB."""
    found = re.search(r"^VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text("ascii"), re.MULTILINE)
    return int(found[1]) if found else 0


class Figures:
    """Taken before the senders come, when they are connected, and while they send."""

    def __init__(self, lab: Lab, collectors: Collectors, servers: Sequence[str]) -> None:
        self.lab = lab
        self._receivers = [collectors.process(name, "rsyslogd") for name in servers]
        self._before = self._now()

    def _now(self) -> dict[str, int]:
        memory = Path("/proc/meminfo").read_text("ascii")
        found = re.search(r"^MemAvailable:\s+(\d+)", memory, re.MULTILINE)
        assert found is not None
        return {
            "available": int(found[1]),
            "rsyslogd": sum(resident(one.pid) for one in self._receivers),
        }

    def connected(self, count: int) -> dict[str, Any]:
        """Per connection, in bytes."""
        now = self._now()
        grown = {key: now[key] - value for key, value in self._before.items()}
        return {
            "connections": count,
            "entry_bytes": entry_size(),
            "rsyslogd_bytes": round(grown["rsyslogd"] * 1024 / count),
            "lab_bytes": round(-grown["available"] * 1024 / count),
        }

    def ticks(self) -> int:
        return sum(one.ticks() for one in self._receivers)


class Together:
    """Several that send, as one."""

    def __init__(self, *parts: Sends) -> None:
        self._parts = parts
        names = dict.fromkeys(name for part in parts for name in part.protocols)
        self.protocols: Mapping[str, Sequence[str]] = {
            name: [sender for part in parts for sender in part.protocols.get(name, ())] for name in names
        }
        self.straight: Mapping[str, Sequence[str]] = {}

    def sent(self) -> dict[str, Any]:
        found = [part.sent() for part in self._parts]
        return {
            "sent": {name: last for one in found for name, last in one["sent"].items()},
            "retries": sum(one["retries"] for one in found),
        }


def crowd(count: int) -> Sending:
    words = ["--vip", VIP4, "--senders", str(count), "--first", FIRST]
    names = [f"c{number}" for number in range(count)]
    return Sending("lab.logs_crowd", words, {"tcp": names[::2], "relp": names[1::2]}, {})


def run(count: int, interval: float, bits: int, found: dict[str, Any]) -> None:
    """Fills `found`; what there is stays in it when it fails."""
    if bits != DEFAULT_BITS:
        load_with(bits)
    chosen = options(faults=FAULTS, machines=3)
    found["bits"] = int(Path("/sys/module/ip_vs/parameters/conn_tab_bits").read_text())
    with site(chosen) as (built, collectors, senders, straight), Sampler(built.nodes) as sampler:
        lab = built.lab
        # Any address of the range is the client's own, and the router asks for none of them.
        lab.exec("cl", "ip", "route", "add", "local", RANGE, "dev", "lo")
        lab.exec("r1", "ip", "route", "add", RANGE, "via", CLIENT)
        servers = [one.name for one in lab.topology.servers[: chosen.servers]]
        figures = Figures(lab, collectors, servers)
        quiet = _busy(sampler)
        with crowd(count) as sending:
            say(f"{count} senders connect")
            until(lambda: _connected(sending, built) == count, "all to be connected", PATIENCE, pause=1.0)
            found["memory"] = figures.connected(count)
            say(f"  {found['memory']}")
            idle = _busy(sampler)
            sending.ask(do="every", seconds=interval)
            time.sleep(interval)
            before, ticks = sum(sending.sent()["sent"].values()), figures.ticks()
            busy = _busy(sampler)
            messages = sum(sending.sent()["sent"].values()) - before
            spent = figures.ticks() - ticks
            found["processor"] = {
                "without": quiet,
                "idle": idle,
                "sending": busy,
                "messages_per_second": round(messages / SPAN, 1),
                "ms_per_message": round((busy - idle) * SPAN / messages * 1000, 3),
                "rsyslogd_ms_per_message": round(spent * 10 / messages, 3),
            }
            say(f"  {found['processor']}")
            _tables(built.nodes, found)
            with of_machines(senders, straight) as machines:
                trial = LogTrial(built, sampler, collectors, Together(machines, sending))
                faults = LogFaults(built, trial, senders)
                for node, one in zip(built.nodes, chosen.faults, strict=False):
                    trial.attempt(one.fault, partial(faults.run, one.fault, [node], "rs2"))
            doctor = lab.node_cli(
                built.nodes[0], "doctor", "--connections", str(count), timeout=PATIENCE
            ).stdout
            found["doctor"] = [line.strip() for line in doctor.splitlines() if "connection table" in line]
            found["reconnected"] = sending.sent()["retries"]
            found["found"] = trial.found


def _connected(sending: Sending, built: LogSite) -> int:
    """How many senders are. What has ended on a balancer meanwhile is started again."""
    built.tend()
    found: int = sending.ask(do="sent")["open"]
    return found


def _busy(sampler: Sampler) -> float:
    began = time.monotonic()
    time.sleep(SPAN)
    return round(sampler.busy(began), 3)


def _tables(nodes: Sequence[str], found: dict[str, Any]) -> None:
    known = {node: kernel_view.known(node) for node in nodes}
    found["known"] = {node: len(ends) for node, ends in known.items()}
    ends = {end for end in known[nodes[0]] if ":" not in end[0]}
    advised = bits_for(len(ends), MOST_BITS)
    found["chains"] = [
        asdict(chains(ends, bits, SEEDS)) for bits in sorted({advised, DEFAULT_BITS, found["bits"]})
    ]
    found["advised_bits"] = advised


def report(found: dict[str, Any], json_path: Path, failure: str) -> int:
    """Writes and prints all there is. Returns the exit status."""
    rows = found.pop("found", [])
    lines = [(key, json.dumps(value)) for key, value in found.items()]
    text = f"{table(('what', 'found'), lines, colour=False)}\n{logs_table(rows)}"
    leave(json_path, {**found, **document(rows), "failure": failure}, text, anew=True)
    missed = [f"{row.fault} {row.protocol}: {text}" for row in rows for text in row.missed]
    for one in missed:
        print(f"NOT AS PROMISED: {one}", flush=True)
    if failure:
        print(f"NOT FINISHED: {failure}", flush=True)
    return 1 if missed or failure else 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.logs_many", description=__doc__)
    parser.add_argument("--senders", type=int, default=5000)
    parser.add_argument(
        "--interval", type=float, default=20.0, help="seconds between two messages of a sender"
    )
    parser.add_argument("--bits", type=int, default=DEFAULT_BITS, help="conn_tab_bits, 8 to 20")
    parser.add_argument("--json", type=Path, default=BUILD / "logs-many.json")
    given = parser.parse_args(argv)
    if not (1 <= given.senders <= 16000 and 8 <= given.bits <= MOST_BITS and given.interval > 0):
        parser.error("--senders is 1 to 16000, --bits 8 to 20, --interval more than 0")
    if not os.environ.get("ANYCAST_LAB_GUEST"):
        words = sys.argv[1:] if argv is None else list(argv)
        return in_lab(["lab.logs_many", *words], {"ANYCAST_LAB_MEMORY": "3072"})
    found: dict[str, Any] = {"senders": given.senders, "interval_s": given.interval}
    failure = ""
    try:
        run(given.senders, given.interval, given.bits, found)
    except Exception as error:  # noqa: BLE001 - what was measured by then is reported
        failure = f"{type(error).__name__}: {error}"
    return report(found, given.json, failure)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
