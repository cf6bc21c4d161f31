"""VRRP, as far as it says something of VIPs: which addresses there are, who is preferred, which scripts must succeed."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from anycast.importers import numbers
from anycast.importers.commands import words_of
from anycast.importers.keepalived.checkers import command
from anycast.importers.keepalived.language import Statement
from anycast.importers.model import Keys, Place, check
from anycast.importers.report import Report

_DEFAULT_PRIORITY = 100
_HANDSHAKE = re.compile(r"<\s*/dev/tcp/([^/\s]+)/([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Held:
    """An address that VRRP moves. `network`: that of its prefix; None: a single address."""

    address: str
    network: str | None
    place: Place


@dataclass(slots=True)
class Instance:
    name: str
    place: Place
    state: str = "BACKUP"
    priority: int = _DEFAULT_PRIORITY
    source: str = ""  # unicast_src_ip: an address of the node's own
    held: list[Held] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)

    @property
    def rank(self) -> tuple[int, int]:
        """Who of several nodes is preferred: the highest."""
        return self.priority, int(self.state == "MASTER")


def instances(statements: Sequence[Statement], report: Report) -> list[Instance]:
    """With what becomes of their lines."""
    found = [
        _instance(one, report) for one in statements if one.word == "vrrp_instance" and one.block is not None
    ]
    for one in statements:
        if one.word == "vrrp_sync_group":
            text = "vrrp_sync_group: not needed: no VIP moves; what must fail together can be one VIP with several addresses"
            for place in _places(one):
                report.different(place, text)
    return found


def _instance(statement: Statement, report: Report) -> Instance:
    text = "vrrp_instance: not needed: every node is active and announces its VIPs to the routers, which share the flows"
    report.different(statement.place, text)
    found = Instance(statement.first or "?", statement.place)
    for one in statement.block or []:
        match one.word:
            case "virtual_ipaddress" | "virtual_ipaddress_excluded":
                report.different(one.place, text)
                found.held += [held for line in one.block or [] if (held := _held(line, report))]
                continue
            case "state" if one.first.upper() in ("MASTER", "BACKUP"):
                found.state = one.first.upper()
            case "priority" if (priority := numbers.number(one.args, 1, 255)) is not None:
                found.priority = priority
            case "unicast_src_ip" | "mcast_src_ip":
                found.source = numbers.address(one.first) or ""
            case "track_script":
                found.scripts += [line.word for line in one.block or []] or [
                    word for word in one.args if word
                ]
                for place in _places(one):
                    report.different(place, "track_script: see what is said of its vrrp_script")
                continue
            case (
                "notify"
                | "notify_master"
                | "notify_backup"
                | "notify_fault"
                | "notify_stop"
                | "notify_master_rx_lower_pri"
            ):
                report.impossible(
                    one.place,
                    f"{one.word}: there is no master, so its program is not run; a hook gets the events of VIPs (docs/hooks.md)",
                )
                continue
            case "track_interface":
                for place in _places(one):
                    report.impossible(
                        place,
                        "track_interface: not carried over; write `require` of the node, as in {type: carrier, interface: eth0}",
                    )
                continue
            case "virtual_routes" | "virtual_rules":
                for place in _places(one):
                    report.impossible(place, f"{one.word}: routes and rules are not made here")
                continue
        for place in _places(one):
            report.different(place, text)
    return found


def _held(line: Statement, report: Report) -> Held | None:
    words = line.line.words
    try:
        found = ipaddress.ip_interface(words[0])
    except ValueError:
        report.no_effect(line.place, "virtual_ipaddress: this is no address, and keepalived ignores it")
        return None
    whole = found.network.prefixlen == found.ip.max_prefixlen
    return Held(str(found.ip), None if whole else str(found.network), line.place)


def _places(statement: Statement) -> Iterator[Place]:
    yield statement.place
    for one in statement.block or []:
        yield from _places(one)


def scripts(statements: Sequence[Statement], used: Mapping[str, object], report: Report) -> dict[str, Keys]:
    """Scripts that instances track, by name, as checks."""
    found: dict[str, Keys] = {}
    for statement in statements:
        if statement.word != "vrrp_script":
            continue
        made = _script(statement, report, used=statement.first in used)
        if made is not None:
            found[statement.first] = made
    return found


def _script(statement: Statement, report: Report, *, used: bool) -> Keys | None:
    if not used:
        for place in _places(statement):
            report.different(place, "vrrp_script: no VIP that is imported depends on it, so it is left out")
        return None
    argv: list[str] = []
    interval, timeout, rise, fall = 1.0, None, 1, 1
    for one in statement.block or []:
        match one.word:
            case "script":
                argv = command(one)
                report.carried(one.place, "script: argv of a command check that the VIP requires")
                if "-0" in argv and argv[0].rpartition("/")[2] in ("kill", "killall", "pkill"):
                    report.to_write(
                        one.place,
                        f"script: `{argv[0].rpartition('/')[2]} -0` fails for processes of another user, and checks run as the user "
                        "`anycast`: check the service itself, or write pgrep",
                    )
            case "interval" if (value := numbers.seconds(one.args, 0.01)) is not None:
                interval = value
                report.carried(one.place, "interval: interval of that check")
            case "timeout" if (value := numbers.seconds(one.args, 0.01)) is not None:
                timeout = value
                report.carried(one.place, "timeout: timeout of that check")
            case "rise" if (count := numbers.number(one.args, 1, 1000)) is not None:
                rise = count
                report.carried(one.place, "rise: rise of that check")
            case "fall" if (count := numbers.number(one.args, 1, 1000)) is not None:
                fall = count
                report.carried(one.place, "fall: fall of that check")
            case "weight":
                report.different(
                    one.place,
                    "weight: while the script fails the VIP is withdrawn from this node; keepalived lowered its priority",
                )
            case "user" | "init_fail":
                report.different(
                    one.place,
                    f"{one.word}: the check runs as the user of the agent; before its first outcome nothing is withdrawn",
                )
            case _:
                report.no_effect(
                    one.place, f"{one.word}: not known in a vrrp_script, or its value is refused"
                )
    if not argv:
        report.no_effect(statement.place, "vrrp_script: it has no script, and keepalived ignores it")
        return None
    timing = {
        "interval": None if interval == 2 else numbers.duration(min(interval, 3600.0)),
        "timeout": numbers.duration(min(timeout or interval, 3600.0)),
        "rise": None if rise == 2 else rise,
        "fall": None if fall == 3 else fall,
    }
    if (match := _HANDSHAKE.fullmatch(" ".join(argv))) and (address := numbers.address(match[1])):
        report.different(
            statement.place,
            "vrrp_script: a tcp check that the VIP requires, in the place of a redirection of bash",
        )
        return check("tcp", address=address, port=int(match[2]), **timing)
    report.carried(statement.place, "vrrp_script: a command check that the VIP requires")
    return check("command", argv=words_of(argv), **timing)
