"""The fault matrix: break the site in every way while clients use it, and hold what they notice against what is
promised. `make chaos`, or `python -m lab.chaos --help`; what is broken and why it is bounded so: docs/chaos.md.

Boots the lab, for the site stands in its kernel. Prints progress, then one table; the same as JSON in
`build/chaos.json` and as a picture in `build/chaos.svg`. Exit status 1: a promise was not kept; 2: wrong options.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from lab import configs, firewall
from lab.announcer import Announcers
from lab.chaos_figures import Row, chaos_table, document, worst
from lab.chaos_picture import picture
from lab.chaos_plan import BY_NAME, RANDOM, OptionError, Options, listing, options, turns
from lab.control import Lab, Load
from lab.faults import Site
from lab.fleet_faults import FleetFaults
from lab.measuring import say
from lab.peer_healthcheck import Healthcheck
from lab.sampler import Sample, Sampler
from lab.topology import MOST_BALANCERS, topology
from lab.trial import DEADLINE, INTERVAL, PATIENCE, Trial
from lab.watchdog import UNIT, Watchdog, limit

BUILD = configs.checkout() / "build"


@dataclass(slots=True)
class Story:
    """What happened; complete or not."""

    rows: list[Row] = field(default_factory=list)
    random_rows: list[Row] = field(default_factory=list)
    history: list[Sample] = field(default_factory=list)
    started: float = 0.0
    sent: firewall.Closes | None = None  # with a firewall: what clients sent to end connections
    arrived: firewall.Closes | None = None  # of it, at the real servers


def manager(chosen: Options, lab: Lab, nodes: Sequence[str]) -> Watchdog | Announcers:
    """The service manager's part."""
    return Announcers(lab) if chosen.speaker == "bird" else Watchdog(lab, nodes, limit(UNIT.read_text()))


@contextlib.contextmanager
def site(chosen: Options) -> Iterator[tuple[Lab, Site]]:
    """The lab with every balancer announcing both VIPs, for the block."""
    with Lab(topology(balancers=chosen.nodes, servers=chosen.servers + 1)) as lab:
        say(f"building: a router, {chosen.nodes} balancers, {chosen.servers + 1} real servers, a client")
        lab.build(daemons=False)
        lab.watch()
        nodes = [balancer.name for balancer in lab.topology.balancers]
        try:
            with manager(chosen, lab, nodes) as watchdog:
                built = Site(lab, chosen.servers, watchdog, fleet=chosen.fleet)
                built.build()
                watchdog.begin()
                say("every balancer announces both VIPs")
                for node in nodes if chosen.firewall else ():
                    firewall.put_up(lab, node)
                    say(f"a stateful firewall on {node}, and what `anycast render iptables` writes")
                yield lab, built
        finally:
            lab.down()


def run(chosen: Options, story: Story) -> None:
    """Fills `story`; what there is stays in it when it fails."""
    with site(chosen) as (lab, built):

        def open_load() -> Load:
            say(f"opening {chosen.connections} connections, IPv4 and IPv6")
            return lab.load(
                chosen.connections,
                interval=INTERVAL,
                probes=chosen.new,
                deadline=DEADLINE,
                ready_timeout=PATIENCE,
            )

        counter = firewall.Counter(lab) if chosen.firewall else None
        with Sampler(built.nodes) as sampler:
            trial = Trial(lab, sampler, open_load=open_load, tend=built.tend, mend=built.mend)
            story.rows, story.history, story.started = trial.rows, sampler.history, trial.started
            try:
                _matrix(chosen, built, trial, story)
            finally:
                trial.load.stop()
                if counter is not None:
                    story.sent = counter.sent()
                    story.arrived = counter.arrived()


def _matrix(chosen: Options, built: Site, trial: Trial, story: Story) -> None:
    faults = FleetFaults(built, trial)
    turn = itertools.count()
    servers = [f"rs{number}" for number in range(1, chosen.servers + 1)]
    for fault in chosen.faults:
        if fault.name == RANDOM:
            continue
        at = next(turn)
        hit = [built.nodes[(at + more) % len(built.nodes)] for more in range(2)]
        server = servers[(2 if fault.where == "both" else 1) % len(servers)]
        trial.attempt(fault, partial(faults.run, fault, hit, server))
    if any(fault.name == RANDOM for fault in chosen.faults):
        _random(chosen, built, trial, faults, story)
    if chosen.peer_faults:
        with Healthcheck(built, trial) as peer:
            for name in chosen.peer_faults:
                where = built.nodes[next(turn) % len(built.nodes)]
                trial.attempt(BY_NAME[name], partial(peer.run, BY_NAME[name], where))


def _random(chosen: Options, built: Site, trial: Trial, faults: FleetFaults, story: Story) -> None:
    say(f"single faults in random order for {chosen.duration:g} s, seed {chosen.seed}")
    servers = [f"rs{number}" for number in range(1, chosen.servers + 1)]
    plain, trial.rows = trial.rows, story.random_rows
    end = time.monotonic() + chosen.duration
    for one in turns(chosen.seed, built.nodes, servers, chosen.speaker):
        if time.monotonic() + one.wait >= end:
            break
        time.sleep(one.wait)
        trial.attempt(one.fault, partial(faults.run, one.fault, [one.where], one.where))
    trial.rows = plain


def report(chosen: Options, story: Story, json_path: Path, svg_path: Path, failure: str) -> int:
    """Writes and prints all there is. Returns the exit status."""
    json_path.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "nodes": chosen.nodes,
        "connections": chosen.connections,
        "seed": chosen.seed,
        "duration_s": chosen.duration,
        "failure": failure,
        "firewall": chosen.firewall,
        "fleet": chosen.fleet,
        "speaker": chosen.speaker,
        "closes_sent": asdict(story.sent) if story.sent is not None else None,
        "closes_arrived": asdict(story.arrived) if story.arrived is not None else None,
        **document(story.rows, story.random_rows),
    }
    json_path.write_text(json.dumps(facts, indent=1) + "\n")
    svg_path.write_text(picture(story.rows, story.random_rows, story.history, story.started))
    print(f"\n{chaos_table([*story.rows, *worst(story.random_rows)])}", flush=True)
    if story.sent is not None and story.arrived is not None:
        print(f"FIN and RST: clients sent {story.sent}, real servers got {story.arrived}", flush=True)
    missed = [
        f"{row.name} {row.where}: {text}" for row in (*story.rows, *story.random_rows) for text in row.missed
    ]
    return ended(missed, failure, json_path, svg_path)


def ended(missed: Sequence[str], failure: str, json_path: Path, svg_path: Path) -> int:
    """The last lines of a report. Returns the exit status."""
    print(f"the same as JSON: {json_path}\nas a picture: {svg_path}", flush=True)
    for text in missed:
        print(f"NOT AS PROMISED: {text}", flush=True)
    if failure:
        print(f"NOT FINISHED: {failure}", flush=True)
    return 1 if missed or failure else 0


def failure_of(measure: Callable[[], None]) -> str:
    """What ended it early; empty: nothing did. What was measured by then can be reported."""
    try:
        measure()
    except Exception as error:  # noqa: BLE001 - a report is made whatever happens
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return ""


def inside(chosen: Options, json_path: Path, svg_path: Path) -> int:
    """In the lab's kernel."""
    story = Story()
    failure = failure_of(lambda: run(chosen, story))
    return report(chosen, story, json_path, svg_path, failure)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.chaos", description=__doc__)
    parser.add_argument("--faults", default="", help="names with commas; help: list them; default: all")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--connections", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1, help="of the random faults")
    parser.add_argument("--duration", type=float, default=600.0, help="seconds of random faults; 0: none")
    parser.add_argument("--peer", default="", help="healthcheck: the faults it has too; none: never")
    parser.add_argument(
        "--speaker", default="exabgp", help="exabgp, or bird: BIRD and `anycast announce-table`"
    )
    parser.add_argument("--firewall", action="store_true", help="a stateful firewall on every balancer")
    parser.add_argument("--fleet", action="store_true", help="the balancers know one another")
    parser.add_argument("--json", type=Path, default=BUILD / "chaos.json")
    parser.add_argument("--svg", type=Path, default=BUILD / "chaos.svg")
    given = parser.parse_args(argv)
    if given.faults == "help":
        print(listing("bird" if given.speaker == "bird" else "exabgp", fleet=given.fleet))
        return 0
    try:
        chosen = options(
            faults=given.faults,
            nodes=given.nodes,
            connections=given.connections,
            seed=given.seed,
            duration=given.duration,
            peer=given.peer,
            most_nodes=MOST_BALANCERS,
            firewall=given.firewall,
            fleet=given.fleet,
            speaker=given.speaker,
        )
    except OptionError as error:
        print(error, file=sys.stderr)
        return 2
    if os.environ.get("ANYCAST_LAB_GUEST"):
        return inside(chosen, given.json, given.svg)
    statuses = []
    if chosen.faults:
        words = sys.argv[1:] if argv is None else list(argv)
        statuses.append(in_lab(["lab.chaos", *words], {"ANYCAST_LAB_MEMORY": str(chosen.memory)}))
    if chosen.silent:
        statuses.append(in_lab(["lab.silent"], {}))
    if chosen.figures and os.geteuid() != 0:
        print(f"left out, for they need root: {', '.join(chosen.figures)}", flush=True)
    elif chosen.figures:
        words = ["--figures", ",".join(chosen.figures), "--json", str(given.json)]
        statuses.append(in_lab(["lab.bench_start", *words], {"ANYCAST_LAB": "namespaces"}))
    return max(statuses, default=0)


def in_lab(program: Sequence[str], env: Mapping[str, str]) -> int:
    """`python -m` in a lab of its own; its exit status. What the environment says goes before `env`."""
    python = [sys.executable, "-m"]
    command = [*python, "lab", "run", "--", *python, *program]
    return subprocess.run(command, env={**env, **os.environ}, check=False).returncode


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
