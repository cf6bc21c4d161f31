"""The main job under load: break a balancer in every common way and count what the clients notice.

Runs inside the lab's kernel: `python -m lab run -- python -m lab.demo`. Prints progress, then one table; the same
as JSON in `build/demo.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lab import configs, netns
from lab.control import Lab, Load, What
from lab.routewatch import RouteEvent
from lab.topology import VIPS, topology

BALANCERS = 3
SERVERS = 4  # in the configuration at first; one more stands by
SETTLED = 1.0  # seconds: no question is unanswered for longer
SAMPLE = 2.0  # seconds over which the shares are taken


STARTED = time.monotonic()


def say(text: str) -> None:
    """One line of progress, with the seconds since the start."""
    print(f"[{time.monotonic() - STARTED:5.1f}] {text}", flush=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One fault. Seconds; `shares`: part of the packets each balancer forwarded once it had settled."""

    fault: str
    connections: int
    broken: int
    longest_pause_s: float
    route_gone_s: float | None  # from the fault, a command from when the agent had it; None: no route goes
    shares: dict[str, float]
    lost_with_server: int = 0
    moved: int = 0  # connections that another real server answered; can only be broken ones
    new_connections: int = 0
    new_failed: int = 0
    new_served_s: float | None = None  # after a real server died: until new clients were served again
    note: str = ""


class Demo:
    def __init__(self, lab: Lab, load: Load) -> None:
        self.lab = lab
        self.load = load
        self.nodes = [balancer.name for balancer in lab.topology.balancers]
        self.rows: list[Row] = []

    def steady(self) -> None:
        """Nothing is broken: how the clients are spread."""
        with self._count("none (steady state)"):
            pass

    def maintenance(self, node: str) -> None:
        with self._count(f"maintenance on, {node}") as facts:
            typed = time.monotonic()
            self._cli(node, "maintenance", "on", "--reason", "demo")
            gone = self._route_gone(node, typed)
            began = self._logged(node, "maintenance.began")
            facts["route_gone_s"] = round(gone.t - began, 3)
            facts["note"] = f"{gone.monotonic - typed:.2f} s after the command was typed"
            say(
                f"  out of the router's table {facts['route_gone_s']:.2f} s after the agent had it, {facts['note']}"
            )
            while (withdrawn := self._logged(node, "route.withdrawn")) < began:
                time.sleep(0.1)
            say(f"  drained; withdrawn after {withdrawn - began:.2f} s")
        with self._count(f"maintenance off, {node}"):
            self._cli(node, "maintenance", "off")
            self._everywhere()

    def killed(self, node: str, what: What) -> None:
        with self._count(f"kill -9 {what}, {node}") as facts:
            began = time.monotonic()
            self.lab.kill(node, what)
            facts["route_gone_s"] = round(self._route_gone(node, began).monotonic - began, 3)
            say(f"  out of the router's table after {facts['route_gone_s']:.2f} s")
        say(f"  starting it on {node} again")
        self.lab.start(node, what)
        self._everywhere()

    def server_dies(self, server: str) -> None:
        with self._count(f"real server {server} dies", server=server) as facts:
            began = time.monotonic()
            self.lab.kill(server, "server")
            facts["new_served_s"] = self._new_clients_served(began)
            say(f"  new clients are served again after {facts['new_served_s']:.2f} s")
        with self._count(f"real server {server} returns"):
            self.lab.start(server, "server")
            self._weights(server, usable=True)
        self.load.fill()

    def server_added(self) -> None:
        added = f"rs{SERVERS + 1}"
        with self._count(f"reload with one more server, {added}"):
            for balancer in self.lab.topology.balancers:
                self.lab.config(balancer.name).write_text(configs.anycast_yaml(self.lab.topology, balancer))
                self._cli(balancer.name, "reload")
            self._weights(added, usable=True)

    @contextmanager
    def _count(self, fault: str, server: str | None = None) -> Iterator[dict[str, Any]]:
        """Counts what the clients notice from here until everything has settled."""
        say(fault)
        self.load.mark()
        facts: dict[str, Any] = {"route_gone_s": None}
        yield facts
        shares = self._shares()
        stats = self._settled()
        lost = stats["lost_by_server"].get(server, 0) if server else 0
        row = Row(
            fault=fault,
            connections=stats["connections"],
            broken=stats["broken"] - lost,
            longest_pause_s=stats["longest_pause"],
            shares=shares,
            lost_with_server=lost,
            moved=stats["moved"],
            new_connections=stats["probes"]["ok"] + stats["probes"]["failed"],
            new_failed=stats["probes"]["failed"],
            **facts,
        )
        self.rows.append(row)
        lost_words = f", {lost} lost with {server}" if server else ""
        say(f"  {row.broken} of {row.connections} connections broken{lost_words}")
        if row.broken:
            say(f"  {stats['errors']}")

    def _settled(self) -> dict[str, Any]:
        """The counts once nobody is waiting any more: a silent connection is broken by its deadline at the latest."""
        while True:
            stats = self.load.stats()
            if stats["waiting"] < SETTLED:
                return stats
            time.sleep(0.2)

    def _route_gone(self, node: str, began: float) -> RouteEvent:
        """The event by which the router's kernel sent none of the VIPs to `node` any more."""
        others = [name for name in self.nodes if name != node]
        events = [self.lab.watch().wait(prefix, others, 20.0, since=began) for prefix in VIPS]
        return max(events, key=lambda event: event.monotonic)

    def _logged(self, node: str, event: str) -> float:
        """When the node's agent logged `event` last: seconds since the epoch, 0 when it never did."""
        lines = self.lab.log(node, "agent").read_text().splitlines()
        found = [line for line in map(json.loads, lines) if line["event"] == event]
        return datetime.fromisoformat(found[-1]["timestamp"]).timestamp() if found else 0.0

    def _everywhere(self) -> None:
        for prefix in VIPS:
            self.lab.wait_route(prefix, self.nodes, timeout=40.0)

    def _new_clients_served(self, began: float) -> float:
        """Seconds from `began` until the last new client that was not served."""
        last, failed = began, 0
        while time.monotonic() < last + 2.0:
            time.sleep(0.1)
            seen = self.load.stats()["probes"]["failed"]
            if seen > failed:
                last, failed = time.monotonic(), seen
        return round(last - began, 2)

    def _weights(self, server: str, *, usable: bool) -> None:
        """Until every balancer's kernel has `server` in use, or not."""
        node = self.lab.topology.node(server)
        address = node.interfaces["lan0"][0].partition("/")[0]
        deadline = time.monotonic() + 20.0
        for balancer in self.nodes:
            while (f"-r {address}:80 -g -w 1" in self.lab.ipvs(balancer)) != usable:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{balancer} did not follow: {self.lab.ipvs(balancer)}")
                time.sleep(0.1)

    def _shares(self) -> dict[str, float]:
        before = {node: self._packets(node) for node in self.nodes}
        time.sleep(SAMPLE)
        packets = {node: self._packets(node) - before[node] for node in self.nodes}
        total = sum(packets.values()) or 1
        return {node: round(count / total, 3) for node, count in packets.items()}

    @staticmethod
    def _packets(node: str) -> int:
        """Packets IPVS has taken in on a node. Per CPU: the kernel adds the total up every two seconds only."""
        with netns.inside(node):
            lines = Path("/proc/thread-self/net/ip_vs_stats_percpu").read_text().splitlines()
        rows = (line.split() for line in lines[2:])
        return sum(int(row[2], 16) for row in rows if len(row) == 6 and row[0] != "~")

    def _cli(self, node: str, *arguments: str) -> None:
        say(f"  {node}# anycast {' '.join(arguments)}")
        done = self.lab.node_cli(node, *arguments)
        for line in (done.stdout + done.stderr).splitlines():
            say(f"    {line}")
        if done.returncode:
            raise RuntimeError(f"exit status {done.returncode}")


def table(rows: list[Row]) -> str:
    """The rows for people."""
    head = (
        "fault",
        "connections",
        "broken",
        "lost with server",
        "longest pause",
        "route gone",
        "new failed",
        "shares",
    )
    body = [
        (
            row.fault,
            str(row.connections),
            str(row.broken),
            str(row.lost_with_server) if row.lost_with_server else "-",
            f"{row.longest_pause_s:.2f} s",
            "-" if row.route_gone_s is None else f"{row.route_gone_s:.2f} s",
            f"{row.new_failed}/{row.new_connections}",
            " ".join(f"{node} {share:.0%}" for node, share in row.shares.items()),
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in (head, *body)) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (head, *body)
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.demo", description=__doc__)
    parser.add_argument("--connections", type=int, default=600)
    parser.add_argument("--new", type=float, default=10.0, help="new connections a second")
    parser.add_argument("--json", type=Path, default=configs.checkout() / "build" / "demo.json")
    options = parser.parse_args(argv)
    with Lab(topology(balancers=BALANCERS, servers=SERVERS + 1)) as lab:
        say(f"building: a router, {BALANCERS} balancers, {SERVERS + 1} real servers, a client")
        lab.build(daemons=False)
        at_first = topology(balancers=BALANCERS, servers=SERVERS)
        lab.watch()
        for balancer in lab.topology.balancers:
            lab.config(balancer.name).write_text(configs.anycast_yaml(at_first, balancer))
            lab.render(balancer.name)
            lab.start(balancer.name, "exabgp")
            lab.start(balancer.name, "agent")
        say("waiting until every balancer announces both VIPs")
        for prefix in VIPS:
            event = lab.wait_route(prefix, [b.name for b in lab.topology.balancers], timeout=60.0)
            say(f"  {prefix} via {', '.join(event.next_hops)}")
        say(f"opening {options.connections} connections, IPv4 and IPv6")
        with lab.load(options.connections, probes=options.new) as load:
            demo = Demo(lab, load)
            demo.steady()
            demo.maintenance("lb1")
            demo.killed("lb2", "agent")
            demo.killed("lb3", "exabgp")
            demo.server_dies("rs2")
            demo.server_added()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps([asdict(row) for row in demo.rows], indent=1) + "\n")
    print(f"\n{table(demo.rows)}\n\nthe same as JSON: {options.json}", flush=True)
    missed = [row for row in demo.rows if row.broken]
    for row in missed:
        print(f"NOT AS PROMISED: {row.fault}: {row.broken} connections broken", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
