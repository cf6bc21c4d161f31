"""ExaBGP's own healthcheck in the place of agent and plugin, on the same nodes and with the same kernel tables.

It makes no tables: those the agents have left stay, so all that differs is who answers for the route.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lab.chaos_plan import PEER_FAULTS, Fault
from lab.measuring import say
from lab.topology import VIPS

if TYPE_CHECKING:
    from lab.faults import Site
    from lab.trial import Trial

# As ours: a check each second, five a second while it turns.
_OPTIONS = "--interval 1 --fast-interval 0.2 --rise 2 --fall 3 --timeout 1 --withdraw-on-down --no-ip-setup --no-syslog"


def process_section(
    command: str, check: str, disable: str, *, vips: Sequence[str] = VIPS, options: str = _OPTIONS
) -> str:
    """Of ExaBGP's configuration. It is ExaBGP that starts the script, so there is no shell to quote for."""
    ips = " ".join(f"--ip {vip}" for vip in vips)
    return (
        f"process anycast {{\n    run {command} {options} {ips} --disable {disable} --command {check};\n"
        "    encoder text;\n}\n"
    )


def program() -> str:
    return str(Path(sys.executable).with_name("exabgp-healthcheck"))


def write_check(path: Path, server: str) -> None:
    """A program that connects to a real server."""
    path.write_text(f"#!/bin/bash\nexec 3<>/dev/tcp/{server}/80\n")
    path.chmod(0o755)


def replaced(conf: str, section: str) -> str:
    """`conf` with that process section instead of its own, and without events for a script that knows none."""
    head, _, rest = conf.partition("process anycast {")
    _, _, rest = rest.partition("\n}\n")
    return head + section + rest.replace(" neighbor-changes;", "").replace(" signal;", "")


class Healthcheck:
    """Use as a context manager: agents and plugins are gone for good then."""

    def __init__(self, site: Site, trial: Trial) -> None:
        self.site = site
        self.lab = site.lab
        self.trial = trial

    def _disable(self, node: str) -> Path:
        return self.lab.run / node / "disable"

    def __enter__(self) -> Self:
        say("ExaBGP's healthcheck takes the place of agents and plugins")
        for node in self.site.nodes:
            self.lab.stop(node, "agent", 20.0)
            self.lab.stop(node, "exabgp")
            folder = self.lab.run / node
            check = folder / "check"
            server = self.lab.topology.servers[0].interfaces["lan0"][0].partition("/")[0]
            write_check(check, server)
            self.lab.render(node)
            section = process_section(program(), str(check), str(self._disable(node)))
            conf = folder / "exabgp.conf"
            conf.write_text(replaced(conf.read_text(), section))
            self.lab.start(node, "exabgp")
        self.site.daemons = ("exabgp",)
        self.trial.everywhere()
        self.trial.fresh()
        return self

    def run(self, fault: Fault, node: str) -> None:
        with self.trial.count(replace(fault, text=PEER_FAULTS[fault.name]), node, peer=True) as facts:
            match fault.name:
                case "drain":
                    self._disable(node).touch()
                case "plugin-kill":
                    self.lab.kill(node, "plugin")
                case "plugin-stop":
                    self.lab.kill(node, "plugin", signal.SIGSTOP)
                case "exabgp-kill":
                    self.lab.kill(node, "exabgp")
                case other:
                    raise ValueError(f"not a fault of the peer: {other}")
            self.trial.gone(facts, node)
            self.trial.settled(facts)
            self.trial.healing(facts)
            self._disable(node).unlink(missing_ok=True)
            if fault.name == "plugin-stop":
                self.lab.kill(node, "plugin", signal.SIGCONT)
            if fault.name == "exabgp-kill":
                self.lab.start(node, "exabgp")
            self.trial.everywhere()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.site.nodes:
            self.lab.stop(node, "exabgp")
