"""The logging site: what is lost of syslog, RELP and posted log lines by each failure, with the real programs.
`make logs`, or `python -m lab.logs --help`; what is measured and what decides: docs/syslog.md.

Boots the lab. Prints progress, then one table; the same as JSON in `build/logs.json` and as a picture in
`build/logs.svg`. Exit status 1: a promise was not kept; 2: wrong options.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from lab import configs
from lab.chaos import ended, failure_of, in_lab
from lab.chaos_plan import OptionError
from lab.control import Lab
from lab.logs_count import Arrival
from lab.logs_figures import LogRow, document, logs_table, summary
from lab.logs_picture import picture
from lab.logs_plan import LogOptions, listing, options
from lab.logs_site import Collectors, LogSite, Senders, certify, machines
from lab.logs_trial import LogFaults, LogTrial, of_machines
from lab.measuring import say
from lab.sampler import Sampler
from lab.topology import topology
from lab.watchdog import UNIT, Watchdog, limit

BUILD = configs.checkout() / "build"
BROKEN = "rs2"  # the receiver that faults hit


@dataclass(slots=True)
class Story:
    """What happened; complete or not."""

    rows: list[LogRow] = field(default_factory=list)
    history: list[Arrival] = field(default_factory=list)
    epoch: float = 0.0  # seconds since the epoch when the rows' time began


@contextlib.contextmanager
def site(chosen: LogOptions) -> Iterator[tuple[LogSite, Collectors, Senders, str]]:
    """Balancers, receivers and machines, running, for the block; and the address of the receiver that faults hit."""
    with Lab(topology(balancers=chosen.nodes, servers=chosen.servers + 1)) as lab:
        say(f"building: {chosen.nodes} balancers, {chosen.servers + 1} receivers, {chosen.machines} machines")
        try:
            lab.build(daemons=False)
            lab.watch()
            nodes = [balancer.name for balancer in lab.topology.balancers]
            certificates = lab.run / "certificates"
            certify(certificates)
            collectors = Collectors(lab, certificates)
            for one in lab.topology.servers:
                lab.stop(one.name, "server")
                collectors.install(one.name)
            collectors.start(*(one.name for one in lab.topology.servers))
            say("every receiver listens")
            with Watchdog(lab, nodes, limit(UNIT.read_text())) as watchdog:
                built = LogSite(lab, chosen.servers, watchdog)
                for node in nodes:
                    built.prepare(node, certificates)
                built.build()
                watchdog.begin()
                say("every balancer announces both VIPs")
                for one in lab.topology.servers[: chosen.servers]:
                    built.weight(one.name, {1})
                straight = lab.topology.node(BROKEN).interfaces["lan0"][0].partition("/")[0]
                sending = machines(chosen.machines, {"s1": straight, "s2": straight, "s3": straight})
                senders = Senders(lab, certificates, sending)
                senders.install(straight)
                senders.start(*sending)
                say("every machine takes messages")
                yield built, collectors, senders, straight
        finally:
            _keep_logs(lab)
            lab.down()


def _keep_logs(lab: Lab) -> None:
    """The site goes, and what its programs have said is still there to read: in build/lab/logs."""
    for log in lab.run.glob("*/*.log"):
        kept = BUILD / "lab" / "logs" / log.parent.name / log.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(log, kept)


def run(chosen: LogOptions, story: Story) -> None:
    """Fills `story`; what there is stays in it when it fails."""
    with (
        site(chosen) as (built, collectors, senders, straight),
        Sampler(built.nodes) as sampler,
        of_machines(senders, straight) as sending,
    ):
        trial = LogTrial(built, sampler, collectors, sending)
        story.rows, story.history = trial.found, collectors.ledger.history
        story.epoch = trial.epoch + trial.started
        faults = LogFaults(built, trial, senders)
        turn = itertools.count()
        for one in chosen.faults:
            node = built.nodes[next(turn) % len(built.nodes)]
            trial.attempt(one.fault, partial(faults.run, one.fault, [node], BROKEN))


def report(chosen: LogOptions, story: Story, json_path: Path, svg_path: Path, failure: str) -> int:
    """Writes and prints all there is. Returns the exit status."""
    json_path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"nodes": chosen.nodes, "machines": chosen.machines, "failure": failure, **document(story.rows)}
    json_path.write_text(json.dumps(facts, indent=1) + "\n")
    svg_path.write_text(picture(story.rows, story.history, story.epoch))
    print(f"\n{logs_table(story.rows)}\n{summary(story.rows)}", flush=True)
    missed = [f"{row.fault} {row.where} {row.protocol}: {text}" for row in story.rows for text in row.missed]
    return ended(missed, failure, json_path, svg_path)


def inside(chosen: LogOptions, json_path: Path, svg_path: Path) -> int:
    """In the lab's kernel."""
    story = Story()
    failure = failure_of(lambda: run(chosen, story))
    return report(chosen, story, json_path, svg_path, failure)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.logs", description=__doc__)
    parser.add_argument("--faults", default="", help="names with commas; help: list them; default: all")
    parser.add_argument("--machines", type=int, default=9, help="that send, each with an rsyslogd of its own")
    parser.add_argument("--json", type=Path, default=BUILD / "logs.json")
    parser.add_argument("--svg", type=Path, default=BUILD / "logs.svg")
    given = parser.parse_args(argv)
    if given.faults == "help":
        print(listing())
        return 0
    try:
        chosen = options(faults=given.faults, machines=given.machines)
    except OptionError as error:
        print(error, file=sys.stderr)
        return 2
    if os.environ.get("ANYCAST_LAB_GUEST"):
        return inside(chosen, given.json, given.svg)
    words = sys.argv[1:] if argv is None else list(argv)
    return in_lab(["lab.logs", *words], {"ANYCAST_LAB_MEMORY": str(chosen.memory)})


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
