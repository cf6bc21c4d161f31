"""What else runs on the node and meets the VIPs: connection tracking, the clock, routing daemons. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from anycast.core.values.configuration import Config, Forwarding
from anycast.doctor.demands import CONNTRACK, CONNTRACK_COUNT, CONNTRACK_MAX, reach, services
from anycast.doctor.facts import Facts
from anycast.doctor.finding import Code, Finding, Severity, some

# FRR, BIRD, GoBGP and OpenBGPD. Of FRR, bfdd and zebra alone announce nothing.
_SPEAKERS = frozenset(
    ("babeld", "bgpd", "bird", "bird6", "eigrpd", "gobgpd", "isisd", "ospf6d", "ospfd", "ripd", "ripngd")
)
_TIMESYNCD = "systemd-timesyn"  # the kernel keeps fifteen characters
_NOTRACK = "a chain of `type filter hook prerouting priority raw` with `ip daddr { … } notrack` (ip6 too) for the VIPs"


def conntrack(facts: Facts, config: Config | None) -> Iterator[Finding]:
    """What connection tracking does to packets of which it sees one direction."""
    ways = {reach(service).forwarding for _, service in services(config)} if config is not None else set()
    tracks, count = facts.number(CONNTRACK), facts.number(CONNTRACK_COUNT) or 0
    if tracks == 1 and Forwarding.NAT not in ways:
        yield Finding(
            severity=Severity.WARNING,
            code=Code.VS_CONNTRACK,
            text=f"{CONNTRACK} is 1: every connection of IPVS is tracked in nf_conntrack too, at twice the cost; stateful "
            "rules cannot rest on it, for only one direction passes this node and all but the first packet is invalid",
            fix=f"`sysctl -w {CONNTRACK}=0`; with stateful rules of your own: {_NOTRACK}",
        )
    if tracks == 0 and Forwarding.NAT in ways and count:
        # With 1 every other way loses all but the first packet of a connection to such rules.
        others = f", and for the VIPs of the services without nat {_NOTRACK}" if len(ways) > 1 else ""
        yield Finding(
            severity=Severity.INFO,
            code=Code.CONNTRACK_RULES,
            text=f"connections are tracked here, and {CONNTRACK} is 0: a rule in FORWARD that drops `ct state invalid` drops "
            "the answers of masqueraded real servers",
            fix=f"if there is such a rule: `sysctl -w {CONNTRACK}=1`{others}",
        )
    elif count and ways != {Forwarding.NAT}:
        most = facts.number(CONNTRACK_MAX)
        yield Finding(
            severity=Severity.INFO,
            code=Code.CONNTRACK_RULES,
            text=f"connections are tracked here ({count:,} of {most or 0:,}): a rule that drops `ct state invalid` drops "
            "the FIN and RST of clients, whose connections then stay at their real servers; and once the table is full, "
            "packets of the VIPs are dropped too",
            fix=_NOTRACK,
        )


def clock(facts: Facts) -> Iterator[Finding]:
    """ExaBGP counts by the wall clock: a step of more than the hold time ends its sessions."""
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


def speakers(facts: Facts) -> Iterator[Finding]:
    if found := sorted(_SPEAKERS & facts.programs):
        yield Finding(
            severity=Severity.INFO,
            code=Code.ROUTING_DAEMON,
            text=f"{some(found)} runs on this node: to it a VIP is a connected route, whatever its scope, and with "
            "`redistribute connected` (FRR) or `protocol direct` (BIRD) it announces the VIP whatever the agent decides",
            fix="no such line, or a filter in it that leaves the VIPs out",
        )
