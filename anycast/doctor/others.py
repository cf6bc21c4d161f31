"""What else runs on the node and meets the VIPs: the clock, routing daemons. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from anycast.analysis.routers import without_bfd
from anycast.core.values.configuration import Config
from anycast.core.values.speaker import LearnedBy
from anycast.doctor.facts import Facts
from anycast.doctor.finding import Code, Finding, Severity, some

# FRR, BIRD, GoBGP and OpenBGPD. Of FRR, bfdd and zebra alone announce nothing.
_SPEAKERS = frozenset(
    ("babeld", "bgpd", "bird", "bird6", "eigrpd", "gobgpd", "isisd", "ospf6d", "ospfd", "ripd", "ripngd")
)
ROUTING = _SPEAKERS | {"zebra", "staticd", "pathd", "pbrd"}  # those that write routes or rules
_TIMESYNCD = "systemd-timesyn"  # the kernel keeps fifteen characters


def clock(facts: Facts, config: Config | None) -> Iterator[Finding]:
    """ExaBGP counts by the wall clock: a step of more than the hold time ends its sessions. BIRD does not."""
    if config is not None and config.speaker.is_table:
        return
    harm = (
        "ExaBGP's timers are the wall clock: a step of about the hold time ends every BGP session of the node"
    )
    if facts.clock_steps is not None:
        yield Finding(
            severity=Severity.WARNING,
            code=Code.CLOCK_STEPS,
            text=f"{facts.clock_steps} lets chrony set the clock at any time; {harm}",
            fix="`makestep 1 3`: it sets the clock in its first three updates alone, and afterwards slews it",
        )
    elif _TIMESYNCD in facts.programs:
        yield Finding(
            severity=Severity.INFO,
            code=Code.CLOCK_STEPS,
            text=f"systemd-timesyncd sets a clock that is 0.4 s off or more; {harm}",
            fix="chrony with `makestep 1 3`, which slews the clock once it runs",
        )


def bfd(facts: Facts, config: Config | None) -> Iterator[Finding]:
    """Nothing else tells of a bfdd that has died: routers take the session without BFD. BIRD on the node has its own."""
    if config is None or config.speaker.is_table or "bfdd" in facts.programs:
        return
    with_bfd = [
        str(one.address)
        for one in config.bgp.neighbors
        if one.bfd is not None and not without_bfd(config, one, one.software)
    ]
    if with_bfd:
        yield Finding(
            severity=Severity.WARNING,
            code=Code.NO_BFDD,
            text=f"no bfdd runs here, and BFD is configured with {some(with_bfd)}: a router takes the session without it and "
            f"says nothing, so the hold time of {config.bgp.hold_time} s alone notices a dead node; with `strict`, and "
            "mostly with FRR 10.3, it takes no session",
            fix="`bfdd=yes` in /etc/frr/daemons, `anycast render frr-bfd -o /etc/frr/frr.conf`, `systemctl restart frr`; "
            "one in another network namespace answers no router",
        )


def speakers(facts: Facts, config: Config | None) -> Iterator[Finding]:
    if (
        config is not None
        and config.speaker.is_table
        and config.speaker.daemon is LearnedBy.BIRD
        and "bird" not in facts.programs
    ):
        yield Finding(
            severity=Severity.WARNING,
            code=Code.NO_BIRD,
            text=f"no BIRD runs here, which `speaker` names: nobody learns the table {config.speaker.table}, and nothing is announced",
            fix="`systemctl start bird`; one in another network namespace cannot learn the table",
        )
    if found := sorted(_SPEAKERS & facts.programs):
        yield Finding(
            severity=Severity.INFO,
            code=Code.ROUTING_DAEMON,
            text=f"{some(found)} runs on this node: to it a VIP is a connected route, whatever its scope, and with "
            "`redistribute connected` (FRR) or `protocol direct` (BIRD) it announces the VIP whatever the agent decides",
            fix="no such line, or a filter in it that leaves the VIPs out",
        )
