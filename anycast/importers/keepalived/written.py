"""Virtual servers as they are written, and what becomes of each of their lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from anycast.importers import numbers
from anycast.importers.keepalived.checkers import OURS, Timing, command
from anycast.importers.keepalived.grammar import CHECKERS
from anycast.importers.keepalived.language import Statement
from anycast.importers.model import Keys, Place, Server, keys
from anycast.importers.report import Report, shown
from anycast.importers.services import DEFAULT_PERSISTENCE, OTHER_SCHEDULERS, places_address

_MOST_WEIGHT = 65535
_DAY = 86400
_SCHEDULERS = ("rr", "wrr", "lc", "wlc", "sh", "mh", "dh", *OTHER_SCHEDULERS)
_FORWARDING = {"NAT": "nat", "DR": "dr", "TUN": "tunnel"}
_CHECKSUMS = {"nocsum": None, "csum": "csum", "remcsum": "remcsum"}

_MEANS: Mapping[str, tuple[str, str]] = {
    "ha_suspend": ("different", "ha_suspend: checks always run, for every node has the VIP"),
    "omega": ("different", "omega: not needed: when the agent stops, the routes go first and the kernel's table stays"),
    "alpha": ("carried", "alpha: always so: a server gets no new clients before its check has succeeded"),
    "inhibit_on_failure": (
        "carried",
        "inhibit_on_failure: always so: a server that fails gets weight 0; its connections are ended after expire_failed (60s, of UDP 0)",
    ),
    "quorum_up": (
        "impossible",
        ("quorum_up: the program is not run: the VIP is announced and its address is on the node without it; for anything else a hook "
        "gets the event vip.verdict_changed (docs/hooks.md)"),
    ),
    "quorum_down": (
        "impossible",
        ("quorum_down: the program is not run: below the quorum the VIP is withdrawn without it; for anything else a hook gets the event "
        "vip.verdict_changed (docs/hooks.md)"),
    ),
    "notify_up": ("impossible", "notify_up: the program is not run; a hook gets the events server.up and server.down (docs/hooks.md)"),
    "notify_down": ("impossible", "notify_down: the program is not run; a hook gets the events server.up and server.down (docs/hooks.md)"),
    "smtp_alert": ("impossible", "smtp_alert: no mail is sent; a hook or the alert rules do that (docs/hooks.md, docs/monitoring.md)"),
    "snmp_name": ("different", "snmp_name: there is no SNMP; the metrics have the name of the VIP"),
    "persistence_engine": (
        "impossible",
        ("persistence_engine: clients are told apart by their address alone: calls of one client that had several real servers, or of "
        "several clients that had one, are sent elsewhere"),
    ),
    "warmup": ("different", "warmup: the checks of a pool are spread over the interval"),
    "ip_family": ("carried", "ip_family: that of the address"),
    "hashed": ("no_effect", "hashed: keepalived does nothing with it"),
}  # fmt: skip

PROTOCOL = "protocol: protocol"  # what is said of a line that is carried over


@dataclass(frozen=True, slots=True)
class Way:
    """How packets reach a real server."""

    forwarding: str
    tunnel: Keys | None = None


@dataclass(slots=True)
class Real:
    """A real server as it is written. `port` 0: none."""

    address: str
    port: int
    weight: int
    way: Way | None
    upper: int
    lower: int
    checkers: list[Statement]
    timing: Timing
    virtualhost: str
    place: Place
    comment: str
    begins_at_0: bool = False  # in the table: alpha and inhibit_on_failure
    of_checks: list[tuple[Place, str]] = field(default_factory=list)  # carried over if the checks are


@dataclass(slots=True)
class Virtual:
    """A virtual server as it is written."""

    place: Place
    comment: str
    protocol: str = ""
    protocol_place: Place | None = None
    scheduler: str = ""
    way: Way | None = None
    flags: list[str] = field(default_factory=list)
    numbered: list[tuple[str, Place]] = field(default_factory=list)
    one_packet: bool = False
    persistence: int | None = None
    granularity: tuple[str, int] | None = None
    quorum: int | None = None
    quorum_place: Place | None = None
    hysteresis: int = 0
    weight: int = 1
    timing: Timing = Timing()
    virtualhost: str = ""
    snmp_name: str = ""
    reals: list[Real] = field(default_factory=list)
    sorry: Server | None = None
    sorry_way: str | None = None
    lines: tuple[Place, ...] = ()  # all of it
    said: dict[str, Place] = field(default_factory=dict)
    of_checks: list[tuple[Place, str]] = field(default_factory=list)  # carried over if the checks are


def _begins_at_0(real: Sequence[Statement], virtual: Sequence[Statement]) -> bool:
    """Before its first check. `alpha` is said of a virtual server, a real server or a check; the nearest word counts."""
    checkers = [one for statement in real if statement.word in CHECKERS for one in statement.block or []]
    return _switched("alpha", checkers, real, virtual) and _switched("inhibit_on_failure", real, virtual)


def _switched(word: str, *blocks: Sequence[Statement]) -> bool:
    for block in blocks:
        found = [numbers.truth(one.args) for one in block if one.word == word]
        if found:
            return found[-1] is not False
    return False


class Reading:
    """Statements to virtual servers."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def _of_checks(self, place: Place, text: str, owner: Virtual | Real) -> None:
        self._report.carried(place, text)
        owner.of_checks.append((place, text))

    def virtual(self, statement: Statement) -> Virtual:
        """With what becomes of its lines."""
        report = self._report
        block = statement.block or []
        virtual = Virtual(statement.place, statement.line.above or statement.line.beside)
        if virtual.comment.lower().startswith("configuration file"):
            virtual.comment = ""
        virtual.timing = Timing().under(block)
        virtual.lines = statement.places
        for one in block:
            virtual.said.setdefault(one.word, one.place)
            match one.word:
                case "real_server":
                    continue
                case "lb_algo" | "lvs_sched":
                    if one.first in _SCHEDULERS:
                        virtual.scheduler = one.first
                        report.carried(one.place, f"{one.word}: scheduler")
                    else:
                        report.no_effect(
                            one.place,
                            f"{one.word}: keepalived does not know this scheduler, and takes {virtual.scheduler or 'wlc'}",
                        )
                case "lb_kind" | "lvs_method":
                    virtual.way = self._way(one) or virtual.way
                case "protocol":
                    if one.first.lower() in ("tcp", "udp", "sctp"):
                        virtual.protocol, virtual.protocol_place = one.first.lower(), one.place
                        report.carried(one.place, PROTOCOL)
                    else:
                        report.no_effect(one.place, "protocol: keepalived does not know it, and ignores it")
                case "ops":
                    virtual.one_packet = True
                case "flag-1" | "flag-2" | "flag-3":
                    virtual.numbered.append((one.word, one.place))
                case "mh-port" | "mh-fallback" | "sh-port" | "sh-fallback":
                    if one.word.startswith(f"{virtual.scheduler}-"):
                        virtual.flags.append(one.word)
                        report.carried(one.place, f"{one.word}: flags")
                    else:
                        why = "stands before lb_algo, or with another scheduler"
                        report.no_effect(one.place, f"{one.word}: it {why}, and keepalived ignores it there")
                case "persistence_timeout":
                    found = numbers.number(one.args, 1, 31 * _DAY) if one.args else DEFAULT_PERSISTENCE
                    if found is None:
                        report.no_effect(
                            one.place,
                            "persistence_timeout: keepalived refuses the value: there is no persistence",
                        )
                    else:
                        virtual.persistence = found
                        report.carried(one.place, "persistence_timeout: persistence")
                case "persistence_granularity":
                    self._granularity(one, statement, virtual)
                case "quorum":
                    virtual.quorum = numbers.number(one.args, 1) or 1
                    virtual.quorum_place = one.place
                case "hysteresis":
                    virtual.hysteresis = numbers.number(one.args) or 0
                    virtual.quorum_place = virtual.quorum_place or one.place
                case "sorry_server":
                    virtual.sorry = self._sorry(one) or virtual.sorry
                case "sorry_server_inhibit":
                    pass  # with the server
                case "sorry_server_lvs_method":
                    virtual.sorry_way = _FORWARDING.get(one.first)
                case "weight":
                    virtual.weight = numbers.number(one.args, 1) or 1
                    report.carried(one.place, "weight: of the real servers that have none of their own")
                case "virtualhost":
                    virtual.virtualhost = one.first
                    self._of_checks(one.place, "virtualhost: host of the checks", virtual)
                case word if word in OURS:
                    self._of_checks(one.place, f"{word}: {OURS[word]} of the checks", virtual)
                case "quorum_up" | "quorum_down" if places_address(" ".join(command(one))):
                    what = "the agent places the address and announces it; it stays on the node while the route is withdrawn"
                    report.different(one.place, f"{one.word}: not needed: {what}")
                case word if word in _MEANS:
                    how, text = _MEANS[word]
                    getattr(report, how)(one.place, text)
                    if word == "snmp_name":
                        virtual.snmp_name = one.first
                case _:
                    report.no_effect(
                        one.place,
                        f"{shown(one.word)}: keepalived does not know it in a virtual_server, and only logs that",
                    )
        for one in block:
            if one.word == "real_server" and (real := self._real(one, virtual)) is not None:
                real.begins_at_0 = bool(real.checkers) and _begins_at_0(one.block or [], block)
                virtual.reals.append(real)
        return virtual

    def _sorry(self, one: Statement) -> Server | None:
        address, port = numbers.address(one.first), numbers.port(one.args[1:2])
        if address is None or port is None:
            self._report.no_effect(
                one.place, "sorry_server: this is no address and port, and keepalived leaves it out"
            )
            return None
        return Server(address=address, port=port, comment=one.line.beside, place=one.place)

    def _granularity(self, one: Statement, statement: Statement, virtual: Virtual) -> None:
        six = (
            ":" in (one.first or "")
            or ":" in statement.first
            or (one.first.isdigit() and "." not in statement.first)
        )
        found = numbers.number(one.args, 1, 128) if six else numbers.prefix_of(one.first)
        if found is None or not found:
            self._report.impossible(
                one.place,
                "persistence_granularity: only masks without holes can be written; each address counts as a client of its own",
            )
            return
        virtual.granularity = ("ipv6_prefix" if six else "ipv4_prefix", found)
        if virtual.persistence is None:
            virtual.persistence = DEFAULT_PERSISTENCE
        self._report.carried(
            one.place, "persistence_granularity: persistence, which it switches on by itself"
        )

    def _way(self, one: Statement) -> Way | None:
        """None: keepalived refuses it, which is said."""
        report = self._report
        forwarding = _FORWARDING.get(one.first)
        refused = f"{one.word}: keepalived refuses it, as if the line were not there"
        if one.first in ("FNAT", "SNAT"):
            what = f"{one.first} is of DPVS, and neither keepalived nor the kernel has it: nat is written, so answers must come back through this node"
            report.impossible(one.place, f"{one.word}: {what}")
            return None
        if forwarding is None:
            report.no_effect(one.place, refused)
            return None
        tunnel = keys(type="ipip")
        words = list(one.args[1:])
        while words:
            word = words.pop(0)
            if word == "type" and words and words[0] in ("ipip", "gue", "gre"):
                tunnel = tunnel.with_(type=words.pop(0))
            elif word == "port" and words and (port := numbers.port(words[:1])):
                tunnel = tunnel.with_(port=port)
                words.pop(0)
            elif word in _CHECKSUMS:
                if (checksum := _CHECKSUMS[word]) is not None:
                    tunnel = tunnel.with_(checksum=checksum)
            else:
                report.no_effect(one.place, refused)
                return None
        report.carried(one.place, f"{one.word}: forwarding")
        return Way(forwarding, tunnel if forwarding == "tunnel" else None)

    def _real(self, statement: Statement, virtual: Virtual) -> Real | None:
        report = self._report
        block = statement.block or []
        address, port = numbers.address(statement.first), numbers.port(statement.args[1:2])
        if address is None or port is None:
            report.no_effect(
                statement.place, "real_server: this is no address and port, and keepalived leaves it out"
            )
            return None
        report.carried(statement.place, "real_server: a real server")
        real = Real(
            address, port, virtual.weight, virtual.way, 0, 0, [], virtual.timing.under(block), virtual.virtualhost,
            statement.place, statement.line.beside or statement.line.above,
        )  # fmt: skip
        for one in block:
            match one.word:
                case "weight":
                    weight = numbers.number(one.args)
                    if weight is None:
                        report.no_effect(one.place, "weight: keepalived refuses the value")
                    elif weight > _MOST_WEIGHT:
                        real.weight = _MOST_WEIGHT
                        report.different(
                            one.place, f"weight: {_MOST_WEIGHT} is the most, so its share is smaller"
                        )
                    else:
                        real.weight = weight
                        report.carried(one.place, "weight: weight")
                case "lvs_method":
                    real.way = self._way(one) or real.way
                case "uthreshold":
                    real.upper = min(numbers.number(one.args) or 0, 2**31 - 1)
                    report.carried(one.place, "uthreshold: upper_threshold")
                case "lthreshold":
                    real.lower = min(numbers.number(one.args) or 0, 2**31 - 1)
                    report.carried(one.place, "lthreshold: lower_threshold")
                case "virtualhost":
                    real.virtualhost = one.first
                    self._of_checks(one.place, "virtualhost: host of the checks", real)
                case "inhibit_on_failure" if numbers.truth(one.args) is False:
                    report.different(
                        one.place,
                        "inhibit_on_failure off: a server that fails stays in the table with weight 0; its connections are ended after "
                        "expire_failed (60s, of UDP 0)",
                    )
                case word if word in CHECKERS:
                    real.checkers.append(one)
                case word if word in OURS:
                    self._of_checks(one.place, f"{word}: {OURS[word]} of the checks", real)
                case word if word in _MEANS and one.known:
                    how, text = _MEANS[word]
                    getattr(report, how)(one.place, text)
                case _:
                    report.no_effect(
                        one.place,
                        f"{shown(one.word)}: keepalived does not know it in a real_server, and only logs that",
                    )
        if real.lower > real.upper:
            report.different(
                statement.place,
                "lthreshold is above uthreshold: it is left out, and three quarters of uthreshold count",
            )
            real.lower = 0
        return real
